"""A small residual network for small pictures, in the style of He et al. 2016 (arXiv 1512.03385, §4.2).

Its blocks are those of ResNet-50 (the same convolutions, batch normalisation, shortcuts and γ of zero at their
ends) with two 3 × 3 convolutions instead of three of 1, 3 and 1, as all networks for CIFAR in that paper have them.
No pooling before the blocks.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from theanompi import Model
from theanompi.lasagne.init import Normal
from theanompi.lasagne.layers import DenseLayer, GlobalPoolLayer, InputLayer, Layer, NonlinearityLayer
from theanompi.lasagne.nonlinearities import softmax
from theanompi.models.resnet import basic_block, convolution, rectified


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 32, 32),
    num_classes: int = 10,
    width: int = 16,
    zero_gamma: bool = True,
) -> dict[str, Layer]:
    """Build the network: a 5 × 5 convolution with stride 2, four blocks, and a dense layer; 10 layers deep.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size from 16 × 16 up.
    num_classes : int
    width : int
        Channels of the first block; each of the others has twice as many as the one before.
    zero_gamma : bool
        As in `theanompi.models.resnet.build_model`.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc"`` (class scores) and ``"prob"`` (their softmax).

    Examples
    --------
    >>> build_model()["res5_relu"].output_shape
    (None, 128, 2, 2)
    """
    net: dict[str, Layer] = {"input": InputLayer(input_shape, name="input")}
    gamma = 0.0 if zero_gamma else 1.0
    top = rectified(net, convolution(net, net["input"], "conv1", width, 5, 2), "conv1_relu")
    for block in range(4):
        shrinks = block > 0
        top = basic_block(net, top, str(block + 2), width * 2**block, 1 + shrinks, shrinks, gamma)
    net["pool"] = GlobalPoolLayer(top, name="pool")
    net["fc"] = DenseLayer(net["pool"], num_classes, W=Normal(0.01), nonlinearity=None, name="fc")
    net["prob"] = NonlinearityLayer(net["fc"], softmax, name="prob")
    return net


class ResNetCifar(Model):
    """The network for whatever data set the run is given."""

    paper: ClassVar[str] = "in the style of He et al. 2016, arXiv 1512.03385, §4.2"
    architecture: ClassVar[Mapping[str, Any]] = {}

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, zero_gamma=self.config.zero_gamma, **self.architecture)[
            "prob"
        ]
