"""What happened when, on which rank and stream: spans of time, and some iterations of them as one trace.

The trace is in Chrome's `trace event format`_, as https://ui.perfetto.dev opens it: a process for each rank, in
it a thread for each stream (``main``, ``exchange``, ``loader``), in it a complete event for each span, in
microseconds from the first one on. Times of all ranks are rank 0's: ranks on one machine share its clock, others
are aligned by `clock_offsets`, and ``otherData`` says how well.

.. _trace event format:
   https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import math
import os
import platform
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    # Importing it starts MPI, which who only draws a log does not want.
    from mpi4py import MPI

# Of a clock's offset the best of so many round trips counts; 20 take about a millisecond on Ethernet.
PINGS = 20
# What kinds of spans are called in a trace, where not by their own name.
NAMES = {"comm": "sum", "sync": "wait for slower ranks"}


class Span(NamedTuple):
    """Something that took a while.

    Attributes
    ----------
    kind : str
        "comm" (bytes being summed), "sync" (waiting for slower ranks), "read" (a loader process makes a batch),
        or any other name.
    start, end : float
        Seconds of `time.monotonic`.
    detail : str
        For a person to read; may be empty.

    Examples
    --------
    >>> Span("comm", 1.0, 1.5, "bucket 3, 8.4 MB").within(1.25, 9.0)
    0.25
    """

    kind: str
    start: float
    end: float
    detail: str = ""

    def within(self, start: float, end: float) -> float:
        """How many of its seconds lie between two times."""
        # Not by min and max, which take longer: asked for every bucket of every step.
        first = self.start if self.start > start else start
        last = self.end if self.end < end else end
        return last - first if last > first else 0.0


class Timeline:
    """The spans of some iterations of one rank.

    Parameters
    ----------
    iterations : int
        How many to keep.
    skip : int
        How many to let go before.

    Attributes
    ----------
    rows : dict
        The spans of each row, by its name.
    first, last : int or None
        Numbers of the iterations that were kept.

    Examples
    --------
    >>> timeline = Timeline(iterations=1, skip=1)
    >>> for iteration in (1, 2, 3):
    ...     timeline.add("main", [Span("compute", iteration, iteration + 0.5)])
    ...     timeline.iteration(iteration, iteration, iteration + 0.75)
    False
    True
    False
    >>> [(span.kind, span.start, span.detail) for span in timeline.rows["main"]]
    [('compute', 2, ''), ('iteration', 2, '2')]
    """

    def __init__(self, iterations: int, skip: int) -> None:
        self._left, self._skip = iterations, skip
        self.rows: dict[str, list[Span]] = {}
        self.first: int | None = None
        self.last: int | None = None

    def add(self, row: str, spans: Sequence[Span]) -> None:
        """Keep spans of the current iteration, if it is to be kept."""
        if spans and self._left and not self._skip:
            self.rows.setdefault(row, []).extend(spans)

    def iteration(self, number: int, start: float, end: float) -> bool:
        """End an iteration; gives whether it was the last one to be kept."""
        if self._skip or not self._left:
            self._skip = max(0, self._skip - 1)
            return False
        self.add("main", [Span("iteration", start, end, str(number))])
        self.first, self.last = self.first or number, number
        self._left -= 1
        return not self._left


def gather_trace(comm: "MPI.Intracomm | None", place: str, timeline: Timeline) -> dict[str, Any] | None:
    """Put the timelines of all ranks together; collective.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm or None
        None stands for a single rank.
    place : str
        Where this rank is, as in "cuda:1 on node0".
    timeline : Timeline
        Of this rank.

    Returns
    -------
    dict or None
        The trace as JSON values, on rank 0.

    Examples
    --------
    >>> timeline = Timeline(iterations=1, skip=0)
    >>> timeline.iteration(7, 100.0, 100.25)
    True
    >>> trace = gather_trace(None, "cpu on node0", timeline)
    >>> trace["traceEvents"][-1]
    {'name': 'iteration: 7', 'cat': 'iteration', 'ph': 'X', 'ts': 0.0, 'dur': 250000.0, 'pid': 1, 'tid': 1000}
    """
    if comm is None:
        return trace([(place, timeline.rows)], [(0.0, 0.0)], timeline)
    clocks = clock_offsets(comm)
    ranks = comm.gather((place, timeline.rows), root=0)
    return None if ranks is None or clocks is None else trace(ranks, clocks, timeline)


def trace(
    ranks: Sequence[tuple[str, Mapping[str, Sequence[Span]]]],
    clocks: Sequence[tuple[float, float]],
    timeline: Timeline,
) -> dict[str, Any]:
    """Make a trace of the spans of all ranks.

    Parameters
    ----------
    ranks : sequence of (str, dict)
        Where each rank is, and its rows of spans.
    clocks : sequence of (float, float)
        As `clock_offsets` gives them.
    timeline : Timeline
        Whose iterations these are.

    Returns
    -------
    dict
        JSON values.
    """
    shifted = [
        {
            row: [(span, span.start - offset, span.end - offset) for span in spans]
            for row, spans in rows.items()
        }
        for (_, rows), (offset, _) in zip(ranks, clocks, strict=True)
    ]
    zero = min((start for rows in shifted for row in rows.values() for _, start, _ in row), default=0.0)

    def microseconds(seconds: float) -> float:
        return round(1e6 * (seconds - zero), 3)

    names: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    for rank, ((place, _), rows) in enumerate(zip(ranks, shifted, strict=True)):
        # No 0, which viewers take for the idle process, and no number twice.
        pid, first_tid = rank + 1, 1000 * (rank + 1)
        names += _named("process", f"rank {rank} ({place})", pid, first_tid, rank)
        order = sorted(rows, key=lambda row: (row != "main", row != "exchange", row))
        for tid, row in enumerate(order, first_tid):
            names += _named("thread", row, pid, tid, tid)
            for span, start, end in rows[row]:
                name = NAMES.get(span.kind, span.kind) + (f": {span.detail}" if span.detail else "")
                ts = microseconds(start)
                # From rounded times: what lies in another event must not stick out of it.
                dur = round(microseconds(end) - ts, 3)
                event = {"name": name, "cat": span.kind, "ph": "X", "ts": ts, "dur": dur}
                events.append(event | {"pid": pid, "tid": tid})
    # A viewer takes an event that begins within another one on its row as part of it: the longer one first.
    events.sort(key=lambda event: (event["pid"], event["tid"], event["ts"], -event["dur"]))
    uncertain = {
        f"rank {rank}": f"within {1e6 * error:.1f} us of rank 0's clock"
        for rank, (_, error) in enumerate(clocks)
        if error
    }
    return {
        "traceEvents": names + events,
        "displayTimeUnit": "ms",
        "otherData": {
            "iterations": f"{timeline.first} to {timeline.last}",
            "clocks": uncertain or "one machine, one clock",
        },
    }


def _named(what: str, name: str, pid: int, tid: int, order: int) -> list[dict[str, Any]]:
    """The events that give a process or a thread its name and its place among the others."""
    common = {"ph": "M", "pid": pid, "tid": tid}
    return [
        {"name": f"{what}_name", **common, "args": {"name": name}},
        {"name": f"{what}_sort_index", **common, "args": {"sort_index": order}},
    ]


def clock_offsets(
    comm: "MPI.Intracomm", clock: Callable[[], float] = monotonic, machine: str | None = None
) -> list[tuple[float, float]] | None:
    """How far the clocks of all ranks are ahead of rank 0's; collective.

    By Cristian's algorithm: rank 0 asks the first rank of each other machine for its time; half-way between
    question and answer it is off by half of the round trip at most. The shortest round trip counts.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    clock : callable
        Gives seconds.
    machine : str, optional
        Ranks for which this is the same share a clock; by default found out.

    Returns
    -------
    list of (float, float), or None
        On rank 0, for each rank how many seconds its clock is ahead, and how far that may be off.

    Examples
    --------
    >>> from mpi4py import MPI
    >>> clock_offsets(MPI.COMM_SELF)
    [(0.0, 0.0)]
    """
    machines = comm.allgather(machine or _machine())
    offsets: list[tuple[float, float]] = []
    for rank in range(comm.Get_size()):
        first = machines.index(machines[rank])
        if first < rank or rank == 0:
            offsets.append(offsets[first] if rank else (0.0, 0.0))
        elif comm.Get_rank() == 0:
            offsets.append(_ask(comm, clock, rank))
        else:
            if comm.Get_rank() == rank:
                _answer(comm, clock)
            offsets.append((0.0, 0.0))
    return offsets if comm.Get_rank() == 0 else None


def _ask(comm: "MPI.Intracomm", clock: Callable[[], float], rank: int) -> tuple[float, float]:
    question, answer = array("d", [0.0]), array("d", [0.0])
    offset, shortest = 0.0, math.inf
    for _ in range(PINGS):
        asked = clock()
        comm.Sendrecv(question, rank, recvbuf=answer, source=rank)
        answered = clock()
        if answered - asked < shortest:
            offset, shortest = answer[0] - (asked + answered) / 2, answered - asked
    return offset, shortest / 2


def _answer(comm: "MPI.Intracomm", clock: Callable[[], float]) -> None:
    message = array("d", [0.0])
    for _ in range(PINGS):
        comm.Recv(message, 0)
        message[0] = clock()
        comm.Send(message, 0)


def _machine() -> str:
    """What processes have in common that read the same clock."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/time")
    return f"{platform.node()} {boot} {namespace}"
