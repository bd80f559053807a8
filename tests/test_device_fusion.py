"""Batch normalisation that takes over the sum and the rectifier after it: where it may, and what it computes."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.compile.mode import Mode
from pytensor.gradient import verify_grad
from tolerance import assert_close

from theanompi import device
from theanompi.device import native, ops
from theanompi.device.ops import rows
from theanompi.device.ops.activation import Relu, ReluGrad
from theanompi.device.ops.norm import BatchNorm, BatchNormGrad

EPSILON = 1e-3
SHAPES = [
    (33, 17),
    (70, 2048),  # three blocks of rows, the last one short
    (3, 19, 5, 7),
    (2, 16, 1, 1),
    (1, 24, 3, 1),
    (2, 64, 23, 30),
    (2, 3, 4, 4),  # few channels: several pixels are a row
    (40, 1, 70, 30),
    (1, 3, 3, 3),  # and not a whole number of rows: torch's own calls
]


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype("float32")


def nodes(f: Any, *kinds: type) -> list[Any]:
    return [node for node in f.maker.fgraph.toposort() if isinstance(node.op, kinds)]


@pytest.fixture(params=["C", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With and without the compiled functions."""
    if request.param == "torch":
        monkeypatch.setattr(rows, "_library", lambda: None)
    elif rows._library() is None:
        pytest.skip("no C compiler here")
    yield request.param


# What is computed


def by_loops(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, residual: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rectified output, mean and inv_std, channel by channel in float64."""
    y = np.zeros(x.shape)
    mean, inv_std = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for c in range(x.shape[1]):
        channel = x[:, c].astype("float64")
        mean[c] = channel.mean()
        inv_std[c] = 1 / np.sqrt(((channel - mean[c]) ** 2).mean() + EPSILON)
        y[:, c] = gamma[c] * (channel - mean[c]) * inv_std[c] + beta[c]
    y = np.maximum(y if residual is None else y + residual, 0)
    return y.astype(x.dtype), mean.astype(x.dtype), inv_std.astype(x.dtype)


def by_torch(x: Any, gamma: Any, beta: Any, residual: Any, weights: np.ndarray) -> list[np.ndarray]:
    """Gradients of Σ y² · weights, in float64."""
    leaves = [torch.from_numpy(v.astype("float64")).requires_grad_() for v in (x, gamma, beta, residual)]
    y = torch.nn.functional.batch_norm(leaves[0], None, None, *leaves[1:3], True, 0.0, EPSILON) + leaves[3]
    cost = (torch.relu(y) ** 2 * torch.from_numpy(weights)).sum()
    return [g.numpy().astype("float32") for g in torch.autograd.grad(cost, leaves)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", ["channels last", "channels first"])
@pytest.mark.parametrize("with_residual", [False, True])
def test_forward(way: str, shape: tuple[int, ...], layout: str, with_residual: bool) -> None:
    x, residual = 3 * values(*shape) + 2, values(*shape, seed=1)
    gamma, beta = values(shape[1], seed=2), values(shape[1], seed=3)
    inputs = [device.shared(v) for v in (x, gamma, beta, residual)]
    if layout == "channels first":
        for variable in (inputs[0], inputs[3]):
            variable.adopt(variable.tensor.contiguous())
    y, mean, inv_std = ops.batch_norm(*inputs[:3], EPSILON)
    f = pytensor.function(
        [], [ops.relu(y + inputs[3] if with_residual else y), mean, inv_std], mode=device.mode("cpu")
    )
    assert not nodes(f, Relu) and len(nodes(f, BatchNorm)) == 1
    expected = by_loops(x, gamma, beta, residual if with_residual else None)
    for got, value in zip(f(), expected, strict=True):
        assert_close(got, value)
    for variable, value in zip(inputs, (x, gamma, beta, residual), strict=True):
        np.testing.assert_array_equal(variable.get_value(), value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("residual_wanted", [False, True])
def test_gradients(way: str, shape: tuple[int, ...], residual_wanted: bool) -> None:
    x, residual = 3 * values(*shape) + 2, values(*shape, seed=1)
    gamma, beta = values(shape[1], seed=2), values(shape[1], seed=3)
    weights = values(*shape, seed=4)
    inputs = [device.shared(v) for v in (x, gamma, beta, residual)]
    # The cotangent is a fresh value that may be overwritten.
    y = ops.relu(ops.batch_norm(*inputs[:3], EPSILON)[0] + inputs[3])
    wanted = inputs if residual_wanted else inputs[:3]
    gradients = pytensor.grad((y**2 * weights).sum(), wanted)
    f = pytensor.function([], gradients, mode=device.mode("cpu"))
    assert not nodes(f, ReluGrad) and len(nodes(f, BatchNormGrad)) == 1
    expected = by_torch(x, gamma, beta, residual, weights)
    for got, value in zip(f(), expected[: len(wanted)], strict=True):
        # The terms of the gradient with respect to x cancel in float32.
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_cotangent_that_is_read_later_stays_as_it_is(way: str, layout: torch.memory_format) -> None:
    shape = (2, 16, 6, 5)
    x, gamma, beta = (device.shared(v) for v in (values(*shape), values(16, seed=1), values(16, seed=2)))
    gy = device.shared(values(*shape, seed=3))
    gy.adopt(gy.tensor.contiguous(memory_format=layout))
    y = ops.relu(ops.batch_norm(x, gamma, beta, EPSILON)[0])
    doubled = 2 * gy
    gx = pytensor.grad(None, x, known_grads={y: doubled})
    f = pytensor.function([], [gx, doubled, gy], mode=device.mode("cpu"))
    first, again = f(), f()
    assert_close(first[1], 2 * values(*shape, seed=3))
    np.testing.assert_array_equal(first[2], values(*shape, seed=3))
    np.testing.assert_array_equal(first[0], again[0])
    leaf = torch.from_numpy(values(*shape)).double().requires_grad_()
    z = torch.nn.functional.batch_norm(
        leaf, None, None, *(v.tensor.double() for v in (gamma, beta)), True, 0.0, EPSILON
    )
    (expected,) = torch.autograd.grad(torch.relu(z), leaf, 2 * gy.tensor.double())
    np.testing.assert_allclose(first[0], expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 3, 2)])
def test_gradients_by_finite_differences(shape: tuple[int, ...]) -> None:
    def rectified(x: Any, gamma: Any, beta: Any, residual: Any) -> Any:
        return ops.relu(ops.batch_norm(x, gamma, beta, EPSILON)[0] + residual)

    arguments = [values(*shape), values(shape[1]) + 2, values(shape[1], seed=1), values(*shape, seed=2)]
    verify_grad(
        rectified,
        [a.astype("float64") for a in arguments],
        rng=np.random.default_rng(0),
        mode=device.mode("cpu"),
        abs_tol=1e-6,
    )


def test_nan_and_infinity_are_seen(way: str) -> None:
    x = values(20, 16)
    x[3, 1], x[4, 2] = np.nan, np.inf
    y = ops.relu(ops.batch_norm(device.shared(x), pt.ones(16, "float32"), pt.zeros(16, "float32"))[0])
    got = pytensor.function([], y, mode=device.mode("cpu"))()
    assert np.isnan(got[:, 1]).all() and np.isnan(got[:, 2]).any() and np.isfinite(got[:, 3:]).all()


def test_a_mean_far_from_zero_costs_no_digits(way: str) -> None:
    x = values(5000, 16) + 1000
    outputs = ops.batch_norm(device.shared(x), pt.ones(16, "float32"), pt.zeros(16, "float32"), EPSILON)
    inv_std = pytensor.function([], outputs[2], mode=device.mode("cpu"))()
    np.testing.assert_allclose(inv_std, 1 / np.sqrt(x.astype("float64").var(0) + EPSILON), rtol=1e-4)


def test_the_number_of_threads_changes_no_bit(way: str) -> None:
    if way == "torch":
        pytest.skip("torch divides its sums by threads")
    x, gamma, beta, gy = values(8, 32, 40, 40), values(32), values(32, seed=1), values(8, 32, 40, 40, seed=2)
    tensors = [torch.from_numpy(v) for v in (x, gamma, beta, gy)]
    tensors[0], tensors[3] = (t.contiguous(memory_format=torch.channels_last) for t in tensors[::3])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, mean, inv_std = rows.forward(*tensors[:3], epsilon=EPSILON, rectify=True)
            gradients = rows.backward(tensors[3], tensors[0], tensors[1], mean, inv_std, y, keep=True)
            results.append([y, mean, inv_std, *gradients])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


# Where it may be


def graph(build: Callable[[Any, Any], Any], shape: tuple[int | None, ...] = (4, 16), mode: Any = None) -> Any:
    x, r = pt.tensor("x", dtype="float32", shape=shape), pt.tensor("r", dtype="float32", shape=shape)
    return pytensor.function([x, r], build(x, r), mode=mode or device.mode("cpu"), on_unused_input="ignore")


def normalised(x: Any) -> list[Any]:
    return list(ops.batch_norm(x, pt.ones(16, "float32"), pt.zeros(16, "float32")))


def read_twice(x: Any, r: Any) -> Any:
    y = normalised(x)[0]
    return [ops.relu(y), y * 2]


def sum_read_twice(x: Any, r: Any) -> Any:
    total = normalised(x)[0] + r
    return [ops.relu(total), total * 2]


def three_terms(x: Any, r: Any) -> Any:
    return ops.relu(normalised(x)[0] + r + pt.exp(r))


def broadcast(x: Any, r: Any) -> Any:
    return ops.relu(normalised(x)[0] + r[:1])


def residual_of_itself(x: Any, r: Any) -> Any:
    y, mean, _ = normalised(x)
    return ops.relu(y + r * mean)


def twice_the_same(x: Any, r: Any) -> Any:
    y = normalised(x)[0]
    return ops.relu(y + y)


def product(x: Any, r: Any) -> Any:
    return ops.relu(normalised(x)[0] * r)


@pytest.mark.parametrize(
    "build",
    [read_twice, sum_read_twice, three_terms, broadcast, residual_of_itself, twice_the_same, product],
)
def test_graphs_that_stay_as_they_are(build: Callable[[Any, Any], Any]) -> None:
    f = graph(build)
    assert len(nodes(f, Relu)) == 1
    x, r = values(4, 16), values(4, 16, seed=1)
    # Node by node, without any rewrite of ours.
    reference = graph(build, mode=Mode("py", "fast_compile"))
    for got, expected in zip(np.atleast_3d(f(x, r)), np.atleast_3d(reference(x, r)), strict=True):
        assert_close(got, expected)


def test_a_sum_whose_shapes_are_known_only_at_run_time_stays() -> None:
    f = graph(lambda x, r: ops.relu(normalised(x)[0] + r), shape=(None, 16))
    assert len(nodes(f, Relu)) == 1
    with pytest.raises(ValueError, match="Runtime broadcasting not allowed"):
        f(values(4, 16), values(1, 16))


def test_other_modes_do_not_meet_the_fused_ops() -> None:
    f = graph(lambda x, r: ops.relu(normalised(x)[0] + r), mode=Mode("py", "fast_run"))
    assert len(nodes(f, Relu)) == 1


def test_of_two_normalised_terms_one_takes_over_the_sum() -> None:
    f = graph(lambda x, r: ops.relu(normalised(x)[0] + normalised(r)[0]))
    assert len(nodes(f, BatchNorm)) == 2 and not nodes(f, Relu)
    x, r = values(4, 16), values(4, 16, seed=1)
    one, zero = np.ones(16, "float32"), np.zeros(16, "float32")
    wide = [(v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) for v in (x.astype("float64"), r.astype("float64"))]
    assert_close(f(x, r), np.maximum(wide[0] * one + zero + wide[1], 0).astype("float32"))


def test_a_rectifiers_gradient_that_two_normalisations_share_is_computed_once() -> None:
    def build(x: Any, r: Any) -> Any:
        y = ops.relu(normalised(x)[0] + normalised(r)[0])
        return pytensor.grad((y**2).sum(), [x, r])

    f = graph(build)
    first, second = nodes(f, BatchNormGrad)
    assert not nodes(f, ReluGrad) and len(first.inputs) + len(second.inputs) == 11
    x, r = values(4, 16), values(4, 16, seed=1)
    leaves = [torch.from_numpy(v).double().requires_grad_() for v in (x, r)]
    terms = [torch.nn.functional.batch_norm(v, None, None, training=True) for v in leaves]
    expected = torch.autograd.grad((torch.relu(sum(terms)) ** 2).sum(), leaves)
    for got, value in zip(f(x, r), expected, strict=True):
        np.testing.assert_allclose(got, value.numpy(), atol=1e-4)


def test_resnet50_has_no_rectifier_of_its_own_left() -> None:
    from theanompi.lasagne.layers import get_all_params, get_output
    from theanompi.models.resnet50 import build_model

    scores = build_model((2, 3, 32, 32), num_classes=5)["fc1000"]
    x = pt.tensor("x", dtype="float32", shape=(2, 3, 32, 32))
    cost = (get_output(scores, x, batch_norm_statistics={}) ** 2).sum()
    f = pytensor.function(
        [x], pytensor.grad(cost, get_all_params(scores, trainable=True)), mode=device.mode("cpu")
    )
    assert not nodes(f, Relu, ReluGrad)
    assert sum(node.op.rectify for node in nodes(f, BatchNorm)) == 49


def test_a_quotient_of_whole_numbers_is_fused_under_another_floatx_than_it_was_made_under(capfd: Any) -> None:
    hits, all_of_them = pt.lvector("hits"), pt.lvector("all_of_them")
    with pytensor.config.change_flags(floatX="float32"):
        share = pt.switch(all_of_them > 0, hits / pt.maximum(all_of_them, 1), 1.0)
    with pytensor.config.change_flags(floatX="float64"):
        f = pytensor.function([hits, all_of_them], share, mode=device.mode("cpu"))
    assert [type(node.op.scalar_op).__name__ for node in f.maker.fgraph.apply_nodes] == ["Composite"]
    np.testing.assert_array_equal(f([1, 5], [3, 0]), np.array([1 / 3, 1], "float32"))
    assert capfd.readouterr().err == ""


# The compiler


def test_a_library_is_compiled_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here")
    source = tmp_path / "double.c"
    source.write_text("double twice(double x) { return 2 * x; }\n")
    assert native.library(source, tmp_path) is not None
    native.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", None)
    library = native.library(source, tmp_path)
    assert library is not None
    library.twice.restype, library.twice.argtypes = ctypes.c_double, [ctypes.c_double]
    assert library.twice(4) == 8
    assert len(list(tmp_path.glob("*"))) == 2, "the source and the library"


@pytest.mark.parametrize("trouble", ["no compiler", "not C", "nowhere to write"])
def test_where_nothing_can_be_compiled_there_is_no_library(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("what?\n" if trouble == "not C" else "int f(void) { return 1; }\n")
    if trouble == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    assert native.library(source, tmp_path / "none" if trouble == "nowhere to write" else tmp_path) is None
