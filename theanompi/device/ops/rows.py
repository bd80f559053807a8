"""Batch normalisation with residual sum and rectifier, and its gradient, in few passes over memory.

Torch on the CPU reads the input twice for its statistics and once more to normalise it; sum and rectifier are
passes of their own, and so is the rectifier's gradient. In ``rows.c`` the statistics take one pass and all that
follows them one more, and backward takes two. Rows are pixels: images are read in their channels-last layout.
"""

import ctypes
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch

from theanompi.device import native

LEAST_COLUMNS = 16
"""With fewer the vector registers stay half empty: of fewer channels several pixels are a row."""

BLOCK = 1 << 16
"""About how many elements a thread takes at once: 256 KiB."""


@cache
def _library() -> Any:
    """The compiled functions, or None."""
    library = native.library(Path(__file__).with_suffix(".c"), native.compile_folder()[0])
    if library is not None:
        address, length = ctypes.c_void_p, ctypes.c_ssize_t
        common: list[Any] = [address, ctypes.c_uint, length, length, length, length]
        library.batch_norm.argtypes = [*common, length, ctypes.c_double, *[address] * 8]
        library.batch_norm_gradient.argtypes = [*common, *[address] * 11]
        library.batch_norm.restype = library.batch_norm_gradient.restype = None
    return library


def compiled() -> bool:
    """Whether there is C to run: a compiler was found when it was first needed."""
    return _library() is not None


def layout(ndim: int) -> torch.memory_format:
    """The layout of rows of channels."""
    return torch.channels_last if ndim == 4 else torch.contiguous_format


def _fold(channels: int) -> int:
    """How many pixels are a row."""
    return 1 << max(0, math.ceil(math.log2(LEAST_COLUMNS / channels)))


def fit(*tensors: torch.Tensor) -> bool:
    """Whether the functions below can read these: float32 on the CPU, all of one shape, in rows of channels."""
    shape = tensors[0].shape
    return (
        shape.numel() > 0
        and shape.numel() % (shape[1] * _fold(shape[1])) == 0
        and all(
            t.device.type == "cpu"
            and t.dtype == torch.float32
            and t.shape == shape
            and t.is_contiguous(memory_format=layout(len(shape)))
            for t in tensors
        )
        and compiled()
        and (bool(native.openmp().parallel) or torch.get_num_threads() == 1)
    )


def _work(x: torch.Tensor) -> tuple[list[Any], torch.Tensor]:
    """The arguments that say who works on how much, and memory to work in."""
    fold = _fold(x.shape[1])
    columns = x.shape[1] * fold
    rows = x.numel() // columns
    block = max(16, BLOCK // columns)
    blocks = -(-rows // block)
    threads = min(torch.get_num_threads(), blocks)
    scratch = torch.empty(9 + 3 * blocks, columns)
    return [ctypes.byref(native.openmp()), threads, rows, columns, fold, block], scratch


def _addresses(*tensors: torch.Tensor | None) -> list[int | None]:
    return [None if t is None else t.data_ptr() for t in tensors]


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
    """Normalise, add the residual, rectify.

    Parameters
    ----------
    x, residual : torch.Tensor, shape (n, c) or (n, c, h, w)
        Such that they `fit`.
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
    work, scratch = _work(x)
    gamma, beta = gamma.contiguous(), beta.contiguous()
    mean, inv_std = torch.empty(2, x.shape[1]).unbind()
    y = residual if residual is not None and overwrite else torch.empty_like(x)
    addresses = _addresses(x, gamma, beta, residual, y, mean, inv_std, scratch)
    _library().batch_norm(*work, rectify, epsilon, *addresses)
    return y, mean, inv_std


def backward(
    gy: torch.Tensor,
    x: torch.Tensor,
    gamma: torch.Tensor,
    mean: torch.Tensor,
    inv_std: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    keep: bool = False,
    overwrite: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Gradients of what `forward` computes.

    Parameters
    ----------
    gy : torch.Tensor, shape (n, c) or (n, c, h, w), float32
        The cotangent, in any layout.
    x, y : torch.Tensor, as `gy`
        What went into `forward` and, if that rectified, what came out; such that they `fit`.
    gamma, mean, inv_std : torch.Tensor, shape (c,), float32
    keep : bool
        Whether the last result is wanted.
    overwrite : bool
        Whether the memory of `gy` may be taken.

    Returns
    -------
    gx, g_gamma, g_beta : torch.Tensor
        With respect to input, gamma and beta.
    g : torch.Tensor
        With `y`: with respect to what was rectified. Without meaning unless kept.
    """
    if not fit(gy):
        gy, overwrite = gy.clone(memory_format=layout(gy.ndim)), True
    work, scratch = _work(x)
    gamma, mean, inv_std = gamma.contiguous(), mean.contiguous(), inv_std.contiguous()
    g_gamma, g_beta = torch.empty(2, x.shape[1]).unbind()
    g = gy if overwrite or y is None else torch.empty_like(x)
    gx = torch.empty_like(x) if keep or (y is None and not overwrite) else g
    addresses = _addresses(gy, y, x, gamma, mean, inv_std, g, gx, g_gamma, g_beta, scratch)
    _library().batch_norm_gradient(*work, *addresses)
    return (gx, g_gamma, g_beta) if y is None else (gx, g_gamma, g_beta, g)
