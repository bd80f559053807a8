"""Plug-ins: optimizers, schedules, rules and models, which are found by their names and have settings of their own.

A plug-in says what may be set in a frozen dataclass of its own::

    from dataclasses import dataclass

    from theanompi.config import setting
    from theanompi.config.kinds import POSITIVE

    class Halves(Rule):
        @dataclass(frozen=True)
        class Settings:
            period: float = setting(4.0, POSITIVE, "updates between two exchanges")

``--set rule.period=8``, ``RULE_PERIOD=8`` in a cfg file, ``period = 8`` in a table ``[arms.x.rule]`` of an experiment,
and ``settings={"rule.period": 8}`` in Python all give ``Settings(period=8.0)``.
"""

import importlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from theanompi.config.errors import ConfigError, closest, got, listed
from theanompi.config.kinds import OWN, Kind
from theanompi.config.lineage import ours
from theanompi.config.modules import find_module, located, look_in_current_folder
from theanompi.config.run import FIELDS, read_as

S = TypeVar("S")


@dataclass(frozen=True)
class NoSettings:
    """What a plug-in without settings of its own has for them."""


def setting(default: Any, kind: Kind, help: str) -> Any:
    """Make a field of a plug-in's frozen dataclass ``Settings``.

    Parameters
    ----------
    default
        The value where none is given, of the type that `kind` reads, or None.
    kind
        What it may be: see `theanompi.config.kinds`.
    help
        What it means, in a few words.
    """
    return field(default=default, metadata={"kind": kind, "help": help})


def read_settings(settings_class: type[S], settings: Mapping[str, Any], prefix: str) -> S:
    """Make a plug-in's settings from those of a run.

    Parameters
    ----------
    settings_class
        A frozen dataclass of which each field is made by `setting`.
    settings
        The field `settings` of a `theanompi.config.RunConfig`: texts or plain values by names such as
        ``"optimizer.beta2"``.
    prefix
        Which of them: those that begin with it and a dot.

    Raises
    ------
    ConfigError
        For an unknown setting, naming the closest known one, or a value that it may not have.

    Examples
    --------
    >>> from theanompi.config.kinds import POSITIVE
    >>> @dataclass(frozen=True)
    ... class Settings:
    ...     eps: float = setting(1e-8, POSITIVE, "added to the denominator")
    >>> read_settings(Settings, {"optimizer.eps": "1e-6", "schedule.power": 2}, "optimizer")
    Settings(eps=1e-06)
    >>> read_settings(Settings, {"optimizer.esp": 1e-6}, "optimizer")
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: optimizer: unknown setting 'esp'; did you mean 'eps'?
    """
    if not isinstance(settings_class, type) or not is_dataclass(settings_class):
        what = getattr(settings_class, "__qualname__", None) or got(settings_class)
        raise ConfigError(f"{prefix}: Settings: expected a frozen dataclass, got {what}, which is none")
    known = {item.name: item for item in fields(settings_class)}
    for name, item in known.items():
        if item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(
                f"{prefix}.{name}: expected a field of {settings_class.__qualname__} with a default, got one without"
            )
    given: dict[str, Any] = {}
    for name, value in settings.items():
        plugin, _, key = name.partition(".")
        if plugin != prefix:
            continue
        if key not in known:
            field_ = key if key in FIELDS else ours(key)
            hint = (
                closest(key, known)
                or (f"; did you mean the run's own {field_!r}?" if field_ in FIELDS else "")
                or (f"; known are {listed(known)}" if known else "; it has none")
            )
            raise ConfigError(f"{prefix}: unknown setting {got(key)}{hint}")
        kind = known[key].metadata.get("kind")
        if kind is None:
            raise ConfigError(
                f"{name}: expected a field of {settings_class.__qualname__} that theanompi.config.setting has made, "
                f"got another one"
            )
        given[key] = read_as(kind, name, value)
    return settings_class(**given)


def own_class(name: str) -> tuple[str, str] | None:
    """The module and the class that a user's own name stands for; None for a known name.

    >>> own_class("rules.mine.Halves"), own_class("adam"), own_class("lasagne.adam")
    (('rules.mine', 'Halves'), None, None)
    """
    module, _, cls = name.rpartition(".")
    return (module, cls) if module and module != "lasagne" else None


def find_class(kind: str, name: str, known: Mapping[str, str], *, base: type = object) -> type:
    """Find the class of a plug-in, and import its module.

    An error within the module is raised as it is.

    Parameters
    ----------
    kind
        The setting that names it, such as ``"optimizer"``: the message begins with it.
    name
        A known name, or ``"module.Class"`` of the user's, whose module is looked for in the current folder too.
    known
        ``"module:Class"`` by name.
    base
        What the class has to be a subclass of.

    Raises
    ------
    ConfigError
        For an unknown name, a module that is not there, or without such a class in it.

    Examples
    --------
    >>> find_class("rule", "BSP", {"BSP": "theanompi.rules.bsp:BSP"}).__name__
    'BSP'
    >>> find_class("rule", "BPS", {"BSP": "theanompi.rules.bsp:BSP"})
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: rule: expected BSP, or a class of your own such as module.Class, got 'BPS'; \
did you mean 'BSP'?
    """
    if name in known:
        module, _, cls = known[name].partition(":")
        found: type = getattr(importlib.import_module(module), cls)
        return found
    where = own_class(name)
    if where is None:
        raise ConfigError(
            f"{kind}: expected {listed(known)}, or {OWN} module.Class, got {got(name)}{closest(name, known)}"
        )
    look_in_current_folder()
    made = vars(import_module(kind, where[0]))
    value = made.get(where[1])
    if value is None:
        hint = closest(where[1], [key for key, value in made.items() if isinstance(value, type)])
        place = made.get("__file__") or where[0]
        raise ConfigError(f"{kind}: expected a class of {place}, got {got(where[1])}{hint}")
    if not isinstance(value, type) or not issubclass(value, base):
        wanted = "a class" if base is object else f"a subclass of {base.__module__}.{base.__qualname__}"
        what = "another class" if isinstance(value, type) else f"of type {type(value).__name__}"
        raise ConfigError(f"{kind}: expected {wanted}, got {got(name)}, {what}")
    return value


def import_module(kind: str, name: str) -> Any:
    """Import a module of the user's, or of the zoo.

    Parameters
    ----------
    kind
        The setting that names it.
    name
        With dots, or the path of its file without its ending.

    Raises
    ------
    ConfigError
        As `theanompi.config.modules.find_module`, when it is not there; what it raises itself goes through.
    """
    given, name = name, located(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        found = find_module(given, kind).name  # which says what hides it
        if found == name:
            raise
        return importlib.import_module(found)
