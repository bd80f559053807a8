"""Layers that do one thing: a nonlinearity, a bias, a scale."""

from collections.abc import Callable, Sequence
from typing import Any

from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.utils import Shape

__all__ = ["BiasLayer", "NonlinearityLayer", "ScaleLayer"]


class NonlinearityLayer(Layer):
    """Apply a nonlinearity.

    Parameters
    ----------
    incoming : Layer or tuple
    nonlinearity : callable or None
        None for a layer that does nothing.
    name : str, optional

    Examples
    --------
    >>> NonlinearityLayer((None, 3), nonlinearities.softmax).output_shape
    (None, 3)
    """

    def __init__(
        self,
        incoming: Incoming,
        nonlinearity: Callable[[Any], Any] | None = nonlinearities.rectify,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.nonlinearity = nonlinearities.identity if nonlinearity is None else nonlinearity

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Apply the nonlinearity."""
        return self.nonlinearity(input)


class BiasLayer(Layer):
    """Add a bias.

    Parameters
    ----------
    incoming : Layer or tuple
    b : initialiser, number, array, variable or None
        Of the input's shape without the shared axes, not regularizable; None for a layer that does nothing.
    shared_axes : 'auto', int or tuple of int
        The axes along which the bias is the same: by default all but the second.
    name : str, optional

    Raises
    ------
    ValueError
        If a size that is not shared is not known.

    Examples
    --------
    >>> BiasLayer((20, 30, 40, 50), shared_axes=(0, 2)).b.type.shape
    (30, 50)
    """

    def __init__(
        self,
        incoming: Incoming,
        b: Any = init.Constant(0.0),  # noqa: B008 - holds no state
        shared_axes: str | int | Sequence[int] = "auto",
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.shared_axes = shared_axes_tuple(self, shared_axes)
        self.b = None
        if b is not None:
            self.b = self.add_param(b, unshared_shape(self, self.shared_axes), "b", regularizable=False)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Add the bias."""
        return input if self.b is None else input + broadcast(self.b, self.shared_axes, input.ndim)


class ScaleLayer(Layer):
    """Multiply by a factor.

    Parameters
    ----------
    incoming : Layer or tuple
    scales : initialiser, number, array or variable
        Of the input's shape without the shared axes, not regularizable.
    shared_axes : 'auto', int or tuple of int
        The axes along which the factor is the same: by default all but the second.
    name : str, optional

    Raises
    ------
    ValueError
        If a size that is not shared is not known.

    Examples
    --------
    >>> ScaleLayer((20, 30, 40, 50), shared_axes=(0, 2)).scales.type.shape
    (30, 50)
    """

    def __init__(
        self,
        incoming: Incoming,
        scales: Any = init.Constant(1.0),  # noqa: B008
        shared_axes: str | int | Sequence[int] = "auto",
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.shared_axes = shared_axes_tuple(self, shared_axes)
        shape = unshared_shape(self, self.shared_axes)
        self.scales = self.add_param(scales, shape, "scales", regularizable=False)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Multiply by the factor."""
        return input * broadcast(self.scales, self.shared_axes, input.ndim)


def shared_axes_tuple(layer: Layer, axes: str | int | Sequence[int]) -> tuple[int, ...]:
    """Turn an ``axes`` argument into a sorted tuple; ``'auto'`` is all axes but the second."""
    dimensions = len(layer.input_shape)
    if axes == "auto":
        return (0, *range(2, dimensions))
    numbers = (axes,) if isinstance(axes, int) else axes
    if isinstance(numbers, str) or any(not -dimensions <= axis < dimensions for axis in numbers):
        raise ValueError(f"{layer}: expected axes 'auto' or within {dimensions} dimensions, got {axes!r}")
    return tuple(sorted(axis % dimensions for axis in numbers))


def unshared_shape(layer: Layer, shared_axes: Sequence[int]) -> Shape:
    """Get the shape of a parameter that is the same along `shared_axes` of the layer's input."""
    shape = tuple(size for axis, size in enumerate(layer.input_shape) if axis not in shared_axes)
    if None in shape:
        raise ValueError(
            f"{layer}: expected known sizes for all axes but {tuple(shared_axes)}, got {layer.input_shape}"
        )
    return shape


def broadcast(param: Any, shared_axes: Sequence[int], dimensions: int) -> Any:
    """Give `param` axes of length 1 where it is shared."""
    own_axes = iter(range(param.ndim))
    return param.dimshuffle(*("x" if axis in shared_axes else next(own_axes) for axis in range(dimensions)))
