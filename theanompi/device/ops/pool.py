"""Max and average pooling and their gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import Context, TorchOp, expect, pair, tensor_type

POOL_MODES = ("max", "average_inc_pad", "average_exc_pad")


def _pooled(size: int | None, window: int, stride: int, padding: int, ceil_mode: bool) -> int | None:
    """Torch's output length: in ceil mode a window must still start inside the image or its left padding."""
    if size is None:
        return None
    span = size + 2 * padding - window
    if not ceil_mode:
        return span // stride + 1
    out = -(-span // stride) + 1
    return out - 1 if (out - 1) * stride >= size + padding else out


class _Pool2d(TorchOp):
    __props__: tuple[str, ...] = ("size", "stride", "padding", "ceil_mode")

    def __init__(
        self, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], ceil_mode: bool
    ) -> None:
        self.size, self.stride, self.padding, self.ceil_mode = size, stride, padding, ceil_mode

    def output_shape(self, x: Variable) -> tuple[int | None, ...]:
        n, channels, *image = x.type.shape
        size = [
            _pooled(i, k, s, p, self.ceil_mode)
            for i, k, s, p in zip(image, self.size, self.stride, self.padding, strict=True)
        ]
        expect(
            all(s is None or s > 0 for s in size),
            "pool2d",
            "window",
            f"at most the padded image {image}",
            self.size,
        )
        return (n, channels, *size)


class MaxPool2d(_Pool2d):
    """Maximum over windows; the second output says where it was, for the gradient."""

    default_output = 0

    def make_node(self, x: Variable) -> Apply:
        shape = self.output_shape(x)
        return Apply(self, [x], [tensor_type(x, shape)(), TensorType("int64", shape=shape)()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        size, stride, padding, ceil_mode = self.size, self.stride, self.padding, self.ceil_mode

        def max_pool2d(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ops.aten.max_pool2d_with_indices.default(x, size, stride, padding, (1, 1), ceil_mode)

        return max_pool2d

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True, False]]

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        if isinstance(cotangents[0].type, DisconnectedType):
            return [disconnected_type()]
        grad = MaxPool2dGrad(self.size, self.stride, self.padding, self.ceil_mode)
        return [grad(inputs[0], outputs[1], cotangents[0])]


class MaxPool2dGrad(_Pool2d):
    """Sends each cotangent back to where its maximum was."""

    def make_node(self, x: Variable, indices: Variable, gy: Variable) -> Apply:
        return Apply(self, [x, indices, gy], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        size, stride, padding, ceil_mode = self.size, self.stride, self.padding, self.ceil_mode
        backward = torch.ops.aten.max_pool2d_with_indices_backward.default

        def max_pool2d_grad(x: torch.Tensor, indices: torch.Tensor, gy: torch.Tensor) -> torch.Tensor:
            return backward(gy.to(x.dtype), x, size, stride, padding, (1, 1), ceil_mode, indices)

        return max_pool2d_grad


class _AveragePool2d(_Pool2d):
    __props__ = ("size", "stride", "padding", "ceil_mode", "include_padding")

    def __init__(
        self,
        size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        ceil_mode: bool,
        include_padding: bool,
    ) -> None:
        super().__init__(size, stride, padding, ceil_mode)
        self.include_padding = include_padding


class AveragePool2d(_AveragePool2d):
    """Mean over windows, counting the padding in the mean or not."""

    def make_node(self, x: Variable) -> Apply:
        return Apply(self, [x], [tensor_type(x, self.output_shape(x))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        arguments = (self.size, self.stride, self.padding, self.ceil_mode, self.include_padding)
        return lambda x: torch.ops.aten.avg_pool2d.default(x, *arguments)

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        grad = AveragePool2dGrad(self.size, self.stride, self.padding, self.ceil_mode, self.include_padding)
        return [grad(inputs[0], cotangents[0])]


class AveragePool2dGrad(_AveragePool2d):
    """Spreads each cotangent evenly over its window."""

    def make_node(self, x: Variable, gy: Variable) -> Apply:
        return Apply(self, [x, gy], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        arguments = (self.size, self.stride, self.padding, self.ceil_mode, self.include_padding, None)
        return lambda x, gy: torch.ops.aten.avg_pool2d_backward.default(gy.to(x.dtype), x, *arguments)

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        pool = AveragePool2d(self.size, self.stride, self.padding, self.ceil_mode, self.include_padding)
        return [inputs[0].zeros_like(), pool(cotangents[0])]


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
        On both sides, at most half the window: minus infinity for the maximum, zeros for a mean.
    mode : {"max", "average_inc_pad", "average_exc_pad"}
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
    x = pt.as_tensor_variable(x)
    expect(x.ndim == 4, "pool2d", "images", "4 dimensions (n, channels, height, width)", x.type)
    expect(mode in POOL_MODES, "pool2d", "mode", f"one of {', '.join(POOL_MODES)}", repr(mode))
    window = pair(size, "pool2d", "size")
    steps = window if stride is None else pair(stride, "pool2d", "stride")
    pad = pair(padding, "pool2d", "padding")
    expect(min(*window, *steps) >= 1, "pool2d", "size and stride", "at least 1", (window, steps))
    expect(
        all(0 <= 2 * p <= k for p, k in zip(pad, window, strict=True)),
        "pool2d",
        "padding",
        f"at most half the window {window}",
        pad,
    )
    if mode == "max":
        return MaxPool2d(window, steps, pad, bool(ceil_mode))(x)
    return AveragePool2d(window, steps, pad, bool(ceil_mode), mode == "average_inc_pad")(x)
