"""Layers whose filters differ from pixel to pixel."""

from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt

from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming
from theanompi.lasagne.layers.conv import BaseConvLayer, Sizes
from theanompi.lasagne.layers.dense import known_or_symbolic_size
from theanompi.lasagne.theano_extensions import padding
from theanompi.lasagne.utils import Shape

__all__ = ["LocallyConnected2DLayer"]


class LocallyConnected2DLayer(BaseConvLayer):
    """Two-dimensional convolution whose filters are others at every pixel.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns), of known sizes but the first.
    num_filters : int
    filter_size : int or tuple of two
        Odd.
    stride, pad
        1 and ``'same'``, as in Lasagne.
    untie_biases, b, nonlinearity, flip_filters, name
        As for :class:`Conv2DLayer`.
    W : initialiser, number, array or variable
        Of shape (num_filters, channels, filter rows, filter columns, rows, columns), without the channels if
        `channelwise`.
    channelwise : bool
        Each filter sees only the channel of its own number; there are as many of both.

    Raises
    ------
    NotImplementedError
        If `stride` or `pad` is something else.
    ValueError
        If a size is not known, or `channelwise` and there are not as many filters as channels.

    Examples
    --------
    >>> layer = LocallyConnected2DLayer((None, 3, 8, 6), num_filters=4, filter_size=3)
    >>> layer.output_shape, layer.W.type.shape
    ((None, 4, 8, 6), (4, 3, 3, 3, 8, 6))
    """

    def __init__(
        self,
        incoming: Incoming,
        num_filters: int,
        filter_size: Sizes,
        stride: Sizes = (1, 1),
        pad: Sizes | str = "same",
        untie_biases: bool = False,
        W: Any = init.GlorotUniform(),  # noqa: B008 - holds no state
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        flip_filters: bool = True,
        channelwise: bool = False,
        name: str | None = None,
    ):
        self.channelwise = channelwise
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
            n=2,
            name=name,
        )
        if self.stride != (1, 1):
            raise NotImplementedError(f"{self}: expected stride=1, got {stride}")
        if self.pad != "same":
            raise NotImplementedError(f"{self}: expected pad='same', got {pad!r}")

    def get_W_shape(self) -> Shape:  # noqa: N802 - Lasagne's name
        """Get the shape of the filters: one for each pixel of the output."""
        channels = self.input_shape[1]
        if None in self.input_shape[1:]:
            raise ValueError(f"{self}: expected known sizes after the first axis, got {self.input_shape}")
        if self.channelwise and self.num_filters != channels:
            raise ValueError(
                f"{self}: channelwise expects {channels} filters, one for each channel, got {self.num_filters}"
            )
        inputs = () if self.channelwise else (channels,)
        return (self.num_filters, *inputs, *self.filter_size, *self.output_shape[2:])

    def convolve(self, input: Any, **kwargs: Any) -> Any:
        """Multiply each pixel's surroundings by its filters."""
        n, channels = (known_or_symbolic_size(input, axis) for axis in (0, 1))
        high, wide = self.filter_size
        rows, columns = self.input_shape[2:]
        padded = padding.pad(input, [high // 2, wide // 2], batch_ndim=2)
        # What each tap of the filters sees, in their order.
        places = [(i, j) for i in range(high) for j in range(wide)]
        seen = [
            padded[:, :, i : i + rows, j : j + columns]
            for i, j in (places[::-1] if self.flip_filters else places)
        ]
        if self.channelwise:
            return sum(image * self.W[:, i, j] for image, (i, j) in zip(seen, places, strict=True))
        # A matrix product for each pixel.
        surroundings = pt.stack(seen, axis=2).dimshuffle(3, 4, 0, 1, 2)
        filters = self.W.dimshuffle(4, 5, 1, 2, 3, 0)
        inputs = channels * high * wide
        products = pt.matmul(
            surroundings.reshape((rows * columns, n, inputs)),
            filters.reshape((rows * columns, inputs, self.num_filters)),
        )
        return products.reshape((rows, columns, n, self.num_filters)).dimshuffle(2, 3, 0, 1)
