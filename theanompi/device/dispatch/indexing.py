"""Ops that read and write parts of a tensor, with the meaning that NumPy gives to indices.

Every read and write takes the slices first, which are views of a tensor, and then the arrays, by torch's own index
functions: its brackets take bytes for masks, know no negative steps, and put the axes of arrays elsewhere.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytensor.graph.basic import Apply, Constant
from pytensor.tensor.subtensor import (
    AdvancedIncSubtensor,
    AdvancedSubtensor,
    IncSubtensor,
    Subtensor,
    indices_from_subtensor,
)

from theanompi.device.dispatch.base import torch_function
from theanompi.device.ops.base import Context, placed
from theanompi.device.scalars import signed
from theanompi.device.versions import INC_SUBTENSORS, SUBTENSORS


def _entries(op: Any, inputs: Sequence[Any]) -> list[Any]:
    """An op's indices of these inputs, with slices of integers."""
    return [
        slice(*(None if n is None else int(n) for n in (entry.start, entry.stop, entry.step)))
        if isinstance(entry, slice)
        else entry
        for entry in indices_from_subtensor(inputs, op.idx_list)
    ]


def _is_awaited(number: Any) -> bool:
    """Whether the device would have to be waited for to know a number."""
    return isinstance(number, torch.Tensor) and number.device.type != "cpu"


def _basic_entries(op: Subtensor | IncSubtensor, numbers: Sequence[Any]) -> list[Any]:
    """Integers and slices; an integer that would have to be waited for stays a tensor."""
    return _entries(op, [n.to(torch.int64) if _is_awaited(n) else int(n) for n in numbers])


def _forward(x: torch.Tensor, entries: Sequence[Any]) -> tuple[torch.Tensor, list[int]]:
    """The view of `x` that integers and slices select, and the axes of it that run backwards.

    Torch has no negative strides: of a slice with a negative step the view has the same elements the other way
    round. What is no integer and no slice stands for its axis, as ``slice(None)`` does.
    """
    forward: list[Any] = []
    backwards: list[int] = []
    axis = 0
    for length, entry in zip(x.shape, entries, strict=False):
        if isinstance(entry, slice) and entry.step is not None and entry.step < 0:
            positions = range(length)[entry]
            backwards.append(axis)
            entry = slice(positions[-1], positions[0] + 1, -entry.step) if positions else slice(0, 0)
        axis += not isinstance(entry, int)
        forward.append(entry if isinstance(entry, int | slice) else slice(None))
    return x[tuple(forward)], backwards


def _part(x: torch.Tensor, entries: Sequence[Any]) -> torch.Tensor:
    """What integers and slices select, a view of `x` if none of them runs backwards."""
    view, backwards = _forward(x, entries)
    return signed(view).flip(backwards).view(x.dtype) if backwards else view


def _by_tensor(entries: Sequence[Any]) -> list[tuple[int, torch.Tensor]]:
    """The integers that are tensors, with the axes that are theirs when the other integers are applied."""
    left = [entry for entry in entries if not isinstance(entry, int)]
    return [(axis, entry) for axis, entry in enumerate(left) if isinstance(entry, torch.Tensor)]


@torch_function.register(Subtensor)
def _subtensor(op: Subtensor, node: Apply, context: Context) -> Callable[..., Any]:
    def subtensor(x: torch.Tensor, *numbers: Any) -> torch.Tensor:
        entries = _basic_entries(op, numbers)
        view = _part(x, entries)
        # The last one first: the axes before it stay where they are.
        for axis, index in reversed(_by_tensor(entries)):
            view = torch.ops.aten.index.Tensor(view, [*(None,) * axis, index])
        return view

    numbers = node.inputs[1:]
    if not all(isinstance(n, Constant) for n in numbers):
        return subtensor
    fixed = [int(n.data) for n in numbers]
    entries = indices_from_subtensor(fixed, op.idx_list)
    if any(isinstance(entry, slice) and (entry.step or 1) < 0 for entry in entries):
        return lambda x, *_: subtensor(x, *fixed)
    return lambda x, *_: x[entries]


@torch_function.register(IncSubtensor)
def _inc_subtensor(op: IncSubtensor, node: Apply, context: Context) -> Callable[..., Any]:
    ndim = node.inputs[0].ndim - sum(isinstance(entry, int) for entry in op.idx_list)

    def inc_subtensor(x: torch.Tensor, y: torch.Tensor, *numbers: Any) -> torch.Tensor:
        result = x.clone()
        entries = _basic_entries(op, numbers)
        view, backwards = _forward(result, entries)
        if indices := _by_tensor(entries):
            target = signed(view).flip(backwards) if backwards else signed(view)
            places: list[Any] = [slice(None)] * target.ndim
            for axis, index in indices:
                places[axis] = index
            value = signed(placed(y.to(x.dtype), x.device))
            _put(target, places, value, accumulate=not op.set_instead_of_inc)
            if backwards:
                signed(view).copy_(target.flip(backwards))
            return result
        value = _fitted(placed(y.to(x.dtype), x.device), view.shape, ndim)
        value = signed(value).flip(backwards) if backwards else signed(value)
        if op.set_instead_of_inc:
            signed(view).copy_(value)
        else:
            signed(view).add_(value)
        return result

    return inc_subtensor


def _fitted(y: torch.Tensor, shape: Sequence[int], ndim: int) -> torch.Tensor:
    """`y` broadcast to the shape of what it is written into; like NumPy without the ones that it has in front."""
    value = y
    while value.ndim > ndim and value.shape[0] == 1:
        value = value[0]
    try:
        return value.expand(tuple(shape))
    except RuntimeError:
        raise ValueError(
            f"could not broadcast a value of shape {tuple(y.shape)} into a part of shape {tuple(shape)}"
        ) from None


def _check_masks(x: torch.Tensor, entries: Sequence[Any]) -> None:
    """Expect masks to have the lengths of the axes that they stand for."""
    axis = 0
    for entry in entries:
        if isinstance(entry, torch.Tensor) and entry.dtype == torch.bool:
            if entry.shape != x.shape[axis : axis + entry.ndim]:
                raise IndexError(
                    f"boolean index of shape {tuple(entry.shape)} at axis {axis} does not match "
                    f"an indexed tensor of shape {tuple(x.shape)}"
                )
            axis += entry.ndim
        else:
            axis += 1


def _advanced_entries(op: Any, x: torch.Tensor, inputs: Sequence[Any]) -> list[Any]:
    """One entry for each axis, slices and tensors of int64: a mask gives way to the positions at which it is true."""
    entries = _entries(op, [i if i.dtype == torch.bool else i.to(torch.int64) for i in inputs])
    _check_masks(x, entries)
    return [
        e
        for entry in entries
        for e in (
            entry.nonzero(as_tuple=True)
            if isinstance(entry, torch.Tensor) and entry.dtype == torch.bool
            else (entry,)
        )
    ]


def _advanced_subtensor(op: AdvancedSubtensor, node: Apply, context: Context) -> Callable[..., Any]:
    def advanced_subtensor(x: torch.Tensor, *inputs: Any) -> torch.Tensor:
        entries = _advanced_entries(op, x, inputs)
        view = _part(x, entries)
        indices = [None if isinstance(entry, slice) else entry for entry in entries]
        if all(index is None for index in indices):
            return view.clone()
        return torch.ops.aten.index.Tensor(view, indices)

    if op.idx_list == (0,) and node.inputs[1].type.dtype != "bool":
        # The rows of a table, as of an embedding.
        return lambda x, index: torch.ops.aten.index.Tensor(x, [index.to(torch.int64)])
    return advanced_subtensor


for kind in SUBTENSORS:
    torch_function.register(kind, _advanced_subtensor)


def _put(target: torch.Tensor, entries: Sequence[Any], y: torch.Tensor, accumulate: bool) -> None:
    """Write `y` where index tensors point to, one after the other in the order of the indices.

    Of values for the same place the last one stays, and sums are taken in this order, whatever the number of threads.
    """
    axes = [axis for axis, entry in enumerate(entries) if not isinstance(entry, slice)]
    rest = [axis for axis in range(target.ndim) if axis not in axes]
    indices = torch.broadcast_tensors(*(entries[axis] for axis in axes))
    shape, ndim = indices[0].shape, indices[0].ndim
    # NumPy's rule: the arrays' axes stand where the arrays do, or in front if slices are between them.
    first = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    lengths = [target.shape[axis] for axis in rest]
    value = _fitted(y, [*lengths[:first], *shape, *lengths[first:]], ndim + len(rest))
    value = value.movedim(tuple(range(first, first + ndim)), tuple(range(ndim)))
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(before or "warn")
    try:
        # Of indices with several axes torch chooses the order.
        target.permute(axes + rest).index_put_(
            tuple(index.reshape(-1) for index in indices),
            value.reshape(indices[0].numel(), *lengths),
            accumulate=accumulate,
        )
    finally:
        torch.set_deterministic_debug_mode(before)


def _check_broadcast(broadcastable: Sequence[bool], y: torch.Tensor, shape: Sequence[int]) -> None:
    """Expect a value to be as long as the rows that it is written into, but where its type says that it is one long."""
    # The value may have fewer axes.
    for known, got, expected in zip(broadcastable[::-1], y.shape[::-1], shape[::-1], strict=False):
        if got == 1 != expected and not known:
            raise ValueError(
                f"a value of shape {tuple(y.shape)} into rows of shape {tuple(shape)}: "
                "runtime broadcasting is not allowed; if it is meant, use specify_broadcastable"
            )


def _advanced_inc_subtensor(op: AdvancedIncSubtensor, node: Apply, context: Context) -> Callable[..., Any]:
    once = getattr(op, "ignore_duplicates", False)
    rows = node.inputs[2].type
    by_rows = op.idx_list == (0,) and rows.ndim == 1 and rows.dtype != "bool"

    def advanced_inc_subtensor(x: torch.Tensor, y: torch.Tensor, *inputs: Any) -> torch.Tensor:
        if by_rows:
            _check_broadcast(node.inputs[1].type.broadcastable, y, (*inputs[0].shape, *x.shape[1:]))
        entries = _advanced_entries(op, x, inputs)
        result = x.clone()
        view, backwards = _forward(result, entries)
        view, value = signed(view), signed(placed(y.to(x.dtype), x.device))
        target = view.flip(backwards) if backwards else view
        indices = [None if isinstance(entry, slice) else entry for entry in entries]
        if all(index is None for index in indices):
            value = _fitted(value, target.shape, target.ndim)
            target.copy_(value if op.set_instead_of_inc else target + value)
        elif once and not op.set_instead_of_inc:
            _put(target, entries, torch.ops.aten.index.Tensor(target, indices) + value, accumulate=False)
        else:
            _put(target, entries, value, accumulate=not op.set_instead_of_inc)
        if backwards:
            view.copy_(target.flip(backwards))
        return result

    return advanced_inc_subtensor


for kind in INC_SUBTENSORS:
    torch_function.register(kind, _advanced_inc_subtensor)
