"""The file of an experiment: which arms, worker counts and seeds are compared, at which scale, and what is claimed.

An arm is a named set of a recipe's switches: a preset, or any fields of `theanompi.config.RunConfig`, or both. The
file is TOML:

.. code-block:: toml

    question = "Which warmup does a large minibatch need?"
    scale = "small"                # or "imagenet": network, data, n and epochs
    seeds = 5                      # 0 to 4; or a list
    claims = ["gradual@64 ~ baseline@8", "none@64 > gradual@64"]
    margin = 0.12                  # points within which "~" agrees; 0.5 without it
    workers = [64]                 # for each arm that does not say otherwise

    [settings]                     # of all arms
    precision = "float32"

    [arms.baseline]
    preset = "their_way"
    workers = [8]

    [arms.gradual]
    preset = "their_way"

    [arms.none]
    preset = "their_way"
    warmup = "none"

    [arms.adam]
    preset = "their_way"
    base_lr = 0.001

    [arms.adam.optimizer]          # a plug-in (optimizer, schedule, rule or model) with settings of its own
    name = "adam"
    beta2 = 0.98

An arm has the settings of the scale, of ``[settings]``, of its preset and its own, each overriding those before.

TOML has no key and table of one name: ``optimizer = "lars"`` alone will do, but with settings the optimizer's name is
the key ``name`` of the table. ``[settings.optimizer]`` is for all arms. An arm's own table overrides it key by key, and
an arm with another optimizer has none of it. Schedule and rule are alike. A table ``model`` has settings only; an arm
with another ``modelclass`` has none of those before.

With ``clock = true`` the workers of each run are simulated in one process, in the order of a virtual clock. Its
settings are in ``[settings.clock]`` or an arm's own table: see `theanompi.config.ClockSettings`.

Settings, presets, workers, claims and the margin may be a table by scale instead, such as ``workers = { imagenet =
[256], small = [64] }``. Claims are ``~`` (they differ by no more than ``margin``), ``>`` and ``<`` between the errors
of two arms at a worker count each. The margin is in points; of a metric that is no fraction it is in its unit, and has
to be stated.

Nothing here needs torch or MPI.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from theanompi.config import (
    FIELDS,
    MOST_RANKS,
    SIMULATED,
    ConfigError,
    RunConfig,
    closest,
    counted,
    got,
    listed,
    over,
    parse_devices,
    read_as,
    shortened,
)
from theanompi.config.files import read_text
from theanompi.config.kinds import PLUGINS
from theanompi.experiments.presets import PRESETS, SCALES
from theanompi.experiments.results import CLAIM, NAME, is_margin, whole_numbers

# What says it instead of a setting.
_ELSEWHERE = {
    "seed": "seeds",
    "devices": "--device and workers",
    "accumulation": "workers and --simulate",
    "workers_simulated": "workers and the key clock",
    "max_iterations": "epochs",
    "out": "--out",
    "settings": "a table of the plug-in, such as [arms.x.optimizer],",
    "resume": "the state of each run",
    "overwrite": "the state of each run",
    "log_interval": "the experiment",
    "curves": "the experiment",
    "timeline": "the experiment",
    "verbose": "the experiment",
}
_MOST_SEEDS = 10_000
_MOST_RUNS = 10_000
_MOST_RANKS_IN_ALL = 1_000_000
_KEYS = ("name", "question", "scale", "seeds", "claims", "margin", "workers", "clock", "settings", "arms")
_REPORT = (".md", ".json", ".png")
"""Endings of files that are beside the folders of the arms."""


SHIPPED = {
    path.stem: path for path in (Path(__file__).parents[1] / "examples" / "experiments").glob("*.toml")
}
"""The experiments that come with the package, by name."""


class Arm(NamedTuple):
    """Worker counts, and the fields of `theanompi.config.RunConfig` that are not as by default."""

    workers: tuple[int, ...]
    settings: dict[str, Any]


class Trial(NamedTuple):
    """One training run of an experiment: an arm with so many workers and a seed, in a folder of its own."""

    arm: str
    workers: int
    seed: int
    folder: Path
    config: RunConfig

    def __str__(self) -> str:
        return f"{self.arm}, {counted(self.workers, 'worker')}, seed {self.seed}"


@dataclass(frozen=True)
class Experiment:
    """What `read_experiment` makes of a file.

    Attributes
    ----------
    name, question, scale : str
    seeds : tuple of int
    simulate : int or None
        Ranks of each run, which simulate its workers by accumulation; None for as many ranks as workers.
    device : str
        Of each rank, as in `theanompi.config.parse_devices`.
    arms : dict of str to Arm
    claims : tuple of str
        Such as "none@64 > gradual@64".
    flags : tuple of str
        What was given instead of the file's or the scale's, where the other attributes do not tell.
    clock : bool
        Whether the workers of each run are simulated on a virtual clock.
    margin : float or None
        By which the figures of a claim ``~`` may differ, in points or the metric's unit; None where it is not stated.
    """

    name: str
    question: str
    scale: str
    seeds: tuple[int, ...]
    simulate: int | None
    device: str
    arms: dict[str, Arm]
    claims: tuple[str, ...]
    flags: tuple[str, ...]
    clock: bool = False
    margin: float | None = None

    def trials(self, out: Path) -> list[Trial]:
        """List the runs to make, seed by seed, so that a part of them has something of every arm.

        Parameters
        ----------
        out : Path
            The folder of the experiment.
        """
        return [
            Trial(name, k, seed, folder, self._config(arm, k, seed, folder))
            for seed in self.seeds
            for name, arm in self.arms.items()
            for k in arm.workers
            for folder in [out / name / f"{k}-workers" / f"seed-{seed}"]
        ]

    def _config(self, arm: Arm, workers: int, seed: int, folder: Path) -> RunConfig:
        ranks = self.simulate or workers
        return RunConfig.from_dict(
            arm.settings
            | {
                "devices": [self.device] * ranks,
                **({"workers_simulated": workers} if self.clock else {"accumulation": workers // ranks}),
                "seed": seed,
                "out": str(folder),
                # Whole epochs: a line for each is all that a report needs.
                "log_interval": 1_000_000,
                "verbose": False,
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what ``experiment.json`` holds, as JSON values."""
        return {
            "name": self.name,
            "question": self.question,
            "scale": self.scale,
            "seeds": list(self.seeds),
            "simulate": self.simulate,
            "arms": {
                name: {"workers": list(arm.workers), "settings": arm.settings}
                for name, arm in self.arms.items()
            },
            "claims": list(self.claims),
            "flags": list(self.flags),
            **({"clock": True} if self.clock else {}),
            **({"margin": self.margin} if self.margin is not None else {}),
        }


def read_experiment(
    path: str | Path,
    *,
    scale: str | None = None,
    seeds: int | None = None,
    workers: Sequence[int] | None = None,
    simulate: int | None = None,
    device: str | None = None,
) -> Experiment:
    r"""Read the file of an experiment.

    Parameters
    ----------
    path
        A TOML file as described above, or the name of one in `SHIPPED`.
    scale, seeds
        Instead of the file's.
    workers
        Worker counts of all arms instead of the file's. Claims about others are left out.
    simulate
        Ranks that simulate the workers of each run; 0 for as many ranks as workers; None for what the scale has.
    device
        Of each rank, instead of the scale's.

    Raises
    ------
    theanompi.config.ConfigError
        With file and place, for whatever is wrong in it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".toml") as file:
    ...     _ = file.write('scale = "small"\nseeds = 2\nworkers = [4, 8]\n[arms.theirs]\npreset = "their_way"\n')
    ...     file.flush()
    ...     experiment = read_experiment(file.name)
    >>> for trial in experiment.trials(Path("runs")):
    ...     print(trial, "in", trial.folder)
    theirs, 4 workers, seed 0 in runs/theirs/4-workers/seed-0
    theirs, 8 workers, seed 0 in runs/theirs/8-workers/seed-0
    theirs, 4 workers, seed 1 in runs/theirs/4-workers/seed-1
    theirs, 8 workers, seed 1 in runs/theirs/8-workers/seed-1
    """
    name = str(path)
    path = SHIPPED.get(name, Path(path))
    if not path.suffix and path.name == name and not os.path.exists(path):
        known = listed(sorted(SHIPPED), 200)
        raise ConfigError(
            f"experiment: expected a TOML file or one of {known}, got {got(name)}{closest(name, SHIPPED)}"
        )
    text = read_text(path, "experiment", "TOML file")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: expected TOML, got: values nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"{path}: expected TOML, got: {shortened(str(error), 120)}") from None
    try:
        return _read(table, path.stem, scale, seeds, workers, simulate, device)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _read(
    table: dict[str, Any],
    stem: str,
    scale: str | None,
    seeds: int | None,
    workers: Sequence[int] | None,
    simulate: int | None,
    device: str | None,
) -> Experiment:
    for key in table:
        if key not in _KEYS:
            raise ConfigError(f"unknown key {got(key)}{closest(key, _KEYS)}")
    name = _name("name", table.get("name", stem))
    question = table.get("question", "")
    if not isinstance(question, str):
        raise ConfigError(f"question: expected a text, got {got(question)}")
    scale = table.get("scale") if scale is None else scale
    if not isinstance(scale, str) or scale not in SCALES:
        hint = closest(scale, SCALES) if isinstance(scale, str) else ""
        what = "none" if scale is None else got(scale)
        raise ConfigError(f"scale: expected one of {', '.join(SCALES)}, got {what}{hint}")
    devices = parse_devices(SCALES[scale].device if device is None else device)
    if len(devices) != 1:
        raise ConfigError(f"devices: expected one for all ranks, got {got(device)}")
    if simulate is not None:
        read_as(SIMULATED, "simulate", simulate)
    ranks = SCALES[scale].simulate if simulate is None else simulate or None
    clock = table.get("clock", False)
    if not isinstance(clock, bool):
        raise ConfigError(f"clock: expected true or false, got {got(clock)}")
    if clock and simulate is not None:
        raise ConfigError(
            f"simulate: expected none, as the key clock has all workers in one process, got {simulate}"
        )
    ranks = 1 if clock else ranks
    margin = _at("margin", table.get("margin"), scale)
    if margin is not None and not is_margin(margin):
        raise ConfigError(f"margin: expected a number above 0, in points of error, got {got(margin)}")

    common = over(
        SCALES[scale].settings, _settings("settings", _table("settings", table.get("settings", {})), scale)
    )
    everyone = _at("workers", table.get("workers"), scale)
    if workers is not None and not whole_numbers(list(workers), 1):
        raise ConfigError(
            f"--workers: expected different whole numbers of at least 1, got {listed(map(str, workers))}"
        )
    given = None if workers is None else tuple(sorted(workers))
    arms, counts = {}, {}
    for arm, values in _table("arms", table.get("arms", {})).items():
        where = f"arms.{_name('arms', arm)}"
        values = dict(_table(where, values))
        counts[arm] = _workers(where, _at(f"{where}: workers", values.pop("workers", everyone), scale))
        preset = _preset(where, _at(f"{where}: preset", values.pop("preset", None), scale))
        settings = over(over(common, preset), _settings(where, values, scale))
        checked = _checked(where, settings)
        arms[arm] = Arm(given or counts[arm], {key: checked[key] for key in settings})
        for k in arms[arm].workers:
            if k % (ranks or 1):
                raise ConfigError(
                    f"{where}: workers: expected multiples of {ranks}, the ranks that simulate them, got {k}"
                )
            if ranks is None and k > MOST_RANKS:
                raise ConfigError(f"{where}: workers: expected at most {MOST_RANKS}, each a rank, got {k}")
    if not arms:
        raise ConfigError("arms: expected at least one, such as [arms.their_way], got none")
    claims = [
        _claim(claim, counts) for claim in _texts("claims", _at("claims", table.get("claims", []), scale))
    ]
    kept = tuple(text for text, cells in claims if all(k in arms[arm].workers for arm, k in cells))
    seeds_given = _seeds(table.get("seeds", 5) if seeds is None else seeds)
    runs = [ranks or k for arm in arms.values() for k in arm.workers]
    if len(runs) * len(seeds_given) > _MOST_RUNS or sum(runs) * len(seeds_given) > _MOST_RANKS_IN_ALL:
        raise ConfigError(
            f"workers, seeds: expected at most {_MOST_RUNS:,} runs of {_MOST_RANKS_IN_ALL:,} ranks in all, "
            f"got {len(runs) * len(seeds_given):,} of {sum(runs) * len(seeds_given):,}"
        )
    flags = [] if workers is None else ["--workers", *map(str, workers)]
    flags += [] if device is None else ["--device", device]
    return Experiment(
        name, question, scale, seeds_given, ranks, devices[0], arms, kept, tuple(flags), clock, margin
    )


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a table, got {got(value)}")
    return value


def _name(where: str, value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ConfigError(
            f"{where}: expected a name of at most 100 letters, digits, '_', '-' and '.', which makes a folder, "
            f"got {got(value)}"
        )
    if where == "arms" and value.endswith(_REPORT):
        raise ConfigError(
            f"{where}: expected a name that does not end in {', '.join(_REPORT)}, got {value!r}"
        )
    return value


def _at(where: str, value: Any, scale: str) -> Any:
    """The value at a scale, where it is a table by scale."""
    if not isinstance(value, dict):
        return value
    for key in value:
        if key not in SCALES:
            raise ConfigError(
                f"{where}: expected a scale ({', '.join(SCALES)}), got {got(key)}{closest(key, SCALES)}"
            )
    if scale not in value:
        raise ConfigError(
            f"{where}: expected a value for the scale {scale!r}, got one for {listed(value) or 'none'}"
        )
    return value[scale]


def _by_scale(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and value.keys() <= SCALES.keys()


def _settings(where: str, values: Mapping[str, Any], scale: str) -> dict[str, Any]:
    for name, value in values.items():
        if name in _ELSEWHERE:
            raise ConfigError(
                f"{where}: {name}: expected none here, as {_ELSEWHERE[name]} decides it, got {got(value)}"
            )
    found: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in values.items():
        at = f"{where}: {name}"
        if name not in PLUGINS or _by_scale(value):
            value = _at(at, value, scale)
        if name not in PLUGINS or not isinstance(value, dict):
            found[name] = value
            continue
        for key, item in value.items():
            item = _at(f"{at}: {key}", item, scale)
            if key == "name" and name in FIELDS:
                found[name] = item
            else:
                own[f"{name}.{key}"] = item
    if own:
        found["settings"] = own
    # One at a time: what does not go together, another table may still put right.
    return {name: _checked(where, {name: value})[name] for name, value in found.items()}


def _checked(where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All settings as `RunConfig` takes them."""
    try:
        return RunConfig.from_dict(settings).to_dict()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _preset(where: str, name: Any) -> dict[str, Any]:
    if name is None:
        return {}
    if not isinstance(name, str) or name not in PRESETS:
        hint = closest(name, PRESETS) if isinstance(name, str) else ""
        raise ConfigError(f"{where}: preset: expected one of {listed(PRESETS)}, got {got(name)}{hint}")
    return PRESETS[name]


def _workers(where: str, values: Any) -> tuple[int, ...]:
    if not whole_numbers(values, 1):
        raise ConfigError(
            f"{where}: workers: expected a list of different whole numbers of at least 1, such as [4, 8], "
            f"here or at the top of the file, got {'none' if values is None else got(values)}"
        )
    return tuple(sorted(values))


def _seeds(value: Any) -> tuple[int, ...]:
    values = list(range(min(value, _MOST_SEEDS + 1))) if type(value) is int else value
    if not whole_numbers(values, 0) or len(values) > _MOST_SEEDS:
        raise ConfigError(
            f"seeds: expected how many (1 to {_MOST_SEEDS}), or a list of different whole numbers, got {got(value)}"
        )
    return tuple(values)


def _texts(where: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where}: expected a list of texts, got {got(value)}")
    return value


def _claim(text: str, counts: Mapping[str, Iterable[int]]) -> tuple[str, list[tuple[str, int]]]:
    """A claim in its plain spelling, and which arms and worker counts it is about."""
    match = CLAIM.fullmatch(text)
    if match is None:
        raise ConfigError(f"claims: expected such as 'none@64 > gradual@64' (or ~, <), got {got(text)}")
    cells = [(match[1], int(match[2])), (match[4], int(match[5]))]
    for arm, k in cells:
        if arm not in counts:
            raise ConfigError(
                f"claims: {got(text)}: expected one of {listed(counts)}, got {got(arm)}{closest(arm, counts)}"
            )
        if k not in counts[arm]:
            known = listed(map(str, counts[arm]))
            raise ConfigError(
                f"claims: {got(text)}: expected a number of workers that {arm} has ({known}), got {k}"
            )
    (left, k), (right, other) = cells
    return f"{left}@{k} {match[3]} {right}@{other}", cells
