"""Training of models that have no more than the interface of Theano-MPI's, whatever library they are built with.

Such a class takes one `config` dict (``rank``, ``size``, ``verbose`` and the settings of the run). It computes,
updates and reads its data by itself; after each of its iterations its parameters are averaged over the ranks.
It reports through ``recorder.train_error(count, cost, error)`` and ``recorder.val_error(count, cost, error,
error_top5)``, each the mean over one batch of ``batch_size`` (1 if the class has no such attribute) images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from theanompi.config import ConfigError, RunConfig
from theanompi.device import FlatBuffer
from theanompi.exchange import Exchanger
from theanompi.record.metrics import CLASSIFIER
from theanompi.record.timeline import Span
from theanompi.training.replica import Measures

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


class _Listener:
    """The recorder that the wrapped model sees: it times as the real one does, and keeps the errors."""

    def __init__(self) -> None:
        self.recorder: Any = None
        self.train = np.zeros(2)
        self.validation = np.zeros(4)

    def start(self) -> None:
        self.recorder.start("computing, in the model's own train_iter or val_iter")

    def end(self, kind: str) -> None:
        self.recorder.end(kind)

    def train_error(self, count: int, cost: Any, error: Any) -> None:
        self.train = np.array([cost, error], dtype=float)

    def val_error(self, count: int, cost: Any, error: Any, error_top5: Any = 0.0) -> None:
        self.validation += [1.0, cost, error, error_top5]


class TheanoMPIModel:
    """Makes a :class:`theanompi.training.replica.Replica` of a model of that interface.

    Parameters
    ----------
    model : object
        With everything in `REQUIRED`; ``data`` has ``n_batch_train`` and ``n_batch_val``, and each of
        ``params`` has ``get_value`` and ``set_value``.
    config : RunConfig
        Its sync type must be ``avg``.
    rank, size : int
        Which rank this is, and of how many.

    Raises
    ------
    ConfigError
        If the model lacks something, naming it, or the run asks for what only a `Model` can do.
    """

    reported = CLASSIFIER

    def __init__(self, model: Any, config: RunConfig, rank: int, size: int) -> None:
        name = type(model).__name__
        missing = [item for item in REQUIRED if not hasattr(model, item)]
        data = getattr(model, "data", None)
        missing += [f"data.{item}" for item in ("n_batch_train", "n_batch_val") if not hasattr(data, item)]
        if missing:
            raise ConfigError(
                f"model class {name}: expected a subclass of theanompi.Model or all of Theano-MPI's contract, "
                f"got one without {', '.join(missing)}"
            )
        if config.sync_type != "avg":
            raise ConfigError(
                f"model class {name}: expected sync type 'avg', as only a theanompi.Model gives its gradients, "
                f"got {config.sync_type!r}"
            )
        if config.resume:
            raise ConfigError(
                f"model class {name}: expected no resume, as only a theanompi.Model saves all its state"
            )
        self.model, self.data, self.n_epochs = model, model.data, int(model.n_epochs)
        self._rank, self._size = rank, size
        self.params = list(model.params)
        self.images_per_batch = int(getattr(model, "batch_size", 1))
        self._buffer = FlatBuffer({str(i): np.shape(p.get_value()) for i, p in enumerate(self.params)})
        self._listener = _Listener()

    def gradient_buffers(self) -> list[FlatBuffer]:
        """None: the model keeps its gradients to itself."""
        return []

    def compile_iter_fns(self, sync_type: str, exchangers: Sequence[Exchanger] = ()) -> None:
        """Let the model compile."""
        self.model.compile_iter_fns(sync_type)

    @property
    def epoch(self) -> int:
        """Which epoch it is; the model reads its data by itself."""
        return int(self.model.epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.model.epoch = epoch

    def due(self, count: int) -> list[int]:
        """The only one."""
        return [0]

    def train_iter(self, count: int, recorder: Any, objective: int = 0) -> None:
        """One iteration of the model, its own update included."""
        self._listener.recorder = recorder
        self.model.train_iter(count, self._listener)

    def ask_to_stop(self) -> None:
        """Nothing: there is no sum of gradients that could carry it."""

    def measures(self, objective: int = 0) -> Measures:
        """This rank's metrics of the iteration; its training has no top-5 error."""
        n = self.images_per_batch
        loss, error = (float(v) * n for v in self._listener.train)
        sums = {"loss": (loss, float(n)), "error": (error, float(n)), "error_top5": (0.0, float(n))}
        return Measures(n, sums, [loss if rank == self._rank else 0.0 for rank in range(self._size)], False)

    def update(self, objective: int = 0) -> float:
        """Nothing is left to update; the model keeps its learning rate to itself."""
        return float("nan")

    def n_validated(self) -> None:
        """Not known."""

    def rate(self, iteration: int) -> None:
        """Not known."""

    def val_iter(self, count: int, recorder: Any) -> None:
        """Let the model validate its next batch; the first one begins a new validation."""
        if count == 0:
            self._listener.validation[:] = 0
        self._listener.recorder = recorder
        self.model.val_iter(count, self._listener)

    def validation_sums(self) -> np.ndarray:
        """Images, then for loss, top-1 and top-5 error their sum and the images again; float64 (7,)."""
        images, *sums = (self._listener.validation * self.images_per_batch).tolist()
        return np.array([images, *(x for value in sums for x in (value, images))])

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

    def readings(self) -> list[list[Span]]:
        """Nothing: the model reads its data by itself."""
        return []

    def adjust_hyperp(self, epoch: int) -> None:
        """Let the model adjust its learning rate."""
        self.model.adjust_hyperp(epoch)

    def cleanup(self) -> None:
        """Let the model clean up."""
        self.model.cleanup()

    def plan(self) -> str:
        """There is none: the model keeps its schedule to itself."""
        return f"{type(self.model).__name__} keeps its own schedule: {self.n_epochs} epochs."

    def finite(self) -> bool:
        """Whether all parameters are finite numbers."""
        return all(bool(np.isfinite(value).all()) for value in self.state_arrays().values())

    def state_arrays(self) -> Mapping[str, np.ndarray]:
        """The parameters as ``weights/NUMBER``."""
        return {f"weights/{i}": np.asarray(p.get_value()) for i, p in enumerate(self.params)}
