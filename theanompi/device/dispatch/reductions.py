"""Ops that reduce, sort and search along axes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.tensor import math as ptm
from pytensor.tensor.basic import Nonzero
from pytensor.tensor.extra_ops import (
    Bartlett,
    CumOp,
    FillDiagonal,
    FillDiagonalOffset,
    RavelMultiIndex,
    SearchsortedOp,
    Unique,
    UnravelIndex,
)
from pytensor.tensor.math import Argmax, Max, Min, Prod, ProdWithoutZeros, Sum
from pytensor.tensor.sort import ArgSortOp, SortOp
from pytensor.tensor.special import LogSoftmax, Softmax

from theanompi.device.dispatch.base import torch_function
from theanompi.device.ops.base import Context, numbers_of, placed
from theanompi.device.scalars import COMPUTED, ordered, torch_dtype, unordered
from theanompi.device.versions import axis_and_rest


def _reduced(op: Any, node: Apply) -> tuple[int, ...]:
    """The axes that an op goes along: all if it names none."""
    return tuple(range(node.inputs[0].type.ndim)) if op.axis is None else tuple(op.axis)


@torch_function.register(Sum)
def _sum(op: Sum, node: Apply, context: Context) -> Callable[..., Any]:
    axes = _reduced(op, node)
    source, target = node.inputs[0].type.dtype, node.outputs[0].type.dtype
    dtype = torch_dtype(target)
    if op.axis == ():
        # To torch no axes are all axes.
        return lambda x: x.to(dtype, copy=True)
    accumulated = torch_dtype(op.acc_dtype or target)
    if accumulated == torch.bool:
        return lambda x: torch.any(x.to(torch.bool), axes).to(dtype)
    if source == target and source.startswith("float"):
        # Floats keep the dtype that they have: bf16 activations sum to bf16, accumulated in float32 by torch.
        return lambda x: torch.sum(x, axes)
    if accumulated == dtype and not {accumulated, torch_dtype(source)} & (COMPUTED.keys() - {torch.bool}):
        return lambda x: torch.sum(x, axes, dtype=dtype)
    computed = COMPUTED.get(accumulated, accumulated)
    return lambda x: torch.sum(x.to(computed), axes, dtype=computed).to(accumulated).to(dtype)


def _flattened(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """The same elements with the axes as the last one, in their order."""
    rest = [axis for axis in range(x.ndim) if axis not in axes]
    x = x.permute([*rest, *axes])
    return x.reshape(*x.shape[: len(rest)], math.prod(x.shape[len(rest) :]))


@torch_function.register(Prod)
@torch_function.register(ProdWithoutZeros)
def _prod(op: Prod | ProdWithoutZeros, node: Apply, context: Context) -> Callable[..., Any]:
    axes = _reduced(op, node)
    dtype = torch_dtype(node.outputs[0].type.dtype)
    accumulated = torch_dtype(op.acc_dtype or node.outputs[0].type.dtype)
    computed = COMPUTED.get(accumulated, accumulated)
    if accumulated == torch.bool:
        return lambda x: torch.all(_flattened(x.to(torch.bool), axes), -1).to(dtype)

    def product(x: torch.Tensor) -> torch.Tensor:
        return torch.prod(_flattened(x, axes), -1, dtype=computed)

    def prod(x: torch.Tensor) -> torch.Tensor:
        return product(x.to(computed)).to(accumulated).to(dtype)

    def prod_without_zeros(x: torch.Tensor) -> torch.Tensor:
        """Of nothing but zeros it is 0."""
        zero = x == 0
        value = product(torch.where(zero, 1, x.to(computed)))
        return torch.where(_flattened(zero, axes).all(-1), 0, value).to(accumulated).to(dtype)

    return prod if isinstance(op, Prod) else prod_without_zeros


@torch_function.register(Max)
@torch_function.register(Min)
def _max(op: Max | Min, node: Apply, context: Context) -> Callable[..., Any]:
    axes = _reduced(op, node)
    function = torch.amax if isinstance(op, Max) else torch.amin
    dtype = torch_dtype(node.inputs[0].type.dtype)
    if op.axis == ():
        return torch.clone
    name = "maximum" if isinstance(op, Max) else "minimum"

    def extreme(x: torch.Tensor) -> torch.Tensor:
        try:
            return function(x, axes)
        except IndexError:
            raise ValueError(f"zero-size array to reduction operation {name} which has no identity") from None

    return (lambda x: unordered(extreme(ordered(x)), dtype)) if dtype in COMPUTED else extreme


@torch_function.register(ptm.All)
@torch_function.register(ptm.Any)
def _all(op: ptm.All | ptm.Any, node: Apply, context: Context) -> Callable[..., Any]:
    axes = _reduced(op, node)
    function = torch.all if isinstance(op, ptm.All) else torch.any
    return torch.clone if op.axis == () else lambda x: function(x, axes)


@torch_function.register(Argmax)
def _argmax(op: Argmax, node: Apply, context: Context) -> Callable[..., Any]:
    axes = _reduced(op, node)

    def argmax(x: torch.Tensor) -> torch.Tensor:
        """The first of several, and NaN before all numbers."""
        x = ordered(_flattened(x, axes))
        if x.shape[-1] == 0:
            raise ValueError("attempt to get argmax of an empty sequence")
        return x.argmax(-1)

    return argmax


def _softmax(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def register(op: Softmax | LogSoftmax, node: Apply, context: Context) -> Callable[..., Any]:
        dtype = torch_dtype(node.outputs[0].type.dtype)
        given, axes = node.inputs[0].type, _reduced(op, node)
        if len(axes) == 1 and given.dtype == node.outputs[0].type.dtype and given.shape[axes[0]]:
            return lambda x: function(x, axes[0])

        def softmax(x: torch.Tensor) -> torch.Tensor:
            if any(x.shape[axis] == 0 for axis in axes):
                raise ValueError("zero-size array to reduction operation maximum which has no identity")
            moved = x.to(dtype).movedim(axes, tuple(range(-len(axes), 0)))
            flat = moved.flatten(-len(axes)) if axes else moved[..., None]
            return function(flat, -1).reshape(moved.shape).movedim(tuple(range(-len(axes), 0)), axes)

        return softmax

    return register


torch_function.register(Softmax)(_softmax(torch.softmax))
torch_function.register(LogSoftmax)(_softmax(torch.log_softmax))


@torch_function.register(CumOp)
def _cum_op(op: CumOp, node: Apply, context: Context) -> Callable[..., Any]:
    dtype, axis = torch_dtype(node.outputs[0].type.dtype), op.axis
    if dtype == torch.bool:
        running = torch.cummax if op.mode == "add" else torch.cummin
        return lambda x: running(x.to(torch.uint8), axis)[0].to(dtype)
    function, computed = torch.cumsum if op.mode == "add" else torch.cumprod, COMPUTED.get(dtype, dtype)
    return lambda x: function(x.to(computed), axis, dtype=computed).to(dtype)


@torch_function.register(SortOp)
@torch_function.register(ArgSortOp)
def _sort_op(op: SortOp | ArgSortOp, node: Apply, context: Context) -> Callable[..., Any]:
    # Equal elements keep their order, which fits every kind.
    dtype, (axis, _) = torch_dtype(node.inputs[0].type.dtype), axis_and_rest(op, node, 1)

    def sort(x: torch.Tensor, axis: Any) -> torch.Tensor:
        return unordered(torch.sort(ordered(x), dim=int(axis), stable=True)[0], dtype)

    def argsort(x: torch.Tensor, axis: Any) -> torch.Tensor:
        return torch.sort(ordered(x), dim=int(axis), stable=True)[1]

    function = sort if isinstance(op, SortOp) else argsort
    return function if axis is None else lambda x, *_: function(x, axis)


def _keys(x: torch.Tensor, common: torch.dtype) -> torch.Tensor:
    """Integers in the order of the elements, NaN after infinity, as a binary search needs it."""
    if not common.is_floating_point:
        return ordered(x.to(common))
    # Neither a negative zero nor a NaN's sign and payload make a difference.
    x = torch.where(torch.isnan(x), math.nan, x.to(torch.float64)) + 0.0
    bits = x.contiguous().view(torch.int64)
    return bits ^ ((bits >> 63) & torch.iinfo(torch.int64).max)


@torch_function.register(SearchsortedOp)
def _searchsorted_op(op: SearchsortedOp, node: Apply, context: Context) -> Callable[..., Any]:
    common = torch_dtype(np.result_type(*(v.type.dtype for v in node.inputs[:2])).name)

    def searchsorted(x: torch.Tensor, v: torch.Tensor, sorter: torch.Tensor | None = None) -> torch.Tensor:
        keys = _keys(x, common)
        if sorter is not None:
            keys = keys[sorter.to(torch.int64)]
        found = torch.searchsorted(keys, _keys(v, common).reshape(-1).contiguous(), side=op.side)
        return found.reshape(v.shape)

    return searchsorted


@torch_function.register(Nonzero)
def _nonzero(op: Nonzero, node: Apply, context: Context) -> Callable[..., Any]:
    if len(node.outputs) == 1:
        return lambda x: x.to(torch.bool).nonzero()[:, 0]
    return lambda x: x.to(torch.bool).nonzero(as_tuple=True)


@torch_function.register(Unique)
def _unique(op: Unique, node: Apply, context: Context) -> Callable[..., Any]:
    dtype = torch_dtype(node.inputs[0].type.dtype)

    def of_elements(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Values, where each is first, the number of each element's value, how often each is there."""
        values, order = torch.sort(x.reshape(-1), stable=True)
        new = torch.ones_like(values, dtype=torch.bool)
        # All NaNs, which come last, are one value.
        new[1:] = (values[1:] != values[:-1]) & ~torch.isnan(values[:-1])
        inverse = torch.empty_like(order)
        inverse[order] = torch.cumsum(new, 0) - 1
        return values[new], order[new], inverse, torch.bincount(inverse)

    def of_slices(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=op.axis)
        positions = torch.arange(inverse.numel(), device=x.device)
        index = torch.full_like(counts, inverse.numel()).scatter_reduce(0, inverse, positions, "amin")
        return values, index, inverse, counts

    wanted = (True, op.return_index, op.return_inverse, op.return_counts)

    def unique(x: torch.Tensor) -> Any:
        values, *others = (of_elements if op.axis is None else of_slices)(ordered(x))
        found = [r for r, w in zip((unordered(values, dtype), *others), wanted, strict=True) if w]
        return found[0] if len(found) == 1 else tuple(found)

    return unique


def _row_major(op: UnravelIndex | RavelMultiIndex, items: Any) -> list[Any]:
    """What belongs to the axes, from the slowest axis to the fastest, or back."""
    return list(items) if op.order == "C" else list(items)[::-1]


@torch_function.register(UnravelIndex)
def _unravel_index(op: UnravelIndex, node: Apply, context: Context) -> Callable[..., Any]:
    lengths = numbers_of(node.inputs[1])

    def unravel_index(indices: torch.Tensor, dims: torch.Tensor) -> Any:
        shape, rest = _row_major(op, lengths(dims)), indices.to(torch.int64)
        wrong = rest[(rest < 0) | (rest >= math.prod(shape))]
        if wrong.numel():
            raise ValueError(
                f"index {wrong[0].item()} is out of bounds for array with size {math.prod(shape)}"
            )
        coordinates = []
        for length in reversed(shape):
            coordinates.append(rest % length)
            rest = rest // length
        coordinates = _row_major(op, reversed(coordinates))
        return coordinates[0] if len(coordinates) == 1 else tuple(coordinates)

    return unravel_index


@torch_function.register(RavelMultiIndex)
def _ravel_multi_index(op: RavelMultiIndex, node: Apply, context: Context) -> Callable[..., Any]:
    lengths = numbers_of(node.inputs[-1])

    def ravel_multi_index(*inputs: torch.Tensor) -> torch.Tensor:
        *indices, dims = inputs
        total = torch.zeros((), dtype=torch.int64, device=context.device)
        for index, length in zip(_row_major(op, indices), _row_major(op, lengths(dims)), strict=True):
            index = index.to(torch.int64)
            if op.mode == "wrap":
                index = index % length
            elif op.mode == "clip":
                index = index.clamp(0, length - 1)
            elif bool(((index < 0) | (index >= length)).any()):
                raise ValueError("invalid entry in coordinates array")
            total = total * length + index
        return total

    return ravel_multi_index


@torch_function.register(Bartlett)
def _bartlett(op: Bartlett, node: Apply, context: Context) -> Callable[..., Any]:
    def bartlett(m: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.bartlett(int(m))).to(context.device)

    return bartlett


@torch_function.register(FillDiagonal)
@torch_function.register(FillDiagonalOffset)
def _fill_diagonal(op: Op, node: Apply, context: Context) -> Callable[..., Any]:
    def fill_diagonal(x: torch.Tensor, value: torch.Tensor, offset: Any = 0) -> torch.Tensor:
        if x.ndim > 2 and len(set(x.shape)) != 1:
            raise ValueError("All dimensions of input must be of equal length")
        filled = x.clone(memory_format=torch.contiguous_format)
        diagonal = filled.diagonal(int(offset))
        for _ in range(x.ndim - 2):
            diagonal = diagonal.diagonal(0, 0, -1)
        diagonal.copy_(placed(value, x.device))
        return filled

    return fill_diagonal
