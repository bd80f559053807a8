"""Layers that rearrange their input."""

import math
from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt

from theanompi.lasagne.layers.base import Incoming, Layer
from theanompi.lasagne.layers.dense import known_or_symbolic_size
from theanompi.lasagne.utils import Shape

__all__ = [
    "DimshuffleLayer",
    "FlattenLayer",
    "PadLayer",
    "ReshapeLayer",
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
        For each output axis its size; or ``[i]``, the size of input axis i; or once −1, whatever is left.
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

    def __init__(self, incoming: Incoming, shape: Sequence[int | Sequence[int]], name: str | None = None):
        super().__init__(incoming, name=name)
        self.shape = tuple(shape)
        dimensions = len(self.input_shape)
        for entry in self.shape:
            if isinstance(entry, int) and (entry > 0 or entry == -1):
                continue
            if isinstance(entry, list | tuple) and len(entry) == 1 and entry[0] in range(dimensions):
                continue
            raise ValueError(
                f"{self}: expected sizes, -1 or [i] with i in [0, {dimensions}), got {entry!r} in {shape}"
            )
        if self.shape.count(-1) > 1:
            raise ValueError(f"{self}: expected -1 at most once, got {shape}")
        self.get_output_shape_for(self.input_shape)

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Resolve references and, where all else is known, the −1."""
        output: list[int | None] = [
            entry if isinstance(entry, int) else input_shape[entry[0]] for entry in self.shape
        ]
        # A size that is unknown, but the same in the input and the output, is on both sides of the balance.
        given, wanted = list(input_shape), list(output)
        for entry in self.shape:
            if not isinstance(entry, int) and input_shape[entry[0]] is None and None in given:
                given.remove(None)
                wanted.remove(None)
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
            size if size is not None else -1 if isinstance(entry, int) else input.shape[entry[0]]
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
        are left out must have length 1.
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
        self.pattern = tuple(pattern)
        axes = [entry for entry in self.pattern if entry != "x"]
        if any(axis not in range(len(self.input_shape)) for axis in axes) or len(set(axes)) < len(axes):
            raise ValueError(
                f"{self}: expected 'x' or input axes, each once, of shape {self.input_shape}, got {pattern}"
            )
        dropped = {axis: size for axis, size in enumerate(self.input_shape) if axis not in axes}
        if any(size != 1 for size in dropped.values()):
            raise ValueError(
                f"{self}: expected length 1 for axes that {pattern} leaves out, got axis: length {dropped}"
            )

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Permute the sizes."""
        return tuple(input_shape[entry] if isinstance(entry, int) else 1 for entry in self.pattern)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Permute."""
        return input.dimshuffle(*self.pattern)


dimshuffle = DimshuffleLayer


class PadLayer(Layer):
    """Put a border around the input.

    Parameters
    ----------
    incoming : Layer or tuple
    width : int, or sequence of (int or tuple of two)
        For each axis after the first `batch_ndim` the width on both sides, or before and after; an int is
        for all of them.
    val : float
        What the border is filled with.
    batch_ndim : int
        How many leading axes get no border.
    name : str, optional

    Raises
    ------
    ValueError
        If `width` has another length than there are axes, or a negative entry.

    Examples
    --------
    >>> PadLayer((None, 3, 8, 8), width=[1, (0, 2)]).output_shape
    (None, 3, 10, 10)
    """

    def __init__(
        self,
        incoming: Incoming,
        width: int | Sequence[int | tuple[int, int]],
        val: float = 0,
        batch_ndim: int = 2,
        name: str | None = None,
    ):
        super().__init__(incoming, name=name)
        self.val = val
        self.batch_ndim = batch_ndim
        axes = len(self.input_shape) - batch_ndim
        widths = [width] * axes if isinstance(width, int) else list(width)
        self.width = [(entry, entry) if isinstance(entry, int) else tuple(entry) for entry in widths]
        if len(self.width) != axes or any(len(pair) != 2 or min(pair) < 0 for pair in self.width):
            raise ValueError(f"{self}: expected {axes} widths, each an int or (before, after), got {width}")

    def get_output_shape_for(self, input_shape: Shape) -> Shape:
        """Add the borders."""
        padded = [
            None if size is None else size + before + after
            for size, (before, after) in zip(input_shape[self.batch_ndim :], self.width, strict=True)
        ]
        return (*input_shape[: self.batch_ndim], *padded)

    def get_output_for(self, input: Any, **kwargs: Any) -> Any:
        """Pad."""
        widths = [(0, 0)] * self.batch_ndim + self.width
        sizes = [known_or_symbolic_size(input, axis) + sum(pair) for axis, pair in enumerate(widths)]
        inside = tuple(
            slice(before, size - after) for size, (before, after) in zip(sizes, widths, strict=True)
        )
        return pt.set_subtensor(pt.full(sizes, pt.cast(self.val, input.dtype))[inside], input)


pad = PadLayer
