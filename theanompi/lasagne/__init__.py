"""Lasagne's layers, initialisers, objectives and updates, on PyTensor and the device backend.

The module names, class names, constructor arguments, parameter shapes, parameter names and tags are those
of Lasagne 0.2, so that a recipe ports by changing its import line:

>>> from theanompi import lasagne
>>> from theanompi.lasagne.layers import DenseLayer, InputLayer
>>> network = DenseLayer(InputLayer((None, 20), name="data"), num_units=3, name="fc")
>>> [(param.name, param.get_value().shape) for param in lasagne.layers.get_all_params(network)]
[('fc.W', (20, 3)), ('fc.b', (3,))]

What differs from Lasagne, and why:

* Everything is float32, whatever ``pytensor.config.floatX`` says: that is the device's format.
* :class:`~theanompi.lasagne.layers.BatchNormLayer` hands out its batch statistics instead of updating its
  averages behind the caller's back, and its ``gamma`` is not regularizable.
* :class:`~theanompi.lasagne.layers.DropoutLayer` draws its masks from per-sample keys, so that they do not
  depend on how a minibatch is split over ranks.
* A keyword of :func:`~theanompi.lasagne.layers.get_output` that no layer knows is an error, not a warning.
"""

from theanompi.lasagne import (
    init,
    layers,
    nonlinearities,
    objectives,
    random,
    regularization,
    updates,
    utils,
)

__all__ = ["init", "layers", "nonlinearities", "objectives", "random", "regularization", "updates", "utils"]
