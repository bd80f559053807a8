"""From a network to the three compiled functions of a worker: gradients, update, validation.

The functions take no arguments: they read their batch from shared variables and leave gradients, statistics
and metrics in a flat buffer, which the exchange sums over the ranks.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.basic import Variable
from pytensor.tensor.special import Softmax

from theanompi import device
from theanompi.device import DeviceSharedVariable
from theanompi.device.ops import softmax_cross_entropy
from theanompi.lasagne.layers import BatchNormLayer, Layer, get_all_layers, get_output
from theanompi.training.schedule import Schedule
from theanompi.training.state import METRICS, N_SUMS, State
from theanompi.training.update import Group, update_graph


def classification(output: Variable, labels: Variable) -> tuple[Variable, Variable, Variable]:
    """Loss and errors of each sample.

    Parameters
    ----------
    output : float32 tensor, shape (n, classes)
        Class scores, or the softmax of them.
    labels : int64 vector, shape (n,)

    Returns
    -------
    loss, error, error_top5 : float32 vectors, shape (n,)
        Cross-entropy in nats, and 0 or 1: whether the true class is not strictly best, or not among the
        first five. A tie counts as an error, and so does NaN.
    """
    softmax = output.owner is not None and isinstance(output.owner.op, Softmax)
    scores = output.owner.inputs[0] if softmax else output
    true = scores[pt.arange(labels.shape[0]), labels]
    rank = pt.sum(pt.ge(scores, true[:, None]), axis=1)

    def outside(k: int) -> Variable:
        return pt.cast(pt.or_(pt.lt(rank, 1), pt.gt(rank, k)), "float32")

    return softmax_cross_entropy(scores, labels), outside(1), outside(5)


def gradient_function(
    network: Layer,
    state: State,
    batch: Mapping[str, Variable],
    share: DeviceSharedVariable,
    statistics_share: DeviceSharedVariable,
    stop: DeviceSharedVariable,
    rank: int,
    accumulate: bool,
    mode: Any,
) -> Callable[[], None]:
    """Compile forward and backward of one batch.

    The function leaves in ``state.gradients`` the gradient of the summed loss times `share` / n, the batch
    statistics times `statistics_share`, and the sums of the metrics; or adds them to what is there.

    Parameters
    ----------
    network : Layer
    state : State
    batch : mapping of str to Variable
        What the model's modality makes of a batch.
    share, statistics_share : float32 scalar
        Both 1 / (A·k), so that the sum over steps and ranks is the gradient of the mean over A·k·n images, and the
        mean of their statistics.
    stop : float32 scalar
        1 where this rank was asked to stop, else 0; travels with the metrics.
    rank : int
        Which of the per-rank losses is this one's.
    accumulate : bool
        Add instead of write.
    mode : pytensor mode
    """
    batch_statistics: dict[Variable, Variable] = {}
    output = get_output(
        network, batch["images"], sample_keys=batch["keys"], batch_norm_statistics=batch_statistics
    )
    loss, error, error_top5 = classification(output, batch["labels"])
    n = batch["labels"].type.shape[0]
    cost = pt.sum(loss) * (share / np.float32(n))
    # As in get_output, what is not of our layers included.
    with pytensor.config.change_flags(floatX="float32"):
        gradients = pytensor.grad(cost, state.parameters)
    values = dict(zip(state.parameters, gradients, strict=True))
    values |= {s: batch_statistics[s] * statistics_share for s in state.statistics}
    total = pt.sum(loss)
    metrics = pt.stack([total, pt.sum(error), pt.sum(error_top5), stop])
    n_ranks = state.gradients.views[METRICS].numel() - N_SUMS
    per_rank = pt.concatenate(
        [np.zeros(rank, "float32"), total[None], np.zeros(n_ranks - 1 - rank, "float32")]
    )

    updates = []
    for target, value in [*values.items(), (None, pt.concatenate([metrics, per_rank]))]:
        name = METRICS if target is None else target.name
        store = device.shared(state.gradients.views[name], name)
        updates.append((store, store + value if accumulate else value))
    function = pytensor.function([], [], updates=updates, mode=mode)
    function.trust_input = True
    return function


def update_function(
    network: Layer,
    state: State,
    schedule: Schedule,
    momentum: float,
    weight_decay: float,
    form: str,
    nesterov: bool,
    mode: Any,
) -> Callable[[], Any]:
    """Compile the whole update: it reads ``state.gradients`` and gives η (Goyal et al. 2017, equations 9 and 10).

    Running statistics move towards the mean over the minibatch's batches of n by each layer's `alpha`.
    """
    groups = [
        Group(
            state.slice(state.weights, variables, "weights"),
            state.slice(state.velocity, variables, "velocity"),
            state.slice(state.gradients, variables, "gradients"),
            decayed,
        )
        for variables, decayed in ((state.decayed, True), (state.undecayed, False))
        if variables
    ]
    eta, updates = update_graph(
        groups,
        state.iteration,
        state.last_eta,
        schedule,
        momentum=momentum,
        weight_decay=weight_decay,
        form=form,
        nesterov=nesterov,
    )
    if state.statistics:
        alphas = {
            s: layer.alpha
            for layer in get_all_layers(network)
            if isinstance(layer, BatchNormLayer)
            for s in (layer.mean, layer.inv_std)
        }
        alpha = np.concatenate(
            [np.full(s.type.shape, alphas[s], "float32").ravel() for s in state.statistics]
        )
        running = state.slice(state.weights, state.statistics, "statistics")
        batch = state.slice(state.gradients, state.statistics, "batch statistics")
        updates.append((running, running + alpha * (batch - running)))
    function = pytensor.function([], eta, updates=updates, mode=mode)
    function.trust_input = True
    return function


def validation_function(
    network: Layer, batch: Mapping[str, Variable], sums: DeviceSharedVariable, mode: Any
) -> Callable[[], None]:
    """Compile the validation of one batch: adds to `sums` (float64, 4) images, loss, and top-1 and top-5 errors."""
    output = get_output(network, batch["images"], deterministic=True)
    measured = [pt.ones_like(batch["weights"]), *classification(output, batch["labels"])]
    new = [pt.sum(pt.cast(batch["weights"] * m, "float64")) for m in measured]
    function = pytensor.function([], [], updates=[(sums, sums + pt.stack(new))], mode=mode)
    function.trust_input = True
    return function
