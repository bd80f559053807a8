"""ResNet-50 (He et al. 2016, arXiv 1512.03385) as in Goyal et al. 2017 (arXiv 1706.02677, §5.1).

Two things differ from the first paper: the stride of 2 sits on the 3 × 3 convolution of a block, and γ of
the last batch normalisation of each block starts at zero. Layer names are those of Lasagne's model zoo.
"""

from theanompi import Model
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

STAGES = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}
EPSILON = 1e-5


def convolution(
    net: dict[str, Layer],
    incoming: Layer,
    name: str,
    filters: int,
    size: int,
    stride: int = 1,
    gamma: float = 1.0,
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


def rectified(net: dict[str, Layer], incoming: Layer, name: str) -> Layer:
    """Add a rectifier."""
    net[name] = NonlinearityLayer(incoming, rectify, name=name)
    return net[name]


def bottleneck(
    net: dict[str, Layer], top: Layer, name: str, width: int, stride: int, project: bool, gamma: float
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


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 224, 224),
    num_classes: int = 1000,
    zero_gamma: bool = True,
) -> dict[str, Layer]:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size from 32 × 32 up.
    num_classes : int
    zero_gamma : bool
        Start γ of the last batch normalisation of each block at 0, so that every block starts as the
        identity (Goyal et al. 2017, §5.1); at 1 otherwise.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc1000"`` (class scores) and ``"prob"`` (their softmax).

    Examples
    --------
    >>> from theanompi.lasagne.layers import count_params
    >>> count_params(build_model()["prob"], trainable=True)
    25557032
    """
    net: dict[str, Layer] = {"input": InputLayer(input_shape, name="input")}
    rectified(net, convolution(net, net["input"], "conv1", 64, 7, 2), "conv1_relu")
    net["pool1"] = Pool2DLayer(net["conv1_relu"], 3, 2, pad=1, mode="max", name="pool1")
    top = net["pool1"]
    for stage, blocks in STAGES.items():
        for block in blocks:
            stride = 2 if block == "a" and stage > 2 else 1
            gamma = 0.0 if zero_gamma else 1.0
            top = bottleneck(net, top, f"{stage}{block}", 64 * 2 ** (stage - 2), stride, block == "a", gamma)
    net["pool5"] = GlobalPoolLayer(top, name="pool5")
    net["fc1000"] = DenseLayer(net["pool5"], num_classes, W=Normal(0.01), nonlinearity=None, name="fc1000")
    net["prob"] = NonlinearityLayer(net["fc1000"], softmax, name="prob")
    return net


def torch_names() -> dict[str, str]:
    """The names that torchvision's ``resnet50`` has for the layers with parameters.

    >>> names = torch_names()
    >>> names["res3b_branch2a"], names["bn2a_branch1"], names["fc1000"]
    ('layer2.1.conv1', 'layer1.0.downsample.1', 'fc')
    """
    names = {"conv1": "conv1", "bn_conv1": "bn1", "fc1000": "fc"}
    for stage, blocks in STAGES.items():
        for i, block in enumerate(blocks):
            ours, theirs = f"{stage}{block}_branch", f"layer{stage - 1}.{i}"
            for j, branch in enumerate("abc", 1):
                names |= {f"res{ours}2{branch}": f"{theirs}.conv{j}", f"bn{ours}2{branch}": f"{theirs}.bn{j}"}
            if block == "a":
                names |= {f"res{ours}1": f"{theirs}.downsample.0", f"bn{ours}1": f"{theirs}.downsample.1"}
    return names


class ResNet50(Model):
    """ResNet-50 for whatever data set the run is given."""

    def torch_names(self) -> dict[str, str]:
        return torch_names()

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, zero_gamma=self.config.zero_gamma)["prob"]
