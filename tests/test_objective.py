"""What a model's objectives must be: each mistake is one line, before anything is compiled."""

import math
import warnings
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from torch.nn.functional import cross_entropy
from toy_replica import Toy

from theanompi import Model, Objective, classification, device
from theanompi.config import ConfigError, RunConfig, resolve
from theanompi.lasagne.layers import DenseLayer, DropoutLayer, InputLayer, get_all_params, get_output
from theanompi.lasagne.nonlinearities import softmax
from theanompi.rules import own_step
from theanompi.training.objective import Statistics, trace
from theanompi.training.optimizers import Optimizer
from theanompi.training.replica import Measures

N = 4


class Two(Model):
    """Two dense layers on the digits, `lower` and `upper`; each test gives it objectives."""

    def build(self, batch: Any) -> Any:
        lower = DenseLayer(InputLayer(batch["images"].type.shape), 6, name="lower")
        return DenseLayer(lower, self.dataset.n_classes, nonlinearity=None, name="upper")

    def scores(self, batch: Any) -> Any:
        return classification(get_output(self.network, batch["images"]), batch["labels"])

    def of(self, name: str) -> list[Any]:
        return [p for p in get_all_params(self.network, trainable=True) if p.name.startswith(name)]


def made(objectives: Any, settings: dict[str, Any] | None = None, **namespace: Any) -> Two:
    cls = type("Net", (Two,), {"objectives": objectives, **namespace})
    model = cls({"batch_size": N, "verbose": False, **(settings or {})})
    model.cleanup()
    return model


def vector(self: Two, batch: Any) -> Any:
    return self.scores(batch).loss


def noise(n: int) -> Any:
    """As a user draws it who has only read PyTensor's manual."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return pt.random.normal(size=(n,))


def moving() -> Any:
    total = pytensor.shared(np.float32(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        total.default_update = total + 1
    return total


MISTAKES: dict[str, tuple[Any, str]] = {
    "no objective": (lambda self, batch, training: None, "expected an Objective or a list of them, got NoneType"),
    "a loss alone": (
        lambda self, batch, training: self.scores(batch).loss,
        "expected an Objective or a list of them, got TensorVariable",
    ),
    "a mean": (
        lambda self, batch, training: Objective(pt.mean(vector(self, batch))),
        r"loss: loss: expected a float32 vector \(items,\), got float32 of shape \(\)",
    ),
    "labels": (
        lambda self, batch, training: Objective(batch["labels"]),
        r"loss: loss: expected a float32 vector \(items,\), got int64 of shape \(4\)",
    ),
    "half a batch": (
        lambda self, batch, training: Objective(vector(self, batch)[:2]),
        "loss: loss: expected 4 numbers, one for each item, or a multiple, got 2",
    ),
    "another length of a metric": (
        lambda self, batch, training: Objective(vector(self, batch), metrics={"mae": vector(self, batch)[:2]}),
        "loss: mae: expected 4 numbers, as many as the loss has, got 2",
    ),
    "a weight of another shape": (
        lambda self, batch, training: Objective(vector(self, batch), weight=batch["images"][:, 0, 0]),
        r"loss: weight: expected a float32 vector \(4,\), got float32 of shape \(4, 32\)",
    ),
    "every 0": (
        lambda self, batch, training: Objective(vector(self, batch), every=0),
        "loss: every: expected a whole number of at least 1, got 0",
    ),
    "every a text": (
        lambda self, batch, training: Objective(vector(self, batch), every="often"),
        "loss: every: expected a whole number of at least 1, got 'often'",
    ),
    "a rate that is a graph": (
        lambda self, batch, training: Objective(vector(self, batch), rate=vector(self, batch)),
        "loss: rate: expected a number above 0, got SoftmaxCrossEntropy.0",
    ),
    "metrics without names": (
        lambda self, batch, training: Objective(vector(self, batch), metrics=[vector(self, batch)]),
        r"loss: metrics: expected vectors by name, got \[SoftmaxCrossEntropy.0\]",
    ),
    "one parameter alone": (
        lambda self, batch, training: Objective(vector(self, batch), params=self.of("upper.W")[0]),
        "loss: params: expected a list of shared variables of layers, got upper.W",
    ),
    "a sum that keeps itself, without a name": (
        lambda self, batch, training: Objective(vector(self, batch) + moving()),
        "loss: expected dropout by the keys of the batch and .*, got <Scalar.* that updates itself; remedy: .*",
    ),
    "never each": (
        lambda self, batch, training: Objective(vector(self, batch), every=2),
        r"expected one objective with every=1, got \[2\]",
    ),
    "no params of two": (
        lambda self, batch, training: [
            Objective(vector(self, batch), name="a"),
            Objective(vector(self, batch), name="b", params=self.of("upper")),
        ],
        "a: expected params, as there are several objectives, got none",
    ),
    "a parameter twice": (
        lambda self, batch, training: [
            Objective(vector(self, batch), name=name, params=self.of("")) for name in ("a", "b")
        ],
        "expected each parameter in one objective, got lower.W in a and b",
    ),
    "a parameter in none": (
        lambda self, batch, training: Objective(vector(self, batch), params=self.of("upper")),
        "expected each trainable parameter in an objective, got lower.W, lower.b in none",
    ),
    "an expression": (
        lambda self, batch, training: Objective(vector(self, batch), params=[self.of("upper")[0] * 2]),
        "loss: params: expected float32 shared variables of layers, got Mul.0",
    ),
    "dropout in validation": (
        lambda self, batch, training: Objective(
            get_output(DropoutLayer(self.network), batch["images"], deterministic=False).sum(1)
        ),
        "loss: expected dropout by the keys of the batch and .*, got random.state that updates itself; remedy: .*",
    ),
    "noise of PyTensor's": (
        lambda self, batch, training: Objective(vector(self, batch) + noise(N)),
        "loss: expected noise by the keys of the batch, as theanompi.* got a random variable of PyTensor's.*",
    ),
    "other names in validation": (
        lambda self, batch, training: Objective(vector(self, batch), name="a" if training else "b"),
        "expected a in validation too, got b",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_objectives_is_one_line(mistake: str) -> None:
    objectives, message = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=rf"^Net\.objectives: {message}$") as caught:
        made(objectives)
    assert len(str(caught.value)) < 300


def test_noise_of_pytensors_in_an_optimizer_is_one_line_too() -> None:
    class Noisy(Optimizer):
        def step(self, w: Any, g: Any, slots: Any, rates: Any, *, decayed: bool) -> Any:
            return w - pt.cast(noise(1), "float32") * g, {}

    model = made(
        lambda self, batch, training: Objective(vector(self, batch)),
        optimizer=lambda self, objective: Noisy(self.config),
    )
    with pytest.raises(
        ConfigError, match=r"^Noisy\.step: expected noise by rates\.t, .* got a random variable"
    ):
        model.compile_iter_fns()
    model.cleanup()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"name": "lr"}, "metrics: expected names that the log has for nothing else, got 'lr'"),
        ({"metrics": ["loss"]}, "metrics: expected each name once, got 'loss' twice"),
        ({"metrics": ["top 5"]}, "metrics: expected names of at most 40 letters"),
    ],
)
def test_names_are_those_that_a_log_can_have(names: dict[str, Any], message: str) -> None:
    def objectives(self: Two, batch: Any, training: bool) -> Objective:
        loss = vector(self, batch)
        return Objective(
            loss, name=names.get("name", "loss"), metrics=dict.fromkeys(names.get("metrics", ()), loss)
        )

    with pytest.raises(ConfigError, match=f"^{message}"):
        made(objectives)


@pytest.mark.parametrize("squashed", [False, True], ids=["scores", "softmax"])
def test_labels_are_smoothed_in_training_alone_against_torch(squashed: bool) -> None:
    rng = np.random.default_rng(2)
    values, numbers = rng.normal(size=(N, 7)).astype("float32"), rng.integers(0, 7, N)
    x, keys = device.shared(values), device.shared(np.arange(N))
    batch = {"labels": device.shared(numbers), "keys": keys}
    model = SimpleNamespace(
        config=resolve(RunConfig(label_smoothing=0.1)),
        objectives=lambda batch, training: classification(softmax(x) if squashed else x, batch["labels"]),
    )
    for training, share in ((True, 0.1), (False, 0.0)):
        loss = trace(model, batch, N, training=training).objectives[0].loss
        ours = pytensor.function([], [loss, pytensor.grad(loss.sum(), x)], mode=device.mode())()
        theirs = torch.from_numpy(values).requires_grad_()
        expected = cross_entropy(theirs, torch.from_numpy(numbers), label_smoothing=share, reduction="none")
        expected.sum().backward()
        np.testing.assert_allclose(ours[0], expected.detach(), rtol=1e-5)
        np.testing.assert_allclose(ours[1], theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("axis", "words"), [(None, "all axes"), (0, "axis 0")])
def test_a_softmax_along_another_axis_than_that_of_the_classes_is_refused(
    axis: int | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^classification: expected .* got one along {words}$"):
        classification(pt.special.softmax(pt.matrix(), axis=axis), pt.lvector())


def test_labels_that_the_trainer_does_not_see_are_not_smoothed_silently() -> None:
    def objectives(self: Two, batch: Any, training: bool) -> Objective:
        return Objective(get_output(self.network, batch["images"]).sum(1))

    with pytest.raises(
        ConfigError,
        match=r"^Net\.objectives: label_smoothing: expected 0, as it is for classifiers, whose objectives call "
        r"theanompi\.classification, which this does not, got 0\.1$",
    ):
        made(objectives, {"label_smoothing": 0.1})
    with pytest.raises(ConfigError, match=r"^Net\.objectives: random_erasing: expected 0, .* got 1$"):
        made(objectives, {"random_erasing": 1})
    assert "labels          smoothed by 0.1" in made(Model.objectives, {"label_smoothing": 0.1}).plan()


def test_the_plan_says_in_a_line_which_recipe_it_is_its_rate_and_what_is_not_in_it() -> None:
    settings = {"recipe": "lars-32k", "epochs": 2, "nesterov": True, "settings": {"optimizer.trust": 0.02}}
    (line,) = [x for x in made(Model.objectives, settings).plan().splitlines() if x.startswith("recipe ")]
    assert line.endswith(
        "rate 31.2 for 32,768 images, here 0.003809; this run has its own epochs, nesterov, optimizer.trust; "
        "warmup begins at the rate for 256 images, there at 0"
    )
    assert "recipe" not in made(Model.objectives).plan()


@pytest.mark.parametrize("reach", [lambda p: 0, lambda p: pt.cast(pt.argmax(p), "float32")])
def test_a_parameter_that_no_gradient_of_the_loss_reaches_is_named(reach: Any) -> None:
    """Of an argmax PyTensor has zeros: the run would train nothing."""

    def objectives(self: Two, batch: Any, training: bool) -> Objective:
        lower = sum(reach(p) for p in self.of("lower"))
        return Objective((pt.sum(self.of("upper")[0] ** 2) + lower) * pt.ones(N, "float32"))

    model = made(objectives)
    with pytest.raises(
        ConfigError,
        match="^objective loss: expected each parameter to take part in its loss, got .*lower.W.*, which do not, or "
        "by whole numbers alone, which have no gradient$",
    ):
        model.compile_iter_fns()


def test_an_objective_is_updated_when_it_is_due_at_a_rate_of_its_own() -> None:
    def objectives(self: Two, batch: Any, training: bool) -> list[Objective]:
        one = Objective(vector(self, batch), params=self.of("lower"), name="a")
        return [one, one._replace(params=self.of("upper"), name="b", every=2, rate=3.0)]

    # The rate grows in each iteration.
    settings = {"base_batch": 1, "warmup_epochs": 1}
    model, resumed = made(objectives, settings), made(objectives, settings)
    rates = model.schedule
    model.compile_iter_fns()
    etas: dict[int, list[float]] = {0: [], 1: []}
    for count in range(6):
        for objective in model.due(count):
            model.train_iter(count, mock.Mock(), objective)
            etas[objective].append(float(model.update(objective)))
    model.cleanup()
    assert etas[0] == pytest.approx([rates(count) for count in range(6)], rel=1e-12)
    assert etas[1] == pytest.approx([3 * rates(count) for count in (1, 3, 5)], rel=1e-12)
    assert len(set(etas[0])) == 6

    resumed.load_state_arrays(model.state_arrays(), 6, model.last_etas())
    assert [int(state.made.get_value()) for state in resumed.states] == [6, 3]
    resumed.compile_iter_fns()
    resumed.train_iter(7, mock.Mock(), 0)
    resumed.train_iter(7, mock.Mock(), 1)
    resumed.cleanup()
    assert float(resumed.update(1)) == pytest.approx(3 * rates(7), rel=1e-12)
    # Where all others are.
    resumed.at(21)
    assert [float(resumed.update(i)) for i in (0, 1)] == pytest.approx([rates(21), 3 * rates(21)], rel=1e-12)


def test_a_validation_counts_items_as_the_objective_does() -> None:
    def objectives(self: Two, batch: Any, training: bool) -> Objective:
        low = pt.cast(pt.lt(batch["labels"], 5), "float32")
        return self.scores(batch)._replace(weight=low, metrics={"low": low})

    model = made(objectives)
    for count in range(4):
        model.val_iter(count, mock.Mock())
    model.cleanup()
    items, _, counted, low, counted_again = model.validation_sums().sum(0)
    assert items == 4 * N and 0 < low < items and low == counted == counted_again


def test_a_loss_that_is_not_finite_is_seen_whichever_objective_has_it() -> None:
    class TwoToys(Toy):
        def due(self, count: int) -> list[int]:
            return [0, 1]

        def measures(self, objective: int = 0) -> Measures:
            return Measures(1, {f"loss{objective}": (1.0, 1.0)}, [(math.nan, 1.0)[objective]], False)

    step, loss = own_step(TwoToys(0, 3), 0, mock.Mock())
    assert math.isnan(loss) and step.sums == {"loss0": (1.0, 1.0), "loss1": (1.0, 1.0)}


@pytest.mark.parametrize("sync_type", ["cdd", "avg"])
def test_a_minibatch_of_nothing_but_padding_moves_no_weight(sync_type: str) -> None:
    def objectives(self: Two, batch: Any, training: bool) -> Objective:
        return self.scores(batch)._replace(weight=pt.zeros(N, "float32"))

    model = made(objectives, {"weight_decay": 0.0})
    model.compile_iter_fns(sync_type)
    before = model.state_arrays()
    model.train_iter(0, mock.Mock())
    model.update()
    model.cleanup()
    assert model.measures().sums["loss"] == (0, 0)
    for name, after in model.state_arrays().items():
        np.testing.assert_array_equal(after, before[name], err_msg=name)


def test_what_build_gives_must_be_layers() -> None:
    for network, got in [(None, "NoneType"), ({"a": 3}, "int"), ([], "none")]:
        with pytest.raises(ConfigError, match=rf"^Net\.build: expected output layers, got {got}$"):
            made(Two.objectives, build=lambda self, batch, network=network: network)


def test_statistics_of_several_passes_are_their_mean() -> None:
    statistics = Statistics()
    running = pt.fvector("running")
    for value in (1.0, 2.0, 6.0):
        statistics[running] = pt.as_tensor(np.full(2, value, "float32"))
    assert statistics[running].eval().tolist() == pytest.approx([3.0, 3.0])
