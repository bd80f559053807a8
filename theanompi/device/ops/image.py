"""Cropping, resizing and mirroring of uint8 images inside the compiled function."""

from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import Context, TorchOp, expect


class CropResize(TorchOp):
    """Bilinear samples of a box of each image."""

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
            boxes.ndim == 2 and boxes.dtype == "float32" and boxes.type.shape[1] in (None, 5),
            "crop_resize",
            "boxes",
            "a float32 matrix (n, 5)",
            boxes.type,
        )
        expect(self.size >= 1, "crop_resize", "size", "at least 1", self.size)
        n, channels = images.type.shape[:2]
        return Apply(
            self, [images, boxes], [TensorType("float32", shape=(n, channels, self.size, self.size))()]
        )

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        size = self.size
        # The centres of the output pixels, as fractions of the box.
        centres = ((torch.arange(size, dtype=torch.float32) + 0.5) / size).to(context.device)

        def crop_resize(images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
            height, width = images.shape[2:]
            y0, x0, box_height, box_width, flip = boxes[:, :, None].unbind(1)
            across = torch.where(flip > 0.5, 1 - centres, centres)
            # grid_sample's coordinates run from -1 to 1 between the outer edges of the image.
            y = (y0 + box_height * centres) * (2 / height) - 1
            x = (x0 + box_width * across) * (2 / width) - 1
            grid = torch.stack(
                (x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)), dim=3
            )
            images = images.to(torch.float32)
            out = torch.nn.functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
            return out.contiguous(memory_format=torch.channels_last)

        return crop_resize

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False], [False]]


def crop_resize(images: Variable, boxes: Variable, size: int) -> Variable:
    """Cut a box out of every image and resize it to a square.

    Parameters
    ----------
    images : uint8 tensor, shape (n, c, h, w)
    boxes : float32 matrix, shape (n, 5)
        For each image the top, left, height and width of its box in pixels, and 1 to mirror it left
        to right, else 0. A box may reach over the border, where there are zeros.
    size : int
        Height and width of the result, in pixels.

    Returns
    -------
    float32 tensor, shape (n, c, size, size)
        In the range of the input, 0 to 255; interpolated bilinearly between pixel centres.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(4, dtype="uint8").reshape(1, 1, 2, 2)
    >>> crop_resize(image, np.array([[0, 0, 2, 2, 1]], "float32"), 2).eval()[0, 0].tolist()
    [[1.0, 0.0], [3.0, 2.0]]
    """
    return CropResize(int(size))(images, boxes)
