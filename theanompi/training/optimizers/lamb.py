"""LAMB: Adam with layer-wise adaptive rates for large minibatches."""

from dataclasses import dataclass

from pytensor.tensor.variable import TensorVariable

from theanompi.config.kinds import POSITIVE, SHARE
from theanompi.config.plugins import setting
from theanompi.training.optimizers.adam import Adam
from theanompi.training.optimizers.base import Rates, Slots, Stepped
from theanompi.training.optimizers.lars import norm, trust_ratio
from theanompi.training.scalars import double, scalar


class LAMB(Adam):
    """LAMB (You et al. 2020, arXiv 1904.00962, algorithm 2), with Adam's bias correction.

    r = m̂/(√v̂ + ε), as in :class:`theanompi.training.optimizers.adam.Adam` without a penalty, and
    w ← w - η·‖w‖/‖r + λ·w‖·(r + λ·w): the paper's φ is the identity. Taken as in the paper's implementation: a
    parameter that does not decay (biases, γ, β) moves by η·r, and where a norm is 0 their ratio is 1.
    """

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        beta1: float = setting(0.9, SHARE, "β1, of the average of gradients")
        beta2: float = setting(0.999, SHARE, "β2, of the average of their squares")
        epsilon: float = setting(1e-6, POSITIVE, "ε, added to the root of the average of squares")

    by_tensor = True

    def step(
        self, w: TensorVariable, g: TensorVariable, slots: Slots, rates: Rates, *, decayed: bool
    ) -> Stepped:
        if not decayed:
            step, new_slots = self.direction(g, slots, rates.t, rates.eta)
            return w - step, new_slots
        r, new_slots = self.direction(g, slots, rates.t, 1)
        r = self.penalised(w, r, decayed)
        r_norm = norm(r)
        rate = double(rates.eta) * trust_ratio(norm(w), r_norm, r_norm)
        return w - scalar(rate, w) * r, new_slots

    def words(self) -> str:
        return f"LAMB, {self.parameters()}"
