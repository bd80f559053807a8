"""What the training loop does in which order, with workers that compute nothing."""

import math
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from theanompi.record.log import iteration_record, validation_record
from theanompi.record.progress import Progress
from theanompi.rules import Diverged
from theanompi.rules.rule import Step
from theanompi.training import loop
from theanompi.training.loop import train_alone, train_epoch, validate, validation_of
from theanompi.training.stop import StopSignals

SUMS = {"loss": (2.0, 4.0)}


class Workers:
    """A replica, a rule and a recorder in one, which note what is asked of them, in `calls`; epochs of 4 iterations."""

    def __init__(self, asked: Iterable[int] = (), diverges_at: int | None = None, advances: int = 1) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.data = SimpleNamespace(n_batch_train=4, n_batch_val=2)
        self.reported = SimpleNamespace(metrics=("loss",))
        self.epoch, self.eta, self.rows, self.validated = 0, 0.5, [[3.0, 6.0, 3.0]], None
        self._asked, self._diverges_at, self._advances = set(asked), diverges_at, advances
        self._steps = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: self.calls.append((name, *arguments, *named.values()))

    def rate(self, iteration: int) -> float | None:
        return self.eta and self.eta + iteration

    def step(self, replica: Any, count: int, recorder: Any) -> Step:
        assert replica is recorder is self
        self.calls.append(("step", self.epoch, count))
        self._steps += 1
        if self._steps == self._diverges_at:
            raise Diverged("the loss is nan")
        return Step(4, SUMS, 0.1, self._steps in self._asked)

    def advance(self, count: int) -> int:
        return count + self._advances

    def validation_sums(self) -> Any:
        return SimpleNamespace(tolist=lambda: self.rows)

    def n_validated(self) -> int | None:
        return self.validated

    def of(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.calls if call[0] in names]


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What hooks are told, those of any worker."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(
        loop, "hook", lambda replica, name: lambda record: told.append({"hook": name, **record})
    )
    return told


def epoch(workers: Any, start: int, end: int, stop: StopSignals, after: Callable[[int], None]) -> None:
    train_epoch(workers, workers, workers, 3, start, end, stop, after)


def test_each_iteration_of_an_epoch_is_recorded_then_told_then_saved(hooked):
    workers, stop = Workers(asked=[2]), StopSignals(heed=False)
    agreed = []

    def after(count):
        workers.calls.append(("after", count))
        agreed.append((stop.agreed, len(hooked)))

    epoch(workers, 1, 4, stop, after)
    assert workers.calls == [
        *[("step", 3, 1), ("train", 3, 14, 4, SUMS, 0.1), ("after", 2)],
        *[("step", 3, 2), ("train", 3, 15, 4, SUMS, 0.1), ("after", 3)],
        *[("step", 3, 3), ("train", 3, 16, 4, SUMS, 0.1), ("after", 4)],
        ("flush",),
    ]
    # Whether all know of a signal, they know before they save.
    assert agreed == [(False, 1), (True, 2), (False, 3)]
    assert hooked == [
        {"hook": "on_iteration", **iteration_record(["loss"], 3, done, 4, SUMS, 0.1)} for done in (14, 15, 16)
    ]


def test_a_step_of_several_iterations_does_not_go_past_the_end():
    workers, after = Workers(advances=2), []
    epoch(workers, 0, 3, StopSignals(heed=False), after.append)
    assert after == [2, 3]
    assert [call[2] for call in workers.of("train")] == [14, 15]


def test_who_was_asked_to_stop_says_so_with_each_step_from_then_on():
    workers, stop = Workers(), StopSignals(heed=False)

    def after(count):
        stop.number = 15 if count == 2 else stop.number

    epoch(workers, 0, 4, stop, after)
    assert [call[0] for call in workers.of("step", "ask_to_stop")] == [
        *("step", "step"),
        *("ask_to_stop", "step") * 2,
    ]


@pytest.mark.parametrize(("eta", "rate"), [(0.5, ", η = 13.5"), (None, "")])
def test_where_and_at_what_rate_a_loss_diverged_is_said_and_logged(eta, rate):
    workers = Workers(diverges_at=2)
    workers.eta = eta
    with pytest.raises(Diverged) as caught:
        epoch(workers, 0, 4, StopSignals(heed=False), lambda count: None)
    assert str(caught.value) == f"iteration 14: the loss is nan{rate}" and caught.value.__suppress_context__
    assert workers.of("diverged") == [("diverged", 3, 14, f"the loss is nan{rate}")]


def alone(
    workers: Any, done: int, total: int, until: int, others: Iterable[int], size: int = 2, **changes: Any
) -> int:
    """Train beside workers that do so many iterations meanwhile."""
    reached = [total]
    does = iter(others)

    def count(finished):
        reached[0] += finished + next(does)
        return reached[0]

    return train_alone(
        workers,
        workers,
        workers,
        done,
        total,
        until,
        size,
        changes.get("stop") or StopSignals(heed=False),
        count,
        lambda pace: workers.calls.append(("before", pace)),
        lambda reached: workers.calls.append(("after", reached)),
    )


def test_who_trains_alone_goes_by_its_own_items_and_by_the_schedule_of_all(hooked):
    workers = Workers()
    assert alone(workers, 3, 6, 12, others=[1, 1, 4]) == 6
    assert workers.calls == [
        *[("before", 3), ("at", 3), ("step", 0, 3), ("train", 0, 4, 4, SUMS, 0.1), ("after", 4)],
        *[("before", 4), ("at", 4), ("step", 1, 0), ("train", 1, 5, 4, SUMS, 0.1), ("after", 5)],
        # All together have done more than they had to.
        *[("before", 5), ("at", 5), ("step", 1, 1), ("train", 1, 6, 4, SUMS, 0.1), ("after", 6)],
        ("flush",),
    ]
    assert hooked == [
        {"hook": "on_iteration", **iteration_record(["loss"], epoch, done, 4, SUMS, 0.1)}
        for epoch, done in ((0, 4), (1, 5), (1, 6))
    ]


def test_before_all_have_come_to_the_first_iteration_it_is_that_of_the_first_epoch():
    workers = Workers()
    alone(workers, 0, 0, 1, others=[0], size=4)
    assert workers.of("train", "after") == [("train", 0, 0, 4, SUMS, 0.1), ("after", 0)]


def test_a_step_of_several_iterations_counts_those_that_its_epoch_has():
    workers = Workers(advances=3)
    assert alone(workers, 2, 4, 9, others=[0, 0]) == 7
    assert workers.of("step") == [("step", 0, 2), ("step", 1, 0)]


@pytest.mark.parametrize(("asked", "steps"), [([2], 2), ([], 0)])
def test_who_trains_alone_ends_when_one_calls_the_others(asked, steps):
    workers, stop = Workers(asked=asked), StopSignals(heed=False)
    stop.agreed = not asked
    assert alone(workers, 0, 0, 100, others=[0] * 9, stop=stop) == steps
    assert workers.calls[-1] == ("flush",)


def test_who_diverges_alone_says_the_iteration_of_all():
    workers = Workers(diverges_at=2)
    with pytest.raises(Diverged, match=r"^iteration 6: the loss is nan, η = 5\.5$"):
        alone(workers, 1, 8, 20, others=[1] * 9)
    assert workers.of("diverged") == [("diverged", 1, 6, "the loss is nan, η = 5.5")]


class Comm:
    """Where another rank has said something already."""

    def __init__(self, progress: Progress, rows: list[list[float]], asked: bool = False) -> None:
        self._progress, self._other = progress, (rows, asked)

    def allgather(self, own: Any) -> list[Any]:
        assert self._progress.exchange is not None and self._progress.exchange.waits
        return [own, self._other]


def test_a_validation_is_the_sum_of_all_ranks_batches_and_tells_them_of_a_signal(hooked):
    workers, progress, stop = Workers(), Progress(), StopSignals(heed=False)
    workers.rows, workers.validated = [[2.0, 1e16, 2.0], [1.0, 1.0, 1.0]], 5
    doing = []
    workers.val_iter = lambda count, recorder: doing.append((count, progress.doing.what))  # type: ignore[method-assign]
    validate(workers, Comm(progress, [[2.0, -1e16, 1.5]], True), workers, 6, 28, stop, progress)
    assert doing == [(0, "validating, batch 1 of 2"), (1, "validating, batch 2 of 2")]
    assert progress.doing.what == "validating" and progress.exchange is None
    # As if the sum were exact.
    sums = {"loss": (1.0, 4.5)}
    assert workers.of("validation") == [("validation", 6, 28, 5, sums)]
    assert hooked == [{"hook": "on_validation", **validation_record(["loss"], 6, 28, 5, sums)}]
    assert stop.agreed


@pytest.mark.parametrize(("validated", "counted"), [(7, "6"), (None, "")])
def test_items_that_were_not_counted_once_are_an_error_where_their_number_is_known(validated, counted):
    workers, progress = Workers(), Progress()
    workers.validated = validated
    arguments = workers, Comm(progress, [[3.0, 1.0, 3.0]]), None, StopSignals(heed=False), progress
    if validated is None:
        assert validation_of(*arguments) == (6, {"loss": (7.0, 6.0)})
        return
    with pytest.raises(RuntimeError, match="^validation: expected each of the 7 items once, counted 6$"):
        validation_of(*arguments)


@pytest.mark.parametrize("loss", [[math.inf, -math.inf], [1e308, 1e308]])
def test_a_loss_that_has_no_sum_is_not_a_number(loss):
    workers, progress = Workers(), Progress()
    workers.rows = [[1.0, loss[0], 1.0]]
    stop = StopSignals(heed=False)
    stop.agreed = True
    items, sums = validation_of(workers, Comm(progress, [[1.0, loss[1], 1.0]]), None, stop, progress)
    assert items == 2 and math.isnan(sums["loss"][0]) and not stop.agreed
