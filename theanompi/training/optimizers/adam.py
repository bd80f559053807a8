"""Adam, with L2 regularisation or decoupled weight decay."""

from dataclasses import dataclass
from typing import Any

import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from theanompi.config.kinds import POSITIVE, SHARE
from theanompi.config.plugins import setting
from theanompi.training.optimizers.base import Optimizer, Rates, Slots, Stepped
from theanompi.training.scalars import double, scalar


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1), with λ·w added to the gradient.

    m ← β1·m + (1 - β1)·g, v ← β2·v + (1 - β2)·g², w ← w - η·m̂/(√v̂ + ε), where m̂ = m/(1 - β1^t),
    v̂ = v/(1 - β2^t), and t counts from 1. ε is added to the corrected root, as in the algorithm and in torch;
    ``lasagne.adam`` has the form at the end of the paper's section 2, which adds it to the uncorrected one.
    """

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        beta1: float = setting(0.9, SHARE, "β1, of the average of gradients")
        beta2: float = setting(0.999, SHARE, "β2, of the average of their squares")
        epsilon: float = setting(1e-8, POSITIVE, "ε, added to the root of the average of squares")

    slots = ("m", "v")

    def step(
        self, w: TensorVariable, g: TensorVariable, slots: Slots, rates: Rates, *, decayed: bool
    ) -> Stepped:
        step, new_slots = self.direction(self.penalised(w, g, decayed), slots, rates.t, rates.eta)
        return w - step, new_slots

    def direction(self, g: TensorVariable, slots: Slots, t: TensorVariable, rate: Any) -> Stepped:
        """`rate` times m̂/(√v̂ + ε) after `t` updates before this one, and the next m and v."""
        own, count = self.settings, double(t + 1)
        b1, b2 = double(own.beta1), double(own.beta2)
        m = scalar(b1, g) * slots["m"] + scalar(1 - b1, g) * g
        v = scalar(b2, g) * slots["v"] + scalar(1 - b2, g) * pt.sqr(g)
        root = pt.sqrt(v) * scalar(1 / pt.sqrt(1 - b2**count), g) + scalar(own.epsilon, g)
        return scalar(double(rate) / (1 - b1**count), g) * m / root, {"m": m, "v": v}

    def words(self) -> str:
        return f"Adam, {self.parameters()}, weight decay as part of the gradient"

    def parameters(self) -> str:
        """The settings, for the plan."""
        own = self.settings
        return f"β1 = {own.beta1:g}, β2 = {own.beta2:g}, ε = {own.epsilon:g}"


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2).

    The gradient has no part of the penalty; instead w ← (1 - η·λ)·w before Adam's step. Their rate is a product
    of a fixed α and a schedule's η_t, and only η_t multiplies their λ; here, as in torch, the whole rate does.
    """

    def step(
        self, w: TensorVariable, g: TensorVariable, slots: Slots, rates: Rates, *, decayed: bool
    ) -> Stepped:
        step, new_slots = self.direction(g, slots, rates.t, rates.eta)
        if decayed and self.weight_decay:
            w = scalar(1 - double(rates.eta) * double(self.weight_decay), w) * w
        return w - step, new_slots

    def words(self) -> str:
        return f"AdamW, {self.parameters()}, weight decay beside the gradient"
