"""Inception v3 with its auxiliary classifier (Szegedy et al. 2015, arXiv 1512.00567, table 1, §4 to §8).

The network is the authors' published one, which torchvision and Keras have too: the paper's with batch normalisation
everywhere, and without paddings in its first layers. Layer names follow torchvision's. The recipe is that of §8:
RMSProp with ε = 1, gradients of a norm of at most 2, a rate that falls by 6 % every two epochs, and labels smoothed
by 0.1 (§7). The paper does not say what the auxiliary loss counts, nor how much weights decay: 0.4 and 4e-5 are those
of the authors' program.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pytensor.graph.basic import Variable

from theanompi import Model, Objective
from theanompi.lasagne.init import Normal
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
from theanompi.models.parts import Net, add, classification_with_sides, expect_size, normalized_convolution

EPSILON = 1e-3
HEADS = ("fc", "AuxLogits_fc")
"""The class scores, and those of the auxiliary classifier."""


class _Builder:
    """A network that grows; its filters are divided by a number."""

    def __init__(self, net: Net, divisor: int) -> None:
        self.net, self.divisor = net, divisor

    def conv(
        self,
        incoming: Layer,
        name: str,
        filters: int,
        size: int | tuple[int, ...],
        stride: int = 1,
        pad: int | str = 0,
    ) -> Layer:
        """Add a convolution, batch normalisation and a rectifier."""
        number = filters // self.divisor
        return normalized_convolution(self.net, incoming, name, number, size, stride, pad, epsilon=EPSILON)

    def chain(self, top: Layer, name: str, *steps: tuple[int, int | tuple[int, int]]) -> Layer:
        """Add convolutions of some filters and sizes that keep the picture's size, ``name_1`` and so on."""
        for i, (filters, size) in enumerate(steps, 1):
            top = self.conv(top, f"{name}_{i}", filters, size, pad="same")
        return top

    def average(self, top: Layer, name: str, filters: int) -> Layer:
        """Add the mean over 3 × 3 and a projection."""
        pool = Pool2DLayer(top, 3, 1, pad=1, mode="average_inc_pad", name=f"{name}_branch_avg")
        return self.conv(add(self.net, pool), f"{name}_branch_pool", filters, 1)

    def maximum(self, top: Layer, name: str) -> Layer:
        """Add the maximum over 3 × 3 with a stride of 2."""
        return add(self.net, MaxPool2DLayer(top, 3, 2, name=name))

    def join(self, name: str, *branches: Layer) -> Layer:
        """Put channels beside each other."""
        return add(self.net, ConcatLayer(list(branches), name=name))

    def module_a(self, top: Layer, name: str, pooled: int) -> Layer:
        """Add the module of figure 5."""
        return self.join(
            name,
            self.conv(top, f"{name}_branch1x1", 64, 1),
            self.chain(top, f"{name}_branch5x5", (48, 1), (64, 5)),
            self.chain(top, f"{name}_branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            self.average(top, name, pooled),
        )

    def reduction_a(self, top: Layer, name: str) -> Layer:
        """Add the module of figure 10 that leads from 35 × 35 to 17 × 17."""
        double = self.chain(top, f"{name}_branch3x3dbl", (64, 1), (96, 3))
        return self.join(
            name,
            self.conv(top, f"{name}_branch3x3", 384, 3, 2),
            self.conv(double, f"{name}_branch3x3dbl_3", 96, 3, 2),
            self.maximum(top, f"{name}_branch_pool"),
        )

    def module_b(self, top: Layer, name: str, inner: int) -> Layer:
        """Add the module of figure 6, with convolutions of 1 × 7 and 7 × 1."""
        row, column = (1, 7), (7, 1)
        double = ((inner, 1), (inner, column), (inner, row), (inner, column), (192, row))
        return self.join(
            name,
            self.conv(top, f"{name}_branch1x1", 192, 1),
            self.chain(top, f"{name}_branch7x7", (inner, 1), (inner, row), (192, column)),
            self.chain(top, f"{name}_branch7x7dbl", *double),
            self.average(top, name, 192),
        )

    def reduction_b(self, top: Layer, name: str) -> Layer:
        """Add the module that leads from 17 × 17 to 8 × 8."""
        single = self.chain(top, f"{name}_branch3x3", (192, 1))
        seven = self.chain(top, f"{name}_branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)))
        return self.join(
            name,
            self.conv(single, f"{name}_branch3x3_2", 320, 3, 2),
            self.conv(seven, f"{name}_branch7x7x3_4", 192, 3, 2),
            self.maximum(top, f"{name}_branch_pool"),
        )

    def module_c(self, top: Layer, name: str) -> Layer:
        """Add the module of figure 7, whose branches fork into 1 × 3 and 3 × 1."""
        three = self.chain(top, f"{name}_branch3x3", (384, 1))
        double = self.chain(top, f"{name}_branch3x3dbl", (448, 1), (384, 3))
        return self.join(
            name,
            self.conv(top, f"{name}_branch1x1", 320, 1),
            self.conv(three, f"{name}_branch3x3_2a", 384, (1, 3), pad="same"),
            self.conv(three, f"{name}_branch3x3_2b", 384, (3, 1), pad="same"),
            self.conv(double, f"{name}_branch3x3dbl_3a", 384, (1, 3), pad="same"),
            self.conv(double, f"{name}_branch3x3dbl_3b", 384, (3, 1), pad="same"),
            self.average(top, name, 192),
        )

    def auxiliary(self, top: Layer, name: str, num_classes: int) -> None:
        """Add the auxiliary classifier (figure 8)."""
        window = tuple(min(5, side) for side in top.output_shape[2:] if side is not None)
        top = add(self.net, Pool2DLayer(top, window, 3, mode="average_inc_pad", name=f"{name}_pool"))
        top = self.conv(top, f"{name}_conv0", 128, 1)
        size = tuple(min(5, side) for side in top.output_shape[2:] if side is not None)
        top = self.conv(top, f"{name}_conv1", 768, size)
        top = add(self.net, GlobalPoolLayer(top, name=f"{name}_mean"))
        self.classifier(top, f"{name}_fc", f"{name}_prob", num_classes)

    def classifier(self, top: Layer, name: str, probabilities: str, num_classes: int) -> None:
        """Add a dense layer and its softmax."""
        dense = DenseLayer(top, num_classes, W=Normal(0.01), nonlinearity=None, name=name)
        add(self.net, NonlinearityLayer(add(self.net, dense), softmax, name=probabilities))


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 299, 299),
    num_classes: int = 1000,
    *,
    divisor: int = 1,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size from 75 × 75 up. The auxiliary classifier pools windows of 5 × 5 and convolves with 5 × 5, or with what
        there is.
    num_classes : int
    divisor : int
        What all numbers of filters are divided by: 1, 2, 4, 8 or 16.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc"`` (class scores) and ``"prob"`` (their softmax), and
        ``"AuxLogits_prob"``.

    Raises
    ------
    ConfigError
        For smaller pictures.

    Examples
    --------
    >>> net = build_model(divisor=16)
    >>> [net[name].output_shape[2] for name in ("Mixed_5d", "Mixed_6e", "Mixed_7c")]
    [35, 17, 8]
    """
    expect_size("InceptionV3", input_shape, 75)
    net: Net = {}
    b = _Builder(net, divisor)
    top = b.conv(add(net, InputLayer(input_shape, name="input")), "Conv2d_1a_3x3", 32, 3, 2)
    top = b.conv(top, "Conv2d_2a_3x3", 32, 3)
    top = b.maximum(b.conv(top, "Conv2d_2b_3x3", 64, 3, pad="same"), "maxpool1")
    top = b.conv(top, "Conv2d_3b_1x1", 80, 1)
    top = b.maximum(b.conv(top, "Conv2d_4a_3x3", 192, 3), "maxpool2")
    for module, pooled in (("b", 32), ("c", 64), ("d", 64)):
        top = b.module_a(top, f"Mixed_5{module}", pooled)
    top = b.reduction_a(top, "Mixed_6a")
    for module, inner in (("b", 128), ("c", 160), ("d", 160), ("e", 192)):
        top = b.module_b(top, f"Mixed_6{module}", inner)
    b.auxiliary(top, "AuxLogits", num_classes)
    top = b.reduction_b(top, "Mixed_7a")
    for module in "bc":
        top = b.module_c(top, f"Mixed_7{module}")
    top = add(net, DropoutLayer(add(net, GlobalPoolLayer(top, name="avgpool")), 0.5, name="dropout"))
    b.classifier(top, "fc", "prob", num_classes)
    return net


def torch_names(layers: Iterable[Layer]) -> dict[str, str]:
    """The names that torchvision's network has for layers of this one that have parameters.

    >>> net = build_model((None, 3, 75, 75), divisor=16)
    >>> names = torch_names(net.values())
    >>> names["Conv2d_1a_3x3"], names["Mixed_5b_branch5x5_1_bn"], names["AuxLogits_fc"]
    ('Conv2d_1a_3x3.conv', 'Mixed_5b.branch5x5_1.bn', 'AuxLogits.fc')
    """
    names = {}
    for layer in layers:
        if layer.params and layer.name:
            theirs = re.sub(r"^(Mixed_..|AuxLogits)_", r"\1.", layer.name)
            if isinstance(layer, Conv2DLayer):
                theirs += ".conv"
            names[layer.name] = re.sub(r"_bn$", ".bn", theirs)
    return names


class InceptionV3(Model):
    """Inception v3; in validation the auxiliary classifier is left out, and labels are not smoothed.

    The paper's 50 replicas have updated the weights one by one, each with the gradient of 32 pictures: its rate of
    0.045 belongs to 32.
    """

    paper: ClassVar[str] = "Szegedy et al. 2015, arXiv 1512.00567"
    architecture: ClassVar[Mapping[str, Any]] = {}
    network: dict[str, Layer]
    defaults = {
        "image_size": 299,
        "batch_size": 32,
        "optimizer": "rmsprop",
        "settings": {"optimizer.rho": 0.9, "optimizer.epsilon": 1.0},
        "base_lr": 0.045,
        "base_batch": 32,
        "epochs": 100,
        "decay_epochs": tuple(range(2, 100, 2)),
        "decay_factor": 0.94,
        "weight_decay": 4e-5,
        "clip_norm": 2.0,
        "label_smoothing": 0.1,
    }

    def build(self, batch: Mapping[str, Variable]) -> dict[str, Layer]:
        net = build_model(batch["images"].type.shape, self.dataset.n_classes, **self.architecture)
        return {head: net[head] for head in HEADS}

    def torch_names(self) -> dict[str, str]:
        return torch_names(get_all_layers(self._outputs()))

    def objectives(self, batch: Mapping[str, Variable], training: bool) -> Objective:
        return classification_with_sides(self.network, batch, training, weight=0.4)
