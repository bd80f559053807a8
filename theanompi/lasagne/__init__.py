"""Lasagne's layers, initialisers, objectives and updates, on PyTensor and the device backend.

The module names, class names, constructor arguments, parameter shapes, parameter names and tags are those
of Lasagne 0.2, so that a recipe ports by changing its import line:

>>> from theanompi import lasagne
>>> from theanompi.lasagne.layers import DenseLayer, InputLayer
>>> network = DenseLayer(InputLayer((None, 20), name="data"), num_units=3, name="fc")
>>> [(param.name, param.get_value().shape) for param in lasagne.layers.get_all_params(network)]
[('fc.W', (20, 3)), ('fc.b', (3,))]

Plain ``pytensor.function`` and ``.eval()`` compile its graphs for the device of :func:`theanompi.device.use`.

What differs from Lasagne, and why:

* Networks compute in float32, whatever ``pytensor.config.floatX`` says: that is the device's format. What is given as
  float64 (``pt.matrix()`` by default, NumPy's arrays, a shared variable) counts with its float32 values.
* The ``gamma`` of a :class:`~theanompi.lasagne.layers.BatchNormLayer` is not regularizable, unless it is asked to be.
* A trainer gets the statistics of batch normalisation handed out, instead of averages that update themselves, and
  the masks of dropout from a key for each sample, so that neither depends on how a minibatch is split over ranks: it
  asks :func:`~theanompi.lasagne.layers.get_output` for both.
"""

from theanompi import __version__
from theanompi.lasagne import init, layers, nonlinearities, objectives, random, regularization, updates, utils

__all__ = [
    "__version__",
    "init",
    "layers",
    "nonlinearities",
    "objectives",
    "random",
    "regularization",
    "updates",
    "utils",
]
