"""What reaches the device is what the loader made, whichever way it takes."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.photographs import pictures
from theanompi import device
from theanompi.data import Field, Loader, Sampler, open_dataset
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


def test_a_field_is_held_as_numbers_that_the_device_computes_with(place: str) -> None:
    held = {
        "uint16": "int32",
        "uint32": "int64",
        "uint64": "int64",
        "float16": "float32",
        "float64": "float32",
    }
    kept = dict.fromkeys(("bool", "uint8", "int16", "int32", "int64", "float32"))
    read = {dtype: Field(dtype, (2,)) for dtype in (*held, *kept)}
    inputs = Inputs(SimpleNamespace(read=read, given={"weights": Field("float32", (2,))}), 3)
    assert inputs.adopted == set(kept)
    fields = {dtype: np.arange(6).reshape(3, 2).astype(dtype) for dtype in read}
    fields["weights"] = np.ones((3, 2), "float32")
    Feed(inputs, iter([SimpleNamespace(fields=fields)])).load()
    for name, array in fields.items():
        value = inputs.variables[name].get_value()
        assert value.dtype == held.get(name, array.dtype), name
        np.testing.assert_array_equal(value, array.astype(value.dtype))
        adopted = inputs.variables[name].tensor.data_ptr() == array.ctypes.data
        assert adopted == (place == "cpu" and name in kept), name


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
