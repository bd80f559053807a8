"""The training loop: what happens in which order, on every rank."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from theanompi.config import ConfigError
from theanompi.exchange import Exchanger
from theanompi.record.metrics import CLASSIFIER
from theanompi.record.progress import Progress
from theanompi.training.model import Totals
from theanompi.training.stop import StopSignals


class Diverged(ConfigError):
    """The loss is no longer a finite number."""


def sum_gradients(
    model: Any, exchanger: Exchanger, comm: MPI.Comm, recorder: Any, count: int, stop: StopSignals
) -> tuple[Totals, Any]:
    """The sync type ``cdd``: sum the gradients of all ranks, then update ('their way').

    Returns
    -------
    Totals
        Over all ranks.
    float
        η of the update.
    """
    recorder.start("computing gradients")
    exchanger.synchronise()
    recorder.end("calc")
    recorder.start("exchanging")
    exchanger.sum()
    recorder.end("comm")
    recorder.exchanged(exchanger.spans)
    recorder.start("updating")
    totals, losses, stop.agreed = model.totals(count)  # waits for the device
    _check_finite(model, losses)
    eta = model.update()
    recorder.end("calc", "update")
    return totals, eta


def average_weights(
    model: Any, exchanger: Exchanger, comm: MPI.Comm, recorder: Any, count: int, stop: StopSignals
) -> tuple[Totals, Any]:
    """The sync type ``avg``: each rank updates with its own velocity, then weights are averaged ('my way')."""
    recorder.start("updating")
    own, *_ = model.totals(count)  # waits for the device
    eta = model.update()
    weights = model.weights_to_average()
    exchanger.synchronise()
    recorder.end("calc", "update")
    recorder.start("exchanging")
    exchanger.sum()
    weights.flat.div_(comm.Get_size())
    model.weights_averaged()
    sums, per_rank = np.array([*own, stop.asked], dtype=float), np.zeros(comm.Get_size())
    per_rank[comm.Get_rank()] = own.loss
    for values in (sums, per_rank):
        comm.Allreduce(MPI.IN_PLACE, values)
    recorder.end("comm")
    recorder.exchanged(exchanger.spans)
    _check_finite(model, per_rank.tolist())
    *totals, asked = sums.tolist()
    stop.agreed = asked > 0
    return Totals(*totals), eta


def _check_finite(model: Any, losses: list[float]) -> None:
    bad = [f"{rank} ({loss:g})" for rank, loss in enumerate(losses) if not math.isfinite(loss)]
    if bad:
        raise Diverged(f"the loss is not finite on rank{'s' if len(bad) > 1 else ''} {', '.join(bad)}")


def _by_name(totals: Totals) -> dict[str, tuple[float, float]]:
    """The sums of a classifier, each with the sum of its weights."""
    sums = zip(CLASSIFIER.metrics, totals[1:], strict=True)
    return {name: (total, totals.images) for name, total in sums}


def train_epoch(
    model: Any,
    step: Callable[[Any, Exchanger, MPI.Comm, Any, int, StopSignals], tuple[Totals, Any]],
    exchanger: Exchanger,
    comm: MPI.Comm,
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
    model : Model or ContractModel
    step : callable
        `sum_gradients` or `average_weights`.
    exchanger : Exchanger
    comm : MPI.Comm
    recorder : Recorder
    epoch, start, end : int
    stop : StopSignals
        That this rank was asked to stop travels with the metrics of each step, so that all agree when.
    after : callable
        Called with the next position after each iteration; saves checkpoints.

    Raises
    ------
    Diverged
        On every rank, if the loss of any of them is not finite; the line says which, when, and at what η, and so
        does the log.
    """
    model.epoch = epoch
    for count in range(start, end):
        iteration = epoch * model.data.n_batch_train + count + 1
        if stop.asked:
            model.ask_to_stop()
        model.train_iter(count, recorder)
        recorder.loaded(model.readings())
        try:
            totals, eta = step(model, exchanger, comm, recorder, count, stop)
        except Diverged as error:
            schedule = getattr(model, "schedule", None)
            rate = f", η = {schedule(iteration - 1):g}" if schedule else ""
            recorder.diverged(epoch, iteration, f"{error}{rate}")
            raise Diverged(f"iteration {iteration}: {error}{rate}") from None
        recorder.train(epoch, iteration, totals.images, _by_name(totals), lr=float(eta))
        after(count + 1)
    recorder.flush()


def validate(
    model: Any,
    comm: MPI.Comm,
    recorder: Any,
    epoch: int,
    iteration: int,
    stop: StopSignals,
    progress: Progress,
) -> None:
    """Validate on every rank's share of the images and record the sums.

    Raises
    ------
    RuntimeError
        If not every image of the data set was counted exactly once.
    """
    batches = model.data.n_batch_val
    for count in range(batches):
        progress.now(f"validating, batch {count + 1} of {batches}")
        model.val_iter(count, recorder)
    sums = np.array([*model.validation_sums(), stop.asked], dtype=float)
    progress.now("validating")
    with progress.waiting("waiting for the other ranks"):
        comm.Allreduce(MPI.IN_PLACE, sums)
    *own, asked = sums.tolist()
    totals = Totals(*own)
    stop.agreed = asked > 0
    dataset = getattr(model.data, "dataset", None)
    if dataset is not None and totals.images != dataset.n_val:
        raise RuntimeError(
            f"validation: expected each of the {dataset.n_val} images once, counted {totals.images:g}"
        )
    recorder.validation(epoch, iteration, int(totals.images), _by_name(totals))
