"""A process of `zoo.py`: a small network of the zoo trained by us and by plain torch, or one of the two timed."""

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import common
import numpy as np
import pytensor
import torch
from kinds_child import Unrecorded, batches, training_step
from pytensor.graph.op import Op
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch_network import Network

from tests.zoo import small
from theanompi import Model, device
from theanompi.device import linker
from theanompi.device.dispatch import torch_function
from theanompi.models import ZOO
from theanompi.models.gans import GAN
from theanompi.models.samples import made, save
from theanompi.training.inputs import Feed

Fields = dict[str, Tensor]
Step = Callable[[], dict[str, float]]


class Case(NamedTuple):
    """How a network of the zoo is trained here; all else is its own default.

    Attributes
    ----------
    epochs, batch_size : int
    size : int
        Height and width of a picture in pixels, or tokens of an item.
    data : str
    settings : mapping
        Of the model, where they are how its size is set.
    base_lr : float or None
        Where the default rate does not lead to anything in so few updates.
    """

    epochs: int
    batch_size: int
    size: int
    data: str = "digits"
    settings: Mapping[str, Any] = {}
    base_lr: float | None = None


_SMALL_GAN = {"model.width": 8, "model.hidden": 64}
CASES = {
    "AlexNet": Case(10, 32, 67),
    "AlexNetOneTower": Case(20, 32, 63),
    "GoogLeNet": Case(6, 32, 32),
    "GoogLeNetBN": Case(3, 32, 32),
    "VGG11": Case(16, 32, 32),
    "VGG13": Case(8, 32, 32),
    "VGG16": Case(6, 32, 32),
    "VGG19": Case(6, 32, 32),
    "Cifar10_model": Case(12, 32, 28),
    "NIN": Case(8, 32, 32),
    "ResNet18": Case(8, 32, 32),
    "ResNet34": Case(6, 32, 32),
    "ResNet50": Case(4, 32, 32),
    "ResNet101": Case(3, 32, 32),
    "ResNet152": Case(3, 32, 32),
    "ResNetCifar": Case(16, 32, 32),
    "Wide_ResNet": Case(6, 32, 16),
    "DenseNet121": Case(6, 32, 32),
    "DenseNet169": Case(3, 32, 32),
    "DenseNet201": Case(3, 32, 32),
    "DenseNetCifar": Case(5, 32, 16),
    "InceptionV3": Case(3, 32, 75),
    "LSTM": Case(12, 16, 24, "reviews", {"model.width": 32}),
    "LanguageModel": Case(3, 20, 35, "sentences", {"model.width": 64}),
    "LSGAN": Case(50, 64, 16, settings=_SMALL_GAN, base_lr=1e-3),
    "WGAN": Case(120, 64, 16, settings=_SMALL_GAN, base_lr=2e-3),
    "WGAN_GP": Case(50, 64, 16, settings=_SMALL_GAN, base_lr=1e-3),
}
SIDES = {"GoogLeNet": 0.3, "GoogLeNetBN": 0.3, "InceptionV3": 0.4}
"""What auxiliary losses count."""
CURVE = 40
"""Points of a curve."""
WARM, TIMED = 10, 40
"""Steps before and while the time of each kind of op is taken."""


def class_of(name: str) -> type[Model]:
    """The class of a network: with few filters, where its size is no setting of the model's."""
    cls: type[Model] = next(
        getattr(import_module(f"theanompi.models.{module}"), name)
        for module, _, known in (where.partition(":") for where in ZOO)
        if known == name
    )
    smaller = (one for one in vars(small).values() if isinstance(one, type) and one.__bases__ == (cls,))
    return next(smaller, cls)


def settings_of(name: str, data: Path, seed: int) -> dict[str, Any]:
    """The settings of a run: the defaults of its class, with a schedule that shrinks with the epochs."""
    case, defaults = CASES[name], class_of(name).defaults
    picture = case.data == "digits"
    run = {
        "data": str(data) if picture else case.data,
        "image_size" if picture else "length": case.size,
        "batch_size": case.batch_size,
        "epochs": case.epochs,
        "settings": {**defaults.get("settings", {}), **case.settings},
        "seed": seed,
        "devices": ["cpu"],
        "verbose": False,
    }
    if case.base_lr:
        run["base_lr"] = case.base_lr
    if "decay_epochs" in defaults:
        run["decay_epochs"] = [epoch * case.epochs / defaults["epochs"] for epoch in defaults["decay_epochs"]]
    return run


def fields_of(model: Model, split: str, batches: int | None = None) -> Fields:
    """The items of a split, or of its first batches, as the network sees them: without augmentation always the same."""
    batch = model.data.modality.graph(model.inputs.variables, False)
    seen = {name: batch[name] for name in batch if name != "keys"}
    compute = pytensor.function([], list(seen.values()), mode=device.mode())
    stream = model.data.train(0, 0) if split == "train" else model.data.validation()
    feed, parts = Feed(model.inputs, stream), []
    for _ in range(batches or (model.data.n_batch_train if split == "train" else model.data.n_batch_val)):
        feed.load()
        parts.append([torch.from_numpy(np.array(value)) for value in compute()])
    fields = {name: torch.cat(values) for name, values in zip(seen, zip(*parts, strict=True), strict=True)}
    kept = fields.pop("weights") > 0
    fields = {name: values[kept] for name, values in fields.items()}
    if "targets" in fields:
        # What cross_entropy ignores.
        fields["targets"][fields.pop("mask") == 0] = -100
    if isinstance(model, GAN):
        std, mean = (
            torch.from_numpy(v).float()[:, None, None] for v in (model.dataset.std, model.dataset.mean)
        )
        fields = {"images": fields["images"] * std + mean}
    return fields


# Plain torch.


def networks_of(model: Any) -> list[Network]:
    """The same network in torch; of a GAN the critic and the generator."""
    net = model.network
    if isinstance(model, GAN):
        return [Network(net["critic"]), Network(net["generator"])]
    heads = list(net.values()) if isinstance(net, Mapping) else [net]
    return [Network(*(heads[-1:] if model.data.modality.name == "tokens" else heads))]


def optimizer_of(model: Any, network: nn.Module) -> tuple[torch.optim.Optimizer, Callable[[], None]]:
    """The run's optimizer, and what to call after each of its steps; weights decay, and biases and the like do not."""
    run, ours = model.config, model.optimizers[0]
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "lr": 1.0, "weight_decay": run.weight_decay},
        {"params": [p for p in trained if p.ndim == 1], "lr": model.bias_rate, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer: torch.optim.Optimizer
    if run.optimizer == "momentum":
        optimizer = torch.optim.SGD(groups, momentum=run.momentum, nesterov=run.nesterov, fused=True)
    elif run.optimizer == "adam":
        own = ours.settings
        optimizer = torch.optim.Adam(groups, betas=(own.beta1, own.beta2), eps=own.epsilon, fused=True)
    elif run.optimizer == "rmsprop":
        # Lasagne's ε is within the root.
        own = ours.arguments
        optimizer = torch.optim.RMSprop(groups, alpha=own["rho"], eps=math.sqrt(own["epsilon"]), foreach=True)
    else:
        assert run.optimizer == "adadelta"
        own = ours.arguments
        optimizer = torch.optim.Adadelta(groups, rho=own["rho"], eps=own["epsilon"], foreach=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, model.schedule).step


def outputs_of(network: Network, batch: Fields) -> list[Tensor]:
    """What a classifier or a language model gives of a batch."""
    return network(*(batch[name if name in batch else "images"] for name in network.inputs))


def loss_of(name: str, network: Network, batch: Fields, smoothing: float) -> Tensor:
    """The loss of a batch that a classifier, with its labels smoothed, or a language model is trained by."""
    outputs = outputs_of(network, batch)
    if "targets" in batch:
        return cross_entropy(outputs[0].flatten(0, 1), batch["targets"].flatten())
    losses = [cross_entropy(scores, batch["labels"], label_smoothing=smoothing) for scores in outputs]
    return losses[0] if len(losses) == 1 else losses[0] + SIDES[name] * torch.stack(losses[1:]).sum()


def descent(name: str, model: Any, networks: list[Network], supply: Iterator[Fields]) -> Step:
    """A training step of plain torch."""
    if isinstance(model, GAN):
        return adversarial(name, model, networks, supply)
    (network,) = networks
    optimizer, fall = optimizer_of(model, network)
    longest, parameters = model.config.clip_norm, list(network.parameters())

    def step() -> dict[str, float]:
        optimizer.zero_grad()
        loss_of(name, network, next(supply), model.config.label_smoothing).backward()
        if longest:
            nn.utils.clip_grad_norm_(parameters, longest, foreach=True)
        optimizer.step()
        fall()
        return {}

    return step


def adversarial(name: str, model: Any, networks: list[Network], supply: Iterator[Fields]) -> Step:
    """A step of the critic and, in each iteration or in each fifth, of the generator."""
    critic, generator = networks
    own, n = model.settings, model.config.batch_size
    optimizers = [optimizer_of(model, network)[0] for network in networks]  # at a constant rate
    every = 1 if name == "LSGAN" else own.critic_updates
    clipped: list[Tensor] = [p for p in critic.parameters() if p.ndim > 1]
    done = 0

    def step() -> dict[str, float]:
        nonlocal done
        done += 1
        images, noise = next(supply)["images"], torch.rand(n, own.noise)
        with torch.no_grad():
            (pictures,) = generator(noise)
        real, fake = critic(images)[0], critic(pictures)[0]
        distance = (real - fake).mean()
        loss = ((real - 1) ** 2 + fake**2).mean() if name == "LSGAN" else -distance
        if name == "WGAN_GP":
            share = torch.rand(n, 1, 1, 1)
            between = (share * images + (1 - share) * pictures).requires_grad_()
            (slope,) = torch.autograd.grad(critic(between)[0].sum(), between, create_graph=True)
            loss = loss + own.penalty * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        if name == "WGAN":
            with torch.no_grad():
                torch._foreach_clamp_min_(clipped, -own.clip)
                torch._foreach_clamp_max_(clipped, own.clip)
        if done % every == 0:
            critic.requires_grad_(False)
            fake = critic(generator(noise)[0])[0]
            loss = ((fake - 1) ** 2).mean() if name == "LSGAN" else -fake.mean()
            optimizers[1].zero_grad()
            loss.backward()
            optimizers[1].step()
            critic.requires_grad_(True)
        return {} if name == "LSGAN" else {"distance": distance.item()}

    return step


# Training to an end.


def validated(model: Any) -> dict[str, float]:
    """What our validation says, by name."""
    for count in range(model.data.n_batch_val):
        model.val_iter(count, Unrecorded())
    _, *sums = model.validation_sums().sum(0).tolist()
    return {name: sums[2 * i] / sums[2 * i + 1] for i, name in enumerate(model.reported.metrics)}


@torch.no_grad()
def validated_by_torch(network: Network, fields: Fields) -> dict[str, float]:
    """The same of a network in torch."""
    network.eval()
    outputs = outputs_of(network, fields)
    network.train()
    if "targets" in fields:
        return {"nats": cross_entropy(outputs[0].flatten(0, 1), fields["targets"].flatten()).item()}
    labels = fields["labels"]
    wrong = (outputs[0].argmax(1) != labels).float().mean().item()
    return {"loss": cross_entropy(outputs[0], labels).item(), "error": wrong}


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Between two samples of pictures (Székely and Rizzo 2013): 2·E‖a − b‖ − E‖a − a'‖ − E‖b − b'‖, 0 for equals."""
    a, b = a.flatten(1), b.flatten(1)

    def within(x: Tensor) -> float:
        return (torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))).item()

    return 2 * torch.cdist(a, b).mean().item() - within(a) - within(b)


def curve(values: Iterable[float]) -> list[float]:
    """Means over equal parts of the iterations."""
    return [float(part.mean()) for part in np.array_split(np.array(list(values)), CURVE)]


def scored(name: str, found: Mapping[str, float]) -> float:
    """What the table shows of a validation."""
    return math.exp(found["nats"]) if name == "LanguageModel" else 100 * found["error"]


def train(name: str, data: Path, seeds: int, picture: Path | None) -> None:
    """Train a network from the same initial weights by both, for some seeds; say what came of it."""
    cls = class_of(name)
    model: Any = cls(settings_of(name, data, 0))
    step = training_step(model)
    train_fields, val_fields = (fields_of(model, split) for split in ("train", "val"))
    n, updates = CASES[name].batch_size, CASES[name].epochs * model.data.n_batch_train
    for seed in range(seeds):
        started = cls(settings_of(name, data, seed))
        initial = started.state_arrays()
        started.cleanup()
        # The epochs go on, so that orders, augmentation and dropout are others too.
        model.load_state_arrays(initial, 0, [0.0] * len(model.states))
        networks = networks_of(model)
        adversaries = isinstance(model, GAN)
        if not adversaries:
            same, other = validated(model), validated_by_torch(networks[0], val_fields)
            loss = model.reported.metrics[0]
            if not math.isclose(same[loss], other[loss], rel_tol=1e-3):
                raise RuntimeError(f"{name}: expected one {loss} of the same weights, got {same} and {other}")
        says: dict[str, Any] = {"seed": seed, "updates": updates, "epochs": CASES[name].epochs}
        start = time.perf_counter()
        sums = [step() for _ in range(updates)]
        says["ours_s"], start = time.perf_counter() - start, time.perf_counter()
        torch.manual_seed(seed)
        other_step = descent(name, model, networks, batches(train_fields, n, 0, 1, False))
        others = [other_step() for _ in range(updates)]
        says["torch_s"] = time.perf_counter() - start
        if adversaries:
            real = val_fields["images"]
            pictures = made(model, len(real))
            if picture and seed == 0:
                save(pictures[:100].repeat(3, 1).repeat(3, 2), picture)
            with torch.no_grad():
                (by_torch,) = networks[1].eval()(torch.rand(len(real), model.settings.noise))
            says["ours"] = energy_distance(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, real)
            says["torch"] = energy_distance(by_torch, real)
            says["data"] = energy_distance(train_fields["images"][: len(real)], real)
            if "distance" in others[0]:
                found = [total / weight for total, weight in (one["distance"] for one in sums)]
                says["distance"] = curve(found)
                says["distance_by_torch"] = curve(one["distance"] for one in others)
        else:
            says["ours"] = scored(name, validated(model))
            says["torch"] = scored(name, validated_by_torch(networks[0], val_fields))
        common.say(**says)
    model.cleanup()


# Throughput.


def lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Put the filters of a network into a memory layout; what they are applied to follows."""
    network.zero_grad()
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def faster_layout(networks: list[Network], batch: Fields) -> str:
    """Put a network's weights into the memory layout in which its forward and backward pass is faster."""
    if "images" not in batch:
        return "contiguous"
    (network, *_), seconds = networks, {}
    for layout in (torch.contiguous_format, torch.channels_last):
        lay_out(network, layout)
        for trial in range(6):
            if trial == 2:
                start = time.perf_counter()
            outputs = network(batch["images"])
            sum(output.sum() for output in outputs).backward()
        seconds[layout] = time.perf_counter() - start
    best = min(seconds, key=lambda layout: seconds[layout])
    for one in networks:
        lay_out(one, best)
    return "channels_last" if best is torch.channels_last else "contiguous"


def contend(name: str, data: Path, contender: str) -> None:
    """Take part in a comparison."""
    model: Any = class_of(name)(settings_of(name, data, 0))
    facts: dict[str, Any] = {}
    if contender == "ours":
        step: Callable[[], object] = training_step(model)
    else:
        fields = fields_of(model, "train")
        networks = networks_of(model)
        model.cleanup()
        n = model.config.batch_size
        facts["layout"] = faster_layout(networks, {key: v[:n] for key, v in fields.items()})
        step = descent(name, model, networks, batches(fields, n, 0, 1, contender == "torch"))
    common.serve(
        step,
        lambda: None,
        lambda: None,
        lambda: {"peak_memory_mib": common.peak_memory_mib("cpu"), **facts},
    )
    model.cleanup()


def by_op(name: str, data: Path) -> None:
    """Say how many milliseconds a step of ours takes on this core, and those that each kind of op does."""
    spent: Counter[str] = Counter()

    def timed(op: Op, **keywords: Any) -> Callable[..., Any]:
        run, kind = torch_function(op, **keywords), type(op).__name__

        def call(*operands: Any) -> Any:
            start = time.process_time_ns()
            result = run(*operands)
            spent[kind] += time.process_time_ns() - start
            return result

        return call

    model: Any = class_of(name)(settings_of(name, data, 0))
    with patch.object(linker, "torch_function", timed):
        step = training_step(model)
    for _ in range(WARM):
        step()
    spent.clear()
    start = time.process_time_ns()
    for _ in range(TIMED):
        step()
    whole = time.process_time_ns() - start
    model.cleanup()
    common.say(step=whole / TIMED / 1e6, ops={kind: ns / TIMED / 1e6 for kind, ns in spent.most_common()})


def main() -> None:
    """Do a part of the benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "ours", "torch", "memory", "ops"])
    parser.add_argument("name", choices=CASES)
    parser.add_argument("--data", type=Path, required=True, help="the pictures that zoo.py has written")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--picture", type=Path, help="where a GAN's pictures are written")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device.use("cpu")
    if args.what == "train":
        train(args.name, args.data, args.seeds, args.picture)
    elif args.what == "ops":
        by_op(args.name, args.data)
    else:
        contend(args.name, args.data, args.what)


if __name__ == "__main__":
    main()
