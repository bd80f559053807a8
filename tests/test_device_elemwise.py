"""Fused expressions, in chunks or at once, against NumPy."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.scalar as ps
import pytensor.tensor as pt
import pytest
import torch
from pytensor.scalar.basic import Composite
from pytensor.tensor.elemwise import Elemwise
from tolerance import assert_close
from torch.overrides import TorchFunctionMode

from theanompi import device
from theanompi.device import elemwise
from theanompi.device.elemwise import CHUNK, elemwise_function
from theanompi.device.ops.base import Context

MODE = device.mode("cpu")
SIZES = [CHUNK, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1, 3 * CHUNK + 12345]


def vectors(size: int, n: int, dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(size)
    return [rng.normal(size=size).astype(dtype) for _ in range(n)]


@pytest.mark.parametrize("size", SIZES)
def test_chunks_cover_every_element_once(size: int) -> None:
    av, bv = vectors(size, 2)
    a, b = device.shared(av, "a"), device.shared(bv, "b")
    f = pytensor.function(
        [], [pt.tanh(a) * b + pt.exp(-abs(b)), a.sum()], updates=[(a, 0.5 * a * b - b)], mode=MODE
    )
    address = a.tensor.data_ptr()
    got, _ = f()
    assert_close(got, np.tanh(av) * bv + np.exp(-np.abs(bv)))
    assert_close(a.get_value(), np.float32(0.5) * av * bv - bv)
    assert_close(b.get_value(), bv)
    assert a.tensor.data_ptr() == address


def test_what_one_sized_operands_give_is_no_memory_for_a_chunk() -> None:
    a, b = ps.float32("a"), ps.float32("b")
    op = Elemwise(Composite([a, b], [ps.add(ps.mul(ps.exp(a), b), b)]))
    one = pt.tensor("one", dtype="float32", shape=(1,))
    many = pt.tensor("many", dtype="float32", shape=(3 * CHUNK,))
    (values,) = vectors(3 * CHUNK, 1)
    got = pytensor.function([one, many], op(one, many), mode=MODE)(np.float32([0.5]), values)
    assert_close(got, np.exp(np.float32(0.5)) * values + values)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_expressions_do_run_in_chunks(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    seen: list[int] = []

    def tanh(x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(x.numel())
        return torch.tanh(x, out=out)

    monkeypatch.setitem(elemwise._ARITHMETIC, pytensor.scalar.Tanh, tanh)
    x = device.shared(vectors(2 * threads * CHUNK + 1, 1)[0])
    pytensor.function([], pt.tanh(x) + pt.exp(x), mode=MODE)()
    assert seen == [threads * CHUNK, threads * CHUNK, 1]


@pytest.mark.parametrize("share", [1e-4, -0.3, 0.9])
def test_moving_towards_other_values_is_one_instruction_with_their_values(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    lerp = torch.lerp
    monkeypatch.setattr(torch, "lerp", lambda a, b, s, out: seen.append(s) or lerp(a, b, s, out=out))
    av, bv = vectors(2 * CHUNK + 1, 2)
    bv[:3] = np.inf, -np.inf, np.nan
    a, b, s = device.shared(av), device.shared(bv), device.shared(np.float32(share))
    pytensor.function([], [], updates=[(a, a + s * (b - a))], mode=MODE)()
    assert_close(a.get_value(), av + np.float32(share) * (bv - av))
    assert bool(seen) == (share < 0.5)


@pytest.mark.parametrize("size", [100, 2 * CHUNK + 1])
def test_several_outputs_that_overwrite_their_inputs(size: int) -> None:
    """Momentum as one fused node: v and w are read by both expressions, and both are written in place."""
    wv, vv, gv = vectors(size, 3)
    w, v, g = (device.shared(value, name) for value, name in ((wv, "w"), (vv, "v"), (gv, "g")))
    m, eta = np.float32(0.9), device.shared(np.float32(0.1), "eta")
    new_v = m * v + eta * (g + np.float32(1e-2) * w)
    f = pytensor.function([], [], updates=[(v, new_v), (w, w - new_v)], mode=MODE)
    addresses = [x.tensor.data_ptr() for x in (w, v)]
    for _ in range(3):
        f()
        vv = m * vv + np.float32(0.1) * (gv + np.float32(1e-2) * wv)
        wv = wv - vv
    assert_close(v.get_value(), vv)
    assert_close(w.get_value(), wv)
    assert [x.tensor.data_ptr() for x in (w, v)] == addresses
    composites = [
        n.op.scalar_op
        for n in f.maker.fgraph.apply_nodes
        if isinstance(n.op, Elemwise) and n.inputs[0].ndim == 1
    ]
    assert len(composites) == 1 and isinstance(composites[0], Composite) and composites[0].nout == 2


def test_input_that_another_output_reads_later_is_not_overwritten_too_early() -> None:
    av, bv = vectors(2 * CHUNK, 2)
    a, b = device.shared(av, "a"), device.shared(bv, "b")
    pytensor.function([], [], updates=[(a, pt.exp(-abs(b)) + a), (b, pt.tanh(a) * b)], mode=MODE)()
    assert_close(a.get_value(), np.exp(-np.abs(bv)) + av)
    assert_close(b.get_value(), np.tanh(av) * bv)


# Torch adds or subtracts a multiple s*b in one instruction: forms that use it, and forms that must not.
ALPHA: dict[str, Callable[..., Any]] = {
    "a+s*b": lambda m, a, b, c, s: a + s * b,
    "s*b+a": lambda m, a, b, c, s: s * b + a,
    "a-s*b": lambda m, a, b, c, s: a - s * b,
    "s*b-a": lambda m, a, b, c, s: s * b - a,
    "s*b+s*c": lambda m, a, b, c, s: s * b + s * c,
    "s*b-s*c": lambda m, a, b, c, s: s * b - 2 * s * c,
    "a+s*(b-s*c)": lambda m, a, b, c, s: a + s * (b - s * c),
    "twice": lambda m, a, b, c, s: (a + s * b) * (c - s * b),
    "itself": lambda m, a, b, c, s: a - s * a,
    "three": lambda m, a, b, c, s: a + s * b + s * c,
    "two reads of a temporary": lambda m, a, b, c, s: s * m.tanh(a) + m.tanh(a) * c,
    "a read before": lambda m, a, b, c, s: c * (m.tanh(a) + 1) - s * m.tanh(a),
    "a read after": lambda m, a, b, c, s: (b - s * m.tanh(a)) * m.exp(m.tanh(a)),
    "a chain": lambda m, a, b, c, s: m.exp(m.tanh(b) * c) - s * m.tanh(b),
    "of a function": lambda m, a, b, c, s: abs(a) - s * abs(b - c),
    "constant": lambda m, a, b, c, s: a + np.float32(0.25) * b - np.float32(3) * c,
}


@pytest.mark.parametrize("size", [7, 2 * CHUNK + 1])
@pytest.mark.parametrize("form", ALPHA)
@pytest.mark.parametrize("target", [0, 1, 2])
def test_multiples_in_sums(form: str, target: int, size: int) -> None:
    values = vectors(size, 3)
    variables = [device.shared(v) for v in values]
    s = device.shared(np.float32(0.7))
    expected = ALPHA[form](np, *values, np.float32(0.7))
    f = pytensor.function([], [], updates=[(variables[target], ALPHA[form](pt, *variables, s))], mode=MODE)
    f()
    for i, (variable, value) in enumerate(zip(variables, values, strict=True)):
        assert_close(variable.get_value(), expected if i == target else value, f"{form}, variable {i}")


def test_a_multiple_by_a_truth_value() -> None:
    """As `pt.eq(norm, …) * sign(x)` in the gradient of a norm: torch takes no bool for a factor of its own."""
    a, b = vectors(7, 2)
    x, y = pt.vector(dtype="float32", shape=(7,)), pt.vector(dtype="float32", shape=(7,))
    flag = pt.tensor(dtype="bool", shape=(1,))
    function = pytensor.function([x, y, flag], x + flag * y, mode=MODE)
    for value in (True, False):
        assert_close(function(a, b, np.array([value])), a + value * b, str(value))


@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize("size", [1000, 3 * CHUNK + 12345])
def test_what_one_is_multiplied_by_is_read_and_not_written(factor: float, size: int) -> None:
    gv, wv = vectors(size, 2)
    w, g, n = device.shared(wv, "w"), device.shared(gv, "g"), pt.fscalar("n")
    step = n * g
    f = pytensor.function([n], step * step, updates=[(w, pt.tanh(step + 0.5 * w) - step)], mode=MODE)
    got = f(np.float32(factor))
    scaled = np.float32(factor) * gv
    assert_close(got, scaled * scaled)
    assert_close(w.get_value(), np.tanh(scaled + np.float32(0.5) * wv) - scaled)
    np.testing.assert_array_equal(g.get_value(), gv)


def test_a_factor_of_one_costs_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def mul(*operands: torch.Tensor, **into: torch.Tensor) -> torch.Tensor:
        passes.append(max(x.numel() for x in operands))
        return torch.mul(*operands, **into)

    monkeypatch.setitem(elemwise._ARITHMETIC, ps.Mul, mul)
    gv, wv = vectors(2 * CHUNK, 2)
    w, g, n = device.shared(wv, "w"), device.shared(gv, "g"), pt.fscalar("n")
    f = pytensor.function([n], [], updates=[(w, n * g + 0.5 * w)], mode=MODE)
    f(np.float32(1))
    assert passes == []
    f(np.float32(0.5))
    assert passes == [CHUNK, CHUNK]


def test_one_variable_as_two_operands_of_an_expression() -> None:
    """Fusion makes no such node, but merging may: one operand is read after the other is overwritten."""
    p, q = pytensor.scalar.float32("p"), pytensor.scalar.float32("q")
    exponential = pytensor.scalar.exp(p)
    twice = Elemwise(Composite([p, q], [exponential, exponential * q]))
    xv = vectors(5, 1)[0]
    h = device.ops.relu(device.shared(xv) + 1)
    got = pytensor.function([], list(twice(h, h)), mode=MODE)()
    hv = np.maximum(xv + np.float32(1), 0)
    assert_close(got[0], np.exp(hv))
    assert_close(got[1], np.exp(hv) * hv)


@pytest.mark.parametrize("op", [pytensor.scalar.identity, pytensor.scalar.Cast(pytensor.scalar.float32)])
def test_copies_that_no_rewrite_removed(op: Any) -> None:
    w = device.shared(vectors(5, 1)[0], "w")
    same = Elemwise(op)(w)
    mode = MODE.excluding("canonicalize", "useless", "specialize")
    first = pytensor.function([], same, updates=[(w, w * 2)], mode=mode)()
    assert_close(first, vectors(5, 1)[0])


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint32", "bool"])
@pytest.mark.parametrize(("name", "reference"), [("add", np.add), ("mul", np.multiply)])
def test_ops_of_any_number_of_operands_take_one_and_three(name: str, reference: Any, dtype: str) -> None:
    """One is what PyTensor's rewrites may leave of a sum."""
    values = np.array([[5, 1, 0], [3, 1, 0], [6, 1, 1]]).astype(dtype)
    x, y, z = (pt.vector(dtype=dtype, shape=(3,)) for _ in range(3))
    op = Elemwise(getattr(pytensor.scalar, name))
    # As it is, for other rewrites make no such node of it.
    mode = MODE.excluding("canonicalize", "useless", "specialize", "stabilize", "fusion")
    one, three = pytensor.function([x, y, z], [op(x), op(x, y, z)], mode=mode)(*values)
    np.testing.assert_array_equal(one, values[0])
    np.testing.assert_array_equal(three, reference(reference(*values[:2]), values[2]))


def test_comparison_in_the_common_dtype() -> None:
    """Torch compares int64 and float32 in float32, which does not tell these apart."""
    i, x = device.shared(np.array([2**24 + 1])), device.shared(np.array([2**24], "float32"))
    assert pytensor.function([], [i > x, pt.lt(x, i), pt.eq(i, x)], mode=MODE)() == [True, True, False]


@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1)])
@pytest.mark.parametrize("length", [6, 2 * CHUNK // 4 + 1])
def test_one_sized_operands(shape: tuple[int, ...], length: int) -> None:
    full = (4 * length,) if len(shape) == 1 else (1,) * (len(shape) - 2) + (4, length)
    xv = vectors(4 * length, 1)[0].reshape(full)
    x, s = device.shared(xv, "x"), device.shared(np.full(shape, 0.3, "float32"), "s")
    got = pytensor.function([], pt.exp(s * x) + s - x * s**2, updates=[(x, x - s * pt.tanh(x))], mode=MODE)()
    sv = np.full(shape, 0.3, "float32")
    assert_close(got, np.exp(sv * xv) + sv - xv * sv**2)
    assert_close(x.get_value(), xv - sv * np.tanh(xv))


@pytest.mark.parametrize("size", [5, 2 * CHUNK + 3])
def test_casts_within_an_expression(size: int) -> None:
    xv = vectors(size, 1)[0]
    iv = np.arange(size) % 7
    x, i = device.shared(xv), device.shared(iv)
    f = pytensor.function(
        [],
        [
            pt.cast(x * 10, "int64") + i,
            pt.cast(i / 2, "float32") * x,
            pt.switch(x > 0, i, x),
            pt.clip(i * x, -1, 2),
            (x > 0) & (i < 3),
            i // 2 - i % 3,
        ],
        mode=MODE,
    )
    ten = (xv * np.float32(10)).astype("int64") + iv
    expected = [
        ten,
        (iv / 2).astype("float32") * xv,
        np.where(xv > 0, iv, xv),
        np.clip(iv * xv, -1, 2),
        (xv > 0) & (iv < 3),
        iv // 2 - iv % 3,
    ]
    for got, value in zip(f(), expected, strict=True):
        assert_close(got, value)


def test_large_strided_tensors_as_small_ones() -> None:
    rng = np.random.default_rng(0)
    xv = rng.normal(size=(2, 64, 70, 70)).astype("float32")
    x = device.shared(xv, "x")
    assert not x.tensor.is_contiguous() and x.tensor.numel() > 2 * CHUNK
    pytensor.function([], [], updates=[(x, pt.tanh(x) - 0.5 * x)], mode=MODE)()
    assert_close(x.get_value(), np.tanh(xv) - np.float32(0.5) * xv)


FUNCTIONS = (
    "neg abs sign sqr sqrt reciprocal exp expm1 log log1p log2 sin cos tan arctan tanh floor ceil "
    "sigmoid erf softplus"
).split()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in FUNCTIONS for dtype in ("float32", "float64", "int64")]
    + [("round", "float32"), ("round", "float64")],
)
def test_functions_of_one_operand(name: str, dtype: str) -> None:
    """Against PyTensor's interpreter, which calls NumPy and SciPy."""
    xv = np.linspace(0.5, 5.2, 11).astype(dtype) * (
        1 if name in ("sqrt", "log", "log1p", "log2", "reciprocal") else -1
    )
    x = pt.vector("x", dtype=dtype)
    y = getattr(pt, name)(x)
    expected = pytensor.function([x], y, mode="FAST_COMPILE")(xv)
    assert_close(pytensor.function([x], y, mode=MODE)(xv), expected, name)


def test_logic_and_identities() -> None:
    x = device.shared(np.array([1.0, np.nan, -2.0], "float32"))
    b = device.shared(np.array([True, False, True]))
    outputs = [pt.isnan(x), ~b, b | pt.isnan(x), pt.xor(b, ~b), x.copy(), pt.second(x, 3.0), pt.maximum(x, 0)]
    xv, bv = x.get_value(), b.get_value()
    expected = [
        np.isnan(xv),
        ~bv,
        bv | np.isnan(xv),
        bv ^ ~bv,
        xv,
        np.full(3, 3.0),
        np.maximum(xv, np.float32(0)),
    ]
    got = pytensor.function([], outputs, updates=[(x, x * 0)], mode=MODE)()
    for one, value in zip(got[:5] + got[6:], expected[:5] + expected[6:], strict=True):
        assert_close(one, value)
    np.testing.assert_array_equal(got[5], expected[5])


SPECIAL = {
    "float32": [0.0, -0.0, 1.0, -1.5, 0.1, 3e38, -3e38, 1e-45, 1.2e-38, np.inf, -np.inf, np.nan],
    "float64": [0.0, -0.0, 1.0, -1.5, 0.1, 1e308, -1e308, 5e-324, 1e-308, np.inf, -np.inf, np.nan],
    "int64": [0, 1, -1, 2**53 + 1, 2**62, -(2**63), 2**63 - 1],
    "bool": [False, True],
}
FLOATS, NUMBERS, ANY = ["float32", "float64"], [*SPECIAL][:3], [*SPECIAL]
# Graph, NumPy's function, dtypes of both operands.
ON_NUMBERS: list[tuple[Any, Any, list[str]]] = [
    *((ps.add, np.add, NUMBERS), (ps.sub, np.subtract, NUMBERS), (ps.mul, np.multiply, NUMBERS)),
    (lambda x, y: ps.add(x, y, x), lambda x, y: x + y + x, NUMBERS),
    (ps.true_div, np.true_divide, NUMBERS),
    *(
        (ps.lt, np.less, ANY),
        (ps.gt, np.greater, ANY),
        (ps.le, np.less_equal, ANY),
        (ps.ge, np.greater_equal, ANY),
    ),
    *((ps.eq, np.equal, ANY), (ps.neq, np.not_equal, ANY)),
    *(
        (ps.and_, np.logical_and, ["bool"]),
        (ps.or_, np.logical_or, ["bool"]),
        (ps.xor, np.logical_xor, ["bool"]),
    ),
    # Of zeros of both signs NumPy takes the other one.
    (ps.scalar_maximum, lambda x, y: torch.maximum(torch.tensor(x), torch.tensor(y)), NUMBERS),
    (ps.scalar_minimum, lambda x, y: torch.minimum(torch.tensor(x), torch.tensor(y)), NUMBERS),
    (lambda x, y: ps.switch(x, y, x), lambda x, y: y if x else x, ANY),
    (lambda x, y: ps.neg(x), lambda x, y: -x, NUMBERS),
    (lambda x, y: ps.abs(x), lambda x, y: abs(x), NUMBERS),
    (lambda x, y: ps.sqr(x), lambda x, y: x * x, NUMBERS),
    (lambda x, y: ps.sqrt(x), lambda x, y: np.sqrt(x), FLOATS),
    (lambda x, y: ps.reciprocal(x), lambda x, y: x.dtype.type(1) / x, FLOATS),
    (lambda x, y: ps.invert(x), lambda x, y: ~x, ["bool"]),
    *(
        (lambda x, y, to=to: ps.Cast(getattr(ps, to))(x), lambda x, y, to=to: x.astype(to), ANY)
        for to in FLOATS
    ),
    (lambda x, y: ps.Cast(ps.bool)(x), lambda x, y: x.astype(bool), ANY),
    (lambda x, y: ps.Cast(ps.int64)(x), lambda x, y: x.astype("int64"), ["int64", "bool"]),
]


class Counted(TorchFunctionMode):
    """Counts what is asked of torch."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def bits(x: Any, dtype: str) -> bytes:
    """Those of a number; of every NaN the same."""
    array = np.asarray(x, dtype)
    return np.where(np.isnan(array), np.asarray(np.nan).astype(dtype), array).tobytes()


@pytest.mark.parametrize("dtype", SPECIAL)
def test_one_element_has_the_bits_that_arrays_have_and_asks_torch_only_to_read_and_keep_it(
    dtype: str,
) -> None:
    x, y = (getattr(ps, dtype)(name) for name in "xy")
    graphs = [(graph(x, y), f) for graph, f, dtypes in ON_NUMBERS if dtype in dtypes]
    one = pt.tensor(dtype=dtype, shape=())
    node = Elemwise(Composite([x, y], [graph for graph, _ in graphs])).make_node(one, one.type())
    function = elemwise_function(node, Context())
    numbers = np.array(SPECIAL[dtype], dtype)
    for a, b in itertools.product(numbers, numbers):
        with Counted() as counted:
            results = function(torch.from_numpy(a[...]), torch.from_numpy(b[...]))
        assert counted.calls == 2 + len(graphs)
        for (graph, f), got in zip(graphs, results, strict=True):
            assert str(got.dtype) == f"torch.{graph.type.dtype}"
            with np.errstate(all="ignore"):
                assert bits(got, graph.type.dtype) == bits(f(a, b), graph.type.dtype), (graph.owner.op, a, b)


def test_numbers_among_which_torch_has_a_part_are_written_over_when_all_have_been_read() -> None:
    x, y = ps.float64("x"), ps.float64("y")
    angle = ps.add(x, y)
    one = pt.tensor(dtype="float64", shape=(1, 1))
    made = [ps.cos(angle), ps.mul(ps.cos(angle), angle), angle, ps.sub(x, y)]
    node = Elemwise(Composite([x, y], made)).make_node(one, one.type())
    a, b = torch.full((1, 1), 0.3, dtype=torch.float64), torch.full((1, 1), 0.2, dtype=torch.float64)
    results = elemwise_function(node, Context(overwrite={0: 0, 2: 1}))(a, b)
    assert results[0] is a and results[2] is b
    cosine = torch.cos(torch.full((1, 1), 0.3 + 0.2, dtype=torch.float64))
    wanted = [
        cosine,
        cosine * (0.3 + 0.2),
        torch.full_like(cosine, 0.3 + 0.2),
        torch.full_like(cosine, 0.3 - 0.2),
    ]
    assert all(torch.equal(got, right) for got, right in zip(results, wanted, strict=True))
