"""Kinds of values that a setting can have: how one is read from a flag, a cfg file or Python."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from theanompi.config.devices import DEVICE_NAMES, MOST_RANKS, parse_devices
from theanompi.config.errors import closest

_MOST_PATH = 4096


class Kind(NamedTuple):
    """What a field may hold: `expected` says it to a person, `read` makes it from text or a value."""

    expected: str
    read: Callable[[Any], Any]


def whole(minimum: int, maximum: int = 2**63 - 1) -> Kind:
    """Whole numbers within limits."""

    def read(value: Any) -> int:
        if isinstance(value, bool | float) or int(value) < minimum:
            raise ValueError
        if int(value) > maximum:
            raise ValueError(f"; the largest is {maximum}")
        return int(value)

    return Kind(f"a whole number of at least {minimum}", read)


def number(expected: str, allowed: Callable[[float], bool]) -> Kind:
    """Finite numbers that `allowed` takes."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not math.isfinite(float(value)) or not allowed(float(value)):
            raise ValueError
        return float(value)

    return Kind(expected, read)


def choice(names: Sequence[str]) -> Kind:
    """One of some names."""

    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(closest(value, names) if isinstance(value, str) else "")
        return str(value)

    return Kind("one of " + ", ".join(names), read)


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    if len(value) > _MOST_PATH:
        raise ValueError(f"; it has {len(value)} characters, {_MOST_PATH} are the most")
    wrong = re.search("[\0\ud800-\udfff]", value)
    if wrong:
        raise ValueError(f"; {wrong[0]!r} in it is no character")
    return value


def _read_module(value: Any) -> str:
    name = _read_text(value).removesuffix(".py").removeprefix("./").replace("/", ".")
    if name == "__main__" or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError
    return name


def _read_switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]


def _read_epochs(value: Any) -> tuple[float, ...]:
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    epochs = tuple(number("", lambda x: x > 0).read(item) for item in items)
    if list(epochs) != sorted(set(epochs)):
        raise ValueError
    return epochs


TEXT = Kind("a text that is not empty", _read_text)
MODULE = Kind("a module such as models.resnet50, or its file under the current folder", _read_module)
SWITCH = Kind("true or false", _read_switch)
COUNT, RANKS, SIMULATED = whole(0), whole(1, MOST_RANKS), whole(0, MOST_RANKS)
POSITIVE = number("a number above 0", lambda x: x > 0)
NOT_NEGATIVE = number("a number of at least 0", lambda x: x >= 0)
DEVICES = Kind(DEVICE_NAMES, parse_devices)
EPOCHS = Kind("increasing epochs above 0, such as 30,60,80", _read_epochs)
