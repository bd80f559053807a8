"""Where compiled code is kept when the home cannot be written in, and whether there are kernels for GPUs."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from tests.mpi import ROOT, run_mpi
from theanompi.device import triton

PROGRAM = """
import sys
import pytensor
from theanompi import device
from theanompi.device.ops import rows
folder, note = device.compile_folder()
assert pytensor.config.compiledir == folder
print(folder, note, rows.compiled(), sep="\\n")
"""


@pytest.fixture
def homeless(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose home is no folder; their temporary one is `tmp_path`."""
    (tmp_path / "file").touch()
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(tmp_path), "PYTHONPATH": path}


def run(program: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environ},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_it_goes_to_the_temporary_folder_for_this_user_alone(
    tmp_path: Path, homeless: dict[str, str]
) -> None:
    done = run(PROGRAM, homeless)
    assert (done.returncode, done.stderr) == (0, "")
    own = tmp_path / f"pytensor-{os.geteuid()}"
    folder, note, compiled = done.stdout.splitlines()
    assert Path(folder).parent == own and own.stat().st_mode & 0o777 == 0o700
    assert note == (
        f"nothing can be written in {homeless['HOME']}/.pytensor: compiled code is kept in {own} "
        "(PYTENSOR_FLAGS=base_compiledir=FOLDER names another)"
    )
    # What is found there by the next run is what this one compiled.
    assert compiled == str(bool(list(Path(folder).glob("rows_*.so"))))


def test_a_folder_that_others_may_have_filled_is_not_used(tmp_path: Path, homeless: dict[str, str]) -> None:
    places = [tmp_path / name for name in ("open to all", "a link", "a file")]
    own = [place / f"pytensor-{os.geteuid()}" for place in places]
    for place in places:
        place.mkdir()
    own[0].mkdir()
    own[0].chmod(0o777)
    own[1].symlink_to(tmp_path)
    own[2].touch()
    # In a fork each, as a process asks but once.
    program = (
        "import os, tempfile\n"
        "from theanompi import device\n"
        f"for place in {list(map(str, places))}:\n"
        "    if not os.fork():\n"
        "        tempfile.tempdir = place\n"
        "        print(device.compile_folder()[0], flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()"
    )
    for line, trap in zip(run(program, homeless).stdout.splitlines(), own, strict=True):
        assert line.startswith(f"{trap.parent}/pytensor-") and not line.startswith(f"{trap}/")


def test_without_any_folder_one_line_names_the_setting(homeless: dict[str, str]) -> None:
    program = (
        "import tempfile\n"
        "def nowhere(*_, **__): raise FileNotFoundError('no temporary folder')\n"
        "tempfile.gettempdir = nowhere\n"
        "from theanompi import device\n"
        "try:\n    device.compile_folder()\nexcept ValueError as error:\n    print(error)"
    )
    (line,) = run(program, homeless).stdout.splitlines()
    assert line == (
        "PYTENSOR_FLAGS: expected base_compiledir=FOLDER, for compiled code, as nothing can be written in "
        f"{homeless['HOME']}/.pytensor nor in a temporary folder, got: no temporary folder"
    )


def test_one_rank_of_a_machine_says_it(homeless: dict[str, str]) -> None:
    program = (
        "from mpi4py import MPI\n"
        "from theanompi.config import RunConfig\n"
        "from theanompi.training.rank import choose_device\n"
        "choose_device(MPI.COMM_WORLD, RunConfig(devices='cpu'), ('cpu',))"
    )
    done = run_mpi(2, ["-c", program], env=homeless)
    assert done.returncode == 0 and done.stderr.count("nothing can be written in") == 1


@pytest.mark.parametrize(
    ("version", "driver", "said"),
    [
        (None, None, "not installed"),
        ("3.5.1", None, "version 3.5.1 is older than 3.6"),
        ("3.7.1", RuntimeError("no C compiler"), r"does not start \(RuntimeError\)"),
        ("3.7.1", None, ""),
    ],
)
def test_why_there_are_no_kernels_of_triton(version, driver, said, monkeypatch):
    """Whatever is wrong with Triton, torch's calls do the same and the doctor can say why."""
    active = mock.Mock(get_current_target=mock.Mock(side_effect=driver))
    fake = SimpleNamespace(
        __version__=version, runtime=SimpleNamespace(driver=SimpleNamespace(active=active))
    )
    monkeypatch.setitem(sys.modules, "triton", fake)
    monkeypatch.setattr(triton, "find_spec", lambda name: version)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert re.fullmatch(said, triton.problem.__wrapped__())
