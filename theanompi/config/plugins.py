"""Plug-ins: optimizers and schedules that are found by their names and have settings of their own."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from theanompi.config.errors import ConfigError, closest, got, listed
from theanompi.config.kinds import Kind
from theanompi.config.run import read_as

S = TypeVar("S")


@dataclass(frozen=True)
class NoSettings:
    """What a plug-in without settings of its own has for them."""


def setting(default: Any, kind: Kind, help: str) -> Any:
    """Make a field of a plug-in's frozen dataclass ``Settings``."""
    return field(default=default, metadata={"kind": kind, "help": help})


def read_settings(settings_class: type[S], settings: Mapping[str, Any], prefix: str) -> S:
    """Make a plug-in's settings from those of a run, whose names begin with `prefix` and a dot.

    Raises
    ------
    ConfigError
        For an unknown setting, naming the closest known one, or a value that it may not have.
    """
    known = {item.name: item for item in fields(settings_class)}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for name, value in settings.items():
        plugin, _, key = name.partition(".")
        if plugin != prefix:
            continue
        if key not in known:
            raise ConfigError(f"{prefix}: unknown setting {got(key)}{closest(key, known)}")
        given[key] = read_as(known[key].metadata["kind"], name, value)
    return settings_class(**given)


def find_class(kind: str, name: str, known: Mapping[str, str], *, base: type = object) -> type:
    """Find the class of a plug-in by a known name, or as ``"module.Class"`` of the user's.

    Raises
    ------
    ConfigError
        For an unknown name, or what is no subclass of `base`.
    """
    if name not in known and "." not in name:
        raise ConfigError(f"{kind}: expected {listed(known)}, got {got(name)}{closest(name, known)}")
    module, _, cls = known.get(name, ":".join(name.rsplit(".", 1))).partition(":")
    found = getattr(importlib.import_module(module), cls)
    if not isinstance(found, type) or not issubclass(found, base):
        raise ConfigError(f"{kind}: expected a subclass of {base.__qualname__}, got {got(name)}")
    return found
