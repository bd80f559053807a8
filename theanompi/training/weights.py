"""Weights from files into a model, by its own names or by torch's, and a network's weights as torch would have them.

A parameter is called LAYER.SUFFIX here, such as ``conv1.W``; a ``state_dict`` of torch calls the same one
MODULE.SUFFIX, such as ``conv1.weight``, and lays some of them out otherwise: see `to_torch`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from theanompi.config import ConfigError, RunConfig, closest, got, listed
from theanompi.config.files import split_prefix
from theanompi.lasagne.layers import (
    DenseLayer,
    DilatedConv2DLayer,
    Layer,
    LocallyConnected2DLayer,
    NINLayer,
    TransposedConv2DLayer,
    TransposedConv3DLayer,
    get_all_layers,
)
from theanompi.lasagne.layers.cuda_convnet import Conv2DCCLayer, NINLayer_c01b
from theanompi.record.weights import Weights, read_weights
from theanompi.training.model import Model
from theanompi.training.ranks import together
from theanompi.training.saving import DIGITS

SUFFIXES = {
    **{"W": "weight", "b": "bias", "alpha": "weight", "gamma": "weight", "beta": "bias"},
    **{"mean": "running_mean", "inv_std": "running_var"},
}
"""What torch calls a parameter, by its name in a layer; others have the same name there."""
# What batch normalisation counts in torch, and nobody needs.
_COUNTER = "num_batches_tracked"


class Fitted(NamedTuple):
    """What of a file goes into a network.

    Attributes
    ----------
    values : dict of str to ndarray, float32
        By the parameters' own names.
    left : list of str
        Parameters that keep their initial values.
    unused : list of str
        Names in the file.
    """

    values: dict[str, np.ndarray]
    left: list[str]
    unused: list[str]


class _Parameter(NamedTuple):
    """One parameter of a network, with its name in torch; one that is never updated need not be in a file."""

    layer: Layer
    suffix: str
    torch: str
    shape: tuple[int, ...]
    updated: bool


def start_from(model: Model, config: RunConfig, comm: MPI.Comm) -> tuple[str, dict[str, str]]:
    """Give a model, on all ranks, the weights that the run's ``init`` names; rank 0 reads them.

    Parameters
    ----------
    model : Model
        Whose parameters are at their initial values, the same on all ranks.

    Returns
    -------
    words : str
        On rank 0 what was taken and what was not, in a line, else nothing.
    about : dict of str to str
        What ``config.json`` notes, on rank 0.

    Raises
    ------
    SystemExit
        On all ranks, after one line, for whatever `read_weights` and `fit` refuse.
    """
    path, prefix = split_prefix(config.init or "")
    network, names = model._outputs(), model.torch_names()
    parameters = {str(p.name): p for layer in get_all_layers(network) for p in layer.get_params()}

    def read() -> tuple[Weights, Fitted] | None:
        if comm.Get_rank():
            return None
        weights = read_weights(path)
        return weights, fit(weights, network, names, prefix=prefix)

    found = together(comm, read)
    taken = comm.bcast(list(found[1].values) if found else None)
    for name in taken:
        value = found[1].values[name] if found else np.empty(parameters[name].type.shape, np.float32)
        comm.Bcast(value)
        parameters[name].set_value(value)
    if model.state.average is not None:
        model.state.average.flat.copy_(model.state.weights.flat)
    if not found:
        return "", {}
    weights, fitted = found
    words = f"weights of {weights.path} (SHA-256 {weights.sha256[:DIGITS]}): {len(taken)} of {len(parameters)} arrays"
    words += f"; left at their initial values: {listed(fitted.left)}" if fitted.left else ""
    words += f"; not used: {listed(fitted.unused)}" if fitted.unused else ""
    return words, {"init_sha256": weights.sha256}


def fit(
    weights: Weights,
    network: Sequence[Layer],
    torch_names: Mapping[str, str] | None = None,
    *,
    prefix: str = "",
) -> Fitted:
    """Find the weights of a network in what was read of a file.

    A head (the last layer with parameters before an output) is left as it is where the file has another size of it, or
    none. Of all other layers the file must have everything that training updates; of a network that is nothing but a
    head, too.

    Parameters
    ----------
    network : sequence of Layer
        The outputs.
    torch_names : mapping of str to str, optional
        As `theanompi.Model.torch_names` gives them.
    prefix : str
        What the names in the file begin with, as those in ``module.conv1.weight`` do. If all begin alike, and none is
        known with that, it need not be given.

    Raises
    ------
    ConfigError
        In one line: for the first array that is missing, has another shape or dtype, or numbers that are not finite,
        or if nothing has the prefix.
    """
    parameters = _parameters(network, torch_names or {})
    arrays = _named(weights, parameters, prefix)
    in_file = {name: name if name in arrays else p.torch for name, p in parameters.items()}
    problems = {name: _misfit(p, in_file[name], name, arrays) for name, p in parameters.items()}
    heads = _heads(network)
    if all(p.layer in heads for p in parameters.values()):
        heads = set()  # or a network of one layer would take any file for its own
    kept = {p.layer for name, p in parameters.items() if problems[name] and p.layer in heads}
    values: dict[str, np.ndarray] = {}
    left: list[str] = []
    for name, p in parameters.items():
        there = in_file[name]
        where = f"weights {weights.path}: array {got(there if there in arrays else name)}"
        if p.layer in kept or (there not in arrays and not p.updated):
            left.append(name)
        elif problems[name]:
            raise ConfigError(f"{where}: {problems[name]}")
        else:
            values[name] = _finite(arrays[there], p if there != name else None, where)
    used = {in_file[name] for name in values}
    return Fitted(values, left, [name for name in arrays if name not in used and not name.endswith(_COUNTER)])


def _parameters(network: Sequence[Layer], torch_names: Mapping[str, str]) -> dict[str, _Parameter]:
    """All parameters by name, in the order of `theanompi.lasagne.layers.get_all_params`."""
    if not isinstance(torch_names, Mapping):
        raise ConfigError(f"torch_names: expected a mapping from layers to modules, got {got(torch_names)}")
    found: dict[str, _Parameter] = {}
    for layer in get_all_layers(network):
        updated = {*layer.get_params(trainable=True), *layer.get_params(batch_norm_stat=True)}
        for p in layer.get_params():
            own, _, suffix = str(p.name).rpartition(".")
            torch = f"{torch_names.get(own, own)}.{SUFFIXES.get(suffix, suffix)}"
            found.setdefault(str(p.name), _Parameter(layer, suffix, torch, p.type.shape, p in updated))
    return found


def _heads(network: Sequence[Layer]) -> set[Layer]:
    """Going back from each output, the first layers with parameters."""
    found: set[Layer] = set()
    ahead = list(network)
    while ahead:
        layer = ahead.pop()
        if layer.params:
            found.add(layer)
        else:
            ahead += [source for source in layer.input_layers if source is not None]
    return found


def _named(weights: Weights, parameters: Mapping[str, _Parameter], prefix: str) -> dict[str, np.ndarray]:
    """The arrays by name, without what all names begin with; those that have only an order by our names."""
    arrays, where = weights.arrays, f"weights {weights.path}"
    if weights.ordered:
        if prefix:
            raise ConfigError(f"{where}: expected no prefix, as its arrays have no names, got {got(prefix)}")
        if len(arrays) != len(parameters):
            raise ConfigError(
                f"{where}: expected {len(parameters)} arrays in the order of get_all_params, got {len(arrays)}"
            )
        return dict(zip(parameters, arrays.values(), strict=True))
    if prefix:
        start = f"{prefix.removesuffix('.')}."
        found = {k.removeprefix(start): array for k, array in arrays.items() if k.startswith(start)}
        if not found:
            raise ConfigError(f"{where}: expected names that begin with {got(start)}, got {listed(arrays)}")
        return found
    known = {name for name, p in parameters.items()} | {p.torch for p in parameters.values()}
    while not known & arrays.keys():
        starts = {name.partition(".")[0] for name in arrays}
        if len(starts) != 1 or not all("." in name for name in arrays):
            return weights.arrays
        arrays = {name.partition(".")[2]: array for name, array in arrays.items()}
    return arrays


def _misfit(p: _Parameter, there: str, name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """What is wrong with what a file has for a parameter under the name `there`; nothing if it fits."""
    shape = p.shape
    if there not in arrays:
        also = f", nor {got(p.torch)}" if p.torch != name else ""
        hint = closest(name, arrays) or f", among {listed(arrays, 80)}"
        return f"expected shape {shape}, got no such array{also}{hint}"
    if there != name:
        # No memory: one number that is everywhere.
        shape = to_torch(p.layer, p.suffix, np.broadcast_to(np.float32(1), shape)).shape
    array = arrays[there]
    if array.shape != shape:
        return f"expected shape {shape}, got {array.shape}"
    return "" if array.dtype.kind == "f" else f"expected dtype float32, got {array.dtype}"


def _finite(array: np.ndarray, of_torch: _Parameter | None, where: str) -> np.ndarray:
    """An array as float32 in our layout, refused if numbers in it are not finite."""
    with np.errstate(all="ignore"):
        value = array if of_torch is None else from_torch(of_torch.layer, of_torch.suffix, array)
        value = np.array(value, np.float32, order="C")
    odd = max(a.size - np.count_nonzero(np.isfinite(a)) for a in (array, value))
    if odd:
        raise ConfigError(f"{where}: expected finite numbers, got {odd} that are not")
    return value


def to_torch(layer: Layer, suffix: str, value: np.ndarray) -> np.ndarray:
    """Lay a parameter out as torch does.

    A dense ``W`` (in, out) becomes (out, in), that of a `NINLayer` the filters (out, in, 1, …) of a convolution.
    Filters that a layer turns the other way than torch are mirrored, and axes in another order are put in torch's.
    ``inv_std`` becomes the variance, 1 / inv_std² − epsilon, which is the biased one, where torch keeps the unbiased
    one of the same batches.

    Parameters
    ----------
    suffix : str
        The parameter's name in it, such as ``"W"``.

    Examples
    --------
    >>> to_torch(DenseLayer((None, 2), 3), "W", np.zeros((2, 3))).shape
    (3, 2)
    """
    if suffix == "inv_std":
        return np.maximum(1 / np.square(value, dtype=np.float64) - _epsilon(layer), 0)
    if suffix != "W":
        return value
    if isinstance(layer, NINLayer | NINLayer_c01b):
        value = value.T if isinstance(layer, NINLayer) else value
        return value.reshape(*value.shape, *_ones(layer))
    return _mirrored(layer, value.transpose(_axes(layer, value.ndim)))


def from_torch(layer: Layer, suffix: str, value: np.ndarray) -> np.ndarray:
    """Undo `to_torch`."""
    if suffix == "inv_std":
        return 1 / np.sqrt(value.astype(np.float64) + _epsilon(layer))
    if suffix != "W":
        return value
    if isinstance(layer, NINLayer | NINLayer_c01b):
        value = value.reshape(value.shape[:2])
        return value.T if isinstance(layer, NINLayer) else value
    return _mirrored(layer, value).transpose(np.argsort(_axes(layer, value.ndim)))


def _axes(layer: Layer, ndim: int) -> tuple[int, ...]:
    """Which of the axes of a layer's ``W`` are torch's first, second and so on."""
    if isinstance(layer, DenseLayer | DilatedConv2DLayer):
        return (1, 0, *range(2, ndim))
    if isinstance(layer, Conv2DCCLayer) and not layer.dimshuffle:
        return (3, 0, 1, 2)
    return tuple(range(ndim))


def _mirrored(layer: Layer, filters: np.ndarray) -> np.ndarray:
    """Mirror filters, with torch's order of axes, where torch has them the other way round."""
    if isinstance(layer, LocallyConnected2DLayer):
        return filters  # which torch does not have
    if isinstance(layer, Conv2DCCLayer):
        layer = layer.inner
    mirrored = getattr(layer, "flip_filters", False)
    if isinstance(layer, TransposedConv2DLayer | TransposedConv3DLayer):
        # Torch's is the transpose of its convolution, which does not flip.
        mirrored = not mirrored
    return np.flip(filters, tuple(range(2, filters.ndim))) if mirrored else filters


def _ones(layer: Layer) -> Collection[int]:
    return (1,) * (len(layer.input_shape) - 2)


def _epsilon(layer: Any) -> float:
    return float(layer.epsilon)


def as_torch(
    arrays: Mapping[str, np.ndarray], network: Sequence[Layer], torch_names: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Name and lay out the weights of a network as a ``state_dict`` of torch has them.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        By our names.
    network : sequence of Layer
        The outputs.
    torch_names : mapping of str to str
        As `theanompi.Model.torch_names` gives them.
    """
    return {
        p.torch: to_torch(p.layer, p.suffix, arrays[name])
        for name, p in _parameters(network, torch_names).items()
        if name in arrays
    }
