"""ResNet-18, 34, 50, 101 and 152 (He et al. 2016, arXiv 1512.03385, table 1) as in Goyal et al. 2017.

Two things differ from the first paper (arXiv 1706.02677, §5.1): the stride of 2 sits on the 3 × 3 convolution of a
bottleneck block, and γ of the last batch normalisation of each block starts at zero. The defaults of a run are those of
the second paper, so these models have none of their own. Layer names are those of Lasagne's and Caffe's model zoos.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from theanompi import Model
from theanompi.config import ConfigError
from theanompi.lasagne.init import Constant, HeNormal, Normal
from theanompi.lasagne.layers import (
    BatchNormLayer,
    Conv2DLayer,
    DenseLayer,
    ElemwiseSumLayer,
    GlobalPoolLayer,
    InputLayer,
    Layer,
    NonlinearityLayer,
    Pool2DLayer,
)
from theanompi.lasagne.nonlinearities import rectify, softmax
from theanompi.models.parts import Net

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""By depth, the blocks of the stages 2 to 5; from 50 on they are bottlenecks."""
EPSILON = 1e-5


def convolution(
    net: Net, incoming: Layer, name: str, filters: int, size: int, stride: int = 1, gamma: float = 1.0
) -> Layer:
    """Add a convolution, initialised as by He et al. (2015), and batch normalisation whose γ starts at `gamma`."""
    net[name] = Conv2DLayer(
        incoming,
        filters,
        size,
        stride,
        pad=size // 2,
        W=HeNormal("relu"),
        b=None,
        nonlinearity=None,
        flip_filters=False,
        name=name,
    )
    norm = f"bn{name.removeprefix('res')}" if name.startswith("res") else f"bn_{name}"
    net[norm] = BatchNormLayer(net[name], epsilon=EPSILON, gamma=Constant(gamma), name=norm)
    return net[norm]


def rectified(net: Net, incoming: Layer, name: str) -> Layer:
    """Add a rectifier."""
    net[name] = NonlinearityLayer(incoming, rectify, name=name)
    return net[name]


def bottleneck(
    net: Net, top: Layer, name: str, width: int, stride: int, project: bool, gamma: float
) -> Layer:
    """Add a residual block: 1 × 1, 3 × 3 (with the stride) and 1 × 1 convolutions beside a shortcut.

    Parameters
    ----------
    net : dict of str to Layer
        Gets the new layers.
    top : Layer
        What the block is put on.
    name : str
        Such as ``"3a"``.
    width : int
        Channels inside the block; it has four times as many at its end.
    stride : int
    project : bool
        Whether the shortcut is a convolution, as it must be where the shape changes, or nothing.
    gamma : float
        What γ of the last batch normalisation starts at.
    """
    res = f"res{name}"
    shortcut = convolution(net, top, f"{res}_branch1", 4 * width, 1, stride) if project else top
    inner = rectified(net, convolution(net, top, f"{res}_branch2a", width, 1), f"{res}_branch2a_relu")
    inner = convolution(net, inner, f"{res}_branch2b", width, 3, stride)
    inner = rectified(net, inner, f"{res}_branch2b_relu")
    inner = convolution(net, inner, f"{res}_branch2c", 4 * width, 1, gamma=gamma)
    net[res] = ElemwiseSumLayer([inner, shortcut], name=res)
    return rectified(net, net[res], f"{res}_relu")


def basic_block(
    net: Net, top: Layer, name: str, width: int, stride: int, project: bool, gamma: float
) -> Layer:
    """Add a residual block: two 3 × 3 convolutions (the first one with the stride) beside a shortcut.

    Parameters
    ----------
    net, top, name, stride, project, gamma
        As in `bottleneck`.
    width : int
        Channels.
    """
    res = f"res{name}"
    shortcut = convolution(net, top, f"{res}_branch1", width, 1, stride) if project else top
    inner = convolution(net, top, f"{res}_branch2a", width, 3, stride)
    inner = rectified(net, inner, f"{res}_branch2a_relu")
    inner = convolution(net, inner, f"{res}_branch2b", width, 3, gamma=gamma)
    net[res] = ElemwiseSumLayer([inner, shortcut], name=res)
    return rectified(net, net[res], f"{res}_relu")


def _names(depth: int) -> Iterator[tuple[int, list[str]]]:
    """Each stage with the names of its blocks: 4a to 4f, but 4a, 4b1 to 4b22 in the deeper networks."""
    for stage, blocks in enumerate(BLOCKS[depth], 2):
        long = depth > 50 and stage in (3, 4)
        rest = [f"b{i}" for i in range(1, blocks)] if long else list("bcdef"[: blocks - 1])
        yield stage, [f"{stage}{block}" for block in ["a", *rest]]


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 224, 224),
    num_classes: int = 1000,
    zero_gamma: bool = True,
    *,
    depth: int = 50,
    width: int = 64,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size; the stages have the papers' five scales from 32 × 32 up.
    num_classes : int
    zero_gamma : bool
        Start γ of the last batch normalisation of each block at 0, so that every block starts as the
        identity (Goyal et al. 2017, §5.1); at 1 otherwise.
    depth : {18, 34, 50, 101, 152}
    width : int
        Channels of the first convolution, and within the blocks of the second stage; each later stage has twice as
        many as the one before.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc1000"`` (class scores) and ``"prob"`` (their softmax).

    Raises
    ------
    ConfigError
        For another depth.

    Examples
    --------
    >>> from theanompi.lasagne.layers import count_params
    >>> count_params(build_model()["prob"], trainable=True)
    25557032
    """
    if depth not in BLOCKS:
        raise ConfigError(f"depth: expected one of {', '.join(map(str, BLOCKS))}, got {depth}")
    block = bottleneck if depth >= 50 else basic_block
    net: Net = {"input": InputLayer(input_shape, name="input")}
    rectified(net, convolution(net, net["input"], "conv1", width, 7, 2), "conv1_relu")
    net["pool1"] = Pool2DLayer(net["conv1_relu"], 3, 2, pad=1, mode="max", name="pool1")
    top = net["pool1"]
    gamma = 0.0 if zero_gamma else 1.0
    for stage, names in _names(depth):
        for name in names:
            first = name == names[0]
            stride = 2 if first and stage > 2 else 1
            # The shape changes in the first block, but where basic blocks come after the pooling.
            project = first and (depth >= 50 or stage > 2)
            top = block(net, top, name, width * 2 ** (stage - 2), stride, project, gamma)
    net["pool5"] = GlobalPoolLayer(top, name="pool5")
    net["fc1000"] = DenseLayer(net["pool5"], num_classes, W=Normal(0.01), nonlinearity=None, name="fc1000")
    net["prob"] = NonlinearityLayer(net["fc1000"], softmax, name="prob")
    return net


def torch_names(depth: int = 50) -> dict[str, str]:
    """The names that torchvision's network of that depth has for the layers with parameters.

    >>> names = torch_names()
    >>> names["res3b_branch2a"], names["bn2a_branch1"], names["fc1000"]
    ('layer2.1.conv1', 'layer1.0.downsample.1', 'fc')
    """
    names = {"conv1": "conv1", "bn_conv1": "bn1", "fc1000": "fc"}
    for stage, blocks in _names(depth):
        for i, block in enumerate(blocks):
            ours, theirs = f"{block}_branch", f"layer{stage - 1}.{i}"
            for j, branch in enumerate("abc" if depth >= 50 else "ab", 1):
                names |= {f"res{ours}2{branch}": f"{theirs}.conv{j}", f"bn{ours}2{branch}": f"{theirs}.bn{j}"}
            if i == 0 and (depth >= 50 or stage > 2):
                names |= {f"res{ours}1": f"{theirs}.downsample.0", f"bn{ours}1": f"{theirs}.downsample.1"}
    return names


class ResNet50(Model):
    """ResNet-50 for whatever data set the run is given."""

    paper: ClassVar[str] = "He et al. 2016, arXiv 1512.03385; Goyal et al. 2017, arXiv 1706.02677"
    architecture: ClassVar[Mapping[str, Any]] = {"depth": 50}

    def torch_names(self) -> dict[str, str]:
        return torch_names(self.architecture["depth"])

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, zero_gamma=self.config.zero_gamma, **self.architecture)[
            "prob"
        ]


class ResNet18(ResNet50):
    """ResNet-18."""

    architecture = {"depth": 18}


class ResNet34(ResNet50):
    """ResNet-34."""

    architecture = {"depth": 34}


class ResNet101(ResNet50):
    """ResNet-101."""

    architecture = {"depth": 101}


class ResNet152(ResNet50):
    """ResNet-152."""

    architecture = {"depth": 152}
