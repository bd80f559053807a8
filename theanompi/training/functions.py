"""From objectives to the compiled functions of a worker: gradients and update of each, and validation.

The functions take no arguments: they read their batch from shared variables and leave gradients, statistics
and metrics in a flat buffer, which the exchange sums over the ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.type import discrete_dtypes

from theanompi import device
from theanompi.config import ConfigError
from theanompi.device import DeviceSharedVariable
from theanompi.training.objective import Objective
from theanompi.training.optimizers import Optimizer
from theanompi.training.schedules import Schedule
from theanompi.training.state import METRICS, State
from theanompi.training.update import Group, ema, update_graph


def gradient_function(
    objective: Objective,
    state: State,
    statistics: Mapping[Variable, Variable],
    *,
    shards: int,
    summed: bool,
    stop: DeviceSharedVariable,
    rank: int,
    accumulate: bool,
    mode: Any,
) -> Callable[[], object]:
    """Compile forward and backward of one batch.

    The function leaves in ``state.gradients`` the gradient of the weighted loss times 1 / (`shards` · items), the batch
    statistics times 1 / `shards`, and the sums of the metrics; or adds them to what is there. The update divides by the
    sum of the weights, which travels with the metrics: until then the numbers are those of a mean, so that 16 bits are
    enough for them. Not `summed`, the loss of the batch is divided by the batch's own weights.

    Parameters
    ----------
    statistics : mapping of running statistic to that of the batch
    shards : int
        A·k where gradients are summed over all ranks, else A.
    summed : bool
        Whether they are.
    stop : float32 scalar
        1 where this rank was asked to stop, else 0; travels with the metrics.
    rank : int
        Which of the per-rank losses is this one's.
    accumulate : bool
        Add instead of write.
    mode : pytensor mode
    """
    loss, weight = objective.loss, objective.weight
    n, share = np.float32(loss.type.shape[0]), np.float32(1 / shards)
    weighted = loss if weight is None else weight * loss
    cost = pt.sum(weighted)
    total = cost
    counted = pt.constant(n) if weight is None else pt.sum(weight)
    if summed or weight is None:
        cost = cost * (share / n)
    else:
        cost = cost * (share / pt.switch(pt.gt(counted, 0), counted, np.float32(1)))
    # As in get_output, what is not of our layers included.
    with pytensor.config.change_flags(floatX="float32"):
        gradients = pytensor.grad(
            cost, state.parameters, disconnected_inputs="ignore", return_disconnected="none"
        )
    # Of what whole numbers alone depend on, as an argmax, PyTensor gives zeros.
    whole = [v for v in ancestors([cost]) if getattr(v.type, "dtype", None) in discrete_dtypes]
    reached = set(ancestors([cost], blockers=whole))
    idle = [
        str(p.name) for p, g in zip(state.parameters, gradients, strict=True) if g is None or p not in reached
    ]
    if idle:
        raise ConfigError(
            f"objective {objective.name}: expected each parameter to take part in its loss, got "
            f"{', '.join(idle)[:100]}, which do not, or by whole numbers alone, which have no gradient"
        )
    values = dict(zip(state.parameters, gradients, strict=True))
    values |= {s: statistics[s] * share for s in state.statistics}
    measured = [pt.sum(m if weight is None else weight * m) for m in objective.metrics.values()]
    sums = pt.stack([counted, total, *measured, np.float32(1), stop])
    n_ranks = state.gradients.views[METRICS].numel() - state.n_sums - 2
    per_rank = pt.concatenate(
        [np.zeros(rank, "float32"), total[None], np.zeros(n_ranks - 1 - rank, "float32")]
    )
    updates = []
    for target, value in [*values.items(), (None, pt.concatenate([sums, per_rank]))]:
        name = METRICS if target is None else str(target.name)
        store = device.shared(state.gradients.views[name], name)
        updates.append((store, store + value if accumulate else value))
    return device.direct(pytensor.function([], [], updates=updates, mode=mode))


def update_function(
    objective: Objective,
    state: State,
    optimizer: Optimizer,
    schedule: Schedule,
    alphas: Mapping[DeviceSharedVariable, float],
    *,
    shards: int,
    summed: bool,
    normalization: str,
    clip_norm: float | None,
    bias_rate: float,
    decay: float,
    mode: Any,
) -> Callable[[], Any]:
    """Compile the whole update: it reads ``state.gradients`` and gives η (Goyal et al. 2017, equations 9 and 10).

    Running statistics move towards the mean over the minibatch's batches by each layer's `alpha`; those of a worker
    that had no batch stay where they are.

    Parameters
    ----------
    objective, state, shards, summed
        As for `gradient_function`.
    alphas : mapping of running statistic to float
    normalization : {"minibatch", "worker"}
        Whether summed losses are divided by all weights, or by those of one worker's batch.
    clip_norm : float or None
        The largest global norm of the gradient.
    bias_rate : float
        What the rate is multiplied by for parameters that do not decay.
    decay : float
        d of the state's `average`, if it has one: see `theanompi.training.update.ema`.
    mode : pytensor mode
    """
    metrics = device.shared(state.gradients.views[METRICS], METRICS)
    batches = metrics[state.n_sums]
    factor = None
    if summed:
        full = float(shards * objective.loss.type.shape[0])
        all_weights = pt.cast(metrics[0], "float64")
        factor = pt.cast(
            pt.switch(pt.gt(all_weights, 0), np.float64(full) / all_weights, np.float64(0)), "float32"
        )
        if normalization == "worker":
            factor = pt.constant(np.float32(shards))
    groups = [
        Group(
            w=state.slice(state.weights, variables, "weights"),
            g=state.slice(state.gradients, variables, "gradients"),
            slots={name: state.slice(buffer, variables, name) for name, buffer in state.slots.items()},
            decayed=decayed,
            rate=1.0 if decayed else bias_rate,
            average=None if state.average is None else state.slice(state.average, variables, "average"),
        )
        for variables, decayed in parameter_groups(state, by_tensor=optimizer.by_tensor)
    ]
    eta, updates = update_graph(
        groups,
        optimizer,
        schedule,
        t=state.iteration,
        last_eta=state.last_eta,
        made=state.made,
        every=objective.every,
        rate=objective.rate,
        scalars=state.scalars,
        factor=factor,
        clip_norm=clip_norm,
        decay=decay,
    )
    if state.statistics:
        alpha = np.concatenate(
            [np.full(s.type.shape, alphas[s], "float32").ravel() for s in state.statistics]
        )
        running = state.slice(state.weights, state.statistics, "statistics")
        batch = state.slice(state.gradients, state.statistics, "batch statistics")
        if summed:
            towards = batch * (np.float32(shards) / batches) - running
        else:
            idle = np.float32(1) - batches * np.float32(1 / shards)
            towards = batch + idle * running - running
        moved = running + alpha * towards
        updates.append((running, moved))
        if state.average is not None:
            average = state.slice(state.average, state.statistics, "average statistics")
            updates.append((average, ema(average, moved, state.made, decay)))
    step = device.direct(pytensor.function([], eta, updates=updates, mode=mode))
    return lambda: step()[0]


def parameter_groups(state: State, *, by_tensor: bool) -> list[tuple[list[DeviceSharedVariable], bool]]:
    """Which parameters are updated as one vector: as many as decay alike, or each of those that decay by itself."""
    decayed = [[p] for p in state.decayed] if by_tensor else [state.decayed]
    return [(ps, True) for ps in decayed if ps] + [(ps, False) for ps in [state.undecayed] if ps]


def validation_function(
    objectives: Sequence[Objective],
    weights: Variable,
    sums: DeviceSharedVariable,
    mode: Any,
    *,
    instead: Mapping[DeviceSharedVariable, DeviceSharedVariable],
) -> Callable[[], object]:
    """Compile the validation of one batch.

    Parameters
    ----------
    objectives : sequence of Objective
        As they are in validation.
    weights : float32 vector (n,)
        1, or 0 for the padding of the last batch.
    sums : DeviceSharedVariable, float64 vector
        The function puts the batch's items there, and for each loss, then for each metric, its weighted sum and the sum
        of the weights.
    mode : pytensor mode
    instead : mapping of DeviceSharedVariable to DeviceSharedVariable
        What is read in the place of parameters and running statistics.
    """
    n = weights.type.shape[0]
    items = pt.sum(pt.cast(weights, "float64"))
    losses, metrics = [], []
    for objective in objectives:
        times = objective.loss.type.shape[0] // n
        weight = weights if times == 1 else pt.repeat(weights, times)
        if objective.weight is not None:
            weight = weight * objective.weight
        counted = pt.sum(pt.cast(weight, "float64"))
        losses += [pt.sum(pt.cast(weight * objective.loss, "float64")), counted]
        for values in objective.metrics.values():
            metrics += [pt.sum(pt.cast(weight * values, "float64")), counted]
    new = [items, *losses, *metrics]
    return device.direct(
        pytensor.function([], [], updates=[(sums, pt.stack(new))], givens=instead, mode=mode)
    )
