"""What the generative adversarial networks of the zoo share: their two networks.

The networks are those of Theano-MPI's (``theanompi/models/lasagne_model_zoo/lsgan.py`` and ``wgan.py``, after programs
by J. Schlüter), which are DCGAN's (Radford et al. 2016, arXiv 1511.06434) for small pictures.

``python -m theanompi.models.samples RUN -o samples.png`` makes a picture of what a generator has learnt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi import Model
from theanompi.config import ConfigError, setting
from theanompi.config.kinds import whole
from theanompi.data import Dataset
from theanompi.device.ops import uniform
from theanompi.lasagne.init import Constant
from theanompi.lasagne.layers import (
    Conv2DLayer,
    DenseLayer,
    InputLayer,
    Layer,
    ReshapeLayer,
    TransposedConv2DLayer,
    batch_norm,
    get_all_params,
    get_output,
)
from theanompi.lasagne.nonlinearities import LeakyRectify, sigmoid
from theanompi.models.parts import Net


def build_model(
    input_shape: tuple[int | None, int, int, int] = (None, 1, 28, 28),
    *,
    noise: int = 100,
    width: int = 64,
    hidden: int = 1024,
    normalized_critic: bool = True,
    biased_critic: bool = True,
) -> Net:
    """Build a generator and a critic.

    The generator has two dense layers and two transposed convolutions of 5 × 5 with stride 2, the critic two
    convolutions and two dense layers; both with batch normalisation before each nonlinearity but the last.

    Parameters
    ----------
    input_shape : (n or None, channels, height, width)
        Height and width are multiples of 4.
    noise : int
        Random numbers of which a picture is made.
    width : int
        Filters where pictures have half their size; where they have a quarter, there are twice as many.
    hidden : int
        Units of the widest dense layer.
    normalized_critic : bool
        Without it the critic has no batch normalisation.
    biased_critic : bool
        Whether its last layer has a bias, which is of no use where only differences count.

    Returns
    -------
    dict of str to Layer
        ``"noise"`` and ``"images"``, the inputs; ``"generator"``, pictures from 0 to 1, and ``"critic"``, of shape
        (n, 1).

    Raises
    ------
    ConfigError
        For another height or width.

    Examples
    --------
    >>> net = build_model()
    >>> net["generator"].output_shape, net["critic"].output_shape
    ((None, 1, 28, 28), (None, 1))
    """
    n, channels, height, breadth = input_shape
    if height % 4 or breadth % 4:
        raise ConfigError(
            f"image_size: expected a multiple of 4 for this generator, got {height} × {breadth} pixels"
        )
    net: Net = {"images": InputLayer(input_shape, name="images")}
    net["noise"] = InputLayer((n, noise), pt.fmatrix("noise"), name="noise")
    top = batch_norm(DenseLayer(net["noise"], hidden, name="generator1"))
    top = batch_norm(DenseLayer(top, 2 * width * (height // 4) * (breadth // 4), name="generator2"))
    top = ReshapeLayer(top, ([0], 2 * width, height // 4, breadth // 4), name="generator2_map")
    half = (height // 2, breadth // 2)
    top = batch_norm(
        TransposedConv2DLayer(top, width, 5, stride=2, crop="same", output_size=half, name="generator3")
    )
    net["generator"] = TransposedConv2DLayer(
        top,
        channels,
        5,
        stride=2,
        crop="same",
        output_size=(height, breadth),
        nonlinearity=sigmoid,
        name="generator4",
    )

    def normalized(layer: Layer) -> Layer:
        return batch_norm(layer) if normalized_critic else layer

    leaky = LeakyRectify(0.2)
    top = net["images"]
    for i, filters in enumerate((width, 2 * width), 1):
        convolution = Conv2DLayer(
            top, filters, 5, stride=2, pad="same", nonlinearity=leaky, name=f"critic{i}"
        )
        top = normalized(convolution)
    top = normalized(DenseLayer(top, hidden, nonlinearity=leaky, name="critic3"))
    bias = Constant(0.0) if biased_critic else None
    net["critic"] = DenseLayer(top, 1, b=bias, nonlinearity=None, name="critic4")
    return net


class GAN(Model):
    """A generator and a critic of pictures; a subclass says what each of them makes small.

    Pictures are from 0 to 1, real ones as well.
    """

    paper: ClassVar[str]
    architecture: ClassVar[Mapping[str, Any]] = {}
    network: Net
    dataset: Dataset

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        noise: int = setting(100, whole(1), "random numbers of which a picture is made")
        width: int = setting(64, whole(1), "filters where pictures have half their size")
        hidden: int = setting(1024, whole(1), "units of the widest dense layer")

    def build(self, batch: Mapping[str, Variable]) -> Net:
        own = {name: getattr(self.settings, name) for name in ("noise", "width", "hidden")}
        return build_model(batch["images"].type.shape, **{**own, **self.architecture})

    def real(self, batch: Mapping[str, Variable]) -> Any:
        """The pictures of a batch as the generator makes them, from 0 to 1: (n, channels, height, width)."""
        mean, std = (
            values.astype("float32")[None, :, None, None] for values in (self.dataset.mean, self.dataset.std)
        )
        return batch["images"] * std + mean

    def made(self, keys: Variable, **keywords: Any) -> Any:
        """Pictures of noise that depends on `keys`, int64 (n,), alone."""
        noise = uniform(keys, (self.settings.noise,), salt=1)
        return get_output(self.network["generator"], {self.network["noise"]: noise}, **keywords)

    def critic(self, images: Any) -> Any:
        """What the critic says of pictures, (n,)."""
        return get_output(self.network["critic"], {self.network["images"]: images})[:, 0]

    def parameters(self, name: str) -> list[Any]:
        """The trainable parameters of ``"generator"`` or ``"critic"``."""
        return get_all_params(self.network[name], trainable=True)
