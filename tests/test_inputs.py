"""What reaches the device is what the loader made, whichever way it takes."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.photographs import pictures
from theanompi import device
from theanompi.data import Loader, Sampler, open_dataset
from theanompi.device import Pinned
from theanompi.training.inputs import Feed, Inputs

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=CUDA)])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    device.use(request.param)
    yield request.param
    device.use("cpu")


def expected(loader: Loader, sampler: Sampler) -> list[dict[str, np.ndarray]]:
    batches = (batch for units in loader.train(sampler, epoch=1) for batch in units)
    return [{name: np.array(field) for name, field in batch.fields.items()} for batch in batches]


def test_every_batch_arrives_in_order(place: str) -> None:
    sampler = Sampler(1437, 50, 1, 0, 1, seed=4)
    with open_dataset("digits") as data, Loader(pictures(data, seed=4), batch_size=50) as loader:
        batches = expected(loader, sampler)
        assert len(batches) == 28
        inputs, pinned = Inputs(pictures(data), 50), Pinned(loader.memory)
        feed = Feed(inputs, (batch for units in loader.train(sampler, epoch=1) for batch in units))
        for number, batch in enumerate(batches):
            feed.load()
            if number % 3:  # what is not staged early is loaded late
                feed.stage()
            assert set(inputs.variables) == {"images", "boxes", "colors", "labels", "keys", "weights"}
            for name, variable in inputs.variables.items():
                np.testing.assert_array_equal(variable.get_value(), batch[name])
        with pytest.raises(StopIteration):
            feed.load()
        pinned.release()


def test_on_the_cpu_images_are_not_copied() -> None:
    device.use("cpu")
    with open_dataset("digits") as data, Loader(pictures(data), batch_size=50) as loader:
        inputs = Inputs(pictures(data), 50)
        feed = Feed(inputs, loader.validation(size=1, rank=0))
        feed.load()
        start = loader.memory.ctypes.data
        assert start <= inputs.variables["images"].tensor.data_ptr() < start + loader.memory.nbytes
    # What is used stays, whatever becomes of the loader.
    np.testing.assert_array_equal(inputs.variables["images"].get_value()[7, ..., 0], data_pixels(7))


def data_pixels(i: int) -> np.ndarray:
    with open_dataset("digits") as data:
        return data.pixels("val", i)[..., 0]


def test_a_second_stream_takes_over(place: str) -> None:
    sampler = Sampler(1437, 50, 1, 0, 1, seed=0)
    with open_dataset("digits") as data, Loader(pictures(data), batch_size=50) as loader:
        inputs = Inputs(pictures(data), 50)
        feed = Feed(inputs, (batch for units in loader.train(sampler, epoch=0) for batch in units))
        feed.load()
        feed.stage()
        feed = Feed(inputs, loader.validation(size=1, rank=0))
        feed.load()
        np.testing.assert_array_equal(inputs.variables["labels"].get_value(), data.labels("val")[:50])
