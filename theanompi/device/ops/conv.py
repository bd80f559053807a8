"""Convolutions of one to three spatial dimensions, transposed ones, and their gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from theanompi.device.ops import columns
from theanompi.device.ops.base import AXES, Context, Sizes, TorchOp, Variables, each, expect, tensor_type

_ENOUGH = 16


def _sixteen(x: torch.Tensor, w: torch.Tensor, stride: Sizes, padding: Sizes, groups: int) -> bool:
    """Whether pixels are handed over as if of sixteen images, which a convolution of 1 x 1 cannot tell apart.

    ATen computes such a convolution of fewer images by itself where one thread computes, and leaves it to
    oneDNN, which is a sixth faster, from sixteen images on (``benchmarks/NOTES.md``). A function of shapes
    alone, so that every run computes the same bits.
    """
    n, _, height, width = x.shape
    return (
        n < _ENOUGH
        and n * height * width % _ENOUGH == 0
        and w.shape[2:] == (1, 1)
        and stride == (1, 1)
        and padding == (0, 0)
        and groups == 1
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _reshaped(x: torch.Tensor, n: int, height: int) -> torch.Tensor:
    """The same pixels as those of `n` images with `height` rows: a view where they are channels last."""
    return x.permute(0, 2, 3, 1).reshape(n, height, -1, x.shape[1]).permute(0, 3, 1, 2)


def _connected(cotangent: Variable, like: Variable) -> Variable:
    """`cotangent`, or zeros where the cost does not depend on the output `like`."""
    return pt.zeros_like(like) if isinstance(cotangent.type, DisconnectedType) else cotangent


class _Geometric(TorchOp):
    """What the ops of convolutions are told, and what they expect."""

    __props__: tuple[str, ...] = ("stride", "padding", "dilation", "groups")
    word = "conv"

    def __init__(self, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int) -> None:
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.geometry = stride, padding, dilation, groups
        self.axes = len(stride)
        self.called = f"{self.word}{self.axes}d"

    def expect_operands(self, x: Variable, w: Variable, order: str) -> None:
        """Expect images and filters of one dtype, with the axes that they have."""
        ndim, along = self.axes + 2, AXES[self.axes]
        expect(x.ndim == ndim, self.called, "images", f"{ndim} dimensions (n, channels, {along})", x.type)
        expect(w.ndim == ndim, self.called, "filters", f"{ndim} dimensions ({order}, {along})", w.type)
        expect(x.dtype == w.dtype, self.called, "filters", f"the dtype of the images, {x.dtype}", w.dtype)

    def expect_size(self, size: Sequence[int | None], x: Variable, w: Variable) -> None:
        """Expect an output of one pixel or more."""
        expect(
            all(s is None or s > 0 for s in size),
            self.called,
            "output size",
            f"at least {' x '.join('1' * self.axes)}",
            f"{size} from images {[*x.type.shape[2:]]} and filters {[*w.type.shape[2:]]}",
        )


class Convolution(_Geometric):
    """Cross-correlation of images with filters (torch's convention: the filters are not flipped)."""

    def make_node(self, x: Any, w: Any) -> Apply:
        x, w = pt.as_tensor_variable(x), pt.as_tensor_variable(w)
        op = self.called
        self.expect_operands(x, w, "out, in")
        n, channels, *image = x.type.shape
        out, in_per_group, *kernel = w.type.shape
        if out is not None:
            expect(out % self.groups == 0, op, "output channels", f"a multiple of {self.groups} groups", out)
        if channels is not None and in_per_group is not None:
            expect(
                channels == in_per_group * self.groups,
                op,
                "input channels",
                f"{in_per_group * self.groups} as the filters have ({in_per_group} x {self.groups} groups)",
                channels,
            )
        size = [
            None if i is None or k is None else (i + 2 * p - d * (k - 1) - 1) // s + 1
            for i, k, p, s, d in zip(image, kernel, self.padding, self.stride, self.dilation, strict=True)
        ]
        self.expect_size(size, x, w)
        return Apply(self, [x, w], [tensor_type(x, (n, out, *size))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        stride, padding, dilation, groups = self.stride, self.padding, self.dilation, self.groups
        if self.axes != 2:
            convolve: Callable[..., torch.Tensor] = torch.conv1d if self.axes == 1 else torch.conv3d
            return lambda x, w: convolve(*context.compute(x, w), None, stride, padding, dilation, groups)

        def conv2d(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            x, w = context.compute(x, w)
            height, width = (
                (x.shape[i + 2] + 2 * padding[i] - dilation[i] * (w.shape[i + 2] - 1) - 1) // stride[i] + 1
                for i in (0, 1)
            )
            if columns.pays(x, w, height, width, groups)[0]:
                return columns.forward(x, w, (height, width), stride, padding, dilation)
            if _sixteen(x, w, stride, padding, groups):
                return _reshaped(torch.conv2d(_reshaped(x, _ENOUGH, 1), w), x.shape[0], height)
            return torch.conv2d(x, w, None, stride, padding, dilation, groups)

        return conv2d

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        (gy,) = cotangents
        return ConvolutionGrad(*self.geometry)(*inputs, gy)


class ConvolutionGrad(_Geometric):
    """Both gradients of :class:`Convolution` at once, as torch's convolution backward computes them."""

    destinations = (1,)

    def make_node(self, x: Variable, w: Variable, gy: Variable) -> Apply:
        return Apply(self, [x, w, gy], [x.type(), w.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        backward = torch.ops.aten.convolution_backward.default
        geometry, groups = (self.stride, self.padding, self.dilation), self.groups
        two, nothing = self.axes == 2, (0,) * self.axes

        def convolution_grad(
            x: torch.Tensor, w: torch.Tensor, gy: torch.Tensor, into: torch.Tensor | None = None
        ) -> tuple[Any, Any]:
            x, w, gy = context.compute(x, w, gy)
            of_images, of_filters = context.used
            gx = gw = None
            if two:
                images_pay, filters_pay = columns.pays(x, w, gy.shape[2], gy.shape[3], groups)
                if of_images and images_pay:
                    gx, of_images = columns.backward_images(x, w, gy, *geometry), False
                if of_filters and filters_pay:
                    gw, of_filters = columns.backward_filters(x, w, gy, *geometry, into), False
            if of_images or of_filters:
                n, height = x.shape[0], x.shape[2]
                sixteen = two and _sixteen(x, w, self.stride, self.padding, groups)
                if sixteen:
                    x, gy = _reshaped(x, _ENOUGH, 1), _reshaped(gy, _ENOUGH, 1)
                wanted = (of_images, of_filters, False)
                images, filters, _ = backward(gy, x, w, None, *geometry, False, nothing, groups, wanted)
                if of_images:
                    gx = _reshaped(images, n, height) if sixteen else images
                if of_filters:
                    gw = filters if into is None else into.copy_(filters)
            return gx, gw

        return convolution_grad

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        x, w, gy = inputs
        ggx, ggw = (_connected(g, like) for g, like in zip(cotangents, (x, w), strict=True))
        conv = Convolution(*self.geometry)
        return [self(x, ggw, gy)[0], self(ggx, w, gy)[1], conv(ggx, w) + conv(x, ggw)]


class TransposedConvolution(_Geometric):
    """The linear map that is the transpose of :class:`Convolution`: its gradient with respect to images."""

    __props__ = ("stride", "padding", "dilation", "groups", "extra")
    word = "transposed_conv"

    def __init__(self, stride: Sizes, padding: Sizes, dilation: Sizes, groups: int, extra: Sizes) -> None:
        super().__init__(stride, padding, dilation, groups)
        self.extra = extra

    def make_node(self, x: Any, w: Any) -> Apply:
        x, w = pt.as_tensor_variable(x), pt.as_tensor_variable(w)
        op = self.called
        self.expect_operands(x, w, "in, out")
        n, channels, *image = x.type.shape
        in_channels, out_per_group, *kernel = w.type.shape
        if channels is not None and in_channels is not None:
            expect(channels == in_channels, op, "input channels", f"{in_channels} as the filters", channels)
        if channels is not None:
            expect(channels % self.groups == 0, op, "channels", f"a multiple of {self.groups}", channels)
        size = [
            None if i is None or k is None else (i - 1) * s - 2 * p + d * (k - 1) + 1 + e
            for i, k, s, p, d, e in zip(
                image, kernel, self.stride, self.padding, self.dilation, self.extra, strict=True
            )
        ]
        self.expect_size(size, x, w)
        out = None if out_per_group is None else out_per_group * self.groups
        return Apply(self, [x, w], [tensor_type(x, (n, out, *size))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        stride, padding, dilation = self.stride, self.padding, self.dilation
        groups, extra = self.groups, self.extra

        def transposed_convolution(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            x, w = context.compute(x, w)
            return torch.convolution(x, w, None, stride, padding, dilation, True, extra, groups)

        return transposed_convolution

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        x, w = inputs
        (gy,) = cotangents
        return [Convolution(*self.geometry)(gy, w), ConvolutionGrad(*self.geometry)(gy, w, x)[1]]


def _conv(
    kind: type[_Geometric], axes: int, x: Variable, w: Variable, groups: int, *geometry: Any
) -> Variable:
    """Apply an op of convolutions that is told `geometry`: stride, padding, dilation, and `extra` if it takes that."""
    name = f"{kind.word}{axes}d"
    words = ("stride", "padding", "dilation", "extra")
    told = {what: each(value, axes, name, what) for what, value in zip(words, geometry, strict=False)}
    stride, padding, dilation, *more = told.values()
    for what, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
        expect(min(told[what]) >= least, name, what, f"at least {least}", told[what])
    expect(groups >= 1, name, "groups", "at least 1", (groups,))
    for extra in more:
        fits = all(0 <= e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True))
        expect(fits, name, "extra", f"at least 0 and less than the stride {stride}", extra)
    return kind(stride, padding, dilation, int(groups), *more)(x, w)


def conv1d(
    x: Variable,
    w: Variable,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Variable:
    """Cross-correlate signals, shape (n, c, length), with filters, shape (out, c / groups, k): see `conv2d`."""
    return _conv(Convolution, 1, x, w, groups, stride, padding, dilation)


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
    return _conv(Convolution, 2, x, w, groups, stride, padding, dilation)


def conv3d(
    x: Variable,
    w: Variable,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Variable:
    """Cross-correlate volumes, shape (n, c, d, h, w), with filters, (out, c / groups, kd, kh, kw): see `conv2d`."""
    return _conv(Convolution, 3, x, w, groups, stride, padding, dilation)


def transposed_conv(
    x: Variable,
    w: Variable,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    extra: int | Sequence[int] = 0,
) -> Variable:
    """Multiply by the transpose of a convolution: what its gradient with respect to its images is.

    Parameters
    ----------
    x : float tensor, shape (n, c, …)
        Of one to three spatial dimensions: what the convolution would give.
    w : float tensor, shape (c, out / groups, …)
        The filters of that convolution.
    stride, padding, dilation, groups : int or sequence of int
        Those of the convolution.
    extra : int or sequence of int
        How much longer the output is than the shortest that the convolution would make `x` of; less than the
        stride or the dilation.

    Returns
    -------
    float tensor, shape (n, out, …)
        Each axis of length (length − 1)·stride − 2·padding + dilation·(k − 1) + 1 + extra.

    Raises
    ------
    ValueError
        If channels, dimensions, dtypes or a number do not fit.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> x = pt.tensor("x", dtype="float32", shape=(2, 4, 4, 4))
    >>> w = pt.tensor("w", dtype="float32", shape=(4, 3, 3, 3))
    >>> transposed_conv(x, w, stride=2, padding=1, extra=1).type.shape
    (2, 3, 8, 8)
    """
    x = pt.as_tensor_variable(x)
    expect(x.ndim - 2 in AXES, "transposed_conv", "images", "3 to 5 dimensions (n, channels, …)", x.type)
    return _conv(TransposedConvolution, x.ndim - 2, x, w, groups, stride, padding, dilation, extra)
