"""GoogLeNet with its auxiliary classifiers (Szegedy et al. 2014, arXiv 1409.4842, table 1 and §5).

The losses of the two auxiliary classifiers count 0.3 each in training. As in Caffe's ``bvlc_googlenet``, weights start
as Glorot and Bengio have it and biases at 0.2, activations are normalised by (1 + 1e-4/5 · the squares of five
channels)^0.75, and the rate falls with the root of the iterations that are left. The rest of the recipe is that of
Theano-MPI (``theanompi/models/googlenet.py``), which in addition normalises after the inception module 4e; biases move
at twice the rate in both. Layer names are those of Lasagne's and Caffe's model zoos, with ``_`` for ``/``.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pytensor.graph.basic import Variable

from theanompi import Model, Objective
from theanompi.lasagne.init import Constant
from theanompi.lasagne.layers import (
    ConcatLayer,
    Conv2DLayer,
    DenseLayer,
    DropoutLayer,
    GlobalPoolLayer,
    InputLayer,
    Layer,
    LocalResponseNormalization2DLayer,
    MaxPool2DLayer,
    NonlinearityLayer,
    Pool2DLayer,
)
from theanompi.lasagne.nonlinearities import softmax
from theanompi.models.parts import Net, add, classification_with_sides

MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Filters of the inception modules, as the columns of table 1: 1 × 1, 3 × 3 reduced and full, 5 × 5 reduced and full, \
and of the pooling's projection."""
HEADS = ("prob", "loss1_prob", "loss2_prob")
"""The classifier and the auxiliary ones."""
AUXILIARY = {"4a": 1, "4d": 2}
"""Which auxiliary classifier is put on which module."""


def convolution(net: Net, incoming: Layer, name: str, filters: int, size: int, stride: int = 1) -> Layer:
    """Add a convolution with a rectifier that keeps the picture's size, up to the stride."""
    layer = Conv2DLayer(
        incoming, filters, size, stride, pad=size // 2, b=Constant(0.2), flip_filters=False, name=name
    )
    return add(net, layer)


def inception(net: Net, top: Layer, name: str, filters: tuple[int, ...]) -> Layer:
    """Add an inception module (figure 2b).

    Parameters
    ----------
    net : dict of str to Layer
        Gets the new layers.
    top : Layer
        What the module is put on.
    name : str
        Such as ``"inception_3a"``.
    filters : tuple of int
        As in `MODULES`.
    """
    single, reduced3, full3, reduced5, full5, projected = filters
    pool = add(net, MaxPool2DLayer(top, 3, 1, pad=1, name=f"{name}_pool"))
    branches = [
        convolution(net, top, f"{name}_1x1", single, 1),
        convolution(net, convolution(net, top, f"{name}_3x3_reduce", reduced3, 1), f"{name}_3x3", full3, 3),
        convolution(net, convolution(net, top, f"{name}_5x5_reduce", reduced5, 1), f"{name}_5x5", full5, 5),
        convolution(net, pool, f"{name}_pool_proj", projected, 1),
    ]
    return add(net, ConcatLayer(branches, name=f"{name}_output"))


def auxiliary(net: Net, top: Layer, name: str, num_classes: int, filters: int, hidden: int) -> None:
    """Add an auxiliary classifier (§5): pooling, a convolution, and two dense layers, the last one with a softmax.

    Parameters
    ----------
    net : dict of str to Layer
        Gets the new layers.
    top : Layer
        What the classifier is put on.
    name : str
        Such as ``"loss1"``.
    num_classes, filters, hidden : int
        Units of the last dense layer, the convolution and the hidden layer.
    """
    window = tuple(min(5, side) for side in top.output_shape[2:] if side is not None)
    top = add(net, Pool2DLayer(top, window, 3, mode="average_exc_pad", name=f"{name}_ave_pool"))
    top = convolution(net, top, f"{name}_conv", filters, 1)
    top = add(net, DenseLayer(top, hidden, b=Constant(0.2), name=f"{name}_fc"))
    top = add(net, DropoutLayer(top, 0.7, name=f"{name}_drop_fc"))
    top = add(net, DenseLayer(top, num_classes, nonlinearity=None, name=f"{name}_classifier"))
    add(net, NonlinearityLayer(top, softmax, name=f"{name}_prob"))


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 224, 224),
    num_classes: int = 1000,
    *,
    divisor: int = 1,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size. The auxiliary classifiers pool windows of 5 × 5, or what there is of the picture in the modules 4, a
        sixteenth.
    num_classes : int
    divisor : int
        What all numbers of filters and hidden units are divided by: 1, 2, 4, 8 or 16.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"loss3_classifier"`` (class scores) and ``"prob"`` (their softmax), and
        ``"loss1_prob"`` and ``"loss2_prob"``.

    Examples
    --------
    >>> net = build_model(divisor=16)
    >>> net["inception_5b_output"].output_shape, net["loss1_ave_pool"].output_shape
    ((None, 64, 7, 7), (None, 32, 4, 4))
    """
    net: Net = {}
    top = convolution(
        net, add(net, InputLayer(input_shape, name="input")), "conv1_7x7_s2", 64 // divisor, 7, 2
    )
    top = add(net, MaxPool2DLayer(top, 3, 2, pad=1, name="pool1_3x3_s2"))
    top = add(net, LocalResponseNormalization2DLayer(top, alpha=2e-5, k=1, name="pool1_norm1"))
    top = convolution(net, top, "conv2_3x3_reduce", 64 // divisor, 1)
    top = convolution(net, top, "conv2_3x3", 192 // divisor, 3)
    top = add(net, LocalResponseNormalization2DLayer(top, alpha=2e-5, k=1, name="conv2_norm2"))
    top = add(net, MaxPool2DLayer(top, 3, 2, pad=1, name="pool2_3x3_s2"))
    for module, filters in MODULES.items():
        name = f"inception_{module}"
        top = inception(net, top, name, tuple(count // divisor for count in filters))
        if module in AUXILIARY:
            auxiliary(net, top, f"loss{AUXILIARY[module]}", num_classes, 128 // divisor, 1024 // divisor)
        if module in ("3b", "4e"):
            top = add(net, MaxPool2DLayer(top, 3, 2, pad=1, name=f"pool{module[0]}_3x3_s2"))
    top = add(net, GlobalPoolLayer(top, name="pool5_7x7_s1"))
    top = add(net, DropoutLayer(top, 0.4, name="pool5_drop_7x7_s1"))
    top = add(net, DenseLayer(top, num_classes, nonlinearity=None, name="loss3_classifier"))
    add(net, NonlinearityLayer(top, softmax, name="prob"))
    return net


class GoogLeNet(Model):
    """GoogLeNet; in validation the auxiliary classifiers are left out."""

    paper: ClassVar[str] = "Szegedy et al. 2014, arXiv 1409.4842"
    architecture: ClassVar[Mapping[str, Any]] = {}
    network: dict[str, Layer]
    bias_rate = 2.0
    defaults = {
        "batch_size": 32,
        "base_lr": 0.005,
        "base_batch": 32,
        "epochs": 90,
        "schedule": "poly",
        "settings": {"schedule.power": 0.5},
        "nesterov": False,
        "weight_decay": 2e-4,
    }

    def build(self, batch: Mapping[str, Variable]) -> dict[str, Layer]:
        net = build_model(batch["images"].type.shape, self.dataset.n_classes, **self.architecture)
        return {head: net[head] for head in HEADS}

    def objectives(self, batch: Mapping[str, Variable], training: bool) -> Objective:
        return classification_with_sides(self.network, batch, training, weight=0.3)
