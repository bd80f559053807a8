"""Updates of shared variables that may be added."""

from collections import OrderedDict
from typing import Any

__all__ = ["OrderedUpdates"]


class OrderedUpdates(OrderedDict[Any, Any]):
    """From shared variables to their new values; the sum of two, or of one and a dict, has those of both.

    Raises
    ------
    KeyError
        If both have one for the same variable, but not the same.
    """

    def __add__(self, other: Any) -> "OrderedUpdates":
        total = OrderedUpdates(self)
        for variable, new in dict(other).items():
            if total.setdefault(variable, new) is not new:
                raise KeyError(f"OrderedUpdates: expected one update of {variable}, got two")
        return total

    def __radd__(self, other: Any) -> "OrderedUpdates":
        return OrderedUpdates(other) + self
