"""What Theano-MPI's scripts and cfg files say, or leave to its models, and what stands in its place here."""

INSTEAD = {("exchange", name): "shm adds up inside of a machine first" for name in ("copper", "copper16")}
"""By setting and value, what is said of it besides what the setting may be."""

_DATA = {
    "ImageNet (tmpack ilsvrc packs it)": ("alex_net", "googlenet", "resnet", "resnet50", "vgg"),
    "CIFAR-10 (tmpack cifar10 packs it)": ("cifar10", "wide_resnet"),
    "MNIST (tmpack mnist packs it)": ("lsgan", "wgan"),
    "IMDB (tmpack imdb packs it)": ("lstm",),
}
DATA = {f"theanompi.models.{module}": data for data, modules in _DATA.items() for module in modules}
"""By the module of a network of the zoo, what Theano-MPI's own read, wherever it had been put."""


def instead(name: str, value: object) -> str:
    """Return ``"; …"``, what stands in the place of a value of Theano-MPI's, or nothing.

    >>> instead("exchange", "copper")
    '; shm adds up inside of a machine first'
    >>> instead("rule", "BPS")
    ''
    """
    words = INSTEAD.get((name, value)) if isinstance(value, str) else None
    return f"; {words}" if words else ""
