"""Penalties on parameters, chosen by tag.

>>> from theanompi.lasagne.layers import DenseLayer
>>> network = DenseLayer(DenseLayer((100, 20), num_units=3), num_units=5)
>>> penalty = 1e-4 * regularize_network_params(network, l2)
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi.lasagne.layers import Layer, get_all_params

__all__ = [
    "apply_penalty",
    "l1",
    "l2",
    "regularize_layer_params",
    "regularize_layer_params_weighted",
    "regularize_network_params",
]

REGULARIZABLE = {"regularizable": True}


def l1(x: Any) -> Any:
    """Sum of absolute values.

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor scalar

    Examples
    --------
    >>> from theanompi.device import mode
    >>> float(l1(pt.constant([-1.0, 2.0])).eval(mode=mode()))
    3.0
    """
    return pt.sum(abs(x))


def l2(x: Any) -> Any:
    """Sum of squares (not halved: its gradient is 2x).

    Parameters
    ----------
    x : pytensor variable

    Returns
    -------
    pytensor scalar

    Examples
    --------
    >>> from theanompi.device import mode
    >>> float(l2(pt.constant([-1.0, 2.0])).eval(mode=mode()))
    5.0
    """
    return pt.sum(pt.sqr(x))


def apply_penalty(tensor_or_tensors: Any, penalty: Callable[..., Any], **kwargs: Any) -> Any:
    """Sum a penalty over one or more tensors.

    Parameters
    ----------
    tensor_or_tensors : pytensor variable or iterable of them
    penalty : callable
        Takes a tensor, gives a scalar: :func:`l1`, :func:`l2`.
    **kwargs
        For `penalty`.

    Returns
    -------
    pytensor scalar
        0 for none.

    Examples
    --------
    >>> from theanompi.device import mode
    >>> float(apply_penalty([pt.constant(2.0), pt.constant(3.0)], l2).eval(mode=mode()))
    13.0
    """
    if isinstance(tensor_or_tensors, Variable):
        return penalty(tensor_or_tensors, **kwargs)
    return sum(penalty(tensor, **kwargs) for tensor in tensor_or_tensors)


def regularize_layer_params(
    layer: Layer | Iterable[Layer],
    penalty: Callable[..., Any],
    tags: Mapping[str, bool] = REGULARIZABLE,
    **kwargs: Any,
) -> Any:
    """Penalise the parameters of one or more layers, but not of the layers below them.

    Parameters
    ----------
    layer : Layer or iterable of Layer
    penalty : callable
        Takes a tensor, gives a scalar.
    tags : mapping of str to bool
        Which parameters; see :meth:`theanompi.lasagne.layers.Layer.get_params`.
    **kwargs
        For `penalty`.

    Returns
    -------
    pytensor scalar

    Examples
    --------
    >>> from theanompi.device import mode
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> float(regularize_layer_params(DenseLayer((None, 2), 3, W=2.0), l1).eval(mode=mode()))
    12.0
    """
    layers = [layer] if isinstance(layer, Layer) else layer
    return apply_penalty([param for one in layers for param in one.get_params(**tags)], penalty, **kwargs)


def regularize_layer_params_weighted(
    layers: Mapping[Layer, Any],
    penalty: Callable[..., Any],
    tags: Mapping[str, bool] = REGULARIZABLE,
    **kwargs: Any,
) -> Any:
    """Penalise the parameters of layers, each layer with a coefficient of its own.

    Parameters
    ----------
    layers : mapping of Layer to float
        The coefficients.
    penalty, tags, **kwargs
        As for :func:`regularize_layer_params`.

    Returns
    -------
    pytensor scalar

    Examples
    --------
    >>> from theanompi.device import mode
    >>> from theanompi.lasagne.layers import DenseLayer
    >>> float(regularize_layer_params_weighted({DenseLayer((None, 2), 3, W=2.0): 0.5}, l1).eval(mode=mode()))
    6.0
    """
    return sum(
        coefficient * regularize_layer_params(layer, penalty, tags, **kwargs)
        for layer, coefficient in layers.items()
    )


def regularize_network_params(
    layer: Layer | Iterable[Layer],
    penalty: Callable[..., Any],
    tags: Mapping[str, bool] = REGULARIZABLE,
    **kwargs: Any,
) -> Any:
    """Penalise the parameters of a whole network.

    Parameters
    ----------
    layer : Layer or iterable of Layer
        The output layer(s).
    penalty, tags, **kwargs
        As for :func:`regularize_layer_params`.

    Returns
    -------
    pytensor scalar

    Examples
    --------
    >>> from theanompi.device import mode
    >>> from theanompi.lasagne.layers import DenseLayer, InputLayer
    >>> hidden = DenseLayer(InputLayer((None, 2)), 3, W=2.0)
    >>> float(regularize_network_params(DenseLayer(hidden, 1, W=1.0), l1).eval(mode=mode()))
    15.0
    """
    return apply_penalty(get_all_params(layer, **tags), penalty, **kwargs)
