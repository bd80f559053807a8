"""What the tests of each model of the zoo do: train it, go on from a state, and train it on two ranks."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.mpi import run_warm
from theanompi import Model
from theanompi.record import checkpoint
from theanompi.rules import own_step

Arrays = dict[str, np.ndarray]


class Unrecorded:
    """A recorder that keeps nothing."""

    def start(self, doing: str = "") -> None: ...

    def end(self, *phases: str) -> None: ...

    def loaded(self, readings: Any) -> None: ...


class Trained(NamedTuple):
    """A model after some iterations, its state then, and by name what was measured in each of them."""

    model: Model
    arrays: Arrays
    curves: dict[str, list[float]]


def made(model: str, **run: Any) -> Model:
    """A model of the class ``module.Class``, compiled, with two batches to a minibatch."""
    module, _, name = model.rpartition(".")
    cls = getattr(__import__(module, fromlist=[name]), name)
    one: Model = cls({"devices": ["cpu"], "verbose": False, "accumulation": 2, **run})
    one.compile_iter_fns()
    return one


def train(model: Model, first: int, last: int) -> dict[str, list[float]]:
    """Make the iterations from `first` to before `last`; gives the mean of each loss and metric in each of them."""
    curves: dict[str, list[float]] = {}
    for iteration in range(first, last):
        model.epoch, count = divmod(iteration, model.data.n_batch_train)
        step, _ = own_step(model, count, Unrecorded())
        for name, (value, weight) in step.sums.items():
            curves.setdefault(name, []).append(value / weight)
    return curves


def goes_on(model: Model, first: int, last: int) -> Trained:
    """Train to `first` and on to `last`, and assert that from the state at `first` the same bits come once more."""
    curves = train(model, 0, first)
    before, etas = model.state_arrays(), model.last_etas()
    for name, values in train(model, first, last).items():
        curves.setdefault(name, []).extend(values)
    after = model.state_arrays()
    model.load_state_arrays(before, first, etas)
    train(model, first, last)
    equal(model.state_arrays(), after)
    return Trained(model, after, curves)


def on_two_ranks(model: str, iterations: int, out: Path, **run: Any) -> Arrays:
    """The state after some iterations of two ranks with a batch each, from their checkpoint."""
    module, _, name = model.rpartition(".")
    two = {"modelfile": module, "modelclass": name, "devices": ["cpu"] * 2, "out": str(out), "verbose": False}
    done = run_warm(2, {**two, **run, "max_iterations": iterations})
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(checkpoint.load(out / "checkpoint.h5")[0])


def same(found: Arrays, expected: Arrays, tolerance: float) -> None:
    """Assert that arrays are the same but for rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        atol = tolerance * max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


def equal(found: Arrays, expected: Arrays) -> None:
    """Assert that arrays are the same bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
