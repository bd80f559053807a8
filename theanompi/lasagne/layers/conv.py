"""Convolutional layers."""

from collections.abc import Callable, Sequence
from typing import Any

from pytensor.graph.basic import Variable

from theanompi.device import ops
from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.dense import add_bias_axes
from theanompi.lasagne.theano_extensions import conv
from theanompi.lasagne.utils import Shape, as_tuple

__all__ = [
    "BaseConvLayer",
    "Conv1DLayer",
    "Conv2DLayer",
    "Conv3DLayer",
    "Deconv2DLayer",
    "Deconv3DLayer",
    "DilatedConv2DLayer",
    "TransposedConv2DLayer",
    "TransposedConv3DLayer",
    "conv_input_length",
    "conv_output_length",
]

AXES = {1: "length", 2: "rows, columns", 3: "rows, columns, depth"}
"""How the spatial axes of one to three dimensions are called."""

Sizes = int | Sequence[int]


def conv_output_length(input_length: Any, filter_size: int, stride: int, pad: int | str = 0) -> Any:
    """Compute the length of a convolution's output along one axis.

    Parameters
    ----------
    input_length : int or None
    filter_size, stride : int
    pad : int, 'valid', 'same' or 'full'
        Zeros on each side; ``'same'`` is half the filter, on the second side one less if it is even.

    Returns
    -------
    int or None
        None for an unknown input.

    Raises
    ------
    ValueError
        If `pad` is none of these.

    Examples
    --------
    >>> conv_output_length(224, 7, 2, "same"), conv_output_length(None, 3, 1)
    (112, None)
    """
    if input_length is None:
        return None
    both = filter_size - 1 if pad == "same" else 2 * _pad(filter_size, pad)
    return (input_length + both - filter_size) // stride + 1


def conv_input_length(output_length: Any, filter_size: int, stride: int, pad: int | str = 0) -> Any:
    """Compute the least length of a convolution's input along one axis that gives an output of some length.

    Parameters
    ----------
    output_length : int or None
    filter_size, stride : int
    pad : int, 'valid', 'same' or 'full'
        Zeros on each side; ``'same'`` is half the filter.

    Returns
    -------
    int or None
        None for an unknown output. Up to stride − 1 more give the same output.

    Raises
    ------
    ValueError
        If `pad` is none of these.

    Examples
    --------
    >>> conv_input_length(112, 7, 2, "same")
    223
    """
    if output_length is None:
        return None
    return (output_length - 1) * stride - 2 * _pad(filter_size, pad) + filter_size


def _pad(filter_size: int, pad: int | str) -> int:
    """Zeros on each side."""
    if not isinstance(pad, str):
        return pad
    if pad not in ("valid", "same", "full"):
        raise ValueError(f"expected pad 'valid', 'same', 'full' or an integer, got {pad!r}")
    return {"valid": 0, "same": filter_size // 2, "full": filter_size - 1}[pad]


class BaseConvLayer(Layer):
    """What convolutional layers share: a subclass defines :meth:`convolve`.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, …), with `n` more axes.
    num_filters : int
    filter_size, stride, dilation : int or sequence of int
        For all spatial axes, or for each.
    pad : int, sequence of int, 'valid', 'same' or 'full'
        Zeros on each side. ``'valid'`` is 0; ``'same'`` keeps the image's size at stride 1 (odd filters
        only); ``'full'`` takes every position where filter and image overlap.
    untie_biases : bool
        A bias for every pixel, instead of one for every filter.
    W : initialiser, number, array or variable
        Of the shape that :meth:`get_W_shape` gives.
    b : the same, or None
        Of shape (num_filters,), or that of an output if untied; not regularizable. None for no bias.
    nonlinearity : callable or None
        None for a linear layer.
    flip_filters : bool
        True slides the filters mirrored: a convolution, as in mathematics. False is a cross-correlation, as in
        other libraries. Weights are exchangeable only between layers that agree.
    num_groups : int
        Split channels and filters into groups that do not see each other.
    n : int, optional
        How many spatial axes there are; by default as many as the input has.
    name : str, optional

    Raises
    ------
    ValueError
        If the input has other dimensions or unknown channels, does not divide into the groups, is smaller than
        the filters, or `pad` does not fit.
    """

    def __init__(
        self,
        incoming: Incoming,
        num_filters: int,
        filter_size: Sizes,
        stride: Sizes = 1,
        pad: Sizes | str = 0,
        untie_biases: bool = False,
        W: Any = init.GlorotUniform(),  # noqa: B008 - holds no state
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        flip_filters: bool = True,
        num_groups: int = 1,
        n: int | None = None,
        dilation: Sizes = 1,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.n = len(self.input_shape) - 2 if n is None else n
        self.num_filters = num_filters
        self.filter_size = as_tuple(filter_size, self.n, int)
        self.stride = as_tuple(stride, self.n, int)
        self.dilation = as_tuple(dilation, self.n, int)
        if pad == "same" and any(size % 2 == 0 for size in self.filter_size):
            raise ValueError(f"{self}: pad='same' expects odd filter sizes, got {self.filter_size}")
        if isinstance(pad, str) and pad not in ("valid", "same", "full"):
            raise ValueError(f"{self}: expected pad 'valid', 'same', 'full' or integers, got {pad!r}")
        self.pad: Any = (
            pad if pad in ("same", "full") else as_tuple(0 if pad == "valid" else pad, self.n, int)
        )
        self.untie_biases = untie_biases
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity
        self.flip_filters = flip_filters
        self.num_groups = num_groups
        if len(self.input_shape) != self.n + 2 or self.input_shape[1] is None:
            raise ValueError(
                f"{self}: expected an input (n, channels, {AXES.get(self.n, '…')}), got {self.input_shape}"
            )
        channels = self.input_shape[1]
        if num_groups < 1 or channels % num_groups or num_filters % num_groups:
            raise ValueError(
                f"{self}: expected channels and filters divisible by num_groups={num_groups}, "
                f"got {channels} channels and {num_filters} filters"
            )
        if any(size is not None and size <= 0 for size in self.output_shape):
            raise ValueError(
                f"{self}: expected an image no smaller than the filters, got shape {self.input_shape} "
                f"for filters of {self.filter_size}, dilation {self.dilation}, pad {self.pad}"
            )
        self.W = self.add_param(W, self.get_W_shape(), name="W")
        bias_shape = self.output_shape[1:] if untie_biases else (num_filters,)
        self.b = None if b is None else self.add_param(b, bias_shape, name="b", regularizable=False)

    def get_W_shape(self) -> Shape:  # noqa: N802 - Lasagne's name
        """Get the shape of the filters: (num_filters, channels / num_groups, …)."""
        return (self.num_filters, self.input_shape[1] // self.num_groups, *self.filter_size)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Compute (n, num_filters, …)."""
        size = [
            conv_output_length(length, d * (f - 1) + 1, s, p)
            for length, f, s, d, p in zip(
                input_shape[2:], self.filter_size, self.stride, self.dilation, self._pads(), strict=True
            )
        ]
        return (input_shape[0], self.num_filters, *size)

    def _pads(self) -> tuple[int | str, ...]:
        return self.pad if isinstance(self.pad, tuple) else (self.pad,) * self.n

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Convolve, add and apply the nonlinearity."""
        activation = self.convolve(input, **kwargs)
        if self.b is not None:
            activation = activation + add_bias_axes(self.b, self.n + 2)
        return self.nonlinearity(activation)

    def convolve(self, input: Any, **kwargs: Any) -> Any:
        """Build the convolution alone, without bias and nonlinearity.

        Parameters
        ----------
        input : pytensor variable
        **kwargs
            What :meth:`get_output_for` was given.

        Returns
        -------
        pytensor variable
        """
        raise NotImplementedError(f"{type(self).__name__} does not define convolve()")


class _PlainConvLayer(BaseConvLayer):
    """A convolution by a function with the arguments of Theano's; a subclass says of how many axes."""

    n: int
    default_convolution: Callable[..., Any]

    def __init__(
        self,
        incoming: Incoming,
        num_filters: int,
        filter_size: Sizes,
        stride: Sizes = 1,
        pad: Sizes | str = 0,
        untie_biases: bool = False,
        W: Any = init.GlorotUniform(),  # noqa: B008
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        flip_filters: bool = True,
        convolution: Callable[..., Any] | None = None,
        num_groups: int = 1,
        dilation: Sizes = 1,
        name: str | None = None,
    ):
        self.convolution = type(self).default_convolution if convolution is None else convolution
        super().__init__(
            incoming,
            num_filters,
            filter_size,
            stride,
            pad,
            untie_biases,
            W,
            b,
            nonlinearity,
            flip_filters,
            num_groups,
            n=self.n,
            dilation=dilation,
            name=name,
        )

    def convolve(self, input: Any, **kwargs: Any) -> Any:
        """Convolve."""
        # What is as usual is not mentioned: a function of the user's may not know of it.
        more: dict[str, Any] = {} if self.num_groups == 1 else {"num_groups": self.num_groups}
        if any(distance != 1 for distance in self.dilation):
            more["filter_dilation"] = self.dilation
        return self.convolution(
            input,
            self.W,
            self.input_shape,
            self.get_W_shape(),
            subsample=self.stride,
            border_mode="half" if self.pad == "same" else self.pad,
            filter_flip=self.flip_filters,
            **more,
        )


class Conv1DLayer(_PlainConvLayer):
    """One-dimensional convolution: nonlinearity(x ∗ W + b).

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, length).
    num_filters, filter_size, stride, pad, untie_biases, W, b, nonlinearity, flip_filters, num_groups, dilation, name
        As for :class:`Conv2DLayer`, with one spatial axis.
    convolution : callable, optional
        A function with the arguments of :func:`theanompi.lasagne.theano_extensions.conv.conv1d_mc0`, the default.

    Examples
    --------
    >>> layer = Conv1DLayer((None, 3, 100), num_filters=8, filter_size=5, pad="same")
    >>> layer.output_shape, layer.W.type.shape
    ((None, 8, 100), (8, 3, 5))
    """

    n = 1
    default_convolution = staticmethod(conv.conv1d_mc0)


class Conv2DLayer(_PlainConvLayer):
    """Two-dimensional convolution: nonlinearity(x ∗ W + b).

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns).
    num_filters : int
    filter_size, stride, dilation : int or tuple of two
        In rows and columns.
    pad : int, tuple of two, 'valid', 'same' or 'full'
        Zeros on each side. ``'valid'`` is 0; ``'same'`` keeps the image's size at stride 1 (odd filters
        only); ``'full'`` takes every position where filter and image overlap.
    untie_biases : bool
        A bias for every pixel, instead of one for every filter.
    W : initialiser, number, array or variable
        Of shape (num_filters, channels / num_groups, rows, columns).
    b : the same, or None
        Of shape (num_filters,), or (num_filters, rows, columns) if untied; not regularizable.
        None for no bias.
    nonlinearity : callable or None
        None for a linear layer.
    flip_filters : bool
        True (Lasagne's default) slides the filters mirrored in rows and columns: a convolution, as in
        mathematics. False is a cross-correlation, as in other libraries: faster, and equivalent for
        filters that are learnt. Weights are exchangeable only between layers that agree.
    convolution : callable, optional
        A function with the arguments of :func:`theanompi.lasagne.theano_extensions.conv.conv2d`, the default.
    num_groups : int
        Split channels and filters into groups that do not see each other.
    name : str, optional

    Raises
    ------
    ValueError
        If the input is not 4-D with known channels, does not divide into the groups, is smaller than the
        filters, or `pad` does not fit.

    Examples
    --------
    >>> layer = Conv2DLayer((None, 3, 224, 224), 64, filter_size=7, stride=2, pad="same", name="conv1")
    >>> layer.output_shape, layer.W.name, layer.W.type.shape
    ((None, 64, 112, 112), 'conv1.W', (64, 3, 7, 7))
    """

    n = 2
    default_convolution = staticmethod(conv.conv2d)


class Conv3DLayer(_PlainConvLayer):
    """Three-dimensional convolution: nonlinearity(x ∗ W + b).

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns, depth).
    num_filters, filter_size, stride, pad, untie_biases, W, b, nonlinearity, flip_filters, num_groups, dilation, name
        As for :class:`Conv2DLayer`, with three spatial axes.
    convolution : callable, optional
        A function with the arguments of :func:`theanompi.lasagne.theano_extensions.conv.conv3d`, the default.

    Examples
    --------
    >>> Conv3DLayer((None, 3, 8, 8, 8), num_filters=4, filter_size=3).output_shape
    (None, 4, 6, 6, 6)
    """

    n = 3
    default_convolution = staticmethod(conv.conv3d)


class _TransposedConvLayer(BaseConvLayer):
    """What the transposed convolutions share; a subclass says how many axes there are."""

    n: int

    def __init__(
        self,
        incoming: Incoming,
        num_filters: int,
        filter_size: Sizes,
        stride: Sizes = 1,
        crop: Sizes | str = 0,
        untie_biases: bool = False,
        W: Any = init.GlorotUniform(),  # noqa: B008
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        flip_filters: bool = False,
        output_size: Any = None,
        name: str | None = None,
    ):
        symbolic = output_size is None or isinstance(output_size, Variable)
        self.output_size = output_size if symbolic else as_tuple(output_size, self.n, int)
        super().__init__(
            incoming,
            num_filters,
            filter_size,
            stride,
            crop,
            untie_biases,
            W,
            b,
            nonlinearity,
            flip_filters,
            n=self.n,
            name=name,
        )
        self.crop = self.pad
        for axis, more_than_least in enumerate(self._extra(self.input_shape)):
            if more_than_least is not None and not 0 <= more_than_least < self.stride[axis]:
                least = self._least(self.input_shape)[axis]
                raise ValueError(
                    f"{self}: expected an output_size in [{least}, {least + self.stride[axis]}) along spatial axis "
                    f"{axis}, got {self.output_size}"
                )

    def get_W_shape(self) -> Shape:  # noqa: N802
        """Get the shape of the filters: (channels, num_filters, …), unlike those of a convolution."""
        return (self.input_shape[1], self.num_filters, *self.filter_size)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Compute (n, num_filters, …)."""
        size: Sequence[int | None] = self._least(input_shape)
        if self.output_size is not None:
            size = (None,) * self.n if isinstance(self.output_size, Variable) else self.output_size
        return (input_shape[0], self.num_filters, *size)

    def _least(self, input_shape: Shape) -> list[int | None]:
        """The sizes that the output has at least."""
        return [
            conv_input_length(length, f, s, p)
            for length, f, s, p in zip(
                input_shape[2:], self.filter_size, self.stride, self._pads(), strict=True
            )
        ]

    def _extra(self, input_shape: Shape) -> list[int | None]:
        """How much longer than that it is; None where only the device will know."""
        if self.output_size is None:
            return [0] * self.n
        if isinstance(self.output_size, Variable):
            return [None] * self.n
        return [
            None if least is None else size - least
            for size, least in zip(self.output_size, self._least(input_shape), strict=True)
        ]

    def convolve(self, input: Any, **kwargs: Any) -> Any:
        """Multiply by the transpose of the convolution."""
        filters = self.W if self.flip_filters else conv.flipped(self.W)
        pads = [_pad(f, p) for f, p in zip(self.filter_size, self._pads(), strict=True)]
        extra = self._extra(input.type.shape)
        # A longer output begins with the shorter one: make the longest and cut it where the size is not known here.
        most = [s - 1 if e is None else e for e, s in zip(extra, self.stride, strict=True)]
        output = ops.transposed_conv(input, filters, self.stride, pads, extra=most)
        if None not in extra:
            return output
        return output[(slice(None),) * 2 + tuple(slice(self.output_size[axis]) for axis in range(self.n))]


class TransposedConv2DLayer(_TransposedConvLayer):
    """The transpose of a two-dimensional convolution, also called deconvolution [1]_: it enlarges by the stride.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns): what the convolution would give.
    num_filters : int
        How many channels the output has.
    filter_size, stride : int or tuple of two
        Those of the convolution.
    crop : int, tuple of two, 'valid', 'same' or 'full'
        The convolution's padding: so much is cut off from each side of the output.
    untie_biases, b, nonlinearity
        As for :class:`Conv2DLayer`.
    W : initialiser, number, array or variable
        Of shape (channels, num_filters, rows, columns).
    flip_filters : bool
        False (Lasagne's default) correlates the spread input with the filters as they are; True mirrors them,
        which makes this the transpose of a :class:`Conv2DLayer` with ``flip_filters=False``.
    output_size : int, tuple of two or integer vector, optional
        Rows and columns of the output, where there are several that the convolution makes the input of. By
        default the fewest.
    name : str, optional

    Raises
    ------
    ValueError
        If the input is not 4-D with known channels, or `crop` or `output_size` does not fit.

    References
    ----------
    .. [1] V. Dumoulin and F. Visin (2016): A guide to convolution arithmetic for deep learning.
       arXiv:1603.07285, chapter 4.

    Examples
    --------
    >>> TransposedConv2DLayer((None, 64, 8, 8), 32, 5, stride=2, crop=2, output_size=16).output_shape
    (None, 32, 16, 16)
    """

    n = 2


Deconv2DLayer = TransposedConv2DLayer


class TransposedConv3DLayer(_TransposedConvLayer):
    """The transpose of a three-dimensional convolution.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns, depth).
    num_filters, filter_size, stride, crop, untie_biases, W, b, nonlinearity, flip_filters, output_size, name
        As for :class:`TransposedConv2DLayer`, with three spatial axes.

    Examples
    --------
    >>> TransposedConv3DLayer((None, 8, 4, 4, 4), 4, 2, stride=2).output_shape
    (None, 4, 8, 8, 8)
    """

    n = 3


Deconv3DLayer = TransposedConv3DLayer


class DilatedConv2DLayer(BaseConvLayer):
    """Two-dimensional cross-correlation with filters whose taps are apart [1]_.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns).
    num_filters : int
    filter_size : int or tuple of two
    dilation : int or tuple of two
        The distance of neighbouring taps, in rows and columns.
    pad : int, tuple of two or 'valid'
        0, as in Lasagne: put a :class:`PadLayer` before it, or use :class:`Conv2DLayer` with ``dilation``.
    untie_biases, b, nonlinearity, name
        As for :class:`Conv2DLayer`.
    W : initialiser, number, array or variable
        Of shape (channels, num_filters, rows, columns): as in Lasagne, unlike :class:`Conv2DLayer`'s.
    flip_filters : bool
        False, as in Lasagne.

    Raises
    ------
    NotImplementedError
        If `pad` or `flip_filters` is something else.
    ValueError
        If the input is not 4-D with known channels or smaller than the filters.

    References
    ----------
    .. [1] F. Yu and V. Koltun (2016): Multi-scale context aggregation by dilated convolutions. arXiv:1511.07122.

    Examples
    --------
    >>> layer = DilatedConv2DLayer((None, 3, 16, 16), 8, 3, dilation=2)
    >>> layer.output_shape, layer.W.type.shape
    ((None, 8, 12, 12), (3, 8, 3, 3))
    """

    def __init__(
        self,
        incoming: Incoming,
        num_filters: int,
        filter_size: Sizes,
        dilation: Sizes = (1, 1),
        pad: Sizes | str = 0,
        untie_biases: bool = False,
        W: Any = init.GlorotUniform(),  # noqa: B008
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        flip_filters: bool = False,
        name: str | None = None,
    ):
        super().__init__(
            incoming,
            num_filters,
            filter_size,
            1,
            pad,
            untie_biases,
            W,
            b,
            nonlinearity,
            flip_filters,
            n=2,
            dilation=dilation,
            name=name,
        )
        if self.pad != (0, 0):
            raise NotImplementedError(f"{self}: expected pad=0, got {pad!r}; put a PadLayer before it")
        if flip_filters:
            raise NotImplementedError(f"{self}: expected flip_filters=False, got {flip_filters}")

    def get_W_shape(self) -> Shape:  # noqa: N802
        """Get the shape of the filters: (channels, num_filters, rows, columns)."""
        return (self.input_shape[1], self.num_filters, *self.filter_size)

    def convolve(self, input: Any, **kwargs: Any) -> Any:
        """Correlate."""
        return ops.conv2d(input, self.W.dimshuffle(1, 0, 2, 3), dilation=self.dilation)
