"""Wasserstein GANs: with clipped weights, and with a penalty on the critic's gradient.

M. Arjovsky, S. Chintala and L. Bottou, *Wasserstein GAN*, arXiv 1701.07875; I. Gulrajani et al., *Improved training of
Wasserstein GANs*, arXiv 1704.00028. The critic's estimate of the distance between the real pictures and those made is
reported as ``distance``: what falls, once the critic has found it, as the pictures become better.

The networks are Theano-MPI's. Its WGAN also trains the critic a hundred times for each of the first 25 updates of the
generator, and of every 500th: here it is always five times. The critic is updated in each iteration, the generator in
each fifth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.variable import TensorVariable

from theanompi import Objective
from theanompi.config import setting
from theanompi.config.kinds import POSITIVE, whole
from theanompi.device.ops import uniform
from theanompi.models.gans import GAN, build_model
from theanompi.training.optimizers import Optimizer, Rates, get_optimizer
from theanompi.training.optimizers.base import Slots, Stepped

__all__ = ["WGAN", "WGAN_GP", "build_model", "clipped"]


def clipped(optimizer: type[Optimizer], limit: float) -> type[Optimizer]:
    """Make an optimizer that clips weights to [-`limit`, `limit`] after each step.

    What does not decay, biases and the like, is not clipped.

    Parameters
    ----------
    optimizer : type of Optimizer
    limit : float
    """

    class Clipped(optimizer):  # type: ignore[misc,valid-type]
        def step(
            self, w: TensorVariable, g: TensorVariable, slots: Slots, rates: Rates, *, decayed: bool
        ) -> Stepped:
            new_w, new_slots = super().step(w, g, slots, rates, decayed=decayed)
            return pt.clip(new_w, -limit, limit) if decayed else new_w, new_slots

        def words(self) -> str:
            return f"{super().words()}, weights clipped to ±{limit:g}"

    return Clipped


class WGAN(GAN):
    """A Wasserstein GAN whose critic has its weights clipped, as the paper's algorithm 1 has it.

    Its losses are ``critic`` and ``generator``, its metric ``distance``.
    """

    @dataclass(frozen=True)
    class Settings(GAN.Settings):
        """What may be set."""

        critic_updates: int = setting(5, whole(1), "updates of the critic for each of the generator")
        clip: float = setting(0.01, POSITIVE, "limit of the critic's weights")

    architecture: ClassVar[Mapping[str, Any]] = {"biased_critic": False}
    paper: ClassVar[str] = "Arjovsky et al. 2017, arXiv 1701.07875"
    defaults: ClassVar[Mapping[str, Any]] = {
        "image_size": 28,
        "batch_size": 64,
        "epochs": 1000,
        "base_lr": 5e-5,
        "base_batch": 64,
        "scaling": "none",
        "schedule": "constant",
        "warmup": "none",
        "optimizer": "rmsprop",
        "weight_decay": 0.0,
    }

    def objectives(self, batch: Mapping[str, Variable], training: bool) -> list[Objective]:
        images, pictures = self.real(batch), self.made(batch["keys"])
        real, made = self.critic(images), self.critic(pictures)
        return [
            Objective(
                made - real + self.penalty(images, pictures, batch["keys"]),
                metrics={"distance": real - made},
                params=self.parameters("critic"),
                name="critic",
            ),
            Objective(
                -made,
                params=self.parameters("generator"),
                name="generator",
                every=self.settings.critic_updates,
            ),
        ]

    def penalty(self, real: Any, made: Any, keys: Variable) -> Any:
        """What is added to the critic's loss of each picture, (n,) or 0."""
        return 0

    def optimizer(self, objective: Objective) -> Optimizer:
        optimizer = get_optimizer(self.config.optimizer)
        if objective.name == "critic":
            optimizer = clipped(optimizer, self.settings.clip)
        return optimizer(self.config)


class WGAN_GP(WGAN):
    """A Wasserstein GAN with a penalty on the norm of the critic's gradient, as that paper's algorithm 1 has it.

    λ·(‖∇D(x̂)‖ − 1)², at a random point x̂ between each real picture and one that is made. Its critic has no batch
    normalisation, with which the gradient would not be one picture's own.
    """

    @dataclass(frozen=True)
    class Settings(GAN.Settings):
        """What may be set."""

        critic_updates: int = setting(5, whole(1), "updates of the critic for each of the generator")
        penalty: float = setting(10.0, POSITIVE, "λ, of the penalty")

    paper: ClassVar[str] = "Gulrajani et al. 2017, arXiv 1704.00028"
    architecture: ClassVar[Mapping[str, Any]] = {"normalized_critic": False, "biased_critic": False}
    defaults = {
        **WGAN.defaults,
        "base_lr": 1e-4,
        "optimizer": "adam",
        "settings": {"optimizer.beta1": 0.0, "optimizer.beta2": 0.9},
    }

    def penalty(self, real: Any, made: Any, keys: Variable) -> Any:
        share = uniform(keys, (1, 1, 1), salt=2)
        between = share * real + (1 - share) * made
        gradient = pt.grad(pt.sum(self.critic(between)), between)
        # A gradient of exactly 0 has a norm without a derivative.
        norm = pt.sqrt(pt.sum(pt.sqr(gradient), axis=(1, 2, 3)) + 1e-12)
        return self.settings.penalty * pt.sqr(norm - 1)

    def optimizer(self, objective: Objective) -> Optimizer:
        return get_optimizer(self.config.optimizer)(self.config)
