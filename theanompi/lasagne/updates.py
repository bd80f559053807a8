"""Update rules: from a loss and parameters to an ordered dictionary of updates for ``pytensor.function``.

>>> from theanompi.lasagne.layers import DenseLayer, InputLayer, get_all_params, get_output
>>> network = DenseLayer(InputLayer((None, 20)), num_units=3)
>>> loss = get_output(network).mean()
>>> updates = nesterov_momentum(loss, get_all_params(network, trainable=True), learning_rate=0.1)
>>> updates[network.W] = norm_constraint(updates[network.W], max_norm=3.0)

Every rule takes numbers or symbolic scalars as its hyper-parameters; they are cast to the parameter's dtype,
so that float32 parameters stay float32. State (velocities, accumulators) is a shared variable on the device,
named after its parameter, that starts at zero.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable

from theanompi import device
from theanompi.lasagne.utils import default_norm_axes, floatX

__all__ = [
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "amsgrad",
    "apply_momentum",
    "apply_nesterov_momentum",
    "get_or_compute_grads",
    "momentum",
    "nesterov_momentum",
    "norm_constraint",
    "rmsprop",
    "sgd",
    "total_norm_constraint",
]

Updates = OrderedDict[Any, Any]


def get_or_compute_grads(loss_or_grads: Any, params: Sequence[Any]) -> list[Any]:
    """Get the gradients of a loss, or the given ones.

    Parameters
    ----------
    loss_or_grads : pytensor scalar, or list of pytensor variable
        A loss, or one gradient for each parameter.
    params : list of shared variable

    Returns
    -------
    list of pytensor variable

    Raises
    ------
    ValueError
        If a parameter is not a shared variable, or the numbers of gradients and parameters differ.

    Examples
    --------
    >>> w = device.shared(floatX([1, 2]), name="w")
    >>> [grad.type for grad in get_or_compute_grads((w**2).sum(), [w])]
    [TensorType(float32, shape=(2,))]
    """
    for param in params:
        if not isinstance(param, SharedVariable):
            raise ValueError(f"params: expected shared variables, got the expression {param}")
    if not isinstance(loss_or_grads, list | tuple):
        grads: Any = pytensor.grad(loss_or_grads, list(params))
        return grads
    if len(loss_or_grads) != len(params):
        raise ValueError(
            f"gradients: expected {len(params)}, one for each parameter, got {len(loss_or_grads)}"
        )
    return list(loss_or_grads)


def sgd(loss_or_grads: Any, params: Sequence[Any], learning_rate: Any) -> Updates:
    """Stochastic gradient descent: w ← w − η·g.

    Parameters
    ----------
    loss_or_grads : pytensor scalar, or list of pytensor variable
        A loss, or one gradient for each parameter.
    params : list of shared variable
    learning_rate : float or pytensor scalar

    Returns
    -------
    OrderedDict
        From shared variables to their next values.

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(sgd(w**2, [w], learning_rate=0.1))
    [w]
    """
    grads = get_or_compute_grads(loss_or_grads, params)
    pairs = zip(params, grads, strict=True)
    return OrderedDict((param, param - _cast(learning_rate, param) * grad) for param, grad in pairs)


def apply_momentum(updates: Updates, params: Iterable[Any] | None = None, momentum: Any = 0.9) -> Updates:
    """Add momentum to updates: v ← m·v + Δ, w ← w + v, where Δ is the given step.

    Parameters
    ----------
    updates : OrderedDict
        Next values by parameter; it is not changed.
    params : iterable of shared variable, optional
        Which parameters; all of `updates` by default.
    momentum : float or pytensor scalar
        m, in [0, 1).

    Returns
    -------
    OrderedDict

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(apply_momentum(sgd(w**2, [w], learning_rate=0.1)))
    [w, w.velocity]
    """
    updates = OrderedDict(updates)
    for param in list(updates) if params is None else params:
        velocity = _state(param, "velocity")
        moved = _cast(momentum, param) * velocity + updates[param]
        updates[velocity] = moved - param
        updates[param] = moved
    return updates


def momentum(loss_or_grads: Any, params: Sequence[Any], learning_rate: Any, momentum: Any = 0.9) -> Updates:
    """Gradient descent with momentum: v ← m·v − η·g, w ← w + v.

    Parameters
    ----------
    loss_or_grads, params, learning_rate
        As for :func:`sgd`.
    momentum : float or pytensor scalar
        m, in [0, 1).

    Returns
    -------
    OrderedDict

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(momentum(w**2, [w], learning_rate=0.1))
    [w, w.velocity]
    """
    return apply_momentum(sgd(loss_or_grads, params, learning_rate), momentum=momentum)


def apply_nesterov_momentum(
    updates: Updates, params: Iterable[Any] | None = None, momentum: Any = 0.9
) -> Updates:
    """Add Nesterov momentum to updates: v ← m·v + Δ, w ← w + m·v + Δ, where Δ is the given step.

    This is the form with the gradient taken at the current parameters [1]_.

    Parameters
    ----------
    updates, params, momentum
        As for :func:`apply_momentum`.

    Returns
    -------
    OrderedDict

    References
    ----------
    .. [1] Y. Bengio et al. (2012): Advances in optimizing recurrent networks. arXiv:1212.0901, equation 7.

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(apply_nesterov_momentum(sgd(w**2, [w], learning_rate=0.1)))
    [w, w.velocity]
    """
    updates = OrderedDict(updates)
    for param in list(updates) if params is None else params:
        velocity = _state(param, "velocity")
        m = _cast(momentum, param)
        moved = m * velocity + updates[param] - param
        updates[velocity] = moved
        updates[param] = m * moved + updates[param]
    return updates


def nesterov_momentum(
    loss_or_grads: Any, params: Sequence[Any], learning_rate: Any, momentum: Any = 0.9
) -> Updates:
    """Gradient descent with Nesterov momentum: v ← m·v − η·g, w ← w + m·v − η·g.

    Parameters
    ----------
    loss_or_grads, params, learning_rate
        As for :func:`sgd`.
    momentum : float or pytensor scalar
        m, in [0, 1).

    Returns
    -------
    OrderedDict

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(nesterov_momentum(w**2, [w], learning_rate=0.1))
    [w, w.velocity]
    """
    return apply_nesterov_momentum(sgd(loss_or_grads, params, learning_rate), momentum=momentum)


def adagrad(
    loss_or_grads: Any, params: Sequence[Any], learning_rate: Any = 1.0, epsilon: Any = 1e-6
) -> Updates:
    """Adagrad [1]_: a ← a + g², w ← w − η·g / √(a + ε).

    Parameters
    ----------
    loss_or_grads, params, learning_rate
        As for :func:`sgd`.
    epsilon : float or pytensor scalar

    Returns
    -------
    OrderedDict

    References
    ----------
    .. [1] J. Duchi et al. (2011): Adaptive subgradient methods for online learning. JMLR 12.

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(adagrad(w**2, [w]))
    [w.accumulator, w]
    """
    updates: Updates = OrderedDict()
    for param, grad in zip(params, get_or_compute_grads(loss_or_grads, params), strict=True):
        eta, eps = (_cast(value, param) for value in (learning_rate, epsilon))
        accumulator = _state(param, "accumulator")
        updates[accumulator] = total = accumulator + pt.sqr(grad)
        updates[param] = param - eta * grad / pt.sqrt(total + eps)
    return updates


def rmsprop(
    loss_or_grads: Any, params: Sequence[Any], learning_rate: Any = 1.0, rho: Any = 0.9, epsilon: Any = 1e-6
) -> Updates:
    """RMSProp [1]_: a ← ρ·a + (1 − ρ)·g², w ← w − η·g / √(a + ε).

    Parameters
    ----------
    loss_or_grads, params, learning_rate
        As for :func:`sgd`.
    rho : float or pytensor scalar
        Decay of the average of squares, in [0, 1).
    epsilon : float or pytensor scalar

    Returns
    -------
    OrderedDict

    References
    ----------
    .. [1] T. Tieleman and G. Hinton (2012): Neural networks for machine learning, lecture 6.5.

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(rmsprop(w**2, [w], learning_rate=0.01))
    [w.accumulator, w]
    """
    updates: Updates = OrderedDict()
    for param, grad in zip(params, get_or_compute_grads(loss_or_grads, params), strict=True):
        eta, decay, eps = (_cast(value, param) for value in (learning_rate, rho, epsilon))
        accumulator = _state(param, "accumulator")
        updates[accumulator] = average = decay * accumulator + (1 - decay) * pt.sqr(grad)
        updates[param] = param - eta * grad / pt.sqrt(average + eps)
    return updates


def adadelta(
    loss_or_grads: Any, params: Sequence[Any], learning_rate: Any = 1.0, rho: Any = 0.95, epsilon: Any = 1e-6
) -> Updates:
    """Adadelta [1]_: a ← ρ·a + (1 − ρ)·g², Δ = g·√(d + ε) / √(a + ε), w ← w − η·Δ, d ← ρ·d + (1 − ρ)·Δ².

    Parameters
    ----------
    loss_or_grads, params, learning_rate
        As for :func:`sgd`.
    rho : float or pytensor scalar
        Decay of both averages of squares, in [0, 1).
    epsilon : float or pytensor scalar

    Returns
    -------
    OrderedDict

    References
    ----------
    .. [1] M. Zeiler (2012): ADADELTA, an adaptive learning rate method. arXiv:1212.5701, algorithm 1.

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(adadelta(w**2, [w]))
    [w.accumulator, w, w.delta_accumulator]
    """
    updates: Updates = OrderedDict()
    for param, grad in zip(params, get_or_compute_grads(loss_or_grads, params), strict=True):
        eta, decay, eps = (_cast(value, param) for value in (learning_rate, rho, epsilon))
        accumulator = _state(param, "accumulator")
        delta_accumulator = _state(param, "delta_accumulator")
        updates[accumulator] = average = decay * accumulator + (1 - decay) * pt.sqr(grad)
        step = grad * pt.sqrt(delta_accumulator + eps) / pt.sqrt(average + eps)
        updates[param] = param - eta * step
        updates[delta_accumulator] = decay * delta_accumulator + (1 - decay) * pt.sqr(step)
    return updates


def adam(
    loss_or_grads: Any,
    params: Sequence[Any],
    learning_rate: Any = 0.001,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
) -> Updates:
    """Adam [1]_, in the paper's efficient form, where ε is added to the uncorrected √v.

    Parameters
    ----------
    loss_or_grads, params, learning_rate
        As for :func:`sgd`.
    beta1, beta2 : float or pytensor scalar
        Decay of the averages of gradients and of their squares, in [0, 1).
    epsilon : float or pytensor scalar

    Returns
    -------
    OrderedDict

    References
    ----------
    .. [1] D. Kingma and J. Ba (2014): Adam, a method for stochastic optimization. arXiv:1412.6980,
       end of section 2.

    Examples
    --------
    >>> w = device.shared(floatX(3), name="w")
    >>> list(adam(w**2, [w]))
    [w.m, w.v, w, adam.t]
    """
    return _adam("adam", loss_or_grads, params, learning_rate, beta1, beta2, epsilon)


def _adam(
    name: str, loss_or_grads: Any, params: Sequence[Any], *numbers: Any, keeps_largest: bool = False
) -> Updates:
    """Adam; where it keeps the largest v so far, that takes the place of v."""
    t_previous, t = _count(f"{name}.t")
    updates: Updates = OrderedDict()
    for param, grad in zip(params, get_or_compute_grads(loss_or_grads, params), strict=True):
        eta, b1, b2, eps = (_cast(value, param) for value in numbers)
        m_previous, v_previous = _state(param, "m"), _state(param, "v")
        updates[m_previous] = m = b1 * m_previous + (1 - b1) * grad
        updates[v_previous] = v = b2 * v_previous + (1 - b2) * pt.sqr(grad)
        if keeps_largest:
            largest = _state(param, "v_hat")
            updates[largest] = v = pt.maximum(largest, v)
        corrected = eta * pt.sqrt(1 - b2**t) / (1 - b1**t)
        updates[param] = param - corrected * m / (pt.sqrt(v) + eps)
    updates[t_previous] = t
    return updates


def adamax(
    loss_or_grads: Any,
    params: Sequence[Any],
    learning_rate: Any = 0.002,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
) -> Updates:
    """AdaMax [1]_: Adam with the largest gradient, ``u ← max(β₂·u, |g|)``, in the place of √v.

    Parameters
    ----------
    loss_or_grads, params, learning_rate, beta1, beta2
        As for :func:`adam`.
    epsilon : float or pytensor scalar
        Added to u, for gradients that have been 0 so far.

    Returns
    -------
    OrderedDict

    References
    ----------
    .. [1] D. Kingma and J. Ba (2014): Adam, a method for stochastic optimization. arXiv:1412.6980, algorithm 2.
    """
    t_previous, t = _count("adamax.t")
    updates: Updates = OrderedDict()
    for param, grad in zip(params, get_or_compute_grads(loss_or_grads, params), strict=True):
        eta, b1, b2, eps = (_cast(value, param) for value in (learning_rate, beta1, beta2, epsilon))
        m_previous, u_previous = _state(param, "m"), _state(param, "u")
        updates[m_previous] = m = b1 * m_previous + (1 - b1) * grad
        updates[u_previous] = u = pt.maximum(b2 * u_previous, abs(grad))
        updates[param] = param - eta / (1 - b1**t) * m / (u + eps)
    updates[t_previous] = t
    return updates


def amsgrad(
    loss_or_grads: Any,
    params: Sequence[Any],
    learning_rate: Any = 0.001,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
) -> Updates:
    """AMSGrad [1]_: Adam with the largest v so far, v̂ ← max(v̂, v), and Adam's corrections for the start.

    Parameters
    ----------
    loss_or_grads, params, learning_rate, beta1, beta2, epsilon
        As for :func:`adam`.

    Returns
    -------
    OrderedDict

    References
    ----------
    .. [1] S. Reddi et al. (2018): On the convergence of Adam and beyond. ICLR, algorithm 2.
    """
    return _adam("amsgrad", loss_or_grads, params, learning_rate, beta1, beta2, epsilon, keeps_largest=True)


def norm_constraint(
    tensor_var: Any, max_norm: Any, norm_axes: Iterable[int] | None = None, epsilon: float = 1e-7
) -> Any:
    """Scale down the columns (dense weights) or filters (convolutions) whose norm exceeds a maximum.

    Parameters
    ----------
    tensor_var : pytensor variable
        Usually the next value of a parameter.
    max_norm : float or pytensor scalar
    norm_axes : iterable of int, optional
        The axes that one norm sums over: by default the first for a matrix, all but the first for
        3 to 5 dimensions.
    epsilon : float
        Added to each norm before dividing.

    Returns
    -------
    pytensor variable
        Of the shape and dtype of `tensor_var`.

    Raises
    ------
    ValueError
        If there is no default for the number of dimensions and `norm_axes` is not given.

    Examples
    --------
    >>> norm_constraint(pt.constant([[3.0], [4.0]]), max_norm=1.0).eval(mode=device.mode()).round(3).tolist()
    [[0.6], [0.8]]
    """
    axes = default_norm_axes(tensor_var, norm_axes, "norm_constraint")
    maximum, eps = _cast(max_norm, tensor_var), _cast(epsilon, tensor_var)
    norms = pt.sqrt(pt.sum(pt.sqr(tensor_var), axis=axes, keepdims=True))
    return tensor_var * (pt.minimum(norms, maximum) / (norms + eps))


def total_norm_constraint(
    tensor_vars: Sequence[Any], max_norm: Any, epsilon: float = 1e-7, return_norm: bool = False
) -> Any:
    """Scale down a list of tensors together, where their joint norm exceeds a maximum [1]_.

    Parameters
    ----------
    tensor_vars : list of pytensor variable
        Usually gradients.
    max_norm : float or pytensor scalar
    epsilon : float
        Added to the norm before dividing.
    return_norm : bool
        Return the norm too.

    Returns
    -------
    list of pytensor variable
        With `return_norm`, a tuple of this list and the norm before scaling.

    References
    ----------
    .. [1] I. Sutskever et al. (2014): Sequence to sequence learning with neural networks.

    Examples
    --------
    >>> scaled = total_norm_constraint([pt.constant(3.0), pt.constant(4.0)], max_norm=1.0)
    >>> [round(float(tensor.eval(mode=device.mode())), 3) for tensor in scaled]
    [0.6, 0.8]
    """
    norm = pt.sqrt(sum(pt.sum(pt.sqr(tensor)) for tensor in tensor_vars))
    factor = pt.minimum(norm, _cast(max_norm, norm)) / (norm + _cast(epsilon, norm))
    scaled = [tensor * factor for tensor in tensor_vars]
    return (scaled, norm) if return_norm else scaled


def _cast(value: Any, like: Variable) -> Any:
    # PyTensor takes a Python 0.1 for a float64, which would make a float64 of every update.
    return pt.cast(value, like.type.dtype)


def _count(name: str) -> tuple[device.DeviceSharedVariable, Any]:
    """The number of updates before this one, and with it."""
    before = device.shared(floatX(0), name=name)
    return before, before + floatX(1)


def _state(param: Any, name: str) -> device.DeviceSharedVariable:
    zeros = np.zeros_like(param.get_value(borrow=True))
    return device.shared(zeros, name=name if param.name is None else f"{param.name}.{name}")
