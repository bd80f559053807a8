"""The training recipe: learning-rate schedule, momentum-corrected update, and the printed plan of a run.

Everything follows P = Goyal et al. 2017, *Accurate, Large Minibatch SGD* (arXiv 1706.02677v2). A
minibatch is A·k·n images: n per worker, k workers, A accumulation steps. Iterations t count weight
updates from 0.

Examples
--------
P's largest run without loss of accuracy, 256 workers with 32 images each:

>>> schedule = Schedule(minibatch=8192, iterations_per_epoch=157)
>>> schedule.target
3.2
>>> [round(schedule(epoch * 157), 6) for epoch in (0, 2, 5, 30, 60, 80)]
[0.1, 1.34, 3.2, 0.32, 0.032, 0.0032]
"""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.sharedvar import TensorSharedVariable
from pytensor.tensor.variable import TensorVariable

from theanompi.config import MOMENTUM_FORMS, SCALED, SCALINGS, WARMUPS


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate η_t at each iteration t (P §2.1, §2.2, §5.1); the defaults are P's.

    Parameters
    ----------
    minibatch : int
        A·k·n, the images of one weight update.
    iterations_per_epoch : int
        T, the weight updates of one epoch.
    epochs : int
        Length of the run; iterations past its end keep the last rate.
    base_lr : float
        The reference rate, right for `base_batch` images.
    base_batch : int
        The minibatch that `base_lr` belongs to.
    scaling : {"linear", "sqrt", "none"}
        η̂ = base_lr times r, √r or 1, where r = minibatch / base_batch.
    warmup : {"gradual", "constant", "none"}
        How η̂ is reached from `base_lr`, when minibatch > base_batch: by a constant increment each
        iteration, by one jump at the end of `warmup_epochs`, or at once. A smaller minibatch starts at η̂.
    scaled : {"rate", "loss"}
        What `scaling` and `warmup` multiply. With "loss", which P's remark 1 warns of (§3), the rate is
        `base_lr`, decayed, and the loss is multiplied by s_t (`loss_scale`) before λ·w is added to its gradient.
    warmup_epochs : float
        Length of the warmup.
    decay_epochs : tuple of float
        Where the rate is multiplied by `decay_factor`. Epochs are turned into iterations by round(epoch·T).
    decay_factor : float
        Factor of each step decay.

    Raises
    ------
    ValueError
        When a value is out of its range; the message names it.

    Examples
    --------
    >>> round(Schedule(minibatch=8192, iterations_per_epoch=157, scaling="sqrt").target, 6)
    0.565685
    >>> Schedule(minibatch=0, iterations_per_epoch=157)
    Traceback (most recent call last):
    ValueError: schedule: expected minibatch of at least 1, got 0
    """

    minibatch: int
    iterations_per_epoch: int
    epochs: int = 90
    base_lr: float = 0.1
    base_batch: int = 256
    scaling: str = "linear"
    warmup: str = "gradual"
    scaled: str = "rate"
    warmup_epochs: float = 5
    decay_epochs: tuple[float, ...] = (30, 60, 80)
    decay_factor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("minibatch", "iterations_per_epoch", "epochs", "base_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule: expected {name} of at least 1, got {getattr(self, name)!r}")
        for name in ("base_lr", "decay_factor"):
            # the momentum correction divides by the rate
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"schedule: expected {name} above 0, got {getattr(self, name)!r}")
        for name, epochs in [("warmup_epochs", (self.warmup_epochs,)), ("decay_epochs", self.decay_epochs)]:
            if not all(0 <= epoch < math.inf for epoch in epochs):
                raise ValueError(f"schedule: expected {name} of at least 0, got {getattr(self, name)!r}")
        for name, known in [("scaling", SCALINGS), ("warmup", WARMUPS), ("scaled", SCALED)]:
            if getattr(self, name) not in known:
                raise ValueError(
                    f"schedule: expected {name} to be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )

    @property
    def target(self) -> float:
        """η̂, the rate after the warmup."""
        ratio = self.minibatch / self.base_batch
        return self.base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.scaling]

    @property
    def iterations(self) -> int:
        """Weight updates in the whole run."""
        return self.epochs * self.iterations_per_epoch

    @property
    def warmup_iterations(self) -> int:
        """Weight updates with a rate below η̂; 0 without warmup."""
        if self.warmup == "none" or self.minibatch <= self.base_batch:
            return 0
        return round(self.warmup_epochs * self.iterations_per_epoch)

    @property
    def increment(self) -> float:
        """What each iteration of the warmup adds to the rate; 0 when it is constant or there is none."""
        if self.warmup != "gradual" or self.warmup_iterations == 0:
            return 0.0
        return (self.target - self.base_lr) / self.warmup_iterations

    @property
    def decay_iterations(self) -> tuple[int, ...]:
        """The iterations at which the rate is decayed, in order."""
        return tuple(sorted(round(epoch * self.iterations_per_epoch) for epoch in self.decay_epochs))

    def __call__(self, t: int) -> float:
        """η_t for iteration t ≥ 0, in double precision.

        >>> Schedule(minibatch=512, iterations_per_epoch=100, warmup="constant")(499)
        0.1
        """
        eta = self.base_lr if self.scaled == "loss" else self._undecayed(t)
        for start in self.decay_iterations:
            if t >= start:
                eta *= self.decay_factor
        return eta

    def loss_scale(self, t: int) -> float:
        """s_t, what the loss is multiplied by: 1, or where the loss is scaled, what η_t would be multiplied by.

        >>> Schedule(minibatch=512, iterations_per_epoch=100, scaled="loss").loss_scale(500)
        2.0
        """
        return self._undecayed(t) / self.base_lr if self.scaled == "loss" else 1.0

    def _undecayed(self, t: int) -> float:
        return self.base_lr + self.increment * t if t < self.warmup_iterations else self.target

    def symbolic(self, t: TensorVariable) -> TensorVariable:
        """η_t as a graph: the same function of `t` (int64 scalar) as a float64 scalar.

        >>> t = pt.lscalar("t")
        >>> float(Schedule(minibatch=512, iterations_per_epoch=100).symbolic(t).eval({t: 250}))
        0.15
        """
        eta = _double(self.base_lr) if self.scaled == "loss" else self._symbolic_undecayed(t)
        for start in self.decay_iterations:
            eta = pt.switch(pt.ge(t, start), eta * _double(self.decay_factor), eta)
        return eta

    def symbolic_loss_scale(self, t: TensorVariable) -> TensorVariable:
        """s_t as a graph, a float64 scalar like `symbolic`.

        >>> t = pt.lscalar("t")
        >>> schedule = Schedule(minibatch=512, iterations_per_epoch=100, scaled="loss")
        >>> float(schedule.symbolic_loss_scale(t).eval({t: 500}))
        2.0
        """
        return self._symbolic_undecayed(t) / _double(self.base_lr) if self.scaled == "loss" else _double(1)

    def _symbolic_undecayed(self, t: TensorVariable) -> TensorVariable:
        eta = _double(self.target)
        if self.warmup_iterations:
            rising = _double(self.base_lr) + _double(self.increment) * t
            eta = pt.switch(pt.lt(t, self.warmup_iterations), rising, eta)
        return eta


def _double(x: Any) -> TensorVariable:
    """`x` as a float64 scalar: PyTensor gives a Python float the dtype of its setting floatX."""
    return pt.as_tensor_variable(np.float64(x) if isinstance(x, float | int) else x)


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
        return pt.cast(_double(x), w.dtype)

    m, rate = scalar(momentum), scalar(eta)
    if weight_decay:
        g = g + scalar(weight_decay) * w
    if form == "u":
        new_u = m * v + g
        return w - rate * (g + m * new_u if nesterov else new_u), new_u
    step = rate * g
    correction = 1 if form == "uncorrected" else _double(eta) / _double(eta_prev)
    new_v = scalar(_double(momentum) * correction) * v + step
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


def plan(
    schedule: Schedule,
    *,
    workers: int,
    batch_size: int,
    accumulation: int,
    n_train: int,
    parameters: Sequence[tuple[str, tuple[int, ...], bool]],
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    form: str = "v",
    nesterov: bool = True,
    normalization: str = "minibatch",
    shuffle: str = "global",
) -> str:
    """Describe what a run will do, as a table to read before it starts.

    Parameters
    ----------
    schedule : Schedule
        Of the run.
    workers, batch_size, accumulation : int
        k, n and A.
    n_train : int
        Training images in the data set.
    parameters : sequence of (name, shape, decayed)
        Every trainable parameter.
    momentum, weight_decay, form, nesterov
        As in `update_graph`.
    normalization : {"minibatch", "worker"}
        What the summed loss is divided by: A·k·n or n.
    shuffle : {"global", "worker"}
        As in `theanompi.data.Sampler`.

    Returns
    -------
    str
        Lines without a newline at the end.

    Raises
    ------
    ValueError
        When `schedule` is not of this minibatch or this many iterations per epoch.

    Examples
    --------
    >>> schedule = Schedule(minibatch=512, iterations_per_epoch=20, epochs=9, decay_epochs=(6,))
    >>> parameters = [("fc.W", (64, 10), True), ("fc.b", (10,), False)]
    >>> text = plan(
    ...     schedule, workers=8, batch_size=32, accumulation=2, n_train=10_000, parameters=parameters
    ... )
    >>> print(text.splitlines()[3])
    learning rate   0.2, linearly from 0.1 for 256 images
    """
    shards = accumulation * workers
    units = n_train // batch_size
    for name, expected in [("minibatch", shards * batch_size), ("iterations_per_epoch", -(-units // shards))]:
        if getattr(schedule, name) != expected:
            raise ValueError(
                f"plan: expected the schedule's {name} to be {expected:,} (k = {workers}, n = {batch_size}, "
                f"A = {accumulation}, {n_train:,} images), got {getattr(schedule, name):,}"
            )
    trailing = units % shards * batch_size
    iterations = f"{schedule.iterations:,}: {schedule.epochs} epochs of T = {schedule.iterations_per_epoch:,}"
    held = {
        "v": "v-form: v is multiplied by η_t/η_(t-1)",
        "u": "u-form: u does not hold η and needs no correction",
        "uncorrected": "v-form, uncorrected: v is not multiplied by η_t/η_(t-1)",
    }[form]
    rows = [
        (
            "minibatch",
            f"{schedule.minibatch:,} images: k = {workers} workers · n = {batch_size} · A = {accumulation}",
        ),
        *(
            [("", f"the summed loss is divided by n only: {shards:,} times the mean")]
            * (normalization == "worker")
        ),
        ("iterations", iterations + (f"; each epoch's last has {trailing:,} images" if trailing else "")),
        ("left out", _left_out(n_train, batch_size, shards, shuffle)),
        ("learning rate", _scaling(schedule)),
        ("warmup", _warmup(schedule)),
        ("momentum", f"{momentum:g}, {'Nesterov' if nesterov else 'plain'}, {held}"),
        ("weight decay", f"{weight_decay:g}"),
        *(("", line) for line in _decay(parameters, weight_decay)),
    ]
    return "\n".join([*(f"{name:<16}{text}" for name, text in rows), "", *_phases(schedule, form)])


def _left_out(n_train: int, batch_size: int, shards: int, shuffle: str) -> str:
    units, rest = divmod(n_train, batch_size)
    if shuffle == "global":
        return f"{rest:,} of {n_train:,} images per epoch" + (", other ones in each" if rest else "")
    # Each worker sees this share of the images, independently of what the others see.
    share = units * batch_size / shards / n_train
    return (
        f"about {n_train * (1 - share) ** shards:,.0f} of {n_train:,} images per epoch: each of the {shards:,} workers "
        "shuffles all of them by itself"
    )


def _scaling(schedule: Schedule) -> str:
    if schedule.scaling == "none":
        return f"{schedule.target:.4g}, not scaled"
    how = "linearly" if schedule.scaling == "linear" else "by the square root"
    if schedule.scaled == "loss":
        factor = schedule.loss_scale(schedule.warmup_iterations)
        return (
            f"{schedule.base_lr:g}, not scaled; instead the loss, without its weight decay, is multiplied by "
            f"{factor:.4g}, {how} for {schedule.minibatch:,} images"
        )
    return f"{schedule.target:.4g}, {how} from {schedule.base_lr:g} for {schedule.base_batch:,} images"


def _warmup(schedule: Schedule) -> str:
    if schedule.warmup == "none":
        return "none"
    if schedule.minibatch <= schedule.base_batch:
        return f"none: the minibatch is not above {schedule.base_batch:,} images"
    if not schedule.warmup_iterations:
        return "none: it would last 0 iterations"
    unit, what = (schedule.base_lr, " times the loss") if schedule.scaled == "loss" else (1.0, "")
    how = (
        f"+{schedule.increment / unit:.4g} each iteration"
        if schedule.warmup == "gradual"
        else "in one jump at its end"
    )
    return f"{schedule.warmup}, {schedule.base_lr / unit:g} to {schedule.target / unit:.4g}{what}, {how}"


def _decay(parameters: Sequence[tuple[str, tuple[int, ...], bool]], weight_decay: float) -> list[str]:
    lines = []
    for flag, verb in [(True, "decay"), (False, "do not decay")]:
        chosen = [
            (name, math.prod(shape))
            for name, shape, decayed in parameters
            if (decayed and weight_decay > 0) == flag
        ]
        if chosen:
            text = f"{len(chosen):,} parameters ({sum(size for _, size in chosen):,} values) {verb}: "
            lines += textwrap.wrap(text + _compact([name for name, _ in chosen]), 90, subsequent_indent="  ")
    return lines


def _compact(names: Sequence[str]) -> str:
    """Join names that are alike up to the first digit and from the last dot on: ``res*.W (52), fc.W``."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        layer, dot, kind = name.rpartition(".")
        groups.setdefault((re.split(r"\d", layer)[0], dot + kind), []).append(name)
    return ", ".join(
        group[0] if len(group) == 1 else f"{stem}*{kind} ({len(group)})"
        for (stem, kind), group in groups.items()
    )


def _phases(schedule: Schedule, form: str) -> list[str]:
    """η, s where the loss is scaled, and what v is multiplied by, one row from each jump to the next."""
    bounds = sorted({0, schedule.warmup_iterations, *schedule.decay_iterations, schedule.iterations})
    scales = schedule.scaled == "loss"
    rows = [
        (
            "epochs",
            "iterations",
            "learning rate η",
            *(["factor of the loss"] if scales else []),
            "momentum correction",
        )
    ]
    for start, stop in pairwise(bound for bound in bounds if bound <= schedule.iterations):
        first, last = schedule(start), schedule(stop - 1)
        correction = {"u": "not needed", "uncorrected": "left out"}.get(form)
        if correction is None:
            correction = f"{first / schedule(max(start - 1, 0)):.4g}"
            if first != last:
                correction += f", then {schedule(start + 1) / first:.4g} … {last / schedule(stop - 2):.4g}"
        factor = _range(schedule.loss_scale(start), schedule.loss_scale(stop - 1))
        epochs = [f"{bound / schedule.iterations_per_epoch:.4g}" for bound in (start, stop)]
        rows.append(
            (
                " – ".join(epochs),
                f"{start:,} – {stop:,}",
                _range(first, last),
                *([factor] if scales else []),
                correction,
            )
        )
    widths = [max(map(len, column)) + 3 for column in zip(*rows, strict=True)]
    return [
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _range(first: float, last: float) -> str:
    return f"{first:.4g}" if first == last else f"{first:.4g} … {last:.4g}"
