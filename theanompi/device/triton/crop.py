"""A box of each image, resized with Pillow's bilinear filter, mirrored, normalised and cast in one pass.

What :class:`theanompi.device.ops.image.CropResize` computes, without its tables of weights: each program looks at its
image's box and reads just the pixels that its own outputs are made of.
"""

import torch
import triton
import triton.language as tl

from theanompi.device.triton import OPTIONS

ELEMENTS = 512
"""Of a program: neighbours in memory, of one image. Four a thread: with more it takes too many registers."""


@triton.jit
def _weight(pixel, centre, support, extent):
    """Of a pixel along one axis, before all weights are divided by their sum."""
    weight = tl.maximum(1 - tl.div_rn(tl.abs(pixel + 0.5 - centre), support), 0)
    return tl.where((pixel >= 0) & (pixel < extent), weight, 0)


@triton.jit
def _crop(images, boxes, scale, shift, out, height, width, channels, size, ELEMENTS: tl.constexpr):
    """Of an image a piece of the result, in rows of pixels of channels."""
    image, element = tl.program_id(0), tl.program_id(1) * ELEMENTS + tl.arange(0, ELEMENTS)
    known, channel = element < size * size * channels, element % channels
    row, column = element // channels // size, element // channels % size
    box = boxes + image * 7
    top, left, box_height, box_width = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
    flip, extent_y, extent_x = tl.load(box + 4), tl.load(box + 5), tl.load(box + 6)
    column = tl.where(flip > 0.5, size - 1 - column, column)
    # A size of 1 is no variable that could be cast.
    side = size * 1.0
    # Divided as torch does, so that pixels that need no resizing stay what they are.
    support_y = tl.maximum(tl.div_rn(box_height, side), 1)
    support_x = tl.maximum(tl.div_rn(box_width, side), 1)
    centre_y = top + tl.div_rn(box_height * (row + 0.5), side)
    centre_x = left + tl.div_rn(box_width * (column + 0.5), side)
    first_y, first_x = tl.floor(centre_y - support_y + 0.5), tl.floor(centre_x - support_x + 0.5)
    source = images + image.to(tl.int64) * height * width * channels
    total = tl.zeros((ELEMENTS,), tl.float32)
    weights = tl.zeros((ELEMENTS,), tl.float32)
    for down in range(0, tl.ceil(2 * support_y).to(tl.int32)):
        pixel_y = first_y + down
        weight_y = _weight(pixel_y, centre_y, support_y, extent_y)
        for along in range(0, tl.ceil(2 * support_x).to(tl.int32)):
            pixel_x = first_x + along
            weight = weight_y * _weight(pixel_x, centre_x, support_x, extent_x)
            place = (pixel_y.to(tl.int32) * width + pixel_x.to(tl.int32)) * channels + channel
            value = tl.load(source + place, mask=known & (weight > 0), other=0).to(tl.float32)
            total += weight * value
            weights += weight
    inside = (centre_y >= 0) & (centre_y <= extent_y) & (centre_x >= 0) & (centre_x <= extent_x)
    # A centre inside is at most half a pixel from that of a pixel, along both axes.
    result = tl.where(inside, total / tl.maximum(weights, 0.25), 0)
    if scale is not None:
        result = result * tl.load(scale + channel) + tl.load(shift + channel)
    target = image.to(tl.int64) * size * size * channels + element
    tl.store(out + target, result.to(out.dtype.element_ty), mask=known)


def crop(
    images: torch.Tensor,
    boxes: torch.Tensor,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    *,
    size: int,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Crop and resize, as :func:`theanompi.device.ops.crop_resize`, then normalise: result · scale + shift.

    Parameters
    ----------
    images : torch.Tensor, shape (n, c, h, w)
        In any layout, best in channels-last.
    boxes : torch.Tensor, shape (n, 7), float32
    scale, shift : torch.Tensor of c elements, float32, optional
        Both or none.
    size : int
    dtype : torch.dtype
        Of the result, to which it is rounded once.

    Returns
    -------
    torch.Tensor, shape (n, c, size, size), in channels-last layout
    """
    n, channels, height, width = images.shape
    out = torch.empty(
        (n, channels, size, size), dtype=dtype, device=images.device, memory_format=torch.channels_last
    )
    _crop[(n, triton.cdiv(size * size * channels, ELEMENTS))](
        images.contiguous(memory_format=torch.channels_last),
        boxes.contiguous(),
        *(None if v is None else v.contiguous() for v in (scale, shift)),
        *(out, height, width, channels, size),
        ELEMENTS=ELEMENTS,
        **OPTIONS,
    )
    return out
