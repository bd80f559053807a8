"""The rectifier, in place wherever nothing else reads its input."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.graph.basic import Apply, Variable

from theanompi.device.ops.base import Context, TorchOp


class Relu(TorchOp):
    """max(x, 0), element-wise. Its gradient reads the output, so the input's memory is free."""

    __props__ = ()
    overwrites = {0: (0,)}

    def make_node(self, x: Any) -> Apply:
        x = pt.as_tensor_variable(x)
        return Apply(self, [x], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        return torch.relu_ if context.overwrite else torch.relu

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        return [ReluGrad()(cotangents[0], outputs[0])]


class ReluGrad(TorchOp):
    """The cotangent where the rectifier's output is positive, else 0 (so the derivative at 0 is 0)."""

    __props__ = ()
    overwrites = {0: (0,)}

    def make_node(self, gy: Variable, y: Variable) -> Apply:
        return Apply(self, [gy, y], [gy.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        if context.overwrite:
            into = torch.ops.aten.threshold_backward.grad_input
            return lambda gy, y: into(gy, y, 0, grad_input=gy)
        backward = torch.ops.aten.threshold_backward.default
        if node.outputs[0].type.ndim == 0:
            # A constant scalar lies on the CPU, as torch's arithmetic allows, but not this.
            return lambda gy, y: backward(gy.to(y.device), y, 0)
        return lambda gy, y: backward(gy, y, 0)

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        gy, y = inputs
        return [self(cotangents[0], y), y.zeros_like()]


def relu(x: Variable) -> Variable:
    """Rectify: max(x, 0), element-wise.

    Parameters
    ----------
    x : float tensor of any shape

    Returns
    -------
    as `x`
    """
    return Relu()(x)
