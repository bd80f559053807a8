"""The former name of :mod:`theanompi.theano.tensor.signal.pool`."""

from typing import Any

from theanompi.theano.tensor.signal.pool import pool_2d

__all__ = ["max_pool_2d"]


def max_pool_2d(
    input: Any, ds: Any, ignore_border: bool = False, st: Any = None, padding: Any = (0, 0)
) -> Any:
    """Take the maximum of each window; windows that reach over the border count unless they are ignored."""
    return pool_2d(input, ds, ignore_border, st, padding)
