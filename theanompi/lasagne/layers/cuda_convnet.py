"""The names under which Lasagne has layers that use cuda-convnet, which puts the samples last.

"bc01" is the usual order of axes (n, channels, rows, columns), "c01b" is (channels, rows, columns, n). Here the device
computes in its own order; the layers take and give either, without the limits that cuda-convnet had.
"""

from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt

from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.conv import Conv2DLayer, Sizes
from theanompi.lasagne.layers.pool import MaxPool2DLayer
from theanompi.lasagne.utils import Shape

__all__ = [
    "Conv2DCCLayer",
    "MaxPool2DCCLayer",
    "NINLayer_c01b",
    "ShuffleBC01ToC01BLayer",
    "ShuffleC01BToBC01Layer",
    "bc01_to_c01b",
    "c01b_to_bc01",
]


class ShuffleBC01ToC01BLayer(Layer):
    """Put the samples last: (n, channels, rows, columns) becomes (channels, rows, columns, n).

    Parameters
    ----------
    incoming : Layer or tuple
    name : str, optional

    Examples
    --------
    >>> ShuffleBC01ToC01BLayer((None, 3, 8, 6)).output_shape
    (3, 8, 6, None)
    """

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Put the number of samples last."""
        return (*input_shape[1:], input_shape[0])

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Put the samples last."""
        return input.dimshuffle(1, 2, 3, 0)


class ShuffleC01BToBC01Layer(Layer):
    """Put the samples first: (channels, rows, columns, n) becomes (n, channels, rows, columns).

    Parameters
    ----------
    incoming : Layer or tuple
    name : str, optional

    Examples
    --------
    >>> ShuffleC01BToBC01Layer((3, 8, 6, None)).output_shape
    (None, 3, 8, 6)
    """

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Put the number of samples first."""
        return (input_shape[-1], *input_shape[:-1])

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Put the samples first."""
        return input.dimshuffle(3, 0, 1, 2)


bc01_to_c01b = ShuffleBC01ToC01BLayer
c01b_to_bc01 = ShuffleC01BToBC01Layer


class _EitherOrderLayer(Layer):
    """A layer of images in either order of axes: `inner` is the usual one, which it works by."""

    dimshuffle: bool
    inner: Layer

    def usual(self, shape: Shape) -> Shape:
        """A shape (n, channels, rows, columns), whichever order `shape` has."""
        return shape if self.dimshuffle else (shape[-1], *shape[:-1])

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Compute the shape, in the order of the input's."""
        shape = self.inner.get_output_shape_for(self.usual(input_shape))
        return shape if self.dimshuffle else (*shape[1:], shape[0])

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Compute, in the order of the input's axes."""
        if self.dimshuffle:
            return self.inner.get_output_for(input, **kwargs)
        return self.inner.get_output_for(input.dimshuffle(3, 0, 1, 2), **kwargs).dimshuffle(1, 2, 3, 0)


class Conv2DCCLayer(_EitherOrderLayer):
    """Two-dimensional convolution of images in either order of axes.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns), or (channels, rows, columns, n) without `dimshuffle`.
    num_filters, filter_size, stride, pad, untie_biases, b, nonlinearity, name
        As for :class:`Conv2DLayer`.
    W : initialiser, number, array or variable
        Of shape (num_filters, channels, rows, columns), or (channels, rows, columns, num_filters) without
        `dimshuffle`; by default as :class:`Conv2DLayer`'s are drawn.
    dimshuffle : bool
        The usual order of axes.
    flip_filters : bool
        Mirror the filters; by default they are not.
    partial_sum : int or None
        Of cuda-convnet; without effect.

    Raises
    ------
    ValueError
        As of :class:`Conv2DLayer`.

    Examples
    --------
    >>> layer = Conv2DCCLayer((3, 8, 8, None), 16, 3, dimshuffle=False)
    >>> layer.output_shape, layer.W.type.shape
    ((16, 6, 6, None), (3, 3, 3, 16))
    """

    def __init__(
        self,
        incoming: Incoming,
        num_filters: int,
        filter_size: Sizes,
        stride: Sizes = (1, 1),
        pad: Sizes | str = 0,
        untie_biases: bool = False,
        W: Any = None,
        b: Any = init.Constant(0.0),  # noqa: B008 - holds no state
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        dimshuffle: bool = True,
        flip_filters: bool = False,
        partial_sum: int | None = 1,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.dimshuffle = dimshuffle
        self.partial_sum = partial_sum

        def convolution(W: Any, b: Any) -> Conv2DLayer:
            shape = self.usual(self.input_shape)
            return Conv2DLayer(
                shape,
                num_filters,
                filter_size,
                stride,
                pad,
                untie_biases,
                W,
                b,
                nonlinearity,
                flip_filters,
                name=name,
            )

        plain = convolution(0.0, None)
        shape = plain.get_W_shape()
        if W is None:
            drawn = init.GlorotUniform()(shape)  # type: ignore[arg-type]
            W = drawn if dimshuffle else drawn.transpose(1, 2, 3, 0).copy()
        self.W = self.add_param(W, shape if dimshuffle else (*shape[1:], shape[0]), name="W")
        bias_shape = plain.output_shape[1:] if untie_biases else (num_filters,)
        self.b = None if b is None else self.add_param(b, bias_shape, name="b", regularizable=False)
        self.inner: Conv2DLayer = convolution(self.W if dimshuffle else self.W.dimshuffle(3, 0, 1, 2), self.b)

    @property
    def nonlinearity(self) -> Callable[[Any], Any]:
        """What is applied at last."""
        return self.inner.nonlinearity

    @nonlinearity.setter
    def nonlinearity(self, nonlinearity: Callable[[Any], Any]) -> None:
        self.inner.nonlinearity = nonlinearity

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Convolve, in the order of the input's axes."""
        # A bias that was taken away, as batch_norm does, stays away.
        self.inner.b = self.b
        return super().get_output_for(input, **kwargs)


class MaxPool2DCCLayer(_EitherOrderLayer):
    """Two-dimensional max pooling, windows over the border included, of images in either order of axes.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns), or (channels, rows, columns, n) without `dimshuffle`.
    pool_size, stride, name
        As for :class:`MaxPool2DLayer`.
    ignore_border : bool
        False, as in Lasagne.
    dimshuffle : bool
        The usual order of axes.
    pad : int or tuple of two
        0, as in Lasagne.

    Raises
    ------
    NotImplementedError
        If `ignore_border` or `pad` is something else.
    ValueError
        As of :class:`MaxPool2DLayer`.

    Examples
    --------
    >>> MaxPool2DCCLayer((16, 7, 7, None), 2, dimshuffle=False).output_shape
    (16, 4, 4, None)
    """

    def __init__(
        self,
        incoming: Incoming,
        pool_size: Sizes,
        stride: Sizes | None = None,
        ignore_border: bool = False,
        dimshuffle: bool = True,
        pad: Sizes = 0,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        if ignore_border or pad not in (0, (0, 0)):
            raise NotImplementedError(
                f"{self}: expected ignore_border=False and pad=0, got {ignore_border} and {pad}"
            )
        self.dimshuffle = dimshuffle
        self.inner = MaxPool2DLayer(
            self.usual(self.input_shape), pool_size, stride, ignore_border=False, name=name
        )


class NINLayer_c01b(Layer):  # noqa: N801 - Lasagne's name
    """:class:`NINLayer` of images (channels, rows, columns, n).

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (channels, …, n).
    num_units : int
    untie_biases : bool
        A bias for every pixel, instead of one for every unit.
    W : initialiser, number, array or variable
        Of shape (num_units, channels).
    b : the same, or None
        Of shape (num_units,), or (num_units, …) if untied; not regularizable. None for no bias.
    nonlinearity : callable or None
        None for a linear layer.
    name : str, optional

    Raises
    ------
    ValueError
        If the number of channels is not known.

    Examples
    --------
    >>> NINLayer_c01b((3, 8, 8, None), num_units=5).output_shape
    (5, 8, 8, None)
    """

    def __init__(
        self,
        incoming: Incoming,
        num_units: int,
        untie_biases: bool = False,
        W: Any = init.GlorotUniform(),  # noqa: B008
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.num_units = num_units
        self.untie_biases = untie_biases
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity
        if len(self.input_shape) < 2 or self.input_shape[0] is None:
            raise ValueError(f"{self}: expected an input (channels, …, n), got {self.input_shape}")
        self.W = self.add_param(W, (num_units, self.input_shape[0]), name="W")
        bias_shape = self.output_shape[:-1] if untie_biases else (num_units,)
        self.b = None if b is None else self.add_param(b, bias_shape, name="b", regularizable=False)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Replace the channels by `num_units`."""
        return (self.num_units, *input_shape[1:])

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Multiply every pixel's channels, add and apply the nonlinearity."""
        activation = pt.tensordot(self.W, input, axes=[[1], [0]])
        if self.b is not None:
            missing = ("x",) * (input.ndim - self.b.ndim)
            activation = activation + self.b.dimshuffle(*range(self.b.ndim), *missing)
        return self.nonlinearity(activation)
