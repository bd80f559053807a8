"""Convolutional layers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytensor.graph.basic import Apply, Variable

from theanompi.device import ops
from theanompi.device.ops.base import Context, TorchOp
from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.dense import add_bias_axes
from theanompi.lasagne.utils import Shape, as_tuple

__all__ = ["Conv2DLayer"]


class Conv2DLayer(Layer):
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

    def __init__(
        self,
        incoming: Incoming,
        num_filters: int,
        filter_size: int | Sequence[int],
        stride: int | Sequence[int] = (1, 1),
        pad: int | Sequence[int] | str = 0,
        untie_biases: bool = False,
        W: Any = init.GlorotUniform(),  # noqa: B008 - holds no state
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        flip_filters: bool = True,
        num_groups: int = 1,
        dilation: int | Sequence[int] = (1, 1),
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.num_filters = num_filters
        self.filter_size = as_tuple(filter_size, 2, int)
        self.stride = as_tuple(stride, 2, int)
        self.dilation = as_tuple(dilation, 2, int)
        self.pad = self._padding(pad)
        self.untie_biases = untie_biases
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity
        self.flip_filters = flip_filters
        self.num_groups = num_groups
        if len(self.input_shape) != 4 or self.input_shape[1] is None:
            raise ValueError(
                f"{self}: expected an input (n, channels, rows, columns), got {self.input_shape}"
            )
        channels = self.input_shape[1]
        if channels % num_groups or num_filters % num_groups:
            raise ValueError(
                f"{self}: expected channels and filters divisible by num_groups={num_groups}, "
                f"got {channels} channels and {num_filters} filters"
            )
        if any(size is not None and size <= 0 for size in self.output_shape):
            raise ValueError(
                f"{self}: expected an image no smaller than the filters, got shape {self.input_shape} "
                f"for filters of {self.filter_size}, dilation {self.dilation}, pad {self.pad}"
            )
        self.W = self.add_param(W, (num_filters, channels // num_groups, *self.filter_size), name="W")
        bias_shape = self.output_shape[1:] if untie_biases else (num_filters,)
        self.b = None if b is None else self.add_param(b, bias_shape, name="b", regularizable=False)

    def _padding(self, pad: int | Sequence[int] | str) -> tuple[int, int]:
        reach = tuple(d * (f - 1) for f, d in zip(self.filter_size, self.dilation, strict=True))
        if pad == "valid":
            return (0, 0)
        if pad == "full":
            return reach
        if pad == "same":
            if any(size % 2 == 0 for size in self.filter_size):
                raise ValueError(f"{self}: pad='same' expects odd filter sizes, got {self.filter_size}")
            return (reach[0] // 2, reach[1] // 2)
        if isinstance(pad, str):
            raise ValueError(f"{self}: expected pad 'valid', 'same', 'full' or integers, got {pad!r}")
        return as_tuple(pad, 2, int)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Compute (n, num_filters, rows, columns)."""
        size = [
            None if length is None else (length + 2 * p - d * (f - 1) - 1) // s + 1
            for length, f, s, p, d in zip(
                input_shape[2:], self.filter_size, self.stride, self.pad, self.dilation, strict=True
            )
        ]
        return (input_shape[0], self.num_filters, *size)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Convolve, add and apply the nonlinearity."""
        filters = Flip()(self.W) if self.flip_filters and self.filter_size != (1, 1) else self.W
        activation = ops.conv2d(input, filters, self.stride, self.pad, self.dilation, self.num_groups)
        return self.nonlinearity(activation if self.b is None else activation + add_bias_axes(self.b, 4))


class Flip(TorchOp):
    """Filters mirrored in rows and columns, as ``filters[:, :, ::-1, ::-1]``.

    An op, because torch has no slices with a negative step, and PyTensor makes one of any index that is one.
    """

    __props__ = ()

    def make_node(self, filters: Any) -> Apply:
        """Make the node of 4-D `filters`."""
        return Apply(self, [filters], [filters.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        """Get the torch function."""
        return lambda filters: torch.flip(filters, (2, 3))

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        """Mirror the gradient back."""
        return [self(cotangents[0])]
