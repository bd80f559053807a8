"""Theano's functions for neural networks."""

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor import sigmoid, softplus
from pytensor.tensor.special import log_softmax

from theanompi.lasagne import nonlinearities
from theanompi.lasagne.nonlinearities import elu, selu, softmax
from theanompi.lasagne.objectives import binary_crossentropy, categorical_crossentropy
from theanompi.lasagne.theano_extensions import conv

__all__ = [
    "binary_crossentropy",
    "categorical_crossentropy",
    "conv2d",
    "conv3d",
    "elu",
    "hard_sigmoid",
    "logsoftmax",
    "relu",
    "selu",
    "sigmoid",
    "sigmoid_binary_crossentropy",
    "softmax",
    "softplus",
    "softsign",
    "ultra_fast_sigmoid",
]

conv3d = conv.conv3d
ultra_fast_sigmoid = sigmoid


def __getattr__(name: str) -> Any:
    raise AttributeError(f"{__name__} has {', '.join(__all__)}; it has no {name!r}")


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


def hard_sigmoid(x: Any) -> Any:
    """Cut a line into [0, 1]: 0.2·x + 0.5."""
    return pt.clip(pt.cast(0.2, x.dtype) * x + pt.cast(0.5, x.dtype), 0, 1)


def logsoftmax(x: Any) -> Any:
    """Logarithm of :func:`softmax`, over the last axis."""
    return log_softmax(x, axis=-1)


def relu(x: Any, alpha: Any = 0) -> Any:
    """Rectify: x where it is positive, else alpha · x."""
    return (
        nonlinearities.LeakyRectify(alpha)(x)
        if isinstance(alpha, pt.TensorVariable) or alpha
        else nonlinearities.rectify(x)
    )


def sigmoid_binary_crossentropy(output: Any, target: Any) -> Any:
    """Cross-entropy between bits and the sigmoid of `output`, computed from `output`."""
    return pt.softplus(output) - target * output


def softsign(x: Any) -> Any:
    """Squash into (−1, 1): x / (1 + abs(x))."""
    return x / (1 + abs(x))
