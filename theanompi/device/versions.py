"""What PyTensor's versions 3.0 to 3.3 have under different names, or not all of them."""

from typing import Any

from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.tensor import subtensor
from pytensor.tensor.subtensor import AdvancedIncSubtensor, AdvancedSubtensor

try:
    from pytensor.conditional.op import IfElse, ifelse
except ImportError:
    from pytensor.ifelse import IfElse, ifelse

__all__ = ["INC_SUBTENSORS", "SUBTENSORS", "IfElse", "axis_and_rest", "ifelse", "those_of"]

SUBTENSORS = (AdvancedSubtensor, getattr(subtensor, "AdvancedSubtensor1", AdvancedSubtensor))
INC_SUBTENSORS = (AdvancedIncSubtensor, getattr(subtensor, "AdvancedIncSubtensor1", AdvancedIncSubtensor))
"""Reading and writing by arrays of indices; before 3.2 a vector of integers has ops of its own."""


def axis_and_rest(op: Any, node: Apply, position: int) -> tuple[int | None, list[Variable]]:
    """The axis of an op that holds it from PyTensor 3.3 on, and before has it as an input at `position`.

    Returns
    -------
    axis : int or None
        None if it is only known when the function runs.
    rest : list of Variable
        The other inputs.
    """
    if hasattr(op, "axis"):
        return op.axis, node.inputs
    axis, rest = node.inputs[position], [*node.inputs[:position], *node.inputs[position + 1 :]]
    return (int(axis.data) if isinstance(axis, Constant) else None), rest


def those_of(module: Any, **values: Any) -> dict[Any, Any]:
    """What a module has of the names given, with their values.

    Examples
    --------
    >>> import math
    >>> list(those_of(math, sin=1, no_such_function=2).values())
    [1]
    """
    return {getattr(module, name): value for name, value in values.items() if hasattr(module, name)}
