"""The learning rate of every iteration; one small file per kind, chosen by name."""

from dataclasses import fields
from typing import Any

from theanompi.config import FIELDS, ConfigError, RunConfig
from theanompi.config.plugins import find_class, read_settings
from theanompi.training.schedules.base import Functions, Schedule

__all__ = ["SCHEDULES", "Functions", "Schedule", "make_schedule"]

SCHEDULES = {
    "steps": "theanompi.training.schedules.steps:Steps",
    "poly": "theanompi.training.schedules.poly:Poly",
    "cosine": "theanompi.training.schedules.cosine:Cosine",
    "constant": "theanompi.training.schedules.constant:Constant",
}


def make_schedule(config: RunConfig, *, minibatch: int, iterations_per_epoch: int) -> Schedule:
    """Make the schedule of a run.

    Parameters
    ----------
    config : RunConfig
        Resolved. ``config.schedule`` is a key of `SCHEDULES`, or ``"module.Class"`` of the user's.
    minibatch : int
        The items of one weight update, over all ranks and accumulation steps.
    iterations_per_epoch : int
        The weight updates of one epoch.

    Raises
    ------
    ConfigError
        For an unknown schedule, a setting that it does not have, or a rate that does not stay above 0.
    """
    kind: Any = find_class("schedule", config.schedule, SCHEDULES, base=Schedule)
    own = read_settings(kind.Settings, config.settings, "schedule")
    of_run = {
        f.name: getattr(config, f.name) for f in fields(kind) if f.name in FIELDS and f.name != "settings"
    }
    try:
        schedule: Schedule = kind(
            minibatch=minibatch, iterations_per_epoch=iterations_per_epoch, settings=own, **of_run
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return schedule
