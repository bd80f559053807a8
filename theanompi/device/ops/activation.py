"""The rectifier and the leaky one, in place wherever nothing else reads their input."""

from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.graph.basic import Apply, Variable

from theanompi.device.ops.base import Context, TorchOp, Variables, expect


class Relu(TorchOp):
    """max(x, 0), element-wise. Its gradient reads the output, so the input's memory is free."""

    __props__ = ()
    overwrites = {0: (0,)}

    def make_node(self, x: Any) -> Apply:
        x = pt.as_tensor_variable(x)
        return Apply(self, [x], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        return torch.relu_ if context.overwrite else torch.relu

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
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

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
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


class LeakyRelu(TorchOp):
    """x where it is positive, else slope · x, element-wise."""

    __props__ = ("slope",)
    overwrites = {0: (0,)}

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def make_node(self, x: Any) -> Apply:
        x = pt.as_tensor_variable(x)
        expect(x.dtype.startswith("float"), "leaky_relu", "input", "floats", x.type)
        return Apply(self, [x], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        slope, function = (
            self.slope,
            torch.ops.aten.leaky_relu_ if context.overwrite else torch.ops.aten.leaky_relu,
        )
        return lambda x: function.default(x, slope)

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        # Unless the slope is negative the output has the sign of the input, whose memory is then free.
        return [LeakyReluGrad(self.slope)(cotangents[0], (outputs if self.slope >= 0 else inputs)[0])]


class LeakyReluGrad(TorchOp):
    """The cotangent where the rectifier's output, or its input, is positive, else slope times it."""

    __props__ = ("slope",)
    overwrites = {0: (0,)}

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def make_node(self, gy: Variable, y: Variable) -> Apply:
        return Apply(self, [gy, y], [gy.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        slope, backward = self.slope, torch.ops.aten.leaky_relu_backward
        if context.overwrite:
            return lambda gy, y: backward.grad_input(gy, y, slope, False, grad_input=gy)
        # A constant scalar lies on the CPU.
        return lambda gy, y: backward.default(gy.to(y.device), y, slope, False)

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        gy, y = inputs
        return [self(cotangents[0], y), y.zeros_like()]


def leaky_relu(x: Variable, slope: float) -> Variable:
    """Rectify, but for a slope (Maas et al. 2013): x where it is positive, else slope · x, element-wise.

    Parameters
    ----------
    x : float tensor of any shape
    slope : float

    Returns
    -------
    as `x`

    Raises
    ------
    ValueError
        If `x` does not hold floats.
    """
    return LeakyRelu(float(slope))(x)
