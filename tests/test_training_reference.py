"""The whole of training, many updates, against the same in plain torch: the recipe as one would write it by hand."""

from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from small_models import Normalised, Plain

from theanompi.data import Batch, Loader
from theanompi.device.ops import dropout_mask
from theanompi.recorder import Recorder

WARMUP, DECAY = 4, 8
REFERENCE_RATE, REFERENCE_BATCH = 0.05, 4


def rate(t: int) -> float:
    """η_t by hand: from 0.05 to 0.05 · 16 / 4 in 4 updates, a tenth of it from update 8 on."""
    target = REFERENCE_RATE * 16 / REFERENCE_BATCH
    if t < WARMUP:
        return REFERENCE_RATE + (target - REFERENCE_RATE) * t / WARMUP
    return target if t < DECAY else target / 10


class Network(torch.nn.Module):
    """The small networks again, written with torch.nn."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.values = torch.nn.ParameterDict(
            {
                p.name.replace(".", "_"): torch.nn.Parameter(torch.from_numpy(p.get_value()))
                for p in model.params
            }
        )
        self.running = {s.name: torch.from_numpy(s.get_value()) for s in model.state.statistics}
        self.seen: list[dict[str, torch.Tensor]] = []

    def average_statistics(self) -> None:
        """Running averages of momentum 0.9, of the mean over the batches of this minibatch."""
        for name, running in self.running.items():
            batches = [seen[name] for seen in self.seen if name in seen]
            self.running[name] = 0.9 * running + 0.1 * sum(batches) / len(batches)
        self.seen = []

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        f, v = torch.nn.functional, self.values
        if "conv_W" in v:
            x = f.max_pool2d(torch.relu(f.conv2d(x, v["conv_W"], v["conv_b"], stride=2)), 2)
            return x.flatten(1) @ v["dense_W"] + v["dense_b"]
        for i in (0, 1):
            x = f.conv2d(x, v[f"conv{i}_W"], stride=2, padding=1)
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            inv_std = 1 / torch.sqrt(var + 1e-4)
            self.seen.append({f"bn{i}.mean": mean.detach(), f"bn{i}.inv_std": inv_std.detach()})
            shape = (1, -1, 1, 1)
            x = (x - mean.view(shape)) * (v[f"bn{i}_gamma"] * inv_std).view(shape) + v[f"bn{i}_beta"].view(
                shape
            )
            x = torch.relu(x)
        return (x.mean((2, 3)) * mask) @ v["dense_W"] + v["dense_b"]


def taps(start: float, length: float, extent: int, side: int) -> np.ndarray:
    """Weights of the source pixels for each of 32: a triangle as wide as they are apart, zero beyond the image."""
    rows = np.zeros((32, side))
    reach = max(length / 32, 1)
    for i in range(32):
        centre = start + length * (i + 0.5) / 32
        if 0 <= centre <= extent:
            for j in range(extent):
                rows[i, j] = max(0, 1 - abs(j + 0.5 - centre) / reach)
            rows[i] /= rows[i].sum()
    return rows


def pixels(batch: Any, mean: np.ndarray, std: np.ndarray) -> torch.Tensor:
    """The crops of a batch, one at a time."""
    n, height, width, channels = batch.images.shape
    out = np.zeros((n, channels, 32, 32))
    for i, (y0, x0, h, w, flip, rows, columns) in enumerate(batch.boxes.astype(float)):
        assert not flip
        vertical, horizontal = taps(y0, h, int(rows), height), taps(x0, w, int(columns), width)
        out[i] = vertical @ batch.images[i].transpose(2, 0, 1) @ horizontal.T
    return torch.from_numpy((out / 255 - mean[:, None, None]) / std[:, None, None]).float()


@pytest.mark.parametrize(("batch_size", "accumulation", "last"), [(16, 1, 16), (8, 2, 8)])
@pytest.mark.parametrize("form", ["v", "u"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("model_class", [Plain, Normalised])
def test_the_weights_after_ten_updates_across_warmup_and_decay(
    model_class: type, nesterov: bool, form: str, batch_size: int, accumulation: int, last: int
) -> None:
    """To the end of an epoch: with n = 8 and A = 2 its last minibatch has half the images."""
    model = model_class(
        {
            "batch_size": batch_size,
            "accumulation": accumulation,
            "base_lr": REFERENCE_RATE,
            "base_batch": REFERENCE_BATCH,
            "warmup_epochs": WARMUP / (1437 / 16),
            "decay_epochs": (DECAY / (1437 / 16),),
            "weight_decay": 0.01,
            "momentum_form": form,
            "nesterov": nesterov,
            "seed": 5,
        }
    )
    network = Network(model)
    decays = {name for name in network.values if name.endswith("_W")}
    optimizer = torch.optim.SGD(
        [
            {"params": [p for k, p in network.values.items() if k in decays], "weight_decay": 0.01},
            {"params": [p for k, p in network.values.items() if k not in decays], "weight_decay": 0.0},
        ],
        lr=1.0,
        momentum=0.9,
        nesterov=nesterov,
    )
    model.compile_iter_fns("cdd")
    recorder = Recorder(None, 0, 1, 10, 10, False, None)
    dataset, start = model.data.dataset, model.data.n_batch_train - 10
    etas, sizes = [], []
    with Loader(dataset, batch_size, 32, seed=5) as loader:
        for t, batches in enumerate(loader.train(model.data.sampler, epoch=0, start=start)):
            images = 0
            optimizer.zero_grad()
            total = 0.0
            for batch in batches:
                images += len(batch.labels)
                scores = network(pixels(batch, dataset.mean, dataset.std), dropout(batch))
                labels = torch.from_numpy(batch.labels)
                loss = torch.nn.functional.cross_entropy(scores, labels, reduction="sum")
                loss.backward()
                total += loss.item()
            sizes.append(images)
            for value in network.values.values():
                value.grad /= images
            for group in optimizer.param_groups:
                group["lr"] = rate(t)
            optimizer.step()
            network.average_statistics()
            model.train_iter(start + t, recorder)
            assert model.totals(start + t)[0].images == images
            assert model.totals(start + t)[0].loss == pytest.approx(total, rel=1e-4)
            etas.append(float(model.update()))
    model.cleanup()
    assert sizes == [16] * 9 + [last]
    assert etas == pytest.approx([rate(t) for t in range(10)], rel=1e-6)
    for p in model.params:
        expected = network.values[p.name.replace(".", "_")].detach().numpy()
        error = np.linalg.norm(p.get_value() - expected) / np.linalg.norm(expected)
        # Rounding turns the gradient at a rectifier's kink on or off, and β starts at 0, the kink.
        assert error < (1e-4 if model_class is Plain else 3e-3), f"{p.name}: {error:.2e}"
    for s in model.state.statistics:
        np.testing.assert_allclose(s.get_value(), network.running[s.name].numpy(), rtol=1e-3, atol=1e-5)


def dropout(batch: Batch) -> torch.Tensor:
    """What dropout multiplies the pooled features by; masks have tests of their own."""
    return torch.from_numpy(dropout_mask(batch.keys, (16,), 0.2, crc32(b"drop")).eval().astype("float32"))
