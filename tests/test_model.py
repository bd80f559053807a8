"""What a model class may have, and what would look as if it counted and is refused."""

from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytensor
import pytest
import small_models
import torch
from mpi4py import MPI
from small_models import Normalised, Plain

from theanompi import Model, Objective, classification, device
from theanompi.config import ConfigError, RunConfig, resolve, setting
from theanompi.config.kinds import choice, whole
from theanompi.data import Modality, Pictures
from theanompi.lasagne.init import Constant
from theanompi.lasagne.layers import (
    BatchNormLayer,
    Conv2DLayer,
    DenseLayer,
    InputLayer,
    Layer,
    batch_norm,
    get_all_params,
    get_output,
)
from theanompi.lasagne.nonlinearities import rectify, softmax
from theanompi.training.model import hook
from theanompi.training.model_class import make_model
from theanompi.training.optimizers import Optimizer
from theanompi.training.own_class import TAKEN, refuse_unheeded


def made(namespace: dict[str, Any]) -> Any:
    model = type("Net", (Plain,), namespace)({"verbose": False})
    model.cleanup()
    return model


def constructor(name: str, value: Any) -> Any:
    def init(self: Any, config: Any) -> None:
        Plain.__init__(self, config)
        setattr(self, name, value)

    return init


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("base_lr", "base_lr"),
        ("n_epochs", "epochs"),
        ("batch_size", "batch_size"),
        ("learning_rate", "base_lr"),
    ],
)
def test_settings_on_a_model_class_are_refused_by_name(name: str, setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_unheeded(made({name: 0.3}))
    assert str(caught.value) == (
        f"Net.{name}: expected no such attribute, as a model does not decide this, got one; "
        f"remedy: {setting} in defaults of its class, or the setting {setting}"
    )
    with pytest.raises(
        ConfigError, match=f"^Net: expected its constructor to leave {name} alone.* {setting}$"
    ):
        refuse_unheeded(made({"__init__": constructor(name, 3)}))


@pytest.mark.parametrize("name", ["size", "rank", "update", "states", "inputs"])
def test_a_class_has_no_names_that_are_the_trainers(name: str) -> None:
    """An update of its own, for one, would train nothing, and a size be that of the run."""
    with pytest.raises(ConfigError, match=rf"^Net: expected another name than {name}, .* got {name} = int$"):
        made({name: 64})

    def init(self: Any, config: Any) -> None:
        setattr(self, name, 64)
        Plain.__init__(self, config)

    with pytest.raises(ConfigError, match=rf"^Net\.__init__: expected another name than {name}, .* = int$"):
        made({"__init__": init})


@pytest.mark.parametrize("method", ["build_model", "objectives", "optimizer"])
def test_nor_does_a_method_of_its_own_set_them(method: str) -> None:
    def own(self: Any, *args: Any) -> Any:
        self.mine, self.network = 3, None
        if taken:
            self.inputs = []
        return getattr(Plain, method)(self, *args)

    taken = False
    if method == "build_model":
        assert made({method: own}).mine == 3
    taken = True
    asked = "build" if method == "build_model" else method
    with pytest.raises(
        ConfigError, match=rf"^Net\.{asked}: expected another name than inputs, .* got inputs = list$"
    ):
        made({method: own})


class Half(Modality):
    def graph(self, inputs: Any, training: bool) -> Any: ...


OTHER_KINDS: dict[str, tuple[Any, str]] = {
    "modality": ("Arrays", ": expected a subclass of theanompi.data.Modality such as Pictures, .*, got 'Arrays'"),
    "modality of methods": (Half, ": expected methods batch of Half, got none"),
    "bias_rate": (None, ": expected a number above 0, got None"),
    "build": (None, r": expected a method \(self, batch\), got None"),
    "build_model": (lambda self, shape: None, r": expected .*, num_classes\), got one that takes \(shape\) after self"),
    "objectives": ([], r": expected a method \(self, batch, training\), got \[\]"),
    "scores": ("dense", r": expected a method \(self, batch\), got 'dense'"),
    "torch_names": ({"a": "b"}, r": expected a method \(self\), got \{'a': 'b'\}"),
    "on_validation": (lambda self: None, r": expected .*\(self, record\), got one that takes \(\) after self"),
    "optimizer": ("adam", ": expected a method .*, got 'adam'; remedy: optimizer in defaults of its class"),
    "optimizer of a name": (lambda self, objective: None, ": expected a theanompi.*.Optimizer, got None"),
    "Settings": (3, ": expected a frozen dataclass, got 3, which is none"),
    "Settings of fields": (dataclass(type("Own", (), {"__annotations__": {"width": int}})), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_what_is_of_another_kind_than_a_model_has_is_one_line(name: str) -> None:
    value, message = OTHER_KINDS[name]
    attribute = name.partition(" ")[0]
    begin = "model: Settings" if attribute == "Settings" else f"Net.{attribute}"
    if not message:
        begin, message = "model.width", ": expected a field of Own with a default, got one without"
    with pytest.raises(ConfigError, match=f"^{begin}{message}$"):
        made({attribute: value})


def test_a_field_that_a_batch_has_not_is_answered_with_those_that_it_has() -> None:
    def objectives(self: Any, batch: Any, training: bool) -> Any:
        assert "label" not in batch and batch.get("label") is None
        return batch["label"]

    with pytest.raises(KeyError) as caught:
        made({"objectives": objectives})
    assert str(caught.value) == (
        "a batch: expected one of images, labels, weights, keys, got 'label'; did you mean 'labels'?"
    )


@pytest.mark.parametrize("seen", [None, {"images": 1, "keys": 2}])
def test_what_a_modality_lets_a_model_see_has_weights_and_keys(seen: Any) -> None:
    own = type("Own", (Pictures,), {"graph": lambda self, inputs, training: seen})
    message = r"expected fields by name, with weights and keys, got (None|images, keys)"
    with pytest.raises(ConfigError, match=rf"^Own\.graph: {message}$"):
        made({"modality": own})


def test_a_hook_is_told_what_a_record_has() -> None:
    model = made({"on_validation": lambda self, record: record["acc"]})
    on_validation = hook(model, "on_validation")
    assert on_validation is not None
    with pytest.raises(KeyError, match="^a record: expected one of kind, error, got 'acc'$"):
        on_validation({"kind": "val", "error": 0.5})


STEPS: dict[str, tuple[Any, str]] = {
    "the weights alone": (lambda w, slots: w, "got weights"),
    "no slots": (lambda w, slots: (w, {}), "got none"),
    "slots without names": (lambda w, slots: (w, [slots["v"]]), r"got \(weights, \[v\]\)"),
}


@pytest.mark.parametrize("mistake", STEPS)
def test_a_step_of_ones_own_gives_weights_and_slots(mistake: str) -> None:
    step, message = STEPS[mistake]
    model = made({"optimizer": own_steps(("v",), step)})
    with pytest.raises(ConfigError, match=rf"^Own.step: expected new weights and .* \(v\), {message}$"):
        model.compile_iter_fns()
    model.cleanup()


def test_slots_are_no_text() -> None:
    with pytest.raises(ConfigError, match=r"^Own.slots: expected a tuple of names .*, got 'v'$"):
        made({"optimizer": own_steps("v", lambda w, slots: (w, slots))})


@pytest.mark.parametrize("name", ["weights", "raw", "rule"])
def test_no_slot_takes_the_place_of_what_else_is_in_a_checkpoint(name: str) -> None:
    """It would be saved as the run's weights, which were lost, or taken for what a rule keeps."""
    with pytest.raises(ConfigError, match=rf"^Own\.slots: expected other names than .*, got '{name}'$"):
        made({"optimizer": own_steps((name,), lambda w, slots: (w, slots))})


def own_steps(slots: Any, step: Any) -> Any:
    """What gives an optimizer of a user's own, which has a setting that is a text."""

    @dataclass(frozen=True)
    class Settings:
        sign: str = setting("plus", choice(["plus", "minus"]), "of the step")

    namespace = {
        "Settings": Settings,
        "slots": slots,
        "step": lambda self, w, g, slots, rates, decayed: step(w, slots),
    }
    return lambda self, objective: type("Own", (Optimizer,), namespace)(self.config)


def test_a_setting_that_is_a_text_is_in_the_plan() -> None:
    plan = made({"optimizer": own_steps((), lambda w, slots: (w, {}))}).plan()
    assert "Own, sign = plus" in plan


def test_the_names_that_are_the_trainers_are_all_that_a_model_has() -> None:
    model = made({})
    assert vars(model).keys() - {"network"} == TAKEN


def with_factor(factor: Any) -> type[Plain]:
    def objectives(self: Any, batch: Any, training: bool) -> Objective:
        one = Plain.objectives(self, batch, training)
        return one._replace(loss=one.loss * factor)

    return type("Net", (Plain,), {"objectives": objectives})


def test_a_shared_variable_of_no_layer_in_a_loss_is_named_as_not_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index is no parameter, nor is what lies on the device: that may be a layer's of a network that only helps."""
    config = resolve(RunConfig(modelfile="small_models", modelclass="Net", verbose=False))
    parameter = pytensor.shared(np.float32(2), "scale")
    teacher = device.shared(np.ones(1, "float32"), "teacher")
    for factor, named in ((parameter, "scale"), (pytensor.shared(np.int64(2)), ""), (teacher[0], "")):
        monkeypatch.setattr(small_models, "Net", with_factor(factor), raising=False)
        make_model(config, MPI.COMM_SELF).cleanup()
        said = capsys.readouterr().err
        assert (f"not trained or saved: {named}; remedy: add_param" in said) if named else not said, said


def test_a_parameter_that_lies_in_the_hosts_memory_is_named() -> None:
    def build_model(self: Any, shape: Any, num_classes: int) -> Layer:
        bias = pytensor.shared(np.zeros(num_classes, "float32"))
        return DenseLayer(InputLayer(shape), num_classes, nonlinearity=softmax, b=bias, name="dense")

    with pytest.raises(ConfigError, match=r"^network: parameter dense\.b: expected float32 on the device"):
        made({"build_model": build_model})


def test_what_only_a_user_decides_has_no_default_as_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"^Net\.seed: .* got one; remedy: the setting seed$"):
        refuse_unheeded(made({"seed": 3}))


@pytest.mark.parametrize(("name", "remedy"), [("loss", "objectives"), ("configure_optimizers", "optimizer")])
def test_methods_that_nothing_calls_are_refused_by_name(name: str, remedy: str) -> None:
    inherited = type("Base", (Plain,), {name: lambda self: None})
    model = type("Net", (inherited,), {})({"verbose": False})
    model.cleanup()
    with pytest.raises(ConfigError) as caught:
        refuse_unheeded(model)
    assert str(caught.value) == (
        f"Base.{name}: expected no such attribute, as nothing here uses it, got one; remedy: the method {remedy}"
    )


def test_a_rank_refuses_them_when_it_makes_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_models, "Net", type("Net", (Plain,), {"base_lr": 0.3}), raising=False)
    config = resolve(RunConfig(modelfile="small_models", modelclass="Net", verbose=False))
    with pytest.raises(ConfigError, match=r"^Net\.base_lr: expected no such attribute"):
        make_model(config, MPI.COMM_SELF)


def test_images_that_do_not_fill_a_minibatch_are_the_users_mistake_in_a_constructor_of_the_users_own_too() -> (
    None
):
    own = type("Net", (Plain,), {"__init__": constructor("depth", 3)})
    with pytest.raises(ConfigError, match="^accumulation: expected at most 89 on 1 rank, as the 1437"):
        own({"accumulation": 100, "verbose": False})


def test_a_class_has_defaults_that_the_run_overrides() -> None:
    namespace = {"defaults": {"epochs": 3, "base_lr": 0.4, "batch_size": 8, "optimizer": "momentum"}}
    assert made(namespace).config == resolve(
        RunConfig(epochs=3, base_lr=0.4, batch_size=8, optimizer="momentum", verbose=False)
    )
    model = type("Net", (Plain,), namespace)({"base_lr": 0.2, "verbose": False})
    model.cleanup()
    assert (model.config.base_lr, model.config.epochs, model.n_epochs) == (0.2, 3, 3)
    assert (model.schedule.base_lr, model.data.batch_size) == (0.2, 8)
    with pytest.raises(
        ConfigError, match=r"^Net\.defaults: unknown setting 'epoch'; did you mean 'epochs'\?$"
    ):
        made({"defaults": {"epoch": 3}})


def test_a_rank_makes_its_model_with_the_defaults_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    net = type("Net", (Plain,), {"defaults": {"epochs": 3, "momentum": 0.5}})
    monkeypatch.setattr(small_models, "Net", net, raising=False)
    config = RunConfig(modelfile="small_models", modelclass="Net", momentum=0.6, verbose=False)
    model = make_model(config, MPI.COMM_SELF)
    model.cleanup()
    assert (model.config.epochs, model.config.momentum) == (3, 0.6)
    net.defaults = {"momentum": 2}
    with pytest.raises(
        ConfigError,
        match=r"^Net\.defaults: momentum: expected a number of at least 0 and below 1, got 2$",
    ):
        make_model(config, MPI.COMM_SELF)


def test_a_class_has_settings_of_its_own() -> None:
    @dataclass(frozen=True)
    class Settings:
        width: int = setting(8, whole(1), "channels")

    assert made({"Settings": Settings}).settings.width == 8
    model = type("Net", (Plain,), {"Settings": Settings})
    made_so = model(
        {"optimizer": "adam", "settings": {"model.width": "16", "optimizer.beta2": 0.98}, "verbose": False}
    )
    made_so.cleanup()
    assert made_so.settings.width == 16
    for settings, message in [
        ({"model.widht": 3}, "model: unknown setting 'widht'; did you mean 'width'\\?"),
        ({"model.width": 0}, "model.width: expected a whole number of at least 1, got 0"),
    ]:
        with pytest.raises(ConfigError, match=f"^{message}$"):
            model({"settings": settings, "verbose": False})
    with pytest.raises(ConfigError, match="^model: unknown setting 'width'; it has none$"):
        Plain({"settings": {"model.width": 3}, "verbose": False})


def test_the_average_is_of_weights_and_statistics_as_a_loop_has_it() -> None:
    model = Normalised({"batch_size": 4, "ema": 0.3, "verbose": False})
    with pytest.raises(
        ConfigError, match="^ema: expected 0, as with rule BSP each worker has weights of its own, got 0.3$"
    ):
        model.compile_iter_fns("avg")
    model.compile_iter_fns()
    assert model.state.average is not None and model.state.statistics
    weights, average = model.state.weights.flat, model.state.average.flat
    expected = weights.double()
    for t in range(6):
        model.train_iter(t, mock.Mock())
        model.update()
        d = min(0.3, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * weights
    model.cleanup()
    np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
    assert (average - weights).abs().max() > 1e-2


class Chain(Model):
    """Three layers, each with statistics; of several objectives the first has the outer two."""

    several: bool

    def build(self, batch: Any) -> Layer:
        net: Layer = InputLayer(batch["images"].type.shape)
        for name in ("outer1", "inner", "outer2"):
            net = BatchNormLayer(
                DenseLayer(net, 10, b=None, nonlinearity=rectify, name=name), name=f"{name}.bn"
            )
        return net

    def objectives(self, batch: Any, training: bool) -> list[Objective]:
        loss = classification(get_output(self.network, batch["images"]), batch["labels"]).loss
        params: dict[bool, list[Any]] = {True: [], False: []}
        for p in get_all_params(self.network, trainable=True):
            params[not self.several or p.name.startswith("outer")].append(p)
        return [Objective(loss, params=ps, name=f"outer_{outer}") for outer, ps in params.items() if ps]


def test_each_objective_moves_the_statistics_of_its_layers_wherever_they_are() -> None:
    statistics = []
    for several in (False, True):
        # At next to no rate, all see the same weights.
        model = type("Net", (Chain,), {"several": several})(
            {"batch_size": 4, "base_lr": 1e-30, "verbose": False}
        )
        model.compile_iter_fns()
        initial = {name: array.copy() for name, array in model.state_arrays().items()}
        for count in range(2):
            for objective in model.due(count):
                model.train_iter(count, mock.Mock(), objective)
                model.update(objective)
        model.cleanup()
        statistics.append({k: v for k, v in model.state_arrays().items() if k.endswith(("mean", "inv_std"))})
    assert len(statistics[0]) == 6
    for name, expected in statistics[0].items():
        np.testing.assert_allclose(statistics[1][name], expected, rtol=1e-5, err_msg=name)
        assert np.abs(expected - initial[name]).max() > 1e-3, name


class Follower(Layer):
    """An average of the images that it has seen, which nothing else depends on."""

    tags = {"trainable": False, "regularizable": False, "batch_norm_stat": True}
    alpha: Any = 0.25

    def __init__(self, incoming: Any, **kwargs: Any) -> None:
        super().__init__(incoming, **kwargs)
        self.average = self.add_param(Constant(1), (), "average", **self.tags)

    def of(self, input: Any) -> Any:
        return input.mean()

    def get_output_for(self, input: Any, batch_norm_statistics: Any = None, **kwargs: Any) -> Any:
        if batch_norm_statistics is not None:
            batch_norm_statistics[self.average] = self.of(input)
        return input


def following(**namespace: Any) -> Any:
    class Net(Plain):
        def build_model(self, input_shape: Any, num_classes: int) -> Layer:
            kind = type("Kind", (Follower,), namespace)
            self.follower = kind(InputLayer(input_shape), name="follower")
            return DenseLayer(self.follower, num_classes, nonlinearity=softmax, name="dense")

    return Net({"batch_size": 4, "verbose": False})


def test_an_average_of_ones_own_moves_towards_what_its_layer_says() -> None:
    model = following()
    model.compile_iter_fns()
    seen = pytensor.function([], model._batches[True]["images"].mean(), mode=device.mode("cpu"))
    expected = 1.0
    for count in range(3):
        model.train_iter(count, mock.Mock())
        model.update()
        expected = 0.75 * expected + 0.25 * float(seen())
    model.cleanup()
    assert float(model.follower.average.get_value()) == pytest.approx(expected, rel=1e-5)
    assert abs(expected - 1) > 0.1


@pytest.mark.parametrize(
    ("namespace", "message"),
    [
        ({"alpha": None}, "Kind.alpha, of follower.average: expected a number from 0 to 1, got None"),
        ({"alpha": 3}, "Kind.alpha, of follower.average: expected a number from 0 to 1, got 3"),
        (
            {"of": lambda self, input: input.mean(1)},
            r"layer 'follower': batch_norm_statistics: follower.average: expected shape \(\), got \(4, .*\)",
        ),
        (
            {"tags": {"trainable": False}},
            "batch_norm_statistics: follower.average: expected a parameter that add_param made with "
            "batch_norm_stat=True, got one without",
        ),
    ],
)
def test_an_average_that_cannot_move_as_it_should_is_refused(namespace: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        following(**namespace)


def test_an_objective_sees_all_batches_that_the_one_before_it_has_read() -> None:
    model = type("Net", (Chain,), {"several": True})({"batch_size": 4, "accumulation": 3, "base_lr": 1e-30})
    model.compile_iter_fns()
    losses = []
    for objective in model.due(0):
        model.train_iter(0, mock.Mock(), objective)
        (told,) = model.measures(objective).sums.values()
        losses.append(told)
    model.cleanup()
    # At next to no rate, the second one has the same weights; its loss is the same, too.
    assert losses[0][1] == losses[1][1] == 12
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-6)


@pytest.mark.parametrize("listens", [False, True])
def test_only_an_exchanger_that_listens_is_told_of_gradients(listens: bool) -> None:
    exchanger = mock.Mock(listens=listens)
    model = Plain({"batch_size": 4, "verbose": False})
    model.compile_iter_fns("cdd", [exchanger])
    model.train_iter(0, mock.Mock())
    model.cleanup()
    assert {name for (name,), _ in exchanger.written.call_args_list} == (
        {*model.state.gradients.views} if listens else set()
    )


def test_memory_moves_to_huge_pages_once_the_first_minibatch_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = mock.Mock()
    monkeypatch.setattr(device, "use_huge_pages", moved)
    model = type("Net", (Chain,), {"several": True})({"batch_size": 4, "accumulation": 3, "base_lr": 1e-30})
    model.compile_iter_fns()
    for count, called in enumerate([False, True]):
        for objective in model.due(count):
            model.train_iter(count, mock.Mock(), objective)
            model.update(objective)
        assert moved.called == called
    moved.reset_mock()
    for count, called in enumerate([False, True]):
        model.val_iter(count, mock.Mock())
        assert moved.called == called
    model.cleanup()


def test_the_validation_is_compiled_once_though_each_simulated_worker_asks_for_it() -> None:
    model = Normalised({"batch_size": 4, "verbose": False})
    with mock.patch("theanompi.training.model.validation_function") as compiled:
        for _ in range(2):
            model.compile_validation()
    model.cleanup()
    assert compiled.call_count == 1


def test_gradients_alone_are_scaled() -> None:
    model = Normalised({"batch_size": 4, "verbose": False})
    model.compile_iter_fns()
    model.train_iter(0, mock.Mock())
    model.cleanup()
    views = model.state.gradients.views
    before = {name: view.clone() for name, view in views.items()}
    model.scale_gradients(0, 0.25)
    scaled = {p.name for p in model.params}
    assert scaled and len(scaled) < len(views) - 1
    for name, view in views.items():
        assert torch.equal(view, before[name] * (0.25 if name in scaled else 1)), name


def test_everything_else_is_the_users_own() -> None:
    refuse_unheeded(made({"width": 8, "forward": lambda self: None, "__init__": constructor("depth", 3)}))


def test_biases_need_a_rate() -> None:
    """By which the momentum correction divides."""
    with pytest.raises(ConfigError, match=r"^Net.bias_rate: expected a number above 0, got 0$"):
        made({"bias_rate": 0})


def test_parameters_lie_in_the_order_of_backward_those_that_decay_first() -> None:
    """Which are matrices, unless their layer's tag says otherwise."""

    def build_model(self: Any, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        lower = DenseLayer(InputLayer(input_shape), 4, name="lower")
        middle = DenseLayer(lower, 4, name="middle")
        middle.params[middle.W].discard("regularizable")
        return DenseLayer(middle, num_classes, name="upper")

    state = made({"build_model": build_model}).state
    assert [p.name for p in state.decayed] == ["upper.W", "lower.W"]
    assert [p.name for p in state.undecayed] == ["upper.b", "middle.b", "middle.W", "lower.b"]
    assert list(state.gradients.views) == [*(p.name for p in state.parameters), "metrics"]


def test_layers_need_no_names() -> None:
    """Parameters get names of their own, by the kind of layer and its number; those that are unique stay."""

    def build_model(self: Any, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        net = batch_norm(Conv2DLayer(InputLayer(input_shape), 2, 3, stride=4))
        for name in (None, "dense1", None):
            net = DenseLayer(net, 5, name=name)
        own = device.shared(np.ones((5, num_classes), "float32"))
        return DenseLayer(net, num_classes, W=own, nonlinearity=softmax)

    model = made({"build_model": build_model})
    names = [p.name for p in get_all_params(model.network)]
    assert names == [
        *("conv2d1.W", "beta", "gamma", "mean", "inv_std"),
        *("dense2.W", "dense2.b", "dense1.W", "dense1.b", "dense3.W", "dense3.b", "dense4.W", "dense4.b"),
    ]
    assert [p.name for p in get_all_params(made({"build_model": build_model}).network)] == names
    assert {f"weights/{name}" for name in names} <= set(model.state_arrays())


def test_two_layers_of_one_name_are_refused() -> None:
    def build_model(self: Any, input_shape: tuple[int, int, int, int], num_classes: int) -> Layer:
        return DenseLayer(DenseLayer(InputLayer(input_shape), 3, name="fc"), num_classes, name="fc")

    with pytest.raises(
        ConfigError,
        match=r"^network: expected a name .* \(give each layer another name=…\), got fc.W, fc.b more than once",
    ):
        made({"build_model": build_model})


def test_loader_processes_start_before_the_first_graph_is_compiled() -> None:
    model = Plain({"batch_size": 4, "verbose": False})
    assert model.data.readings() == []
    with mock.patch("theanompi.training.model.gradient_function", side_effect=RuntimeError("compiling")):
        with pytest.raises(RuntimeError, match="compiling"):
            model.compile_iter_fns()
    assert model.data.readings() == [[]]
    model.cleanup()
