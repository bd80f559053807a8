"""Layers with several inputs."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import pytensor.tensor as pt

from theanompi.lasagne.layers.base import Incoming, MergeLayer
from theanompi.lasagne.layers.dense import known_or_symbolic_size
from theanompi.lasagne.utils import Shape, as_floats

__all__ = [
    "ConcatLayer",
    "ElemwiseMergeLayer",
    "ElemwiseSumLayer",
    "autocrop",
    "autocrop_array_shapes",
    "concat",
]

Cropping = Sequence[str | None] | None


def autocrop(inputs: Sequence[Any], cropping: Cropping) -> list[Any]:
    """Crop tensors to the size of the smallest of them, axis by axis.

    Parameters
    ----------
    inputs : list of pytensor variable
        Of as many dimensions each.
    cropping : list of (None, 'lower', 'center' or 'upper'), optional
        For each axis the part that is kept: the lower indices, the middle, the upper ones; None, also for axes
        beyond its end, leaves an axis as it is.

    Returns
    -------
    list of pytensor variable

    Raises
    ------
    ValueError
        If the numbers of dimensions differ, or a mode of cropping is unknown.

    Examples
    --------
    >>> a, b = (pt.tensor("x", dtype="float32", shape=shape) for shape in ((2, 5), (3, 4)))
    >>> [x.type.shape for x in autocrop([a, b], [None, "center"])]
    [(2, 4), (3, 4)]
    """
    if cropping is None:
        return list(inputs)
    modes = _modes(cropping, [variable.ndim for variable in inputs])
    sizes = [[known_or_symbolic_size(variable, axis) for axis in range(variable.ndim)] for variable in inputs]
    smallest = [reduce(_smaller, several) for several in zip(*sizes, strict=True)]
    return [
        variable[tuple(map(_slice, modes, own, smallest))]
        for variable, own in zip(inputs, sizes, strict=True)
    ]


def autocrop_array_shapes(input_shapes: Sequence[Shape], cropping: Cropping) -> list[Shape]:
    """Compute the shapes of tensors that :func:`autocrop` has cropped.

    Parameters
    ----------
    input_shapes : list of tuple of int or None
    cropping : list of (None, 'lower', 'center' or 'upper'), optional

    Returns
    -------
    list of tuple of int or None
        A cropped size is None where one of the sizes is.

    Raises
    ------
    ValueError
        As of :func:`autocrop`.

    Examples
    --------
    >>> autocrop_array_shapes([(1, 2, 3), (5, 4, 4)], [None, "lower", "center"])
    [(1, 2, 3), (5, 2, 3)]
    """
    if cropping is None:
        return list(input_shapes)
    modes = _modes(cropping, [len(shape) for shape in input_shapes])
    smallest = [None if None in several else min(several) for several in zip(*input_shapes, strict=True)]
    return [
        tuple(
            size if mode is None else least for mode, size, least in zip(modes, shape, smallest, strict=True)
        )
        for shape in input_shapes
    ]


def _modes(cropping: Sequence[str | None], dimensions: Sequence[int]) -> list[str | None]:
    """A mode for each axis."""
    if len(set(dimensions)) > 1:
        raise ValueError(f"expected inputs of as many dimensions, got {list(dimensions)}")
    modes = list(cropping)
    if len(modes) > dimensions[0] or any(mode not in (None, "lower", "center", "upper") for mode in modes):
        raise ValueError(
            f"expected cropping None, 'lower', 'center' or 'upper' for each axis, got {list(cropping)}"
        )
    return modes + [None] * (dimensions[0] - len(modes))


def _smaller(one: Any, other: Any) -> Any:
    return min(one, other) if isinstance(one, int) and isinstance(other, int) else pt.minimum(one, other)


def _slice(mode: str | None, size: Any, kept: Any) -> slice:
    if mode is None or size is kept:
        return slice(None)
    start = {"lower": 0, "center": (size - kept) // 2, "upper": size - kept}[mode]
    return slice(start, start + kept)


class _CroppingLayer(MergeLayer):
    """Base of the layers that can crop their inputs to the smallest of them, axis by axis."""

    def __init__(self, incomings: Sequence[Incoming], cropping: Cropping = None, name: str | None = None):
        super().__init__(incomings, name=name)
        dimensions = len(self.input_shapes[0])
        if any(len(shape) != dimensions for shape in self.input_shapes):
            raise ValueError(f"{self}: expected inputs of as many dimensions, got shapes {self.input_shapes}")
        self.cropping: Any = None if cropping is None else list(cropping)
        if cropping is not None:
            try:
                self.cropping = _modes(cropping, [dimensions])
            except ValueError as error:
                raise ValueError(f"{self}: {error}") from error

    def merged_shape(self, input_shapes: Sequence[Shape], free_axis: int | None = None) -> Shape:
        """Get the common shape of the inputs; sizes may differ along `free_axis` only, where it is None.

        Sizes of 1 fit any other where no axis is free.
        """
        shapes = autocrop_array_shapes(input_shapes, self.cropping)
        merged: list[int | None] = []
        for axis, sizes in enumerate(zip(*shapes, strict=True)):
            known = {size for size in sizes if size is not None}
            if free_axis is None and len(known) > 1:
                known.discard(1)
            if len(known) > 1 and axis != free_axis:
                raise ValueError(f"{self}: expected equal sizes along axis {axis}, got input shapes {shapes}")
            merged.append(known.pop() if len(known) == 1 and axis != free_axis else None)
        return tuple(merged)


class ElemwiseMergeLayer(_CroppingLayer):
    """Merge inputs of the same shape, element by element; sizes of 1 are repeated.

    Parameters
    ----------
    incomings : list of (Layer or tuple)
    merge_function : callable
        Takes two variables, gives one of the same shape; applied from left to right.
    cropping : list of (None, 'lower', 'center' or 'upper'), optional
        For each axis, the part of larger inputs to keep; see :func:`autocrop`.
    name : str, optional

    Raises
    ------
    ValueError
        If the shapes differ after cropping.

    Examples
    --------
    >>> ElemwiseMergeLayer([(None, 3), (None, 3)], pt.maximum).output_shape
    (None, 3)
    """

    def __init__(
        self,
        incomings: Sequence[Incoming],
        merge_function: Callable[[Any, Any], Any],
        cropping: Cropping = None,
        name: str | None = None,
    ):
        super().__init__(incomings, cropping, name=name)
        self.merge_function = merge_function
        self.merged_shape(self.input_shapes)

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Get the common shape of the inputs."""
        return self.merged_shape(input_shapes)

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Merge."""
        return reduce(
            self.merge_function, map(self._repeating, autocrop(inputs, self.cropping), self._ones())
        )

    def _ones(self) -> list[list[int]]:
        """For each input the axes of size 1, which are repeated where another input is larger."""
        shapes = autocrop_array_shapes(self.input_shapes, self.cropping)
        return [[axis for axis, size in enumerate(shape) if size == 1] for shape in shapes]

    @staticmethod
    def _repeating(variable: Any, axes: Sequence[int]) -> Any:
        # PyTensor repeats only what it knows to be 1 when the graph is built.
        unknown = [axis for axis in axes if variable.type.shape[axis] is None]
        return pt.specify_broadcastable(variable, *unknown) if unknown else variable


class ElemwiseSumLayer(ElemwiseMergeLayer):
    """Sum inputs of the same shape.

    Parameters
    ----------
    incomings : list of (Layer or tuple)
    coeffs : float, or list of float
        A factor for all inputs, or one for each.
    cropping, name
        As for :class:`ElemwiseMergeLayer`.

    Raises
    ------
    ValueError
        If the shapes differ, or there are more or fewer factors than inputs.

    Examples
    --------
    >>> ElemwiseSumLayer([(None, 64, 8, 8), (None, 64, 8, 8)], name="res2a").output_shape
    (None, 64, 8, 8)
    """

    def __init__(
        self,
        incomings: Sequence[Incoming],
        coeffs: float | Sequence[float] = 1,
        cropping: Cropping = None,
        name: str | None = None,
    ):
        super().__init__(incomings, pt.add, cropping, name=name)
        count = len(self.input_shapes)
        several = isinstance(coeffs, Sequence) or getattr(coeffs, "ndim", 0) > 0
        self.coeffs: list[Any] = list(coeffs) if several else [coeffs] * count  # type: ignore[arg-type]
        if len(self.coeffs) != count:
            raise ValueError(f"{self}: expected {count} coeffs, one for each input, got {len(self.coeffs)}")

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Multiply by the factors and sum."""
        ones = [isinstance(factor, int | float) and factor == 1 for factor in self.coeffs]
        scaled = [
            variable if one else variable * pt.cast(factor, variable.dtype)
            for variable, factor, one in zip(
                inputs if all(ones) else map(as_floats, inputs), self.coeffs, ones, strict=True
            )
        ]
        return super().get_output_for(scaled, **kwargs)


class ConcatLayer(_CroppingLayer):
    """Join inputs along an axis.

    Parameters
    ----------
    incomings : list of (Layer or tuple)
        Of the same shape but for that axis.
    axis : int
    cropping, name
        As for :class:`ElemwiseMergeLayer`; the axis of joining is not cropped.

    Raises
    ------
    ValueError
        If the shapes differ along another axis.

    Examples
    --------
    >>> ConcatLayer([(None, 3, 8, 8), (None, 5, 8, 8)]).output_shape
    (None, 8, 8, 8)
    """

    def __init__(
        self, incomings: Sequence[Incoming], axis: int = 1, cropping: Cropping = None, name: str | None = None
    ):
        super().__init__(incomings, cropping, name=name)
        dimensions = len(self.input_shapes[0])
        if not -dimensions <= axis < dimensions:
            raise ValueError(f"{self}: expected axis in [{-dimensions}, {dimensions}), got {axis}")
        self.axis = axis % dimensions
        if self.cropping is not None:
            self.cropping[self.axis] = None
        self.merged_shape(self.input_shapes, free_axis=self.axis)

    def get_output_shape_for(self, input_shapes: Sequence[Shape]) -> Shape:
        """Add up the sizes along the axis."""
        sizes = [shape[self.axis] for shape in input_shapes]
        total = None if None in sizes else sum(size for size in sizes if size is not None)
        merged = self.merged_shape(input_shapes, free_axis=self.axis)
        return (*merged[: self.axis], total, *merged[self.axis + 1 :])

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Join."""
        return pt.concatenate(autocrop(inputs, self.cropping), axis=self.axis)


concat = ConcatLayer
