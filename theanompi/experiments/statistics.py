"""Runs, cells of runs and differences between them: means, deviations and confidence intervals.

All values are of one metric, the headline of the runs, of which smaller is better: fractions, such as errors, in per
cent and their differences in points, others as they are. Of the verdicts only `Difference.equivalent` depends on their
scale, by its margin.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from theanompi.record.metrics import CLASSIFIER

LAST_EPOCHS = 5
CONFIDENCE = 0.95
Curve = dict[int, float]
"""Values of the metric by epoch, of which the first is 1."""


@dataclass(frozen=True)
class Run:
    """One seed of a cell.

    Attributes
    ----------
    seed : int
    state : {"finished", "diverged", "unfinished", "missing"}
        A missing run has no log.
    train, validation : dict of int to float
        The metric after each epoch; in training, the mean over the epoch's items.
    reason : str
        Of a diverged run what the log says, of an unfinished or missing one the last line of its output.
    epoch : int
        In which a diverged run ended, or the last validated one; the first is 1, 0 where there is none.
    versions : dict of str to str
        From ``config.json``.
    metric, noun : str
        Name of the metric, and what the items are called that it is a mean of.
    times : dict of int to float
        Virtual seconds after each epoch, where workers were simulated on a clock.
    staleness : tuple of int
        How many passes at a centre had a staleness of 0, 1, 2, …
    """

    seed: int
    state: str
    train: Curve = field(default_factory=dict)
    validation: Curve = field(default_factory=dict)
    reason: str = ""
    epoch: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    metric: str = CLASSIFIER.headline
    noun: str = CLASSIFIER.noun
    times: Curve = field(default_factory=dict)
    staleness: tuple[int, ...] = ()

    def at(self, seconds: float) -> float | None:
        """The metric of the last validation up to a virtual time; None if there was none.

        >>> run = Run(0, "finished", validation={1: 90.0, 2: 11.0}, times={1: 5.0, 2: 10.0})
        >>> run.at(4.9), run.at(9.9), run.at(10.0)
        (None, 90.0, 11.0)
        """
        before = [epoch for epoch, time in self.times.items() if time <= seconds]
        return self.validation[max(before)] if before else None

    @property
    def complete(self) -> bool:
        """Whether it came to its end, good or bad."""
        return self.state in ("finished", "diverged")

    @property
    def figure(self) -> float | None:
        """What the run is compared by; None unless it finished.

        >>> Run(0, "finished", validation={1: 90.0, 2: 11.0, 3: 14.0, 4: 12.0, 5: 10.0, 6: 13.0}).figure
        12.0
        """
        if self.state != "finished":
            return None
        return statistics.median(list(self.validation.values())[-LAST_EPOCHS:])


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation of some values; no deviation of one.

    >>> mean_and_std([1.0, 3.0]), mean_and_std([1.0])
    ((2.0, 1.4142135623730951), (1.0, None))
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Cell:
    """An arm at a worker count.

    Attributes
    ----------
    arm : str
    workers : int
        k, real or simulated.
    minibatch : int
        kn, in items.
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
    def metric(self) -> str:
        """Name of the metric: that of any run that there is."""
        return next((run.metric for run in self.runs if run.state != "missing"), CLASSIFIER.headline)

    @property
    def figures(self) -> dict[int, float]:
        """The figures of the finished runs, by seed."""
        return {run.seed: run.figure for run in self.runs if run.figure is not None}

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
        """Of the finished runs; None where there are none."""
        return statistics.fmean(self.figures.values()) if self.figures else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the finished runs; None for fewer than two."""
        return statistics.stdev(self.figures.values()) if len(self.figures) > 1 else None

    def curve(self, kind: str) -> dict[int, tuple[float, float | None]]:
        """Return mean and standard deviation of the finished runs' curves, by epoch.

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
        epochs = sorted({epoch for curve in curves for epoch in curve})
        return {epoch: mean_and_std([curve[epoch] for curve in curves if epoch in curve]) for epoch in epochs}


def time_of(cell: Cell) -> float | None:
    """Return the mean virtual time of a cell's finished runs, in seconds; None without any."""
    ends = [max(run.times.values()) for run in cell.runs if run.state == "finished" and run.times]
    # Exactly that of equal ones, as `fmean` is not: it is a moment that others are held against.
    return statistics.mean(ends) if ends else None


def quantile_of(count: int) -> float:
    """Return the quantile of Student's t that a two-sided 95 % interval of the mean of `count` values has.

    >>> round(quantile_of(5), 3)
    2.776
    """
    # Takes a second, and needed only here.
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE) / 2, count - 1))


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
    half = quantile_of(len(values)) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), half


@dataclass(frozen=True)
class Difference:
    """One cell against another, seed by seed.

    Attributes
    ----------
    cell, other : Cell
    points : dict of int to float
        Figure of `cell` minus that of `other`, for each seed in which both finished.
    only_cell, only_other, both : tuple of int
        The seeds in which only the one, only the other, and both diverged, where the other one is complete.
    mean, half : float or None
        Of `points`, and the half-width of the 95 % interval. None where fewer than two seeds finished on both
        sides, or two with the same difference (then `half` alone), or where divergence decides.
    verdict : {"worse", "better", "undecided", "unknown"}
        Whether `cell` is worse than `other`; "undecided" stands for no difference that the seeds can show, which is no
        proof that there is none: see `equivalent`.

    Examples
    --------
    >>> def cell(*errors):
    ...     return Cell("a", 4, 32, tuple(Run(s, "finished", validation={1: e}) for s, e in enumerate(errors)))
    >>> difference(cell(12.0, 13.1), cell(11.0, 12.0)).verdict
    'worse'
    >>> difference(cell(12.0), cell(11.0)).verdict, difference(cell(12.0, 13.0), cell(11.0, 12.0)).verdict
    ('unknown', 'unknown')
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

    def equivalent(self, margin: float) -> bool | None:
        """Whether the cells differ by no more than a margin.

        These are two one-sided t-tests (TOST; Schuirmann 1987, doi:10.1007/BF01068419) at 2.5 % each, paired by seed:
        both reject if and only if the two-sided 95 % interval lies within the margin.

        Parameters
        ----------
        margin : float
            In points or, where the metric is no fraction, in its unit.

        Returns
        -------
        bool or None
            True where the interval lies within ±`margin`, False where it lies outside, or divergence tells the cells
            apart, None where it reaches across an edge or there is none.

        Examples
        --------
        >>> def cell(*errors):
        ...     return Cell("a", 4, 32, tuple(Run(s, "finished", validation={1: e}) for s, e in enumerate(errors)))
        >>> found = difference(cell(12.0, 13.1, 14.0), cell(11.9, 12.8, 13.8))
        >>> [round(found.mean - found.half, 2), round(found.mean + found.half, 2)]
        [-0.05, 0.45]
        >>> found.equivalent(0.5), found.equivalent(0.2), found.equivalent(0.01)
        (True, None, None)
        """
        if self.mean is None or self.half is None:
            return False if self.verdict in ("worse", "better") else None
        if abs(self.mean) + self.half <= margin:
            return True
        return False if abs(self.mean) - self.half > margin else None


def _same(points: Mapping[int, float], figures: Mapping[int, float]) -> bool:
    """Whether differences between figures are equal but for rounding."""
    return max(points.values()) - min(points.values()) <= 1e-9 * max(abs(figures[seed]) for seed in points)


def difference(cell: Cell, other: Cell) -> Difference:
    """Compare two cells; see the rules above."""
    pairs = [
        (run, against)
        for run, against in zip(cell.runs, other.runs, strict=True)
        if run.complete and against.complete
    ]

    def diverged(*states: bool) -> tuple[int, ...]:
        return tuple(
            run.seed for run, against in pairs if (run.figure is None, against.figure is None) == states
        )

    only_cell, only_other, both = diverged(True, False), diverged(False, True), diverged(True, True)
    figures, others = cell.figures, other.figures
    points = {seed: figures[seed] - others[seed] for seed in diverged(False, False)}
    mean = half = None
    verdict = "unknown"
    if only_cell or only_other:
        if not (only_cell and only_other):
            verdict = "worse" if only_cell else "better"
    elif len(points) > 2 or (len(points) == 2 and not _same(points, figures)):
        mean, half = interval(list(points.values()))
        verdict = "undecided" if abs(mean) <= half else "worse" if mean > 0 else "better"
    elif points:
        mean = statistics.fmean(points.values())
    return Difference(cell, other, points, only_cell, only_other, both, mean, half, verdict)
