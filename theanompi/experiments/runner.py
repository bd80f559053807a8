"""Runs an experiment: every arm with every worker count and seed, through the real rule, up to the report.

It can be stopped at any moment and in any way, and goes on with the same call: what is done is read from the runs'
own folders and nowhere else. Neither torch nor MPI is needed here; they are in the runs.
"""

import contextlib
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from theanompi.config import ConfigError, counted, one_line, resolve
from theanompi.experiments.file import Experiment, Trial
from theanompi.experiments.presets import GLYPHS
from theanompi.experiments.report import report
from theanompi.experiments.results import EXPERIMENT_FILE, OUTPUT_FILE
from theanompi.experiments.statistics import Run
from theanompi.experiments.storage import (
    alone,
    check_same,
    copy_runs,
    machine_of,
    make_folder,
    read_trial,
    runs_elsewhere,
    say,
    set_aside,
)
from theanompi.launch.check import check
from theanompi.launch.job import WORKER, handle_signals
from theanompi.launch.mpirun import Outcome, world
from theanompi.record.folder import BEST_FILE, CHECKPOINT_FILE, replace_text
from theanompi.record.metrics import as_number, is_fraction
from theanompi.record.terminal import SECONDS_BETWEEN_LINES, bar, terminal_columns
from theanompi.rules import Rule, RunFailed, get_rule
from theanompi.system.cgroup import cores

TICK = 0.5
"""Seconds between two looks at the logs."""


class _Ending(NamedTuple):
    """How a run ended in this call: what its folder says, and the reason if it failed."""

    trial: Trial
    run: Run
    seconds: float
    failure: str | None = None


def compare(
    experiment: Experiment,
    out: Path,
    *,
    jobs: int | None = None,
    overwrite: bool = False,
    reuse: Sequence[Path] = (),
    module: str = WORKER,
) -> int:
    """Run what is not done yet of an experiment, then write its report and print it.

    Progress goes to standard error, the report to standard output. SIGINT, SIGTERM and SIGHUP stop the runs, and
    the report is of what there is.

    Parameters
    ----------
    experiment : Experiment
    out : Path
        Its folder.
    jobs : int, optional
        How many runs at once. By default as many as cores allow when they compute on the CPU, else one.
    overwrite : bool
        Run again what is there with other settings, which otherwise is an error.
    reuse : sequence of Path
        Folders of other experiments, from which complete runs with the same settings are copied.
    module : str
        The worker's module.

    Returns
    -------
    int
        0 when every run is complete, be it that it diverged; 1 when one failed; 128 + the number of a signal.

    Raises
    ------
    ConfigError
        When a setting is wrong, the folder has runs with other settings or another compare is at work in it.
    """
    place = world()
    if place is not None and place.size != 1:
        raise ConfigError(
            "compare: expected to be started alone, as it starts an mpirun for each run, got a rank of one"
        )
    trials = experiment.trials(out)
    make_folder(out)
    with alone(out) as lock:
        # Whatever may be wrong is found before anything is changed.
        others = check_same(experiment, out, trials, overwrite)
        missing = [trial for trial in trials if trial in others or not read_trial(trial).complete]
        sources = runs_elsewhere(missing, out, reuse)
        to_run = [trial for trial in missing if trial not in sources]
        if to_run:
            _check_runs(to_run)
        about = experiment.to_dict() | {"machine": machine_of(experiment, out, bool(to_run), sources)}
        for trial in others:
            shutil.rmtree(trial.folder)
        set_aside(trials)
        copy_runs(sources)
        replace_text(out / EXPERIMENT_FILE, json.dumps(about, indent=2) + "\n")
        ranks = experiment.simulate or max(trial.workers for trial in trials)
        at_once = jobs or (max(1, cores() // ranks) if experiment.device == "cpu" else 1)
        runner = _Runner(trials, at_once, lock, module)
        runner.say(
            f"{experiment.name} at scale {experiment.scale}: {counted(len(trials), 'run')}, "
            f"{runner.done} of them done; {at_once} at once; in {out}"
        )
        runner.run()
    complete = [trial for trial in trials if read_trial(trial).complete]
    if runner.stopped is not None:
        say(f"stopped with {len(complete)} of {counted(len(trials), 'run')} done; the same command goes on")
    elif runner.failed:
        say(f"{runner.failed} of {counted(len(trials), 'run')} failed; the same command tries them again")
    status = 128 + runner.stopped if runner.stopped is not None else int(runner.failed > 0)
    if complete:
        try:
            print(report(out, columns=terminal_columns(output=True)), flush=True)
        except (ValueError, OSError) as error:
            say(one_line(f"no report: {error}"))
            status = status or 1
    return status


def _check_runs(trials: Iterable[Trial]) -> None:
    """Make the data set of the small scale if it is missing, and check what can be checked before a run."""
    if not Path(GLYPHS).exists() and any(trial.config.data == GLYPHS for trial in trials):
        from theanompi.data.pack.command import main  # with NumPy and HDF5

        Path(GLYPHS).parent.mkdir(exist_ok=True)
        if main(["glyphs", "-o", GLYPHS]):
            raise ConfigError(f"data: expected {GLYPHS} to be made, got the above")
    for trial in trials:
        try:
            get_rule(trial.config.rule).check(trial.config)
            check(trial.config)
        except ConfigError as error:
            raise ConfigError(f"{trial.arm}: {error}") from None


class _Runner:
    """Runs what is not complete of some trials, several at once, and shows how far the whole is.

    Parameters
    ----------
    trials
        All of them.
    jobs
        How many at once; each has its share of the cores.
    lock
        A file descriptor that the runs inherit.
    module
        The worker's module.

    Attributes
    ----------
    done, failed : int
        Complete trials, and those that failed in this call.
    stopped : int or None
        The signal that stopped it.
    """

    def __init__(self, trials: Sequence[Trial], jobs: int, lock: int, module: str):
        self._jobs, self._lock, self._module = jobs, lock, module
        self._rules: dict[Trial, Rule] = {}
        self._all = len(trials)
        self._todo: list[Trial] = []
        self._epochs = dict.fromkeys(trials, 0)
        self.done, self.failed = 0, 0
        self.stopped: int | None = None
        for trial in trials:
            run = read_trial(trial)
            self._epochs[trial] = _length(trial) if run.complete else len(run.validation)
            if run.complete:
                self.done += 1
                _clean(trial)
            else:
                self._todo.append(trial)
        self._begin, self._said = time.monotonic(), time.monotonic()
        self._before = sum(self._epochs.values())
        self._bar: Any = None

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        self._said = time.monotonic()
        if self._bar is None:
            say(text)
        else:
            self._bar.write(text, file=sys.stderr)

    def run(self) -> None:
        """Run them; returns when all have ended, or a signal has stopped them."""
        if not self._todo:
            return
        with self._signals(), self._progress(), ThreadPoolExecutor(self._jobs) as pool:
            pending: set[Future[_Ending | None]] = {pool.submit(self._train, trial) for trial in self._todo}
            try:
                while pending:
                    ended, pending = wait(pending, TICK, FIRST_COMPLETED)
                    for ending in (future.result() for future in ended):
                        if ending is not None:
                            self._tell(ending)
                    self._look()
            except BaseException:
                self._stop(signal.SIGTERM)
                raise

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """End the runs at a signal; a second one does what it would have done before."""
        handlers: dict[int, Any] = {}

        def restore() -> None:
            while handlers:
                signal.signal(*handlers.popitem())

        def end(number: int, frame: FrameType | None) -> None:
            restore()
            self._stop(number)

        if threading.current_thread() is threading.main_thread():
            handlers |= handle_signals(end)
        try:
            yield
        finally:
            restore()

    def _stop(self, number: int) -> None:
        self.stopped = number
        for rule in list(self._rules.values()):
            rule.cancel()

    def _train(self, trial: Trial) -> _Ending | None:
        """Be one run, in a thread of its own; None when it was stopped."""
        if self.stopped is not None:
            return None
        begin, output = time.monotonic(), trial.folder / OUTPUT_FILE
        resume = False
        try:
            resume = read_trial(trial).state == "unfinished" and (trial.folder / CHECKPOINT_FILE).exists()
            trial.folder.mkdir(parents=True, exist_ok=True)
            if not resume:
                output.unlink(missing_ok=True)
            printed = output.stat().st_size if output.exists() else 0
            status, deaths = self._wait(trial, resume, output)
            run = read_trial(trial)
            if run.complete:
                _clean(trial)
                return _Ending(trial, run, time.monotonic() - begin)
            if self.stopped is not None:
                return None
            text = output.read_bytes()[printed:].decode(errors="replace")
            # Above 128: a signal, of which the number says less than its name.
            why = deaths[0] if deaths else Outcome(status if status <= 128 else 128 - status, "", text).how(0)
            why = why.replace("(theanompi: ", "(", 1)
        except Exception as error:  # of one run: the others go on
            run, why = Run(trial.seed, "missing"), f"failed ({error})"
        why += f"; see {output}"
        if resume:
            why += f", or remove {trial.folder} to begin it again"
        return _Ending(trial, run, time.monotonic() - begin, why)

    def _wait(self, trial: Trial, resume: bool, output: Path) -> tuple[int, Sequence[str]]:
        """Start a run and wait for its end; gives its exit status, and who ended badly."""
        # Runs that are stopped go on from the end of an epoch: their logs are those of runs that never were. They draw
        # no curves: the report has those of all.
        config = replace(
            trial.config, resume=resume, overwrite=not resume, save_on_signal=False, curves=False
        )
        rule = get_rule(config.rule)
        rule.start(
            config,
            module=self._module,
            output=output,
            threads=max(1, cores() // (self._jobs * len(config.devices))),
            keep_open=[self._lock],
        )
        self._rules[trial] = rule
        # The signal may have come before it was among the rules.
        if self.stopped is not None:
            rule.cancel()
        try:
            return rule.wait(), ()
        except RunFailed as failure:
            return failure.status, failure.deaths
        finally:
            del self._rules[trial]

    @contextlib.contextmanager
    def _progress(self) -> Iterator[None]:
        columns = terminal_columns()
        if columns is not None:
            self._bar = bar(
                columns,
                total=sum(map(_length, self._epochs)),
                initial=self._before,
                # The mean speed: epochs end in bursts, all runs begun together.
                smoothing=0,
                bar_format="{desc}{bar}| {n_fmt}/{total_fmt} epochs [{remaining} left]",
            )
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.close()
                self._bar = None

    def _tell(self, ending: _Ending) -> None:
        """Say how a run ended."""
        trial, run = ending.trial, ending.run
        if ending.failure is None:
            self.done += 1
            self._epochs[trial] = _length(trial)
            how = (
                (
                    f"{run.figure:.1f} %"
                    if is_fraction(run.metric)
                    else f"{run.metric} {as_number(run.figure)}"
                )
                if run.figure is not None
                else f"diverged in epoch {run.epoch}: {run.reason}"
            )
            how += f", {_time(ending.seconds)}"
        else:
            self.failed += 1
            how = ending.failure
        self.say(f"{trial}: {how} ({self.done} of {self._all})")

    def _look(self) -> None:
        """Look how far the runs are, and show it."""
        for trial in list(self._rules):
            self._epochs[trial] = len(read_trial(trial).validation)
        now = sum(self._epochs.values())
        if self._bar is not None:
            self._bar.set_description_str(f"{self.done} of {counted(self._all, 'run')} ", refresh=False)
            self._bar.n = now
            self._bar.refresh()
        elif time.monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            left, total = "", sum(map(_length, self._epochs))
            if now > self._before:
                seconds = (time.monotonic() - self._begin) * (total - now) / (now - self._before)
                left = f", about {_time(seconds)} left"
            self.say(f"{self.done} of {counted(self._all, 'run')}, {now} of {counted(total, 'epoch')}{left}")


def _clean(trial: Trial) -> None:
    """Remove what a complete run no longer needs: the checkpoints of hundreds fill a disk."""
    for name in (CHECKPOINT_FILE, BEST_FILE):
        (trial.folder / name).unlink(missing_ok=True)


def _length(trial: Trial) -> int:
    """Epochs of a run."""
    epochs = resolve(trial.config).epochs
    assert epochs is not None
    return epochs


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
