"""Every kind of schedule with every warmup and scaling: numbers, graphs, and formulas written down once more."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from theanompi import device
from theanompi.config import FIELDS, ConfigError, RunConfig, resolve, without_effect
from theanompi.training.optimizers import get_optimizer
from theanompi.training.plan import plan
from theanompi.training.schedules import SCHEDULES, Schedule, make_schedule

T, EPOCHS, WARM, RATIO, BASE = 3, 9, 2, 4, 0.1
N = T * EPOCHS
KINDS = pytest.mark.parametrize("kind", list(SCHEDULES))
WARMUPS = pytest.mark.parametrize("warmup", ["gradual", "constant", "none"])
SETTINGS: dict[str, dict[str, Any]] = {
    "steps": {},
    "poly": {"schedule.power": 1.5, "schedule.end_factor": 0.01},
    "cosine": {"schedule.end_factor": 0.05},
    "constant": {},
}


def run(kind: str, settings: dict[str, Any] | None = None, **values: Any) -> Any:
    """A resolved run with this schedule."""
    known = {
        "epochs": EPOCHS,
        "warmup_epochs": WARM,
        "decay_epochs": (4, 7),
        "decay_factor": 0.3,
        "base_batch": 64,
    }
    resolved = resolve(RunConfig(**known | values))
    return SimpleNamespace(
        **{name: getattr(resolved, name) for name in FIELDS} | {"schedule": kind, "settings": settings or {}}
    )


def make(kind: str, settings: dict[str, Any] | None = None, ratio: int = RATIO, **values: Any) -> Schedule:
    return make_schedule(run(kind, settings, **values), minibatch=64 * ratio, iterations_per_epoch=T)


def expected(kind: str, warmup: str, scaling: str) -> np.ndarray:
    """The rate of each iteration, by the papers."""
    t = np.arange(N)
    target = BASE * {"linear": RATIO, "sqrt": math.sqrt(RATIO), "none": 1}[scaling]
    end = WARM * T if warmup != "none" else 0
    eta = np.full(N, target)
    if warmup == "gradual":
        eta[:end] = BASE + (target - BASE) * t[:end] / end
    if warmup == "constant":
        eta[:end] = BASE
    x = np.maximum(t - end, 0) / (N - end)
    decay = {
        "steps": 0.3 ** ((t >= 4 * T).astype(int) + (t >= 7 * T)),
        "poly": 0.01 + 0.99 * (1 - x) ** 1.5,
        "cosine": 0.05 + 0.95 * (1 + np.cos(np.pi * x)) / 2,
        "constant": np.ones(N),
    }[kind]
    return eta * decay


@KINDS
def test_a_warmup_as_long_as_the_run_leaves_nothing_to_decay(kind: str) -> None:
    schedule = make(kind, warmup_epochs=EPOCHS, decay_epochs=())
    rates = [BASE + (RATIO - 1) * BASE * t / N for t in range(N)]
    assert [schedule(t) for t in range(N)] == pytest.approx(rates, rel=1e-12)


@KINDS
@WARMUPS
@pytest.mark.parametrize("scaling", ["linear", "sqrt", "none"])
def test_rates_are_those_of_the_formula(kind: str, warmup: str, scaling: str) -> None:
    schedule = make(kind, SETTINGS[kind], warmup=warmup, scaling=scaling)
    np.testing.assert_allclose([schedule(t) for t in range(N)], expected(kind, warmup, scaling), rtol=1e-12)
    assert schedule.target == pytest.approx(BASE * {"linear": 4, "sqrt": 2, "none": 1}[scaling])


@KINDS
@WARMUPS
@pytest.mark.parametrize("scaling", ["linear", "none"])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_setting_changes_rates_unless_it_is_said_to_have_no_effect(
    kind: str, warmup: str, scaling: str, workers: int
) -> None:
    given = {
        "schedule": kind,
        "scaling": scaling,
        "warmup": warmup,
        "warmup_epochs": 3.0,
        "base_batch": 100,
        "decay_epochs": (4.0, 7.0),
        "decay_factor": 0.3,
        "batch_size": 64,
        "epochs": EPOCHS,
    }
    others = {"warmup_epochs": 1.0, "base_batch": 60, "decay_epochs": (2.0,), "decay_factor": 0.4}
    others["warmup"] = "gradual" if warmup == "none" else "none"

    def rates(**more: Any) -> list[float]:
        made = make_schedule(
            resolve(RunConfig(**given | more)), minibatch=64 * workers, iterations_per_epoch=T
        )
        return [made(t) for t in range(N)]

    idle = without_effect(RunConfig(**given), resolve(RunConfig(**given)), workers=workers)
    named = {name for line in idle for name in line.rpartition(", as ")[0].split(", ")}
    unchanged = {name for name, value in others.items() if rates(**{name: value}) == rates()}
    unchanged -= {"warmup"} if warmup == "none" else set()  # whoever asks for none gets none
    # Of a rate that is not scaled the base batch only says whether there is a warmup, here with both values alike.
    assert named == unchanged - ({"base_batch"} if kind in ("poly", "cosine") else set())


@KINDS
@WARMUPS
def test_where_the_loss_is_scaled_rate_and_scale_multiply_to_the_same(kind: str, warmup: str) -> None:
    rate = make(kind, SETTINGS[kind], warmup=warmup)
    loss = make(kind, SETTINGS[kind], warmup=warmup, scaled="loss")
    for t in range(N):
        assert loss(t) * loss.loss_scale(t) == pytest.approx(rate(t), rel=1e-12)
        assert rate.loss_scale(t) == 1
    assert loss(0) == pytest.approx(BASE) and loss.loss_scale(N - 1) == pytest.approx(RATIO)


@KINDS
@WARMUPS
@pytest.mark.parametrize("place", ["pytensor", "device"])
@pytest.mark.parametrize("float_type", ["float64", "float32"])
def test_a_graph_gives_the_numbers(kind: str, warmup: str, place: str, float_type: str) -> None:
    """To the last bit for steps and constant rates; cosines and powers are another library's on a device."""
    schedules = [
        make(kind, SETTINGS[kind], warmup=warmup, scaling=scaling, scaled=scaled)
        for scaling, scaled in [
            *(("linear", "rate"), ("sqrt", "rate"), ("none", "rate")),
            *(("linear", "loss"), ("sqrt", "loss")),
        ]
    ]
    t = pt.lscalar("t")
    with pytensor.config.change_flags(floatX=float_type):
        outputs = [s.symbolic(t) for s in schedules] + [s.symbolic_loss_scale(t) for s in schedules]
    assert {out.dtype for out in outputs} == {"float64"}
    mode = device.mode() if place == "device" else "FAST_COMPILE"
    graph = pytensor.function([t], outputs, mode=mode, on_unused_input="ignore")
    for i in range(N + 3):
        got = [float(x) for x in graph(i)]
        numbers = [s(i) for s in schedules] + [s.loss_scale(i) for s in schedules]
        if kind in ("steps", "constant"):
            assert got[: len(schedules)] == numbers[: len(schedules)], i
        np.testing.assert_allclose(got, numbers, rtol=1e-15 if kind in ("steps", "constant") else 1e-13)


@KINDS
@WARMUPS
@pytest.mark.parametrize("scaled", ["rate", "loss"])
@pytest.mark.parametrize("warmup_epochs", [0, 2, 30])
@pytest.mark.parametrize("ratio", [1, 4])
def test_the_rate_is_above_0_and_stays_at_the_end(
    kind: str, warmup: str, scaled: str, warmup_epochs: float, ratio: int
) -> None:
    """With the least that a kind may leave of a rate, and a warmup that may outlast the run."""
    schedule = make(kind, ratio=ratio, warmup=warmup, scaled=scaled, warmup_epochs=warmup_epochs)
    rates = [schedule(t) for t in range(N + 20)]
    assert min(rates) > 0
    assert set(rates[N - 1 :]) == {rates[N - 1]}
    assert schedule.loss_scale(N + 20) == schedule.loss_scale(N - 1)


@pytest.mark.parametrize("kind", ["poly", "cosine"])
def test_the_rate_is_above_0_however_long_the_run(kind: str) -> None:
    schedule = make_schedule(
        run(kind, epochs=1000),
        minibatch=64,
        iterations_per_epoch=10**7,
    )
    last = schedule(10**10 - 1)
    assert last / BASE == pytest.approx({"poly": 1e-20, "cosine": (math.pi / 2 * 1e-10) ** 2}[kind], rel=1e-4)


def test_phases_begin_at_the_jumps() -> None:
    assert make("steps").jumps == (2 * T, 4 * T, 7 * T)
    for kind in ("poly", "cosine", "constant"):
        assert make(kind).jumps == (2 * T,)
        assert make(kind, ratio=1).jumps == (0,)


def test_defaults_are_the_papers() -> None:
    assert make("poly").settings.power == 2
    end = make("poly", warmup="none")(N - 1)
    assert end == pytest.approx(RATIO * BASE / N**2)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("cosin", {}, "schedule: .*got 'cosin'; did you mean 'cosine'\\?"),
        ("poly", {"schedule.pover": 2}, "schedule: unknown setting 'pover'; did you mean 'power'\\?"),
        ("poly", {"schedule.power": -1}, "schedule.power: expected a number above 0, got -1"),
        ("cosine", {"schedule.end_factor": 2}, "schedule.end_factor: expected a number from 0 to 1, got 2"),
        ("steps", {"schedule.power": 2}, "schedule: unknown setting 'power'"),
        ("poly", {"schedule.power": 1e4}, "schedule: expected a rate above 0 at iteration 26, got 0.0"),
        ("theanompi.config.RunConfig", {}, "schedule: expected a subclass of .*Schedule"),
    ],
)
def test_what_a_user_types_wrong_is_one_line(kind: str, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        make(kind, settings)
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


def test_a_schedule_of_ones_own_is_one_class(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rates.py").write_text(
        "from dataclasses import dataclass\n"
        "from theanompi.config.kinds import POSITIVE\n"
        "from theanompi.config.plugins import setting\n"
        "from theanompi.training.schedules import Schedule\n"
        "class Falling(Schedule):\n"
        "    @dataclass(frozen=True)\n"
        "    class Settings:\n"
        "        speed: float = setting(0.5, POSITIVE, 'per epoch')\n"
        "    def decayed(self, eta, t, f):\n"
        "        return eta * f.exp(-self.settings.speed * (t / self.iterations_per_epoch))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    schedule = make("my_rates.Falling", {"schedule.speed": 0.25}, warmup="none")
    np.testing.assert_allclose(
        [schedule(t) for t in range(N)], RATIO * BASE * np.exp(-0.25 * np.arange(N) / T), rtol=1e-12
    )
    t = pt.lscalar("t")
    graph = pytensor.function([t], schedule.symbolic(t), mode="FAST_COMPILE")
    assert float(graph(7)) == pytest.approx(schedule(7), rel=1e-14)


def test_the_plan_says_how_rate_and_weights_change() -> None:
    schedule = make("cosine", {"schedule.end_factor": 0.1}, base_batch=64)
    lars = get_optimizer("lars")(run("cosine", {"optimizer.trust": 0.02}, nesterov=False))
    config, values = resolve(RunConfig(batch_size=64)), {"workers": 4, "n_train": 256 * T}
    text = plan(
        config,
        schedule,
        {"loss": lars},
        **values,
        parameters=[("fc.W", (8, 3), True), ("fc.b", (3,), False)],
    )
    for words in [
        "\ndecay           cosine, to 0.1 of the rate at the end\n",
        "\noptimizer       LARS, trust = 0.02, momentum 0.9, plain, v-form: v is multiplied by η_t/η_(t-1)\n",
    ]:
        assert words in text, words
    rows = [" ".join(line.split()) for line in text.split("\n\n")[1].splitlines()]
    assert rows[0] == "epochs iterations learning rate η momentum correction"
    assert rows[1] == "0 – 2 0 – 6 0.1 … 0.35 1, then 1.5 … 1.167"
    last = 0.4 * (0.1 + 0.9 * math.cos(math.pi / 2 * 20 / 21) ** 2)
    assert rows[2].startswith(f"2 – 9 6 – 27 0.4 … {last:.4g} 1.143, then 0.995 … 0.8")

    adam = get_optimizer("adam")(run("poly"))
    text = plan(config, make("poly"), {"loss": adam}, **values, parameters=[("fc.W", (8, 3), True)])
    assert "\ndecay           polynomial, power 2, to 0 of the rate at the end\n" in text
    assert (
        "\noptimizer       Adam, β1 = 0.9, β2 = 0.999, ε = 1e-08, weight decay as part of the gradient\n"
        in text
    )
    assert "correction" not in text

    both = {"critic": lars, "generator, once in 3 iterations": adam}
    text = plan(config, make("poly"), both, **values, parameters=[("fc.W", (8, 3), True)])
    assert "\nobjectives      critic: LARS, trust = 0.02, momentum 0.9" in text
    assert "\n                generator, once in 3 iterations: Adam, β1 = 0.9" in text
    assert "correction" not in text.split("\n\n")[1]
