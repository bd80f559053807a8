"""What the training loop, the rules and the checkpoint see of a model: nothing else of it matters to them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from theanompi.device import FlatBuffer
from theanompi.exchange import Exchanger
from theanompi.record.metrics import Reported
from theanompi.record.timeline import Span


class Measures(NamedTuple):
    """What is told of the minibatch of an update.

    Attributes
    ----------
    items : int
        How many items it had.
    sums : mapping of str to (float, float)
        By the name of a loss or metric, its weighted sum and the sum of the weights.
    losses : list of float
        The summed loss of each rank, to say where it is not finite.
    asked : bool
        Whether a rank was asked to stop.
    """

    items: int
    sums: dict[str, tuple[float, float]]
    losses: list[float]
    asked: bool


class Batches(Protocol):
    """How many batches a replica has."""

    @property
    def n_batch_train(self) -> int:
        """Iterations in an epoch, the same on every rank."""

    @property
    def n_batch_val(self) -> int:
        """Validation batches of this rank."""


class Replica:
    """One rank's copy of what is trained: a `theanompi.Model`, or what wraps a class of Theano-MPI's interface.

    Objectives are called by their number; those that are `due` in an iteration are updated in their order. What a
    method does here is right for a class that keeps data, gradients and update to itself.

    Attributes
    ----------
    n_epochs : int
    reported : Reported
        The names of all losses and metrics.
    data : Batches
    epoch : int
        Which epoch positions are of.
    """

    n_epochs: int
    reported: Reported
    data: Batches
    epoch: int

    def gradient_buffers(self) -> list[FlatBuffer]:
        """The buffer that each objective's gradients are in, or none where a rule cannot have them."""
        return []

    def weights_to_average(self) -> FlatBuffer:
        """The buffer of the weights and running statistics, to be changed in place before `weights_averaged`."""
        raise NotImplementedError

    def weights_averaged(self) -> None:
        """Take over what the buffer of the weights has now."""

    def state_to_share(self) -> list[FlatBuffer]:
        """Buffers of all that updates read and write, to be changed in place before `state_shared`."""
        return []

    def state_shared(self) -> None:
        """Take over what those buffers have now."""

    def scale_gradients(self, objective: int, factor: float) -> None:
        """Multiply the gradients that are in the buffer of an objective, and nothing else in it."""

    def networks(self) -> list[list[torch.Tensor]]:
        """For each objective the pieces of `weights_to_average` that its updates change."""
        raise NotImplementedError

    def compile_iter_fns(self, sync_type: str, exchangers: Sequence[Exchanger] = ()) -> None:
        """Compile what trains.

        Parameters
        ----------
        sync_type : {"cdd", "avg"}
            Whether gradients are summed over the ranks before an update.
        exchangers : sequence of Exchanger
            Of the gradients of each objective, or none: each is told of a gradient as soon as backward has written it.
        """
        raise NotImplementedError

    def compile_validation(self) -> None:
        """Compile what validates, which the first update does not wait for."""

    def due(self, count: int) -> list[int]:
        """Which objectives are updated at this position of the epoch, in their order."""
        return [0]

    def train_iter(self, count: int, recorder: Any, objective: int = 0) -> None:
        """Compute an objective's gradients of this rank's share of a minibatch."""
        raise NotImplementedError

    def measures(self, objective: int = 0) -> Measures:
        """What was measured with the gradients that are in the buffer; waits for the device.

        It is of all ranks once they are summed, else of this rank.
        """
        raise NotImplementedError

    def update(self, objective: int = 0) -> Any:
        """Update by the gradients that are in the buffer; gives η."""
        raise NotImplementedError

    def at(self, iteration: int) -> None:
        """The schedule has come to an iteration, whatever this rank has done itself."""

    def advance(self, count: int) -> int:
        """Give the position that follows the iteration at `count`, which is over, the same on every rank.

        All ranks ask for it alike; more than once is the same.
        """
        return count + 1

    def ask_to_stop(self) -> None:
        """Let all ranks know, by the next sum of gradients, that this one was asked to stop."""

    def val_iter(self, count: int, recorder: Any) -> None:
        """Validate this rank's batch number `count`; 0 begins a new validation."""
        raise NotImplementedError

    def validation_sums(self) -> np.ndarray:
        """What this rank has validated, in one row or several; float64, (rows, 1 + 2 · metrics).

        Items, then for each of the metrics in `reported` its weighted sum and the sum of the weights.
        """
        raise NotImplementedError

    def n_validated(self) -> int | None:
        """How many items a validation has over all ranks, if that is known."""
        return None

    def rate(self, iteration: int) -> float | None:
        """η of the iteration with this index, if that is known."""
        return None

    def readings(self) -> list[list[Span]]:
        """For each process that reads ahead, when it made the batches that it has finished since the last call."""
        return []

    def adjust_hyperp(self, epoch: int) -> None:
        """An epoch is over."""

    def finite(self) -> bool:
        """Whether all that a checkpoint holds is finite numbers."""
        return all(bool(np.isfinite(value).all()) for value in self.state_arrays().values())

    def state_arrays(self) -> Mapping[str, np.ndarray]:
        """What a checkpoint holds: ``weights/NAME``, and of what each rank has its own, ``SLOT/NAME``."""
        raise NotImplementedError

    def plan(self) -> str:
        """What the run will do, as a table."""
        raise NotImplementedError

    def cleanup(self) -> None:
        """Let go of what was held."""
        raise NotImplementedError
