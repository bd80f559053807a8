"""Asynchronous rules and local SGD under a real mpirun: against NumPy, what they conserve, and whole runs."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.mpi import check_warm
from tests.test_training_mpi import SETTINGS, orderly, processes_of, refused, train, trained
from theanompi.exchange.helper import ThreadHelper
from theanompi.launch.mpirun import identify
from theanompi.record import checkpoint
from theanompi.record.log import read_log

HEAD = """
import random, sys, time
from types import SimpleNamespace
from unittest import mock
import numpy as np, torch
from mpi4py import MPI
from toy_replica import MOMENTUM, RATE, Toy, target
from theanompi.config import RunConfig
from theanompi.exchange import centre
from theanompi.record.progress import Progress
from theanompi.rules import get_rule
from theanompi.training.links import Links
rank, size, N = comm.rank, comm.size, 50

class Quiet:
    def __getattr__(self, name):
        return lambda *_: None

def start(name, still=False, sync_type="cdd", per_epoch=10**6, **settings):
    settings = {f"rule.{k}": v for k, v in settings.items()}
    config = RunConfig(rule=name, sync_type=sync_type, settings=settings, seed=3)
    links = Links(comm, config, Progress(), SimpleNamespace(asked=False))
    toy, rule = Toy(rank, N, per_epoch, still=still), get_rule(name)
    rule.attach(toy, links)
    return toy, rule, links

def in_turn(rule, toy, order):
    # Who is next is the same on all ranks; nobody else does anything.
    count = 0
    for who in order:
        comm.Barrier()
        if who == rank:
            rule.step(toy, count, Quiet())
            count += 1
    comm.Barrier()

def near(tensor, expected, what):
    assert np.abs(tensor.numpy() - expected).max() < 1e-6, what

order = np.random.default_rng(5).integers(0, size, 50).tolist()
# So that a small centre has several parts.
with mock.patch.object(centre, "LEAST", 8):
"""


def check(n: int, program: str) -> None:
    check_warm(n, HEAD, program)


@pytest.mark.parametrize("n", [2, 4])
def test_easgd_is_a_numpy_loop_where_the_order_is_fixed(n: int) -> None:
    check(
        n,
        """
toy, rule, links = start("EASGD", period=3)
assert rule._centre.n_parts == size
in_turn(rule, toy, order)
x, v, done = np.zeros((size, N), "float32"), np.zeros((size, N), "float32"), [0] * size
c, alpha = np.zeros(N, "float32"), 0.9 / size
for who in order:
    v[who] = MOMENTUM * v[who] - RATE * (x[who] - target(who, N))
    if done[who] % 3 == 0:
        pull = alpha * (x[who] - c)
        x[who], c = x[who] - pull, c + pull
    x[who] = x[who] + v[who]
    done[who] += 1
near(toy.weights.flat, x[rank], "a worker")
rule.meet(toy)
near(toy.weights.flat, c, "what counts is the centre")
rule.go_on(toy)
near(toy.weights.flat, x[rank], "afterwards each goes on with its own")
links.close()
""",
    )


@pytest.mark.parametrize(("n", "aware"), [(2, False), (4, True)])
def test_asgd_is_a_numpy_loop_where_the_order_is_fixed(n: int, aware: bool) -> None:
    check(
        n,
        f"aware = {aware}\n"
        + """
toy, rule, links = start("ASGD", staleness_aware=aware)
in_turn(rule, toy, order)
w, v, own = np.zeros(N, "float32"), np.zeros(N, "float32"), np.zeros((size, N), "float32")
last, passes = [-1] * size, [[] for _ in range(size)]
for number, who in enumerate(order):
    old = number - last[who] - 1
    gradient = own[who] - target(who, N)
    v = MOMENTUM * v - RATE * gradient / (max(1, old) if aware else 1)
    w = w + v
    own[who], last[who] = w, number
    passes[who].append((number, old))
near(toy.weights.flat, own[rank], "a worker has what it left at its last update")
assert rule.passes() == passes[rank] and rule.passes() == []
rule.meet(toy)
near(toy.weights.flat, w, "the centre's weights")
near(toy.velocity.flat, v, "the momentum lives at the centre")
rule.go_on(toy)
in_turn(rule, toy, [0, size - 1])
expected = {0: [(50, 0)], size - 1: [(51, 1)]}.get(rank, [])
assert rule.passes() == expected, "at a meeting all take the newest weights"
links.close()
""",
    )


@pytest.mark.parametrize("n", [2, 4])
def test_gosgd_is_a_numpy_loop_where_the_order_is_fixed(n: int) -> None:
    check(
        n,
        """
toy, rule, links = start("GOSGD", p=0.4)
in_turn(rule, toy, order)
x, v, share = np.zeros((size, N), "float32"), np.zeros((size, N), "float32"), [1 / size] * size
boxes, coins = [[] for _ in range(size)], [np.random.default_rng([3, who]) for who in range(size)]
written = [None] * size
def take(who):
    for letter, part in boxes[who]:
        x[who] = (share[who] * x[who] + part * letter) / (share[who] + part)
        share[who] += part
    boxes[who] = []
def post(who):
    if written[who]:
        to, *letter = written[who]
        boxes[to].append(letter)
        written[who] = None
for who in order:
    take(who)
    post(who)
    v[who] = MOMENTUM * v[who] - RATE * (x[who] - target(who, N))
    x[who] = x[who] + v[who]
    coin, choice = coins[who].random(2)
    if coin < 0.4:
        share[who] /= 2
        others = [other for other in range(size) if other != who]
        written[who] = (others[int(choice * len(others))], x[who].copy(), share[who])
near(toy.weights.flat, x[rank], "a worker")
rule.meet(toy)
for who in range(size):
    post(who)
for who in range(size):
    take(who)
near(toy.weights.flat, np.average(x, axis=0, weights=share), "the mean by shares")
rule.go_on(toy)
near(toy.weights.flat, x[rank], "its own, with all letters taken in")
assert abs(rule._share - share[rank]) < 1e-12
links.close()
""",
    )


def test_the_exchange_goes_on_while_a_gradient_is_computed() -> None:
    check(
        2,
        """
for name, settings, done in (
    ("EASGD", {"period": 1}, lambda rule: passed() > before and len(rule._centre.spans) == 3 * rule._centre.n_parts),
    ("GOSGD", {"p": 1.0}, lambda rule: rule._to is None),
):
    toy, rule, links = start(name, **settings)
    passed = lambda: rule._centre.number if name == "EASGD" else 0
    gradients, end = toy.train_iter, time.monotonic() + 20
    def slow(*arguments):
        while not done(rule) and time.monotonic() < end:
            time.sleep(1e-3)
        gradients(*arguments)
        assert done(rule), "it has waited for the gradient"
    toy.train_iter = slow
    for count in range(3):
        before = passed()
        rule.step(toy, count, Quiet())
    assert links._hurried(), "whoever waits for the helper has nothing to compute"
    links.close()
""",
    )


def test_what_the_helper_raises_is_raised_where_it_is_waited_for() -> None:
    helper = ThreadHelper(torch.device("cpu"))
    helper.begin(lambda: {}["no such part"])
    with pytest.raises(KeyError, match="no such part"):
        helper.join()
    helper.close()


def test_under_contention_easgd_keeps_the_sum_and_gosgd_the_shares() -> None:
    check(
        4,
        """
pause = random.Random(rank)
def run(rule, toy, steps):
    for count in range(steps):
        rule.step(toy, count, Quiet())
        if pause.random() < 0.2:
            time.sleep(pause.uniform(0, 2e-3))

toy, rule, links = start("EASGD", still=True, period=1)
toy.weights.flat.copy_(torch.from_numpy(target(rank, N)))
before = comm.allreduce(toy.weights.flat.double().numpy())
run(rule, toy, 60)
rule.meet(toy)
middle = toy.weights.flat.double().numpy().copy()
rule.go_on(toy)
after = comm.allreduce(toy.weights.flat.double().numpy()) + middle
assert np.abs(after - before).max() < 1e-5, "nothing is lost between workers and centre"
assert np.abs(middle).max() > 1e-3
links.close()

toy, rule, links = start("GOSGD", still=True, p=0.8)
toy.weights.flat.copy_(torch.from_numpy(target(rank, N)))
mean = comm.allreduce(toy.weights.flat.double().numpy()) / size
run(rule, toy, 60)
rule.meet(toy)
assert abs(comm.allreduce(rule._share) - 1) < 1e-12
assert np.abs(toy.weights.flat.numpy() - mean).max() < 1e-5, "the mean by shares stays"
rule.meet(toy)
assert np.abs(toy.weights.flat.numpy() - mean).max() < 1e-5, "a second call changes nothing"
assert not rule._mailbox.collect(), "nothing is under way"
links.close()
""",
    )


@pytest.mark.parametrize("n", [2, 3])
def test_local_sgd_is_a_numpy_loop_and_the_log_loses_nothing_between_two_averages(n: int) -> None:
    check(
        n,
        """
toy, rule, links = start("BSP", sync_type="avg", per_epoch=7, period=3, local_from=1)
x, v, items = np.zeros((size, N), "float32"), np.zeros((size, N), "float32"), []
for iteration in range(1, 15):
    toy.epoch, count = divmod(iteration - 1, 7)
    step = rule.step(toy, count, Quiet())
    items.append((step.items, step.sums.get("loss", (0, 0))[0]))
    for who in range(size):
        v[who] = MOMENTUM * v[who] - RATE * (x[who] - target(who, N))
        x[who] = x[who] + v[who]
    # Every third one, each one before epoch 1, and the last one of an epoch.
    if iteration % 3 == 0 or iteration <= 7 or iteration == 14:
        x[:] = x.mean(axis=0)
    near(toy.weights.flat, x[rank], iteration)
assert items == [(size, size)] * 7 + [(0, 0), (2 * size,) * 2, (0, 0), (0, 0), (3 * size,) * 2, (0, 0), (2 * size,) * 2]
links.close()
""",
    )


@pytest.mark.parametrize("n", [2, 3])
def test_networks_of_the_first_objective_change_places_in_pairs(n: int) -> None:
    check(
        n,
        """
toy, rule, links = start("BSP", sync_type="swap", still=True, period=2)
toy.weights.flat.fill_(float(rank))
seen = set()
for count in range(12):
    before = comm.allgather(float(toy.weights.flat[0]))
    rule.step(toy, count, Quiet())
    after = comm.allgather(float(toy.weights.flat[0]))
    assert sorted(after) == list(range(size)), "none is lost"
    moved = sum(a != b for a, b in zip(before, after))
    assert moved == (2 if count % 2 else 0), (count, before, after)
    seen.add(tuple(after))
    first, second = toy.networks()
    assert (first[0] == toy.weights.flat[0]).all() and (second[0] == rank).all(), "the generator stays"
assert size == 2 or len(seen) > 2, "the pairs are drawn anew"
links.close()
""",
    )


@pytest.mark.parametrize("n", [2, 4])
def test_random_schedules_with_delays_come_to_their_meetings(n: int) -> None:
    check(
        n,
        """
rules = [start(name, still=True, **more) for name, more in (
    ("EASGD", {"period": 1}), ("ASGD", {}), ("GOSGD", {"p": 0.5})
)]
for toy, *_ in rules:
    toy.weights.flat.copy_(torch.from_numpy(target(rank, N)))
own = random.Random(f"schedules {rank}")
for schedule in range(30):
    toy, rule, _ = rules[schedule % 3]
    for count in range(own.randrange(5)):
        rule.step(toy, count, Quiet())
        if own.random() < 0.3:
            time.sleep(own.choice([0, 1e-4, 1e-3]))
    rule.meet(toy)
    rule.go_on(toy)
assert abs(comm.allreduce(rules[2][1]._share) - 1) < 1e-12
for *_, links in rules:
    links.close()
""",
    )


SHORT: dict[str, Any] = {"batch_size": 64, "base_lr": 0.02, "max_iterations": None, "log_interval": 4}
PER_EPOCH = 11  # of each of two workers
OWN = {"EASGD": {"rule.period": 3}, "ASGD": {}, "GOSGD": {"rule.p": 0.5}}


def own(arrays: dict[str, np.ndarray], rank: int) -> dict[str, np.ndarray]:
    """What a checkpoint has of a worker alone: its weights and numbers, and its slots."""
    return {name: value for name, value in arrays.items() if name.split("/")[1] == str(rank)}


@pytest.mark.parametrize("rule", OWN)
def test_a_run_validates_what_counts_and_tells_of_its_meetings(rule: str, tmp_path: Path) -> None:
    arrays = trained(2, tmp_path, rule=rule, settings=OWN[rule], **SHORT, epochs=2, timeline=3)
    log = read_log(tmp_path / "log.jsonl")
    assert [line["iteration"] for line in log if line["kind"] == "val"] == [11, 22]
    meetings = [line for line in log if line["kind"] == "meeting"]
    assert [line["iteration"] for line in meetings] == [11, 22]
    # Whoever is faster does more of the iterations of all, and each does one of every epoch at the least.
    done = meetings[-1]["done"]
    assert [sum(line["done"]) // 2 for line in meetings] == [11, 22] and min(done) >= 2
    passes = [{"EASGD": -(-each // 3), "ASGD": each, "GOSGD": 0}[rule] for each in done]
    for rank in range(2):
        assert sum(line["order"].count(rank) for line in meetings) == passes[rank]
    assert sum(log[-1]["staleness"]) == sum(passes) and len(log[-1]["waited_s"]) == 2
    # Rank 0's own.
    assert sum(line["items"] for line in log if line["kind"] == "train") == done[0] * 64
    assert {name.split("/")[1] for name in arrays if name.startswith("rule/")} == {"0", "1"}
    weights = np.concatenate([v.ravel() for k, v in sorted(arrays.items()) if k.startswith("weights/")])
    workers = [own(arrays, rank).get(f"rule/{rank}/weights") for rank in range(2)]
    if rule == "ASGD":
        assert workers == [None, None] and "velocity/conv.W" in arrays, "all of it is at the centre"
    else:
        assert not np.array_equal(*(arrays[f"velocity/{rank}/conv.W"] for rank in range(2))), "its own"
    if rule == "EASGD":
        assert not np.array_equal(*workers)
        assert np.sort(weights).tolist() != np.sort(workers[0]).tolist()
    if rule == "GOSGD":  # Whose workers are equal where two letters crossed before the meeting.
        shares = [float(arrays[f"rule/{rank}/share"]) for rank in range(2)]
        assert sum(shares) == pytest.approx(1)
        mean = sum(share * x for share, x in zip(shares, workers, strict=True))
        assert np.abs(np.sort(mean) - np.sort(weights)).max() < 1e-6
    trace = json.loads((tmp_path / "timeline.json").read_text())
    assert {event["pid"] for event in trace["traceEvents"]} == {1, 2}


def test_a_run_that_is_stopped_and_resumed_goes_on_with_all_workers_where_each_was(tmp_path: Path) -> None:
    common = {
        **SHORT,
        "rule": "EASGD",
        "settings": {"rule.period": 1000},
        "epochs": 2,
    }
    done = orderly(2, tmp_path, "term-4", **common)
    assert done.returncode == 75, done.stderr
    before, attributes = checkpoint.load(tmp_path / "checkpoint.h5")
    iterations = [int(before[f"rule/{rank}/iteration"]) for rank in range(2)]
    assert min(iterations) > 0 and 4 <= attributes["iteration"] == sum(iterations) // 2 < 2 * PER_EPOCH
    (line,) = refused(4, tmp_path, resume=True, **common)
    assert "expected" in line and "got" in line
    # At next to no rate, without momentum, the weights stay, unless they were not taken up.
    still = {"base_lr": 1e-12, "momentum": 0.0, "weight_decay": 0.0, "warmup": "none"}
    after = trained(2, tmp_path, resume=True, **{**common, **still})
    for rank in range(2):
        name = f"rule/{rank}/weights"
        assert np.abs(before[name] - after[name]).max() < 1e-6
        assert after[f"rule/{rank}/iteration"] > iterations[rank]
    assert not np.array_equal(after["rule/0/weights"], after["rule/1/weights"])
    assert sum(int(after[f"rule/{rank}/iteration"]) for rank in range(2)) // 2 == 2 * PER_EPOCH


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_resumed_centre_has_weights_velocities_and_counts(optimizer: str, tmp_path: Path) -> None:
    common = {**SHORT, "rule": "ASGD", "optimizer": optimizer, "warmup": "none"}
    before = trained(2, tmp_path, **{**common, "max_iterations": 11}, epochs=2)
    # At next to no rate, without momentum, the weights stay, unless they were not taken up.
    still = {**common, "base_lr": 1e-12, "momentum": 0.0, "weight_decay": 0.0}
    after = trained(2, tmp_path, **still, epochs=2, resume=True)
    for name in before:
        if name.startswith("weights/"):
            assert np.abs(before[name] - after[name]).max() < 1e-6, name
    assert read_log(tmp_path / "log.jsonl")[-1]["iteration"] == 22


def test_weights_are_averaged_where_a_run_ends_between_two_averages(tmp_path: Path) -> None:
    settings = {"sync_type": "avg", "settings": {"rule.period": 4}, "log_interval": 1}
    trained(2, tmp_path, **settings, max_iterations=6)
    # What ranks have seen is told with the averages.
    losses = [line["loss"] for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "train"]
    assert [loss is not None for loss in losses] == [False, False, False, True, False, True]


def test_a_checkpoint_that_one_rank_cannot_read_ends_all_with_its_line(tmp_path: Path) -> None:
    """Before ranks wait for each other to fill the centre."""
    common = {**SHORT, "rule": "EASGD"}
    trained(2, tmp_path, **{**common, "max_iterations": 2})
    done = orderly(2, tmp_path, "blind", resume=True, **common)
    assert done.returncode == 1 and re.search(
        "^theanompi: rank 1 on .*: expected a checkpoint$", done.stderr, re.M
    )


@pytest.mark.parametrize(
    "spoilt", ["links.ThreadHelper", "model.Model.compile_iter_fns", "rank.Recorder", "trainer.train_alone"]
)
def test_ranks_that_all_end_for_an_error_leave_no_window_for_mpi_to_complain_of(
    spoilt: str, tmp_path: Path
) -> None:
    settings = {**SETTINGS, **SHORT, "rule": "EASGD", "out": str(tmp_path)}
    check_warm(
        2,
        f"""
from unittest import mock
from tests.train import train
from theanompi.exchange.window import LockedWindow
from theanompi.rules import Diverged
from theanompi.training.ranks import Agreed
made = []
class Noted(LockedWindow):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        made.append(self)
    def close(self):
        super().close()
        made.remove(self)
with (
    mock.patch("theanompi.exchange.centre.LockedWindow", Noted),
    mock.patch("theanompi.training.links.LockedWindow", Noted),
    mock.patch("theanompi.training.{spoilt}", side_effect=Diverged("spoilt")) as called,
):
""",
        f"""
try:
    train({settings!r}, comm)
except Agreed:
    assert called.called and not made, made
    made = None
assert made is None
""",
    )


def test_a_checkpoint_within_an_epoch_is_a_meeting_of_all(tmp_path: Path) -> None:
    trained(
        2,
        tmp_path,
        rule="GOSGD",
        settings=OWN["GOSGD"],
        **{**SHORT, "max_iterations": 7},
        checkpoint_interval=3,
    )
    log = read_log(tmp_path / "log.jsonl")
    assert [line["iteration"] for line in log if line["kind"] == "meeting"] == [3, 6, 7]


@pytest.mark.parametrize("rule", OWN)
def test_a_loss_that_is_not_finite_on_one_worker_ends_all_with_its_line(rule: str, tmp_path: Path) -> None:
    (line,) = refused(2, tmp_path, rule=rule, modelclass="NotFinite", **SHORT)
    assert re.search(r"iteration \d+: the loss is not finite on rank 1 \(nan\), η = ", line), line
    last = read_log(tmp_path / "log.jsonl")[-1]
    assert last["kind"] == "diverged" and "rank 1 (nan)" in last["reason"]


@pytest.mark.parametrize("rule", ["EASGD", "GOSGD"])  # a centre, of which ASGD has one too, and a mailbox
def test_the_death_of_a_worker_ends_all_even_if_it_has_locked_what_the_others_want(
    rule: str, tmp_path: Path
) -> None:
    done = train(2, tmp_path, "kill-holding-6", rule=rule, settings=OWN[rule], **SHORT)
    if identify()[1] == "openmpi":
        assert done.returncode == 137
    else:
        # In MPICH's words or in Intel's.
        printed = done.stdout + done.stderr
        assert done.returncode != 0 and re.search(r"\(signal 9\)|KILLED BY SIGNAL: 9", printed), printed
    assert "summary" not in (tmp_path / "log.jsonl").read_text() and processes_of(tmp_path) == []


def test_one_rank_alone_is_refused(tmp_path: Path) -> None:
    (line,) = refused(1, tmp_path, rule="EASGD")
    assert line == "theanompi: rule EASGD: expected two ranks or more, one for each worker, got one"


def test_swapped_networks_of_all_workers_are_resumed_to_the_same_bits(tmp_path: Path) -> None:
    common: dict[str, Any] = {"modelclass": "Rivals", "sync_type": "swap"}
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    arrays = trained(2, straight, **common, max_iterations=4)
    assert not np.array_equal(arrays["rule/0/weights"], arrays["rule/1/weights"])
    trained(2, resumed, **common, max_iterations=2)
    trained(2, resumed, **common, max_iterations=4, resume=True)
    assert (straight / "checkpoint.h5").read_bytes() == (resumed / "checkpoint.h5").read_bytes()
    (line,) = refused(2, tmp_path / "one", sync_type="swap")
    assert "sync_type swap: expected a model of several objectives, such as a GAN, got one objective" in line
