"""Fully connected layers."""

import math
from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt

from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.utils import Shape

__all__ = ["DenseLayer", "NINLayer"]


class DenseLayer(Layer):
    """Fully connected layer: nonlinearity(x·W + b).

    Parameters
    ----------
    incoming : Layer or tuple
    num_units : int
    W : initialiser, number, array or variable
        Of shape (inputs, num_units).
    b : the same, or None
        Of shape (num_units,), not regularizable; None for no bias.
    nonlinearity : callable or None
        None for a linear layer.
    num_leading_axes : int
        How many axes stay as they are (negative: counted from the end); all others are flattened into
        one and multiplied with W.
    name : str, optional

    Raises
    ------
    ValueError
        If `num_leading_axes` leaves no axis to flatten, or a flattened size is not known.

    Examples
    --------
    >>> layer = DenseLayer((None, 3, 4), num_units=5, num_leading_axes=2, name="fc")
    >>> layer.output_shape, layer.W.type
    ((None, 3, 5), TensorType(float32, shape=(4, 5)))
    """

    def __init__(
        self,
        incoming: Incoming,
        num_units: int,
        W: Any = init.GlorotUniform(),  # noqa: B008 - holds no state
        b: Any = init.Constant(0.0),  # noqa: B008
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        num_leading_axes: int = 1,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.num_units = num_units
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity
        dimensions = len(self.input_shape)
        if not -dimensions <= num_leading_axes < dimensions:
            raise ValueError(
                f"{self}: expected num_leading_axes in [{-dimensions}, {dimensions}) for an input of shape "
                f"{self.input_shape}, got {num_leading_axes}"
            )
        self.num_leading_axes = num_leading_axes % dimensions
        trailing: Any = self.input_shape[self.num_leading_axes :]
        if None in trailing:
            raise ValueError(
                f"{self}: expected known sizes from axis {self.num_leading_axes} on, got {self.input_shape}"
            )
        self.W = self.add_param(W, (math.prod(trailing), num_units), name="W")
        self.b = None if b is None else self.add_param(b, (num_units,), name="b", regularizable=False)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Replace the flattened axes by one of `num_units`."""
        return (*input_shape[: self.num_leading_axes], self.num_units)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Flatten, multiply, add and apply the nonlinearity."""
        trailing = self.input_shape[self.num_leading_axes :]
        if len(trailing) != 1:
            leading = [known_or_symbolic_size(input, axis) for axis in range(self.num_leading_axes)]
            input = input.reshape((*leading, math.prod(trailing)))
        activation = pt.dot(input, self.W)
        return self.nonlinearity(activation if self.b is None else activation + self.b)


class NINLayer(Layer):
    """Network-in-network layer [1]_: a dense layer over the channels (axis 1), the same at every pixel.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, …).
    num_units : int
    untie_biases : bool
        A bias for every pixel, instead of one for every unit.
    W : initialiser, number, array or variable
        Of shape (channels, num_units).
    b : the same, or None
        Of shape (num_units,), or (num_units, …) if untied; not regularizable. None for no bias.
    nonlinearity : callable or None
        None for a linear layer.
    name : str, optional

    References
    ----------
    .. [1] M. Lin et al. (2013): Network in network. arXiv:1312.4400.

    Examples
    --------
    >>> NINLayer((None, 3, 8, 8), num_units=5).output_shape
    (None, 5, 8, 8)
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
        if len(self.input_shape) < 2 or self.input_shape[1] is None:
            raise ValueError(f"{self}: expected an input (n, channels, …), got {self.input_shape}")
        self.W = self.add_param(W, (self.input_shape[1], num_units), name="W")
        bias_shape = self.output_shape[1:] if untie_biases else (num_units,)
        self.b = None if b is None else self.add_param(b, bias_shape, name="b", regularizable=False)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Replace the channels by `num_units`."""
        return (input_shape[0], self.num_units, *input_shape[2:])

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Multiply every pixel's channels, add and apply the nonlinearity."""
        image_axes = range(2, input.ndim)
        units_last = pt.dot(input.dimshuffle(0, *image_axes, 1), self.W)
        activation = units_last.dimshuffle(0, input.ndim - 1, *range(1, input.ndim - 1))
        if self.b is not None:
            activation = activation + add_bias_axes(self.b, input.ndim)
        return self.nonlinearity(activation)


def add_bias_axes(bias: Any, dimensions: int) -> Any:
    """Make a tied (units,) or untied (units, …) bias broadcast against (n, units, …)."""
    missing = ("x",) * (dimensions - 1 - bias.ndim)
    return bias.dimshuffle("x", *range(bias.ndim), *missing)


def known_or_symbolic_size(variable: Any, axis: int) -> Any:
    """Get a size as an integer where it is known, so that no shape computation enters the graph."""
    size = variable.type.shape[axis]
    return variable.shape[axis] if size is None else size
