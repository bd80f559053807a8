"""Ops that hold graphs: fused expressions in each other, loops of scalars, ifelse, OpFromGraph, Blockwise."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.compile.builders import OpFromGraph
from pytensor.raise_op import Assert
from tolerance import assert_close

from theanompi import device
from theanompi.device import ops
from theanompi.device.unsupported import Unsupported
from theanompi.device.versions import ifelse

X = np.array([0.5, -1.25, 2.0], "float32")
M = np.random.default_rng(0).normal(size=(4, 3))


def check(build: Callable[..., list[Any]], *arguments: np.ndarray) -> None:
    """Our values are those of PyTensor's interpreter, which knows ifelse."""
    inputs = [pt.tensor(dtype=a.dtype.name, shape=(None,) * a.ndim) for a in map(np.asarray, arguments)]
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        ours, theirs = (
            pytensor.function(inputs, build(*inputs), mode=mode, on_unused_input="ignore")(*arguments)
            for mode in (device.mode("cpu"), "FAST_COMPILE")
        )
    for k, (got, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(got, expected, f"output {k}")


def test_powers_that_are_fused_twice() -> None:
    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + pt.tanh(0.79788456 * (x + 0.044715 * x**3)))

    check(lambda x: [x**3 + 1, pt.grad((x**4).sum(), x), gelu(x), pt.grad(gelu(x).sum(), x)], X)


def test_a_cost_on_the_inverse_standard_deviation_of_batch_normalisation() -> None:
    x = pt.tensor("x", dtype="float64", shape=(4, 3))
    _, _, inv_std = ops.batch_norm(x, pt.ones(3, "float64"), pt.zeros(3, "float64"))
    got = pytensor.function([x], pytensor.grad((inv_std**2).sum(), x), mode=device.mode("cpu"))(M)
    leaf = torch.from_numpy(M).requires_grad_()
    (1 / (leaf.var(0, correction=0) + 1e-5)).sum().backward()
    assert leaf.grad is not None
    assert_close(got, leaf.grad.numpy())


def test_a_loop_of_scalars() -> None:
    a = np.array([1.5, 2.25, 3.0])
    check(
        lambda x, a: [pt.gammainc(a, abs(x)), pt.grad(pt.gammainc(a, abs(x)).sum(), a)],
        X.astype("float64"),
        a,
    )


BRANCHES: dict[str, Callable[..., list[Any]]] = {
    "one value": lambda c, x: [ifelse(c, x**2, pt.exp(x))],
    "several values": lambda c, x: list(ifelse(c, [x + 0, x.sum()], [x * 2, x.max()])),
    "values that are used on": lambda c, x: [ifelse(c, x**2, x) + ifelse(c, x, x * 3), x**2],
    "the operand itself": lambda c, x: [ifelse(c, x, -x)],
    "constants": lambda c, x: [ifelse(c, np.float32(1), np.float32(2)) * x],
    "other shapes": lambda c, x: [ifelse(c, x[:1], x[1:] * 2)],
    "in one another": lambda c, x: [ifelse(c, ifelse(x.sum() > 0, x * 2, x * 3), ifelse(c + 1, x * 4, x**5))],
    "a gradient": lambda c, x: [pt.grad(ifelse(c, (x**3).sum(), pt.exp(x).sum()), x)],
    "a condition that is computed": lambda c, x: [ifelse(x.sum() > 1, x * c, x - c)],
}


@pytest.mark.parametrize("condition", [0, 1, -2])
@pytest.mark.parametrize("name", BRANCHES)
def test_ifelse(name: str, condition: int) -> None:
    check(BRANCHES[name], np.array(condition, "int8"), X)


def test_ifelse_computes_the_taken_branch_only() -> None:
    c, x = pt.bscalar("c"), pt.fvector("x")
    fails = Assert("computed")(pt.exp(x), pt.gt(x.sum(), 100))
    f = pytensor.function(
        [c, x], ifelse(c, fails.sum(), ifelse(x[0] > 0, x.sum(), fails.max())), mode=device.mode("cpu")
    )
    assert f(0, X) == np.float32(1.25)
    for c_value, x_value in ((1, X), (0, -X)):
        with pytest.raises(AssertionError, match="computed"):
            f(c_value, x_value)


def test_updates_under_ifelse() -> None:
    c = pt.bscalar("c")
    w, v = device.shared(np.zeros(2), name="w"), device.shared(np.ones(2), name="v")
    step = pytensor.function(
        [c],
        [w + v],
        updates=[(w, ifelse(c, w + 1, w)), (v, ifelse(c, v, w))],
        mode=device.mode("cpu"),
    )
    np.testing.assert_array_equal(step(1)[0], [1, 1])
    np.testing.assert_array_equal(w.get_value(), [1, 1])
    np.testing.assert_array_equal(v.get_value(), [1, 1])
    w.set_value(np.array([5.0, 6.0]))
    step(0)
    np.testing.assert_array_equal(w.get_value(), [5, 6])
    np.testing.assert_array_equal(v.get_value(), [5, 6])


@pytest.mark.parametrize("inline", [True, False])
def test_a_graph_as_an_op_and_its_gradient(inline: bool) -> None:
    def build(x: Any, i: Any) -> list[Any]:
        a, j = pt.dmatrix(), pt.vector(dtype="uint8")
        inner = OpFromGraph([a, j], [a[j], a[::-1].sum(axis=0), a], inline=inline)
        outer = OpFromGraph([a, j], [inner(a * 2, j)[0] ** 3, inner(a, j)[2][0]], inline=inline)
        first, second = outer(x, i)
        return [*inner(x, i), first, second, pt.grad(first.sum() + (second**2).sum(), x)]

    check(build, M, np.array([3, 0, 3], "uint8"))


def test_a_graph_as_an_op_has_the_precision_of_its_function() -> None:
    a, b = pt.fmatrix(), pt.fmatrix()
    product = OpFromGraph([a, b], [pt.dot(a, b)])
    x = M.astype("float32")
    got = pytensor.function([a, b], product(a, b), mode=device.mode("cpu", precision="bf16"))(x, x.T)
    expected = pytensor.function([a, b], pt.dot(a, b), mode=device.mode("cpu", precision="bf16"))(x, x.T)
    np.testing.assert_array_equal(got, expected)
    assert np.abs(got - x @ x.T).max() > 1e-4


def test_results_of_a_graph_as_an_op_are_not_written_over() -> None:
    w = device.shared(np.arange(3.0), name="w")
    a = pt.dvector()
    same, reversed_ = OpFromGraph([a], [a, a[::-1]])(w)
    f = pytensor.function(
        [], [same, reversed_, same * 2], updates=[(w, reversed_ + 1)], mode=device.mode("cpu")
    )
    for got, expected in zip(f(), ([0, 1, 2], [2, 1, 0], [0, 2, 4]), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(w.get_value(), [3, 2, 1])


def test_einsum_and_its_gradient() -> None:
    def build(x: Any, y: Any) -> list[Any]:
        products = [pt.einsum("ij,kj->ik", x, y), pt.einsum("ij,j->i", x, y[0]), pt.einsum("ii->i", x[:3])]
        return [*products, *pt.grad(sum((p**2).sum() for p in products), [x, y])]

    check(build, M, M[:2].astype("float32"))


def test_an_op_for_each_element_of_a_batch() -> None:
    def build(x: Any, y: Any) -> list[Any]:
        rows = pt.vectorize(lambda v: pt.sort(v)[::-1] * 2, signature="(n)->(n)")(x)
        picked = pt.vectorize(lambda v, i: v[i], signature="(n),(k)->(k)")(x, y)
        return [rows, picked, pt.grad((picked**2).sum(), x), pt.vecdot(x, x), pt.matvec(x[None], x[0])]

    check(build, M, np.array([[0, -1], [1, 1], [2, 0], [0, 0]], "int8"))


def test_an_op_in_an_op_that_does_not_run_on_the_device_is_refused() -> None:
    a = pt.dmatrix()
    op = OpFromGraph([a], [pt.linalg.schur(a)[0] + a])
    with pytest.raises(Unsupported, match=r"Schur.*not supported on the device.*docs/ops.md"):
        pytensor.function([a], op(a), mode=device.mode("cpu"))
