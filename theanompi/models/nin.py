"""Network in Network for CIFAR (Lin et al. 2014, *Network in network*, arXiv 1312.4400, §4.2 and figure 2).

Three blocks of a convolution and two layers of perceptrons that slide over the picture, which are convolutions of
1 × 1, and in place of dense layers the mean over each feature map. The numbers of filters and the recipe are those of
the first author's programs (``nin_cifar10`` in purine2), with a rate of 0.05 in place of 0.1, since there that of the
last layer is a tenth. The paper lets the rate fall twice by hand; here it falls at fixed epochs. Layer names are
theirs.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from theanompi import Model
from theanompi.lasagne.init import Normal
from theanompi.lasagne.layers import (
    Conv2DLayer,
    DropoutLayer,
    GlobalPoolLayer,
    InputLayer,
    Layer,
    NonlinearityLayer,
    Pool2DLayer,
)
from theanompi.lasagne.nonlinearities import softmax
from theanompi.models.parts import Net, add


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 32, 32),
    num_classes: int = 10,
    *,
    width: int = 32,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size.
    num_classes : int
    width : int
        The layers have 6, 5, 3; 6, 6, 6; 6 and 6 times as many filters. With fewer than in the paper, the initial
        weights are larger, so that sums of them are not.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"data"`` to ``"pool3"`` (class scores) and ``"prob"`` (their softmax).

    Examples
    --------
    >>> from theanompi.lasagne.layers import count_params
    >>> count_params(build_model()["prob"])
    966986
    """
    net: Net = {}
    top = add(net, InputLayer(input_shape, name="data"))

    def convolution(name: str, filters: int, size: int) -> None:
        nonlocal top
        std = 0.05 if name == "conv1" else 0.05 * math.sqrt(32 / width)
        layer = Conv2DLayer(top, filters, size, pad="same", W=Normal(std), flip_filters=False, name=name)
        top = add(net, layer)

    def pooling(number: int, mode: str) -> None:
        nonlocal top
        top = add(net, Pool2DLayer(top, 3, 2, ignore_border=False, mode=mode, name=f"pool{number}"))
        top = add(net, DropoutLayer(top, 0.5, name=f"drop{3 * number}"))

    convolution("conv1", 6 * width, 5)
    convolution("cccp1", 5 * width, 1)
    convolution("cccp2", 3 * width, 1)
    pooling(1, "max")
    convolution("conv2", 6 * width, 5)
    convolution("cccp3", 6 * width, 1)
    convolution("cccp4", 6 * width, 1)
    pooling(2, "average_exc_pad")
    convolution("conv3", 6 * width, 3)
    convolution("cccp5", 6 * width, 1)
    convolution("cccp6", num_classes, 1)
    add(net, GlobalPoolLayer(top, name="pool3"))
    add(net, NonlinearityLayer(net["pool3"], softmax, name="prob"))
    return net


class NIN(Model):
    """Network in Network; biases move at twice the rate, without weight decay, as in the author's programs."""

    paper: ClassVar[str] = "Lin et al. 2014, arXiv 1312.4400"
    architecture: ClassVar[Mapping[str, Any]] = {}
    bias_rate = 2.0
    defaults = {
        "image_size": 32,
        "batch_size": 128,
        "base_lr": 0.05,
        "base_batch": 128,
        "epochs": 200,
        "decay_epochs": (120, 160),
        "nesterov": False,
        "weight_decay": 1e-4,
    }

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, **self.architecture)["prob"]
