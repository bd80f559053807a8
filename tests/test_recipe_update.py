"""The weight update against independent NumPy and torch code; P's pitfalls, the wrong way beside the right.

The toy problem everywhere: softmax regression of 3 classes, gradients by NumPy in float64.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.graph.traversal import applys_between
from pytensor.tensor.elemwise import Elemwise

from theanompi import device
from theanompi.config import RunConfig, resolve
from theanompi.training.optimizers.momentum import Momentum, momentum_update
from theanompi.training.schedules import Schedule
from theanompi.training.schedules.steps import Steps
from theanompi.training.update import Group, update_graph

M, DECAY, STEPS, CLASSES, FEATURES, MINIBATCH = 0.9, 0.02, 14, 3, 5, 8
# Across a gradual warmup (iterations 0 to 5) and two decays (at 8 and 11), in 14 iterations.
SCHEDULE = Steps(
    minibatch=MINIBATCH,
    base_batch=2,
    iterations_per_epoch=2,
    epochs=7,
    base_lr=0.05,
    warmup_epochs=2.5,
    decay_epochs=(4, 5.5),
)
FORMS = pytest.mark.parametrize("form", ["v", "u"])
MOMENTA = pytest.mark.parametrize("nesterov", [True, False], ids=["nesterov", "plain"])
RATES = [0.05 + 0.03 * t for t in range(5)] + [0.2] * 3 + [0.02] * 3 + [0.002] * 3

Gradient = Callable[[np.ndarray, int], np.ndarray]


def start() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(CLASSES * FEATURES)


def cross_entropy_gradient(
    w: np.ndarray, t: int, images: slice = slice(None), scale: float = 1 / MINIBATCH
) -> np.ndarray:
    """The gradient of scale · Σ cross-entropy over some images of minibatch t."""
    rng = np.random.default_rng(100 + t)
    x, labels = rng.standard_normal((MINIBATCH, FEATURES)), rng.integers(CLASSES, size=MINIBATCH)
    logits = x @ w.reshape(CLASSES, FEATURES).T
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(MINIBATCH), labels] -= 1
    return scale * (p[images].T @ x[images]).ravel()


def momentum(form: str, nesterov: bool, momentum: float = M, weight_decay: float = DECAY) -> Momentum:
    return Momentum(
        resolve(
            RunConfig(momentum=momentum, weight_decay=weight_decay, momentum_form=form, nesterov=nesterov)
        )
    )


def ours(
    form: str,
    nesterov: bool,
    mode: object = "FAST_COMPILE",
    decayed: bool = True,
    gradient: Gradient = cross_entropy_gradient,
    schedule: Schedule = SCHEDULE,
    rates: list[float] = RATES,
    ema: float = 0.0,
) -> np.ndarray:
    """The weights after each iteration (STEPS, P), or their average, from the graph compiled in `mode`."""
    shared = pytensor.shared if mode == "FAST_COMPILE" else device.shared
    w, v, g = (shared(x.astype("float32")) for x in (start(), np.zeros_like(start()), np.zeros_like(start())))
    t, last_eta = shared(np.int64(0)), shared(np.float64(0))
    average = shared(start().astype("float32")) if ema else None
    groups = [Group(w, g, {"velocity": v}, decayed, average=average)]
    eta, updates = update_graph(groups, momentum(form, nesterov), schedule, t=t, last_eta=last_eta, decay=ema)
    step = pytensor.function([], eta, updates=updates, mode=mode)
    history = []
    for i in range(STEPS):
        g.set_value(gradient(w.get_value().astype(float), i).astype("float32"))
        assert float(step()) == pytest.approx(rates[i], rel=1e-12)
        history.append((w if average is None else average).get_value())
    assert int(t.get_value()) == STEPS
    return np.array(history)


def torch_sgd(
    nesterov: bool,
    decay: float = DECAY,
    gradient: Gradient = cross_entropy_gradient,
    rates: list[float] = RATES,
) -> np.ndarray:
    """The same by torch.optim.SGD in float64, whose momentum is the u-form."""
    w = torch.nn.Parameter(torch.from_numpy(start()))
    optimizer = torch.optim.SGD([w], lr=rates[0], momentum=M, nesterov=nesterov, weight_decay=decay)
    history = []
    for i, eta in enumerate(rates):
        optimizer.param_groups[0]["lr"] = eta
        w.grad = torch.from_numpy(gradient(w.detach().numpy().copy(), i))
        optimizer.step()
        history.append(w.detach().numpy().copy())
    return np.array(history)


def numpy_v(nesterov: bool, corrected: bool = True) -> np.ndarray:
    """The v-form as P writes it, in float64, with or without its correction."""
    w, v, history = start(), np.zeros_like(start()), []
    for i, eta in enumerate(RATES):
        g = cross_entropy_gradient(w, i) + DECAY * w
        factor = eta / RATES[i - 1] if corrected and i else 1.0
        v = M * factor * v + eta * g
        w = w - (M * v + eta * g if nesterov else v)
        history.append(w)
    return np.array(history)


def far(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two ways part by much more than float32 rounding."""
    return bool(np.abs(a - b).max() > 1e-3)


@FORMS
@MOMENTA
@pytest.mark.parametrize("mode", ["FAST_COMPILE", "device"])
def test_warmup_and_decay_against_torch(form: str, nesterov: bool, mode: str) -> None:
    got = ours(form, nesterov, device.mode("cpu") if mode == "device" else mode)
    np.testing.assert_allclose(got, torch_sgd(nesterov), rtol=1e-5, atol=1e-6)


@FORMS
@MOMENTA
def test_fixed_rate_against_torch(form: str, nesterov: bool) -> None:
    fixed = Steps(minibatch=MINIBATCH, base_batch=MINIBATCH, iterations_per_epoch=2, decay_epochs=())
    rates = [0.1] * STEPS
    got = ours(form, nesterov, schedule=fixed, rates=rates)
    np.testing.assert_allclose(got, torch_sgd(nesterov, rates=rates), rtol=1e-5, atol=1e-6)


@FORMS
@pytest.mark.parametrize("mode", ["FAST_COMPILE", "device"])
def test_the_average_of_the_weights_is_over_updates_whatever_their_rate(form: str, mode: str) -> None:
    """Its decay grows for eight updates and then is the one that was given."""
    got = ours(form, True, device.mode("cpu") if mode == "device" else mode, ema=0.5)
    average, expected = start(), []
    for t, w in enumerate(torch_sgd(True)):
        d = min(0.5, (1 + t) / (10 + t))
        average = d * average + (1 - d) * w
        expected.append(average)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert far(got, torch_sgd(True))


@MOMENTA
def test_pitfall_2_momentum_correction(nesterov: bool) -> None:
    v, u = ours("v", nesterov), ours("u", nesterov)
    np.testing.assert_allclose(v, u, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(v, numpy_v(nesterov), rtol=1e-5, atol=1e-6)
    uncorrected = numpy_v(nesterov, corrected=False)
    np.testing.assert_allclose(v[0], uncorrected[0], rtol=1e-5, atol=1e-6)
    # η changes in each iteration of the warmup and at each decay: without correction the ways part in both
    assert far(v[4], uncorrected[4])
    assert far(v[8] - v[7], uncorrected[8] - uncorrected[7])


@MOMENTA
@pytest.mark.parametrize("mode", ["FAST_COMPILE", "device"])
def test_pitfall_2_as_a_switch(nesterov: bool, mode: str) -> None:
    got = ours("uncorrected", nesterov, device.mode("cpu") if mode == "device" else mode)
    np.testing.assert_allclose(got, numpy_v(nesterov, corrected=False), rtol=1e-5, atol=1e-6)
    assert far(got, torch_sgd(nesterov))


def test_first_iteration_is_not_corrected() -> None:
    """Going on before iteration 0, this warmup would divide by a rate of 0."""
    schedule = Steps(minibatch=5, base_batch=1, iterations_per_epoch=4, warmup_epochs=1, base_lr=0.125)
    assert schedule(0) == schedule.increment
    w, v, g = (pytensor.shared(np.float32([x])) for x in (1, 2, 4))
    t, last_eta = pytensor.shared(np.int64(0)), pytensor.shared(np.float64(0))
    groups = [Group(w, g, {"velocity": v}, False)]
    _, updates = update_graph(groups, momentum("v", False, momentum=0.5), schedule, t=t, last_eta=last_eta)
    pytensor.function([], updates=updates, mode="FAST_COMPILE")()
    assert v.get_value() == 0.5 * 2 + 0.125 * 4


@FORMS
def test_pitfall_1_weight_decay_is_not_part_of_the_scaled_loss(form: str) -> None:
    """P §3, remark 1: scaling the cross-entropy is scaling η, but only without weight decay."""

    def tripled(w: np.ndarray, t: int) -> np.ndarray:
        return 3 * cross_entropy_gradient(w, t)

    def one_step(decay: float, factor: float, scale: float) -> np.ndarray:
        w, v, g = pt.dvectors("w", "v", "g")
        new_w, _ = momentum_update(w, v, g, factor * 0.1, factor * 0.1, M, decay, form, nesterov=False)
        gradient = scale * cross_entropy_gradient(start(), 0)
        return pytensor.function([w, v, g], new_w, mode="FAST_COMPILE")(
            start(), np.zeros_like(start()), gradient
        )

    np.testing.assert_allclose(one_step(0.0, 3, 1), one_step(0.0, 1, 3), rtol=1e-12)
    assert far(one_step(DECAY, 3, 1), one_step(DECAY, 1, 3))
    # with η tripled the decay is tripled, with the loss tripled it is not
    gap = one_step(DECAY, 3, 1) - one_step(DECAY, 1, 3)
    np.testing.assert_allclose(gap, -2 * 0.1 * DECAY * start(), rtol=1e-9)
    # and over a whole run the compiled update decays like torch's SGD, whose loss is scaled likewise
    np.testing.assert_allclose(
        ours(form, True, gradient=tripled), torch_sgd(True, gradient=tripled), rtol=2e-5, atol=2e-6
    )


@FORMS
@MOMENTA
@pytest.mark.parametrize("mode", ["FAST_COMPILE", "device"])
def test_pitfall_1_as_a_switch(form: str, nesterov: bool, mode: str) -> None:
    """The gradient of the cross-entropy times s_t, λ·w beside it, at the rate before scaling."""
    rates = [0.05] * 8 + [0.005] * 3 + [0.0005] * 3
    scales = [eta / rate for eta, rate in zip(RATES, rates, strict=True)]

    def scaled(w: np.ndarray, t: int) -> np.ndarray:
        return scales[t] * cross_entropy_gradient(w, t)

    schedule = replace(SCHEDULE, scaled="loss")
    got = ours(
        form, nesterov, device.mode("cpu") if mode == "device" else mode, schedule=schedule, rates=rates
    )
    np.testing.assert_allclose(got, torch_sgd(nesterov, gradient=scaled, rates=rates), rtol=1e-5, atol=1e-6)
    assert far(got, torch_sgd(nesterov))


@FORMS
def test_pitfall_1_is_one_only_with_weight_decay(form: str) -> None:
    """Without a warmup, so that the rates have the same ratios from one iteration to the next."""
    right = replace(SCHEDULE, warmup="none")
    rates = [0.2] * 8 + [0.02] * 3 + [0.002] * 3
    for decayed in (False, True):
        loss = ours(
            form,
            True,
            decayed=decayed,
            schedule=replace(right, scaled="loss"),
            rates=[rate / 4 for rate in rates],
        )
        rate = ours(form, True, decayed=decayed, schedule=right, rates=rates)
        assert far(loss, rate) == decayed
        assert decayed or np.allclose(loss, rate, rtol=1e-5, atol=1e-6)


@FORMS
def test_pitfall_3_sums_are_normalised_by_the_whole_minibatch(form: str) -> None:
    """P §3, remark 3: allreduce sums, so each of k workers divides its loss by kn, not by n."""
    k = 4
    n = MINIBATCH // k

    def summed(normaliser: int) -> Gradient:
        return lambda w, t: sum(
            cross_entropy_gradient(w, t, slice(rank * n, (rank + 1) * n), 1 / normaliser) for rank in range(k)
        )

    one_worker = torch_sgd(True)
    np.testing.assert_allclose(ours(form, True, gradient=summed(k * n)), one_worker, rtol=1e-5, atol=1e-6)
    assert far(ours(form, True, gradient=summed(n)), one_worker)


@FORMS
def test_only_groups_that_decay_decay(form: str) -> None:
    np.testing.assert_allclose(
        ours(form, True, decayed=False), torch_sgd(True, decay=0.0), rtol=1e-5, atol=1e-6
    )
    assert far(torch_sgd(True, decay=0.0), torch_sgd(True))


@FORMS
@MOMENTA
def test_several_groups_share_one_rate(form: str, nesterov: bool) -> None:
    """One update of two groups, one of which decays, equals torch's SGD with two parameter groups."""
    rng = np.random.default_rng(3)
    values = [rng.standard_normal((2, size)).astype("float32") for size in (7, 4)]
    groups = [
        Group(
            pytensor.shared(w), pytensor.shared(g), {"velocity": pytensor.shared(np.zeros_like(w))}, decayed
        )
        for (w, g), decayed in zip(values, [True, False], strict=True)
    ]
    t, last_eta = pytensor.shared(np.int64(0)), pytensor.shared(np.float64(0))
    eta, updates = update_graph(groups, momentum(form, nesterov), SCHEDULE, t=t, last_eta=last_eta)
    step = pytensor.function([], eta, updates=updates, mode="FAST_COMPILE")

    weights = [torch.nn.Parameter(torch.tensor(w)) for w, _ in values]
    optimizer = torch.optim.SGD(
        [{"params": weights[:1], "weight_decay": DECAY}, {"params": weights[1:]}],
        lr=1,
        momentum=M,
        nesterov=nesterov,
    )
    for rate in RATES:
        for weight, (_, g), group in zip(weights, values, optimizer.param_groups, strict=True):
            weight.grad, group["lr"] = torch.tensor(g), rate
        optimizer.step()
        step()
    for group, weight in zip(groups, weights, strict=True):
        np.testing.assert_allclose(group.w.get_value(), weight.detach().numpy(), rtol=1e-5, atol=1e-6)


@FORMS
@MOMENTA
def test_scalars_meet_the_arrays_once(form: str, nesterov: bool) -> None:
    """At most eight element-wise operations on arrays, in their dtype: the update is bound by memory."""
    w, v, g = pt.fvectors("w", "v", "g")
    eta, eta_prev = pt.dscalars("eta", "eta_prev")
    outputs = momentum_update(w, v, g, eta, eta_prev, M, DECAY, form, nesterov)
    assert [out.dtype for out in outputs] == ["float32", "float32"]
    nodes = applys_between([w, v, g, eta, eta_prev], outputs)
    arrays = [node for node in nodes if node.outputs[0].ndim and isinstance(node.op, Elemwise)]
    assert len(arrays) <= 8, arrays


def test_unknown_form() -> None:
    w = pt.fvector("w")
    with pytest.raises(
        ValueError, match="^momentum_update: expected form to be one of v, u, uncorrected, got 'x'$"
    ):
        momentum_update(w, w, w, 0.1, 0.1, M, DECAY, "x", True)
