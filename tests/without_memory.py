"""A GPU without a GPU: graphs run on tensors of torch's device "meta", which have shapes and no elements."""

from typing import Any

import pytensor
import torch
from torch.overrides import TorchFunctionMode

from theanompi.device.linker import TorchLinker, _mode


class GpuWithoutMemory(TorchFunctionMode):
    """Tensors of torch's device "meta", which have no elements, do as a GPU's would.

    They take part with numbers that lie on the CPU, but not with other tensors there, unless these are copied as they
    are. Convolutions keep the layout of images, and who copies to the CPU gets zeros.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.cpu:
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        tensors = [x for x in [*args, *(kwargs or {}).values()] if isinstance(x, torch.Tensor)]
        if any(x.is_meta for x in tensors):
            copied = function is torch.Tensor.copy_ and 0 not in tensors[-1].stride()
            if any(x.is_cpu and x.ndim for x in tensors) and not copied:
                raise RuntimeError(f"{function.__name__}: operands on the CPU and on the device")
            args = [x.to("meta") if isinstance(x, torch.Tensor) and x.is_cpu else x for x in args]
        result = function(*args, **kwargs or {})
        if function is torch.conv2d:
            return result.contiguous(memory_format=torch.channels_last)
        if function is torch.ops.aten.convolution_backward.default:
            gx, *rest = result
            return gx if gx is None else gx.contiguous(memory_format=torch.channels_last), *rest
        return result


class Recorded(GpuWithoutMemory):
    """As while a CUDA graph is recorded: who waits for the device fails.

    Elements that are asked for, whose tensors have none, fail by themselves. Copies from the host, of numbers too, are
    made to.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [x for x in [*args, *(kwargs or {}).values()] if isinstance(x, torch.Tensor)]
        on_device = any(x.is_meta for x in tensors)
        if function is torch.Tensor.cpu and on_device:
            raise RuntimeError("cpu: waits for the device")
        result = super().__torch_function__(function, types, args, kwargs)
        made = (
            function in (torch.as_tensor, torch.tensor, torch.Tensor.to, torch.from_numpy) and not on_device
        )
        # torch.where copies a number that lies on the CPU; arithmetic takes it along.
        mixed = function in (torch.Tensor.copy_, torch.where) and on_device
        if (made and result.is_meta) or (mixed and any(x.is_cpu for x in tensors)):
            raise RuntimeError(f"{function.__name__}: waits for a copy from the host")
        return result


def compiled(inputs: Any, outputs: Any, *, precision: str = "float32", **settings: Any) -> Any:
    """A graph compiled for such a GPU; results are tensors."""
    linker = TorchLinker(
        torch.device("meta"), precision, return_internal_type=True, written=None, capture=False
    )
    return pytensor.function(inputs, outputs, mode=_mode(linker), **settings)
