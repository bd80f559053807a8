"""Timelines: valid traces in Chrome's format, clocks that agree, and training runs whose ranks are in one picture."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.mpi import run_warm
from theanompi.config import ClockSettings
from theanompi.record.clocks import clock_offsets
from theanompi.record.log import read_log
from theanompi.record.recorder import Recorder
from theanompi.record.timeline import Span, Timeline
from theanompi.record.trace import trace
from theanompi.training.simulated.baton import run_workers
from theanompi.training.simulated.communicator import Communicator
from theanompi.training.simulated.world import World

SETTINGS: dict[str, Any] = {
    "modelfile": "small_models",
    "modelclass": "Plain",
    "batch_size": 4,
    "base_batch": 8,
    "max_iterations": 8,
    "verbose": False,
    "devices": ["cpu"],
}


def check_format(trace: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The rules of the trace event format for what is used of it; gives the complete events."""
    assert trace is not None
    assert set(trace) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    named: dict[str, set[Any]] = defaultdict(set)
    complete = []
    for event in trace["traceEvents"]:
        assert type(event["pid"]) is int and type(event["tid"]) is int and event["pid"] > 0
        if event["ph"] == "M":
            key = {"name": str, "sort_index": int}[event["name"].split("_", 1)[1]]
            ((argument, value),) = event["args"].items()
            assert argument == event["name"].split("_", 1)[1] and type(value) is key
            where = event["pid"] if event["name"].startswith("process") else (event["pid"], event["tid"])
            assert where not in named[event["name"]], "named twice"
            named[event["name"]].add(where)
        else:
            assert event["ph"] == "X" and event["name"] and event["cat"]
            assert event["ts"] >= 0 and event["dur"] >= 0
            complete.append(event)
    assert set(named) == {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}
    for event in complete:
        assert event["pid"] in named["process_name"] and (event["pid"], event["tid"]) in named["thread_name"]
    # On a row events contain each other or do not touch.
    rows = defaultdict(list)
    for event in complete:
        rows[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for row in rows.values():
        assert row == sorted(row, key=lambda span: (span[0], -span[1]))
        open_until: list[float] = []
        for start, end in row:
            while open_until and open_until[-1] <= start + 1e-3:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 1e-3, "partly overlapping"
            open_until.append(end)
    assert min((event["ts"] for event in complete), default=0) == 0
    return complete


def test_spans_become_events_on_one_time_axis() -> None:
    first, second = Timeline(2, 0), Timeline(2, 0)
    first.add("main", [Span("compute", 10.0, 10.25)])
    first.iteration(5, 10.0, 10.5)
    second.add("loader", [Span("read", 90.0, 90.5)])
    second.add("exchange", [Span("sync", 110.0, 110.125, "bucket 0")])
    second.first, second.last = 5, 6
    got = trace([("cpu on node0", first), ("cuda:1 on node1", second)], [(0.0, 0.0), (100.0, 35e-6)])
    events = check_format(got)
    assert got is not None
    # Rank 1 is 100 s ahead: what it read, it read at -10.
    assert [(e["name"], e["pid"], e["tid"], e["ts"], e["dur"]) for e in events] == [
        ("iteration: 5", 1, 1000, 20e6, 0.5e6),
        ("compute", 1, 1000, 20e6, 0.25e6),
        ("wait for slower ranks: bucket 0", 2, 2000, 20e6, 0.125e6),
        ("read", 2, 2001, 0, 0.5e6),
    ]
    names = [e["args"]["name"] for e in got["traceEvents"] if e["name"] in ("process_name", "thread_name")]
    assert names == ["rank 0 (cpu on node0)", "main", "rank 1 (cuda:1 on node1)", "exchange", "loader"]
    assert got["otherData"] == {
        "iterations": "5 to 6",
        "clocks": {"rank 1": "within 35.0 us of rank 0's clock"},
    }


def test_times_that_are_rounded_still_nest() -> None:
    timeline = Timeline(1, 0)
    inner = [Span("inner", 1 / 3 + k / 300, 1 / 3 + (k + 1) / 300 if k < 99 else 2 / 3) for k in range(100)]
    timeline.add("main", inner)
    timeline.iteration(1, 1 / 3, 2 / 3)
    events = check_format(trace([("", timeline)], [(1e-7 / 3, 0.0)]))
    last = events[-1]
    assert last["ts"] + last["dur"] == pytest.approx(events[0]["ts"] + events[0]["dur"], abs=1e-6)


CLOCKS = """
import sys, time
from theanompi.record.clocks import clock_offsets
rank = comm.rank
machine = rank // int(sys.argv[1])
true = 12.5 * machine - 40 * (machine % 2)
offsets = clock_offsets(comm, lambda: time.monotonic() + true, f"machine {machine}")
assert (offsets is None) == (rank > 0)
trues = comm.gather(true)
for i, ((offset, error), expected) in enumerate(zip(offsets or [], trues or [])):
    assert abs(offset - expected) <= error + 1e-9, (i, offset, expected, error)
    assert (error > 0) == (i >= int(sys.argv[1])) and error < 0.05, error
    print("checked", i)
assert clock_offsets(comm) in (None, [(0.0, 0.0)] * comm.size)
"""


@pytest.mark.parametrize(("n", "per_machine"), [(1, 1), (2, 1), (4, 1), (4, 2)])
def test_clocks_of_other_machines_are_aligned_as_well_as_is_said(n: int, per_machine: int) -> None:
    done = run_warm(n, CLOCKS, str(per_machine), timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [word for i in range(n) for word in ("checked", str(i))]


class Network:
    """Rank 0's side of a link to a machine 100 s ahead; each round trip takes its own times there and back."""

    def __init__(self, there_and_back: list[tuple[float, float]]) -> None:
        self.now, self.times = 7.0, iter(there_and_back)

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return 2

    def allgather(self, machine: str) -> list[str]:
        return [machine, "another"]

    def Sendrecv(self, question: Any, dest: int, recvbuf: Any, source: int) -> None:
        there, back = next(self.times)
        recvbuf[0] = self.now + there + 100
        self.now += there + back


def test_of_several_round_trips_the_shortest_counts() -> None:
    network = Network([(0.25, 0.75)] * 12 + [(0.0625, 0.0)] + [(0.75, 0.25)] * 12)
    offsets = clock_offsets(network, lambda: network.now)  # type: ignore[arg-type]
    assert offsets == [(0.0, 0.0), (100.03125, 0.03125)]


def test_ranks_that_are_not_in_step_end_together_also_where_one_has_kept_no_iteration(tmp_path: Path) -> None:
    """Each would wait for the others in another call."""
    world = World(2, ClockSettings(), 0)

    def be(rank: int) -> None:
        comm = Communicator(world.meet, rank, 2)
        recorder = Recorder(tmp_path, rank, 2, 9, 1, False, None, timeline=5, comm=comm, lockstep=False)
        for iteration in range(1, 5 if rank else 2):
            recorder.start()
            recorder.end("calc")
            recorder.train(0, iteration, 1, {}, 0.1)
        recorder.close()

    run_workers(world.baton, be)
    trace = json.loads((tmp_path / "timeline.json").read_text())
    assert trace["otherData"]["iterations"] == "3 to 4"
    assert [line["kind"] for line in read_log(tmp_path / "log.jsonl")] == ["train", "summary"]


def train(n: int, out: Path, **settings: Any) -> dict[str, Any]:
    """The timeline of a training run."""
    done = run_warm(n, {**SETTINGS, "out": str(out), **settings})
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((out / "timeline.json").read_text())
    return found


def rows(trace: dict[str, Any]) -> dict[tuple[int, str], list[tuple[str, float, float]]]:
    """Name, start and end of the events of each rank and row."""
    found: dict[tuple[int, str], list[tuple[str, float, float]]] = {}
    tids = {}
    for event in trace["traceEvents"]:
        if event["name"] == "thread_name":
            tids[event["tid"]] = event["pid"] - 1, event["args"]["name"]
            found[tids[event["tid"]]] = []
        elif event["ph"] == "X":
            found[tids[event["tid"]]].append((event["name"], event["ts"], event["ts"] + event["dur"]))
    return found


@pytest.mark.parametrize(
    ("n", "settings"),
    [
        (1, {}),
        (2, {}),
        (4, {}),
        (2, {"exchange": "ar", "loader_processes": 2}),
        (2, {"sync_type": "avg", "exchange": "ar"}),
    ],
)
def test_all_ranks_of_a_run_are_in_one_picture(n: int, settings: dict[str, Any], tmp_path: Path) -> None:
    trace = train(n, tmp_path / "run", timeline=3, **settings)
    check_format(trace)
    assert trace["otherData"] == {"iterations": "3 to 5", "clocks": "one machine, one clock"}
    found = rows(trace)
    loaders = ["loader"] if "loader_processes" not in settings else ["loader 1", "loader 2"]
    rows_of = ["main", *(["exchange"] if n > 1 else []), *loaders]
    # A loader process without anything to do has no row.
    assert [row for row in found if row[1] != "loader 2"] == [
        (r, name) for r in range(n) for name in rows_of[:3]
    ]
    phases = ["iteration", "load", "compute", "load", "compute", "exchange", "update"]
    if "sync_type" in settings:
        phases = ["iteration", "load", "compute", "load", "compute", "update", "exchange"]
    for rank in range(n):
        main = [name.split(":")[0] for name, *_ in found[rank, "main"]]
        assert main == 3 * phases
        iterations = [name for name, *_ in found[rank, "main"] if name.startswith("iteration")]
        assert iterations == ["iteration: 3", "iteration: 4", "iteration: 5"]
        # They read ahead: not every batch of these iterations is read within them.
        assert sum(name == "read" for row in loaders for name, *_ in found.get((rank, row), [])) >= 1
    if n == 1:
        return
    # Nobody may sum before everybody is there, on whichever rank's clock; each rank has every sum.
    sums, arrivals = (
        [[e for e in found[rank, "exchange"] if e[0].startswith(name)] for rank in range(n)]
        for name in ("sum", "wait")
    )
    assert len({len(events) for events in sums + arrivals}) == 1 and len(sums[0]) % 3 == 0
    for same_sum, same_arrival in zip(zip(*sums, strict=True), zip(*arrivals, strict=True), strict=True):
        assert len({name.split(": ")[1] for name, *_ in same_sum + same_arrival}) == 1
        assert min(start for _, start, _ in same_sum) >= max(start for _, start, _ in same_arrival)


def test_a_resumed_run_replaces_the_timeline(tmp_path: Path) -> None:
    first = train(2, tmp_path / "run", timeline=1000, max_iterations=3)
    assert first["otherData"]["iterations"] == "1 to 3"
    second = train(2, tmp_path / "run", timeline=2, max_iterations=9, resume=True)
    check_format(second)
    assert second["otherData"]["iterations"] == "6 to 7"


@pytest.mark.parametrize("n", [2, 4])
def test_a_rank_that_is_slow_is_found(n: int, tmp_path: Path) -> None:
    found = rows(train(n, tmp_path / "run", modelclass="Slow", timeline=1000))
    (waits,) = ([e for e in found[0, "exchange"] if e[0].startswith("wait")],)
    assert sum(end - start for _, start, end in waits) > 0.2e6
    summary = read_log(tmp_path / "run" / "log.jsonl")[-1]
    waited = [rank["sync_s"] for rank in summary["ranks"]]
    assert waited.index(min(waited)) == n - 1
    # Eight times 0.1 s, less what a rank is late itself where there are more ranks than cores.
    assert all(0.2 < seconds < 5 for seconds in waited[:-1])
    assert summary["sync_s"] == waited[0]
