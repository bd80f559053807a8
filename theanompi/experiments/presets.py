"""The recipes and scales that experiments name."""

from typing import Any, NamedTuple

THEIR_WAY: dict[str, Any] = {
    "sync_type": "cdd",
    "scaling": "linear",
    "warmup": "gradual",
    "momentum_form": "v",
    "zero_gamma": True,
    "shuffle": "global",
    "scaled": "rate",
    "normalization": "minibatch",
}
MY_WAY: dict[str, Any] = {"sync_type": "avg", "scaling": "none", "warmup": "none", "zero_gamma": False}
PRESETS: dict[str, dict[str, Any]] = {
    "their_way": THEIR_WAY,
    "my_way": MY_WAY,
    "my_way_scaled": MY_WAY | {"scaling": "linear"},
    # One ingredient at a time taken out.
    "their_way_without_scaling": THEIR_WAY | {"scaling": "none"},
    "their_way_without_warmup": THEIR_WAY | {"warmup": "none"},
    "their_way_without_zero_gamma": THEIR_WAY | {"zero_gamma": False},
    "their_way_without_gradient_sum": THEIR_WAY | {"sync_type": "avg"},
    # The four pitfalls.
    "their_way_without_unscaled_decay": THEIR_WAY | {"scaled": "loss"},
    "their_way_without_correction": THEIR_WAY | {"momentum_form": "uncorrected"},
    "their_way_without_normalization": THEIR_WAY | {"normalization": "worker"},
    "their_way_without_global_shuffle": THEIR_WAY | {"shuffle": "worker"},
}
"""What an arm's ``preset`` stands for: Goyal et al. 2017 (arXiv 1706.02677), or Theano-MPI before it."""


class Scale(NamedTuple):
    """The same question at another size: settings of a run, its device, and ranks that simulate the workers.

    `simulate` is None where each worker is a rank.
    """

    settings: dict[str, Any]
    device: str
    simulate: int | None


GLYPHS = "runs/glyphs.h5"
"""The data set of the small scale, made when it is missing."""
SCALES: dict[str, Scale] = {
    "imagenet": Scale(
        {
            "data": "imagenet.h5",
            "modelfile": "models.resnet50",
            "modelclass": "ResNet50",
            "image_size": 224,
            "batch_size": 32,
            "base_lr": 0.1,
            "base_batch": 256,
            "epochs": 90,
        },
        device="auto",
        simulate=None,
    ),
    "small": Scale(
        {
            "data": GLYPHS,
            "modelfile": "models.resnet_cifar",
            "modelclass": "ResNetCifar",
            "image_size": 32,
            "batch_size": 16,
            # Twice the rate of He et al. 2016 (arXiv 1512.03385) for CIFAR, 0.1 for 128.
            "base_lr": 0.025,
            "base_batch": 16,
            "epochs": 10,
        },
        device="cpu",
        simulate=1,
    ),
    # What the file of the experiment says, and the defaults of its model.
    "own": Scale({}, device="auto", simulate=None),
}
