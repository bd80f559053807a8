"""The zoo: one file per network, each with its source and with defaults of its own.

A network is trained with ``modelfile="theanompi.models.vgg", modelclass="VGG16"``, or from a script or a cfg file of
Theano-MPI's under the name that it has there; ``models.vgg`` is found too, unless the user has a module of that name.
``tmlauncher models`` lists them.

Every class in `ZOO` has the attributes ``paper`` and ``architecture``: the arguments for the function ``build_model``
of its module, which gives the layers by name, by default of the size that the paper has.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

from theanompi.config import ConfigError, RunConfig, closest, got, resolve

ZOO = (
    "alex_net:AlexNet",
    "one_tower:AlexNetOneTower",
    "googlenet:GoogLeNet",
    "googlenet_bn:GoogLeNetBN",
    "vgg:VGG11",
    "vgg:VGG13",
    "vgg:VGG16",
    "vgg:VGG19",
    "cifar10:Cifar10_model",
    "nin:NIN",
    "resnet:ResNet18",
    "resnet:ResNet34",
    "resnet50:ResNet50",
    "resnet:ResNet101",
    "resnet:ResNet152",
    "resnet_cifar:ResNetCifar",
    "wide_resnet:Wide_ResNet",
    "densenet:DenseNet121",
    "densenet:DenseNet169",
    "densenet:DenseNet201",
    "densenet:DenseNetCifar",
    "inception_v3:InceptionV3",
    "lstm:LSTM",
    "language_model:LanguageModel",
    "lsgan:LSGAN",
    "wgan:WGAN",
    "wgan:WGAN_GP",
)
"""Module and class of each network, in the order of the list."""


class Card(NamedTuple):
    """What the list says of a network.

    Attributes
    ----------
    module, cls : str
        Where it is.
    parameters : int
        The trainable ones' values, auxiliary classifiers included.
    multiply_adds : int
        Of the convolutions and dense layers in one forward pass of one item, auxiliary classifiers included.
    input : str
        The shape of one item.
    defaults : str
        How a run trains it that sets nothing.
    paper : str
    layers : list of (str, str, int)
        Name, shape of one item's output and number of parameters' values of each.
    """

    module: str
    cls: str
    parameters: int
    multiply_adds: int
    input: str
    defaults: str
    paper: str
    layers: list[tuple[str, str, int]]


def describe(where: str) -> Card:
    """Build a network of the zoo, with nothing but zeros for weights, and count.

    Parameters
    ----------
    where : str
        One of `ZOO`.

    Examples
    --------
    >>> card = describe("nin:NIN")
    >>> card.parameters, card.multiply_adds, card.input
    (966986, 222486528, '3 × 32 × 32')
    """
    from theanompi.lasagne.layers import InputLayer, get_all_layers

    module, _, name = where.partition(":")
    made = import_module(f"{__name__}.{module}")
    cls = getattr(made, name)
    with _without_weights():
        net: Mapping[str, Any] = made.build_model(**cls.architecture)
    layers = get_all_layers(list(net.values()))
    source = next(layer for layer in layers if isinstance(layer, InputLayer))
    counts = [sum(math.prod(p.type.shape) for p in layer.get_params(trainable=True)) for layer in layers]
    shapes = [" × ".join(map(str, layer.output_shape[1:])) for layer in layers]
    return Card(
        module=f"{__name__}.{module}",
        cls=name,
        parameters=sum(counts),
        multiply_adds=sum(_multiply_adds(layer) for layer in layers),
        input=" × ".join(map(str, source.output_shape[1:])),
        defaults=_recipe(cls),
        paper=cls.paper,
        layers=[(str(layer.name), *row) for layer, *row in zip(layers, shapes, counts, strict=True)],
    )


def listing(names: Sequence[str] = (), width: int = 100) -> str:
    """Describe networks of the zoo, in lines.

    Parameters
    ----------
    names : sequence of str
        Classes, or MODULE:CLASS as it is in the list; each is described with all of its layers. Without any, all
        networks are, without layers.
    width : int
        The most characters of a line.

    Raises
    ------
    ConfigError
        For an unknown name, with the closest known one.
    """
    known = {where.partition(":")[2]: where for where in ZOO}
    classes = [name.rpartition(":")[2] for name in names]
    for name, cls in zip(names, classes, strict=True):
        if cls not in known or not f".{__name__}.{known[cls]}".endswith(f".{name}") and name != cls:
            raise ConfigError(f"model: expected one of the zoo, got {got(name)}{closest(cls, known)}")
    lines = []
    for where in [known[cls] for cls in classes] or ZOO:
        card = describe(where)
        size = (
            f"{card.parameters:,} parameters, {card.multiply_adds / 1e6:,.0f} M multiply-adds, {card.input}"
        )
        lines += [f"{card.module}:{card.cls}"]
        for text in (size, card.defaults, card.paper):
            lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="        ")
        if names:
            widths = [max(len(str(row[i])) for row in card.layers) for i in (0, 1)]
            lines += [
                f"    {layer:<{widths[0]}}  {shape:<{widths[1]}}  {count:>12,}"
                for layer, shape, count in card.layers
            ]
    return "\n".join(lines)


def _recipe(cls: Any) -> str:
    """What a run with a class's defaults does, in a line."""
    run = resolve(RunConfig(data="other.h5"), cls.defaults, model=cls.__name__)
    assert run.decay_epochs
    epochs = [f"{epoch:g}" for epoch in run.decay_epochs]
    if len(epochs) > 6:
        epochs = [*epochs[:3], "…", epochs[-1]]
    falls = f"× {run.decay_factor:g} at {', '.join(epochs)}" if run.schedule == "steps" else run.schedule
    momentum = f" {run.momentum:g}, {'Nesterov' if run.nesterov else 'plain'}" * (run.optimizer == "momentum")
    packaged = f"; {cls.defaults['data']} where no data are given" if "data" in cls.defaults else ""
    return (
        f"{run.epochs} epochs, {run.batch_size} items per worker, rate {run.base_lr:g} for {run.base_batch}, {falls}; "
        f"{run.optimizer}{momentum}; weight decay {run.weight_decay:g}{packaged}"
    )


def _multiply_adds(layer: Any) -> int:
    from theanompi.lasagne import layers as known

    if isinstance(layer, known.TransposedConv2DLayer | known.TransposedConv3DLayer):
        positions = layer.input_shape[2:]
    elif isinstance(layer, known.BaseConvLayer | known.NINLayer):
        positions = layer.output_shape[2:]
    elif isinstance(layer, known.DenseLayer):
        positions = layer.output_shape[1 : layer.num_leading_axes]
    elif isinstance(layer, known.LSTMLayer):
        weights = sum(
            math.prod(p.type.shape) for p in layer.get_params() if p.ndim == 2 and p.type.shape[0] > 1
        )
        return weights * layer.output_shape[1]
    else:
        return 0
    return math.prod(layer.W.type.shape) * math.prod(positions)


@contextmanager
def _without_weights() -> Iterator[None]:
    """Initial weights are all zero meanwhile, which costs no time."""
    import numpy as np

    from theanompi.lasagne.random import get_rng, set_rng

    def zeros(*args: Any, size: Any) -> Any:
        return np.broadcast_to(np.float32(0), size)

    generator = type("Zeros", (np.random.Generator,), {"normal": zeros, "uniform": zeros})
    before = get_rng()
    set_rng(generator(np.random.PCG64(0)))
    try:
        yield
    finally:
        set_rng(before)


def __getattr__(name: str) -> Any:
    """A class of the zoo, under the name that scripts of Theano-MPI have for it: ``theanompi.models.AlexNet``."""
    for module, cls in (where.split(":") for where in ZOO):
        if cls == name:
            return getattr(import_module(f"{__name__}.{module}"), cls)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
