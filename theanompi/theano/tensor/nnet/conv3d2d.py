"""Convolutions of films, with time before the channels."""

from typing import Any

from theanompi.theano.tensor.nnet import conv

__all__ = ["conv3d"]


def conv3d(
    signals: Any,
    filters: Any,
    signals_shape: Any = None,
    filters_shape: Any = None,
    border_mode: Any = "valid",
) -> Any:
    """Convolve films with filters; see :func:`theanompi.theano.tensor.nnet.conv3d`.

    Parameters
    ----------
    signals : pytensor variable
        (n, time, c, rows, columns).
    filters : pytensor variable
        (out, time, c, rows, columns).
    signals_shape, filters_shape : tuple, optional
        What Theano wants to know beforehand; the filters' sizes are taken from here if their type lacks them.
    border_mode : {'valid', 'half', 'full'}

    Returns
    -------
    pytensor variable
        (n, time', out, rows', columns').
    """
    order = 0, 2, 1, 3, 4
    shape = filters_shape and [filters_shape[axis] for axis in order]
    x, w = signals.dimshuffle(order), filters.dimshuffle(order)
    return conv.conv3d(x, w, filter_shape=shape, border_mode=border_mode).dimshuffle(order)
