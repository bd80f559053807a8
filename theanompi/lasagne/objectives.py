"""Losses and measures, per item; :func:`aggregate` makes a scalar of them.

>>> import pytensor.tensor as pt
>>> from theanompi.lasagne.layers import DenseLayer, InputLayer, get_output
>>> from theanompi.lasagne.nonlinearities import softmax
>>> network = DenseLayer(InputLayer((None, 20)), num_units=3, nonlinearity=softmax)
>>> labels = pt.lvector("labels")
>>> loss = aggregate(categorical_crossentropy(get_output(network), labels), mode="mean")
>>> loss.type
TensorType(float32, shape=())
"""

import warnings
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.special import Softmax

from theanompi.device import ops
from theanompi.lasagne.utils import as_floats, as_theano_expression

__all__ = [
    "aggregate",
    "align_targets",
    "binary_accuracy",
    "binary_crossentropy",
    "binary_hinge_loss",
    "categorical_accuracy",
    "categorical_crossentropy",
    "huber_loss",
    "multiclass_hinge_loss",
    "squared_error",
]


def align_targets(predictions: Any, targets: Any) -> tuple[Any, Any]:
    """Make a column of a vector of targets where the predictions are one: they would broadcast to a matrix.

    Parameters
    ----------
    predictions, targets : pytensor variable or array_like

    Returns
    -------
    tuple of pytensor variable
        `predictions`, and `targets` of shape (n, 1) if they are (n,) and the predictions (n, 1).
    """
    predictions, targets = as_theano_expression(predictions), as_theano_expression(targets)
    column = predictions.type.ndim == 2 and predictions.type.shape[1] == 1
    return predictions, targets[:, None] if column and targets.type.ndim == 1 else targets


def categorical_crossentropy(predictions: Any, targets: Any) -> Any:
    """Cross-entropy between predicted and target classes, L_i = −Σ_j t_ij log p_ij.

    Of the output of a softmax, the loss is computed from the softmax's input, which is stable however small
    a probability is: for integer targets by the device's own op, for others by PyTensor's rewrites.

    Parameters
    ----------
    predictions : pytensor matrix
        (n, classes), probabilities: rows sum to 1.
    targets : pytensor vector or matrix
        (n,) integers, the index of the right class; or (n, classes) probabilities.

    Returns
    -------
    pytensor vector
        (n,), in nats.

    Raises
    ------
    TypeError
        If `predictions` is no matrix, or `targets` is neither of the two.

    Examples
    --------
    >>> probabilities, labels = pt.fmatrix("probabilities"), pt.lvector("labels")
    >>> categorical_crossentropy(probabilities, labels).type
    TensorType(float32, shape=(None,))
    """
    predictions, targets = _of_ranks("categorical_crossentropy", predictions, targets)
    if targets.ndim == 2:
        return -pt.sum(targets * pt.log(predictions), axis=1)
    op = None if predictions.owner is None else predictions.owner.op
    if isinstance(op, Softmax) and op.axis == (1,):
        return ops.softmax_cross_entropy(predictions.owner.inputs[0], targets.astype("int64"))
    return -pt.log(predictions[pt.arange(predictions.shape[0]), targets])


def binary_crossentropy(predictions: Any, targets: Any) -> Any:
    """Cross-entropy between predicted and target bits, L = −t log p − (1 − t) log(1 − p).

    Of the output of a sigmoid, PyTensor's rewrites compute the loss from its input, which is stable.

    Parameters
    ----------
    predictions : pytensor variable
        Probabilities, of any shape.
    targets : pytensor variable
        In [0, 1], of the same shape; a vector may meet a column of predictions.

    Returns
    -------
    pytensor variable
        Of that shape, in nats.

    Examples
    --------
    >>> binary_crossentropy(pt.fmatrix("p"), pt.fmatrix("t")).type
    TensorType(float32, shape=(None, None))
    """
    predictions, targets = _aligned(predictions, targets)
    return -(targets * pt.log(predictions) + (1 - targets) * pt.log1p(-predictions))


def squared_error(a: Any, b: Any) -> Any:
    """Squared difference, element by element.

    Parameters
    ----------
    a, b : pytensor variable
        Of the same shape; `b` may be a vector where `a` is a column.

    Returns
    -------
    pytensor variable
        Of that shape.

    Examples
    --------
    >>> squared_error(pt.fmatrix("a"), pt.fmatrix("b")).type
    TensorType(float32, shape=(None, None))
    """
    a, b = _aligned(a, b)
    return pt.sqr(a - b)


def huber_loss(predictions: Any, targets: Any, delta: Any = 1) -> Any:
    """Huber's loss [1]_: half the squared difference d² / 2 up to ``|d| = δ``, ``δ · (|d| − δ / 2)`` beyond.

    Parameters
    ----------
    predictions, targets : pytensor variable
        Of the same shape; `targets` may be a vector where `predictions` is a column.
    delta : float or pytensor scalar
        δ, where the square becomes a line.

    Returns
    -------
    pytensor variable
        Of that shape.

    References
    ----------
    .. [1] P. Huber (1964): Robust estimation of a location parameter. Annals of Mathematical Statistics 35.
    """
    predictions, targets = _aligned(predictions, targets)
    distance = abs(targets - predictions)
    delta = pt.cast(delta, distance.dtype)
    half = pt.cast(0.5, distance.dtype)
    return pt.switch(distance <= delta, half * pt.sqr(distance), delta * (distance - half * delta))


def binary_hinge_loss(
    predictions: Any, targets: Any, delta: Any = 1, log_odds: bool | None = None, binary: bool = True
) -> Any:
    """Hinge loss of two classes, L = max(0, δ − t·p), element by element.

    Parameters
    ----------
    predictions : pytensor variable
        Scores, whose sign tells the class.
    targets : pytensor variable
        0 or 1, of the same shape; a vector may meet a column of predictions.
    delta : float or pytensor scalar
        δ, the margin.
    log_odds : bool, optional
        True says that predictions are scores, such as a sigmoid's input; False that they are probabilities, such as
        its output, from which the scores log(p / (1 − p)) are computed. None is True, with a FutureWarning.
    binary : bool
        False says that targets are −1 or 1.

    Returns
    -------
    pytensor variable
        Of that shape.
    """
    if log_odds is None:
        warnings.warn(
            "binary_hinge_loss: expected log_odds=True or False, got None, which stands for True until it means False",
            FutureWarning,
            stacklevel=2,
        )
    predictions, targets = _aligned(predictions, targets)
    if log_odds is False:
        predictions = pt.log(predictions) - pt.log1p(-predictions)
    if binary:
        targets = 2 * targets - 1
    return pt.maximum(0, pt.cast(delta, predictions.dtype) - predictions * targets)


def multiclass_hinge_loss(predictions: Any, targets: Any, delta: Any = 1) -> Any:
    """Hinge loss of several classes [1]_, L_i = max(0, δ + max_{j ≠ t_i} p_ij − p_it_i).

    Parameters
    ----------
    predictions : pytensor matrix
        (n, classes), scores.
    targets : pytensor vector or matrix
        (n,) integers, the index of the right class; or (n, classes) one-hot.
    delta : float or pytensor scalar
        δ, the margin.

    Returns
    -------
    pytensor vector
        (n,)

    Raises
    ------
    TypeError
        If `predictions` is no matrix, or `targets` is neither of the two.

    References
    ----------
    .. [1] K. Crammer and Y. Singer (2001): On the algorithmic implementation of multiclass kernel-based vector
       machines. JMLR 2.
    """
    predictions, targets = _of_ranks("multiclass_hinge_loss", predictions, targets)
    predictions = as_floats(predictions)
    if targets.ndim == 1:
        targets = pt.eq(targets[:, None], pt.arange(predictions.shape[1])[None, :])
    right = pt.gt(targets, 0)
    score = pt.sum(pt.switch(right, predictions, pt.zeros_like(predictions)), axis=1)
    other = pt.max(pt.switch(right, pt.cast(-np.inf, predictions.dtype), predictions), axis=1)
    return pt.maximum(0, other - score + pt.cast(delta, predictions.dtype))


def binary_accuracy(predictions: Any, targets: Any, threshold: Any = 0.5) -> Any:
    """Tell for each element whether the prediction reaches the threshold exactly where the target is 1.

    Parameters
    ----------
    predictions : pytensor variable
        Probabilities of class 1, of any shape.
    targets : pytensor variable
        0 or 1, of the same shape; a vector may meet a column of predictions.
    threshold : float or pytensor scalar

    Returns
    -------
    pytensor variable
        Of that shape, 0 or 1, in the dtype of `predictions`, so that its mean is the accuracy. No gradient.
    """
    predictions, targets = align_targets(predictions, targets)
    predictions = as_floats(predictions)
    positive = pt.ge(predictions, pt.cast(threshold, predictions.dtype))
    return pt.eq(positive, targets).astype(predictions.dtype)


def categorical_accuracy(predictions: Any, targets: Any, top_k: int = 1) -> Any:
    """Tell for each item whether its class is among the `top_k` most probable ones.

    Of equal predictions, the lower class index goes first (as with ``argmax``), and a row with a NaN
    is wrong.

    Parameters
    ----------
    predictions : pytensor variable
        (…, classes), probabilities or anything that orders the classes as they do.
    targets : pytensor variable
        (…) integers, the index of the right class; or (…, classes) one-hot.
    top_k : int

    Returns
    -------
    pytensor variable
        (…), 0 or 1, in the dtype of `predictions`, so that its mean is the accuracy. No gradient.

    Raises
    ------
    TypeError
        If `targets` is neither of the two.

    Examples
    --------
    >>> from theanompi.device import mode
    >>> scores = pt.constant([[0.1, 0.7, 0.2]])
    >>> [float(categorical_accuracy(scores, pt.constant([2]), top_k=k).eval(mode=mode())[0]) for k in (1, 2)]
    [0.0, 1.0]
    """
    predictions, targets = _of_ranks("categorical_accuracy", predictions, targets, predictions.ndim)
    if targets.ndim == predictions.ndim:
        targets = pt.argmax(targets, axis=-1)
    # As int64, because take_along_axis takes no unsigned integers, which labels often are.
    targets, classes = targets[..., None].astype("int64"), pt.arange(predictions.shape[-1])
    score = pt.take_along_axis(predictions, targets, axis=-1)
    # Counted as "not behind" rather than "ahead", because every comparison with a NaN is false.
    behind = (predictions < score) | (pt.eq(predictions, score) & (classes >= targets))
    ahead = pt.sum(~behind, axis=-1)
    return (ahead < top_k).astype(predictions.dtype)


def aggregate(loss: Any, weights: Any = None, mode: str = "mean") -> Any:
    """Make a scalar of a loss per item or element.

    Parameters
    ----------
    loss : pytensor variable
    weights : pytensor variable, optional
        Factors, of a shape that broadcasts to that of `loss`; zeros leave items out.
    mode : {'mean', 'sum', 'normalized_sum'}
        The mean over all items (also those of weight 0), their sum, or their sum over the sum of the weights.

    Returns
    -------
    pytensor scalar

    Raises
    ------
    ValueError
        If the mode is unknown, or ``'normalized_sum'`` has no weights.

    Examples
    --------
    >>> from theanompi.device import mode
    >>> loss, weights = pt.constant([1.0, 3.0, 5.0]), pt.constant([1.0, 1.0, 0.0])
    >>> [float(aggregate(loss, weights, how).eval(mode=mode())) for how in ("sum", "normalized_sum")]
    [4.0, 2.0]
    """
    if weights is not None:
        loss = loss * weights
    if mode == "mean":
        return loss.mean()
    if mode == "sum":
        return loss.sum()
    if mode != "normalized_sum":
        raise ValueError(f"aggregate: expected mode 'mean', 'sum' or 'normalized_sum', got {mode!r}")
    if weights is None:
        raise ValueError("aggregate: mode 'normalized_sum' needs weights, got None")
    return loss.sum() / weights.sum()


def _aligned(predictions: Any, targets: Any) -> tuple[Any, Any]:
    """As `align_targets`, with integers as floats: of targets in the predictions' dtype."""
    predictions, targets = align_targets(predictions, targets)
    predictions = as_floats(predictions)
    return predictions, targets if targets.dtype.startswith("float") else targets.astype(predictions.dtype)


def _of_ranks(what: str, predictions: Any, targets: Any, dimensions: int = 2) -> tuple[Any, Any]:
    """Both as expressions, of so many dimensions; one less for targets that are integers."""
    predictions, targets = as_theano_expression(predictions), as_theano_expression(targets)
    integers = targets.ndim == dimensions - 1 and targets.dtype.startswith(("int", "uint"))
    if predictions.ndim != dimensions or not (integers or targets.ndim == dimensions):
        raise TypeError(
            f"{what}: expected predictions (n, classes) and targets (n,) of integers or (n, classes), "
            f"got predictions {predictions.type} and targets {targets.type}"
        )
    return predictions, targets
