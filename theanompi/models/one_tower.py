"""AlexNet in one tower (Krizhevsky 2014, *One weird trick for parallelizing convolutional neural networks*, 1404.5997).

The network of the paper's footnote 1 as torchvision has it: no groups, no normalisation, 64 filters in front, and
dropout before both hidden layers. The defaults are those of torchvision's reference scripts: a rate of 0.01 for 256
pictures, which falls every 30 epochs.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from theanompi import Model
from theanompi.lasagne.init import HeNormal, Normal
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

CONVOLUTIONS = (
    (2, 11, 4, 2, True),
    (6, 5, 1, 2, True),
    (12, 3, 1, 1, False),
    (8, 3, 1, 1, False),
    (8, 3, 1, 1, True),
)
"""Times `width` filters, their size, stride and padding, and whether a pooling follows."""
TORCH_NAMES = {
    **{f"conv{i}": f"features.{place}" for i, place in enumerate((0, 3, 6, 8, 10), 1)},
    **{"fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"},
}
"""The names that torchvision's network has for the layers with parameters."""


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 224, 224),
    num_classes: int = 1000,
    *,
    width: int = 32,
    hidden: int = 4096,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size from 63 × 63 up; with 224 the last pooling leaves 6 × 6.
    num_classes : int
    width : int
        The convolutions have 2, 6, 12, 8 and 8 times as many filters.
    hidden : int
        Units of each of the two hidden layers.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc8"`` (class scores) and ``"prob"`` (their softmax).

    Raises
    ------
    ConfigError
        For smaller pictures.
    """
    expect_size("AlexNet", input_shape, 63)
    net: Net = {}
    top = add(net, InputLayer(input_shape, name="input"))
    for i, (filters, size, stride, pad, pooled) in enumerate(CONVOLUTIONS, 1):
        layer = Conv2DLayer(
            *(top, filters * width, size, stride),
            pad=pad,
            W=HeNormal("relu"),
            flip_filters=False,
            name=f"conv{i}",
        )
        top = add(net, layer)
        if pooled:
            top = add(net, MaxPool2DLayer(top, 3, 2, name=f"pool{i}"))
    for number in (6, 7):
        top = add(net, DropoutLayer(top, 0.5, name=f"drop{number}"))
        top = add(net, DenseLayer(top, hidden, W=HeNormal("relu"), name=f"fc{number}"))
    add(net, DenseLayer(top, num_classes, W=Normal(0.01), nonlinearity=None, name="fc8"))
    add(net, NonlinearityLayer(net["fc8"], softmax, name="prob"))
    return net


class AlexNetOneTower(Model):
    """AlexNet in one tower."""

    paper: ClassVar[str] = "Krizhevsky 2014, arXiv 1404.5997"
    architecture: ClassVar[Mapping[str, Any]] = {}
    defaults = {
        "batch_size": 64,
        "base_lr": 0.01,
        "base_batch": 256,
        "epochs": 90,
        "decay_epochs": (30, 60),
        "nesterov": False,
        "weight_decay": 1e-4,
    }

    def torch_names(self) -> dict[str, str]:
        return TORCH_NAMES

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, **self.architecture)["prob"]
