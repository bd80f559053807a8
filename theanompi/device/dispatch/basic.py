"""Ops that make tensors, give them another shape, and multiply matrices."""

from collections.abc import Callable
from typing import Any

import torch
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.op import Op
from pytensor.tensor.basic import Alloc, AllocEmpty, ARange, ExtractDiag, MakeVector
from pytensor.tensor.blas import BatchedDot
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Dot
from pytensor.tensor.shape import Reshape

from theanompi.device.dispatch.base import torch_function
from theanompi.device.elemwise import elemwise_function, torch_dtype
from theanompi.device.ops.base import Context, TorchOp


@torch_function.register(TorchOp)
def _(op: TorchOp, node: Apply, context: Context) -> Callable[..., Any]:
    return op.function(node, context)


@torch_function.register(Elemwise)
def _(op: Elemwise, node: Apply, context: Context) -> Callable[..., Any]:
    return elemwise_function(node, context)


@torch_function.register(Dot)
@torch_function.register(BatchedDot)
def _(op: Op, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(node.outputs[0].type.dtype)
    if any(v.type.dtype != node.outputs[0].type.dtype for v in node.inputs):

        def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.matmul(*context.compute(x.to(dtype), y.to(dtype)))

    elif context.precision == "bf16":

        def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.matmul(*context.compute(x, y))

    elif context.into:
        return lambda x, y, into: torch.matmul(x, y, out=into)
    else:
        return torch.matmul
    return (lambda x, y, into: into.copy_(product(x, y))) if context.into else product


@torch_function.register(DimShuffle)
def _(op: DimShuffle, node: Apply, context: Context) -> Callable[..., Any]:
    order, added, dropped = op.shuffle, op.augment, op.drop
    kept = sorted(order)
    permutation = [kept.index(axis) for axis in order]
    identity = permutation == list(range(len(permutation)))

    def dimshuffle(x: torch.Tensor) -> torch.Tensor:
        if dropped:
            if any(x.shape[axis] != 1 for axis in dropped):
                raise ValueError(
                    f"{op}: dropped axes {dropped}: expected length 1, got an input of shape {tuple(x.shape)}"
                )
            x = x.squeeze(tuple(dropped))
        if not identity:
            x = x.permute(permutation)
        for axis in added:
            x = x.unsqueeze(axis)
        return x

    return dimshuffle


@torch_function.register(Reshape)
def _(op: Reshape, node: Apply, context: Context) -> Callable[..., Any]:
    shape = node.inputs[1]
    if isinstance(shape, Constant):
        lengths = tuple(int(length) for length in shape.data)
        return lambda x, _: x.reshape(lengths)
    return lambda x, lengths: x.reshape(lengths.tolist())


@torch_function.register(ExtractDiag)
def _(op: ExtractDiag, node: Apply, context: Context) -> Callable[..., Any]:
    return lambda x: torch.diagonal(x, op.offset, op.axis1, op.axis2)


@torch_function.register(Alloc)
def _(op: Alloc, node: Apply, context: Context) -> Callable[..., Any]:
    def alloc(value: torch.Tensor, *shape: torch.Tensor) -> torch.Tensor:
        # A clone in the contiguous layout: callers may write into it.
        return value.broadcast_to([int(length) for length in shape]).clone(
            memory_format=torch.contiguous_format
        )

    return alloc


@torch_function.register(AllocEmpty)
def _(op: AllocEmpty, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(op.dtype)
    return lambda *shape: torch.empty([int(length) for length in shape], dtype=dtype, device=context.device)


@torch_function.register(ARange)
def _(op: ARange, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(op.dtype)
    return lambda *bounds: torch.arange(*(b.item() for b in bounds), dtype=dtype, device=context.device)


@torch_function.register(MakeVector)
def _(op: MakeVector, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(op.dtype)
    return lambda *elements: torch.stack(
        [torch.as_tensor(e, device=context.device).to(dtype) for e in elements]
    )
