"""Borders around tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from theanompi.device.ops.base import bordered

__all__ = ["pad"]

Width = int | Sequence[int | Sequence[int]]


def pad(x: Any, width: Width, val: Any = 0, batch_ndim: int = 1) -> Any:
    """Put a border around a tensor.

    Parameters
    ----------
    x : pytensor variable
    width : int, or sequence of (int or sequence of two)
        For each axis from `batch_ndim` on the width on both sides, or before and after; an int is for all of
        them. Axes beyond the end of a sequence get no border.
    val : float
        What the border is filled with.
    batch_ndim : int
        How many leading axes get no border.

    Returns
    -------
    pytensor variable
        Of the dtype of `x`.

    Raises
    ------
    ValueError
        If `width` is longer than there are axes, has a negative entry or one that is no pair.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> pad(pt.tensor("x", dtype="float32", shape=(None, 3, 8)), [(0, 2)], batch_ndim=2).type.shape
    (None, 3, 10)
    """
    widths = [(0, 0)] * batch_ndim + pairs(width, x.ndim - batch_ndim)
    return bordered(x, widths, val)


def pairs(width: Width, axes: int) -> list[tuple[int, int]]:
    """Before and after of each of `axes` axes, from a `width` as :func:`pad` takes it."""
    width = width.tolist() if isinstance(width, np.ndarray) else width
    entries = list(width) if isinstance(width, Sequence) else [width] * axes
    result = [tuple(entry) if isinstance(entry, Sequence) else (entry, entry) for entry in entries]
    if len(result) > axes or any(len(pair) != 2 or min(pair) < 0 for pair in result):
        raise ValueError(f"expected {axes} widths, each an int or (before, after), got {width}")
    return [(int(before), int(after)) for before, after in result] + [(0, 0)] * (axes - len(result))
