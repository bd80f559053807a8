"""The whole of training, many updates, against the same in plain torch: the recipe as one would write it by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from small_models import Normalised, Plain

from theanompi.recorder import Recorder

T = 89
"""Updates in an epoch of 1,437 images in minibatches of 16."""
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

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        f, v = torch.nn.functional, self.values
        if "conv_W" in v:
            x = f.max_pool2d(torch.relu(f.conv2d(x, v["conv_W"], v["conv_b"], stride=2)), 2)
            return x.flatten(1) @ v["dense_W"] + v["dense_b"]
        for i in (0, 1):
            x = f.conv2d(x, v[f"conv{i}_W"], stride=2, padding=1)
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            inv_std = 1 / torch.sqrt(var + 1e-4)
            for name, value in (("mean", mean), ("inv_std", inv_std)):
                self.running[f"bn{i}.{name}"] = 0.9 * self.running[f"bn{i}.{name}"] + 0.1 * value.detach()
            shape = (1, -1, 1, 1)
            x = (x - mean.view(shape)) * (v[f"bn{i}_gamma"] * inv_std).view(shape) + v[f"bn{i}_beta"].view(
                shape
            )
            x = torch.relu(x)
        return (x.mean((2, 3)) * mask) @ v["dense_W"] + v["dense_b"]


def pixels(batch: Any, mean: np.ndarray, std: np.ndarray) -> torch.Tensor:
    """The crops of a batch, sampled bilinearly one pixel at a time, with zeros outside."""
    n, height, width, channels = batch.images.shape
    out = np.zeros((n, channels, 32, 32))
    centres = (np.arange(32) + 0.5) / 32
    for i, (y0, x0, h, w, _) in enumerate(batch.boxes.astype(float)):
        ys, xs = np.meshgrid(y0 + h * centres - 0.5, x0 + w * centres - 0.5, indexing="ij")
        for dy in (0, 1):
            for dx in (0, 1):
                row, column = np.floor(ys).astype(int) + dy, np.floor(xs).astype(int) + dx
                weight = (1 - abs(ys - row)) * (1 - abs(xs - column))
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                values = batch.images[i, row.clip(0, height - 1), column.clip(0, width - 1)]
                out[i] += ((weight * inside)[..., None] * values).transpose(2, 0, 1)
    return torch.from_numpy((out / 255 - mean[:, None, None]) / std[:, None, None]).float()


@pytest.mark.parametrize("form", ["v", "u"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("model_class", [Plain, Normalised])
def test_the_weights_after_ten_updates_across_warmup_and_decay(
    model_class: type, nesterov: bool, form: str
) -> None:
    model = model_class(
        {
            "batch_size": 16,
            "base_lr": REFERENCE_RATE,
            "base_batch": REFERENCE_BATCH,
            "warmup_epochs": WARMUP / T,
            "decay_epochs": (DECAY / T,),
            "weight_decay": 0.01,
            "momentum_form": form,
            "nesterov": nesterov,
            "seed": 5,
        }
    )
    assert model.data.n_batch_train == T + 1 or model.data.n_batch_train == T
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
    model.begin_epoch(0, 0)
    etas = []
    for t in range(10):
        model.train_iter(t, recorder)
        batch = type("Batch", (), {"images": None, "boxes": model.inputs.boxes.get_value()})
        batch.images = model.inputs.images.get_value().transpose(0, 2, 3, 1)
        mask = torch.from_numpy(dropout_masks(model))
        x = pixels(batch, model.data.dataset.mean, model.data.dataset.std)
        optimizer.zero_grad()
        labels = torch.from_numpy(model.inputs.labels.get_value())
        loss = torch.nn.functional.cross_entropy(network(x, mask), labels)
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate(t)
        optimizer.step()
        assert model.totals(t)[0].loss / 16 == pytest.approx(loss.item(), rel=1e-4)
        etas.append(float(model.update()))
    model.cleanup()
    assert etas == pytest.approx([rate(t) for t in range(10)], rel=1e-6)
    for p in model.params:
        expected = network.values[p.name.replace(".", "_")].detach().numpy()
        error = np.linalg.norm(p.get_value() - expected) / np.linalg.norm(expected)
        assert error < 1e-4, f"{p.name}: {error:.2e}"
    for s in model.state.statistics:
        np.testing.assert_allclose(s.get_value(), network.running[s.name].numpy(), rtol=1e-3, atol=1e-5)


def dropout_masks(model: Any) -> np.ndarray:
    """What dropout multiplied the pooled features by; masks have tests of their own."""
    from zlib import crc32

    from theanompi.device.ops import dropout_mask

    mask = dropout_mask(model.inputs.keys.get_value(), (16,), 0.2, crc32(b"drop")).eval()
    return np.asarray(mask, dtype="float32")
