"""Layers and the functions that work on networks of them.

A network is its output layer: every layer knows the layers that feed into it.

>>> network = InputLayer((None, 1, 8, 8), name="image")
>>> network = Conv2DLayer(network, num_filters=4, filter_size=3, name="conv")
>>> network = DenseLayer(network, num_units=10, name="fc")
>>> get_output_shape(network), count_params(network)
((None, 10), 1490)
"""

from theanompi.lasagne.layers.base import Layer, MergeLayer
from theanompi.lasagne.layers.conv import Conv2DLayer
from theanompi.lasagne.layers.dense import DenseLayer, NINLayer
from theanompi.lasagne.layers.helper import (
    count_params,
    get_all_layers,
    get_all_param_values,
    get_all_params,
    get_output,
    get_output_shape,
    output_keywords,
    set_all_param_values,
)
from theanompi.lasagne.layers.input import InputLayer
from theanompi.lasagne.layers.merge import ConcatLayer, ElemwiseMergeLayer, ElemwiseSumLayer, concat
from theanompi.lasagne.layers.noise import DropoutLayer, dropout
from theanompi.lasagne.layers.normalization import BatchNormLayer, batch_norm
from theanompi.lasagne.layers.pool import GlobalPoolLayer, MaxPool2DLayer, Pool2DLayer
from theanompi.lasagne.layers.recurrent import (
    CustomRecurrentLayer,
    Gate,
    GRULayer,
    LSTMLayer,
    RecurrentLayer,
)
from theanompi.lasagne.layers.shape import (
    DimshuffleLayer,
    FlattenLayer,
    PadLayer,
    ReshapeLayer,
    dimshuffle,
    flatten,
    pad,
    reshape,
)
from theanompi.lasagne.layers.special import BiasLayer, NonlinearityLayer, ScaleLayer

__all__ = [
    "BatchNormLayer",
    "BiasLayer",
    "ConcatLayer",
    "Conv2DLayer",
    "CustomRecurrentLayer",
    "DenseLayer",
    "DimshuffleLayer",
    "DropoutLayer",
    "ElemwiseMergeLayer",
    "ElemwiseSumLayer",
    "FlattenLayer",
    "GRULayer",
    "Gate",
    "GlobalPoolLayer",
    "InputLayer",
    "LSTMLayer",
    "Layer",
    "MaxPool2DLayer",
    "MergeLayer",
    "NINLayer",
    "NonlinearityLayer",
    "PadLayer",
    "Pool2DLayer",
    "RecurrentLayer",
    "ReshapeLayer",
    "ScaleLayer",
    "batch_norm",
    "concat",
    "count_params",
    "dimshuffle",
    "dropout",
    "flatten",
    "get_all_layers",
    "get_all_param_values",
    "get_all_params",
    "get_output",
    "get_output_shape",
    "output_keywords",
    "pad",
    "reshape",
    "set_all_param_values",
]
