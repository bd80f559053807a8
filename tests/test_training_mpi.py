"""Training under a real mpirun: the same weights for every split, exact resumption, and loud failures."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.mpi import ROOT, run_mpi, run_warm
from theanompi.record import checkpoint
from theanompi.record.log import read_log

SETTINGS: dict[str, Any] = {
    "modelfile": "small_models",
    "modelclass": "Plain",
    "batch_size": 4,
    "accumulation": 1,
    "max_iterations": 5,
    "base_batch": 8,  # so that 16 images are a large minibatch, with a warmup
    "warmup_epochs": 0.03,
    "seed": 3,
    "verbose": False,
    "devices": ["cpu"],
}


def train(n: int, out: Path, *spoil: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """In processes of their own, which may be spoiled."""
    config = json.dumps({**SETTINGS, "out": str(out), **settings})
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "RUN_OF_A_TEST": str(out)}
    return run_mpi(n, ["tests/train.py", config, *spoil], env=env)


def orderly(n: int, out: Path, *spoil: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A run that is expected to end in good order on all ranks, well or not: see `run_warm`."""
    return run_warm(n, {**SETTINGS, "out": str(out), **settings}, *spoil)


def refused(n: int, out: Path, **settings: Any) -> list[str]:
    """The lines in which all ranks together say what is wrong, of a run that ends in good order with status 1."""
    done = orderly(n, out, **settings)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("theanompi: ")]


def processes_of(out: Path) -> list[str]:
    """The command lines of the processes that `train` or its children started for this folder and that do not end."""
    deadline = time.monotonic() + 60
    while True:
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if f"RUN_OF_A_TEST={out}\0".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def trained(n: int, out: Path, *spoil: str, **settings: Any) -> dict[str, np.ndarray]:
    done = orderly(n, out, *spoil, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return checkpoint.load(out / "checkpoint.h5")[0]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, np.ndarray]]:
    """Trains as `trained` does, each run once: what several tests are held against."""
    found: dict[str, dict[str, np.ndarray]] = {}

    def get(n: int, **settings: Any) -> dict[str, np.ndarray]:
        key = json.dumps([n, settings], sort_keys=True)
        if key not in found:
            found[key] = trained(n, tmp_path_factory.mktemp("once") / "run", **settings)
        return found[key]

    return get


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The largest relative difference of two arrays of the same name."""
    assert a.keys() == b.keys()
    return max(float(np.linalg.norm(a[k] - b[k]) / np.linalg.norm(b[k])) for k in b if b[k].any())


MIXED: dict[str, Any] = {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.5}


@pytest.mark.parametrize(("model", "images"), [("Plain", {}), ("Normalised", MIXED)])
def test_ranks_and_accumulation_split_a_minibatch_without_changing_it(
    model: str, images: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"modelclass": model, "ema": 0.9, **images}
    one = trained(1, tmp_path / "1", accumulation=4, **settings)
    assert {name.split("/")[0] for name in one} == {"weights", "raw", "velocity"}
    for n, accumulation in ((2, 2), (4, 1)):
        split = trained(n, tmp_path / str(n), accumulation=accumulation, **settings)
        assert difference(split, one) < 1e-5, f"{n} ranks, A = {accumulation}"


def test_without_batch_norm_the_images_per_worker_do_not_matter(tmp_path: Path) -> None:
    one = trained(1, tmp_path / "1", batch_size=16)
    for n in (2, 4):
        assert difference(trained(n, tmp_path / str(n), batch_size=16 // n), one) < 1e-5, f"{n} ranks"


@pytest.mark.parametrize(
    ("strategy", "tolerance"), [("naive", 1e-6), ("ar", 1e-6), ("shm", 1e-6), ("asa32", 1e-6), ("fp16", 1e-2)]
)
def test_every_strategy_gives_the_same_weights(
    strategy: str, tolerance: float, once: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    settings = {"modelclass": "Normalised", "accumulation": 2}
    overlap = once(2, **settings)
    other = trained(2, tmp_path / strategy, exchange=strategy, **settings)
    assert difference(other, overlap) < tolerance
    assert tolerance < 1e-5 or difference(other, overlap) > 0, "nothing was rounded"


def test_choosing_an_exchange_changes_nothing_of_what_is_trained(tmp_path: Path) -> None:
    """Under ``avg`` what is timed holds the weights."""
    settings = {"modelclass": "Normalised", "sync_type": "avg"}
    chosen = trained(2, tmp_path / "auto", exchange="auto", **settings)
    given = trained(2, tmp_path / "overlap", exchange="overlap", **settings)
    assert difference(chosen, given) < 1e-6


def test_without_exchange_parity_fails(tmp_path: Path) -> None:
    one = trained(1, tmp_path / "1", accumulation=2)
    apart = trained(2, tmp_path / "2", "no-exchange")
    assert difference(apart, one) > 1e-2


def test_averaging_weights_each_step_is_averaging_gradients_at_the_unscaled_rate(tmp_path: Path) -> None:
    """With equal weights at the start, a velocity per worker and a linear update."""
    fixed = {"scaling": "none", "warmup": "none"}
    average = trained(2, tmp_path / "avg", sync_type="avg", **fixed)
    gradients = trained(2, tmp_path / "cdd", sync_type="cdd", **fixed)
    weights = [k for k in gradients if k.startswith("weights/")]
    assert difference({k: average[k] for k in weights}, {k: gradients[k] for k in weights}) < 1e-5
    velocities = [
        np.mean([average[f"velocity/{r}/conv.W"] for r in (0, 1)], axis=0),
        gradients["velocity/conv.W"],
    ]
    np.testing.assert_allclose(*velocities, rtol=1e-3, atol=1e-7)
    assert np.abs(average["velocity/0/conv.W"] - average["velocity/1/conv.W"]).max() > 1e-4
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("avg", "cdd")]
    assert [line["kind"] for line in logs[0]] == ["train", "summary"]
    for line, expected in zip(logs[0][:1], logs[1][:1], strict=True):
        assert line["items"] == expected["items"] == 5 * 2 * 4
        for key in ("loss", "error", "error_top5"):
            assert line[key] == pytest.approx(expected[key], rel=1e-4)


# 1,437 images are 179 batches of 8: 44 minibatches of 4 and one of 3. 50 updates go on into the second epoch, across
# the end of the warmup and a decay.
FIFTY: dict[str, Any] = {
    "modelclass": "Smooth",
    "batch_size": 8,
    "max_iterations": 50,
    "epochs": 4,
    "scaling": "linear",
    "base_lr": 0.02,
    "warmup_epochs": 0.5,
    "decay_epochs": [1.02],
}


def averaged(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights and running statistics, and the mean of the velocities where every rank has its own."""
    velocities: dict[str, list[np.ndarray]] = {}
    for name, value in arrays.items():
        if name.startswith("velocity/"):
            velocities.setdefault(name.rpartition("/")[2], []).append(value)
    means = {f"velocity/{name}": np.mean(values, axis=0) for name, values in velocities.items()}
    return {name: value for name, value in arrays.items() if name.startswith("weights/")} | means


@pytest.mark.parametrize("sync_type", ["cdd", "avg"])
def test_simulated_workers_are_real_ones_for_fifty_updates(sync_type: str, tmp_path: Path) -> None:
    four = averaged(trained(4, tmp_path / "4", sync_type=sync_type, **FIFTY))
    assert {"weights/bn1.mean", "weights/bn1.inv_std", "velocity/bn1.gamma"} <= four.keys()
    for n, accumulation in ((2, 2), (1, 4)):
        settings = {"sync_type": sync_type, "accumulation": accumulation, **FIFTY}
        simulated = averaged(trained(n, tmp_path / str(n), **settings))
        weights, expected = (
            {name: value for name, value in arrays.items() if name.startswith("weights/")}
            for arrays in (simulated, four)
        )
        assert difference(weights, expected) < 1e-5, f"{n} ranks, A = {accumulation}"
        assert difference(simulated, four) < 5e-5, f"{n} ranks, A = {accumulation}"
    spoil = {"cdd": "no-exchange", "avg": "own-batches"}[sync_type]
    wrong = averaged(trained(2, tmp_path / "wrong", spoil, **settings | {"accumulation": 2}))
    assert difference(wrong, four) > 1e-3


def test_averaging_weights_differs_from_summing_gradients_in_a_trailing_minibatch_only(
    tmp_path: Path,
) -> None:
    """1,437 images are 15 batches of 95: three minibatches of 4 and one of 3, in which one of 4 workers has none.

    Its gradient counts as zero when weights are averaged, and its running statistics stay where they are. With
    gradients summed, the mean is over the three.
    """
    fixed: dict[str, Any] = {
        "modelclass": "Smooth",
        "batch_size": 95,
        "accumulation": 2,
        "scaling": "none",
        "warmup": "none",
    }
    runs = {
        (sync, updates): averaged(
            trained(2, tmp_path / f"{sync}{updates}", sync_type=sync, max_iterations=updates, **fixed)
        )
        for sync, updates in (("cdd", 3), ("cdd", 4), ("avg", 4))
    }
    before, summed, got = runs["cdd", 3], runs["cdd", 4], runs["avg", 4]
    assert difference(got, summed) > 1e-3
    eta, m, share = 0.1, 0.9, 3 / 4
    expected = {}
    for name, w in before.items():
        if name.endswith((".mean", ".inv_std")):
            expected[name] = w + share * (summed[name] - w)
        elif name.startswith("weights/"):
            velocity = f"velocity/{name.removeprefix('weights/')}"
            decay = eta * (1e-4 * w if name.endswith(".W") else 0)
            # From the update with summed gradients: η·g, without the decay.
            step = summed[velocity] - m * before[velocity] - decay
            expected[velocity] = m * before[velocity] + share * step + decay
            expected[name] = w - (m * expected[velocity] + share * step + decay)
    assert difference(got, expected) < 1e-5


@pytest.mark.parametrize("trailing", [(1, 4), (2, 2), (4, 1)])
def test_the_trailing_minibatch_has_its_own_weight(
    trailing: tuple[int, int], once: Callable[..., dict[str, np.ndarray]], tmp_path: Path
) -> None:
    """1,437 images are 14 batches of 100: three minibatches of 4 and one of 2; 37 images are left out."""
    n, accumulation = trailing
    out = tmp_path / "run"
    weights = trained(
        n, out, batch_size=100, accumulation=accumulation, epochs=1, max_iterations=None, log_interval=1
    )
    log = [line for line in read_log(out / "log.jsonl") if line["kind"] == "train"]
    assert [line["items"] for line in log] == [400, 400, 400, 200]
    reference = once(1, batch_size=100, accumulation=4, epochs=1, max_iterations=None)
    assert difference(weights, reference) < 1e-5


@pytest.mark.parametrize("n", [1, 2, 4])
def test_validation_counts_every_image_once(n: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained(n, out, batch_size=64, epochs=1, max_iterations=None)
    (val,) = [line for line in read_log(out / "log.jsonl") if line["kind"] == "val"]
    assert val["items"] == 360
    assert 0 < val["error"] < 1 and val["error"] * 360 == pytest.approx(round(val["error"] * 360))


@pytest.mark.parametrize(("n", "sync_type"), [(1, "cdd"), (2, "cdd"), (2, "avg")])
def test_a_resumed_run_is_bit_identical(n: int, sync_type: str, tmp_path: Path) -> None:
    """Across the end of an epoch (its validation included), with a second stop in the middle of the next one."""
    common: dict[str, Any] = {
        "modelclass": "Normalised",
        "batch_size": 64,
        "sync_type": sync_type,
        "epochs": 3,
        "ema": 0.9 if sync_type == "cdd" else 0.0,
        **(MIXED if n == 2 else {}),
    }
    per_epoch = 22 // n
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    trained(n, straight, max_iterations=2 * per_epoch, **common)
    trained(n, resumed, max_iterations=5, **common)
    trained(n, resumed, max_iterations=per_epoch + 3, resume=True, **common)
    trained(n, resumed, max_iterations=2 * per_epoch, resume=True, **common)
    assert (straight / "checkpoint.h5").read_bytes() == (resumed / "checkpoint.h5").read_bytes()
    lines = [read_log(out / "log.jsonl") for out in (straight, resumed)]
    logs = [[(x["iteration"], x["error"]) for x in log if x["kind"] == "val"] for log in lines]
    assert logs[0] == logs[1] and len(logs[0]) == 2
    mixed = {x.get("labels") for log in lines for x in log if x["kind"] == "train"}
    assert mixed == {"mixed" if n == 2 else None}


def test_a_killed_run_resumes_bit_identically(tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "modelclass": "Normalised",
        "max_iterations": 9,
        "checkpoint_interval": 3,
        "log_interval": 1,
    }
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    trained(2, straight, **common)
    done = train(2, killed, "kill-5", **common)
    assert done.returncode != 0
    assert checkpoint.load(killed / "checkpoint.h5")[1]["iteration"] == 3
    trained(2, killed, resume=True, **common)
    assert (straight / "checkpoint.h5").read_bytes() == (killed / "checkpoint.h5").read_bytes()
    iterations = [line["iteration"] for line in read_log(killed / "log.jsonl") if line["kind"] == "train"]
    assert iterations == list(range(1, 10))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_loader_process_that_dies_ends_all_ranks_with_one_line(n: int, tmp_path: Path) -> None:
    done = train(n, tmp_path / "run", "kill-loader-3", checkpoint_interval=1, loader_processes=1)
    assert done.returncode == 1
    lines = re.findall(r"^theanompi: .*$", done.stderr, re.MULTILINE)
    assert len(lines) == 2 and "Traceback" not in done.stderr, done.stderr
    assert re.fullmatch(r"theanompi: iteration \d is saved in .*run: --resume goes on from there", lines[1])
    assert re.fullmatch(
        rf"theanompi: rank {n - 1}: loader process \d+ ended by signal SIGKILL .*; somebody ended it, or the machine "
        "is out of memory: then give it fewer loader processes",
        lines[0],
    )
    # What was done is not lost, and no process is left behind.
    assert checkpoint.load(tmp_path / "run/checkpoint.h5")[1]["iteration"] >= 3
    assert processes_of(tmp_path / "run") == []


def test_resuming_with_other_minibatches_is_refused(tmp_path: Path) -> None:
    trained(1, tmp_path / "run")
    (line,) = refused(1, tmp_path / "run", batch_size=8, resume=True)
    assert "checkpoint.h5: batch_size: expected 8 as this run has, got 4" in line


@pytest.mark.parametrize(
    ("n", "batch_size", "left", "expected", "got"),
    [
        (1, 400, 3, "the validation after iteration 3", "none"),  # with which the epoch ends
        (2, 4, 1, "lines up to iteration 3", "them up to 1"),
        (4, 4, 1, "lines up to iteration 3", "them up to 1"),
    ],
)
def test_resuming_with_a_log_that_lost_lines_is_refused(
    n: int, batch_size: int, left: int, expected: str, got: str, tmp_path: Path
) -> None:
    common = {"batch_size": batch_size, "log_interval": 1}
    trained(n, tmp_path / "run", max_iterations=3, **common)
    log = tmp_path / "run" / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:left]))
    before = (tmp_path / "run" / "checkpoint.h5").read_bytes()
    assert refused(n, tmp_path / "run", max_iterations=5, resume=True, **common) == [
        f"theanompi: log {log}: expected {expected}, to which the checkpoint goes, got {got}; "
        "remove the log to go on without it"
    ]
    assert (tmp_path / "run" / "checkpoint.h5").read_bytes() == before


def test_resuming_with_workers_split_otherwise_is_refused_where_each_has_a_velocity(tmp_path: Path) -> None:
    trained(2, tmp_path / "run", sync_type="avg")
    for n, settings, message in (
        (1, {"accumulation": 2}, "velocities: expected 1 as this run has, got 2"),
        (2, {"shuffle": "worker"}, "shuffle: expected 'worker' as this run has, got 'global'"),
    ):
        (line,) = refused(n, tmp_path / "run", sync_type="avg", resume=True, **settings)
        assert f"checkpoint.h5: {message}" in line


@pytest.mark.parametrize(("n", "sync_type"), [(2, "cdd"), (4, "cdd"), (2, "avg")])
def test_a_loss_that_is_not_finite_ends_all_ranks_with_one_line(
    n: int, sync_type: str, tmp_path: Path
) -> None:
    (line,) = refused(n, tmp_path / "run", modelclass="NotFinite", sync_type=sync_type)
    assert re.fullmatch(
        r"theanompi: iteration 3: the loss is not finite on rank.* 1 \(nan\).*, η = 0\.\d+", line
    )
    *_, trained, last = read_log(tmp_path / "run/log.jsonl")
    assert (trained["kind"], trained["iteration"]) == ("train", 2)
    reason = line.removeprefix("theanompi: iteration 3: ")
    assert last == {"kind": "diverged", "epoch": 0, "iteration": 3, "reason": reason}


def test_a_validation_that_cannot_be_compiled_is_refused_after_the_first_update(tmp_path: Path) -> None:
    settings = {"modelclass": "NoValidation", "batch_size": 36, "log_interval": 1}
    (line,) = refused(2, tmp_path / "run", **settings, max_iterations=20)
    assert line == "theanompi: no such validation"
    assert [record["iteration"] for record in read_log(tmp_path / "run/log.jsonl")] == [1]
    # A run that comes to none needs none.
    assert orderly(2, tmp_path / "short", **settings, max_iterations=2).returncode == 0


def test_the_time_in_which_validation_is_compiled_is_no_training(tmp_path: Path) -> None:
    settings = {"batch_size": 72, "log_interval": 1, "max_iterations": 20}
    assert orderly(1, tmp_path / "run", "slow-validation-1000", **settings).returncode == 0
    log = read_log(tmp_path / "run/log.jsonl")
    assert [record["kind"] for record in log[18:21]] == ["train", "val", "train"]
    assert max(record["wall_s"] for record in log if record["kind"] == "train") < 500


def test_metrics_that_differ_between_ranks_are_refused(tmp_path: Path) -> None:
    """In processes of their own, as a witness: what all ranks refuse is the exit status of an mpirun."""
    done = train(2, tmp_path / "run", modelclass="OwnMetrics")
    assert done.returncode == 1
    assert re.findall(r"^theanompi: .*$", done.stderr, re.MULTILINE) == [
        "theanompi: metrics: expected loss, error, error_top5 on all ranks as on rank 0, got loss, mae on rank 1"
    ]


@pytest.mark.parametrize("rank", ["0", "1"])
def test_an_mpirun_of_another_mpi_is_noticed(rank: str, tmp_path: Path) -> None:
    """Its processes each see a world of one: both would train alone, into one folder."""
    command = [sys.executable, "tests/train.py", json.dumps({**SETTINGS, "out": str(tmp_path / "run")})]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    env |= {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": rank}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert not (tmp_path / "run").exists()
    lines = re.findall(
        r"^theanompi: mpirun: expected the one that belongs to .+ got one whose 2 ", done.stderr, re.M
    )
    assert len(lines) == (1 if rank == "0" else 0), done.stderr


@pytest.mark.parametrize(
    ("n", "devices", "got"), [(2, ["cpu"] * 3, 3), (3, ["cpu"] * 2, 2), (1, ["cpu"] * 2, 2)]
)
def test_more_or_fewer_devices_than_ranks_are_one_line(
    n: int, devices: list[str], got: int, tmp_path: Path
) -> None:
    assert refused(n, tmp_path / "run", devices=devices) == [
        f"theanompi: devices: expected {n}, as many as mpirun has started ranks on each machine, or one for all, "
        f"got {got}"
    ]


def test_another_recipe_at_a_resume_is_said_once_and_kept(tmp_path: Path) -> None:
    trained(2, tmp_path / "run", max_iterations=2, length=16)
    other = {"base_lr": 0.001, "warmup": "none", "length": 16}
    done = orderly(2, tmp_path / "run", max_iterations=3, **other, resume=True, verbose=True)
    assert done.returncode == 0, done.stderr
    changes = "base_lr 0.1 -> 0.001; warmup gradual -> none"
    assert done.stdout.count(f"resumed with another recipe: {changes}\n") == 1
    idle = "without effect: warmup_epochs, as the warmup is none; length, as the data are pictures\n"
    assert done.stdout.count(idle) == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["base_lr"] == 0.001


def test_a_minibatch_that_never_occurs_is_one_line(tmp_path: Path) -> None:
    (line,) = refused(2, tmp_path / "run", accumulation=200)
    assert line.endswith(
        "accumulation: expected at most 179 on 2 ranks, as the 1437 training images make 359 batches of 4, got 200"
    )


def test_an_op_that_does_not_run_on_the_device_is_one_line(tmp_path: Path) -> None:
    (line,) = refused(2, tmp_path / "run", modelclass="Decomposed")
    assert len(line) <= 300
    assert re.match(r"theanompi: Schur.*: not supported on the device: .*; docs/ops.md lists", line), line


def test_an_exception_on_one_rank_ends_all_with_its_traceback(tmp_path: Path) -> None:
    done = train(4, tmp_path / "run", modelclass="Broken")
    assert done.returncode != 0
    assert done.stderr.count("ArithmeticError: the user's own mistake") == 1
    assert "theanompi: rank 3 failed:" in done.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "nowhere.h5"}, "nowhere.h5"),
        ({"modelclass": "Plane"}, "modelclass: expected a class of .*small_models.py, got 'Plane'"),
        ({"devices": ["cuda:5"]}, r"devices: expected one of the \d GPUs that torch sees here, got 'cuda:5'"),
        ({"batch_size": 2000}, "expected at least batch_size = 2000 training images, got 1437"),
        ({"resume": True}, "checkpoint.h5"),
    ],
)
def test_what_the_user_got_wrong_is_one_line_on_one_rank(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (line,) = refused(2, tmp_path / "run", **settings)
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("spoils", "file", "reason"),
    [
        (["full-2"], r"(log\.jsonl|checkpoint\.h5)", "File too large"),
        ([], r"checkpoint-1\.h5", "Is a directory"),  # when the checkpoint itself is saved
    ],
)
def test_files_that_can_no_longer_be_written_end_the_run_and_what_is_saved_is_said(
    tmp_path: Path, spoils: list[str], file: str, reason: str
) -> None:
    out = tmp_path / "run"
    if not spoils:
        (out / "checkpoint-1.h5").mkdir(parents=True)
    done = train(2, out, *spoils, log_interval=1, checkpoint_interval=1, keep=2)
    assert done.returncode != 0
    line, saved = (line for line in done.stderr.splitlines() if line.startswith("theanompi: "))
    assert re.match(rf"theanompi: rank 0: (checkpoint )?{out}/{file}: cannot be written: {reason}", line), (
        line
    )
    assert saved == f"theanompi: iteration 1 is saved in {out}: --resume goes on from there"
    assert "Traceback" not in done.stderr
