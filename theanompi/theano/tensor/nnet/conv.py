"""Convolutions, where Theano had its first one."""

from typing import Any

from theanompi.lasagne.theano_extensions import conv

__all__ = ["conv2d", "conv3d"]


def conv2d(
    input: Any,
    filters: Any,
    input_shape: Any = None,
    filter_shape: Any = None,
    border_mode: Any = "valid",
    subsample: Any = (1, 1),
    filter_flip: bool = True,
    image_shape: Any = None,
    filter_dilation: Any = (1, 1),
    num_groups: int = 1,
) -> Any:
    """Convolve images with filters: :func:`theanompi.lasagne.theano_extensions.conv.conv2d`.

    `image_shape` is a former name of `input_shape`, which has no effect.
    """
    return conv.conv2d(
        input,
        filters,
        input_shape,
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
    border_mode: Any = "valid",
    subsample: Any = (1, 1, 1),
    filter_flip: bool = True,
    filter_dilation: Any = (1, 1, 1),
    num_groups: int = 1,
) -> Any:
    """Convolve volumes with filters: :func:`theanompi.lasagne.theano_extensions.conv.conv3d`."""
    return conv.conv3d(
        input,
        filters,
        input_shape,
        filter_shape,
        border_mode,
        subsample,
        filter_flip,
        num_groups,
        filter_dilation,
    )
