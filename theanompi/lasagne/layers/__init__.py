"""Layers and the functions that work on networks of them.

A network is its output layer: every layer knows the layers that feed into it.

>>> network = InputLayer((None, 1, 8, 8), name="image")
>>> network = Conv2DLayer(network, num_filters=4, filter_size=3, name="conv")
>>> network = DenseLayer(network, num_units=10, name="fc")
>>> get_output_shape(network), count_params(network)
((None, 10), 1490)
"""

from theanompi.lasagne.layers.base import Layer, MergeLayer
from theanompi.lasagne.layers.conv import (
    BaseConvLayer,
    Conv1DLayer,
    Conv2DLayer,
    Conv3DLayer,
    Deconv2DLayer,
    Deconv3DLayer,
    DilatedConv2DLayer,
    TransposedConv2DLayer,
    TransposedConv3DLayer,
)
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
from theanompi.lasagne.layers.merge import (
    ConcatLayer,
    ElemwiseMergeLayer,
    ElemwiseSumLayer,
    autocrop,
    autocrop_array_shapes,
    concat,
)
from theanompi.lasagne.layers.noise import DropoutLayer, dropout
from theanompi.lasagne.layers.normalization import BatchNormLayer, batch_norm
from theanompi.lasagne.layers.pool import (
    FeaturePoolLayer,
    FeatureWTALayer,
    GlobalPoolLayer,
    MaxPool1DLayer,
    MaxPool2DLayer,
    MaxPool3DLayer,
    Pool1DLayer,
    Pool2DLayer,
    Pool3DLayer,
    SpatialPyramidPoolingLayer,
    Upscale1DLayer,
    Upscale2DLayer,
    Upscale3DLayer,
)
from theanompi.lasagne.layers.shape import (
    DimshuffleLayer,
    FlattenLayer,
    PadLayer,
    ReshapeLayer,
    SliceLayer,
    dimshuffle,
    flatten,
    pad,
    reshape,
)
from theanompi.lasagne.layers.special import BiasLayer, NonlinearityLayer, ScaleLayer

__all__ = [
    "BaseConvLayer",
    "BatchNormLayer",
    "BiasLayer",
    "ConcatLayer",
    "Conv1DLayer",
    "Conv2DLayer",
    "Conv3DLayer",
    "Deconv2DLayer",
    "Deconv3DLayer",
    "DenseLayer",
    "DilatedConv2DLayer",
    "DimshuffleLayer",
    "DropoutLayer",
    "ElemwiseMergeLayer",
    "ElemwiseSumLayer",
    "FeaturePoolLayer",
    "FeatureWTALayer",
    "FlattenLayer",
    "GlobalPoolLayer",
    "InputLayer",
    "Layer",
    "MaxPool1DLayer",
    "MaxPool2DLayer",
    "MaxPool3DLayer",
    "MergeLayer",
    "NINLayer",
    "NonlinearityLayer",
    "PadLayer",
    "Pool1DLayer",
    "Pool2DLayer",
    "Pool3DLayer",
    "ReshapeLayer",
    "ScaleLayer",
    "SliceLayer",
    "SpatialPyramidPoolingLayer",
    "TransposedConv2DLayer",
    "TransposedConv3DLayer",
    "Upscale1DLayer",
    "Upscale2DLayer",
    "Upscale3DLayer",
    "autocrop",
    "autocrop_array_shapes",
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
