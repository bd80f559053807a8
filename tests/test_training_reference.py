"""The whole of training, many updates, against the same in plain torch: the recipe as one would write it by hand."""

from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from small_models import Normalised, Plain, Smooth

from theanompi.data import Batch, Loader, Sampler
from theanompi.device.ops import dropout_mask
from theanompi.record.recorder import Recorder

pytestmark = pytest.mark.usefixtures("forks")

WARMUP, DECAY = 4, 8
REFERENCE_RATE, REFERENCE_BATCH, LAMBDA = 0.05, 4, 0.01


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
        self.nonlinearity = torch.nn.functional.softplus if isinstance(model, Smooth) else torch.relu

    def decaying(self) -> list[torch.nn.Parameter]:
        return [p for name, p in self.values.items() if name.endswith("_W")]

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
            x = self.nonlinearity(x)
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
    images = batch.fields["images"]
    n, height, width, channels = images.shape
    out = np.zeros((n, channels, 32, 32))
    for i, (y0, x0, h, w, flip, rows, columns) in enumerate(batch.fields["boxes"].astype(float)):
        assert not flip
        vertical, horizontal = taps(y0, h, int(rows), height), taps(x0, w, int(columns), width)
        out[i] = vertical @ images[i].transpose(2, 0, 1) @ horizontal.T
    return torch.from_numpy((out / 255 - mean[:, None, None]) / std[:, None, None]).float()


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "base_lr": REFERENCE_RATE,
        "base_batch": REFERENCE_BATCH,
        "warmup_epochs": WARMUP / (1437 / 16),
        "decay_epochs": (DECAY / (1437 / 16),),
        "weight_decay": LAMBDA,
        "seed": 5,
        **changes,
    }


def sgd(network: Network, nesterov: bool) -> torch.optim.SGD:
    return torch.optim.SGD(
        [
            {"params": network.decaying(), "weight_decay": LAMBDA},
            {"params": [p for k, p in network.values.items() if not k.endswith("_W")], "weight_decay": 0.0},
        ],
        lr=1.0,
        momentum=0.9,
        nesterov=nesterov,
    )


def accumulate(network: Network, batch: Any, dataset: Any) -> float:
    """Add a batch's gradient of the summed loss to the network's; gives the loss."""
    scores = network(pixels(batch, dataset.mean, dataset.std), dropout(batch))
    loss = torch.nn.functional.cross_entropy(
        scores, torch.from_numpy(batch.fields["labels"]), reduction="sum"
    )
    loss.backward()
    return float(loss.item())


def train(
    model_class: type, batch_size: int = 8, accumulation: int = 2, nesterov: bool = True, **changes: Any
) -> tuple[Any, Network]:
    """Ten updates to the end of an epoch, ours beside those by hand: the recipe, or one pitfall in `changes`."""
    model = model_class(
        settings(batch_size=batch_size, accumulation=accumulation, nesterov=nesterov, **changes)
    )
    network = Network(model)
    optimizer = sgd(network, nesterov)
    model.compile_iter_fns("cdd")
    recorder = Recorder(None, 0, 1, 10, 10, False, None)
    dataset, start = model.data.dataset, model.data.n_batch_train - 10
    sampler = Sampler(1437, batch_size, 1, 0, accumulation, 5, changes.get("shuffle", "global"))
    sizes = []
    with Loader(model.data.modality, batch_size) as loader:
        for t, batches in enumerate(loader.train(sampler, epoch=0, start=start)):
            images = 0
            optimizer.zero_grad()
            total = 0.0
            for batch in batches:
                images += len(batch.ids)
                total += accumulate(network, batch, dataset)
            sizes.append(images)
            eta = rate(t)
            for value in network.values.values():
                value.grad /= batch_size if changes.get("normalization") == "worker" else images
                if changes.get("scaled") == "loss":
                    eta = REFERENCE_RATE if t < DECAY else REFERENCE_RATE / 10
                    value.grad *= rate(t) / eta
            if changes.get("momentum_form") == "uncorrected":
                # torch's momentum does not know the rate: give it gradients that are multiplied by it already.
                for value in network.decaying():
                    value.grad += LAMBDA * value.detach()
                for value in network.values.values():
                    value.grad *= eta
                for group in optimizer.param_groups:
                    group["lr"], group["weight_decay"] = 1.0, 0.0
            else:
                for group in optimizer.param_groups:
                    group["lr"] = eta
            optimizer.step()
            network.average_statistics()
            model.train_iter(start + t, recorder)
            assert model.measures().items == images
            assert model.measures().sums["loss"][0] == pytest.approx(total, rel=1e-4)
            assert float(model.update()) == pytest.approx(eta, rel=1e-6)
    model.cleanup()
    assert sizes == [16] * 9 + [16 if accumulation == 1 else 8]
    return model, network


def average(networks: list[Network]) -> None:
    """Give all of them the mean of their weights and running statistics."""
    with torch.no_grad():
        for name in networks[0].values:
            mean = torch.stack([network.values[name] for network in networks]).mean(0)
            for network in networks:
                network.values[name].copy_(mean)
    for name in networks[0].running:
        mean = torch.stack([network.running[name] for network in networks]).mean(0)
        for network in networks:
            network.running[name] = mean


def compare(model: Any, network: Network, tolerance: float) -> None:
    for p in model.params:
        expected = network.values[p.name.replace(".", "_")].detach().numpy()
        error = np.linalg.norm(p.get_value() - expected) / np.linalg.norm(expected)
        assert error < tolerance, f"{p.name}: {error:.2e}"
    for s in model.state.statistics:
        np.testing.assert_allclose(s.get_value(), network.running[s.name].numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(16, 1), (8, 2)])
@pytest.mark.parametrize("form", ["v", "u"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("model_class", [Plain, Normalised])
def test_the_weights_after_ten_updates_across_warmup_and_decay(
    model_class: type, nesterov: bool, form: str, batch_size: int, accumulation: int
) -> None:
    """To the end of an epoch: with n = 8 and A = 2 its last minibatch has half the images."""
    model, network = train(model_class, batch_size, accumulation, nesterov, momentum_form=form)
    # Rounding turns the gradient at a rectifier's kink on or off, and β starts at 0, the kink.
    compare(model, network, 1e-4 if model_class is Plain else 3e-3)


@pytest.fixture(scope="module")
def right() -> Any:
    """Trained by the recipe."""
    model, by_hand = train(Smooth)
    compare(model, by_hand, 1e-4)
    return model


@pytest.mark.parametrize(
    "pitfall",
    [
        {"scaled": "loss"},
        {"momentum_form": "uncorrected"},
        {"normalization": "worker"},
        {"shuffle": "worker"},
    ],
    ids=str,
)
def test_each_pitfall_is_the_one_that_the_paper_warns_of(pitfall: dict[str, Any], right: Any) -> None:
    wrong, by_hand = train(Smooth, **pitfall)
    compare(wrong, by_hand, 1e-4)
    apart = [
        np.linalg.norm(a.get_value() - b.get_value()) / np.linalg.norm(b.get_value())
        for a, b in zip(wrong.params, right.params, strict=True)
        if a.name.endswith(".W")
    ]
    assert min(apart) > 1e-3


def test_simulated_workers_are_workers_of_their_own() -> None:
    """One rank with A = 4 and ``avg`` against four networks by hand, each with a velocity, averaged in each step.

    In the last of the minibatches one of them has no batch: it goes on by its velocity and weight decay.
    """
    workers, n = 4, 12  # 1437 // 12 is 119, 3 more than a multiple of 4
    model = Smooth(
        settings(
            batch_size=n,
            accumulation=workers,
            sync_type="avg",
            scaling="linear",
            base_batch=16,
            warmup_epochs=0.2,
        )
    )
    networks = [Network(model) for _ in range(workers)]
    optimizers = [sgd(network, nesterov=True) for network in networks]
    model.compile_iter_fns("avg")
    recorder = Recorder(None, 0, 1, 10, 10, False, None)
    dataset, per_epoch = model.data.dataset, model.data.n_batch_train
    assert (per_epoch, model.data.sampler.units(per_epoch - 1)) == (30, 3)
    with Loader(model.data.modality, n) as loader:
        for t, batches in enumerate(loader.train(model.data.sampler, epoch=0, start=per_epoch - 8)):
            model.train_iter(per_epoch - 8 + t, recorder)
            eta = float(model.update())
            units = 0
            for network, optimizer in zip(networks, optimizers, strict=True):
                for value in network.values.values():
                    value.grad = torch.zeros_like(value)
                batch = next(batches, None)
                if batch is not None:
                    units += 1
                    accumulate(network, batch, dataset)
                    network.average_statistics()
                for value in network.values.values():
                    value.grad /= n
                for group in optimizer.param_groups:
                    group["lr"] = eta
                optimizer.step()
            average(networks)
    model.cleanup()
    assert units == 3
    compare(model, networks[0], 1e-4)


def dropout(batch: Batch) -> torch.Tensor:
    """What dropout multiplies the pooled features by; masks have tests of their own."""
    return torch.from_numpy(
        dropout_mask(batch.fields["keys"], (16,), 0.2, crc32(b"drop")).eval().astype("float32")
    )
