"""The virtual clock of a run whose workers are simulated: how long their steps and exchanges take."""

from dataclasses import dataclass, fields

from theanompi.config.errors import ConfigError, got
from theanompi.config.kinds import NOT_NEGATIVE, POSITIVE, TEXT, choice, number, whole
from theanompi.config.plugins import read_settings, setting
from theanompi.config.run import RunConfig

STEP_TIMES = ("constant", "exponential")


@dataclass(frozen=True)
class ClockSettings:
    """What may be set of it, such as ``--set clock.straggler=4``; times are in seconds."""

    steps: str = setting("constant", choice(STEP_TIMES), "distribution of the time of a worker's step")
    step_s: float = setting(0.1, POSITIVE, "mean time of a worker's step")
    exchange_s: float = setting(
        0.01, NOT_NEGATIVE, "time of an exchange: a sum, a pass at the centre, a letter, a swap"
    )
    straggler: float = setting(
        1.0,
        number("a number of at least 1", lambda x: x >= 1),
        "s: the last worker's steps take s times as long",
    )
    seed: int | None = setting(None, whole(0), "of the drawn times (default: the run's)")
    order: str | None = setting(
        None, TEXT, "the log of a run whose order of passes and letters is to be replayed (default: none)"
    )


def read_clock(config: RunConfig) -> ClockSettings:
    """Read the settings of the virtual clock of a run, and refuse what does not go with simulated workers.

    Raises
    ------
    ConfigError
        For a setting that it has not, or a value that it may not have; for one without simulated workers, and for
        simulated workers with several devices or a timeline.

    Examples
    --------
    >>> read_clock(RunConfig(workers_simulated=4, settings={"clock.straggler": 3})).straggler
    3.0
    >>> read_clock(RunConfig(settings={"clock.straggler": 3}))
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: clock.straggler: expected workers_simulated, as real workers need no clock, \
got none
    """
    clock = read_settings(ClockSettings, config.settings, "clock")
    if config.workers_simulated is None:
        name = next((f"clock.{f.name}" for f in fields(clock) if f"clock.{f.name}" in config.settings), None)
        if name:
            raise ConfigError(f"{name}: expected workers_simulated, as real workers need no clock, got none")
    elif len(config.devices) > 1:
        raise ConfigError(
            f"workers_simulated: expected one device, on which one process is all workers, got {len(config.devices)}"
        )
    elif config.timeline is not None:
        raise ConfigError(f"timeline: expected none with workers_simulated, got {got(config.timeline)}")
    return clock
