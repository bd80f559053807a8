"""The log of a run: its records, written and read."""

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from theanompi.config import ConfigError, got, is_text
from theanompi.config.files import read_bytes, reason
from theanompi.record.metrics import is_fraction, mean_of

# What the wall time consists of, beside what none of it is, and how that is called in the summary.
EXPOSED = {"calc": "compute", "comm": "communication", "sync": "waiting for slower ranks", "wait": "loading"}
# What goes on at the same time, by what it would be if it were waited for.
HIDDEN = {"comm": "comm_hidden", "sync": "sync_hidden", "wait": "load_hidden"}
KINDS = (*EXPOSED, *HIDDEN.values())
# The kinds of lines that tell how the training goes, which loggers and hooks are told too.
LOGGED = ("train", "val", "summary")
# What earlier versions called it, when all items were images.
_RENAMED = {"images": "items", "images_per_s": "items_per_s"}


def read_log(path: str | Path) -> list[dict[str, Any]]:
    r"""Read a log of one JSON object a line.

    Parameters
    ----------
    path : str or Path
        ``log.jsonl`` of a run. A last line that is not whole, as a killed process leaves it, is left out.

    Returns
    -------
    list of dict
        With today's names: what was ``images`` in logs written before is ``items``.

    Raises
    ------
    ValueError
        If there is no such file, or if a line is not one that a run writes, with its number.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "log.jsonl").write_bytes(
    ...         b'{"kind": "diverged", "epoch": 0, "iteration": 3, "reason": "loss nan"}\n{"kind": "tr')
    ...     [record["iteration"] for record in read_log(folder + "/log.jsonl")]
    [3]
    """
    try:
        *lines, last = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        raise ValueError(f"log {path}: expected a file, got none there") from None
    except OSError as error:
        raise ValueError(f"log {path}: expected a file, got: {reason(error)}") from None
    records: list[dict[str, Any]] = []
    reached = 0
    for number, line in enumerate([*lines, last], 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            record = {_RENAMED.get(name, name): value for name, value in record.items()}
        wrong = _wrong(record, reached) if isinstance(record, dict) else f"a JSON object, got {got(line)}"
        if not wrong:
            records.append(record)
            reached = record["iteration"]
        elif number <= len(lines):
            raise ValueError(f"log {path}, line {number}: expected {wrong}")
    return records


def _wrong(record: Mapping[str, Any], reached: int) -> str:
    """What a line is expected to have and has not, after `reached` iterations; nothing when all is right."""
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in _NEEDED:
        return f"a kind of {', '.join(_NEEDED)}, got {got(kind)}"
    for name in _NEEDED[kind]:
        if name not in record:
            return f"{name!r} in a line of kind {kind!r}, got none"
    for name, value in record.items():
        words, holds = _VALUES.get(name) or _of_metric(name)
        if not holds(value):
            return f"{got(name)} to be {words}, got {got(value)}"
    if record["iteration"] < reached:
        return f"an iteration of at least {reached}, as in the lines before, got {record['iteration']}"
    return ""


def _of_metric(name: str) -> tuple[str, Callable[[Any], bool]]:
    return _FRACTION if is_fraction(name.removeprefix(BEST).removeprefix(MEDIAN)) else _NUMBER


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**1023


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


_WHOLE = "a whole number of at least 0", _is_whole
_SECONDS = "a number of at least 0", lambda value: _is_number(value) and value >= 0
_NUMBER = "a number or null", lambda value: value is None or _is_number(value)
_FRACTION = "a number from 0 to 1 or null", lambda value: value is None or _is_fraction(value)
# What the values of a line may be, by their names: they mean the same in every kind of line. All others are metrics.
_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("epoch", "iteration", "items"), _WHOLE),
    **dict.fromkeys(("wall_s", "virtual_s", *(f"{kind}_s" for kind in KINDS)), _SECONDS),
    **dict.fromkeys(("lr", "items_per_s"), _NUMBER),
    **dict.fromkeys(("kind", "reason", "weights", "labels"), ("a text", is_text)),
    "iterations": ("a whole number or null", lambda value: value is None or _is_whole(value)),
    **dict.fromkeys(
        ("ranks", "waited_s", "staleness", "order", "letters", "pace", "done"),
        ("a list", lambda value: isinstance(value, list)),
    ),
}
# What a line of each kind cannot be without; earlier versions wrote less of the rest.
_NEEDED = {
    "train": ("epoch", "iteration", "items", "lr", "items_per_s", "wall_s"),
    "val": ("epoch", "iteration", "items"),
    "summary": ("iteration",),
    "meeting": ("epoch", "iteration", "done", "waited_s"),
    "diverged": ("epoch", "iteration", "reason"),
}
# What the summary makes of the headline metric.
BEST, MEDIAN = "best_", "median_"
# Names that the log, or the report of an experiment, has for something else.
_TAKEN = {*_VALUES, *_RENAMED, "seed", "state", "train", "validation", "versions"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


def check_metrics(metrics: Sequence[str]) -> None:
    """Check the names under which a log is to have a model's losses and metrics.

    Parameters
    ----------
    metrics : sequence of str
        Those of the losses and of the metrics.

    Raises
    ------
    theanompi.config.ConfigError
        If a name is not one of at most 40 letters, digits and underscores, or is there twice, or the log has it for
        something else.

    Examples
    --------
    >>> check_metrics(["loss", "iteration"])
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: metrics: expected names that the log has for nothing else, got 'iteration'
    """
    for name in metrics:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(
                "metrics: expected names of at most 40 letters, digits and '_', which begin with a letter, "
                f"got {got(name)}"
            )
        if name in _TAKEN or name.startswith((BEST, MEDIAN)):
            raise ConfigError(f"metrics: expected names that the log has for nothing else, got {name!r}")
    twice = next((name for i, name in enumerate(metrics) if name in metrics[:i]), None)
    if twice is not None:
        raise ConfigError(f"metrics: expected each name once, got {twice!r} twice")


def records_until(path: Path, iteration: int, *, validated: bool) -> list[dict[str, Any]]:
    """What a log has up to an iteration; how the run ended, now out of date, is left out. No log has nothing.

    It is refused if it has lost lines: those up to the iteration, or the validation after it where there was one.
    """
    if not os.path.lexists(path):
        return []
    records = [r for r in read_log(path) if r["kind"] not in ("summary", "diverged")]
    last = max((r["iteration"] for r in records), default=0)
    kept = [r for r in records if r["iteration"] <= iteration]
    lost = ""
    if last < iteration:
        lost = f"lines up to iteration {iteration}, to which the checkpoint goes, got them up to {last}"
    elif validated and not any(r["kind"] == "val" and r["iteration"] == iteration for r in kept):
        lost = f"the validation after iteration {iteration}, to which the checkpoint goes, got none"
    if lost:
        raise ConfigError(f"log {path}: expected {lost}; remove the log to go on without it")
    return kept


def iteration_record(
    metrics: Sequence[str],
    epoch: int,
    iteration: int,
    items: int,
    sums: Mapping[str, tuple[float, float]],
    lr: float,
) -> dict[str, Any]:
    """Make the record of a single iteration: what a line of kind ``train`` has of its interval, but for the times.

    Parameters
    ----------
    metrics, epoch, iteration, items, sums
        As for `validation_record`.
    lr : float
        η of the update; what is not finite becomes None.

    Examples
    --------
    >>> iteration_record(["loss"], 0, 3, 4, {"loss": (2.0, 4.0)}, 0.1)
    {'kind': 'train', 'epoch': 0, 'iteration': 3, 'loss': 0.5, 'lr': 0.1, 'iterations': 1, 'items': 4}
    """
    about = validation_record(metrics, epoch, iteration, items, sums)
    del about["items"]
    rate = float(lr)
    return {
        **about,
        "kind": "train",
        "lr": rate if math.isfinite(rate) else None,
        "iterations": 1,
        "items": int(items),
    }


def validation_record(
    metrics: Sequence[str],
    epoch: int,
    iteration: int,
    items: int,
    sums: Mapping[str, tuple[float, float]],
    *,
    averaged: bool = False,
) -> dict[str, Any]:
    """Make the record of a validation.

    Parameters
    ----------
    metrics : sequence of str
        Their names, in the order of the log.
    epoch, iteration : int
        After which it was.
    sums : mapping of str to (float, float)
        Of each metric the weighted sum and the sum of the weights.
    averaged : bool
        Whether it was of the weights' exponential moving average.

    Examples
    --------
    >>> validation_record(["mae"], 0, 45, 4, {"mae": (6.0, 4.0)})
    {'kind': 'val', 'epoch': 0, 'iteration': 45, 'mae': 1.5, 'items': 4}
    """
    means = {name: mean_of(name, *sums.get(name, (0.0, 0.0))) for name in metrics}
    record = {"kind": "val", "epoch": epoch, "iteration": iteration, **means, "items": items}
    return record | ({"weights": "ema"} if averaged else {})


def json_line(record: dict[str, Any]) -> str:
    """Write a record as a line of the log."""
    return json.dumps(record, allow_nan=False) + "\n"
