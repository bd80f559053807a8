"""GoogLeNet with batch normalisation (Szegedy et al. 2014, arXiv 1409.4842; Ioffe and Szegedy 2015, arXiv 1502.03167).

The network that torchvision has: that of `theanompi.models.googlenet` with batch normalisation after each convolution
in place of biases and of the normalisation over channels, and with convolutions of 3 × 3 where the paper has 5 × 5.
Scores are those of torchvision for the same weights; its auxiliary classifiers average over parts of the picture that
differ a little from the paper's 5 × 5, which are taken here. The defaults are those of torchvision's reference
scripts: a rate of 0.1 for 256 pictures, which falls every 30 epochs.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from pytensor.graph.basic import Variable

from theanompi import Model, Objective
from theanompi.lasagne.init import HeNormal, Normal
from theanompi.lasagne.layers import (
    ConcatLayer,
    Conv2DLayer,
    DenseLayer,
    DropoutLayer,
    GlobalPoolLayer,
    InputLayer,
    Layer,
    MaxPool2DLayer,
    NonlinearityLayer,
    Pool2DLayer,
    get_all_layers,
)
from theanompi.lasagne.nonlinearities import softmax
from theanompi.models.googlenet import AUXILIARY, MODULES
from theanompi.models.parts import Net, add, classification_with_sides, normalized_convolution

EPSILON = 1e-3
HEADS = ("fc", "aux1_fc2", "aux2_fc2")
"""The class scores, and those of the auxiliary classifiers."""


convolution = partial(normalized_convolution, epsilon=EPSILON)


def inception(net: Net, top: Layer, name: str, filters: tuple[int, ...]) -> Layer:
    """Add an inception module (figure 2b); `filters` as in `theanompi.models.googlenet.MODULES`."""
    single, reduced3, full3, reduced5, full5, projected = filters
    pool = add(net, MaxPool2DLayer(top, 3, 1, pad=1, name=f"{name}_branch4_0"))
    branches = [convolution(net, top, f"{name}_branch1", single, 1)]
    for i, (reduced, full) in enumerate(((reduced3, full3), (reduced5, full5)), 2):
        inner = convolution(net, top, f"{name}_branch{i}_0", reduced, 1)
        branches.append(convolution(net, inner, f"{name}_branch{i}_1", full, 3))
    branches.append(convolution(net, pool, f"{name}_branch4_1", projected, 1))
    return add(net, ConcatLayer(branches, name=name))


def auxiliary(net: Net, top: Layer, name: str, num_classes: int, filters: int, hidden: int) -> None:
    """Add an auxiliary classifier (§5) of so many filters and hidden units."""
    window = tuple(min(5, side) for side in top.output_shape[2:] if side is not None)
    top = add(net, Pool2DLayer(top, window, 3, mode="average_exc_pad", name=f"{name}_pool"))
    top = convolution(net, top, f"{name}_conv", filters, 1)
    top = add(net, DenseLayer(top, hidden, W=HeNormal("relu"), name=f"{name}_fc1"))
    top = add(net, DropoutLayer(top, 0.7, name=f"{name}_dropout"))
    add(net, DenseLayer(top, num_classes, W=Normal(0.01), nonlinearity=None, name=f"{name}_fc2"))


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
        Any size.
    num_classes : int
    divisor : int
        What all numbers of filters and hidden units are divided by: 1, 2, 4, 8 or 16.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc"`` (class scores) and ``"prob"`` (their softmax), and the scores
        ``"aux1_fc2"`` and ``"aux2_fc2"``.
    """
    net: Net = {}

    def pooling(top: Layer, number: int, size: int = 3) -> Layer:
        return add(net, MaxPool2DLayer(top, size, 2, ignore_border=False, name=f"maxpool{number}"))

    top = add(net, InputLayer(input_shape, name="input"))
    top = pooling(convolution(net, top, "conv1", 64 // divisor, 7, 2), 1)
    top = convolution(net, top, "conv2", 64 // divisor, 1)
    top = pooling(convolution(net, top, "conv3", 192 // divisor, 3), 2)
    for module, filters in MODULES.items():
        top = inception(net, top, f"inception{module}", tuple(count // divisor for count in filters))
        if module in AUXILIARY:
            auxiliary(net, top, f"aux{AUXILIARY[module]}", num_classes, 128 // divisor, 1024 // divisor)
        if module == "3b":
            top = pooling(top, 3)
        if module == "4e":
            top = pooling(top, 4, 2)
    top = add(net, DropoutLayer(add(net, GlobalPoolLayer(top, name="avgpool")), 0.2, name="dropout"))
    add(net, DenseLayer(top, num_classes, W=Normal(0.01), nonlinearity=None, name="fc"))
    add(net, NonlinearityLayer(net["fc"], softmax, name="prob"))
    return net


def torch_names(layers: Iterable[Layer]) -> dict[str, str]:
    """The names that torchvision's network has for layers of this one that have parameters.

    >>> names = torch_names(build_model(divisor=16).values())
    >>> names["conv1"], names["inception3a_branch2_1_bn"], names["aux1_conv_bn"], names["fc"]
    ('conv1.conv', 'inception3a.branch2.1.bn', 'aux1.conv.bn', 'fc')
    """
    return {
        layer.name: layer.name.replace("_", ".") + (".conv" if isinstance(layer, Conv2DLayer) else "")
        for layer in layers
        if layer.params and layer.name
    }


class GoogLeNetBN(Model):
    """GoogLeNet with batch normalisation; in validation the auxiliary classifiers are left out."""

    paper: ClassVar[str] = "Szegedy et al. 2014, arXiv 1409.4842; Ioffe and Szegedy 2015, arXiv 1502.03167"
    architecture: ClassVar[Mapping[str, Any]] = {}
    network: dict[str, Layer]
    defaults = {
        "batch_size": 32,
        "base_lr": 0.1,
        "base_batch": 256,
        "epochs": 90,
        "decay_epochs": (30, 60),
        "nesterov": False,
        "weight_decay": 1e-4,
    }

    def build(self, batch: Mapping[str, Variable]) -> dict[str, Layer]:
        net = build_model(batch["images"].type.shape, self.dataset.n_classes, **self.architecture)
        return {head: net[head] for head in HEADS}

    def objectives(self, batch: Mapping[str, Variable], training: bool) -> Objective:
        return classification_with_sides(self.network, batch, training, weight=0.3)

    def torch_names(self) -> dict[str, str]:
        return torch_names(get_all_layers(self._outputs()))
