"""The name under which Lasagne has a convolution by matrix products; here the device chooses the algorithm."""

from collections.abc import Callable
from typing import Any

from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming
from theanompi.lasagne.layers.conv import Conv2DLayer, Sizes, _PlainConvLayer

__all__ = ["Conv2DMMLayer"]


class _UnmirroredConvLayer(_PlainConvLayer):
    """A convolution that does not mirror the filters unless told to, of as many axes as a subclass says."""

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
        flip_filters: bool = False,
        num_groups: int = 1,
        name: str | None = None,
    ):
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
            num_groups=num_groups,
            name=name,
        )


class Conv2DMMLayer(_UnmirroredConvLayer, Conv2DLayer):
    """:class:`Conv2DLayer` that does not mirror the filters unless told to.

    Parameters
    ----------
    incoming, num_filters, filter_size, stride, pad, untie_biases, W, b, nonlinearity, flip_filters, num_groups, name
        As for :class:`Conv2DLayer`.
    """
