"""Who looks on while a run goes on: hooks of a model's class on every rank, and loggers on rank 0."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.small_models import Plain
from tests.test_training_mpi import orderly, refused, train
from theanompi.config import ConfigError
from theanompi.record.log import read_log
from theanompi.training.own_class import refuse_unheeded


def told(run: Path, rank: int) -> list[tuple[str, dict[str, Any]]]:
    """What the hooks of a rank were told, in its order."""
    return [json.loads(line) for line in Path(f"{run}-{rank}.jsonl").read_text().splitlines()]


def test_hooks_and_loggers_are_told_what_the_log_says_also_when_a_run_is_stopped_and_resumed(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    common = {
        "modelclass": "Watched",
        "batch_size": 100,
        "base_batch": 256,
        "epochs": 2,
        "max_iterations": None,
        "log_interval": 1,
        "logger": ["csv", "small_models.Noted"],
    }
    stopped = orderly(2, run, "term-8", **common)
    assert stopped.returncode == 75, stopped.stderr
    done = orderly(2, run, resume=True, **common)
    assert done.returncode == 0, done.stderr
    log = read_log(run / "log.jsonl")
    # The signal comes in iteration 8, after the validation that follows iteration 7.
    assert (log[9]["kind"], log[9]["iteration"]) == ("train", 9)

    assert told(run, 0) == told(run, 1)
    names = {"train": "on_iteration", "val": "on_validation", "summary": "on_end"}
    expected = [(names[record["kind"]], record) for record in log]
    expected.insert(10, ("on_end", log[9]))
    for (hook, record), (name, line) in zip(told(run, 0), expected, strict=True):
        assert hook == name
        if hook == "on_iteration":
            assert record.items() <= line.items() and {"loss", "error", "lr", "items"} < record.keys()
        else:
            assert record == line

    noted = Path(f"{run}-noted.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in noted] == log
    with open(run / "log.csv", newline="") as file:
        rows = [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]
    tabled = [{k: str(v) for k, v in record.items() if v is not None and k != "ranks"} for record in log]
    assert [row.items() <= line.items() for row, line in zip(rows, tabled, strict=True)] == [True] * len(log)
    assert rows[0] == tabled[0] and {"best_error", "median_error"} < rows[-1].keys()


def test_a_logger_whose_package_is_missing_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (line,) = refused(2, tmp_path / "run", logger=["csv", "small_models.Needy"])
    assert line == (
        "theanompi: logger small_models.Needy: expected the package a_package_that_nobody_has, which it writes with, "
        "got none installed; remedy: pip install a_package_that_nobody_has"
    )
    assert not (tmp_path / "run").exists()


def test_what_a_hook_raises_ends_all_ranks_with_its_traceback_once(tmp_path: Path) -> None:
    done = train(2, tmp_path / "run", modelclass="MistakenHook", max_iterations=50)
    assert done.returncode not in (0, 75)
    assert done.stderr.count("Traceback") == 1 and "rank 1 failed" in done.stderr, done.stderr
    assert "in on_iteration" in done.stderr and "got 'los'; did you mean 'loss'?" in done.stderr


@pytest.mark.parametrize("name", ["on_train_batch_end", "on_validation_end", "on_train_end"])
def test_what_other_trainers_call_a_hook_is_refused_with_its_name_here(name: str) -> None:
    model = object.__new__(type("Theirs", (Plain,), {name: lambda self: None}))
    with pytest.raises(
        ConfigError, match=f"Theirs.{name}: .*; remedy: the method on_(iteration|validation|end)$"
    ):
        refuse_unheeded(model)
