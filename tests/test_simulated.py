"""Simulated workers: the same rules under a virtual clock, against NumPy, real runs and what must be conserved."""

import heapq
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest
import torch
from mpi4py import MPI
from toy_replica import MOMENTUM, RATE, Toy

from tests.test_training_mpi import orderly, refused, trained
from theanompi.config import ClockSettings, ConfigError, RunConfig, resolve
from theanompi.exchange import centre
from theanompi.launch.check import check
from theanompi.record.log import read_log
from theanompi.record.progress import Progress
from theanompi.rules import Diverged, get_rule
from theanompi.training import items, simulated
from theanompi.training.replica import Measures
from theanompi.training.simulated.baton import Deadlock, run_workers
from theanompi.training.simulated.communicator import Communicator
from theanompi.training.simulated.links import SimulatedLinks
from theanompi.training.simulated.loan import Loan
from theanompi.training.simulated.replay import Replay
from theanompi.training.simulated.world import World

N = 40
"""Weights of a toy."""
ASYNCHRONOUS = ("EASGD", "ASGD", "GOSGD")


class Quiet:
    """A recorder that records nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Linear(Toy):
    """Least squares on pairs of its worker's own: the gradient is Aᵀ(A·w - b)."""

    def __init__(self, world: World, rank: int, *, still: bool = False) -> None:
        super().__init__(rank, N, still=still)
        self._world = world
        if still:
            self.weights.flat.fill_(rank)
        self._pairs = [torch.from_numpy(array) for array in pairs(rank)]

    def train_iter(self, count: int, record: Any, objective: int = 0) -> None:
        a, b = self._pairs
        self.gradient.flat.copy_(a.T @ (a @ self.weights.flat - b))
        self._world.spend(self.rank, self._world.step_seconds(self.rank, count))


def pairs(rank: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([7, rank])
    return rng.normal(size=(8, N)).astype("float32") / 8, rng.normal(size=8).astype("float32")


def gradient(rank: int, w: np.ndarray) -> np.ndarray:
    a, b = pairs(rank)
    return np.asarray(a.T @ (a @ w - b))


def run(
    name: str,
    counts: Sequence[int],
    clock: ClockSettings,
    *,
    still: bool = False,
    meet: bool = False,
    sync_type: str = "cdd",
    **settings: Any,
) -> tuple[World, list[Linear], list[Any]]:
    """Let toys train: each its number of iterations."""
    size = len(counts)
    world = World(size, clock, seed=3)
    toys, rules = [Linear(world, rank, still=still) for rank in range(size)], [get_rule(name) for _ in counts]
    config = RunConfig(
        rule=name, sync_type=sync_type, settings={f"rule.{k}": v for k, v in settings.items()}, seed=3
    )

    def work(rank: int) -> None:
        stop = cast(Any, SimpleNamespace(asked=False))
        links = SimulatedLinks(world, Communicator(world.meet, rank, size), config, Progress(), stop)
        toy, rule = cast(Any, toys[rank]), rules[rank]
        rule.attach(toy, links)
        for count in range(counts[rank]):
            rule.step(toy, count, Quiet())
        if meet:
            rule.meet(toy)
            rule.go_on(toy)

    run_workers(world.baton, work)
    return world, toys, rules


def events(counts: Sequence[int], clock: ClockSettings) -> Iterator[int]:
    """Which worker ends a step, in the order of time; exchanges take none."""

    def seconds(rank: int, count: int) -> float:
        drawn = float(np.random.default_rng([3, rank, count]).exponential())
        return clock.step_s * drawn * (clock.straggler if rank == len(counts) - 1 else 1)

    done = [0] * len(counts)
    queue = [(seconds(rank, 0), rank) for rank in range(len(counts))]
    heapq.heapify(queue)
    while queue:
        time, rank = heapq.heappop(queue)
        yield rank
        done[rank] += 1
        if done[rank] < counts[rank]:
            heapq.heappush(queue, (time + seconds(rank, done[rank]), rank))


COUNTS = (14, 13, 12, 11)
DRAWN = ClockSettings(steps="exponential", step_s=0.3, exchange_s=0.0, straggler=2.0)


def near(toys: Sequence[Linear], x: np.ndarray) -> bool:
    return all(np.abs(toy.weights.flat.numpy() - own).max() < 1e-6 for toy, own in zip(toys, x, strict=True))


def start() -> tuple[np.ndarray, np.ndarray, list[int]]:
    return np.zeros((4, N), "float32"), np.zeros((4, N), "float32"), [0] * 4


def test_easgd_is_a_numpy_loop_over_50_events() -> None:
    _, toys, rules = run("EASGD", COUNTS, DRAWN, period=3)
    (x, v, done), c, pull = start(), np.zeros(N, "float32"), np.zeros((4, N), "float32")
    for who in events(COUNTS, DRAWN):
        v[who] = MOMENTUM * v[who] - RATE * gradient(who, x[who])
        x[who] += v[who] - pull[who]
        pull[who], done[who] = 0, done[who] + 1
        # While it computes the next gradient.
        if done[who] % 3 == 0 and done[who] < COUNTS[who]:
            pull[who] = 0.9 / 4 * (x[who] - c)
            c = c + pull[who]
    assert sum(done) == 50 and near(toys, x)
    assert np.abs(rules[0]._centre._numbers.values.numpy() - c).max() < 1e-6


@pytest.mark.parametrize("aware", [False, True])
def test_asgd_is_a_numpy_loop_over_50_events(aware: bool) -> None:
    _, toys, rules = run("ASGD", COUNTS, DRAWN, staleness_aware=aware)
    (x, _, seen), w, v = start(), np.zeros(N, "float32"), np.zeros(N, "float32")
    passes: list[list[tuple[int, int]]] = [[] for _ in COUNTS]
    for number, who in enumerate(events(COUNTS, DRAWN)):
        staleness = number - seen[who]
        g = gradient(who, x[who]) / (max(1, staleness) if aware else 1)
        v = MOMENTUM * v - RATE * g
        w = w + v
        x[who], seen[who] = w, number + 1
        passes[who].append((number, staleness))
    assert near(toys, x) and [rule.passes() for rule in rules] == passes


def test_a_gradient_of_a_loss_that_is_not_finite_does_not_come_to_the_centre() -> None:
    class Lost(Toy):
        def measures(self, objective: int = 0) -> Measures:
            return Measures(1, {"loss": (math.nan, 1.0)}, [math.nan], False)

    centre, rule, toy = mock.Mock(), get_rule("ASGD"), cast(Any, Lost(0, N))
    links = SimpleNamespace(rank=0, size=2, config=RunConfig(rule="ASGD"), centre=lambda _: centre)
    rule.attach(toy, cast(Any, links))
    with pytest.raises(Diverged, match=r"^the loss is not finite on rank 0 \(nan\)$"):
        rule.step(toy, 0, Quiet())
    centre.part.assert_not_called()


def test_gosgd_is_a_numpy_loop_over_50_events_and_its_shares_sum_to_1() -> None:
    _, toys, rules = run("GOSGD", COUNTS, DRAWN, p=0.4)
    x, v, done = start()
    share, boxes, hands, letters = [0.25] * 4, [[] for _ in COUNTS], [], 0  # type: ignore[var-annotated]
    coins = [np.random.default_rng([3, rank]) for rank in range(4)]
    for who in events(COUNTS, DRAWN):
        v[who] = MOMENTUM * v[who] - RATE * gradient(who, x[who])
        x[who] += v[who]
        done[who] += 1
        coin, choice = coins[who].random(2)
        if coin < 0.4:
            other = int(choice * 3)
            share[who] /= 2
            # What is written at the end stays in hand.
            box = boxes[other + (other >= who)] if done[who] < COUNTS[who] else hands
            box.append((x[who].copy(), share[who]))
            letters += 1
        if done[who] < COUNTS[who]:
            for values, half in boxes[who]:
                x[who] = (share[who] * x[who] + half * values) / (share[who] + half)
                share[who] += half
            boxes[who] = []
    assert letters > 10 and near(toys, x)
    assert [rule._share for rule in rules] == pytest.approx(share)
    assert sum(share) + sum(half for box in [*boxes, hands] for _, half in box) == pytest.approx(1)


def test_local_sgd_is_a_numpy_loop_and_waits_for_the_slowest_at_each_average() -> None:
    world, toys, _ = run("BSP", (12,) * 4, DRAWN, sync_type="avg", period=4)
    x, v, _ = start()
    time = 0.0
    for iteration in range(12):
        for who in range(4):
            v[who] = MOMENTUM * v[who] - RATE * gradient(who, x[who])
            x[who] += v[who]
        if iteration % 4 == 3:
            x[:] = x.mean(0)
            since = range(iteration - 3, iteration + 1)
            time += max(sum(world.step_seconds(who, i) for i in since) for who in range(4))
    assert near(toys, x) and world.baton.times == pytest.approx([time] * 4)


def test_swapped_networks_change_places_in_pairs_and_none_is_lost() -> None:
    _, toys, _ = run(
        "BSP", (3,) * 4, ClockSettings(steps="exponential"), still=True, sync_type="swap", period=3
    )
    first, second = zip(
        *((toy.weights.flat[0].item(), toy.weights.flat[-1].item()) for toy in toys), strict=True
    )
    assert second == (0, 1, 2, 3) and sorted(first) == [0, 1, 2, 3]
    assert all(first[int(first[rank])] == rank != first[rank] for rank in range(4))


def test_a_centre_of_several_parts_is_one_worker_at_a_time_and_the_order_is_that_of_all_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(centre, "LEAST", 8)
    clock = ClockSettings(step_s=0.1, exchange_s=0.4)
    world, toys, rules = run("EASGD", (3,) * 4, clock, still=True, period=1)
    assert rules[0]._centre.n_parts == 4
    order = sorted((number, rank) for rank, rule in enumerate(rules) for number, _ in rule.passes())
    assert [rank for _, rank in order] == [0, 1, 2, 3] * 3
    # The first one passes at once, and each next one a part behind it; their steps are hidden by that.
    assert world.baton.times == pytest.approx([1.2, 1.3, 1.4, 1.5])


@pytest.mark.parametrize(("name", "settings"), [("EASGD", {"period": 1}), ("GOSGD", {"p": 1.0})])
def test_what_takes_no_longer_than_a_gradient_is_hidden_by_it(name: str, settings: dict[str, Any]) -> None:
    # Also what the second waits for the first at the centre.
    world, *_ = run(name, (3, 3), ClockSettings(step_s=0.5, exchange_s=0.25), **settings)
    assert world.baton.times == pytest.approx([1.5, 1.5])


def test_200_random_schedules_with_delays_end_and_conserve_what_they_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(centre, "LEAST", 8)
    rng = np.random.default_rng(11)
    for _ in range(200):
        name, size = ASYNCHRONOUS[rng.integers(3)], int(rng.integers(2, 6))
        clock = ClockSettings(
            steps=("constant", "exponential")[rng.integers(2)],
            step_s=float(rng.choice([0.1, 1.0])),
            exchange_s=float(rng.choice([0.0, 0.1, 3.0])),
            straggler=float(rng.choice([1.0, 5.0])),
        )
        settings = {"EASGD": {"period": 2}, "ASGD": {}, "GOSGD": {"p": 0.7}}[name]
        world, _, rules = run(name, [5] * size, clock, meet=True, **settings)
        assert not world.baton._waiting
        if name == "GOSGD":
            assert sum(rule._share for rule in rules) == pytest.approx(1)
        else:
            passes = sorted(number for rule in rules for number, _ in rule.passes())
            assert passes == list(range(size * (3 if name == "EASGD" else 5)))


def test_a_worker_that_leaves_the_others_alone_or_meets_for_something_else_ends_all() -> None:
    def alone(rank: int) -> None:
        if rank:
            world.meet(rank, "company", None)

    def elsewhere(rank: int) -> None:
        world.meet(rank, f"reason {rank}", None)

    world = World(3, ClockSettings(), 0)
    with pytest.raises(Deadlock, match="1 for company, 2 for company"):
        run_workers(world.baton, alone)
    world = World(3, ClockSettings(), 0)
    with pytest.raises(RuntimeError, match="worker 1 has come for reason 1, where others wait for reason 0"):
        run_workers(world.baton, elsewhere)


def one_process(out: Path, workers: int, **settings: Any) -> dict[str, np.ndarray]:
    return trained(1, out, workers_simulated=workers, **settings)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_all_workers_read_one_open_data_file() -> None:
    """There may be more of them than a process may open files."""
    world = World(3, ClockSettings(), 0)
    config = resolve(RunConfig(modelfile="small_models", modelclass="Plain", devices="cpu", batch_size=4))
    with mock.patch.object(items, "open_dataset", wraps=items.open_dataset) as opened:
        model: Any = Loan(world).model(config, Communicator(world.meet, 0, 3))
    model.cleanup()
    assert opened.call_count == 1


def test_summed_gradients_give_the_bits_of_accumulation(tmp_path: Path) -> None:
    simulated_ones = one_process(tmp_path / "clock", 8, ema=0.9)
    assert same(simulated_ones, trained(1, tmp_path / "accumulated", accumulation=8, ema=0.9))


WARMUP = {"scaling": "linear", "base_batch": 2, "base_lr": 0.005, "warmup_epochs": 0.06}
"""The rate is another one in each of the first iterations."""


def test_a_worker_that_already_waits_for_a_meeting_stops_with_the_one_that_was_asked_to(
    tmp_path: Path,
) -> None:
    """The first has a third iteration to end while the second one has done its two, of which nobody told it."""
    settings = {
        "rule": "EASGD",
        "checkpoint_interval": 2,
        "max_iterations": 8,
        "modelclass": "TermInThirdStep",
    }
    done = orderly(1, tmp_path, workers_simulated=2, **settings)
    assert done.returncode == 75, done.stderr
    assert read_log(tmp_path / "log.jsonl")[-1]["iteration"] == 2
    steps = sorted(line for line in done.stdout.splitlines() if line.startswith("worker"))
    assert steps == [f"worker {rank}, step {count}" for rank, n in ((0, 3), (1, 2)) for count in range(n)]


@pytest.mark.parametrize(("rule", "workers"), [("EASGD", 2), ("ASGD", 2), ("GOSGD", 2), ("GOSGD", 4)])
def test_with_the_order_of_a_real_run_the_weights_are_its_own(
    rule: str, workers: int, tmp_path: Path
) -> None:
    # GOSGD's meet within the run, too: what arrives there is in no line.
    settings = {"rule": rule, "max_iterations": 12, "checkpoint_interval": 5, **WARMUP}
    own: dict[str, Any] = {"EASGD": {"rule.period": 2}, "ASGD": {}, "GOSGD": {"rule.p": 0.6}}[rule]
    real = trained(workers, tmp_path / "real", **settings, settings=own)
    log = tmp_path / "real" / "log.jsonl"
    # As in no other order: the second worker is slow.
    own = {**own, "clock.order": str(log), "clock.straggler": 50}
    again = one_process(tmp_path / "clock", workers, **settings, settings=own)
    assert real.keys() == again.keys()
    assert max(np.abs(real[name] - again[name]).max() for name in real) < 1e-6
    first, second = (
        [(each["done"], each["order"], sorted(each["letters"])) for each in read_log(path) if "done" in each]
        for path in (log, tmp_path / "clock" / "log.jsonl")
    )
    assert first == second and len(first) == 3
    assert any(order or letters for _, order, letters in first)


def test_a_log_may_say_what_the_schedule_went_by_and_then_says_it_of_each_iteration(tmp_path: Path) -> None:
    meeting = {
        "kind": "meeting",
        "epoch": 0,
        "iteration": 2,
        "done": [3, 1],
        "waited_s": [0, 0],
        "order": [0],
    }

    def totals(**more: Any) -> list[int]:
        (tmp_path / "log.jsonl").write_text(json.dumps({**meeting, **more}) + "\n")
        replay = Replay.read(str(tmp_path / "log.jsonl"), 2)
        return [replay.total(0, own, 9) for own in (1, 2, 3)]

    assert totals(pace=[[0, 0, 1], [0]]) == [0, 2, 4]
    # Earlier ones did not.
    assert totals() == [3, 3, 4]
    for pace in ([[0, 0], [0]], [[0, 0, 1]], [[0, 0, -1], [0]], [[0, 0, 1], 0]):
        with pytest.raises(ConfigError, match="clock.order: .* which has that of others"):
            totals(pace=pace)


@pytest.mark.parametrize(("rule", "own"), [("EASGD", {"rule.period": 2}), ("GOSGD", {"rule.p": 0.5})])
def test_each_worker_of_a_resumed_run_goes_on_with_its_own_weights(
    rule: str, own: dict[str, Any], tmp_path: Path
) -> None:
    settings = {
        "rule": rule,
        "batch_size": 64,
        "epochs": 2,
        "settings": {"clock.steps": "exponential", **own},
    }
    whole = one_process(tmp_path / "whole", 4, **settings, max_iterations=None)
    one_process(tmp_path / "parts", 4, **settings, max_iterations=6)
    assert read_log(tmp_path / "parts" / "log.jsonl")[-2]["kind"] == "val"
    assert same(whole, one_process(tmp_path / "parts", 4, **settings, max_iterations=None, resume=True))
    # Another run's order is gone through from its beginning.
    settings["settings"] = {**own, "clock.order": str(tmp_path / "whole" / "log.jsonl")}
    (line,) = refused(1, tmp_path / "parts", workers_simulated=4, resume=True, **settings)
    assert line.startswith("theanompi: clock.order: expected no resume")


def test_what_any_worker_does_is_news_of_the_process(tmp_path: Path) -> None:
    """The watchdog looks at the first one's progress, which may wait for many others."""
    first, seen = Progress(), list[str]()

    def be(*_: Any, comm: Communicator, progress: Progress, **__: Any) -> None:
        progress.now("computing")
        comm.Barrier()
        seen.append(first.doing.what)
        progress.iteration, progress.saved = 3 + comm.rank, comm.rank

    with mock.patch.object(simulated, "train", be):
        simulated.train_simulated(
            RunConfig(workers_simulated=2, devices="cpu"),
            "cpu",
            plan=False,
            folder=None,
            comm=MPI.COMM_SELF,
            progress=first,
            stop=cast(Any, None),
        )
    assert set(seen) == {"worker 1: computing"}
    assert (first.iteration, first.saved) == (3, 0)


def test_a_run_is_the_same_each_time_and_when_it_is_resumed(tmp_path: Path) -> None:
    """What counts as stale too: all have the centre's weights after a meeting, as after a resume."""
    settings = {
        "rule": "ASGD",
        "base_lr": 0.002,
        "batch_size": 16,
        "epochs": 2,
        "max_iterations": None,
        "settings": {"clock.steps": "exponential", "clock.straggler": 3, "rule.staleness_aware": True},
    }
    whole = one_process(tmp_path / "whole", 8, **settings)
    one_process(tmp_path / "parts", 8, **{**settings, "max_iterations": 12})
    parts = one_process(tmp_path / "parts", 8, **settings, resume=True)
    assert same(whole, parts)
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    ends = [[r["virtual_s"] for r in log if r["kind"] == "val"] for log in logs]
    assert len(ends[0]) == 2 and ends[0] == pytest.approx(ends[1])
    stale, again = ([r["staleness"] for r in log if r["kind"] == "meeting"] for log in logs)
    assert stale == again
    # Each worker ends the iteration that it is in when all together have done those of the epoch.
    done = [r["done"] for r in logs[0] if r["kind"] == "meeting"]
    assert [sum(each) // 8 for each in done] == [12, 24] and done[1][7] < 0.7 * done[1][0]
    assert sum(map(sum, stale)) == sum(done[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers_simulated": 0}, "workers_simulated: expected a whole number"),
        ({"workers_simulated": 1, "rule": "EASGD"}, "expected workers_simulated of two or more, got one"),
        ({"workers_simulated": 4, "devices": ["cpu", "cpu"]}, "workers_simulated: expected one device"),
        ({"workers_simulated": 4, "timeline": 3}, "timeline: expected none with workers_simulated, got 3"),
        ({"settings": {"clock.straggler": 2}}, "clock.straggler: expected workers_simulated"),
        (
            {"workers_simulated": 4, "settings": {"clock.steps": "normal"}},
            "clock.steps: expected one of constant, exponential, got 'normal'",
        ),
        (
            {"workers_simulated": 4, "settings": {"clock.straggler": 0.5}},
            "clock.straggler: expected a number of at least 1, got 0.5",
        ),
        ({"workers_simulated": 4, "settings": {"clock.order": "nowhere"}}, "clock.order: expected the log"),
        (
            {"workers_simulated": 4, "settings": {"clock.step": 1}},
            "clock: unknown setting 'step'; did you mean",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")) as error:
        config = RunConfig.from_dict({"devices": ["cpu"], **settings})
        get_rule(config.rule).check(config)
        check(config)
    assert "\n" not in str(error.value) and len(str(error.value)) <= 300


def test_a_log_without_an_order_or_of_more_workers_is_refused(tmp_path: Path) -> None:
    orderly(1, tmp_path / "alone")
    log = tmp_path / "alone" / "log.jsonl"
    (line,) = refused(
        1, tmp_path / "out", workers_simulated=2, rule="EASGD", settings={"clock.order": str(log)}
    )
    assert line.startswith("theanompi: clock.order: expected the log of a run with a centre")


def test_several_ranks_cannot_be_all_workers_each(tmp_path: Path) -> None:
    assert "expected one process" in "".join(refused(2, tmp_path, workers_simulated=4))
