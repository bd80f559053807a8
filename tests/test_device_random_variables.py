"""PyTensor's random variables under our mode: the values of its interpreter, bit for bit, and streams that go on."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.compile.builders import OpFromGraph
from pytensor.tensor.random.utils import RandomStream

from theanompi import device

MODES = (lambda: device.mode("cpu"), lambda: "FAST_COMPILE")
P = np.array([[0.2, 0.3, 0.5], [0.9, 0.1, 0.0]])


def same(build: Callable[[], tuple[list[Any], dict[Any, Any]]], calls: int = 2) -> list[list[np.ndarray]]:
    """Several calls' values, after comparing them and the generators with those of PyTensor's interpreter."""
    results = []
    with pytensor.config.change_flags(mode="FAST_COMPILE", cxx=""):
        for mode in MODES:
            outputs, updates = build()
            f = pytensor.function([], outputs, updates=updates, mode=mode())
            values = [f() for _ in range(calls)]
            results.append((values, [w.get_value().bit_generator.state for w in updates]))
    (ours, states), (theirs, expected_states) = results
    for got, expected in zip(ours, theirs, strict=True):
        for g, e in zip(got, expected, strict=True):
            assert g.dtype == e.dtype
            np.testing.assert_array_equal(g, e)
    assert states == expected_states
    return ours


def test_every_kind_of_draw_and_a_stream_that_goes_on() -> None:
    def build() -> tuple[list[Any], dict[Any, Any]]:
        start = rng = pt.random.shared_rng(np.random.default_rng(3))
        mean = pt.as_tensor(np.array([0.0, 10.0], "float32"))
        draws = []
        for name, arguments, size in (
            ("normal", (mean, 2.0), (4, 2)),
            ("uniform", (-1.0, mean), None),
            ("binomial", (10, 0.3), (3,)),
            ("bernoulli", (pt.as_tensor(P),), None),
            ("categorical", (pt.as_tensor(P),), (5, 2)),
            ("integers", (0, 7), (2, 3)),
            ("permutation", (np.arange(6),), None),
            ("choice", (np.arange(9.0),), (4,)),
            ("multinomial", (5, pt.as_tensor(P)), None),
            ("multivariate_normal", (np.zeros(2), np.eye(2)), (3,)),
            ("poisson", (pt.exp(mean / 5),), (2, 2)),
            ("beta", (2.0, 3.0), ()),
        ):
            rng, draw = getattr(rng, name)(*arguments, **({} if size is None else {"size": size}))
            draws.append(draw)
        return draws, {start: rng}

    first, second = same(build)
    assert all((a != b).any() for a, b in zip(first[:2], second[:2], strict=True))


def test_random_streams_update_themselves() -> None:
    def build() -> tuple[list[Any], dict[Any, Any]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = RandomStream(7)
            noise = stream.normal(size=(2, 3))
            outputs = [noise, noise * 2, stream.uniform(size=2), stream.permutation(5)]
        return outputs, {}

    first, second = same(build)
    np.testing.assert_array_equal(first[1], first[0] * 2)
    assert (first[0] != second[0]).any()


def test_a_generator_without_an_update_stays_where_it_is() -> None:
    rng = pt.random.shared_rng(np.random.default_rng(3))
    after, draw = rng.normal(size=3)
    f = pytensor.function([], [draw, after], mode=device.mode("cpu"))
    (first, after_first), (second, after_second) = f(), f()
    np.testing.assert_array_equal(first, second)
    assert after_first is not after_second
    np.testing.assert_array_equal(after_first.normal(size=2), after_second.normal(size=2))
    expected = np.random.default_rng(3)
    np.testing.assert_array_equal(first, expected.normal(size=3))
    assert rng.get_value().bit_generator.state == np.random.default_rng(3).bit_generator.state


def test_a_draw_for_each_step_of_a_loop_and_within_an_op() -> None:
    def build() -> tuple[list[Any], dict[Any, Any]]:
        rng = pt.random.shared_rng(np.random.default_rng(5))

        def step(total: Any, rng: Any) -> list[Any]:
            rng, noise = rng.normal(total, size=(2,))
            return [total + noise, rng]

        walk, after = pytensor.scan(step, outputs_info=[pt.zeros(2), rng], n_steps=4, return_updates=False)
        inner = rng.type()
        later, draw = OpFromGraph([inner], list(inner.uniform(size=2)))(after)
        return [walk, draw], {rng: later}

    (walk, _), (again, _) = same(build)
    total, rng = np.zeros(2), np.random.default_rng(5)
    for row in walk:
        total = total + rng.normal(total, size=2)
        np.testing.assert_array_equal(row, total)
    assert (walk != again).any()


def test_a_draw_of_what_is_on_the_device_is_differentiable_through_its_parameters() -> None:
    w = device.shared(np.array([1.0, 2.0]), "w")
    rng = pt.random.shared_rng(np.random.default_rng(1))
    after, noise = rng.normal(size=2)
    y = (w * noise).sum()
    f = pytensor.function([], [y], updates=[(w, w - pt.grad(y, w)), (rng, after)], mode=device.mode("cpu"))
    expected, draws = np.array([1.0, 2.0]), np.random.default_rng(1)
    for _ in range(3):
        f()
        expected = expected - draws.normal(size=2)
    np.testing.assert_allclose(w.get_value(), expected, rtol=1e-14)


def test_the_seed_may_be_part_of_the_graph() -> None:
    seed = pt.iscalar("seed")
    _, draw = pt.random.default_rng(seed).normal(size=3)
    f = pytensor.function([seed], draw, mode=device.mode("cpu"))
    np.testing.assert_array_equal(f(4), np.random.default_rng(4).normal(size=3))
