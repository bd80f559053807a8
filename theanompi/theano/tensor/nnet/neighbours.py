"""Patches of images as the rows of a matrix."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt

__all__ = ["images2neibs", "neibs2images"]


def images2neibs(ten4: Any, neib_shape: Any, neib_step: Any = None, mode: str = "valid") -> Any:
    """Cut images into patches.

    Parameters
    ----------
    ten4 : pytensor variable
        (n, c, rows, columns).
    neib_shape, neib_step : sequence of two
        Rows and columns of a patch, and from one patch to the next: by default a patch's own.
    mode : {'valid', 'ignore_borders', 'half', 'full'}
        The last two put zeros around: half a patch (rounded down), or all of it but one. What is left over at the
        end of an axis is left out.

    Returns
    -------
    pytensor variable
        A row for each patch, in the order of images, channels, rows and columns.
    """
    sizes = list(neib_shape)
    steps = sizes if neib_step is None else list(neib_step)
    if mode not in ("valid", "ignore_borders", "half", "full"):
        raise ValueError(f"images2neibs: expected mode valid, ignore_borders, half or full, got {mode!r}")
    if mode in ("half", "full"):
        reach = [size // 2 if mode == "half" else size - 1 for size in sizes]
        ten4 = pt.pad(ten4, [(0, 0), (0, 0), *((r, r) for r in reach)])
    rows, columns = (
        pt.arange((ten4.shape[axis] - size) // step + 1)[:, None] * step + pt.arange(size)
        for axis, size, step in zip((2, 3), sizes, steps, strict=True)
    )
    patches = ten4[:, :, rows[:, None, :, None], columns[None, :, None, :]]
    return patches.reshape((-1, sizes[0] * sizes[1]))


def neibs2images(neibs: Any, neib_shape: Any, original_shape: Sequence[Any], mode: str = "valid") -> Any:
    """Put patches that do not overlap together again; with 'ignore_borders' what they do not cover is 0."""
    n, channels, *lengths = (original_shape[i] for i in range(4))
    sizes = list(neib_shape)
    down, across = (length // size for length, size in zip(lengths, sizes, strict=True))
    patches = neibs.reshape((n, channels, down, across, *sizes))
    images = patches.dimshuffle(0, 1, 2, 4, 3, 5).reshape((n, channels, down * sizes[0], across * sizes[1]))
    if mode != "ignore_borders":
        return images
    whole = pt.zeros((n, channels, *lengths), dtype=neibs.dtype)
    return pt.set_subtensor(whole[:, :, : down * sizes[0], : across * sizes[1]], images)
