"""Layers that rearrange their input."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.dense import known_or_symbolic_size
from theanompi.lasagne.theano_extensions import padding
from theanompi.lasagne.utils import Shape

__all__ = [
    "DimshuffleLayer",
    "FlattenLayer",
    "PadLayer",
    "ReshapeLayer",
    "SliceLayer",
    "dimshuffle",
    "flatten",
    "pad",
    "reshape",
]


class FlattenLayer(Layer):
    """Flatten all axes from the last kept one on into one.

    Parameters
    ----------
    incoming : Layer or tuple
    outdim : int
        How many dimensions the output has.
    name : str, optional

    Raises
    ------
    ValueError
        If `outdim` is not between 1 and the number of dimensions of the input.

    Examples
    --------
    >>> FlattenLayer((None, 64, 8, 8)).output_shape
    (None, 4096)
    """

    def __init__(self, incoming: Incoming, outdim: int = 2, name: str | None = None):
        super().__init__(incoming, name=name)
        self.outdim = outdim
        if not 1 <= outdim <= len(self.input_shape):
            raise ValueError(f"{self}: expected outdim in [1, {len(self.input_shape)}], got {outdim}")

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Multiply the sizes of the flattened axes."""
        flattened = input_shape[self.outdim - 1 :]
        size = None if None in flattened else math.prod(size for size in flattened if size is not None)
        return (*input_shape[: self.outdim - 1], size)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Flatten."""
        kept = [known_or_symbolic_size(input, axis) for axis in range(self.outdim - 1)]
        flattened = [known_or_symbolic_size(input, axis) for axis in range(self.outdim - 1, input.ndim)]
        return input.reshape((*kept, math.prod(flattened)))


flatten = FlattenLayer


class ReshapeLayer(Layer):
    """Give the input another shape with as many elements.

    Parameters
    ----------
    incoming : Layer or tuple
    shape : tuple
        For each output axis its size, a number or a symbolic integer; or ``[i]``, the size of input axis i; or once
        −1, whatever is left.
    name : str, optional

    Raises
    ------
    ValueError
        If an entry is none of these, or the numbers of elements differ.

    Examples
    --------
    >>> ReshapeLayer((16, 3, 8, 8), ([0], 3, -1)).output_shape
    (16, 3, 64)
    """

    def __init__(self, incoming: Incoming, shape: Sequence[Any], name: str | None = None):
        super().__init__(incoming, name=name)
        self.shape: tuple[Any, ...] = tuple(
            int(entry) if isinstance(entry, np.integer) else entry for entry in shape
        )
        dimensions = len(self.input_shape)
        for entry in self.shape:
            if isinstance(entry, Variable):
                if entry.type.ndim == 0 and "int" in entry.type.dtype:
                    continue
            elif isinstance(entry, int):
                if entry > 0 or entry == -1:
                    continue
            elif isinstance(entry, list | tuple) and len(entry) == 1 and entry[0] in range(dimensions):
                continue
            raise ValueError(
                f"{self}: expected sizes, -1 or [i] with i in [0, {dimensions}), got {entry!r} in {shape}"
            )
        if self._sizes().count(-1) > 1:
            raise ValueError(f"{self}: expected -1 at most once, got {shape}")
        self.get_output_shape_for(self.input_shape)

    def _sizes(self) -> list[Any]:
        """The entries of the shape; None for those that are symbolic."""
        return [None if isinstance(entry, Variable) else entry for entry in self.shape]

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Resolve references and, where all else is known, the −1."""
        entries = self._sizes()
        output: list[int | None] = [
            input_shape[entry[0]] if isinstance(entry, list | tuple) else entry for entry in entries
        ]
        # A size of the input that is one of the output is on both sides of the balance: it may be unknown, or 0.
        given, wanted = list(input_shape), list(output)
        for entry in entries:
            if isinstance(entry, list | tuple) and (size := input_shape[entry[0]]) in given:
                given.remove(size)
                wanted.remove(size)
        if None in given or None in wanted:
            return tuple(None if size == -1 else size for size in output)
        elements = math.prod(size for size in given if size is not None)
        others = math.prod(size for size in wanted if size is not None and size != -1)
        fits = elements % others == 0 if -1 in wanted else elements == others
        if not fits:
            raise ValueError(
                f"{self}: expected a shape of as many elements as the input's {input_shape}, got {self.shape}"
            )
        return tuple(elements // others if size == -1 else size for size in output)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Reshape."""
        known = self.get_output_shape_for(input.type.shape)
        sizes = [
            size if size is not None else input.shape[entry[0]] if isinstance(entry, list | tuple) else entry
            for size, entry in zip(known, self.shape, strict=True)
        ]
        return input.reshape(tuple(sizes))


reshape = ReshapeLayer


class DimshuffleLayer(Layer):
    """Permute, insert and drop axes.

    Parameters
    ----------
    incoming : Layer or tuple
    pattern : tuple
        For each output axis the input axis that it is, or ``'x'`` for a new one of length 1. Input axes that
        are left out must have length 1; of one of unknown length this is taken on trust.
    name : str, optional

    Raises
    ------
    ValueError
        If an entry is none of these or occurs twice, or an axis left out has another length.

    Examples
    --------
    >>> DimshuffleLayer((2, 3, 5, 7), (3, 2, 1, "x", 0)).output_shape
    (7, 5, 3, 1, 2)
    """

    def __init__(self, incoming: Incoming, pattern: Sequence[int | str], name: str | None = None):
        super().__init__(incoming, name=name)
        self.pattern = tuple(int(entry) if isinstance(entry, np.integer) else entry for entry in pattern)
        axes = [entry for entry in self.pattern if entry != "x"]
        if any(axis not in range(len(self.input_shape)) for axis in axes) or len(set(axes)) < len(axes):
            raise ValueError(
                f"{self}: expected 'x' or input axes, each once, of shape {self.input_shape}, got {pattern}"
            )
        dropped = {axis: size for axis, size in enumerate(self.input_shape) if axis not in axes}
        if any(size not in (1, None) for size in dropped.values()):
            raise ValueError(
                f"{self}: expected length 1 for axes that {pattern} leaves out, got axis: length {dropped}"
            )

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Permute the sizes."""
        return tuple(input_shape[entry] if isinstance(entry, int) else 1 for entry in self.pattern)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Permute."""
        dropped = [axis for axis in range(input.ndim) if axis not in self.pattern]
        unknown = [axis for axis in dropped if input.type.shape[axis] is None]
        known = pt.specify_broadcastable(input, *unknown) if unknown else input
        return known.dimshuffle(*self.pattern)


dimshuffle = DimshuffleLayer


class PadLayer(Layer):
    """Put a border around the input.

    Parameters
    ----------
    incoming : Layer or tuple
    width : int, or sequence of (int or tuple of two)
        For each axis after the first `batch_ndim` the width on both sides, or before and after; an int is
        for all of them. Axes beyond the end of a sequence get no border.
    val : float
        What the border is filled with.
    batch_ndim : int
        How many leading axes get no border.
    name : str, optional

    Raises
    ------
    ValueError
        If `width` is longer than there are axes, or has a negative entry.

    Examples
    --------
    >>> PadLayer((None, 3, 8, 8), width=[1, (0, 2)]).output_shape
    (None, 3, 10, 10)
    """

    def __init__(
        self,
        incoming: Incoming,
        width: padding.Width,
        val: Any = 0,
        batch_ndim: int = 2,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.val = val
        self.batch_ndim = batch_ndim
        try:
            self.width = padding.pairs(width, len(self.input_shape) - batch_ndim)
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from error

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Add the borders."""
        padded = [
            None if size is None else size + before + after
            for size, (before, after) in zip(input_shape[self.batch_ndim :], self.width, strict=True)
        ]
        return (*input_shape[: self.batch_ndim], *padded)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Pad."""
        return padding.pad(input, self.width, self.val, self.batch_ndim)


pad = PadLayer


class SliceLayer(Layer):
    """Take a part of one axis.

    Parameters
    ----------
    incoming : Layer or tuple
    indices : int or slice
        An int takes one element and drops the axis.
    axis : int
        Negative: counted from the end.
    name : str, optional

    Raises
    ------
    ValueError
        If there is no such axis, or no such element.

    Examples
    --------
    >>> SliceLayer((2, 3, 4), indices=0, axis=1).output_shape
    (2, 4)
    >>> SliceLayer((2, 3, 4), indices=slice(-2, None)).output_shape
    (2, 3, 2)
    """

    def __init__(self, incoming: Incoming, indices: int | slice, axis: int = -1, name: str | None = None):
        super().__init__(incoming, name=name)
        dimensions = len(self.input_shape)
        if not -dimensions <= axis < dimensions:
            raise ValueError(f"{self}: expected axis in [{-dimensions}, {dimensions}), got {axis}")
        self.slice = indices
        self.axis = axis
        size = self.input_shape[axis]
        if not isinstance(indices, slice) and size is not None and not -size <= indices < size:
            raise ValueError(
                f"{self}: expected an index in [{-size}, {size}) along axis {axis}, got {indices}"
            )

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Compute the length of the slice, or drop the axis."""
        axis = self.axis % len(input_shape)
        size = input_shape[axis]
        kept: Shape = ()
        if isinstance(self.slice, slice):
            kept = (None if size is None else len(range(*self.slice.indices(size))),)
        return (*input_shape[:axis], *kept, *input_shape[axis + 1 :])

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Slice."""
        return input[(slice(None),) * (self.axis % input.ndim) + (self.slice,)]
