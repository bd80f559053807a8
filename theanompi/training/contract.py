"""Training of models that only fulfil Theano-MPI's contract, whatever library they are built with.

Such a class takes one `config` dict (``rank``, ``size``, ``verbose`` and the settings of the run). It computes,
updates and reads its data by itself; after each of its iterations its parameters are averaged over the ranks.
It reports through ``recorder.train_error(count, cost, error)`` and ``recorder.val_error(count, cost, error,
error_top5)``, each the mean over one batch of ``batch_size`` (1 if the class has no such attribute) images.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from theanompi.config import ConfigError, RunConfig
from theanompi.device import FlatBuffer
from theanompi.record.timeline import Span
from theanompi.training.model import Totals

CONTRACT = (
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


class ContractModel:
    """Gives a model of the contract the face of :class:`theanompi.training.model.Model` that the training loop sees.

    Parameters
    ----------
    model : object
        With everything in `CONTRACT`; ``data`` has ``n_batch_train`` and ``n_batch_val``, and each of
        ``params`` has ``get_value`` and ``set_value``.
    config : RunConfig
        Its sync type must be ``avg``.
    size : int
        Number of ranks.

    Raises
    ------
    ConfigError
        If the model lacks something, naming it, or the run asks for what only a `Model` can do.
    """

    def __init__(self, model: Any, config: RunConfig, size: int) -> None:
        name = type(model).__name__
        missing = [item for item in CONTRACT if not hasattr(model, item)]
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
        self.model, self.data, self.n_epochs, self.size = model, model.data, int(model.n_epochs), size
        self.params = list(model.params)
        self.images_per_batch = int(getattr(model, "batch_size", 1))
        self._buffer = FlatBuffer({str(i): np.shape(p.get_value()) for i, p in enumerate(self.params)})
        self._listener = _Listener()

    def compile_iter_fns(self, sync_type: str) -> None:
        """Let the model compile."""
        self.model.compile_iter_fns(sync_type)

    @property
    def epoch(self) -> int:
        """Which epoch it is; the model reads its data by itself."""
        return int(self.model.epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self.model.epoch = epoch

    def train_iter(self, count: int, recorder: Any) -> None:
        """One iteration of the model, its own update included."""
        self._listener.recorder = recorder
        self.model.train_iter(count, self._listener)

    def ask_to_stop(self) -> None:
        """Nothing: there is no sum of gradients that could carry it."""

    def totals(self, count: int) -> tuple[Totals, list[float], bool]:
        """This rank's metrics of the iteration."""
        n = self.images_per_batch
        loss, error = (float(v) * n for v in self._listener.train)
        return Totals(n, loss, error, 0.0), [loss] * self.size, False

    def update(self) -> float:
        """Nothing is left to update; the model keeps its learning rate to itself."""
        return float("nan")

    def val_iter(self, count: int, recorder: Any) -> None:
        """Let the model validate its next batch; the first one begins a new validation."""
        if count == 0:
            self._listener.validation[:] = 0
        self._listener.recorder = recorder
        self.model.val_iter(count, self._listener)

    def validation_sums(self) -> np.ndarray:
        """Images, loss, top-1 and top-5 errors, float64 (4,)."""
        return self._listener.validation * self.images_per_batch

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
