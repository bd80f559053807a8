"""Step decay, as in Goyal et al. 2017 (arXiv 1706.02677, §5.1)."""

import math
from dataclasses import dataclass
from typing import Any

from theanompi.training.schedules.base import Functions, Schedule


@dataclass(frozen=True, kw_only=True)
class Steps(Schedule):
    """The rate is multiplied by a factor at some epochs; the defaults are those of the paper.

    Parameters
    ----------
    decay_epochs : tuple of float
        Where the rate is multiplied by `decay_factor`.
    decay_factor : float
        Factor of each step decay.

    Examples
    --------
    The paper's largest run without loss of accuracy, 256 workers with 32 images each:

    >>> schedule = Steps(minibatch=8192, iterations_per_epoch=157)
    >>> schedule.target
    3.2
    >>> [round(schedule(epoch * 157), 6) for epoch in (0, 2, 5, 30, 60, 80)]
    [0.1, 1.34, 3.2, 0.32, 0.032, 0.0032]
    """

    decay_epochs: tuple[float, ...] = (30, 60, 80)
    decay_factor: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.decay_factor < math.inf:
            raise ValueError(f"schedule: expected decay_factor above 0, got {self.decay_factor!r}")
        if not all(0 <= epoch < math.inf for epoch in self.decay_epochs):
            raise ValueError(f"schedule: expected decay_epochs of at least 0, got {self.decay_epochs!r}")
        super().__post_init__()

    @property
    def decay_iterations(self) -> tuple[int, ...]:
        """The iterations at which the rate is decayed, in order."""
        return tuple(sorted(round(epoch * self.iterations_per_epoch) for epoch in self.decay_epochs))

    @property
    def jumps(self) -> tuple[int, ...]:
        return tuple(sorted({self.warmup_iterations, *self.decay_iterations}))

    def decayed(self, eta: Any, t: Any, f: Functions) -> Any:
        for start in self.decay_iterations:
            eta = f.where(t >= start, eta * self.decay_factor, eta)
        return eta
