"""The zoo in plain torch, which its benchmark compares it with, is the same: outputs of the same weights are equal."""

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

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SIZES = {"AlexNet": 67, "AlexNetOneTower": 63, "Cifar10": 28, "VGG": 32, "DenseNet": 32}


@pytest.fixture(scope="module", autouse=True)
def beside_the_benchmarks() -> Any:
    # The benchmarks are scripts, which find each other because they lie in one folder.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


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
