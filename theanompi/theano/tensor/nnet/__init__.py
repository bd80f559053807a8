"""Theano's functions for neural networks."""

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor import sigmoid, softplus
from pytensor.tensor.special import log_softmax

from theanompi.lasagne import nonlinearities
from theanompi.lasagne.nonlinearities import selu
from theanompi.lasagne.objectives import binary_crossentropy, categorical_crossentropy
from theanompi.theano.tensor.nnet import conv
from theanompi.theano.tensor.nnet.conv import conv2d, conv3d

__all__ = [
    "binary_crossentropy",
    "categorical_crossentropy",
    "conv",
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

ultra_fast_sigmoid = sigmoid


def __getattr__(name: str) -> Any:
    raise AttributeError(f"{__name__} has {', '.join(__all__)}; it has no {name!r}")


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


def softsign(x: Any) -> Any:
    """Squash into (−1, 1): x / (1 + abs(x))."""
    return x / (1 + abs(x))


def _rows(x: Any) -> Any:
    x = pt.as_tensor_variable(x)
    return pt.shape_padleft(x) if x.ndim == 1 else x
