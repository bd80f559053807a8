"""The VGG networks (Simonyan and Zisserman 2015, *Very deep convolutional networks*, arXiv 1409.1556, table 1).

Layer names are those of Lasagne's and Caffe's model zoos. The paper trains the deeper networks from the weights of a
shallow one, or from those of Glorot and Bengio; here they start as He et al. (2015, arXiv 1502.01852) have shown for
networks of this depth, biases at 0. The defaults are those of Theano-MPI
(``theanompi/models/lasagne_model_zoo/vgg16.py``), as the paper's rate falls by hand; biases move at twice the rate, as
there and in Caffe.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from theanompi import Model
from theanompi.config import ConfigError, closest
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

CONFIGURATIONS = {
    "A": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "B": ((3, 3), (3, 3), (3, 3), (3, 3), (3, 3)),
    "C": ((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1)),
    "D": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "E": ((3, 3), (3, 3), (3, 3, 3, 3), (3, 3, 3, 3), (3, 3, 3, 3)),
}
"""The columns of the paper's table 1: by stage, the sizes of the filters."""


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 224, 224),
    num_classes: int = 1000,
    *,
    configuration: str = "D",
    width: int = 64,
    hidden: int = 4096,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size from 32 × 32 up.
    num_classes : int
    configuration : {"A", "B", "C", "D", "E"}
        Of the paper's table 1: 11, 13, 16, 16 and 19 layers with weights.
    width : int
        Filters of the first stage; the later ones have 2, 4, 8 and 8 times as many.
    hidden : int
        Units of each of the two hidden layers.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc8"`` (class scores) and ``"prob"`` (their softmax).

    Raises
    ------
    ConfigError
        For smaller pictures, or another configuration.
    """
    if configuration not in CONFIGURATIONS:
        raise ConfigError(
            f"configuration: expected one of {', '.join(CONFIGURATIONS)}, got {configuration!r}"
            f"{closest(configuration, CONFIGURATIONS)}"
        )
    expect_size("VGG", input_shape, 32)
    net: Net = {}
    top = add(net, InputLayer(input_shape, name="input"))
    for stage, sizes in enumerate(CONFIGURATIONS[configuration], 1):
        filters = width * min(2 ** (stage - 1), 8)
        for i, size in enumerate(sizes, 1):
            convolution = Conv2DLayer(
                top,
                filters,
                size,
                pad="same",
                W=HeNormal("relu"),
                flip_filters=False,
                name=f"conv{stage}_{i}",
            )
            top = add(net, convolution)
        top = add(net, MaxPool2DLayer(top, 2, name=f"pool{stage}"))
    for number in (6, 7):
        top = add(net, DenseLayer(top, hidden, W=HeNormal("relu"), name=f"fc{number}"))
        top = add(net, DropoutLayer(top, 0.5, name=f"fc{number}_dropout"))
    add(net, DenseLayer(top, num_classes, W=Normal(0.01), nonlinearity=None, name="fc8"))
    add(net, NonlinearityLayer(net["fc8"], softmax, name="prob"))
    return net


def torch_names(configuration: str = "D") -> dict[str, str]:
    """The names that torchvision's network has for the layers with parameters.

    >>> names = torch_names()
    >>> names["conv1_1"], names["conv2_1"], names["fc8"]
    ('features.0', 'features.5', 'classifier.6')
    """
    names, place = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}, 0
    for stage, sizes in enumerate(CONFIGURATIONS[configuration], 1):
        for i in range(len(sizes)):
            names[f"conv{stage}_{i + 1}"] = f"features.{place}"
            place += 2  # each with its rectifier
        place += 1  # the pooling
    return names


class VGG16(Model):
    """VGG16, configuration D, with the defaults of Theano-MPI: a rate of 0.002 for each worker's 64 pictures."""

    paper: ClassVar[str] = "Simonyan and Zisserman 2015, arXiv 1409.1556"
    architecture: ClassVar[Mapping[str, Any]] = {"configuration": "D"}
    bias_rate = 2.0
    defaults = {
        "batch_size": 64,
        "base_lr": 0.002,
        "base_batch": 64,
        "epochs": 40,
        "decay_epochs": (15, 30, 35),
        "nesterov": False,
        "weight_decay": 5e-4,
    }

    def torch_names(self) -> dict[str, str]:
        return torch_names(self.architecture["configuration"])

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, **self.architecture)["prob"]


class VGG11(VGG16):
    """Configuration A."""

    architecture = {"configuration": "A"}


class VGG13(VGG16):
    """Configuration B."""

    architecture = {"configuration": "B"}


class VGG19(VGG16):
    """Configuration E."""

    architecture = {"configuration": "E"}
