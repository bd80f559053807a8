"""A contender of `kinds.py`: one of five kinds of models, ours (tests/users) or the same in plain torch."""

import argparse
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

LENGTH = 12
"""Tokens in a window, as the model of tests/users has it."""
VOCABULARY = 256
"""Of bytes, as they are packed."""
Step = Callable[[], object]

MODELS = {
    "masked regression": "masked_regression.MaskedRegression",
    "two heads": "two_heads.TwoHeads",
    "language model": "language_model.Bigrams",
    "GAN": "gan.WGAN",
    "Adam, cosine, clipping": "adam_cosine.Classifier",
}


class Unrecorded:
    """A recorder that keeps nothing."""

    def start(self, doing: str = "") -> None:
        """Begin a phase."""

    def end(self, phase: str) -> None:
        """End it."""


def ours(kind: str, data: Path, batch_size: int) -> tuple[Step, Step]:
    """A step of the package and a barrier: batches from its loader, gradients, exchange and update."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    module, _, name = MODELS[kind].partition(".")
    config = {
        "data": str(data / ("text.h5" if kind == "language model" else "vectors.h5")),
        "batch_size": batch_size,
        "verbose": False,
        "rank": world.rank,
        "size": world.size,
    }
    return training_step(getattr(import_module(f"users.{module}"), name)(config)), world.Barrier


def training_step(model: Any) -> Callable[[], dict[str, tuple[float, float]]]:
    """Compile a model; an iteration as a run makes it, which gives the sums of all metrics, with those of weights."""
    from mpi4py import MPI

    from theanompi.exchange import get_exchanger

    exchangers = [get_exchanger("overlap", MPI.COMM_WORLD, buffer) for buffer in model.gradient_buffers()]
    model.compile_iter_fns("cdd", exchangers)
    done = 0

    def step() -> dict[str, tuple[float, float]]:
        nonlocal done
        model.epoch, position = divmod(done, model.data.n_batch_train)
        sums: dict[str, tuple[float, float]] = {}
        for objective in model.due(position):
            model.train_iter(position, Unrecorded(), objective)
            exchangers[objective].sum()
            sums |= model.measures(objective).sums
            model.update(objective)
        done += 1
        return sums

    return step


class Vectors(nn.Module):
    """Dense layers with tanh between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        """From (n, first width) to (n, last width)."""
        *lower, last = self.layers
        for one in lower:
            x = torch.tanh(one(x))
        result: Tensor = last(x)
        return result


class TwoHeads(nn.Module):
    """A classifier with an auxiliary one half way."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(width, 12), nn.Linear(12, 12)
        self.main, self.aux = nn.Linear(12, classes), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both scores."""
        lower = torch.tanh(self.lower(x))
        return self.main(torch.tanh(self.upper(lower))), self.aux(lower)


class Bigrams(nn.Module):
    """The next token from this one."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embedding, self.rest = nn.Embedding(tokens, 8), Vectors(8, 16, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        """From (n,) to scores (n, tokens)."""
        scores: Tensor = self.rest(self.embedding(tokens))
        return scores


def batches(
    fields: dict[str, Tensor], batch_size: int, rank: int, size: int, loader: bool
) -> Iterator[dict[str, Tensor]]:
    """Batches of this rank for ever, in another order in each epoch: by torch's loader, or from memory."""
    n = len(next(iter(fields.values())))
    if loader:
        data = TensorDataset(*fields.values())
        sampler: DistributedSampler[Any] = DistributedSampler(data, size, rank, drop_last=True)
        supply = DataLoader(
            data, batch_size, sampler=sampler, drop_last=True, num_workers=1, persistent_workers=True
        )
    for epoch in count():
        if loader:
            sampler.set_epoch(epoch)
            yield from (dict(zip(fields, batch, strict=True)) for batch in supply)
            continue
        for ids in torch.randperm(n).split(batch_size * size):
            if len(ids) == batch_size * size:
                own = ids[rank::size]
                yield {name: values[own] for name, values in fields.items()}


def in_memory(kind: str, data: Path) -> dict[str, Tensor]:
    """The training items by field; of text windows of `LENGTH` bytes and the one after them."""
    if kind == "language model":
        text = torch.frombuffer(bytearray((data / "train.txt").read_bytes()), dtype=torch.uint8)
        return {"tokens": text.unfold(0, LENGTH + 1, LENGTH).long()}
    with np.load(data / "vectors.npz") as file:
        return {
            name.removeprefix("train_"): torch.from_numpy(file[name]) for name in file if "train_" in name
        }


def theirs(kind: str, data: Path, batch_size: int, port: int, loader: bool) -> tuple[Step, Step]:
    """A step of plain torch and a barrier: eager, torch's own optimizers, under DDP where there are several ranks."""
    rank, size = common.rank_and_size()
    if size > 1:
        distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size
        )
    fields = in_memory(kind, data)
    supply = batches(fields, batch_size, rank, size, loader)

    def parallel(network: nn.Module) -> nn.Module:
        if size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True)

    def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def sgd(network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

    if kind == "GAN":
        width, done = fields["x"].shape[1], 0
        generator, critic = parallel(Vectors(4, 16, width)), parallel(Vectors(width, 16, 1))
        of_critic = torch.optim.RMSprop(critic.parameters(), lr=0.01, alpha=0.9)
        of_generator = torch.optim.Adam(generator.parameters(), lr=0.005)

        def step() -> None:
            nonlocal done
            done += 1
            x = next(supply)["x"]
            with torch.no_grad():
                made = generator(torch.randn(batch_size, 4))
            real, fake = critic(torch.cat([x, made]))[:, 0].chunk(2)
            descend((fake - real + 0.1 * (fake**2 + real**2)).mean(), of_critic)
            if done % 3 == 0:
                for parameter in critic.parameters():
                    parameter.requires_grad_(False)
                # Not through DDP, which would have no gradients to sum.
                plain: Any = critic.module if size > 1 else critic
                descend(-plain(generator(torch.randn(batch_size, 4))).mean(), of_generator)
                for parameter in critic.parameters():
                    parameter.requires_grad_(True)

    elif kind == "masked regression":
        network = parallel(Vectors(fields["x"].shape[1], 16, fields["y"].shape[1]))
        optimizer = sgd(network)

        def step() -> None:
            batch = next(supply)
            loss = batch["known"] * (network(batch["x"]) - batch["y"]) ** 2
            descend(loss.sum() / batch["known"].sum(), optimizer)

    elif kind == "two heads":
        network = parallel(TwoHeads(fields["x"].shape[1], int(fields["labels"].max()) + 1))
        optimizer = sgd(network)

        def step() -> None:
            batch = next(supply)
            main, aux = network(batch["x"])
            labels = batch["labels"]
            descend(cross_entropy(main, labels) + 0.3 * cross_entropy(aux, labels), optimizer)

    elif kind == "language model":
        network = parallel(Bigrams(VOCABULARY))
        optimizer = sgd(network)

        def step() -> None:
            tokens = next(supply)["tokens"]
            descend(cross_entropy(network(tokens[:, :-1].ravel()), tokens[:, 1:].ravel()), optimizer)

    else:
        network = parallel(Vectors(fields["x"].shape[1], 16, int(fields["labels"].max()) + 1))
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1_000_000)

        def step() -> None:
            batch = next(supply)
            optimizer.zero_grad()
            cross_entropy(network(batch["x"]), batch["labels"]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            schedule.step()

    return step, distributed.barrier if size > 1 else lambda: None


def main() -> None:
    """Take part in a benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=["ours", "torch", "memory"])
    parser.add_argument("kind", choices=MODELS)
    parser.add_argument("--data", type=Path, required=True, help="the folder that kinds.py has filled")
    parser.add_argument("--batch-size", type=int, required=True, help="items per rank")
    parser.add_argument("--port", type=int, default=0, help="of DDP's rendezvous on this host")
    args = parser.parse_args()
    made = (args.kind, args.data, args.batch_size)
    step, barrier = (
        ours(*made) if args.contender == "ours" else theirs(*made, args.port, args.contender == "torch")
    )
    common.serve(step, lambda: None, barrier, lambda: {"peak_memory_mib": common.peak_memory_mib("cpu")})


if __name__ == "__main__":
    main()
