"""Fourier transforms and convolutions of signals."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from pytensor.graph.basic import Apply
from pytensor.tensor.fft import IRFFTOp, RFFTOp
from pytensor.tensor.signal.conv import Convolve1d, Convolve2d

from theanompi.device.dispatch.base import torch_function
from theanompi.device.ops.base import Context, numbers_of
from theanompi.device.scalars import COMPUTED, torch_dtype
from theanompi.device.unsupported import Unsupported


@torch_function.register(RFFTOp)
@torch_function.register(IRFFTOp)
def _rfft_op(op: RFFTOp | IRFFTOp, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = node.inputs[0].type.dtype
    if dtype not in ("float32", "float64"):
        raise Unsupported(str(op), f"of {dtype}; cast to float64")

    numbers = numbers_of(node.inputs[1])

    def rfft(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.fft.rfftn(x, numbers(lengths)))

    def irfft(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        # PyTensor's re + 1j · im makes NaN of both where the imaginary part is no number.
        real, imaginary = x[..., 0] + 0 * x[..., 1], x[..., 1].contiguous()
        return torch.fft.irfftn(torch.complex(real, imaginary), numbers(lengths), norm="forward")

    return rfft if isinstance(op, RFFTOp) else irfft


@torch_function.register(Convolve1d)
@torch_function.register(Convolve2d)
def _convolve1d(op: Convolve1d | Convolve2d, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(node.outputs[0].type.dtype)
    computed = dtype if dtype == torch.bool else COMPUTED.get(dtype, dtype)

    def convolve(x: torch.Tensor, kernel: torch.Tensor, full_mode: Any) -> torch.Tensor:
        if 0 in (*x.shape, *kernel.shape):
            raise ValueError(
                f"{op}: expected signals with elements, got {tuple(x.shape)}, {tuple(kernel.shape)}"
            )
        if kernel.numel() > x.numel():
            x, kernel = kernel, x
        x, kernel = x.to(computed), kernel.to(computed)
        lengths = list(zip(x.shape, kernel.shape, strict=True))
        full = torch.zeros([n + k - 1 for n, k in lengths], dtype=computed, device=x.device)
        if isinstance(op, Convolve2d):
            # SciPy's has zeros around the signal, of which an infinite kernel makes NaN; NumPy's has nothing there.
            x = torch.nn.functional.pad(x, [k - 1 for _, k in reversed(lengths) for _ in range(2)])
        for position in itertools.product(*(range(k) for k in kernel.shape)):
            shifts = zip(position, lengths, strict=True)
            if isinstance(op, Convolve2d):
                part, seen = full, x[tuple(slice(k - 1 - i, n + 2 * (k - 1) - i) for i, (n, k) in shifts)]
            else:
                part, seen = full[tuple(slice(i, i + n) for i, (n, _) in shifts)], x
            if computed == torch.bool:
                part |= seen & kernel[position]
            else:
                part += seen * kernel[position]
        if bool(full_mode):
            return full.to(dtype)
        if not all(n >= k for n, k in lengths) and not all(n <= k for n, k in lengths):
            raise ValueError(
                "For 'valid' mode, one must be at least as large as the other in every dimension"
            )
        return full[tuple(slice(min(n, k) - 1, max(n, k)) for n, k in lengths)].to(dtype)

    return convolve
