"""Functions as CUDA graphs: the logic with a graph that records Python calls, and the real thing on a GPU."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytensor
import pytest
import torch

from theanompi import device
from theanompi.device.capture import Captured
from theanompi.device.generated import define


class Graph:
    """While it records, what is `launch`ed does not run; `replay` runs all of it."""

    recording: "Graph | None" = None

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    def replay(self) -> None:
        for work in self.work:
            work()


class Stream:
    """The current stream is that of a recording after one that has failed, as torch's is."""

    current = "computing"

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self.previous, Stream.current = Stream.current, self.name

    def __exit__(self, *_: object) -> None:
        Stream.current = self.previous


def launch(work: Callable[[], object]) -> None:
    if Graph.recording is None:
        work()
    else:
        Graph.recording.work.append(work)


@contextlib.contextmanager
def record(graph: Graph, capture_error_mode: str) -> Iterator[None]:
    assert capture_error_mode == "thread_local", "other threads would spoil the recording"
    Graph.recording, Stream.current = graph, "recording"
    try:
        yield
    finally:
        if Graph.recording is None:
            raise RuntimeError("operation failed due to a previous error during capture")
        Graph.recording, Stream.current = None, "computing"


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream.current)
    monkeypatch.setattr(torch.cuda, "stream", Stream)


def counting() -> tuple[list[int], Callable[..., Any]]:
    """A step: adds 1 to its argument in place, and doubles that."""
    calls = [0]

    def step(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls[0] += 1
        y = torch.zeros_like(x)
        launch(lambda: x.add_(1))
        launch(lambda: torch.mul(x, 2, out=y))
        return x, y

    return calls, step


def test_every_call_counts_once_and_python_runs_twice() -> None:
    calls, step = counting()
    captured, x = Captured(step), torch.zeros(2)
    for number in range(1, 6):
        same, double = captured(x)
        assert same is x and x.tolist() == [number] * 2 and double.tolist() == [2 * number] * 2
    assert calls == [2] and captured.recordings == 1


def test_results_stay_as_they_are() -> None:
    _, step = counting()
    captured, x = Captured(step), torch.zeros(2)
    results = [captured(x)[1] for _ in range(4)]
    assert [float(result[0]) for result in results] == [2, 4, 6, 8]


def test_other_memory_is_recorded_anew() -> None:
    calls, step = counting()
    captured, x, y = Captured(step), torch.zeros(2), torch.full((2,), 10.0)
    for _ in range(3):
        captured(x)
    assert captured(y)[0] is y and captured(y)[1].tolist() == [24.0, 24.0]
    assert x.tolist() == [3.0, 3.0] and calls == [3] and captured.recordings == 2
    # A view of the same memory is the same memory.
    captured(y[:])
    assert y.tolist() == [13.0, 13.0] and captured.recordings == 2


def test_what_cannot_be_recorded_runs_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, step = counting()

    def failing(x: torch.Tensor) -> Any:
        if Graph.recording is not None:
            Graph.recording = None
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return step(x)

    captured, x = Captured(failing), torch.zeros(1)
    captured(x)
    with pytest.warns(
        UserWarning,
        match="not possible for this model, which runs slower: operation not permitted .* capturing$",
    ):
        captured(x)
    captured(x)
    assert x.tolist() == [3.0] and captured.recordings == 0
    assert Stream.current == "computing"


def test_what_cannot_be_recorded_is_named() -> None:
    def wait(x: torch.Tensor) -> torch.Tensor:
        if Graph.recording is not None:
            Graph.recording = None
            raise RuntimeError("operation not permitted when stream is capturing")
        return x

    source = (
        "def program(x):\n    v1 = f0(x)  # Sum{axes=None}\n    v2 = f1(v1)  # Nonzero\n    return (v2,)\n"
    )
    captured = Captured(define(source, "program", {"f0": torch.sum, "f1": wait}))
    captured(torch.ones(2))
    with pytest.warns(
        UserWarning, match="slower: Nonzero: operation not permitted when stream is capturing$"
    ):
        captured(torch.ones(2))


def test_on_the_cpu_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "graph", None)
    w = device.shared(np.zeros(2, "float32"))
    step = pytensor.function([], [], updates=[(w, w + 1)], mode=device.mode("cpu", capture=True))
    for _ in range(3):
        step()
    assert w.get_value().tolist() == [3.0, 3.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_compiled_step_replayed_is_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    device.use("cuda:0")
    try:
        values = []
        for capture in (False, True):
            random = np.random.default_rng(0)
            w, x = (device.shared(random.normal(size=(8, 8)).astype("float32")) for _ in range(2))
            loss = ((x @ w) ** 2).mean()
            update = [(w, w - np.float32(0.1) * pytensor.grad(loss, w))]
            mode = device.mode(capture=capture, return_internal_type=True)
            step = pytensor.function([], loss, updates=update, mode=mode)
            values.append([float(step()) for _ in range(6)] + [w.get_value()])
        np.testing.assert_allclose(values[0][:6], values[1][:6], rtol=1e-6)
        np.testing.assert_allclose(values[0][6], values[1][6], rtol=1e-6)
    finally:
        device.use("cpu")
