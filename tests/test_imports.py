"""Imports go down only: a module that reaches upwards fails here, by name."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# For each module or sub-package of theanompi, those directly below it; what they rest on is below it too.
BELOW: dict[str, set[str]] = {
    "config": set(),
    "cgroup": set(),
    "output": set(),
    "segments": set(),
    "processes": set(),
    "modelfile": {"config"},
    "files": {"config"},
    "device": {"config"},
    "lasagne": {"device"},
    "recipe": {"lasagne"},
    "feed": {"device"},
    "folder": {"files"},
    "progress": set(),
    "stop": set(),
    "functions": {"recipe", "feed"},
    "timeline": {"config"},
    "library": {"config"},
    "mpirun": {"library"},
    "exchange": {"device", "mpirun", "timeline", "progress"},
    "data": {"timeline", "cgroup", "output", "files"},
    "recorder": {"timeline", "folder", "progress", "processes"},
    "plots": {"recorder", "output"},
    "comparison": {"recorder"},
    "comparison_plots": {"comparison"},
    "report": {"comparison_plots"},
    "checkpoint": {"files"},
    "model": {"functions", "exchange", "data"},
    "training": {"model", "checkpoint", "plots", "stop"},
    "watchdog": {"progress", "ends", "processes"},
    "ends": {"mpirun"},
    "ranks": {"data", "library", "progress", "ends", "stop"},
    "contract": {"model"},
    "saving": {"contract", "checkpoint", "folder"},
    "rank": {"training", "saving", "library", "ranks", "watchdog", "ends", "modelfile"},
    "launch": {"ends", "cgroup", "output", "processes"},
    "worker": {"rank", "launch", "output", "segments"},
    "cfgfile": {"files"},
    "nodes": {"files"},
    "rules": {"launch", "modelfile", "files"},
    "facts": {"model", "output", "segments", "folder"},
    "findings": {"mpirun"},
    "doctor": {"rules", "findings"},
    "experiment": {"comparison"},
    "compare": {"rules", "experiment", "data", "report"},
    "cli": {"doctor", "cfgfile", "nodes", "compare", "output"},
}
# They start the workers, so they must come up in an instant and never initialise MPI themselves.
LIGHT = (
    *(
        "config",
        "cgroup",
        "output",
        "segments",
        "processes",
        "modelfile",
        "files",
        "folder",
        "cfgfile",
        "library",
    ),
    *("mpirun", "launch", "nodes", "rules", "findings", "doctor"),
    *("comparison", "report", "experiment", "compare", "cli"),
)
HEAVY = {"torch", "mpi4py", "pytensor", "numpy", "h5py", "matplotlib"}
# What uses the package is never used by it.
OUTSIDE = {"models", "examples", "benchmarks", "tests"}


def below(room: str) -> set[str]:
    """Everything that a room may import, itself included."""
    return {room}.union(*(below(lower) for lower in BELOW[room]))


def imported(source: str, package: str) -> Iterator[str]:
    """Dotted names of every import in the source, at any depth; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # One dot is the package of the module itself, every further one its parent.
            start = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """What is wrong with one file of the package, a line each.

    Parameters
    ----------
    path : str
        From the repository root, as in "theanompi/data/loader.py".
    """
    parts = Path(path).with_suffix("").parts
    room = parts[1]
    names = list(imported(source, ".".join(parts[:-1])))
    wrong = [f"{path}: imports {name}" for name in names if name.split(".")[0] in OUTSIDE]
    if room == "__init__":
        return wrong
    if room not in BELOW:
        return [*wrong, f"{path}: '{room}' has no place in the order; give it one in BELOW"]
    wrong += [f"{path}: imports {name}" for name in names if room in LIGHT and name.split(".")[0] in HEAVY]
    for name in names:
        first, *rest = name.split(".")
        if first == "theanompi" and rest != ["__version__"] and (not rest or rest[0] not in below(room)):
            wrong.append(f"{path}: '{room}' imports {name}, which is not below it")
    return wrong


def test_imports_go_down_only() -> None:
    files = sorted((ROOT / "theanompi").rglob("*.py"))
    assert files
    found = [
        line for file in files for line in violations(str(file.relative_to(ROOT)), file.read_text("utf-8"))
    ]
    assert not found, "\n".join(found)


def test_every_room_of_the_order_exists() -> None:
    package = ROOT / "theanompi"
    missing = [r for r in BELOW if not (package / f"{r}.py").exists() and not (package / r).is_dir()]
    assert not missing, f"no such module: {missing}"


def test_models_use_only_the_package() -> None:
    for file in sorted((ROOT / "models").glob("*.py")):
        names = imported(file.read_text("utf-8"), "models")
        assert not [name for name in names if name.split(".")[0] in OUTSIDE - {"models"}], file


@pytest.mark.parametrize("room", LIGHT)
def test_the_launching_side_loads_neither_torch_nor_mpi(room: str) -> None:
    code = f"import sys, theanompi.{room}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("theanompi/config.py", "import theanompi.device"),
        ("theanompi/config.py", "from theanompi import device"),
        ("theanompi/config.py", "def f():\n    from theanompi.device.buffers import FlatBuffer"),
        ("theanompi/data/loader.py", "from ..device import shared"),
        ("theanompi/data/loader.py", "from .. import device"),
        ("theanompi/recipe.py", "from .functions import build"),
        ("theanompi/recorder.py", "from theanompi import plots"),
        ("theanompi/model.py", "from theanompi.worker import main"),
        ("theanompi/training.py", "from theanompi import BSP"),
        ("theanompi/training.py", "import theanompi"),
        ("theanompi/worker.py", "import models.resnet50"),
        ("theanompi/__init__.py", "from tests import mpi"),
        ("theanompi/launch.py", "import torch"),
        ("theanompi/launch.py", "from mpi4py import MPI"),
        ("theanompi/launch.py", "from theanompi import worker"),
        ("theanompi/attic.py", "import os"),
    ],
)
def test_an_upward_edge_is_found(path: str, line: str) -> None:
    assert len(violations(path, line)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("theanompi/recipe.py", "from theanompi import config, device"),
        ("theanompi/device/linker.py", "from .ops.base import Context"),
        ("theanompi/data/loader.py", "from . import sampler\nimport os.path"),
        ("theanompi/launch.py", "from theanompi import __version__"),
        ("theanompi/launch.py", "WORKER = 'theanompi.worker'"),
        ("theanompi/worker.py", "import torch\nfrom theanompi import config, plots, training"),
        ("theanompi/__init__.py", "from theanompi.rules import BSP"),
    ],
)
def test_a_downward_edge_is_not(path: str, line: str) -> None:
    assert violations(path, line) == []
