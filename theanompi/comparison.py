"""What the runs of an experiment say: their errors, those of a cell (an arm at a worker count), and differences.

Everything is read from the folder that ``tmlauncher compare`` fills: ``experiment.json``, and for each run
``config.json``, ``log.jsonl`` and, where it did not end well, the last line of ``output.txt``. Errors are in per
cent, differences in percentage points.

The rules, chosen before any result was seen:

- A run's figure is the median validation error of its last five epochs, or of all when it has fewer.
- A cell's figure is the mean of its finished runs' and their sample standard deviation. Diverged runs are counted
  beside it: an error that does not exist cannot be averaged, and leaving such runs out unsaid would flatter.
- Two cells are compared seed by seed, by the mean of the differences with a 95 % interval from Student's t. Only
  seeds whose run is complete (finished or diverged) on both sides count.
- A run that diverged is worse than any that did not. So a cell that diverges in seeds in which the other one does
  not, and never the other way round, is worse, and no difference in points is given: that over the other seeds
  would leave the worst out. When each diverges where the other does not, nothing can be told. Seeds in which
  both diverge tell nothing; the others decide.
"""

import json
import math
import os
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from theanompi.config import ConfigError, RunConfig, got, is_text, listed, resolve
from theanompi.files import read_bytes, read_text
from theanompi.folder import CONFIG_FILE, LOG_FILE
from theanompi.recorder import read_log

EXPERIMENT_FILE = "experiment.json"
OUTPUT_FILE = "output.txt"
LAST_EPOCHS = 5
CONFIDENCE = 0.95

CLAIM = re.compile(r"\s*(\S{1,100})@(\d{1,9})\s*([~<>])\s*(\S{1,100})@(\d{1,9})\s*")
"""Arm, worker count and relation of a claim, and what it is held against: "none@64 > gradual@64"."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Names that make a folder."""

Curve = dict[int, float]
"""Errors (%) by epoch, of which the first is 1."""


@dataclass(frozen=True)
class Run:
    """One seed of a cell.

    Attributes
    ----------
    seed : int
    state : {"finished", "diverged", "unfinished", "missing"}
        A missing run has no log.
    train, validation : dict of int to float
        Error (%) after each epoch; in training, the mean over the epoch's images.
    reason : str
        Of a diverged run what the log says, of an unfinished or missing one the last line of its output.
    epoch : int
        In which a diverged run ended, or the last validated one; the first is 1, 0 where there is none.
    versions : dict of str to str
        From ``config.json``.
    """

    seed: int
    state: str
    train: Curve = field(default_factory=dict)
    validation: Curve = field(default_factory=dict)
    reason: str = ""
    epoch: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether it came to its end, good or bad."""
        return self.state in ("finished", "diverged")

    @property
    def error(self) -> float | None:
        """The run's figure (%); None unless it finished.

        >>> Run(0, "finished", validation={1: 90.0, 2: 11.0, 3: 14.0, 4: 12.0, 5: 10.0, 6: 13.0}).error
        12.0
        """
        if self.state != "finished":
            return None
        return statistics.median(list(self.validation.values())[-LAST_EPOCHS:])


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
        If the log or ``config.json`` is damaged.

    Examples
    --------
    >>> read_run(Path("nowhere"), 3).state
    'missing'
    """
    log = folder / LOG_FILE
    if not os.path.exists(log):
        return Run(seed, "missing", reason=_last_line(folder / OUTPUT_FILE))
    records = read_log(log)
    config = _read_json(folder / CONFIG_FILE) if os.path.exists(folder / CONFIG_FILE) else {}
    versions = config.get("versions", {})
    if not isinstance(versions, dict) or not all(isinstance(version, str) for version in versions.values()):
        raise ConfigError(
            f"{folder / CONFIG_FILE}: versions: expected a text for each package, got {got(versions)}"
        )
    validations = [r for r in records if r["kind"] == "val"]
    if any(record["error"] is None for record in validations):
        raise ValueError(f"log {log}: expected an error in each validation, got one that is null")
    validation = {record["epoch"] + 1: 100.0 * record["error"] for record in validations}
    train = _train_curve(r for r in records if r["kind"] == "train")
    last: dict[str, Any] = records[-1] if records else {"kind": "none"}
    state, reason, epoch = "unfinished", "", max(validation, default=0)
    if last["kind"] == "diverged":
        state, reason, epoch = "diverged", last["reason"], last["epoch"] + 1
    elif last["kind"] == "summary" and validation and _every_epoch(validation, config):
        state = "finished"
    else:
        reason = _last_line(folder / OUTPUT_FILE)
    return Run(seed, state, train, validation, reason, epoch, versions)


def _every_epoch(validation: Curve, config: Mapping[str, Any]) -> bool:
    """Whether no validation is missing, as after a loss of power."""
    epochs = config.get("epochs")
    return type(epochs) is not int or (
        # As many first: a damaged file may ask for any number.
        len(validation) == epochs and sorted(validation) == list(range(1, epochs + 1))
    )


def _train_curve(records: Iterable[Mapping[str, Any]]) -> Curve:
    """Error by epoch, each line counted with its images."""
    wrong: dict[int, float] = {}
    images: dict[int, int] = {}
    for record in records:
        if record["error"] is not None and record["images"]:
            epoch, count = record["epoch"] + 1, record["images"]
            wrong[epoch] = wrong.get(epoch, 0.0) + record["error"] * count
            images[epoch] = images.get(epoch, 0) + count
    return {epoch: 100.0 * wrong[epoch] / images[epoch] for epoch in wrong}


def _last_line(path: Path) -> str:
    try:
        lines = read_bytes(path).decode(errors="replace").split("\n")
    except OSError:
        return ""
    # A progress bar writes over its line again and again.
    return next((text for line in reversed(lines) if (text := line.rsplit("\r", 1)[-1].strip())), "")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path, str(path)))
    except ConfigError:
        raise
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not is_text(json.dumps(value, ensure_ascii=False)):
        raise ConfigError(f"{path}: expected a JSON object, got a damaged file")
    return value


@dataclass(frozen=True)
class Cell:
    """An arm at a worker count.

    Attributes
    ----------
    arm : str
    workers : int
        k, real or simulated.
    minibatch : int
        kn, in images.
    runs : tuple of Run
        One for each seed of the experiment.

    Examples
    --------
    >>> runs = [Run(s, "finished", validation={1: e}) for s, e in enumerate([11.0, 12.0, 13.0])]
    >>> cell = Cell("their_way", 4, 32, (*runs, Run(3, "diverged")))
    >>> cell.mean, cell.std, len(cell.diverged)
    (12.0, 1.0, 1)
    """

    arm: str
    workers: int
    minibatch: int
    runs: tuple[Run, ...]

    @property
    def errors(self) -> dict[int, float]:
        """The figures of the finished runs (%), by seed."""
        return {run.seed: run.error for run in self.runs if run.error is not None}

    @property
    def diverged(self) -> tuple[Run, ...]:
        """The runs that diverged."""
        return tuple(run for run in self.runs if run.state == "diverged")

    @property
    def incomplete(self) -> tuple[Run, ...]:
        """The runs that neither finished nor diverged."""
        return tuple(run for run in self.runs if not run.complete)

    @property
    def mean(self) -> float | None:
        """Of the finished runs (%); None where there are none."""
        return statistics.fmean(self.errors.values()) if self.errors else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the finished runs (points); None for fewer than two."""
        return statistics.stdev(self.errors.values()) if len(self.errors) > 1 else None

    def curve(self, kind: str) -> dict[int, tuple[float, float | None]]:
        """Return mean and standard deviation of the finished runs' error, by epoch.

        Parameters
        ----------
        kind : {"train", "validation"}

        Examples
        --------
        >>> runs = (Run(0, "finished", validation={1: 50.0}), Run(1, "finished", validation={1: 52.0}))
        >>> mean, std = Cell("their_way", 4, 32, runs).curve("validation")[1]
        >>> mean, round(std, 3)
        (51.0, 1.414)
        """
        curves = [getattr(run, kind) for run in self.runs if run.state == "finished"]
        by_epoch = {
            epoch: [curve[epoch] for curve in curves if epoch in curve]
            for epoch in sorted({epoch for curve in curves for epoch in curve})
        }
        return {
            epoch: (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
            for epoch, values in by_epoch.items()
        }


def name_of(arm: str) -> str:
    """Return the name of an arm as words.

    >>> name_of("their_way")
    'their way'
    """
    return arm.replace("_", " ")


def figure_of(cell: Cell) -> str:
    """Return mean and standard deviation of a cell's finished runs, in per cent; a mean alone for one run.

    >>> runs = tuple(Run(s, "finished", validation={1: e}) for s, e in enumerate([11.0, 12.0, 13.0]))
    >>> figure_of(Cell("their_way", 4, 32, runs)), figure_of(Cell("their_way", 4, 32, runs[:1]))
    ('12.00 ± 1.00', '11.00')
    """
    if cell.mean is None:
        return "–"
    return f"{cell.mean:.2f}" if cell.std is None else f"{cell.mean:.2f} ± {cell.std:.2f}"


def describe(cell: Cell | None) -> str:
    """Return the entry of a cell in the table: its figure, how many diverged, and how many there are yet.

    >>> runs = tuple(Run(s, "finished", validation={1: e}) for s, e in enumerate([11.0, 12.0, 13.0]))
    >>> describe(Cell("my_way", 4, 32, (*runs, Run(3, "diverged"))))
    '1 of 4 diverged; the other 3: 12.00 ± 1.00'
    >>> describe(Cell("my_way", 4, 32, (*runs, Run(3, "missing"))))
    '12.00 ± 1.00 (3 of 4)'
    """
    if cell is None:
        return ""
    complete, seeds = len(cell.errors) + len(cell.diverged), len(cell.runs)
    text = figure_of(cell)
    if cell.diverged:
        text = f"{len(cell.diverged)} of {complete} diverged"
        if cell.errors:
            others = f"other {len(cell.errors)}" if len(cell.errors) > 1 else "other"
            text += f"; the {others}: {figure_of(cell)}"
        elif complete > 1:
            text = f"all {complete} diverged"
        else:
            text = "diverged"
    return text + (f" ({complete} of {seeds})" if complete < seeds else "")


def workers_of(k: int) -> str:
    """Return so many workers in words.

    >>> workers_of(1), workers_of(8)
    ('1 worker', '8 workers')
    """
    return f"{k} worker{'s' * (k != 1)}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of a sample and the half-width of its 95 % confidence interval, from Student's t.

    Parameters
    ----------
    values : sequence of float
        At least two.

    Examples
    --------
    >>> mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> mean, round(half, 3)
    (3.0, 1.963)
    """
    # Takes a second, and needed only here.
    from scipy.stats import t

    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Difference:
    """One cell against another, seed by seed.

    Attributes
    ----------
    cell, other : Cell
    points : dict of int to float
        Error of `cell` minus that of `other`, for each seed in which both finished.
    only_cell, only_other, both : tuple of int
        The seeds in which only the one, only the other, and both diverged, where the other one is complete.
    mean, half : float or None
        Of `points`, and the half-width of the 95 % interval. None where fewer than two seeds finished on both
        sides (then `half` alone), or where divergence decides.
    verdict : {"worse", "better", "same", "unknown"}
        Whether `cell` is worse than `other`; "same" stands for no difference that the seeds can show.

    Examples
    --------
    >>> def cell(*errors):
    ...     return Cell("a", 4, 32, tuple(Run(s, "finished", validation={1: e}) for s, e in enumerate(errors)))
    >>> difference(cell(12.0, 13.0), cell(11.0, 12.0)).verdict
    'worse'
    >>> difference(cell(12.0), cell(11.0)).verdict
    'unknown'
    """

    cell: Cell
    other: Cell
    points: dict[int, float]
    only_cell: tuple[int, ...]
    only_other: tuple[int, ...]
    both: tuple[int, ...]
    mean: float | None
    half: float | None
    verdict: str

    @property
    def pairs(self) -> int:
        """How many seeds are complete on both sides."""
        return len(self.points) + len(self.only_cell) + len(self.only_other) + len(self.both)


def difference(cell: Cell, other: Cell) -> Difference:
    """Compare two cells; see the rules above."""
    pairs = [
        (run, against)
        for run, against in zip(cell.runs, other.runs, strict=True)
        if run.complete and against.complete
    ]

    def diverged(*states: bool) -> tuple[int, ...]:
        return tuple(
            run.seed for run, against in pairs if (run.error is None, against.error is None) == states
        )

    only_cell, only_other, both = diverged(True, False), diverged(False, True), diverged(True, True)
    errors, others = cell.errors, other.errors
    points = {seed: errors[seed] - others[seed] for seed in diverged(False, False)}
    mean = half = None
    verdict = "unknown"
    if only_cell or only_other:
        if not (only_cell and only_other):
            verdict = "worse" if only_cell else "better"
    elif len(points) > 1:
        mean, half = interval(list(points.values()))
        verdict = "same" if abs(mean) <= half else "worse" if mean > 0 else "better"
    elif points:
        (mean,) = points.values()
    return Difference(cell, other, points, only_cell, only_other, both, mean, half, verdict)


class Claim(NamedTuple):
    """What an experiment says beforehand: the error of one cell is larger (>), smaller (<) or no other (~).

    `result` is "agrees", "does not agree" or "cannot be told".
    """

    text: str
    relation: str
    difference: Difference
    result: str


@dataclass(frozen=True)
class Experiment:
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
        found = difference(cells[0], cells[1])
        agreeing = {"~": "same", ">": "worse", "<": "better"}[match[3]]
        if found.verdict == agreeing:
            result = "agrees"
        elif found.verdict == "unknown" or found.verdict == "same":
            result = "cannot be told"
        else:
            result = "does not agree"
        return Claim(claim, match[3], found, result)


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
    }
    return next((name for name, holds in good.items() if name not in about or not holds(about[name])), None)


def read_experiment(folder: Path) -> Experiment:
    """Read an experiment and all its runs.

    Parameters
    ----------
    folder : Path
        That of the experiment, with ``experiment.json``.

    Raises
    ------
    ConfigError
        If there is no such folder or file, or the file is damaged.
    ValueError
        If a run's log is damaged.

    Examples
    --------
    >>> read_experiment(Path("nowhere"))
    Traceback (most recent call last):
        ...
    theanompi.config.ConfigError: experiment nowhere: expected a folder, got none there
    """
    path = folder / EXPERIMENT_FILE
    if not os.path.isdir(folder):
        raise ConfigError(f"experiment {folder}: expected a folder, got none there")
    if not os.path.isfile(path):
        raise ConfigError(f"experiment {folder}: expected {EXPERIMENT_FILE} in it, got none there")
    # Earlier versions did not write the flags down.
    about = {"flags": []} | _read_json(path)
    bad = _bad_entry(about)
    if bad is not None:
        raise ConfigError(f"{path}: expected what tmlauncher compare writes, got a bad entry: {bad}")
    seeds, claims = tuple(about["seeds"]), tuple(about["claims"])
    try:
        arms = {
            n: resolve(RunConfig.from_dict(arm["settings"])).to_dict() for n, arm in about["arms"].items()
        }
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    counts = {name: sorted(arm["workers"]) for name, arm in about["arms"].items()}
    named = {name: about[name] for name in ("name", "question", "scale", "simulate", "machine")}
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
    flags = tuple(about["flags"])
    return Experiment(seeds=seeds, arms=arms, cells=cells, claims=claims, flags=flags, **named)
