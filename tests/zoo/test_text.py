"""The models of text, small, on a few windows and reviews; their scores and gradients are those of torch's LSTM."""

from pathlib import Path
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.zoo.runs import goes_on, made, on_two_ranks, same, train
from theanompi import device
from theanompi.data import open_dataset, write_stream, write_texts
from theanompi.lasagne.layers import output_keywords
from theanompi.models.language_model import LanguageModel
from theanompi.models.lstm import LSTM

WIDTH, PART, ITERATIONS = 8, 22, 100
MOMENTUM = {
    "optimizer": "momentum",
    "momentum": 0.9,
    "nesterov": True,
    "schedule": "constant",
    "base_lr": 2.0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "lstm.LSTM": {
        **MOMENTUM,
        "batch_size": 16,
        "length": 24,
        "settings": {"model.width": WIDTH, "model.dropout": 0.2},
    },
    "language_model.LanguageModel": {
        **MOMENTUM,
        "batch_size": 4,
        "length": 12,
        "clip_norm": 0.0,
        "settings": {"model.width": 2 * WIDTH, "model.dropout": 0.1, "model.layers": 1},
    },
}
LOSSES = {"lstm.LSTM": "loss", "language_model.LanguageModel": "nats"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first of the packaged reviews and sentences."""
    folder = tmp_path_factory.mktemp("text")
    with open_dataset("reviews") as reviews:
        parts = []
        for split, n in (("train", 32), ("val", 8)):
            offsets = reviews.offsets(split)  # type: ignore[union-attr]
            ids = [reviews.ids(split, offsets[i], offsets[i + 1]) for i in range(n)]  # type: ignore[union-attr]
            parts.append((ids, reviews.labels(split)[:n]))  # type: ignore[union-attr]
        vocabulary = reviews.vocabulary  # type: ignore[union-attr]
        named = {"name": "some", "tokens": "words", "vocabulary": vocabulary}
        write_texts(folder / "reviews.h5", *parts, class_names=["neg", "pos"], **named)
    with open_dataset("sentences") as text:
        ids = [text.ids("train", 0, 12 * 8 + 1), text.ids("val", 0, 40)]  # type: ignore[union-attr]
        named = {"name": "some", "tokens": "characters", "vocabulary": text.vocabulary}  # type: ignore[union-attr]
        write_stream(folder / "sentences.h5", *ids, **named)
    return {"lstm.LSTM": folder / "reviews.h5", "language_model.LanguageModel": folder / "sentences.h5"}


@pytest.mark.parametrize("model", SETTINGS)
def test_it_learns_a_few_by_heart_goes_on_from_a_state_and_is_the_same_on_two_ranks(
    model: str, data: dict[str, Path], tmp_path: Path
) -> None:
    name, run = f"theanompi.models.{model}", {"data": str(data[model]), "epochs": 200, **SETTINGS[model]}
    one, after, curves = goes_on(made(name, **run), 10, PART)
    same(on_two_ranks(name, PART, tmp_path / "run", **run), after, 1e-4)
    losses = curves[LOSSES[model]] + train(one, PART, ITERATIONS)[LOSSES[model]]
    one.cleanup()
    assert len(losses) == ITERATIONS
    # Of two classes, and of 27 characters.
    assert losses[0] == pytest.approx({"loss": np.log(2), "nats": np.log(27)}[LOSSES[model]], rel=0.05)
    assert np.mean(losses[-10:]) < 0.4 * losses[0]


def as_torch(model: Any, name: str, width: int) -> torch.nn.LSTM:
    """An LSTM of torch with the weights of a layer; both of its biases are added, so that one is 0."""
    arrays = {p.name: torch.from_numpy(p.get_value()) for p in model.params}
    gates = ("ingate", "forgetgate", "cell", "outgate")
    made = torch.nn.LSTM(width, width, batch_first=True)
    with torch.no_grad():
        made.weight_ih_l0.copy_(torch.cat([arrays[f"{name}.W_in_to_{gate}"] for gate in gates], 1).T)
        made.weight_hh_l0.copy_(torch.cat([arrays[f"{name}.W_hid_to_{gate}"] for gate in gates], 1).T)
        made.bias_ih_l0.copy_(torch.cat([arrays[f"{name}.b_{gate}"] for gate in gates]))
        made.bias_hh_l0.zero_()
    return made


def computed(model: Any, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The losses of a batch, and the gradients of their sum."""
    variables = {name: pt.as_tensor_variable(value) for name, value in batch.items()}
    with output_keywords(deterministic=True):
        objective = model.objectives(variables, False)
    loss = objective.loss if objective.weight is None else objective.loss * objective.weight
    graphs = [loss, *pytensor.grad(pt.sum(loss), model.params)]
    first, *gradients = pytensor.function([], graphs, mode=device.mode())()
    names = [p.name for p in model.params]
    return np.asarray(first), {n: np.asarray(g) for n, g in zip(names, gradients, strict=True)}


def made_by_torch(gradients: dict[str, np.ndarray], name: str, layer: torch.nn.LSTM) -> None:
    """Assert that a layer's gradients are torch's."""
    gates = ("ingate", "forgetgate", "cell", "outgate")
    for found, expected in (
        ([gradients[f"{name}.W_in_to_{gate}"].T for gate in gates], layer.weight_ih_l0.grad),
        ([gradients[f"{name}.W_hid_to_{gate}"].T for gate in gates], layer.weight_hh_l0.grad),
        ([gradients[f"{name}.b_{gate}"] for gate in gates], layer.bias_ih_l0.grad),
    ):
        close(np.concatenate(found), expected)


def close(found: np.ndarray, expected: Any) -> None:
    expected = expected.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_the_language_model_is_that_of_torch(data: dict[str, Path]) -> None:
    name = "language_model.LanguageModel"
    two = {"settings": {"model.width": WIDTH, "model.layers": 2}}
    model = LanguageModel({"data": str(data[name]), "verbose": False, **SETTINGS[name] | two})
    try:
        rng = np.random.default_rng(0)
        tokens = rng.integers(27, size=(4, 13))
        mask = np.ones((4, 12), "float32")
        mask[3, 7:] = 0
        losses, gradients = computed(
            model, {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "mask": mask}
        )
        arrays = {p.name: torch.from_numpy(p.get_value()).requires_grad_() for p in model.params}
        layers = [as_torch(model, f"lstm{i}", WIDTH) for i in (1, 2)]
    finally:
        model.cleanup()
    states = arrays["embedding.W"][torch.from_numpy(tokens[:, :-1])]
    for layer in layers:
        states = layer(states)[0]
    scores = states @ arrays["scores.W"] + arrays["scores.b"]
    expected = cross_entropy(
        scores.reshape(-1, 27), torch.from_numpy(tokens[:, 1:]).ravel(), reduction="none"
    )
    expected = expected * torch.from_numpy(mask).ravel()
    expected.sum().backward()
    close(losses, expected)
    for i, layer in enumerate(layers, 1):
        made_by_torch(gradients, f"lstm{i}", layer)
    for key in ("embedding.W", "scores.W", "scores.b"):
        close(gradients[key], arrays[key].grad)


def test_the_classifier_is_that_of_torch(data: dict[str, Path]) -> None:
    name = "lstm.LSTM"
    model = LSTM(
        {"data": str(data[name]), "verbose": False, **SETTINGS[name] | {"batch_size": 3, "length": 12}}
    )
    try:
        rng = np.random.default_rng(0)
        lengths = np.array([12, 1, 7])
        tokens = rng.integers(48, size=(3, 12))
        mask = (np.arange(12) < lengths[:, None]).astype("float32")
        labels = np.array([1, 0, 1])
        losses, gradients = computed(model, {"tokens": tokens, "mask": mask, "labels": labels})
        arrays = {p.name: torch.from_numpy(p.get_value()).requires_grad_() for p in model.params}
        layer = as_torch(model, "lstm", WIDTH)
    finally:
        model.cleanup()
    inputs = arrays["embedding.W"][torch.from_numpy(tokens)]
    packed = pack_padded_sequence(inputs, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False)
    states = pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=12)[0]
    mean = states.sum(1) / torch.from_numpy(lengths)[:, None]
    scores = mean @ arrays["prob.W"] + arrays["prob.b"]
    expected = cross_entropy(scores, torch.from_numpy(labels), reduction="none")
    expected.sum().backward()
    close(losses, expected)
    made_by_torch(gradients, "lstm", layer)
    for key in ("embedding.W", "prob.W", "prob.b"):
        close(gradients[key], arrays[key].grad)
