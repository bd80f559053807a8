"""Convolutions with the arguments of Theano's: what the argument ``convolution`` of layers may be.

Lasagne has several implementations of a convolution in one dimension. Here they all are one computation on the
device; each keeps the limits of its namesake, so that what is written for Lasagne fails where it fails there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytensor.graph.basic import Apply, Variable

from theanompi.device import ops
from theanompi.device.ops.base import Context, TorchOp

__all__ = [
    "conv1d_mc0",
    "conv1d_mc1",
    "conv1d_md",
    "conv1d_sc",
    "conv1d_sd",
    "conv1d_unstrided",
    "conv2d",
    "conv3d",
]

BorderMode = str | int | Sequence[int]


class Flip(TorchOp):
    """Filters mirrored along every axis after the second, as ``filters[:, :, ::-1, ::-1]``.

    An op, because torch has no slices with a negative step, and PyTensor makes one of any index that is one.
    """

    __props__ = ()

    def make_node(self, filters: Any) -> Apply:
        """Make the node of `filters`, which have a spatial axis or more."""
        return Apply(self, [filters], [filters.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        """Get the torch function."""
        axes = tuple(range(2, node.inputs[0].type.ndim))
        return lambda filters: torch.flip(filters, axes)

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        """Mirror the gradient back."""
        return [self(cotangents[0])]


def flipped(filters: Any) -> Any:
    """`filters` mirrored along every axis after the second; those of one tap as they are."""
    return filters if filters.type.shape[2:] == (1,) * (filters.ndim - 2) else Flip()(filters)


def conv1d_mc0(
    input: Any,
    filters: Any,
    image_shape: Any = None,
    filter_shape: Any = None,
    border_mode: BorderMode = "valid",
    subsample: Sequence[int] = (1,),
    filter_flip: bool = True,
    num_groups: int = 1,
    filter_dilation: Sequence[int] = (1,),
) -> Any:
    """Convolve signals with filters, of shapes (n, c, length) and (out, c / groups, k); see :func:`conv2d`."""
    return _convolve(
        ops.conv1d,
        input,
        filters,
        filter_shape,
        border_mode,
        subsample,
        filter_flip,
        num_groups,
        filter_dilation,
    )


conv1d_mc1 = conv1d_mc0


def conv1d_sc(
    input: Any,
    filters: Any,
    image_shape: Any = None,
    filter_shape: Any = None,
    border_mode: BorderMode = "valid",
    subsample: Sequence[int] = (1,),
    filter_flip: bool = True,
) -> Any:
    """Convolve signals with filters, without padding; see :func:`conv1d_mc0`."""
    _expect_valid("conv1d_sc", border_mode)
    return conv1d_mc0(input, filters, image_shape, filter_shape, "valid", subsample, filter_flip)


def conv1d_unstrided(
    input: Any,
    filters: Any,
    image_shape: Any,
    filter_shape: Any,
    border_mode: BorderMode = "valid",
    subsample: Sequence[int] = (1,),
    filter_flip: bool = True,
    implementation: Callable[..., Any] = conv1d_sc,
) -> Any:
    """Convolve signals with filters whose length is a multiple of the stride; see :func:`conv1d_mc0`."""
    _expect_multiple("conv1d_unstrided", filter_shape, subsample)
    return implementation(input, filters, image_shape, filter_shape, border_mode, subsample, filter_flip)


def conv1d_sd(
    input: Any,
    filters: Any,
    image_shape: Any,
    filter_shape: Any,
    border_mode: BorderMode = "valid",
    subsample: Sequence[int] = (1,),
    filter_flip: bool = True,
) -> Any:
    """Convolve signals, without padding, with filters whose length is a multiple of the stride."""
    _expect_valid("conv1d_sd", border_mode)
    _expect_multiple("conv1d_sd", filter_shape, subsample)
    return conv1d_mc0(input, filters, image_shape, filter_shape, "valid", subsample, filter_flip)


conv1d_md = conv1d_sd


def conv2d(
    input: Any,
    filters: Any,
    input_shape: Any = None,
    filter_shape: Any = None,
    border_mode: BorderMode = "valid",
    subsample: Sequence[int] = (1, 1),
    filter_flip: bool = True,
    num_groups: int = 1,
    filter_dilation: Sequence[int] = (1, 1),
) -> Any:
    """Convolve images with filters, with the arguments of Theano's ``nnet.conv2d``.

    Parameters
    ----------
    input : pytensor variable
        (n, c, rows, columns).
    filters : pytensor variable
        (out, c / num_groups, rows, columns).
    input_shape, filter_shape : tuple, optional
        What Theano wants to know beforehand; the filters' sizes are taken from here if their type lacks them.
    border_mode : {'valid', 'half', 'full'}, int or sequence of int
        Zeros on each side: none, half of the filter's length (rounded down), all of it but one; or that many.
    subsample, filter_dilation : sequence of int
        The stride, and the distance of the filters' taps.
    filter_flip : bool
        Mirror the filters: a convolution, as in mathematics; otherwise a cross-correlation.
    num_groups : int
        Groups of channels and filters that do not see each other.

    Returns
    -------
    pytensor variable
        (n, out, rows', columns').

    Raises
    ------
    ValueError
        If `border_mode` is none of these, or a size does not fit.
    """
    return _convolve(
        ops.conv2d,
        input,
        filters,
        filter_shape,
        border_mode,
        subsample,
        filter_flip,
        num_groups,
        filter_dilation,
    )


def conv3d(
    input: Any,
    filters: Any,
    input_shape: Any = None,
    filter_shape: Any = None,
    border_mode: BorderMode = "valid",
    subsample: Sequence[int] = (1, 1, 1),
    filter_flip: bool = True,
    num_groups: int = 1,
    filter_dilation: Sequence[int] = (1, 1, 1),
) -> Any:
    """Convolve volumes with filters, of shapes (n, c, a, b, d) and (out, c / groups, …); see :func:`conv2d`."""
    return _convolve(
        ops.conv3d,
        input,
        filters,
        filter_shape,
        border_mode,
        subsample,
        filter_flip,
        num_groups,
        filter_dilation,
    )


def _convolve(
    op: Callable[..., Any],
    input: Any,
    filters: Any,
    filter_shape: Any,
    border_mode: BorderMode,
    subsample: Sequence[int],
    filter_flip: bool,
    num_groups: int,
    dilation: Sequence[int],
) -> Any:
    sizes = filters.type.shape[2:] if None not in filters.type.shape[2:] else (filter_shape or ())[2:]
    padding = border_mode
    if isinstance(border_mode, str):
        if border_mode not in ("valid", "half", "full"):
            raise ValueError(
                f"{op.__name__}: expected border_mode 'valid', 'half', 'full' or integers, got {border_mode!r}"
            )
        if len(sizes) != filters.ndim - 2:
            raise ValueError(f"{op.__name__}: expected filters of known sizes, got {filters.type}")
        reach = [d * (size - 1) for d, size in zip(dilation, sizes, strict=True)]
        padding = [{"valid": 0, "half": (r + 1) // 2, "full": r}[border_mode] for r in reach]
    if filter_flip:
        filters = flipped(filters)
    return op(input, filters, subsample, padding, dilation, num_groups)


def _expect_valid(name: str, border_mode: BorderMode) -> None:
    if border_mode not in ("valid", 0, (0,)):
        raise RuntimeError(f"{name}: expected border_mode 'valid', got {border_mode!r}")


def _expect_multiple(name: str, filter_shape: Any, subsample: Sequence[int]) -> None:
    if filter_shape[2] % subsample[0]:
        raise RuntimeError(
            f"{name}: expected a filter length that is a multiple of the stride {subsample[0]}, "
            f"got {filter_shape[2]}"
        )
