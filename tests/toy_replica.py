"""A replica for the tests of rules: a quadratic of its own for each worker, with momentum, and no compiling."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from theanompi.device import FlatBuffer
from theanompi.training.replica import Measures, Replica

RATE, MOMENTUM = 0.05, 0.9


def target(rank: int, n: int) -> np.ndarray:
    """What worker `rank` is drawn to."""
    return np.random.default_rng([7, rank]).normal(size=n).astype("float32")


class Toy(Replica):
    """Worker `rank` makes ½·|w - target|² small: the gradient is w - target; `still`, it has none and stays."""

    def __init__(self, rank: int, n: int, per_epoch: int = 10**6, *, still: bool = False) -> None:
        self.rank, self.epoch, self.data = rank, 0, SimpleNamespace(n_batch_train=per_epoch)
        self.weights, self.velocity = FlatBuffer({"w": (n,)}), FlatBuffer({"w": (n,)})
        self.gradient, self._still = FlatBuffer({"w": (n,)}), still
        self._target = torch.from_numpy(target(rank, n))

    def train_iter(self, count: int, record: Any, objective: int = 0) -> None:
        self.gradient.flat.copy_(self.weights.flat - self._target)

    def measures(self, objective: int = 0) -> Measures:
        return Measures(1, {"loss": (1.0, 1.0)}, [0.0], False)

    def update(self, objective: int = 0) -> float:
        if not self._still:
            self.velocity.flat.mul_(MOMENTUM).sub_(self.gradient.flat, alpha=RATE)
            self.weights.flat.add_(self.velocity.flat)
        return RATE

    def scale_gradients(self, objective: int, factor: float) -> None:
        self.gradient.flat.mul_(factor)

    def gradient_buffers(self) -> list[FlatBuffer]:
        return [self.gradient]

    def weights_to_average(self) -> FlatBuffer:
        return self.weights

    def networks(self) -> list[list[torch.Tensor]]:
        """Two: that of the first objective is the first half."""
        half = self.weights.flat.numel() // 2
        return [[self.weights.flat[:half]], [self.weights.flat[half:]]]

    def state_to_share(self) -> list[FlatBuffer]:
        return [self.weights, self.velocity]
