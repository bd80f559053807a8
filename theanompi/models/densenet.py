"""DenseNets (Huang et al. 2017, *Densely connected convolutional networks*, arXiv 1608.06993, table 1 and §3).

DenseNet-121, 169 and 201 for ImageNet, and DenseNet-BC for CIFAR: all have bottlenecks (B) and halve the channels
between the blocks (C). Layer names follow torchvision's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from theanompi import Model
from theanompi.lasagne.init import Constant, Normal
from theanompi.lasagne.layers import (
    BatchNormLayer,
    ConcatLayer,
    DenseLayer,
    GlobalPoolLayer,
    InputLayer,
    Layer,
    MaxPool2DLayer,
    NonlinearityLayer,
    Pool2DLayer,
)
from theanompi.lasagne.nonlinearities import rectify, softmax
from theanompi.models.parts import Net, add, convolution, expect_size

EPSILON = 1e-5
BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
"""By depth, the layers of the four blocks."""


def normalized(net: Net, incoming: Layer, name: str) -> Layer:
    """Add batch normalisation, and a rectifier that has ``relu`` for ``norm`` in its name."""
    add(net, BatchNormLayer(incoming, epsilon=EPSILON, name=name))
    return add(net, NonlinearityLayer(net[name], rectify, name=name.replace("norm", "relu")))


def dense_layer(net: Net, top: Layer, name: str, growth: int) -> Layer:
    """Add a convolution of 1 × 1 to 4·k channels and one of 3 × 3 to k, and put these beside the channels before.

    Parameters
    ----------
    net : dict of str to Layer
        Gets the new layers.
    top : Layer
        All channels before.
    name : str
        Such as ``"denseblock1_layer1"``.
    growth : int
        k.
    """
    inner = normalized(net, top, f"{name}_norm1")
    inner = convolution(net, inner, f"{name}_conv1", 4 * growth, 1)
    inner = normalized(net, inner, f"{name}_norm2")
    inner = convolution(net, inner, f"{name}_conv2", growth, 3)
    return add(net, ConcatLayer([top, inner], name=name))


def build_model(
    input_shape: tuple[int | None, int, int, int] | None = None,
    num_classes: int | None = None,
    *,
    blocks: Sequence[int] = BLOCKS[121],
    growth: int = 32,
    small: bool = False,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width), optional
        From 29 × 29 up with four blocks, from 4 × 4 up with three for `small` pictures. By default of 224 × 224, or of
        32 × 32 for those.
    num_classes : int, optional
        By default 1000, or 10.
    blocks : sequence of int
        The layers of each dense block.
    growth : int
        k, the channels of each of them.
    small : bool
        For CIFAR: one convolution of 3 × 3 before the blocks, in place of one of 7 × 7 and a pooling, each with a
        stride of 2.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"classifier"`` (class scores) and ``"prob"`` (their softmax).

    Raises
    ------
    ConfigError
        For smaller pictures.

    Examples
    --------
    >>> build_model((None, 3, 32, 32), 10, blocks=(2, 2, 2), growth=4, small=True)["denseblock3_layer2"].output_shape
    (None, 16, 8, 8)
    """
    size, classes = (32, 10) if small else (224, 1000)
    input_shape, num_classes = input_shape or (None, 3, size, size), num_classes or classes
    least = 2 ** (len(blocks) - 1)
    expect_size("DenseNet", input_shape, least if small else 4 * (least - 1) + 1)
    net: Net = {}
    top = add(net, InputLayer(input_shape, name="input"))
    if small:
        top = convolution(net, top, "conv0", 2 * growth, 3)
    else:
        top = normalized(net, convolution(net, top, "conv0", 2 * growth, 7, 2), "norm0")
        top = add(net, MaxPool2DLayer(top, 3, 2, pad=1, name="pool0"))
    for i, layers in enumerate(blocks, 1):
        for j in range(1, layers + 1):
            top = dense_layer(net, top, f"denseblock{i}_layer{j}", growth)
        if i < len(blocks):
            channels = top.output_shape[1]
            assert channels is not None
            top = normalized(net, top, f"transition{i}_norm")
            top = convolution(net, top, f"transition{i}_conv", channels // 2, 1)
            top = add(net, Pool2DLayer(top, 2, mode="average_inc_pad", name=f"transition{i}_pool"))
    top = normalized(net, top, f"norm{len(blocks) + 1}")
    top = add(net, GlobalPoolLayer(top, name="pool"))
    add(
        net, DenseLayer(top, num_classes, W=Normal(0.01), b=Constant(0), nonlinearity=None, name="classifier")
    )
    add(net, NonlinearityLayer(net["classifier"], softmax, name="prob"))
    return net


def torch_names(blocks: Sequence[int] = BLOCKS[121]) -> dict[str, str]:
    """The names that torchvision's network has for the layers with parameters.

    >>> names = torch_names()
    >>> names["denseblock1_layer2_norm1"], names["transition3_conv"], names["norm5"]
    ('features.denseblock1.denselayer2.norm1', 'features.transition3.conv', 'features.norm5')
    """
    names = {name: f"features.{name}" for name in ("conv0", "norm0")}
    for i, layers in enumerate(blocks, 1):
        for j in range(1, layers + 1):
            for part in ("norm1", "conv1", "norm2", "conv2"):
                names[f"denseblock{i}_layer{j}_{part}"] = f"features.denseblock{i}.denselayer{j}.{part}"
        if i < len(blocks):
            for part in ("norm", "conv"):
                names[f"transition{i}_{part}"] = f"features.transition{i}.{part}"
    # Whatever the number of blocks is.
    return names | {f"norm{len(blocks) + 1}": "features.norm5", "classifier": "classifier"}


class DenseNet121(Model):
    """DenseNet-121, with the paper's recipe for ImageNet (§4.2), which is that of He et al. 2016."""

    paper: ClassVar[str] = "Huang et al. 2017, arXiv 1608.06993"
    architecture: ClassVar[Mapping[str, Any]] = {"blocks": BLOCKS[121]}
    defaults: ClassVar[Mapping[str, Any]] = {
        "batch_size": 32,
        "base_lr": 0.1,
        "base_batch": 256,
        "epochs": 90,
        "decay_epochs": (30, 60),
        "weight_decay": 1e-4,
    }

    def torch_names(self) -> dict[str, str]:
        return torch_names(self.architecture["blocks"])

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, **self.architecture)["prob"]


class DenseNet169(DenseNet121):
    """DenseNet-169."""

    architecture = {"blocks": BLOCKS[169]}


class DenseNet201(DenseNet121):
    """DenseNet-201."""

    architecture = {"blocks": BLOCKS[201]}


class DenseNetCifar(DenseNet121):
    """DenseNet-BC with 100 layers and k = 12, with the paper's recipe for CIFAR (§4.2)."""

    architecture = {"blocks": (16, 16, 16), "growth": 12, "small": True}
    defaults = {
        "image_size": 32,
        "batch_size": 64,
        "base_lr": 0.1,
        "base_batch": 64,
        "epochs": 300,
        "decay_epochs": (150, 225),
        "weight_decay": 1e-4,
    }
