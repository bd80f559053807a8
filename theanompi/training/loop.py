"""The training loop: what happens in which order, on every rank.

::

    every rank        device, model, data                                    rank.train
                      rule.attach: which buffers travel, by which strategy
                      compile: gradients and update of each objective
                      the checkpoint, if the run is resumed
    for each epoch
        for each iteration                                                   train_epoch
            every rank        rule.step                                      (a rule of your own acts here)
                for each objective that is due                               (Model.objectives)
                    every rank    its batches, A of them: forward, backward
                    all ranks     sum of the gradients, bucket by bucket while backward goes on
                    every rank    is the loss finite?  update                (Model.optimizer)
            rank 0            log, progress
            every rank        Model.on_iteration                             (a hook of your own acts here)
            every rank        after the first one: compile the validation, if the run comes to one
            all ranks         checkpoint, or the end, if all know that one was asked to stop
        rule.meet: the weights that count
        every rank        validates its share                                validate
        all ranks         sum of what was counted: each item once
        rank 0            log
        every rank        Model.on_validation                            (and here)
        rank 0            checkpoint
    rank 0            summary, curves
    every rank        Model.on_end                                           (and here)

Under the sync type ``avg`` the sum is one of weights, after each rank's own update. Under an asynchronous rule a rank
may exchange while it computes its gradients (`theanompi.exchange.helper`), and no rank waits within an epoch, which is
over when all together have done its iterations, whoever did them (`train_alone`): all meet then, at a checkpoint, and
when one of them is asked to stop or its loss is not finite, each after the iteration that it is in (`Trainer`'s
``_meet``); after that each goes on with its own weights (`Rule.go_on`).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

from mpi4py import MPI

from theanompi.record.log import iteration_record, validation_record
from theanompi.record.progress import Progress
from theanompi.rules import Diverged, Rule, Step
from theanompi.training.model import hook
from theanompi.training.replica import Replica
from theanompi.training.stop import StopSignals


def train_epoch(
    replica: Replica,
    rule: Rule,
    recorder: Any,
    epoch: int,
    start: int,
    end: int,
    stop: StopSignals,
    after: Callable[[int], None],
) -> None:
    """Train from position `start` of an epoch to position `end`.

    Parameters
    ----------
    rule : Rule
        Attached.
    recorder : Recorder
    stop : StopSignals
        That this rank was asked to stop travels with the metrics of each step, so that all agree when; or the others
        are called.
    after : callable
        Called with the next position after each iteration; saves checkpoints.

    Raises
    ------
    Diverged
        On every rank, if the loss of any of them is not finite, or on that rank alone, if they are not in step; the
        line says which, when, and at what η, and so does the log.
    """
    replica.epoch, count = epoch, start
    on_iteration, names = hook(replica, "on_iteration"), replica.reported.metrics
    while count < end:
        step = _step(replica, rule, recorder, count, stop)
        stop.agreed = step.asked
        count = min(replica.advance(count), end)
        done = epoch * replica.data.n_batch_train + count
        recorder.train(epoch, done, step.items, step.sums, lr=step.eta)
        if on_iteration is not None:
            on_iteration(iteration_record(names, epoch, done, step.items, step.sums, step.eta))
        after(count)
    recorder.flush()


def train_alone(
    replica: Replica,
    rule: Rule,
    recorder: Any,
    done: int,
    total: int,
    until: int,
    size: int,
    stop: StopSignals,
    count: Callable[[int], int],
    before: Callable[[int], None],
    after: Callable[[int], None],
) -> int:
    """Train at this rank's own pace until all ranks have come to an iteration together, or one calls the others.

    A rank's own iterations say which of its items come next: who is fast begins again with them. How far all have come,
    on average, is the iteration that the schedule and the log go by.

    Parameters
    ----------
    rule : Rule
        Attached, and not `lockstep`.
    recorder : Recorder
    done : int
        This rank's finished iterations.
    total, until : int
        Those of all `size` ranks: so far, and in the end.
    count : callable
        Adds to what all have done; gives their total.
    before : callable
        Called with the iteration that the schedule goes by, before each of this rank's.
    after : callable
        Called with the iteration that all have come to, after each of this rank's.

    Returns
    -------
    int
        This rank's finished iterations.

    Raises
    ------
    Diverged
        If this rank's loss is not finite.
    """
    per_epoch = replica.data.n_batch_train
    on_iteration, names = hook(replica, "on_iteration"), replica.reported.metrics
    while total < until and not stop.agreed:
        replica.epoch, position = divmod(done, per_epoch)
        pace = total // size
        before(pace)
        replica.at(pace)
        step = _step(replica, rule, recorder, position, stop, pace)
        stop.agreed = step.asked
        finished = min(replica.advance(position), per_epoch) - position
        done, total = done + finished, count(finished)
        reached = min(total, until) // size
        epoch = max(reached - 1, 0) // per_epoch
        recorder.train(epoch, reached, step.items, step.sums, lr=step.eta)
        if on_iteration is not None:
            on_iteration(iteration_record(names, epoch, reached, step.items, step.sums, step.eta))
        after(reached)
    recorder.flush()
    return done


def _step(
    replica: Replica, rule: Rule, recorder: Any, count: int, stop: StopSignals, iteration: int | None = None
) -> Step:
    """One iteration at a position of the replica's epoch, which is number `iteration` unless that says otherwise."""
    if iteration is None:
        iteration = replica.epoch * replica.data.n_batch_train + count
    if stop.asked:
        replica.ask_to_stop()
    try:
        return rule.step(replica, count, recorder)
    except Diverged as error:
        eta = replica.rate(iteration)
        rate = "" if eta is None else f", η = {eta:g}"
        epoch = iteration // replica.data.n_batch_train
        recorder.diverged(epoch, iteration + 1, f"{error}{rate}")
        raise Diverged(f"iteration {iteration + 1}: {error}{rate}") from None


def validate(
    replica: Replica,
    comm: MPI.Comm,
    recorder: Any,
    epoch: int,
    iteration: int,
    stop: StopSignals,
    progress: Progress,
) -> None:
    """Validate on every rank's share of the items, record the sums, and tell the model's hook.

    Raises
    ------
    RuntimeError
        As `validation_of`.
    """
    items, sums = validation_of(replica, comm, recorder, stop, progress)
    recorder.validation(epoch, iteration, items, sums)
    on_validation = hook(replica, "on_validation")
    if on_validation is not None:
        on_validation(validation_record(replica.reported.metrics, epoch, iteration, items, sums))


def validation_of(
    replica: Replica, comm: MPI.Comm, recorder: Any, stop: StopSignals, progress: Progress
) -> tuple[int, dict[str, tuple[float, float]]]:
    """Validate on every rank's share of the items.

    Parameters
    ----------
    recorder : Recorder or None

    Returns
    -------
    items : int
        Of all ranks.
    sums : dict of str to (float, float)
        By the name of a loss or metric, its weighted sum and the sum of the weights over all ranks. Rounded once, so
        that they do not depend on who has validated which batches.

    Raises
    ------
    RuntimeError
        If not every item of the data set was counted exactly once.
    """
    batches = replica.data.n_batch_val
    for count in range(batches):
        progress.now(f"validating, batch {count + 1} of {batches}")
        replica.val_iter(count, recorder)
    rows = replica.validation_sums().tolist()
    progress.now("validating")
    with progress.waiting("waiting for the other ranks"):
        told = comm.allgather((rows, stop.asked))
    stop.agreed = any(asked for _, asked in told)
    items, *values = map(_sum, zip(*(row for rows, _ in told for row in rows), strict=True))
    expected = replica.n_validated()
    if expected is not None and items != expected:
        raise RuntimeError(f"validation: expected each of the {expected} items once, counted {items:g}")
    pairs = zip(values[::2], values[1::2], strict=True)
    return int(items), dict(zip(replica.reported.metrics, pairs, strict=True))


def _sum(values: Iterable[float]) -> float:
    """The sum as if it were exact and rounded once, in any order; NaN where there is none."""
    try:
        return math.fsum(values)
    except (OverflowError, ValueError):  # too large, or infinities of both signs
        return math.nan
