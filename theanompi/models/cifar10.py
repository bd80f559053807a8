"""The small network for CIFAR-10 of Theano-MPI (``theanompi/models/cifar10.py``), which has no paper.

Three convolutions without padding, a hidden layer with dropout, and initial weights of fixed deviations, as there. Its
input are crops of 28 pixels. There the normalisation is the subtraction of the mean picture; here it is the data set's.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from theanompi import Model
from theanompi.lasagne.init import Normal
from theanompi.lasagne.layers import (
    Conv2DLayer,
    DenseLayer,
    DropoutLayer,
    InputLayer,
    Layer,
    MaxPool2DLayer,
    NonlinearityLayer,
)
from theanompi.lasagne.nonlinearities import softmax
from theanompi.models.parts import Net, add, expect_size


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 28, 28),
    num_classes: int = 10,
    *,
    width: int = 64,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size from 24 × 24 up.
    num_classes : int
    width : int
        Filters of the first and the third convolution; the second has twice, the hidden layer four times as many.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc5"`` (class scores) and ``"prob"`` (their softmax).

    Raises
    ------
    ConfigError
        For smaller pictures.

    Examples
    --------
    >>> build_model()["conv3"].output_shape
    (None, 64, 2, 2)
    """
    expect_size("Cifar10_model", input_shape, 24)
    net: Net = {}
    top = add(net, InputLayer(input_shape, name="input"))
    filters: dict[str, Any] = {"W": Normal(0.05), "flip_filters": False}
    top = add(net, Conv2DLayer(top, width, 5, name="conv1", **filters))
    top = add(net, MaxPool2DLayer(top, 2, name="pool1"))
    top = add(net, Conv2DLayer(top, 2 * width, 5, name="conv2", **filters))
    top = add(net, MaxPool2DLayer(top, 2, name="pool2"))
    top = add(net, Conv2DLayer(top, width, 3, name="conv3", **filters))
    top = add(net, DenseLayer(top, 4 * width, W=Normal(0.001), name="fc4"))
    top = add(net, DropoutLayer(top, 0.5, name="drop4"))
    add(net, DenseLayer(top, num_classes, W=Normal(0.005), nonlinearity=None, name="fc5"))
    add(net, NonlinearityLayer(net["fc5"], softmax, name="prob"))
    return net


class Cifar10_model(Model):
    """The network, under Theano-MPI's name and with its defaults; biases move at twice the rate, as there."""

    paper: ClassVar[str] = "Theano-MPI, theanompi/models/cifar10.py"
    architecture: ClassVar[Mapping[str, Any]] = {}
    bias_rate = 2.0
    defaults = {
        "image_size": 28,
        "batch_size": 256,
        "base_lr": 0.01,
        "base_batch": 256,
        "epochs": 70,
        "decay_epochs": (50, 60, 65),
        "nesterov": False,
        "weight_decay": 1e-4,
    }

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, **self.architecture)["prob"]
