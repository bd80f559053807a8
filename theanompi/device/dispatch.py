"""How each PyTensor op runs on torch: ours first, PyTensor's own PyTorch dispatch for the rest."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from pytensor.compile.ops import DeepCopyOp
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.op import Op
from pytensor.link.pytorch.dispatch import pytorch_funcify
from pytensor.tensor.basic import Alloc, AllocEmpty, ARange, ExtractDiag, MakeVector
from pytensor.tensor.blas import BatchedDot
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.math import Argmax, Dot, Max, Min, Sum
from pytensor.tensor.shape import Reshape
from pytensor.tensor.special import LogSoftmax, Softmax
from pytensor.tensor.subtensor import Subtensor, indices_from_subtensor

from theanompi.device.elemwise import elemwise_function, torch_dtype
from theanompi.device.ops.base import Context, TorchOp

FRESH = (
    TorchOp,
    Elemwise,
    Sum,
    Max,
    Min,
    Argmax,
    Dot,
    BatchedDot,
    Softmax,
    LogSoftmax,
    DeepCopyOp,
    Alloc,
    AllocEmpty,
)
"""Ops whose results are new memory; of every other op the linker assumes that they may be views of inputs."""


def destinations(op: Op) -> tuple[int, ...]:
    """Which outputs of an op can be computed into a given tensor, so that no copy is needed.

    Examples
    --------
    >>> destinations(Dot()), destinations(DeepCopyOp())
    ((0,), ())
    """
    if isinstance(op, TorchOp):
        return op.destinations
    return (0,) if isinstance(op, Dot) else ()


@singledispatch
def torch_function(op: Op, node: Apply, context: Context) -> Callable[..., Any]:
    """The torch function that computes `node`.

    Parameters
    ----------
    op : Op
        ``node.op``; what is dispatched on.
    node : Apply
    context : Context

    Returns
    -------
    callable
        From the input tensors to the output tensor, or to a tuple of them.

    Raises
    ------
    NotImplementedError
        If neither we nor PyTensor's PyTorch backend know the op.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> node = pt.matrix("x", dtype="float32").T.owner
    >>> torch_function(node.op, node=node, context=Context())(torch.zeros(2, 3)).shape
    torch.Size([3, 2])
    """
    return pytorch_funcify(op, node=node)


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


@torch_function.register(Subtensor)
def _(op: Subtensor, node: Apply, context: Context) -> Callable[..., Any]:
    def subtensor(x: torch.Tensor, *numbers: Any) -> torch.Tensor:
        entries = list(indices_from_subtensor([int(n) for n in numbers], op.idx_list))
        for axis, entry in enumerate(entries):
            if isinstance(entry, slice) and entry.step is not None and entry.step < 0:
                # Torch has no negative strides.
                positions = list(range(*entry.indices(x.shape[axis])))
                x = x.index_select(axis, torch.tensor(positions, dtype=torch.int64, device=x.device))
                entries[axis] = slice(None)
        return x[tuple(entries)]

    numbers = node.inputs[1:]
    if all(isinstance(n, Constant) for n in numbers):
        fixed = [n.data for n in numbers]
        return lambda x, *_: subtensor(x, *fixed)
    return subtensor


@torch_function.register(ExtractDiag)
def _(op: ExtractDiag, node: Apply, context: Context) -> Callable[..., Any]:
    return lambda x: torch.diagonal(x, op.offset, op.axis1, op.axis2)


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


def constant_tensor(data: Any, device: torch.device) -> Any:
    """A constant's value for the generated code.

    Arrays become tensors on the device; numbers zero-dimensional tensors on the CPU, which torch combines
    with tensors anywhere; slices and other values stay as they are.

    Examples
    --------
    >>> constant_tensor(np.float32(2), torch.device("cpu")), constant_tensor(slice(3), torch.device("cpu"))
    (tensor(2.), slice(None, 3, None))
    """
    if not isinstance(data, np.ndarray | np.number | bool | int | float):
        return data
    tensor = torch.from_numpy(np.array(data))
    return tensor if tensor.ndim == 0 else tensor.to(device)
