"""What a resumed run has other than before: its recipe, and what that means for the rate."""

from collections.abc import Mapping
from typing import Any

from theanompi.config import FIELDS, ConfigError, RunConfig, counted, fields_of, flat
from theanompi.config.kinds import PLUGINS
from theanompi.record import checkpoint
from theanompi.training.schedules import Schedule, make_schedule

_OF_PLUGINS = tuple(f"{plugin}." for plugin in PLUGINS)


def _recipe_before(
    attributes: Mapping[str, checkpoint.Scalar], recipe: Mapping[str, checkpoint.Scalar]
) -> dict[str, checkpoint.Scalar]:
    """The recipe that a checkpoint has."""
    # What a checkpoint of an earlier version does not have is not known to be another.
    before = {name: value for name, value in recipe.items() if name in FIELDS} | fields_added("recipe")
    return before | {k: v for k, v in attributes.items() if k in before or k.startswith(_OF_PLUGINS)}


def changes_of(attributes: Mapping[str, checkpoint.Scalar], recipe: Mapping[str, checkpoint.Scalar]) -> str:
    """What a checkpoint has of a recipe, and what the run has, where they differ."""
    before = _recipe_before(attributes, recipe)
    names = [name for name in {**recipe, **before} if before.get(name) != recipe.get(name)]
    default = "by default"
    return "; ".join(f"{name} {before.get(name, default)} -> {recipe.get(name, default)}" for name in names)


def words_on_rate(
    attributes: Mapping[str, checkpoint.Scalar], config: RunConfig, now: Schedule, iteration: int
) -> str:
    """Say what another schedule means for η after `iteration` updates; nothing if it is the same, or is over."""
    before = _schedule_before(attributes, config, now)
    if before == now or not 0 < iteration < now.iterations:
        return ""
    following = f"is {_rate(now, iteration):g} from iteration {iteration + 1} on"
    if before is None:
        return f"η {following}; the schedule before cannot be read any more"
    last, epochs = iteration - 1, counted(now.epochs, "epoch")
    first = next((t for t in range(iteration) if _rate(before, t) != _rate(now, t)), None)
    if first is None:
        return f"as in a run of {epochs} from the start: η was {_rate(now, last):g}, and {following}"
    return (
        f"not as in a run of {epochs} from the start, whose η differs from iteration {first + 1} on: "
        f"η was {_rate(before, last):g}, there {_rate(now, last):g}, and {following}"
    )


def _rate(schedule: Schedule, t: int) -> float:
    """What the gradient is multiplied by, be it in the rate or in the loss."""
    return schedule(t) * schedule.loss_scale(t)


def _schedule_before(
    attributes: Mapping[str, checkpoint.Scalar], config: RunConfig, now: Schedule
) -> Schedule | None:
    """The schedule of the run that has written a checkpoint; None if its class is not there any more."""
    recipe = _recipe_before(attributes, settings_of(config, "recipe"))
    fields = {name: _unscalar(name, value) for name, value in recipe.items() if name in FIELDS}
    plugins = {name: value for name, value in recipe.items() if name not in FIELDS}
    try:
        return make_schedule(
            RunConfig.from_dict({**config.to_dict(), **fields, "settings": plugins}),
            minibatch=now.minibatch,
            iterations_per_epoch=now.iterations_per_epoch,
        )
    except ConfigError:
        return None


def _unscalar(name: str, value: checkpoint.Scalar) -> checkpoint.Scalar | None:
    """Undo `_scalars` for one field, as far as the field itself does not read it."""
    kind = FIELDS[name].metadata["kind"]
    return None if value == "none" and ", none" not in kind.expected else value


def settings_of(config: RunConfig, role: str) -> dict[str, checkpoint.Scalar]:
    """The fields of a role as a checkpoint holds them: each setting of a plug-in by its name, other values as text."""
    values = config.to_dict()
    return _scalars(flat({name: values[name] for name in fields_of(role)}))


def _scalars(values: Mapping[str, Any]) -> dict[str, checkpoint.Scalar]:
    return {
        name: ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else value
        for name, value in values.items()
    }


def fields_added(role: str) -> dict[str, checkpoint.Scalar]:
    """The fields of a role that version 0.1.0 did not have, with their defaults, which then were all there was."""
    items = {name: FIELDS[name].metadata for name in fields_of(role) if name != "settings"}
    return _scalars({name: about["default"] for name, about in items.items() if about["later"]})
