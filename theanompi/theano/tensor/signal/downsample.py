"""The former name of :mod:`theanompi.theano.tensor.signal.pool`."""

from typing import Any

from theanompi.theano.tensor.signal.pool import pool_2d

__all__ = ["max_pool_2d"]


def max_pool_2d(
    input: Any,
    ds: Any,
    ignore_border: bool | None = None,
    st: Any = None,
    padding: Any = (0, 0),
    mode: str = "max",
) -> Any:
    """Pool as ``pool_2d``, under that function's first name and with its arguments of then."""
    return pool_2d(input, ds, ignore_border, st, padding, mode)
