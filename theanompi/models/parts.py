"""What the networks of the zoo share."""

from collections.abc import Mapping, Sequence
from typing import Any

from pytensor.graph.basic import Variable

from theanompi import Objective, classification
from theanompi.config import ConfigError
from theanompi.lasagne.init import HeNormal
from theanompi.lasagne.layers import BatchNormLayer, Conv2DLayer, Layer, NonlinearityLayer, get_output
from theanompi.lasagne.nonlinearities import rectify

Net = dict[str, Layer]
"""The layers of a network by name."""


def add(net: Net, layer: Layer) -> Layer:
    """Put a layer into a network under its own name, and give it back."""
    assert layer.name and layer.name not in net
    net[layer.name] = layer
    return layer


def convolution(
    net: Net,
    incoming: Layer,
    name: str,
    filters: int,
    size: int | tuple[int, ...],
    stride: int = 1,
    pad: int | str = "same",
) -> Layer:
    """Add a convolution without a bias or a nonlinearity, initialised as by He et al. (2015)."""
    layer = Conv2DLayer(
        *(incoming, filters, size, stride),
        pad=pad,
        W=HeNormal("relu"),
        b=None,
        nonlinearity=None,
        flip_filters=False,
        name=name,
    )
    return add(net, layer)


def normalized_convolution(
    net: Net,
    incoming: Layer,
    name: str,
    filters: int,
    size: int | tuple[int, ...],
    stride: int = 1,
    pad: int | str = "same",
    *,
    epsilon: float,
) -> Layer:
    """Add a `convolution`, batch normalisation (``NAME_bn``) and a rectifier (``NAME_relu``)."""
    top = convolution(net, incoming, name, filters, size, stride, pad)
    top = add(net, BatchNormLayer(top, epsilon=epsilon, name=f"{name}_bn"))
    return add(net, NonlinearityLayer(top, rectify, name=f"{name}_relu"))


def expect_size(network: str, input_shape: Sequence[int | None], least: int) -> None:
    """Refuse pictures that are too small for a network.

    Parameters
    ----------
    network : str
        Its name, which the message begins with.
    input_shape : (n, channels, height, width)
    least : int
        The smallest height and width.

    Raises
    ------
    ConfigError
        For smaller pictures.

    Examples
    --------
    >>> expect_size("VGG16", (None, 3, 28, 28), 32)
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: VGG16: expected pictures of at least 32 × 32 pixels, got 28 × 28; \
remedy: a larger image_size
    """
    height, width = input_shape[2:]
    if min(height or least, width or least) < least:
        raise ConfigError(
            f"{network}: expected pictures of at least {least} × {least} pixels, got {height} × {width}; "
            "remedy: a larger image_size"
        )


def classification_with_sides(
    heads: Mapping[str, Layer], batch: Mapping[str, Variable], training: bool, *, weight: float
) -> Objective:
    """Make the objective of a classifier that has auxiliary classifiers, which only training knows.

    Parameters
    ----------
    heads : mapping of str to Layer
        The classifier, then the auxiliary ones; class scores, or their softmax.
    batch : mapping of str to Variable
        With ``images`` and ``labels``.
    training : bool
    weight : float
        What the loss of each auxiliary classifier counts beside that of the classifier.

    Returns
    -------
    Objective
        As of `theanompi.classification`, with the sum of the losses in training.
    """
    layers, labels = list(heads.values()), batch["labels"]
    outputs: list[Any] = get_output(layers if training else layers[:1], batch["images"])
    main, *sides = (classification(scores, labels) for scores in outputs)
    return main._replace(loss=main.loss + weight * sum(side.loss for side in sides))
