"""Layers that pool over windows, groups of channels or regions, or make images larger."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.raise_op import Assert

from theanompi.device import ops
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.conv import AXES, Sizes
from theanompi.lasagne.layers.dense import known_or_symbolic_size
from theanompi.lasagne.utils import Shape, as_tuple

__all__ = [
    "FeaturePoolLayer",
    "FeatureWTALayer",
    "GlobalPoolLayer",
    "MaxPool1DLayer",
    "MaxPool2DLayer",
    "MaxPool3DLayer",
    "Pool1DLayer",
    "Pool2DLayer",
    "Pool3DLayer",
    "SpatialPyramidPoolingLayer",
    "Upscale1DLayer",
    "Upscale2DLayer",
    "Upscale3DLayer",
    "pool_2d",
    "pool_2d_nxn_regions",
    "pool_output_length",
]

MODES = ("max", "average_inc_pad", "average_exc_pad", "sum")


def pool_output_length(
    input_length: Any, pool_size: int | None, stride: int, pad: int, ignore_border: bool
) -> Any:
    """Compute the length of pooling's output along one axis.

    Parameters
    ----------
    input_length : int or None
    pool_size, stride : int
    pad : int
        On each side.
    ignore_border : bool
        Ignore the windows that reach over the far border; otherwise one of them is pooled if it covers what no
        window before it does, and `pad` must be 0.

    Returns
    -------
    int or None
        None for an unknown input.

    Examples
    --------
    >>> pool_output_length(7, 2, 2, 0, True), pool_output_length(7, 2, 2, 0, False)
    (3, 4)
    """
    if input_length is None or pool_size is None:
        return None
    if ignore_border:
        return (input_length + 2 * pad - pool_size) // stride + 1
    if stride >= pool_size:
        return -(-input_length // stride)
    return max(0, -(-(input_length - pool_size) // stride)) + 1


def pool_2d(
    input: Any,
    ws: Sequence[int],
    ignore_border: bool = True,
    stride: Sequence[int] | None = None,
    pad: Sequence[int] = (0, 0),
    mode: str = "max",
) -> Any:
    """Pool images over windows, with the arguments of Theano's function of this name.

    Parameters
    ----------
    input : pytensor variable
        (n, channels, rows, columns).
    ws : sequence of two int
        The window.
    ignore_border, stride, pad, mode
        As for :class:`Pool2DLayer`.

    Returns
    -------
    pytensor variable
        (n, channels, rows', columns').

    Raises
    ------
    ValueError
        If the mode is unknown or the window does not fit.
    """
    return _pool(input, ws, ws if stride is None else stride, pad, ignore_border, mode)


def _pool(
    input: Any,
    window: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    ignore_border: bool,
    mode: str,
) -> Any:
    """Pool over as many axes as the input has after the second."""
    if not ignore_border:
        # A window larger than the image pools all of it.
        window = [
            size if length is None else min(size, length)
            for size, length in zip(window, input.type.shape[2:], strict=True)
        ]
    pool = (ops.pool1d, ops.pool2d, ops.pool3d)[input.ndim - 3]
    return pool(input, window, stride, pad, mode, ceil_mode=not ignore_border)


class _PoolLayer(Layer):
    """What the pooling layers share; a subclass says how many axes there are."""

    n: int

    def __init__(
        self,
        incoming: Incoming,
        pool_size: Sizes,
        stride: Sizes | None = None,
        pad: Sizes = 0,
        ignore_border: bool = True,
        mode: str = "max",
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.pool_size = as_tuple(pool_size, self.n, int)
        self.stride = self.pool_size if stride is None else as_tuple(stride, self.n, int)
        self.pad = as_tuple(pad, self.n, int)
        self.ignore_border = ignore_border
        self.mode = mode
        if len(self.input_shape) != self.n + 2:
            raise ValueError(
                f"{self}: expected an input (n, channels, {AXES[self.n]}), got {self.input_shape}"
            )
        expect_mode(self, mode, MODES)
        if any(p >= size and p > 0 for p, size in zip(self.pad, self.pool_size, strict=True)):
            raise ValueError(f"{self}: expected pad of less than pool_size {self.pool_size}, got {self.pad}")
        if not ignore_border and any(self.pad):
            raise ValueError(f"{self}: ignore_border=False expects pad=0, got {self.pad}")
        if any(size is not None and size <= 0 for size in self.output_shape):
            raise ValueError(
                f"{self}: expected an image no smaller than the window, got shape {self.input_shape} "
                f"for pool_size {self.pool_size}, pad {self.pad}"
            )

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Compute (n, channels, …)."""
        size = [
            pool_output_length(length, window, stride, pad, self.ignore_border)
            for length, window, stride, pad in zip(
                input_shape[2:], self.pool_size, self.stride, self.pad, strict=True
            )
        ]
        return (*input_shape[:2], *size)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Pool."""
        return _pool(input, self.pool_size, self.stride, self.pad, self.ignore_border, self.mode)


class Pool1DLayer(_PoolLayer):
    """One-dimensional pooling.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, length).
    pool_size, stride, pad, ignore_border, mode, name
        As for :class:`Pool2DLayer`, with one spatial axis.

    Examples
    --------
    >>> Pool1DLayer((None, 64, 112), pool_size=3, stride=2, mode="sum").output_shape
    (None, 64, 55)
    """

    n = 1


class Pool2DLayer(_PoolLayer):
    """Two-dimensional pooling.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns).
    pool_size : int or tuple of two
        The window's rows and columns.
    stride : int or tuple of two, optional
        By default `pool_size`.
    pad : int or tuple of two
        On each side, less than the window: −∞ for a maximum, zeros for an average or a sum.
    ignore_border : bool
        Ignore the windows that reach over the far border. False needs ``pad=0``, as in Theano.
    mode : {'max', 'average_inc_pad', 'average_exc_pad', 'sum'}
        An average counts the padding, or not.
    name : str, optional

    Raises
    ------
    ValueError
        If the input is not 4-D or smaller than the window, the padding too large, or the mode unknown.

    Examples
    --------
    >>> Pool2DLayer((None, 64, 112, 112), pool_size=3, stride=2, ignore_border=False).output_shape
    (None, 64, 56, 56)
    """

    n = 2


class Pool3DLayer(_PoolLayer):
    """Three-dimensional pooling.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns, depth).
    pool_size, stride, pad, ignore_border, mode, name
        As for :class:`Pool2DLayer`, with three spatial axes.

    Examples
    --------
    >>> Pool3DLayer((None, 64, 8, 8, 8), pool_size=2).output_shape
    (None, 64, 4, 4, 4)
    """

    n = 3


class _MaxPoolLayer(_PoolLayer):
    """Max pooling of as many axes as a subclass says."""

    def __init__(
        self,
        incoming: Incoming,
        pool_size: Sizes,
        stride: Sizes | None = None,
        pad: Sizes = 0,
        ignore_border: bool = True,
        name: str | None = None,
    ):
        super().__init__(incoming, pool_size, stride, pad, ignore_border, mode="max", name=name)


class MaxPool1DLayer(_MaxPoolLayer, Pool1DLayer):
    """One-dimensional max pooling: :class:`Pool1DLayer` with ``mode='max'``.

    Parameters
    ----------
    incoming, pool_size, stride, pad, ignore_border, name
        As for :class:`Pool1DLayer`.
    """


class MaxPool2DLayer(_MaxPoolLayer, Pool2DLayer):
    """Two-dimensional max pooling: :class:`Pool2DLayer` with ``mode='max'``.

    Parameters
    ----------
    incoming, pool_size, stride, pad, ignore_border, name
        As for :class:`Pool2DLayer`.

    Examples
    --------
    >>> MaxPool2DLayer((None, 64, 112, 112), pool_size=3, stride=2, pad=1).output_shape
    (None, 64, 56, 56)
    """


class MaxPool3DLayer(_MaxPoolLayer, Pool3DLayer):
    """Three-dimensional max pooling: :class:`Pool3DLayer` with ``mode='max'``.

    Parameters
    ----------
    incoming, pool_size, stride, pad, ignore_border, name
        As for :class:`Pool3DLayer`.
    """


class _UpscaleLayer(Layer):
    """What the layers that enlarge share; a subclass says how many axes there are."""

    n: int

    def __init__(
        self, incoming: Incoming, scale_factor: Sizes, mode: str = "repeat", name: str | None = None
    ):
        super().__init__(incoming, name=name)
        self.scale_factor = as_tuple(scale_factor, self.n, int)
        self.mode = mode
        if len(self.input_shape) != self.n + 2:
            raise ValueError(
                f"{self}: expected an input (n, channels, {AXES[self.n]}), got {self.input_shape}"
            )
        if min(self.scale_factor) < 1:
            raise ValueError(f"{self}: expected a scale_factor of at least 1, got {self.scale_factor}")
        expect_mode(self, mode, ("repeat", "dilate"))

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Multiply the sizes."""
        size = [
            None if length is None else length * factor
            for length, factor in zip(input_shape[2:], self.scale_factor, strict=True)
        ]
        return (*input_shape[:2], *size)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Repeat or spread the elements."""
        spread = [known_or_symbolic_size(input, 0), known_or_symbolic_size(input, 1)]
        pattern: list[int | str] = [0, 1]
        for axis, factor in enumerate(self.scale_factor, 2):
            spread += [known_or_symbolic_size(input, axis), factor]
            pattern += [axis, "x"]
        # Each element has a box of its own, along additional axes that are merged at last.
        boxes = input.dimshuffle(*pattern)
        if self.mode == "repeat":
            boxes = pt.broadcast_to(boxes, tuple(spread))
        else:
            first = (slice(None), slice(None), *((slice(None), slice(0, 1)) * self.n))
            boxes = pt.set_subtensor(pt.zeros(spread, input.dtype)[first], boxes)
        merged = [spread[2 * axis] * spread[2 * axis + 1] for axis in range(1, self.n + 1)]
        return boxes.reshape((*spread[:2], *merged))


class Upscale1DLayer(_UpscaleLayer):
    """Enlarge signals by a whole factor.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, length).
    scale_factor, mode, name
        As for :class:`Upscale2DLayer`, with one spatial axis.
    """

    n = 1


class Upscale2DLayer(_UpscaleLayer):
    """Enlarge images by whole factors.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns).
    scale_factor : int or tuple of two
    mode : {'repeat', 'dilate'}
        Repeat each element, or put it first among zeros.
    name : str, optional

    Raises
    ------
    ValueError
        If the input has other dimensions, a factor is less than 1, or the mode unknown.

    Examples
    --------
    >>> Upscale2DLayer((None, 64, 7, 7), scale_factor=(2, 3)).output_shape
    (None, 64, 14, 21)
    """

    n = 2


class Upscale3DLayer(_UpscaleLayer):
    """Enlarge volumes by whole factors.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns, depth).
    scale_factor, mode, name
        As for :class:`Upscale2DLayer`, with three spatial axes.
    """

    n = 3


class _GroupLayer(Layer):
    """A layer that looks at groups of neighbours along one axis, usually that of the channels."""

    def __init__(self, incoming: Incoming, pool_size: int, axis: int = 1, name: str | None = None):
        super().__init__(incoming, name=name)
        self.pool_size = pool_size
        dimensions = len(self.input_shape)
        if not -dimensions <= axis < dimensions:
            raise ValueError(f"{self}: expected axis in [{-dimensions}, {dimensions}), got {axis}")
        self.axis = axis % dimensions
        size = self.input_shape[self.axis]
        if size is None or pool_size < 1 or size % pool_size:
            raise ValueError(
                f"{self}: expected a size that is a multiple of pool_size {pool_size}, got {size}"
            )

    def grouped(self, input: Any) -> Any:
        """Give the groups an axis of their own, after the pooled one."""
        sizes = [known_or_symbolic_size(input, axis) for axis in range(input.ndim)]
        groups = [sizes[self.axis] // self.pool_size, self.pool_size]
        return input.reshape((*sizes[: self.axis], *groups, *sizes[self.axis + 1 :]))


class FeaturePoolLayer(_GroupLayer):
    """Pool over groups of channels; with the maximum this is maxout [1]_.

    Parameters
    ----------
    incoming : Layer or tuple
    pool_size : int
        How many channels make a group.
    axis : int
        The axis along which groups are formed.
    pool_function : callable
        Takes a variable and ``axis``; the maximum by default.
    name : str, optional

    Raises
    ------
    ValueError
        If there is no such axis, or its size no multiple of `pool_size`.

    References
    ----------
    .. [1] I. Goodfellow et al. (2013): Maxout networks. arXiv:1302.4389.

    Examples
    --------
    >>> FeaturePoolLayer((None, 64, 8, 8), pool_size=4).output_shape
    (None, 16, 8, 8)
    """

    def __init__(
        self,
        incoming: Incoming,
        pool_size: int,
        axis: int = 1,
        pool_function: Callable[..., Any] = pt.max,
        name: str | None = None,
    ):
        super().__init__(incoming, pool_size, axis, name=name)
        self.pool_function = pool_function

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Divide the size of the axis."""
        size = input_shape[self.axis]
        groups = None if size is None else size // self.pool_size
        return (*input_shape[: self.axis], groups, *input_shape[self.axis + 1 :])

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Pool."""
        return self.pool_function(self.grouped(input), axis=self.axis + 1)


class FeatureWTALayer(_GroupLayer):
    """Winner takes all: of each group of channels only the largest keeps its value, the others become zero.

    Parameters
    ----------
    incoming : Layer or tuple
    pool_size : int
        How many channels make a group; of equal ones the first wins.
    axis : int
        The axis along which groups are formed.
    name : str, optional

    Raises
    ------
    ValueError
        If there is no such axis, or its size no multiple of `pool_size`.

    Examples
    --------
    >>> FeatureWTALayer((None, 64, 8, 8), pool_size=4).output_shape
    (None, 64, 8, 8)
    """

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Keep the winners."""
        groups, axis = self.grouped(input), self.axis + 1
        winner = pt.argmax(groups, axis=axis, keepdims=True)
        members = pt.arange(self.pool_size).dimshuffle(
            "x", *"x" * self.axis, 0, *"x" * (groups.ndim - axis - 1)
        )
        kept = pt.switch(pt.eq(winner, members), groups, pt.zeros_like(groups))
        return kept.reshape(tuple(known_or_symbolic_size(input, axis) for axis in range(input.ndim)))


class GlobalPoolLayer(Layer):
    """Pool over all axes after the second.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, …).
    pool_function : callable
        Takes a variable (n, channels, pixels) and ``axis=2``; the mean by default.
    name : str, optional

    Raises
    ------
    ValueError
        If the input has no axis to pool over.

    Examples
    --------
    >>> GlobalPoolLayer((None, 2048, 7, 7)).output_shape
    (None, 2048)
    """

    def __init__(
        self, incoming: Incoming, pool_function: Callable[..., Any] = pt.mean, name: str | None = None
    ):
        super().__init__(incoming, name=name)
        self.pool_function = pool_function
        if len(self.input_shape) < 3:
            raise ValueError(f"{self}: expected an input (n, channels, …), got {self.input_shape}")

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Keep the first two axes."""
        return input_shape[:2]

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Pool."""
        if self.pool_function is pt.mean:
            # The same without a copy, however the image lies in memory.
            return input.mean(axis=tuple(range(2, input.ndim)))
        n, channels, *sizes = (known_or_symbolic_size(input, axis) for axis in range(input.ndim))
        return self.pool_function(input.reshape((n, channels, math.prod(sizes))), axis=2)


class SpatialPyramidPoolingLayer(Layer):
    """Pool images of any size into as many regions each [1]_, at several levels.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, rows, columns); rows and columns may be unknown.
    pool_dims : sequence of int
        For each level into how many regions rows and columns are divided.
    mode : {'max', 'average_inc_pad', 'average_exc_pad'}
        The two averages are the same: there is no padding.
    implementation : {'fast', 'kaiming'}
        ``'fast'`` takes windows of ⌈size / p⌉ at steps of ⌊size / p⌋, which is possible where p of them fit, and no
        more; ``'kaiming'`` takes regions from ⌊i·size / p⌋ to ⌈(i + 1)·size / p⌉, as the paper does.
    name : str, optional

    Raises
    ------
    ValueError
        If the input is not 4-D, the mode or the implementation unknown, or ``'fast'`` is not possible.

    References
    ----------
    .. [1] K. He et al. (2014): Spatial pyramid pooling in deep convolutional networks for visual recognition.
       arXiv:1406.4729, appendix A.

    Examples
    --------
    >>> SpatialPyramidPoolingLayer((None, 64, None, None)).output_shape
    (None, 64, 21)
    """

    def __init__(
        self,
        incoming: Incoming,
        pool_dims: Sequence[int] = (4, 2, 1),
        mode: str = "max",
        implementation: str = "fast",
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.pool_dims = list(pool_dims)
        self.mode = mode
        self.implementation = implementation
        if len(self.input_shape) != 4:
            raise ValueError(f"{self}: expected an input (n, channels, {AXES[2]}), got {self.input_shape}")
        expect_mode(self, mode, MODES[:3])
        if implementation not in ("fast", "kaiming"):
            raise ValueError(f"{self}: expected implementation 'fast' or 'kaiming', got {implementation!r}")
        if not self.pool_dims or min(self.pool_dims) < 1:
            raise ValueError(f"{self}: expected pool_dims of at least 1 each, got {pool_dims}")
        if implementation == "fast":
            for regions in self.pool_dims:
                self._expect_fits(self.input_shape[2:], regions)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Compute (n, channels, the number of regions of all levels)."""
        return (*input_shape[:2], sum(regions**2 for regions in self.pool_dims))

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Pool each region."""
        return pt.concatenate([self._level(input, regions) for regions in self.pool_dims], axis=2)

    def _level(self, input: Any, regions: int) -> Any:
        """Pool into regions × regions, the last axis."""
        sizes = [known_or_symbolic_size(input, axis) for axis in range(4)]
        if self.implementation == "fast" and None not in input.type.shape[2:]:
            self._expect_fits(input.type.shape[2:], regions)
            window, step = (
                [-(-size // regions) for size in sizes[2:]],
                [size // regions for size in sizes[2:]],
            )
            return ops.pool2d(input, window, step, mode=self.mode).reshape((*sizes[:2], regions**2))
        rows, columns = (self._regions(size, regions) for size in sizes[2:])
        return _pool_regions(input, rows, columns, self.mode)

    def _expect_fits(self, sizes: Sequence[int | None], regions: int) -> None:
        for size in sizes:
            if size is not None and not _fits(size, regions):
                raise ValueError(
                    f"{self}: expected a size that divides into {regions} regions, got {size}; "
                    "implementation='kaiming' takes any"
                )

    def _regions(self, size: Any, regions: int) -> list[slice]:
        """Where the regions along one axis of `size`, a number or a symbol, begin and end."""
        if self.implementation == "kaiming":
            return _equal_regions(size, regions)
        step, window = size // regions, -(-size // regions)
        if not isinstance(size, int):
            check = Assert(f"{self}: the size does not divide into {regions} regions: use 'kaiming'")
            step = check(step, _fits(size, regions))
        return [slice(i * step, i * step + window) for i in range(regions)]


def pool_2d_nxn_regions(inputs: Any, output_size: int, mode: str = "max") -> list[Any]:
    """Pool images into as many regions each, whatever their size: a level of spatial pyramid pooling.

    Parameters
    ----------
    inputs : pytensor variable
        (n, channels, rows, columns).
    output_size : int
        Into how many regions rows and columns are divided.
    mode : {'max', 'average_inc_pad', 'average_exc_pad'}

    Returns
    -------
    list of pytensor variable
        output_size² of shape (n, channels, 1), row by row.

    Raises
    ------
    ValueError
        If the mode is unknown.
    """
    if mode not in MODES[:3]:
        raise ValueError(f"expected mode {', '.join(map(repr, MODES[:3]))}, got {mode!r}")
    rows, columns = (_equal_regions(known_or_symbolic_size(inputs, axis), output_size) for axis in (2, 3))
    pooled = _pool_regions(inputs, rows, columns, mode)
    return [pooled[:, :, i : i + 1] for i in range(output_size**2)]


def _equal_regions(size: Any, regions: int) -> list[slice]:
    """Regions from ⌊i·size / p⌋ to ⌈(i + 1)·size / p⌉."""
    return [slice(i * size // regions, -(-(i + 1) * size // regions)) for i in range(regions)]


def _pool_regions(input: Any, rows: Sequence[slice], columns: Sequence[slice], mode: str) -> Any:
    """Pool regions of images, row by row along the last axis: (n, channels, rows · columns)."""
    pool = pt.max if mode == "max" else pt.mean
    return pt.stack([pool(input[:, :, r, c], axis=(2, 3)) for r in rows for c in columns], axis=2)


def _fits(size: Any, regions: int) -> Any:
    """Whether as many windows of ⌈size / regions⌉ at steps of ⌊size / regions⌋ fit as there are regions."""
    step, window = size // regions, -(-size // regions)
    if isinstance(size, int):
        return step > 0 and (size - window) // step + 1 == regions
    return pt.gt(step, 0) & pt.eq((size - window) // pt.maximum(step, 1) + 1, regions)


def expect_mode(layer: Layer, mode: str, known: Sequence[str]) -> None:
    """Raise a ValueError unless a layer knows the mode."""
    if mode not in known:
        choices = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise ValueError(f"{layer}: expected mode {choices}, got {mode!r}")
