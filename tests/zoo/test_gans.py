"""The generative adversarial networks of the zoo, small, on few and on made-up pictures."""

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from PIL import Image

import theanompi.models
from tests.zoo.runs import Trained, goes_on, made, on_two_ranks, same, train
from theanompi import device
from theanompi.data import write_dataset
from theanompi.device.ops import uniform
from theanompi.models.wgan import WGAN_GP

MODELS = ("lsgan.LSGAN", "wgan.WGAN", "wgan.WGAN_GP")
SIZE, PICTURES, PART, ITERATIONS = 8, 32, 22, 30
SMALL = {"model.width": 2, "model.hidden": 16, "model.noise": 3}
SETTINGS: dict[str, Any] = {"image_size": SIZE, "batch_size": 16, "settings": SMALL}


def pictures(n: int) -> np.ndarray:
    """Bright squares at one of two places, not all of the same brightness."""
    rng = np.random.default_rng(n)
    made = np.zeros((n, SIZE, SIZE, 1), np.uint8)
    for i in range(n):
        at = 4 * (i % 2)
        made[i, at : at + 4, at : at + 4] = rng.integers(180, 256)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("squares") / "squares.h5"
    splits = ((pictures(n), np.arange(n) % 2) for n in (PICTURES, 16))
    words = dict.fromkeys(("name", "description", "source", "licence"), "squares")
    write_dataset(path, *splits, class_names=["first", "second"], augmentation="none", **words)
    return str(path)


@pytest.fixture(scope="module")
def trained(data: str) -> Iterator[Callable[[str], Trained]]:
    """Each model trained once, whole and from the middle of the five updates of a critic."""
    found: dict[str, Trained] = {}

    def get(model: str) -> Trained:
        if model not in found:
            found[model] = goes_on(made(f"theanompi.models.{model}", data=data, **SETTINGS), PART, ITERATIONS)
        return found[model]

    yield get
    for one in found.values():
        one.model.cleanup()


def sampled(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of ``python -m theanompi.models.samples WORDS``."""
    monkeypatch.setattr("sys.argv", ["samples", *words])
    # By its path: as a module that pytest is told to look at it has a loader of pytest's, which gives no code to runpy.
    path = Path(theanompi.models.__file__).with_name("samples.py")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    return int(ended.value.code or 0)


@pytest.mark.parametrize("model", MODELS)
def test_both_networks_move_and_it_goes_on_from_a_state(
    model: str, trained: Callable[[str], Trained]
) -> None:
    _, arrays, curves = trained(model)
    assert len(curves["critic"]) == ITERATIONS
    assert len(curves["generator"]) == (ITERATIONS if model == "lsgan.LSGAN" else ITERATIONS // 5)
    assert {name.split(".")[0].rstrip("1234_bn") for name in arrays if name.startswith("weights/")} == {
        "weights/generator",
        "weights/critic",
    }


@pytest.mark.parametrize("model", MODELS)
def test_two_ranks_make_what_one_makes_of_which_samples_are_drawn(
    model: str,
    trained: Callable[[str], Trained],
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    same(
        on_two_ranks(f"theanompi.models.{model}", ITERATIONS, out, data=data, **SETTINGS),
        trained(model).arrays,
        1e-3,
    )
    if model == "lsgan.LSGAN":
        assert sampled(monkeypatch, str(out), "-o", f"{tmp_path}/samples.png", "--count", "9") == 0
        with Image.open(tmp_path / "samples.png") as image:
            assert (image.size, image.mode) == ((3 * (SIZE + 1) - 1,) * 2, "L")
            assert np.asarray(image)[SIZE].max() == 0 < np.asarray(image).max()


def test_the_critics_weights_are_clipped_and_nothing_else(trained: Callable[[str], Trained]) -> None:
    arrays = trained("wgan.WGAN").arrays
    for name, value in arrays.items():
        group, _, parameter = name.partition("/")
        if group == "weights" and parameter.startswith("critic") and parameter.endswith(".W"):
            assert np.abs(value).max() == np.float32(0.01), name
    assert np.abs(arrays["weights/generator1.W"]).max() > 0.1
    assert np.abs(arrays["weights/critic1_bn.gamma"]).min() > 0.9


def torch_critic(arrays: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The critic without normalisation; Lasagne's convolutions turn their filters over, and pad alike on both sides."""
    x = images
    for i in (1, 2):
        filters = arrays[f"critic{i}.W"].flip(2, 3)
        x = torch.nn.functional.conv2d(x, filters, arrays[f"critic{i}.b"], stride=2, padding=2)
        x = torch.nn.functional.leaky_relu(x, 0.2)
    x = torch.nn.functional.leaky_relu(x.flatten(1) @ arrays["critic3.W"] + arrays["critic3.b"], 0.2)
    return (x @ arrays["critic4.W"])[:, 0]


def test_the_gradient_of_the_penalty_is_that_of_torch(data: str) -> None:
    model = WGAN_GP({"data": data, "verbose": False, **SETTINGS | {"batch_size": 4}})
    rng = np.random.default_rng(0)
    real, made = (rng.random((4, 1, SIZE, SIZE)).astype("float32") for _ in range(2))
    share = pt.tensor("share", dtype="float32", shape=(4, 1, 1, 1))
    keys = pt.as_tensor_variable(np.arange(4))
    try:
        params = model.parameters("critic")
        shares = uniform(keys, (1, 1, 1), salt=2)
        penalty = model.penalty(pt.as_tensor_variable(real), pt.as_tensor_variable(made), keys)
        graphs = [shares, penalty, *pytensor.grad(pt.sum(penalty), params, disconnected_inputs="ignore")]
        drawn, found, *gradients = pytensor.function([], graphs, mode=device.mode())()
        arrays = {p.name: torch.from_numpy(p.get_value()).requires_grad_() for p in params}
    finally:
        model.cleanup()
    assert share.type.shape == np.asarray(drawn).shape
    part = torch.from_numpy(np.array(drawn))
    between = (part * torch.from_numpy(real) + (1 - part) * torch.from_numpy(made)).requires_grad_()
    (slope,) = torch.autograd.grad(torch_critic(arrays, between).sum(), between, create_graph=True)
    expected = 10 * (slope.flatten(1).norm(dim=1) - 1) ** 2
    expected.sum().backward()
    np.testing.assert_allclose(np.asarray(found), expected.detach().numpy(), rtol=1e-4)
    for parameter, gradient in zip(params, gradients, strict=True):
        grad = arrays[parameter.name].grad
        wanted = np.zeros(np.shape(gradient)) if grad is None else grad.numpy()
        np.testing.assert_allclose(
            np.asarray(gradient), wanted, atol=1e-4 * max(1e-3, np.abs(wanted).max()), err_msg=parameter.name
        )


def test_the_critics_estimate_falls_as_the_generator_learns(data: str) -> None:
    settings = {
        **SETTINGS,
        "accumulation": 1,
        "base_lr": 0.01,
        "settings": {**SMALL, "model.width": 4, "optimizer.beta1": 0.0, "optimizer.beta2": 0.9},
    }
    model = made("theanompi.models.wgan.WGAN_GP", data=data, **settings)
    try:
        distance = np.convolve(train(model, 0, 300)["distance"], np.ones(20) / 20, "valid")
        keys = np.arange(32)
        graph = model.made(pt.as_tensor_variable(keys), deterministic=True)  # type: ignore[attr-defined]
        drawn = 255 * np.asarray(pytensor.function([], graph, mode=device.mode())())[:, 0]
    finally:
        model.cleanup()
    assert distance[-1] < 0.5 * distance.max()
    # The generator has found the two dark corners, which its first pictures are as bright as all else in.
    assert (
        drawn[:, :4, 4:].mean() + drawn[:, 4:, :4].mean()
        < 60
        < drawn[:, :4, :4].mean() + drawn[:, 4:, 4:].mean()
    )


def test_what_is_no_run_of_a_gan_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sampled(monkeypatch, f"{tmp_path}/nothing", "-o", f"{tmp_path}/samples.png") == 1
    assert not (tmp_path / "samples.png").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "config.json" in error


def test_pictures_that_do_not_divide_by_four_are_refused(data: str) -> None:
    with pytest.raises(
        ValueError, match="image_size: expected a multiple of 4 for this generator, got 10 × 10"
    ):
        WGAN_GP({"data": data, "verbose": False, **SETTINGS | {"image_size": 10}})
