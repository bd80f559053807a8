"""What a run writes down: its log, the progress that one watches, and the closing summary.

``log.jsonl`` has one strict JSON object a line (what is not finite is null), of four kinds:

``train``
    The interval since the previous such line: ``epoch`` (0-based index), ``iteration`` (finished updates),
    ``loss`` (mean over the interval's images), ``error`` and ``error_top5`` (fractions), ``lr`` (at
    ``iteration``), ``iterations`` and ``images`` (over all ranks) of the interval, ``wall_s``, ``images_per_s``
    (``images`` ÷ ``wall_s``), and how rank 0 spent the interval, in seconds summed over it (below).
    Validation and checkpoints are in none of the times.
``val``
    One validation: ``epoch``, ``iteration``, ``images``, ``loss``, ``error``, ``error_top5``.
``summary``
    The whole run, when it ended in good order: sums and means of the above, and of the validations
    ``best_error`` and ``median_error`` (of the last five). ``ranks`` has for each of several ranks where it was
    and how it spent its time since this process began (a resumed run has begun more than once).
``diverged``
    The end of a run whose loss was no longer finite: ``epoch``, ``iteration`` (the one that it was in, not
    finished) and ``reason``, in words.

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
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from tqdm import tqdm

from theanompi.config.files import writing
from theanompi.record.folder import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    CURVES_FILE,
    LOG_FILE,
    TIMELINE_FILE,
    replace_text,
)
from theanompi.record.log import HIDDEN, KINDS, PHASES, WAITS, json_line, ratio, records_until
from theanompi.record.progress import Progress
from theanompi.record.summary import Totals, as_number, as_percent, progress_line, slowest_rank, use_of_time
from theanompi.record.terminal import SECONDS_BETWEEN_LINES, terminal_columns
from theanompi.record.timeline import Span, Timeline
from theanompi.record.trace import gather_trace

# A timeline does not begin before so many iterations, in which memory is allocated and the loader gets ahead.
WARM_UP = 2


@dataclass
class _Interval:
    """What was trained since the last line of the log."""

    epoch: int = 0
    iteration: int = 0
    lr: float = 0.0
    iterations: int = 0
    images: int = 0
    loss_sum: float = 0.0
    errors: float = 0.0
    errors_top5: float = 0.0


class Recorder:
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
        Called by `close` with the paths of the log and of ``curves.png``: `theanompi.record.plots.plot_curves`.
    timeline : int, optional
        How many iterations are to be in ``timeline.json``, from the third of this process on, or sooner where
        that leaves too few; fewer where there are no more.
    comm : mpi4py.MPI.Intracomm, optional
        All ranks, to compare them at the end and for the timeline. Then `close` and `train` are collective.
    place : str
        Where this rank is, as in "cuda:1 on node0".
    progress : Progress, optional
        Told of each phase.

    Attributes
    ----------
    seconds : dict
        Those of the interval, by the names in the log without ``_s``.

    Raises
    ------
    theanompi.config.files.CannotWrite
        If there is a log in `out` and `resume_from` is None; from any method, if the run's files cannot be written.
    ValueError
        If the log to go on with is damaged, or ends before `resume_from`.

    Examples
    --------
    >>> from theanompi.record.log import read_log
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     recorder = Recorder(Path(folder), 0, 1, 1, log_interval=10, verbose=False, resume_from=None)
    ...     recorder.start()
    ...     recorder.end("calc")
    ...     recorder.train(0, 1, images=32, loss_sum=64.0, errors=8, errors_top5=4, lr=0.1)
    ...     recorder.flush()
    ...     line = read_log(folder + "/log.jsonl")[0]
    >>> line["loss"], line["error"], line["error_top5"]
    (2.0, 0.25, 0.125)
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
    ) -> None:
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self._interval = _Interval()
        self._clock: float | None = None
        self._phase: float | None = None
        self._iteration: float | None = None
        self._exchange: tuple[float, float] | None = None
        self._waits: deque[tuple[float, float]] = deque(maxlen=WAITS)
        self._timeline: Timeline | None = None
        if timeline is not None:
            left_over = iterations - (resume_from or 0) - timeline
            self._timeline = Timeline(timeline, skip=min(WARM_UP, max(0, left_over)))
        self._comm, self._place = comm, place
        self._progress = Progress() if progress is None else progress
        self._said = monotonic()
        # The other ranks do the same sums, and nothing comes of them.
        self._out = out if rank == 0 else None
        self._verbose = verbose and rank == 0
        self._size, self._iterations = size, iterations
        self._log_interval, self._draw = log_interval, draw
        # Sums and no lists: a run may have millions of intervals.
        self._all, self._own = Totals(), Totals()
        self._epochs: dict[int, Totals] = {}
        self._validations: list[dict[str, Any]] = []
        self._last = 0
        self._log: Path | None = None
        if self._out is not None:
            self._log = self._out / LOG_FILE
            if resume_from is None:
                with writing(self._log):
                    self._log.touch(exist_ok=False)
            else:
                records = records_until(self._log, resume_from)
                replace_text(self._log, "".join(json_line(record) for record in records))
                for record in records:
                    self._count(record)
        self._bar: Any = None
        columns = terminal_columns() if self._verbose else None
        if columns is not None:
            self._bar = tqdm(
                total=iterations,
                initial=resume_from or 0,
                file=sys.stderr,
                ncols=columns - 1,
                # Else tqdm asks the terminal, and shows no bar on one that does not know its size.
                nrows=20,
                leave=False,
                bar_format="{desc}{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]",
            )

    def start(self, doing: str = "computing") -> None:
        """Begin a phase, which `end` names; the first one after a `flush` starts the interval's clock.

        Parameters
        ----------
        doing : str
            What is said of this rank if it never ends.
        """
        self._progress.now(doing)
        self._phase = monotonic()
        if self._clock is None:
            self._clock = self._phase
        if self._iteration is None:
            self._iteration = self._phase

    def end(self, kind: str, name: str = "") -> None:
        """Add the seconds since `start` to a kind of work.

        Parameters
        ----------
        kind : {"calc", "comm", "wait"}
            Computing, exchanging, waiting for data.
        name : str
            What a timeline calls it, if not by its kind.

        Raises
        ------
        ValueError
            If `kind` is another one, or if no phase was begun.
        """
        if kind not in PHASES:
            raise ValueError(f"recorder: expected a phase of {', '.join(PHASES)}, got {kind!r}")
        if self._phase is None:
            raise ValueError(f"recorder: expected start() before end({kind!r}), got none")
        phase = self._phase, monotonic()
        self.seconds[kind] += phase[1] - phase[0]
        if kind == "comm":
            self._exchange = phase
        if kind == "wait":
            self._waits.append(phase)
        self.spans("main", [Span(name or PHASES[kind], *phase)])
        self._phase = None
        self._progress.now("in the training loop")

    def exchanged(self, spans: Sequence[Span]) -> None:
        """Take in what the exchange consisted of that the last phase "comm" waited for.

        In the phase, "sync" is waiting for slower ranks and all else communication; outside of it, what the
        spans say was hidden.

        Parameters
        ----------
        spans : sequence of Span
            Not overlapping each other.

        Raises
        ------
        ValueError
            If there was no phase "comm" since the last call.
        """
        if self._exchange is None:
            raise ValueError('recorder: expected a phase "comm" before exchanged(), got none')
        exposed, hidden = {"comm": 0.0, "sync": 0.0}, {"comm": 0.0, "sync": 0.0}
        for span in spans:
            if span.kind in exposed:
                within = span.within(*self._exchange)
                exposed[span.kind] += within
                hidden[span.kind] += span.end - span.start - within
        self.seconds["sync"] += exposed["sync"]
        # Not below 0 where rounding would have it there.
        self.seconds["comm"] = max(0.0, self.seconds["comm"] - exposed["sync"])
        for kind, seconds in hidden.items():
            self.seconds[HIDDEN[kind]] += seconds
        self._exchange = None
        self.spans("exchange", spans)

    def loaded(self, readings: Sequence[Sequence[Span]]) -> None:
        """Take in when batches were read.

        Parameters
        ----------
        readings : sequence of sequences of Span
            For each loader process the batches that it has finished since the last call; ended phases "wait"
            are those in which they were waited for.
        """
        for i, spans in enumerate(readings, 1):
            for span in spans:
                hidden = span.end - span.start
                for wait in reversed(self._waits):
                    if wait[1] <= span.start:
                        break
                    hidden -= span.within(*wait)
                self.seconds["load_hidden"] += max(0.0, hidden) / len(readings)
            self.spans("loader" if len(readings) == 1 else f"loader {i}", spans)

    def spans(self, row: str, spans: Sequence[Span]) -> None:
        """Put spans of this iteration into the timeline, if there is to be one.

        Parameters
        ----------
        row : str
            Of this rank; a new name makes a new row. Spans of a row may contain, but not partly overlap, each other.
        spans : sequence of Span
        """
        if self._timeline is not None:
            self._timeline.add(row, spans)

    def train(
        self,
        epoch: int,
        iteration: int,
        images: int,
        loss_sum: float,
        errors: float,
        errors_top5: float,
        lr: float,
    ) -> None:
        """Take in one finished update. Sums are over all ranks.

        Parameters
        ----------
        epoch : int
            0-based index.
        iteration : int
            How many updates are finished, with this one.
        images : int
            Images of the minibatch.
        loss_sum : float
            Sum of their losses (nats).
        errors, errors_top5 : float
            How many were not recognised, at the first and within the first five guesses.
        lr : float
            η of this update.
        """
        ended = monotonic()
        now = self._interval
        now.epoch, now.iteration, now.lr = epoch, iteration, float(lr)
        now.iterations += 1
        now.images += int(images)
        now.loss_sum += float(loss_sum)
        now.errors += float(errors)
        now.errors_top5 += float(errors_top5)
        if self._bar is not None:
            record = self._train_record(monotonic())
            self._bar.set_description_str(f"epoch {epoch + 1} ", refresh=False)
            self._bar.set_postfix_str(progress_line(record), refresh=False)
            self._bar.update(iteration - self._bar.n)
        if iteration % self._log_interval == 0:
            record = self._close_interval()
            if self._bar is None and monotonic() - self._said >= SECONDS_BETWEEN_LINES:
                self._say(
                    f"epoch {epoch + 1}, iteration {iteration}/{self._iterations}: {progress_line(record)}"
                )
        began, self._iteration = self._iteration, None
        if self._timeline is not None and self._timeline.iteration(
            iteration, ended if began is None else began, ended
        ):
            self._write_timeline()

    def flush(self) -> None:
        """Write down the interval so far, on the disk, and stop its clock until the next `start`."""
        if self._interval.images:
            self._close_interval()
        if self._log is not None:
            # Before a checkpoint: after a loss of power the log must not end earlier.
            with writing(self._log), open(self._log, "rb") as log:
                os.fsync(log.fileno())
        # What was timed while nothing was trained, as in a validation, is not part of the next interval.
        self._begin_interval(None)
        self._iteration = None

    def validation(
        self, epoch: int, iteration: int, count: int, loss_sum: float, errors: float, errors_top5: float
    ) -> None:
        """Take in one validation. Sums are over all ranks.

        Parameters
        ----------
        epoch, iteration : int
            As for `train`: the last one before the validation.
        count : int
            Images of the validation set.
        loss_sum : float
            Sum of their losses (nats).
        errors, errors_top5 : float
            How many were not recognised, at the first and within the first five guesses.
        """
        self.flush()
        record: dict[str, Any] = {
            "kind": "val",
            "epoch": int(epoch),
            "iteration": int(iteration),
            "loss": ratio(loss_sum, count),
            "error": ratio(errors, count),
            "error_top5": ratio(errors_top5, count),
            "images": int(count),
        }
        self._write(record)
        trained = self._epochs.pop(epoch, Totals()).means()
        self._say(
            f"epoch {epoch + 1}, iteration {iteration}/{self._iterations}: "
            f"{as_number(trained['images_per_s'])} images/s; "
            f"training loss {as_number(trained['loss'])}, error {as_percent(trained['error'])}; "
            f"validation loss {as_number(record['loss'])}, error {as_percent(record['error'])}, "
            f"top-5 {as_percent(record['error_top5'])}"
        )

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
        self._close_bar()

    def stopped(self) -> None:
        """End a run in good order before its end: a resumed one goes on with its log."""
        self.flush()
        self._close_bar()

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """End the run: write the last interval and the summary, draw the curves, and print how it went."""
        self.flush()
        if self._timeline is not None and self._timeline.first is not None:
            self._write_timeline()
        ranks = self._compare()
        self._close_bar()
        totals = self._all.means()
        known = [record for record in self._validations if record["error"] is not None]
        best = min(known, key=lambda record: record["error"], default=None)
        last = [record["error"] for record in known[-5:]]
        iteration = self._last
        self._write(
            {"kind": "summary", "iteration": iteration}
            | totals
            | {
                "best_error": best and best["error"],
                "median_error": statistics.median(last) if last else None,
            }
            | ({"ranks": ranks} if len(ranks) > 1 else {})
        )
        if self._out is not None and self._draw is not None and iteration:
            with writing(self._out / CURVES_FILE):
                self._draw(self._out / LOG_FILE, self._out / CURVES_FILE)
        if self._verbose:
            # An empty line first: mpirun may let out what it holds of the bar only after this.
            print("\n" + "\n".join(self._summary(iteration, totals, ranks, best, last)), flush=True)

    def _summary(
        self,
        iteration: int,
        totals: dict[str, Any],
        ranks: list[dict[str, Any]],
        best: dict[str, Any] | None,
        last: list[float],
    ) -> list[str]:
        who = "1 rank" if self._size == 1 else f"{self._size} ranks"
        wall = totals["wall_s"]
        images, speed = totals["images"], as_number(totals["images_per_s"])
        lines = [
            f"{iteration} of {self._iterations} iterations on {who}: "
            f"{images} images in {wall:.1f} s of training, {speed} images/s"
        ]
        if wall:
            lines += ["", *use_of_time(totals, self._size), *slowest_rank(ranks), ""]
        if best is not None:
            lines.append(
                f"validation error: best {as_percent(best['error'])} (epoch {best['epoch'] + 1}), "
                f"median of the last {len(last)} {as_percent(statistics.median(last))}"
            )
        if self._out is not None:
            names = (LOG_FILE, CURVES_FILE, TIMELINE_FILE, CONFIG_FILE, CHECKPOINT_FILE)
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
        before = monotonic()
        trace = gather_trace(self._comm, self._place, self._timeline)
        self._timeline = None
        if trace is not None and self._out is not None:
            replace_text(self._out / TIMELINE_FILE, json.dumps(trace, allow_nan=False) + "\n")
        if self._clock is not None:
            # Like a validation, in none of the times.
            self._clock += monotonic() - before

    def _begin_interval(self, clock: float | None) -> None:
        self._interval = _Interval()
        self._clock = clock
        self.seconds = dict.fromkeys(KINDS, 0.0)

    def _close_interval(self) -> dict[str, Any]:
        now = monotonic()
        record = self._train_record(now)
        self._own.add(record)
        self._write(record)
        # The time that writing takes belongs to the next interval: nothing falls between two of them.
        self._begin_interval(None if self._clock is None else now)
        return record

    def _train_record(self, now: float) -> dict[str, Any]:
        interval = self._interval
        wall = 0.0 if self._clock is None else now - self._clock
        return {
            "kind": "train",
            "epoch": int(interval.epoch),
            "iteration": int(interval.iteration),
            "loss": ratio(interval.loss_sum, interval.images),
            "error": ratio(interval.errors, interval.images),
            "error_top5": ratio(interval.errors_top5, interval.images),
            "lr": interval.lr if math.isfinite(interval.lr) else None,
            "images_per_s": ratio(interval.images, wall),
            **{f"{kind}_s": seconds for kind, seconds in self.seconds.items()},
            "iterations": interval.iterations,
            "images": interval.images,
            "wall_s": wall,
        }

    def _write(self, record: dict[str, Any]) -> None:
        self._count(record)
        if self._log is not None:
            with writing(self._log), open(self._log, "a", encoding="utf-8") as log:
                log.write(json_line(record))

    def _count(self, record: dict[str, Any]) -> None:
        """Keep of a record what the summary needs."""
        self._last = max(self._last, record["iteration"])
        if record["kind"] == "train":
            self._all.add(record)
            self._epochs.setdefault(record["epoch"], Totals()).add(record)
        elif record["kind"] == "val":
            self._validations.append(record)

    def _say(self, text: str) -> None:
        self._said = monotonic()
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._verbose:
            print(text, file=sys.stderr, flush=True)
