"""Batch normalisation, whose statistics the caller keeps."""

from collections.abc import Sequence
from typing import Any

import pytensor.tensor as pt

__all__ = ["batch_normalization", "batch_normalization_test", "batch_normalization_train"]

Axes = str | Sequence[int]


def batch_normalization(
    inputs: Any, gamma: Any, beta: Any, mean: Any, std: Any, mode: str = "low_mem"
) -> Any:
    """Give (inputs − mean) · gamma / std + beta; `mode` has no effect."""
    return (inputs - mean) * (gamma / std) + beta


def batch_normalization_train(
    inputs: Any,
    gamma: Any,
    beta: Any,
    axes: Axes = "per-activation",
    epsilon: float = 1e-4,
    running_average_factor: float = 0.1,
    running_mean: Any = None,
    running_var: Any = None,
) -> tuple[Any, ...]:
    """Normalise by the statistics of the inputs themselves.

    Parameters
    ----------
    inputs : pytensor variable
    gamma, beta : pytensor variable
        With as many axes as the inputs, those of `axes` of size 1, or without these axes.
    axes : {'per-activation', 'spatial'} or sequence of int
        What to average over: the first axis, all but the second, or these.
    epsilon : float
        Added to the variance.
    running_average_factor : float
        The share of this batch in the new averages.
    running_mean, running_var : pytensor variable, optional
        Averages so far, of the shape of `gamma`.

    Returns
    -------
    tuple of pytensor variable
        The outputs, the means, 1 / √(variance + epsilon) and, if there were averages, the new ones, with the variance
        that divides by one less.
    """
    over, fit, restore = _layout(inputs.ndim, axes, gamma.ndim)
    mean = inputs.mean(over, keepdims=True)
    var = inputs.var(over, keepdims=True)
    inverse = 1 / pt.sqrt(var + pt.cast(epsilon, inputs.dtype))
    out = (inputs - mean) * (fit(gamma) * inverse) + fit(beta)
    if running_mean is None:
        return out, restore(mean), restore(inverse)
    share = pt.cast(running_average_factor, inputs.dtype)
    count = pt.cast(pt.prod([inputs.shape[axis] for axis in over]), inputs.dtype)
    averages = [
        fit(old) * (1 - share) + new * share
        for old, new in ((running_mean, mean), (running_var, var * (count / (count - 1))))
    ]
    return out, restore(mean), restore(inverse), *map(restore, averages)


def batch_normalization_test(
    inputs: Any,
    gamma: Any,
    beta: Any,
    mean: Any,
    var: Any,
    axes: Axes = "per-activation",
    epsilon: float = 1e-4,
) -> Any:
    """Normalise by given means and variances; see :func:`batch_normalization_train`."""
    _, fit, _ = _layout(inputs.ndim, axes, gamma.ndim)
    std = pt.sqrt(fit(var) + pt.cast(epsilon, inputs.dtype))
    return (inputs - fit(mean)) * (fit(gamma) / std) + fit(beta)


def _layout(ndim: int, axes: Axes, ndim_given: int) -> tuple[tuple[int, ...], Any, Any]:
    """The axes to average over; what makes a parameter fit the inputs; what gives a result the parameters' axes."""
    if isinstance(axes, str):
        named = {"per-activation": (0,), "spatial": (0, *range(2, ndim))}
        if axes not in named:
            raise ValueError(
                f"batch_normalization: expected axes {' or '.join(named)} or integers, got {axes!r}"
            )
        axes = named[axes]
    over = tuple(sorted(int(axis) for axis in axes))
    kept = [axis for axis in range(ndim) if axis not in over]
    if ndim_given == ndim:
        return over, lambda x: pt.specify_broadcastable(x, *over), lambda x: x
    if ndim_given != len(kept):
        raise ValueError(
            f"batch_normalization: expected gamma of {ndim} or {len(kept)} axes, got one of {ndim_given}"
        )
    pattern = [kept.index(axis) if axis in kept else "x" for axis in range(ndim)]
    return over, lambda x: pt.as_tensor_variable(x).dimshuffle(pattern), lambda x: x.dimshuffle(kept)
