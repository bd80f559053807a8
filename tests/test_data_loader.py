"""The background loader: the right batches in the right order, errors handed over, and no way to hang."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from theanompi.data import Batch, Loader, Sampler, open_dataset, schema
from theanompi.data.augment import evaluation_boxes, train_boxes
from theanompi.data.random import sample_keys
from theanompi.data.schema import Dataset

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return open_dataset("digits")


def batch(i: int) -> Batch:
    zeros = np.zeros(1, np.int64)
    return Batch(
        np.zeros((1, 2, 2, 1), np.uint8),
        zeros,
        zeros + i,
        np.zeros((1, 5), np.float32),
        zeros,
        np.ones(1, np.float32),
    )


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


@pytest.mark.parametrize("size, accumulation", [(1, 4), (2, 2), (4, 1), (3, 5)])
def test_training_batches(digits: Dataset, size: int, accumulation: int) -> None:
    for rank in range(size):
        sampler = Sampler(digits.n_train, 16, size, rank, accumulation, seed=5)
        start = sampler.iterations_per_epoch - 3
        expected = list(sampler.batches(2, start))
        with Loader.train(digits, sampler, epoch=2, start=start) as loader:
            got = [list(units) for units in loader.iterations()]
        assert [len(units) for units in got] == [len(units) for units in expected]
        for one, ids in zip(sum(got, []), sum(expected, []), strict=True):
            images, labels = digits.read("train", ids)
            np.testing.assert_array_equal(one.ids, ids)
            np.testing.assert_array_equal(one.images, images)
            np.testing.assert_array_equal(one.labels, labels)
            np.testing.assert_array_equal(one.boxes, train_boxes("shift", 32, 32, 5, 2, ids))
            np.testing.assert_array_equal(one.keys, sample_keys(5, 2, ids))
            np.testing.assert_array_equal(one.weights, np.ones(16, np.float32))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_validation_batches_count_every_image_once(digits: Dataset, size: int) -> None:
    count = np.zeros(digits.n_val)
    for rank in range(size):
        with Loader.validation(digits, batch_size=32, size=size, rank=rank) as loader:
            for one in loader:
                np.add.at(count, one.ids, one.weights)
                images, labels = digits.read("val", one.ids)
                np.testing.assert_array_equal(one.images, images)
                np.testing.assert_array_equal(one.labels, labels)
                np.testing.assert_array_equal(one.boxes, evaluation_boxes("shift", 32, 32, 32))
                assert one.images.shape == (32, 32, 32, 1) and one.weights.dtype == np.float32
    np.testing.assert_array_equal(count, 1)


def test_it_reads_from_the_file_too(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "IN_MEMORY_BYTES", 0)
    sampler = Sampler(digits.n_train, 16, 1, 0, 1, seed=0)
    start = sampler.iterations_per_epoch - 3
    with open_dataset(Path(schema.__file__).with_name("digits.h5")) as on_disk:
        with Loader.train(on_disk, sampler, 0, start) as a, Loader.train(digits, sampler, 0, start) as b:
            for from_file, from_memory in zip(a, b, strict=True):
                np.testing.assert_array_equal(from_file.images, from_memory.images)
                np.testing.assert_array_equal(from_file.labels, from_memory.labels)


def test_a_group_left_early_does_not_shift_the_next() -> None:
    with Loader(map(batch, range(6)), units=[3, 0, 2, 1]) as loader:
        groups = loader.iterations()
        assert next(next(groups)).ids[0] == 0
        assert [[int(one.ids[0]) for one in units] for units in groups] == [[], [3, 4], [5]]


@pytest.mark.parametrize("depth", [1, 4])
def test_it_reads_ahead_but_only_so_far(depth: int) -> None:
    made: list[int] = []

    def source() -> Iterator[Batch]:
        for i in range(20):
            made.append(i)
            yield batch(i)

    with Loader(source(), depth=depth) as loader:
        for taken in range(3):
            deadline = time.monotonic() + 10
            # `depth` wait in the queue and one more in the thread's hands.
            while len(made) < taken + depth + 1 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)
            assert len(made) == taken + depth + 1
            assert next(loader).ids[0] == taken


def test_the_thread_is_a_daemon_and_gone_after_the_end() -> None:
    with Loader(map(batch, range(3)), depth=1) as loader:
        assert all(thread.daemon for thread in loader_threads()) and len(loader_threads()) == 1
        assert [int(one.ids[0]) for one in loader] == [0, 1, 2]
        with pytest.raises(StopIteration):
            next(loader)
    assert not loader_threads()


class OddError(Exception):
    """Of a type that nothing else raises."""


@pytest.mark.parametrize("good", [0, 2, 10])
def test_an_error_in_the_thread_reaches_the_consumer_as_itself(good: int) -> None:
    def source() -> Iterator[Batch]:
        yield from map(batch, range(good))
        raise OddError("image 17 has gone")

    with Loader(source(), depth=2) as loader:
        for i in range(good):
            assert next(loader).ids[0] == i
        with pytest.raises(OddError, match="^image 17 has gone$") as error:
            next(loader)
        # Where it really happened is in its traceback.
        assert error.traceback[-1].name == "source"
        with pytest.raises(StopIteration):
            next(loader)


def test_an_exit_in_the_thread_does_not_leave_the_consumer_waiting() -> None:
    def source() -> Iterator[Batch]:
        yield batch(0)
        sys.exit("the thread only")

    with Loader(source()) as loader, pytest.raises(SystemExit, match="the thread only"):
        list(loader)


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("depth", [1, 4])
def test_closing_early_does_not_hang(taken: int, depth: int) -> None:
    def source() -> Iterator[Batch]:
        i = 0
        while True:
            yield batch(i)
            i += 1

    for pause in (0.0, 0.02):
        loader = Loader(source(), depth=depth)
        for _ in range(taken):
            next(loader)
        time.sleep(pause)
        loader.close()
        loader.close()
        assert not loader_threads()
        with pytest.raises(ValueError, match="^loader: expected an open loader, got a closed one$"):
            next(loader)


@pytest.mark.parametrize("end", ["pass", "raise OddError"])
def test_closing_at_any_moment_near_the_end_does_not_hang(end: str) -> None:
    def source() -> Iterator[Batch]:
        yield from map(batch, range(3))
        if end != "pass":
            raise OddError

    for attempt in range(300):
        loader = Loader(source(), depth=1 + attempt % 3)
        for _ in range(attempt % 4):
            next(loader)
        loader.close()
    assert not loader_threads()


def test_an_error_in_the_consumer_closes_the_loader() -> None:
    with pytest.raises(OddError), Loader(map(batch, range(100)), depth=2):
        raise OddError
    assert not loader_threads()


def test_a_forgotten_loader_does_not_keep_the_process_alive() -> None:
    code = (
        "import itertools; from theanompi.data import Loader; "
        "loader = Loader(itertools.repeat('x'), depth=2); print(next(loader))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=25)
    assert (result.returncode, result.stdout, result.stderr) == (0, "x\n", "")


def test_errors(digits: Dataset) -> None:
    with pytest.raises(ValueError, match="^loader: expected depth of at least 1, got 0$"):
        Loader(iter([]), depth=0)
    other = Sampler(100, 16, 1, 0, 1, seed=0)
    with pytest.raises(
        ValueError, match="^loader: expected a sampler over 1437 training images, got one over 100$"
    ):
        Loader.train(digits, other, epoch=0)
    sampler = Sampler(digits.n_train, 16, 1, 0, 1, seed=0)
    with pytest.raises(ValueError, match="^sampler: expected a start from 0 to 89, got 90$"):
        Loader.train(digits, sampler, epoch=0, start=90)
    assert not loader_threads()
