"""A run's state, from the ranks into one checkpoint and back, and what a resumed run may have other than before."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI

from theanompi.config import FIELDS, MOMENTUM_FORMS, ConfigError, RunConfig, fields_of, flat
from theanompi.config.kinds import PLUGINS
from theanompi.record import checkpoint
from theanompi.record.folder import CHECKPOINT_FILE
from theanompi.training.model import Model

_OF_PLUGINS = tuple(f"{plugin}." for plugin in PLUGINS)
DIGITS = 12
"""How many digits of a digest a message shows."""


class Resumed(NamedTuple):
    """Where a run goes on: after `iteration` updates, with `changes` of its recipe in words, or none."""

    iteration: int
    changes: str


def save_checkpoint(model: Any, out: Path, comm: MPI.Comm, config: RunConfig, iteration: int) -> None:
    """Write the state after `iteration` updates; a collective call, as each rank has a velocity under ``avg``."""
    arrays = dict(model.state_arrays())
    if config.sync_type == "avg":
        own = {k: v for k, v in arrays.items() if k.startswith("velocity/")}
        everyone = comm.gather(own, root=0) or []
        arrays = {k: v for k, v in arrays.items() if k not in own}
        for rank, velocities in enumerate(everyone):
            arrays |= {f"velocity/{rank}/{k.removeprefix('velocity/')}": v for k, v in velocities.items()}
    if comm.Get_rank() == 0:
        epoch, position = divmod(iteration, model.data.n_batch_train)
        attributes = {"iteration": iteration, "epoch": epoch, "position": position}
        if isinstance(model, Model):
            attributes["last_eta"] = float(model.state.last_eta.get_value())
            attributes |= _identity(model) | _settings(config, "recipe")
        checkpoint.save(out / CHECKPOINT_FILE, arrays, attributes)
    comm.Barrier()


def load_checkpoint(model: Model, out: Path, comm: MPI.Comm, config: RunConfig) -> Resumed:
    """Take over the state of the folder's checkpoint.

    Every rank reads the file. The recipe may be another one: the velocity comes with the rate that it holds.

    Raises
    ------
    ConfigError
        If the checkpoint belongs to another run: other images, minibatches, network or arithmetic.
    """
    path = out / CHECKPOINT_FILE
    arrays, attributes = checkpoint.load(path)
    iteration = _check_same(path, attributes, model)
    recipe = _settings(config, "recipe")
    last_eta, form = attributes.get("last_eta"), attributes.get("momentum_form")
    if form not in MOMENTUM_FORMS or (_is_old(attributes) and form != config.momentum_form):
        raise ConfigError(
            f"{path}: momentum_form: expected {config.momentum_form!r} as this run has, got {form!r}"
        )
    if _is_old(attributes):
        # The rate of the schedule is right if the recipe is the same, which nobody can tell.
        last_eta = model.schedule(max(iteration - 1, 0))
    elif not isinstance(last_eta, float) or not 0 < last_eta < math.inf:
        raise ConfigError(f"{path}: last_eta: expected a rate above 0, got {last_eta!r}")

    expected = dict(model.state_arrays())
    if config.sync_type == "avg":
        prefix = f"velocity/{comm.Get_rank()}/"
        arrays = {
            f"velocity/{k.removeprefix(prefix)}" if k.startswith(prefix) else k: v
            for k, v in arrays.items()
            if k.startswith((prefix, "weights/"))
        }
    checkpoint.check(arrays, expected, path)
    model.load_state_arrays(_in_form(arrays, form, config.momentum_form, last_eta), iteration, last_eta)
    return Resumed(iteration, _changes(attributes, recipe))


def _changes(attributes: Mapping[str, checkpoint.Scalar], recipe: Mapping[str, checkpoint.Scalar]) -> str:
    """What a checkpoint has of a recipe, and what the run has, where they differ."""
    # What a checkpoint of an earlier version does not have is not known to be another.
    before = {name: value for name, value in recipe.items() if name in FIELDS} | _added("recipe")
    before |= {k: v for k, v in attributes.items() if k in before or k.startswith(_OF_PLUGINS)}
    names = [name for name in {**recipe, **before} if before.get(name) != recipe.get(name)]
    default = "by default"
    return "; ".join(f"{name} {before.get(name, default)} -> {recipe.get(name, default)}" for name in names)


def _is_old(attributes: Mapping[str, checkpoint.Scalar]) -> bool:
    """Whether a checkpoint is of the time before rate, recipe and the digest of the images were saved."""
    return "data_sha256" not in attributes


def _settings(config: RunConfig, role: str) -> dict[str, checkpoint.Scalar]:
    """The fields of a role as a checkpoint holds them: each setting of a plug-in by its name, other values as text."""
    values = config.to_dict()
    return _scalars(flat({name: values[name] for name in fields_of(role)}))


def _scalars(values: Mapping[str, Any]) -> dict[str, checkpoint.Scalar]:
    return {
        name: ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else value
        for name, value in values.items()
    }


def _added(role: str) -> dict[str, checkpoint.Scalar]:
    """The fields of a role that version 0.1.0 did not have, with their defaults, which then were all there was."""
    items = {name: FIELDS[name].metadata for name in fields_of(role) if name != "settings"}
    return _scalars({name: about["default"] for name, about in items.items() if about["later"]})


def _identity(model: Model) -> dict[str, checkpoint.Scalar]:
    """What must not change between a checkpoint and its resumption, by name."""
    return {
        **_settings(model.config, "run"),
        "data_sha256": model.data.dataset.sha256,
        "minibatch": model.schedule.minibatch,
        # Under avg every rank has one, whatever the minibatch.
        "velocities": model.size if model.config.sync_type == "avg" else 1,
    }


def _check_same(path: Path, attributes: Mapping[str, checkpoint.Scalar], model: Model) -> int:
    """Refuse what another run has saved; gives its number of updates."""
    found, expected = _added("run") | dict(attributes), _identity(model)
    if _is_old(attributes):
        found["modelfile"], _, found["modelclass"] = str(found.get("model")).rpartition(".")
        found["data"] = Path(str(found.get("data"))).name
        expected = {**expected, "data": Path(model.config.data).name}
        expected = {name: value for name, value in expected.items() if name in found}
    else:
        # Images are the same under any name and at any place.
        del expected["data"]
        own, other = str(expected.pop("data_sha256")), str(found["data_sha256"])
        if own != other:
            raise ConfigError(
                f"{path}: data: expected the images of {model.data.dataset.path} (SHA-256 {own[:DIGITS]}), "
                f"got a run on those of {found.get('data')} (SHA-256 {other[:DIGITS]})"
            )
    for name, value in expected.items():
        if found.get(name) != value:
            raise ConfigError(f"{path}: {name}: expected {value!r} as this run has, got {found.get(name)!r}")

    last = min(model.schedule.iterations, model.config.max_iterations or model.schedule.iterations)
    return checkpoint.progress(attributes, path, model.data.n_batch_train, last)


def _in_form(
    arrays: Mapping[str, np.ndarray], saved: Any, wanted: str, last_eta: float
) -> dict[str, np.ndarray]:
    """Arrays whose velocities hold the rate, or not, as the form of the momentum wants it: v = η·u."""
    factor = 1.0
    if (saved == "u") != (wanted == "u"):
        factor = last_eta if saved == "u" else 1 / last_eta
    return {
        name: value * np.float32(factor) if name.startswith("velocity/") and factor != 1 else value
        for name, value in arrays.items()
    }
