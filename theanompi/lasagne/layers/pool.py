"""Pooling layers."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt

from theanompi.device import ops
from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.utils import Shape, as_tuple

__all__ = ["GlobalPoolLayer", "MaxPool2DLayer", "Pool2DLayer"]


class Pool2DLayer(Layer):
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
        On each side, at most half the window: −∞ for a maximum, zeros for an average.
    ignore_border : bool
        Ignore the windows that reach over the far border. False needs ``pad=0``, as in Theano.
    mode : {'max', 'average_inc_pad', 'average_exc_pad'}
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

    def __init__(
        self,
        incoming: Incoming,
        pool_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        pad: int | Sequence[int] = (0, 0),
        ignore_border: bool = True,
        mode: str = "max",
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.pool_size = as_tuple(pool_size, 2, int)
        self.stride = self.pool_size if stride is None else as_tuple(stride, 2, int)
        self.pad = as_tuple(pad, 2, int)
        self.ignore_border = ignore_border
        self.mode = mode
        if len(self.input_shape) != 4:
            raise ValueError(
                f"{self}: expected an input (n, channels, rows, columns), got {self.input_shape}"
            )
        if mode not in ("max", "average_inc_pad", "average_exc_pad"):
            raise ValueError(
                f"{self}: expected mode 'max', 'average_inc_pad' or 'average_exc_pad', got {mode!r}"
            )
        if any(2 * p > size for p, size in zip(self.pad, self.pool_size, strict=True)):
            raise ValueError(
                f"{self}: expected pad of at most half of pool_size {self.pool_size}, got {self.pad}"
            )
        if not ignore_border and self.pad != (0, 0):
            raise ValueError(f"{self}: ignore_border=False expects pad=0, got {self.pad}")
        if any(size is not None and size <= 0 for size in self.output_shape):
            raise ValueError(
                f"{self}: expected an image no smaller than the window, got shape {self.input_shape} "
                f"for pool_size {self.pool_size}, pad {self.pad}"
            )

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Compute (n, channels, rows, columns)."""
        size = [
            None if length is None else self._pooled(length, axis)
            for axis, length in enumerate(input_shape[2:])
        ]
        return (*input_shape[:2], *size)

    def _pooled(self, length: int, axis: int) -> int:
        window, stride = self.pool_size[axis], self.stride[axis]
        if self.ignore_border:
            return (length + 2 * self.pad[axis] - window) // stride + 1
        # Rounded up, but no window may start beyond the image.
        return min(-(-(length - window) // stride) + 1, -(-length // stride))

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Pool."""
        return ops.pool2d(
            input, self.pool_size, self.stride, self.pad, mode=self.mode, ceil_mode=not self.ignore_border
        )


class MaxPool2DLayer(Pool2DLayer):
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

    def __init__(
        self,
        incoming: Incoming,
        pool_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        pad: int | Sequence[int] = (0, 0),
        ignore_border: bool = True,
        name: str | None = None,
    ):
        super().__init__(incoming, pool_size, stride, pad, ignore_border, mode="max", name=name)


class GlobalPoolLayer(Layer):
    """Pool over all axes after the second.

    Parameters
    ----------
    incoming : Layer or tuple
        Of shape (n, channels, …).
    pool_function : callable
        Takes a variable and ``axis``, a tuple of the axes to pool over; the mean by default.
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
        return self.pool_function(input, axis=tuple(range(2, input.ndim)))
