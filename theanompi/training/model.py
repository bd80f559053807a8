"""What the trainer needs of a model, and a base class that makes most of it.

A model of your own is a class with one method::

    from theanompi import Model
    from theanompi.lasagne.layers import DenseLayer, InputLayer

    class Linear(Model):
        def build_model(self, input_shape, num_classes):
            return DenseLayer(InputLayer(input_shape), num_classes, nonlinearity=None, name="scores")

Theano-MPI's contract holds as well: any class that takes one `config` dict and has `params`, `data`,
`compile_iter_fns`, `train_iter`, `val_iter`, `adjust_hyperp`, `cleanup`, `n_epochs` and `epoch` can be trained
with the sync type ``avg``, whatever library it is built with: see :mod:`theanompi.training.contract`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytensor
import pytensor.tensor as pt
import torch

from theanompi import device
from theanompi.config import FIELDS, ConfigError, RunConfig, resolve
from theanompi.data import Pictures
from theanompi.device import FlatBuffer
from theanompi.exchange import Exchanger
from theanompi.lasagne.layers import Layer, get_output
from theanompi.lasagne.random import set_rng
from theanompi.record.timeline import Span
from theanompi.training.functions import gradient_function, update_function, validation_function
from theanompi.training.inputs import Feed, Inputs
from theanompi.training.items import Items
from theanompi.training.plan import plan
from theanompi.training.schedule import Schedule
from theanompi.training.state import METRICS, N_SUMS, State, load_views

# What a subclass might set in the hope that it counts: a field of RunConfig, or what Theano-MPI's models had for one.
_FOR_FIELDS = {name: name for name in FIELDS} | {
    "n_epochs": "epochs",
    "learning_rate": "base_lr",
    "lr": "base_lr",
    "lr_policy": "decay_epochs",
    "lr_step": "decay_epochs",
    "file_batch_size": "batch_size",
    "use_momentum": "momentum",
    "use_nesterov_momentum": "nesterov",
}
# What other trainers call by these names. Not `forward` and the like, which a build_model may well use itself.
_NOT_CALLED = (
    "loss",
    "cost",
    "objective",
    "objectives",
    "optimizer",
    "configure_optimizers",
    "training_step",
)


class Totals(NamedTuple):
    """Sums over images: how many, their loss (nats), and top-1 and top-5 errors."""

    images: float
    loss: float
    errors: float
    errors_top5: float


class Model:
    """A network with its data, its compiled functions and its place among the ranks.

    Parameters
    ----------
    config : mapping
        The fields of :class:`theanompi.config.RunConfig` and ``rank``, ``size`` and ``verbose``; what is
        missing has its default.

    Attributes
    ----------
    network : Layer
        What `build_model` gave.
    params : list of DeviceSharedVariable
        The trainable parameters.
    state : State
        Weights, velocities, gradients and statistics in flat buffers.
    data : Items
    schedule : Schedule
        The learning rate at each update.
    n_epochs, epoch : int
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = resolve(RunConfig.from_dict({k: v for k, v in config.items() if k in FIELDS}))
        self.rank, self.size = int(config.get("rank", 0)), int(config.get("size", 1))
        self.verbose = bool(config.get("verbose", self.rank == 0))
        run = self.config
        assert run.batch_size and run.epochs and run.image_size and run.scaling
        assert run.warmup_epochs is not None and run.decay_epochs is not None
        self.n_epochs, self.epoch = run.epochs, 0
        try:
            self.data = Items(Pictures, run, self.rank, self.size)
        except (ValueError, OSError) as error:
            # One line, also where a user's own constructor has called this one.
            raise ConfigError(str(error)) from error
        dataset = self.data.dataset

        set_rng(np.random.default_rng(run.seed))
        shape = (run.batch_size, dataset.channels, run.image_size, run.image_size)
        with pytensor.config.change_flags(floatX="float32"):
            self.network = self.build_model(shape, dataset.n_classes)
        if not isinstance(self.network, Layer):
            raise ConfigError(
                f"{type(self).__name__}.build_model: expected an output layer, got {type(self.network).__name__}"
            )
        if self.network.output_shape != (run.batch_size, dataset.n_classes):
            raise ConfigError(
                f"{type(self).__name__}.build_model: expected class scores of shape "
                f"{(run.batch_size, dataset.n_classes)}, got {self.network.output_shape}"
            )
        self.state = State(self.network, self.size)
        self.params = self.state.parameters
        # Gradients are normalised over all ranks when they are summed, over this one's workers otherwise.
        self.sums_gradients = run.sync_type == "cdd"
        self.schedule = Schedule(
            minibatch=self.data.sampler.minibatch,
            iterations_per_epoch=self.data.n_batch_train,
            epochs=run.epochs,
            base_lr=run.base_lr,
            base_batch=run.base_batch,
            scaling=run.scaling,
            warmup=run.warmup,
            scaled=run.scaled,
            warmup_epochs=run.warmup_epochs,
            decay_epochs=run.decay_epochs,
            decay_factor=run.decay_factor,
        )
        self.inputs = Inputs(self.data.modality, run.batch_size)
        # What the network refuses is known now, and not after the first part of compiling.
        get_output(
            self.network,
            pt.tensor(dtype="float32", shape=shape),
            sample_keys=self.inputs.variables["keys"],
            batch_norm_statistics={},
        )
        self._share = device.shared(np.float32(1), "share")
        self._statistics_share = device.shared(np.float32(1), "statistics_share")
        self._stop = device.shared(np.float32(0), "stop")
        self._validation_sums = device.shared(np.zeros(4), "validation_sums")
        self._exchanger: Exchanger | None = None
        self._feed = Feed(self.inputs, iter(()))
        self._next: tuple[int, int] | None = None

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        """Build the network; every model has its own.

        Parameters
        ----------
        input_shape : (n, channels, height, width)
        num_classes : int

        Returns
        -------
        Layer
            The output layer, of shape (n, num_classes): class scores, or their softmax.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build_model")

    def compile_iter_fns(self, sync_type: str = "cdd", exchanger: Exchanger | None = None) -> None:
        """Compile the gradient, update and validation functions.

        Parameters
        ----------
        sync_type : {"cdd", "avg"}
        exchanger : Exchanger, optional
            Of the gradients: it is told of each as soon as backward has written it.
        """
        run = self.config
        self.sums_gradients = sync_type == "cdd"
        self._exchanger = exchanger
        mode = partial(
            device.mode, precision=run.precision, return_internal_type=True, capture=run.cuda_graph
        )
        written = None if exchanger is None else exchanger.written

        graph, variables = self.data.modality.graph, self.inputs.variables
        self._gradients: Callable[[], None] = gradient_function(
            self.network,
            self.state,
            graph(variables, training=True),
            self._share,
            self._statistics_share,
            self._stop,
            self.rank,
            run.accumulation > 1,
            mode(written=written),
        )
        self._update = update_function(
            self.network,
            self.state,
            self.schedule,
            run.momentum,
            run.weight_decay,
            run.momentum_form,
            run.nesterov,
            mode(),
        )
        self._validate = validation_function(
            self.network, graph(variables, training=False), self._validation_sums, mode()
        )

    def train_iter(self, count: int, recorder: Any) -> None:
        """Compute this rank's gradients of one minibatch.

        Parameters
        ----------
        count : int
            Its position in the epoch that `epoch` names. Any position will do; going on to the next one finds
            its batches read ahead.
        recorder : Recorder
            Told how long was waited for data and computed.
        """
        if (self.epoch, count) != self._next:
            self._feed = Feed(self.inputs, self.data.train(self.epoch, count))
        self._next = (self.epoch, count + 1)
        own_units = self.data.sampler.own_units(count)
        share, statistics_share = self.shares(count)
        self._share.tensor.fill_(share)
        self._statistics_share.tensor.fill_(statistics_share)
        if self.config.accumulation > 1 or not own_units:
            self.state.gradients.flat.zero_()
        if not own_units:
            self.state.gradients.views[METRICS][N_SUMS - 1] = self._stop.tensor
        missing = self.config.accumulation - own_units
        if missing and not self.sums_gradients:
            # These workers have no batch to move the running statistics towards: theirs stay where they are.
            for s in self.state.statistics:
                self.state.gradients.views[s.name].copy_(s.tensor * (missing * statistics_share))
        for unit in range(own_units):
            recorder.start("waiting for a batch")
            self._feed.load()
            recorder.end("wait")
            recorder.start("computing gradients")
            if self._exchanger is not None and unit == own_units - 1:
                self._exchanger.begin()
            self._gradients()
            recorder.end("calc")
            recorder.start("waiting for a batch")
            self._feed.stage()  # while the device computes
            recorder.end("wait")

    def shares(self, count: int) -> tuple[float, float]:
        """What the loss's gradient and the batch statistics of each batch are multiplied by before they are summed.

        Under ``cdd``, one by the number of batches in the minibatch at position `count`; but 1 for the gradient where
        the loss is normalised by n only (Goyal et al. 2017, §3, remark 3). Under ``avg`` 1/A: each batch is that of a
        worker of its own, and as the update is linear in gradient and velocity, the mean of A workers' weights is
        that of one update with the mean gradient. A worker without a batch has a gradient of zero.
        """
        if not self.sums_gradients:
            return 1 / self.config.accumulation, 1 / self.config.accumulation
        mean = 1 / self.data.sampler.units(count)
        return (1.0 if self.config.normalization == "worker" else mean), mean

    def ask_to_stop(self) -> None:
        """Let all ranks know, by the next sum of gradients, that this one was asked to stop."""
        self._stop.tensor.fill_(1)

    def totals(self, count: int) -> tuple[Totals, list[float], bool]:
        """The metrics of the minibatch at position `count`, the loss of each rank (nats, summed), whether to stop.

        They are those of all ranks under ``cdd``, once the gradients have been summed, and this rank's own
        under ``avg``. Waits for the device.
        """
        loss, errors, errors_top5, asked, *losses = self.state.gradients.views[METRICS].tolist()
        sampler = self.data.sampler
        units = sampler.units(count) if self.sums_gradients else sampler.own_units(count)
        return Totals(units * self.data.batch_size, loss, errors, errors_top5), losses, asked > 0

    def update(self) -> torch.Tensor:
        """Apply the compiled update to the gradients in the buffer; gives η."""
        return self._update()

    def val_iter(self, count: int, recorder: Any) -> None:
        """Validate this rank's batch number `count`; the first one begins a new validation, the others follow."""
        if count == 0:
            self._validation_sums.tensor.zero_()
            self._feed = Feed(self.inputs, self.data.validation())
            self._next = None  # the training's stream is over
        self._feed.load()
        self._validate()
        self._feed.stage()

    def validation_sums(self) -> np.ndarray:
        """Images, loss, top-1 and top-5 errors of this rank's validation, float64 (4,)."""
        return self._validation_sums.get_value()

    def readings(self) -> list[list[Span]]:
        """For each loader process, when it made the batches that it has finished since the last call."""
        return self.data.readings()

    def adjust_hyperp(self, epoch: int) -> None:
        """Nothing: the learning rate is part of the compiled update."""

    def cleanup(self) -> None:
        """Stop reading ahead."""
        self.data.close()

    def plan(self) -> str:
        """The schedule of this run, as a table."""
        run = self.config
        assert run.batch_size
        decayed = set(self.state.decayed)
        layers_first = list(reversed(self.params))
        return plan(
            self.schedule,
            workers=self.size,
            batch_size=run.batch_size,
            accumulation=run.accumulation,
            n_train=self.data.modality.count("train"),
            parameters=[(str(p.name), p.type.shape, p in decayed) for p in layers_first],
            momentum=run.momentum,
            weight_decay=run.weight_decay,
            form=run.momentum_form,
            nesterov=run.nesterov,
            normalization=run.normalization,
            shuffle=run.shuffle,
        )

    def finite(self) -> bool:
        """Whether all weights, running statistics and velocities are finite numbers; waits for the device."""
        return all(bool(b.flat.isfinite().all()) for b in (self.state.weights, self.state.velocity))

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Weights and running statistics as ``weights/NAME`` and velocities as ``velocity/NAME``."""
        groups = {"weights": self.state.weights, "velocity": self.state.velocity}
        return {
            f"{group}/{name}": view.cpu().numpy().copy(order="C")
            for group, buffer in groups.items()
            for name, view in buffer.views.items()
        }

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray], iteration: int, last_eta: float) -> None:
        """Take over what `state_arrays` gave, after `iteration` updates, the last of them at the rate `last_eta`."""
        for group, buffer in {"weights": self.state.weights, "velocity": self.state.velocity}.items():
            load_views(
                buffer,
                {k.removeprefix(f"{group}/"): v for k, v in arrays.items() if k.startswith(f"{group}/")},
            )
        self.state.iteration.set_value(iteration)
        self.state.last_eta.set_value(np.float64(last_eta))

    def weights_to_average(self) -> FlatBuffer:
        """The buffer that the sync type ``avg`` averages, in place: weights and running statistics."""
        return self.state.weights

    def weights_averaged(self) -> None:
        """Nothing: the parameters are views of the buffer."""


def refuse_unheeded(model: Model) -> None:
    """Refuse what a model's class or constructor has set that looks as if it decided something, but does not.

    Raises
    ------
    ConfigError
        For the first attribute that is named as a setting or as a method that other trainers call.
    """
    for cls in type(model).__mro__:
        if cls is Model:
            break
        for name in vars(cls):
            if name in _FOR_FIELDS:
                raise ConfigError(
                    f"{cls.__name__}.{name}: expected no such attribute, as a model does not decide this, got one; "
                    f"remedy: the setting {_FOR_FIELDS[name]}"
                )
            if name in _NOT_CALLED:
                raise ConfigError(
                    f"{cls.__name__}.{name}: expected no such attribute, as nothing here uses it, got one; every model "
                    "is trained by the cross-entropy of its scores, with momentum"
                )
    own = vars(model)
    changed = [name for name in own if name in _FOR_FIELDS and name not in ("data", "verbose", "n_epochs")]
    if changed or own["n_epochs"] != model.config.epochs:
        name = changed[0] if changed else "n_epochs"
        raise ConfigError(
            f"{type(model).__name__}: expected its constructor to leave {name} alone, as a model does not decide this, "
            f"got {name} = {own[name]!r}; remedy: the setting {_FOR_FIELDS[name]}"
        )
