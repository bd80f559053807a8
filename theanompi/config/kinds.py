"""Kinds of values that a setting can have: how one is read from a flag, a cfg file or Python."""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from theanompi.config.devices import DEVICE_NAMES, MOST_RANKS, parse_devices
from theanompi.config.errors import ConfigError, closest, got

_MOST_PATH = 4096
PLUGINS = ("optimizer", "schedule", "rule", "model", "clock")
"""What has settings of its own, named such as ``optimizer.beta2``; the clock is that of simulated workers."""
MOST_SIMULATED = 1024
"""Workers in one process, each a thread."""
AUTO = "auto"
OWN = "a class of your own such as"
"""How the expectation of a `named` field goes on."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")


class Kind(NamedTuple):
    """What a field may hold: `expected` says it to a person, `read` makes it from text or a value."""

    expected: str
    read: Callable[[Any], Any]


class FrozenMapping(Mapping[str, Any]):
    """A mapping that does not change, sorted by its keys.

    >>> FrozenMapping({"b": 1, "a": 2})
    {'a': 2, 'b': 1}
    """

    def __init__(self, values: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        self._values = dict(sorted(dict(values).items()))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


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


def named(names: Sequence[str], example: str) -> Kind:
    """One of some names, or a class of the user's own, whose file may be spelt with a colon.

    >>> named(["BSP"], "mine.Halves").read("rules/mine.py:Halves")
    'rules.mine.Halves'
    """

    def read(value: Any) -> str:
        if value in names:
            return str(value)
        text = _read_text(value)
        module, _, name = text.rpartition(":" if ":" in text else ".")
        if not module or not name.isidentifier():
            raise ValueError(closest(text, names))
        return f"{_read_module(module)}.{name}"

    return Kind(f"one of {', '.join(names)}, or {OWN} {example}", read)


def several(kind: Kind) -> Kind:
    """One or more of a kind, each once: a text with commas between, or a sequence.

    >>> several(choice(["csv", "wandb"])).read("csv, wandb")
    ('csv', 'wandb')
    """

    def read(value: Any) -> tuple[Any, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not items:
            raise ValueError
        found = tuple(kind.read(item.strip() if isinstance(item, str) else item) for item in items)
        twice = next((item for i, item in enumerate(found) if item in found[:i]), None)
        if twice is not None:
            raise ValueError(f"; {twice} is there twice")
        return found

    return Kind(f"{kind.expected}, or several with commas between", read)


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
    path = _read_text(value).removesuffix(".py").removeprefix("./")
    if path.startswith(("/", "../")):
        # Under the current folder it is the same module as without the folder's name.
        path = os.path.abspath(path).removeprefix(os.path.join(os.getcwd(), ""))
    if path.startswith("/"):
        name = path.rpartition("/")[2]
    else:
        path = name = path.replace("/", ".")
    # An import takes names with dashes too.
    if name == "__main__" or not all(part.replace("-", "_").isidentifier() for part in name.split(".")):
        raise ValueError
    return path


def _read_switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]


def _read_resume(value: Any) -> bool | str:
    return AUTO if value == AUTO else _read_switch(value)


def _read_epochs(value: Any) -> tuple[float, ...]:
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    epochs = tuple(number("", lambda x: x > 0).read(item) for item in items)
    if list(epochs) != sorted(set(epochs)):
        raise ValueError
    return epochs


def _read_settings(value: Any) -> FrozenMapping:
    """From a mapping of names to values, or from the texts ``NAME=VALUE`` of several flags."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list | tuple):
        for text in value:
            if not isinstance(text, str) or "=" not in text:
                raise ConfigError(
                    f"settings: expected a name and a value such as optimizer.beta2=0.98, got {got(text)}"
                )
            name, _, word = text.partition("=")
            pairs.append((name, _plain(word)))
    else:
        raise ValueError
    found: dict[str, Any] = {}
    for name, word in pairs:
        if name in found:
            raise ConfigError(f"settings: expected {got(name)} once, got it with {got(word)} too")
        found[check_setting_name(name)] = _read_setting(name, word)
    return FrozenMapping(found)


def check_setting_name(name: Any) -> str:
    """Return the name of a plug-in's setting.

    Raises
    ------
    ConfigError
        When it does not begin with one of `PLUGINS`, naming the closest.
    """
    prefix, _, key = name.partition(".") if isinstance(name, str) else ("", "", "")
    if prefix not in PLUGINS or not key.isidentifier():
        alike = [f"{plugin}.{key}" for plugin in PLUGINS if key.isidentifier() and closest(prefix, [plugin])]
        raise ConfigError(
            f"settings: expected names such as optimizer.beta2, which begin with one of {', '.join(PLUGINS)}, "
            f"got {got(name)}{closest(str(name), alike)}"
        )
    return str(name)


def _plain(text: str) -> str | int | float | bool:
    """What a text stands for, as in TOML: a number or a truth value, or itself; in double quotes always a text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    if not _NUMBER.fullmatch(text):
        return text
    return int(text) if _WHOLE.fullmatch(text) else float(text)


def _read_setting(name: str, value: Any) -> str | int | float | bool:
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    try:
        return _read_text(value)
    except ValueError as error:
        hint = str(error) if str(error).startswith("; ") else ""
        expected = "a text that is not empty, a number, true or false"
        raise ConfigError(f"{name}: expected {expected}, got {got(value)}{hint}") from None


TEXT = Kind("a text that is not empty", _read_text)
MODULE = Kind("a module such as models.resnet50, or its file, such as /home/me/my-model.py", _read_module)
SWITCH = Kind("true or false", _read_switch)
RESUME = Kind("true, false or auto", _read_resume)
RANKS, SIMULATED = whole(1, MOST_RANKS), whole(0, MOST_RANKS)
POSITIVE = number("a number above 0", lambda x: x > 0)
NOT_NEGATIVE = number("a number of at least 0", lambda x: x >= 0)
FRACTION = number("a number from 0 to 1", lambda x: 0 <= x <= 1)
SHARE = number("a number of at least 0 and below 1", lambda x: 0 <= x < 1)
DEVICES = Kind(DEVICE_NAMES, parse_devices)
DATA = Kind(TEXT.expected, lambda value: None if value is None else _read_text(value))
"""A data set; None where a model's class reads data of its own."""
SETTINGS = Kind("settings of plug-ins by name, such as optimizer.beta2=0.98", _read_settings)
EPOCHS = Kind("increasing epochs above 0, such as 30,60,80", _read_epochs)
