"""What every rule offers its user: `Session.init`, `Session.wait`, and checks before anything is spawned."""

import argparse
import atexit
import contextlib
import importlib
import sys
import time
from abc import ABC
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from theanompi.config import (
    FIELDS,
    ConfigError,
    NoSettings,
    OneLineParser,
    RunConfig,
    closest,
    counted,
    in_place_of,
    over,
    read_field,
    read_settings,
)
from theanompi.launch.check import check
from theanompi.launch.ends import STOPPED, what_is_saved
from theanompi.launch.job import WORKER, Job, is_worker
from theanompi.launch.libraries import prepare_rank, set_algorithm
from theanompi.launch.mpirun import launched, world
from theanompi.system.output import put
from theanompi.system.processes import signal_name

ATTRIBUTES = {
    **{name: name for name in FIELDS if name not in ("rule", "devices", "modelfile", "modelclass")},
    "exch_strategy": "exchange",
}
"""By the name of an attribute of a rule, the field of `RunConfig` that it sets."""

# What a rule's class says of itself.
_OF_A_RULE = ("name", "lockstep", "sums_gradients", "Settings", "trains")


class RunFailed(RuntimeError):
    """A spawned run ended badly; `status` is its exit status, not 0, and `deaths` says which processes did."""

    def __init__(self, message: str, status: int, deaths: Sequence[str] = ()):
        super().__init__(message)
        self.status, self.deaths = status, deaths


class Session(ABC):
    """What starts a run: `init` starts one process per device, `wait` waits for their end.

    Under an mpirun of the user's own the script is the worker: `init` then checks and keeps the settings and
    spawns nothing, and `wait` trains in this very process. Where that mpirun (or a shell in a job) has one process
    and there are several devices, `init` starts them all the same.

    What `init` takes by its keywords may also be set as attributes before it, of the rule or of its class, by the name
    of the field or Theano-MPI's (``exch_strategy``).
    """

    name: ClassVar[str]
    Settings: ClassVar[type] = NoSettings
    """A frozen dataclass of settings of its own, such as ``--set rule.NAME=VALUE``: see `theanompi.config.plugins`."""
    trains: ClassVar[bool] = True
    """Whether what is started leaves a run behind, which the last line then speaks of."""

    def __init__(self) -> None:
        self._config: RunConfig | None = None
        self._job: Job | None = None
        self._started = 0.0

    def init(
        self,
        devices: str | Iterable[str],
        modelfile: str,
        modelclass: str,
        *,
        bind: bool = False,
        **config: Any,
    ) -> None:
        """Start one worker per device, or under the user's own mpirun get ready to be one.

        Parameters
        ----------
        devices
            One per worker, such as ``["cuda0", "cuda1"]`` or ``["node0:cuda0", "node1:cuda0,cuda1"]``; under
            an mpirun of the user's own the devices of this machine, by local rank, or one name for all. The script's
            flag ``--device`` takes others in their place; one name without a number, such as cpu, serves all workers.
        modelfile, modelclass
            The module of the model, found from the current folder and ``sys.path``, and the class in it.
        bind
            Whether each rank is bound to cores of its own.
        **config
            Any other field of `theanompi.config.RunConfig`.

        Raises
        ------
        theanompi.config.ConfigError
            When a setting, the model's file or class, or the data set's file is wrong; nothing is started.
        """
        attributes = {name: value for name, _, value in self._attributes()}
        self.start(
            RunConfig.from_dict(
                {
                    **over(attributes | {k: v for k, v in config.items() if k != "settings"}, config),
                    "rule": self.name,
                    "devices": _wanted(devices),
                    "modelfile": modelfile,
                    "modelclass": modelclass,
                }
            ),
            bind=bind,
        )

    def start(
        self, config: RunConfig, *, bind: bool = False, plan: bool = False, module: str = WORKER, **job: Any
    ) -> None:
        """Do what `init` does, with the settings in one object.

        Parameters
        ----------
        config
            The run.
        bind
            Whether each rank is bound to cores of its own.
        plan
            Whether the workers shall only print the plan.
        module
            The worker's module.
        **job
            What else `theanompi.launch.job.Job` can be told. With an `output`, `wait` prints nothing either.

        Raises
        ------
        theanompi.config.ConfigError
            As in `init`.
        """
        for name, where, value in self._attributes():
            wanted, given = read_field(name, value), getattr(config, name)
            if name == "settings":  # others may have been given besides
                given = {key: given[key] for key in wanted if key in given}
            if wanted != given:
                raise ConfigError(f"{where}: expected {given!r}, as {name} was given, got {value!r}")
        read_settings(self.Settings, config.settings, "rule")
        self.check(config)
        check(config)
        self._config, self._plan, self._module = config, plan, module
        self._silent = "output" in job
        self._started = time.monotonic()
        if job or not is_worker(config.devices):
            self._job = Job(config, module=module, bind=bind, plan=plan, **job)
            if not self._silent:
                _say_that_it_starts(config, len(config.devices))
        else:
            atexit.register(_take_others_along)

    def check(self, config: RunConfig) -> None:  # noqa: B027
        """Refuse, before anything is started, a run that the rule does not fit.

        Raises
        ------
        theanompi.config.ConfigError
        """

    def _attributes(self) -> list[tuple[str, str, Any]]:
        """What was set as an attribute of the rule or of its class: field, place and value, the rule's own last.

        Raises
        ------
        ConfigError
            For one that is no setting, or is an argument of `init`.
        """
        found: dict[str, tuple[str, str, Any]] = {}
        for owner in (*reversed(type(self).__mro__), self):
            owner_name = self.name if owner is self else getattr(owner, "__name__", "")
            if owner is not self and not (isinstance(owner, type) and issubclass(owner, Session)):
                continue
            for attribute, value in vars(owner).items():
                if attribute.startswith("_") or attribute in _OF_A_RULE or hasattr(value, "__get__"):
                    continue
                field = ATTRIBUTES.get(attribute)
                if field is None:
                    hint = closest(attribute, ATTRIBUTES)
                    raise ConfigError(
                        f"{owner_name}.{attribute}: expected a setting of a run{hint}, got none"
                    )
                found[field] = field, f"{owner_name}.{attribute}", value
        return list(found.values())

    def cancel(self) -> None:
        """Begin to end the workers, from any thread; `wait` then raises `RunFailed`."""
        if self._job is not None:
            self._job.cancel()

    def wait(self) -> int:
        """Wait for the workers and print how they ended; under the user's own mpirun, be the worker.

        Returns
        -------
        int
            0, the exit status of a run that ended well.

        Raises
        ------
        RunFailed
            When a worker failed, left early or a signal ended the run: one line with the exit status or the signal, who
            it was and what is saved. The worker's own message is on the standard error above it.
        RuntimeError
            Without `init` before it.
        """
        if self._config is None:
            raise RuntimeError(f"{self.name}.wait: expected a call of init before it, got none")
        if self._job is None:
            atexit.unregister(_take_others_along)
            self.run(self._config, plan=self._plan, module=self._module)
            return 0
        status, account = self._job.wait(), self._job.account
        ranks, seconds = len(self._config.devices), time.monotonic() - self._started
        if status == 0 and not account.well:
            status, how = 1, "left before the end of the run, though with exit status 0"
        elif status == STOPPED and account.stopped is not None:
            number = self._job.ended_by
            how = f"stopped in good order by {account.stopped if number is None else signal_name(number)}"
        elif self._job.ended_by is not None:
            how = f"ended by {signal_name(self._job.ended_by)}"
        else:
            how = f"failed with exit status {status}"
        if status:
            who = account.deaths[:2] or [account.guess][: bool(account.guess)]
            parts = [f"{self.name}: {counted(ranks, 'rank')} {how} after {seconds:.0f} s", *who]
            # Whoever could not go on with a run has left it as it was.
            refused = self._config.resume and account.saved is None
            if account.ranks and self.trains and not refused:
                parts.append(what_is_saved(account.saved, account.out, resumable=account.resumable))
            raise RunFailed("; ".join(parts), status, account.deaths)
        if self.trains and self._config.verbose and not self._silent:
            put(f"{self.name}: {counted(ranks, 'rank')} ended well after {seconds:.0f} s\n".encode())
        return 0

    def run(self, config: RunConfig, *, plan: bool = False, module: str = WORKER) -> None:
        """Be a worker in this process: a rank of the user's own mpirun, or else the only one.

        Parameters
        ----------
        config
            The run; its devices are those of this machine, one per local rank, or one for all.
        plan
            Whether to print the plan only.
        module
            The worker's module, imported here because it brings torch and MPI along.
        """
        place = world()
        if place is None or place.rank == 0:
            _say_that_it_starts(config, (place and place.size) or 1)
        set_algorithm(config.allreduce_algorithm)
        prepare_rank(config.devices)
        importlib.import_module(module).run(config, config.devices, plan)


def _say_that_it_starts(config: RunConfig, ranks: int) -> None:
    """Say something before the imports, which may take long."""
    if config.verbose:
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(f"starting {counted(ranks, 'rank')} …", file=sys.stderr, flush=True)


class Evaluation(Session):
    """The ranks of ``tmlauncher evaluate``, which leave nothing behind."""

    name = "evaluate"
    trains = False


def _wanted(devices: str | Iterable[str]) -> str | Iterable[str]:
    """The devices of a script, or those of its flag ``--device``."""
    parser = OneLineParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--device", "--devices", dest="devices")
    flags, _ = parser.parse_known_args()
    if "devices" not in flags:
        return devices
    return flags.devices if launched() else in_place_of(devices, flags.devices)


def _take_others_along() -> None:
    """End all ranks of the user's own mpirun, as this one's program ends without a call of `wait`."""
    importlib.import_module(WORKER).take_others_along()
