"""One compiled model for many workers: each has it with its own state, when it is its turn."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from mpi4py import MPI

from theanompi.config import ConfigError, RunConfig
from theanompi.data import Batch, LoaderError, validation_batches
from theanompi.data.modality import batch_of
from theanompi.data.reading.process import read_batch
from theanompi.exchange import Exchanger
from theanompi.training.inputs import Feed
from theanompi.training.items import Items
from theanompi.training.model import Model
from theanompi.training.model_class import make_model
from theanompi.training.replica import Replica
from theanompi.training.simulated.communicator import Communicator
from theanompi.training.simulated.world import World
from theanompi.training.state import METRICS


class Loan:
    """The model, on loan to the worker that runs.

    What is one worker's own goes in and out: weights, what the optimizer keeps, gradients, counters, the stream of
    batches.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        world.lend = self.lend
        self._model: Model | None = None
        self._owner = 0
        self._kept: list[tuple[list[torch.Tensor], dict[str, Any]]] = []

    def lend(self, rank: int) -> None:
        """Put a worker's state into the model, and keep that of the one before."""
        if self._model is None or rank == self._owner:
            return
        tensors, names = self._tensors(), self._kept[rank][1]
        kept = self._kept[self._owner]
        for own, tensor in zip(kept[0], tensors, strict=True):
            own.copy_(tensor)
        kept[1].update({name: getattr(self._model, name) for name in names})
        for own, tensor in zip(self._kept[rank][0], tensors, strict=True):
            tensor.copy_(own)
        for name, value in names.items():
            setattr(self._model, name, value)
        self._owner = rank

    def _tensors(self) -> list[torch.Tensor]:
        """All of the model's that are one worker's."""
        model = self._model
        assert model is not None
        buffers = [model.state.weights, model.states.bits, *model.gradient_buffers()]
        buffers += [buffer for state in model.states for buffer in state.slots.values()]
        if model.state.average is not None:
            buffers.append(model.state.average)
        variables = [model._stop]
        for state in model.states:
            variables += [state.iteration, state.made, state.last_eta, *state.scalars.values()]
        if len(model.states) > 1:
            # Objectives after the first find the batch there.
            variables += model.inputs.variables.values()
        return [*(buffer.flat for buffer in buffers), *(variable.tensor for variable in variables)]

    def model(self, config: RunConfig, comm: Communicator, *, lockstep: bool = True) -> Replica:
        """The model, of a worker; the first one makes it.

        Raises
        ------
        ConfigError
            If it is none whose state can be changed.
        """
        if comm.rank == 0:
            made = make_model(config, cast(MPI.Intracomm, comm), lockstep=True)
            if not isinstance(made, Model):
                raise ConfigError(
                    f"workers_simulated: expected a theanompi.Model, as a state is changed for another, got "
                    f"{config.modelclass}, another class"
                )
            self._take(made)
        elif self._model is None:
            # The first one says why, and all end.
            return cast(Replica, None)
        self.lend(comm.rank)
        assert self._model is not None
        return self._model

    def _take(self, model: Model) -> None:
        self._model = model
        tensors, modality, dataset = self._tensors(), type(model.data.modality), model.dataset
        for rank in range(self._world.size):
            own = {
                "rank": rank,
                "epoch": 0,
                "data": _Items(modality, model.config, rank, self._world.size, dataset),
                "_feed": Feed(model.inputs, iter(())),
                "_next": None,
                "_count": 0,
                "_val_position": 0,
                "_kept": [],
                "_validated_batches": [],
            }
            self._kept.append(([tensor.clone() for tensor in tensors], own))
        for name, value in self._kept[0][1].items():
            setattr(model, name, value)
        compiled: list[int] = []
        compile_iter_fns, train_iter = model.compile_iter_fns, model.train_iter

        def compile_once(sync_type: str = "cdd", exchangers: Sequence[Exchanger] = ()) -> None:
            if not compiled:
                compile_iter_fns(sync_type)
                compiled.append(model.rank)

        def timed(count: int, recorder: Any, objective: int | None = None) -> None:
            train_iter(count, recorder, objective)
            state, place = model.states[objective or 0], model.states[objective or 0].n_sums + 2
            metrics = state.gradients.views[METRICS]
            # Compiled for one worker's loss in the list of all.
            loss = metrics[place + compiled[0]].clone()
            metrics[place + compiled[0]] = 0
            metrics[place + model.rank] = loss
            if objective in (None, model.due(count)[0]) and model.data.sampler.own_units(count):
                rank, iteration = model.rank, model.epoch * model.data.n_batch_train + count
                recorder.start("computing gradients")
                self._world.spend(rank, self._world.step_seconds(rank, iteration))
                recorder.end("calc")

        model.compile_iter_fns, model.train_iter = compile_once, timed  # type: ignore[method-assign]


class _Items(Items):
    """Items that their worker's thread reads by itself, when it needs them."""

    def _read(self, split: Any, epoch: int | None, ids: np.ndarray, weights: np.ndarray) -> Batch:
        modality = self.modality
        rows, values = batch_of(modality, split, epoch, ids)
        fields = {name: np.empty((len(ids), *f.shape), f.dtype) for name, f in modality.read.items()}
        if fault := read_batch(self._reader, rows, fields):
            name = modality.item_name(split, int(ids[fault[0]]))
            raise LoaderError(f"data file {self.dataset.path}: {name}: {fault[1]}")
        return Batch({**fields, **values, "weights": weights}, ids)

    @property
    def _reader(self) -> Any:
        if "_made" not in vars(self):
            self._made = self.modality.reader.make(self.dataset.fileno())
        return self._made

    def start_loader(self) -> None:
        pass

    def train(self, epoch: int, start: int) -> Iterator[Batch]:
        ones = np.ones(self.batch_size, np.float32)
        for units in self.sampler.batches(epoch, start):
            for ids in units:
                yield self._read("train", epoch, ids, ones)

    def validation(self) -> Iterator[Batch]:
        for ids, weights in validation_batches(
            self.modality.count("val"), self.batch_size, self.size, self.rank
        ):
            yield self._read("val", None, ids, weights)
