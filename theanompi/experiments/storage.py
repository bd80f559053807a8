"""The folder of an experiment: who is at work in it, and whether its runs are those that are asked for."""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from theanompi.config import (
    FIELDS,
    ConfigError,
    RunConfig,
    fields_of,
    flat,
    got,
    read_defaults,
    resolve,
    shortened,
)
from theanompi.config.files import read_text, reason, trouble
from theanompi.experiments.file import Experiment, Trial
from theanompi.experiments.results import EXPERIMENT_FILE, OUTPUT_FILE, read_run
from theanompi.experiments.statistics import Run
from theanompi.record.folder import CHECKPOINT_FILE, CONFIG_FILE, LOG_FILE, NO_SETTINGS
from theanompi.system.cgroup import cores

LOCK_FILE = ".lock"
HANDOVER = 20.0
"""Seconds in which the runs of a compare that was killed have to be gone."""


def say(text: str) -> None:
    """Tell the user, on stderr, what is being done."""
    print(text, file=sys.stderr, flush=True)


def read_trial(trial: Trial) -> Run:
    """What there is of a run; nothing where its files are damaged, as by a loss of power, or just being replaced."""
    try:
        return read_run(trial.folder, trial.seed)
    except (ValueError, OSError):
        return Run(trial.seed, "missing")


def make_folder(out: Path) -> None:
    """Make the experiment's folder where it is missing."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        wrong = "a file of this name" if isinstance(error, FileExistsError) else reason(error)
        raise ConfigError(f"out: expected a folder to write in, got {got(str(out))} ({wrong})") from None


@contextlib.contextmanager
def alone(out: Path) -> Iterator[int]:
    """Hold the folder's lock, which the runs inherit: those of a compare that was killed may live on for a moment."""
    lock = os.open(out / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + HANDOVER
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                other = int(os.pread(lock, 20, 0) or b"0")
                if Path(f"/proc/{other}").is_dir() and other:
                    raise ConfigError(
                        f"out: expected a folder in which no other compare is at work, got {str(out)!r}, "
                        f"in which process {other} is"
                    ) from None
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"out: expected a folder in which no run is at work, got {str(out)!r}, "
                        f"in which runs go on that process {other} has left behind"
                    ) from None
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield lock
    finally:
        os.close(lock)


def check_same(experiment: Experiment, out: Path, trials: Iterable[Trial], overwrite: bool) -> set[Trial]:
    """See to it that runs with other settings than the experiment's are not taken for its own.

    Gives those to be replaced, of which there are none without `overwrite`.
    """
    remedy = "--overwrite runs it again, --out takes another folder"
    about = out / EXPERIMENT_FILE
    if os.path.exists(about) and not overwrite:
        text = read_text(about, str(about))
        try:
            earlier = json.loads(text)
            names = {key: earlier[key] for key in ("name", "scale")}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(
                f"{about}: expected what compare writes, got a damaged file; "
                "--overwrite writes it anew, --out takes another folder"
            ) from None
        for key, value in names.items():
            if value != getattr(experiment, key):
                raise ConfigError(
                    f"{about}: {key}: expected {getattr(experiment, key)!r}, got {got(value)}; {remedy}"
                )
    others = set()
    for trial in trials:
        begun = read_trial(trial).complete or os.path.exists(trial.folder / CHECKPOINT_FILE)
        difference = begun and _difference(trial)
        if difference and not overwrite:
            raise ConfigError(f"{trial.folder / CONFIG_FILE}: {difference}; {remedy}")
        if difference:
            others.add(trial)
    return others


def _settings(config: RunConfig, defaults: Mapping[str, Any]) -> RunConfig:
    """What two runs must have in common to be the same, with the defaults of the model's class."""
    aside: dict[str, Any] = {name: FIELDS[name].default for name in fields_of("aside")}
    return replace(resolve(config, defaults), **aside)


def _settings_in(folder: Path) -> tuple[RunConfig, dict[str, Any]]:
    """Those of the run that is there, and what the class of its model has had defaults for."""
    try:
        values = json.loads(read_text(folder / CONFIG_FILE, CONFIG_FILE))
        defaults = read_defaults(values.get("defaults", {}), CONFIG_FILE)
        config = RunConfig.from_dict({k: v for k, v in values.items() if k not in NO_SETTINGS})
        return _settings(config, defaults), defaults
    except ConfigError:
        raise
    except (ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"expected the settings of a run, got none that can be read ({shortened(str(error), 120)})"
        ) from None


def _difference(trial: Trial) -> str | None:
    """What its folder has other than the experiment, if anything."""
    try:
        config, defaults = _settings_in(trial.folder)
    except ConfigError as error:
        return str(error)
    there, wanted = flat(config.to_dict()), flat(_settings(trial.config, defaults).to_dict())
    different = [name for name in {**wanted, **there} if there.get(name) != wanted.get(name)]
    if not different:
        return None
    name, others = different[0], len(different) - 1
    expected, found = (got(side[name]) if name in side else "its default" for side in (wanted, there))
    more = f" (and {others} more)" if others else ""
    return f"{name}: expected {expected} as the experiment has it, got {found}{more}"


def runs_elsewhere(missing: Iterable[Trial], out: Path, reuse: Iterable[Path]) -> dict[Trial, Path]:
    """Where other experiments than that in `out` have what is missing there."""
    found: dict[RunConfig, Path] = {}
    classes: list[dict[str, Any]] = []
    for folder in reuse:
        if os.path.realpath(folder) == os.path.realpath(out):
            raise ConfigError(
                f"reuse: expected the folder of another experiment, got that of this one, {str(out)!r}"
            )
        if trouble(folder / EXPERIMENT_FILE):
            raise ConfigError(f"reuse: expected the folder of an experiment, got {got(str(folder))}")
        for path in sorted(folder.glob(f"*/*-workers/seed-*/{CONFIG_FILE}")):
            with contextlib.suppress(ValueError):
                if read_run(path.parent, 0).complete:
                    config, defaults = _settings_in(path.parent)
                    found.setdefault(config, path.parent)
                    classes += [defaults] * (defaults not in classes)
    sources: dict[Trial, Path] = {}
    for trial in missing:
        for defaults in classes:
            wanted = _settings(trial.config, defaults)
            if wanted in found:
                sources.setdefault(trial, found[wanted])
    return sources


def copy_runs(sources: Mapping[Trial, Path]) -> None:
    """Copy runs of other experiments."""
    for trial, source in sources.items():
        copy = trial.folder.with_name(f"{trial.folder.name}.tmp")
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
        for name in (CONFIG_FILE, LOG_FILE, OUTPUT_FILE):
            if (source / name).exists():
                shutil.copy2(source / name, copy / name)
        shutil.rmtree(trial.folder, ignore_errors=True)
        copy.rename(trial.folder)
        say(f"{trial}: taken from {source}")


def set_aside(trials: Iterable[Trial]) -> None:
    """Give runs with damaged files another name: they are made again, and a report cannot be made of them."""
    for trial in trials:
        try:
            read_run(trial.folder, trial.seed)
        except ValueError as error:
            aside = trial.folder.with_name(f"{trial.folder.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            trial.folder.rename(aside)
            say(f"{trial}: {error}; now {aside}, and begun again")


def machine_of(experiment: Experiment, out: Path, runs: bool, sources: Mapping[Trial, Path]) -> Any:
    """On what the runs were made: this machine if it makes some of them, else as the folder or its source says."""
    if not runs:
        # Of a source: <experiment>/<arm>/<k>-workers/seed-<s>.
        for folder in [out, *(source.parents[2] for source in sources.values())]:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                return json.loads(read_text(folder / EXPERIMENT_FILE, EXPERIMENT_FILE))["machine"]
    return _machine(experiment.device)


def _machine(device: str) -> dict[str, Any]:
    """This machine, for the report."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    about: dict[str, Any] = {"cpu": models[0] if models else "unknown", "cores": cores()}
    if device != "cpu":
        gpus = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        about["gpus"] = [
            path.read_text(encoding="utf-8").splitlines()[0].partition(":")[2].strip() for path in gpus
        ]
    return about
