"""A run's state, from the ranks into one checkpoint and back, where that is the same run's."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mpi4py import MPI

from theanompi.config import MOMENTUM_FORMS, ConfigError, RunConfig, counted
from theanompi.record import checkpoint
from theanompi.record.folder import CHECKPOINT_FILE
from theanompi.record.weights import WEIGHTS
from theanompi.rules import Rule
from theanompi.training.model import Model
from theanompi.training.optimizers.momentum import Momentum
from theanompi.training.recipe_change import changes_of, fields_added, settings_of, words_on_rate
from theanompi.training.replica import Replica

_RULE = "rule/"
# Of each rank, if they are not in step: its finished iterations, and η of each objective's last update.
_ITERATION, _ETAS = "iteration", "last_eta"
DIGITS = 12
"""How many digits of a digest a message shows."""


class Resumed(NamedTuple):
    """Where a run goes on: after `iteration` updates, `own` of this rank, with `changes` of its recipe, or none.

    If it goes on by another schedule, `rate` says what that means for η.
    """

    iteration: int
    changes: str
    own: int
    rate: str


def save_checkpoint(
    model: Replica,
    rule: Rule,
    out: Path,
    comm: MPI.Comm,
    config: RunConfig,
    iteration: int,
    own_iteration: int | None = None,
) -> None:
    """Write the state; collective, as each rank may have slots of its own.

    It is that after `iteration` updates; of ranks that are not in step that is the mean, and `own_iteration` is this
    rank's number.
    """
    arrays = dict(model.state_arrays())
    if rule.own_slots:
        own = {name: array for name, array in arrays.items() if not name.startswith(WEIGHTS)}
        everyone = comm.gather(own, root=0) or []
        arrays = {name: array for name, array in arrays.items() if name not in own}
        for rank, slots in enumerate(everyone):
            arrays |= {_of_rank(name, rank): array for name, array in slots.items()}
    of_rule = {f"{_RULE}{name}": _array(value) for name, value in rule.state_arrays().items()}
    if rule.own_state:
        of_rule[f"{_RULE}{_ITERATION}"] = np.array(iteration if own_iteration is None else own_iteration)
        if isinstance(model, Model):
            of_rule[f"{_RULE}{_ETAS}"] = np.array(model.last_etas())
        everyone = comm.gather(of_rule, root=0) or []
        of_rule = {_of_rank(k, rank): v for rank, each in enumerate(everyone) for k, v in each.items()}
    arrays |= of_rule
    if comm.Get_rank() == 0:
        epoch, position = divmod(iteration, model.data.n_batch_train)
        attributes: dict[str, checkpoint.Scalar] = {
            "iteration": iteration,
            "epoch": epoch,
            "position": position,
        }
        if isinstance(model, Model):
            attributes |= dict(zip(_eta_names(model), model.last_etas(), strict=True))
            attributes |= _identity(model, rule) | settings_of(config, "recipe")
        checkpoint.save(out / CHECKPOINT_FILE, arrays, attributes)
    comm.Barrier()


def _array(value: Any) -> np.ndarray:
    """What a rule keeps, as a checkpoint holds it."""
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _of_rank(name: str, rank: int) -> str:
    """What a checkpoint calls an array SLOT/NAME of one rank of several."""
    slot, _, rest = name.partition("/")
    return f"{slot}/{rank}/{rest}"


def _eta_names(model: Model) -> list[str]:
    """What a checkpoint calls η of each objective's last update; the first one's as ever."""
    return ["last_eta", *(f"last_eta/{state.name}" for state in model.states[1:])]


def load_checkpoint(
    model: Model, rule: Rule, out: Path, comm: MPI.Comm, config: RunConfig
) -> tuple[Resumed, dict[str, torch.Tensor]]:
    """Take over the model's state of the folder's checkpoint; gives what is the rule's, for its `load_state_arrays`.

    Every rank reads the file. The recipe may be another one: the velocity comes with the rate that it holds. Ranks do
    not wait for each other here, so that one may fail.

    Raises
    ------
    ConfigError
        If the checkpoint belongs to another run: other images, minibatches, network or arithmetic.
    """
    path = out / CHECKPOINT_FILE
    arrays, attributes = checkpoint.load(path)
    iteration = _check_same(path, attributes, model, rule)
    recipe = settings_of(config, "recipe")
    last_etas, form = [attributes.get(name) for name in _eta_names(model)], attributes.get("momentum_form")
    known = ("momentum_form", "epochs") if _is_old(attributes) else ()
    for name in known or ("momentum_form",) * (form not in MOMENTUM_FORMS):
        if (found := attributes.get(name)) != (wanted := getattr(config, name)):
            raise ConfigError(f"{path}: {name}: expected {wanted!r} as this run has, got {found!r}")
    if _is_old(attributes):
        # The rate of the schedule is right if the recipe is the same, which nobody can tell.
        last_etas = [model.schedule(max(iteration - 1, 0))]

    own = iteration
    of_rule = {k.removeprefix(_RULE): v for k, v in arrays.items() if k.startswith(_RULE)}
    arrays = take_fixed(model, {k: v for k, v in arrays.items() if not k.startswith(_RULE)}, path)
    expected = without_fixed(model, model.state_arrays())
    if rule.own_state:
        of_rule = _of_this_rank(of_rule, comm, path)
        own, last_etas = int(of_rule.pop(_ITERATION)), of_rule.pop(_ETAS).tolist()
    if len(last_etas) != len(model.states):
        raise ConfigError(
            f"{path}: last_eta: expected that of {counted(len(model.states), 'objective')}, got {len(last_etas)}"
        )
    etas: list[float] = []
    for eta, objective in zip(last_etas, model.traced.objectives, strict=True):
        # One that has not been updated yet has none.
        begun = own >= objective.every
        if not isinstance(eta, float) or not 0 <= eta < math.inf or (begun and not eta):
            raise ConfigError(f"{path}: last_eta: expected a rate above 0, got {eta!r}")
        etas.append(eta)
    if rule.own_slots:
        names = {_of_rank(name, comm.Get_rank()): name for name in expected if not name.startswith(WEIGHTS)}
        arrays = {names.get(k, k): v for k, v in arrays.items() if k in names or k.startswith(WEIGHTS)}
    checkpoint.check(arrays, expected, path)
    model.load_state_arrays(_in_form(arrays, model, etas, form), own, etas)
    changes = changes_of(attributes, recipe)
    rate = words_on_rate(attributes, model.config, model.schedule, iteration) if changes else ""
    return Resumed(iteration, changes, own, rate), {k: torch.from_numpy(v) for k, v in of_rule.items()}


def without_fixed(model: Model, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All of a checkpoint's arrays but the parameters that no update changes."""
    fixed = {f"{WEIGHTS}{p.name}" for p in model.fixed}
    return {name: array for name, array in arrays.items() if name not in fixed}


def take_fixed(model: Model, arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Give a model the parameters that no update changes, which it may have begun with; gives the other arrays.

    Checkpoints of earlier versions do not have them.

    Raises
    ------
    ConfigError
        If one has another shape or dtype.
    """
    for p in model.fixed:
        name, now = f"{WEIGHTS}{p.name}", p.get_value()
        found = arrays.get(name, now)
        if (found.shape, found.dtype) != (now.shape, now.dtype):
            raise ConfigError(
                f"{path}: array {name!r}: expected {now.dtype} of shape {now.shape}, got {found.dtype} of shape "
                f"{found.shape}"
            )
        p.set_value(found)
    return without_fixed(model, arrays)


def _of_this_rank(arrays: Mapping[str, np.ndarray], comm: MPI.Comm, path: Path) -> dict[str, np.ndarray]:
    """What a rule has kept of this rank, by its own names."""
    prefix, size = f"{comm.Get_rank()}/", comm.Get_size()
    found = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    if not {_ITERATION, _ETAS} <= found.keys() or len({name.split("/")[0] for name in arrays}) != size:
        raise ConfigError(f"{path}: expected the state of {counted(size, 'worker')}, got that of others")
    return found


def _is_old(attributes: Mapping[str, checkpoint.Scalar]) -> bool:
    """Whether a checkpoint is of the time before rate, recipe and the digest of the images were saved."""
    return "data_sha256" not in attributes


def _identity(model: Model, rule: Rule) -> dict[str, checkpoint.Scalar]:
    """What must not change between a checkpoint and its resumption, by name."""
    return {
        **settings_of(model.config, "run"),
        "data_sha256": model.data.dataset.sha256,
        "minibatch": model.schedule.minibatch,
        # Where every rank has one, their number counts, whatever the minibatch.
        "velocities": model.size if rule.own_slots else 1,
    }


def _check_same(path: Path, attributes: Mapping[str, checkpoint.Scalar], model: Model, rule: Rule) -> int:
    """Refuse what another run has saved; gives its number of updates."""
    found, expected = fields_added("run") | dict(attributes), _identity(model, rule)
    if _is_old(attributes):
        found["modelfile"], _, found["modelclass"] = str(found.get("model")).rpartition(".")
        found["data"] = Path(str(found.get("data"))).name
        expected = {**expected, "data": Path(str(model.config.data)).name}
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

    config, per_epoch = model.config, model.data.n_batch_train
    last = min(model.schedule.iterations, config.max_iterations or model.schedule.iterations)
    done, before = attributes.get("iteration"), attributes.get("epochs")
    # Beyond the end of its own run too, it is damaged.
    if isinstance(done, int) and isinstance(before, int) and last < done <= before * per_epoch:
        name, least, given = "epochs", -(-done // per_epoch), config.epochs
        if config.max_iterations == last:
            name, least, given = "max_iterations", done, last
        raise ConfigError(
            f"{path}: {name}: expected at least {least}, as iteration {done} is done, got {given}"
        )
    return checkpoint.progress(attributes, path, per_epoch, last)


def _in_form(
    arrays: Mapping[str, np.ndarray], model: Model, etas: list[float], saved: Any
) -> dict[str, np.ndarray]:
    """Arrays whose velocities hold the rate, or not, as the form of the run's momentum wants it: v = η·u."""
    wanted, found = model.config.momentum_form, dict(arrays)
    if (saved == "u") == (wanted == "u"):
        return found
    for state, optimizer, eta in zip(model.states, model.optimizers, etas, strict=True):
        if isinstance(optimizer, Momentum) and eta:
            for parameters, own_eta in ((state.decayed, eta), (state.undecayed, model.bias_rate * eta)):
                factor = np.float32(own_eta if saved == "u" else 1 / own_eta)
                for p in parameters:
                    found[f"velocity/{p.name}"] = found[f"velocity/{p.name}"] * factor
    return found
