"""How much the clocks of two machines differ."""

import math
import os
import platform
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Importing it starts MPI, which who only draws a log does not want.
    from mpi4py import MPI


# Of a clock's offset the best of so many round trips counts; 20 take about a millisecond on Ethernet.
PINGS = 20


def clock_offsets(
    comm: "MPI.Intracomm", clock: Callable[[], float] = monotonic, machine: str | None = None
) -> list[tuple[float, float]] | None:
    """How far the clocks of all ranks are ahead of rank 0's; collective.

    By Cristian's algorithm: rank 0 asks the first rank of each other machine for its time; half-way between
    question and answer it is off by half of the round trip at most. The shortest round trip counts.

    Parameters
    ----------
    clock : callable
        Gives seconds.
    machine : str, optional
        Ranks for which this is the same share a clock; by default found out.

    Returns
    -------
    list of (float, float), or None
        On rank 0, for each rank how many seconds its clock is ahead, and how far that may be off.
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
