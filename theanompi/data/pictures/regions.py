"""Which pixels of a stored picture the loader has to fetch for a box, and where the box then is.

A JPEG file can be decoded at 1/2, 1/4 or 1/8 of its size at a fraction of the work (by the DCT's scaling); of
what comes out only the box is needed. It goes to the top left of a canvas, which has the same size for every
image of a data set, and from there `theanompi.device.ops.crop_resize` takes it.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.data.pictures.augment import Boxes, Sizes


class Regions(NamedTuple):
    """How to fill the canvas of each image.

    Attributes
    ----------
    reduction : int32 (n,)
        Decode at 1/reduction of the size: 1, 2, 4 or 8; the picture is then ⌈h/reduction⌉ × ⌈w/reduction⌉.
    shrink : int32 (n,)
        After cutting, average shrink × shrink pixels into one, fewer at the bottom and right edges. 1, but
        for huge pictures.
    cuts : int32 (n, 4)
        Top, left, height and width of what is cut out, in pixels after `reduction`, before `shrink`.
    boxes : float32 (n, 7)
        For the device: y0, x0, height, width, flip, and the filled height and width, in the canvas' pixels.
    """

    reduction: NDArray[np.int32]
    shrink: NDArray[np.int32]
    cuts: NDArray[np.int32]
    boxes: NDArray[np.float32]


# A JPEG file is decoded at 1/2, 1/4 or 1/8 only if both sides of the box remain at least this many times as
# long as the output's. What the DCT leaves out is then gone for the filter of `crop_resize` too: on a detailed
# photograph single crops differ from the exact result by up to 3.7 (of 255, on average over the pixels) if
# 1 is enough, 2.5 with 1.25, 2.2 with 1.5, 1.9 with 1.75 and 1.4 with 2.
_MARGIN = 1.75


def _largest_cut(size: int) -> int:
    """The longest side of what is cut out of a JPEG picture for an input of `size`, in pixels, after `shrink`."""
    # At a reduction r below 8 the shorter side of a box is less than 2 · _MARGIN · size · r. Hence, by the bound
    # in `canvas`, the longer one is at most 8/3 · _MARGIN · size + 1/2 for r = 1, where a box is cut out exactly,
    # and less than 8/3 · _MARGIN · size · r else; rounding both ends outwards adds at most one to its ceiling.
    # The boxes of evaluation are nearly square, far below that.
    return math.ceil(8 / 3 * _MARGIN * size) + 1


def canvas(store: str, policy: str, sizes: Sizes, size: int) -> tuple[int, int]:
    """Give the height and width of a canvas that holds every region, in training and evaluation.

    Parameters
    ----------
    store : {"jpeg", "raw"}
        What is stored.
    policy : str
        One of `theanompi.data.pictures.augment.POLICIES`.
    sizes : integer (n, 2)
        Height and width of all pictures of the data set, both splits, in pixels.
    size : int
        Height and width of the network's input, in pixels.

    Returns
    -------
    (int, int)

    Examples
    --------
    >>> sizes = np.array([[375, 500], [600, 200]])
    >>> canvas("raw", "imagenet", sizes, 224), canvas("jpeg", "imagenet", sizes, 64)
    ((375, 500), (300, 300))
    """
    if policy != "imagenet":
        height, width = sizes.max(axis=0)
        return int(height), int(width)
    # The sides of a box are h = rint(H) and w = rint(W) with W ≤ 4/3 H, so
    # w ≤ 4/3 H + 1/2 ≤ 4/3 (h + 1/2) + 1/2 = (8 h + 7) / 6, and w is whole. Neither h nor w is larger than
    # the picture. The boxes of evaluation, which are not whole, are smaller by so much that rounding them
    # outwards stays within that too.
    sides = np.minimum(sizes, (8 * sizes[:, ::-1].astype(np.int64) + 7) // 6).max(axis=0)
    if store == "jpeg":
        sides = np.minimum(sides, _largest_cut(size))
    return int(sides[0]), int(sides[1])


def regions(store: str, policy: str, sizes: Sizes, boxes: Boxes, size: int) -> Regions:
    """Say what to fetch of each picture.

    ``imagenet``: no more than the box, rounded outwards to whole pixels; of a JPEG file at the strongest
    reduction that leaves both sides of the box at least 1.75 times as long as the output's. Other policies:
    the whole picture, as it is.

    Parameters
    ----------
    store : {"jpeg", "raw"}
        What is stored.
    policy : str
        One of `theanompi.data.pictures.augment.POLICIES`.
    sizes : integer (n, 2)
        Height and width of each picture, in pixels.
    boxes : float32 (n, 5)
        From `theanompi.data.pictures.augment`: y0, x0, height, width in source pixels, and flip.
    size : int
        Height and width of the network's input, in pixels.

    Examples
    --------
    >>> box = np.array([[20, 30, 300, 350, 1]], np.float32)
    >>> of = regions("jpeg", "imagenet", np.array([[375, 500]]), box, size=80)
    >>> of.reduction.tolist(), of.shrink.tolist(), of.cuts.tolist(), of.boxes.tolist()
    ([2], [1], [[10, 15, 150, 175]], [[0.0, 0.0, 150.0, 175.0, 1.0, 150.0, 175.0]])
    """
    n = len(sizes)
    reduction = np.ones(n, np.int32)
    if policy != "imagenet":
        cuts = np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.int32)
        whole = np.concatenate([boxes, sizes], axis=1).astype(np.float32)
        return Regions(reduction, np.ones(n, np.int32), cuts, whole)
    shorter = boxes[:, 2:4].min(axis=1)
    if store == "jpeg":
        for r in (2, 4, 8):
            reduction[shorter >= _MARGIN * r * size] = r
    by = reduction[:, None]
    start, length = (boxes[:, columns].astype(np.float64) / by for columns in (slice(0, 2), slice(2, 4)))
    first = np.floor(start)
    cut = np.ceil(start + length) - first
    shrink = np.ones((n, 1), np.int32)
    if store == "jpeg":
        shrink = np.ceil(cut.max(axis=1, keepdims=True) / _largest_cut(size)).astype(np.int32)
    within: list[NDArray[Any]] = [
        (start - first) / shrink,
        length / shrink,
        boxes[:, 4:],
        np.ceil(cut / shrink),
    ]
    return Regions(
        reduction,
        shrink[:, 0],
        np.concatenate([first, cut], axis=1).astype(np.int32),
        np.concatenate(within, axis=1).astype(np.float32),
    )
