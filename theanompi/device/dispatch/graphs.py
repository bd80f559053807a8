"""Ops that hold another op or a graph."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pytensor.compile.builders import OpFromGraph
from pytensor.graph.basic import Apply
from pytensor.graph.fg import FunctionGraph
from pytensor.raise_op import CheckAndRaise
from pytensor.tensor.blockwise import Blockwise

from theanompi.device.branches import Branches
from theanompi.device.dispatch.base import batched_function, torch_function
from theanompi.device.ops.base import Context
from theanompi.device.versions import IfElse


@torch_function.register(Blockwise)
def _blockwise(op: Blockwise, node: Apply, context: Context) -> Callable[..., Any]:
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


def _function(fgraph: FunctionGraph, context: Context) -> Callable[..., Any]:
    """The function of a graph, which returns its output itself if there is only one."""
    assert context.graph is not None
    function = context.graph(fgraph)
    return function if len(fgraph.outputs) > 1 else lambda *inputs: function(*inputs)[0]


@torch_function.register(OpFromGraph)
def _op_from_graph(op: OpFromGraph, node: Apply, context: Context) -> Callable[..., Any]:
    return _function(op.fgraph, context)


@torch_function.register(Branches)
def _branches(op: Branches, node: Apply, context: Context) -> Callable[..., Any]:
    then, otherwise = _function(op.then, context), _function(op.otherwise, context)
    return lambda condition, *inputs: (then if condition.item() != 0 else otherwise)(*inputs)


@torch_function.register(IfElse)
def _if_else(op: IfElse, node: Apply, context: Context) -> Callable[..., Any]:
    """What both branches have is computed already."""
    count = len(node.outputs)

    def ifelse(condition: torch.Tensor, *values: torch.Tensor) -> Any:
        taken = values[:count] if condition.item() != 0 else values[count:]
        return taken if count > 1 else taken[0]

    return ifelse


@torch_function.register(CheckAndRaise)
def _check_and_raise(op: CheckAndRaise, node: Apply, context: Context) -> Callable[..., Any]:
    def check(x: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        if not all(condition.item() for condition in conditions):
            raise op.exc_type(op.msg)
        return x

    return check
