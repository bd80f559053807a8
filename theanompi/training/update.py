"""The whole weight update as a graph: the rate of an iteration, clipping, and the optimizer's step."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add, mul
from typing import NamedTuple

import pytensor
import pytensor.tensor as pt
from pytensor.tensor.sharedvar import TensorSharedVariable
from pytensor.tensor.variable import TensorVariable

from theanompi.config import ConfigError, Named, got, listed
from theanompi.training.objective import refuse_generators
from theanompi.training.optimizers import Optimizer, Rates
from theanompi.training.scalars import double, scalar
from theanompi.training.schedules import Schedule


class Group(NamedTuple):
    """Parameters that are updated alike: many in flat vectors, or one where the optimizer goes by tensor.

    Parameters
    ----------
    w, g : TensorSharedVariable
        Weights and summed gradient, float32 and of one shape.
    slots : mapping of str to TensorSharedVariable
        What the optimizer keeps, by its names, of the same shape.
    decayed : bool
        Whether λ applies.
    rate : float
        What the rate is multiplied by for them.
    average : TensorSharedVariable, optional
        Their exponential moving average, of the same shape.
    """

    w: TensorSharedVariable
    g: TensorSharedVariable
    slots: Mapping[str, TensorSharedVariable]
    decayed: bool
    rate: float = 1.0
    average: TensorSharedVariable | None = None


def ema(
    average: TensorVariable, new: TensorVariable, updates: TensorVariable, decay: float
) -> TensorVariable:
    """Move an exponential moving average towards new values: e ← e + (1 − d)·(w − e).

    d is `decay`, or (1 + t)/(10 + t) after t updates while that is less, so that a short run's average is not one of
    its initial weights: that of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.

    Parameters
    ----------
    average, new : TensorVariable
        e and w, of one shape.
    updates : int64 scalar
        t.

    Examples
    --------
    >>> e, w, t = pt.fvector(), pt.fvector(), pt.lscalar()
    >>> step = pytensor.function([e, w, t], ema(e, w, t, 0.75), mode="FAST_COMPILE")
    >>> [round(float(step([0.0], [8.0], t)[0]), 6) for t in (0, 8, 10**6)]
    [7.2, 4.0, 2.0]
    """
    t = double(updates)
    share = 1 - pt.minimum(double(decay), (1 + t) / (10 + t))
    return average + scalar(share, average) * (new - average)


def update_graph(
    groups: Sequence[Group],
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    t: TensorSharedVariable,
    last_eta: TensorSharedVariable,
    made: TensorSharedVariable | None = None,
    scalars: Mapping[str, TensorSharedVariable] | None = None,
    every: int = 1,
    rate: float = 1.0,
    factor: TensorVariable | None = None,
    clip_norm: float | None = None,
    decay: float = 0.0,
) -> tuple[TensorVariable, list[tuple[TensorSharedVariable, TensorVariable]]]:
    """Make the whole weight update one graph: nothing on the host sets a learning rate.

    The gradient is multiplied by `factor` and by s_t where the schedule scales the loss, then clipped. All of that is
    one scalar that meets each array once.

    Parameters
    ----------
    groups : sequence of Group
        Every parameter belongs to exactly one.
    optimizer : Optimizer
        If it is `by_tensor`, there is a group for each parameter that decays.
    schedule : Schedule
        Gives η_t, and s_t where the loss is scaled.
    t : TensorSharedVariable
        The updates that were made before, an int64 scalar; it is part of the updates. The schedule goes by it.
    made : TensorSharedVariable, optional
        How many updates the weights and slots have had, if others make some too: an int64 scalar, part of the updates.
        The optimizer goes by it.
    last_eta : TensorSharedVariable
        η of the last update, which a velocity may hold, a float64 scalar; it is part of the updates, and read from
        the second one on. Where a run is resumed at another rate, the schedule does not know it.
    scalars : mapping of str to TensorSharedVariable, optional
        float64, by the names in the optimizer's `scalars`, if it has any.
    every : int
        Iterations of the run for each update: update t is made at the end of the run's iteration
        (t + 1)·every - 1, whose rate it has.
    rate : float
        What that rate is multiplied by.
    factor : float32 scalar, optional
        What the summed gradients are multiplied by first; by default nothing.
    clip_norm : float, optional
        The largest norm of the gradient over all groups, its weight decay left out; a longer one is shortened to it.
    decay : float
        d of the groups' averages: see `ema`.

    Returns
    -------
    eta : TensorVariable
        η of this update, a float64 scalar, to be an output of the compiled function.
    updates : list of (TensorSharedVariable, TensorVariable)
        t ← t + 1, η, and new weights, slots, averages and scalars.

    Examples
    --------
    >>> import numpy as np, pytensor
    >>> from theanompi.config import RunConfig, resolve
    >>> from theanompi.training.optimizers.momentum import Momentum
    >>> from theanompi.training.schedules.steps import Steps
    >>> w, v, g = (pytensor.shared(np.full(2, x, "float32")) for x in (1.0, 0.0, 0.5))
    >>> t, last_eta = pytensor.shared(np.int64(0)), pytensor.shared(np.float64(0))
    >>> groups = [Group(w, g, {"velocity": v}, decayed=False)]
    >>> momentum, steps = Momentum(resolve(RunConfig(nesterov=False))), Steps(minibatch=256, iterations_per_epoch=10)
    >>> eta, updates = update_graph(groups, momentum, steps, t=t, last_eta=last_eta)
    >>> float(pytensor.function([], eta, updates=updates)())
    0.1
    >>> [round(x, 6) for x in w.get_value().tolist()], int(t.get_value()), float(last_eta.get_value())
    ([0.95, 0.95], 1, 0.1)
    """
    iteration = t if every == 1 else (t + 1) * every - 1
    eta = schedule.symbolic(iteration)
    if rate != 1:
        eta = double(rate) * eta
    before = t if made is None else made
    rates = Rates(before, eta, pt.switch(pt.eq(before, 0), eta, last_eta))
    factors = [] if factor is None else [double(factor)]
    if schedule.scaled == "loss":
        # Scaling the loss is scaling its gradient; here the decay has no part in it (P §3, remark 1).
        factors.append(schedule.symbolic_loss_scale(iteration))
    if clip_norm is not None:
        squares = reduce(add, (double(pt.sum(pt.sqr(group.g))) for group in groups))
        norm = reduce(mul, factors, pt.sqrt(squares))
        factors.append(double(clip_norm) / pt.maximum(norm, double(clip_norm)))
    kept = dict(scalars or {})
    updates = [(t, t + 1), (last_eta, eta), *([] if made is None else [(made, made + 1)])]
    for w, g, slots, decayed, own_rate, average in groups:
        own = rates
        if own_rate != 1:
            own = rates._replace(eta=double(own_rate) * rates.eta, eta_prev=double(own_rate) * rates.eta_prev)
        if factors:
            g = scalar(reduce(mul, factors), g) * g
        # A Python number in a step makes no float64 of the arrays.
        with pytensor.config.change_flags(floatX=w.type.dtype):
            made_of = optimizer.step(w, g, Named("slots", {**slots, **kept}), own, decayed=decayed)
        where, names = f"{type(optimizer).__name__}.step", [*slots, *kept]
        new_w, new_slots = made_of if isinstance(made_of, tuple) and len(made_of) == 2 else (made_of, None)
        if not isinstance(new_slots, Mapping) or not set(names) <= set(new_slots):
            there = listed(map(str, new_slots)) if isinstance(new_slots, Mapping) else got(made_of)
            raise ConfigError(
                f"{where}: expected new weights and a dict of new slots ({listed(names) or 'none'}), "
                f"got {there or 'none'}"
            )
        refuse_generators([new_w, *new_slots.values()], where, "rates.t")
        for name, new in {"the weights": new_w, **{k: new_slots[k] for k in slots}}.items():
            if new.type.dtype != w.type.dtype:
                raise ConfigError(
                    f"{where}: expected {w.type.dtype} for {name}, got {new.type.dtype}: "
                    'a rate is float64, and meets arrays as pt.cast(rates.eta, "float32")'
                )
        updates += [(w, new_w), *((slots[name], new_slots[name]) for name in slots)]
        if average is not None:
            updates.append((average, ema(average, new_w, before, decay)))
    # What all parameters share is the same after each of the steps.
    return eta, updates + [(variable, new_slots[name]) for name, variable in kept.items()]
