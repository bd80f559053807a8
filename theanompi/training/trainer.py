"""One rank's epochs: its iterations, checkpoints and meetings with the other ranks, and an end that all agree on."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpi4py import MPI

from theanompi.config import RunConfig
from theanompi.launch.ends import STOPPED, tell, what_is_saved
from theanompi.record.folder import keep_checkpoint
from theanompi.record.meetings import Told
from theanompi.record.progress import Progress
from theanompi.rules import Diverged, Rule
from theanompi.rules.rule import comes_due
from theanompi.system.processes import LAUNCHER
from theanompi.training.links import Links
from theanompi.training.loop import train_alone, train_epoch, validate
from theanompi.training.model import hook
from theanompi.training.ranks import Agreed, agree, together
from theanompi.training.replica import Replica
from theanompi.training.saving import save_checkpoint
from theanompi.training.stop import StopSignals


class Trainer:
    """Trains a rank's model to the last iteration of a run, or to the one after which all ranks end.

    Parameters
    ----------
    model : Replica
        Compiled, with the weights to start from.
    rule : Rule
        Attached.
    links : Links
        Its ways to the other ranks.
    recorder : Recorder
    config : RunConfig
    last : int
        The run's iterations.
    comm : mpi4py.MPI.Intracomm
        All ranks.
    progress : Progress
        Told what this rank is doing.
    stop : StopSignals
        Whether it was asked to stop.
    clock : callable
        Gives the time in seconds.
    """

    def __init__(
        self,
        model: Replica,
        rule: Rule,
        links: Links,
        recorder: Any,
        config: RunConfig,
        *,
        last: int,
        comm: MPI.Intracomm,
        progress: Progress,
        stop: StopSignals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model, self._rule, self._links, self._recorder = model, rule, links, recorder
        self._config, self._last, self._out = config, last, Path(config.out or "")
        self._comm, self._progress, self._stop, self._clock = comm, progress, stop, clock
        self._per_epoch = model.data.n_batch_train

    def train(self, done: int, own: int) -> None:
        """Train from the `done`-th iteration of the run on, of which this rank has done `own`; collective.

        Raises
        ------
        Agreed
            On all ranks: one of them was asked to stop, or its loss is not finite.
        """
        try:
            if self._rule.lockstep:
                self._train_in_lockstep(done)
            else:
                self._train_alone(own)
        except Diverged as error:
            agree(self._comm, error)

    def _train_in_lockstep(self, done: int) -> None:
        """All ranks are in the same iteration."""
        per_epoch, interval = self._per_epoch, self._config.checkpoint_interval
        will_validate = self._last // per_epoch > done // per_epoch
        while done < self._last:
            epoch, start = divmod(done, per_epoch)
            end = min(per_epoch, self._last - epoch * per_epoch)

            def after(position: int, epoch: int = epoch) -> None:
                nonlocal will_validate
                before, done = self._progress.iteration, epoch * per_epoch + position
                self._progress.iteration = done
                if will_validate:
                    # The first update has not waited for it; what is wrong with it is said at once all the same.
                    will_validate = False
                    self._progress.now("compiling the validation")
                    with self._recorder.aside():
                        together(self._comm, self._model.compile_validation)
                # At the end of an epoch the validation comes first: its line would be lost with a kill in between.
                if position < per_epoch:
                    if interval and comes_due(interval, before, done):
                        self._save(done, epoch, done)
                    self._stop_if_agreed(done, epoch, done)

            train_epoch(self._model, self._rule, self._recorder, epoch, start, end, self._stop, after)
            done = epoch * per_epoch + end
            self._end_epoch(epoch, done)

    def _train_alone(self, done: int) -> None:
        """Each rank is in an iteration of its own; an epoch is one of all ranks together, whoever did it."""
        size, interval = self._comm.Get_size(), self._config.checkpoint_interval
        total = self._comm.allreduce(done)
        if self._comm.Get_rank() == 0:
            self._links.count(total)
        self._comm.Barrier()

        def after(reached: int) -> None:
            self._progress.iteration = reached

        while total < self._last * size:
            reached = total // size
            epoch = reached // self._per_epoch
            until = end = min((epoch + 1) * self._per_epoch, self._last)
            if interval:
                until = min(end, (reached // interval + 1) * interval)
            pace: list[int] = []
            reason = None
            try:
                done = train_alone(
                    self._model,
                    self._rule,
                    self._recorder,
                    done,
                    total,
                    until * size,
                    size,
                    self._stop,
                    self._links.count,
                    pace.append,
                    after,
                )
            except Diverged as error:
                self._links.call()
                reason = error
            total = self._meet(epoch, done, pace, reason)
            if total >= end * size:
                self._end_epoch(epoch, done)
            else:
                if total >= until * size:
                    self._save(until, epoch, done)
                self._stop_if_agreed(total // size, epoch, done)

    def _meet(self, epoch: int, done: int, pace: list[int], error: Diverged | None) -> int:
        """Wait for the other ranks; gives how many iterations all have done.

        Raises
        ------
        Agreed
            If one of them comes with an error.
        """
        self._progress.now("meeting the other ranks")
        began = self._clock()
        with self._progress.waiting("waiting for the other ranks"):
            told = self._comm.allgather((done, self._stop.asked, "" if error is None else str(error)))
        waited = self._clock() - began
        self._stop.agreed = any(asked for _, asked, _ in told)
        reason = next((reason for *_, reason in told if reason), "")
        total = sum(done for done, *_ in told)
        if reason and error is None:
            self._recorder.diverged(epoch, self._progress.iteration + 1, reason)
        agree(self._comm, error)
        self._recorder.flush()
        self._recorder.meeting(
            epoch,
            total // len(told),
            [done for done, *_ in told],
            self._comm.gather(Told(waited, self._rule.passes(), self._rule.letters(), pace)) or [],
        )
        return total

    def _end_epoch(self, epoch: int, own: int) -> None:
        done = min((epoch + 1) * self._per_epoch, self._last)
        if done == (epoch + 1) * self._per_epoch:
            self._rule.meet(self._model)
            validate(self._model, self._comm, self._recorder, epoch, done, self._stop, self._progress)
            self._model.adjust_hyperp(epoch)
        self._save(done, epoch, own)
        self._stop_if_agreed(done, epoch, own)

    def _save(self, done: int, epoch: int, own: int) -> None:
        """Write a checkpoint of that iteration, unless it is the one that is there."""
        if done <= (self._progress.saved or 0):
            return
        self._progress.now("writing a checkpoint")
        self._recorder.flush()
        self._rule.meet(self._model)
        finite = self._model.finite()
        with self._progress.waiting("waiting for the other ranks"):
            finite = self._comm.allreduce(finite, MPI.LAND)
        if not finite:
            reason = "the update has made weights or velocities that are not finite"
            self._recorder.diverged(epoch, done, reason)
            agree(self._comm, Diverged(f"iteration {done}: {reason}"))
        save_checkpoint(self._model, self._rule, self._out, self._comm, self._config, done, own)
        self._progress.saved = done
        if self._comm.Get_rank() == 0:
            tell(saved=done)
        self.keep(done)
        self._rule.go_on(self._model)

    def keep(self, done: int) -> None:
        """Keep what was saved after that iteration beyond the next checkpoint, if it is the best, or asked for."""
        if self._comm.Get_rank() == 0:
            best = self._recorder.best
            is_best = best is not None and best["iteration"] == done
            keep_checkpoint(self._out, done, best=is_best, last=self._config.keep)

    def _stop_if_agreed(self, done: int, epoch: int, own: int) -> None:
        """End in good order if all ranks know that one of them was asked to."""
        if not self._stop.agreed or done == self._last:
            return
        self._save(done, epoch, own)
        self._recorder.stopped()
        self.tell_hook()
        names = self._comm.allgather(self._stop.name)
        if self._comm.Get_rank() == 0:
            asked = next(of for of, name in enumerate(names) if name)
            why = names[asked] + (f" to rank {asked}" if asked else "")
            tell(stopped=why)
            if LAUNCHER not in os.environ:
                saved = what_is_saved(done, str(self._out), resumable=self._progress.resumable)
                print(f"theanompi: stopped in good order by {why}; {saved}", file=sys.stderr, flush=True)
        raise Agreed(STOPPED)

    def tell_hook(self) -> None:
        """Let the model's class know that the run has ended in good order; collective."""
        on_end = hook(self._model, "on_end")
        if on_end is not None:
            self._progress.now("in the model's own on_end")
            on_end(self._comm.bcast(self._recorder.last))
