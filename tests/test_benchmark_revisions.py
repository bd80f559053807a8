"""The comparison of two revisions: each runs its own code, the slower one is found, and nothing is left behind."""

import argparse
import doctest
import importlib
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
# Stands in for ours.py: its step takes its time by a clock of its own, and its package must be the one of its own
# checkout.
OURS = """
import sys, time
from theanompi import seconds
sys.path.insert(0, {benchmarks!r})
import common
now = 0.0

def step():
    global now
    now += seconds

time.perf_counter = lambda: now
common.serve(step, lambda: None, lambda: None, lambda: {{"peak_memory_mib": 1.0}})
"""


@pytest.fixture
def revisions(beside_the_benchmarks: None) -> ModuleType:
    return importlib.import_module("revisions")


def checkout(root: Path, seconds: float) -> Path:
    """A version of the package whose step takes so long."""
    for folder in ("benchmarks", "theanompi"):
        (root / folder).mkdir(parents=True)
    (root / "theanompi/__init__.py").write_text(f"seconds = {seconds}\n")
    for script in ("ours", "loader_contender"):
        (root / f"benchmarks/{script}.py").write_text(OURS.format(benchmarks=str(BENCHMARKS)))
    (root / "benchmarks/common.py").write_text("def write_synthetic(path, size, images): path.touch()\n")
    return root


def test_the_examples(revisions: ModuleType) -> None:
    assert doctest.testmod(revisions).failed == 0


def test_each_version_runs_its_own_code_and_the_ratio_is_of_this_one_to_the_other(
    revisions: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("common.ROOT", checkout(tmp_path / "here", 0.01))
    other = checkout(tmp_path / "there", 0.02)
    options = argparse.Namespace(
        batch_size=1, threads=1, exchange="ar", starts=2, rounds=4, burst_seconds=0.06
    )
    found = revisions.cell(options, other, ranks=1, size=8)
    assert [start["steps_per_burst"] for start in found["starts"]] == [3, 3]
    assert found["ratios"] == pytest.approx([2, 2])
    assert found["low"] <= found["ratio"] == sum(found["ratios"]) / 2 <= found["high"]


def test_the_loader_of_each_version_is_compared(
    revisions: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("common.ROOT", checkout(tmp_path / "here", 0.01))
    materials = SimpleNamespace(packed=lambda store, size: tmp_path / f"{store}.h5")
    options = argparse.Namespace(starts=2, rounds=4, burst_seconds=0.06)
    found = revisions.loading(options, checkout(tmp_path / "there", 0.02), materials, "raw")
    assert found["ratios"] == pytest.approx([2, 2])


def test_packing_is_compared(revisions: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    materials = SimpleNamespace(photographs=lambda: (tmp_path, tmp_path), folder=tmp_path)
    turns = []

    def child(*words: str, root: Path) -> dict[str, float]:
        turns.append(root.name)
        return {"seconds": 2.0 if root.name == "there" else 1.0 + 0.001 * len(turns)}

    monkeypatch.setattr(revisions, "child", child)
    found = revisions.packing(tmp_path / "there", materials, "jpeg")
    assert all(1.5 < ratio < 2 for ratio in found["ratios"]) and found["verdict"] == "as fast"
    assert turns[:4:3] == [revisions.common.ROOT.name] * 2 and turns[1:3] == ["there"] * 2


def test_a_revision_is_checked_out_and_taken_away_again(
    revisions: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    for text in ("old", "new"):
        (tmp_path / "file").write_text(text)
        git("add", "file")
        git("commit", "--quiet", "-m", text)
    monkeypatch.setattr("common.ROOT", tmp_path)
    with revisions.checked_out(revisions.git("rev-parse", "HEAD~1")) as root:
        assert (root / "file").read_text() == "old"
    assert not root.exists() and len(git("worktree", "list").splitlines()) == 1
    with pytest.raises(SystemExit, match="^git rev-parse: fatal: "):
        revisions.git("rev-parse", "--verify", "nowhere^{commit}")
