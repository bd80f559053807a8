"""How a launcher tells its workers what to run: in the environment."""

import json
import os
from collections.abc import Mapping, Sequence

from theanompi.config.errors import ConfigError
from theanompi.config.run import RunConfig


def to_environment(config: RunConfig, devices: Sequence[str], plan: bool = False) -> dict[str, str]:
    """Make the environment variables that tell a spawned worker what to run.

    Parameters
    ----------
    config
        The run.
    devices
        The devices of the worker's machine, one per local rank.
    plan
        Whether the worker shall only print the plan.
    """
    return {
        "THEANOMPI_CONFIG": json.dumps(config.to_dict()),
        "THEANOMPI_DEVICES": json.dumps(list(devices)),
        "THEANOMPI_PLAN": json.dumps(plan),
    }


def from_environment(environ: Mapping[str, str] = os.environ) -> tuple[RunConfig, tuple[str, ...], bool]:
    """Read what `to_environment` wrote: the arguments of `theanompi.worker.run`.

    Raises
    ------
    ConfigError
        When the process was not started by `theanompi.launch.job`.

    Examples
    --------
    >>> from_environment({})
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: THEANOMPI_CONFIG: expected a worker of rule.init or tmlauncher, got none
    """
    if "THEANOMPI_CONFIG" not in environ:
        raise ConfigError("THEANOMPI_CONFIG: expected a worker of rule.init or tmlauncher, got none")
    return (
        RunConfig.from_dict(json.loads(environ["THEANOMPI_CONFIG"])),
        tuple(json.loads(environ["THEANOMPI_DEVICES"])),
        json.loads(environ["THEANOMPI_PLAN"]),
    )
