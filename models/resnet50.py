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

    def convolution(
        incoming: Layer, suffix: str, stem: str, filters: int, size: int, stride: int = 1
    ) -> Layer:
        """Convolution and batch normalisation; γ is zero where the name says that the block ends here."""
        conv = f"{stem}{suffix}"
        norm = f"bn_{conv}" if stem == "conv" else f"bn{suffix}"
        net[conv] = Conv2DLayer(
            incoming,
            filters,
            size,
            stride,
            pad=size // 2,
            W=HeNormal("relu"),
            b=None,
            nonlinearity=None,
            flip_filters=False,
            name=conv,
        )
        gamma = 0.0 if zero_gamma and norm.endswith("_branch2c") else 1.0
        net[norm] = BatchNormLayer(net[conv], epsilon=EPSILON, gamma=Constant(gamma), name=norm)
        return net[norm]

    def rectified(incoming: Layer, name: str) -> Layer:
        net[name] = NonlinearityLayer(incoming, rectify, name=name)
        return net[name]

    top = rectified(convolution(net["input"], "1", "conv", 64, 7, 2), "conv1_relu")
    net["pool1"] = top = Pool2DLayer(top, 3, 2, pad=1, mode="max", name="pool1")
    for stage, blocks in STAGES.items():
        width = 64 * 2 ** (stage - 2)
        for block in blocks:
            name, first = f"{stage}{block}", block == "a"
            stride = 2 if first and stage > 2 else 1
            shortcut = convolution(top, f"{name}_branch1", "res", 4 * width, 1, stride) if first else top
            inner = rectified(
                convolution(top, f"{name}_branch2a", "res", width, 1), f"res{name}_branch2a_relu"
            )
            inner = convolution(inner, f"{name}_branch2b", "res", width, 3, stride)
            inner = rectified(inner, f"res{name}_branch2b_relu")
            inner = convolution(inner, f"{name}_branch2c", "res", 4 * width, 1)
            net[f"res{name}"] = ElemwiseSumLayer([inner, shortcut], name=f"res{name}")
            top = rectified(net[f"res{name}"], f"res{name}_relu")
    net["pool5"] = GlobalPoolLayer(top, name="pool5")
    net["fc1000"] = DenseLayer(net["pool5"], num_classes, W=Normal(0.01), nonlinearity=None, name="fc1000")
    net["prob"] = NonlinearityLayer(net["fc1000"], softmax, name="prob")
    return net


class ResNet50(Model):
    """ResNet-50 for whatever data set the run is given."""

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes)["prob"]
