"""Layers with several inputs."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import pytensor.tensor as pt

from theanompi.lasagne.layers.base import Incoming, MergeLayer
from theanompi.lasagne.utils import Shape

__all__ = ["ConcatLayer", "ElemwiseMergeLayer", "ElemwiseSumLayer", "concat"]

Cropping = Sequence[str | None] | None


class _CroppingLayer(MergeLayer):
    """Base of the layers that can crop their inputs to the smallest of them, axis by axis."""

    def __init__(self, incomings: Sequence[Incoming], cropping: Cropping = None, name: str | None = None):
        super().__init__(incomings, name=name)
        dimensions = len(self.input_shapes[0])
        if any(len(shape) != dimensions for shape in self.input_shapes):
            raise ValueError(f"{self}: expected inputs of as many dimensions, got shapes {self.input_shapes}")
        modes = [None] * dimensions if cropping is None else list(cropping)
        if len(modes) > dimensions or any(mode not in (None, "lower", "center", "upper") for mode in modes):
            raise ValueError(
                f"{self}: expected cropping None, 'lower', 'center' or 'upper' for each axis, got {cropping}"
            )
        self.cropping = modes + [None] * (dimensions - len(modes))
        for axis, (mode, sizes) in enumerate(self._by_axis(self.input_shapes)):
            if mode is not None and None in sizes:
                raise ValueError(f"{self}: expected known sizes to crop along axis {axis}, got {sizes}")

    def crop_shapes(self, input_shapes: Sequence[Shape]) -> list[Shape]:
        """Get the shapes of the inputs after cropping."""
        smallest = [min(sizes) if mode else None for mode, sizes in self._by_axis(input_shapes)]
        return [
            tuple(size if least is None else least for size, least in zip(shape, smallest, strict=True))
            for shape in input_shapes
        ]

    def crop(self, inputs: Sequence[Any]) -> list[Any]:
        """Cut the inputs."""
        smallest = [min(sizes) if mode else None for mode, sizes in self._by_axis(self.input_shapes)]
        return [
            variable[tuple(map(_slice, self.cropping, shape, smallest))] if any(self.cropping) else variable
            for variable, shape in zip(inputs, self.input_shapes, strict=True)
        ]

    def _by_axis(self, shapes: Sequence[Shape]) -> list[tuple[str | None, Any]]:
        return list(zip(self.cropping, zip(*shapes, strict=True), strict=True))

    def merged_shape(self, input_shapes: Sequence[Shape], free_axis: int | None = None) -> Shape:
        """Get the common shape of the inputs; sizes may differ along `free_axis` only, where it is None."""
        shapes = self.crop_shapes(input_shapes)
        merged: list[int | None] = []
        for axis, sizes in enumerate(zip(*shapes, strict=True)):
            known = {size for size in sizes if size is not None}
            if len(known) > 1 and axis != free_axis:
                raise ValueError(f"{self}: expected equal sizes along axis {axis}, got input shapes {shapes}")
            merged.append(known.pop() if len(known) == 1 and axis != free_axis else None)
        return tuple(merged)


class ElemwiseMergeLayer(_CroppingLayer):
    """Merge inputs of the same shape, element by element.

    Parameters
    ----------
    incomings : list of (Layer or tuple)
    merge_function : callable
        Takes two variables, gives one of the same shape; applied from left to right.
    cropping : list of (None, 'lower', 'center' or 'upper'), optional
        For each axis, the part of larger inputs to keep: the lower indices, the middle, the upper ones.
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
        return reduce(self.merge_function, self.crop(inputs))


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
        self.coeffs = list(coeffs) if isinstance(coeffs, Sequence) else [coeffs] * count
        if len(self.coeffs) != count:
            raise ValueError(f"{self}: expected {count} coeffs, one for each input, got {len(self.coeffs)}")

    def get_output_for(self, inputs: Sequence[Any], **kwargs: Any) -> Any:
        """Multiply by the factors and sum."""
        scaled = [
            variable if factor == 1 else variable * pt.cast(factor, variable.dtype)
            for variable, factor in zip(inputs, self.coeffs, strict=True)
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
        self,
        incomings: Sequence[Incoming],
        axis: int = 1,
        cropping: Cropping = None,
        name: str | None = None,
    ):
        super().__init__(incomings, cropping, name=name)
        dimensions = len(self.input_shapes[0])
        if not -dimensions <= axis < dimensions:
            raise ValueError(f"{self}: expected axis in [{-dimensions}, {dimensions}), got {axis}")
        self.axis = axis % dimensions
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
        return pt.concatenate(self.crop(inputs), axis=self.axis)


concat = ConcatLayer


def _slice(mode: str | None, size: int | None, kept: int | None) -> slice:
    if mode is None or size is None or kept is None:
        return slice(None)
    start = {"lower": 0, "center": (size - kept) // 2, "upper": size - kept}[mode]
    return slice(start, start + kept)
