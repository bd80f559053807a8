"""Least squares GAN (Mao et al. 2017, *Least squares generative adversarial networks*, arXiv 1611.04076).

The critic wants 1 for real pictures and 0 for made ones, and the generator 1 for those it makes (the paper's equation
9). The networks are Theano-MPI's, which trains with a variant of RMSProp at a rate of 1e-4 that no paper has; here it
is the paper's Adam with β1 = 0.5, at the rate that it has for handwritten characters (§4.3).
"""

from collections.abc import Mapping
from typing import ClassVar

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi import Objective
from theanompi.models.gans import GAN, build_model

__all__ = ["LSGAN", "build_model"]


class LSGAN(GAN):
    """A GAN whose losses are squared errors: ``critic`` and ``generator``, updated in turn."""

    paper: ClassVar[str] = "Mao et al. 2017, arXiv 1611.04076"
    defaults = {
        "image_size": 28,
        "batch_size": 64,
        "epochs": 100,
        "base_lr": 2e-4,
        "base_batch": 64,
        "scaling": "none",
        "schedule": "constant",
        "warmup": "none",
        "optimizer": "adam",
        "settings": {"optimizer.beta1": 0.5},
        "weight_decay": 0.0,
    }

    def objectives(self, batch: Mapping[str, Variable], training: bool) -> list[Objective]:
        real, made = self.critic(self.real(batch)), self.critic(self.made(batch["keys"]))
        return [
            Objective(pt.sqr(real - 1) + pt.sqr(made), params=self.parameters("critic"), name="critic"),
            Objective(pt.sqr(made - 1), params=self.parameters("generator"), name="generator"),
        ]
