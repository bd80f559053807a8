"""Ops that reduce, sort and search along axes."""

from collections.abc import Callable
from typing import Any

import torch
from pytensor.graph.basic import Apply
from pytensor.tensor.math import Argmax, Max, Min, Sum

from theanompi.device.dispatch.base import torch_function
from theanompi.device.elemwise import torch_dtype
from theanompi.device.ops.base import Context


@torch_function.register(Sum)
def _(op: Sum, node: Apply, context: Context) -> Callable[..., Any]:
    axes = tuple(range(node.inputs[0].ndim)) if op.axis is None else tuple(op.axis)
    # Floats keep the dtype that they have: bf16 activations sum to bf16, accumulated in float32 by torch.
    dtype = (
        None
        if node.inputs[0].type.dtype == node.outputs[0].type.dtype
        else torch_dtype(node.outputs[0].dtype)
    )
    if dtype == torch.uint64:
        # Torch does not add in uint64; int64 has the same bits.
        return lambda x: torch.sum(x, axes, dtype=torch.int64).to(dtype)
    return lambda x: torch.sum(x, axes, dtype=dtype)


@torch_function.register(Max)
@torch_function.register(Min)
def _(op: Max | Min, node: Apply, context: Context) -> Callable[..., Any]:
    axes = tuple(range(node.inputs[0].ndim)) if op.axis is None else tuple(op.axis)
    function = torch.amax if isinstance(op, Max) else torch.amin
    return lambda x: function(x, axes)


@torch_function.register(Argmax)
def _(op: Argmax, node: Apply, context: Context) -> Callable[..., Any]:
    ndim = node.inputs[0].ndim
    axes = tuple(range(ndim)) if op.axis is None else tuple(op.axis)
    rest = tuple(axis for axis in range(ndim) if axis not in axes)

    def argmax(x: torch.Tensor) -> torch.Tensor:
        x = x.permute(rest + axes)
        if x.dtype == torch.bool:
            x = x.to(torch.uint8)
        return x.reshape(*x.shape[: len(rest)], -1).argmax(-1)

    return argmax
