"""The spans of all ranks in one file, in Chrome's trace format."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from theanompi.record.clocks import clock_offsets
from theanompi.record.timeline import Timeline

if TYPE_CHECKING:
    # Importing it starts MPI, which who only draws a log does not want.
    from mpi4py import MPI


# What kinds of spans are called in a trace, where not by their own name.
NAMES = {"comm": "sum", "sync": "wait for slower ranks"}


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
        The trace as JSON values, on rank 0, if a rank has kept an iteration: one that is not in step may not.

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
        return trace([(place, timeline)], [(0.0, 0.0)])
    clocks = clock_offsets(comm)
    ranks = comm.gather((place, timeline), root=0)
    return None if ranks is None or clocks is None else trace(ranks, clocks)


def trace(
    ranks: Sequence[tuple[str, Timeline]], clocks: Sequence[tuple[float, float]]
) -> dict[str, Any] | None:
    """Make a trace of the spans of all ranks.

    Parameters
    ----------
    ranks : sequence of (str, Timeline)
        Where each rank is, and its spans.
    clocks : sequence of (float, float)
        As `clock_offsets` gives them.

    Returns
    -------
    dict or None
        JSON values, if there is an iteration.
    """
    kept = [number for _, own in ranks for number in (own.first, own.last) if number is not None]
    if not kept:
        return None
    shifted = [
        {
            row: [(span, span.start - offset, span.end - offset) for span in spans]
            for row, spans in own.rows.items()
        }
        for (_, own), (offset, _) in zip(ranks, clocks, strict=True)
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
            "iterations": f"{min(kept)} to {max(kept)}",
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
