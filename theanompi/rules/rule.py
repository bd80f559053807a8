"""What a rule is: to its user a way to start a run, to the training loop what travels, when, and to whom."""

import importlib
import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from theanompi.config import ConfigError, RunConfig, read_settings, run_folder
from theanompi.launch.mpirun import launched
from theanompi.launch.session import Session
from theanompi.record.metrics import add_sums
from theanompi.record.result import Result

if TYPE_CHECKING:
    from theanompi.exchange import Exchanger
    from theanompi.exchange.centre import Centre
    from theanompi.training.links import Links
    from theanompi.training.replica import Measures, Replica


class Diverged(ConfigError):
    """The loss is no longer a finite number."""


class Step(NamedTuple):
    """What came of one iteration.

    Attributes
    ----------
    items : int
        Of the minibatch, over all ranks.
    sums : mapping of str to (float, float)
        Over all ranks, by the name of a loss or metric, its weighted sum and the sum of the weights.
    eta : float
        η of the first objective that was updated.
    asked : bool
        Whether any rank was asked to stop: all ranks know it in the same iteration, if the rule is `lockstep`.
    """

    items: int
    sums: Mapping[str, tuple[float, float]]
    eta: float
    asked: bool


class Rule(Session):
    """A way of training together.

    A rule of your own is a class with `attach`, `sums_gradients` and `step`, in a file of its own; neither torch nor
    MPI is needed for it, as it is handed the replica and the links.

    Attributes
    ----------
    lockstep : bool
        Whether all ranks are in the same iteration. Otherwise each goes on by itself from one meeting of all to the
        next; they meet at the end of each epoch, for a checkpoint and when one of them has called the others.
    """

    lockstep: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        """Give a rule that does something of its own the name by which its workers import it."""
        super().__init_subclass__()
        does = any(
            hasattr(value, "__get__") for name, value in vars(cls).items() if not name.startswith("__")
        )
        if does and "name" not in vars(cls):
            module = cls.__module__
            if module == "__main__":
                module = Path(getattr(sys.modules[module], "__file__", None) or module).stem
            cls.name = f"{module}.{cls.__qualname__}"

    @property
    def result(self) -> Result:
        """What is in the folder of the run that `init` has started; after `wait`, what it has come to.

        Raises
        ------
        RuntimeError
            Without `init` before it.
        ConfigError, ValueError
            As `theanompi.record.result.Result`.
        """
        if self._config is None:
            raise RuntimeError(f"{self.name}.result: expected a call of init before it, got none")
        if self._job is not None and self._job.account.out:  # the workers have told it
            return Result(self._job.account.out)
        if self._config.out is None and self._config.data is None:
            # The model's class says which data it takes, and they are part of the name.
            ranks = importlib.import_module("theanompi.training.rank")
            return Result(ranks.resolve_by_class(self._config).out)
        return Result(run_folder(self._config))

    @abstractmethod
    def attach(self, replica: "Replica", links: "Links") -> "Sequence[Exchanger]":
        """Decide, before anything is compiled, which buffers travel by which link; called once on each rank.

        Returns
        -------
        sequence of Exchanger
            One for each objective, to be told of its gradients while backward goes on; or none.
        """

    @property
    @abstractmethod
    def sums_gradients(self) -> bool:
        """Whether gradients are summed over the ranks before an update: then it divides by what all ranks have."""

    @abstractmethod
    def step(self, replica: "Replica", count: int, record: Any) -> Step:
        """One iteration: gradients of the minibatch at this position of the epoch, exchange, update.

        Raises
        ------
        Diverged
            If a loss is not finite, on every rank if the rule is `lockstep`.
        """

    def plan(self, config: RunConfig, size: int) -> str:
        """What the workers of a run, `size` of them, do beside what the schedule says; may be nothing."""
        return ""

    def words(self) -> str:
        """What the log says of the exchange, once the rule is attached."""
        return self.name

    @property
    def own_slots(self) -> bool:
        """Whether each rank has slots of its own, such as a velocity, at a meeting."""
        return not self.sums_gradients

    @property
    def own_state(self) -> bool:
        """Whether `state_arrays` are this rank's own."""
        return not self.lockstep

    def meet(self, replica: "Replica") -> None:  # noqa: B027
        """Before a validation and a checkpoint: have those weights in the replica that count; collective.

        It may be called several times in one meeting.
        """

    def go_on(self, replica: "Replica") -> None:  # noqa: B027
        """After them: have those weights in the replica that this worker trains."""

    def passes(self) -> list[tuple[int, int]]:
        """The passes at a centre of this rank since the last call: the number of each, and its staleness."""
        return []

    def letters(self) -> list[tuple[int, int]]:
        """The letters that this rank has taken in since the last call, but for those at a meeting.

        Of each its sender, and after how many iterations of its own this rank took it.
        """
        return []

    def state_arrays(self) -> Mapping[str, Any]:
        """What a checkpoint holds of the rule, by name: arrays, tensors or numbers.

        Of each rank, if they are its own (`own_state`); else they are taken for the same on all ranks.
        """
        return {}

    def load_state_arrays(self, arrays: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `state_arrays` gave, as tensors; the replica has what it had then. Collective."""


class Asynchronous(Rule):
    """A rule whose workers train by themselves, and do not wait for each other between two meetings.

    What counts is not what a worker has: `meet` keeps that aside until `go_on`.
    """

    lockstep = False
    sums_gradients = False

    def check(self, config: RunConfig) -> None:
        """Refuse settings that are wrong, a single worker, and a sync type, as nothing is summed in step."""
        read_settings(self.Settings, config.settings, "rule")
        simulated = config.workers_simulated
        if simulated == 1:
            raise ConfigError(f"rule {self.name}: expected workers_simulated of two or more, got one")
        if len(config.devices) == 1 and not (launched() or simulated):
            raise ConfigError(f"rule {self.name}: expected two devices or more, one for each worker, got one")
        if config.sync_type != "cdd":
            raise ConfigError(
                f"rule {self.name}: expected no sync_type, which is for BSP, as workers here do not wait for each "
                f"other, got {config.sync_type!r}"
            )

    def attach(self, replica: "Replica", links: "Links") -> "Sequence[Exchanger]":
        if links.size == 1:
            raise ConfigError(f"rule {self.name}: expected two ranks or more, one for each worker, got one")
        self._links, self._own = links, cast(Any, None)
        self._weights = replica.weights_to_average()
        return ()

    @abstractmethod
    def consensus(self, replica: "Replica") -> None:
        """Have those weights in the replica that count; collective."""

    def meet(self, replica: "Replica") -> None:
        if self._own is None:
            self._own = replica.weights_to_average().flat.clone()
            # All are here before one looks, and have looked before one goes on.
            self._links.total([0.0])
            self.consensus(replica)
            replica.weights_averaged()
            self._links.total([0.0])

    def go_on(self, replica: "Replica") -> None:
        if self._own is not None:
            replica.weights_to_average().flat.copy_(self._own)
            replica.weights_averaged()
            self._own = None

    def state_arrays(self) -> Mapping[str, Any]:
        return {"weights": self._own}

    def load_state_arrays(self, arrays: Mapping[str, Any]) -> None:
        self._own = self._weights.flat.clone()
        self._own.copy_(arrays["weights"])


class AtCentre(Asynchronous):
    """An asynchronous rule whose workers pass at a centre, one after another.

    The *staleness* of a pass is how many of other workers there were since this one's last.
    """

    _centre: "Centre"
    """Whose passes are counted."""

    def attach(self, replica: "Replica", links: "Links") -> "Sequence[Exchanger]":
        self._passes: list[tuple[int, int]] = []
        self._last = -1
        return super().attach(replica, links)

    def words(self) -> str:
        return (
            f"{self.plan(self._links.config, self._links.size)}; no device is a server, as Theano-MPI's first one was: "
            f"the centre is {self._centre.description}"
        )

    def passed(self) -> int:
        """Take note of this worker's pass at the centre; gives its staleness."""
        number = self._centre.number
        staleness, self._last = number - self._last - 1, number
        self._passes.append((number, staleness))
        return staleness

    def passes(self) -> list[tuple[int, int]]:
        found, self._passes = self._passes, []
        return found


def check_finite(losses: Sequence[float]) -> None:
    """Refuse to go on with losses that are no numbers.

    Parameters
    ----------
    losses : sequence of float
        Of each rank.

    Raises
    ------
    Diverged
        Naming the ranks.
    """
    bad = [f"{rank} ({loss:g})" for rank, loss in enumerate(losses) if not math.isfinite(loss)]
    if bad:
        raise Diverged(f"the loss is not finite on rank{'s' if len(bad) > 1 else ''} {', '.join(bad)}")


def check_own(loss: float, links: "Links") -> None:
    """Refuse to go on with a loss of this rank that is no number.

    Raises
    ------
    Diverged
        Naming the rank.
    """
    check_finite([loss if rank == links.rank else 0.0 for rank in range(links.size)])


def comes_due(period: int, before: int, done: int) -> bool:
    """Whether something that is due every `period` iterations is due on the way from `before` to `done` of them.

    >>> comes_due(3, 2, 3), comes_due(3, 3, 5), comes_due(3, 5, 7)
    (True, False, True)
    """
    return done // period > before // period


def added_up(steps: Sequence[Step]) -> Step:
    """What several iterations of this rank have seen, as one; η is that of the last.

    >>> added_up([Step(4, {"loss": (1.0, 4.0)}, 0.1, False), Step(4, {"loss": (2.0, 4.0)}, 0.2, True)])
    Step(items=8, sums={'loss': (3.0, 8.0)}, eta=0.2, asked=True)
    """
    sums: dict[str, tuple[float, float]] = {}
    for step in steps:
        add_sums(sums, step.sums)
    asked = any(step.asked for step in steps)
    return Step(sum(step.items for step in steps), sums, steps[-1].eta, asked)


def own_step(
    replica: "Replica",
    count: int,
    record: Any,
    *,
    before_update: Callable[[], None] | None = None,
    update: "Callable[[int, Measures], float] | None" = None,
) -> tuple[Step, float]:
    """An iteration of this rank alone: gradients of each objective that is due, and an update by them.

    Parameters
    ----------
    replica : Replica
        Compiled for gradients that are not summed.
    count : int
        Position in the epoch.
    record : Recorder
    before_update : callable, optional
        Called once, when the first gradients are there.
    update : callable, optional
        Called with each objective and its measures in the place of `Replica.update`; gives η, and tells `record`.

    Returns
    -------
    step : Step
        Of this rank's items.
    loss : float
        Summed over them.
    """
    items, etas, asked, loss = 0, [], False, 0.0
    sums: dict[str, tuple[float, float]] = {}
    for objective in replica.due(count):
        replica.train_iter(count, record, objective)
        record.loaded(replica.readings())
        record.start("computing gradients")
        measures = replica.measures(objective)  # waits for the device
        record.end("calc")
        if before_update is not None:
            before_update()
            before_update = None
        if update is not None:
            etas.append(update(objective, measures))
        else:
            record.start("updating")
            etas.append(float(replica.update(objective)))  # waits for it, too
            record.end("calc", "update")
        items, asked, loss = measures.items, asked or measures.asked, loss + sum(measures.losses)
        sums |= measures.sums
    return Step(items, sums, etas[0], asked), loss


def average_weights(replica: "Replica", exchanger: "Exchanger", size: int, record: Any) -> None:
    """Give all ranks the mean of their weights; collective.

    Parameters
    ----------
    exchanger : Exchanger
        Of its `weights_to_average`.
    size : int
        Number of ranks.
    record : Recorder
    """
    record.start("exchanging")
    weights = replica.weights_to_average()
    exchanger.sum()
    weights.flat.div_(size)
    replica.weights_averaged()
    record.end("comm")
    record.exchanged(exchanger.spans)


def of_this_rank(step: Step, loss: float, links: "Links") -> Step:
    """Say what this rank alone has seen, and whether all are to meet.

    Parameters
    ----------
    step, loss
        As from `own_step`.

    Raises
    ------
    Diverged
        If this rank's loss is not finite.
    """
    check_own(loss, links)
    return step._replace(asked=links.called())


def over_all_ranks(step: Step, loss: float, links: "Links") -> Step:
    """Sum what each rank has seen; collective.

    Parameters
    ----------
    step, loss
        This rank's, as from `own_step`.

    Raises
    ------
    Diverged
        On every rank, if a loss is not finite.
    """
    own = [loss if rank == links.rank else 0.0 for rank in range(links.size)]
    values, counts = zip(*step.sums.values(), strict=True)
    items, asked, *rest = links.total([step.items, step.asked or links.asked, *own, *values, *counts])
    check_finite(rest[: links.size])
    rest = rest[links.size :]
    pairs = zip(rest[: len(values)], rest[len(values) :], strict=True)
    return Step(round(items), dict(zip(step.sums, pairs, strict=True)), step.eta, asked > 0)
