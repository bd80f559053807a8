"""Ops that make tensors, give them another shape, and multiply matrices."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytensor.compile.ops import DeepCopyOp, TypeCastingOp
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.op import Op
from pytensor.printing import Print
from pytensor.tensor.basic import (
    Alloc,
    AllocEmpty,
    ARange,
    Choose,
    ExtractDiag,
    Eye,
    Join,
    MakeVector,
    PermuteRowElements,
    ScalarFromTensor,
    Split,
    TensorFromScalar,
)
from pytensor.tensor.blas import BatchedDot
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.extra_ops import CpuContiguous, Repeat
from pytensor.tensor.math import Dot
from pytensor.tensor.reshape import JoinDims, SplitDims
from pytensor.tensor.shape import Reshape, Shape, Shape_i, SpecifyShape
from pytensor.tensor.type import TensorType

from theanompi.device.dispatch.base import batched_function, torch_function
from theanompi.device.elemwise import elemwise_function
from theanompi.device.ops.base import Context, TorchOp, matrix_product, numbers_of, placed
from theanompi.device.scalars import COMPUTED, signed, torch_dtype
from theanompi.device.unsupported import Unsupported
from theanompi.device.versions import axis_and_rest


@torch_function.register(TorchOp)
def _torch_op(op: TorchOp, node: Apply, context: Context) -> Callable[..., Any]:
    return op.function(node, context)


@torch_function.register(Elemwise)
def _elemwise(op: Elemwise, node: Apply, context: Context) -> Callable[..., Any]:
    return elemwise_function(node, context)


@batched_function.register(Dot)
@torch_function.register(Dot)
@torch_function.register(BatchedDot)
def _dot(op: Op, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(node.outputs[0].type.dtype)
    if dtype == torch.bool or dtype in COMPUTED:
        # Sums of ands, and integers whose low bits are the same.
        wide = torch.int64

        def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.matmul(x.to(wide), y.to(wide)).to(dtype)

    elif any(v.type.dtype != node.outputs[0].type.dtype for v in node.inputs):

        def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.matmul(*context.compute(x.to(dtype), y.to(dtype)))

    elif context.precision == "bf16":

        def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.matmul(*context.compute(x, y))

    elif isinstance(op, BatchedDot):
        # Not matmul, which would broadcast one matrix to many.
        return torch.bmm
    else:
        return matrix_product
    return (lambda x, y, into: into.copy_(product(x, y))) if context.into else product


@torch_function.register(DimShuffle)
def _dim_shuffle(op: DimShuffle, node: Apply, context: Context) -> Callable[..., Any]:
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
def _reshape(op: Reshape, node: Apply, context: Context) -> Callable[..., Any]:
    numbers = numbers_of(node.inputs[1])
    return lambda x, lengths: x.reshape(numbers(lengths))


@torch_function.register(ExtractDiag)
def _extract_diag(op: ExtractDiag, node: Apply, context: Context) -> Callable[..., Any]:
    return lambda x: torch.diagonal(x, op.offset, op.axis1, op.axis2)


@torch_function.register(Alloc)
def _alloc(op: Alloc, node: Apply, context: Context) -> Callable[..., Any]:
    may_broadcast = None in node.inputs[0].type.shape

    def alloc(value: torch.Tensor, *shape: torch.Tensor) -> torch.Tensor:
        lengths = [int(length) for length in shape]
        if may_broadcast:
            Alloc._check_runtime_broadcast(node, value, lengths)
        if min(lengths, default=0) < 0:
            # Torch takes -1 for the length that is there.
            raise ValueError(f"Alloc: negative dimensions are not allowed, got {tuple(lengths)}")
        # A clone in the contiguous layout: callers may write into it.
        return (
            placed(value, context.device).broadcast_to(lengths).clone(memory_format=torch.contiguous_format)
        )

    return alloc


@torch_function.register(AllocEmpty)
def _alloc_empty(op: AllocEmpty, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(op.dtype)
    return lambda *shape: torch.empty([int(length) for length in shape], dtype=dtype, device=context.device)


@torch_function.register(ARange)
def _a_range(op: ARange, node: Apply, context: Context) -> Callable[..., Any]:
    def arange(*bounds: Any) -> torch.Tensor:
        # NumPy's own: of a range of floats torch has other lengths and roundings.
        return torch.from_numpy(np.arange(*(b.item() for b in bounds), dtype=op.dtype)).to(context.device)

    if all(isinstance(v, Constant) for v in node.inputs):
        fixed = arange(*(v.data for v in node.inputs))
        return lambda *_: fixed
    return arange


@torch_function.register(MakeVector)
def _make_vector(op: MakeVector, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(op.dtype)
    if not node.inputs:
        return lambda: torch.empty(0, dtype=dtype, device=context.device)
    alike = all(v.type.dtype == op.dtype for v in node.inputs) and context.precision != "bf16"
    if alike and context.device.type == "cpu":
        return lambda *elements: torch.stack(elements)
    return lambda *elements: torch.stack(
        [placed(torch.as_tensor(e), context.device).to(dtype) for e in elements]
    )


@torch_function.register(Eye)
def _eye(op: Eye, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(op.dtype)

    def eye(n: torch.Tensor, m: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        result = torch.zeros(int(n), int(m), dtype=dtype, device=context.device)
        result.diagonal(int(offset)).fill_(1)
        return result

    return eye


@torch_function.register(ScalarFromTensor)
@torch_function.register(TensorFromScalar)
def _scalar_from_tensor(op: Op, node: Apply, context: Context) -> Callable[..., Any]:
    """Scalars are tensors without axes."""
    return torch.as_tensor


@torch_function.register(TypeCastingOp)
def _type_casting_op(op: Op, node: Apply, context: Context) -> Callable[..., Any]:
    """What means something to gradients and rewrites only."""
    return lambda x: x


@torch_function.register(DeepCopyOp)
def _deep_copy_op(op: DeepCopyOp, node: Apply, context: Context) -> Callable[..., Any]:
    # Generators of random numbers are no tensors.
    return torch.clone if isinstance(node.inputs[0].type, TensorType) else copy.deepcopy


@torch_function.register(CpuContiguous)
def _cpu_contiguous(op: CpuContiguous, node: Apply, context: Context) -> Callable[..., Any]:
    return lambda x: x.contiguous()


@torch_function.register(Print)
def _print(op: Print, node: Apply, context: Context) -> Callable[..., Any]:
    def show(x: torch.Tensor) -> torch.Tensor:
        op.global_fn(op, x.cpu().numpy())
        return x

    return show


@torch_function.register(Shape)
def _shape(op: Shape, node: Apply, context: Context) -> Callable[..., Any]:
    return lambda x: torch.tensor(x.shape, dtype=torch.int64, device=context.device)


@torch_function.register(Shape_i)
def _shape_i(op: Shape_i, node: Apply, context: Context) -> Callable[..., Any]:
    return lambda x: torch.tensor(x.shape[op.i])


@torch_function.register(SpecifyShape)
def _specify_shape(op: SpecifyShape, node: Apply, context: Context) -> Callable[..., Any]:
    def specify_shape(x: torch.Tensor, *lengths: Any) -> torch.Tensor:
        expected = [None if length is None else int(length) for length in lengths]
        if any(length not in (None, got) for length, got in zip(expected, x.shape, strict=True)):
            raise AssertionError(f"SpecifyShape: Got shape {tuple(x.shape)}, expected {tuple(expected)}.")
        return x

    return specify_shape


@torch_function.register(JoinDims)
def _join_dims(op: JoinDims, node: Apply, context: Context) -> Callable[..., Any]:
    start, end = op.start_axis, op.start_axis + op.n_axes
    return lambda x: x.reshape([*x.shape[:start], math.prod(x.shape[start:end]), *x.shape[end:]])


@torch_function.register(SplitDims)
def _split_dims(op: SplitDims, node: Apply, context: Context) -> Callable[..., Any]:
    numbers = numbers_of(node.inputs[1])
    return lambda x, lengths: x.reshape([*x.shape[: op.axis], *numbers(lengths), *x.shape[op.axis + 1 :]])


@torch_function.register(Join)
def _join(op: Join, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(node.outputs[0].type.dtype)
    fixed, tensors = axis_and_rest(op, node, 0)
    first = len(node.inputs) - len(tensors)
    same = all(v.type.dtype == node.outputs[0].type.dtype for v in tensors)

    def join(*operands: torch.Tensor) -> torch.Tensor:
        axis = int(operands[0]) if fixed is None else fixed
        return torch.cat([x.to(dtype) for x in operands[first:]], dim=axis)

    if fixed is None or not same:
        return join
    return lambda *operands: torch.cat(operands[first:], dim=fixed)


@torch_function.register(Split)
def _split(op: Split, node: Apply, context: Context) -> Callable[..., Any]:
    def parts(x: torch.Tensor, axis: int, lengths: list[int]) -> Any:
        whole = x.shape[axis]
        if len(lengths) != op.len_splits or sum(lengths) != whole or min(lengths) < 0:
            raise ValueError(
                f"Split: expected {op.len_splits} lengths that sum to {whole}, got {lengths} of axis {axis}"
            )
        found = x.split_with_sizes(lengths, dim=axis)
        return found if op.len_splits > 1 else found[0]

    axis, (_, sizes) = axis_and_rest(op, node, 1)
    numbers = numbers_of(sizes)
    if axis is not None:
        return lambda x, *rest: parts(x, axis, numbers(rest[-1]))
    return lambda x, axis, sizes: parts(x, int(axis), numbers(sizes))


@torch_function.register(Repeat)
def _repeat(op: Repeat, node: Apply, context: Context) -> Callable[..., Any]:
    constant = node.inputs[1].data if isinstance(node.inputs[1], Constant) else None

    def repeat(x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
        n = x.shape[op.axis]
        repeats = placed(repeats, x.device).to(torch.int64).expand(n)
        # Else the device is asked for the sum.
        total = None if constant is None else int(np.broadcast_to(constant, n).sum())
        rows = torch.arange(n, device=x.device).repeat_interleave(repeats, output_size=total)
        return torch.ops.aten.index.Tensor(x, [*(None,) * op.axis, rows])

    return repeat


@torch_function.register(PermuteRowElements)
def _permute_row_elements(op: PermuteRowElements, node: Apply, context: Context) -> Callable[..., Any]:
    def permute(x: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        shape = torch.broadcast_shapes(x.shape, permutation.shape)
        x, positions = x.expand(shape), permutation.to(torch.int64).expand(shape) % max(shape[-1], 1)
        # What is put at the places of a permutation is taken from those of its inverse.
        return signed(x).gather(-1, positions.argsort(-1) if op.inverse else positions).view(x.dtype)

    return permute


@torch_function.register(Choose)
def _choose(op: Choose, node: Apply, context: Context) -> Callable[..., Any]:
    if not isinstance(node.inputs[1].type, TensorType):
        raise Unsupported(f"{op} of a list", "choices of one shape, as one tensor, are")

    def choose(positions: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
        positions, count = positions.to(torch.int64), len(choices)
        if op.mode == "wrap":
            positions = positions % count
        elif op.mode == "clip":
            positions = positions.clamp(0, count - 1)
        elif ((positions < 0) | (positions >= count)).any():
            raise ValueError("invalid entry in choice array")
        positions, *values = torch.broadcast_tensors(positions, *choices)
        return torch.stack(values).gather(0, positions[None])[0]

    return choose
