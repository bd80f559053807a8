"""What an update makes smaller: a loss, what each item counts, metrics by name, and the parameters that it moves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.special import Softmax

from theanompi.config import ConfigError, got, read_as
from theanompi.config.kinds import FRACTION, POSITIVE, whole
from theanompi.device import DeviceSharedVariable
from theanompi.device.ops import partners, softmax_cross_entropy
from theanompi.lasagne.layers import get_all_layers, get_all_params, output_keywords
from theanompi.lasagne.objectives import categorical_accuracy
from theanompi.lasagne.utils import collect_shared_vars

_TARGETS: ContextVar["Targets | None"] = ContextVar("what classification makes of labels", default=None)
_OF_CLASSIFIERS = ("label_smoothing", "mixup", "cutmix", "random_erasing")


class Targets:
    """What `classification` makes of the labels in a pass of training, and whether it was `asked` for it.

    `smoothing` is the share of each that is spread over all classes, `mixed` float32 (n,) the share of each item's
    partner, or None where items are not mixed.
    """

    def __init__(self, smoothing: float, mixed: Variable | None) -> None:
        self.smoothing, self.mixed, self.asked = smoothing, mixed, False


class Objective(NamedTuple):
    """What one update minimises: the weighted mean of a loss over the items of a minibatch.

    The means are over the whole minibatch, however it is split into ranks and accumulation steps, because the sum of
    the weights travels with the gradients.

    Attributes
    ----------
    loss : float32 vector (items,)
        One number for each item of the batch, or several for each (as for the positions of a sequence): then those of
        the first item come first.
    weight : float32 vector (items,), optional
        What each counts: 0 for padding. Without it each counts 1.
    metrics : mapping of str to float32 vector (items,)
        What is reported beside the loss, as weighted means, by name; of all of them less is better. The first metric of
        a model is the one that its runs are compared by.
    params : sequence of shared variable, optional
        What the update moves; a model with one objective may leave it out: all trainable parameters of its network.
    name : str
        Of the loss in the log.
    every : int
        It is updated in every so-many-th iteration, the first time in iteration `every`. One of a model's has 1.
    rate : float
        What the learning rate of the schedule is multiplied by.
    """

    loss: Variable
    weight: Variable | None = None
    metrics: Mapping[str, Variable] = {}
    params: Sequence[DeviceSharedVariable] | None = None
    name: str = "loss"
    every: int = 1
    rate: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """The loss's name and those of the metrics."""
        return (self.name, *self.metrics)

    def words(self) -> str:
        """Its name and when it is updated, for the plan."""
        every = f", once in {self.every} iterations" * (self.every != 1)
        return self.name + every + f", at {self.rate:g} times the rate" * (self.rate != 1)


def classification(scores: Variable, labels: Variable) -> Objective:
    """The cross-entropy of class scores, with the errors at the first and within the first five guesses.

    A trainer smooths the labels in training, and not in validation, by its setting ``label_smoothing``: that share ε of
    each label is spread evenly over all classes (Szegedy et al. 2015, arXiv 1512.00567, §7). Where it mixes images, by
    ``mixup`` or ``cutmix``, labels are mixed by the same shares, (1 - s)·y + s·y', with y' that of the item before.

    Parameters
    ----------
    scores : float32 tensor, shape (n, classes)
        Class scores, or the softmax of them.
    labels : int64 vector, shape (n,)

    Returns
    -------
    Objective
        Its loss is in nats. Metrics are ``error`` and ``error_top5``, 0 or 1 for each item: whether the true class is
        not the best, or not among the first five, as :func:`theanompi.lasagne.objectives.categorical_accuracy` says:
        of equal scores the lower class goes first, and NaN is an error. The true class of a mixed image is that of the
        larger share.

    Raises
    ------
    ConfigError
        If items are mixed and these are others, or the probabilities are a softmax along another axis than 1.
    """
    if scores.owner is not None and isinstance(scores.owner.op, Softmax):
        axis = scores.owner.op.axis
        if axis != (1,):
            raise ConfigError(
                "classification: expected scores, or their softmax along axis 1, that of the classes, got one along "
                f"{'all axes' if axis is None else f'axis {axis[0]}'}"
            )
        scores = scores.owner.inputs[0]
    targets = _TARGETS.get()
    loss, true = _cross_entropy(scores, labels, targets), labels
    if targets is not None:
        targets.asked = True
        if (share := targets.mixed) is not None:
            labels = pt.as_tensor_variable(labels)
            if labels.type.shape[0] not in (None, share.type.shape[0]):
                raise ConfigError(
                    f"classification: expected {share.type.shape[0]} labels with mixup or cutmix, one for each image, "
                    f"got {labels.type.shape[0]}"
                )
            theirs = partners(labels)
            loss = (1 - share) * loss + share * _cross_entropy(scores, theirs, targets)
            true = pt.switch(pt.gt(share, np.float32(0.5)), theirs, labels)
    error, error_top5 = (np.float32(1) - categorical_accuracy(scores, true, top_k=k) for k in (1, 5))
    return Objective(loss, metrics={"error": error, "error_top5": error_top5})


def _cross_entropy(scores: Variable, labels: Variable, targets: Targets | None) -> Variable:
    loss = softmax_cross_entropy(scores, labels)
    if targets is None or not targets.smoothing:
        return loss
    # What the label loses, all classes have together: the log of the softmax's sum stays.
    own = scores[pt.arange(labels.shape[0]), labels]
    return loss + np.float32(targets.smoothing) * (own - scores.mean(1))


class Statistics(dict[Variable, Variable]):
    """The statistics that layers such as batch normalisation hand out: of several passes through a layer, their mean.

    Raises
    ------
    ConfigError
        If a statistic has another shape than the average that moves towards it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[Variable, list[Variable]] = {}

    def __setitem__(self, running: Variable, value: Any) -> None:
        value = pt.as_tensor_variable(value)
        there, wanted = value.type.shape, running.type.shape
        if len(there) != len(wanted) or any(
            i != j and None not in (i, j) for i, j in zip(there, wanted, strict=True)
        ):
            raise ConfigError(f"batch_norm_statistics: {running}: expected shape {wanted}, got {there}")
        values = self._values.setdefault(running, [])
        values.append(value if value.dtype == "float32" else pt.cast(value, "float32"))
        value = values[0]
        mean = value if len(values) == 1 else sum(values[1:], values[0]) * np.float32(1 / len(values))
        super().__setitem__(running, mean)


class Traced(NamedTuple):
    """The objectives of a model as graphs, and the statistics that training hands out."""

    objectives: tuple[Objective, ...]
    statistics: Statistics


def trace(model: Any, batch: Mapping[str, Variable], n: int, *, training: bool) -> Traced:
    """Ask a model for its objectives, and check them.

    Parameters
    ----------
    model : Model
    batch : mapping of str to Variable
        The fields of a batch of `n` items; ``keys`` decide what dropout drops.
    training : bool
        Or validation.

    Raises
    ------
    ConfigError
        If something of an objective is not as it must be, or labels are to be smoothed or images mixed or erased, and
        none is made by `classification`: one line that says what.
    """
    where = f"{type(model).__name__}.objectives"
    statistics = Statistics()
    asked = {name: value for name in _OF_CLASSIFIERS if (value := getattr(model.config, name))}
    targets = Targets(model.config.label_smoothing, batch.get("mixed")) if training and asked else None
    # As in get_output, what is not of our layers included.
    with pytensor.config.change_flags(floatX="float32"), _pass(batch, statistics, targets, training=training):
        given = model.objectives(batch, training)
    if targets is not None and not targets.asked:
        name, value = next(iter(asked.items()))
        raise ConfigError(
            f"{where}: {name}: expected 0, as it is for classifiers, whose objectives call theanompi.classification, "
            f"which this does not, got {value:g}"
        )
    objectives = (given,) if isinstance(given, Objective) else tuple(given) if _is_list(given) else ()
    if not objectives or not all(isinstance(one, Objective) for one in objectives):
        what = [type(one).__name__ for one in objectives] or type(given).__name__
        raise ConfigError(f"{where}: expected an Objective or a list of them, got {what}")
    checked = tuple(_checked(one, n, where) for one in objectives)
    if all(one.every != 1 for one in checked):
        raise ConfigError(
            f"{where}: expected one objective with every=1, got {[one.every for one in checked]}"
        )
    return Traced(checked, statistics)


@contextmanager
def _pass(
    batch: Mapping[str, Variable], statistics: Statistics, targets: Targets | None, *, training: bool
) -> Iterator[None]:
    if training:
        before = _TARGETS.set(targets)
        try:
            with output_keywords(sample_keys=batch["keys"], batch_norm_statistics=statistics):
                yield
        finally:
            _TARGETS.reset(before)
    else:
        with output_keywords(deterministic=True):
            yield


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _checked(objective: Objective, n: int, where: str) -> Objective:
    """The objective with its loss, weight and metrics as float32 vectors of one known length."""
    where = f"{where}: {objective.name}"
    loss = _vector(objective.loss, f"{where}: loss", None)
    length = loss.type.shape[0]
    if length is None or length % n:
        there = "an unknown number" if length is None else str(length)
        raise ConfigError(
            f"{where}: loss: expected {n} numbers, one for each item, or a multiple, got {there}"
        )
    every = read_as(whole(1), f"{where}: every", objective.every)
    rate = read_as(POSITIVE, f"{where}: rate", objective.rate)
    weight = None if objective.weight is None else _vector(objective.weight, f"{where}: weight", length)
    if not isinstance(objective.metrics, Mapping):
        raise ConfigError(f"{where}: metrics: expected vectors by name, got {got(objective.metrics)}")
    metrics = {name: _vector(m, f"{where}: {name}", length) for name, m in objective.metrics.items()}
    _nothing_moves_by_itself([v for v in (loss, weight, *metrics.values()) if v is not None], where)
    if not (objective.params is None or _is_list(objective.params)):
        raise ConfigError(
            f"{where}: params: expected a list of shared variables of layers, got {got(objective.params)}"
        )
    params = None if objective.params is None else tuple(objective.params)
    for param in params or ():
        if not isinstance(param, DeviceSharedVariable) or param.type.dtype != "float32":
            raise ConfigError(f"{where}: params: expected float32 shared variables of layers, got {param}")
    return objective._replace(
        loss=loss, weight=weight, metrics=metrics, params=params, every=every, rate=rate
    )


def _vector(value: Any, where: str, length: int | None) -> Variable:
    wanted = "(items,)" if length is None else f"({length},)"
    try:
        variable = pt.as_tensor_variable(value)
    except Exception:
        raise ConfigError(
            f"{where}: expected a float32 vector {wanted}, got a {type(value).__name__}"
        ) from None
    if variable.ndim != 1 or variable.dtype not in ("float32", "float64", "bool"):
        shape = ", ".join("?" if size is None else str(size) for size in variable.type.shape)
        raise ConfigError(
            f"{where}: expected a float32 vector {wanted}, got {variable.dtype} of shape ({shape})"
        )
    if length is not None and variable.type.shape[0] not in (length, None):
        raise ConfigError(
            f"{where}: expected {length} numbers, as many as the loss has, got {variable.type.shape[0]}"
        )
    return variable if variable.dtype == "float32" else pt.cast(variable, "float32")


def _nothing_moves_by_itself(graphs: Sequence[Variable], where: str) -> None:
    """Refuse what the split into ranks, or a resume, would change: noise and averages that keep their own state."""
    refuse_generators(graphs, where, "the keys of the batch")
    moving = [v for v in collect_shared_vars(graphs) if getattr(v, "default_update", None) is not None]
    if moving:
        raise ConfigError(
            f"{where}: expected dropout by the keys of the batch and averages that the trainer updates, got "
            f"{moving[0]} that updates itself; remedy: leave deterministic, sample_keys and batch_norm_* alone"
        )


def refuse_generators(graphs: Sequence[Variable], where: str, keys: str) -> None:
    """Refuse PyTensor's random variables: their generators have a seed of their own on each rank, or none.

    Parameters
    ----------
    where : str
        What the message begins with.
    keys : str
        By what noise is to be drawn there.

    Raises
    ------
    ConfigError
    """
    # A loop has the generators that its step draws from among its inputs.
    random = [v for v in ancestors(graphs) if isinstance(v.type, RandomType)]
    if random:
        raise ConfigError(
            f"{where}: expected noise by {keys}, as theanompi.device.ops.normal and uniform draw it, got a random "
            "variable of PyTensor's, whose numbers depend on the rank and on the start of the run"
        )


def of_no_layer(objectives: Sequence[Objective], layers: Any) -> list[SharedVariable]:
    """Find what looks like a parameter of a loss, and no layer has: nothing trains or saves it.

    Parameters
    ----------
    layers : Layer or list of Layer
        The outputs of the model's network.

    Returns
    -------
    list of shared variables
        PyTensor's own, with floats. Those on the device are inputs, or of the layers of a network that is not trained.
    """
    held = set(get_all_params(layers))
    found = collect_shared_vars([objective.loss for objective in objectives])
    plain = [v for v in found if not isinstance(v, DeviceSharedVariable) and v not in held]
    return [v for v in plain if str(getattr(v.type, "dtype", "")).startswith("float")]


def measured(objectives: Sequence[Objective]) -> tuple[str, ...]:
    """The names of all losses, then those of all metrics."""
    return (*(o.name for o in objectives), *(name for o in objectives for name in o.metrics))


def alphas(statistics: Statistics, layers: Any) -> dict[DeviceSharedVariable, float]:
    """By running statistic, what share of the way it moves towards the batch's in an update: its layer's `alpha`.

    Parameters
    ----------
    statistics : Statistics
        What the layers have handed out.
    layers : Layer or list of Layer
        The outputs of the model's network.

    Raises
    ------
    ConfigError
        If that is no such share, or something that is no running statistic is to move.
    """
    found: dict[DeviceSharedVariable, float] = {}
    for layer in get_all_layers(layers):
        for statistic in layer.get_params(batch_norm_stat=True):
            alpha = getattr(layer, "alpha", None)
            found[statistic] = read_as(FRACTION, f"{type(layer).__name__}.alpha, of {statistic}", alpha)
    for p in get_all_params(layers):
        if p in statistics and p not in found:
            raise ConfigError(
                f"batch_norm_statistics: {p}: expected a parameter that add_param made with batch_norm_stat=True, "
                "got one without"
            )
    return found
