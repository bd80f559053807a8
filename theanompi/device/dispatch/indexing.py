"""Ops that read and write parts of a tensor."""

from collections.abc import Callable
from typing import Any

import torch
from pytensor.graph.basic import Apply, Constant
from pytensor.tensor.subtensor import Subtensor, indices_from_subtensor

from theanompi.device.dispatch.base import torch_function
from theanompi.device.ops.base import Context


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
