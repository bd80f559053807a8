"""Theano's functions for neural networks."""

from difflib import get_close_matches
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor import sigmoid, softplus
from pytensor.tensor.special import log_softmax

from theanompi.lasagne import nonlinearities, objectives
from theanompi.lasagne.nonlinearities import selu
from theanompi.theano.tensor.nnet import abstract_conv, bn, conv, conv3d2d, neighbours
from theanompi.theano.tensor.nnet.bn import batch_normalization
from theanompi.theano.tensor.nnet.conv import conv2d, conv3d

__all__ = [
    "abstract_conv",
    "batch_normalization",
    "binary_crossentropy",
    "bn",
    "categorical_crossentropy",
    "conv",
    "conv2d",
    "conv2d_transpose",
    "conv3d",
    "conv3d2d",
    "crossentropy_categorical_1hot",
    "crossentropy_softmax_1hot",
    "elu",
    "hard_sigmoid",
    "logsoftmax",
    "neighbours",
    "relu",
    "selu",
    "sigmoid",
    "sigmoid_binary_crossentropy",
    "softmax",
    "softmax_with_bias",
    "softplus",
    "softsign",
    "ultra_fast_sigmoid",
]

ultra_fast_sigmoid = sigmoid


def __getattr__(name: str) -> Any:
    close = ", ".join(get_close_matches(name, __all__, 5, 0.4)) or "docs/port.md"
    raise AttributeError(f"{__name__}: expected one of its names, got {name!r}; see {close}")


def binary_crossentropy(output: Any, target: Any) -> Any:
    """Cross-entropy between bits and their probabilities `output`."""
    return objectives.binary_crossentropy(output, target)


def categorical_crossentropy(coding_dist: Any, true_dist: Any) -> Any:
    """Cross-entropy between the rows of `coding_dist` and classes, by number or as rows of probabilities."""
    return objectives.categorical_crossentropy(coding_dist, true_dist)


def conv2d_transpose(
    input: Any,
    filters: Any,
    output_shape: Any,
    filter_shape: Any = None,
    border_mode: Any = "valid",
    input_dilation: Any = (1, 1),
    filter_flip: bool = True,
    filter_dilation: Any = (1, 1),
) -> Any:
    """Multiply by the transpose of a convolution of stride `input_dilation`.

    See :func:`theanompi.theano.tensor.nnet.abstract_conv.conv2d_grad_wrt_inputs`.
    """
    return abstract_conv.conv2d_grad_wrt_inputs(
        input, filters, output_shape, filter_shape, border_mode, input_dilation, filter_flip, filter_dilation
    )


def crossentropy_categorical_1hot(coding_dist: Any, true_one_of_n: Any) -> Any:
    """Cross-entropy between the rows of `coding_dist` and the numbers of classes."""
    return categorical_crossentropy(coding_dist, true_one_of_n)


def crossentropy_softmax_1hot(x: Any, y_idx: Any) -> tuple[Any, Any]:
    """Give the cross-entropy between the softmax of `x` and the numbers of classes, and the softmax."""
    probabilities = softmax(x)
    return categorical_crossentropy(probabilities, y_idx), probabilities


def elu(x: Any, alpha: Any = 1) -> Any:
    """Exponential linear unit: x where it is positive, else alpha · (exp(x) − 1)."""
    return pt.switch(x > 0, x, pt.cast(alpha, x.dtype) * pt.expm1(pt.minimum(x, 0)))


def hard_sigmoid(x: Any) -> Any:
    """Cut a line into [0, 1]: 0.2·x + 0.5."""
    return pt.clip(pt.cast(0.2, x.dtype) * x + pt.cast(0.5, x.dtype), 0, 1)


def logsoftmax(x: Any) -> Any:
    """Logarithm of :func:`softmax`."""
    return log_softmax(_rows(x), axis=-1)


def relu(x: Any, alpha: Any = 0) -> Any:
    """Rectify: x where it is positive, else alpha · x."""
    if isinstance(alpha, int | float) and alpha == 0:
        return nonlinearities.rectify(x)
    return nonlinearities.LeakyRectify(alpha)(x)


def sigmoid_binary_crossentropy(output: Any, target: Any) -> Any:
    """Cross-entropy between bits and the sigmoid of `output`, computed from `output`."""
    return pt.softplus(output) - target * output


def softmax(x: Any) -> Any:
    """Normalised exponentials over the last axis; those of a vector are the one row of a matrix, as in Theano."""
    return nonlinearities.softmax(_rows(x))


def softmax_with_bias(x: Any, b: Any) -> Any:
    """Give the :func:`softmax` of `x` + `b`."""
    return softmax(x + b)


def softsign(x: Any) -> Any:
    """Squash into (−1, 1): x / (1 + abs(x))."""
    return x / (1 + abs(x))


def _rows(x: Any) -> Any:
    x = pt.as_tensor_variable(x)
    return pt.shape_padleft(x) if x.ndim == 1 else x
