"""The rate of every iteration against the paper, in Python and as a graph; the printed plan."""

import re
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from theanompi.config import RunConfig, resolve
from theanompi.training.optimizers.momentum import Momentum
from theanompi.training.plan import plan
from theanompi.training.schedules import Schedule
from theanompi.training.schedules.steps import Steps

T = 157  # 1,281,167 images in minibatches of 8,192
LARGE = Steps(minibatch=8192, iterations_per_epoch=T)


@pytest.mark.parametrize(
    ("epoch", "eta"),
    [(0, 0.1), (1, 0.72), (2, 1.34), (5, 3.2), (29, 3.2), (30, 0.32), (59, 0.32), (60, 0.032), (80, 0.0032)],
)
def test_rates_of_the_paper_at_8k(epoch: int, eta: float) -> None:
    assert LARGE(epoch * T) == pytest.approx(eta, rel=1e-12)


def test_boundaries_fall_on_their_iteration() -> None:
    assert LARGE.warmup_iterations == 785
    assert LARGE(784) == pytest.approx(3.2 - 3.1 / 785) and LARGE(785) == 3.2
    assert LARGE(30 * T - 1) == 3.2 and LARGE(30 * T) == pytest.approx(0.32)
    assert LARGE(90 * T - 1) == pytest.approx(0.0032)


def test_gradual_warmup_adds_the_same_each_iteration() -> None:
    steps = np.diff([LARGE(t) for t in range(786)])
    np.testing.assert_allclose(steps, (3.2 - 0.1) / 785, rtol=1e-9)


@pytest.mark.parametrize(("scaling", "target"), [("linear", 3.2), ("sqrt", 0.1 * 32**0.5), ("none", 0.1)])
def test_scaling(scaling: str, target: float) -> None:
    schedule = Steps(minibatch=8192, iterations_per_epoch=T, scaling=scaling)
    assert schedule.target == pytest.approx(target)
    assert schedule(5 * T) == pytest.approx(target)


@pytest.mark.parametrize(
    ("warmup", "first", "before"), [("constant", 0.1, 0.1), ("none", 3.2, 3.2), ("gradual", 0.1, 3.196)]
)
def test_warmup(warmup: str, first: float, before: float) -> None:
    schedule = Steps(minibatch=8192, iterations_per_epoch=T, warmup=warmup)
    assert schedule(0) == first
    assert schedule(5 * T - 1) == pytest.approx(before, rel=1e-3)
    assert schedule(5 * T) == 3.2


@pytest.mark.parametrize("warmup", ["gradual", "constant"])
@pytest.mark.parametrize("minibatch", [128, 256])
def test_no_warmup_up_to_the_reference_minibatch(warmup: str, minibatch: int) -> None:
    schedule = Steps(minibatch=minibatch, iterations_per_epoch=10, warmup=warmup)
    assert [schedule(t) for t in range(100)] == [0.1 * minibatch / 256] * 100


@pytest.mark.parametrize(
    "schedule",
    [
        Steps(minibatch=8192, iterations_per_epoch=7),
        Steps(
            minibatch=32,
            iterations_per_epoch=45,
            epochs=14,
            base_batch=16,
            warmup_epochs=7 / 9,
            decay_epochs=(4.7, 9.3, 12.4),
        ),
        Steps(minibatch=512, iterations_per_epoch=7, warmup="constant", scaling="sqrt"),
        Steps(minibatch=512, iterations_per_epoch=7, warmup="none", decay_epochs=()),
        Steps(
            minibatch=512,
            iterations_per_epoch=7,
            epochs=20,
            warmup_epochs=10,
            decay_epochs=(5, 12),
            decay_factor=0.3,
        ),
        Steps(minibatch=64, iterations_per_epoch=7),
        Steps(minibatch=512, iterations_per_epoch=7, scaled="loss", epochs=12, decay_epochs=(3, 8)),
        Steps(minibatch=512, iterations_per_epoch=7, scaled="loss", warmup="constant", scaling="sqrt"),
    ],
    ids=[
        "8k",
        "fractions of epochs",
        "constant",
        "none",
        "decay in the warmup",
        "small",
        "loss",
        "loss, constant",
    ],
)
@pytest.mark.parametrize("float_type", ["float64", "float32"])
def test_graph_equals_python_at_every_iteration(schedule: Schedule, float_type: str) -> None:
    t = pt.lscalar("t")
    with pytensor.config.change_flags(floatX=float_type):
        outputs = [schedule.symbolic(t), schedule.symbolic_loss_scale(t)]
    assert [out.dtype for out in outputs] == ["float64", "float64"]
    graph = pytensor.function([t], outputs, mode="FAST_COMPILE", on_unused_input="ignore")
    for i in range(schedule.iterations + 3):
        eta, scale = graph(i)
        assert float(eta) == schedule(i), i
        assert float(scale) == pytest.approx(schedule.loss_scale(i), rel=1e-15, abs=0), i


def test_scaling_the_loss_leaves_the_rate_alone_and_multiplies_to_the_same() -> None:
    loss = Steps(minibatch=8192, iterations_per_epoch=T, scaled="loss")
    decayed = [0.1] * (30 * T) + [0.01] * (30 * T) + [0.001] * (20 * T) + [0.0001] * (10 * T)
    assert [loss(t) for t in range(90 * T)] == pytest.approx(decayed)
    scales = [1 + 31 * t / (5 * T) for t in range(5 * T)] + [32.0] * (85 * T)
    assert [loss.loss_scale(t) for t in range(90 * T)] == pytest.approx(scales)
    assert [loss(t) * loss.loss_scale(t) for t in range(90 * T)] == pytest.approx(
        [LARGE(t) for t in range(90 * T)]
    )
    assert {LARGE.loss_scale(t) for t in range(90 * T)} == {1.0}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"minibatch": 0}, "schedule: expected minibatch of at least 1, got 0"),
        ({"epochs": 0}, "schedule: expected epochs of at least 1, got 0"),
        ({"base_lr": 0.0}, "schedule: expected base_lr above 0, got 0.0"),
        ({"decay_factor": float("nan")}, "schedule: expected decay_factor above 0, got nan"),
        ({"warmup_epochs": -1}, "schedule: expected warmup_epochs of at least 0, got -1"),
        ({"decay_epochs": (1, -2)}, r"schedule: expected decay_epochs of at least 0, got \(1, -2\)"),
        ({"scaling": "cubic"}, "schedule: expected scaling to be one of linear, sqrt, none, got 'cubic'"),
        ({"warmup": "slow"}, "schedule: expected warmup to be one of gradual, constant, none, got 'slow'"),
        ({"scaled": "all"}, "schedule: expected scaled to be one of rate, loss, got 'all'"),
    ],
)
def test_bad_settings_are_named(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Steps(**{"minibatch": 512, "iterations_per_epoch": 10} | setting)


PARAMETERS = [
    ("conv1.W", (64, 3, 7, 7), True),
    *((f"res{stage}a_branch1.W", (128, 64, 1, 1), True) for stage in (2, 3, 4)),
    *((f"bn{stage}a_branch1.{kind}", (128,), False) for stage in (2, 3, 4) for kind in ("gamma", "beta")),
    ("fc1000.W", (128, 1000), True),
    ("fc1000.b", (1000,), False),
]


def text_of(schedule: Schedule, workers: int = 256, n_train: int = 1_281_167, **settings: Any) -> str:
    run = resolve(RunConfig(**{"batch_size": 32, **settings}))
    return plan(
        run, schedule, {"loss": Momentum(run)}, workers=workers, n_train=n_train, parameters=PARAMETERS
    )


def test_plan_tells_the_whole_run() -> None:
    text = text_of(LARGE)
    for words in [
        "8,192 images: k = 256 workers · n = 32 · A = 1",
        "14,130: 90 epochs of T = 157; each epoch's last has 3,200 images",
        "15 of 1,281,167 images per epoch, other ones in each",
        "3.2, linearly from 0.1 for 256 images",
        "gradual, 0.1 to 3.2, +0.003949 each iteration",
        "0.9, Nesterov, v-form",
        "5 parameters (161,984 values) decay: conv1.W, res*.W (3), fc1000.W",
        "7 parameters (1,768 values) do not decay: bn*.gamma (3), bn*.beta (3), fc1000.b",
    ]:
        assert words in text, words
    table = [line.split("  ") for line in text.split("\n\n")[1].splitlines()]
    rows = [tuple(cell.strip() for cell in line if cell.strip()) for line in table]
    assert rows == [
        ("epochs", "iterations", "learning rate η", "momentum correction"),
        ("0 – 5", "0 – 785", "0.1 … 3.196", "1, then 1.039 … 1.001"),
        ("5 – 30", "785 – 4,710", "3.2", "1.001"),
        ("30 – 60", "4,710 – 9,420", "0.32", "0.1"),
        ("60 – 80", "9,420 – 12,560", "0.032", "0.1"),
        ("80 – 90", "12,560 – 14,130", "0.0032", "0.1"),
    ]


def test_plan_of_a_short_run_in_the_u_form() -> None:
    schedule = Steps(
        minibatch=512,
        iterations_per_epoch=2,
        epochs=6,
        warmup="constant",
        warmup_epochs=1,
        decay_epochs=(4, 8),
    )
    text = text_of(
        schedule,
        *(2, 1024),
        accumulation=8,
        momentum_form="u",
        nesterov=False,
        weight_decay=0.0,
    )
    assert "k = 2 workers · n = 32 · A = 8" in text
    assert "12: 6 epochs of T = 2\n" in text
    assert "0 of 1,024 images per epoch\n" in text
    assert "constant, 0.1 to 0.2, in one jump at its end" in text
    assert "0.9, plain, u-form: u does not hold η and needs no correction" in text
    assert "decay: conv1" not in text.replace("do not decay", "stay")
    assert [line.split()[-2:] for line in text.splitlines()[-3:]] == [["not", "needed"]] * 3
    assert text.splitlines()[-1].startswith("4 – 6 "), "a decay past the end of the run has no row"


def test_plan_has_one_correction_for_a_warmup_of_two_updates() -> None:
    schedule = Steps(minibatch=512, iterations_per_epoch=2, epochs=6, warmup_epochs=1, decay_epochs=(4,))
    text = text_of(schedule, workers=2, n_train=1024, accumulation=8, nesterov=False)
    table = [re.split(r"  +", line) for line in text.split("\n\n")[1].splitlines()]
    assert table[1] == ["0 – 1", "0 – 2", "0.1 … 0.15", "1, then 1.5"]


def test_plan_says_where_a_run_leaves_the_recipe() -> None:
    text = text_of(
        Steps(minibatch=8192, iterations_per_epoch=T, scaled="loss"),
        momentum_form="uncorrected",
        normalization="worker",
        shuffle="worker",
    )
    for words in [
        "\n                the summed loss is divided by n only: 256 times the mean\n",
        "0.1, not scaled; instead the loss, without its weight decay, is multiplied by 32, linearly for 8,192 images\n",
        "gradual, 1 to 32 times the loss, +0.03949 each iteration\n",
        "v-form, uncorrected: v is not multiplied by η_t/η_(t-1)\n",
        " of 1,281,167 images per epoch: each of the 256 workers shuffles all of them by itself\n",
    ]:
        assert words in text, words
    unseen = re.search(r"left out +about ([\d,]+) of", text)
    assert unseen and int(unseen[1].replace(",", "")) == pytest.approx(
        1_281_167 * (255 / 256) ** 256, rel=1e-4
    )
    table = [re.split(r"  +", line) for line in text.split("\n\n")[1].splitlines()]
    assert table == [
        ["epochs", "iterations", "learning rate η", "factor of the loss", "momentum correction"],
        ["0 – 5", "0 – 785", "0.1", "1 … 31.96", "left out"],
        ["5 – 30", "785 – 4,710", "0.1", "32", "left out"],
        ["30 – 60", "4,710 – 9,420", "0.01", "32", "left out"],
        ["60 – 80", "9,420 – 12,560", "0.001", "32", "left out"],
        ["80 – 90", "12,560 – 14,130", "0.0001", "32", "left out"],
    ]
    right = text_of(LARGE)
    for words in ("uncorrected", "divided", "shuffles", "the loss", "about"):
        assert words not in right, words
