"""What the trainer needs of a model, and a base class that makes most of it.

A classifier of your own is a class with one method::

    from theanompi import Model
    from theanompi.lasagne.layers import DenseLayer, InputLayer

    class Linear(Model):
        def build_model(self, input_shape, num_classes):
            return DenseLayer(InputLayer(input_shape), num_classes, nonlinearity=None, name="scores")

Anything else is one with three: `Model.build` makes the layers, `Model.objectives` says what is to become small, and
`modality`, a class attribute, what an item of the data is.

Theano-MPI's contract holds as well: any class that takes one `config` dict and has `params`, `data`,
`compile_iter_fns`, `train_iter`, `val_iter`, `adjust_hyperp`, `cleanup`, `n_epochs` and `epoch` can be trained
with the sync type ``avg``, whatever library it is built with: see :mod:`theanompi.training.theano_mpi_model`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytensor
import torch
from pytensor.graph.basic import Variable

from theanompi import device
from theanompi.config import (
    FIELDS,
    ConfigError,
    Named,
    NoSettings,
    RunConfig,
    got,
    listed,
    read_as,
    read_settings,
    resolve,
)
from theanompi.config.kinds import POSITIVE
from theanompi.data import Modality, Pictures
from theanompi.device import FlatBuffer
from theanompi.exchange import Exchanger
from theanompi.lasagne.layers import Layer, get_all_params, get_output
from theanompi.lasagne.random import set_rng
from theanompi.lib.recorder import Recorder as TheanoMPIRecorder
from theanompi.record.log import check_metrics
from theanompi.record.metrics import Reported, mean_of
from theanompi.record.timeline import Span
from theanompi.rules import check_finite, own_step
from theanompi.training.functions import gradient_function, update_function, validation_function
from theanompi.training.inputs import Feed, Inputs
from theanompi.training.items import Items
from theanompi.training.objective import Objective, Traced, alphas, classification, measured, trace
from theanompi.training.optimizers import Optimizer, get_optimizer
from theanompi.training.own_class import TAKEN, check_kinds, check_names
from theanompi.training.plan import plan
from theanompi.training.replica import Measures, Replica
from theanompi.training.schedules import make_schedule
from theanompi.training.state import METRICS, make_states


class _BatchSize:
    """What Theano-MPI's loops call the items of a batch; a class that sets it itself is refused."""

    def __get__(self, model: "Model", owner: type | None = None) -> int | None:
        return None if model is None else model.config.batch_size


class Model(Replica):
    """A network with its data, its compiled functions and its place among the ranks.

    Parameters
    ----------
    config : mapping
        The fields of :class:`theanompi.config.RunConfig` and ``rank``, ``size`` and ``verbose``; what is
        missing has its default.

    Attributes
    ----------
    modality : type of Modality
        What an item of the data is; an attribute of the class.
    defaults : mapping
        Settings of the run that the class brings along, which the user's own override; an attribute of the class.
    bias_rate : float
        What the learning rate is multiplied by for parameters that do not decay, such as biases; an attribute of the
        class. Caffe's networks and Theano-MPI's have 2.
    network : Layer, or mapping or sequence of them
        What `build` gave.
    params : list of DeviceSharedVariable
        The trainable parameters.
    fixed : list of DeviceSharedVariable
        Those that no update changes, such as of layers that are not ``trainable``.
    traced : Traced
        The objectives in training, as graphs.
    states : States
        For each objective its weights, slots, gradients and statistics in flat buffers.
    optimizers : list of Optimizer
        One for each objective.
    reported : Reported
        The names of all losses, then of all metrics; runs are compared by the first metric, or without any by the first
        loss.
    data : Items
    dataset : Dataset or RecordDataset
    schedule : Schedule
        The learning rate at each iteration.
    n_epochs, epoch : int
    settings : Settings
        Those of the class, as the run has them.
    """

    modality: ClassVar[type[Modality]] = Pictures
    defaults: ClassVar[Mapping[str, Any]] = {}
    bias_rate: float = 1.0
    Settings: ClassVar[type] = NoSettings
    n_subb: ClassVar[int] = 1
    file_batch_size = _BatchSize()

    data: Items
    # Which of its own methods a model is asked by just now.
    _asked: str | None = None

    def __init__(self, config: Mapping[str, Any]) -> None:
        check_names(self)
        check_kinds(self)
        given = RunConfig.from_dict({k: v for k, v in config.items() if k in FIELDS})
        self.config = resolve(given, self.defaults, model=type(self).__name__)
        self.settings: Any = read_settings(self.Settings, self.config.settings, "model")
        self.bias_rate = read_as(POSITIVE, f"{type(self).__name__}.bias_rate", self.bias_rate)
        if self.config.data is None:
            raise ConfigError(
                f"{type(self).__name__}.defaults: data: expected a data set, as a theanompi.Model reads none of its "
                "own, got None"
            )
        self.rank, self.size = int(config.get("rank", 0)), int(config.get("size", 1))
        self.verbose = bool(config.get("verbose", self.rank == 0))
        run = self.config
        assert run.batch_size and run.epochs
        self.n_epochs, self.epoch = run.epochs, 0
        try:
            self.data = Items(self.modality, run, self.rank, self.size)
        except (ValueError, OSError) as error:
            # One line, also where a user's own constructor has called this one.
            raise ConfigError(str(error)) from error
        self.dataset = self.data.dataset
        self.inputs = Inputs(self.data.modality, run.batch_size)

        set_rng(np.random.default_rng(run.seed))
        self._batches = {training: self._graph(training=training) for training in (True, False)}
        with pytensor.config.change_flags(floatX="float32"), self._asking("build"):
            network = self.build(self._batches[True])
        self.network = network
        layers = self._outputs()
        # What the network refuses is known now, and not after the first part of compiling.
        self.traced, self._validated = (self._trace(training=training) for training in (True, False))
        self._alphas = alphas(self.traced.statistics, layers)
        self.reported = self._name_metrics()
        self.optimizers = self._make_optimizers()
        self.states = make_states(
            self.traced, layers, self.optimizers, self.size, type(self).__name__, averaged=run.ema > 0
        )
        self.state = self.states[0]
        self.params = [p for state in self.states for p in state.parameters]
        self.fixed = [p for p in get_all_params(layers) if p.name not in self.state.weights.views]
        self.schedule = make_schedule(
            run, minibatch=self.data.sampler.minibatch, iterations_per_epoch=self.data.n_batch_train
        )
        self._stop = device.shared(np.float32(0), "stop")
        self._validation_sums = device.shared(np.zeros(1 + 2 * len(self.reported.metrics)), "validation_sums")
        self._validated_batches: list[torch.Tensor] = []
        self._exchangers: Sequence[Exchanger] = ()
        self._gradients: list[Callable[[], object]] = []
        self._updates: list[Callable[[], Any]] = []
        self._validate: Callable[[], object] | None = None
        self._feed = Feed(self.inputs, iter(()))
        self._next: tuple[int, int] | None = None
        self._count = self._val_position = 0
        # The batches of a minibatch, for the objectives after the first; without accumulation they are where they were.
        self._kept: list[list[torch.Tensor]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if self._asked and name in TAKEN:
            raise ConfigError(
                f"{type(self).__name__}.{self._asked}: expected another name than {name}, which is the trainer's on a "
                f"Model, got {name} = {type(value).__name__}"
            )
        super().__setattr__(name, value)

    @contextmanager
    def _asking(self, method: str) -> Iterator[None]:
        """While a method of a subclass's own is called, what it sets must not be the trainer's."""
        vars(self)["_asked"] = method
        try:
            yield
        finally:
            vars(self)["_asked"] = None

    def _graph(self, *, training: bool) -> Named[Variable]:
        """What a batch is to the methods of a class of one's own."""
        modality = self.data.modality
        seen = modality.graph(self.inputs.variables, training)
        if not isinstance(seen, Mapping) or not {"weights", "keys"} <= seen.keys():
            there = listed(seen) if isinstance(seen, Mapping) else got(seen)
            raise ConfigError(
                f"{type(modality).__name__}.graph: expected fields by name, with weights and keys, got {there}"
            )
        return Named("a batch", seen)

    def _trace(self, *, training: bool) -> Traced:
        n = self.config.batch_size
        assert n
        with self._asking("objectives"):
            return trace(self, self._batches[training], n, training=training)

    def _name_metrics(self) -> Reported:
        """What the objectives report, the same in training and in validation."""
        n = len(self.traced.objectives)
        names, found = (measured(traced.objectives) for traced in (self.traced, self._validated))
        check_metrics(names)
        if found != names:
            raise ConfigError(
                f"{type(self).__name__}.objectives: expected {', '.join(names)} in validation too, "
                f"got {', '.join(found)}"
            )
        return Reported(names, names[n] if len(names) > n else names[0], self.data.modality.noun)

    def _make_optimizers(self) -> list[Optimizer]:
        with self._asking("optimizer"):
            made = [self.optimizer(objective) for objective in self.traced.objectives]
        for one in made:
            if not isinstance(one, Optimizer):
                raise ConfigError(
                    f"{type(self).__name__}.optimizer: "
                    f"expected a theanompi.training.optimizers.Optimizer, got {got(one)}"
                )
        return made

    def build(self, batch: Mapping[str, Variable]) -> Layer | Mapping[str, Layer] | Sequence[Layer]:
        """Make the layers; a model of pictures may have `build_model` instead.

        Parameters
        ----------
        batch : mapping of str to Variable
            The fields of a batch as the modality gives them; their static shapes begin with n.

        Returns
        -------
        Layer, or mapping or sequence of them
            The output layers of all networks whose parameters are trained: `network` from now on.
        """
        if "images" not in batch:
            raise ConfigError(
                f"{type(self).__name__}: expected a method build, as only pictures are given to build_model, got none"
            )
        shape, n_classes = batch["images"].type.shape, self.dataset.n_classes
        network = self.build_model(shape, n_classes)
        if not isinstance(network, Layer):
            raise ConfigError(
                f"{type(self).__name__}.build_model: expected an output layer, got {type(network).__name__}"
            )
        if type(self).objectives is Model.objectives and network.output_shape != (shape[0], n_classes):
            raise ConfigError(
                f"{type(self).__name__}.build_model: expected class scores of shape "
                f"{(shape[0], n_classes)}, got {network.output_shape}"
            )
        return network

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        """Build the network of a classifier of pictures.

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

    def objectives(self, batch: Mapping[str, Variable], training: bool) -> Objective | Sequence[Objective]:
        """Say what is to become small; by default the cross-entropy of the class scores.

        It is called once for training and once for validation. `get_output` knows which it is: in validation it is
        ``deterministic``.

        Parameters
        ----------
        batch : mapping of str to Variable
            The fields of a batch, as for `build`. ``weights``, which are 0 where a batch of validation is filled up
            with copies of its last item, need attention only where the loss of an item depends on the other items.
        training : bool

        Returns
        -------
        Objective or sequence of Objective
            Several have parameters of their own each; in an iteration they are updated one after another, each with
            the weights that the one before has left, on the same batches.
        """
        if "images" not in batch:
            raise ConfigError(
                f"{type(self).__name__}: expected a method objectives, as only classifiers of pictures have a default, "
                "got none"
            )
        return classification(get_output(self.network, batch["images"]), batch["labels"])

    def scores(self, batch: Mapping[str, Variable]) -> Variable:
        """Say what the class scores of a classifier of pictures are, for predictions; by default its first output.

        Parameters
        ----------
        batch : mapping of str to Variable
            With ``images``, as for `build`.

        Returns
        -------
        float32 (n, classes)
            Class scores, or their softmax.
        """
        return get_output(self._outputs()[0], batch["images"])

    def predictions(self, batch: Mapping[str, Variable]) -> Variable | Mapping[str, Variable]:
        """Say what is predicted, for `theanompi.load` and ``tmlauncher predict``: of what is no classifier of pictures.

        Parameters
        ----------
        batch : mapping of str to Variable
            The fields of a batch, as for `build`. Those that are not used here need not be given to predict.

        Returns
        -------
        Variable, or mapping of str to Variable
            (n, …): an entry for each item. `get_output` is ``deterministic``, as in validation.
        """
        raise NotImplementedError(f"{type(self).__name__} has no predictions")

    @property
    def seen_in_validation(self) -> Mapping[str, Variable]:
        """The fields of a batch of validation, as the methods of a class are given them."""
        return self._batches[False]

    def optimizer(self, objective: Objective) -> Optimizer:
        """Make the optimizer of an objective; by default the run's setting ``optimizer``."""
        return get_optimizer(self.config.optimizer or "momentum")(self.config)

    def torch_names(self) -> Mapping[str, str]:
        """Name the torch modules that layers stand for, where weights of an implementation in torch are to be read.

        Returns
        -------
        mapping of str to str
            From the names of layers, such as ``"res2a_branch2a"``, to those in a ``state_dict`` without ``.weight``,
            ``.bias`` and the like, such as ``"layer1.0.conv1"``. A layer that is not in it has its own name there too;
            by default that goes for all.
        """
        return {}

    def on_iteration(self, record: dict[str, Any]) -> None:
        """Act after an iteration: a hook for a class of your own, which by default there is not, and costs nothing.

        A hook is called on every rank. What it raises ends all ranks, with its traceback. What it changes of the
        weights it has to change alike on all of them.

        Parameters
        ----------
        record : dict
            As a line of the log of kind ``train``, of this iteration alone: ``epoch``, ``iteration`` (finished
            updates), each loss and metric over all ranks, ``lr``, ``iterations`` (1) and ``items``, without times.
            Under an asynchronous rule it has what this rank has seen. The time that the hook takes is the log's
            "other".
        """

    def on_validation(self, record: dict[str, Any]) -> None:
        """Act after a validation, with the weights that count still in place and before the checkpoint: a hook.

        Parameters
        ----------
        record : dict
            The log's line of kind ``val``, the same on every rank. See `on_iteration`.
        """

    def on_end(self, record: dict[str, Any]) -> None:
        """Act when the run has ended in good order, after its last checkpoint: a hook.

        A run that fails, or whose loss is not finite, does not come to it.

        Parameters
        ----------
        record : dict
            The log's last line, the same on every rank: of kind ``summary``, or where a signal has stopped the run
            the one before it, of kind ``train`` or ``val``. See `on_iteration`.
        """

    def _outputs(self) -> list[Layer]:
        """The output layers of `network`."""
        given: Any = self.network
        if isinstance(given, Mapping):
            given = list(given.values())
        layers = list(given) if isinstance(given, list | tuple) else [given]
        if not layers or not all(isinstance(layer, Layer) for layer in layers):
            got = ", ".join(sorted({type(layer).__name__ for layer in layers})) or "none"
            raise ConfigError(f"{type(self).__name__}.build: expected output layers, got {got}")
        return layers

    def compile_iter_fns(self, sync_type: str = "cdd", exchangers: Sequence[Exchanger] = ()) -> None:
        """Compile the gradient and update functions; that of validation is compiled by `compile_validation`.

        The loader processes start meanwhile. The arguments are those of `theanompi.training.replica.Replica`.
        """
        run = self.config
        # Gradients are normalised over all ranks when they are summed, over this one's workers otherwise.
        self._sums_gradients = sync_type == "cdd"
        if run.ema and not self._sums_gradients:
            raise ConfigError(
                f"ema: expected 0, as with rule {run.rule} each worker has weights of its own, got {run.ema:g}"
            )
        self._exchangers = exchangers
        self.data.start_loader()
        mode = partial(
            device.mode, precision=run.precision, return_internal_type=True, capture=run.cuda_graph
        )
        shards = run.accumulation * (self.size if self._sums_gradients else 1)
        self._gradients, self._updates = [], []
        for i, (objective, state) in enumerate(zip(self.traced.objectives, self.states, strict=True)):
            written = exchangers[i].written if exchangers and exchangers[i].listens else None
            self._gradients.append(
                gradient_function(
                    objective,
                    state,
                    self.traced.statistics,
                    shards=shards,
                    summed=self._sums_gradients,
                    stop=self._stop,
                    rank=self.rank,
                    accumulate=run.accumulation > 1,
                    mode=mode(written=written),
                )
            )
            self._updates.append(
                update_function(
                    objective,
                    state,
                    self.optimizers[i],
                    self.schedule,
                    self._alphas,
                    shards=shards,
                    summed=self._sums_gradients,
                    normalization=run.normalization,
                    clip_norm=run.clip_norm or None,
                    bias_rate=self.bias_rate,
                    decay=run.ema,
                    mode=mode(),
                )
            )

    def compile_validation(self) -> None:
        """Compile the validation function, if that was not done yet: simulated workers share one model.

        It is of the weights' moving average, if the run has one.
        """
        if self._validate is not None:
            return
        run, average = self.config, self.state.average
        held = [p for state in self.states for p in (*state.parameters, *state.statistics)]
        self._validate = validation_function(
            self._validated.objectives,
            self._batches[False]["weights"],
            self._validation_sums,
            device.mode(precision=run.precision, return_internal_type=True, capture=run.cuda_graph),
            instead={}
            if average is None
            else {p: device.shared(average.views[p.name], p.name) for p in held},
        )

    def validate_on(self, data: str) -> None:
        """Let validations be of another data set, whose items are seen as those of training are.

        Parameters
        ----------
        data : str
            Of items that fit the network; for `theanompi.data.open_dataset`.

        Raises
        ------
        ConfigError, ValueError
            If they do not, or there is no such data set.
        """
        run = self.config
        assert run.batch_size
        items = Items(self.modality, replace(run, data=data), self.rank, self.size)
        items.modality.see_as(self.data.modality)
        self.data.close()
        self.data, self.dataset = items, items.dataset
        self.inputs = Inputs(items.modality, run.batch_size)
        self._batches[False] = self._graph(training=False)
        self._validated = self._trace(training=False)
        self._validate = None

    def due(self, count: int) -> list[int]:
        iteration = self.epoch * self.data.n_batch_train + count
        return [i for i, o in enumerate(self.traced.objectives) if (iteration + 1) % o.every == 0]

    def train_iter(self, count: int, recorder: Any, objective: int | None = None) -> None:
        """Compute this rank's gradients of one objective in one minibatch; without a rule, do the whole iteration.

        Parameters
        ----------
        count : int
            Its position in the epoch that `epoch` names. Any position will do; going on to the next one finds
            its batches read ahead.
        recorder : Recorder
            Told how long was waited for data and computed. Theano-MPI's, `theanompi.lib.recorder.Recorder`, is one of a
            loop without a rule: all objectives are updated, and it is told the first loss and the first metric.
        objective : int
            Which one, by default the first; of those that are `due`, the first reads the batches and the others use
            them again.
        """
        if objective is None and isinstance(recorder, TheanoMPIRecorder):
            step, loss = own_step(self, count, recorder)
            check_finite([loss])
            self._val_position = 0
            recorder.train_error(count, *self._of_contract(step.sums)[:2])
            return
        objective = objective or 0
        first, *others = self.due(count)
        reads = objective == first
        if reads:
            if self._next is not None:
                device.use_huge_pages()
            if (self.epoch, count) != self._next:
                self._feed = Feed(self.inputs, self.data.train(self.epoch, count))
            self._kept, self._next = [], (self.epoch, count + 1)
        self._count = count
        run, own_units = self.config, self.data.sampler.own_units(count)
        state = self.states[objective]
        if run.accumulation > 1 or not own_units:
            state.gradients.flat.zero_()
        if not own_units:
            state.gradients.views[METRICS][state.n_sums + 1] = self._stop.tensor
        for unit in range(own_units):
            recorder.start("waiting for a batch")
            if reads:
                self._feed.load()
                if others and own_units > 1:
                    self._kept.append([v.tensor.clone() for v in self.inputs.variables.values()])
            elif own_units > 1:
                for variable, kept in zip(self.inputs.variables.values(), self._kept[unit], strict=True):
                    variable.tensor.copy_(kept)
            recorder.end("wait")
            recorder.start("computing gradients")
            if self._exchangers and unit == own_units - 1:
                self._exchangers[objective].begin()
            self._gradients[objective]()
            recorder.end("calc")
            if reads:
                recorder.start("waiting for a batch")
                self._feed.stage()  # while the device computes
                recorder.end("wait")

    def at(self, iteration: int) -> None:
        for state in self.states:
            state.iteration.set_value(np.int64(iteration // state.every))

    def ask_to_stop(self) -> None:
        self._stop.tensor.fill_(1)

    def measures(self, objective: int = 0) -> Measures:
        state, sampler = self.states[objective], self.data.sampler
        weights, *sums, _, asked = (values := state.gradients.views[METRICS].tolist())[: state.n_sums + 2]
        batches = sampler.units(self._count) if self._sums_gradients else sampler.own_units(self._count)
        return Measures(
            items=batches * self.data.batch_size,
            sums={name: (value, weights) for name, value in zip(state.names, sums, strict=True)},
            losses=values[state.n_sums + 2 :],
            asked=asked > 0,
        )

    def update(self, objective: int = 0) -> Any:
        return self._updates[objective]()

    def val_iter(self, count: int, recorder: Any) -> None:
        """Validate this rank's batch number `count`; the first one begins a new validation, the others follow.

        Where the recorder is Theano-MPI's, the first one after a training iteration does, whatever its number, and it
        is told the means of the batch.
        """
        alone = isinstance(recorder, TheanoMPIRecorder)
        if alone:
            count = self._val_position
        if count == 0:
            self._validated_batches = []
            self._feed = Feed(self.inputs, self.data.validation())
            self._next = None  # the training's stream is over
        else:
            device.use_huge_pages()
        self._feed.load()
        self.compile_validation()
        assert self._validate is not None
        self._validate()
        self._validated_batches.append(self._validation_sums.tensor.clone())
        self._feed.stage()
        if alone:
            self._val_position = (count + 1) % self.data.n_batch_val
            _, *sums = self._validation_sums.get_value().tolist()
            pairs = zip(sums[::2], sums[1::2], strict=True)
            recorder.val_error(
                count, *self._of_contract(dict(zip(self.reported.metrics, pairs, strict=True)))
            )

    def _of_contract(self, sums: Mapping[str, tuple[float, float]]) -> list[float]:
        """What Theano-MPI's recorder asks for: the first loss, the headline if it is another metric, and its top-5."""
        headline = self.reported.headline
        names = (
            self.reported.metrics[0],
            headline if headline not in self.reported.losses else "",
            f"{headline}_top5",
        )
        return [(mean_of(name, *sums[name]) or 0.0) if name in sums else 0.0 for name in names]

    def reset_iter(self, mode: str) -> None:
        """Nothing: the position is an argument of `train_iter` and `val_iter`."""

    @property
    def shared_lr(self) -> Any:
        """The learning rate of the first objective's last update, as a shared variable."""
        return self.state.last_eta

    def validation_sums(self) -> np.ndarray:
        if not self._validated_batches:
            return np.empty((0, 1 + 2 * len(self.reported.metrics)))
        return torch.stack(self._validated_batches).cpu().numpy()

    def readings(self) -> list[list[Span]]:
        return self.data.readings()

    def cleanup(self) -> None:
        """Stop reading ahead."""
        self.data.close()

    def plan(self) -> str:
        decayed = {p for state in self.states for p in state.decayed}
        return plan(
            self.config,
            self.schedule,
            {
                o.words(): optimizer
                for o, optimizer in zip(self.traced.objectives, self.optimizers, strict=True)
            },
            workers=self.size,
            n_train=self.data.sampler.n_images,
            parameters=[(str(p.name), p.type.shape, p in decayed) for p in reversed(self.params)],
            bias_rate=self.bias_rate,
            noun=self.data.modality.noun,
        )

    def state_arrays(self) -> dict[str, np.ndarray]:
        """All parameters and running statistics as ``weights/NAME``, what optimizers keep of each as ``SLOT/NAME``.

        Of a run with a moving average that is ``weights/NAME``, and what updates go on with ``raw/NAME``.
        """
        return self.states.arrays() | {f"weights/{p.name}": p.get_value() for p in self.fixed}

    def finite(self) -> bool:
        return self.states.finite()

    def last_etas(self) -> list[float]:
        """η of each objective's last update."""
        return [float(state.last_eta.get_value()) for state in self.states]

    def load_state_arrays(
        self, arrays: Mapping[str, np.ndarray], iteration: int, last_etas: Sequence[float]
    ) -> None:
        """Take over what `state_arrays` gave after `iteration` iterations, and what `last_etas` did."""
        self.states.load(arrays, iteration, last_etas)

    def gradient_buffers(self) -> list[FlatBuffer]:
        """The buffer of each objective's gradients, batch statistics and metrics."""
        return [state.gradients for state in self.states]

    def n_validated(self) -> int:
        return self.data.modality.count("val")

    def rate(self, iteration: int) -> float:
        return self.schedule(iteration)

    def weights_to_average(self) -> FlatBuffer:
        return self.state.weights

    def state_to_share(self) -> list[FlatBuffer]:
        return self.states.to_share()

    def state_shared(self) -> None:
        self.states.shared()

    def scale_gradients(self, objective: int, factor: float) -> None:
        self.states[objective].scale_gradients(factor)

    def networks(self) -> list[list[torch.Tensor]]:
        return [state.pieces() for state in self.states]


def hook(replica: Any, name: str) -> Callable[[dict[str, Any]], None] | None:
    """Give a hook that the class of a model has made its own: ``on_iteration``, ``on_validation`` or ``on_end``.

    Parameters
    ----------
    replica : Replica
        What is no `Model` has none.
    name : str

    Returns
    -------
    callable or None
    """
    if not isinstance(replica, Model) or getattr(type(replica), name) is getattr(Model, name):
        return None
    own: Callable[[dict[str, Any]], None] = getattr(replica, name)
    return lambda record: own(Named("a record", record))
