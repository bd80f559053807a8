"""Update rules against torch.optim where the formulas agree, else against NumPy loops."""

from collections import OrderedDict

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch

from theanompi import device
from theanompi.lasagne import updates

STEPS = 7
START = np.random.default_rng(1).normal(size=(3, 4)).astype("float32")
SCALE = np.random.default_rng(2).uniform(0.5, 2, size=(3, 4)).astype("float32")


def ours(rule, **arguments):
    """The weights after some steps on Σ scale · sin(w)², which has gradients of changing sign and size."""
    w = device.shared(START, name="w")
    loss = pt.sum(pt.constant(SCALE) * pt.sqr(pt.sin(w)))
    step = pytensor.function([], [], updates=rule(loss, [w], **arguments), mode=device.mode())
    for _ in range(STEPS):
        step()
    assert w.get_value().dtype == np.float32
    return w.get_value()


def torchs(optimizer, **arguments):
    w = torch.tensor(START, requires_grad=True)
    optimizer = optimizer([w], **arguments)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (torch.tensor(SCALE) * torch.sin(w) ** 2).sum().backward()
        optimizer.step()
    return w.detach().numpy()


def numpys(step):
    """The same with `step(w, gradient, state) -> w` in float64; `state` is a dict that starts with zeros."""

    class Zeros(dict):
        def __missing__(self, key):
            return np.zeros_like(w)

    w, state = START.astype("float64"), Zeros()
    for t in range(1, STEPS + 1):
        state["t"] = t
        w = step(w, SCALE * np.sin(2 * w), state)
    return w


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert abs(expected - START).max() > 0.01  # something happened


def test_sgd():
    close(ours(updates.sgd, learning_rate=0.1), torchs(torch.optim.SGD, lr=0.1))


def test_momentum():
    close(ours(updates.momentum, learning_rate=0.1), torchs(torch.optim.SGD, lr=0.1, momentum=0.9))
    got = ours(updates.momentum, learning_rate=0.1, momentum=0.5)
    close(got, torchs(torch.optim.SGD, lr=0.1, momentum=0.5))


def test_nesterov_momentum():
    expected = torchs(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)
    close(ours(updates.nesterov_momentum, learning_rate=0.1), expected)
    assert abs(expected - torchs(torch.optim.SGD, lr=0.1, momentum=0.9)).max() > 0.01


def test_adagrad_with_epsilon_under_the_root():
    def step(w, g, state):
        state["a"] = state["a"] + g**2
        return w - 0.1 * g / np.sqrt(state["a"] + 0.01)

    close(ours(updates.adagrad, learning_rate=0.1, epsilon=0.01), numpys(step))
    # torch adds ε to the root; without it, the two are one
    close(ours(updates.adagrad, learning_rate=0.1, epsilon=0), torchs(torch.optim.Adagrad, lr=0.1, eps=0))


def test_rmsprop_with_epsilon_under_the_root():
    def step(w, g, state):
        state["a"] = 0.7 * state["a"] + 0.3 * g**2
        return w - 0.1 * g / np.sqrt(state["a"] + 0.01)

    close(ours(updates.rmsprop, learning_rate=0.1, rho=0.7, epsilon=0.01), numpys(step))
    got = ours(updates.rmsprop, learning_rate=0.1, rho=0.7, epsilon=0)
    close(got, torchs(torch.optim.RMSprop, lr=0.1, alpha=0.7, eps=0))


def test_adadelta():
    expected = torchs(torch.optim.Adadelta, lr=2.0, rho=0.8, eps=0.01)
    close(ours(updates.adadelta, learning_rate=2.0, rho=0.8, epsilon=0.01), expected)


def test_adam_with_epsilon_beside_the_uncorrected_root():
    def step(w, g, state):
        t = state["t"]
        state["m"] = 0.8 * state["m"] + 0.2 * g
        state["v"] = 0.9 * state["v"] + 0.1 * g**2
        rate = 0.1 * np.sqrt(1 - 0.9**t) / (1 - 0.8**t)
        return w - rate * state["m"] / (np.sqrt(state["v"]) + 0.01)

    got = ours(updates.adam, learning_rate=0.1, beta1=0.8, beta2=0.9, epsilon=0.01)
    close(got, numpys(step))
    close(ours(updates.adam, learning_rate=0.1), torchs(torch.optim.Adam, lr=0.1))


def test_adamax():
    def step(w, g, state):
        state["m"] = 0.8 * state["m"] + 0.2 * g
        state["u"] = np.maximum(0.9 * state["u"], abs(g))
        return w - 0.1 / (1 - 0.8 ** state["t"]) * state["m"] / (state["u"] + 0.01)

    close(ours(updates.adamax, learning_rate=0.1, beta1=0.8, beta2=0.9, epsilon=0.01), numpys(step))
    close(ours(updates.adamax, learning_rate=0.1), torchs(torch.optim.Adamax, lr=0.1))


def test_amsgrad_with_adams_corrections():
    def step(w, g, state):
        t = state["t"]
        state["m"] = 0.8 * state["m"] + 0.2 * g
        state["v"] = 0.3 * state["v"] + 0.7 * g**2
        state["v_hat"] = np.maximum(state["v_hat"], state["v"])
        rate = 0.3 * np.sqrt(1 - 0.3**t) / (1 - 0.8**t)
        return w - rate * state["m"] / (np.sqrt(state["v_hat"]) + 0.01)

    got = ours(updates.amsgrad, learning_rate=0.3, beta1=0.8, beta2=0.3, epsilon=0.01)
    close(got, numpys(step))
    assert abs(got - ours(updates.adam, learning_rate=0.3, beta1=0.8, beta2=0.3, epsilon=0.01)).max() > 0.01


def test_defaults_are_lasagnes():
    close(ours(updates.adam, learning_rate=0.001 * 50), torchs(torch.optim.Adam, lr=0.05))
    close(
        ours(updates.adadelta, learning_rate=40.0),
        ours(updates.adadelta, learning_rate=40.0, rho=0.95, epsilon=1e-6),
    )

    def step(w, g, state):
        state["a"] = 0.9 * state["a"] + 0.1 * g**2
        return w - 1.0 * g / np.sqrt(state["a"] + 1e-6)

    np.testing.assert_allclose(ours(updates.rmsprop), numpys(step), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("rule", "after_two_steps"),
    # The first velocity is −0.2; Nesterov's a is 0.8 − 0.1 and its second velocity −0.1 − 0.14.
    [(updates.apply_momentum, 0.64 - 0.5 * 0.2), (updates.apply_nesterov_momentum, 0.56 - 0.5 * 0.24)],
)
def test_momentum_is_applied_to_some_of_the_updates(rule, after_two_steps):
    a, b = (device.shared(START, name=name) for name in "ab")
    loss = pt.sum(pt.sqr(a)) + pt.sum(pt.sqr(b))
    plain = updates.sgd(loss, [a, b], learning_rate=0.1)
    before = list(plain)
    rules = rule(plain, params=[a], momentum=0.5)
    assert list(plain) == before == [a, b]
    assert [variable.name for variable in rules] == ["a", "b", "a.velocity"]
    step = pytensor.function([], [], updates=rules, mode=device.mode())
    step(), step()
    np.testing.assert_allclose(b.get_value(), 0.64 * START, rtol=1e-5)
    np.testing.assert_allclose(a.get_value(), START * after_two_steps, rtol=1e-5)


@pytest.mark.parametrize("rule", [updates.sgd, updates.momentum, updates.nesterov_momentum, updates.adam])
def test_hyper_parameters_may_be_shared_variables_of_any_float(rule):
    eta = pytensor.shared(np.float64(0.1))
    np.testing.assert_array_equal(ours(rule, learning_rate=eta), ours(rule, learning_rate=0.1))


def test_gradients_may_be_given():
    w = device.shared(START, name="w")
    rules = updates.sgd([pt.constant(SCALE)], [w], 0.5)
    pytensor.function([], [], updates=rules, mode=device.mode())()
    assert isinstance(rules, OrderedDict)
    np.testing.assert_allclose(w.get_value(), START - 0.5 * SCALE, rtol=1e-6)


def test_gradients_and_parameters_that_do_not_match():
    w = device.shared(START, name="w")
    with pytest.raises(ValueError, match="gradients: expected 1, one for each parameter, got 2"):
        updates.sgd([w, w], [w], 0.1)
    with pytest.raises(ValueError, match="params: expected shared variables, got the expression Mul"):
        updates.sgd(pt.sum(w), [w * 2], 0.1)


@pytest.mark.parametrize(
    ("shape", "axes", "over"),
    [((3, 4), None, 0), ((5, 4, 3, 2), None, (1, 2, 3)), ((3, 4), (1,), 1), ((6,), (0,), 0)],
)
def test_norm_constraint(shape, axes, over):
    value = np.random.default_rng(0).normal(size=shape).astype("float32")
    norms = np.sqrt((value**2).sum(over, keepdims=True))
    limit = float(np.median(norms)) if norms.size > 1 else float(norms.item() / 2)
    constrained = updates.norm_constraint(pt.constant(value), limit, norm_axes=axes)
    got = pytensor.function([], constrained, mode=device.mode())()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, value * np.minimum(1, limit / norms), rtol=1e-5)


def test_norm_constraint_of_a_vector_needs_axes():
    with pytest.raises(ValueError, match="norm_constraint: a 1-D tensor needs norm_axes, got None"):
        updates.norm_constraint(pt.fvector(), 1.0)


@pytest.mark.parametrize("limit", [1.0, 100.0])
def test_total_norm_constraint(limit):
    values = [START, SCALE[0]]
    tensors = [torch.tensor(value) for value in values]
    for tensor in tensors:
        tensor.grad = torch.tensor(tensor.numpy())
    norm = torch.nn.utils.clip_grad_norm_(tensors, limit)
    constrained, ours_norm = updates.total_norm_constraint(
        [pt.constant(value) for value in values], limit, return_norm=True
    )
    *got, got_norm = pytensor.function([], [*constrained, ours_norm], mode=device.mode())()
    np.testing.assert_allclose(got_norm, norm, rtol=1e-5)
    for one, tensor in zip(got, tensors, strict=True):
        np.testing.assert_allclose(one, tensor.grad, rtol=1e-5)
