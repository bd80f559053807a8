"""Models of Theano-MPI's contract that are built with something else: here NumPy alone."""

import json
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
from theanompi.record.recorder import Recorder
from theanompi.rules import RunFailed
from theanompi.training.theano_mpi_model import REQUIRED, TheanoMPIModel


class Parameter:
    """The least that a shared variable is."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def get_value(self) -> np.ndarray:
        return self.value.copy()

    def set_value(self, value: np.ndarray) -> None:
        self.value = value


class Regression:
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
    assert train[0]["error"] == pytest.approx(0.25)
    assert [line["loss"] for line in val] == pytest.approx([mean_target] * 2)
    assert val[0]["items"] == 2 * 3 * n


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
        assert model.validation_sums()[0] == 360
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
