"""The linker: state in place, aliases, lifetimes, dtypes."""

import gc
import linecache
import re
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Apply, Variable
from tolerance import assert_close

from theanompi import device
from theanompi.device import ops
from theanompi.device.generated import define
from theanompi.device.ops.base import Context, TorchOp

MODE = device.mode("cpu")


def matrix(name: str = "w") -> device.DeviceSharedVariable:
    return device.shared(np.arange(1, 10, dtype="float32").reshape(3, 3), name)


def call(outputs: Any, *updates: tuple[Any, Any]) -> Any:
    return pytensor.function([], outputs, updates=list(updates), mode=MODE)()


OLD = np.arange(1, 10, dtype="float32").reshape(3, 3)


# Updates


def test_update_stays_in_the_same_storage() -> None:
    w, v = matrix("w"), matrix("v")
    before = w.tensor.data_ptr(), v.tensor.data_ptr()
    f = pytensor.function([], [], updates=[(v, 0.5 * v - w), (w, w + 0.5 * v - w)], mode=MODE)
    for _ in range(3):
        f()
    assert (w.tensor.data_ptr(), v.tensor.data_ptr()) == before
    np.testing.assert_array_equal(w.get_value(), w.tensor.numpy())


def test_swap() -> None:
    a, b = matrix("a"), device.shared(-OLD, "b")
    call([], (a, b), (b, a))
    assert_close(a.get_value(), -OLD)
    assert_close(b.get_value(), OLD)


def test_rotation_of_three() -> None:
    a, b, c = (device.shared(np.full(2, k, "float32")) for k in (1, 2, 3))
    call([], (a, b), (b, c), (c, a))
    assert [v.get_value()[0] for v in (a, b, c)] == [2, 3, 1]


def test_update_is_a_variable_that_is_itself_overwritten() -> None:
    a, b = matrix("a"), matrix("b")
    call([], (a, b), (b, 2 * b))
    assert_close(a.get_value(), OLD)
    assert_close(b.get_value(), 2 * OLD)


@pytest.mark.parametrize(
    "view",
    [
        lambda w: w.T,
        lambda w: w.reshape((9,))[:9].reshape((3, 3)).T,
        lambda w: w - w[0:1],
        lambda w: w + w.T,
        lambda w: w / w[:, 0:1],
        lambda w: w[[2, 0, 1]],
        lambda w: pt.set_subtensor(w[1:], w[:-1]),
        lambda w: pt.inc_subtensor(w[0], w[:, 0]),
        lambda w: pt.concatenate([w[1:], w[:1]]),
        lambda w: w * 0 + w[1, 1],
    ],
)
def test_update_from_views_of_itself(view: Callable[[Any], Any]) -> None:
    ours, theirs = matrix(), pytensor.shared(OLD, shape=(3, 3))
    f = pytensor.function([], [], updates=[(ours, view(ours))], mode=MODE)
    g = pytensor.function([], [], updates=[(theirs, view(theirs))], mode=Mode("py", "fast_compile"))
    for _ in range(2):
        f(), g()
        assert_close(ours.get_value(), theirs.get_value())


def test_intermediate_is_not_overwritten_while_a_view_of_it_is_an_operand() -> None:
    h = pt.exp(matrix() / 9)
    expected = np.exp(OLD / 9)
    assert_close(call(h - h[:, :1]), expected - expected[:, :1])
    assert_close(call(h * h.T), expected * expected.T)


def test_update_that_is_a_view_of_another() -> None:
    a, b = matrix("a"), device.shared(np.zeros(3, "float32"), "b")
    call([], (b, a[:, 1]), (a, a + 1))
    assert_close(b.get_value(), OLD[:, 1])
    assert_close(a.get_value(), OLD + 1)


def test_update_that_is_a_reversal_of_itself() -> None:
    w = matrix()
    assert_close(call(w[2:0:-1, 1]), OLD[2:0:-1, 1])
    call([], (w, w[::-1, ::-2][:, [1, 0, 1]]))
    assert_close(w.get_value(), OLD[::-1, ::-2][:, [1, 0, 1]])


@pytest.mark.parametrize("view", [lambda w: w, lambda w: w.T, lambda w: w[1:], lambda w: w.reshape((9,))])
def test_output_that_aliases_an_updated_variable_shows_the_old_value(view: Callable[[Any], Any]) -> None:
    w = matrix()
    f = pytensor.function([], view(w), updates=[(w, w * 2)], mode=MODE)
    first = f()
    assert_close(first, view(OLD))
    assert_close(f(), view(2 * OLD))
    assert_close(first, view(OLD), "after the second call")


def test_split_of_an_updated_variable() -> None:
    w = matrix()
    parts = call(pt.split(w, [1, 2], n_splits=2), (w, w * 2))
    assert_close(parts[0], OLD[:1])
    assert_close(parts[1], OLD[1:])


def test_output_that_is_also_the_update() -> None:
    w = matrix()
    y = w * 2
    f = pytensor.function([], [y, y.T, y + 1], updates=[(w, y)], mode=MODE)
    first = f()
    f()
    for got, expected in zip(first, [2 * OLD, 2 * OLD.T, 2 * OLD + 1], strict=True):
        assert_close(got, expected)
    assert_close(w.get_value(), 4 * OLD)


def test_output_reads_a_variable_after_its_update_is_known() -> None:
    w = matrix()
    y = w * 2
    z = pt.exp(-y) + w  # reads the old w after y, the new one, is there
    got = call([y, z], (w, y))
    assert_close(got[0], 2 * OLD)
    assert_close(got[1], np.exp(-2 * OLD) + OLD)


def test_two_updates_with_one_value() -> None:
    a, b = matrix("a"), matrix("b")
    y = a * 2
    call([], (a, y), (b, y))
    a.set_value(OLD)
    assert_close(b.get_value(), 2 * OLD)


@pytest.mark.parametrize(("dtype", "shape"), [("float64", (8, 16)), ("float32", (8, 16, 3, 3))])
def test_an_update_by_an_op_that_may_take_its_storage_is_written(dtype: str, shape: tuple[int, ...]) -> None:
    """Of float64, or where axes lie in another order, batch normalisation leaves that storage as it is."""
    rng = np.random.default_rng(0)
    value, start = rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)
    x, state = pt.tensor(dtype=dtype, shape=shape), device.shared(start, "state")
    y, _, _ = ops.batch_norm(x, pt.ones(16, dtype), pt.zeros(16, dtype))
    for new in (ops.relu(y + state), pytensor.grad(None, x, known_grads={y: state})):
        (expected,) = pytensor.function([x], [new], mode=device.mode("cpu"))(value)
        pytensor.function([x], [], updates=[(state, new)], mode=device.mode("cpu"))(value)
        assert_close(state.get_value(), expected)
        state.set_value(start)


def test_constant_update_does_not_take_the_constants_storage() -> None:
    w = matrix()
    f = pytensor.function([], [], updates=[(w, pt.zeros((3, 3), "float32"))], mode=MODE)
    f()
    w.set_value(OLD)
    f()
    assert_close(w.get_value(), 0 * OLD)


def test_constant_is_not_overwritten_through_a_view() -> None:
    value = np.arange(9.0).reshape(3, 3)
    h = pt.tanh(pt.as_tensor(value).T)
    f = pytensor.function([], h, mode=Mode(MODE.linker, "merge"))  # without constant folding
    for _ in range(2):
        assert_close(f(), np.tanh(value.T))


def test_result_that_may_be_borrowed_is_still_no_shared_variable() -> None:
    w = matrix()
    y = w * 2
    f = pytensor.function([], pytensor.Out(y, borrow=True), updates=[(w, y)], mode=MODE)
    first = f()
    f()
    assert_close(first, 2 * OLD)
    assert_close(w.get_value(), 4 * OLD)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool", "float64"])
def test_updates_of_every_dtype(dtype: str) -> None:
    start = np.array([0, 1, 1]).astype(dtype)
    w = device.shared(start, "w")
    value = pt.invert(w) if dtype == "bool" else w + np.ones((), dtype)
    got = call([value, value.sum()], (w, value))
    expected = ~start if dtype == "bool" else start + np.ones((), dtype)
    assert_close(got[0], expected)
    assert got[1] == expected.sum()
    assert_close(w.get_value(), expected)


def test_scalar_state() -> None:
    t = device.shared(np.int64(0), "t")
    f = pytensor.function([], 0.5 * t, updates=[(t, t + 1)], mode=MODE)
    assert [float(f()) for _ in range(3)] == [0.0, 0.5, 1.0]
    assert t.get_value().shape == () and t.get_value() == 3


# NumPy variables


def test_numpy_shared_variables_as_inputs_and_updates() -> None:
    host, w = pytensor.shared(OLD, "host"), matrix()
    f = pytensor.function([], host + w, updates=[(host, host + 1), (w, w - host)], mode=MODE)
    assert_close(f(), 2 * OLD)
    assert isinstance(host.get_value(borrow=True), np.ndarray)
    assert_close(host.get_value(), OLD + 1)
    assert_close(w.get_value(), 0 * OLD)
    assert_close(f(), OLD + 1)


def test_numpy_variable_updated_to_a_device_variable_is_a_copy() -> None:
    host, other, w = pytensor.shared(OLD, "host"), pytensor.shared(OLD, "other"), matrix()
    f = pytensor.function([], [], updates=[(host, w), (other, w.T), (w, w + 1)], mode=MODE)
    f()
    assert_close(host.get_value(), OLD)
    assert_close(other.get_value(), OLD.T)
    w.set_value(0 * OLD)
    assert_close(host.get_value(), OLD, "after set_value")


def test_numpy_variable_is_apart_from_the_output_of_the_same_value() -> None:
    host = pytensor.shared(OLD, "host")
    y = host * 2
    call(y, (host, y))[:] = 0
    assert_close(host.get_value(), 2 * OLD)


def test_arguments_are_never_written() -> None:
    x = pt.matrix("x", dtype="float32")
    value = OLD.copy()
    f = pytensor.function([x], [pt.exp(x) - 1, x.T], mode=MODE)
    exponential, transposed = f(value)
    transposed[:] = 0
    assert_close(value, OLD)
    assert_close(exponential, np.exp(OLD) - 1)


@pytest.mark.parametrize(
    "change", [lambda a: a[::-1], lambda a: a.T, lambda a: np.broadcast_to(a[0], (3, 3))]
)
def test_arguments_of_any_layout(change: Callable[[np.ndarray], np.ndarray]) -> None:
    x = pt.matrix("x", dtype="float32")
    assert_close(pytensor.function([x], x * 2, mode=MODE)(change(OLD)), 2 * change(OLD))


def test_outputs_as_tensors_on_the_device() -> None:
    w = matrix()
    f = pytensor.function(
        [], [w, w + 1], updates=[(w, w * 2)], mode=device.mode("cpu", return_internal_type=True)
    )
    old, new = f()
    assert isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor)
    assert_close(old, OLD)
    assert_close(new, OLD + 1)


# Shapes and dtypes


def test_mixed_dtypes_as_in_numpy() -> None:
    i, f, b = pt.vector("i", dtype="int64"), pt.vector("f", dtype="float32"), pt.vector("b", dtype="bool")
    run = pytensor.function([i, f, b], [i + f, i / i, b + f, b * i, i // 2, f.sum(), i > f], mode=MODE)
    iv, fv, bv = np.array([1, 2, 3]), np.array([0.5, 1.5, 3.5], "float32"), np.array([True, False, True])
    expected = [iv + fv, iv / iv, bv + fv, bv * iv, iv // 2, fv.sum(), iv > fv]
    for got, value in zip(run(iv, fv, bv), expected, strict=True):
        assert_close(got, value)


def test_product_of_mixed_dtypes() -> None:
    x, y = pt.matrix("x", dtype="int64"), pt.matrix("y", dtype="float32")
    xv = np.arange(6).reshape(2, 3)
    assert_close(pytensor.function([x, y], pt.dot(x, y), mode=MODE)(xv, OLD), xv @ OLD)


@pytest.mark.parametrize(
    ("x_shape", "y_shape"), [((1, 3), (2, 3)), ((2, 1), (1, 3)), ((1, 1), (2, 3)), ((), (2, 3))]
)
def test_broadcasting(x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    xv, yv = rng.normal(size=x_shape).astype("float32"), rng.normal(size=y_shape).astype("float32")
    x, y = device.shared(xv), device.shared(yv)
    assert_close(call(x * y - x), xv * yv - xv)


@pytest.mark.parametrize("other", [None, 5])
def test_broadcast_that_is_known_only_at_run_time_is_refused(other: int | None) -> None:
    x, y = pt.tensor("x", dtype="float32", shape=(None,)), pt.tensor("y", dtype="float32", shape=(other,))
    f = pytensor.function([x, y], x + y, mode=MODE)
    five = np.ones(5, "float32")
    assert_close(f(five, five), 2 * five)
    with pytest.raises(ValueError, match="Runtime broadcasting not allowed"):
        f(five[:1], five)


def test_dropped_axis_must_have_length_one() -> None:
    x = pt.matrix("x", dtype="float32")
    f = pytensor.function([x], x.dimshuffle(1), mode=MODE)
    assert_close(f(OLD[:1]), OLD[0])
    with pytest.raises(ValueError, match=r"dropped axes .*expected length 1, got an input of shape \(3, 3\)"):
        f(OLD)


# Lifetimes


class Probe(TorchOp):
    """A copy that notes how many of the copies made so far are alive."""

    __props__ = ("tag",)
    alive: list[weakref.ref] = []
    counts: list[int] = []

    def __init__(self, tag: int) -> None:
        self.tag = tag

    def make_node(self, x: Variable) -> Apply:
        return Apply(self, [x], [x.type(), x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        def probe(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            Probe.counts.append(sum(r() is not None for r in Probe.alive))
            y, unused = x.clone(), x.clone()
            Probe.alive += [weakref.ref(y), weakref.ref(unused)]
            return y, unused

        return probe


def probed(last: Callable[[Any], Any], *updates: Any) -> list[int]:
    Probe.alive, Probe.counts = [], []
    w = matrix()
    x = w
    for tag in range(10):
        x = Probe(tag)(x)[0]
    f = pytensor.function([], last(x), updates=[(w, x * 2)] if updates else [], mode=MODE)
    gc.disable()
    f()
    gc.enable()
    return Probe.counts


@pytest.mark.parametrize("updates", [(), ("w",)])
def test_values_are_freed_after_their_last_use(updates: tuple[str, ...]) -> None:
    counts = probed(lambda x: x.sum(), *updates)
    # At each link only its operand is alive: not earlier links, nor the second outputs that nobody reads.
    assert counts == [0] + [1] * 9


def test_nothing_outlives_the_call() -> None:
    probed(lambda x: x.sum(), "w")
    assert [r() for r in Probe.alive if r() is not None] == []


def test_values_that_are_read_later_are_kept() -> None:
    Probe.alive, Probe.counts = [], []
    first = Probe(0)(matrix())[0]
    x = first
    for tag in range(1, 5):
        x = Probe(tag)(x)[0]
    assert_close(call(x + first), 2 * OLD)
    assert Probe.counts == [0, 1, 2, 2, 2]


def test_a_chain_takes_the_same_storage() -> None:
    read: list[int] = []

    class Address(Probe):
        def function(self, node: Apply, context: Context) -> Callable[..., Any]:
            def address(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                read.append(x.data_ptr())
                return x, x

            return address

    x = Probe(0)(matrix())[0]
    for tag in range(3):
        x = device.ops.relu(pt.tanh(Address(tag)(x)[0]))
    call(x.sum())
    assert read == read[:1] * 3


# Destinations


class Into(TorchOp):
    """Twice its input, computed into a given tensor where there is one; notes which."""

    __props__ = ()
    destinations = (0,)
    given: list[int | None] = []

    def make_node(self, x: Variable) -> Apply:
        return Apply(self, [x], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        def into(x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
            assert (out is not None) == (context.into == (0,))
            Into.given.append(None if out is None else out.data_ptr())
            return x * 2 if out is None else torch.mul(x, 2, out=out)

        return into


def test_an_update_is_computed_where_it_belongs() -> None:
    x, store, names = matrix("x"), matrix("store"), []
    Into.given = []
    mode = device.mode("cpu", written=names.append)
    f = pytensor.function([], [], updates=[(store, Into()(x))], mode=mode)
    f(), f()
    assert Into.given == [store.tensor.data_ptr()] * 2 and names == ["store"] * 2
    assert_close(store.get_value(), 2 * OLD)
    assert_close(x.get_value(), OLD)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (lambda x, s, value: ([value], [(s, value)]), 2 * OLD),  # also a result
        (lambda x, s, value: ([value.sum()], [(s, value)]), 2 * OLD),  # read by another node
        (lambda x, s, value: ([], [(s, value), (x, value)]), 2 * OLD),  # two updates
        (lambda x, s, value: ([pt.exp(value * 0) * s], [(s, value)]), 2 * OLD),  # the old value is read later
        (lambda x, s, value: ([], [(s, Into()(s))]), 2 * OLD),  # the old value is what it reads
        (lambda x, s, value: ([], [(s, Into()(s.T))]), 2 * OLD.T),  # or a view of it
        (lambda x, s, value: ([], [(s, value.T)]), 2 * OLD.T),  # the update is a view
    ],
)
def test_a_value_that_is_needed_otherwise_has_its_own_memory(
    case: Callable[..., Any], expected: np.ndarray
) -> None:
    x, store = matrix("x"), matrix("store")
    Into.given = []
    results, updates = case(x, store, Into()(x))
    got = [np.array(r) for r in call(results, *updates)]
    assert Into.given == [None]
    assert_close(store.get_value(), expected)
    if results:
        for one, other in zip(got, pytensor.function([], results, mode=MODE)(), strict=True):
            assert one.shape == other.shape


@pytest.mark.parametrize("size", [1, 12])
def test_gradients_of_filters_and_matrices_go_into_their_views(size: int) -> None:
    rng = np.random.default_rng(0)
    x = device.shared(rng.normal(size=(2, 8, size, size)).astype("float32"), "x")
    w = device.shared(rng.normal(size=(16, 8, 3, 3)).astype("float32"), "w")
    v = device.shared(rng.normal(size=(16, 5)).astype("float32"), "v")
    scores = pt.dot(pt.tanh(device.ops.conv2d(x, w, padding=1) / 4).mean((2, 3)), v)
    gradients = pytensor.grad((scores**2).sum(), [w, v])
    buffer = device.FlatBuffer({"v": (16, 5), "w": (16, 8, 3, 3)})
    stores = [device.shared(buffer.views[name], name) for name in ("w", "v")]
    expected = pytensor.function([], gradients, mode=MODE)()
    pytensor.function([], [], updates=list(zip(stores, gradients, strict=True)), mode=MODE)()
    for store, value in zip(stores, expected, strict=True):
        np.testing.assert_array_equal(store.get_value(), value)
    bf16 = pytensor.function(
        [], [], updates=list(zip(stores, gradients, strict=True)), mode=device.mode("cpu", precision="bf16")
    )
    bf16()
    for store, value in zip(stores, expected, strict=True):
        assert_close(store.get_value(), value, precision="bf16")


@pytest.mark.parametrize("before", [0, 1, 4])
def test_a_product_has_the_same_bits_wherever_in_a_buffer_its_place_is(before: int) -> None:
    """Libraries sum in another order where results do not lie as new memory does."""
    rng = np.random.default_rng(0)
    x, y = (device.shared(rng.normal(size=(50, n)).astype("float32")) for n in (13, 7))
    buffer = device.FlatBuffer({"before": (before,), "place": (13, 7)})
    place = device.shared(buffer.views["place"], "place")
    pytensor.function([], [], updates=[(place, pt.dot(x.T, y))], mode=MODE)()
    np.testing.assert_array_equal(place.get_value(), pytensor.function([], pt.dot(x.T, y), mode=MODE)())
    assert buffer.flat.data_ptr() % 64 == 0


def test_a_traceback_shows_the_line_of_the_program_that_failed() -> None:
    x, y = pt.fmatrices("x", "y")
    function = pytensor.function([x, y], pt.exp(x) @ y, mode=device.mode("cpu"))
    with pytest.raises(RuntimeError) as caught:
        function(np.zeros((2, 3), "float32"), np.zeros((2, 3), "float32"))
    text = "".join(traceback.format_exception(caught.value))
    assert re.search(
        r'File "<theanompi program \d+>", line \d+, in program\n    v\d = f\d\(v\d, i1\)  # ', text
    ), text


def test_the_source_of_a_function_is_forgotten_with_it() -> None:
    function = define("def f():\n    return 1\n", "f", {})
    file = function.__code__.co_filename
    assert file in linecache.cache
    del function
    gc.collect()
    assert file not in linecache.cache


def test_a_variable_and_its_clone_are_the_same_memory():
    """What reads either of them in a call sees it as it was before the call's updates."""
    w = device.shared(np.array([1, 2], "float32"), name="w")
    moving = w.clone()
    moving.default_update = moving + 1
    late = pt.exp(w - w.sum())
    step = pytensor.function([], [2 * moving, w, late * 0 + w], mode=device.mode())
    for value in ([1, 2], [2, 3]):
        twice, *same = step()
        np.testing.assert_array_equal(twice, np.multiply(2, value))
        np.testing.assert_array_equal(same, [value, value])
    np.testing.assert_array_equal(w.get_value(), [3, 4])


def test_a_direct_call_reads_and_updates_the_storage_that_a_variable_has_then() -> None:
    w, x = device.shared(np.float32([1, 2]), "w"), device.shared(np.int64([3, 4]), "x")
    step = device.direct(pytensor.function([], (w * x).sum(), updates=[(w, w + 1)], mode=MODE))
    first = step()[0]
    home = torch.zeros(3)
    w.rebind(home[1:])
    x.adopt(torch.tensor([5, 6]))
    assert (first, step()[0]) == (11, 2 * 5 + 3 * 6)
    assert home.tolist() == [0, 3, 4]


def test_a_direct_call_of_a_function_that_updates_a_variable_on_the_host_is_refused() -> None:
    count = pytensor.shared(np.float32(0), "count")
    with pytest.raises(ValueError, match="expected updates on the device only, got count"):
        device.direct(pytensor.function([], [], updates=[(count, count + 1)], mode=MODE))
