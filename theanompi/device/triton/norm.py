"""Batch normalisation with residual sum and rectifier, and its gradient, in few passes over a GPU's memory.

Rows are pixels, columns are channels: images are read in their channels-last layout, in float32 or bfloat16, and all
arithmetic is in float32. A program walks down a piece of the rows, some channels wide. Sums over rows are made in two
stages: each program leaves what it found in its piece, and a second kernel puts that together in a fixed order. There
are no atomic additions, so the bits are the same each time, on any GPU.

The statistics are those of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979): mean and sum of squares of each piece, and what the pieces' means add to the squares. The rest is
Ioffe and Szegedy 2015, "Batch normalization", algorithm 1 and the gradients in section 3.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from theanompi.device.ops.rows import layout
from theanompi.device.triton import OPTIONS, computes

ROWS = 32
CHANNELS = 64
"""A tile: what a program has in its registers at a time, 16 elements of each operand a thread."""
PROGRAMS = 528
"""About how many programs share sums over rows: four for each multiprocessor of an H100 or H200. It is the same on
every GPU, as the order of the additions depends on it."""

REGISTERS = 128
"""Of a thread, so that four programs of 128 threads fit into a multiprocessor and none of `PROGRAMS` waits for another.
In float32 the sums of a projection need more; there three fit."""

PASS_ROWS = 8 * ROWS
"""Rows of a program that sums nothing; it reads its channels' vectors once for all of them."""

BYTES = CHANNELS // 8
"""Of a row of a tile, with one bit for each element."""

PIECES, PIECE_CHANNELS = 256, 16
"""A tile of the second stage: few programs, each of which waits for memory as often as it has tiles."""


@triton.jit
def _floats(pointer, offsets, inside):
    return tl.load(pointer + offsets, mask=inside, other=0).to(tl.float32)


@triton.jit
def _keep_bits(bits, passes, offset, known, ROWS: tl.constexpr, BYTES: tl.constexpr):
    """Write a tile of truths, eight channels to a byte, rows of one tile after another."""
    row, byte, bit = tl.arange(0, ROWS), tl.arange(0, BYTES), tl.arange(0, 8)
    eight = tl.reshape(passes.to(tl.int32), (ROWS, BYTES, 8)) << bit[None, None, :]
    target = offset * BYTES + row[:, None] * BYTES + byte[None, :]
    tl.store(bits + target, tl.sum(eight, 2).to(tl.uint8), mask=known[:, None])


@triton.jit
def _kept_bits(bits, offset, known, ROWS: tl.constexpr, BYTES: tl.constexpr):
    """What `_keep_bits` has written."""
    row, byte, bit = tl.arange(0, ROWS), tl.arange(0, BYTES), tl.arange(0, 8)
    source = offset * BYTES + row[:, None] * BYTES + byte[None, :]
    eight = tl.load(bits + source, mask=known[:, None], other=0).to(tl.int32)
    return tl.reshape((eight[:, :, None] >> bit[None, None, :]) & 1, (ROWS, 8 * BYTES)) != 0


@triton.jit
def _statistics_of_pieces(
    x, means, squares, rows, channels, piece, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Mean, and sum of squared distances from it, of each piece of the rows."""
    number = tl.program_id(0)
    row, column = tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, tile = column < channels, row[:, None] * channels + column[None, :]
    count = tl.minimum(rows - number * piece, piece)
    first = number.to(tl.int64) * piece * channels
    # Sums of squares lose digits where the mean is large: the first row is about as large.
    origin = _floats(x + first, column, known)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    square = tl.zeros((ROWS, CHANNELS), tl.float32)
    # Of one operand twice the rows are on their way at once, or too few bytes are.
    for start in tl.range(0, count, ROWS, loop_unroll_factor=2):
        inside = (start + row < count)[:, None] & known[None, :]
        value = _floats(x + first + start * channels, tile, inside)
        moved = tl.where(inside, value - origin[None, :], 0)
        total += moved
        square += moved * moved
    moved_by = tl.sum(total, 0) / count
    target = number * channels + column
    tl.store(means + target, origin + moved_by, mask=known)
    tl.store(squares + target, tl.sum(square, 0) - count * moved_by * moved_by, mask=known)


@triton.jit
def _statistics(
    means,
    squares,
    mean,
    inv_std,
    rows,
    channels,
    piece,
    pieces,
    epsilon,
    PIECES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean and 1 / sqrt(variance + epsilon) of all rows from those of the pieces."""
    number, column = tl.arange(0, PIECES), tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known, tile = column < channels, number[:, None] * channels + column[None, :]
    origin = _floats(means, column, known)
    total = tl.zeros((PIECES, CHANNELS), tl.float32)
    for start in range(0, pieces, PIECES):
        inside = (start + number < pieces)[:, None] & known[None, :]
        count = tl.minimum(rows - (start + number) * piece, piece).to(tl.float32)[:, None]
        value = _floats(means + start * channels, tile, inside)
        total += tl.where(inside, count * (value - origin[None, :]), 0)
    average = origin + tl.sum(total, 0) / rows
    square = tl.zeros((PIECES, CHANNELS), tl.float32)
    for start in range(0, pieces, PIECES):
        inside = (start + number < pieces)[:, None] & known[None, :]
        count = tl.minimum(rows - (start + number) * piece, piece).to(tl.float32)[:, None]
        moved = _floats(means + start * channels, tile, inside) - average[None, :]
        own = _floats(squares + start * channels, tile, inside)
        square += tl.where(inside, own + count * moved * moved, 0)
    variance = tl.sum(square, 0) / rows
    tl.store(mean + column, average, mask=known)
    tl.store(inv_std + column, 1 / tl.sqrt_rn(variance + epsilon), mask=known)


@triton.jit
def _apply(
    x,
    gamma,
    beta,
    mean,
    inv_std,
    residual,
    gamma2,
    beta2,
    mean2,
    inv_std2,
    y,
    bits,
    rows,
    channels,
    piece,
    RECTIFY: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """Normalise, add the residual, which may be normalised itself, rectify; keep where the gradient will pass.

    Not x · scale + shift, which loses digits where a channel varies little. Without `gamma` beta is added, no more.
    """
    number = tl.program_id(0)
    row, column = tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, tile = column < channels, row[:, None] * channels + column[None, :]
    count = tl.minimum(rows - number * piece, piece)
    first = number.to(tl.int64) * piece * channels
    shift = _floats(beta, column, known)
    if gamma is not None:
        centre = _floats(mean, column, known)
        scale = _floats(gamma, column, known) * _floats(inv_std, column, known)
    if gamma2 is not None:
        centre2, shift2 = _floats(mean2, column, known), _floats(beta2, column, known)
        scale2 = _floats(gamma2, column, known) * _floats(inv_std2, column, known)
    for start in range(0, count, ROWS):
        inside = (start + row < count)[:, None] & known[None, :]
        here = first + start * channels
        out = _floats(x + here, tile, inside)
        if gamma is not None:
            out = (out - centre[None, :]) * scale[None, :]
        out += shift[None, :]
        if residual is not None:
            shortcut = _floats(residual + here, tile, inside)
            if gamma2 is not None:
                shortcut = (shortcut - centre2[None, :]) * scale2[None, :] + shift2[None, :]
            out += shortcut
        if bits is not None:
            offset = tl.program_id(1).to(tl.int64) * rows + number * piece + start
            _keep_bits(bits, (out <= 0) == 0, offset, start + row < count, ROWS, BYTES)
        if RECTIFY:
            # What is not a number stays so.
            out = tl.where(out < 0, 0, out)
        tl.store(y + here + tile, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _cotangent(gy, gy2, y, here, tile, inside, out, passes):
    """The cotangent of what was rectified, from one or two of what came out: 0 where that is 0.

    It is in `y`, or computed again in `out`, or `passes` says where it is not.
    """
    g = _floats(gy + here, tile, inside)
    if gy2 is not None:
        g += _floats(gy2 + here, tile, inside)
    if y is not None:
        out = _floats(y + here, tile, inside)
    if out is not None:
        g = tl.where(out <= 0, 0, g)
    if passes is not None:
        g = tl.where(passes, g, 0)
    return tl.where(inside, g, 0)


@triton.jit
def _sums_of_pieces(
    gy,
    gy2,
    y,
    bits,
    x,
    gamma,
    beta,
    mean,
    inv_std,
    x2,
    mean2,
    inv_std2,
    g,
    sums,
    rows,
    channels,
    piece,
    pieces,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """Σg, with `x` Σg·x̂, and of a projection Σg·x̂₂ of each piece of the rows; g itself where it is wanted."""
    number = tl.program_id(0)
    row, column = tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, tile = column < channels, row[:, None] * channels + column[None, :]
    count = tl.minimum(rows - number * piece, piece)
    first = number.to(tl.int64) * piece * channels
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    if x is not None:
        centre, deviation = _floats(mean, column, known), _floats(inv_std, column, known)
        product = tl.zeros((ROWS, CHANNELS), tl.float32)
    if beta is not None:
        scale, shift = _floats(gamma, column, known) * deviation, _floats(beta, column, known)
    if x2 is not None:
        centre2 = _floats(mean2, column, known)
        product2 = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in range(0, count, ROWS):
        inside = (start + row < count)[:, None] & known[None, :]
        here = first + start * channels
        if x is not None:
            moved = _floats(x + here, tile, inside) - centre[None, :]
        out, passes = None, None
        if beta is not None:
            out = moved * scale[None, :] + shift[None, :]
        if bits is not None:
            offset = tl.program_id(1).to(tl.int64) * rows + number * piece + start
            passes = _kept_bits(bits, offset, start + row < count, ROWS, BYTES)
        cotangent = _cotangent(gy, gy2, y, here, tile, inside, out, passes)
        total += cotangent
        if x is not None:
            product += cotangent * moved
        if x2 is not None:
            product2 += cotangent * (_floats(x2 + here, tile, inside) - centre2[None, :])
        if g is not None:
            tl.store(g + here + tile, cotangent.to(g.dtype.element_ty), mask=inside)
    sums += number * channels
    tl.store(sums + column, tl.sum(total, 0), mask=known)
    if x is not None:
        tl.store(sums + pieces * channels + column, tl.sum(product, 0) * deviation, mask=known)
    if x2 is not None:
        sum2 = tl.sum(product2, 0) * _floats(inv_std2, column, known)
        tl.store(sums + 2 * pieces * channels + column, sum2, mask=known)


@triton.jit
def _sums(sums, out, channels, pieces, PIECES: tl.constexpr, CHANNELS: tl.constexpr):
    """The sums of all rows from those of the pieces."""
    which = tl.program_id(1)
    number, column = tl.arange(0, PIECES), tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    known, tile = column < channels, number[:, None] * channels + column[None, :]
    total = tl.zeros((PIECES, CHANNELS), tl.float32)
    for start in range(0, pieces, PIECES):
        inside = (start + number < pieces)[:, None] & known[None, :]
        total += _floats(sums + (which * pieces + start) * channels, tile, inside)
    tl.store(out + which * channels + column, tl.sum(total, 0), mask=known)


@triton.jit
def _gradient(
    gy,
    gy2,
    y,
    bits,
    x,
    gamma,
    beta,
    mean,
    inv_std,
    g_beta,
    g_gamma,
    gx,
    x2,
    gamma2,
    mean2,
    inv_std2,
    g_gamma2,
    gx2,
    rows,
    channels,
    piece,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    BYTES: tl.constexpr,
):
    """The gradient γ/σ · (g − Σg/R − x̂ · Σ(g·x̂)/R) with respect to the input, and that of a projection."""
    number = tl.program_id(0)
    row, column = tl.arange(0, ROWS), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known, tile = column < channels, row[:, None] * channels + column[None, :]
    count = tl.minimum(rows - number * piece, piece)
    first = number.to(tl.int64) * piece * channels
    centre, deviation = _floats(mean, column, known), _floats(inv_std, column, known)
    scale = _floats(gamma, column, known) * deviation
    share = _floats(g_beta, column, known) / rows
    slope = _floats(g_gamma, column, known) * deviation / rows
    if beta is not None:
        shift = _floats(beta, column, known)
    if x2 is not None:
        centre2, deviation2 = _floats(mean2, column, known), _floats(inv_std2, column, known)
        scale2 = _floats(gamma2, column, known) * deviation2
        slope2 = _floats(g_gamma2, column, known) * deviation2 / rows
    for start in range(0, count, ROWS):
        inside = (start + row < count)[:, None] & known[None, :]
        here = first + start * channels
        moved = _floats(x + here, tile, inside) - centre[None, :]
        out, passes = None, None
        if beta is not None:
            out = moved * scale[None, :] + shift[None, :]
        if bits is not None:
            offset = tl.program_id(1).to(tl.int64) * rows + number * piece + start
            passes = _kept_bits(bits, offset, start + row < count, ROWS, BYTES)
        cotangent = _cotangent(gy, gy2, y, here, tile, inside, out, passes)
        gradient = scale[None, :] * (cotangent - share[None, :] - moved * slope[None, :])
        tl.store(gx + here + tile, gradient.to(gx.dtype.element_ty), mask=inside)
        if x2 is not None:
            moved2 = _floats(x2 + here, tile, inside) - centre2[None, :]
            gradient2 = scale2[None, :] * (cotangent - share[None, :] - moved2 * slope2[None, :])
            tl.store(gx2 + here + tile, gradient2.to(gx2.dtype.element_ty), mask=inside)


def in_rows(t: torch.Tensor) -> torch.Tensor:
    """A tensor in that layout: the same if it has it."""
    return t.contiguous(memory_format=layout(t.ndim))


def fit(*tensors: torch.Tensor) -> bool:
    """Whether the functions below can read these: float32 or bfloat16 on CUDA, of one shape, in rows of channels."""
    shape = tensors[0].shape
    return shape.numel() > 0 and all(
        computes(t)
        and t.dtype in (torch.float32, torch.bfloat16)
        and t.shape == shape
        and t.is_contiguous(memory_format=layout(len(shape)))
        for t in tensors
    )


def pieces_of(rows: int, channels: int) -> tuple[int, int]:
    """How many rows a piece has of which sums are made, and how many pieces there are."""
    wanted = max(1, PROGRAMS // triton.cdiv(channels, CHANNELS))
    piece = ROWS * triton.cdiv(triton.cdiv(rows, wanted), ROWS)
    return piece, triton.cdiv(rows, piece)


def _resident(x: torch.Tensor) -> dict[str, int]:
    """The launch option that lets four programs that read `x` be in a multiprocessor at once."""
    return {"maxnreg": REGISTERS} if x.dtype == torch.bfloat16 else {}


def sums_of(partial: torch.Tensor) -> torch.Tensor:
    """The second stage of sums, of shape (number, pieces, c): over all pieces, in a fixed order."""
    n_sums, pieces, channels = partial.shape
    out = torch.empty(n_sums, channels, device=partial.device)
    _sums[(triton.cdiv(channels, PIECE_CHANNELS), n_sums)](
        partial, out, channels, pieces, PIECES=PIECES, CHANNELS=PIECE_CHANNELS, **OPTIONS
    )
    return out


def _columns(channels: int) -> int:
    return int(triton.cdiv(channels, CHANNELS))


def bits_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Of one bit for each element of a tensor: tiles of channels, rows, bytes.

    Parameters
    ----------
    shape : sequence of int
        (n, c) or (n, c, h, w).

    Returns
    -------
    (int, int, int)
    """
    return _columns(shape[1]), math.prod(shape) // shape[1], BYTES


def statistics(x: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / sqrt(biased variance + epsilon) of each channel.

    Parameters
    ----------
    x : torch.Tensor, shape (n, c) or (n, c, h, w)
        Such that it is `fit`.
    epsilon : float

    Returns
    -------
    mean, inv_std : torch.Tensor, shape (c,), float32
    """
    channels = x.shape[1]
    rows = x.numel() // channels
    piece, pieces = pieces_of(rows, channels)
    means, squares = torch.empty(2, pieces, channels, device=x.device).unbind()
    mean, inv_std = torch.empty(2, channels, device=x.device).unbind()
    _statistics_of_pieces[(pieces, _columns(channels))](
        *(x, means, squares, rows, channels, piece), ROWS=ROWS, CHANNELS=CHANNELS, **OPTIONS, **_resident(x)
    )
    _statistics[(triton.cdiv(channels, PIECE_CHANNELS),)](
        *(means, squares, mean, inv_std, rows, channels, piece, pieces, epsilon),
        PIECES=PIECES,
        CHANNELS=PIECE_CHANNELS,
        **OPTIONS,
    )
    return mean, inv_std


def apply(
    x: torch.Tensor,
    gamma: torch.Tensor | None,
    beta: torch.Tensor,
    mean: torch.Tensor | None = None,
    inv_std: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    projection: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    rectify: bool = False,
    bits: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise by given statistics, add the residual, rectify.

    Parameters
    ----------
    x, residual : torch.Tensor, shape (n, c) or (n, c, h, w)
        Such that they are `fit`.
    gamma, beta, mean, inv_std : torch.Tensor, shape (c,), float32
        Without gamma, mean and inv_std beta is added to what `x` is.
    projection : tuple of torch.Tensor, optional
        If the residual is to be normalised before it is added: its gamma, beta, mean, inv_std.
    rectify : bool
    bits : torch.Tensor, shape as `bits_shape` says, uint8, optional
        Where to write for each element whether the rectifier lets its gradient pass.
    out : torch.Tensor, optional
        Where to write; may be the residual.

    Returns
    -------
    torch.Tensor
    """
    y = torch.empty_like(x) if out is None else out
    channels = x.shape[1]
    rows = x.numel() // channels
    _apply[(triton.cdiv(rows, PASS_ROWS), _columns(channels))](
        *(x, gamma, beta, mean, inv_std, residual, *(projection or (None,) * 4), y, bits),
        *(rows, channels, PASS_ROWS),
        RECTIFY=rectify,
        ROWS=ROWS,
        CHANNELS=CHANNELS,
        BYTES=BYTES,
        **OPTIONS,
    )
    return y


def forward(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    residual: torch.Tensor | None = None,
    *,
    epsilon: float,
    rectify: bool = False,
    overwrite: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise by the statistics of the batch, add the residual, rectify: as `rows.forward`.

    Parameters
    ----------
    x, residual : torch.Tensor, shape (n, c) or (n, c, h, w)
        Such that they are `fit`.
    gamma, beta : torch.Tensor, shape (c,), float32
    epsilon : float
    rectify : bool
    overwrite : bool
        Write y over the residual.

    Returns
    -------
    y, mean, inv_std : torch.Tensor
        As :func:`theanompi.device.ops.batch_norm`.
    """
    mean, inv_std = statistics(x, epsilon)
    own = residual is not None and overwrite and residual.dtype == x.dtype
    gamma, beta = gamma.contiguous(), beta.contiguous()
    y = apply(x, gamma, beta, mean, inv_std, residual, rectify=rectify, out=residual if own else None)
    return y, mean, inv_std


def block_end(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    residual: torch.Tensor,
    *projection: torch.Tensor,
    epsilon: float,
    epsilon2: float,
    keep: bool,
    overwrite: bool = False,
) -> tuple[torch.Tensor | None, ...]:
    """Normalise by the statistics of the batch, add the residual or what is its normalisation, rectify.

    Parameters
    ----------
    x, residual : torch.Tensor, shape (n, c) or (n, c, h, w), float32 or bfloat16
        In any layout, best in rows of channels.
    gamma, beta : torch.Tensor, shape (c,), float32
    *projection : torch.Tensor, shape (c,), float32
        If the residual is to be normalised: its gamma and beta.
    epsilon, epsilon2 : float
        Of `x` and of the residual.
    keep : bool
        Whether the last result is wanted.
    overwrite : bool
        Whether the memory of the residual may be taken.

    Returns
    -------
    y, mean, inv_std : torch.Tensor
    mean2, inv_std2 : torch.Tensor
        Of a residual that is normalised.
    bits : torch.Tensor or None
        As `apply` writes them.
    """
    x, residual = in_rows(x), in_rows(residual)
    of_x = statistics(x, epsilon)
    of_residual = statistics(residual, epsilon2) if projection else ()
    bits = torch.empty(bits_shape(x.shape), dtype=torch.uint8, device=x.device) if keep else None
    second = (*(v.contiguous() for v in projection), *of_residual)
    own = overwrite and residual.dtype == x.dtype
    y = apply(
        *(x, gamma.contiguous(), beta.contiguous(), *of_x, residual),
        projection=second or None,
        rectify=True,
        bits=bits,
        out=residual if own else None,
    )
    return (y, *of_x, *of_residual, bits)


def sums(
    gy: torch.Tensor,
    x: torch.Tensor | None = None,
    gamma: torch.Tensor | None = None,
    mean: torch.Tensor | None = None,
    inv_std: torch.Tensor | None = None,
    *,
    gy2: torch.Tensor | None = None,
    y: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    bits: torch.Tensor | None = None,
    projection: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    g: torch.Tensor | None = None,
) -> torch.Tensor:
    """The first pass of the gradient: sums over all rows, and the cotangent of what was rectified.

    Parameters
    ----------
    gy, gy2, x, y, g : torch.Tensor, shape (n, c) or (n, c, h, w)
        Such that they are `fit`. The cotangent, or two whose sum it is; the input; if there was a rectifier its output;
        where to write its cotangent, which may be `gy`.
    gamma, mean, inv_std, beta : torch.Tensor, shape (c,), float32
        With `beta` the rectifier's output is computed from `x` again and not read. Without `x`, gamma, mean and inv_std
        what was rectified was no normalisation.
    bits : torch.Tensor, optional
        What `apply` has written, in the place of the rectifier's output.
    projection : tuple of torch.Tensor, optional
        Of a residual that was normalised: it, its mean and its inv_std.

    Returns
    -------
    torch.Tensor, shape (1, c), (2, c) or (3, c)
        The gradients of beta, with `x` of gamma, and of the projection's gamma.
    """
    channels = gy.shape[1]
    rows = gy.numel() // channels
    piece, pieces = pieces_of(rows, channels)
    n_sums = 1 if x is None else 2 if projection is None else 3
    partial = torch.empty(n_sums, pieces, channels, device=gy.device)
    _sums_of_pieces[(pieces, _columns(channels))](
        *(gy, gy2, y, bits, x, gamma, beta, mean, inv_std, *(projection or (None,) * 3), g, partial),
        *(rows, channels, piece, pieces),
        ROWS=ROWS,
        CHANNELS=CHANNELS,
        BYTES=BYTES,
        **OPTIONS,
        **_resident(gy),
    )
    return sums_of(partial)


def gradient(
    gy: torch.Tensor,
    x: torch.Tensor,
    gamma: torch.Tensor,
    mean: torch.Tensor,
    inv_std: torch.Tensor,
    g_beta: torch.Tensor,
    g_gamma: torch.Tensor,
    *,
    gy2: torch.Tensor | None = None,
    y: torch.Tensor | None = None,
    beta: torch.Tensor | None = None,
    bits: torch.Tensor | None = None,
    projection: tuple[torch.Tensor, ...] | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The second pass: the gradient with respect to the input.

    Parameters
    ----------
    gy, x, gamma, mean, inv_std, gy2, y, beta, bits : torch.Tensor
        As in `sums`.
    g_beta, g_gamma : torch.Tensor, shape (c,), float32
        What that gave.
    projection : tuple of torch.Tensor, optional
        Of a residual that was normalised: it, its gamma, mean, inv_std, what `sums` gave for its gamma, and where to
        write the gradient with respect to it.
    out : torch.Tensor, optional
        Where to write; may be `gy`.

    Returns
    -------
    torch.Tensor
    """
    gx = torch.empty_like(x) if out is None else out
    channels = x.shape[1]
    rows = x.numel() // channels
    _gradient[(triton.cdiv(rows, PASS_ROWS), _columns(channels))](
        *(gy, gy2, y, bits, x, gamma, beta, mean, inv_std, g_beta, g_gamma, gx),
        *(projection or (None,) * 6),
        *(rows, channels, PASS_ROWS),
        ROWS=ROWS,
        CHANNELS=CHANNELS,
        BYTES=BYTES,
        **OPTIONS,
    )
    return gx


def backward(
    gy: torch.Tensor,
    x: torch.Tensor,
    gamma: torch.Tensor,
    mean: torch.Tensor,
    inv_std: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    beta: torch.Tensor | None = None,
    bits: torch.Tensor | None = None,
    gy2: torch.Tensor | None = None,
    projection: tuple[torch.Tensor, ...] | None = None,
    keep: bool = False,
    overwrite: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Gradients of what `forward` or `block_end` computes: as `rows.backward`.

    Parameters
    ----------
    gy, gy2 : torch.Tensor, shape (n, c) or (n, c, h, w), float32 or bfloat16
        The cotangent, or two whose sum it is, in any layout.
    x, y : torch.Tensor, as `gy`
        What went in and, if that was rectified, what came out.
    gamma, mean, inv_std, beta : torch.Tensor, shape (c,), float32
        With `beta` in the place of `y` what came out is computed again: where nothing was added before the rectifier.
    bits : torch.Tensor, optional
        In the place of `y`: what `block_end` gave.
    projection : tuple of torch.Tensor, optional
        If the residual was normalised, and its gradients are wanted: it, its gamma, mean and inv_std.
    keep : bool
        Whether the last result is wanted.
    overwrite : bool
        Whether the memory of `gy` may be taken.

    Returns
    -------
    gx, g_gamma, g_beta : torch.Tensor
        With respect to input, gamma and beta.
    g : torch.Tensor
        With `y`, `beta` or `bits`: with respect to what was rectified. Without meaning unless kept.
    gx2, g_gamma2 : torch.Tensor
        With `projection`, in the place of `g`: with respect to the residual and its gamma. Its beta's is `g_beta`.
    """
    if gy.dtype != x.dtype or not gy.is_contiguous(memory_format=layout(x.ndim)):
        gy, overwrite = gy.to(x.dtype, memory_format=layout(x.ndim), copy=True), True
    x, gamma, mean, inv_std = in_rows(x), gamma.contiguous(), mean.contiguous(), inv_std.contiguous()
    given = x, gamma, mean, inv_std
    masks: dict[str, Any] = {
        "y": None if y is None else in_rows(y),
        "beta": None if beta is None else beta.contiguous(),
        "bits": bits,
        "gy2": None if gy2 is None else in_rows(gy2),
    }
    own = gy if overwrite else None
    if projection is not None:
        x2, gamma2, mean2, inv_std2 = (in_rows(projection[0]), *(v.contiguous() for v in projection[1:]))
        g_beta, g_gamma, g_gamma2 = sums(gy, *given, **masks, projection=(x2, mean2, inv_std2)).unbind()
        gx2 = torch.empty_like(x2)
        second = (x2, gamma2, mean2, inv_std2, g_gamma2, gx2)
        gx = gradient(gy, *given, g_beta, g_gamma, **masks, projection=second, out=own)
        return gx, g_gamma, g_beta, gx2, g_gamma2
    if keep:
        g = torch.empty_like(x) if own is None else own
        g_beta, g_gamma = sums(gy, *given, **masks, g=g).unbind()
        return gradient(g, *given, g_beta, g_gamma), g_gamma, g_beta, g
    g_beta, g_gamma = sums(gy, *given, **masks).unbind()
    gx = gradient(gy, *given, g_beta, g_gamma, **masks, out=own)
    rectified = any(mask is not None for mask in (y, beta, bits))
    return (gx, g_gamma, g_beta, gy) if rectified else (gx, g_gamma, g_beta)


def biased(x: torch.Tensor, bias: torch.Tensor, *, overwrite: bool = False) -> torch.Tensor:
    """Add a bias to each channel and rectify.

    Parameters
    ----------
    x : torch.Tensor, shape (n, c) or (n, c, h, w), float32 or bfloat16
        In any layout, best in rows of channels.
    bias : torch.Tensor, shape (c,), float32
    overwrite : bool
        Whether the memory of `x` may be taken.

    Returns
    -------
    torch.Tensor
    """
    x = in_rows(x)
    return apply(x, None, bias.contiguous(), rectify=True, out=x if overwrite else None)


def biased_backward(
    gy: torch.Tensor, y: torch.Tensor, *, overwrite: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of what `biased` computes.

    Parameters
    ----------
    gy, y : torch.Tensor, shape (n, c) or (n, c, h, w), float32 or bfloat16
        The cotangent, and what came out, in any layout.
    overwrite : bool
        Whether the memory of `gy` may be taken.

    Returns
    -------
    g, g_bias : torch.Tensor
        With respect to input and bias.
    """
    y = in_rows(y)
    if gy.dtype != y.dtype or not gy.is_contiguous(memory_format=layout(y.ndim)):
        gy, overwrite = gy.to(y.dtype, memory_format=layout(y.ndim), copy=True), True
    g = gy if overwrite else torch.empty_like(y)
    return g, sums(gy, y=y, g=g)[0]
