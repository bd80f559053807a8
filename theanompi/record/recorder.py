"""What a run writes down: its log, the progress that one watches, and the closing summary.

``log.jsonl`` has one strict JSON object a line (what is not finite is null), of five kinds:

``train``
    The interval since the previous such line: ``epoch`` (0-based index), ``iteration`` (finished updates),
    each loss and metric of the model by its name (below), ``lr`` (at ``iteration``), ``iterations`` and ``items``
    (over all ranks) of the interval, ``wall_s``, ``items_per_s`` (``items`` ÷ ``wall_s``), and how rank 0 spent
    the interval, in seconds summed over it (below). Validation, its compilation and checkpoints are in none of the
    times. ``labels`` is
    "mixed" if items were mixed: the loss is then that of mixed labels, and an error is about that of the larger share.
``val``
    One validation: ``epoch``, ``iteration``, ``items``, and each loss and metric; ``weights`` is "ema" if it was of
    their exponential moving average.
``summary``
    The whole run, when it ended in good order: sums and means of the above, and of the headline metric in the
    validations, ``error`` say, ``best_error`` and ``median_error`` (of the last five). ``ranks`` has for each of
    several ranks where it was and how it spent its time since this process began (a resumed run has begun more
    than once).
``meeting``
    All ranks of an asynchronous rule in one place: ``epoch``, ``iteration`` (to which they have come, on average, as in
    all lines of such a run), ``done`` (the iterations of each rank), ``waited_s`` (for each rank the
    seconds until the last one was there, which are in none of the times), and of their passes at the centre since the
    last meeting ``order`` (the rank of each, one after the other) and ``staleness`` (how many of them had 0, 1, 2, …
    passes of other ranks since that rank's own last one), and of the letters that they have taken in since then
    ``letters``: sender, receiver, and after how many of the receiver's iterations. ``pace`` has for each rank, of its
    iterations since then, the iteration of all that the schedule went by in the first, and by how many it had gone on
    in each further one.
``diverged``
    The end of a run whose loss was no longer finite: ``epoch``, ``iteration`` (the one that it was in, not
    finished) and ``reason``, in words.

Where workers are simulated, all seconds are those of the virtual clock, and each line has ``virtual_s``: its time.

A metric is a mean over the items, each with its weight: ``loss``, ``error`` and ``error_top5`` of a classifier,
whatever another model names. It is null where it is not finite, and where an interval had no update of its
objective. In the summary an interval counts with its items. Names that begin with "error" are fractions from 0 to 1,
shown in per cent. Items are images, windows, … : what the data set consists of.

What the training thread did adds up to ``wall_s``, but for a rest in none of these:

``calc_s``
    Computing: gradients, update, metrics.
``comm_s``
    Exposed communication: waiting for sums while nothing is left to compute, without the next one.
``sync_s``
    Exposed waiting for slower ranks: as ``comm_s``, as long as a sum could not begin because another rank was
    not there yet. 0 where the exchange strategy does not tell.
``wait_s``
    Exposed loading: waiting for a batch.

What went on at the same time is *hidden*, and is no part of ``wall_s``. It need not be free: where no core is
left for it, it makes computing slower.

``comm_hidden_s``, ``sync_hidden_s``
    Seconds of sums, and of waiting for slower ranks with one, while this rank was still computing.
``load_hidden_s``
    Seconds in which batches were read and decoded while nobody waited for one, from the first image of a batch
    to its last, divided by the number of loader processes: what one batch after the other would have cost the
    training thread with as many helpers. Copies to a CUDA device are not counted.
"""

import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from theanompi.config import counted
from theanompi.config.files import writing
from theanompi.record.display import Display
from theanompi.record.folder import (
    BEST_FILE,
    CHECKPOINT_FILE,
    CONFIG_FILE,
    CSV_FILE,
    CURVES_FILE,
    LOG_FILE,
    TIMELINE_FILE,
    replace_text,
)
from theanompi.record.log import (
    BEST,
    KINDS,
    LOGGED,
    MEDIAN,
    json_line,
    records_until,
    validation_record,
)
from theanompi.record.loggers.base import Logger
from theanompi.record.meetings import Meetings, Told, meeting_record
from theanompi.record.metrics import (
    CLASSIFIER,
    Reported,
    add_sums,
    as_number,
    as_text,
    mean_of,
    ratio,
    values_of,
)
from theanompi.record.own_log import OwnLog
from theanompi.record.phases import Phases
from theanompi.record.progress import Progress
from theanompi.record.summary import Totals, slowest_rank, use_of_time
from theanompi.record.terminal import folded, text_columns
from theanompi.record.timeline import Timeline
from theanompi.record.trace import gather_trace

# Of the time since curves were last drawn, at most this share is spent on drawing them again; and how long the first
# drawing is expected to take, in seconds.
DRAWING, FIRST_DRAWING = 0.05, 1.5
# A timeline does not begin before so many iterations, in which memory is allocated and the loader gets ahead.
WARM_UP = 2


@dataclass
class _Interval:
    """What was trained since the last line of the log."""

    epoch: int = 0
    iteration: int = 0
    lr: float = 0.0
    iterations: int = 0
    items: int = 0
    # Of each metric the weighted sum, and the sum of the weights.
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)

    def mean(self, name: str) -> float | None:
        return mean_of(name, *self.sums.get(name, (0.0, 0.0)))


class Recorder(Phases):
    """Times the phases of a step, and on rank 0 shows the progress and writes the log.

    The clock of an interval runs from the first `start` on. `flush` stops it: call that before a validation
    and before a checkpoint, so that neither counts as training and the log is complete up to the checkpoint.

    Parameters
    ----------
    out : Path or None
        The folder of the run, made by `theanompi.record.folder.RunFolder`; None writes no files.
    rank, size : int
        This process and how many there are. Every rank calls the same methods; only rank 0 writes.
    iterations : int
        Length of the whole run, in updates.
    log_interval : int
        Iterations between two ``train`` lines of the log.
    verbose : bool
        Whether rank 0 shows its progress: on stderr a bar where a terminal shows it (through ``mpirun`` too),
        else plain lines; on stdout the closing summary.
    resume_from : int or None
        Go on with the log in `out` after this iteration, dropping what it has beyond; None begins a new log.
    draw : callable, optional
        Called with the paths of the log and of ``curves.png``, `theanompi.record.plots.plot_curves`: at every end that
        the run comes to by itself or by a signal, and after a validation if drawing takes less than a twentieth of the
        time since it was last done. It is in none of the times.
    timeline : int, optional
        How many iterations are to be in ``timeline.json``, from the third of this process on, or sooner where
        that leaves too few; fewer where there are no more.
    comm : mpi4py.MPI.Intracomm, optional
        All ranks, to compare them at the end and for the timeline. Then `close` and `train` are collective.
    place : str
        Where this rank is, as in "cuda:1 on node0".
    progress : Progress, optional
        Told of each phase.
    reported : Reported
        The losses and metrics of the model; the summary has best and median of the headline.
    lockstep : bool
        Whether all ranks call the methods in the same iterations. Otherwise the log has rank 0's own figures, `meeting`
        is collective and `train` is not.
    clock : callable, optional
        Gives the virtual time of simulated workers, in seconds. All times are then of that clock, and each line of the
        log has it as ``virtual_s``.
    averaged : bool
        Whether validations are of the weights' moving average.
    mixed : bool
        Whether training is on mixed items.
    loggers : sequence of callable, optional
        Each called on rank 0, with the records that a resumed log keeps; gives a `theanompi.record.loggers.Logger`,
        which is told each line of kind ``train``, ``val`` and ``summary``.
    validated : bool
        Whether there was a validation after `resume_from`, which the log must have.

    Attributes
    ----------
    seconds : dict
        Those of the interval, by the names in the log without ``_s``.
    last : dict
        The last line of kind ``train``, ``val`` or ``summary``, on each rank with its own times.

    Raises
    ------
    theanompi.config.ConfigError
        From any method, if a metric whose name begins with "error" is no fraction.
    theanompi.config.files.CannotWrite
        If there is a log in `out` and `resume_from` is None; from any method, if the run's files cannot be written.
    ValueError
        If the log to go on with is damaged, or has lost lines up to `resume_from`.

    Examples
    --------
    >>> from theanompi.record.log import read_log
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     recorder = Recorder(
    ...         Path(folder), 0, 1, 1, log_interval=10, verbose=False, resume_from=None,
    ...         reported=Reported(("loss", "mae"), "mae", "items"),
    ...     )
    ...     recorder.start()
    ...     recorder.end("calc")
    ...     recorder.train(0, 1, 32, {"loss": (64.0, 32.0), "mae": (9.0, 24.0)}, lr=0.1)
    ...     recorder.flush()
    ...     line = read_log(folder + "/log.jsonl")[0]
    >>> line["loss"], line["mae"]
    (2.0, 0.375)
    """

    def __init__(
        self,
        out: Path | None,
        rank: int,
        size: int,
        iterations: int,
        log_interval: int,
        verbose: bool,
        resume_from: int | None,
        draw: Callable[[Path, Path], None] | None = None,
        timeline: int | None = None,
        comm: Any = None,
        place: str = "",
        progress: Progress | None = None,
        reported: Reported = CLASSIFIER,
        lockstep: bool = True,
        clock: Callable[[], float] | None = None,
        averaged: bool = False,
        mixed: bool = False,
        loggers: Sequence[Callable[[Sequence[dict[str, Any]]], Logger]] = (),
        validated: bool = False,
    ) -> None:
        super().__init__(monotonic if clock is None else clock, Progress() if progress is None else progress)
        self._virtual, self._earlier = clock is not None, 0.0
        self._reported, self._interval = reported, _Interval()
        if timeline is not None:
            left_over = iterations - (resume_from or 0) - timeline
            self._timeline = Timeline(timeline, skip=min(WARM_UP, max(0, left_over)))
        self._comm, self._place = comm, place
        self._lockstep, self._traced = lockstep, False
        self._drawn = monotonic()
        self._drawing, self._drawable = FIRST_DRAWING, False
        # The other ranks do the same sums, and nothing comes of them.
        self._out = out if rank == 0 else None
        self._verbose = verbose and rank == 0
        self._size, self._iterations = size, iterations
        self._averaged, self._mixed = averaged, mixed
        self._log_interval, self._draw = log_interval, draw
        # Sums and no lists: a run may have millions of intervals.
        self._all, self._own = Totals(reported.metrics), Totals(())
        self._epochs: dict[int, Totals] = {}
        self._validations: list[dict[str, Any]] = []
        self._meetings = Meetings()
        self.last: dict[str, Any] = {}
        self._last, self._reached = 0, resume_from or 0
        self._log: OwnLog | None = None
        records: list[dict[str, Any]] = []
        if self._out is not None:
            path = self._out / LOG_FILE
            if resume_from is None:
                with writing(path):
                    path.touch(exist_ok=False)
            else:
                records = records_until(path, resume_from, validated=validated)
                replace_text(path, "".join(json_line(record) for record in records))
                for record in records:
                    self._count(record)
                    self._earlier = record.get("virtual_s", 0.0)
            self._log = OwnLog(path)
        self._loggers = [make(records) for make in loggers] if self._out is not None else []
        self._display = Display(reported, iterations, resume_from or 0) if self._verbose else None

    def train(
        self, epoch: int, iteration: int, items: int, sums: Mapping[str, tuple[float, float]], lr: float
    ) -> None:
        """Take in one finished update. Sums are over all ranks.

        Parameters
        ----------
        epoch : int
            0-based index.
        iteration : int
            How many updates are finished, with this one.
        items : int
            Of the minibatch.
        sums : mapping of str to (float, float)
            For each loss and metric the sum over the items, each times its weight, and the sum of the weights;
            (0.0, 0.0) for those of an objective without an update in this iteration.
        lr : float
            η of this update.
        """
        ended = self._now()
        now = self._interval
        now.epoch, now.iteration, now.lr = epoch, iteration, float(lr)
        now.iterations += 1
        now.items += int(items)
        add_sums(now.sums, sums)
        if self._display is not None and self._display.bar is not None:
            self._display.advance(self._train_record(self._now()))
        # A model that says itself how far an iteration went may pass over the number.
        passed = iteration // self._log_interval > self._reached // self._log_interval
        self._reached = iteration
        if passed:
            record = self._close_interval()
            if self._display is not None:
                self._display.alive(record)
        began, self._iteration = self._iteration, None
        if self._timeline is not None and self._timeline.iteration(
            iteration, ended if began is None else began, ended
        ):
            if self._lockstep:
                self._write_timeline()
            else:
                self._traced = True

    def flush(self) -> None:
        """Write down the interval so far, on the disk, and stop its clock until the next `start`."""
        if self._interval.iterations:
            self._close_interval()
        if self._log is not None:
            # Before a checkpoint: after a loss of power the log must not end earlier.
            self._log.sync()
        # What was timed while nothing was trained, as in a validation, is not part of the next interval.
        self._begin_interval(None)
        self._iteration = None

    def validation(
        self, epoch: int, iteration: int, items: int, sums: Mapping[str, tuple[float, float]]
    ) -> None:
        """Take in one validation. Sums are over all ranks.

        Parameters
        ----------
        epoch, iteration : int
            As for `train`: the last one before the validation.
        items : int
            Of the validation set.
        sums : mapping of str to (float, float)
            As for `train`.
        """
        self.flush()
        record = validation_record(
            *(self._reported.metrics, int(epoch), int(iteration), int(items), sums), averaged=self._averaged
        )
        self._write(record)
        about, trained = self._reported, self._epochs.pop(epoch, Totals(self._reported.metrics)).means()
        if self._display is not None:
            self._display.say(
                f"epoch {epoch + 1}, iteration {iteration}/{self._iterations}: "
                f"{as_number(trained['items_per_s'])} {about.noun}/s; "
                f"training {f'on mixed {about.noun}: ' * self._mixed}{values_of(trained, about.main)}; "
                f"validation {'of the EMA: ' * self._averaged}{values_of(record, about.metrics)}"
            )
        if self._drawing < DRAWING * (monotonic() - self._drawn):
            self._draw_curves()

    def meeting(self, epoch: int, iteration: int, done: Sequence[int], told: Sequence[Told]) -> None:
        """Take in that ranks that are not in step have met.

        Parameters
        ----------
        epoch, iteration : int
            To which all ranks have come, on average.
        done : sequence of int
            How many iterations each of them has done.
        told : sequence of Told
            Of each rank on rank 0, of none elsewhere.
        """
        if told:
            self._write(meeting_record(int(epoch), int(iteration), done, told))
        if self._timeline is not None and all(self._comm.allgather(self._traced)):
            self._write_timeline()

    def diverged(self, epoch: int, iteration: int, reason: str) -> None:
        """End a run that cannot go on: write the last interval and why.

        Parameters
        ----------
        epoch : int
            0-based index.
        iteration : int
            The one that failed; those before it are finished.
        reason : str
            As a person is told.
        """
        self.flush()
        self._write({"kind": "diverged", "epoch": int(epoch), "iteration": int(iteration), "reason": reason})
        self._close_shown()

    def stopped(self) -> None:
        """End a run in good order before its end: a resumed one goes on with its log."""
        self.flush()
        self._close_shown()

    @property
    def best(self) -> dict[str, Any] | None:
        """The record of the validation with the smallest headline metric so far, the first of equal ones."""
        headline = self._reported.headline
        return min(self._judged, key=lambda record: record[headline], default=None)

    @property
    def _judged(self) -> list[dict[str, Any]]:
        """The records of the validations that have the headline metric."""
        return [record for record in self._validations if record.get(self._reported.headline) is not None]

    def _draw_curves(self) -> None:
        """Draw them on rank 0, if there is anything to draw."""
        if self._out is None or self._draw is None or not self._drawable:
            return
        self._progress.now("drawing the curves")
        began = monotonic()
        with writing(self._out / CURVES_FILE):
            self._draw(self._out / LOG_FILE, self._out / CURVES_FILE)
        self._drawn = monotonic()
        self._drawing = self._drawn - began

    def _close_shown(self) -> None:
        """End what shows the log: the bar, the loggers, and the curves, which are drawn a last time."""
        if self._display is not None:
            self._display.close()
        for logger in self._loggers:
            logger.close()
        self._loggers = []
        self._draw_curves()

    def close(self) -> None:
        """End the run: write the last interval and the summary, draw the curves, and print how it went."""
        self.flush()
        if self._timeline is not None:
            self._write_timeline()
        ranks = self._compare()
        totals = self._all.means()
        headline = self._reported.headline
        best, last = self.best, [record[headline] for record in self._judged[-5:]]
        median = statistics.median(last) if last else None
        iteration = self._last
        self._write(
            {"kind": "summary", "iteration": iteration}
            | totals
            | {f"{BEST}{headline}": best and best[headline], f"{MEDIAN}{headline}": median}
            | self._meetings.totals()
            | ({"ranks": ranks} if len(ranks) > 1 else {})
        )
        self._close_shown()
        if self._verbose:
            # An empty line first: mpirun may let out what it holds of the bar only after this.
            summary = "\n".join(self._summary(iteration, totals, ranks, best, median, len(last)))
            print("\n" + folded(summary, text_columns()), flush=True)

    def _summary(
        self,
        iteration: int,
        totals: dict[str, Any],
        ranks: list[dict[str, Any]],
        best: dict[str, Any] | None,
        median: float | None,
        of: int,
    ) -> list[str]:
        who = counted(self._size, "rank") if self._lockstep or self._size == 1 else f"rank 0 of {self._size}"
        wall = totals["wall_s"]
        items, speed, noun = totals["items"], as_number(totals["items_per_s"]), self._reported.noun
        lines = [
            f"{iteration} of {counted(self._iterations, 'iteration')} on {who}: "
            f"{items} {noun} in {wall:.1f} s of training, {speed} {noun}/s"
        ]
        if wall:
            lines += [
                "",
                *use_of_time(totals, self._size),
                *(slowest_rank(ranks) if self._lockstep else []),
                *self._meetings.lines(),
                "",
            ]
        if best is not None:
            name = self._reported.headline
            text = f"validation {name}: best {as_text(name, best[name])} (epoch {best['epoch'] + 1})"
            if of > 1:
                text += f", median of the last {of} {as_text(name, median)}"
            lines.append(text)
        if self._out is not None:
            names = (LOG_FILE, CSV_FILE, CURVES_FILE, TIMELINE_FILE, CONFIG_FILE, CHECKPOINT_FILE, BEST_FILE)
            lines.append(
                f"in {self._out}: " + ", ".join(name for name in names if os.path.exists(self._out / name))
            )
        return lines

    def _compare(self) -> list[dict[str, Any]]:
        """How each rank spent its time since this process began, on rank 0."""
        own = self._own.means()
        names = ("wall_s", *(f"{kind}_s" for kind in KINDS))
        mine = {"place": self._place} | {name: own[name] for name in names}
        ranks = [mine] if self._comm is None else self._comm.gather(mine, root=0) or []
        return [{"rank": rank} | one for rank, one in enumerate(ranks)]

    def _write_timeline(self) -> None:
        assert self._timeline is not None
        with self.aside():
            trace = gather_trace(self._comm, self._place, self._timeline)
            self._timeline = None
            if trace is not None and self._out is not None:
                replace_text(self._out / TIMELINE_FILE, json.dumps(trace, allow_nan=False) + "\n")

    def _begin_interval(self, clock: float | None) -> None:
        self._interval = _Interval()
        self._begin_times(clock)

    def _close_interval(self) -> dict[str, Any]:
        now = self._now()
        record = self._train_record(now)
        self._own.add(record)
        self._write(record)
        # The time that writing takes belongs to the next interval: nothing falls between two of them.
        self._begin_interval(None if self._clock is None else now)
        return record

    def _train_record(self, now: float) -> dict[str, Any]:
        interval = self._interval
        wall = self._wall(now)
        return {
            "kind": "train",
            "epoch": int(interval.epoch),
            "iteration": int(interval.iteration),
            **{name: interval.mean(name) for name in self._reported.metrics},
            "lr": interval.lr if math.isfinite(interval.lr) else None,
            "items_per_s": ratio(interval.items, wall),
            **{f"{kind}_s": seconds for kind, seconds in self.seconds.items()},
            "iterations": interval.iterations,
            "items": interval.items,
            "wall_s": wall,
            **({"labels": "mixed"} if self._mixed else {}),
        }

    def _write(self, record: dict[str, Any]) -> None:
        if self._virtual:
            record["virtual_s"] = self._earlier + self._now()
        self._count(record)
        if self._log is not None:
            self._log.append(json_line(record))
        if record["kind"] in LOGGED:
            for logger in self._loggers:
                logger.write(dict(record))  # its own: it may take out of it what it likes

    def _count(self, record: dict[str, Any]) -> None:
        """Keep of a record what the summary needs."""
        self._last = record["iteration"]
        if record["kind"] in LOGGED:
            self.last = record
        self._drawable = self._drawable or record["kind"] in ("train", "val")
        if record["kind"] == "train":
            self._all.add(record)
            self._epochs.setdefault(record["epoch"], Totals(self._reported.metrics)).add(record)
        elif record["kind"] == "val":
            self._validations.append(record)
        elif record["kind"] == "meeting":
            self._meetings.add(record)
