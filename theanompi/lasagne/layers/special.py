"""Layers that do one thing: a nonlinearity, a bias, a scale, an expression, an inverse, a warp of images."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi import device
from theanompi.device import ops
from theanompi.lasagne import init, nonlinearities
from theanompi.lasagne.layers.base import Incoming, Layer, MergeLayer
from theanompi.lasagne.layers.dense import known_or_symbolic_size
from theanompi.lasagne.layers.noise import drawn_shape, keys_of, salt_of
from theanompi.lasagne.utils import Shape, as_tuple

__all__ = [
    "BiasLayer",
    "ExpressionLayer",
    "InverseLayer",
    "NonlinearityLayer",
    "ParametricRectifierLayer",
    "RandomizedRectifierLayer",
    "ScaleLayer",
    "TPSTransformerLayer",
    "TransformerLayer",
    "prelu",
    "rrelu",
    "standardize",
]


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


def standardize(
    layer: Incoming, offset: Any, scale: Any, shared_axes: str | int | Sequence[int] = "auto"
) -> Layer:
    """Subtract a fixed offset and divide by a fixed scale, as to give inputs a mean of 0 and a deviation of 1.

    Parameters
    ----------
    layer : Layer or tuple
    offset, scale : number, array or variable
        Of the input's shape without the shared axes; parameters that are not trainable.
    shared_axes : 'auto', int or tuple of int
        The axes along which they are the same: by default all but the second.

    Returns
    -------
    ScaleLayer
        On a :class:`BiasLayer`.

    Examples
    --------
    >>> data = np.random.default_rng(0).normal(size=(100, 20))
    >>> standardize((None, 20), data.mean(axis=0), data.std(axis=0), shared_axes=0).get_params(trainable=True)
    []
    """
    shifted = BiasLayer(layer, -offset, shared_axes)
    scaled = ScaleLayer(shifted, 1 / scale, shared_axes)
    shifted.params[shifted.b].remove("trainable")
    scaled.params[scaled.scales].remove("trainable")
    return scaled


class ExpressionLayer(Layer):
    """Apply a function to the input.

    Parameters
    ----------
    incoming : Layer or tuple
    function : callable
        From a variable to a variable.
    output_shape : tuple, callable or 'auto', optional
        The shape of the output (None in it stands for a size that may vary), a function from the input's shape to it,
        or ``'auto'`` to find it out by trying; by default that of the input.
    name : str, optional

    Examples
    --------
    >>> ExpressionLayer((32, 100, 20), lambda x: x.mean(-1), output_shape="auto").output_shape
    (32, 100)
    """

    def __init__(
        self,
        incoming: Incoming,
        function: Callable[[Any], Any],
        output_shape: Any = None,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.function = function
        if not (output_shape in (None, "auto") or callable(output_shape)):
            if isinstance(output_shape, str):
                raise ValueError(f"{self}: expected output_shape 'auto' or a tuple, got {output_shape!r}")
            output_shape = tuple(output_shape)
        self._shape = output_shape

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Tell the shape as asked for."""
        if self._shape is None:
            return input_shape
        if self._shape == "auto":
            # What changes with a size that may vary may vary too.
            shapes = [
                self._tried(tuple(trial if size is None else size for size in input_shape))
                for trial in (24, 48)
            ]
            return tuple(one if one == other else None for one, other in zip(*shapes, strict=True))
        return self._shape(input_shape) if callable(self._shape) else self._shape

    def _tried(self, sizes: Shape) -> Shape:
        """The shape of what the function makes of an input of these sizes."""
        output = self.function(pt.zeros(sizes, "float32"))
        if None not in output.type.shape:
            return output.type.shape
        return tuple(int(size) for size in output.shape.eval(mode=device.mode("cpu")))

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Apply the function."""
        return self.function(input)


class InverseLayer(MergeLayer):
    """Apply the transpose of a layer's derivative: the layer run backwards, with the same parameters.

    Of a dense layer it multiplies by the transposed weights, of a convolution it is the transposed convolution, and of
    max pooling it puts values back to where the maxima were; of a nonlinearity in it the derivative is a factor.

    Parameters
    ----------
    incoming : Layer or tuple
        Of the shape of that layer's output.
    layer : Layer
        With a layer that feeds into it.
    name : str, optional

    Raises
    ------
    ValueError
        If no layer feeds into `layer`, or more than one.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer, InputLayer
    >>> code = DenseLayer(InputLayer((None, 20)), num_units=3)
    >>> InverseLayer(code, code).output_shape
    (None, 20)
    """

    def __init__(self, incoming: Incoming, layer: Layer, name: str | None = None):
        source = getattr(layer, "input_layer", None)
        if source is None:
            raise ValueError(f"InverseLayer: expected a layer that one layer feeds into, got {layer}")
        super().__init__([incoming, layer, source], name=name)

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Get the shape of that layer's input."""
        return input_shapes[2]

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Differentiate."""
        input, layer_out, layer_in = inputs
        return pytensor.grad(None, wrt=layer_in, known_grads={layer_out: input})


class _WarpLayer(MergeLayer):
    """What the layers share that read images at places which another network says."""

    def __init__(
        self,
        incoming: Incoming,
        localization_network: Incoming,
        downsample_factor: float | Sequence[float],
        outputs: int,
        border_mode: str,
        name: str | None,
    ):
        super().__init__([incoming, localization_network], name=name)
        self.downsample_factor = as_tuple(downsample_factor, 2)
        self.border_mode = border_mode
        if border_mode not in ("nearest", "mirror", "wrap"):
            raise ValueError(f"{self}: expected border_mode nearest, mirror or wrap, got {border_mode!r}")
        image, located = self.input_shapes
        if len(image) != 4:
            raise ValueError(f"{self}: expected an input (n, channels, rows, columns), got {image}")
        if len(located) != 2 or located[1] != outputs:
            raise ValueError(f"{self}: expected a localization network (n, {outputs}), got {located}")

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Divide rows and columns by the factors."""
        shape = input_shapes[0]
        return (*shape[:2], *map(_divided, shape[2:], self.downsample_factor))

    def _output_size(self, image: Any) -> list[Any]:
        """Rows and columns of the output, as numbers where they are known."""
        return [
            _divided(known_or_symbolic_size(image, axis), factor)
            for axis, factor in zip((2, 3), self.downsample_factor, strict=True)
        ]


def _divided(size: Any, factor: float) -> Any:
    """`size` / `factor`, rounded down."""
    if size is None or isinstance(size, int):
        return None if size is None else int(size / factor)
    return pt.cast(size / factor, "int64")


def _grid(rows: Any, columns: Any) -> Any:
    """The places of an image's pixels, x and y from −1 to 1: float32 (2, rows · columns)."""
    known = isinstance(rows, int) and isinstance(columns, int)
    if known:
        y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
        return np.stack([x.ravel(), y.ravel()]).astype("float32")
    x, y = (pt.arange(n) * (2 / pt.maximum(n - 1, 1)) - 1 for n in (columns, rows))
    x, y = pt.tile(x, (rows,)), pt.repeat(y, columns)
    return pt.stack([x, y]).astype("float32")


def _product(a: Any, b: Any) -> Any:
    """A product that says places, by float64: bf16 and tf32, which products of float32 may compute in, have too few."""
    return pt.cast(pt.dot(pt.cast(a, "float64"), pt.cast(b, "float64")), "float32")


def _within(position: Any, length: Any, border_mode: str) -> Any:
    """Which of `length` pixels stands for one that may lie beyond the border."""
    if border_mode == "nearest":
        return pt.clip(position, 0, length - 1)
    if border_mode == "wrap":
        return position % length
    period = pt.maximum(2 * (length - 1), 1)
    return pt.minimum(position % period, -position % period)


def _read(image: Any, places: Any, size: Sequence[Any], border_mode: str) -> Any:
    """Read images at places between their pixels, bilinearly.

    Parameters
    ----------
    image : pytensor variable
        (n, channels, rows, columns).
    places : pytensor variable
        (n, 2, rows' · columns'), x and y from −1 to 1, or beyond.
    size : sequence
        rows', columns'.
    border_mode : {'nearest', 'mirror', 'wrap'}
        What is beyond the border: its own pixels, the image mirrored at them, or the image again.

    Returns
    -------
    pytensor variable
        (n, channels, rows', columns').
    """
    n, channels, rows, columns = (known_or_symbolic_size(image, axis) for axis in range(4))
    below, above, weight = [], [], []
    for axis, length in ((0, columns), (1, rows)):
        place = (places[:, axis] + 1) / 2 * pt.cast(length - 1, image.dtype)
        first = pt.floor(place)
        weight.append(place - first)
        position = pt.cast(first, "int64")
        below.append(_within(position, length, border_mode))
        above.append(_within(position + 1, length, border_mode))
    pixels = image.dimshuffle(0, 2, 3, 1).reshape((n * rows * columns, channels))
    start = (pt.arange(n, dtype="int64") * (rows * columns)).dimshuffle(0, "x")
    across, down = (w.dimshuffle(0, 1, "x") for w in weight)

    def row(y: Any) -> Any:
        left, right = (pixels[start + y * columns + x[0]] for x in (below, above))
        return left + across * (right - left)

    upper, lower = row(below[1]), row(above[1])
    read = upper + down * (lower - upper)
    return read.reshape((n, *size, channels)).dimshuffle(0, 3, 1, 2)


class TransformerLayer(_WarpLayer):
    """Spatial transformer [1]_: an affine map of each image that another network says, read bilinearly.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns).
    localization_network : Layer or tuple
        Of shape (n, 6): of the map (x, y) ↦ (θ₁x + θ₂y + θ₃, θ₄x + θ₅y + θ₆) from the output's places to the input's,
        each from −1 to 1. Its last layer is linear, and begins at 1, 0, 0, 0, 1, 0 to begin as the identity.
    downsample_factor : float or tuple of two
        How many times fewer rows and columns the output has.
    border_mode : {'nearest', 'mirror', 'wrap'}
        What is read beyond the border: its own pixels, the image mirrored at them, or the image again.
    name : str, optional

    Raises
    ------
    ValueError
        If an input has another shape, or `border_mode` is none of these.

    References
    ----------
    .. [1] M. Jaderberg et al. (2015): Spatial transformer networks. arXiv:1506.02025, equations 1 and 5.

    Examples
    --------
    >>> TransformerLayer((None, 3, 28, 28), (None, 6), downsample_factor=2).output_shape
    (None, 3, 14, 14)
    """

    def __init__(
        self,
        incoming: Incoming,
        localization_network: Incoming,
        downsample_factor: float | Sequence[float] = 1,
        border_mode: str = "nearest",
        name: str | None = None,
    ):
        super().__init__(incoming, localization_network, downsample_factor, 6, border_mode, name)

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Map the places and read the image there."""
        image, theta = inputs
        size = self._output_size(image)
        matrix = theta.reshape((known_or_symbolic_size(theta, 0), 2, 3))
        places = _product(matrix[:, :, :2], _grid(*size)) + matrix[:, :, 2:]
        return _read(image, places, size, self.border_mode)


class TPSTransformerLayer(_WarpLayer):
    """Spatial transformer [1]_ whose map is a thin plate spline [2]_ through control points.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns).
    localization_network : Layer or tuple
        Of shape (n, 2 · control_points): how far each control point moves, first all in x, then all in y, on a scale
        where the image reaches from −1 to 1. Zeros are the identity.
    downsample_factor : float or tuple of two
        How many times fewer rows and columns the output has.
    control_points : int
        A square number: they lie on a regular grid, row by row.
    precompute_grid : 'auto' or bool
        Compute the spline's basis when the graph is built; by default where the image's size is known.
    border_mode : {'nearest', 'mirror', 'wrap'}
        As for :class:`TransformerLayer`.
    name : str, optional

    Raises
    ------
    ValueError
        If an input has another shape, `control_points` is no square, or the basis is to be computed for an image of
        unknown size.

    References
    ----------
    .. [1] M. Jaderberg et al. (2015): Spatial transformer networks. arXiv:1506.02025.
    .. [2] F. L. Bookstein (1989): Principal warps: thin-plate splines and the decomposition of deformations.
       IEEE Transactions on Pattern Analysis and Machine Intelligence 11(6).

    Examples
    --------
    >>> TPSTransformerLayer((None, 3, 28, 28), (None, 32)).output_shape
    (None, 3, 28, 28)
    """

    def __init__(
        self,
        incoming: Incoming,
        localization_network: Incoming,
        downsample_factor: float | Sequence[float] = 1,
        control_points: int = 16,
        precompute_grid: str | bool = "auto",
        border_mode: str = "nearest",
        name: str | None = None,
    ):
        super().__init__(
            incoming, localization_network, downsample_factor, 2 * control_points, border_mode, name
        )
        side = math.isqrt(control_points)
        if side**2 != control_points:
            raise ValueError(f"{self}: expected control_points to be a square number, got {control_points}")
        known = None not in self.input_shapes[0][2:]
        if precompute_grid == "auto":
            precompute_grid = known
        if precompute_grid and not known:
            raise ValueError(
                f"{self}: precompute_grid expects a known size of the image, got {self.input_shapes[0]}"
            )
        self.control_points = control_points
        self.precompute_grid = precompute_grid
        self.source_points = _grid(side, side)
        points = self.source_points.astype("float64")
        affine = np.concatenate([np.ones((1, control_points)), points])
        system = np.zeros((control_points + 3, control_points + 3))
        system[:3, 3:] = affine
        system[3:, :3] = affine.T
        system[3:, 3:] = _spline_basis(points, points, np)[3:]
        # From the moved points to the spline's coefficients.
        self._solution = np.linalg.inv(system)[:, 3:].T.astype("float32")

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Map the places and read the image there."""
        image, moved = inputs
        if self.precompute_grid:
            size = list(self.get_output_shape_for(self.input_shapes)[2:])
            basis = _spline_basis(_grid(*size).astype("float64"), self.source_points, np).astype("float32")
        else:
            size = self._output_size(image)
            basis = _spline_basis(pt.as_tensor_variable(_grid(*size)), self.source_points, pt)
        offsets = moved.reshape((known_or_symbolic_size(moved, 0), 2, self.control_points))
        coefficients = _product(offsets + self.source_points, self._solution)
        return _read(image, _product(coefficients, basis), size, self.border_mode)


def _spline_basis(points: Any, control_points: Any, xp: Any) -> Any:
    """1, x, y and r² log r² for the distance r to each control point, for each of the points.

    Parameters
    ----------
    points, control_points : array or pytensor variable
        (2, p) and (2, k).
    xp : module
        numpy or pytensor.tensor.

    Returns
    -------
    array or pytensor variable
        (k + 3, p).
    """
    squares = sum((points[axis][None, :] - control_points[axis][:, None]) ** 2 for axis in (0, 1))
    # Of zero the logarithm is minus infinity, but the product 0.
    distances = squares * xp.log(xp.where(squares > 0, squares, xp.ones_like(squares)))
    return xp.concatenate([xp.ones_like(points[:1]), points, distances], axis=0)


class ParametricRectifierLayer(Layer):
    """Rectifier whose slope for negative inputs is learnt [1]_: max(x, 0) + α · min(x, 0).

    Parameters
    ----------
    incoming : Layer or tuple
    alpha : initialiser, number, array or variable
        Of the input's shape without the shared axes, not regularizable.
    shared_axes : 'auto', 'all', int or tuple of int
        The axes along which the slope is the same: by default all but the second.
    name : str, optional

    Raises
    ------
    ValueError
        If a size that is not shared is not known.

    References
    ----------
    .. [1] K. He et al. (2015): Delving deep into rectifiers. arXiv:1502.01852, equation 1.

    Examples
    --------
    >>> ParametricRectifierLayer((20, 3, 28, 28), shared_axes=(0, 3)).alpha.type.shape
    (3, 28)
    """

    def __init__(
        self,
        incoming: Incoming,
        alpha: Any = init.Constant(0.25),  # noqa: B008
        shared_axes: str | int | Sequence[int] = "auto",
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.shared_axes = shared_axes_tuple(self, _all_axes(self, shared_axes))
        shape = unshared_shape(self, self.shared_axes)
        self.alpha = self.add_param(alpha, shape, "alpha", regularizable=False)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Rectify."""
        return nonlinearities.LeakyRectify(broadcast(self.alpha, self.shared_axes, input.ndim))(input)


def prelu(layer: Layer, **kwargs: Any) -> ParametricRectifierLayer:
    """Put a :class:`ParametricRectifierLayer` in the place of a layer's nonlinearity.

    Parameters
    ----------
    layer : Layer
        It is changed: it loses its nonlinearity.
    **kwargs
        For :class:`ParametricRectifierLayer`.

    Returns
    -------
    ParametricRectifierLayer

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> prelu(DenseLayer((None, 3), num_units=5)).alpha.type.shape
    (5,)
    """
    take_nonlinearity(layer)
    return ParametricRectifierLayer(layer, **kwargs)


class RandomizedRectifierLayer(Layer):
    """Rectifier whose slope for negative inputs is random in training [1]_, and its mean if ``deterministic=True``.

    The slopes of a sample are a pure function of its key in ``sample_keys`` and of the layer's name, as the mask of a
    :class:`DropoutLayer` is; so they are drawn for each sample even if the first axis is shared.

    Parameters
    ----------
    incoming : Layer or tuple
    lower, upper : float or scalar variable
        The slopes are uniform between them.
    shared_axes : 'auto', 'all', int or tuple of int
        The axes along which the slope is the same: by default all but the second.
    name : str, optional

    Attributes
    ----------
    salt : int
        What tells this layer's slopes from those of others.

    Raises
    ------
    ValueError
        If `lower` is above `upper`.

    References
    ----------
    .. [1] B. Xu et al. (2015): Empirical evaluation of rectified activations in convolutional network.
       arXiv:1505.00853.

    Examples
    --------
    >>> RandomizedRectifierLayer((None, 3, 28, 28), name="rrelu").output_shape
    (None, 3, 28, 28)
    """

    def __init__(
        self,
        incoming: Incoming,
        lower: Any = 0.3,
        upper: Any = 0.8,
        shared_axes: str | int | Sequence[int] = "auto",
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.lower, self.upper = lower, upper
        self._symbolic = isinstance(lower, Variable) or isinstance(upper, Variable)
        if not self._symbolic and lower > upper:
            raise ValueError(f"{self}: expected lower of at most upper, got {lower} and {upper}")
        self.shared_axes = shared_axes_tuple(self, _all_axes(self, shared_axes))
        self.salt = salt_of(self)

    def get_output_for(
        self, input: Any, deterministic: bool = False, sample_keys: Any = None, **kwargs: Any
    ) -> Any:
        """Rectify.

        Parameters
        ----------
        input : pytensor variable
        deterministic : bool
            Take the mean slope.
        sample_keys : pytensor vector of int64, optional
            (n,), a random key for each sample.

        Returns
        -------
        pytensor variable
        """
        if deterministic or (not self._symbolic and self.lower == self.upper):
            return nonlinearities.LeakyRectify((self.lower + self.upper) / 2)(input)
        shape = drawn_shape(input, self.shared_axes)
        # By keys, what a sample draws is its own, whatever is shared.
        keys = keys_of(input, sample_keys, self.shared_axes if sample_keys is None else ())
        slopes: Any = ops.uniform(keys, shape, self.salt)
        lower, upper = (pt.cast(bound, slopes.dtype) for bound in (self.lower, self.upper))
        return nonlinearities.LeakyRectify(lower + (upper - lower) * slopes)(input)


def rrelu(layer: Layer, **kwargs: Any) -> RandomizedRectifierLayer:
    """Put a :class:`RandomizedRectifierLayer` in the place of a layer's nonlinearity.

    Parameters
    ----------
    layer : Layer
        It is changed: it loses its nonlinearity.
    **kwargs
        For :class:`RandomizedRectifierLayer`.

    Returns
    -------
    RandomizedRectifierLayer

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> rrelu(DenseLayer((None, 3), num_units=5), name="fc_rrelu").output_shape
    (None, 5)
    """
    take_nonlinearity(layer)
    return RandomizedRectifierLayer(layer, **kwargs)


def take_nonlinearity(layer: Layer) -> Callable[[Any], Any] | None:
    """Take a layer's nonlinearity away, which then is the identity; None of a layer without one."""
    nonlinearity = getattr(layer, "nonlinearity", None)
    if nonlinearity is not None:
        layer.nonlinearity = nonlinearities.identity  # type: ignore[attr-defined]
    return nonlinearity


def remove_bias(layer: Layer) -> None:
    """Take a layer's bias away, if it has one."""
    bias = getattr(layer, "b", None)
    if bias is not None:
        del layer.params[bias]
        layer.b = None  # type: ignore[attr-defined]


def _all_axes(layer: Layer, axes: str | int | Sequence[int]) -> str | int | Sequence[int]:
    """`axes`, or all of them for ``'all'``."""
    return tuple(range(len(layer.input_shape))) if axes == "all" else axes


def shared_axes_tuple(layer: Layer, axes: str | int | Sequence[int]) -> tuple[int, ...]:
    """Turn an ``axes`` argument into a sorted tuple; ``'auto'`` is all axes but the second."""
    dimensions = len(layer.input_shape)
    if axes == "auto":
        return (0, *range(2, dimensions))
    numbers = (axes,) if isinstance(axes, int | np.integer) else axes
    if isinstance(numbers, str) or any(not -dimensions <= axis < dimensions for axis in numbers):
        raise ValueError(f"{layer}: expected axes 'auto' or within {dimensions} dimensions, got {axes!r}")
    return tuple(sorted(int(axis) % dimensions for axis in numbers))


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
