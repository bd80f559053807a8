"""What a run has learnt: parameters, velocities, statistics and counters in flat buffers on the device."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from theanompi import device
from theanompi.device import DeviceSharedVariable, FlatBuffer
from theanompi.lasagne.layers import Layer, get_all_params

METRICS = "metrics"
"""The view of the gradient buffer that holds the sums of loss, top-1 and top-5 errors, how many ranks were asked to
stop, and each rank's loss."""
N_SUMS = 4
"""How many of them are sums."""


class State:
    """What a replica of a network consists of, in flat buffers.

    The buffers hold first the parameters that decay, in the order in which backward reaches them (so that
    their gradients become ready from the front to the back), then those that do not, then the running
    statistics of batch normalisation. Decaying are the parameters that are `regularizable` and have at least
    two dimensions: not biases, γ or β.

    Parameters
    ----------
    network : Layer
        The output layer. Its parameters become views of the buffers.
    size : int
        Number of ranks.

    Attributes
    ----------
    weights, velocity, gradients : FlatBuffer
        `gradients` also has the metrics.
    decayed, undecayed : list of DeviceSharedVariable
        The trainable parameters.
    statistics : list of DeviceSharedVariable
        The running averages.
    iteration : DeviceSharedVariable, int64 scalar
        t, the number of finished updates.
    last_eta : DeviceSharedVariable, float64 scalar
        η of the last update, which the velocity may hold.
    """

    def __init__(self, network: Layer, size: int) -> None:
        trainable = get_all_params(network, trainable=True)
        self.statistics: list[DeviceSharedVariable] = get_all_params(network, batch_norm_stat=True)
        decays = set(get_all_params(network, trainable=True, regularizable=True))
        self.decayed = [p for p in reversed(trainable) if p in decays and p.ndim >= 2]
        self.undecayed = [p for p in reversed(trainable) if p not in self.decayed]
        names = [p.name for p in [*trainable, *self.statistics]]
        repeated = sorted({str(name) for name in names if names.count(name) > 1 or not name})
        if repeated:
            raise ValueError(
                f"network: expected a name of its own for every parameter (give each layer a name=…), "
                f"got {', '.join(repeated)} more than once"
            )
        parameters = {p.name: p.type.shape for p in [*self.decayed, *self.undecayed]}
        statistics = {p.name: p.type.shape for p in self.statistics}
        self.weights = FlatBuffer(parameters | statistics)
        self.velocity = FlatBuffer(parameters)
        self.gradients = FlatBuffer(parameters | statistics | {METRICS: (N_SUMS + size,)})
        for p in [*trainable, *self.statistics]:
            p.rebind(self.weights.views[p.name])
        self.iteration = device.shared(np.int64(0), "iteration")
        self.last_eta = device.shared(np.float64(0), "last_eta")

    @property
    def parameters(self) -> list[DeviceSharedVariable]:
        """The trainable parameters in the order of the buffers."""
        return [*self.decayed, *self.undecayed]

    def slice(
        self, buffer: FlatBuffer, variables: Sequence[DeviceSharedVariable], name: str
    ) -> DeviceSharedVariable:
        """A shared vector over the adjacent views of `variables` in `buffer`."""
        start, end = buffer.offsets[variables[0].name][0], buffer.offsets[variables[-1].name][1]
        return device.shared(buffer.flat[start:end], name)


def load_views(buffer: FlatBuffer, values: Mapping[str, np.ndarray]) -> None:
    """Write arrays into a buffer's views by name."""
    for name, value in values.items():
        buffer.views[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))
