"""What a new user installs and types: the two commands, the MPI that comes along, and what is pinned."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import theanompi
from tests.mpi import run_mpi

ROOT = Path(__file__).resolve().parents[1]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def test_the_installed_metadata() -> None:
    assert metadata.version("theanompi") == theanompi.__version__
    about = metadata.metadata("theanompi")
    assert about["License"] == "MIT"
    assert set(about["Requires-Python"].split(",")) == {">=3.11", "<3.15"}
    (launcher,) = metadata.entry_points(group="console_scripts", name="tmlauncher")
    assert callable(launcher.load())


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    pins = constraints()
    requirements = [Requirement(line) for line in metadata.requires("theanompi") or []]
    assert {r.name for r in requirements} >= {"pytensor", "torch", "mpi4py", "mpich", "openmpi", "impi-rt"}
    for requirement in requirements:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"constraints.txt: no version for {requirement.name}"
        assert requirement.specifier.contains(pin), f"constraints.txt: {requirement} does not allow {pin}"


def test_a_build_holds_the_package_its_data_the_models_and_the_examples(tmp_path: Path) -> None:
    # In a copy: a build writes beside setup.py, and takes along what an earlier one left there.
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("theanompi", "models", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", "built"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    built = {str(file.relative_to(tmp_path / "built")) for file in (tmp_path / "built").rglob("*.*")}
    expected = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "theanompi").rglob("*")
        if file.suffix in (".py", ".h5", ".c", ".typed", ".cfg", ".toml", ".sbatch")
    }
    assert {
        "theanompi/data/digits.h5",
        "theanompi/device/ops/rows.c",
        "theanompi/examples/experiments/slides.toml",
        "theanompi/examples/slurm/train.sbatch",
        "theanompi/models/resnet50.py",
        "theanompi/py.typed",
    } <= expected
    assert built == expected
    # Outside of the repository, as a user has it.
    code = """
        from theanompi.config.modules import find_module
        from theanompi.experiments.file import read_experiment
        model = read_experiment("sync_async").arms["their_way"].settings["modelfile"]
        print(find_module(model).origin)
    """
    python = [sys.executable, "-P", "-c", textwrap.dedent(code)]
    env = {**os.environ, "PYTHONPATH": "built"}
    done = subprocess.run(
        python, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip().endswith("built/theanompi/examples/digits_net.py")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_sets_up_once(tmp_path: Path) -> None:
    inputs = ("setup.py", "pyproject.toml", "constraints.txt")
    for name in ("Makefile", *inputs):
        shutil.copy(ROOT / name, tmp_path)
        os.utime(tmp_path / name, (1, 1))

    def plan(target: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", target]
        env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "ARGS")}
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    assert plan("test").index("pip install -c constraints.txt -e") < plan("test").index("-m pytest")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()
    assert plan("train").split()[1:] == "mpirun -np 2 python examples/train_resnet50.py".split()
    assert plan("test").split()[1:] == "python -m pytest".split()
    for target in ("train", "test", "quick", "lint", "docs"):
        assert all(
            line.startswith(f'PATH="{tmp_path}/.venv/bin:$PATH" ') for line in plan(target).splitlines()
        )
    for name in inputs:
        os.utime(tmp_path / name)
        os.utime(tmp_path / ".venv" / "installed", (2, 2))
        assert "pip install" in plan("train"), f"{name} changed, and nothing was installed anew"
        os.utime(tmp_path / name, (1, 1))


def test_continuous_integration_runs_the_documented_commands() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text("utf-8")
    assert "make lint" in text
    assert "make docs" in text
    assert "make test" in text
    assert "- run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")


def test_what_is_cited_is_this_version() -> None:
    assert f"\nversion: {theanompi.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_eight_ranks_start_whatever_the_cores_and_the_user() -> None:
    code = "from mpi4py import MPI; print(MPI.COMM_WORLD.allreduce(1))"
    result = run_mpi(8, ["-c", code], timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["8"] * 8


def test_both_containers_are_made_by_the_same_commands_of_the_same_files() -> None:
    docker = (ROOT / "containers" / "Dockerfile").read_text("utf-8").replace("\\\n", "")
    apptainer = (ROOT / "containers" / "theanompi.def").read_text("utf-8")
    told: dict[str, list[str]] = {}
    for word, rest in re.findall(r"^([A-Z]+) (.*)$", docker, re.M):
        told.setdefault(word, []).append(rest)
    head, *parts = re.split(r"^%(\w+)\n", apptainer, flags=re.M)
    section = {
        name: [line.strip() for line in lines.splitlines() if line.strip()]
        for name, lines in zip(parts[::2], parts[1::2], strict=True)
    }
    assert told["FROM"] == re.findall(r"^From: (.*)$", head, re.M)
    commands = [command.strip() for rest in told["RUN"] for command in rest.split("&&")]
    assert section["post"] == [*commands[:-1], f"cd {told['WORKDIR'][0]}", commands[-1]]
    copied = [name for rest in told["COPY"] for name in rest.split()[:-1]]
    assert section["files"] == [f"{name} {told['WORKDIR'][0]}/{name}" for name in copied]
    assert "ENV" not in told and "environment" not in section
