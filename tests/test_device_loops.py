"""`pytensor.scan`: loops on the device have the values and gradients of PyTensor's interpreter and of NumPy's loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.gradient import grad_clip
from pytensor.scan import until
from pytensor.scan.op import Scan
from pytensor.tensor.math import Dot
from tolerance import assert_close

from theanompi import device
from theanompi.device.versions import ifelse

RNG = np.random.default_rng(0)
M, W, H = RNG.normal(size=(5, 3)), RNG.normal(size=(3, 3)) / 2, RNG.normal(size=3)
COUNTS = np.array([3, 1, 4, 1, 5])


def scan(*arguments: Any, **keywords: Any) -> Any:
    """`pytensor.scan` without the dict of updates."""
    return pytensor.scan(*arguments, return_updates=False, **keywords)


def check(
    build: Callable[..., list[Any]], *arguments: np.ndarray, calls: tuple[tuple[Any, ...], ...] = ()
) -> Any:
    """Our values are those of PyTensor's interpreter, for these arguments and those of more calls."""
    inputs = [pt.tensor(dtype=a.dtype.name, shape=(None,) * a.ndim) for a in map(np.asarray, arguments)]
    # Without a compiler the interpreter's loops begin at once.
    with pytensor.config.change_flags(mode="FAST_COMPILE", cxx=""):
        ours, theirs = (
            pytensor.function(inputs, build(*inputs), mode=mode, on_unused_input="ignore")
            for mode in (device.mode("cpu"), "FAST_COMPILE")
        )
        for call, values in enumerate((arguments, *calls)):
            for k, (got, expected) in enumerate(zip(ours(*values), theirs(*values), strict=True)):
                assert_close(got, expected, f"call {call}, output {k}")
    return ours


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint16", "int64"])
def test_running_sums_in_every_dtype(dtype: str) -> None:
    def build(x: Any) -> list[Any]:
        up = scan(lambda v, total: total + v, x, x[0] * 0)
        down = scan(lambda v, total: total + v, x, x[0] * 0, go_backwards=True)
        return [up, down, up[-1], down[::-1]]

    x = (M * 20).astype(dtype) if dtype != "uint16" else COUNTS.astype(dtype)
    (up, *_) = check(build, x)(x)
    np.testing.assert_array_equal(up, np.cumsum(x, 0, dtype)) if dtype != "float32" else None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_recurrent_net_and_its_gradients(dtype: str) -> None:
    def build(x: Any, w: Any, h: Any, b: Any) -> list[Any]:
        states = scan(lambda v, s, w, b: pt.tanh(v + pt.dot(s, w) + b), x, h, [w, b], strict=True)
        cost = (states**2).sum() + states[-1].sum()
        return [states, states[-1], states[-2:], *pt.grad(cost, [x, w, h, b])]

    values = [a.astype(dtype) for a in (M, W, H, H[::-1])]
    more = [values[0][:1], *values[1:]]
    f = check(lambda *v: [build(*v)[0], *build(*v)[3:]], *values, calls=(tuple(more),))
    check(build, *values)
    x, w, h, b = values
    expected = []
    for v in x:
        h = np.tanh(v + h @ w + b)
        expected.append(h)
    assert_close(f(*values)[0], np.array(expected))


def test_a_batch_of_sequences_and_the_gradient_of_all_its_weights() -> None:
    def build(x: Any, u: Any, w: Any, h: Any) -> list[Any]:
        states = scan(lambda v, s: pt.tanh(pt.dot(v, u) + pt.dot(s, w)), x, h)
        return [states, *pt.grad((states * pt.arange(4)[:, None, None]).sum(), [x, u, w, h])]

    check(build, RNG.normal(size=(4, 2, 3)), W, W.T, RNG.normal(size=(2, 3)))


def test_several_outputs_with_taps_far_back() -> None:
    def build(x: Any, a: Any, b: Any) -> list[Any]:
        def step(before: Any, v: Any, after: Any, a3: Any, a1: Any, b1: Any) -> list[Any]:
            return [a3 * 0.5 - a1 * b1, b1 + v * pt.sin(a3), before * after, a1.sum()]

        outputs = [{"initial": a, "taps": [-3, -1]}, b, None, None]
        results = scan(step, {"input": x, "taps": [-1, 0, 1]}, outputs)
        cost = sum((r**2).sum() for r in results)
        return [*results, *(r[-1] for r in results), results[0][-2:], *pt.grad(cost, [x, a, b])]

    check(build, RNG.normal(size=(7, 3)), M[:3], H)


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_traces_that_are_shorter_than_the_loop(kept: int) -> None:
    def build(x: Any, n: Any) -> list[Any]:
        fibonacci = scan(lambda a, b: a + b, None, [{"initial": x, "taps": [-2, -1]}], n_steps=n)
        squares = scan(lambda i: i**2, pt.arange(n))
        return [fibonacci[-kept:], squares[-kept:]]

    one = np.ones(2)
    f = check(build, one, np.array(6), calls=((one, np.array(4)), (one, np.array(9))))
    np.testing.assert_array_equal(f(one, 8)[0], [2, 3, 5, 8, 13, 21, 34, 55][-kept:])


def test_steps_by_number_and_none_at_all() -> None:
    def build(x: Any, n: Any, s: Any) -> list[Any]:
        powers = scan(lambda p, v: p * v, None, pt.ones_like(s), s, n_steps=n)
        # Without a step the interpreter has the initial value, by whatever way it is asked for.
        carried = scan(lambda v, total: total + v, x[:n], s)
        return [powers, carried, pt.concatenate([s[None], carried])[-1], *pt.grad(powers.sum(), [s])]

    calls = tuple((M, np.array(n), H) for n in (0, 1))
    check(build, M, np.array(5), H, calls=calls)
    constant = check(lambda s: [scan(lambda p: p * 2, None, s, n_steps=3)], H)
    np.testing.assert_array_equal(constant(H)[0], [H * 2, H * 4, H * 8])


def test_a_loop_until_a_condition_holds() -> None:
    def build(limit: Any, s: Any) -> list[Any]:
        def step(total: Any) -> Any:
            return [total * 2, total.sum()], until(total.sum() > limit)

        doubled, sums = scan(step, None, [s, None], n_steps=20)
        return [doubled, sums, doubled[-1], doubled.shape[0], pt.grad(doubled.sum(), s)]

    check(build, np.array(50.0), abs(H), calls=((np.array(-1.0), abs(H)), (np.array(1e30), abs(H))))


def test_truncated_and_clipped_gradients() -> None:
    def build(x: Any, w: Any, h: Any) -> list[Any]:
        def step(v: Any, s: Any, w: Any) -> Any:
            return pt.tanh(grad_clip(v + pt.dot(s, w), -0.1, 0.1))

        short = scan(lambda v, s, w: pt.tanh(v + pt.dot(s, w)), x, h, w, truncate_gradient=2)
        clipped = scan(step, x, h, w)
        return [
            *pt.grad((short**2).sum(), [x, w], disconnected_inputs="ignore"),
            clipped,
            *pt.grad((clipped**2).sum(), [x, w, h]),
        ]

    check(build, M, W, H)


def test_loops_in_loops_and_derivatives_of_derivatives() -> None:
    def build(x: Any, w: Any) -> list[Any]:
        def row(v: Any, total: Any) -> Any:
            return total + scan(lambda e, p: p * 0.5 + pt.tanh(e * v[0]), v, pt.zeros(()))[-1]

        sums = scan(row, x, pt.zeros(()))
        y = pt.tanh(pt.dot(x[0], w))
        jacobian = pytensor.gradient.jacobian(y, w)
        return [sums, pt.grad(sums.sum(), x), jacobian]

    check(build, M, W)
    check(lambda v: [pytensor.gradient.hessian((pt.tanh(v) ** 3).sum() * v[0], v)], H)


def test_updates_of_shared_variables_in_a_loop() -> None:
    results = []
    for shared, mode in ((device.shared, device.mode("cpu")), (pytensor.shared, "FAST_COMPILE")):
        count, last = shared(np.zeros(())), shared(np.zeros(3))

        def step(v: Any, count: Any = count, last: Any = last) -> Any:
            return v * (count + 1), {count: count + 1, last: v}

        with pytest.warns(DeprecationWarning, match="signature will change"):
            scaled, updates = pytensor.scan(step, pt.as_tensor(M), return_updates=True)
        f = pytensor.function([], scaled, updates=updates, mode=mode)
        results.append([f(), f(), count.get_value(), last.get_value()])
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


def test_what_a_loop_gives_is_not_written_over() -> None:
    s, w = device.shared(H, "s"), device.shared(M, "w")
    same, nothing = scan(lambda v, s: [v, s], w, [None, s])
    none = scan(lambda v, s: s + v, w[:0], s)
    first, last = pt.concatenate([s[None], none])[-1], nothing[-1]
    f = pytensor.function(
        [], [same, first, last], updates=[(s, last + 1), (w, same[::-1])], mode=device.mode("cpu")
    )
    results = f()
    f()
    for got, expected in zip(results, (M, H, H), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(s.get_value(), H + 1 + 1)
    np.testing.assert_array_equal(w.get_value(), M)


def test_what_does_not_fit_is_an_error() -> None:
    x, n = pt.matrix("x"), pt.iscalar("n")
    sums = scan(lambda v, s: pt.tanh(s + v), x, x[0], n_steps=n)
    f = pytensor.function([x, n], sums, mode=device.mode("cpu"))
    with pytest.raises(ValueError, match="expected sequences of 7 steps, got one of 5"):
        f(M, 7)
    with pytest.raises(IndexError, match="at least 0, got -1"):
        f(M, -1)
    grows = scan(lambda s: pt.concatenate([s, s]), None, pt.ones(pt.shape(x)[0]), n_steps=3)
    with pytest.raises(ValueError, match="of the same shape at each step"):
        pytensor.function([x], grows, mode=device.mode("cpu"))(M)


def test_branches_and_reflected_borders() -> None:
    def build(x: Any) -> list[Any]:
        signs = scan(lambda v, s: ifelse(v.sum() > 0, s + v, s * 2), x, x[0])
        padded = [pt.pad(x[0], (7, 1), mode=mode) for mode in ("reflect", "symmetric")]
        return [signs, *padded, pt.grad((padded[0] ** 2).sum(), x)]

    check(build, M)


def test_the_step_has_the_precision_of_its_function() -> None:
    x, w, h = pt.fmatrix("x"), pt.fmatrix("w"), pt.fvector("h")
    states = scan(lambda v, s, w: pt.tanh(v + pt.dot(s, w)), x, h, w)
    values = [a.astype("float32") for a in (M, W, H)]
    narrow, wide = (
        pytensor.function([x, w, h], states, mode=device.mode("cpu", precision=p))(*values)
        for p in ("bf16", "float32")
    )
    assert narrow.dtype == "float32"
    assert 1e-4 < abs(narrow - wide).max() < 0.05


def test_the_gradient_of_the_weights_is_one_product_after_the_loop() -> None:
    x, w, h = pt.tensor3("x"), pt.matrix("w"), pt.matrix("h")
    states = scan(lambda v, s: pt.tanh(v + pt.dot(s, w)), x, h)
    f = pytensor.function([x, w, h], pt.grad(states[-1].sum(), w), mode=device.mode("cpu"))
    loops = [node.op.fgraph for node in f.maker.fgraph.toposort() if isinstance(node.op, Scan)]
    assert [sum(isinstance(node.op, Dot) for node in loop.toposort()) for loop in loops] == [1, 1]
    assert sum(isinstance(node.op, Dot) for node in f.maker.fgraph.toposort()) == 1
