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

from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.special import Softmax

from theanompi.device import ops

__all__ = [
    "aggregate",
    "binary_crossentropy",
    "categorical_accuracy",
    "categorical_crossentropy",
    "squared_error",
]


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
    ValueError
        If `predictions` is no matrix, or `targets` is neither of the two.

    Examples
    --------
    >>> probabilities, labels = pt.fmatrix("probabilities"), pt.lvector("labels")
    >>> categorical_crossentropy(probabilities, labels).type
    TensorType(float32, shape=(None,))
    """
    _require_ranks("categorical_crossentropy", predictions, targets)
    if targets.ndim == 2:
        return -pt.sum(targets * pt.log(predictions), axis=1)
    if predictions.owner is not None and isinstance(predictions.owner.op, Softmax):
        return ops.softmax_cross_entropy(predictions.owner.inputs[0], targets.astype("int64"))
    return -pt.log(_of_target(predictions, targets))


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
    targets = _align(predictions, targets)
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
    return pt.sqr(a - _align(a, b))


def categorical_accuracy(predictions: Any, targets: Any, top_k: int = 1) -> Any:
    """Tell for each item whether its class is among the `top_k` most probable ones.

    Of equal predictions, the lower class index goes first (as with ``argmax``), and a row with a NaN
    is wrong.

    Parameters
    ----------
    predictions : pytensor matrix
        (n, classes), probabilities or anything that orders the classes as they do.
    targets : pytensor vector or matrix
        (n,) integers, the index of the right class; or (n, classes) one-hot.
    top_k : int

    Returns
    -------
    pytensor vector
        (n,), 0 or 1, in the dtype of `predictions`, so that its mean is the accuracy. No gradient.

    Raises
    ------
    ValueError
        If `predictions` is no matrix, or `targets` is neither of the two.

    Examples
    --------
    >>> from theanompi.device import mode
    >>> scores = pt.constant([[0.1, 0.7, 0.2]])
    >>> [float(categorical_accuracy(scores, pt.constant([2]), top_k=k).eval(mode=mode())[0]) for k in (1, 2)]
    [0.0, 1.0]
    """
    _require_ranks("categorical_accuracy", predictions, targets)
    if targets.ndim == 2:
        targets = pt.argmax(targets, axis=1)
    score = _of_target(predictions, targets)[:, None]
    classes = pt.arange(predictions.shape[1])[None, :]
    # Counted as "not behind" rather than "ahead", because every comparison with a NaN is false.
    behind = (predictions < score) | (pt.eq(predictions, score) & (classes >= targets[:, None]))
    ahead = pt.sum(~behind, axis=1)
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


def _of_target(predictions: Any, targets: Any) -> Any:
    """Pick from each row the prediction of its target class."""
    # As int64, because torch takes an index of bytes for a mask.
    return predictions[pt.arange(predictions.shape[0]), targets.astype("int64")]


def _align(predictions: Any, targets: Any) -> Any:
    """Give targets the predictions' format: a vector becomes a column beside a column, integers floats."""
    targets = pt.as_tensor_variable(targets)
    if predictions.type.ndim == 2 and predictions.type.shape[1] == 1 and targets.ndim == 1:
        targets = targets[:, None]
    return targets if targets.dtype.startswith("float") else targets.astype(predictions.dtype)


def _require_ranks(what: str, predictions: Any, targets: Any) -> None:
    integers = targets.ndim == 1 and targets.dtype.startswith(("int", "uint"))
    if predictions.ndim != 2 or not (integers or targets.ndim == 2):
        raise ValueError(
            f"{what}: expected predictions (n, classes) and targets (n,) of integers or (n, classes), "
            f"got predictions {predictions.type} and targets {targets.type}"
        )
