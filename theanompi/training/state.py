"""What a run has learnt: parameters, what optimizers keep, statistics and counters, in flat buffers on the device."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from theanompi import device
from theanompi.config import ConfigError, got
from theanompi.device import DeviceSharedVariable, FlatBuffer
from theanompi.lasagne.layers import Layer, get_all_layers, get_all_params
from theanompi.training.objective import Objective, Traced
from theanompi.training.optimizers import Optimizer

METRICS = "metrics"
"""The view of a gradient buffer that holds the sums of an objective: of the weights, the weighted losses and metrics,
how many batches they are of, how many ranks were asked to stop, and each rank's own loss."""
# What a checkpoint has beside what optimizers keep, by the first part of the names in it.
_OF_CHECKPOINTS = ("weights", "raw", "rule")


class State:
    """What one objective updates and keeps.

    Attributes
    ----------
    name : str
        The objective's.
    names : tuple of str
        Of its loss and metrics.
    decayed, undecayed : list of DeviceSharedVariable
        Its parameters.
    statistics : list of DeviceSharedVariable
        The running averages that its updates move.
    weights : FlatBuffer
        All parameters and statistics of the model.
    average : FlatBuffer or None
        Their exponential moving average, if the run has one, laid out in the same way.
    gradients : FlatBuffer
        Of its parameters, its batch statistics and the `METRICS`.
    slots : dict of str to FlatBuffer
        What its optimizer keeps for each parameter, by name.
    scalars : dict of str to DeviceSharedVariable
        What its optimizer keeps beside that.
    every : int
        It is updated in every so-many-th iteration.
    iteration : DeviceSharedVariable, int64 scalar
        The number of its finished updates.
    made : DeviceSharedVariable, int64 scalar
        The number of all updates that weights and slots have had, by whomever.
    last_eta : DeviceSharedVariable, float64 scalar
        η of its last update, which the velocity may hold.
    """

    def __init__(
        self,
        objective: Objective,
        params: Sequence[DeviceSharedVariable],
        decays: set[DeviceSharedVariable],
        statistics: Sequence[DeviceSharedVariable],
        weights: FlatBuffer,
        average: FlatBuffer | None,
        optimizer: Optimizer,
        size: int,
    ) -> None:
        self.name, self.names = objective.name, objective.names
        self.decayed = [p for p in params if p in decays]
        self.undecayed = [p for p in params if p not in decays]
        self.statistics, self.weights, self.average = list(statistics), weights, average
        shapes = {str(p.name): p.type.shape for p in self.parameters}
        kept = {str(s.name): s.type.shape for s in self.statistics}
        self.n_sums = 1 + len(self.names)
        self.gradients = FlatBuffer(shapes | kept | {METRICS: (self.n_sums + 2 + size,)})
        self.slots = {slot: FlatBuffer(shapes) for slot in optimizer.slots}
        self.scalars = {name: device.shared(np.float64(0), name) for name in optimizer.scalars}
        self.every = objective.every
        self.iteration = device.shared(np.int64(0), "iteration")
        self.made = device.shared(np.int64(0), "made")
        self.last_eta = device.shared(np.float64(0), "last_eta")

    @property
    def parameters(self) -> list[DeviceSharedVariable]:
        """Its parameters in the order of the buffers."""
        return [*self.decayed, *self.undecayed]

    def slice(
        self, buffer: FlatBuffer, variables: Sequence[DeviceSharedVariable], name: str
    ) -> DeviceSharedVariable:
        """A shared vector over the adjacent views of `variables` in `buffer`."""
        start, end = buffer.offsets[str(variables[0].name)][0], buffer.offsets[str(variables[-1].name)][1]
        return device.shared(buffer.flat[start:end], name)

    def scale_gradients(self, factor: float) -> None:
        """Multiply the gradients in the buffer, and nothing else in it."""
        end = self.gradients.offsets[str(self.parameters[-1].name)][1]
        self.gradients.flat[:end].mul_(factor)

    def pieces(self) -> list[torch.Tensor]:
        """The weights that it updates, and the running statistics: where they lie in the buffer."""
        places: list[tuple[int, int]] = []
        for variable in (*self.parameters, *self.statistics):
            start, end = self.weights.offsets[str(variable.name)]
            if places and places[-1][1] == start:
                start, _ = places.pop()
            places.append((start, end))
        return [self.weights.flat[start:end] for start, end in places]


class States(list[State]):
    """The states of all objectives of a model, whose weights lie in one buffer."""

    def __init__(self, states: Iterable[State]) -> None:
        super().__init__(states)
        self.bits = FlatBuffer({"bits": (2 * len(self._numbers()),)})

    def groups(self) -> dict[str, list[FlatBuffer]]:
        """The buffers that a checkpoint holds, by the first part of the names in it.

        The ``weights`` are those that count: the average, if there is one, and then updates go on with ``raw``.
        """
        weights, average = self[0].weights, self[0].average
        groups = {"weights": [weights]} if average is None else {"weights": [average], "raw": [weights]}
        for state in self:
            for slot, buffer in state.slots.items():
                groups.setdefault(slot, []).append(buffer)
        return groups

    def finite(self) -> bool:
        """Whether all that a checkpoint holds is finite numbers; waits for the device."""
        return all(bool(b.flat.isfinite().all()) for buffers in self.groups().values() for b in buffers)

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds, by the names in it."""
        arrays = {
            f"{group}/{name}": view.cpu().numpy().copy(order="C")
            for group, buffers in self.groups().items()
            for buffer in buffers
            for name, view in buffer.views.items()
        }
        for state in self:
            arrays |= {f"{name}/{state.name}": scalar.get_value() for name, scalar in state.scalars.items()}
        return arrays

    def load(self, arrays: Mapping[str, np.ndarray], iteration: int, last_etas: Sequence[float]) -> None:
        """Take over what `arrays` gave after so many iterations, with η of each objective's last update."""
        for group, buffers in self.groups().items():
            for buffer in buffers:
                load_views(buffer, {name: arrays[f"{group}/{name}"] for name in buffer.views})
        for state, eta in zip(self, last_etas, strict=True):
            for name, scalar in state.scalars.items():
                scalar.set_value(arrays[f"{name}/{state.name}"])
            state.iteration.set_value(iteration // state.every)
            state.made.set_value(iteration // state.every)
            state.last_eta.set_value(np.float64(eta))

    def to_share(self) -> list[FlatBuffer]:
        """The buffers of all that updates read and write, numbers of double precision as their bits in the last one."""
        numbers = [float(variable.get_value()) for variable in self._numbers()]
        self.bits.flat.copy_(torch.tensor(numbers, dtype=torch.float64).view(torch.float32))
        return [self[0].weights, *(buffer for state in self for buffer in state.slots.values()), self.bits]

    def shared(self) -> None:
        """Take over what these buffers have now."""
        numbers = self.bits.flat.cpu().view(torch.float64).tolist()
        for variable, number in zip(self._numbers(), numbers, strict=True):
            variable.set_value(variable.get_value().dtype.type(number))

    def _numbers(self) -> list[DeviceSharedVariable]:
        return [v for state in self for v in (state.last_eta, state.made, *state.scalars.values())]


def make_states(
    traced: Traced, layers: Any, optimizers: Sequence[Optimizer], size: int, where: str, *, averaged: bool
) -> States:
    """Lay out what the objectives of a model update, in flat buffers; the parameters become views of them.

    The buffers hold for each objective first the parameters that decay, in the order in which backward reaches them (so
    that their gradients become ready from the front to the back), then those that do not; the weights' then all
    running statistics of batch normalisation. Decaying are the parameters that are `regularizable` and have at least
    two dimensions: not biases, γ or β.

    Parameters
    ----------
    layers : Layer or list of Layer
        The outputs of the model's network.
    optimizers : sequence of Optimizer
        One for each objective.
    size : int
        Number of ranks.
    where : str
        The model's name, for messages.
    averaged : bool
        Whether there is a moving average of the weights, which begins at what they are.

    Raises
    ------
    ConfigError
        If parameters have no names of their own, or do not belong to one objective each, or a slot has a name that a
        checkpoint has for something else.
    """
    for optimizer in optimizers:
        for name in (*optimizer.slots, *optimizer.scalars):
            if name.partition("/")[0] in _OF_CHECKPOINTS:
                raise ConfigError(
                    f"{type(optimizer).__name__}.slots: expected other names than {', '.join(_OF_CHECKPOINTS)}, by "
                    f"which checkpoints have something else, got {got(name)}"
                )
    name_parameters(layers)
    trainable = get_all_params(layers, trainable=True)
    statistics = get_all_params(layers, batch_norm_stat=True)
    names = [p.name for p in get_all_params(layers)]
    repeated = sorted({str(name) for name in names if names.count(name) > 1 or not name})
    if repeated:
        raise ConfigError(
            f"network: expected a name of its own for every parameter (give each layer another name=…), "
            f"got {', '.join(repeated)} more than once"
        )
    for p in [*trainable, *statistics]:
        if not isinstance(p, DeviceSharedVariable) or p.type.dtype != "float32":
            raise ConfigError(
                f"network: parameter {p}: expected float32 on the device, as add_param makes it of a number, an array "
                f"or an initialiser, got a {type(p).__name__} of {p.type.dtype}"
            )
    decays = {p for p in get_all_params(layers, trainable=True, regularizable=True) if p.ndim >= 2}
    own = _divide(traced.objectives, trainable, where)
    moved = _owners(traced, layers, own)
    # Those that one objective moves lie side by side, and behind all of them those that none does.
    statistics.sort(key=lambda statistic: moved.get(statistic, len(own)))
    order = [[*(p for p in ps if p in decays), *(p for p in ps if p not in decays)] for ps in own]
    shapes = {str(p.name): p.type.shape for p in [*(p for ps in order for p in ps), *statistics]}
    weights, average = FlatBuffer(shapes), FlatBuffer(shapes) if averaged else None
    for p in [*(p for ps in order for p in ps), *statistics]:
        p.rebind(weights.views[p.name])
    if average is not None:
        average.flat.copy_(weights.flat)
    return States(
        State(
            *(objective, ps, decays, [s for s in statistics if moved.get(s) == i]),
            *(weights, average, optimizer, size),
        )
        for i, (objective, ps, optimizer) in enumerate(zip(traced.objectives, order, optimizers, strict=True))
    )


def name_parameters(layers: Layer | Sequence[Layer]) -> None:
    """Give parameters whose names are not their own, in layers without a name, the kind and number of the layer.

    Checkpoints and the exchange know parameters by name. The number is counted among the layers of a kind that have
    no name, from below, so that it is the same in every process and run.

    Examples
    --------
    >>> from theanompi.lasagne.layers import DenseLayer, InputLayer
    >>> network = DenseLayer(DenseLayer(InputLayer((None, 3)), 4), 2)
    >>> name_parameters(network)
    >>> get_all_params(network)
    [dense1.W, dense1.b, dense2.W, dense2.b]
    """
    every = get_all_layers(layers)
    names = Counter(p.name for p in get_all_params(layers))
    taken, numbers = {layer.name for layer in every}, Counter[str]()
    for layer in (one for one in every if one.name is None):
        kind = type(layer).__name__.removesuffix("Layer").lower()
        numbers[kind] += 1
        while f"{kind}{numbers[kind]}" in taken:
            numbers[kind] += 1
        for i, p in enumerate(layer.get_params()):
            if p.name is None or names[p.name] > 1:
                p.name = f"{kind}{numbers[kind]}.{p.name or i}"


def _divide(
    objectives: Sequence[Objective], trainable: Sequence[DeviceSharedVariable], where: str
) -> list[list[DeviceSharedVariable]]:
    """The parameters of each objective, in the order of backward."""
    owner: dict[DeviceSharedVariable, str] = {}
    for objective in objectives:
        if objective.params is None and len(objectives) > 1:
            raise ConfigError(
                f"{where}.objectives: {objective.name}: expected params, as there are several objectives, got none"
            )
        for p in trainable if objective.params is None else objective.params:
            if p not in trainable:
                raise ConfigError(
                    f"{where}.objectives: {objective.name}: expected trainable parameters of the layers that build "
                    f"gives, got {p}"
                )
            if p in owner:
                raise ConfigError(
                    f"{where}.objectives: expected each parameter in one objective, got {p} in {owner[p]} and "
                    f"{objective.name}"
                )
            owner[p] = objective.name
    left = [str(p) for p in trainable if p not in owner]
    if left:
        raise ConfigError(
            f"{where}.objectives: expected each trainable parameter in an objective, got {', '.join(left)[:80]} in none"
        )
    return [[p for p in reversed(trainable) if owner[p] == o.name] for o in objectives]


def _owners(
    traced: Traced, layers: Any, own: Sequence[Sequence[DeviceSharedVariable]]
) -> dict[DeviceSharedVariable, int]:
    """Which objective moves a running statistic: that of its layer's other parameters, or else the first."""
    found: dict[DeviceSharedVariable, int] = {}
    for layer in get_all_layers(layers):
        for statistic in layer.get_params(batch_norm_stat=True):
            if statistic in traced.statistics:
                found[statistic] = next(
                    (i for i, ps in enumerate(own) for p in layer.get_params(trainable=True) if p in ps), 0
                )
    return found


def load_views(buffer: FlatBuffer, values: Mapping[str, np.ndarray]) -> None:
    """Write arrays into a buffer's views by name."""
    for name, value in values.items():
        buffer.views[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))
