"""Every network of the zoo: the size that its paper gives it, learning, sums over ranks, and going on from a state."""

import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytensor
import pytest
import torch
from torch.nn.functional import cross_entropy

import models
import theanompi.models
from tests.zoo import small
from tests.zoo.runs import Unrecorded, equal, goes_on, made, on_two_ranks, train
from theanompi import Model, cli, device
from theanompi.config import ConfigError, RunConfig, plugins, resolve
from theanompi.config.modules import OF_THEANO_MPI, find_module
from theanompi.data import Tokens, open_dataset, write_dataset
from theanompi.lasagne.layers import ExpressionLayer, InputLayer
from theanompi.launch.check import check
from theanompi.models import ZOO, Card, describe, listing
from theanompi.models.parts import classification_with_sides

pytestmark = pytest.mark.usefixtures("forks")

PARAMETERS = {
    "AlexNet": 60_965_224,  # theano_alexnet and Caffe's bvlc_alexnet
    "AlexNetOneTower": 61_100_840,  # torchvision's
    "GoogLeNet": 13_378_280,  # Caffe's bvlc_googlenet, with both auxiliary classifiers
    "GoogLeNetBN": 13_004_888,  # torchvision's, with both auxiliary classifiers
    "VGG11": 132_863_336,  # the paper's table 2 has these four in millions; the digits are torchvision's
    "VGG13": 133_047_848,
    "VGG16": 138_357_544,
    "VGG19": 143_667_240,
    "Cifar10_model": 3 * 25 * 64
    + 64
    + 64 * 25 * 128
    + 128
    + 128 * 9 * 64
    + 64
    + 256 * 256
    + 256
    + 256 * 10
    + 10,
    "NIN": 966_986,
    "ResNet18": 11_689_512,  # torchvision's, as the other residual networks and DenseNets for ImageNet
    "ResNet34": 21_797_672,
    "ResNet50": 25_557_032,
    "ResNet101": 44_549_160,
    "ResNet152": 60_192_808,
    "ResNetCifar": 309_594,
    "Wide_ResNet": 36_479_194,  # the authors' WRN-28-10
    "DenseNet121": 7_978_856,
    "DenseNet169": 14_149_480,
    "DenseNet201": 20_013_928,
    "DenseNetCifar": 769_162,  # the authors' DenseNet-BC, L = 100, k = 12
    "InceptionV3": 27_161_264,  # torchvision's, with the auxiliary classifier
    "LSTM": (10_000 + 2 * 4 * 128 + 4 + 2) * 128 + 2,
    "LanguageModel": 10_000 * 200 + 2 * 4 * (400 + 1) * 200 + 200 * 10_000 + 10_000,
    "LSGAN": 13_378_434,  # as Theano-MPI's networks for MNIST, counted layer by layer, as the next two
    "WGAN": 13_378_433,
    "WGAN_GP": 13_377_217,
}
MULTIPLY_ADDS = {"VGG16": 15.47e9, "ResNet50": 4.09e9, "DenseNet121": 2.83e9, "NIN": 222.5e6}
MODULES = {name: module for module, _, name in (where.partition(":") for where in ZOO)}


@cache
def card_of(name: str) -> Card:
    return describe(f"{MODULES[name]}:{name}")


def test_the_zoo_is_what_the_tests_know() -> None:
    assert MODULES.keys() == PARAMETERS.keys()
    files = {module.name for module in pkgutil.iter_modules(theanompi.models.__path__)}
    assert files - set(MODULES.values()) == {"gans", "parts", "samples"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_the_parameters_of_its_paper(name: str) -> None:
    card = card_of(name)
    assert card.parameters == PARAMETERS[name]
    assert card.multiply_adds == pytest.approx(MULTIPLY_ADDS.get(name, card.multiply_adds), rel=2e-3)
    assert card.paper and sum(count for *_, count in card.layers) == card.parameters


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_class_builds_what_the_list_says_and_its_defaults_are_a_run_s(name: str) -> None:
    cls = getattr(import_module(f"theanompi.models.{MODULES[name]}"), name)
    run = resolve(RunConfig(data="other.h5"), cls.defaults, model=name)
    assert cls.__doc__ and issubclass(cls, Model) and run.image_size
    size = f"{run.length}" if cls.modality is Tokens else f"{run.image_size} × {run.image_size}"
    assert card_of(name).input.endswith(size) or name == "ResNetCifar"
    packaged = open_dataset(str(resolve(RunConfig(), cls.defaults, model=name).data))
    assert packaged.modality == cls.modality.name
    assert packaged.name == "digits" or f"; {packaged.name} where no data are given" in card_of(name).defaults


def test_what_is_left_without_auxiliary_classifiers_is_as_published() -> None:
    left = {}
    for name, prefixes in {
        "GoogLeNet": ("loss1", "loss2"),
        "GoogLeNetBN": ("aux",),
        "InceptionV3": ("AuxLogits",),
    }.items():
        left[name] = sum(count for layer, _, count in card_of(name).layers if not layer.startswith(prefixes))
    assert left == {"GoogLeNet": 6_998_552, "GoogLeNetBN": 6_624_904, "InceptionV3": 23_834_568}


@pytest.mark.parametrize(
    ("module", "least", "more"),
    [
        ("alex_net", 67, {"width": 2, "hidden": 4}),
        ("cifar10", 24, {"width": 4}),
        ("densenet", 29, {"blocks": (1, 1, 1, 1), "growth": 2}),
        ("densenet", 4, {"blocks": (1, 1, 1), "growth": 2, "small": True}),
        ("inception_v3", 75, {"divisor": 16}),
        ("one_tower", 63, {"width": 2, "hidden": 4}),
        ("vgg", 32, {"width": 2, "hidden": 4}),
    ],
)
def test_pictures_that_are_too_small_are_refused_in_a_line(
    module: str, least: int, more: dict[str, Any]
) -> None:
    build = import_module(f"theanompi.models.{module}").build_model
    assert build((None, 3, least, least), 7, **more)["prob"].output_shape == (None, 7)
    with pytest.raises(
        ConfigError, match=f"at least {least} × {least} pixels, got {least - 1} × {least}; remedy"
    ):
        build((None, 3, least - 1, least), 7, **more)


@pytest.mark.parametrize("module", ["googlenet", "googlenet_bn", "nin", "resnet", "wide_resnet"])
def test_the_others_take_any_size(module: str) -> None:
    more = {
        "googlenet": {"divisor": 16},
        "googlenet_bn": {"divisor": 16},
        "resnet": {"depth": 18, "width": 2},
        "wide_resnet": {"depth": 10, "width": 1},
    }
    build = import_module(f"theanompi.models.{module}").build_model
    for shape in ((None, 1, 8, 8), (2, 3, 33, 65)):
        assert build(shape, 7, **more.get(module, {}))["prob"].output_shape == (shape[0], 7)


@pytest.mark.parametrize(
    ("module", "more", "message"),
    [
        ("resnet", {"depth": 51}, "depth: expected one of 18, 34, 50, 101, 152, got 51"),
        ("wide_resnet", {"depth": 27}, "depth: expected 6·N \\+ 4, such as 16, 22, 28 or 40, got 27"),
        ("vgg", {"configuration": "F"}, "configuration: expected one of A, B, C, D, E, got 'F'"),
    ],
)
def test_an_architecture_that_there_is_not_is_one_line(
    module: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        import_module(f"theanompi.models.{module}").build_model((None, 3, 32, 32), 7, **more)


# The machine.


class Case(NamedTuple):
    """A small network, the side of its pictures, the settings that it learns with, and the updates that it takes."""

    name: str
    size: int
    settings: dict[str, Any]
    updates: int = 60


ADAM = {"optimizer": "adam", "base_lr": 0.003}
CASES = (
    Case("SmallAlexNet", 67, ADAM | {"base_lr": 0.002}, updates=120),
    Case("SmallAlexNetOneTower", 63, ADAM | {"base_lr": 0.001}),
    Case("SmallCifar10", 28, ADAM | {"base_lr": 0.01}),
    Case("SmallDenseNet", 32, ADAM, updates=40),
    Case("SmallDenseNetCifar", 16, ADAM, updates=40),
    Case("SmallGoogLeNet", 32, ADAM, updates=40),
    Case("SmallGoogLeNetBN", 32, ADAM),
    Case("SmallInceptionV3", 75, ADAM),
    Case("SmallNIN", 16, ADAM),
    Case("SmallResNet18", 32, ADAM, updates=40),
    Case("SmallResNet50", 32, ADAM, updates=40),
    Case("SmallVGG", 32, ADAM),
    Case("SmallWideResNet", 16, ADAM),
)
EXAMPLES, CLASSES = 32, 4
BASE = {"batch_size": 16, "base_batch": 32, "schedule": "constant", "scaling": "none", "loader_processes": 1}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, str]]:
    """By their side, 32 pictures of 4 × 4 squares of any colours, with a tint for each class."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    labels, tints = np.arange(EXAMPLES) % CLASSES, rng.integers(0, 128, (CLASSES, 1, 1, 3))
    squares = (rng.integers(0, 128, (EXAMPLES, 4, 4, 3)) + tints[labels]).astype(np.uint8)
    paths = {}
    for size in {case.size for case in CASES}:
        times = -(-size // 4)
        images = squares.repeat(times, 1).repeat(times, 2)[:, :size, :size]
        paths[size] = str(folder / f"{size}.h5")
        write_dataset(
            *(paths[size], (images, labels), (images, labels)),
            name="squares",
            class_names=list("abcd"),
            augmentation="none",
            description="Squares.",
            source="made here",
            licence="CC0",
        )
    yield paths


def validated(model: Model) -> tuple[float, float]:
    """Loss and error of the examples, which are those of training, without dropout."""
    for count in range(model.data.n_batch_val):
        model.val_iter(count, Unrecorded())
    _, loss, weights, error, *_ = model.validation_sums().sum(0)
    return loss / weights, error / weights


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.removeprefix("Small"))
def test_a_network_learns_alone_and_on_two_ranks_and_goes_on_from_a_state(
    case: Case, pictures: dict[int, str], tmp_path: Path
) -> None:
    epochs = case.updates  # of one each
    run = {**BASE, "data": pictures[case.size], "image_size": case.size, "epochs": epochs, **case.settings}
    name = f"tests.zoo.small.{case.name}"
    model, after_4, _ = goes_on(made(name, **run), 2, 4)
    # Two ranks with a batch each make the updates of one with two.
    equal(on_two_ranks(name, 4, tmp_path / "run", **run), after_4)
    # It learns the examples by heart.
    train(model, 4, case.updates)
    loss, error = validated(model)
    model.cleanup()
    assert error <= 0.1, (loss, error)


# What the networks need of the trainer.


def test_the_losses_of_auxiliary_classifiers_are_added_in_training_alone() -> None:
    rng = np.random.default_rng(3)
    values = [rng.normal(size=(5, CLASSES)).astype("float32") for _ in range(3)]
    labels = rng.integers(0, CLASSES, 5)
    batch = {
        "images": device.shared(np.zeros((5, 1), "float32"), "images"),
        "labels": device.shared(labels, "labels"),
    }
    incoming = InputLayer((5, 1))
    heads = {
        f"head{i}": ExpressionLayer(incoming, lambda x, v=v: v + 0 * x, output_shape=(5, CLASSES))
        for i, v in enumerate(device.shared(v) for v in values)
    }
    whole, first = (
        classification_with_sides(heads, batch, training, weight=0.3).loss for training in (True, False)
    )
    ours = pytensor.function([], [whole, first], mode=device.mode())()
    scores, y = [torch.from_numpy(v) for v in values], torch.from_numpy(labels)
    main, *sides = (cross_entropy(s, y, reduction="none") for s in scores)
    np.testing.assert_allclose(ours[0], main + 0.3 * sum(sides), rtol=1e-5)
    np.testing.assert_allclose(ours[1], cross_entropy(scores[0], y, reduction="none"), rtol=1e-5)


def test_biases_move_at_a_rate_of_their_own(pictures: dict[int, str]) -> None:
    class AtOneRate(small.SmallCifar10):
        bias_rate = 1.0

    moved = []
    for cls in (AtOneRate, small.SmallCifar10):
        model = cls({**BASE, "data": pictures[28], "image_size": 28, "devices": ["cpu"], "weight_decay": 0})
        model.compile_iter_fns()
        before = model.state_arrays()
        train(model, 0, 1)
        after = model.state_arrays()
        moved.append(
            {str(p.name): after[f"weights/{p.name}"] - before[f"weights/{p.name}"] for p in model.params}
        )
        assert ("biases: 2 times as much" in model.plan()) == (cls.bias_rate == 2)
        model.cleanup()
    one, two = moved
    for name in one:
        times = 2 if name.endswith(".b") else 1
        np.testing.assert_allclose(two[name], times * one[name], rtol=1e-3, atol=1e-7, err_msg=name)
        assert one[name].any()


# Names.


def test_the_short_name_is_the_same_module() -> None:
    assert import_module("models.resnet50") is import_module("theanompi.models.resnet50")
    assert models.vgg is import_module("theanompi.models.vgg")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("alex_net", "AlexNet"),
        ("googlenet", "GoogLeNet"),
        ("cifar10", "Cifar10_model"),
        ("lasagne_model_zoo.vgg16", "VGG16"),
        ("lasagne_model_zoo.resnet50", "ResNet50"),
        ("lasagne_model_zoo.resnet152", "ResNet152"),
        ("lasagne_model_zoo.lsgan", "LSGAN"),
        ("lasagne_model_zoo.wgan", "WGAN"),
        ("lasagne_model_zoo.lsgan_cifar10", "LSGAN"),
        ("lstm_theanompi", "LSTM"),
        ("keras_model_zoo.wresnet", "Wide_ResNet"),
    ],
)
def test_theano_mpi_s_names_mean_ours(module: str, name: str) -> None:
    check(RunConfig(modelfile=f"theanompi.models.{module}", modelclass=name))
    found = getattr(plugins.import_module("modelfile", f"theanompi.models.{module}"), name)
    assert issubclass(found, Model) and f"{found.__module__}:{name}".removeprefix("theanompi.models.") in {
        *ZOO,
        "resnet:ResNet50",
    }


def test_a_class_is_found_where_scripts_of_theano_mpi_look_for_it() -> None:
    import theanompi.models

    assert theanompi.models.AlexNet.__module__ == "theanompi.models.alex_net"
    with pytest.raises(AttributeError, match="has no attribute 'AlexNett'"):
        theanompi.models.AlexNett  # noqa: B018


def test_each_former_name_leads_to_a_module_that_there_is() -> None:
    for former, now in OF_THEANO_MPI.items():
        assert find_module(former).name == now != former


def test_the_list_fits_a_screen_and_names_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theanompi.models, "describe", lambda where: card_of(where.partition(":")[2]))
    assert cli.main(["models", "NIN", "VGG16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "theanompi.models.nin:NIN" and "theanompi.models.vgg:VGG16" in lines
    assert any(line.split() == ["conv1_1", "64", "×", "224", "×", "224", "1,792"] for line in lines)
    whole = listing().splitlines()
    assert max(map(len, whole)) <= 100 and sum(not line.startswith(" ") for line in whole) == len(ZOO)
    # As the list has it, and as it is given to a run.
    assert listing(["theanompi.models.nin:NIN"]) == listing(["models.nin:NIN"]) == listing(["NIN"])
    for wrong in ("VGG15", "models.vgg:VGG15", "models.nin:VGG19"):
        with pytest.raises(SystemExit):
            cli.main(["models", wrong])
        assert capsys.readouterr().err == (
            f"tmlauncher models: error: model: expected one of the zoo, got {wrong!r}; did you mean 'VGG19'?\n"
        )
