"""What reaches the device is what the loader made, whichever way it takes."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from theanompi import device
from theanompi.data import Batch, Loader, Sampler, open_dataset
from theanompi.device import Pinned
from theanompi.training.feed import Feed, Inputs

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=CUDA)])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    device.use(request.param)
    yield request.param
    device.use("cpu")


def expected(loader: Loader, sampler: Sampler) -> list[list[np.ndarray]]:
    batches = (batch for units in loader.train(sampler, epoch=1) for batch in units)
    return [[np.array(field) for field in fields(batch)] for batch in batches]


def fields(batch: Batch) -> tuple[np.ndarray, ...]:
    return batch.images, batch.labels, batch.boxes, batch.keys, batch.colors, batch.weights


def test_every_batch_arrives_in_order(place: str) -> None:
    sampler = Sampler(1437, 50, 1, 0, 1, seed=4)
    with open_dataset("digits") as data, Loader(data, batch_size=50, image_size=32, seed=4) as loader:
        batches = expected(loader, sampler)
        assert len(batches) == 28
        inputs, pinned = Inputs(50, (32, 32, 1)), Pinned(loader.memory)
        feed = Feed(inputs, (batch for units in loader.train(sampler, epoch=1) for batch in units))
        for number, batch in enumerate(batches):
            feed.load()
            if number % 3:  # what is not staged early is loaded late
                feed.stage()
            for tensor, field in zip(inputs.tensors(), batch, strict=True):
                np.testing.assert_array_equal(tensor.cpu().numpy(), field)
            np.testing.assert_array_equal(inputs.images.get_value(), batch[0].transpose(0, 3, 1, 2))
        with pytest.raises(StopIteration):
            feed.load()
        pinned.release()


def test_on_the_cpu_images_are_not_copied() -> None:
    device.use("cpu")
    with open_dataset("digits") as data, Loader(data, batch_size=50, image_size=32) as loader:
        inputs = Inputs(50, (32, 32, 1))
        feed = Feed(inputs, loader.validation(size=1, rank=0))
        feed.load()
        start = loader.memory.ctypes.data
        assert start <= inputs.images.tensor.data_ptr() < start + loader.memory.nbytes
    # What is used stays, whatever becomes of the loader.
    np.testing.assert_array_equal(inputs.images.get_value()[7, 0], data_pixels(7))


def data_pixels(i: int) -> np.ndarray:
    with open_dataset("digits") as data:
        return data.pixels("val", i)[..., 0]


def test_a_second_stream_takes_over(place: str) -> None:
    sampler = Sampler(1437, 50, 1, 0, 1, seed=0)
    with open_dataset("digits") as data, Loader(data, batch_size=50, image_size=32) as loader:
        inputs = Inputs(50, (32, 32, 1))
        feed = Feed(inputs, (batch for units in loader.train(sampler, epoch=0) for batch in units))
        feed.load()
        feed.stage()
        feed = Feed(inputs, loader.validation(size=1, rank=0))
        feed.load()
        np.testing.assert_array_equal(inputs.labels.get_value(), data.labels("val")[:50])
