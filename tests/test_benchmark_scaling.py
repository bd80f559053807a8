"""What the scaling model computes: against messages sent one by one, and what it reads, measures and writes."""

import doctest
import importlib
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from theanompi.config.plugins import find_class
from theanompi.models.resnet50 import ResNet50

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
FLOAT = 8
pytestmark = pytest.mark.usefixtures("beside_the_benchmarks")


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", ["cost_model", "scaling_model", "scaling_child"])
def test_the_examples(name: str) -> None:
    assert doctest.testmod(load(name)).failed == 0


class Cluster:
    """Members with a buffer and a clock each, who send parts of their buffers in rounds.

    What one sends, and what one receives, shares its bandwidth; both go on at once. A transfer begins when its
    sender and its receiver have done what they had to do before.
    """

    def __init__(self, p: int, n: int, link: Any) -> None:
        self.buffers = np.random.default_rng(p).integers(0, 100, (p, n)).astype(float)
        self.expected = self.buffers.sum(axis=0)
        self.p, self.n, self.link = p, n, link
        self.clocks, self.sent, self.rounds = np.zeros(p), np.zeros(p), 0

    def round(self, transfers: Sequence[tuple[int, int, slice]], add: bool) -> None:
        old, clocks = self.buffers.copy(), self.clocks.copy()
        sizes = [FLOAT * len(range(self.n)[part]) for *_, part in transfers]
        out, into = np.zeros(self.p), np.zeros(self.p)
        for (source, target, _), size in zip(transfers, sizes, strict=True):
            out[source] += size
            into[target] += size
        for source, target, part in transfers:
            if add:
                self.buffers[target, part] += old[source, part]
            else:
                self.buffers[target, part] = old[source, part]
            start = max(clocks[source], clocks[target])
            end = start + self.link.latency_s + self.link.s_per_byte * max(out[source], into[target])
            self.clocks[source] = max(self.clocks[source], end)
            added = self.link.reduce_s_per_byte * into[target] if add else 0.0
            self.clocks[target] = max(self.clocks[target], end + added)
        self.sent += out
        self.rounds += 1

    def part(self, index: int, of: int) -> slice:
        return slice(index * self.n // of, (index + 1) * self.n // of)

    def ring(self) -> None:
        p = self.p
        for add, ahead in ((True, 0), (False, 1)):
            for step in range(p - 1):
                pieces = [(i + ahead - step) % p for i in range(p)]
                self.round([(i, (i + 1) % p, self.part(pieces[i], p)) for i in range(p)], add)

    def halve(self, blocks: Sequence[Sequence[int]]) -> None:
        """Afterwards member i of a block of s has the i-th of s parts of the block's sum."""
        for level in range(max(map(len, blocks)).bit_length() - 1):
            self.round(self._pairs(blocks, level, given_away=True), add=True)

    def double(self, blocks: Sequence[Sequence[int]]) -> None:
        for level in reversed(range(max(map(len, blocks)).bit_length() - 1)):
            self.round(self._pairs(blocks, level, given_away=False), add=False)

    def _pairs(
        self, blocks: Sequence[Sequence[int]], level: int, given_away: bool
    ) -> list[tuple[int, int, slice]]:
        transfers = []
        for block in blocks:
            if len(block) >> level + 1:
                distance = len(block) >> level + 1
                for i, member in enumerate(block):
                    owner = i ^ distance if given_away else i
                    part = self.part(owner // distance, len(block) // distance)
                    transfers.append((member, block[i ^ distance], part))
        return transfers

    def halving_doubling(self) -> None:
        q = 2 ** int(math.log2(self.p))
        folded, everything = range(q, self.p), slice(0, self.n)
        if folded:
            self.round([(i, i - q, everything) for i in folded], add=True)
        self.halve([range(q)])
        self.double([range(q)])
        if folded:
            self.round([(i - q, i, everything) for i in folded], add=False)

    def binary_blocks(self) -> None:
        blocks, first = [], 0
        for size in (2**i for i in range(self.p.bit_length()) if self.p & 2**i):
            blocks.append(range(first, first + size))
            first += size
        self.halve(blocks)
        pairs = list(zip(blocks, blocks[1:], strict=False))
        for small, large in pairs:
            share = len(large) // len(small)
            self.round(
                [(small[i // share], large[i], self.part(i, len(large))) for i in range(len(large))], add=True
            )
        for small, large in reversed(pairs):
            share = len(large) // len(small)
            self.round(
                [(large[i], small[i // share], self.part(i, len(large))) for i in range(len(large))],
                add=False,
            )
        self.double(blocks)


LINKS = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (3e-5, 4e-10, 1e-10), (1e-6, 1e-9, 3e-9)]


@pytest.mark.parametrize("p", [1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 21, 44])
@pytest.mark.parametrize("name", ["ring", "halving_doubling", "binary_blocks"])
def test_collectives_cost_what_their_messages_cost(name: str, p: int) -> None:
    model = load("cost_model")
    n = 64 * p
    for numbers in LINKS:
        link = model.Link(*numbers)
        cluster = Cluster(p, n, link)
        getattr(cluster, name)()
        assert (cluster.buffers == cluster.expected).all()
        assert model.ALGORITHMS[name](p, FLOAT * n, link) == pytest.approx(cluster.clocks.max(), rel=1e-12)


@pytest.mark.parametrize("p", [2, 4, 8, 32])
def test_steps_and_bytes_are_those_of_the_paper(p: int) -> None:
    nbytes = FLOAT * 64 * p
    model = load("cost_model")
    for name, steps in (("ring", 2 * (p - 1)), ("halving_doubling", 2 * math.log2(p))):
        cluster = Cluster(p, 64 * p, model.Link(0.0, 0.0))
        getattr(cluster, name)()
        assert cluster.rounds == steps
        np.testing.assert_allclose(cluster.sent, 2 * (p - 1) / p * nbytes)
        assert model.ALGORITHMS[name](p, nbytes, model.Link(1.0, 0.0)) == steps
        assert model.ALGORITHMS[name](p, nbytes, model.Link(0.0, 1.0)) == pytest.approx(
            2 * (p - 1) / p * nbytes
        )


def test_buckets_are_cut_from_the_bytes_in_the_order_in_which_they_become_ready() -> None:
    noise = np.random.default_rng(0)
    pieces = load("cost_model").pieces
    for _ in range(20):
        sizes = noise.integers(1, 50, 12)
        ready = noise.permutation(12).astype(float)
        gradients = list(zip(ready.tolist(), sizes.tolist(), strict=True))
        bucket = int(noise.integers(1, 80))
        of_each_byte = [when for when, size in sorted(gradients) for _ in range(size)]
        chunks = [of_each_byte[i : i + bucket] for i in range(0, len(of_each_byte), bucket)]
        assert pieces(gradients, float(bucket)) == [(chunk[-1], len(chunk)) for chunk in chunks]
        assert pieces(gradients, 0.0) == sorted(gradients)


def test_exposed_communication_is_that_of_a_clock_that_ticks() -> None:
    noise = np.random.default_rng(1)
    exposed = load("cost_model").exposed
    seen = []
    for _ in range(100):
        ready = np.sort(noise.integers(0, 60, 8))
        cost = noise.integers(1, 12, 8)
        waiting, busy, tick, end = 0, 0, 0, 60
        while waiting < 8 or busy:
            if not busy and waiting < 8 and ready[waiting] <= tick:
                busy, waiting = int(cost[waiting]), waiting + 1
            busy, tick = max(0, busy - 1), tick + 1
        seen.append(max(0, tick - end))
        buckets = list(zip(ready.tolist(), cost.tolist(), strict=True))
        assert exposed(buckets, float, end) == seen[-1]
    assert 0 in seen and max(seen) > 5
    assert exposed([], float, 1.0) == 0


def test_the_three_phases_and_what_is_left_of_them() -> None:
    model = load("cost_model")
    network, server = model.Link(1e-3, 1e-6), model.Link(1e-4, 1e-7)
    gradients = ((0.0, 4e4), (0.1, 2e4))
    inputs = model.Inputs("x", 32, 0.3, 0.1, gradients, 0.0, network, server, 4)
    # Within a server of four: three hops there and three back.
    inside = [2 * (3 * 1e-4 + size * 1e-7) for size in (4e4, 2e4)]
    # Between two servers: two steps of half the buffer.
    between = [2 * (1e-3 + size / 2 * 1e-6) for size in (4e4, 2e4)]
    for name in ("ring", "halving_doubling", "binary_blocks"):
        assert inputs.iteration_s(1, name, False) == pytest.approx(0.4)
        assert inputs.iteration_s(4, name, False) == pytest.approx(0.4 + sum(inside))
        assert inputs.iteration_s(8, name, False) == pytest.approx(0.4 + sum(inside) + sum(between))
        # The first bucket is hidden whole, the second one is ready when backward ends.
        assert inputs.iteration_s(8, name, True) == pytest.approx(0.4 + inside[1] + between[1])
        expected = (0.4 + inside[1]) / (0.4 + inside[1] + between[1])
        assert inputs.efficiency(8, name, True) == pytest.approx(expected)
    with pytest.raises(
        model.InputError, match=r"^workers: expected at most 4 or a multiple of it .*, got 6$"
    ):
        inputs.iteration_s(6, "ring", True)


@pytest.mark.parametrize("name", ["ring", "halving_doubling"])
def test_the_fit_finds_latency_and_bandwidth_in_noise(name: str) -> None:
    model = load("cost_model")
    noise = np.random.default_rng(2)
    link = model.Link(2.5e-5, 1.6e-10, 4e-11)
    exact = [(p, b, model.ALGORITHMS[name](p, b, link)) for p in (2, 4) for b in (4e3, 6e4, 1e6, 2e6, 1.6e7)]
    found = model.fit(exact, name, 4e-11)
    assert (found.latency_s, found.s_per_byte) == pytest.approx((2.5e-5, 1.6e-10), rel=1e-9)
    noisy = [(p, b, t * noise.normal(1, 0.03)) for p, b, t in exact]
    found = model.fit([*noisy, (1, 5e3, 0.0)], name, 4e-11)
    assert found.latency_s == pytest.approx(2.5e-5, rel=0.1)
    assert found.s_per_byte == pytest.approx(1.6e-10, rel=0.1)


def test_no_fit_gives_a_latency_below_zero() -> None:
    model = load("cost_model")
    # A straight line through these would begin below zero.
    assert model.fit([(2, 1e3, 1e-7), (2, 1e6, 1e-2)], "ring").latency_s == 0


@pytest.mark.parametrize(
    ("samples", "algorithm", "message"),
    [
        (
            [(2, 1e6, 1.0)],
            "ring",
            "allreduce: expected times of at least two sizes, with two ranks or more, got 1",
        ),
        (
            [(1, 1e6, 1.0), (1, 2e6, 1.0)],
            "ring",
            "allreduce: expected times of at least two sizes, with two ranks or more, got 0",
        ),
        ([(2, 1e6, 1.0), (2, 2e6, 0.0)], "ring", "allreduce: expected times above 0 s, got one that is not"),
        (
            [(2, 1e6, 1.0), (2, 2e6, 1.0)],
            "tree",
            "algorithm: expected one of ring, halving_doubling, binary_blocks, got 'tree'",
        ),
    ],
)
def test_what_cannot_be_fitted(samples: Any, algorithm: str, message: str) -> None:
    model = load("cost_model")
    with pytest.raises(model.InputError) as caught:
        model.fit(samples, algorithm)
    assert str(caught.value) == message


def test_gradients_become_ready_from_the_last_layer_on_in_proportion_to_multiplications() -> None:
    scaling = load("scaling_model")
    profile = scaling.profile()
    assert len(profile) == 161
    ready, share = np.array(profile).T
    assert ready[-1] == pytest.approx(1) and (np.diff(ready) >= 0).all()
    assert share.sum() == pytest.approx(1)
    # He et al.'s 3.8 · 10⁹ multiplications become 4.09 · 10⁹ with the stride on the 3 × 3 convolutions.
    assert ready[0] == pytest.approx(2048 * 1000 / 4.089e9, rel=1e-3)
    assert share[-3:].sum() == pytest.approx((64 * 3 * 7 * 7 + 2 * 64) / 25_557_032)
    # conv1: 112 × 112 outputs.
    assert 1 - ready[-4] == pytest.approx(64 * 3 * 49 * 112**2 / 4.089e9, rel=1e-3)


def test_the_papers_case() -> None:
    scaling = load("scaling_model")
    inputs, report = scaling.paper()
    assert inputs.forward_s + inputs.backward_s == pytest.approx(8 * 32 / 1100, rel=1e-3)
    assert sum(size for _, size in inputs.gradients) == pytest.approx(100e6)
    ours, in_buckets, at_line_rate = report["model"].values()
    assert ours["efficiency_256"] == pytest.approx(0.90, abs=0.01)
    assert ours["ring_over_halving_doubling"] == pytest.approx(3.0, abs=0.05)
    assert in_buckets["efficiency_256"] > ours["efficiency_256"]
    # Nothing hidden, by hand: 161 sums and broadcasts within the servers, then 31/16 of 100 MB at 6.25 GB/s.
    one = 0.1127 + 0.12 + 161 * 2 * 7 * 5e-6 + 2 * 100e6 / 20e9
    expected = one / (one + 31 / 16 * 100e6 / 6.25e9)
    assert at_line_rate["efficiency_256_after_backward"] == pytest.approx(expected)
    assert at_line_rate["ring_over_halving_doubling"] == pytest.approx(1)


def test_your_own_numbers() -> None:
    scaling, model = load("scaling_model"), load("cost_model")
    link = model.Link(1e-5, 1e-9)
    times = [[p, mb, 1e3 * model.halving_doubling(p, mb * 1e6, link)] for p in (2, 3, 4) for mb in (0.1, 10)]
    given = {
        "name": "mine",
        "images_per_worker": 64,
        "forward_ms": 5,
        "backward_ms": 10.0,
        "gradients": [[4, 30], [10, 20]],
        "bucket_mb": 2,
        "workers_per_server": 1,
        "allreduce": times,
    }
    inputs = scaling.read_inputs(given, "mine.json")
    assert inputs.gradients == ((0.004, 30e6), (0.01, 20e6))
    assert (inputs.images_per_worker, inputs.forward_s, inputs.backward_s) == (64, 0.005, 0.01)
    assert (inputs.bucket_bytes, inputs.workers_per_server) == (2e6, 1)
    assert (inputs.network.latency_s, inputs.network.s_per_byte) == pytest.approx((1e-5, 1e-9))
    rows = scaling.predict(inputs)
    assert len(rows) == 12 * 3 * 2
    (two,) = [r for r in rows if (r["workers"], r["algorithm"], r["overlap"]) == (2, "ring", False)]
    # 25 buckets of 2 MB, between two: two steps of 1 MB each.
    assert two["exchange_s"] == pytest.approx(25 * 2 * (1e-5 + 1e-3))
    assert two["iteration_s"] == pytest.approx(0.015 + two["exchange_s"])
    assert two["efficiency"] == pytest.approx(0.015 / two["iteration_s"])
    assert two["images_per_s"] == pytest.approx(128 / two["iteration_s"])


NUMBER = "a number of at least 0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "'name': expected a text, got ''"),
        ({"backward_ms": 0}, "'backward_ms': expected a number above 0, got 0"),
        ({"forward_ms": -1}, f"'forward_ms': expected {NUMBER}, got -1"),
        ({"forward_ms": math.nan}, f"'forward_ms': expected {NUMBER}, got nan"),
        ({"bucket_mb": True}, f"'bucket_mb': expected {NUMBER}, got True"),
        ({"network_gb_per_s": 0.0}, "'network_gb_per_s': expected a number above 0, got 0.0"),
        ({"workers_per_server": 1.5}, "'workers_per_server': expected a whole number of at least 1, got 1.5"),
        ({"images_per_worker": 0}, "'images_per_worker': expected a whole number of at least 1, got 0"),
        ({"gradients": []}, "'gradients': expected a list of rows of [ms, MB], got []"),
        ({"gradients": [[1]]}, "'gradients': expected rows of [ms, MB], got [1]"),
        (
            {"gradients": [[130, 1]]},
            "'gradients': expected them to be ready within backward's 120 ms, got 130.0",
        ),
        (
            {"allreduce": [[2, 1, 1]]},
            "allreduce: expected times of at least two sizes, with two ranks or more, got 1",
        ),
        (
            {"allreduce": [[2.5, 1, 1], [2, 2, 2]]},
            "'allreduce': expected whole numbers of ranks, got [[2.5, 1, 1], [2, 2, 2]]",
        ),
        ({"networks_us": 3}, "unknown key 'networks_us'"),
    ],
)
def test_numbers_that_cannot_be_used(change: dict[str, Any], message: str) -> None:
    scaling, model = load("scaling_model"), load("cost_model")
    given = {k: v for k, v in scaling.PAPER.items() if not ("gradients" in change and k == "gradients_mb")}
    if "allreduce" in change:
        del given["network_us"], given["network_gb_per_s"]
    with pytest.raises(model.InputError) as caught:
        scaling.read_inputs(given | change, "mine.json")
    assert str(caught.value) == f"mine.json: {message}"


def test_numbers_that_are_missing() -> None:
    scaling, model = load("scaling_model"), load("cost_model")
    for key in scaling.PAPER:
        given = {k: v for k, v in scaling.PAPER.items() if k != key}
        with pytest.raises(model.InputError, match=f"^mine.json: expected a value for '{key}', got none$"):
            scaling.read_inputs(given, "mine.json")
    with pytest.raises(model.InputError, match=r"^mine.json: expected an object, got list$"):
        scaling.read_inputs([], "mine.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--inputs", "nowhere.json"],
            "nowhere.json: expected a file of inputs, got No such file or directory",
        ),
        (
            ["--inputs", "broken.json"],
            "broken.json: expected JSON, got Expecting value: line 1 column 1 (char 0)",
        ),
        (["--ranks", "2", "4"], "--ranks: expected 1 and at least one larger number, got 2 4"),
        (["--ranks", "1"], "--ranks: expected 1 and at least one larger number, got 1"),
        (["--rounds", "0"], "--ranks, --rounds: expected numbers of at least 1, got 0"),
        (["--out", "nowhere/", "--paper"], "nowhere: expected the name of a .json file"),
    ],
)
def test_a_wrong_command_line_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("no")
    command = [sys.executable, str(BENCHMARKS / "scaling_model.py"), *words]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stderr == f"scaling_model: {message}\n"


def test_the_command_for_your_own_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = load("scaling_model")
    file, out = tmp_path / "mine.json", tmp_path / "new" / "result.json"
    file.write_text(json.dumps(scaling.PAPER | {"name": "mine"}))
    monkeypatch.setattr(sys, "argv", ["scaling_model.py", "--inputs", str(file), "--out", str(out)])
    scaling.main()
    result = json.loads(out.read_text())
    assert {"environment", "inputs", "predictions"} <= set(result) and "paper" not in result
    assert [row["workers"] for row in result["predictions"]["mine"]][::6] == scaling.worker_counts(8)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mine: 32 images a worker") and "α = 30.00 µs, 1/β = 2.50 GB/s" in lines[0]
    (row,) = [line for line in lines if line.startswith("    256")]
    assert "630.9 ( 40%)" in row and "259.8 ( 90%)" in row


def test_the_papers_figures_are_printed_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling = load("scaling_model")
    monkeypatch.setattr(scaling.common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["scaling_model.py", "--paper"])
    scaling.main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["the", "paper", "90.0%", "+12.0%", "3.00"] for line in lines)
    assert any(
        line.startswith("gradient by gradient, 20 Gbit/s, 30 µs") and "89.6%" in line for line in lines
    )
    assert not list(tmp_path.iterdir())


def step_of(spread: Any, forward_s: float, calc: float, exchange: float) -> dict[str, Any]:
    phases = {"wait": 0.01, "calc": calc, "skew": 0.005, "exchange": exchange, "update": 0.02}
    measured = {name: spread([seconds]) for name, seconds in phases.items()}
    measured["step"] = spread([sum(phases.values())])
    measured["overlapped_step"], measured["replay_exposed"] = spread([calc + 0.06]), spread([0.03])
    buckets = [(0.5, 0.0), (0.1, 64.0), (calc, 10e6), (calc * 1.01, 20e6)]
    return {**measured, "forward_s": forward_s, "buckets": buckets}


def test_the_model_is_held_against_what_was_measured() -> None:
    scaling, model, spread = load("scaling_model"), load("cost_model"), load("common").spread
    network = model.Link(1e-4, 1e-9)
    training = {k: step_of(spread, 0.4, calc, 0.04 * k) for k, calc in ((1, 1.0), (2, 1.2), (4, 2.2))}
    inputs = scaling.machine_inputs(training[1], network)
    assert inputs.forward_s == pytest.approx(0.43) and inputs.backward_s == pytest.approx(0.6)
    # What is ready before backward begins, or by a median a little after it ends.
    assert inputs.gradients == (
        (pytest.approx(0.1), 0.0),
        (0.0, 64.0),
        *((pytest.approx(0.6), s) for s in (10e6, 20e6)),
    )
    rows = [
        {"algorithm": "ring", "ranks": k, "bytes": 2e6, "seconds": spread([seconds])}
        for k, seconds in ((1, 1e-6), (4, 8e-3))
    ]
    report = scaling.check(inputs, rows, training, cores=2)
    alone, four = report["allreduce"]
    assert alone["error"] is None
    # Four ranks on two cores take twice as long as 6 steps of 0.5 MB.
    assert four["predicted_s"] == pytest.approx(2 * 6 * (1e-4 + 5e-4))
    assert four["error"] == pytest.approx(7.2 / 8 - 1)
    steps = report["training"]
    assert [steps[k]["load_factor"] for k in (1, 2, 4)] == [1, 1, 2]
    exchange = 2 * inputs.all_exchanges_s(4, "halving_doubling")
    assert steps[4]["exchange"]["predicted_s"] == pytest.approx(exchange)
    assert steps[4]["exchange"]["error"] == pytest.approx(exchange / 0.16 - 1)
    assert steps[4]["step"]["predicted_s"] == pytest.approx(2 * 1.03 + exchange)
    assert steps[4]["step_of_computing_measured"]["predicted_s"] == pytest.approx(2.23 + exchange)
    # The last two buckets are there when backward ends: none of their exchange is hidden.
    last = 2 * sum(model.halving_doubling(4, size, network) for size in (10e6, 20e6))
    assert steps[4]["replay_exposed"]["predicted_s"] == pytest.approx(last)
    assert steps[4]["replay_exposed"]["error"] == pytest.approx(last / 0.03 - 1)
    assert steps[4]["overlapped_step"]["predicted_s"] == pytest.approx(2 * 1.03 + last)
    assert steps[4]["step"]["measured_s"] == pytest.approx(2.2 + 0.01 + 0.005 + 0.02 + 0.16)


def test_gradients_are_noted_and_passed_on() -> None:
    child = load("scaling_child")

    class Exchanger:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def begin(self) -> None:
            self.calls.append("begin")

        def written(self, name: str) -> None:
            self.calls.append(name)

    first, second = Exchanger(), Exchanger()
    watched = child.Watched(first)
    watched.begin()
    watched.written("a")
    time.sleep(0.02)
    watched.written("b")
    assert list(watched.ready) == ["a", "b"] and 0 <= watched.ready["a"] <= watched.ready["b"] - 0.02 < 60
    watched.exchanger = second
    watched.begin()
    assert watched.ready == {} and first.calls == ["begin", "a", "b"] and second.calls == ["begin"]


@pytest.mark.mpirun  # the benchmark starts it by its own means
def test_allreduces_are_measured_under_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = load("scaling_model")
    monkeypatch.setattr(scaling, "SIZES", [400, 400_000])
    rows, reduce_s_per_byte = scaling.measure_allreduces([1, 2, 4], rounds=2)
    keys = [(row["algorithm"], row["ranks"], row["bytes"]) for row in rows]
    assert keys == [
        (a, k, b) for a in ("halving_doubling", "ring") for k in (1, 2, 4) for b in (400, 400_000)
    ]
    assert all(len(row["seconds"]["samples"]) == 10 and row["seconds"]["median"] > 0 for row in rows)
    # A megabyte is not added in less than a microsecond, nor in a second.
    assert 1e-12 < reduce_s_per_byte < 1e-6


@pytest.mark.mpirun  # the benchmark starts it by its own means
def test_steps_are_measured_under_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that is compiled sooner than the one that is measured."""
    scaling = load("scaling_model")
    assert find_class("model", scaling.MODEL, {}) is ResNet50
    monkeypatch.setattr(scaling, "MODEL", "tests.small_models.Wide")
    monkeypatch.setattr(scaling, "IMAGE_SIZE", 32)
    monkeypatch.setattr(scaling, "BATCH_SIZE", 2)
    monkeypatch.setattr(scaling, "BURST_STEPS", {"training": 2})
    report = scaling.measure_training([1, 2], rounds=1)
    assert list(report) == [1, 2]
    weights = (3 * 32**2 + 2) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * 1000
    for k, measured in report.items():
        ready, sizes = zip(*measured["buckets"], strict=True)
        # Weights, running statistics, and three metrics with the loss of each rank.
        assert sum(sizes) == 4 * (weights + 2 * 1024 + 6 + k)
        *matrices, _ = ready
        assert len(matrices) > 1, "one bucket has no order"
        assert 0 < measured["forward_s"] <= ready[0] and matrices == sorted(matrices)
        assert all(len(measured[phase]["samples"]) == 2 for phase in load("scaling_child").PHASES)
        # Of the last of two steps, and of one of k ranks; what was computed is a mean over all.
        assert measured["step"]["median"] > measured["calc"]["median"] > max(ready) / (2 * k)
    assert report[1]["exchange"]["median"] == 0 < report[2]["exchange"]["median"]
    assert report[1]["replay_exposed"]["median"] < 0.001
