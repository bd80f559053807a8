"""Maximum pooling of images in their channels-last layout, with the places of the maxima in 8 bits.

What is pooled may be normalised and rectified in the same pass, and is then never written.

torch keeps a 64-bit index for each output, four times the bytes of the output itself in bfloat16, and adds gradients
atomically. Here the place is a number within the window, and backward each input looks into the windows that it is in:
no atomic additions, so the bits are the same each time.
"""

import torch
import triton
import triton.language as tl

from theanompi.device.triton import OPTIONS
from theanompi.device.triton.norm import PASS_ROWS, _floats, in_rows, pieces_of, statistics, sums_of

PIXELS = 32
CHANNELS = 64
"""A tile: what a program has in its registers at a time."""
GATHER_ROWS = 16
"""Of a tile where what is pooled is normalised, which needs the registers for its places in memory."""


@triton.jit
def _pool(
    x,
    gamma,
    beta,
    mean,
    inv_std,
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
    """The first maximum of each window, or the last of what is not a number, and its place.

    With gamma, beta, mean and inv_std, of what is normalised and rectified.
    """
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    image = (pixel // (out_height * out_width)).to(tl.int64)
    top = pixel // out_width % out_height * STRIDE_H - PAD_H
    left = pixel % out_width * STRIDE_W - PAD_W
    known = column < channels
    wanted = (pixel < pixels)[:, None] & known[None, :]
    if gamma is not None:
        centre, shift = _floats(mean, column, known), _floats(beta, column, known)
        scale = _floats(gamma, column, known) * _floats(inv_std, column, known)
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
        if gamma is not None:
            value = (value - centre[None, :]) * scale[None, :] + shift[None, :]
            value = tl.where(value < 0, 0, value)
        take = there[:, None] & ((value > best) | (value != value) | (place < 0))
        best = tl.where(take, value, best)
        place = tl.where(take, i, place)
    target = pixel.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(y + target, best.to(y.dtype.element_ty), mask=wanted)
    tl.store(places + target, place.to(tl.int8), mask=wanted)


@triton.jit
def _gathered(
    gy,
    places,
    pixel,
    column,
    wanted,
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
    image = (pixel // (height * width)).to(tl.int64)
    row = pixel // width % height + PAD_H
    at = pixel % width + PAD_W
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
    return total


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
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    wanted = (pixel < pixels)[:, None] & (column < channels)[None, :]
    total = _gathered(
        *(gy, places, pixel, column, wanted, channels, height, width, out_height, out_width),
        *(KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, PIXELS, CHANNELS),
    )
    target = pixel.to(tl.int64)[:, None] * channels + column[None, :]
    tl.store(gx + target, total.to(gx.dtype.element_ty), mask=wanted)


@triton.jit
def _pooled_pass(
    gy,
    places,
    x,
    gamma,
    beta,
    mean,
    inv_std,
    g_beta,
    g_gamma,
    gx,
    sums,
    rows,
    channels,
    piece,
    pieces,
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
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """A pass of the gradient of pooling, rectifier and normalisation: the sums of a piece, or then `gx`.

    What `norm._sums_of_pieces` and `norm._gradient` do, of a cotangent that is gathered and never written.
    """
    number = tl.program_id(0)
    row, column = tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, tile = column < channels, row[:, None] * channels + column[None, :]
    count = tl.minimum(rows - number * piece, piece)
    first = number.to(tl.int64) * piece * channels
    centre, deviation = _floats(mean, column, known), _floats(inv_std, column, known)
    scale, shift = _floats(gamma, column, known) * deviation, _floats(beta, column, known)
    if gx is not None:
        share = _floats(g_beta, column, known) / rows
        slope = _floats(g_gamma, column, known) * deviation / rows
    else:
        total = tl.zeros((ROWS, CHANNELS), tl.float32)
        product = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, count, ROWS):
        inside = (start + row < count)[:, None] & known[None, :]
        here = first + start * channels
        moved = _floats(x + here, tile, inside) - centre[None, :]
        out = moved * scale[None, :] + shift[None, :]
        cotangent = _gathered(
            *(gy, places, number * piece + start + row, column, inside),
            *(channels, height, width, out_height, out_width),
            *(KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PAD_H, PAD_W, ROWS, CHANNELS),
        )
        cotangent = tl.where(inside & ((out <= 0) == 0), cotangent, 0)
        if gx is not None:
            gradient = scale[None, :] * (cotangent - share[None, :] - moved * slope[None, :])
            tl.store(gx + here + tile, gradient.to(gx.dtype.element_ty), mask=inside)
        else:
            total += cotangent
            product += cotangent * moved
    if gx is None:
        sums += number * channels
        tl.store(sums + column, tl.sum(total, 0), mask=known)
        tl.store(sums + pieces * channels + column, tl.sum(product, 0) * deviation, mask=known)


def _geometry(size: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]) -> dict[str, int]:
    names = ("KERNEL_H", "KERNEL_W", "STRIDE_H", "STRIDE_W", "PAD_H", "PAD_W")
    return dict(zip(names, (*size, *stride, *padding), strict=True))


def forward(
    x: torch.Tensor,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    out_size: tuple[int, ...],
    normal: tuple[torch.Tensor, ...] | None = None,
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
    normal : tuple of torch.Tensor, shape (c,), float32, optional
        gamma, beta, mean, inv_std: the maximum is that of relu(gamma · (x − mean) · inv_std + beta).

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
    tile = PIXELS if normal is None else GATHER_ROWS
    _pool[(triton.cdiv(pixels, tile), triton.cdiv(channels, CHANNELS))](
        *(x, *(normal or (None,) * 4), y, places, pixels, channels, height, width, *out_size),
        **_geometry(size, stride, padding),
        PIXELS=tile,
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


def normalised_forward(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    out_size: tuple[int, ...],
    *,
    epsilon: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise by the statistics of the batch, rectify, and pool, without writing what is pooled.

    Parameters
    ----------
    x : torch.Tensor, shape (n, c, h, w), float32 or bfloat16
    gamma, beta : torch.Tensor, shape (c,), float32
    size, stride, padding, out_size : tuple of int
        As in `forward`.
    epsilon : float

    Returns
    -------
    y, mean, inv_std, places : torch.Tensor
        As of :func:`theanompi.device.ops.batch_norm` and `forward`.
    """
    x = in_rows(x)
    mean, inv_std = statistics(x, epsilon)
    normal = gamma.contiguous(), beta.contiguous(), mean, inv_std
    y, places = forward(x, size, stride, padding, out_size, normal)
    return y, mean, inv_std, places


def normalised_backward(
    gy: torch.Tensor,
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    mean: torch.Tensor,
    inv_std: torch.Tensor,
    places: torch.Tensor,
    *,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of what `normalised_forward` computes.

    Parameters
    ----------
    gy : torch.Tensor, shape (n, c, h', w'), float32 or bfloat16
    x, gamma, beta, mean, inv_std, places : torch.Tensor
        What went in, and what came out.
    size, stride, padding : tuple of int, 2 of them

    Returns
    -------
    gx, g_gamma, g_beta : torch.Tensor
        With respect to input, gamma and beta.
    """
    x, gy, places = in_rows(x), in_rows(gy), in_rows(places)
    channels, rows = x.shape[1], x.numel() // x.shape[1]
    columns, image = triton.cdiv(channels, CHANNELS), (*x.shape[2:], *gy.shape[2:])
    given = gy, places, x, *(v.contiguous() for v in (gamma, beta, mean, inv_std))
    options = _geometry(size, stride, padding) | {"ROWS": GATHER_ROWS, "CHANNELS": CHANNELS} | OPTIONS
    piece, pieces = pieces_of(rows, channels)
    partial = torch.empty(2, pieces, channels, device=x.device)
    _pooled_pass[(pieces, columns)](
        *given, None, None, None, partial, rows, channels, piece, pieces, *image, **options
    )
    g_beta, g_gamma = sums_of(partial).unbind()
    gx = torch.empty_like(x)
    pieces = triton.cdiv(rows, PASS_ROWS)
    _pooled_pass[(pieces, columns)](
        *given, g_beta, g_gamma, gx, None, rows, channels, PASS_ROWS, pieces, *image, **options
    )
    return gx, g_gamma, g_beta
