"""What a run has saved is validated again: by any number of ranks, with the figures of its log."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from mpi4py import MPI

from tests.mpi import ROOT, run_warm
from theanompi.cli import main
from theanompi.data import write_dataset
from theanompi.record.log import read_log
from theanompi.record.metrics import Reported
from theanompi.record.progress import Progress
from theanompi.training.loop import validation_of
from theanompi.training.stop import StopSignals

SETTINGS: dict[str, Any] = {
    "modelfile": "small_models",
    "modelclass": "Normalised",
    "batch_size": 4,
    "image_size": 24,
    "epochs": 2,
    "base_batch": 8,
    "verbose": False,
    "devices": ["cpu"],
}
# What `tmlauncher evaluate` lets each rank do.
EVALUATE = """
import sys
from dataclasses import replace
from theanompi.evaluator import run
from theanompi.record.folder import find_checkpoint, to_use

checkpoint = find_checkpoint(sys.argv[1])
config = to_use(checkpoint, ("cpu",))
changes = {"init": str(checkpoint), "data": config.data, **dict(word.split("=") for word in sys.argv[2:])}
run(replace(config, **changes), ("cpu",), comm=comm)
"""


def pictures(
    path: Path, *, classes: int = 10, channels: int = 1, train: int = 16, val: int = 30, bright: bool = False
) -> str:
    """A small data set of noise."""
    random = np.random.default_rng(0)

    def split(n: int) -> tuple[Any, Any]:
        images = random.integers(0, 100, (n, 24, 24, channels), np.uint8) + np.uint8(150 * bright)
        return images, np.arange(n) % classes

    write_dataset(
        path,
        split(train),
        split(val),
        name="noise",
        class_names=[str(i) for i in range(classes)],
        augmentation="none",
        **dict.fromkeys(("description", "source", "licence"), "drawn at random"),
    )
    return str(path)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> str:
    return pictures(tmp_path_factory.mktemp("evaluation") / "noise.h5")


def trained(n: int, out: Path, data: str, **settings: Any) -> dict[str, Any]:
    """Train, and give the last validation of the log."""
    done = run_warm(n, {**SETTINGS, "data": data, **settings, "out": str(out)})
    assert done.returncode == 0, done.stdout + done.stderr
    return [record for record in read_log(out / "log.jsonl") if record["kind"] == "val"][-1]


def evaluated(n: int, run: Path, *changes: str) -> tuple[str, dict[str, Any]]:
    """What an evaluation prints in words, and as a line of a log."""
    done = run_warm(n, EVALUATE, str(run), *changes)
    assert done.returncode == 0, done.stdout + done.stderr
    words, line = done.stdout.splitlines()
    return words, json.loads(line)


def refused(n: int, run: Path, *changes: str) -> str:
    done = run_warm(n, EVALUATE, str(run), *changes)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("theanompi: ")]
    assert len(line) <= 300
    return line


@pytest.fixture(scope="module")
def run(noise: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "run"
    trained(1, folder, noise)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(
    ("n", "settings"),
    [(1, {}), (2, {"ema": 0.5}), (2, {"rule": "EASGD"}), (1, {"workers_simulated": 2})],
    ids=str,
)
def test_figures_are_those_of_the_log_to_the_last_digit(
    n: int, settings: dict[str, Any], noise: str, tmp_path: Path
) -> None:
    logged = trained(n, tmp_path / "run", noise, **settings)
    before = contents(tmp_path / "run")
    for ranks in (1, 2):
        words, record = evaluated(ranks, tmp_path / "run")
        assert record == {name: logged[name] for name in record}
        assert record.get("weights") == ("ema" if "ema" in settings else None)
        assert words.endswith(", as log.jsonl has them")
    assert contents(tmp_path / "run") == before


def test_the_sums_of_a_validation_are_rounded_once() -> None:
    # Of which every partial sum in double precision loses the ones.
    losses = [1.0, 1e16, 1.0, -1e16]
    rows = np.array([[1.0, loss, 1.0] for loss in losses])
    replica = mock.Mock(data=mock.Mock(n_batch_val=0), reported=Reported(("loss",), "loss", "items"))
    replica.validation_sums.return_value, replica.n_validated.return_value = rows, len(rows)
    found = validation_of(replica, MPI.COMM_SELF, None, StopSignals(heed=False), Progress())
    assert found == (4, {"loss": (2.0, 4.0)})


def test_a_validation_that_has_lost_an_item_is_not_taken_for_one() -> None:
    replica = mock.Mock(data=mock.Mock(n_batch_val=0), reported=Reported(("loss",), "loss", "items"))
    replica.validation_sums.return_value, replica.n_validated.return_value = np.array([[7.0, 1.0, 7.0]]), 8
    with pytest.raises(RuntimeError, match="^validation: expected each of the 8 items once, counted 7$"):
        validation_of(replica, MPI.COMM_SELF, None, StopSignals(heed=False), Progress())


def test_a_checkpoint_from_within_an_epoch_is_evaluated_too(noise: str, tmp_path: Path) -> None:
    done = run_warm(1, {**SETTINGS, "data": noise, "max_iterations": 3, "out": str(tmp_path / "run")})
    assert done.returncode == 0, done.stderr
    words, record = evaluated(1, tmp_path / "run" / "checkpoint.h5")
    assert (record["epoch"], record["iteration"], record["items"]) == (0, 3, 30)
    assert words.endswith("; no validation of this iteration is in log.jsonl")


def test_the_best_checkpoint_is_kept_and_has_the_best_figures_of_the_log(noise: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained(1, run, noise, max_iterations=4)
    # A kill between the checkpoint and its second name.
    (run / "best.h5").unlink()
    trained(1, run, noise, max_iterations=4, resume=True)
    assert (run / "best.h5").read_bytes() == (run / "checkpoint.h5").read_bytes()
    trained(1, run, noise, epochs=5, keep=2, resume=True)
    validations = [record for record in read_log(run / "log.jsonl") if record["kind"] == "val"]
    best = min(validations, key=lambda record: record["error"])
    assert best != validations[-1]
    words, record = evaluated(1, run / "best.h5")
    assert record == best and words.endswith(", as log.jsonl has them")
    assert sorted(file.name for file in run.glob("checkpoint*")) == [
        "checkpoint-16.h5", "checkpoint-20.h5", "checkpoint.h5",
    ]  # fmt: skip


def test_other_data_are_normalised_as_those_of_the_training(run: Path, tmp_path: Path) -> None:
    program = """
import sys
import numpy as np
from mpi4py import MPI
from theanompi.record.folder import find_checkpoint, to_use
from theanompi.training.evaluation import trained

checkpoint = find_checkpoint(sys.argv[1])
model, _ = trained(checkpoint, to_use(checkpoint, ("cpu",)), MPI.COMM_SELF)
mean = model.dataset.mean.copy()
model.validate_on(sys.argv[2])
assert np.array_equal(model.dataset.mean, mean) and model.n_validated() == 7
model.cleanup()
"""
    other = pictures(tmp_path / "other.h5", val=7, bright=True)
    done = run_warm(1, program, str(run), other)
    assert done.returncode == 0, done.stdout + done.stderr
    words, record = evaluated(2, run, f"data={other}")
    assert record["items"] == 7 and "7 images of other: " in words and "log.jsonl" not in words


def test_data_that_the_network_cannot_take_are_refused(run: Path, tmp_path: Path) -> None:
    assert "expected class names as in" in refused(2, run, f"data={pictures(tmp_path / 'a.h5', classes=7)}")
    line = refused(1, run, f"data={pictures(tmp_path / 'b.h5', channels=3)}")
    assert "expected channels as in" in line and line.endswith(", 1, got 3")
    assert "expected pictures, which the model is made for, got tokens" in refused(1, run, "data=reviews")


def test_another_network_than_that_of_the_run_is_refused(run: Path) -> None:
    line = refused(2, run, "modelclass=Plain")
    assert "checkpoint.h5: array 'weights/dense.W': expected shape (" in line


def test_other_images_under_the_name_of_the_runs_are_refused(tmp_path: Path) -> None:
    data = pictures(tmp_path / "data.h5")
    trained(1, tmp_path / "run", data)
    pictures(tmp_path / "new.h5", val=8)
    (tmp_path / "new.h5").replace(data)
    assert "data: expected the images of the run (SHA-256 " in refused(1, tmp_path / "run")


def test_what_is_no_run_or_has_no_checkpoint_is_one_line_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*argv: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", *argv])
        (line,) = capsys.readouterr().err.splitlines()
        assert len(line) <= 300
        return line

    assert "got 'nowhere' (No such file or directory)" in line("nowhere")
    assert "expected config.json, with its settings, got none there" in line(str(tmp_path))
    (tmp_path / "config.json").write_text('{"epochs": 2}')
    assert "expected checkpoint.h5, which the run has saved, got none there" in line(str(tmp_path))
    (tmp_path / "checkpoint.h5").touch()
    assert "data: expected digits, " in line(str(tmp_path), "--data", "nothing.h5")
    assert "devices: expected" in line(str(tmp_path), "--device", "tpu")
    (tmp_path / "config.json").write_text('{"epoch": 2}')
    assert "config.json: unknown setting 'epoch'" in line(str(tmp_path))


def test_the_command_starts_ranks_and_prints_what_they_find(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    assert main(["evaluate", str(run), "--device", "cpu,cpu"]) == 0
    words, line = capfdbinary.readouterr().out.decode().splitlines()
    assert words.endswith(", as log.jsonl has them") and json.loads(line)["kind"] == "val"
