"""The zoo's residual networks against independent implementations in plain torch."""

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from reference_resnet import ReferenceResNet50, ReferenceResNetCifar

from theanompi import Model, device
from theanompi.lasagne.layers import get_all_params, get_output
from theanompi.lasagne.random import set_rng
from theanompi.models import resnet_cifar
from theanompi.models.resnet50 import ResNet50, build_model
from theanompi.models.resnet_cifar import ResNetCifar
from theanompi.training.objective import classification

CLASSES = 10
N = 8
SIZE = 64


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.fixture(scope="module", params=["resnet50", "resnet_cifar"])
def both(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Scores, loss and gradients of the same weights and images, ours and torch's.

    γ is drawn at random everywhere: where it is zero the gradients of its block would be zero too. β is around
    3, so that few values lie near the kink of a rectifier, where rounding alone turns a gradient on or off:
    with β around 0 two float32 runs of plain torch in different layouts differ by percents.
    """
    rng = np.random.default_rng(7)
    size: int
    if request.param == "resnet50":
        size, build, top, count, reference_of = SIZE, build_model, "fc1000", 161, ReferenceResNet50
    else:
        size, build, top, count, reference_of = 32, resnet_cifar.build_model, "fc", 38, ReferenceResNetCifar
    net = build((N, 3, size, size), CLASSES)
    params = get_all_params(net["prob"], trainable=True)
    for p in params:
        if p.name.endswith((".gamma", ".beta")):
            gamma = p.name.endswith(".gamma")
            p.set_value(rng.uniform(0.5, 1.5, p.type.shape) if gamma else rng.normal(3, 0.1, p.type.shape))
    images = rng.normal(size=(N, 3, size, size)).astype("float32")
    labels = rng.integers(0, CLASSES, N)

    x, y = device.shared(images), device.shared(labels)
    scores = get_output(net[top], x, batch_norm_statistics={})
    loss = pt.mean(classification(scores, y).loss)
    outputs = [scores, loss, *pytensor.grad(loss, params)]
    ours = pytensor.function([], outputs, mode=device.mode())()

    reference = reference_of(3, CLASSES)
    reference.load_named({p.name: p.get_value() for p in params})
    torch_scores = reference(torch.from_numpy(images))
    torch_loss = torch.nn.functional.cross_entropy(torch_scores, torch.from_numpy(labels))
    torch_loss.backward()
    return {
        "scores": (ours[0], torch_scores.detach().numpy()),
        "loss": (ours[1], torch_loss.item()),
        "gradients": dict(zip([p.name for p in params], ours[2:], strict=True)),
        "reference": reference.named_gradients(),
        "count": count,
    }


def test_forward_and_loss(both: dict[str, Any]) -> None:
    assert relative(*both["scores"]) < 1e-4
    assert both["loss"][0] == pytest.approx(both["loss"][1], rel=1e-4)


def test_all_gradients(both: dict[str, Any]) -> None:
    ours, reference = both["gradients"], both["reference"]
    assert ours.keys() == reference.keys() and len(ours) == both["count"]
    # Batch normalisation cancels the gradients of some β to nothing: there rounding is measured against all gradients.
    floor = 1e-3 * np.linalg.norm([np.linalg.norm(value) for value in reference.values()])
    errors = {
        name: np.linalg.norm(ours[name] - value) / max(np.linalg.norm(value), floor)
        for name, value in reference.items()
    }
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < 1e-4, f"{worst}: {errors[worst]:.2e}"
    everything = [np.concatenate([g[name].ravel() for name in reference]) for g in (ours, reference)]
    assert relative(*everything) < 1e-4


def test_names_and_sizes_are_the_zoos() -> None:
    net = build_model()
    for name in (
        "conv1",
        "bn_conv1",
        "pool1",
        "res2a_branch1",
        "bn2a_branch2c",
        "res3d_relu",
        "res5c",
        "fc1000",
        "prob",
    ):
        assert net[name].name == name
    assert net["res3a_branch2a"].stride == (1, 1) and net["res3a_branch2b"].stride == (2, 2)
    assert net["res5c"].output_shape == (None, 2048, 7, 7)
    assert net["prob"].output_shape == (None, 1000)


def test_initial_values_are_the_papers() -> None:
    set_rng(np.random.default_rng(0))
    net = build_model()
    for name, layer in net.items():
        if name.startswith("bn"):
            assert (layer.gamma.get_value() == (0 if name.endswith("2c") else 1)).all(), name
            assert (layer.beta.get_value() == 0).all()
    dense = net["fc1000"].W.get_value()
    assert dense.std() == pytest.approx(0.01, rel=0.01) and abs(dense.mean()) < 1e-4
    assert (net["fc1000"].b.get_value() == 0).all()
    # He et al. 2015 (arXiv 1502.01852), equation 10: variance 2 / fan-in.
    filters = net["res4b_branch2b"].W.get_value()
    assert filters.std() == pytest.approx(np.sqrt(2 / (256 * 9)), rel=0.01)
    ones = build_model(zero_gamma=False)
    assert (ones["bn2a_branch2c"].gamma.get_value() == 1).all()


@pytest.mark.parametrize("zero_gamma", [True, False])
@pytest.mark.parametrize(
    ("network", "end", "blocks"), [(ResNet50, "branch2c.gamma", 16), (ResNetCifar, "branch2b.gamma", 4)]
)
def test_the_run_says_where_gamma_starts(
    network: type[Model], end: str, blocks: int, zero_gamma: bool
) -> None:
    model = network({"image_size": 32, "devices": ["cpu"], "zero_gamma": zero_gamma})
    gammas = {str(p.name): p.get_value() for p in model.params if str(p.name).endswith(".gamma")}
    last = [gamma for name, gamma in gammas.items() if name.endswith(end)]
    assert len(last) == blocks and all((gamma == (0 if zero_gamma else 1)).all() for gamma in last)
    assert all((gamma == 1).all() for name, gamma in gammas.items() if not name.endswith(end))
    model.cleanup()


def test_only_filters_and_the_dense_matrix_decay() -> None:
    model = ResNet50({"image_size": 32, "devices": ["cpu"]})
    assert len(model.state.decayed) == 54 and all(p.name.endswith(".W") for p in model.state.decayed)
    assert {p.name.rsplit(".")[-1] for p in model.state.undecayed} == {"gamma", "beta", "b"}
    # Backward reaches the last layer first: its gradient is ready first.
    assert model.state.decayed[0].name == "fc1000.W" and model.state.decayed[-1].name == "conv1.W"
    model.cleanup()


def test_the_small_network_is_the_papers() -> None:
    net = resnet_cifar.build_model((None, 1, 32, 32), 62)
    assert net["conv1"].output_shape == (None, 16, 16, 16)
    assert [net[f"res{block}"].output_shape[1:] for block in range(2, 6)] == [
        (16, 16, 16),
        (32, 8, 8),
        (64, 4, 4),
        (128, 2, 2),
    ]
    assert "res2_branch1" not in net and net["res3_branch1"].stride == (2, 2)
    assert net["prob"].output_shape == (None, 62)
    wider = resnet_cifar.build_model(width=32)
    assert wider["res5"].output_shape == (None, 256, 2, 2)
