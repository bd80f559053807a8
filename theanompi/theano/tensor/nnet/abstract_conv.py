"""Transposes of convolutions, and images enlarged."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt
from pytensor.gradient import grad

from theanompi.theano.tensor.nnet.conv import conv2d

__all__ = ["AbstractConv2d_gradInputs", "bilinear_upsampling", "conv2d", "conv2d_grad_wrt_inputs"]


def conv2d_grad_wrt_inputs(
    output_grad: Any,
    filters: Any,
    input_shape: Sequence[Any],
    filter_shape: Any = None,
    border_mode: Any = "valid",
    subsample: Sequence[int] = (1, 1),
    filter_flip: bool = True,
    filter_dilation: Sequence[int] = (1, 1),
    num_groups: int = 1,
) -> Any:
    """Multiply by the transpose of a convolution of images of `input_shape`.

    Parameters
    ----------
    output_grad : pytensor variable
        (n, out, rows', columns'): of the shape of what the convolution gives.
    filters : pytensor variable
        (out, c / num_groups, rows, columns).
    input_shape : sequence of four
        (n, c, rows, columns); n and c may be None.
    filter_shape, border_mode, subsample, filter_flip, filter_dilation, num_groups
        Those of the convolution, :func:`theanompi.theano.tensor.nnet.conv2d`.

    Returns
    -------
    pytensor variable
        Of `input_shape`.
    """
    n, channels, *lengths = (input_shape[i] for i in range(4))
    n = output_grad.shape[0] if n is None else n
    channels = filters.shape[1] * num_groups if channels is None else channels
    images = pt.zeros((n, channels, *lengths), dtype=output_grad.dtype)
    convolved = conv2d(
        images,
        filters,
        filter_shape=filter_shape,
        border_mode=border_mode,
        subsample=subsample,
        filter_flip=filter_flip,
        filter_dilation=filter_dilation,
        num_groups=num_groups,
    )
    return grad(None, images, known_grads={convolved: output_grad})


class AbstractConv2d_gradInputs:  # noqa: N801
    """What multiplies by the transpose of a convolution; arguments as of :func:`conv2d_grad_wrt_inputs`.

    Called with the filters, the gradient and the rows and columns of the result.
    """

    def __init__(
        self,
        imshp: Any = None,
        kshp: Any = None,
        border_mode: Any = "valid",
        subsample: Sequence[int] = (1, 1),
        filter_flip: bool = True,
        filter_dilation: Sequence[int] = (1, 1),
        num_groups: int = 1,
    ):
        self._geometry = {
            "filter_shape": kshp,
            "border_mode": border_mode,
            "subsample": subsample,
            "filter_flip": filter_flip,
            "filter_dilation": filter_dilation,
            "num_groups": num_groups,
        }

    def __call__(self, kern: Any, topgrad: Any, shape: Sequence[Any]) -> Any:
        """Multiply by the transpose."""
        size = (None, None, shape[0], shape[1])
        return conv2d_grad_wrt_inputs(topgrad, kern, size, **self._geometry)


def bilinear_upsampling(
    input: Any,
    ratio: int | None = None,
    frac_ratio: Any = None,
    batch_size: Any = None,
    num_input_channels: Any = None,
    use_1D_kernel: bool = True,  # noqa: N803
) -> Any:
    """Enlarge images by a whole `ratio`, linearly between pixels; the other arguments have no effect.

    The pixel of row i lies in row i · ratio + (ratio − 1) // 2; beyond the first and the last they are repeated.

    Raises
    ------
    ValueError
        If there is no `ratio`, but a fraction.
    """
    if ratio is None:
        raise ValueError(f"bilinear_upsampling: expected a whole ratio, got frac_ratio={frac_ratio!r}")
    for axis in (2, 3):
        last = input.shape[axis] - 1
        place = pt.cast(pt.arange((last + 1) * ratio) - (ratio - 1) // 2, input.dtype) / ratio
        place = pt.clip(place, 0, pt.cast(last, input.dtype))
        below = pt.cast(pt.floor(place), "int64")
        lower, upper = (pt.take(input, rows, axis=axis) for rows in (below, pt.minimum(below + 1, last)))
        share = (place - below).astype(input.dtype)
        share = share.dimshuffle(0, "x") if axis == 2 else share
        input = lower + (upper - lower) * share
    return input
