"""Models of Theano-MPI's contract that are built with something else: here NumPy alone."""

import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor
import pytest
import torch
from small_models import Normalised, Plain

from tests.mpi import ROOT, run_mpi, run_warm
from theanompi import BSP
from theanompi.config import ConfigError, RunConfig
from theanompi.lasagne.layers import DenseLayer, InputLayer, Layer, NonlinearityLayer
from theanompi.launch.ends import STOPPED
from theanompi.record import checkpoint
from theanompi.record.log import read_log
from theanompi.record.metrics import CLASSIFIER
from theanompi.record.recorder import Recorder
from theanompi.rules import RunFailed
from theanompi.training.theano_mpi_model import REQUIRED, TheanoMPIModel

DIGITS = ROOT / "theanompi" / "data" / "digits.h5"


class Parameter:
    """The least that a shared variable is."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def get_value(self) -> np.ndarray:
        return self.value.copy()

    def set_value(self, value: np.ndarray) -> None:
        self.value = value


class LeastSquares:
    """Least squares by gradient descent; every rank has a target of its own, so that the average is known."""

    batch_size = 3

    def __init__(self, config: dict[str, Any]) -> None:
        self.rank = config["rank"]
        self.w = Parameter(np.zeros((2, 2)))
        self.params = [self.w]
        self.data = SimpleNamespace(n_batch_train=4, n_batch_val=2)
        self.n_epochs, self.epoch, self.rate = 2, 0, 0.5

    def compile_iter_fns(self, sync_type: str) -> None:
        assert sync_type == "avg"

    def train_iter(self, count: int, recorder: Any) -> None:
        recorder.start()
        error = self.w.value - (1 + self.rank)
        self.w.set_value(self.w.value - self.rate * error)
        recorder.end("calc")
        recorder.train_error(count, float((error**2).mean()), 0.25)

    def val_iter(self, count: int, recorder: Any) -> None:
        recorder.val_error(count, 1.0 + self.rank, 0.5, 0.1)

    def adjust_hyperp(self, epoch: int) -> None:
        self.rate /= 2

    def cleanup(self) -> None:
        pass


class Regression(LeastSquares):
    """As a classifier calls what it reports."""

    metric_names: Any = ("loss", "error", "error_top5")


@pytest.mark.parametrize("n", [1, 2])
def test_a_class_without_any_of_our_libraries_is_trained(n: int, tmp_path: Path) -> None:
    settings = {
        "modelfile": "test_theano_mpi_model",
        "modelclass": "Regression",
        "sync_type": "avg",
        "out": str(tmp_path / "run"),
        "log_interval": 1,
        "devices": ["cpu"],
    }
    done = run_warm(n, settings)
    assert done.returncode == 0, done.stderr
    mean_target = np.mean([1 + rank for rank in range(n)])
    distance = (
        mean_target * 0.5**4 * 0.75**4
    )  # each step goes a part of the way, after an epoch half as large
    arrays = checkpoint.load(tmp_path / "run" / "checkpoint.h5")[0]
    np.testing.assert_allclose(arrays["weights/0"], mean_target - distance, rtol=1e-6)
    log = read_log(tmp_path / "run" / "log.jsonl")
    train, val = ([line for line in log if line["kind"] == kind] for kind in ("train", "val"))
    assert [line["items"] for line in train] == [3 * n] * 8
    assert train[0]["error"] == pytest.approx(0.25) and train[0]["error_top5"] is None
    assert f"Regression on its own data: {n} x cpu" in done.stdout
    # Its own number, and not what the run had for it.
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 2
    assert [line["loss"] for line in val] == pytest.approx([mean_target] * 2)
    assert val[0]["items"] == 2 * 3 * n


class Ours(Plain):
    """With a data set of its own among its defaults."""

    defaults = {"data": "mine.h5", "image_size": 32, "batch_size": 64, "epochs": 1}


def test_the_data_are_known_before_the_folder_has_a_name(tmp_path: Path) -> None:
    """A run that says nothing of either; its class does, or reads its own."""
    shutil.copy(DIGITS, tmp_path / "mine.h5")
    program = """
import os, sys
from tests.train import train
os.chdir(sys.argv[1])
settings = {"modelfile": "test_theano_mpi_model", "sync_type": "avg", "devices": ["cpu"], "max_iterations": 1}
for name, more in [("Ours", {}), ("LeastSquares", {}), ("LeastSquares", {"data": "digits"})]:
    os.environ["COLUMNS"] = "40" if name == "Ours" else "200"
    train(settings | more | {"modelclass": name}, comm)
del os.environ["COLUMNS"]
try:
    train(settings | {"modelclass": "LeastSquares", "epochs": 5}, comm)
except SystemExit:
    print("refused")
"""
    done = run_warm(2, program, str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "test_theano_mpi_model"
    assert "no data set was given:\n  Ours takes mine.h5\n" in done.stdout
    said = done.stdout.replace("\n  ", " ")
    for out, data, line in (
        (f"{folder}-mine", "mine.h5", "Ours on mine.h5"),
        (folder, None, "LeastSquares on its own data"),
        (f"{folder}-digits", "digits", "LeastSquares on digits"),
    ):
        config = json.loads(Path(out, "config.json").read_text("utf-8"))
        assert (config["data"], config["out"]) == (data, os.path.relpath(out, tmp_path))
        assert config["epochs"] != 5
        assert f"{line}: 2 x cpu, float32, run folder {config['out']}\n" in said
    assert (
        said.count("no data set was given: Ours takes mine.h5\n") == said.count("no data set was given") == 1
    )
    assert said.count("refused") == 2 and done.stderr.count("got one with a run in it") == 1


def test_a_class_that_is_ours_reads_no_data_of_its_own() -> None:
    Own = type("Own", (Plain,), {"defaults": {"data": None}})
    with pytest.raises(ConfigError, match=r"^Own\.defaults: data: expected a data set, .* got None$"):
        Own({})


class Gan(LeastSquares):
    """In the style of Theano-MPI's WGAN: takes two batches at a time and counts them, and has scores below 0."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        assert config["mname"] == "Gan"
        self.data = SimpleNamespace(n_batch_train=5, n_batch_val=2)
        self.counts: list[Any] = []

    def compile_iter_fns(self) -> None:  # type: ignore[override]
        pass

    def train_iter(self, count: int, recorder: Any) -> int:  # type: ignore[override]
        recorder.start()
        self.counts.append(count)
        recorder.train_error(count, -3.0, -self.rank)
        recorder.end("calc")
        return count + 2 if self.rank else count + 1

    def val_iter(self, count: int, recorder: Any) -> None:
        recorder.val_error(count, -3.0, -2.0 * self.rank, 0)

    def reset_iter(self, mode: str) -> None:
        self.counts.append(mode)

    def print_info(self, recorder: Any) -> None:
        recorder.plot_init(name="scores", save=False)
        recorder.plot(name="scores", lines=[[1.0, 2.0]], lw=2)

    def save(self, path: str) -> None:
        Path(f"{path}{self.epoch}.json").write_text(json.dumps([self.counts, self.current_info]))  # type: ignore[attr-defined]


def test_what_wgan_does_of_the_contract_counts(tmp_path: Path) -> None:
    """A count that is returned, methods that a model need not have, and scores that are no errors."""
    settings = {
        "modelfile": "test_theano_mpi_model",
        "modelclass": "Gan",
        "sync_type": "avg",
        "out": str(tmp_path / "run"),
        "log_interval": 2,
        "devices": ["cpu"],
    }
    done = run_warm(2, settings)
    assert done.returncode == 0, done.stderr
    assert (
        "validation cost -3, second -1, third 0" in done.stderr
        and "%" not in done.stderr.split("validation")[1]
    )
    log = read_log(tmp_path / "run" / "log.jsonl")
    train, val = ([line for line in log if line["kind"] == kind] for kind in ("train", "val"))
    # Both ranks go on with the larger count, and the last iteration of an epoch ends it.
    assert [(line["iteration"], line["iterations"]) for line in train] == [
        (2, 1), (4, 1), (5, 1), (7, 1), (9, 1), (10, 1),
    ]  # fmt: skip
    assert [(line["cost"], line["second"], line["third"]) for line in train] == [(-3, -0.5, None)] * 6
    assert [(line["iteration"], line["cost"], line["second"]) for line in val] == [(5, -3, -1), (10, -3, -1)]
    saved = [json.loads(path.read_text()) for path in (tmp_path / "run" / "snapshots").iterdir()]
    assert saved == [[[0, 2, 4, "train", "val"], [5, -3.0, 0.0, 0.0]]]
    assert (tmp_path / "run" / "scores.png").exists()


class Pairs(Gan):
    """Takes two batches at a time on all ranks."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__({**config, "mname": "Gan"})
        self.data = SimpleNamespace(n_batch_train=6, n_batch_val=2)

    def train_iter(self, count: int, recorder: Any) -> int:  # type: ignore[override]
        super().train_iter(count, recorder)
        return count + 2


def test_what_is_due_between_two_counts_is_not_left_out(tmp_path: Path) -> None:
    """Averages of every fourth iteration and checkpoints of every fifth, where only even ones are counted."""
    settings = {
        "modelfile": "test_theano_mpi_model",
        "modelclass": "Pairs",
        "sync_type": "avg",
        "settings": {"rule.period": 4},
        "checkpoint_interval": 5,
        "keep": 9,
        "out": str(tmp_path),
        "log_interval": 1,
        "devices": ["cpu"],
    }
    done = run_warm(2, settings)
    assert done.returncode == 0, done.stderr
    train = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "train"]
    assert {line["iteration"]: line["cost"] for line in train} == {
        2: None, 4: -3, 6: -3, 8: -3, 10: -3, 12: -3,
    }  # fmt: skip
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {
        f"checkpoint-{iteration}.h5" for iteration in (6, 10, 12)
    }


def test_several_parts_of_a_batch_are_iterations_of_their_own() -> None:
    model = Regression({"rank": 0})
    model.n_subb = 3.0  # type: ignore[attr-defined]
    replica = TheanoMPIModel(model, RunConfig(sync_type="avg"), 0, 1)
    assert (replica.data.n_batch_train, replica.data.n_batch_val) == (12, 6)


@pytest.mark.parametrize(("scaling", "sizes"), [("linear", [4]), (None, [])])
def test_the_rate_of_a_model_is_scaled_where_the_run_says_so(scaling: Any, sizes: list[int]) -> None:
    model, scaled = Regression({"rank": 0}), list[int]()
    model.scale_lr = scaled.append  # type: ignore[attr-defined]
    TheanoMPIModel(model, RunConfig(sync_type="avg", scaling=scaling), 0, 4).compile_iter_fns("avg")
    assert scaled == sizes


@pytest.mark.parametrize(
    ("names", "metrics", "headline"),
    [
        (("critic", "generator"), ("critic", "generator"), "critic"),
        (("cost", "error", "error_top5"), ("cost", "error", "error_top5"), "error"),
    ],
)
def test_a_class_names_what_it_reports(names: Any, metrics: Any, headline: str) -> None:
    model = Regression({"rank": 0})
    model.metric_names = names
    replica = TheanoMPIModel(model, RunConfig(sync_type="avg"), 0, 1)
    assert replica.reported[:2] == (metrics, headline)
    assert replica.validation_sums().shape == (1, 1 + 2 * len(metrics))


def test_a_class_with_errors_is_a_classifier() -> None:
    model = SimpleNamespace(**vars(Regression({"rank": 0})), error="a graph")
    for name in REQUIRED:
        setattr(model, name, getattr(Regression, name, getattr(model, name, None)))
    assert TheanoMPIModel(model, RunConfig(sync_type="avg"), 0, 1).reported is CLASSIFIER


@pytest.mark.parametrize("names", ["cost", ("cost",), ("cost", "best_one"), 3])
def test_names_that_no_metrics_can_have_are_refused(names: Any) -> None:
    model = Regression({"rank": 0})
    model.metric_names = names
    with pytest.raises(ConfigError, match="Regression.metric_names: .*expected"):
        TheanoMPIModel(model, RunConfig(sync_type="avg"), 0, 1)


def made_by_a_function(config: dict[str, Any]) -> Regression:
    return Regression(config)


@pytest.mark.parametrize(
    ("resume", "model"), [(True, "Regression"), ("auto", "Regression"), ("auto", "made_by_a_function")]
)
def test_it_is_refused_where_a_later_start_could_not_go_on(resume: Any, model: str, tmp_path: Path) -> None:
    settings = {
        "modelfile": "test_theano_mpi_model",
        "modelclass": model,
        "sync_type": "avg",
        "out": str(tmp_path / "run"),
        "devices": ["cpu"],
        "resume": resume,
    }
    if resume is True:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "checkpoint.h5").write_text("mine")
    done = run_warm(1, settings)
    assert done.returncode == 1
    assert (
        "theanompi: model class Regression: expected no resume, as only a theanompi.Model saves all its state"
        in done.stderr.splitlines()
    )
    assert resume is True or not (tmp_path / "run").exists()


class Killed(Regression):
    """Sends itself a SIGTERM in its third update."""

    def train_iter(self, count: int, recorder: Any) -> None:
        super().train_iter(count, recorder)
        if count == 2:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("launched", [False, True])
def test_a_stopped_one_is_not_said_to_go_on(launched: bool, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    settings = {
        "modelfile": "test_theano_mpi_model",
        "modelclass": "Killed",
        "sync_type": "avg",
        "out": str(tmp_path / "run"),
        "devices": ["cpu"],
        "curves": False,
    }
    if launched:
        rule = BSP()
        rule.start(RunConfig.from_dict(settings))
        with pytest.raises(RunFailed) as caught:
            rule.wait()
        status, said = caught.value.status, str(caught.value)
    else:
        done = run_mpi(
            1, ["tests/train.py", json.dumps(settings)], env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        )
        status, said = done.returncode, done.stderr.strip()
    assert status == STOPPED
    assert said.endswith(f"; the weights after iteration 3 are saved in {tmp_path}/run"), said


def test_our_models_fulfil_the_contract_too() -> None:
    """An old-style loop over the contract's methods alone works: any order of epochs, validation at any time."""
    model = Normalised({"batch_size": 100, "devices": ["cpu"]})
    assert all(hasattr(model, name) for name in REQUIRED)
    model.compile_iter_fns("cdd")
    recorder = Recorder(None, 0, 1, 10, 10, False, None)
    losses = {}
    for model.epoch, count in ((0, 0), (0, 1), (2, 5), (0, 1), (0, 2)):
        model.train_iter(count, recorder)
        losses.setdefault((model.epoch, count), []).append(model.measures().sums["loss"][0])
        for batch in range(model.data.n_batch_val):
            model.val_iter(batch, recorder)
        assert model.validation_sums()[:, 0].sum() == 360
    model.adjust_hyperp(0)
    model.cleanup()
    # Without an update the same minibatch has the same loss, and others have others.
    assert len(set(losses[0, 1])) == 1 and len(losses[0, 1]) == 2
    assert len({values[0] for values in losses.values()}) == 4


def test_a_rank_without_a_batch_keeps_its_running_statistics() -> None:
    """1,437 images are 11 batches of 128: in the last minibatch of two ranks the second has none to average."""
    model = Normalised({"batch_size": 128, "sync_type": "avg", "rank": 1, "size": 2, "devices": ["cpu"]})
    model.compile_iter_fns("avg")
    recorder = Recorder(None, 1, 2, 10, 10, False, None)
    before = []
    for count in (4, 5):
        model.train_iter(count, recorder)
        model.update()
        before.append([s.get_value() for s in model.state.statistics])
    model.cleanup()
    assert model.data.sampler.own_units(5) == 0
    np.testing.assert_equal(before[1], before[0])
    assert model.measures().items == 0


def test_parameters_that_are_not_finite_are_seen() -> None:
    config = RunConfig(modelfile="test_theano_mpi_model", modelclass="Regression", sync_type="avg")
    model = TheanoMPIModel(Regression({"rank": 0}), config, 0, 1)
    assert model.finite()
    model.model.w.set_value(np.array([[1, 2], [3, np.nan]]))
    assert not model.finite()


def test_what_is_missing_is_named() -> None:
    config = RunConfig(sync_type="avg")
    with pytest.raises(
        ConfigError, match="model class SimpleNamespace: .* got one without params, data, .*data.n_batch_val"
    ):
        TheanoMPIModel(SimpleNamespace(), config, 0, 1)
    model = Regression({"rank": 0})
    assert all(hasattr(model, name) for name in REQUIRED)
    with pytest.raises(ConfigError, match="model class Regression: expected sync type 'avg', .* got 'cdd'"):
        TheanoMPIModel(model, RunConfig(), 0, 1)
    with pytest.raises(ConfigError, match="model class Regression: expected no resume"):
        TheanoMPIModel(model, RunConfig(sync_type="avg", resume=True), 0, 1)
    with pytest.raises(ConfigError, match="model class Regression: expected no init"):
        TheanoMPIModel(model, RunConfig(sync_type="avg", init="net.npz"), 0, 1)
    with pytest.raises(ConfigError, match="model class Regression: expected label_smoothing 0"):
        TheanoMPIModel(model, RunConfig(sync_type="avg", label_smoothing=0.1), 0, 1)
    with pytest.raises(ConfigError, match="model class Regression: expected mixup 0"):
        TheanoMPIModel(model, RunConfig(sync_type="avg", mixup=0.2), 0, 1)


class Scaled(Plain):
    """With a constant that has no float32, before and after a layer with parameters."""

    factor: Any = 1e-4

    def build_model(self, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        net = NonlinearityLayer(InputLayer(input_shape), lambda x: x * self.factor, name="scale")
        net = DenseLayer(net, num_classes, nonlinearity=None, name="dense")
        return NonlinearityLayer(net, lambda x: 3 * x**1.7 * self.factor, name="scores")


def test_a_python_constant_leaves_a_network_in_float32() -> None:
    assert pytensor.config.floatX == "float64"
    model = Scaled({"verbose": False, "batch_size": 4})
    model.compile_iter_fns()
    model.train_iter(0, Recorder(None, 0, 1, 10, 10, False, None))
    assert model.state.gradients.flat.dtype == torch.float32 and model.measures().items == 4
    model.cleanup()


def test_a_float64_network_is_refused_when_it_is_made() -> None:
    Scaled.factor = np.float64([[1e-4]])
    try:
        with pytest.raises(ConfigError, match="layer 'scale': expected a float32 output, got float64 from"):
            Scaled({"verbose": False, "batch_size": 4})
    finally:
        Scaled.factor = 1e-4
