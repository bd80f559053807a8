"""What a run will do, in words, before it begins."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from theanompi.config import RunConfig, counted, flat, resolve
from theanompi.config.recipes import RECIPES
from theanompi.training.optimizers import Optimizer
from theanompi.training.schedules import Schedule

_EMA = "e becomes d·e + (1 - d)·w in each update, with (1 + t)/(10 + t) for d while that is less"


def plan(
    run: RunConfig,
    schedule: Schedule,
    optimizers: Mapping[str, Optimizer],
    *,
    workers: int,
    n_train: int,
    parameters: Sequence[tuple[str, tuple[int, ...], bool]],
    bias_rate: float = 1.0,
    noun: str = "images",
) -> str:
    """Describe what a run will do, as a table to read before it starts.

    Parameters
    ----------
    run : RunConfig
        Resolved.
    schedule : Schedule
        Its own.
    optimizers : mapping of str to Optimizer
        By what is said of each objective, where there are several.
    workers : int
        k.
    n_train : int
        Training items in the data set.
    parameters : sequence of (name, shape, decayed)
        Every trainable parameter.
    bias_rate : float
        What the rate is multiplied by for biases.
    noun : str
        What several items are called.

    Returns
    -------
    str
        Lines without a newline at the end, of any length.

    Examples
    --------
    >>> from theanompi.config import RunConfig, resolve
    >>> from theanompi.training.optimizers.momentum import Momentum
    >>> from theanompi.training.schedules.steps import Steps
    >>> schedule = Steps(minibatch=512, iterations_per_epoch=20, epochs=9, decay_epochs=(6,))
    >>> parameters = [("fc.W", (64, 10), True), ("fc.b", (10,), False)]
    >>> run = resolve(RunConfig(batch_size=32, accumulation=2))
    >>> text = plan(run, schedule, {"loss": Momentum(run)}, workers=8, n_train=10_000, parameters=parameters)
    >>> print(text.splitlines()[3])
    learning rate   0.2, linearly from 0.1 for 256 images
    """
    assert run.batch_size
    batch_size, shards = run.batch_size, run.accumulation * workers
    epochs, k = counted(schedule.epochs, "epoch"), counted(workers, "worker")
    trailing = n_train // batch_size % shards * batch_size
    last = f"; each epoch's last has {trailing:,} {noun}" * (trailing > 0)
    weight_decays = list(dict.fromkeys(optimizer.weight_decay for optimizer in optimizers.values()))
    rows = [
        ("recipe", recipe_words(run, schedule)),
        ("minibatch", f"{schedule.minibatch:,} {noun}: k = {k} · n = {batch_size} · A = {run.accumulation}"),
        (
            "",
            f"the summed loss is divided by n only: {shards:,} times the mean"
            * (run.normalization == "worker"),
        ),
        ("iterations", f"{schedule.iterations:,}: {epochs} of T = {schedule.iterations_per_epoch:,}{last}"),
        ("left out", _left_out(n_train, batch_size, shards, run.shuffle, noun)),
        ("learning rate", _scaling(schedule, noun)),
        ("", f"biases: {bias_rate:g} times as much" * (bias_rate != 1)),
        ("warmup", _warmup(schedule, noun)),
        ("decay", schedule.words()),
        *_optimizers(optimizers),
        ("weight decay", ", ".join(f"{value:g}" for value in weight_decays)),
        *(("", line) for line in _decay(parameters, max(weight_decays))),
        (
            "erased",
            f"a box of {run.random_erasing:.4g} of all {noun}, in training only" * (run.random_erasing > 0),
        ),
        ("mixed", _mixing(run, noun)),
        ("labels", f"smoothed by {run.label_smoothing:g}, in training only" * (run.label_smoothing > 0)),
        ("average", f"of the weights, d = {run.ema:g}, which counts: {_EMA}" * (run.ema > 0)),
    ]
    # Several objectives may be updated at rates and in iterations of their own, which the phases do not show.
    correction = next(iter(optimizers.values())).correction if len(optimizers) == 1 else None
    phases = _phases(schedule, correction)
    return "\n".join([*(f"{name:<16}{text}" for name, text in rows if text), "", *phases])


def recipe_words(run: RunConfig, schedule: Schedule) -> str:
    """What the plan says of a resolved run's recipe: its source, its rate here, and what is otherwise.

    Empty without one.
    """
    if run.recipe is None:
        return ""
    recipe, settings = RECIPES[run.recipe], flat(run.to_dict())
    own = flat(resolve(RunConfig(recipe=run.recipe, epochs=run.epochs)).to_dict())
    others = ["epochs"] * (run.epochs != recipe.settings["epochs"])
    others += [name for name in flat(recipe.settings) if settings.get(name) != own.get(name)]
    there = own["base_lr"] * recipe.minibatch / own["base_batch"]
    words = f"{run.recipe}: {recipe.source}; rate {there:g} for {recipe.minibatch:,} images, here {schedule.target:.4g}"
    words += f"; this run has its own {', '.join(others)}" * bool(others)
    return words + f"; {recipe.left_out}" * bool(recipe.left_out)


def _mixing(run: RunConfig, noun: str) -> str:
    ways = " or ".join(
        f"{name}, α = {alpha:g}" for name, alpha in (("mixup", run.mixup), ("cutmix", run.cutmix)) if alpha
    )
    if not ways:
        return ""
    return f"{noun} of one worker's n, in training only: {ways}; training errors are of the label of the larger share"


def _optimizers(optimizers: Mapping[str, Optimizer]) -> list[tuple[str, str]]:
    """A row for each, with the objective where there are several."""
    if len(optimizers) == 1:
        return [(optimizer.label, optimizer.words()) for optimizer in optimizers.values()]
    rows: list[tuple[str, str]] = []
    for name, optimizer in optimizers.items():
        label = "" if optimizer.label == Optimizer.label else f"{optimizer.label} "
        rows.append(("" if rows else "objectives", f"{name}: {label}{optimizer.words()}"))
    return rows


def _left_out(n_train: int, batch_size: int, shards: int, shuffle: str, noun: str) -> str:
    units, rest = divmod(n_train, batch_size)
    if shuffle == "global":
        return f"{rest:,} of {n_train:,} {noun} per epoch" + (", other ones in each" if rest else "")
    # Each worker sees this share of them, independently of what the others see.
    share = units * batch_size / shards / n_train
    return (
        f"about {n_train * (1 - share) ** shards:,.0f} of {n_train:,} {noun} per epoch: each of the {shards:,} workers "
        "shuffles all of them by itself"
    )


def _scaling(schedule: Schedule, noun: str) -> str:
    if schedule.scaling == "none":
        return f"{schedule.target:.4g}, not scaled"
    how = "linearly" if schedule.scaling == "linear" else "by the square root"
    if schedule.scaled == "loss":
        factor = schedule.loss_scale(schedule.warmup_iterations)
        return (
            f"{schedule.base_lr:g}, not scaled; instead the loss, without its weight decay, is multiplied by "
            f"{factor:.4g}, {how} for {schedule.minibatch:,} {noun}"
        )
    return f"{schedule.target:.4g}, {how} from {schedule.base_lr:g} for {schedule.base_batch:,} {noun}"


def _warmup(schedule: Schedule, noun: str) -> str:
    if schedule.warmup == "none":
        return "none"
    if schedule.minibatch <= schedule.base_batch:
        return f"none: the minibatch is not above {schedule.base_batch:,} {noun}"
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
            text = f"{counted(len(chosen), 'parameter')} ({sum(size for _, size in chosen):,} values) "
            lines.append(f"{text}{verb}: {_compact([name for name, _ in chosen])}")
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


def _phases(schedule: Schedule, correction: str | None) -> list[str]:
    """η, s where the loss is scaled, and what v is multiplied by, one row from each jump to the next."""
    bounds = sorted({0, *schedule.jumps, schedule.iterations})
    columns = ["epochs", "iterations", "learning rate η"]
    if schedule.scaled == "loss":
        columns.append("factor of the loss")
    if correction is not None:
        columns.append("momentum correction")
    rows = [columns]
    for start, stop in pairwise(bound for bound in bounds if bound <= schedule.iterations):
        epochs = [f"{bound / schedule.iterations_per_epoch:.4g}" for bound in (start, stop)]
        row = [" – ".join(epochs), f"{start:,} – {stop:,}", _range(schedule(start), schedule(stop - 1))]
        if schedule.scaled == "loss":
            row.append(_range(schedule.loss_scale(start), schedule.loss_scale(stop - 1)))
        if correction is not None:
            row.append(_corrections(schedule, start, stop) if correction == "applied" else correction)
        rows.append(row)
    widths = [max(map(len, column)) + 3 for column in zip(*rows, strict=True)]
    return [
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _range(first: float, last: float) -> str:
    return " … ".join(dict.fromkeys((f"{first:.4g}", f"{last:.4g}")))


def _corrections(schedule: Schedule, start: int, stop: int) -> str:
    """What v is multiplied by at the first update of a phase, and at those after it if the rate changes."""
    first, last = schedule(start), schedule(stop - 1)
    text = f"{first / schedule(max(start - 1, 0)):.4g}"
    if first != last:
        text += f", then {_range(schedule(start + 1) / first, last / schedule(stop - 2))}"
    return text
