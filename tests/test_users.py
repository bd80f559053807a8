"""Five kinds of models as a user would write them (tests/users), each one file, against the same in plain torch.

Each is trained under mpirun on 1, 2 and 4 ranks with as many accumulation steps as make the same minibatches. The
reference computes in float64, on whole minibatches, with update rules written out.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keyed import keyed_normal
from torch.nn.functional import cross_entropy

from tests.mpi import run_warm
from theanompi.data.reading.random import permutation, sample_keys
from theanompi.record import checkpoint
from theanompi.record.log import read_log

SHARDS = 4
Tensors = dict[str, torch.Tensor]


@dataclass
class Reference:
    """A model in plain torch: the loss, weights and metrics of each objective, and its update.

    Attributes
    ----------
    losses : callable
        From the parameters, a batch and the name of an objective to its losses and their weights, each (items,).
    updates : mapping
        By objective: the beginning of its parameters' names, how often, what the rate is multiplied by, and its update.
    """

    losses: Callable[[Tensors, Tensors, str], tuple[torch.Tensor, torch.Tensor]]
    updates: Mapping[str, tuple[str, int, float, Callable[..., None]]]
    base_lr: float
    batch_size: int
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    schedule: str = "steps"
    clip: float = math.inf
    weight_decay: float = 0.0

    def rate(self, t: int, iterations: int) -> float:
        """η_t: linear scaling, gradual warmup over 5/90 of the run, decay at 30/90, 60/90 and 80/90, or by a cosine."""
        warmup, target = round(iterations * 5 / 90), self.base_lr * SHARDS
        if t < warmup:
            return self.base_lr + (target - self.base_lr) * t / warmup
        if self.schedule == "cosine":
            return target * (1 + math.cos(math.pi * (t - warmup) / (iterations - warmup))) / 2
        return target * 0.1 ** sum(t >= round(iterations * share / 90) for share in (30, 60, 80))

    def train(self, params: Tensors, epochs: int) -> Tensors:
        """The parameters after so many epochs."""
        n = len(next(iter(self.fields.values())))
        batches = list(minibatches(n, self.batch_size, epochs))
        kept: dict[str, Any] = {}
        for t, (epoch, ids) in enumerate(batches):
            batch = {name: torch.from_numpy(values[ids]) for name, values in self.fields.items()}
            batch["keys"] = torch.from_numpy(sample_keys(0, epoch, ids))
            for name, (prefix, every, factor, update) in self.updates.items():
                if (t + 1) % every:
                    continue
                own = [k for k in params if k.startswith(prefix)]
                leaves = {k: v.clone().requires_grad_(k in own) for k, v in params.items()}
                loss, weight = self.losses(leaves, batch, name)
                mean = (weight * loss).sum() / weight.sum()
                gradients = dict(zip(own, torch.autograd.grad(mean, [leaves[k] for k in own]), strict=True))
                norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
                gradients = {k: g * min(1.0, self.clip / norm) for k, g in gradients.items()}
                for k in own:
                    decay = self.weight_decay if params[k].ndim > 1 else 0.0
                    eta = factor * self.rate(t, len(batches))
                    update(params, k, gradients[k], eta, decay, kept.setdefault(k, {}))
        return params


def minibatches(n: int, batch_size: int, epochs: int) -> Iterator[tuple[int, np.ndarray]]:
    """Epoch and items of each minibatch: four batches, the last of an epoch maybe fewer."""
    for epoch in range(epochs):
        units = permutation(0, epoch, n)[: n // batch_size * batch_size].reshape(-1, batch_size)
        for first in range(0, len(units), SHARDS):
            yield epoch, units[first : first + SHARDS].ravel()


def nesterov(
    params: Tensors, k: str, g: torch.Tensor, eta: float, decay: float, kept: dict[str, Any]
) -> None:
    """Goyal et al. 2017, equation 10: v ← m·(η/η′)·v + η·g, w ← w − (m·v + η·g)."""
    step = eta * (g + decay * params[k])
    kept["v"] = 0.9 * eta / kept.get("eta", eta) * kept.get("v", torch.zeros_like(g)) + step
    kept["eta"] = eta
    params[k] = params[k] - (0.9 * kept["v"] + step)


def adam(params: Tensors, k: str, g: torch.Tensor, eta: float, decay: float, kept: dict[str, Any]) -> None:
    """Kingma and Ba 2015, algorithm 1, with the decay in the gradient."""
    g = g + decay * params[k]
    t = kept["t"] = kept.get("t", 0) + 1
    kept["m"] = 0.9 * kept.get("m", 0) + 0.1 * g
    kept["v"] = 0.999 * kept.get("v", 0) + 0.001 * g**2
    step = kept["m"] / (1 - 0.9**t) / ((kept["v"] / (1 - 0.999**t)).sqrt() + 1e-8)
    params[k] = params[k] - eta * step


def rmsprop(params: Tensors, k: str, g: torch.Tensor, eta: float, decay: float, kept: dict[str, Any]) -> None:
    """Tieleman and Hinton 2012 as Lasagne has it: the small number is under the root."""
    g = g + decay * params[k]
    kept["a"] = 0.9 * kept.get("a", 0) + 0.1 * g**2
    params[k] = params[k] - eta * g / (kept["a"] + 1e-6).sqrt()


def layer(w: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    """A dense layer."""
    return x @ w[f"{name}.W"] + w[f"{name}.b"]


def ones(loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses that count 1 each."""
    return loss, torch.ones_like(loss)


def masked_regression(w: Tensors, batch: Tensors, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    made = layer(w, "targets", torch.tanh(layer(w, "hidden", batch["x"])))
    return ((made - batch["y"]) ** 2).ravel(), batch["known"].ravel()


def two_heads(w: Tensors, batch: Tensors, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    lower = torch.tanh(layer(w, "lower", batch["x"]))
    main = layer(w, "main", torch.tanh(layer(w, "upper", lower)))
    aux = layer(w, "aux", lower)
    losses = (cross_entropy(scores, batch["labels"], reduction="none") for scores in (main, aux))
    return ones(sum(c * loss for c, loss in zip((1, 0.3), losses, strict=True)))  # type: ignore[arg-type]


def language_model(w: Tensors, batch: Tensors, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    scores = layer(w, "next", torch.tanh(layer(w, "hidden", w["embedding.W"][batch["tokens"].ravel()])))
    return cross_entropy(scores, batch["targets"].ravel(), reduction="none"), batch["mask"].ravel()


def wgan(w: Tensors, batch: Tensors, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.from_numpy(keyed_normal(batch["keys"].numpy(), (4,), 1))
    made = layer(w, "generator2", torch.tanh(layer(w, "generator1", noise)))
    real, fake = (layer(w, "critic2", torch.tanh(layer(w, "critic1", x)))[:, 0] for x in (batch["x"], made))
    return ones(-fake if name == "generator" else fake - real + 0.1 * (fake**2 + real**2))


def classifier(w: Tensors, batch: Tensors, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    scores = layer(w, "scores", torch.tanh(layer(w, "hidden", batch["x"])))
    return ones(cross_entropy(scores, batch["labels"], reduction="none"))


ONE = {"loss": ("", 1, 1.0, nesterov)}
REFERENCES = {
    "masked_regression.MaskedRegression": Reference(masked_regression, ONE, 0.05, 8, weight_decay=0.01),
    "two_heads.TwoHeads": Reference(two_heads, ONE, 0.1, 8, weight_decay=1e-4),
    "language_model.Bigrams": Reference(language_model, {"nats": ONE["loss"]}, 0.2, 4, weight_decay=1e-4),
    "gan.WGAN": Reference(
        wgan, {"critic": ("critic", 1, 1.0, rmsprop), "generator": ("generator", 3, 0.5, adam)}, 0.02, 8
    ),
    "adam_cosine.Classifier": Reference(
        classifier, {"loss": ("", 1, 1.0, adam)}, 0.01, 8, schedule="cosine", clip=0.5, weight_decay=1e-4
    ),
}
N_TRAIN, N_VAL = 150, 21


def vectors(n: int) -> dict[str, np.ndarray]:
    """Six features, three targets of which some are not known, and labels."""
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 6)).astype("float32")
    y = np.tanh(x @ rng.normal(size=(6, 3))).astype("float32")
    known = (rng.random((n, 3)) < 0.7).astype("float32")
    return {"x": x, "y": y, "known": known, "labels": rng.integers(4, size=n)}


TEXT = "the quick brown fox jumps over the lazy dog; pack my box with five dozen liquor jugs. " * 12


def windows(text: str, length: int) -> dict[str, np.ndarray]:
    """Windows of bytes, the next ones, and which of those there are."""
    data = np.frombuffer(text.encode(), np.uint8).astype("int64")
    n = -(-(len(data) - 1) // length)
    padded = np.zeros(n * length + 1, "int64")
    padded[: len(data)] = data
    mask = np.arange(n * length) < len(data) - 1
    shape = (n, length)
    return {
        "tokens": padded[:-1].reshape(shape),
        "targets": np.where(mask, padded[1:], 0).reshape(shape),
        "mask": mask.astype("float64").reshape(shape),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A packed file of vectors, and one of text."""
    from theanompi.data.pack.command import main

    folder = tmp_path_factory.mktemp("data")
    fields = {f"train_{k}": v for k, v in vectors(N_TRAIN).items()}
    np.savez(folder / "vectors.npz", **fields, **{f"val_{k}": v for k, v in vectors(N_VAL).items()})
    (folder / "train.txt").write_text(TEXT, "utf-8")
    (folder / "val.txt").write_text(TEXT[:100], "utf-8")
    assert main(["arrays", f"{folder}/vectors.npz", "-o", f"{folder}/vectors.h5"]) == 0
    text = [f"{folder}/train.txt", "--val", f"{folder}/val.txt", "-o", f"{folder}/text.h5"]
    assert main(["text", *text]) == 0
    return {"vectors": folder / "vectors.h5", "text": folder / "text.h5"}


def settings_of(name: str, path: Path, out: Path, ranks: int) -> dict[str, Any]:
    module, _, cls = name.partition(".")
    return {
        "modelfile": f"users.{module}",
        "modelclass": cls,
        "data": str(path),
        "out": str(out),
        "accumulation": SHARDS // ranks,
        "devices": ["cpu"],
        "log_interval": 1,
        "verbose": False,
    }


def trained(name: str, path: Path, out: Path, ranks: int, **more: Any) -> dict[str, np.ndarray]:
    """Train under mpirun; gives all arrays of the checkpoint."""
    settings = settings_of(name, path, out, ranks) | more
    done = run_warm(ranks, settings)
    assert done.returncode == 0, done.stderr
    return dict(checkpoint.load(out / "checkpoint.h5")[0])


def of(name: str, data: Mapping[str, Path]) -> Path:
    """The data that a model is for."""
    return data["text" if name.startswith("language") else "vectors"]


@pytest.fixture(scope="module")
def on_one_rank(
    data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, np.ndarray], Path]]:
    """Each model trained on one rank, once: its checkpoint's arrays and its folder."""
    found: dict[str, tuple[dict[str, np.ndarray], Path]] = {}

    def get(name: str) -> tuple[dict[str, np.ndarray], Path]:
        if name not in found:
            out = tmp_path_factory.mktemp(name) / "run"
            found[name] = trained(name, of(name, data), out, 1), out
        return found[name]

    return get


def initial(name: str, path: Path) -> Tensors:
    """The parameters that training begins with."""
    import importlib

    module, _, cls = name.partition(".")
    model = getattr(importlib.import_module(f"users.{module}"), cls)
    made = model({"data": str(path), "accumulation": SHARDS, "verbose": False})
    try:
        arrays = made.state_arrays()
    finally:
        made.cleanup()
    weights = {k.removeprefix("weights/"): v for k, v in arrays.items() if k.startswith("weights/")}
    return {k: torch.from_numpy(v.astype("float64")) for k, v in weights.items()}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_users_model_has_the_weights_of_plain_torch(
    name: str, data: dict[str, Path], on_one_rank: Any
) -> None:
    reference = REFERENCES[name]
    reference.fields = windows(TEXT, 12) if name.startswith("language") else vectors(N_TRAIN)
    reference.fields = {
        k: v.astype("float64") if v.dtype == "float32" else v for k, v in reference.fields.items()
    }
    expected = reference.train(initial(name, of(name, data)), epochs=2)
    arrays, _ = on_one_rank(name)
    for k, value in expected.items():
        scale = np.abs(value.numpy()).max()
        np.testing.assert_allclose(
            arrays[f"weights/{k}"], value.numpy(), rtol=0, atol=2e-5 * scale, err_msg=k
        )


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", REFERENCES)
def test_and_the_same_weights_on_more_ranks(
    name: str, ranks: int, data: dict[str, Path], on_one_rank: Any, tmp_path: Path
) -> None:
    alone, folder = on_one_rank(name)
    arrays = trained(name, of(name, data), tmp_path / "run", ranks)
    assert arrays.keys() == alone.keys()
    for k, value in alone.items():
        np.testing.assert_allclose(
            arrays[k], value, rtol=0, atol=2e-5 * max(np.abs(value).max(), 1e-3), err_msg=k
        )
    logs = [read_log(out / "log.jsonl") for out in (folder, tmp_path / "run")]
    ours, theirs = ([r for r in log if r["kind"] == "val"] for log in logs)
    for one, other in zip(ours, theirs, strict=True):
        assert one["items"] == other["items"] == (9 if name.startswith("language") else N_VAL)
        for metric in one.keys() - {"kind"}:
            assert one[metric] == pytest.approx(other[metric], rel=1e-4, abs=1e-6), metric


@pytest.mark.parametrize("name", REFERENCES)
def test_and_to_the_last_bit_when_it_is_resumed_in_the_middle_of_an_epoch(
    name: str, data: dict[str, Path], on_one_rank: Any, tmp_path: Path
) -> None:
    alone, folder = on_one_rank(name)
    trained(name, of(name, data), tmp_path / "run", 1, max_iterations=7)
    arrays = trained(name, of(name, data), tmp_path / "run", 1, resume=True)
    for k, value in alone.items():
        np.testing.assert_array_equal(arrays[k], value, err_msg=k)
    whole, resumed = (read_log(out / "log.jsonl") for out in (folder, tmp_path / "run"))
    names = [k for k in whole[-2] if not k.endswith("_s") and k not in ("wall_s", "items_per_s")]
    for one, other in zip(whole[:-1], resumed[:-1], strict=True):
        assert {k: one.get(k) for k in names} == {k: other.get(k) for k in names}
