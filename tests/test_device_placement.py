"""Numbers may lie on the CPU; whatever has axes is on the device, and nothing that is recorded waits for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.compile.mode import Mode

from tests.small_models import Plain
from tests.without_memory import GpuWithoutMemory, Recorded, compiled
from theanompi import device
from theanompi.device.linker import _Program
from theanompi.device.ops import uniform
from theanompi.lasagne.layers import (
    BatchNormLayer,
    Conv2DLayer,
    DenseLayer,
    DropoutLayer,
    EmbeddingLayer,
    GaussianNoiseLayer,
    GRULayer,
    InputLayer,
    Layer,
    LocalResponseNormalization2DLayer,
    LSTMLayer,
    RecurrentLayer,
    SpatialPyramidPoolingLayer,
    TransformerLayer,
    get_all_params,
    get_output,
)
from theanompi.lasagne.updates import sgd

pytestmark = pytest.mark.usefixtures("without_memory")

X = np.ones((3, 4), "float32")

GRAPHS: dict[str, Callable[[Any], Any]] = {
    "a number many times": lambda x: pt.alloc(np.float32(2), x.shape[0], 5),
    "zeros that are written into": lambda x: pt.set_subtensor(pt.zeros((5, x.shape[1]))[1:4], x),
    "a number with axes": lambda x: pt.cast(x.shape[0], "float32").dimshuffle("x", "x") * 2,
    "numbers as a vector": lambda x: pt.stack([x.shape[0], x.shape[1]]),
    "a number written": lambda x: pt.set_subtensor(x[1:], 2),
    "a number added": lambda x: pt.inc_subtensor(x[1:, ::-1], np.float32(1.5)),
    "a number written to rows": lambda x: pt.set_subtensor(x[np.array([0, 2])], np.float32(3)),
    "a number added to rows": lambda x: pt.inc_subtensor(x[np.array([0, 0])], np.float32(3)),
    "a diagonal": lambda x: pt.diag(x[0]),
    "an identity": lambda x: pt.eye(x.shape[0]),
    "a choice": lambda x: pt.switch(x.shape[0] > 2, x, np.float32(0)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_has_axes_is_on_the_device(name: str) -> None:
    x = pt.matrix("x", dtype="float32")
    with GpuWithoutMemory():
        result = compiled([x], GRAPHS[name](x))(X)
    assert result.is_meta and result.ndim > 0


STEPS: dict[str, Callable[[Any, Any], Any]] = {
    "numbers among sums": lambda x, n: pt.stack([x.sum(), np.float32(3), n]),
    "a number many times": lambda x, n: pt.alloc(np.float32(2), 3, 5) + x.sum(),
    "a number written": lambda x, n: pt.set_subtensor(x[1:], 2),
    "a number added to rows": lambda x, n: pt.inc_subtensor(x[np.array([0, 0])], np.float32(3)),
    "a choice": lambda x, n: pt.switch(x > n, x, np.float32(0)),
    "bounds": lambda x, n: pt.clip(x, np.float32(0), n),
    "rows often": lambda x, n: pt.repeat(x, 2, axis=0),
    "parts": lambda x, n: pt.join(0, *pt.split(x, [1, 2], n_splits=2)[::-1]),
    "numbers in a range": lambda x, n: pt.arange(x.shape[0]) * x.sum(1),
    "rows each often": lambda x, n: pt.repeat(x, [2, 0, 1], axis=0),
    "a part by a number": lambda x, n: x[::-1, pt.argmax(x[0])],
    "a part by a number written": lambda x, n: pt.set_subtensor(x[pt.argmax(x[:, 0]), 1:], n),
    "a part by a number added": lambda x, n: pt.inc_subtensor(x[::-1, pt.argmax(x[0])], n),
    "steps by number": lambda x, n: pytensor.scan(
        lambda i, s: s + x[i], pt.arange(x.shape[0]), pt.zeros_like(x[0]), return_updates=False
    ),
    "a diagonal filled": lambda x, n: pt.fill_diagonal(x, np.float32(2)),
    "a transform": lambda x, n: pt.fft.irfft(pt.fft.rfft(x)),
    "positions": lambda x, n: pt.ravel_multi_index((pt.argmax(x, 0), pt.argmin(x, 0)), (3, 3), mode="clip"),
    "noise of a length": lambda x, n: uniform(pt.argsort(x[:, 0]), (x.shape[1],), 1),
    "another shape": lambda x, n: x.reshape((x.shape[1], x.shape[0])),
    "sorted": lambda x, n: pt.sort(x, axis=1),
    "a triangle": lambda x, n: pt.tril(x),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_is_recorded_does_not_wait_for_the_device(name: str) -> None:
    x, n = device.shared(X), device.shared(np.float32(1))
    step = compiled([], STEPS[name](x, n), updates=[(n, n + np.float32(1))])
    with Recorded():
        assert step().is_meta


LENGTHS: dict[str, Callable[[Any], Any]] = {
    "one is known": lambda x: x.reshape((x.shape[0], 2, -1)),
    "the other way round": lambda x: x.reshape(x.shape[::-1]),
    "joined": lambda x: x.reshape(pt.concatenate([x.shape[:1], [2], x.shape[1:] // 2])),
    "written": lambda x: x.reshape(pt.set_subtensor(x.shape[0], -1)),
    "multiplied": lambda x: x.reshape((pt.prod(x.shape),)) + pt.sum(x.shape),
    "parts": lambda x: pt.split(x, pt.stack([1, x.shape[0] - 1]), n_splits=2)[1],
    "noise": lambda x: uniform(pt.argsort(x[:, 0]), (x.shape[1] + 1,), 1),
    "zeros": lambda x: pt.set_subtensor(pt.zeros((x.shape[0] + 2, x.shape[1]))[1:-1], x),
    "several times": lambda x: pt.tile(x, (2, 1)),
    "read by both": lambda x: x.reshape(x.shape[::-1])[: x.shape[1] - 1] * x.shape[0],
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_that_are_known_when_it_runs_are_computed_on_the_host(name: str) -> None:
    x = pt.matrix("x", dtype="float32")
    f = compiled([x], LENGTHS[name](x))
    reference = pytensor.function([x], LENGTHS[name](x), mode=Mode("py", None))
    f.trust_input = True
    with Recorded():
        result = f(torch.empty((3, 4), device="meta"))
    assert result.is_meta and tuple(result.shape) == reference(X).shape


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_on_the_host_are_those(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Program, "apart", True)
    x = pt.matrix("x", dtype="float32")
    build, value = LENGTHS[name], np.arange(12, dtype="float32").reshape(3, 4)
    f = pytensor.function([x], build(x), mode=device.mode("cpu"))
    np.testing.assert_array_equal(f(value), pytensor.function([x], build(x), mode=Mode("py", None))(value))


def test_lengths_as_results_and_new_values_are_on_the_device() -> None:
    x, lengths = pt.matrix("x", dtype="float32"), device.shared(np.zeros(2, "int64"))
    with GpuWithoutMemory():
        f = compiled([x], [x.shape, x * x.shape[::-1][0], x + x.shape], updates=[(lengths, x.shape + 1)])
        results = f(np.ones((2, 2), "float32"))
    assert all(result.is_meta for result in results)


@pytest.mark.parametrize("read", [False, True])
def test_a_number_as_a_new_value_is_written_without_waiting(read: bool) -> None:
    x, rate = device.shared(X), device.shared(np.float64(0))
    new = pt.switch(pt.eq(x.shape[0], 3), np.float64(0.1), rate)
    step = compiled([], x * pt.cast(rate, "float32") if read else x + 1, updates=[(rate, new)])
    with Recorded():
        assert step().is_meta


def test_a_training_step_and_a_validation_do_not_wait_for_the_device() -> None:
    settings = {"data": "digits", "batch_size": 4, "schedule": "constant", "ema": 0.9, "clip_norm": 1.0}
    with GpuWithoutMemory():
        model = Plain({**settings, "rank": 0, "size": 1, "verbose": False})
        model.compile_iter_fns("cdd")
        model.compile_validation()
    try:
        with Recorded():
            for step in (*model._gradients, *model._updates, model._validate):
                assert step is not None
                step()
    finally:
        model.cleanup()


def words() -> Layer:
    return EmbeddingLayer(InputLayer((2, 3), device.shared(np.ones((2, 3), "int32"))), 7, 4)


def picture() -> Layer:
    return InputLayer((2, 3, 8, 8), device.shared(np.ones((2, 3, 8, 8), "float32")))


def weights() -> Layer:
    return InputLayer((2, 3), device.shared(np.ones((2, 3), "float32")))


NETWORKS: dict[str, Callable[[], Layer]] = {
    "masked": lambda: LSTMLayer(DropoutLayer(words()), 5, mask_input=weights(), only_return_final=True),
    "backwards": lambda: GRULayer(words(), 5, mask_input=weights(), backwards=True, learn_init=True),
    "truncated": lambda: RecurrentLayer(words(), 5, gradient_steps=2, grad_clipping=1.0),
    "transformed": lambda: TransformerLayer(GaussianNoiseLayer(picture()), DenseLayer(picture(), 6)),
    "pooled": lambda: SpatialPyramidPoolingLayer(Conv2DLayer(picture(), 4, 3, pad=1), [4, 2, 1]),
    "normalised": lambda: LocalResponseNormalization2DLayer(BatchNormLayer(picture())),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_do_not_wait_for_the_device(name: str) -> None:
    with GpuWithoutMemory():
        top = NETWORKS[name]()
        loss = pt.sum(get_output(top) ** 2)
        step = compiled([], [loss], updates=sgd(loss, get_all_params(top, trainable=True), 0.1))
    with Recorded():
        step()
