"""LARS: layer-wise adaptive rates for large minibatches."""

from dataclasses import dataclass

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from theanompi.config.kinds import POSITIVE
from theanompi.config.plugins import setting
from theanompi.training.optimizers.base import Rates, Slots, Stepped
from theanompi.training.optimizers.momentum import Momentum
from theanompi.training.scalars import double, scalar


class LARS(Momentum):
    """Momentum with a rate for each parameter (You et al. 2017, arXiv 1708.03888, algorithm 1).

    The gradient with its weight decay, g + λ·w, is multiplied by the local rate, trust·‖w‖/(‖g‖ + λ·‖w‖), then a step
    of momentum follows: see :func:`theanompi.training.optimizers.momentum.momentum_update`. Taken as in the paper's
    implementations: a parameter that does not decay (biases, γ, β) has no local rate, and where ‖w‖ or ‖g‖ is 0 it is
    1. The paper's momentum is plain (``nesterov=False``), and its velocity holds the rate without a correction
    (``momentum_form="uncorrected"``); with the default form it is corrected, as Goyal et al. 2017 demand.
    """

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        trust: float = setting(0.001, POSITIVE, "the local rate is this times ‖w‖/(‖g‖ + λ·‖w‖)")

    by_tensor = True
    label = "optimizer"

    def step(
        self, w: TensorVariable, g: TensorVariable, slots: Slots, rates: Rates, *, decayed: bool
    ) -> Stepped:
        if decayed:
            w_norm, g_norm = norm(w), norm(g)
            below = g_norm + double(self.weight_decay) * w_norm
            local = trust_ratio(double(self.settings.trust) * w_norm, below, g_norm)
            g = scalar(local, w) * self.penalised(w, g, decayed)
        return super().step(w, g, slots, rates, decayed=False)

    def words(self) -> str:
        return f"LARS, trust = {self.settings.trust:g}, momentum {super().words()}"


def norm(x: TensorVariable) -> TensorVariable:
    """‖x‖, the root of the sum of squares, as a float64 scalar."""
    return pt.sqrt(double(pt.sum(pt.sqr(x))))


def trust_ratio(above: TensorVariable, below: TensorVariable, other: TensorVariable) -> TensorVariable:
    """`above` / `below`, but 1 where `above` or `other` is 0: float64 scalars, from norms.

    >>> two, none = double(2.0), double(0.0)
    >>> trust_ratio(double(1.0), two, two).eval().item(), trust_ratio(none, two, two).eval().item()
    (0.5, 1.0)
    """
    known = pt.and_(pt.gt(above, 0), pt.gt(other, 0))
    return pt.switch(known, above / pt.switch(known, below, double(1)), double(1))
