"""Recurrent layers: outputs and all gradients against plain torch and NumPy's loops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
import torch.nn.functional as F

from theanompi import Model, classification, device
from theanompi.lasagne import init
from theanompi.lasagne.layers import (
    Conv2DLayer,
    CustomRecurrentLayer,
    DenseLayer,
    DropoutLayer,
    Gate,
    GRULayer,
    InputLayer,
    Layer,
    LSTMLayer,
    RecurrentLayer,
    get_all_params,
    get_output,
)
from theanompi.lasagne.nonlinearities import tanh
from theanompi.lasagne.random import set_rng
from theanompi.lasagne.utils import unroll_scan
from theanompi.record.recorder import Recorder

N, STEPS, IN, UNITS = 3, 4, 2, 5
X = np.random.default_rng(0).normal(size=(N, STEPS, IN)).astype("float32")
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0]], "float32")
W = init.Normal(0.5)
KINDS: dict[str, Callable[..., Layer]] = {
    "plain": lambda x, **more: RecurrentLayer(x, UNITS, W, W, W, tanh, W, **more),
    "lstm": lambda x, **more: LSTMLayer(
        x, UNITS, *(gate(i) for i in range(4)), hid_init=W, cell_init=W, **more
    ),
    "gru": lambda x, **more: GRULayer(x, UNITS, *(gate(i) for i in (4, 4, 2)), hid_init=W, **more),
}
Step = Callable[[Any, Any, dict[str, torch.Tensor]], Any]


@pytest.fixture(autouse=True)
def _seed() -> None:
    set_rng(np.random.default_rng(3))


def gate(kind: int) -> Gate:
    """Those of an LSTM in their order; the last is without peepholes."""
    cell = None if kind in (2, 4) else W
    return Gate(W, W, cell, W, tanh) if kind == 2 else Gate(W, W, cell, W)


def plain_step(x: Any, states: Any, p: dict[str, torch.Tensor]) -> Any:
    (h,) = states
    of_input = x @ p["input_to_hidden.W"] + p["input_to_hidden.b"]
    return [torch.tanh(of_input + h @ p["hidden_to_hidden.W"])]


def lstm_step(x: Any, states: Any, p: dict[str, torch.Tensor]) -> Any:
    c, h = states

    def total(name: str) -> torch.Tensor:
        return x @ p[f"W_in_to_{name}"] + h @ p[f"W_hid_to_{name}"] + p[f"b_{name}"]

    def peep(name: str, cell: torch.Tensor) -> Any:
        return cell * p[f"W_cell_to_{name}"] if f"W_cell_to_{name}" in p else 0

    i, f = (torch.sigmoid(total(name) + peep(name, c)) for name in ("ingate", "forgetgate"))
    c = f * c + i * torch.tanh(total("cell"))
    return [c, torch.sigmoid(total("outgate") + peep("outgate", c)) * torch.tanh(c)]


def gru_step(x: Any, states: Any, p: dict[str, torch.Tensor]) -> Any:
    (h,) = states
    r, u = (
        torch.sigmoid(x @ p[f"W_in_to_{k}"] + h @ p[f"W_hid_to_{k}"] + p[f"b_{k}"])
        for k in ("resetgate", "updategate")
    )
    of_state = r * (h @ p["W_hid_to_hidden_update"])
    c = torch.tanh(x @ p["W_in_to_hidden_update"] + of_state + p["b_hidden_update"])
    return [(1 - u) * h + u * c]


STEPS_OF: dict[str, tuple[Step, tuple[str, ...]]] = {
    "plain": (plain_step, ("hid_init",)),
    "lstm": (lstm_step, ("cell_init", "hid_init")),
    "gru": (gru_step, ("hid_init",)),
}


def looped(kind: str, mask: bool = False, backwards: bool = False, steps: int = STEPS) -> Any:
    """The layer written as a loop in torch: of the input and the parameters by name."""
    step, names = STEPS_OF[kind]

    def reference(x: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        states = [p[name].expand(N, UNITS) for name in names]
        outputs = {}
        for t in reversed(range(steps)) if backwards else range(steps):
            new = step(x[:, t], states, p)
            kept = torch.from_numpy(MASK[:, t : t + 1] > 0)
            states = (
                [torch.where(kept, a, b) for a, b in zip(new, states, strict=True)] if mask else list(new)
            )
            outputs[t] = states[-1]
        return torch.stack([outputs[t] for t in range(steps)], 1)

    return reference


def outputs(layer: Layer, given: dict[Layer, np.ndarray], *more: dict[Layer, np.ndarray]) -> Any:
    """The layer's output for these inputs, and for each of those in `more`."""
    inputs = {source: pt.tensor(dtype="float32", shape=(None,) * a.ndim) for source, a in given.items()}
    f = pytensor.function([*inputs.values()], get_output(layer, inputs), mode=device.mode("cpu"))
    found = [f(*one.values()) for one in (given, *more)]
    assert all(b in (None, a) for a, b in zip(found[0].shape, layer.output_shape, strict=True))
    return found if more else found[0]


def values(layer: Layer, given: dict[Layer, np.ndarray], only: str = "") -> Any:
    """The layer's output, and the gradients by the inputs and the parameters whose names have `only` in them."""
    inputs = {source: pt.tensor(dtype="float32", shape=(None,) * a.ndim) for source, a in given.items()}
    y = get_output(layer, inputs)
    wrt = {p.name: p for p in get_all_params(layer) if only in p.name} | {"x": next(iter(inputs.values()))}
    gradients = pytensor.grad((y**2).sum(), [*wrt.values()])
    f = pytensor.function([*inputs.values()], [y, *gradients], mode=device.mode("cpu"))
    out, *found = f(*given.values())
    return out, dict(zip(wrt, found, strict=True))


def expected(layer: Layer, reference: Any, x: np.ndarray = X) -> Any:
    """The same of a function in torch."""
    leaves = {p.name: torch.from_numpy(p.get_value()).requires_grad_() for p in get_all_params(layer)}
    leaves["x"] = torch.from_numpy(x).requires_grad_()
    y = reference(leaves["x"], leaves)
    (y**2).sum().backward()
    return y.detach().numpy(), {k: v.grad.numpy() for k, v in leaves.items() if v.grad is not None}


def agree(got: Any, wanted: Any, but: tuple[str, ...] = ()) -> None:
    np.testing.assert_allclose(got[0], wanted[0], rtol=2e-5, atol=2e-6)
    for name, gradient in wanted[1].items():
        if name not in but:
            np.testing.assert_allclose(got[1][name], gradient, rtol=2e-4, atol=2e-5, err_msg=name)


def layer_and_inputs(kind: str, mask: bool = False, **more: Any) -> tuple[Layer, dict[Layer, np.ndarray]]:
    x = InputLayer((None, STEPS, IN))
    given = {x: X}
    if mask:
        more["mask_input"] = InputLayer((None, STEPS))
        given[more["mask_input"]] = MASK
    return KINDS[kind](x, **more), given


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("plain", {}),
        ("lstm", {}),
        ("lstm", {"precompute_input": False}),
        ("gru", {}),
        ("plain", {"unroll_scan": True}),
    ],
)
def test_each_layer_backwards_with_a_mask(kind: str, more: dict[str, Any]) -> None:
    layer, given = layer_and_inputs(kind, mask=True, backwards=True, **more)
    agree(values(layer, given), expected(layer, looped(kind, True, True)))


@pytest.mark.parametrize("backwards", [False, True])
def test_an_lstm_is_one_op_with_a_mask_too(backwards: bool) -> None:
    layer, given = layer_and_inputs("lstm", mask=True, backwards=backwards, peepholes=False)
    agree(values(layer, given), expected(layer, looped("lstm", True, backwards)))
    f = pytensor.function([s.input_var for s in given], get_output(layer), mode=device.mode("cpu"))
    kinds = {type(node.op).__name__ for node in f.maker.fgraph.toposort()}
    assert "LSTM" in kinds and "Scan" not in kinds


@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_precomputed_or_not_and_the_final_state_alone(kind: str) -> None:
    layer, given = layer_and_inputs(kind, mask=True, unroll_scan=True, only_return_final=True)
    wanted, _ = expected(layer, looped(kind, True))
    np.testing.assert_allclose(outputs(layer, given), wanted[:, -1], rtol=2e-5, atol=2e-6)
    layer, given = layer_and_inputs(kind, backwards=True, only_return_final=True, precompute_input=False)
    wanted, _ = expected(layer, looped(kind, False, True))
    np.testing.assert_allclose(outputs(layer, given), wanted[:, 0], rtol=2e-5, atol=2e-6)


def test_torch_has_the_same_lstm_without_peepholes() -> None:
    layer, given = layer_and_inputs("lstm", peepholes=False)
    assert not [p for p in get_all_params(layer) if "W_cell" in p.name]
    order = ("ingate", "forgetgate", "cell", "outgate")

    def reference(x: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = [torch.cat([p[f"{w}_to_{g}"] for g in order], 1).T for w in ("W_in", "W_hid")]
        b = torch.cat([p[f"b_{g}"] for g in order])
        start = tuple(p[name].expand(1, N, UNITS) for name in ("hid_init", "cell_init"))
        flat = [*weights, b, torch.zeros_like(b)]
        return torch.lstm(x, start, flat, True, 1, 0.0, False, False, True)[0]

    agree(values(layer, given), expected(layer, reference))


def test_torch_has_the_same_gru_with_the_update_gate_turned() -> None:
    layer, given = layer_and_inputs("gru")
    order, signs = ("resetgate", "updategate", "hidden_update"), (1, -1, 1)

    def reference(x: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        flat = [
            torch.cat([s * p[f"{w}_to_{g}"] for g, s in zip(order, signs, strict=True)], 1).T
            for w in ("W_in", "W_hid")
        ]
        b = torch.cat([s * p[f"b_{g}"] for g, s in zip(order, signs, strict=True)])
        start = p["hid_init"].expand(1, N, UNITS)
        return torch.gru(x, start, [*flat, b, torch.zeros_like(b)], True, 1, 0.0, False, False, True)[0]

    agree(values(layer, given), expected(layer, reference))


def test_stacked_layers_of_sequences_of_any_length() -> None:
    net = LSTMLayer(InputLayer((None, None, IN)), 4, name="first")
    net = GRULayer(net, UNITS, backwards=True, name="second")
    net = RecurrentLayer(net, 1, nonlinearity=tanh, name="third")
    x = pt.tensor3(dtype="float32")
    f = pytensor.function([x], get_output(net, x), mode=device.mode("cpu"))
    assert f(X).shape == (N, STEPS, 1)
    assert f(X[:1, :1]).shape == (1, 1, 1)
    # What comes later does not change what a first layer gives, but a backwards one.
    assert abs(f(X)[:, 0] - f(X[:, :2])[:, 0]).max() > 1e-7
    names = [p.name for p in get_all_params(net, trainable=True) if p.name.startswith("third")]
    assert names == ["third.input_to_hidden.W", "third.input_to_hidden.b", "third.hidden_to_hidden.W"]


def test_names_and_tags_of_parameters() -> None:
    gates = ("ingate", "forgetgate", "cell", "outgate")
    lstm = LSTMLayer((None, STEPS, IN), UNITS, name="l")
    own = [f"l.{p}_{g}" for g in gates for p in ("W_in_to", "W_hid_to", "b")]
    peepholes = [f"l.W_cell_to_{g}" for g in ("ingate", "forgetgate", "outgate")]
    assert [p.name for p in lstm.get_params()] == [*own, *peepholes, "l.cell_init", "l.hid_init"]
    assert [p.name for p in lstm.get_params(trainable=False)] == ["l.cell_init", "l.hid_init"]
    assert not [p for p in lstm.get_params(regularizable=True) if ".b_" in p.name or "init" in p.name]
    learned = GRULayer((None, STEPS, IN), UNITS, learn_init=True, name="g").get_params(
        trainable=True, regularizable=False
    )
    assert [p.name for p in learned] == ["g.b_updategate", "g.b_resetgate", "g.b_hidden_update", "g.hid_init"]
    plain = RecurrentLayer((None, STEPS, IN), UNITS, b=None, learn_init=True, name="r")
    assert [p.name for p in plain.get_params()] == [
        "r.hid_init",
        "r.input_to_hidden.W",
        "r.hidden_to_hidden.W",
    ]
    assert plain.b is None and plain.W_hid_to_hid.type.shape == (UNITS, UNITS)


def test_initial_states_that_are_layers() -> None:
    x, start = InputLayer((None, STEPS, IN)), InputLayer((None, UNITS))
    layer = LSTMLayer(x, UNITS, hid_init=start, cell_init=DenseLayer(start, UNITS, W, name="d"))
    assert (layer.mask_incoming_index, layer.hid_init_incoming_index, layer.cell_init_incoming_index) == (
        -1,
        1,
        2,
    )
    h = np.random.default_rng(1).normal(size=(N, UNITS)).astype("float32")
    out = outputs(layer, {x: X, start: h})
    c = F.relu(torch.from_numpy(h @ layer.input_layers[2].W.get_value()))
    p = {p.name: torch.from_numpy(p.get_value()) for p in layer.get_params()}
    _, first = lstm_step(torch.from_numpy(X[:, 0]), (c, torch.from_numpy(h)), p)
    np.testing.assert_allclose(out[:, 0], first, rtol=1e-5, atol=1e-6)


def test_a_custom_layer_of_images_in_time() -> None:
    films = np.random.default_rng(2).normal(size=(2, 3, 1, 4, 4)).astype("float32")
    x = InputLayer((None, 3, 1, 4, 4))
    a = Conv2DLayer(
        InputLayer((None, 1, 4, 4)), 2, 3, pad="same", nonlinearity=None, flip_filters=False, name="a"
    )
    b = Conv2DLayer(
        InputLayer((None, 2, 4, 4)),
        2,
        3,
        pad="same",
        b=None,
        nonlinearity=None,
        flip_filters=False,
        name="b",
    )
    mask = InputLayer((None, 3))
    layer = CustomRecurrentLayer(x, a, b, tanh, W, mask_input=mask)
    kept = np.array([[1, 0, 1], [1, 1, 0]], "float32")

    def reference(x: torch.Tensor, p: dict[str, torch.Tensor]) -> torch.Tensor:
        h, outputs = p["hid_init"].expand(2, 2, 4, 4), []
        for t in range(3):
            total = F.conv2d(x[:, t], p["a.W"], p["a.b"], padding=1) + F.conv2d(h, p["b.W"], padding=1)
            h = torch.where(torch.from_numpy(kept[:, t, None, None, None] > 0), torch.tanh(total), h)
            outputs.append(h)
        return torch.stack(outputs, 1)

    agree(values(layer, {x: films, mask: kept}), expected(layer, reference, films))


@pytest.mark.parametrize("unroll_scan", [False, True])
def test_dropout_within_a_step_is_drawn_for_each_step_and_call(unroll_scan: bool) -> None:
    inner = DropoutLayer(InputLayer((None, UNITS)), 0.5)
    into = DropoutLayer(InputLayer((None, UNITS)), 0.5)
    layer = CustomRecurrentLayer(
        *(InputLayer((N, STEPS, UNITS)), into, inner), nonlinearity=None, precompute_input=False,
        unroll_scan=unroll_scan,
    )  # fmt: skip
    x = device.shared(np.ones((N, STEPS, UNITS), "float32"), "x")
    drawn = pytensor.function([], get_output(layer, x))
    first, second = np.array(drawn()), np.array(drawn())
    assert (first != second).any()
    # Of the first step, inputs are doubled or gone, and so on: no two steps have dropped the same.
    dropped = np.diff(np.concatenate([np.zeros((N, 1, UNITS)), first], 1), axis=1)
    assert len({step.tobytes() for step in dropped.transpose(1, 0, 2)}) == STEPS
    assert set(np.unique(first[:, 0])) == {0.0, 2.0}
    still = pytensor.function([], get_output(layer, x, deterministic=True))
    np.testing.assert_array_equal(still(), np.broadcast_to(np.arange(1.0, STEPS + 1)[:, None], first.shape))


def test_dropout_by_sample_keys_is_a_function_of_key_and_step() -> None:
    keys = np.array([11, -7, 2**62])
    ones = np.ones((N, STEPS, UNITS), "float32")

    def written(**how: Any) -> Any:
        into = DropoutLayer(InputLayer((None, UNITS)), 0.5, name="into")
        inner = DropoutLayer(InputLayer((None, UNITS)), 0.5, name="inner")
        x = InputLayer((None, STEPS, UNITS))
        return x.input_var, CustomRecurrentLayer(x, into, inner, nonlinearity=None, **how)

    k, results = pt.lvector("keys"), []
    for unrolled in (False, True):
        for before in (False, True):
            x, layer = written(unroll_scan=unrolled, precompute_input=before)
            drawn = pytensor.function([x, k], get_output(layer, sample_keys=k))
            results.append(np.array(drawn(ones, keys)))
            np.testing.assert_array_equal(drawn(ones, keys), results[0])
    # However the samples are split, each has its own.
    np.testing.assert_array_equal(
        np.concatenate([drawn(ones[:1], keys[:1]), drawn(ones[1:], keys[1:])]), results[0]
    )
    np.testing.assert_array_equal(drawn(ones[::-1], keys[::-1]), results[0][::-1])
    # Masks of 0 and 2: h_t = into_t + inner_t·h_{t-1} is what into_t gives, modulo 4.
    out = results[0]
    into, doubled = out % 4, np.diff(out - out % 4 > 0, axis=1, prepend=0)
    for masks in (into, doubled):
        assert len({mask.tobytes() for mask in masks.transpose(1, 0, 2)}) == STEPS
    assert (out[:, 1:] - into[:, 1:] < 2 * out[:, :-1]).any() and set(np.unique(into)) == {0, 2}
    x, layer = written()
    still = pytensor.function([x], get_output(layer, deterministic=True, sample_keys=k))
    np.testing.assert_array_equal(still(ones), np.broadcast_to(np.arange(1.0, STEPS + 1)[:, None], out.shape))


@pytest.mark.parametrize("name", [None, "drop"])
@pytest.mark.parametrize("precompute_input", [False, True])
def test_dropout_in_both_networks_of_a_step_and_around_them_differs(
    name: str | None, precompute_input: bool
) -> None:
    """Whatever the layers are called: without names they have the same place, each in its network."""

    def layer(incoming: Any, name: str) -> Any:
        into, inner = (DropoutLayer(InputLayer((None, UNITS)), 0.5, name=drop) for _ in range(2))
        return CustomRecurrentLayer(
            *(incoming, into, inner), nonlinearity=None, hid_init=init.Constant(1.0), name=name,
            precompute_input=precompute_input,
        )  # fmt: skip

    drop, keys = name, pt.lvector("keys")
    x = InputLayer((None, STEPS, UNITS))
    around = DropoutLayer(x, 0.5, name=name)
    layers = [layer(x, "first"), layer(x, "second"), around]
    drawn = pytensor.function([x.input_var, keys], get_output(layers, sample_keys=keys))
    n = 40
    first, second, masks = (a[:, 0] for a in drawn(np.ones((n, STEPS, UNITS), "float32"), np.arange(n)))
    # The sum of two masks of 0 and 2 each, which would always be the same.
    shares = {value: (first == value).mean() for value in (0, 2, 4)}
    assert shares == pytest.approx({0: 0.25, 2: 0.5, 4: 0.25}, abs=0.12) and sum(shares.values()) == 1
    for one, other in ((first, second), (first, masks), (second, masks)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.25


def test_gradients_that_end_early() -> None:
    layer, given = layer_and_inputs("plain", gradient_steps=2)
    out, gradients = values(layer, given, only=".b")
    np.testing.assert_allclose(out, expected(layer, looped("plain"))[0], rtol=2e-5, atol=2e-6)
    assert abs(gradients["x"][:, :2]).max() == 0 < abs(gradients["x"][:, 2:]).min()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_clipped_at_each_step(kind: str) -> None:
    layer, given = layer_and_inputs(kind, grad_clipping=1e-3)
    _, gradients = values(layer, given, only="b")
    biases = [abs(v).max() for k, v in gradients.items() if ".b" in k or k.startswith("b_")]
    most = 1e-3 * N * STEPS
    assert biases and all(0.1 * most < b <= most * 1.001 for b in biases)


def test_clipped_gradients_are_those_of_the_loop() -> None:
    found = []
    for precompute_input in (True, False):
        set_rng(np.random.default_rng(3))
        layer, given = layer_and_inputs("lstm", True, grad_clipping=0.05, precompute_input=precompute_input)
        found.append(values(layer, given))
    agree(*found)


def test_what_a_mask_hides_does_not_matter() -> None:
    layer, given = layer_and_inputs("lstm", mask=True)
    source, mask = given
    hidden = np.where(MASK[:, :, None] > 0, X, 1e3).astype("float32")
    first, second, ones = outputs(
        layer, given, {source: hidden, mask: MASK}, {source: X, mask: np.ones_like(MASK)}
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(ones, expected(layer, looped("lstm"))[0], rtol=2e-5, atol=2e-6)


def test_steps_written_out_are_those_of_a_loop() -> None:
    x, y = pt.matrix("x"), pt.vector("y")
    fn = lambda v, a, b, k: [a + v * k, a * b]  # noqa: E731
    start = [pt.zeros(3), pt.ones(3)]
    for backwards in (False, True):
        loop = pytensor.scan(fn, x, start, [y], go_backwards=backwards, return_updates=False)
        written = unroll_scan(fn, x, start, [y], 4, backwards)
        f = pytensor.function([x, y], [*loop, *written], mode=device.mode("cpu"))
        a, b, c, d = f(np.arange(12.0).reshape(4, 3), np.ones(3))
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    with pytest.raises(ValueError, match="n_steps: expected at least 1, got 0"):
        unroll_scan(fn, x, start, [y], 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSTMLayer((None, None, 2), 3, unroll_scan=True), "unroll_scan: expected a known number of steps"),
        (
            lambda: GRULayer((None, 4, 2), 3, unroll_scan=True, gradient_steps=2, name="g"),
            "layer 'g': gradient_steps: expected -1 with unroll_scan, got 2",
        ),
        (lambda: LSTMLayer((None, 4), 3), r"of shape \(n, steps, features, …\), got \(None, 4\)"),
        (lambda: LSTMLayer((None, 4, None), 3), "expected known sizes from axis 2 on"),
        (lambda: LSTMLayer((None, 4, 2), 3, ingate=Gate(W_cell=None)), "expected a W_cell of the ingate"),
        (lambda: LSTMLayer((None, 4, 2), 3, hid_init=InputLayer((None, 4))), r"hid_init: expected shape \(None, 3\)"),
        (
            lambda: CustomRecurrentLayer(
                (None, 4, 2), DenseLayer((None, 2), 3), DenseLayer((None, 3), 4)
            ),
            r"input_to_hidden: expected an output of shape \(None, 4\), got \(None, 3\)",
        ),
        (
            lambda: CustomRecurrentLayer(
                (None, 4, 2), DenseLayer((None, 2), 3), DenseLayer((None, 4), 3)
            ),
            r"hidden_to_hidden: expected an input of shape \(None, 3\), got \(None, 4\)",
        ),
        (
            lambda: CustomRecurrentLayer((5, 4, 2), DenseLayer((5, 2), 3), DenseLayer((5, 3), 3)),
            r"input_to_hidden: expected an output of shape \(20, 3\), got \(5, 3\)",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(make: Callable[[], Layer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Rows(Model):
    """An LSTM that reads the digits row by row."""

    defaults = {"batch_size": 32, "base_batch": 32, "base_lr": 2.0, "momentum": 0.0, "weight_decay": 0.0}

    def build(self, batch: Any) -> Layer:
        n = batch["images"].type.shape[0]
        net = LSTMLayer(InputLayer((n, 8, 8)), 12, peepholes=False, name="lstm", only_return_final=True)
        return DenseLayer(net, self.dataset.n_classes, W, nonlinearity=None, name="dense")

    def objectives(self, batch: Any, training: bool) -> Any:
        if training:
            self.seen = [batch["images"][:, 0, ::4, ::4], batch["labels"]]
        return classification(get_output(self.network, batch["images"][:, 0, ::4, ::4]), batch["labels"])


def test_twenty_updates_of_the_trainer_are_those_of_torchs_lstm() -> None:
    model = Rows({"devices": ["cpu"], "verbose": False})
    model.compile_iter_fns("cdd")
    seen = pytensor.function([], model.seen, mode=device.mode("cpu"))
    lstm, dense = torch.nn.LSTM(8, 12, batch_first=True), torch.nn.Linear(12, 10)
    p = {p.name: torch.from_numpy(p.get_value()) for p in get_all_params(model.network)}
    order = ("ingate", "forgetgate", "cell", "outgate")
    names = [[f"lstm.W_in_to_{g}" for g in order], [f"lstm.W_hid_to_{g}" for g in order]]
    with torch.no_grad():
        for weight, parts in zip((lstm.weight_ih_l0, lstm.weight_hh_l0), names, strict=True):
            weight.copy_(torch.cat([p[name] for name in parts], 1).T)
        for zero in (lstm.bias_ih_l0, lstm.bias_hh_l0, dense.bias):
            zero.zero_()
        dense.weight.copy_(p["dense.W"].T)
    trained = [*(w for w in lstm.parameters() if w is not lstm.bias_hh_l0), *dense.parameters()]
    recorder, losses = Recorder(None, 0, 1, 10, 10, False, None), []
    for count in range(20):
        model.train_iter(count, recorder)
        images, labels = (torch.from_numpy(a) for a in seen())
        eta = float(model.update())
        _, (h, _) = lstm(images)
        loss = F.cross_entropy(dense(h[0]), labels.long())
        losses.append(loss.item())
        for w, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
            w.data -= eta * gradient
    model.cleanup()
    after = {p.name: p.get_value() for p in get_all_params(model.network)}
    np.testing.assert_allclose(after["dense.W"], dense.weight.detach().T, rtol=1e-3, atol=1e-5)
    for weight, parts in zip((lstm.weight_ih_l0, lstm.weight_hh_l0), names, strict=True):
        ours = np.concatenate([after[name] for name in parts], 1)
        np.testing.assert_allclose(ours, weight.detach().T, rtol=1e-3, atol=1e-5)
        assert abs(ours - np.concatenate([p[name] for name in parts], 1)).max() > 1e-3
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
