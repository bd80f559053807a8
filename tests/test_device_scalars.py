"""Each scalar op for each dtype on special values: the device's function against PyTensor's interpreter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.scalar as ps
import pytensor.tensor as pt
import pytest
from interpreter import DTYPES, assert_as_interpreted, difference, interpreted, on_device, special_values
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Apply
from pytensor.scalar import math as special
from pytensor.scalar.basic import Composite
from pytensor.tensor.elemwise import Elemwise
from pytensor.tensor.math import mul_without_zeros

from theanompi import device

MIXED = [
    ("int64", "uint64"),
    ("uint64", "int64"),
    ("int8", "uint64"),
    ("bool", "int8"),
    ("uint8", "bool"),
    ("int8", "uint8"),
    ("uint32", "int32"),
    ("uint16", "uint32"),
    ("uint8", "float32"),
    ("int32", "float32"),
    ("float32", "uint64"),
    ("float32", "float64"),
    ("float16", "int16"),
    ("bool", "float64"),
]
# fmt: off
UNARY = [
    ps.isnan, ps.isinf, ps.invert, ps.identity, ps.abs, ps.sign, ps.ceil, ps.floor, ps.trunc, ps.neg,
    ps.round_half_to_even, ps.round_half_away_from_zero, ps.reciprocal, ps.log, ps.log2, ps.log10,
    ps.log1p, ps.exp, ps.exp2, ps.expm1, ps.sqr, ps.sqrt, ps.cos, ps.arccos,
    ps.sin, ps.arcsin, ps.tan, ps.arctan, ps.cosh, ps.arccosh, ps.sinh, ps.arcsinh, ps.tanh, ps.arctanh,
    ps.real, ps.imag, ps.conj, ps.erf, ps.erfc, ps.erfcx, ps.erfinv, ps.erfcinv, ps.gamma,
    ps.gammaln, ps.psi, ps.tri_gamma, ps.j0, ps.j1, ps.i0, ps.i1, ps.sigmoid, ps.softplus, ps.log1mexp,
]
BINARY = [
    ps.add, ps.sub, ps.mul, ps.true_div, ps.int_div, ps.mod, ps.pow, ps.maximum, ps.minimum, ps.second,
    ps.lt, ps.gt, ps.le, ps.ge, ps.eq, ps.neq, ps.or_, ps.and_, ps.xor, ps.arctan2, mul_without_zeros,
    ps.gammainc, ps.gammaincc,
]
# fmt: on
# PyTensor 3.2 says these in others.
UNARY += [getattr(ps, name) for name in ("deg2rad", "rad2deg", "angle") if hasattr(ps, name)]
BINARY += [getattr(special, name) for name in ("gammau", "gammal") if hasattr(special, name)]


def typed(op: Any, dtypes: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Apply | None:
    """The node, if PyTensor has one for these dtypes."""
    try:
        variables = [pt.tensor(dtype=d, shape=s) for d, s in zip(dtypes, shapes, strict=True)]
        return Elemwise(op)(*variables).owner
    except (TypeError, NotImplementedError):
        return None


def check(op: Any, dtypes: Sequence[str], values: list[np.ndarray]) -> None:
    node = typed(op, dtypes, [v.shape for v in values])
    if node is not None:
        assert_as_interpreted(node, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_one_operand(dtype: str) -> None:
    for op in UNARY:
        # Of these the interpreter has half precision: NumPy's for small integers.
        if op is ps.softplus and dtype == "bool":
            continue
        values = special_values(dtype)
        # J of numbers as large as these has no digit that is right.
        check(op, [dtype], [values[abs(values.astype(float)) < 2**50] if op in (ps.j0, ps.j1) else values])


@pytest.mark.parametrize("dtypes", [*((d, d) for d in DTYPES), *MIXED], ids=" ".join)
def test_functions_of_two_operands(dtypes: tuple[str, str]) -> None:
    x, y = special_values(dtypes[0])[:, None], special_values(dtypes[1])[None]
    for op in BINARY:
        numbers = y[y >= 0][None] if op is ps.pow and y.dtype.kind == "i" else y
        if op is mul_without_zeros and x.dtype.kind in "iu":
            x, numbers = x[abs(x.astype(float)) < 12][:, None], y[abs(y.astype(float)) < 10][None]
        # The interpreter has none of these itself.
        if isinstance(op, ps.BinaryBitOp) and np.result_type(x, y).kind == "f":
            continue
        check(op, dtypes, [x, numbers])


@pytest.mark.parametrize("op", [op for op in UNARY + BINARY if op is not ps.add], ids=str)
def test_zeros_have_their_sign_and_infinities_too(op: Any) -> None:
    few = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf])
    for values in ([few], [np.repeat(few, 6), np.tile(few, 6)]):
        node = typed(op, ["float64"] * len(values), [v.shape for v in values])
        if node is None or node.outputs[0].type.dtype != "float64":
            continue
        (got,), (expected,) = on_device(node, values), interpreted(node, values)
        special = (expected == 0) | np.isinf(expected)
        np.testing.assert_array_equal(got[special], expected[special])
        np.testing.assert_array_equal(np.signbit(got[special]), np.signbit(expected[special]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore:.* encountered in cast")
def test_casts_are_those_of_numpy(dtype: str) -> None:
    values = special_values(dtype)
    for target in DTYPES:
        node = typed(ps.Cast(ps.get_scalar_type(target)), [dtype], [values.shape])
        assert node is not None
        with np.errstate(all="ignore"):
            expected = values.astype(target)
        # What no integer of the target can hold has no value that C, and so NumPy, defines.
        if values.dtype.kind == "f" and np.dtype(target).kind in "iu":
            within = (values >= np.iinfo(target).min) & (values <= float(np.iinfo(target).max) / 2)
            values, expected = values[within], expected[within]
        message = difference(on_device(node, [values])[0], expected, 0)
        assert not message, f"{dtype} to {target}: {message}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_and_switch_choose_as_pytensor_does(dtype: str) -> None:
    values = special_values(dtype)
    x, low, high = values[:, None, None], values[None, :, None], values[None, None]
    check(ps.clip, [dtype] * 3, [x, low, high])
    other = "float32" if dtype == "int8" else "int8"
    check(ps.switch, [dtype, dtype, other], [x, low, special_values(other)[None, None]])
    check(ps.switch, ["bool", other, dtype], [x.astype(bool), special_values(other)[None, None], low])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint64", "int8", "float32"])
def test_sums_and_products_of_many_wrap(dtype: str) -> None:
    x, y = special_values(dtype)[:, None], special_values(dtype)[None]
    for op in (ps.add, ps.mul):
        node = typed(op, [dtype] * 3, [x.shape, y.shape, y.shape])
        assert node is not None
        with np.errstate(all="ignore"):
            expected = x + y + y if op is ps.add else x * y * y
        assert not difference(on_device(node, [x, y, y])[0], expected, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_a_constant_order(dtype: str) -> None:
    # At infinities torch has the limit, and the interpreter NaN.
    values = special_values(dtype)[:-3]
    x = pt.tensor(dtype=dtype, shape=values.shape)
    for op, orders in (("jv", range(-3, 9)), ("ive", range(2)), ("kve", range(2)), ("polygamma", range(4))):
        for order in orders:
            kind = "int64" if op == "polygamma" else dtype
            reference = typed(getattr(ps, op), [kind, dtype], [(1,), values.shape])
            assert reference is not None
            (expected,) = interpreted(reference, [np.full(1, order, kind), values])
            inner = ps.get_scalar_type(dtype)("x")
            within = Composite([inner], [getattr(ps, op)(ps.constant(order, dtype=kind), inner)])
            for y in (Elemwise(within)(x), getattr(pt, op)(np.full(1, order, kind), x)):
                values_of = [values] if len(y.owner.inputs) == 1 else [np.full(1, order, kind), values]
                (got,) = on_device(y.owner, values_of)
                assert not difference(got, expected), f"{op}({order}): {difference(got, expected)}"
                assert op != "jv" or not got[values == 0].any() or order == 0


def test_an_integer_to_a_negative_power_is_an_error() -> None:
    values = [np.array([2, 1]), np.array([2, -1])]
    node = typed(ps.pow, ["int64", "int64"], [(2,), (2,)])
    assert node is not None
    with pytest.raises(ValueError, match="Integers to negative integer powers are not allowed"):
        on_device(node, values)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("betainc", 3),
        ("betaincinv", 3),
        ("hyp2f1", 4),
        ("owens_t", 2),
        ("gammaincinv", 2),
        ("jv", 2),
        ("kve", 2),
    ],
)
def test_what_torch_lacks_is_refused_by_name(name: str, n: int) -> None:
    inputs = [pt.vector(dtype="float32") for _ in range(n)]
    with pytest.raises(NotImplementedError, match=f"{name}.*float32, float32: not supported on the device"):
        pytensor.function(inputs, getattr(pt, name)(*inputs), mode=device.mode("cpu"))


def test_fused_arithmetic_of_small_integers_wraps() -> None:
    x, y = pt.vector("x", dtype="uint16"), pt.vector("y", dtype="uint16")
    f = pytensor.function([x, y], [(x * y + y) // (x - y), pt.lt(x - y, y) * x], mode=device.mode("cpu"))
    xv, yv = np.array([65535, 2, 300, 7], "uint16"), np.array([2, 65535, 300, 0], "uint16")
    with np.errstate(divide="ignore"):
        expected = [(xv * yv + yv) // (xv - yv), (xv - yv < yv) * xv]
    for got, wanted in zip(f(xv, yv), expected, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def test_gradients_of_special_functions() -> None:
    """By the order of an incomplete gamma function too, which is a loop."""
    k, x = pt.vector("k", dtype="float64"), pt.vector("x", dtype="float64")
    names = "erf erfc erfcx erfinv erfcinv gamma gammaln psi tri_gamma j0 j1 i0 sigmoid softplus".split()
    cost = sum(getattr(pt, name)(x).sum() for name in names) + pt.log1mexp(-x).sum()
    cost += pt.gammainc(k, x).sum()
    gradients = pytensor.grad(cost, [k, x])
    values = [np.array([0.5, 4.0]), np.array([0.1, 0.9])]
    reference = pytensor.function([k, x], gradients, mode=Mode(linker="py", optimizer=None))(*values)
    results = pytensor.function([k, x], gradients, mode=device.mode("cpu"))(*values)
    for got, expected in zip(results, reference, strict=True):
        assert not difference(got, expected, 1e-9)


@pytest.mark.filterwarnings("ignore:complex_from_polar is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parts_of_complex_numbers(dtype: str) -> None:
    x, y = pt.vector("x", dtype=dtype), pt.vector("y", dtype=dtype)
    z = pt.complex(x, y)
    outputs = [
        abs(z),
        abs(z * z - 2 * z),
        pt.real(pt.exp(z)),
        pt.imag(z / 3),
        pt.angle(pt.conj(z)),
        pt.eq(z, z + 0),
    ]
    outputs += [pt.real(pt.complex_from_polar(x**2, y)), pt.imag(-z), pt.real(z)]
    values = [np.array([1.5, -0.25, 0], dtype), np.array([2, -1.5, 3], dtype)]
    reference = pytensor.function([x, y], outputs, mode=Mode(linker="py", optimizer=None))(*values)
    results = pytensor.function([x, y], outputs, mode=device.mode("cpu"))(*values)
    for got, expected in zip(results, reference, strict=True):
        assert not difference(got, expected, 1e-6)
