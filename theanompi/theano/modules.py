"""Import lines that name one of Theano's modules find the one that PyTensor has in its place."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["Finder"]

# Where PyTensor has what it does not have under Theano's name.
RENAMED = {
    "compile.debugmode": "pytensor.compile.debug.debugmode",
    "compile.monitormode": "pytensor.compile.debug.monitormode",
    "compile.nanguardmode": "pytensor.compile.debug.nanguardmode",
    "compile.profiling": "pytensor.compile.debug.profiling",
    "scan_module.scan_utils": "pytensor.scan.utils",
    "scan_module.scan_views": "pytensor.scan.views",
    "tensor.nnet.nnet": "theanompi.theano.tensor.nnet",
    "tensor.nnet.sigm": "theanompi.theano.tensor.nnet",
}


PACKAGE = __name__.rpartition(".")[0]
FOLDER = Path(__file__).parent


class Finder(MetaPathFinder, Loader):
    """Give PyTensor's own module for a name below ``theanompi.theano`` that has no file there.

    It is asked before Python's own finders: those would load a file of PyTensor's a second time, under another name.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find what is below the package, and leave everything else to others."""
        if not fullname.startswith(f"{PACKAGE}."):
            return None
        ours = FOLDER.joinpath(*fullname.removeprefix(f"{PACKAGE}.").split("."))
        if ours.is_dir() or ours.with_suffix(".py").exists():
            return None
        return ModuleSpec(fullname, self) if self._module(fullname) else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python, whose module of that name is then replaced."""

    def exec_module(self, module: ModuleType) -> None:
        """Put PyTensor's module in the place of the one that was made."""
        name = module.__name__
        sys.modules[name] = self._module(name)

    def _module(self, fullname: str) -> Any:
        name = fullname.removeprefix(f"{PACKAGE}.")
        try:
            return import_module(RENAMED.get(name, f"pytensor.{name}"))
        except ModuleNotFoundError:
            return None
