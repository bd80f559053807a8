"""Reading and writing parts of tensors: NumPy's meaning of every index, against NumPy and PyTensor's interpreter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.compile.mode import Mode
from tolerance import assert_close

from theanompi import device
from theanompi.device.dispatch import indexing

REFERENCE = Mode("py", None)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3, 5))
I = np.array([2, 0, -1, 2])  # noqa: E741
J = np.array([[1, -3], [2, 1]])
MASK = np.array([True, False, False, True])
MASK2 = RNG.random((4, 3)) > 0.5
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def values(build: Callable[..., Any], *arguments: np.ndarray, static: bool = True, mode: Any = None) -> Any:
    """What the graphs of `build` are computed to from `arguments`, here or in another mode."""
    inputs = [pt.tensor(dtype=a.dtype.name, shape=a.shape if static else (None,) * a.ndim) for a in arguments]
    outputs = build(*inputs)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    f = pytensor.function(inputs, outputs, mode=mode or device.mode("cpu"), on_unused_input="ignore")
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        return f(*arguments)


READS: dict[str, Callable[..., Any]] = {
    "integers and slices": lambda x, i, j, m, n: [x[1], x[-1, 2:, 3], x[..., -2], x[1:3, :, ::2], x[5:, 9:]],
    "backwards": lambda x, i, j, m, n: [
        x[::-1],
        x[1, ::-2, 3:0:-1],
        x[-1:0:-3, :, -5],
        x[0:2:-1],
        x[:, 1::-1],
    ],
    "numbers from the graph": lambda x, i, j, m, n: [
        x[i[0]],
        x[:, i[1] :, i[2]],
        x[i[0] :: i[2]],
        x[-i[0] : 3],
    ],
    "arrays": lambda x, i, j, m, n: [x[i], x[j], x[:, j], x[i, i], x[i[:2], :, i[:2]], x[..., i]],
    "arrays between slices": lambda x, i, j, m, n: [x[:, i, 1:], x[1:, j, ::2], x[::-1, i, ::-2], x[i, ::-1]],
    "arrays and integers": lambda x, i, j, m, n: [
        x[1, :, i],
        x[i, :, 2],
        x[0, j],
        x[:, 0, i],
        x[i[0], :, i],
        x[j, 1, j],
    ],
    "arrays that broadcast": lambda x, i, j, m, n: [x[i[:, None], :, i], x[j[:, :1], j], x[i[:1], :, j]],
    "new axes": lambda x, i, j, m, n: [
        x[:, None],
        x[None, i],
        x[i, None],
        x[:, None, i],
        x[i, None, :, i],
        x[1, None],
    ],
    "masks": lambda x, i, j, m, n: [x[m], x[n], x[m, 1], x[m, :, 2], x[n, 1:], x[:, :, 0][n], x[m, ::-1]],
    "masks and arrays": lambda x, i, j, m, n: [x[m, i[:2]], x[m, :, i[:2]], x[n, 2], x[x > 0]],
    "take": lambda x, i, j, m, n: [
        pt.take(x, i, axis=1),
        pt.take(x, j),
        x.take(j, axis=2),
        x.take(i[0], axis=0),
    ],
}


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("name", READS)
def test_reading_as_pytensor(name: str, static: bool) -> None:
    arguments = (X, I, J, MASK, MASK2)
    ours = values(READS[name], *arguments, static=static)
    for k, (got, expected) in enumerate(
        zip(ours, values(READS[name], *arguments, static=static, mode=REFERENCE), strict=True)
    ):
        assert_close(got, expected, f"{name}: output {k}")


def gradients(x: Any, *rest: Any) -> Callable[[Any], Any]:
    return lambda part: pytensor.grad((part**2 * pt.cos(pt.arange(part.size).reshape(part.shape))).sum(), x)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("name", READS)
def test_gradient_of_reading_as_pytensor(name: str, static: bool) -> None:
    def build(x: Any, *rest: Any) -> list[Any]:
        return [gradients(x)(part) for part in READS[name](x, *rest)]

    arguments = (X, I, J, MASK, MASK2)
    ours = values(build, *arguments, static=static)
    for k, (got, expected) in enumerate(
        zip(ours, values(build, *arguments, static=static, mode=REFERENCE), strict=True)
    ):
        assert_close(got, expected, f"{name}: output {k}")


PLACES: dict[str, Callable[..., Any]] = {
    "an integer": lambda x, i, j, m, n: x[1],
    "integers and slices": lambda x, i, j, m, n: x[-1, 1:, ::2],
    "one element": lambda x, i, j, m, n: x[0, 1, 2],
    "backwards": lambda x, i, j, m, n: x[::-1, 1, 3:0:-2],
    "numbers from the graph": lambda x, i, j, m, n: x[i[0], i[1] :: i[0]],
    "nothing": lambda x, i, j, m, n: x[2:1],
    "rows": lambda x, i, j, m, n: x[i],
    "a matrix of rows": lambda x, i, j, m, n: x[j],
    "an array between slices": lambda x, i, j, m, n: x[:, i, 1:],
    "arrays around a slice": lambda x, i, j, m, n: x[i, :, i],
    "matrices around a slice": lambda x, i, j, m, n: x[j, 1:, j],
    "an array and slices backwards": lambda x, i, j, m, n: x[::-1, i, ::-2],
    "an integer, a slice and an array": lambda x, i, j, m, n: x[1, :, i],
    "a mask": lambda x, i, j, m, n: x[m],
    "a mask of two axes": lambda x, i, j, m, n: x[n, ::-1],
    "a mask and a slice and an array": lambda x, i, j, m, n: x[m, :, i[:2]],
}


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_writing_as_pytensor(place: str, static: bool) -> None:
    def build(x: Any, *rest: Any) -> list[Any]:
        part = PLACES[place](x, *rest)
        value = pt.sin(pt.arange(part.size, dtype="float64")).reshape(part.shape)
        results = [
            pt.set_subtensor(part, value),
            pt.inc_subtensor(part, value),
            pt.set_subtensor(part, 2),
            pt.inc_subtensor(part, 1.5),
        ]
        if part.ndim:
            results += [pt.set_subtensor(part, value[..., :1]), pt.inc_subtensor(part, value.sum(axis=0))]
        return results

    arguments = (X, I, J, MASK, MASK2)
    # Broadcasting of lengths that are only known later is an error of PyTensor's.
    count = None if static else 4
    ours = values(lambda *v: build(*v)[:count], *arguments, static=static)
    theirs = values(lambda *v: build(*v)[:count], *arguments, static=static, mode=REFERENCE)
    for k, (got, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(got, expected, f"{place}: output {k}")


@pytest.mark.parametrize("place", PLACES)
def test_gradient_of_writing_as_pytensor(place: str) -> None:
    def build(x: Any, y: Any, *rest: Any) -> list[Any]:
        part = PLACES[place](x, *rest)
        value = y.reshape((-1,))[: part.size].reshape(part.shape)
        return [
            g
            for write in (pt.set_subtensor, pt.inc_subtensor)
            for g in pytensor.grad((write(part, value) ** 2).sum(), [x, y])
        ]

    arguments = (X, RNG.normal(size=(9, 25)), I % 3, J % 3, MASK, MASK2)
    if place in ("rows", "a matrix of rows", "an array between slices"):
        arguments = (
            X,
            RNG.normal(size=(9, 25)),
            np.array([2, 0, 1]),
            np.array([[1, 0], [2, -1]]),
            MASK,
            MASK2,
        )
    ours, theirs = values(build, *arguments), values(build, *arguments, mode=REFERENCE)
    for k, (got, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(got, expected, f"{place}: output {k}")


@pytest.mark.parametrize("dtype", INTEGERS)
def test_an_index_of_any_integer_dtype_is_no_mask(dtype: str) -> None:
    x, i = X.astype("float32"), np.array([2, 0, 1, 1], dtype)
    assert_close(values(lambda x, i: x[i], x, i)[0], x[i])
    assert_close(values(lambda x, i: x[:, i, 1:], x, i)[0], x[:, i, 1:])
    assert_close(values(lambda x, i: pt.take(x, i, axis=2), x, i)[0], x[:, :, i])
    expected = x.copy()
    np.add.at(expected, i, 1)
    assert_close(values(lambda x, i: pt.inc_subtensor(x[i], 1), x, i)[0], expected)
    assert_close(
        values(lambda x, i: pytensor.grad(x[i].sum(), x), x, i)[0],
        np.ones_like(x) * np.array([1, 2, 1, 0], "f")[:, None, None],
    )


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool", "float16", "float32", "complex64"])
def test_tensors_of_every_dtype_are_read_and_written(dtype: str) -> None:
    x = (X.reshape(12, 5) * 9).astype("int64").astype(dtype)
    y = x[3:6] + x[6:9]

    def build(x: Any, y: Any) -> list[Any]:
        i = np.array([4, 1, 4])
        return [
            x[::-2, 1:],
            x[i],
            x[i, ::-1],
            pt.set_subtensor(x[i], y),
            pt.inc_subtensor(x[i], y),
            pt.set_subtensor(x[9:6:-1], y),
            pt.inc_subtensor(x[9:6:-1], y),
            pt.inc_subtensor(x[:3], y),
        ]

    for k, (got, expected) in enumerate(
        zip(values(build, x, y), values(build, x, y, mode=REFERENCE), strict=True)
    ):
        assert got.dtype == expected.dtype and np.array_equal(got, expected), f"output {k}"


def test_what_is_written_by_arrays_with_slices_between_them_has_their_axes_in_front() -> None:
    x, y = pt.dtensor4(), pt.dtensor3()
    i, j = np.array([1, 0, 2]), np.array([4, 0, 1])
    values_of_x, values_of_y = (
        np.random.default_rng(1).normal(size=(2, 3, 4, 5)),
        np.arange(24.0).reshape(3, 2, 4),
    )
    part = x[:, i, :, j]
    f = pytensor.function(
        [x, y], [pt.set_subtensor(part, y), pt.inc_subtensor(part, y)], mode=device.mode("cpu")
    )
    expected = [values_of_x.copy(), values_of_x.copy()]
    expected[0][:, i, :, j] = values_of_y
    expected[1][:, i, :, j] += values_of_y
    for got, want in zip(f(values_of_x, values_of_y), expected, strict=True):
        np.testing.assert_array_equal(got, want)


OUTSIDE: dict[str, Callable[..., Any]] = {
    "an integer": lambda x, k: x[k],
    "a negative integer": lambda x, k: x[:, -k],
    "a row": lambda x, k: x[pt.stack([k, 0])],
    "a negative row": lambda x, k: x[1:, pt.stack([0, -k - 1])],
    "an integer set": lambda x, k: pt.set_subtensor(x[k], 0),
    "a row set": lambda x, k: pt.set_subtensor(x[pt.stack([k, 0])], 0),
    "a row incremented": lambda x, k: pt.inc_subtensor(x[:, pt.stack([k, 0])], 1),
}


@pytest.mark.parametrize("place", OUTSIDE)
def test_an_index_outside_is_an_error(place: str) -> None:
    with pytest.raises(IndexError, match="out of bounds|out of range"):
        values(OUTSIDE[place], X, np.array(6))


def test_a_mask_of_another_length_is_an_error() -> None:
    with pytest.raises(IndexError, match="does not match"):
        values(lambda x, m: x[m], X, np.ones(5, bool), static=False)
    with pytest.raises(IndexError, match="does not match"):
        values(lambda x, m: pt.set_subtensor(x[:, m], 0), X, np.ones(2, bool), static=False)


@pytest.mark.parametrize("write", [pt.set_subtensor, pt.inc_subtensor])
def test_a_value_that_does_not_fit_is_an_error(write: Callable[..., Any]) -> None:
    for part in (lambda x: x[1:3], lambda x: x[np.array([1, 0])], lambda x: x[:, np.array([1, 0])]):
        with pytest.raises(ValueError, match="could not broadcast"):
            values(lambda x, y, part=part: write(part(x), y), X, np.ones((3, 2, 4)), static=False)


def test_of_several_values_for_one_place_the_last_stays_and_sums_have_one_order() -> None:
    """Also with several threads, which torch lets write as they come."""
    rng = np.random.default_rng(1)
    i, j, y = (
        rng.integers(0, 50, 40_000),
        rng.integers(0, 3, (2, 20_000)),
        rng.normal(size=40_000).astype("f"),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        x = pt.vector(dtype="float32")
        f = pytensor.function(
            [x],
            [
                pt.set_subtensor(x[i], y),
                pt.inc_subtensor(x[i], y),
                pt.set_subtensor(x[j], y.reshape(2, -1)),
                pt.inc_subtensor(x[j], y.reshape(2, -1)),
            ],
            mode=device.mode("cpu"),
        )
        zeros = np.zeros(50, "f")
        expected = [zeros.copy() for _ in range(4)]
        expected[0][i], expected[2][j] = y, y.reshape(2, -1)
        np.add.at(expected[1], i, y)
        np.add.at(expected[3], j, y.reshape(2, -1))
        for _ in range(5):
            for got, wanted in zip(f(zeros), expected, strict=True):
                np.testing.assert_array_equal(got, wanted)
    finally:
        torch.set_num_threads(threads)
    assert not torch.are_deterministic_algorithms_enabled()


def test_results_and_operands_do_not_share_memory() -> None:
    w = device.shared(np.arange(6.0), name="w")
    i = np.array([1, 0])
    f = pytensor.function(
        [], [w[i], w[::-1], w[2:], pt.inc_subtensor(w[:2], 1)], updates=[(w, w + 10)], mode=device.mode("cpu")
    )
    for got, expected in zip(
        f(), ([1, 0], [5, 4, 3, 2, 1, 0], [2, 3, 4, 5], [1, 2, 2, 3, 4, 5]), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_an_update_writes_by_index() -> None:
    w = device.shared(np.zeros(4), name="w")
    i = pt.vector("i", dtype="uint8")
    step = pytensor.function([i], [], updates=[(w, pt.inc_subtensor(w[i], 1))], mode=device.mode("cpu"))
    step(np.array([3, 0, 3], "uint8"))
    step(np.array([1, 0, 3], "uint8"))
    np.testing.assert_array_equal(w.get_value(), [2, 1, 0, 3])


@pytest.mark.parametrize("mode", ["edge", "wrap", "constant", "linear_ramp", "mean"])
def test_padding_and_its_gradient_as_pytensor(mode: str) -> None:
    def build(x: Any) -> list[Any]:
        padded = pt.pad(x, 1, mode=mode)
        return [pt.pad(x, ((1, 2), (2, 1)), mode=mode), padded, pytensor.grad((padded**3).sum(), x)]

    x = RNG.normal(size=(4, 3))
    for got, expected in zip(values(build, x), values(build, x, mode=REFERENCE), strict=True):
        assert_close(got, expected, mode)


PARTS: dict[str, Callable[..., Any]] = {
    "first": lambda i, j: (i,),
    "second": lambda i, j: (slice(None), i),
    "two": lambda i, j: (i, slice(1, 3), j),
    "after what runs backwards": lambda i, j: (slice(None, None, -1), i, slice(4, 0, -2)),
    "after a known one": lambda i, j: (2, i),
    "before what runs backwards": lambda i, j: (i, 1, slice(None, None, -2)),
    "all": lambda i, j: (i, 1, j),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_by_a_number_that_is_not_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "_is_awaited", lambda number: isinstance(number, torch.Tensor))
    x, i, j = pt.tensor(shape=(None,) * 3, dtype="float64"), pt.lscalar(), pt.iscalar()
    for a, b in ((1, -1), (-3, 2), (0, 0)):
        here, place = PARTS[name](i, j), PARTS[name](a, b)
        new = RNG.normal(size=X[place].shape)
        outputs = [
            x[here],
            pt.set_subtensor(x[here], new),
            pt.set_subtensor(x[here], 7.0),
            pt.inc_subtensor(x[here], new),
            pytensor.grad((x[here] ** 2).sum(), x),
        ]
        f = pytensor.function([x, i, j], outputs, mode=device.mode("cpu"), on_unused_input="ignore")
        expected = [X[place], *(X.copy() for _ in range(3)), np.zeros_like(X)]
        for array, value in zip(expected[1:], (new, 7.0, X[place] + new, 2 * X[place]), strict=True):
            array[place] = value
        for result, array in zip(f(X, a, b), expected, strict=True):
            np.testing.assert_array_equal(result, array)
