"""Where each image is cropped, and whether it is mirrored.

A box is a row (y0, x0, height, width, flip) in source pixels; `theanompi.device.ops.crop_resize` does the
rest on the device. A training box is a pure function of (seed, epoch, sample id).

Policies: ``none``, the whole image; ``shift``, for digits, which must not be mirrored; ``imagenet``, the
scale and aspect-ratio augmentation of Szegedy et al. (*Going Deeper with Convolutions*, 2015, §6), as used by
Goyal et al. 2017, §5.1.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from theanompi.data.random import Purpose, uniforms

Boxes = NDArray[np.float32]
_Draw = Callable[[int], NDArray[np.float64]]

_ATTEMPTS = 10
_SMALLEST_AREA = 0.08
_LARGEST_ASPECT = 4 / 3


def _none(height: int, width: int, draw: _Draw) -> list[NDArray[np.float64]]:
    zero = np.zeros(len(draw(0)))
    return [zero, zero, zero + height, zero + width, zero]


def _shift(height: int, width: int, draw: _Draw) -> list[NDArray[np.float64]]:
    dy, dx, scale = draw(3).T
    scale = 0.9 + 0.2 * scale
    h, w = scale * height, scale * width
    return [(height - h) / 2 + 4 * dy - 2, (width - w) / 2 + 4 * dx - 2, h, w, np.zeros_like(h)]


def _imagenet(height: int, width: int, draw: _Draw) -> list[NDArray[np.float64]]:
    areas, aspects, (y, x, flip) = np.split(draw(2 * _ATTEMPTS + 3).T, [_ATTEMPTS, 2 * _ATTEMPTS])
    area = (_SMALLEST_AREA + (1 - _SMALLEST_AREA) * areas) * height * width
    aspect = np.exp((2 * aspects - 1) * math.log(_LARGEST_ASPECT))
    # One more row, which always fits, for images so elongated that no attempt does: the largest box of the
    # nearest aspect.
    nearest = min(max(width / height, 1 / _LARGEST_ASPECT), _LARGEST_ASPECT)
    largest = np.full((1, area.shape[1]), min(height, width / nearest))
    h = np.concatenate([np.sqrt(area / aspect), largest])
    w = np.concatenate([np.sqrt(area * aspect), largest * nearest])
    fits = (h <= height) & (w <= width)
    fits[-1] = True
    first = fits.argmax(axis=0)[None]
    h, w = np.take_along_axis(h, first, 0)[0], np.take_along_axis(w, first, 0)[0]
    return [y * (height - h), x * (width - w), h, w, flip < 0.5]


_POLICIES = {"none": _none, "shift": _shift, "imagenet": _imagenet}
POLICIES = tuple(_POLICIES)


def _check(policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"augmentation: expected one of {', '.join(POLICIES)}; got {policy!r}")


def train_boxes(policy: str, height: int, width: int, seed: int, epoch: int, ids: NDArray[np.int64]) -> Boxes:
    """Draw boxes for training.

    - ``none``: the whole image.
    - ``shift``: a box of 0.9–1.1 times the image's size, its centre moved by up to 2 pixels along each axis
      (all uniform; the box may reach outside the image), never mirrored.
    - ``imagenet``: area uniform in 8–100 % of the image's, aspect (width / height) log-uniform in 3/4–4/3,
      drawn until the box fits into the image, at most 10 times; then the largest box of the nearest aspect.
      Position uniform; mirrored with probability 1/2.

    Parameters
    ----------
    policy : str
        One of `POLICIES`.
    height, width : int
        Size of the images, in pixels.
    seed, epoch : int
        Any integers.
    ids : int64 (n,)
        Sample ids.

    Returns
    -------
    float32 (n, 5)
        y0, x0, height, width in source pixels, and flip, 0 or 1.

    Raises
    ------
    ValueError
        If there is no such policy.

    Examples
    --------
    >>> train_boxes("none", 32, 32, seed=0, epoch=0, ids=np.array([5])).tolist()
    [[0.0, 0.0, 32.0, 32.0, 0.0]]
    >>> train_boxes("imagenet", 256, 320, seed=0, epoch=0, ids=np.arange(3)).shape
    (3, 5)
    """
    _check(policy)
    draw = partial(uniforms, seed, epoch, ids, Purpose.CROP)
    return np.stack(_POLICIES[policy](height, width, draw), axis=1).astype(np.float32)


def evaluation_boxes(policy: str, height: int, width: int, n: int) -> Boxes:
    """Give the fixed boxes for validation.

    ``imagenet``: the central square of 224/256 of the shorter side, which is what resizing the shorter side
    to 256 and cutting the central 224 × 224 shows (Goyal et al. 2017, §5.1). Otherwise the whole image.

    Parameters
    ----------
    policy : str
        One of `POLICIES`.
    height, width : int
        Size of the images, in pixels.
    n : int
        How many boxes.

    Returns
    -------
    float32 (n, 5)
        y0, x0, height, width in source pixels, and flip, which is 0.

    Raises
    ------
    ValueError
        If there is no such policy.

    Examples
    --------
    >>> evaluation_boxes("imagenet", 256, 320, n=1).tolist()
    [[16.0, 48.0, 224.0, 224.0, 0.0]]
    """
    _check(policy)
    side = min(height, width) * 224 / 256
    h, w = (side, side) if policy == "imagenet" else (height, width)
    return np.tile(np.array([(height - h) / 2, (width - w) / 2, h, w, 0], np.float32), (n, 1))
