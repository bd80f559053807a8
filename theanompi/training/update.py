"""The update: momentum in its forms, weight decay, and the rate of an iteration, as a graph."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pytensor.tensor as pt
from pytensor.tensor.sharedvar import TensorSharedVariable
from pytensor.tensor.variable import TensorVariable

from theanompi.config import MOMENTUM_FORMS
from theanompi.training.schedule import Schedule, double


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

    The decay is added to the gradient, outside the normalised loss (P equation 8): g ← g + λ·w.

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

    # Scalars are combined in double precision before they meet the arrays: the update is bound by memory, and
    # each multiplication of an array may be one more pass over it.
    def scalar(x: Any) -> TensorVariable:
        return pt.cast(double(x), w.dtype)

    m, rate = scalar(momentum), scalar(eta)
    if weight_decay:
        g = g + scalar(weight_decay) * w
    if form == "u":
        new_u = m * v + g
        return w - rate * (g + m * new_u if nesterov else new_u), new_u
    step = rate * g
    correction = 1 if form == "uncorrected" else double(eta) / double(eta_prev)
    new_v = scalar(double(momentum) * correction) * v + step
    return w - (m * new_v + step if nesterov else new_v), new_v


class Group(NamedTuple):
    """Parameters that are updated alike.

    Weights, velocity and summed gradient are float32 and of one shape; `decayed` says whether λ applies.
    """

    w: TensorSharedVariable
    v: TensorSharedVariable
    g: TensorSharedVariable
    decayed: bool


def update_graph(
    groups: Iterable[Group],
    t: TensorSharedVariable,
    last_eta: TensorSharedVariable,
    schedule: Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    form: str = "v",
    nesterov: bool = True,
) -> tuple[TensorVariable, list[tuple[TensorSharedVariable, TensorVariable]]]:
    """Make the whole weight update one graph: nothing on the host sets a learning rate.

    Parameters
    ----------
    groups : iterable of Group
        Every parameter belongs to exactly one.
    t : TensorSharedVariable
        The iteration, an int64 scalar; it is part of the updates.
    last_eta : TensorSharedVariable
        η of the last update, which the velocity holds, a float64 scalar; it is part of the updates, and read from the
        second one on. Where a run is resumed at another rate, the schedule does not know it.
    schedule : Schedule
        Gives η_t, and s_t where the loss is scaled.
    momentum, weight_decay, form, nesterov
        As in `momentum_update`; only groups that are `decayed` have a λ.

    Returns
    -------
    eta : TensorVariable
        η_t of this update, a float64 scalar, to be an output of the compiled function.
    updates : list of (TensorSharedVariable, TensorVariable)
        New weights and velocities, t ← t + 1 and η.

    Examples
    --------
    >>> import numpy as np, pytensor
    >>> w, v, g = (pytensor.shared(np.full(2, x, "float32")) for x in (1.0, 0.0, 0.5))
    >>> t, last_eta = pytensor.shared(np.int64(0)), pytensor.shared(np.float64(0))
    >>> schedule = Schedule(minibatch=256, iterations_per_epoch=10)
    >>> eta, updates = update_graph([Group(w, v, g, decayed=False)], t, last_eta, schedule, nesterov=False)
    >>> float(pytensor.function([], eta, updates=updates)())
    0.1
    >>> [round(x, 6) for x in w.get_value().tolist()], int(t.get_value()), float(last_eta.get_value())
    ([0.95, 0.95], 1, 0.1)
    """
    eta = schedule.symbolic(t)
    eta_prev = pt.switch(pt.eq(t, 0), eta, last_eta)
    updates = [(t, t + 1), (last_eta, eta)]
    for w, v, g, decayed in groups:
        penalty = weight_decay if decayed else 0.0
        if schedule.scaled == "loss":
            # Scaling the loss is scaling its gradient; here the decay has no part in it (P §3, remark 1).
            g = pt.cast(schedule.symbolic_loss_scale(t), g.dtype) * g
        new_w, new_v = momentum_update(w, v, g, eta, eta_prev, momentum, penalty, form, nesterov)
        updates += [(w, new_w), (v, new_v)]
    return eta, updates
