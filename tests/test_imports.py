"""Imports go down only: a room that reaches upwards fails here, by name."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import theanompi

ROOT = Path(__file__).resolve().parents[1]

# For each room of theanompi, those directly below it; what they rest on is below it too.
BELOW: dict[str, set[str]] = {
    "system": set(),
    "config": set(),
    "record": {"config", "system"},
    "launch": {"config", "system"},
    "device": {"config"},
    "lasagne": {"device"},
    "theano": {"lasagne"},
    "data": {"device", "record"},
    "exchange": {"device", "launch", "record"},
    "lib": {"device"},
    "training": {"lasagne", "data", "exchange", "rules", "lib"},
    "rules": {"launch", "record"},
    "experiments": {"rules", "record", "data"},
    "doctor": {"rules", "training"},
    "models": {"training"},
    "worker": {"training"},
    "evaluator": {"worker"},
    "cli": {"doctor", "experiments", "models"},
    "examples": {"cli"},
    "__main__": {"cli"},
}
# They start the workers, so they must come up in an instant and never initialise MPI themselves.
LIGHT = (
    *("system", "config", "launch", "rules", "cli", "record.folder", "doctor.examination", "doctor.findings"),
    *(f"experiments.{module}" for module in ("file", "presets", "report", "results", "runner", "statistics")),
    *("experiments.storage", "experiments.words"),
)
HEAVY = {"torch", "mpi4py", "pytensor", "numpy", "h5py", "matplotlib"}
# What uses the package is never used by it.
OUTSIDE = {"models", "examples", "benchmarks", "tests"}
# The zoo and the examples are written as users write theirs.
FOR_USERS = set(theanompi.__all__)


def below(room: str) -> set[str]:
    """Everything that a room may import, itself included."""
    return {room}.union(*(below(lower) for lower in BELOW[room]))


def imported(source: str, package: str) -> Iterator[str]:
    """Dotted names of every import in the source, at any depth; ``from a import b`` gives ``a.b``."""
    tree = ast.parse(source)
    # What is only named in annotations is handed down, not imported.
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
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
        From the repository root, as in "theanompi/data/reading/loader.py".
    """
    parts = Path(path).with_suffix("").parts
    room = parts[1]
    names = list(imported(source, ".".join(parts[:-1])))
    wrong = [f"{path}: imports {name}" for name in names if name.split(".")[0] in OUTSIDE]
    if room == "__init__":
        return wrong
    if room not in BELOW:
        return [*wrong, f"{path}: '{room}' has no place in the order; give it one in BELOW"]
    light = room in LIGHT or ".".join(parts[1:]) in LIGHT
    wrong += [f"{path}: imports {name}" for name in names if light and name.split(".")[0] in HEAVY]
    for name in names:
        first, *rest = name.split(".")
        if room in ("models", "examples") and first == "theanompi" and rest and rest[0] in FOR_USERS:
            continue
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
        ("theanompi/config/run.py", "import theanompi.device"),
        ("theanompi/config/run.py", "from theanompi import device"),
        ("theanompi/config/run.py", "def f():\n    from theanompi.device.buffers import FlatBuffer"),
        ("theanompi/data/reading/loader.py", "from ...lasagne import layers"),
        ("theanompi/data/reading/loader.py", "from ... import lasagne"),
        ("theanompi/record/recorder.py", "from ..training.functions import build"),
        ("theanompi/record/recorder.py", "from theanompi import training"),
        ("theanompi/training/model.py", "from theanompi.worker import main"),
        ("theanompi/training/loop.py", "from theanompi import BSP"),
        ("theanompi/training/loop.py", "import theanompi"),
        ("theanompi/worker.py", "import models.resnet50"),
        ("theanompi/__init__.py", "from tests import mpi"),
        ("theanompi/launch/job.py", "import torch"),
        ("theanompi/launch/job.py", "from mpi4py import MPI"),
        ("theanompi/launch/job.py", "from theanompi import worker"),
        ("theanompi/attic.py", "import os"),
    ],
)
def test_an_upward_edge_is_found(path: str, line: str) -> None:
    assert len(violations(path, line)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("theanompi/training/update.py", "from theanompi import config, device"),
        ("theanompi/device/linker.py", "from .ops.base import Context"),
        ("theanompi/data/reading/loader.py", "from . import sampler\nimport os.path"),
        ("theanompi/launch/job.py", "from theanompi import __version__"),
        ("theanompi/launch/job.py", "WORKER = 'theanompi.worker'"),
        ("theanompi/worker.py", "import torch\nfrom theanompi import config, record, training"),
        ("theanompi/__init__.py", "from theanompi.rules import BSP"),
    ],
)
def test_a_downward_edge_is_not(path: str, line: str) -> None:
    assert violations(path, line) == []
