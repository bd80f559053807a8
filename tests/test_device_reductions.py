"""Ops that reduce, sort and search, for each dtype on special values: against PyTensor's interpreter."""

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from interpreter import DTYPES, assert_as_interpreted, difference, on_device, special_values
from pytensor.tensor.extra_ops import CumOp, SearchsortedOp, bartlett, fill_diagonal, fill_diagonal_offset
from pytensor.tensor.math import All, Argmax, Max, Min, Prod, ProdWithoutZeros, Sum
from pytensor.tensor.math import Any as AnyOp
from pytensor.tensor.sort import SortOp

from theanompi import device

MODE = device.mode("cpu")
AXES = [None, (), (0,), (1,), (2,), (0, 2), (1, 2)]


def cube(dtype: str, seed: int = 0) -> np.ndarray:
    """Special values in an array of three axes, with repeated ones."""
    values = special_values(dtype)
    return np.random.default_rng(seed).choice(values, (2, 3, 7))


@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions(dtype: str) -> None:
    value = cube(dtype)
    x = pt.tensor(dtype=dtype, shape=(None, None, None))
    mild = np.where(np.isfinite(value.astype("float64")), value, 1).astype(dtype)
    mild = (mild % 3).astype(dtype) if dtype != "bool" else mild
    for axis in AXES:
        for op in (Max, Min, All, AnyOp):
            node = op(axis=axis)(x).owner
            if op in (Max, Min) or dtype == "bool":
                assert_as_interpreted(node, [value])
        assert_as_interpreted(Argmax(axis=axis if axis is None else tuple(axis))(x).owner, [value])
        for op in (Sum, Prod, ProdWithoutZeros):
            assert_as_interpreted(op(axis=axis)(x).owner, [mild])
        if dtype not in ("bool", "float16"):
            assert_as_interpreted(
                Sum(axis=axis, dtype=dtype)(x).owner, [value] if dtype[0] != "f" else [mild]
            )
            assert_as_interpreted(Prod(axis=axis, dtype=dtype, no_zeros_in_input=True)(x).owner, [mild])
        assert_as_interpreted(Sum(axis=axis, dtype="float64")(x).owner, [mild])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_propagate_infinity_and_nan(dtype: str) -> None:
    x = pt.matrix(dtype=dtype)
    value = np.array([[1, np.inf], [np.inf, -np.inf], [np.nan, 1]], dtype)
    for op in (Sum, Prod, Max, Min, Argmax):
        assert_as_interpreted(op(axis=(1,))(x).owner, [value])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint64", "int64", "float32"])
def test_what_nothing_reduces_to(dtype: str) -> None:
    x = pt.matrix(dtype=dtype)
    for shape in ((0, 3), (3, 0), (0, 0)):
        empty = np.zeros(shape, dtype)
        for axis in (None, (0,), (1,)):
            for op in (Sum, Prod):
                assert_as_interpreted(op(axis=axis)(x).owner, [empty])
            if dtype == "bool":
                assert_as_interpreted(All(axis=axis)(x).owner, [empty])
                assert_as_interpreted(AnyOp(axis=axis)(x).owner, [empty])
            reduced = shape if axis is None else [shape[axis[0]]]
            for op, message in (
                (Max, "reduction operation maximum which has no identity"),
                (Min, "reduction operation minimum which has no identity"),
                (Argmax, "argmax of an empty sequence"),
            ):
                node = op(axis=axis)(x).owner
                if 0 in reduced:
                    with pytest.raises(ValueError, match=message):
                        on_device(node, [empty])
                else:
                    assert_as_interpreted(node, [empty])


@pytest.mark.parametrize("dtype", DTYPES)
def test_cumulated_in_the_dtype_of_the_input(dtype: str) -> None:
    value = cube(dtype)
    x = pt.tensor(dtype=dtype, shape=(None, None, None))
    for axis in range(3):
        for mode, function in (("add", np.cumsum), ("mul", np.cumprod)):
            with np.errstate(all="ignore"):
                expected = function(value, axis=axis, dtype=dtype)
            (got,) = on_device(CumOp(axis, mode)(x).owner, [value])
            assert not difference(got, expected), (axis, mode, difference(got, expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["quicksort", "stable"])
def test_sorted(dtype: str, kind: Any) -> None:
    value = cube(dtype)
    x = pt.tensor(dtype=dtype, shape=(None, None, None))
    for axis in (0, 1, -1):
        # Before PyTensor 3.3 the axis is a further input, which may be known late.
        given = [] if "axis" in SortOp.__props__ else [np.int64(axis)]
        for node in (pt.sort(x, axis, kind).owner, *([SortOp(kind)(x, pt.lscalar()).owner] if given else [])):
            assert_as_interpreted(node, [value, *given])
        # Equal elements keep their order, which NumPy promises of the stable kind only.
        (got,) = on_device(pt.argsort(x, axis, kind).owner, [value, *given])
        np.testing.assert_array_equal(got, np.argsort(value, axis, "stable"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_searched(dtype: str, side: str) -> None:
    values = special_values(dtype)
    x, v, order = pt.vector(dtype=dtype), pt.matrix(dtype=dtype), pt.lvector()
    wanted = np.stack([values, values[::-1]])
    assert_as_interpreted(SearchsortedOp(side)(x, v).owner, [np.sort(values), wanted])
    assert_as_interpreted(SearchsortedOp(side)(x, v).owner, [values[:0], wanted])
    assert_as_interpreted(SearchsortedOp(side)(x, v, order).owner, [values, wanted, np.argsort(values)])
    for other in ("int8", "uint64", "float32"):
        y = pt.scalar(dtype=other)
        node = SearchsortedOp(side)(x, y).owner
        for number in (0, 1, 100):
            assert_as_interpreted(node, [np.sort(values), np.array(number, other)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nonzero_and_unique(dtype: str) -> None:
    value = cube(dtype)
    x, row = pt.tensor(dtype=dtype, shape=(None, None, None)), pt.vector(dtype=dtype)
    assert_as_interpreted(pt.nonzero(x)[0].owner, [value])
    assert_as_interpreted(pt.nonzero(row)[0].owner, [value.ravel()])
    assert_as_interpreted(pt.nonzero(x)[0].owner, [value[:0]])
    finite = np.where(np.isnan(value), 0, value).astype(dtype) if dtype.startswith("float") else value
    repeated = np.concatenate([finite, finite[:, ::-1]], axis=1)
    for options in range(8):
        index, inverse, counts = (bool(options >> k & 1) for k in range(3))
        for axis, v in ((None, value), (0, repeated), (1, repeated), (2, repeated)):
            found = pt.unique(x, index, inverse, counts, axis=axis)
            node = (found[0] if isinstance(found, list) else found).owner
            assert_as_interpreted(node, [v])
    assert_as_interpreted(pt.unique(row, True, True, True)[0].owner, [value.ravel()[:0]])


def test_all_nans_are_one_value() -> None:
    value = np.array([np.nan, 2, np.nan, 1, 2, np.nan])
    assert_as_interpreted(pt.unique(pt.dvector(), True, True, True)[0].owner, [value])


@pytest.mark.parametrize("order", ["C", "F"])
def test_flat_and_multiple_indices(order: Any) -> None:
    i, dims = pt.matrix(dtype="int32"), pt.as_tensor([2, 3, 4])
    numbers = np.array([[0, 23, 5], [7, 11, 2]], "int32")
    node = pt.unravel_index(i, dims, order=order)[0].owner
    assert_as_interpreted(node, [numbers, np.array([2, 3, 4])])
    with pytest.raises(ValueError, match="index 24 is out of bounds for array with size 24"):
        on_device(node, [numbers + 1, np.array([2, 3, 4])])
    assert_as_interpreted(pt.unravel_index(i, pt.as_tensor([24]))[0].owner, [numbers, np.array([24])])
    parts = [pt.vector(dtype=d) for d in ("int8", "int64", "int16")]
    inside = [np.array([0, 1], "int8"), np.array([2, 1]), np.array([3, 0], "int16")]
    outside = [np.array([-1, 5], "int8"), np.array([7, -4]), np.array([-9, 4], "int16")]
    for mode in ("raise", "wrap", "clip"):
        node = pt.ravel_multi_index(parts, dims, mode=mode, order=order).owner
        assert_as_interpreted(node, [*inside, np.array([2, 3, 4])])
        if mode == "raise":
            with pytest.raises(ValueError, match="invalid entry in coordinates array"):
                on_device(node, [*outside, np.array([2, 3, 4])])
        else:
            assert_as_interpreted(node, [*outside, np.array([2, 3, 4])])


@pytest.mark.parametrize("dtype", ["float64", "int8", "uint64"])
def test_diagonals_filled(dtype: str) -> None:
    for shape in ((3, 3), (3, 5), (5, 3), (0, 2), (3, 3, 3), (2, 2, 2, 2)):
        x, v, k = pt.tensor(dtype=dtype, shape=(None,) * len(shape)), pt.scalar(dtype=dtype), pt.lscalar()
        value = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        assert_as_interpreted(fill_diagonal(x, v).owner, [value, np.array(7, dtype)])
        if len(shape) == 2 and 0 not in shape:
            for offset in (-2, -1, 0, 1, 2):
                node = fill_diagonal_offset(x, v, k).owner
                assert_as_interpreted(node, [value, np.array(7, dtype), np.array(offset)])
    with pytest.raises(ValueError, match="All dimensions of input must be of equal length"):
        on_device(fill_diagonal(pt.dtensor3(), 1.0).owner, [np.zeros((2, 3, 2)), np.array(1.0)])


def test_windows() -> None:
    m = pt.lscalar()
    for length in (-1, 0, 1, 2, 7, 8):
        assert_as_interpreted(bartlett(m).owner, [np.array(length)])


@pytest.mark.parametrize("function", [pt.special.softmax, pt.special.log_softmax])
@pytest.mark.parametrize("dtype", ["int64", "float32", "float64"])
def test_softmax_over_any_axes(function: Any, dtype: str) -> None:
    x = pt.tensor3(dtype=dtype)
    value = np.random.default_rng(1).integers(-3, 4, (2, 3, 4)).astype(dtype)
    for axis in (None, 0, -1, (0, 2)):
        y = function(x, axis=axis)
        shifted = np.exp(value - value.max(axis, keepdims=True))
        expected = shifted / shifted.sum(axis, keepdims=True)
        expected = np.log(expected) if function is pt.special.log_softmax else expected
        (got,) = on_device(y.owner, [value])
        assert not difference(got, expected.astype(y.dtype))


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("shape", [(2, 0), (None, None)])
def test_there_is_no_softmax_of_nothing(shape: tuple[int | None, ...], axis: int | None) -> None:
    x = pt.tensor("x", dtype="float32", shape=shape)
    for function in (pt.special.softmax, pt.special.log_softmax):
        f = pytensor.function([x], function(x, axis=axis), mode=device.mode("cpu"))
        with pytest.raises(ValueError, match="zero-size array to reduction operation maximum"):
            f(np.zeros((2, 0), "float32"))


def test_gradients_through_sorts_and_products() -> None:
    x = pt.matrix("x", dtype="float64")
    value = np.array([[1.5, 0.0, -2.0], [0.5, 3.0, 0.25]])
    cost = (
        (pt.sort(x, axis=1)[:, 1] ** 2).sum()
        + pt.prod(x, axis=1).sum()
        + pt.cumprod(x + 3, axis=0).sum()
        + pt.max(x)
    )
    gradient = pytensor.grad(cost, x)
    reference = pytensor.function([x], gradient, mode=pytensor.compile.mode.Mode(linker="py", optimizer=None))
    np.testing.assert_allclose(
        pytensor.function([x], gradient, mode=MODE)(value), reference(value), rtol=1e-12
    )


def test_functions_made_of_these_ops() -> None:
    """Means, counts and ranks of unsigned integers, through the compiler."""
    x = pt.vector("x", dtype="uint16")
    outputs = [
        x.mean(),
        pt.bincount(x),
        pt.argmin(x),
        pt.argmax(x[0]),
        x.max() - x.min(),
        pt.diff(x),
        pt.std(x),
        pt.argsort(x)[::-1],
    ]
    value = np.array([7, 300, 2, 65, 7], "uint16")
    reference = pytensor.function([x], outputs, mode=pytensor.compile.mode.Mode(linker="py", optimizer=None))
    for got, expected in zip(
        pytensor.function([x], outputs, mode=MODE)(value), reference(value), strict=True
    ):
        assert not difference(got, np.asarray(expected))
