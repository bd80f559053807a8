"""The mode is for any graph: common constructions of PyTensor, against its own interpreter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.raise_op import Assert
from pytensor.tensor.special import log_softmax, softmax
from tolerance import assert_close

from theanompi import device
from theanompi.config import ConfigError
from theanompi.device.unsupported import Unsupported

REFERENCE = Mode("py", "fast_compile")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(4, 5)), RNG.normal(size=(5, 3))
I = np.array([3, 0, 3, 1])  # noqa: E741

GRAPHS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "softmax": lambda x, y, i: [softmax(x, axis=1), softmax(x, axis=0), log_softmax(x, axis=1)],
    "reductions": lambda x, y, i: [
        x.mean(),
        x.std(axis=0),
        x.prod(axis=1),
        x.min(axis=(0, 1)),
        pt.logsumexp(x),
    ],
    "all and any": lambda x, y, i: [pt.all(x > -9), pt.any(x > 1, axis=0), (x > 0).sum(axis=1)],
    "argmax": lambda x, y, i: [x.argmax(), x.argmax(axis=0), x.argmin(axis=1), (x > 0).argmax(axis=1)],
    "norms": lambda x, y, i: [x.norm(2), x.norm(1, axis=1), pt.sqrt((x**2).sum(axis=0, keepdims=True))],
    "products": lambda x, y, i: [
        x @ y,
        pt.dot(x, y[:, 0]),
        pt.outer(x[0], y[0]),
        pt.tensordot(x, y, [[1], [0]]),
    ],
    "batched product": lambda x, y, i: pt.stack([x, 2 * x]) @ pt.stack([y, -y]),
    "advanced indexing": lambda x, y, i: [x[i], x[i, i], x[pt.arange(4), i], x[:, i], pt.take(x, i, axis=1)],
    "boolean indexing": lambda x, y, i: x[x > 0],
    "gradient of indexing": lambda x, y, i: pytensor.grad(
        (x[i] ** 2).sum() + (x[pt.arange(4), i] ** 3).sum(), x
    ),
    "setting": lambda x, y, i: [
        pt.set_subtensor(x[1:3, ::2], 0.0),
        pt.inc_subtensor(x[:, 0], x[:, 1]),
        pt.inc_subtensor(x[i], 1.0),
        pt.set_subtensor(x[pt.arange(4), i], -1.0),
    ],
    "alloc": lambda x, y, i: [
        pt.zeros_like(x),
        pt.ones((x.shape[0], 2)) + i[:, None],
        pt.full((2, 3), x[0, 0]),
    ],
    "ranges": lambda x, y, i: [pt.arange(x.shape[1]), pt.arange(1, 9, 2), pt.eye(3), pt.tri(3)],
    "conditions": lambda x, y, i: [
        pt.switch(x > 0, x, -x),
        pt.clip(x, -0.5, 0.5),
        pt.where(i[:, None] > 0, x, 0),
    ],
    "casts": lambda x, y, i: [
        x.astype("int32"),
        i.astype("float32") / 3,
        (x > 0).astype("int8") + i[:, None],
    ],
    "cumulation": lambda x, y, i: [pt.cumsum(x, axis=1), pt.cumsum(x), pt.cumprod(x, axis=0)],
    "joining": lambda x, y, i: [
        pt.concatenate([x, x], axis=1),
        pt.stack([x, -x], axis=1),
        pt.horizontal_stack(x, x),
    ],
    "reversing": lambda x, y, i: [
        x[::-1],
        x[2:0:-1, ::-2],
        x[1, ::-1],
        x[i[0] :: -1, 1],
        x[pt.arange(4)[::-1]],
        pytensor.grad((pt.cumsum(x, axis=1) ** 2).sum(), x),
    ],
    "diagonals": lambda x, y, i: [pt.diagonal(x), pt.diagonal(x, 1), pt.diag(x[0])],
    "shapes": lambda x, y, i: [
        x.reshape((2, -1)),
        x.flatten(),
        x.T,
        x.dimshuffle(1, "x", 0),
        x.shape,
        x.size,
    ],
    "shape arithmetic": lambda x, y, i: x.reshape((x.shape[1], x.shape[0])) / x.shape[0],
    "tiling": lambda x, y, i: [pt.repeat(x, 2, axis=0), pt.tile(x, (2, 1))],
    "sorting": lambda x, y, i: [pt.sort(x, axis=1), pt.argsort(x, axis=1)],
    "assertion": lambda x, y, i: Assert("x is empty")(x, pt.gt(x.size, 0)) * 2,
    "unequal parts": lambda x, y, i: [
        *pt.split(x, [1, 3, 1], n_splits=3, axis=1),
        *pt.split(x, i[1:3] + np.array([1, 0]), n_splits=2, axis=-2),
        pytensor.grad((pt.split(x, [1, 4], n_splits=2, axis=1)[1] ** 2).sum(), x),
    ],
    "joining of other dtypes": lambda x, y, i: [
        pt.join(1, x, i[:, None]),
        pt.join(0, x.astype("float32"), x),
        pt.join(0, i.astype("uint16"), i.astype("uint8")),
        pt.concatenate([x[:0], x]),
    ],
    "repeating by a vector": lambda x, y, i: [
        pt.repeat(x, abs(i).astype("uint8"), axis=0),
        pt.repeat(x, i[:1], axis=1),
        pt.repeat(i.astype("uint64"), i),
        pytensor.grad((pt.repeat(x, i, axis=0) ** 2).sum(), x),
    ],
    "diagonal ones": lambda x, y, i: [
        *(pt.eye(3, 4, k, dtype=d) for k, d in ((-5, "bool"), (-1, "uint16"), (2, "int8"), (4, "float32"))),
        pt.eye(i[0].astype("uint16"), 2, -1, dtype="int64"),
        pt.eye(0),
    ],
    "ranges of floats": lambda x, y, i: [
        pt.arange(9, x[0, 0], 3),
        pt.arange(0, 1, 0.1, dtype="float32"),
        pt.arange(x[0, 0], 9, 0.7),
        pt.arange(5, 1, -2, dtype="uint16"),
        pt.arange(i[0]),
    ],
    "choosing": lambda x, y, i: [
        pt.choose(i[None] % 2, x[:2, :4]),
        pt.choose(i, x[:, :4], "clip"),
        pt.choose(i - 7, x[:, :4], "wrap"),
        pt.basic.permute_row_elements(x[:, :4], np.array([2, 0, 3, 1])),
        pt.basic.permute_row_elements(x[:, :4], np.array([2, 0, 3, 1]), True),
    ],
    "joined and split axes": lambda x, y, i: [
        pt.join_dims(x, 0, 2),
        pt.split_dims(x, (2, 2), axis=0),
        pytensor.grad((pt.join_dims(x, 0, 2) ** 2).sum(), x),
    ],
    "products of every dtype": lambda x, y, i: [
        pt.dot(*(pt.ones((300, 300), "bool") for _ in range(2))),
        pt.dot(x > 0, (y > 0).astype("uint64") * 2**40),
        pt.dot(x > 0, (y > 0).astype("uint16")),
        pt.dot(x, (y > 0)),
        pt.dot(i[None], i[:, None].astype("int8")),
    ],
    "means something to gradients": lambda x, y, i: [
        pytensor.grad((pytensor.gradient.grad_clip(x, -1, 1) ** 3).sum(), x),
        pytensor.grad((pytensor.gradient.disconnected_grad(x) * x).sum(), x),
        pytensor.gradient.zero_grad(x) * 2,
    ],
    "integer arithmetic": lambda x, y, i: [i // 2, i % 2, -i // 2, i**2, i / 2, i & 1, i | 4],
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("static", [True, False])
def test_graph_as_pytensor(name: str, static: bool) -> None:
    x = pt.tensor("x", dtype="float64", shape=X.shape if static else (None, None))
    y = pt.tensor("y", dtype="float64", shape=Y.shape if static else (None, None))
    i = pt.tensor("i", dtype="int64", shape=I.shape if static else (None,))
    outputs = GRAPHS[name](x, y, i)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    ours, theirs = (
        pytensor.function([x, y, i], outputs, mode=mode, on_unused_input="ignore")
        for mode in (device.mode("cpu"), REFERENCE)
    )
    # Ops that are graphs themselves are compiled in the default mode, at the first call.
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        reference = theirs(X, Y, I)
    for k, (got, expected) in enumerate(zip(ours(X, Y, I), reference, strict=True)):
        assert_close(got, expected, f"output {k}")


def test_shapes_that_do_not_fit_are_errors() -> None:
    x, n = pt.matrix("x"), pt.lvector("n")
    for build, error, message in (
        (lambda: pt.split(x, n, n_splits=2, axis=0)[0], ValueError, "expected 2 lengths that sum to 4"),
        (lambda: pt.specify_shape(x, (n[0], None)) * 2, AssertionError, "SpecifyShape: Got shape"),
        (lambda: pt.choose(n, x[:, :2]), ValueError, "invalid entry in choice array"),
    ):
        f = pytensor.function([x, n], build(), mode=device.mode("cpu"))
        with pytest.raises(error, match=message):
            f(X, np.array([3, 4]))


def test_printing(capsys: pytest.CaptureFixture[str]) -> None:
    x = pt.vector("x")
    pytensor.function([x], pytensor.printing.Print("seen")(x) * 2, mode=device.mode("cpu"))(np.ones(2))
    assert capsys.readouterr().out == "seen __str__ = [1. 1.]\n"


def test_failed_assertion() -> None:
    x = pt.vector("x")
    f = pytensor.function([x], Assert("x must not be empty")(x, pt.gt(x.size, 0)), mode=device.mode("cpu"))
    with pytest.raises(AssertionError, match="x must not be empty"):
        f(np.zeros(0))


def test_op_that_is_unknown_is_refused_in_one_line() -> None:
    class Unheard(Op):
        __props__ = ()

        def make_node(self, x: Any) -> Apply:
            return Apply(self, [x], [x.type()])

        def perform(self, node: Apply, inputs: Any, output_storage: Any) -> None:
            output_storage[0][0] = inputs[0]

    x = pt.matrix("x")
    y = Unheard()(x)
    y.name = "answer"
    with pytest.raises(Unsupported) as caught:
        pytensor.function([x], y, mode=device.mode("cpu"))
    assert str(caught.value) == (
        "Unheard (answer): not supported on the device: it is unknown to theanompi.device; "
        "docs/ops.md lists the ops that are"
    )
    # What a run says of it is the line alone.
    assert isinstance(caught.value, NotImplementedError) and isinstance(caught.value, ConfigError)
    assert len(str(Unsupported("x" * 999, "y" * 999, "z" * 999))) <= 300


REFUSED: dict[str, Callable[[Any], Any]] = {
    "Schur": lambda x: pt.linalg.schur(pt.outer(x, x))[0],
    "kve": lambda x: pt.kv(x, x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_does_not_have_is_refused_by_name(name: str) -> None:
    x = pt.vector("x")
    with pytest.raises(Unsupported, match=rf"^{name}.*: not supported on the device: .*docs/ops\.md"):
        pytensor.function([x], REFUSED[name](x), mode=device.mode("cpu"))


def softmax_regression(shared: Callable[[Any], Any], mode: Any) -> list[np.ndarray]:
    """Ten steps of gradient descent on labelled points, as in the deep-learning tutorials."""
    rng = np.random.default_rng(1)
    w, b = shared(np.zeros((2, 3))), shared(np.zeros(3))
    x, labels = pt.matrix("x"), pt.lvector("labels")
    p = softmax(pt.dot(x, w) + b, axis=1)
    cost = -pt.log(p)[pt.arange(labels.shape[0]), labels].mean() + 0.01 * (w**2).sum()
    updates = [(v, v - 0.5 * g) for v, g in zip((w, b), pytensor.grad(cost, [w, b]), strict=True)]
    step = pytensor.function(
        [x, labels], [cost, pt.eq(p.argmax(axis=1), labels).mean()], updates=updates, mode=mode
    )
    points, classes = rng.normal(size=(30, 2)), rng.integers(0, 3, 30)
    trace = [np.array(step(points, classes)) for _ in range(10)]
    return [np.stack(trace), w.get_value(), b.get_value()]


def recurrent_step(shared: Callable[[Any], Any], mode: Any) -> list[np.ndarray]:
    """An Elman network unrolled over four steps; its state is carried over from call to call."""
    rng = np.random.default_rng(2)
    w, u, h = shared(rng.normal(size=(3, 3)) / 2), shared(rng.normal(size=(2, 3))), shared(np.zeros((5, 3)))
    x = pt.tensor3("x")
    state, states = h, []
    for t in range(4):
        state = pt.tanh(pt.dot(x[t], u) + pt.dot(state, w))
        states.append(state)
    cost = (pt.stack(states) ** 2).mean()
    gradients = pytensor.grad(cost, [w, u])
    updates = [(w, w - gradients[0]), (u, u - gradients[1]), (h, state)]
    step = pytensor.function([x], [cost, *states], updates=updates, mode=mode)
    results = [v for _ in range(3) for v in step(rng.normal(size=(4, 5, 2)))]
    return [*results, w.get_value(), u.get_value(), h.get_value()]


@pytest.mark.parametrize("program", [softmax_regression, recurrent_step])
def test_program_as_pytensor(program: Callable[..., list[np.ndarray]]) -> None:
    ours = program(device.shared, device.mode("cpu"))
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        theirs = program(pytensor.shared, REFERENCE)
    for k, (got, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(got, expected, f"{program.__name__}: value {k}")


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("inverse", [False, True])
def test_rows_of_any_dtype_are_permuted(dtype: str, inverse: bool) -> None:
    x, order = pt.matrix("x", dtype=dtype), np.array([2, 0, 1])
    value = np.array([[1, 0, 255], [3, 4, 0]]).astype(dtype)
    result = pytensor.function(
        [x], pt.basic.permute_row_elements(x, order, inverse), mode=device.mode("cpu")
    )(value)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, value[:, np.argsort(order) if inverse else order])


def test_a_negative_length_is_an_error_and_not_the_length_that_is_there() -> None:
    n = pt.lscalar("n")
    f = pytensor.function([n], pt.alloc(np.float32(1), n, 2), mode=device.mode("cpu"))
    with pytest.raises(ValueError, match=r"negative dimensions are not allowed, got \(-1, 2\)"):
        f(-1)
