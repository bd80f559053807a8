"""Two-dimensional convolution and its gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from theanompi.device.ops import columns
from theanompi.device.ops.base import Context, TorchOp, expect, pair, tensor_type


def _connected(cotangent: Variable, like: Variable) -> Variable:
    """`cotangent`, or zeros where the cost does not depend on the output `like`."""
    return pt.zeros_like(like) if isinstance(cotangent.type, DisconnectedType) else cotangent


class Conv2d(TorchOp):
    """Cross-correlation of images with filters (torch's convention: the filters are not flipped)."""

    __props__ = ("stride", "padding", "dilation", "groups")

    def __init__(
        self, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int
    ) -> None:
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def make_node(self, x: Any, w: Any) -> Apply:
        x, w = pt.as_tensor_variable(x), pt.as_tensor_variable(w)
        expect(x.ndim == 4, "conv2d", "images", "4 dimensions (n, channels, height, width)", x.type)
        expect(w.ndim == 4, "conv2d", "filters", "4 dimensions (out, in, height, width)", w.type)
        expect(x.dtype == w.dtype, "conv2d", "filters", f"the dtype of the images, {x.dtype}", w.dtype)
        n, channels, *image = x.type.shape
        out, in_per_group, *kernel = w.type.shape
        if out is not None:
            expect(
                out % self.groups == 0,
                "conv2d",
                "output channels",
                f"a multiple of {self.groups} groups",
                out,
            )
        if channels is not None and in_per_group is not None:
            expect(
                channels == in_per_group * self.groups,
                "conv2d",
                "input channels",
                f"{in_per_group * self.groups} as the filters have ({in_per_group} x {self.groups} groups)",
                channels,
            )
        size = [
            None if i is None or k is None else (i + 2 * p - d * (k - 1) - 1) // s + 1
            for i, k, p, s, d in zip(image, kernel, self.padding, self.stride, self.dilation, strict=True)
        ]
        expect(
            all(s is None or s > 0 for s in size),
            "conv2d",
            "output size",
            "at least 1 x 1",
            f"{size} from images {image} and filters {kernel}",
        )
        return Apply(self, [x, w], [tensor_type(x, (n, out, *size))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        stride, padding, dilation, groups = self.stride, self.padding, self.dilation, self.groups

        def conv2d(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            x, w = context.compute(x, w)
            height, width = (
                (x.shape[i + 2] + 2 * padding[i] - dilation[i] * (w.shape[i + 2] - 1) - 1) // stride[i] + 1
                for i in (0, 1)
            )
            if columns.pays(x, w, height, width, groups):
                return columns.forward(x, w, (height, width), stride, padding, dilation)
            return torch.conv2d(x, w, None, stride, padding, dilation, groups)

        return conv2d

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        (gy,) = cotangents
        return Conv2dGrad(self.stride, self.padding, self.dilation, self.groups)(*inputs, gy)


class Conv2dGrad(TorchOp):
    """Both gradients of :class:`Conv2d` at once, as torch's convolution backward computes them."""

    __props__ = ("stride", "padding", "dilation", "groups")
    destinations = (1,)

    def __init__(
        self, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int
    ) -> None:
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def make_node(self, x: Variable, w: Variable, gy: Variable) -> Apply:
        return Apply(self, [x, w, gy], [x.type(), w.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        backward = torch.ops.aten.convolution_backward.default
        geometry, groups, used = (self.stride, self.padding, self.dilation), self.groups, context.used

        def conv2d_grad(
            x: torch.Tensor, w: torch.Tensor, gy: torch.Tensor, into: torch.Tensor | None = None
        ) -> tuple[Any, Any]:
            x, w, gy = context.compute(x, w, gy)
            if columns.pays(x, w, gy.shape[2], gy.shape[3], groups):
                gw = columns.backward_filters(x, w, gy, *geometry, into) if used[1] else None
                return columns.backward_images(x, w, gy, *geometry) if used[0] else None, gw
            gx, gw, _ = backward(gy, x, w, None, *geometry, False, (0, 0), groups, (*used, False))
            return gx, gw if into is None else into.copy_(gw)

        return conv2d_grad

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        x, w, gy = inputs
        ggx, ggw = (_connected(g, like) for g, like in zip(cotangents, (x, w), strict=True))
        conv = Conv2d(self.stride, self.padding, self.dilation, self.groups)
        return [self(x, ggw, gy)[0], self(ggx, w, gy)[1], conv(ggx, w) + conv(x, ggw)]


def conv2d(
    x: Variable,
    w: Variable,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Variable:
    """Cross-correlate images with filters.

    Parameters
    ----------
    x : float tensor, shape (n, c, h, w)
    w : float tensor, shape (out, c / groups, kh, kw)
    stride, padding, dilation : int or (int, int)
        In rows and columns; the padding is of zeros, on both sides.
    groups : int

    Returns
    -------
    float tensor, shape (n, out, h', w')
        With h' = ⌊(h + 2·padding − dilation·(kh − 1) − 1) / stride⌋ + 1.

    Raises
    ------
    ValueError
        If channels, dimensions, dtypes or a number do not fit.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> x = pt.tensor("x", dtype="float32", shape=(2, 3, 8, 8))
    >>> w = pt.tensor("w", dtype="float32", shape=(4, 3, 3, 3))
    >>> conv2d(x, w, stride=2, padding=1).type.shape
    (2, 4, 4, 4)
    """
    op = Conv2d(
        pair(stride, "conv2d", "stride"),
        pair(padding, "conv2d", "padding"),
        pair(dilation, "conv2d", "dilation"),
        int(groups),
    )
    for what, values, least in (
        ("stride", op.stride, 1),
        ("padding", op.padding, 0),
        ("dilation", op.dilation, 1),
        ("groups", (op.groups,), 1),
    ):
        expect(min(values) >= least, "conv2d", what, f"at least {least}", values)
    return op(x, w)
