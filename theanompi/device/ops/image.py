"""Cropping, resizing, mirroring and colour of images inside the compiled function."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor.tensor as pt
import torch
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import Context, TorchOp, expect, tensor_type

_OVERHANG = 1.125
"""How much larger than its canvas a box may be, along each axis; `theanompi.data.pictures.augment` stays below it."""


def _taps(
    start: torch.Tensor, length: torch.Tensor, extent: torch.Tensor, steps: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pixels an output pixel is made of, along one axis, and with which weights.

    Parameters
    ----------
    start, length, extent : float32 (n, 1)
        Of the box, and how many pixels there are, in pixels.
    steps : float32 (n, size) or (size,)
        Output pixels' numbers plus 1/2.
    count : int
        At most so many pixels have a weight above 0.

    Returns
    -------
    int64 (n, size, count), float32 (n, size, count)
    """
    size = steps.shape[-1]
    support = (length / size).clamp(min=1)
    centre = start + length * steps / size
    first = torch.floor(centre - support + 0.5)
    pixel = first[:, :, None] + torch.arange(count, device=start.device)
    weight = (1 - (pixel + 0.5 - centre[:, :, None]).abs() / support[:, :, None]).clamp(min=0)
    weight = weight * ((pixel >= 0) & (pixel < extent[:, :, None]))
    # A centre inside is at most half a pixel from that of a pixel, whose weight is then at least 1/2.
    weight = weight / weight.sum(dim=2, keepdim=True).clamp(min=0.5)
    inside = (centre >= 0) & (centre <= extent)
    return pixel.to(torch.int64), weight * inside[:, :, None]


def _weighted_rows(rows: torch.Tensor, which: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Sums of rows of each image, (n, length, k) → (n, size, k), for `which` and `weight` (n, size, count)."""
    n, length, k = rows.shape
    # Pixels outside the canvas have weight 0: any row will do for them.
    which = which.clamp(0, length - 1) + length * torch.arange(n, device=rows.device)[:, None, None]
    sums = torch.nn.functional.embedding_bag(
        which.flatten(0, 1), rows.flatten(0, 1), mode="sum", per_sample_weights=weight.flatten(0, 1)
    )
    return sums.view(n, -1, k)


def _crop_resize(images: torch.Tensor, boxes: torch.Tensor, steps: torch.Tensor, tight: bool) -> torch.Tensor:
    """Crop and resize; `tight` looks at the boxes to do no more than they need.

    Looking is free on the CPU. On CUDA it would wait for the device, and a CUDA graph needs fixed shapes: all
    of the canvas is read there, as if boxes had its size.
    """
    n, channels, *canvas = images.shape
    size = len(steps)
    if n == 0:
        return torch.empty(0, channels, size, size, device=images.device)
    # The box of an image that stays as it is.
    whole = [0, 0, size, size, 0, size, size]
    if tight and canvas == [size, size] and torch.equal(boxes, boxes.new_tensor(whole).expand(n, 7)):
        return images.to(torch.float32, memory_format=torch.channels_last, copy=True)
    y0, x0, height, width, flip, *extent = boxes[:, :, None].unbind(1)
    longest = [_OVERHANG * side for side in canvas]
    if tight:
        longest = [float(side.max()) for side in (height, width)]
        filled = [math.ceil(float(side.max())) for side in extent]
        images = images[:, :, : filled[0], : filled[1]]
    count_y, count_x = (math.ceil(2 * max(1, side / size)) for side in longest)
    rows, weights = _taps(y0, height, extent[0], steps, count_y)
    across = torch.where(flip > 0.5, steps.flip(0), steps)
    columns, column_weights = _taps(x0, width, extent[1], across, count_x)
    # In memory the images lie as (n, height, width, channels).
    pixels = images.permute(0, 2, 3, 1).to(torch.float32)
    wide = pixels.shape[2]
    out = _weighted_rows(pixels.flatten(2), rows, weights)
    out = out.view(n, size, wide, channels).transpose(1, 2).reshape(n, wide, size * channels)
    out = _weighted_rows(out, columns, column_weights).view(n, size, size, channels)
    return out.permute(0, 3, 2, 1).contiguous(memory_format=torch.channels_last)


class CropResize(TorchOp):
    """A box of each image, resized with Pillow's bilinear filter.

    Both axes are filtered in turn. Each sum over some rows is what `embedding_bag` computes; that is several
    times faster on the CPU than products with the (mostly zero) matrices of weights.
    """

    __props__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def make_node(self, images: Any, boxes: Any) -> Apply:
        images, boxes = pt.as_tensor_variable(images), pt.as_tensor_variable(boxes)
        expect(
            images.ndim == 4,
            "crop_resize",
            "images",
            "4 dimensions (n, channels, height, width)",
            images.type,
        )
        expect(
            boxes.ndim == 2 and boxes.dtype == "float32" and boxes.type.shape[1] in (None, 7),
            "crop_resize",
            "boxes",
            "a float32 matrix (n, 7)",
            boxes.type,
        )
        expect(self.size >= 1, "crop_resize", "size", "at least 1", self.size)
        n, channels = images.type.shape[:2]
        return Apply(
            self, [images, boxes], [TensorType("float32", shape=(n, channels, self.size, self.size))()]
        )

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        size, tight = self.size, context.device.type == "cpu"
        steps = (torch.arange(size, dtype=torch.float32) + 0.5).to(context.device)
        return lambda images, boxes: _crop_resize(images, boxes, steps, tight)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False], [False]]


def crop_resize(images: Variable, boxes: Variable, size: int) -> Variable:
    """Cut a box out of every image and resize it to a square.

    The filter is Pillow's ``BILINEAR``: a triangle that reaches as far as the scale, so that what is made
    smaller is averaged. Inside the image the result is that of ``image.resize((size, size), BILINEAR, box)``
    in Pillow, before it rounds.

    Parameters
    ----------
    images : uint8 tensor, shape (n, c, h, w)
        Canvases, of which images fill the top left. Fastest where the channels are adjacent in memory.
    boxes : float32 matrix, shape (n, 7)
        For each image the top, left, height and width of its box in pixels, 1 to mirror it left to right,
        else 0, and the image's height and width, at most those of the canvas. A box may reach over the
        border, where there are zeros; its sides are at most 1.125 times those of the canvas.
    size : int
        Height and width of the result, in pixels.

    Returns
    -------
    float32 tensor, shape (n, c, size, size)
        In the range of the input, 0 to 255; always computed in float32.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(4, dtype="uint8").reshape(1, 1, 2, 2)
    >>> crop_resize(image, np.array([[0, 0, 2, 2, 1, 2, 2]], "float32"), 2).eval()[0, 0].tolist()
    [[1.0, 0.0], [3.0, 2.0]]
    >>> crop_resize(image, np.array([[0, 0, 2, 2, 0, 2, 2]], "float32"), 1).eval()[0, 0].tolist()
    [[1.5]]
    """
    return CropResize(int(size))(images, boxes)


def in_boxes(boxes: Variable, size: int) -> Variable:
    """Say which pixels of square images lie in a box of each.

    Parameters
    ----------
    boxes : float32 matrix, shape (n, 4)
        Top, left, height and width of each, in whole pixels; nothing is in one without height or width.
    size : int
        Height and width of the images, in pixels.

    Returns
    -------
    float32 tensor, shape (n, 1, size, size)
        1 in the box, 0 outside.

    Examples
    --------
    >>> import numpy as np
    >>> in_boxes(np.array([[1, 0, 1, 2]], "float32"), 2).eval()[0, 0].tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    boxes = pt.as_tensor_variable(boxes)
    steps = np.arange(size, dtype="float32")[None]
    y, x, height, width = (boxes[:, i, None] for i in range(4))
    rows, columns = (
        pt.cast(pt.ge(steps, start) & pt.lt(steps, start + length), "float32")
        for start, length in ((y, height), (x, width))
    )
    return rows[:, None, :, None] * columns[:, None, None, :]


def partners(items: Variable) -> Variable:
    """Give for each item the one that it is mixed with: the one before it; for the first one the last.

    Parameters
    ----------
    items : tensor, shape (n, …)
        Images or their labels.

    Returns
    -------
    tensor, shape (n, …)

    Examples
    --------
    >>> import numpy as np
    >>> partners(np.array([3, 4, 5])).eval().tolist()
    [5, 3, 4]
    """
    items = pt.as_tensor_variable(items)
    return pt.concatenate([items[-1:], items[:-1]])


class ColorAdjust(TorchOp):
    """An affine map of the colours of each image, which may depend on its mean colour."""

    __props__ = ()

    def make_node(self, images: Any, transforms: Any) -> Apply:
        images, transforms = pt.as_tensor_variable(images), pt.as_tensor_variable(transforms)
        expect(
            images.ndim == 4 and images.dtype == "float32" and images.type.shape[1] in (None, 3),
            "color_adjust",
            "images",
            "a float32 tensor (n, 3, height, width)",
            images.type,
        )
        expect(
            transforms.ndim == 3
            and transforms.dtype == "float32"
            and all(
                got in (None, length) for got, length in zip(transforms.type.shape[1:], (3, 7), strict=True)
            ),
            "color_adjust",
            "transforms",
            "a float32 tensor (n, 3, 7)",
            transforms.type,
        )
        n, _, height, width = images.type.shape
        return Apply(self, [images, transforms], [tensor_type(images, (n, 3, height, width))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        def color_adjust(images: torch.Tensor, transforms: torch.Tensor) -> torch.Tensor:
            mean = images.mean(dim=(2, 3))[:, None, :]
            out = ((transforms[:, :, 3:6] * mean).sum(2) + transforms[:, :, 6])[:, :, None, None]
            # Not a product of matrices: that would round to TF32 where convolutions may.
            for channel in range(3):
                out = torch.addcmul(
                    out, images[:, channel : channel + 1], transforms[:, :, channel, None, None]
                )
            return out.contiguous(memory_format=torch.channels_last)

        return color_adjust

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False], [False]]


def color_adjust(images: Variable, transforms: Variable) -> Variable:
    """Change the colours of every image: x' = M x + B x̄ + l, with x̄ the image's mean colour.

    Parameters
    ----------
    images : float32 tensor, shape (n, 3, h, w)
        On a scale from 0 to 1.
    transforms : float32 tensor, shape (n, 3, 7)
        M, B and l of each image, side by side, as `theanompi.data.pictures.augment.color_transforms` draws them.

    Returns
    -------
    float32 tensor, shape (n, 3, h, w)
        Not clipped; always computed in float32.

    Examples
    --------
    >>> import numpy as np
    >>> brighter = np.concatenate([2 * np.eye(3), np.zeros((3, 4))], axis=1).astype("float32")
    >>> color_adjust(np.full((1, 3, 1, 1), 0.25, "float32"), brighter[None]).eval().ravel().tolist()
    [0.5, 0.5, 0.5]
    """
    return ColorAdjust()(images, transforms)
