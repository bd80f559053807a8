"""The zoo in plain torch, which its benchmark compares it with, is the same: its outputs and its updates."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytest
import torch

from tests.zoo import small
from theanompi import device
from theanompi.lasagne.layers import InputLayer, Layer, get_all_layers, get_all_params, get_output
from theanompi.models import ZOO

pytestmark = pytest.mark.usefixtures("beside_the_benchmarks")
SIZES = {"AlexNet": 67, "AlexNetOneTower": 63, "Cifar10": 28, "VGG": 32, "DenseNet": 32}


def same_outputs(*outputs: Layer, inputs: dict[str, np.ndarray]) -> None:
    """Assert that random weights give the same in both, but for the softmax, which torch's network leaves out."""
    rng = np.random.default_rng(0)
    for p in get_all_params(outputs):
        if p.name.endswith("_init"):
            continue  # an LSTM's first state
        spread = 0.5 / np.sqrt(max(1, np.prod(p.type.shape[1:]))) if p.ndim > 1 else 0.3
        values = rng.normal(1 if p.name.endswith(("gamma", "inv_std")) else 0, spread, p.type.shape)
        p.set_value((np.abs(values) + 0.1 if "inv_std" in p.name else values).astype("float32"))
    network = import_module("torch_network").Network(*outputs).eval()
    layers = {str(layer.name): layer for layer in get_all_layers(outputs) if isinstance(layer, InputLayer)}
    graphs = get_output(outputs, {layers[name]: value for name, value in inputs.items()}, deterministic=True)
    ours = pytensor.function([], graphs, mode=device.mode())()
    with torch.no_grad():
        theirs = network(*(torch.from_numpy(inputs[name]) for name in network.inputs))
    for output, found, scores in zip(outputs, ours, theirs, strict=True):
        softmax = getattr(getattr(output, "nonlinearity", None), "__name__", "") == "softmax"
        expected = (scores.softmax(1) if softmax else scores).numpy()
        assert found.std() > 1e-3, output
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "name",
    [
        *("AlexNet", "AlexNetOneTower", "Cifar10", "DenseNet", "GoogLeNet", "NIN", "ResNet18", "VGG"),
        "WideResNet",
    ],
)
def test_a_classifier_gives_the_same_scores_in_torch(name: str) -> None:
    cls = getattr(small, f"Small{name}")
    module, size = import_module(cls.__mro__[1].__module__), SIZES.get(name, 16)
    net = module.build_model((2, 1, size, size), 7, **cls.architecture)
    heads = [net[head] for head in getattr(module, "HEADS", ("prob",))]
    images = np.random.default_rng(1).normal(size=(2, 1, size, size)).astype("float32")
    source = next(str(layer.name) for layer in get_all_layers(heads) if isinstance(layer, InputLayer))
    same_outputs(*heads, inputs={source: images})


def test_a_generator_and_its_critic_do() -> None:
    from theanompi.models.gans import build_model

    rng = np.random.default_rng(1)
    net = build_model((3, 1, 12, 12), noise=5, width=2, hidden=8)
    inputs = {"noise": rng.normal(size=(3, 5)), "images": rng.normal(size=(3, 1, 12, 12))}
    same_outputs(net["generator"], net["critic"], inputs={k: v.astype("float32") for k, v in inputs.items()})


def test_the_models_of_text_do() -> None:
    from theanompi.models import language_model, lstm

    rng = np.random.default_rng(1)
    tokens, mask = rng.integers(9, size=(3, 5)), np.ones((3, 5), "float32")
    mask[1, 2:] = 0
    same_outputs(language_model.build_model((3, 5), 9, width=4)["scores"], inputs={"tokens": tokens})
    same_outputs(lstm.build_model((3, 5), 9, width=4)["prob"], inputs={"tokens": tokens, "mask": mask})


# Training alike.


def test_each_network_of_the_zoo_has_its_case_and_a_schedule_that_shrinks_with_the_epochs() -> None:
    child = import_module("zoo_child")
    assert set(child.CASES) == {where.partition(":")[2] for where in ZOO}
    for name, case in child.CASES.items():
        assert child.class_of(name).__name__ != name or case.settings, "small"
    decays = child.settings_of("AlexNet", Path("x.h5"), 0)["decay_epochs"]
    assert decays == pytest.approx([child.CASES["AlexNet"].epochs * share / 7 for share in (2, 4, 6)])


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.h5"
    import_module("zoo").write_digits(path)
    return path


TINY = {"model.width": 8}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ResNetCifar", {"image_size": 16, "weight_decay": 0.01}),
        ("LanguageModel", {"settings": TINY}),
        ("LanguageModel", {"optimizer": "adam", "base_lr": 0.01, "settings": TINY}),
        ("LanguageModel", {"optimizer": "adadelta", "settings": TINY}),
        (
            "LanguageModel",
            {"optimizer": "rmsprop", "base_lr": 0.0003, "settings": {"optimizer.epsilon": 1e-20, **TINY}},
        ),
    ],
    ids=["momentum", "SGD", "adam", "adadelta", "rmsprop"],
)
def test_the_same_batches_make_the_same_weights(name: str, settings: dict[str, Any], digits: Path) -> None:
    child = import_module("zoo_child")
    model = child.class_of(name)({**child.settings_of(name, digits, 0), **settings})
    try:
        fields, n = child.fields_of(model, "train", 4), model.config.batch_size
        batches = ({k: v[i : i + n] for k, v in fields.items()} for i in range(0, 4 * n, n))
        networks = child.networks_of(model)
        step, other = child.training_step(model), child.descent(name, model, networks, batches)
        for _ in range(4):
            step()
            other()
        (ours,), (theirs,) = child.networks_of(model), networks
    finally:
        model.cleanup()
    for key, value in ours.named_parameters():
        torch.testing.assert_close(
            theirs.get_parameter(key), value, rtol=1e-3, atol=2e-4, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_the_page_has_a_row_for_each_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    zoo = import_module("zoo")
    shared = {"updates": 440, "epochs": 10}
    runs = [{"ours": 1.0, "torch": 2.0, **shared}, {"ours": 3.0, "torch": 4.0, **shared}]
    estimates = {"distance": [1.0] * 40, "distance_by_torch": [2.0] * 40, "data": 0.0}
    rate, ratio = {"images_per_s": {"median": 1234.5}}, {"median": 1.25, "iqr": 0.5}
    slow = {**ratio, "median": 0.99}
    contenders = {"ours": rate, "torch": {**rate, "ratio": ratio}, "memory": {**rate, "ratio": ratio}}
    result = {
        "train": {"networks": {"AlexNet": runs, "WGAN": [run | estimates for run in runs]}},
        "speed": {"networks": {"LSTM": contenders, "NIN": contenders | {"torch": {**rate, "ratio": slow}}}},
        "ops": {"networks": dict.fromkeys(("LSTM", "NIN"), {"step": 4.0, "ops": {"Dot": 2.0, "Sum": 1.0}})},
    }
    names = ("errors", "energies", "distances", "speeds", "ops")
    page = tmp_path / "zoo.md"
    page.write_text(
        "# The zoo\n" + "".join(f"<!-- {n} -->\nold\n<!-- end of {n} -->\n" for n in names), "utf-8"
    )
    monkeypatch.setattr(zoo, "PAGE", page)
    zoo.write_page(result)
    lines = page.read_text("utf-8").splitlines()
    assert lines[0] == "# The zoo" and "old" not in lines
    assert any(
        line.startswith("| AlexNet | width 8, hidden 256 | 67 pixels | 10 × 44 of 32 |") for line in lines
    )
    assert any(line.endswith("| 2.00 ± 1.41 | 3.00 ± 1.41 |") for line in lines)
    assert "| LSTM | 1,234 | 1,234 | 1,234 | 1.25 ± 0.25 | 1.25 ± 0.25 |" in lines
    # Of what is slower than torch also where the time goes.
    assert "| NIN | 4.0 | Dot 50%, Sum 25% | 25% |" in lines
    assert not any(line.startswith("| LSTM | 4.0") for line in lines)
