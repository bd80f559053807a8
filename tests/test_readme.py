"""What the README and the pages of docs/ show is run as it stands there."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mpi import ROOT, run_mpi
from theanompi.experiments.file import read_experiment


def block(page: str, part: str) -> str:
    """The fenced block of a page that contains `part`."""
    text = (ROOT / page).read_text("utf-8")
    (found,) = [each for each in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) if part in each]
    return str(found)


def test_the_files_that_contributing_names_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = set(re.findall(r"`([\w./]+(?:/|\.py))`", text))
    assert {"training/loop.py", "docs/", "tests/warm.py"} <= named
    # Each stands in one of these, by the end of its path.
    rooms = [ROOT / room for room in ("theanompi", "docs", "tests")]
    paths = [f"/{path.relative_to(ROOT)}" for room in rooms for path in room.rglob("*")]
    found = {n for n in named if (ROOT / n).exists() or any(p.endswith(f"/{n.rstrip('/')}") for p in paths)}
    assert named == found


def test_quick_collects_modules_that_ask_an_mpirun_for_its_version() -> None:
    words = ["-q", "-n0", "-m", "not mpirun and not slow", "--collect-only", "tests/test_library.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stdout[-300:]


def test_the_plan_is_what_is_printed() -> None:
    _, *expected = block("docs/index.md", "--plan").splitlines()
    done = run_mpi(2, ["examples/train_resnet50.py", "--plan"])
    assert done.stdout.splitlines() == expected
    assert max(map(len, expected)) <= 80


def test_a_model_of_ones_own_trains(tmp_path: Path) -> None:
    (tmp_path / "mymodel.py").write_text(block("README.md", "class SmallNet(Model)"))
    assert block("docs/own.md", "class SmallNet(Model)") == block("README.md", "class SmallNet(Model)")
    flags = block("README.md", "-file mymodel").split()[1:]
    command = [sys.executable, "-c", "import sys; from theanompi.cli import main; sys.exit(main())", *flags]
    done = subprocess.run(
        [*command, "--max-iterations", "3", "--no-curves"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "mymodel-digits" / "checkpoint.h5").is_file()


@pytest.mark.mpirun  # in the process of the script, where nobody sees it
def test_the_three_lines_of_python_train(tmp_path: Path) -> None:
    lines = block("docs/index.md", "rule.wait()")
    # Theirs is compiled by `make train`; that it is there says the test of the plan.
    theirs = 'modelfile="models.resnet50", modelclass="ResNet50"'
    quick = 'modelfile="examples.digits_net", modelclass="DigitsNet", max_iterations=1, curves=False'
    assert theirs in lines
    script = lines.replace(theirs, quick)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "BSP: 2 ranks ended well" in done.stdout


def test_the_experiment_is_one(tmp_path: Path) -> None:
    path = tmp_path / "warmup.toml"
    path.write_text(block("docs/experiments.md", "question ="))
    experiment = read_experiment(path)
    assert {name: arm.workers for name, arm in experiment.arms.items()} == {"gradual": (32,), "none": (32,)}
    assert experiment.claims == ("none@32 > gradual@32",)


def test_the_rates_of_the_recipe_are_these() -> None:
    assert doctest.testfile(str(ROOT / "docs" / "recipe.md"), module_relative=False, encoding="utf-8") == (
        0,
        3,
    )
