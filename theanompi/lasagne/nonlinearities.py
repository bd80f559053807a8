"""Functions that layers apply to their activations, element by element (softmax: row by row)."""

from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.special import softmax as _softmax

from theanompi.device.ops import leaky_relu as _leaky_relu
from theanompi.device.ops import relu as _relu
from theanompi.lasagne.utils import as_floats

__all__ = [
    "SELU",
    "LeakyRectify",
    "ScaledTanH",
    "ScaledTanh",
    "elu",
    "identity",
    "leaky_rectify",
    "linear",
    "rectify",
    "selu",
    "sigmoid",
    "softmax",
    "softplus",
    "tanh",
    "very_leaky_rectify",
]


def sigmoid(x: Any) -> Any:
    """Logistic function, 1 / (1 + exp(−x)).

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor variable
        In [0, 1], of the shape and dtype of `x`.

    Examples
    --------
    >>> sigmoid(pt.fmatrix("x")).type
    TensorType(float32, shape=(None, None))
    """
    return pt.sigmoid(x)


def softmax(x: Any) -> Any:
    """Normalised exponentials over the last axis, exp(x_j) / Σ_k exp(x_k).

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor variable
        Of the shape and dtype of `x`; rows sum to 1.

    Examples
    --------
    >>> softmax(pt.fmatrix("x")).type
    TensorType(float32, shape=(None, None))
    """
    return _softmax(x, axis=-1)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent.

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor variable
        In [−1, 1], of the shape and dtype of `x`.

    Examples
    --------
    >>> tanh(pt.fmatrix("x")).type
    TensorType(float32, shape=(None, None))
    """
    return pt.tanh(x)


class ScaledTanH:
    """Scaled hyperbolic tangent, tanh(scale_in · x) · scale_out.

    With ``scale_in=2/3`` and ``scale_out=1.7159`` it maps ±1 to ±1 [1]_.

    Parameters
    ----------
    scale_in, scale_out : float

    References
    ----------
    .. [1] Y. LeCun et al. (1998): Efficient backprop, section 4.4.
    """

    def __init__(self, scale_in: float = 1, scale_out: float = 1):
        self.scale_in, self.scale_out = scale_in, scale_out

    def __call__(self, x: Any) -> Any:
        """Apply it to a pytensor variable."""
        x = as_floats(x)
        return pt.tanh(x * pt.cast(self.scale_in, x.dtype)) * pt.cast(self.scale_out, x.dtype)


ScaledTanh = ScaledTanH


def rectify(x: Any) -> Any:
    """Rectifier, max(0, x), by the device's own op.

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor variable
        Of the shape and dtype of `x`.

    Examples
    --------
    >>> rectify(pt.fmatrix("x")).type
    TensorType(float32, shape=(None, None))
    """
    return _relu(x)


class LeakyRectify:
    """Leaky rectifier, max(x, leakiness · x) [1]_, by the device's own op where the leakiness is a number.

    Parameters
    ----------
    leakiness : float or tensor
        Slope for negative inputs, usually in [0, 1]; 0 is :func:`rectify`, 1 is :func:`linear`.

    References
    ----------
    .. [1] A. Maas et al. (2013): Rectifier nonlinearities improve neural network acoustic models.

    Examples
    --------
    >>> LeakyRectify(0.1)(pt.fmatrix("x")).type
    TensorType(float32, shape=(None, None))
    """

    def __init__(self, leakiness: float = 0.01):
        self.leakiness = leakiness

    def __call__(self, x: Any) -> Any:
        """Apply it to a pytensor variable."""
        x = as_floats(x)
        if isinstance(self.leakiness, float | int | np.number):
            return _leaky_relu(x, self.leakiness)
        return pt.switch(x > 0, x, x * pt.cast(self.leakiness, x.dtype))


leaky_rectify = LeakyRectify(0.01)
very_leaky_rectify = LeakyRectify(1 / 3)


def elu(x: Any) -> Any:
    """Exponential linear unit, x where x > 0, else exp(x) − 1 [1]_.

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor variable
        Of the shape and dtype of `x`.

    References
    ----------
    .. [1] D.-A. Clevert et al. (2015): Fast and accurate deep network learning by exponential linear
       units. arXiv:1511.07289.

    Examples
    --------
    >>> elu(pt.fmatrix("x")).type
    TensorType(float32, shape=(None, None))
    """
    # The minimum keeps the unused branch finite: its gradient would be inf · 0 for a large x.
    return pt.switch(x > 0, x, pt.expm1(pt.minimum(x, 0)))


class SELU:
    """Scaled exponential linear unit [1]_: x · scale where x > 0, else (exp(x) − 1) · scale · scale_neg.

    Parameters
    ----------
    scale, scale_neg : float
        :func:`selu` has those with which activations keep mean 0 and variance 1 from layer to layer, if weights are
        drawn with the variance 1 / fan_in.

    References
    ----------
    .. [1] G. Klambauer et al. (2017): Self-normalizing neural networks. arXiv:1706.02515, equation 2.
    """

    def __init__(self, scale: float = 1, scale_neg: float = 1):
        self.scale, self.scale_neg = scale, scale_neg

    def __call__(self, x: Any) -> Any:
        """Apply it to a pytensor variable."""
        x = as_floats(x)
        negative = pt.cast(self.scale_neg, x.dtype) * pt.expm1(pt.minimum(x, 0))
        return pt.cast(self.scale, x.dtype) * pt.switch(x > 0, x, negative)


selu = SELU(scale=1.0507009873554805, scale_neg=1.6732632423543772)


def softplus(x: Any) -> Any:
    """Smooth rectifier, log(1 + exp(x)).

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor variable
        Of the shape and dtype of `x`.

    Examples
    --------
    >>> softplus(pt.fmatrix("x")).type
    TensorType(float32, shape=(None, None))
    """
    return pt.softplus(x)


def linear(x: Any) -> Any:
    """Return `x` itself.

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor variable

    Examples
    --------
    >>> x = pt.fmatrix("x")
    >>> linear(x) is x
    True
    """
    return x


identity = linear
