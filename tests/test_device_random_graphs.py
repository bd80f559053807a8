"""Random small graphs with shared variables and updates: ours against PyTensor's own interpreter.

Square matrices, views and a handful of shared variables make every kind of aliasing likely: an update that is
a view of another variable, two that swap, a result in storage that is written later.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from tolerance import assert_close

from theanompi import device

SIDE = 3
SHAPES = [(SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE), (SIDE,), (1, SIDE), (SIDE, 1), ()]
CALLS = 3
GRAPHS, CHUNKS = 100, 5


def of_shape(rng: np.random.Generator, pool: list[Any], *shapes: tuple[int, ...]) -> Any:
    found = [v for v in pool if v.type.shape in shapes and v.dtype == "float64"]
    return found[rng.integers(len(found))]


def grow(rng: np.random.Generator, pool: list[Any]) -> Any:
    """One more variable, made of those in the pool."""
    full, row, column = (SIDE, SIDE), (1, SIDE), (SIDE, 1)
    x = of_shape(rng, pool, full)
    v = of_shape(rng, pool, (SIDE,))
    narrow = of_shape(rng, pool, full, (SIDE,), row, column, ())
    any_v = pool[rng.integers(len(pool))]
    k = int(rng.integers(SIDE))
    choices: list[Callable[[], Any]] = [
        lambda: pt.tanh(narrow),
        lambda: -narrow,
        lambda: pt.abs(narrow),
        lambda: device.ops.relu(narrow),
        lambda: x + narrow,
        lambda: x - narrow,
        lambda: narrow - x,
        lambda: 0.5 * x * narrow,
        lambda: x + 0.25 * narrow,
        lambda: pt.maximum(x, narrow),
        lambda: pt.sin(x) - 0.5 * narrow + pt.exp(-abs(v)),
        lambda: pt.switch(pt.eq(pt.arange(SIDE) % 2, k % 2), x, narrow),
        lambda: x.T,
        lambda: v.dimshuffle("x", 0),
        lambda: v.dimshuffle(0, "x"),
        lambda: x.reshape((SIDE * SIDE,))[k : k + SIDE],
        lambda: x.reshape((SIDE * SIDE,)).reshape((SIDE, SIDE)),
        lambda: x[k],
        lambda: x[:, k],
        lambda: x[k : k + 1],
        lambda: x[:, k : k + 1],
        lambda: x[k, 0],
        lambda: x[[k, 0, k]],
        lambda: x.sum(axis=k % 2),
        lambda: x.max(axis=k % 2, keepdims=True),
        lambda: any_v.sum(),
        lambda: pt.set_subtensor(x[k], v),
        lambda: pt.inc_subtensor(x[:, k : k + 1], of_shape(rng, pool, column)),
        lambda: pt.set_subtensor(x[k:, 0], 1.0),
        lambda: pt.tanh(pt.dot(x, of_shape(rng, pool, full))),
        lambda: pt.tanh(pt.dot(x, v)),
        lambda: pt.concatenate([x[1:], x[:1]]),
        lambda: pt.cast(pt.ge(narrow, 0.1), "int64") + pool[0],
        lambda: pool[0] * 2 + pt.arange(SIDE),
    ]
    return choices[rng.integers(len(choices))]()


def host_shared(value: Any, name: str) -> Any:
    return pytensor.shared(value, name, shape=np.shape(value))


def build(seed: int, shared: Callable[[Any, str], Any], host: Callable[[Any, str], Any], mode: Any) -> Any:
    """The compiled function of `seed` and its shared variables."""
    rng = np.random.default_rng(seed)
    store = [shared(rng.integers(0, 9, SIDE), "count")]
    for i, shape in enumerate(SHAPES):
        store.append((host if i == 2 or rng.random() < 0.15 else shared)(rng.normal(size=shape), f"w{i}"))
    pool: list[Any] = list(store)
    for _ in range(rng.integers(6, 18)):
        pool.append(grow(rng, pool))
    results = [pool[i] for i in rng.integers(len(pool), size=rng.integers(1, 5))]
    updates = []
    for w in store:
        fitting = [v for v in pool if v.type == w.type and (v is not w or rng.random() < 0.2)]
        if fitting and rng.random() < 0.8:
            # The newest are preferred: a long graph before the update.
            pick = fitting[-1] if rng.random() < 0.4 else fitting[rng.integers(len(fitting))]
            updates.append((w, pick))
    return pytensor.function([], results, updates=updates, mode=mode), store


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_graph_as_pytensor(chunk: int) -> None:
    for seed in range(chunk, GRAPHS, CHUNKS):
        f, ours = build(seed, device.shared, host_shared, device.mode("cpu"))
        g, theirs = build(seed, host_shared, host_shared, Mode("py", "fast_compile"))
        where = [w.tensor.data_ptr() if isinstance(w, device.DeviceSharedVariable) else None for w in ours]
        earlier: list[tuple[np.ndarray, np.ndarray]] = []
        for call in range(CALLS):
            for i, (got, expected) in enumerate(zip(f(), g(), strict=True)):
                assert_close(got, expected, f"graph {seed}, call {call}, output {i}")
                earlier.append((got, np.array(got)))
            for a, b in zip(ours, theirs, strict=True):
                assert_close(a.get_value(), b.get_value(), f"graph {seed}, call {call}, shared {a.name}")
        for got, copy in earlier:
            np.testing.assert_array_equal(got, copy, err_msg=f"graph {seed}: a later call changed an output")
        for w, address in zip(ours, where, strict=True):
            assert address is None or w.tensor.data_ptr() == address, f"graph {seed}: {w.name} moved"
