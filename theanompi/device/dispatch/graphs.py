"""Ops that hold another op or a graph."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply
from pytensor.tensor.blockwise import Blockwise

from theanompi.device.dispatch.base import batched_function, torch_function
from theanompi.device.ops.base import Context


@torch_function.register(Blockwise)
def _(op: Blockwise, node: Apply, context: Context) -> Callable[..., Any]:
    core_node = op._create_dummy_core_node(node.inputs)
    core_context = replace(context, overwrite={}, into=())
    batched = batched_function(op.core_op, node=core_node, context=core_context)
    core = batched or torch_function(op.core_op, node=core_node, context=core_context)
    batch_ndim = op.batch_ndim(node)

    def one_by_one(shape: torch.Size, *inputs: torch.Tensor) -> Any:
        if 0 in shape:
            raise NotImplementedError(
                f"{op}: an empty batch of shape {tuple(shape)}: its results have no shape"
            )
        results = [core(*(x[index] for x in inputs)) for index in np.ndindex(shape)]
        if len(node.outputs) == 1:
            return torch.stack(results).unflatten(0, shape)
        return tuple(torch.stack(outputs).unflatten(0, shape) for outputs in zip(*results, strict=True))

    def blockwise(*inputs: torch.Tensor) -> Any:
        op._check_runtime_broadcast(node, inputs)
        shape = torch.broadcast_shapes(*(x.shape[:batch_ndim] for x in inputs))
        inputs = tuple(x.expand(shape + x.shape[batch_ndim:]) for x in inputs)
        return core(*inputs) if batched else one_by_one(shape, *inputs)

    return blockwise if batch_ndim else core
