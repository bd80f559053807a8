"""SGD with momentum, in its three forms."""

from pytensor.tensor.variable import TensorVariable

from theanompi.config import MOMENTUM_FORMS, RunConfig
from theanompi.training.optimizers.base import Optimizer, Rates, Slots, Stepped
from theanompi.training.scalars import double, scalar


def momentum_update(
    w: TensorVariable,
    v: TensorVariable,
    g: TensorVariable,
    eta: TensorVariable | float,
    eta_prev: TensorVariable | float,
    momentum: float,
    weight_decay: float,
    form: str,
    nesterov: bool,
) -> tuple[TensorVariable, TensorVariable]:
    """One step of SGD with momentum and weight decay, for arrays of one shape and dtype.

    P is Goyal et al. 2017, *Accurate, Large Minibatch SGD* (arXiv 1706.02677v2). The decay is added to the
    gradient, outside the normalised loss (P equation 8): g ← g + λ·w.

    v-form (P equation 10)
        v' = m·(η/η_prev)·v + η·g, and w' = w − v', or w − (m·v' + η·g) with Nesterov's momentum. The
        velocity holds the rate, so it is corrected when the rate changes (P §3, remark 2).
    uncorrected
        v' = m·v + η·g, else the v-form: what remark 2 warns of. It gives other weights as soon as the rate has
        changed.
    u-form (P equation 9)
        u' = m·u + g, and w' = w − η·u', or w − η·(g + m·u'). It needs no correction and gives the
        same weights.

    Parameters
    ----------
    w, v, g : TensorVariable
        Weights, velocity (v or u), and the gradient of the loss averaged over the whole minibatch.
    eta, eta_prev : scalar
        The rate of this iteration and of the one before it (of this one at the first).
    momentum, weight_decay : float
        m and λ; λ = 0 leaves the decay out of the graph.
    form : {"v", "u", "uncorrected"}
        What `v` holds, and whether it is corrected.
    nesterov : bool
        Nesterov's momentum, or plain.

    Returns
    -------
    new_w, new_v : TensorVariable
        Of the dtype of `w`.

    Raises
    ------
    ValueError
        For an unknown `form`.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> w, v, g = pt.fvectors("w", "v", "g")
    >>> new_w, new_v = momentum_update(w, v, g, 0.5, 0.25, 0.5, 0.0, form="v", nesterov=False)
    >>> new_v.eval({v: [1.0], g: [2.0]}).tolist()
    [2.0]
    >>> new_w.eval({w: [5.0], v: [1.0], g: [2.0]}).tolist()
    [3.0]
    """
    if form not in MOMENTUM_FORMS:
        raise ValueError(
            f"momentum_update: expected form to be one of {', '.join(MOMENTUM_FORMS)}, got {form!r}"
        )
    m, rate = scalar(momentum, w), scalar(eta, w)
    if weight_decay:
        g = g + scalar(weight_decay, w) * w
    if form == "u":
        new_u = m * v + g
        return w - rate * (g + m * new_u if nesterov else new_u), new_u
    step = rate * g
    correction = 1 if form == "uncorrected" else double(eta) / double(eta_prev)
    new_v = scalar(double(momentum) * correction, w) * v + step
    return w - (m * new_v + step if nesterov else new_v), new_v


class Momentum(Optimizer):
    """SGD with momentum and weight decay, as in Goyal et al. 2017: see :func:`momentum_update`."""

    slots = ("velocity",)
    label = "momentum"

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.momentum, self.form, self.nesterov = config.momentum, config.momentum_form, config.nesterov
        self.correction = {"v": "applied", "u": "not needed", "uncorrected": "left out"}[self.form]

    def step(
        self, w: TensorVariable, g: TensorVariable, slots: Slots, rates: Rates, *, decayed: bool
    ) -> Stepped:
        penalty = self.weight_decay if decayed else 0.0
        new_w, new_v = momentum_update(
            *(w, slots["velocity"], g, rates.eta, rates.eta_prev),
            *(self.momentum, penalty, self.form, self.nesterov),
        )
        return new_w, {"velocity": new_v}

    def words(self) -> str:
        held = {
            "v": "v-form: v is multiplied by η_t/η_(t-1)",
            "u": "u-form: u does not hold η and needs no correction",
            "uncorrected": "v-form, uncorrected: v is not multiplied by η_t/η_(t-1)",
        }[self.form]
        return f"{self.momentum:g}, {'Nesterov' if self.nesterov else 'plain'}, {held}"
