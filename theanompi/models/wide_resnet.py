"""Wide residual networks (Zagoruyko and Komodakis 2016, *Wide residual networks*, arXiv 1605.07146, table 1).

WRN-d-k has d convolutions in blocks of two, each after batch normalisation and a rectifier, and k times the filters of
He et al. 2016 (arXiv 1603.05027). Theano-MPI's (``theanompi/models/keras_model_zoo/wresnet.py``) is WRN-28-4 with a
dropout of 0.3, which ``--set model.width=4 --set model.dropout=0.3`` gives, trained by Adam.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from theanompi import Model
from theanompi.config import ConfigError, setting
from theanompi.config.kinds import SHARE, whole
from theanompi.lasagne.init import HeNormal, Normal
from theanompi.lasagne.layers import (
    BatchNormLayer,
    Conv2DLayer,
    DenseLayer,
    DropoutLayer,
    ElemwiseSumLayer,
    GlobalPoolLayer,
    InputLayer,
    Layer,
    NonlinearityLayer,
)
from theanompi.lasagne.nonlinearities import rectify, softmax
from theanompi.models.parts import Net, add

EPSILON = 1e-5


def normalized(net: Net, incoming: Layer, name: str) -> Layer:
    """Add batch normalisation and a rectifier."""
    add(net, BatchNormLayer(incoming, epsilon=EPSILON, name=f"bn_{name}"))
    return add(net, NonlinearityLayer(net[f"bn_{name}"], rectify, name=f"relu_{name}"))


def convolution(net: Net, incoming: Layer, name: str, filters: int, size: int, stride: int = 1) -> Layer:
    """Add a convolution without a bias, initialised as by He et al. (2015)."""
    layer = Conv2DLayer(
        *(incoming, filters, size, stride),
        pad=size // 2,
        W=HeNormal("relu"),
        b=None,
        nonlinearity=None,
        flip_filters=False,
        name=name,
    )
    return add(net, layer)


def wide_block(net: Net, top: Layer, name: str, filters: int, stride: int, dropout: float) -> Layer:
    """Add a block B(3, 3): two convolutions beside a shortcut, which is one of 1 × 1 where the channels change.

    Parameters
    ----------
    net : dict of str to Layer
        Gets the new layers.
    top : Layer
        What the block is put on.
    name : str
        Such as ``"conv3_1"``.
    filters : int
    stride : int
        Of the first convolution and of the shortcut.
    dropout : float
        The probability between the convolutions (§3.3).
    """
    active = normalized(net, top, f"{name}a")
    inner = normalized(net, convolution(net, active, f"{name}a", filters, 3, stride), f"{name}b")
    if dropout:
        inner = add(net, DropoutLayer(inner, dropout, name=f"drop_{name}"))
    inner = convolution(net, inner, f"{name}b", filters, 3)
    same = top.output_shape[1] == filters
    shortcut = top if same else convolution(net, active, f"{name}_shortcut", filters, 1, stride)
    return add(net, ElemwiseSumLayer([inner, shortcut], name=name))


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 3, 32, 32),
    num_classes: int = 10,
    *,
    depth: int = 28,
    width: int = 10,
    dropout: float = 0.0,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Any size.
    num_classes : int
    depth : int
        d: 6·N + 4 for N blocks in each of the three groups.
    width : int
        k: the groups have 16·k, 32·k and 64·k filters.
    dropout : float
        The probability within each block.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"input"`` to ``"fc"`` (class scores) and ``"prob"`` (their softmax).

    Raises
    ------
    ConfigError
        For another depth.

    Examples
    --------
    >>> build_model(depth=10, width=1)["conv4_1"].output_shape
    (None, 64, 8, 8)
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        raise ConfigError(f"depth: expected 6·N + 4, such as 16, 22, 28 or 40, got {depth}")
    net: Net = {}
    top = convolution(net, add(net, InputLayer(input_shape, name="input")), "conv1", 16, 3)
    for group in (2, 3, 4):
        for block in range(1, blocks + 1):
            stride = 2 if group > 2 and block == 1 else 1
            top = wide_block(net, top, f"conv{group}_{block}", width * 2 ** (group + 2), stride, dropout)
    top = add(net, GlobalPoolLayer(normalized(net, top, "last"), name="pool"))
    add(net, DenseLayer(top, num_classes, W=Normal(0.01), nonlinearity=None, name="fc"))
    add(net, NonlinearityLayer(net["fc"], softmax, name="prob"))
    return net


class Wide_ResNet(Model):
    """WRN-28-10 or another one, under Theano-MPI's name and with the paper's recipe (§3.5 and appendix)."""

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        depth: int = setting(28, whole(10), "d, the convolutions: 6·N + 4")
        width: int = setting(10, whole(1), "k, how many times as many filters")
        dropout: float = setting(0.0, SHARE, "within each block")

    paper: ClassVar[str] = "Zagoruyko and Komodakis 2016, arXiv 1605.07146"
    architecture: ClassVar[Mapping[str, Any]] = {}
    defaults = {
        "image_size": 32,
        "batch_size": 128,
        "base_lr": 0.1,
        "base_batch": 128,
        "epochs": 200,
        "decay_epochs": (60, 120, 160),
        "decay_factor": 0.2,
        "weight_decay": 5e-4,
    }

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return build_model(input_shape, num_classes, **{**vars(self.settings), **self.architecture})["prob"]
