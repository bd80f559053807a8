"""The names under which Lasagne has layers that use cuDNN; here all do where it is installed, these are the plain ones.

The convolutions differ in one thing: they do not mirror the filters unless told to.
"""

from theanompi.lasagne.layers.conv import Conv3DLayer
from theanompi.lasagne.layers.corrmm import Conv2DMMLayer, _UnmirroredConvLayer
from theanompi.lasagne.layers.normalization import BatchNormLayer, batch_norm
from theanompi.lasagne.layers.pool import (
    MaxPool2DLayer,
    MaxPool3DLayer,
    Pool2DLayer,
    Pool3DLayer,
    SpatialPyramidPoolingLayer,
)
from theanompi.lasagne.utils import as_tuple

__all__ = [
    "BatchNormDNNLayer",
    "Conv2DDNNLayer",
    "Conv3DDNNLayer",
    "MaxPool2DDNNLayer",
    "MaxPool3DDNNLayer",
    "Pool2DDNNLayer",
    "Pool3DDNNLayer",
    "SpatialPyramidPoolingDNNLayer",
    "as_tuple",
    "batch_norm_dnn",
]

Pool2DDNNLayer = Pool2DLayer
MaxPool2DDNNLayer = MaxPool2DLayer
Pool3DDNNLayer = Pool3DLayer
MaxPool3DDNNLayer = MaxPool3DLayer
SpatialPyramidPoolingDNNLayer = SpatialPyramidPoolingLayer
BatchNormDNNLayer = BatchNormLayer
batch_norm_dnn = batch_norm
Conv2DDNNLayer = Conv2DMMLayer


class Conv3DDNNLayer(_UnmirroredConvLayer, Conv3DLayer):
    """:class:`Conv3DLayer` that does not mirror the filters unless told to.

    Parameters
    ----------
    incoming, num_filters, filter_size, stride, pad, untie_biases, W, b, nonlinearity, flip_filters, num_groups, name
        As for :class:`Conv3DLayer`.
    """
