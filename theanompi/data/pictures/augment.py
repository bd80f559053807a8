"""Where each image is cropped, whether it is mirrored, and how its colours are changed.

A box is a row (y0, x0, height, width, flip) in source pixels; `theanompi.data.pictures.regions` says which pixels it
needs, and `theanompi.device.ops.crop_resize` does the rest on the device. Boxes, colours and what is erased in
training are pure functions of (seed, epoch, sample id), and how a batch is mixed is one of its first sample's.

Policies:

- ``none``: the whole image.
- ``shift``: for digits, which must not be mirrored.
- ``crop``: for CIFAR, the padding and cropping of He et al. (*Deep residual learning for image recognition*,
  2015, §4.2).
- ``imagenet``: the scale and aspect-ratio augmentation of Szegedy et al. (*Going Deeper with Convolutions*,
  2015, §6), as used by Goyal et al. 2017, §5.1.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from theanompi.data.reading.random import Purpose, uniforms

Boxes = NDArray[np.float32]
Sizes = NDArray[np.int32] | NDArray[np.int64]
_Draw = Callable[[int], NDArray[np.float64]]
# Of a box: y0, x0, height, width, flip; one number per image.
_Columns = tuple[NDArray[np.float64], ...]

_ATTEMPTS = 10
_SMALLEST_AREA = 0.08
_LARGEST_ASPECT = 4 / 3
_PADDING = 4
_ERASED_AREA = 0.02, 0.4
_LARGEST_ERASED_ASPECT = 1 / 0.3

# Both from fb.resnet.torch, datasets/transforms.lua and datasets/imagenet.lua: luminance, and the principal
# components of the colours of ImageNet's pixels (Krizhevsky et al. 2012, §4.1), one in each column.
_GREY = np.array([0.299, 0.587, 0.114])
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def _none(height: NDArray[np.float64], width: NDArray[np.float64], draw: _Draw) -> _Columns:
    zero = np.zeros_like(height)
    return zero, zero, height, width, zero


def _shift(height: NDArray[np.float64], width: NDArray[np.float64], draw: _Draw) -> _Columns:
    dy, dx, scale = draw(3).T
    scale = 0.9 + 0.2 * scale
    h, w = scale * height, scale * width
    return (height - h) / 2 + 4 * dy - 2, (width - w) / 2 + 4 * dx - 2, h, w, np.zeros_like(h)


def _crop(height: NDArray[np.float64], width: NDArray[np.float64], draw: _Draw) -> _Columns:
    dy, dx, flip = draw(3).T
    y, x = (np.floor((2 * _PADDING + 1) * d) - _PADDING for d in (dy, dx))
    return y, x, height, width, (flip < 0.5).astype(np.float64)


def _imagenet(height: NDArray[np.float64], width: NDArray[np.float64], draw: _Draw) -> _Columns:
    areas, aspects, (y, x, flip) = np.split(draw(2 * _ATTEMPTS + 3).T, [_ATTEMPTS, 2 * _ATTEMPTS])
    area = (_SMALLEST_AREA + (1 - _SMALLEST_AREA) * areas) * height * width
    aspect = np.exp((2 * aspects - 1) * math.log(_LARGEST_ASPECT))
    # One more row, which always fits, for images so elongated that no attempt does: the largest box whose
    # aspect is in the range.
    h = np.concatenate([np.sqrt(area / aspect), np.minimum(height, _LARGEST_ASPECT * width)[None]])
    w = np.concatenate([np.sqrt(area * aspect), np.minimum(width, _LARGEST_ASPECT * height)[None]])
    h, w = (np.maximum(np.rint(side), 1) for side in (h, w))
    first = ((h <= height) & (w <= width)).argmax(axis=0)[None]
    h, w = np.take_along_axis(h, first, 0)[0], np.take_along_axis(w, first, 0)[0]
    y, x = np.floor(y * (height - h + 1)), np.floor(x * (width - w + 1))
    return y, x, h, w, (flip < 0.5).astype(np.float64)


_POLICIES: dict[str, Callable[[NDArray[np.float64], NDArray[np.float64], _Draw], _Columns]] = {
    "none": _none,
    "shift": _shift,
    "crop": _crop,
    "imagenet": _imagenet,
}
POLICIES = tuple(_POLICIES)


def train_boxes(policy: str, sizes: Sizes, seed: int, epoch: int, ids: NDArray[np.int64]) -> Boxes:
    """Draw boxes for training.

    - ``none``: the whole image.
    - ``shift``: a box of 0.9–1.1 times the image's size, its centre moved by up to 2 pixels along each axis
      (all uniform; the box may reach outside the image), never mirrored.
    - ``crop``: a box of the image's size, moved by a whole number of pixels from -4 to 4 along each axis
      (uniform; what lies outside the image is zero), whatever the size of the image; mirrored with
      probability 1/2.
    - ``imagenet``: area uniform in 8–100 % of the image's, aspect (width / height) log-uniform in 3/4–4/3,
      both sides rounded to whole pixels, drawn until the box fits into the image, at most 10 times; then the
      largest box of the nearest aspect. Position uniform over the whole pixels; mirrored with probability
      1/2.

    Parameters
    ----------
    policy : str
        One of `POLICIES`.
    sizes : integer (n, 2)
        Height and width of each image, in pixels.
    seed, epoch : int
        Any integers.
    ids : int64 (n,)
        Sample ids.

    Returns
    -------
    float32 (n, 5)
        y0, x0, height, width in source pixels, and flip, 0 or 1.

    Examples
    --------
    >>> train_boxes("none", np.array([[32, 40]]), seed=0, epoch=0, ids=np.array([5])).tolist()
    [[0.0, 0.0, 32.0, 40.0, 0.0]]
    >>> train_boxes("imagenet", np.array([[375, 500], [500, 333]]), 0, 0, np.array([7, 8])).shape
    (2, 5)
    """
    draw = partial(uniforms, seed, epoch, ids, Purpose.CROP)
    height, width = sizes.T.astype(np.float64)
    return np.stack(_POLICIES[policy](height, width, draw), axis=1).astype(np.float32)


def evaluation_boxes(policy: str, sizes: Sizes) -> Boxes:
    """Give the fixed boxes for validation.

    ``imagenet``: what resizing the shorter side to 256 pixels and cutting out the central 224 × 224 shows
    (Goyal et al. 2017, §5.1), in pixels of the source, whole or not: both sizes and positions are rounded
    where torchvision's ``Resize(256)`` and ``CenterCrop(224)`` round them, in the resized image. Otherwise
    the whole image.

    Parameters
    ----------
    policy : str
        One of `POLICIES`.
    sizes : integer (n, 2)
        Height and width of each image, in pixels.

    Returns
    -------
    float32 (n, 5)
        y0, x0, height, width in source pixels, and flip, which is 0.

    Examples
    --------
    >>> evaluation_boxes("imagenet", np.array([[256, 320], [512, 512]])).tolist()
    [[16.0, 48.0, 224.0, 224.0, 0.0], [32.0, 32.0, 448.0, 448.0, 0.0]]
    """
    boxes = np.zeros((len(sizes), 5))
    boxes[:, 2:4] = sizes
    if policy == "imagenet":
        resized = 256 * sizes.astype(np.int64) // sizes.min(axis=1, keepdims=True)
        scale = sizes / resized
        boxes[:, :2] = np.rint((resized - 224) / 2) * scale
        boxes[:, 2:4] = 224 * scale
    return boxes.astype(np.float32)


def color_transforms(
    jitter: float, lighting: float, seed: int, epoch: int, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Draw changes of colour, as in fb.resnet.torch (``ColorJitter``, then ``Lighting``).

    Brightness, contrast and saturation are changed: each blends the picture x with another, y, as
    α·x + (1 - α)·y with α uniform in 1 ± `jitter`, where y is black, the mean of its grey, or its grey. Then
    noise along the principal components of ImageNet's colours is added, the same at all pixels (Krizhevsky
    et al. 2012, §4.1). All of it is linear in the picture, so that the whole of it is
    x' = M x + B x̄ + l, with x̄ the picture's mean colour: `theanompi.device.ops.color_adjust`.

    There, the three are applied in a random order. That makes no difference: they commute.

    Parameters
    ----------
    jitter : float
        Largest change of α; 0.4 in fb.resnet.torch, 0 for none.
    lighting : float
        Standard deviation of the noise, in units of each component's eigenvalue; 0.1 in fb.resnet.torch, 0
        for none.
    seed, epoch : int
        Any integers.
    ids : int64 (n,)
        Sample ids.

    Returns
    -------
    float32 (n, 3, 7)
        M, B and l side by side, for red, green and blue on a scale from 0 to 1.

    Examples
    --------
    >>> color_transforms(0, 0, seed=0, epoch=0, ids=np.array([5]))[0].tolist()
    [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]]
    """
    draws = uniforms(seed, epoch, ids, Purpose.COLOR, 3)
    brightness, contrast, saturation = (1 + jitter * (2 * draws.T - 1))[:, :, None, None]
    # They commute because nothing is clipped in between and the weights of grey sum to 1: a picture that is grey,
    # as a mean is too, is its own grey.
    grey = np.tile(_GREY, (3, 1))
    m = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
    b = brightness * (1 - contrast) * grey
    # Box and Muller 1958: two normal numbers from two uniform ones.
    u = uniforms(seed, epoch, ids, Purpose.LIGHTING, 4)
    radius, angle = np.sqrt(-2 * np.log(1 - u[:, :2])), 2 * math.pi * u[:, 2:]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :3]
    light = (lighting * normal * _EIGENVALUES) @ _EIGENVECTORS.T
    return np.concatenate([m, b, light[:, :, None]], axis=2).astype(np.float32)


def erased_boxes(
    probability: float, size: int, seed: int, epoch: int, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Draw which part of each image is blanked out (Zhong et al. 2020, *Random Erasing Data Augmentation*).

    As in their algorithm 1, area uniform in 2–40 % of the image's; aspect (height / width) log-uniform in 0.3–1/0.3,
    where theirs is uniform, which prefers tall boxes; both sides rounded to whole pixels, drawn until the box fits into
    the image, at most 10 times: then nothing is erased. Position uniform over the whole pixels.

    Parameters
    ----------
    probability : float
        That anything of an image is.
    size : int
        Height and width of the images that the network sees, in pixels.
    seed, epoch : int
        Any integers.
    ids : int64 (n,)
        Sample ids.

    Returns
    -------
    float32 (n, 4)
        y0, x0, height, width in pixels that the network sees; a height and width of 0 where nothing is erased.

    Examples
    --------
    >>> erased_boxes(0, 32, seed=0, epoch=0, ids=np.array([5]))[:, 2:].tolist()
    [[0.0, 0.0]]
    """
    draws = uniforms(seed, epoch, ids, Purpose.ERASING, 3 + 2 * _ATTEMPTS).T
    (erased, y, x), areas, aspects = np.split(draws, [3, 3 + _ATTEMPTS])
    smallest, largest = _ERASED_AREA
    area = (smallest + (largest - smallest) * areas) * size**2
    aspect = np.exp((2 * aspects - 1) * math.log(_LARGEST_ERASED_ASPECT))
    h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (h <= size) & (w <= size)
    first = fits.argmax(axis=0)[None]
    h, w = np.take_along_axis(h, first, 0)[0], np.take_along_axis(w, first, 0)[0]
    boxes = np.stack([np.floor(y * (size - h + 1)), np.floor(x * (size - w + 1)), h, w], axis=1)
    return (boxes * (fits.any(axis=0) & (erased < probability))[:, None]).astype(np.float32)


def mixing(
    mixup: float, cutmix: float, size: int, seed: int, epoch: int, ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Draw how the images of a batch are mixed with each other, all alike.

    With both `mixup` and `cutmix` it is the one or the other, with probability 1/2. The share s of the other image is
    from Beta(α, α).

    - Mixup (Zhang et al. 2018, *mixup: Beyond Empirical Risk Minimization*, §2): (1 - s)·x + s·x' at all pixels.
    - Cutmix (Yun et al. 2019, *CutMix*, §3.1 and algorithm 1): x' in a box of the share s of the image's area, its
      centre uniform over the image; what reaches over the border is cut off.

    Parameters
    ----------
    mixup, cutmix : float
        α of each; 0 for none.
    size : int
        Height and width of the images that the network sees, in pixels.
    seed, epoch : int
        Any integers.
    ids : int64 (n,)
        Sample ids of the batch; the first one decides.

    Returns
    -------
    float32 (n, 5)
        y0, x0, height, width in pixels that the network sees, and the share of the other image in that box; all rows
        are the same. The share of the other label is that of the box in the image times it.

    Examples
    --------
    >>> mixing(0.2, 0, 32, seed=0, epoch=0, ids=np.array([5, 8]))[:, :4].tolist()
    [[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 32.0, 32.0]]
    """
    # For a run without it, loading SciPy would only take time.
    from scipy.special import betaincinv

    which, quantile, y, x = uniforms(seed, epoch, ids[:1], Purpose.MIXING, 4)[0]
    cut = not mixup or (cutmix > 0 and which < 0.5)
    alpha = cutmix if cut else mixup
    share = betaincinv(alpha, alpha, quantile)
    box = [0, 0, size, size, share]
    if cut:
        centre, half = np.floor(size * np.array([y, x])), int(0.5 * size * math.sqrt(share))
        start, stop = np.maximum(centre - half, 0), np.minimum(centre + half, size)
        box = [*start, *(stop - start), 1]
    return np.tile(np.array(box, np.float32), (len(ids), 1))
