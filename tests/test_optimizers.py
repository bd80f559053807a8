"""Every optimizer against a plain NumPy loop written from its paper, and against torch where torch has it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.graph.traversal import applys_between
from pytensor.tensor.elemwise import Elemwise

from theanompi import device
from theanompi.config import ConfigError
from theanompi.lasagne import updates as lasagne_updates
from theanompi.training.functions import parameter_groups
from theanompi.training.optimizers import OPTIMIZERS, Optimizer, Rates, get_optimizer
from theanompi.training.optimizers.lasagne import rules
from theanompi.training.schedules import Schedule
from theanompi.training.schedules.steps import Steps
from theanompi.training.update import Group, update_graph

DECAY, M, STEPS = 0.02, 0.9, 20
# Gradual warmup over iterations 0 to 4, decays at 8 and 15.
SCHEDULE = Steps(
    minibatch=8,
    base_batch=2,
    iterations_per_epoch=2,
    epochs=10,
    base_lr=0.05,
    warmup_epochs=2.5,
    decay_epochs=(4, 7.5),
)
RATES = [0.05 + 0.03 * t for t in range(5)] + [0.2] * 3 + [0.02] * 7 + [0.002] * 5
DECAYED = {"a": True, "b": True, "zero": True, "still": True, "bias": False, "nothing": False}
"""The parameters: "zero" and "nothing" start at 0, "still" and "nothing" have a gradient of 0."""

Arrays = dict[str, np.ndarray]
Reference = Callable[..., np.ndarray]


def config(**values: Any) -> Any:
    """What an optimizer reads of a run."""
    return SimpleNamespace(
        **{"weight_decay": DECAY, "momentum": M, "momentum_form": "v", "nesterov": False, "settings": {}}
        | values
    )


def start() -> Arrays:
    rng = np.random.default_rng(1)
    shapes = {"a": (4, 3), "b": (2, 3, 2), "zero": (3, 2), "still": (2, 2), "bias": (5,), "nothing": (3,)}
    return {k: rng.standard_normal(s) * (k not in ("zero", "nothing")) for k, s in shapes.items()}


def gradient(name: str, w: np.ndarray, t: int) -> np.ndarray:
    """Of changing sign and size, and dependent on the weights."""
    if name in ("still", "nothing"):
        return np.zeros_like(w)
    seed = [t, *name.encode()]
    return np.sin(2 * w) + np.random.default_rng(seed).standard_normal(w.shape)


def groups_of(optimizer: Optimizer, values: Arrays, shared: Any, flat: bool) -> list[Group]:
    """A group for each parameter, or one for those that decay and one for the others."""
    if flat:
        chosen = [
            (np.concatenate([values[k].ravel() for k in DECAYED if DECAYED[k] == flag]), flag)
            for flag in (True, False)
        ]
    else:
        chosen = [(values[k], flag) for k, flag in DECAYED.items()]
    return [
        Group(
            shared(w), shared(np.zeros_like(w)), {s: shared(np.zeros_like(w)) for s in optimizer.slots}, flag
        )
        for w, flag in chosen
    ]


def ours(
    name: str,
    run: Any,
    *,
    place: str = "pytensor",
    dtype: str = "float64",
    flat: bool = False,
    schedule: Schedule = SCHEDULE,
    rates: list[float] = RATES,
    **arguments: Any,
) -> Arrays:
    """The weights after each of the steps (STEPS, …), of the compiled update."""
    optimizer = get_optimizer(name)(run)
    shared = device.shared if place == "device" else pytensor.shared
    mode = device.mode() if place == "device" else "FAST_COMPILE"
    values = {k: w.astype(dtype) for k, w in start().items()}
    groups = groups_of(optimizer, values, shared, flat)
    t, last_eta = shared(np.int64(0)), shared(np.float64(0))
    scalars = {scalar: shared(np.float64(0)) for scalar in optimizer.scalars}
    eta, updates = update_graph(
        groups, optimizer, schedule, t=t, last_eta=last_eta, scalars=scalars, **arguments
    )
    assert all(new.dtype == variable.dtype for variable, new in updates)
    step = pytensor.function([], eta, updates=updates, mode=mode)

    def weights() -> Arrays:
        if not flat:
            return {k: group.w.get_value() for k, group in zip(DECAYED, groups, strict=True)}
        both = {True: groups[0].w.get_value(), False: groups[1].w.get_value()}
        found = {}
        for k, flag in DECAYED.items():
            found[k], both[flag] = (
                both[flag][: values[k].size].reshape(values[k].shape),
                both[flag][values[k].size :],
            )
        return found

    history: dict[str, list[np.ndarray]] = {k: [] for k in DECAYED}
    for i, rate in enumerate(rates):
        now = {k: gradient(k, w.astype(float), i).astype(dtype) for k, w in weights().items()}
        given = (
            [
                np.concatenate([now[k].ravel() for k in DECAYED if DECAYED[k] == flag])
                for flag in (True, False)
            ]
            if flat
            else list(now.values())
        )
        for group, g in zip(groups, given, strict=True):
            group.g.set_value(g)
        assert float(step()) == pytest.approx(rate, rel=1e-12)
        for k, w in weights().items():
            history[k].append(w.copy())
    assert int(t.get_value()) == STEPS and float(last_eta.get_value()) == pytest.approx(rates[-1])
    return {k: np.array(v) for k, v in history.items()}


@dataclass
class Step:
    """What a reference knows of one step."""

    t: int
    eta: float
    eta_prev: float
    decayed: bool


def numpys(
    rule: Reference, rates: list[float] = RATES, factor: Callable[[Arrays, int], float] | None = None
) -> Arrays:
    """The same with ``rule(w, g, kept, step)`` in float64, where `kept` is a dict whose values start at 0."""
    weights, history = start(), {k: [] for k in DECAYED}
    kept: dict[str, dict[str, Any]] = {k: {} for k in DECAYED}
    for t, eta in enumerate(rates):
        gradients = {k: gradient(k, w, t) for k, w in weights.items()}
        scale = factor(gradients, t) if factor else 1.0
        for k, g in gradients.items():
            step = Step(t + 1, eta, rates[t - 1] if t else eta, DECAYED[k])
            weights[k] = rule(weights[k], scale * g, kept[k], step)
            history[k].append(weights[k])
    return {k: np.array(v) for k, v in history.items()}


def momentum(form: str, nesterov: bool) -> Reference:
    """Goyal et al. 2017, equations 9 and 10, and remark 2."""

    def rule(w: np.ndarray, g: np.ndarray, kept: dict, step: Step) -> np.ndarray:
        g = g + DECAY * w * step.decayed
        if form == "u":
            kept["u"] = M * kept.get("u", 0) + g
            return w - step.eta * (g + M * kept["u"] if nesterov else kept["u"])
        correction = step.eta / step.eta_prev if form == "v" else 1
        kept["v"] = M * correction * kept.get("v", 0) + step.eta * g
        return w - (M * kept["v"] + step.eta * g if nesterov else kept["v"])

    return rule


def adam_direction(g: np.ndarray, kept: dict, t: int, b1: float, b2: float, eps: float) -> np.ndarray:
    """Kingma and Ba 2015, algorithm 1."""
    kept["m"] = b1 * kept.get("m", 0) + (1 - b1) * g
    kept["v"] = b2 * kept.get("v", 0) + (1 - b2) * g**2
    return kept["m"] / (1 - b1**t) / (np.sqrt(kept["v"] / (1 - b2**t)) + eps)


def adam(w: np.ndarray, g: np.ndarray, kept: dict, step: Step) -> np.ndarray:
    return w - step.eta * adam_direction(g + DECAY * w * step.decayed, kept, step.t, 0.9, 0.999, 1e-8)


def adam_with_other_settings(w: np.ndarray, g: np.ndarray, kept: dict, step: Step) -> np.ndarray:
    return w - step.eta * adam_direction(g + DECAY * w * step.decayed, kept, step.t, 0.5, 0.7, 0.1)


def adamw(w: np.ndarray, g: np.ndarray, kept: dict, step: Step) -> np.ndarray:
    """Loshchilov and Hutter 2019, algorithm 2, the whole rate before the decay."""
    r = adam_direction(g, kept, step.t, 0.9, 0.999, 1e-8)
    return w - step.eta * r - step.eta * DECAY * w * step.decayed


def rmsprop(w: np.ndarray, g: np.ndarray, kept: dict, step: Step) -> np.ndarray:
    g = g + DECAY * w * step.decayed
    kept["a"] = 0.9 * kept.get("a", 0) + 0.1 * g**2
    return w - step.eta * g / np.sqrt(kept["a"] + 1e-6)


def adadelta(w: np.ndarray, g: np.ndarray, kept: dict, step: Step) -> np.ndarray:
    """Zeiler 2012, algorithm 1."""
    g = g + DECAY * w * step.decayed
    kept["a"] = 0.95 * kept.get("a", 0) + 0.05 * g**2
    delta = np.sqrt(kept.get("d", 0) + 1e-6) / np.sqrt(kept["a"] + 1e-6) * g
    kept["d"] = 0.95 * kept.get("d", 0) + 0.05 * delta**2
    return w - step.eta * delta


def lars(corrected: bool) -> Reference:
    """You et al. 2017, algorithm 1; with Goyal et al.'s correction, or to the letter."""

    def rule(w: np.ndarray, g: np.ndarray, kept: dict, step: Step) -> np.ndarray:
        local, decay = 1.0, 0.0
        if step.decayed:
            w_norm, g_norm, decay = np.linalg.norm(w), np.linalg.norm(g), DECAY
            if w_norm > 0 and g_norm > 0:
                local = 0.3 * w_norm / (g_norm + decay * w_norm)
        correction = step.eta / step.eta_prev if corrected else 1
        kept["v"] = M * correction * kept.get("v", 0) + step.eta * local * (g + decay * w)
        return w - kept["v"]

    return rule


def lamb(w: np.ndarray, g: np.ndarray, kept: dict, step: Step) -> np.ndarray:
    """You et al. 2020, algorithm 2."""
    r = adam_direction(g, kept, step.t, 0.9, 0.999, 1e-6)
    if not step.decayed:
        return w - step.eta * r
    r = r + DECAY * w
    w_norm, r_norm = np.linalg.norm(w), np.linalg.norm(r)
    return w - step.eta * (w_norm / r_norm if w_norm > 0 and r_norm > 0 else 1.0) * r


CASES: dict[str, tuple[str, Any, Reference]] = {
    "momentum, v": ("momentum", config(nesterov=True), momentum("v", True)),
    "momentum, u": ("momentum", config(momentum_form="u"), momentum("u", False)),
    "momentum, uncorrected": (
        "momentum",
        config(momentum_form="uncorrected"),
        momentum("uncorrected", False),
    ),
    "adam": ("adam", config(), adam),
    "adam, other settings": (
        "adam",
        config(settings={"optimizer.beta1": 0.5, "optimizer.beta2": 0.7, "optimizer.epsilon": 0.1}),
        adam_with_other_settings,
    ),
    "adamw": ("adamw", config(), adamw),
    "rmsprop": ("rmsprop", config(), rmsprop),
    "adadelta": ("adadelta", config(), adadelta),
    "lars": ("lars", config(settings={"optimizer.trust": 0.3}), lars(True)),
    "lars, to the letter": (
        "lars",
        config(settings={"optimizer.trust": 0.3}, momentum_form="uncorrected"),
        lars(False),
    ),
    "lamb": ("lamb", config(), lamb),
}
ALL = pytest.mark.parametrize("case", list(CASES))


def close(got: Arrays, expected: Arrays, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert list(got) == list(expected)
    for k, w in expected.items():
        np.testing.assert_allclose(got[k], w, rtol=rtol, atol=atol, err_msg=k)
    assert all(np.ptp(expected[k], axis=0).max() > 1e-3 for k in ("a", "b", "zero", "bias")), (
        "nothing happened"
    )


@ALL
def test_against_numpy_in_double_precision(case: str) -> None:
    name, run, reference = CASES[case]
    close(ours(name, run), numpys(reference))


@ALL
@pytest.mark.parametrize("place", ["pytensor", "device"])
def test_against_numpy_in_the_layout_of_a_run(case: str, place: str) -> None:
    """float32, in two flat vectors unless the optimizer goes by tensor."""
    name, run, reference = CASES[case]
    got = ours(name, run, place=place, dtype="float32", flat=not get_optimizer(name).by_tensor)
    assert {w.dtype for w in got.values()} == {np.dtype("float32")}
    # Where a first gradient is close to zero, Adam's kind divides it by nearly itself.
    close(got, numpys(reference), rtol=1e-4, atol=2e-5)


def test_every_known_optimizer_is_checked() -> None:
    assert {name for name, _, _ in CASES.values()} == set(OPTIMIZERS)


def torchs(make: Callable[..., torch.optim.Optimizer], **arguments: Any) -> Arrays:
    """The weights after each step of one of torch's optimizers, in float64."""
    weights = {k: torch.nn.Parameter(torch.from_numpy(w)) for k, w in start().items()}
    optimizer = make(
        [
            {"params": [w for k, w in weights.items() if DECAYED[k]], "weight_decay": DECAY},
            {"params": [w for k, w in weights.items() if not DECAYED[k]], "weight_decay": 0},
        ],
        **arguments,
    )
    history: dict[str, list[np.ndarray]] = {k: [] for k in DECAYED}
    for t, eta in enumerate(RATES):
        for k, w in weights.items():
            w.grad = torch.from_numpy(gradient(k, w.detach().numpy(), t))
        for group in optimizer.param_groups:
            group["lr"] = eta
        optimizer.step()
        for k, w in weights.items():
            history[k].append(w.detach().numpy().copy())
    return {k: np.array(v) for k, v in history.items()}


@pytest.mark.parametrize(
    ("name", "run", "theirs"),
    [
        ("momentum", config(), lambda p: torch.optim.SGD(p, lr=1, momentum=M)),
        ("momentum", config(nesterov=True), lambda p: torch.optim.SGD(p, lr=1, momentum=M, nesterov=True)),
        ("adam", config(), torch.optim.Adam),
        ("adamw", config(), torch.optim.AdamW),
        # Torch adds ε to the root, Lasagne to what is under it: with hardly any, they are one.
        (
            "rmsprop",
            config(settings={"optimizer.epsilon": 1e-40}),
            lambda p: torch.optim.RMSprop(p, alpha=0.9, eps=1e-20),
        ),
        ("adadelta", config(), lambda p: torch.optim.Adadelta(p, rho=0.95, eps=1e-6)),
    ],
    ids=["sgd", "nesterov", "adam", "adamw", "rmsprop", "adadelta"],
)
def test_against_torch(name: str, run: Any, theirs: Callable[..., torch.optim.Optimizer]) -> None:
    close(ours(name, run), torchs(theirs))


def test_a_parameter_that_is_zero_or_has_no_gradient_stays_finite() -> None:
    """What a ratio of norms divides by."""
    for name in ("lars", "lamb"):
        got = ours(name, config(weight_decay=0.0), place="device", dtype="float32")
        assert all(np.isfinite(w).all() for w in got.values()), name
        assert np.abs(got["zero"][0]).max() > 1e-3, f"{name}: a ratio of 0 would never let it go"
        np.testing.assert_array_equal(got["still"][-1], start()["still"].astype("float32"))


@pytest.mark.parametrize("name", sorted(rules()))
def test_a_rule_of_lasagne_by_the_adapter_is_the_rule(name: str) -> None:
    settings = {
        "adam": {"optimizer.beta1": 0.5, "optimizer.beta2": 0.6},
        "adadelta": {"optimizer.rho": 0.5},
        "adagrad": {"optimizer.epsilon": 0.01},
    }.get(name, {})
    run = config(weight_decay=0.0, momentum=0.8, settings=settings)
    got = ours(f"lasagne.{name}", run, place="device", dtype="float32")

    weights = {k: device.shared(w.astype("float32"), k) for k, w in start().items()}
    gradients = {k: device.shared(np.zeros_like(w.get_value()), k) for k, w in weights.items()}
    eta = pt.dscalar("eta")
    arguments = {k.removeprefix("optimizer."): v for k, v in settings.items()}
    arguments |= {"momentum": 0.8} if "momentum" in name else {}
    rule = getattr(lasagne_updates, name)
    updates = rule(list(gradients.values()), list(weights.values()), learning_rate=eta, **arguments)
    step = pytensor.function([eta], [], updates=updates, mode=device.mode())
    for t, rate in enumerate(RATES):
        for k, w in weights.items():
            gradients[k].set_value(gradient(k, w.get_value().astype(float), t).astype("float32"))
        step(rate)
        for k, w in weights.items():
            np.testing.assert_allclose(got[k][t], w.get_value(), rtol=1e-4, atol=1e-5, err_msg=f"{k} at {t}")
    assert not np.allclose(got["a"][-1], start()["a"], atol=5e-4)


def test_a_rule_of_lasagne_says_what_it_keeps() -> None:
    adam_ = get_optimizer("lasagne.adam")(config(settings={"optimizer.beta2": 0.98}))
    assert (adam_.slots, adam_.scalars) == (("m", "v"), ("t",))
    assert adam_.words() == "lasagne.adam, beta1 = 0.9, beta2 = 0.98, epsilon = 1e-08"
    # The run's own setting counts where there is one.
    assert (
        get_optimizer("lasagne.momentum")(config(momentum=0.5)).words() == "lasagne.momentum, momentum = 0.5"
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("adm", {}, "optimizer: .*got 'adm'; did you mean 'adam'\\?"),
        (
            "lasagne.adm",
            {},
            "optimizer: expected lasagne.NAME with one of .*got 'adm'; did you mean 'adam'\\?",
        ),
        ("lasagne.norm_constraint", {}, "optimizer: expected lasagne.NAME with one of "),
        ("adam", {"optimizer.beta": 0.9}, "optimizer: unknown setting 'beta'; did you mean 'beta.'\\?"),
        (
            "adam",
            {"optimizer.beta2": 2},
            "optimizer.beta2: expected a number of at least 0 and below 1, got 2",
        ),
        ("lars", {"optimizer.trust": 0}, "optimizer.trust: expected a number above 0, got 0"),
        (
            "lasagne.rmsprop",
            {"optimizer.roh": 0.5},
            "optimizer: unknown setting 'roh'; did you mean 'rho'\\?",
        ),
        ("momentum", {"optimizer.nesterov": 1}, "optimizer: unknown setting 'nesterov'"),
        ("theanompi.config.RunConfig", {}, "optimizer: expected a subclass of .*Optimizer"),
    ],
)
def test_what_a_user_types_wrong_is_one_line(name: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        get_optimizer(name)(config(settings=settings))
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


def test_an_optimizer_of_ones_own_is_one_class(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_steps.py").write_text(
        "import pytensor.tensor as pt\n"
        "from theanompi.training.optimizers import Optimizer\n"
        "class Sign(Optimizer):\n"
        "    def step(self, w, g, slots, rates, *, decayed):\n"
        "        return w - pt.cast(rates.eta, w.dtype) * pt.sign(g), {}\n"
        "    def words(self):\n"
        "        return 'by the sign'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    close(ours("my_steps.Sign", config()), numpys(lambda w, g, kept, step: w - step.eta * np.sign(g)))


@pytest.mark.parametrize("place", ["pytensor", "device"])
@pytest.mark.parametrize("limit", [0.5, 3.7, 1e6])
@pytest.mark.parametrize("scaled", ["rate", "loss"])
def test_clipping_against_torch(place: str, limit: float, scaled: str) -> None:
    """The norm is that of the gradient times factor and loss scale, over all parameters, without weight decay."""
    half = pt.constant(np.float32(0.5))
    rates = RATES if scaled == "rate" else [0.05] * 8 + [0.005] * 7 + [0.0005] * 5
    scales = (
        [1.0] * STEPS if scaled == "rate" else [eta / rate for eta, rate in zip(RATES, rates, strict=True)]
    )
    norms = []

    def clipped(gradients: Arrays, t: int) -> float:
        leaves = [torch.nn.Parameter(torch.zeros(g.size, dtype=torch.float64)) for g in gradients.values()]
        for leaf, g in zip(leaves, gradients.values(), strict=True):
            leaf.grad = torch.from_numpy(0.5 * scales[t] * g.ravel())
        before = leaves[0].grad.clone()
        norms.append(float(torch.nn.utils.clip_grad_norm_(leaves, limit)))
        return 0.5 * scales[t] * float(leaves[0].grad.norm() / before.norm())

    got = ours(
        *("momentum", config()),
        place=place,
        flat=True,
        dtype="float32",
        schedule=replace(SCHEDULE, scaled=scaled),
        rates=rates,
        factor=half,
        clip_norm=limit,
    )
    expected = numpys(momentum("v", False), rates, clipped)
    for k, w in expected.items():
        np.testing.assert_allclose(got[k], w, rtol=1e-4, atol=2e-5, err_msg=k)
    assert {0.5: max(norms) > 0.5, 3.7: min(norms) < 3.7 < max(norms), 1e6: max(norms) < 1e6}[limit]


def test_a_factor_multiplies_the_gradient_and_not_the_decay() -> None:
    got = ours("momentum", config(), factor=pt.constant(np.float32(0.25)))
    close(got, numpys(momentum("v", False), factor=lambda gradients, t: 0.25))


def test_an_update_at_every_third_iteration_has_that_iterations_rate() -> None:
    schedule = replace(SCHEDULE, iterations_per_epoch=6, warmup_epochs=2.5)
    rates = [schedule(3 * t + 2) for t in range(STEPS)]
    assert len(set(rates[:5])) == 5
    close(
        ours("momentum", config(), schedule=schedule, rates=rates, every=3),
        numpys(momentum("v", False), rates),
    )


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_the_schedule_goes_by_the_run_and_the_optimizer_by_what_the_weights_have_had(name: str) -> None:
    """The first update of a worker whose run has come to iteration 6: of Adam's one step it is η·g/|g|."""
    w, g = pytensor.shared(np.zeros(2)), pytensor.shared(np.array([3.0, -0.5]))
    optimizer = get_optimizer(name)(config(weight_decay=0.0))
    slots = {slot: pytensor.shared(np.zeros(2)) for slot in optimizer.slots}
    t, made, last_eta = (pytensor.shared(number) for number in (np.int64(6), np.int64(0), np.float64(0)))
    eta, updates = update_graph(
        [Group(w, g, slots, False)], optimizer, SCHEDULE, t=t, made=made, last_eta=last_eta
    )
    assert float(pytensor.function([], eta, updates=updates, mode="FAST_COMPILE")()) == RATES[6]
    step = np.sign(g.get_value()) if name == "adam" else g.get_value()
    np.testing.assert_allclose(w.get_value(), -RATES[6] * step, rtol=1e-6)
    assert (int(t.get_value()), int(made.get_value())) == (7, 1)


@pytest.mark.parametrize("name", [*OPTIMIZERS, *(f"lasagne.{rule}" for rule in rules())])
def test_arrays_are_passed_over_once(name: str) -> None:
    """Nothing of double precision meets the arrays, and all that is by element is one expression."""
    optimizer = get_optimizer(name)(config())
    w, g, average = (device.shared(np.ones(70_000, "float32")) for _ in range(3))
    slots = {slot: device.shared(np.ones(70_000, "float32")) for slot in optimizer.slots}
    t, last_eta = device.shared(np.int64(3)), device.shared(np.float64(0.1))
    scalars = {scalar: device.shared(np.float64(3)) for scalar in optimizer.scalars}
    _, updates = update_graph(
        [Group(w, g, slots, True, average=average)],
        *(optimizer, SCHEDULE),
        **{"t": t, "last_eta": last_eta, "scalars": scalars, "decay": 0.9},
    )
    function = pytensor.function([], [], updates=updates, mode=device.mode())
    nodes = [node for node in function.maker.fgraph.toposort() if isinstance(node.op, Elemwise)]
    arrays = [node for node in nodes if any(v.type.shape == (70_000,) for v in node.outputs)]
    assert {v.dtype for node in arrays for v in node.inputs} <= {"float32", "bool"}
    # Norms must be known before the arrays move: of w and g, then the step; or of w and r, which comes with m and v.
    assert len(arrays) <= (3 if optimizer.by_tensor else 1)


def test_what_does_not_decay_is_one_vector_also_where_others_go_by_tensor() -> None:
    """LARS and LAMB are compiled in a time that grows with the weight matrices, and not with all γ, β and biases."""
    state: Any = SimpleNamespace(decayed=["a.W", "b.W"], undecayed=["a.b", "b.b"])
    assert parameter_groups(state, by_tensor=True) == [
        (["a.W"], True),
        (["b.W"], True),
        (["a.b", "b.b"], False),
    ]
    assert parameter_groups(state, by_tensor=False) == [(["a.W", "b.W"], True), (["a.b", "b.b"], False)]
    nothing: Any = SimpleNamespace(decayed=[], undecayed=["a.b"])
    assert all(parameter_groups(nothing, by_tensor=flag) == [(["a.b"], False)] for flag in (True, False))


def test_momentums_graph_is_that_of_its_formula_alone() -> None:
    """Without a factor and a limit nothing else meets the gradient."""
    optimizer = get_optimizer("momentum")(config())
    w, v, g = (pytensor.shared(np.ones(3, "float32"), shape=(3,)) for _ in range(3))
    t, last_eta = pytensor.shared(np.int64(0)), pytensor.shared(np.float64(0))
    _, updates = update_graph(
        [Group(w, g, {"velocity": v}, False)], optimizer, SCHEDULE, t=t, last_eta=last_eta
    )
    readers = [node for node in applys_between([g], [dict(updates)[v]]) if g in node.inputs]
    assert len(readers) == 1
    rates = Rates(pt.lscalar(), pt.dscalar(), pt.dscalar())
    assert set(optimizer.step(w, g, {"velocity": v}, rates, decayed=True)[1]) == {"velocity"}
