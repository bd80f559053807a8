"""Pooling over windows of one to three dimensions, and its gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import (
    AXES,
    Context,
    Sizes,
    TorchOp,
    Variables,
    bordered,
    each,
    expect,
    lengths,
    tensor_type,
)

POOL_MODES = ("max", "average_inc_pad", "average_exc_pad", "sum")


def _pooled(size: int | None, window: int, stride: int, padding: int, ceil_mode: bool) -> int | None:
    """Torch's output length: in ceil mode a window must still start inside the image or its left padding."""
    if size is None:
        return None
    span = size + 2 * padding - window
    if not ceil_mode:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out


class Pool(TorchOp):
    """What windows an image has."""

    __props__: tuple[str, ...] = ("size", "stride", "padding", "ceil_mode")

    def __init__(self, size: Sizes, stride: Sizes, padding: Sizes, ceil_mode: bool) -> None:
        self.size, self.stride, self.padding, self.ceil_mode = size, stride, padding, ceil_mode
        self.geometry = size, stride, padding, ceil_mode
        self.axes = len(size)
        # As torch's maximum pooling takes it.
        self.for_torch = size, stride, padding, (1,) * self.axes, ceil_mode

    def output_shape(self, x: Variable) -> tuple[int | None, ...]:
        n, channels, *image = x.type.shape
        size = [
            _pooled(i, k, s, p, self.ceil_mode)
            for i, k, s, p in zip(image, self.size, self.stride, self.padding, strict=True)
        ]
        expect(
            all(s is None or s > 0 for s in size),
            f"pool{self.axes}d",
            "window",
            f"at most the padded image {image}",
            self.size,
        )
        return (n, channels, *size)

    def windows(self, image: Sequence[int]) -> Sizes:
        """How many windows there are along each axis of an image."""
        sides = zip(image, self.size, self.stride, self.padding, strict=True)
        return tuple(_pooled(i, k, s, p, self.ceil_mode) or 0 for i, k, s, p in sides)


class MaxPool(Pool):
    """Maximum over windows; the second output says where it was, for the gradient."""

    default_output = 0

    def make_node(self, x: Variable) -> Apply:
        shape = self.output_shape(x)
        return Apply(self, [x], [tensor_type(x, shape)(), TensorType("int64", shape=shape)()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        pool, geometry = getattr(torch.ops.aten, f"max_pool{self.axes}d_with_indices").default, self.for_torch
        return lambda x: pool(x, *geometry)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True, False]]

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        if isinstance(cotangents[0].type, DisconnectedType):
            return [disconnected_type()]
        return [MaxPoolGrad(*self.geometry)(inputs[0], outputs[1], cotangents[0])]


class MaxPoolGrad(Pool):
    """Sends each cotangent back to where its maximum was."""

    def make_node(self, x: Variable, indices: Variable, gy: Variable) -> Apply:
        return Apply(self, [x, indices, gy], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        backward = getattr(torch.ops.aten, f"max_pool{self.axes}d_with_indices_backward").default
        geometry = self.for_torch
        return lambda x, indices, gy: backward(gy.to(x.dtype), x, *geometry, indices)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True], [False], [True]]

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        x, indices, _ = inputs
        return [x.zeros_like(), disconnected_type(), MaxPoolPick(*self.geometry)(cotangents[0], indices)]


class MaxPoolPlaces(Pool):
    """`MaxPool` by Triton: the second output, in 8 bits, is the place of the maximum within its window.

    Only :mod:`theanompi.device.fusion` makes such nodes, for CUDA devices: they have no pullback.
    """

    def make_node(self, x: Variable) -> Apply:
        shape = self.output_shape(x)
        return Apply(self, [x], [tensor_type(x, shape)(), TensorType("int8", shape=shape)()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import pool  # imports Triton

        geometry = self.size, self.stride, self.padding
        return lambda x: pool.forward(x, *geometry, self.windows(x.shape[2:]))


class MaxPoolPlacesGrad(Pool):
    """Sends each cotangent back to where `MaxPoolPlaces` has found the maximum."""

    def make_node(self, x: Variable, places: Variable, gy: Variable) -> Apply:
        return Apply(self, [x, places, gy], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import pool  # imports Triton

        geometry = self.size, self.stride, self.padding
        return lambda x, places, gy: pool.backward(gy, x, places, *geometry)


class MaxPoolPick(Pool):
    """Picks of every window the element where the maximum of other images was: linear, as `MaxPoolGrad` is."""

    def make_node(self, x: Variable, indices: Variable) -> Apply:
        return Apply(self, [x, indices], [tensor_type(x, indices.type.shape)()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        def max_pool_pick(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
            return x.flatten(2).gather(2, indices.flatten(2)).view(indices.shape)

        return max_pool_pick

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True], [False]]

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        x, indices = inputs
        return [MaxPoolGrad(*self.geometry)(x, indices, cotangents[0]), disconnected_type()]


class _AveragePool(Pool):
    __props__ = ("size", "stride", "padding", "ceil_mode", "include_padding", "divisor")

    def __init__(
        self,
        size: Sizes,
        stride: Sizes,
        padding: Sizes,
        ceil_mode: bool,
        include_padding: bool,
        divisor: int | None = None,
    ) -> None:
        super().__init__(size, stride, padding, ceil_mode)
        self.include_padding, self.divisor = include_padding, divisor

    @property
    def arguments(self) -> tuple[Any, ...]:
        return *self.geometry, self.include_padding, self.divisor


class AveragePool(_AveragePool):
    """Mean over windows, counting the padding in the mean or not; or their sum over `divisor`."""

    def make_node(self, x: Variable) -> Apply:
        return Apply(self, [x], [tensor_type(x, self.output_shape(x))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        pool, arguments = getattr(torch.ops.aten, f"avg_pool{self.axes}d").default, self.arguments
        return lambda x: pool(x, *arguments)

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        return [AveragePoolGrad(*self.arguments)(inputs[0], cotangents[0])]


class AveragePoolGrad(_AveragePool):
    """Spreads each cotangent evenly over its window."""

    def make_node(self, x: Variable, gy: Variable) -> Apply:
        return Apply(self, [x, gy], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        backward = getattr(torch.ops.aten, f"avg_pool{self.axes}d_backward").default
        arguments = self.arguments
        return lambda x, gy: backward(gy.to(x.dtype), x, *arguments)

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        return [inputs[0].zeros_like(), AveragePool(*self.arguments)(cotangents[0])]


def _pool(
    axes: int,
    x: Variable,
    size: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: int | Sequence[int],
    mode: str,
    ceil_mode: bool,
) -> Variable:
    name = f"pool{axes}d"
    x = pt.as_tensor_variable(x)
    expect(x.ndim == axes + 2, name, "images", f"{axes + 2} dimensions (n, channels, {AXES[axes]})", x.type)
    expect(mode in POOL_MODES, name, "mode", f"one of {', '.join(POOL_MODES)}", repr(mode))
    window = each(size, axes, name, "size")
    steps = window if stride is None else each(stride, axes, name, "stride")
    pad = each(padding, axes, name, "padding")
    expect(min(*window, *steps) >= 1, name, "size and stride", "at least 1", (window, steps))
    expect(
        all(0 <= p < k or p == 0 for p, k in zip(pad, window, strict=True)),
        name,
        "padding",
        f"less than the window {window}",
        pad,
    )
    if axes == 1:
        # A view: torch has no op for one dimension that keeps the places of the maxima.
        wide = _pool(2, x.dimshuffle(0, 1, 2, "x"), (*window, 1), (*steps, 1), (*pad, 0), mode, ceil_mode)
        return wide.dimshuffle(0, 1, 2)
    if any(2 * p > k for p, k in zip(pad, window, strict=True)):
        # More than torch pads by itself.
        expect(not ceil_mode, name, "padding in ceil mode", f"at most half the window {window}", pad)
        widths, none = [(0, 0)] * 2 + [(p, p) for p in pad], (0,) * axes
        padded = bordered(x, widths, -float("inf") if mode == "max" else 0)
        if mode != "average_exc_pad":
            return _pool(axes, padded, window, steps, none, mode, False)
        ones = bordered(pt.ones((1, 1, *lengths(x)[2:]), x.dtype), widths, 0)
        sums, counts = (_pool(axes, v, window, steps, none, "sum", False) for v in (padded, ones))
        return sums / counts
    if mode == "max":
        return MaxPool(window, steps, pad, bool(ceil_mode))(x)
    divisor = 1 if mode == "sum" else None
    return AveragePool(window, steps, pad, bool(ceil_mode), mode != "average_exc_pad", divisor)(x)


def pool1d(
    x: Variable,
    size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    mode: str = "max",
    ceil_mode: bool = False,
) -> Variable:
    """Pool signals, shape (n, c, length), over windows: see `pool2d`."""
    return _pool(1, x, size, stride, padding, mode, ceil_mode)


def pool2d(
    x: Variable,
    size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    mode: str = "max",
    ceil_mode: bool = False,
) -> Variable:
    """Pool images over windows.

    Parameters
    ----------
    x : float tensor, shape (n, c, h, w)
    size : int or (int, int)
        The window's rows and columns.
    stride : int or (int, int), optional
        As `size` by default.
    padding : int or (int, int)
        On both sides, less than the window (in ceil mode at most half of it): minus infinity for the maximum,
        zeros for a mean or a sum.
    mode : {"max", "average_inc_pad", "average_exc_pad", "sum"}
        Whether a mean counts the padding.
    ceil_mode : bool
        Also pool the windows that reach over the far border.

    Returns
    -------
    float tensor, shape (n, c, h', w')

    Raises
    ------
    ValueError
        If the mode is unknown or the window does not fit.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> x = pt.tensor("x", dtype="float32", shape=(2, 3, 8, 8))
    >>> pool2d(x, 3, stride=2, padding=1).type.shape
    (2, 3, 4, 4)
    """
    return _pool(2, x, size, stride, padding, mode, ceil_mode)


def pool3d(
    x: Variable,
    size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    mode: str = "max",
    ceil_mode: bool = False,
) -> Variable:
    """Pool volumes, shape (n, c, d, h, w), over windows: see `pool2d`."""
    return _pool(3, x, size, stride, padding, mode, ceil_mode)
