"""The training recipe: learning-rate schedule, momentum-corrected update, and the printed plan of a run.

Everything follows P = Goyal et al. 2017, *Accurate, Large Minibatch SGD* (arXiv 1706.02677v2). A
minibatch is A·k·n images: n per worker, k workers, A accumulation steps. Iterations t count weight
updates from 0.

Examples
--------
P's largest run without loss of accuracy, 256 workers with 32 images each:

>>> schedule = Schedule(minibatch=8192, iterations_per_epoch=157)
>>> schedule.target
3.2
>>> [round(schedule(epoch * 157), 6) for epoch in (0, 2, 5, 30, 60, 80)]
[0.1, 1.34, 3.2, 0.32, 0.032, 0.0032]
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from theanompi.config import SCALED, SCALINGS, WARMUPS


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate η_t at each iteration t (P §2.1, §2.2, §5.1); the defaults are P's.

    Parameters
    ----------
    minibatch : int
        A·k·n, the images of one weight update.
    iterations_per_epoch : int
        T, the weight updates of one epoch.
    epochs : int
        Length of the run; iterations past its end keep the last rate.
    base_lr : float
        The reference rate, right for `base_batch` images.
    base_batch : int
        The minibatch that `base_lr` belongs to.
    scaling : {"linear", "sqrt", "none"}
        η̂ = base_lr times r, √r or 1, where r = minibatch / base_batch.
    warmup : {"gradual", "constant", "none"}
        How η̂ is reached from `base_lr`, when minibatch > base_batch: by a constant increment each
        iteration, by one jump at the end of `warmup_epochs`, or at once. A smaller minibatch starts at η̂.
    scaled : {"rate", "loss"}
        What `scaling` and `warmup` multiply. With "loss", which P's remark 1 warns of (§3), the rate is
        `base_lr`, decayed, and the loss is multiplied by s_t (`loss_scale`) before λ·w is added to its gradient.
    warmup_epochs : float
        Length of the warmup.
    decay_epochs : tuple of float
        Where the rate is multiplied by `decay_factor`. Epochs are turned into iterations by round(epoch·T).
    decay_factor : float
        Factor of each step decay.

    Raises
    ------
    ValueError
        When a value is out of its range; the message names it.

    Examples
    --------
    >>> round(Schedule(minibatch=8192, iterations_per_epoch=157, scaling="sqrt").target, 6)
    0.565685
    >>> Schedule(minibatch=0, iterations_per_epoch=157)
    Traceback (most recent call last):
    ValueError: schedule: expected minibatch of at least 1, got 0
    """

    minibatch: int
    iterations_per_epoch: int
    epochs: int = 90
    base_lr: float = 0.1
    base_batch: int = 256
    scaling: str = "linear"
    warmup: str = "gradual"
    scaled: str = "rate"
    warmup_epochs: float = 5
    decay_epochs: tuple[float, ...] = (30, 60, 80)
    decay_factor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("minibatch", "iterations_per_epoch", "epochs", "base_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule: expected {name} of at least 1, got {getattr(self, name)!r}")
        for name in ("base_lr", "decay_factor"):
            # the momentum correction divides by the rate
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"schedule: expected {name} above 0, got {getattr(self, name)!r}")
        for name, epochs in [("warmup_epochs", (self.warmup_epochs,)), ("decay_epochs", self.decay_epochs)]:
            if not all(0 <= epoch < math.inf for epoch in epochs):
                raise ValueError(f"schedule: expected {name} of at least 0, got {getattr(self, name)!r}")
        for name, known in [("scaling", SCALINGS), ("warmup", WARMUPS), ("scaled", SCALED)]:
            if getattr(self, name) not in known:
                raise ValueError(
                    f"schedule: expected {name} to be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )

    @property
    def target(self) -> float:
        """η̂, the rate after the warmup."""
        ratio = self.minibatch / self.base_batch
        return self.base_lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[self.scaling]

    @property
    def iterations(self) -> int:
        """Weight updates in the whole run."""
        return self.epochs * self.iterations_per_epoch

    @property
    def warmup_iterations(self) -> int:
        """Weight updates with a rate below η̂; 0 without warmup."""
        if self.warmup == "none" or self.minibatch <= self.base_batch:
            return 0
        return round(self.warmup_epochs * self.iterations_per_epoch)

    @property
    def increment(self) -> float:
        """What each iteration of the warmup adds to the rate; 0 when it is constant or there is none."""
        if self.warmup != "gradual" or self.warmup_iterations == 0:
            return 0.0
        return (self.target - self.base_lr) / self.warmup_iterations

    @property
    def decay_iterations(self) -> tuple[int, ...]:
        """The iterations at which the rate is decayed, in order."""
        return tuple(sorted(round(epoch * self.iterations_per_epoch) for epoch in self.decay_epochs))

    def __call__(self, t: int) -> float:
        """η_t for iteration t ≥ 0, in double precision.

        >>> Schedule(minibatch=512, iterations_per_epoch=100, warmup="constant")(499)
        0.1
        """
        eta = self.base_lr if self.scaled == "loss" else self._undecayed(t)
        for start in self.decay_iterations:
            if t >= start:
                eta *= self.decay_factor
        return eta

    def loss_scale(self, t: int) -> float:
        """s_t, what the loss is multiplied by: 1, or where the loss is scaled, what η_t would be multiplied by.

        >>> Schedule(minibatch=512, iterations_per_epoch=100, scaled="loss").loss_scale(500)
        2.0
        """
        return self._undecayed(t) / self.base_lr if self.scaled == "loss" else 1.0

    def _undecayed(self, t: int) -> float:
        return self.base_lr + self.increment * t if t < self.warmup_iterations else self.target

    def symbolic(self, t: TensorVariable) -> TensorVariable:
        """η_t as a graph: the same function of `t` (int64 scalar) as a float64 scalar.

        >>> t = pt.lscalar("t")
        >>> float(Schedule(minibatch=512, iterations_per_epoch=100).symbolic(t).eval({t: 250}))
        0.15
        """
        eta = double(self.base_lr) if self.scaled == "loss" else self._symbolic_undecayed(t)
        for start in self.decay_iterations:
            eta = pt.switch(pt.ge(t, start), eta * double(self.decay_factor), eta)
        return eta

    def symbolic_loss_scale(self, t: TensorVariable) -> TensorVariable:
        """s_t as a graph, a float64 scalar like `symbolic`.

        >>> t = pt.lscalar("t")
        >>> schedule = Schedule(minibatch=512, iterations_per_epoch=100, scaled="loss")
        >>> float(schedule.symbolic_loss_scale(t).eval({t: 500}))
        2.0
        """
        return self._symbolic_undecayed(t) / double(self.base_lr) if self.scaled == "loss" else double(1)

    def _symbolic_undecayed(self, t: TensorVariable) -> TensorVariable:
        eta = double(self.target)
        if self.warmup_iterations:
            rising = double(self.base_lr) + double(self.increment) * t
            eta = pt.switch(pt.lt(t, self.warmup_iterations), rising, eta)
        return eta


def double(x: Any) -> TensorVariable:
    """`x` as a float64 scalar: PyTensor gives a Python float the dtype of its setting floatX."""
    return pt.as_tensor_variable(np.float64(x) if isinstance(x, float | int) else x)
