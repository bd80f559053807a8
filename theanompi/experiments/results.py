"""What the runs of an experiment say: their figures, those of a cell (an arm at a worker count), and differences.

Everything is read from the folder that ``tmlauncher compare`` fills: ``experiment.json``, and for each run
``config.json``, ``log.jsonl`` and, where it did not end well, the last line of ``output.txt``. The metric is the
headline of the runs, ``error`` unless their ``config.json`` names another one, and the same in all of them. Fractions
are in per cent, their differences in percentage points; others are as they are.

The rules, chosen before any result was seen:

- A run's figure is the median of the metric in the validations of its last five epochs, or of all when it has fewer.
- A cell's figure is the mean of its finished runs' and their sample standard deviation. Diverged runs are counted
  beside it: a figure that does not exist cannot be averaged, and leaving such runs out unsaid would flatter.
- Two cells are compared seed by seed, by the mean of the differences with a 95 % interval from Student's t. Only
  seeds whose run is complete (finished or diverged) on both sides count. Two equal differences have no interval: where
  a figure is a count of some hundred items, two are often equal by chance.
- A run that diverged is worse than any that did not. So a cell that diverges in seeds in which the other one does
  not, and never the other way round, is worse, and no difference in points is given: that over the other seeds
  would leave the worst out. When each diverges where the other does not, nothing can be told. Seeds in which
  both diverge tell nothing; the others decide.
- A claim that two cells do not differ (``~``) has a margin: it agrees where the 95 % interval lies within it, does not
  agree where the interval lies outside, and cannot be told otherwise. That no difference is seen is not enough.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from theanompi.config import ConfigError, RunConfig, counted, got, listed, read_defaults, resolve, shortened
from theanompi.config.files import read_bytes
from theanompi.experiments.statistics import Cell, Curve, Difference, Run, difference
from theanompi.record.folder import CONFIG_FILE, LOG_FILE, read_json
from theanompi.record.log import read_log
from theanompi.record.metrics import CLASSIFIER, is_fraction, reported

EXPERIMENT_FILE = "experiment.json"
OUTPUT_FILE = "output.txt"
CLAIM = re.compile(r"\s*(\S{1,100})@(\d{1,9})\s*([~<>])\s*(\S{1,100})@(\d{1,9})\s*")
"""Arm, worker count and relation of a claim, and what it is held against: "none@64 > gradual@64"."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Names that make a folder."""
MARGIN = 0.5
"""Points by which two cells may differ and still agree, where the experiment does not state another margin."""


def read_run(folder: Path, seed: int) -> Run:
    """Read what there is of a run.

    Parameters
    ----------
    folder : Path
        The run's folder, which need not exist.
    seed : int

    Raises
    ------
    ValueError
        If the log or ``config.json`` is damaged, or a validation does not have the metric.
    """
    log = folder / LOG_FILE
    if not os.path.exists(log):
        return Run(seed, "missing", reason=_last_line(folder / OUTPUT_FILE))
    records = read_log(log)
    config = read_json(folder / CONFIG_FILE) if os.path.exists(folder / CONFIG_FILE) else {}
    versions = config.get("versions", {})
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise ConfigError(
            f"{folder / CONFIG_FILE}: versions: expected a text for each package, got {got(versions)}"
        )
    about = reported(config, str(folder / CONFIG_FILE))
    metric = about.headline
    scale = 100.0 if is_fraction(metric) else 1.0
    validations = [r for r in records if r["kind"] == "val"]
    for record in validations:
        if record.get(metric) is None:
            found = "null" if metric in record else "none"
            raise ValueError(
                f"log {log}: expected a number as {got(metric)} in each validation, got {found} in epoch "
                f"{record['epoch'] + 1}"
            )
    validation = {record["epoch"] + 1: scale * record[metric] for record in validations}
    train = _train_curve((r for r in records if r["kind"] == "train"), metric, scale)
    last: dict[str, Any] = records[-1] if records else {"kind": "none"}
    state, reason, epoch = "unfinished", "", max(validation, default=0)
    if last["kind"] == "diverged":
        state, reason, epoch = "diverged", last["reason"], last["epoch"] + 1
    elif last["kind"] == "summary" and validation and _every_epoch(validation, config):
        state = "finished"
    else:
        reason = _last_line(folder / OUTPUT_FILE)
    times = {r["epoch"] + 1: float(r["virtual_s"]) for r in validations if "virtual_s" in r}
    stale = tuple(last.get("staleness", ())) if last["kind"] == "summary" else ()
    return Run(seed, state, train, validation, reason, epoch, versions, metric, about.noun, times, stale)


def _every_epoch(validation: Curve, config: Mapping[str, Any]) -> bool:
    """Whether no validation is missing, as after a loss of power."""
    epochs = config.get("epochs")
    return type(epochs) is not int or len(validation) == epochs


def _train_curve(records: Iterable[Mapping[str, Any]], metric: str, scale: float) -> Curve:
    """A metric by epoch, each line counted with its items."""
    sums: dict[int, float] = {}
    items: dict[int, int] = {}
    for record in records:
        value, count = record.get(metric), record["items"]
        if value is not None and count:
            epoch = record["epoch"] + 1
            sums[epoch] = sums.get(epoch, 0.0) + float(value) * count
            items[epoch] = items.get(epoch, 0) + count
    # In this order: the same roundings as ever.
    return {epoch: scale * sums[epoch] / items[epoch] for epoch in sums}


def _last_line(path: Path) -> str:
    try:
        lines = read_bytes(path).decode(errors="replace").split("\n")
    except OSError:
        return ""
    # A progress bar writes over its line again and again.
    return next((text for line in reversed(lines) if (text := line.rsplit("\r", 1)[-1].strip())), "")


def _defaults(arm: Path) -> dict[str, Any]:
    """What the class of an arm's model has defaults for, as its runs have written it down."""
    for path in sorted(arm.glob(f"*-workers/seed-*/{CONFIG_FILE}")):
        return read_defaults(read_json(path).get("defaults", {}), CONFIG_FILE)
    return {}


class Claim(NamedTuple):
    """What an experiment says beforehand: the figure of one cell is larger (>), smaller (<) or no other (~).

    `result` is "agrees", "does not agree" or "cannot be told"; `margin` that of "~", None with other relations, or
    where none is stated for a metric that is no fraction.
    """

    text: str
    relation: str
    difference: Difference
    result: str
    margin: float | None = None


@dataclass(frozen=True)
class Results:
    """All that is known of an experiment.

    Attributes
    ----------
    name, question, scale : str
    seeds : tuple of int
    simulate : int or None
        Ranks of each run; None where there were as many as workers.
    arms : dict of str to dict
        The resolved settings of each arm.
    cells : tuple of Cell
        By arm, and by worker count in it.
    claims : tuple of str
    machine : dict
    flags : tuple of str
        Of ``tmlauncher compare``, besides those for scale, seeds and ranks.
    clock : bool
        Whether the workers were simulated on a virtual clock.
    margin : float or None
        By which two cells may differ and still agree, in points or the metric's unit; None for `MARGIN` points.
    """

    name: str
    question: str
    scale: str
    seeds: tuple[int, ...]
    simulate: int | None
    arms: dict[str, dict[str, Any]]
    cells: tuple[Cell, ...]
    claims: tuple[str, ...]
    machine: dict[str, Any]
    flags: tuple[str, ...] = ()
    clock: bool = False
    margin: float | None = None

    def alike(self) -> list[tuple[Cell, ...]]:
        """Cells of the same number of workers and the same clock, whose times can be held against each other."""
        found: dict[Any, list[Cell]] = {}
        for cell in sorted(self.cells, key=lambda cell: cell.workers):
            own = self.arms[cell.arm]["settings"]
            clock = tuple(sorted((k, v) for k, v in own.items() if k.startswith("clock.")))
            if any(run.times for run in cell.runs):
                found.setdefault((cell.workers, clock), []).append(cell)
        return [tuple(cells) for cells in found.values()]

    @property
    def metric(self) -> str:
        """Name of the metric: that of any run that there is."""
        return next((run.metric for run in self._runs if run.state != "missing"), CLASSIFIER.headline)

    @property
    def noun(self) -> str:
        """What its items are called, in the plural."""
        return next((run.noun for run in self._runs if run.state != "missing"), CLASSIFIER.noun)

    @property
    def _runs(self) -> Iterator[Run]:
        return (run for cell in self.cells for run in cell.runs)

    @property
    def workers(self) -> list[int]:
        """Every worker count, ascending."""
        return sorted({cell.workers for cell in self.cells})

    def cell(self, arm: str, workers: int) -> Cell | None:
        """Return a cell, or None where the arm was not run with so many workers."""
        return next((c for c in self.cells if (c.arm, c.workers) == (arm, workers)), None)

    def across_workers(self) -> list[Difference]:
        """Each arm's larger worker counts against its smallest."""
        groups = [[c for c in self.cells if c.arm == arm] for arm in self.arms]
        return [difference(cell, group[0]) for group in groups for cell in group[1:]]

    def across_arms(self) -> list[Difference]:
        """For each worker count, every arm against the first that was run with it."""
        groups = [[c for c in self.cells if c.workers == k] for k in self.workers]
        return [difference(cell, group[0]) for group in groups for cell in group[1:]]

    def judge(self, claim: str) -> Claim:
        """Hold a claim, such as "gradual@64 ~ baseline@8", against the runs.

        Raises
        ------
        ConfigError
            If it is not of that form, or names a cell that there is not.
        """
        match = CLAIM.fullmatch(claim)
        cells = match and (self.cell(match[1], int(match[2])), self.cell(match[4], int(match[5])))
        if not match or not cells or cells[0] is None or cells[1] is None:
            known = listed(f"{c.arm}@{c.workers}" for c in self.cells)
            raise ConfigError(f"claim {got(claim)}: expected A@k ~, < or > B@k with two of {known}")
        found, margin = difference(cells[0], cells[1]), None
        if match[3] == "~":
            margin = MARGIN if self.margin is None and is_fraction(found.cell.metric) else self.margin
            holds = None if margin is None else found.equivalent(margin)
        else:
            decided = found.verdict in ("worse", "better")
            holds = found.verdict == {">": "worse", "<": "better"}[match[3]] if decided else None
        result = {True: "agrees", False: "does not agree", None: "cannot be told"}[holds]
        return Claim(claim, match[3], found, result, margin)


def whole_numbers(values: Any, minimum: int) -> bool:
    """Return whether this is a list of different whole numbers, at least one.

    >>> whole_numbers([4, 8], 1), whole_numbers([0], 1), whole_numbers([4, 4], 1), whole_numbers([], 1)
    (True, False, False, False)
    """
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(value) is int and minimum <= value < 2**63 for value in values)
        and len(set(values)) == len(values)
    )


def is_margin(value: Any) -> bool:
    """Return whether this is a number by which figures may differ.

    >>> is_margin(0.5), is_margin(1), is_margin(0), is_margin(float("inf")), is_margin("0.5")
    (True, True, False, False, False)
    """
    return type(value) in (int, float) and 0 < value < math.inf


def _bad_entry(about: Mapping[str, Any]) -> str | None:
    """The first entry of ``experiment.json`` that is missing or not what it should be."""

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    def arms(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and bool(value)
            and all(
                NAME.fullmatch(name)
                and isinstance(arm, dict)
                and isinstance(arm.get("settings"), dict)
                and whole_numbers(arm.get("workers"), 1)
                for name, arm in value.items()
            )
        )

    def machine(value: Any) -> bool:
        return isinstance(value, dict) and all(
            type(entry) in (str, int) or texts(entry) for entry in value.values()
        )

    good: dict[str, Callable[[Any], bool]] = {
        "name": lambda value: isinstance(value, str),
        "question": lambda value: isinstance(value, str),
        "scale": lambda value: isinstance(value, str),
        "seeds": lambda value: whole_numbers(value, 0),
        "simulate": lambda value: value is None or whole_numbers([value], 1),
        "arms": arms,
        "claims": texts,
        "machine": machine,
        "flags": texts,
        "clock": lambda value: isinstance(value, bool),
        "margin": lambda value: value is None or is_margin(value),
    }
    return next((name for name, holds in good.items() if name not in about or not holds(about[name])), None)


def read_results(folder: Path) -> Results:
    """Read an experiment and all its runs.

    Parameters
    ----------
    folder : Path
        That of the experiment, with ``experiment.json``.

    Raises
    ------
    ConfigError
        If there is no such folder or file, the file is damaged, or arms have different metrics.
    ValueError
        If a run's log is damaged.

    Examples
    --------
    >>> read_results(Path("nowhere"))
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: experiment nowhere: expected a folder, got none there
    """
    path = folder / EXPERIMENT_FILE
    if not os.path.isdir(folder):
        raise ConfigError(f"experiment {folder}: expected a folder, got none there")
    if not os.path.isfile(path):
        raise ConfigError(f"experiment {folder}: expected {EXPERIMENT_FILE} in it, got none there")
    # Earlier versions did not write the flags down.
    about: dict[str, Any] = {"flags": [], "clock": False, "margin": None} | read_json(path)
    bad = _bad_entry(about)
    if bad is not None:
        raise ConfigError(f"{path}: expected what tmlauncher compare writes, got a bad entry: {bad}")
    seeds, claims = tuple(about["seeds"]), tuple(about["claims"])
    try:
        arms = {
            name: resolve(RunConfig.from_dict(arm["settings"]), _defaults(folder / name)).to_dict()
            for name, arm in about["arms"].items()
        }
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    counts = {name: sorted(arm["workers"]) for name, arm in about["arms"].items()}
    named = {
        name: about[name] for name in ("name", "question", "scale", "simulate", "machine", "clock", "margin")
    }
    cells = tuple(
        Cell(
            name,
            k,
            k * arm["batch_size"],
            tuple(read_run(folder / name / f"{k}-workers" / f"seed-{seed}", seed) for seed in seeds),
        )
        for name, arm in arms.items()
        for k in counts[name]
    )
    metrics: dict[str, str] = {}
    for cell in cells:
        for run in cell.runs:
            if run.state != "missing":
                metrics.setdefault(
                    run.metric, f"{cell.arm}, {counted(cell.workers, 'worker')}, seed {run.seed}"
                )
    if len(metrics) > 1:
        (first, one), (second, two), *_ = metrics.items()
        raise ConfigError(
            shortened(f"experiment {folder}: expected one metric in all runs, got {got(first)} in {one}", 200)
            + shortened(f" and {got(second)} in {two}", 100)
        )
    flags = tuple(about["flags"])
    return Results(seeds=seeds, arms=arms, cells=cells, claims=claims, flags=flags, **named)
