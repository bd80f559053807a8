"""Maximum pooling of images in their channels-last layout, with the places of the maxima in 8 bits.

torch keeps a 64-bit index for each output, four times the bytes of the output itself in bfloat16, and adds gradients
atomically. Here the place is a number within the window, and backward each input looks into the windows that it is in:
no atomic additions, so the bits are the same each time.
"""

import torch
import triton
import triton.language as tl

from theanompi.device.triton import OPTIONS

PIXELS = 32
CHANNELS = 64
"""A tile: what a program has in its registers at a time."""


@triton.jit
def _pool(
    x,
    y,
    places,
    pixels,
    channels,
    height,
    width,
    out_height,
    out_width,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The first maximum of each window, or the last of what is not a number, and its place."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = (pixel // (out_height * out_width)).to(tl.int64)
    top = pixel // out_width % out_height * STRIDE_H - PAD_H
    left = pixel % out_width * STRIDE_W - PAD_W
    wanted = (pixel < pixels)[:, None] & (column < channels)[None, :]
    best = tl.full((PIXELS, CHANNELS), float("-inf"), tl.float32)
    place = tl.full((PIXELS, CHANNELS), -1, tl.int32)
    for i in tl.static_range(KERNEL_H * KERNEL_W):
        row, at = top + i // KERNEL_W, left + i % KERNEL_W
        there = (row >= 0) & (row < height) & (at >= 0) & (at < width)
        source = ((image * height + row) * width + at) * channels
        value = tl.load(
            x + (source[:, None] + column[None, :]), mask=wanted & there[:, None], other=float("-inf")
        )
        value = value.to(tl.float32)
        take = there[:, None] & ((value > best) | (value != value) | (place < 0))
        best = tl.where(take, value, best)
        place = tl.where(take, i, place)
    target = pixel.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(y + target, best.to(y.dtype.element_ty), mask=wanted)
    tl.store(places + target, place.to(tl.int8), mask=wanted)


@triton.jit
def _pool_gradient(
    gy,
    places,
    gx,
    pixels,
    channels,
    height,
    width,
    out_height,
    out_width,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The sum of the cotangents of those windows of which an input is the maximum, from the last window on."""
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = (pixel // (height * width)).to(tl.int64)
    row = pixel // width % height + PAD_H
    at = pixel % width + PAD_W
    wanted = (pixel < pixels)[:, None] & (column < channels)[None, :]
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for down in tl.static_range((KERNEL_H + STRIDE_H - 1) // STRIDE_H):
        for along in tl.static_range((KERNEL_W + STRIDE_W - 1) // STRIDE_W):
            out_row, out_at = row // STRIDE_H - down, at // STRIDE_W - along
            inner_row, inner_at = row - out_row * STRIDE_H, at - out_at * STRIDE_W
            there = (out_row >= 0) & (out_row < out_height) & (out_at >= 0) & (out_at < out_width)
            there = there & (inner_row < KERNEL_H) & (inner_at < KERNEL_W)
            source = ((image * out_height + out_row) * out_width + out_at) * channels
            source = source[:, None] + column[None, :]
            inside = wanted & there[:, None]
            own = inner_row * KERNEL_W + inner_at
            hit = tl.load(places + source, mask=inside, other=-1).to(tl.int32) == own[:, None]
            total += tl.where(hit, tl.load(gy + source, mask=inside, other=0).to(tl.float32), 0)
    target = pixel.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(gx + target, total.to(gx.dtype.element_ty), mask=wanted)


def _geometry(size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> dict[str, int]:
    names = ("KERNEL_H", "KERNEL_W", "STRIDE_H", "STRIDE_W", "PAD_H", "PAD_W")
    return dict(zip(names, (*size, *stride, *padding), strict=True))


def forward(
    x: torch.Tensor,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    out_size: tuple[int, ...],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The maximum of each window, as `torch.nn.functional.max_pool2d`.

    Parameters
    ----------
    x : torch.Tensor, shape (n, c, h, w), float32 or bfloat16
        In any layout, best in channels-last.
    size, stride, padding : tuple of int, 2 of them
        Of the window, of at most 127 places.
    out_size : tuple of int
        h', w': how many windows there are.

    Returns
    -------
    y : torch.Tensor, shape (n, c, h', w'), as `x`
    places : torch.Tensor, shape (n, c, h', w'), int8
        Row times the window's width plus column, within the window: where the maximum is.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    n, channels, height, width = x.shape
    y, places = (
        torch.empty((n, channels, *out_size), dtype=dtype, device=x.device, memory_format=torch.channels_last)
        for dtype in (x.dtype, torch.int8)
    )
    pixels = n * out_size[0] * out_size[1]
    _pool[(triton.cdiv(pixels, PIXELS), triton.cdiv(channels, CHANNELS))](
        *(x, y, places, pixels, channels, height, width, *out_size),
        **_geometry(size, stride, padding),
        PIXELS=PIXELS,
        CHANNELS=CHANNELS,
        **OPTIONS,
    )
    return y, places


def backward(
    gy: torch.Tensor,
    x: torch.Tensor,
    places: torch.Tensor,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> torch.Tensor:
    """The gradient of `forward` with respect to `x`.

    Parameters
    ----------
    gy : torch.Tensor, shape (n, c, h', w'), float32 or bfloat16
    x, places : torch.Tensor
        What went into `forward`, of which only shape and dtype count, and what came out.
    size, stride, padding : tuple of int, 2 of them

    Returns
    -------
    torch.Tensor, as `x`
    """
    n, channels, height, width = x.shape
    gy, places = (t.contiguous(memory_format=torch.channels_last) for t in (gy, places))
    gx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = n * height * width
    _pool_gradient[(triton.cdiv(pixels, PIXELS), triton.cdiv(channels, CHANNELS))](
        *(gy, places, gx, pixels, channels, height, width, *gy.shape[2:]),
        **_geometry(size, stride, padding),
        PIXELS=PIXELS,
        CHANNELS=CHANNELS,
        **OPTIONS,
    )
    return gx
