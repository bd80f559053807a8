"""Where a module of the user's is, found without running it or the packages above it."""

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from itertools import takewhile

from theanompi.config.errors import ConfigError, closest

OF_THEANO_MPI = {
    "theanompi.models.lstm_theanompi": "theanompi.models.lstm",
    "theanompi.models.keras_model_zoo.wresnet": "theanompi.models.wide_resnet",
    "theanompi.models.lasagne_model_zoo.lsgan": "theanompi.models.lsgan",
    "theanompi.models.lasagne_model_zoo.lsgan_cifar10": "theanompi.models.lsgan",
    "theanompi.models.lasagne_model_zoo.wgan": "theanompi.models.wgan",
    "theanompi.models.lasagne_model_zoo.resnet50": "theanompi.models.resnet50",
    "theanompi.models.lasagne_model_zoo.resnet152": "theanompi.models.resnet",
    "theanompi.models.lasagne_model_zoo.vgg16": "theanompi.models.vgg",
}
"""Modules of Theano-MPI's zoo that have another name here; the classes in them have the same."""
SHIPPED = {"models": "theanompi.models", "examples": "theanompi.examples"}
"""Where ``models.…`` and ``examples.…`` are looked for too: a package of that name of the user's own hides nothing."""


def look_in_current_folder() -> None:
    """Put the current folder on ``sys.path``, where Theano-MPI looked for models too.

    Raises
    ------
    ConfigError
        When it has been removed.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise ConfigError("current folder: expected one, got none: it has been removed") from None
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)


def located(name: str) -> str:
    """Return the name by which a module is imported; a path puts its folder on ``sys.path``."""
    folder, slash, own = name.rpartition("/")
    if slash and folder not in sys.path:
        sys.path.insert(0, folder)
    return OF_THEANO_MPI.get(own, own)


def find_module(name: str, setting: str = "modelfile") -> ModuleSpec:
    """Find a module as an import would; ``models.…`` and ``examples.…``, if not there, in this package.

    Parameters
    ----------
    name
        With dots, or the path of its file without its ending.
    setting
        What the message begins with: the setting that names the module.

    Raises
    ------
    ConfigError
        When it is not on ``sys.path``; the message names what is like it, or what hides it: a package of the same
        name as its own in another folder.

    Examples
    --------
    >>> find_module("theanompi.models.lasagne_model_zoo.resnet50").name
    'theanompi.models.resnet50'
    >>> find_module("mymodels.resnet50")
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: modelfile: expected a module on sys.path, got 'mymodels.resnet50'
    """
    importlib.invalidate_caches()
    if "/" in name:
        spec = PathFinder.find_spec(os.path.basename(name), [os.path.dirname(name)])
        if spec is None:
            raise ConfigError(f"{setting}: expected a Python file, got {name + '.py'!r}, which is none")
        return spec
    name = located(name)
    top, *parts = name.split(".")
    package = importlib.util.find_spec(top)
    spec, folder = _descend(package, parts)
    if spec is None and top in SHIPPED:
        above, *rest = f"{SHIPPED[top]}.{'.'.join(parts)}".split(".")
        spec, ours = _descend(importlib.util.find_spec(above), rest)
        folder = [*(folder or ()), *(ours or ())]
    if spec is not None:
        return spec
    if package is not None:
        for other in _everywhere(top):
            if _descend(other, parts)[0] is not None:
                raise ConfigError(
                    f"{setting}: expected a module on sys.path, got {name!r}; {top} is {_place(package)} here, which "
                    f"hides {_place(other)}: rename it, or start elsewhere"
                )
    above = name.rpartition(".")[0]
    there = [f"{above}.{module.name}".removeprefix(".") for module in pkgutil.iter_modules(folder)]
    hint = closest(name, there)
    raise ConfigError(f"{setting}: expected a module on sys.path, got {name!r}{hint}")


def _descend(package: ModuleSpec | None, parts: list[str]) -> tuple[ModuleSpec | None, list[str] | None]:
    """The module within a package, and the folders where the last step looked for it."""
    spec, folder = package, None
    folders = list(package.submodule_search_locations or ()) if package else []
    for part in parts:
        # importlib.util.find_spec would run the packages above the module.
        folder, name = folders, f"{spec.name}.{part}" if spec else part
        found = PathFinder.find_spec(part, folder)
        if found is not None and found.origin is None:
            # A folder without an __init__.py, whose full name Python finds once the packages above it are imported.
            spec = ModuleSpec(name, None, is_package=True)
            folders = [place for each in folder if os.path.isdir(place := os.path.join(each, part))]
        else:
            spec = PathFinder.find_spec(name, folder)
            folders = list(spec.submodule_search_locations or ()) if spec else []
    return spec, folder


def _everywhere(top: str) -> Iterator[ModuleSpec]:
    """All modules of that name: an import takes the first."""
    for place in sys.path:
        if spec := PathFinder.find_spec(top, [place]):
            yield spec
    # An editable installation may have a finder of its own.
    for finder in sys.meta_path:
        if finder is not PathFinder and (spec := finder.find_spec(top, None)):
            yield spec


def hides_pythons_own() -> str:
    """Return the file that an import takes for a module of Python's own which every start needs, or nothing."""
    before = list(takewhile(lambda folder: folder != os.path.dirname(os.__file__), sys.path))
    for name in sorted(sys.stdlib_module_names & sys.modules.keys()):
        spec = PathFinder.find_spec(name, before)
        if spec is not None and spec.origin is not None:
            return spec.origin
    return ""


def _place(spec: ModuleSpec) -> str:
    return next(iter(spec.submodule_search_locations or ()), spec.origin or spec.name)
