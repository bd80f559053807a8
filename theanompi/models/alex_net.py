"""AlexNet as theano_alexnet and Theano-MPI have it (Krizhevsky et al. 2012; Ding et al. 2014, arXiv 1412.2302).

The network of the paper (*ImageNet classification with deep convolutional neural networks*, NIPS, §3.5) on one device:
the two columns are the two groups of convolutions 2, 4 and 5. As in Theano-MPI (``theanompi/models/alex_net.py``), the
normalisation comes after the pooling, its k is 2 and its window 5 channels, biases start at 0.1 in convolutions 2 and
4 and in the hidden layers and at 0 elsewhere, crops have 227 pixels, no principal components are added to the colours,
and the rate falls at three fixed epochs. Biases move at twice the rate, without weight decay, as in both.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from theanompi import Model
from theanompi.lasagne.init import Constant, Normal
from theanompi.lasagne.layers import (
    Conv2DLayer,
    DenseLayer,
    DropoutLayer,
    InputLayer,
    Layer,
    LocalResponseNormalization2DLayer,
    MaxPool2DLayer,
    NonlinearityLayer,
)
from theanompi.lasagne.nonlinearities import softmax
from theanompi.models.parts import Net, add, expect_size


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 227, 227),
    num_classes: int = 1000,
    *,
    width: int = 32,
    hidden: int = 4096,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size from 67 × 67 up. With 227 the last pooling leaves 6 × 6, with 224 it leaves 5 × 5.
    num_classes : int
    width : int
        The convolutions have 3, 8, 12, 12 and 8 times as many filters; even. Where there are fewer inputs than in the
        paper, the initial weights are larger, so that sums of them are not.
    hidden : int
        Units of each of the two hidden layers.

    Returns
    -------
    dict of str to Layer
        Name → layer, named as in Caffe's model zoo: from ``"data"`` to ``"fc8"`` (class scores) and ``"prob"``.

    Raises
    ------
    ConfigError
        For smaller pictures.
    """
    expect_size("AlexNet", input_shape, 67)
    net: Net = {}
    top = add(net, InputLayer(input_shape, name="data"))

    def start(std: float, share: float) -> Normal:
        return Normal(std * math.sqrt(1 / share))

    def convolution(number: int, filters: int, size: int, bias: float, **more: Any) -> None:
        nonlocal top
        share = 1 if number == 1 else width / 32
        layer = Conv2DLayer(
            *(top, filters * width, size),
            W=start(0.01, share),
            b=Constant(bias),
            flip_filters=False,
            name=f"conv{number}",
            **more,
        )
        top = add(net, layer)

    def pooling(number: int) -> None:
        nonlocal top
        top = add(net, MaxPool2DLayer(top, 3, 2, name=f"pool{number}"))

    def normalization(number: int) -> None:
        nonlocal top
        top = add(net, LocalResponseNormalization2DLayer(top, name=f"norm{number}"))

    def dense(number: int, share: float) -> None:
        nonlocal top
        top = DenseLayer(top, hidden, W=start(0.005, share), b=Constant(0.1), name=f"fc{number}")
        top = add(net, DropoutLayer(add(net, top), 0.5, name=f"drop{number}"))

    convolution(1, 3, 11, 0, stride=4)
    pooling(1)
    normalization(1)
    convolution(2, 8, 5, 0.1, pad=2, num_groups=2)
    pooling(2)
    normalization(2)
    convolution(3, 12, 3, 0, pad=1)
    convolution(4, 12, 3, 0.1, pad=1, num_groups=2)
    convolution(5, 8, 3, 0, pad=1, num_groups=2)
    pooling(5)
    dense(6, width / 32)
    dense(7, hidden / 4096)
    add(net, DenseLayer(top, num_classes, W=start(0.01, hidden / 4096), nonlinearity=None, name="fc8"))
    add(net, NonlinearityLayer(net["fc8"], softmax, name="prob"))
    return net


class AlexNet(Model):
    """AlexNet, with the defaults of Theano-MPI: a rate of 0.01 for each worker's 128 pictures."""

    paper: ClassVar[str] = "Krizhevsky et al. 2012, NIPS; Ding et al. 2014, arXiv 1412.2302"
    architecture: ClassVar[Mapping[str, Any]] = {}
    bias_rate = 2.0
    defaults = {
        "image_size": 227,
        "batch_size": 128,
        "base_lr": 0.01,
        "base_batch": 128,
        "epochs": 70,
        "decay_epochs": (20, 40, 60),
        "nesterov": False,
        "weight_decay": 5e-4,
    }

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, **self.architecture)["prob"]
