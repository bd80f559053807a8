"""Training of models that have no more than the interface of Theano-MPI's, whatever library they are built with.

Such a class takes one `config` dict (``rank``, ``size``, ``verbose``, ``mname`` and the settings of the run). Where the
run names no data set, ``config["data"]`` is None, unless the class has one among its ``defaults``, as a `Model` has. It
computes, updates and reads its data by itself; after each of its iterations its parameters are averaged over the ranks.
An epoch has ``data.n_batch_train`` times ``n_subb`` (1 if the class has no such attribute) iterations. Where
``train_iter`` returns a count, as one that takes several batches does, the next iteration has that number, and the
epoch ends sooner.

It reports through ``recorder.train_error(count, cost, error)`` and ``recorder.val_error(count, cost, error,
error_top5)``, each the mean over one batch of ``batch_size`` (1 if the class has no such attribute) items. A class with
an attribute ``error``, as Theano-MPI's classifiers have it, reports loss, error and top-5 error; any other one says
what it reports by ``metric_names``, such as ``("critic", "generator")``, or it goes by ``cost``, ``second`` and
``third``.

At the end of an epoch, where the class has them: ``reset_iter("train")`` before the validation and
``reset_iter("val")`` after it, ``adjust_hyperp(epoch)``, and on rank 0 ``print_info(recorder)`` and, in every fifth,
``save(path)`` with the folder ``snapshots/`` of the run. ``current_info`` then is the last validation of this rank.
``scale_lr(size)`` is called after compiling in a run with ``--scaling linear``; Theano-MPI always did.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from theanompi.config import ConfigError, RunConfig, counted, got
from theanompi.device import FlatBuffer
from theanompi.exchange import Exchanger
from theanompi.lib.recorder import Recorder
from theanompi.record.log import check_metrics
from theanompi.record.metrics import CLASSIFIER, Reported, is_fraction
from theanompi.training.replica import Measures, Replica

REQUIRED = (
    "params",
    "data",
    "compile_iter_fns",
    "train_iter",
    "val_iter",
    "adjust_hyperp",
    "cleanup",
    "n_epochs",
    "epoch",
)
"""What Theano-MPI asks of a model class."""
SNAPSHOTS = 5
"""Epochs between two calls of a model's ``save``."""
_UNNAMED = Reported(("cost", "second", "third"), "cost", "items")


class _Listener(Recorder):
    """The recorder that the wrapped model sees: it times as the real one does, and keeps the errors."""

    def __init__(self, name: str, verbose: bool) -> None:
        super().__init__(None, printFreq=1, modelname=name, verbose=verbose)
        self.recorder: Any = None
        self.train = np.zeros(2)
        self.validation = np.zeros(4)

    def start(self, doing: str = "") -> None:
        self.recorder.start(doing or "computing, in the model's own train_iter or val_iter")

    def end(self, mode: str, name: str = "") -> None:
        self.recorder.end(mode, name)

    def train_error(self, count: int, cost: Any, error: Any) -> None:
        self.train = np.array([cost, error], dtype=float)

    def val_error(self, count: int, cost: Any, error: Any, error_top5: Any = 0.0) -> None:
        self.validation += [1.0, cost, error, error_top5]


class _Batches:
    """The batches of a model that are several of its iterations each."""

    def __init__(self, model: Any) -> None:
        self._data, self._parts = model.data, int(getattr(model, "n_subb", 1))

    @property
    def n_batch_train(self) -> int:
        return int(self._data.n_batch_train) * self._parts

    @property
    def n_batch_val(self) -> int:
        return int(self._data.n_batch_val) * self._parts


class TheanoMPIModel(Replica):
    """A model of that interface as a replica.

    Parameters
    ----------
    model : object
        With everything in `REQUIRED`; ``data`` has ``n_batch_train`` and ``n_batch_val``, and each of
        ``params`` has ``get_value`` and ``set_value``.
    config : RunConfig
        Its sync type must be ``avg`` or ``swap``, unless the rule is not `lockstep`.
    rank, size : int
        Which rank this is, and of how many.
    comm : mpi4py.MPI.Intracomm, optional
        All ranks, to agree on the counts that the model returns.
    lockstep : bool
        Whether all ranks are in the same iteration.

    Raises
    ------
    ConfigError
        If the model lacks something, naming it, or the run asks for what only a `Model` can do.
    """

    def __init__(
        self, model: Any, config: RunConfig, rank: int, size: int, comm: Any = None, *, lockstep: bool = True
    ) -> None:
        name = type(model).__name__
        missing = [item for item in REQUIRED if not hasattr(model, item)]
        data = getattr(model, "data", None)
        missing += [f"data.{item}" for item in ("n_batch_train", "n_batch_val") if not hasattr(data, item)]
        if missing:
            raise ConfigError(
                f"model class {name}: expected a subclass of theanompi.Model or all of Theano-MPI's contract, "
                f"got one without {', '.join(missing)}"
            )
        if lockstep and config.sync_type not in ("avg", "swap"):
            raise ConfigError(
                f"model class {name}: expected sync type 'avg', as only a theanompi.Model gives its gradients, "
                f"got {config.sync_type!r}"
            )
        if config.resume:
            raise no_resume(name)
        if config.init:
            raise ConfigError(
                f"model class {name}: expected no init, as only a theanompi.Model has names for its weights"
            )
        for setting in ("label_smoothing", "mixup", "cutmix", "random_erasing", "ema"):
            if value := getattr(config, setting):
                raise ConfigError(
                    f"model class {name}: expected {setting} 0, as only a theanompi.Model leaves data, loss and "
                    f"update to the trainer, got {value:g}"
                )
        self.model, self.data, self.n_epochs = model, _Batches(model), int(model.n_epochs)
        self.reported = _reported(model)
        self._rank, self._size, self._comm = rank, size, comm if lockstep else None
        self._out, self._scaling = config.out, config.scaling
        self._returned: Any = None
        self._following: int | None = None
        self.params = list(model.params)
        self.images_per_batch = int(getattr(model, "batch_size", 1))
        self._buffer = FlatBuffer({str(i): np.shape(p.get_value()) for i, p in enumerate(self.params)})
        self._listener = _Listener(name, config.verbose and rank == 0)
        self._listener.folder = config.out or "."

    def compile_iter_fns(self, sync_type: str, exchangers: Sequence[Exchanger] = ()) -> None:
        """Let the model compile."""
        compile_ = self.model.compile_iter_fns
        compile_(*[sync_type][: _takes(compile_, sync_type)])
        if self._scaling == "linear":
            self._call("scale_lr", self._size)

    @property
    def epoch(self) -> int:
        """Which epoch it is; the model reads its data by itself."""
        return int(self.model.epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.model.epoch = epoch

    def train_iter(self, count: int, recorder: Any, objective: int = 0) -> None:
        """One iteration of the model, its own update included."""
        self._listener.recorder = recorder
        self._returned, self._following = self.model.train_iter(count, self._listener), None

    def advance(self, count: int) -> int:
        """The count that the model has returned, the largest of all ranks, or the position after `count`."""
        if self._following is None:
            returned = self._returned if isinstance(self._returned, int | np.integer) else 0
            self._following = max(count + 1, int(returned))
            if self._comm is not None and self._size > 1:
                self._following = max(self._comm.allgather(self._following))
            if self._following >= self.data.n_batch_train:
                self._call("reset_iter", "train")
        return self._following

    def _call(self, method: str, *arguments: Any) -> None:
        """Call one of the methods that a model need not have."""
        function = getattr(self.model, method, None)
        if callable(function) and _takes(function, *arguments):
            function(*arguments)

    def measures(self, objective: int = 0) -> Measures:
        """This rank's metrics of the iteration; of its training two are known."""
        n = self.images_per_batch
        values = [*(float(v) * n for v in self._listener.train), 0.0]
        weights = [float(n), float(n), 0.0]
        sums = dict(zip(self.reported.metrics, zip(values, weights, strict=True), strict=False))
        loss = values[0]
        return Measures(n, sums, [loss if rank == self._rank else 0.0 for rank in range(self._size)], False)

    def update(self, objective: int = 0) -> float:
        """Nothing is left to update; the model keeps its learning rate to itself."""
        return float("nan")

    def val_iter(self, count: int, recorder: Any) -> None:
        """Let the model validate its next batch; the first one begins a new validation."""
        if count == 0:
            self._listener.validation[:] = 0
        self._listener.recorder = recorder
        self.model.val_iter(count, self._listener)

    def validation_sums(self) -> np.ndarray:
        """All batches in one row: items, then of each metric its sum and the items again; float64."""
        items, *sums = (self._listener.validation * self.images_per_batch).tolist()
        return np.array(
            [[items, *(x for value in sums[: len(self.reported.metrics)] for x in (value, items))]]
        )

    def weights_to_average(self) -> FlatBuffer:
        """The parameters, copied into one buffer."""
        for i, p in enumerate(self.params):
            self._buffer.views[str(i)].copy_(torch.as_tensor(np.asarray(p.get_value())))
        return self._buffer

    def weights_averaged(self) -> None:
        """Copy the buffer back into the parameters."""
        for i, p in enumerate(self.params):
            value = self._buffer.views[str(i)].cpu().numpy()
            p.set_value(np.array(value, dtype=np.asarray(p.get_value()).dtype))

    def networks(self) -> list[list[torch.Tensor]]:
        """The parameters, which in Theano-MPI are those of one network; `weights_to_average` fills them in."""
        return [[self._buffer.flat]]

    def adjust_hyperp(self, epoch: int) -> None:
        """Let the model end an epoch."""
        self._call("reset_iter", "val")
        batches, *sums = self._listener.validation.tolist()
        self.model.current_info = [self.data.n_batch_train, *(value / (batches or 1.0) for value in sums)]
        self.model.adjust_hyperp(epoch)
        if self._rank == 0:
            self._call("print_info", self._listener)
            if self._out and epoch % SNAPSHOTS == 0 and hasattr(self.model, "save"):
                folder = os.path.join(self._out, "snapshots", "")
                os.makedirs(folder, exist_ok=True)
                self._call("save", folder)

    def cleanup(self) -> None:
        """Let the model clean up."""
        self.model.cleanup()

    def plan(self) -> str:
        """There is none: the model keeps its schedule to itself."""
        return f"{type(self.model).__name__} keeps its own schedule: {counted(self.n_epochs, 'epoch')}."

    def state_arrays(self) -> Mapping[str, np.ndarray]:
        """The parameters as ``weights/NUMBER``."""
        return {f"weights/{i}": np.asarray(p.get_value()) for i, p in enumerate(self.params)}


def no_resume(name: str) -> ConfigError:
    """What is said of a resume with a model class of this name."""
    return ConfigError(
        f"model class {name}: expected no resume, as only a theanompi.Model saves all its state"
    )


def _reported(model: Any) -> Reported:
    """What a model calls what it reports, by which runs are compared: the second name if it is an error, or the first.

    Raises
    ------
    ConfigError
        For anything but names.
    """
    if not hasattr(model, "metric_names"):
        return CLASSIFIER if hasattr(model, "error") else _UNNAMED
    names, where = model.metric_names, f"{type(model).__name__}.metric_names"
    if not isinstance(names, list | tuple) or not 2 <= len(names) <= 3:
        raise ConfigError(f"{where}: expected two or three names of what it reports, got {got(names)}")
    try:
        check_metrics(names)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return Reported(tuple(names), names[1] if is_fraction(names[1]) else names[0], "items")


def _takes(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether a method can be called with these arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True
