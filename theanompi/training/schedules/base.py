"""What all schedules share: the rate for a minibatch, its warmup, and one formula for numbers and for graphs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from theanompi.config import SCALED, SCALINGS, WARMUPS
from theanompi.config.plugins import NoSettings
from theanompi.training.scalars import double


class Functions(NamedTuple):
    """What a rate is written with, beside arithmetic and comparisons."""

    where: Callable[[Any, Any, Any], Any]
    minimum: Callable[[Any, Any], Any]
    maximum: Callable[[Any, Any], Any]
    cos: Callable[[Any], Any]
    exp: Callable[[Any], Any]
    sqrt: Callable[[Any], Any]


def _choose(condition: bool, a: float, b: float) -> float:
    return a if condition else b


def _switch(condition: TensorVariable, a: Any, b: Any) -> TensorVariable:
    return pt.switch(condition, double(a), double(b))


NUMBERS = Functions(_choose, min, max, math.cos, math.exp, math.sqrt)
GRAPHS = Functions(_switch, pt.minimum, pt.maximum, pt.cos, pt.exp, pt.sqrt)


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """The learning rate η_t at each iteration t ≥ 0 (P §2.1, §2.2, §5.1); the defaults are P's.

    P is Goyal et al. 2017, *Accurate, Large Minibatch SGD* (arXiv 1706.02677v2). Iterations t count the weight
    updates of a run from 0; those past its end keep the last rate. A kind of schedule is a subclass with one
    method, `decayed`. A field that has the name of a run's setting gets that; what else a kind lets its users set
    is in its `Settings`.

    Parameters
    ----------
    minibatch : int
        A·k·n, the items of one weight update: n per worker, k workers, A accumulation steps.
    iterations_per_epoch : int
        T, the weight updates of one epoch.
    epochs : int
        Length of the run.
    base_lr : float
        The reference rate, right for `base_batch` items.
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
        Length of the warmup. Epochs are turned into iterations by round(epoch·T).
    settings : Settings, optional
        The kind's own; by default its defaults.

    Raises
    ------
    ValueError
        When a value is out of its range, or the rate does not stay above 0, by which the momentum correction
        divides; the message names it.

    Examples
    --------
    >>> class Inverse(Schedule):
    ...     def decayed(self, eta, t, f):
    ...         return eta / f.sqrt(1 + t / self.iterations_per_epoch)
    >>> Inverse(minibatch=256, iterations_per_epoch=100)(300)
    0.05
    """

    Settings: ClassVar[type] = NoSettings

    minibatch: int
    iterations_per_epoch: int
    epochs: int = 90
    base_lr: float = 0.1
    base_batch: int = 256
    scaling: str = "linear"
    warmup: str = "gradual"
    scaled: str = "rate"
    warmup_epochs: float = 5
    settings: Any = None

    def __post_init__(self) -> None:
        if self.settings is None:
            object.__setattr__(self, "settings", self.Settings())
        for name in ("minibatch", "iterations_per_epoch", "epochs", "base_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"schedule: expected {name} of at least 1, got {getattr(self, name)!r}")
        if not 0 < self.base_lr < math.inf:
            raise ValueError(f"schedule: expected base_lr above 0, got {self.base_lr!r}")
        if not 0 <= self.warmup_epochs < math.inf:
            raise ValueError(f"schedule: expected warmup_epochs of at least 0, got {self.warmup_epochs!r}")
        for name, known in [("scaling", SCALINGS), ("warmup", WARMUPS), ("scaled", SCALED)]:
            if getattr(self, name) not in known:
                raise ValueError(
                    f"schedule: expected {name} to be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        for t in sorted({0, *self.jumps, self.iterations - 1}):
            if not 0 < self(t) < math.inf:
                raise ValueError(f"schedule: expected a rate above 0 at iteration {t:,}, got {self(t)!r}")

    @abstractmethod
    def decayed(self, eta: Any, t: Any, f: Functions) -> Any:
        """The rate at iteration `t`, where it would be `eta` without decay.

        Called with numbers, and with symbolic scalars: written with arithmetic, comparisons and the functions of
        `f`, it gives a number or a graph.

        Parameters
        ----------
        eta : float or float64 scalar
            The rate after scaling and warmup.
        t : int or int64 scalar
            From 0 to `iterations` - 1.
        f : Functions
        """

    def words(self) -> str:
        """The kind of decay and its settings, for the plan; empty where its table of rates says all."""
        return ""

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
    def jumps(self) -> tuple[int, ...]:
        """The iterations, in order, at which the rate jumps or goes on by another formula; 0 may be one of them."""
        return (self.warmup_iterations,)

    def progress(self, t: Any, f: Functions) -> Any:
        """The share of the iterations after the warmup that are over at `t`: from 0 to below 1."""
        start = self.warmup_iterations
        return f.maximum(t - start, 0) / max(self.iterations - start, 1)

    def __call__(self, t: int) -> float:
        """η_t for iteration t ≥ 0, in double precision."""
        return float(self._rate(t, NUMBERS))

    def symbolic(self, t: TensorVariable) -> TensorVariable:
        """η_t as a graph: the same function of `t` (int64 scalar) as a float64 scalar."""
        # Where a formula meets a Python float, it stays one.
        with pytensor.config.change_flags(floatX="float64"):
            return double(self._rate(t, GRAPHS))

    def loss_scale(self, t: int) -> float:
        """s_t, what the loss is multiplied by: 1, or where the loss is scaled, what η_t would be multiplied by."""
        return float(self._loss_scale(t, NUMBERS))

    def symbolic_loss_scale(self, t: TensorVariable) -> TensorVariable:
        """s_t as a graph, a float64 scalar like `symbolic`."""
        with pytensor.config.change_flags(floatX="float64"):
            return double(self._loss_scale(t, GRAPHS))

    def _rate(self, t: Any, f: Functions) -> Any:
        t = f.minimum(t, self.iterations - 1)
        return self.decayed(self.base_lr if self.scaled == "loss" else self._undecayed(t, f), t, f)

    def _loss_scale(self, t: Any, f: Functions) -> Any:
        if self.scaled != "loss":
            return 1.0
        return self._undecayed(f.minimum(t, self.iterations - 1), f) / self.base_lr

    def _undecayed(self, t: Any, f: Functions) -> Any:
        if not self.warmup_iterations:
            return self.target
        return f.where(t < self.warmup_iterations, self.base_lr + self.increment * t, self.target)
