"""Ops that PyTensor lacks or that must be fast on the device. Images are NCHW tensors."""

from theanompi.device.ops.activation import leaky_relu, relu
from theanompi.device.ops.conv import conv1d, conv2d, conv3d, transposed_conv
from theanompi.device.ops.image import color_adjust, crop_resize, in_boxes, partners
from theanompi.device.ops.loss import softmax_cross_entropy
from theanompi.device.ops.norm import batch_norm, normalize
from theanompi.device.ops.pool import pool1d, pool2d, pool3d
from theanompi.device.ops.random import dropout_mask, normal, uniform
from theanompi.device.ops.recurrent import lstm

__all__ = [
    "batch_norm",
    "color_adjust",
    "conv1d",
    "conv2d",
    "conv3d",
    "crop_resize",
    "dropout_mask",
    "in_boxes",
    "leaky_relu",
    "lstm",
    "normal",
    "normalize",
    "partners",
    "pool1d",
    "pool2d",
    "pool3d",
    "relu",
    "softmax_cross_entropy",
    "transposed_conv",
    "uniform",
]
