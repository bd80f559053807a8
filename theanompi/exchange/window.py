"""Memory of all ranks, each piece of which one rank at a time has to itself, whatever the others are doing."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from mpi4py import MPI

from theanompi.config import ConfigError
from theanompi.exchange.waiting import poll
from theanompi.record.progress import Progress
from theanompi.record.timeline import Span

TICKETS, SERVED, COUNT, FLAG = range(4)
"""What the numbers in front of a rank's piece are."""
_HEADER = 4 * 8
_TRIALS, _PATIENCE = 3, 0.1
_PAUSE = 1e-3
_SHARED_MEMORY = "/dev/shm"


class LockedWindow:
    """An MPI-3 window with a lock for the piece of each rank.

    MPI's own locks are granted by the process whose memory it is, under MPICH and Intel MPI only when that calls MPI:
    a rank that computes for a second lets all others wait for a second. Atomic operations on memory that MPI has
    allocated are, within a machine, done by the caller. So a lock here is a pair of numbers beside the piece: who
    draws a ticket by ``MPI_Fetch_and_op`` waits until its number is served. Whoever comes first is first.

    Between machines even those may have to wait for the target: it is measured when the window is made, and where it is
    so, a thread on each rank calls MPI every millisecond.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks that take part; the constructor and `close` are collective.
    nbytes : int
        Size of this rank's piece; zero at first.

    Attributes
    ----------
    comm : mpi4py.MPI.Intracomm
        A communicator of its own.
    helped : bool
        Whether there is such a thread.
    description : str
    spans : list of Span
        What was done since `begin`: "sync" is waiting for another worker.
    progress : Progress
        Told of it.
    hurried : callable
        Whether this rank computes nothing while it waits; then it asks at once when it is the next one's turn.

    Raises
    ------
    ConfigError
        On all ranks, when a machine has no room for it, or the MPI library does not give it.
    """

    def __init__(self, comm: MPI.Intracomm, nbytes: int) -> None:
        self.comm = comm.Dup()
        self.spans: list[Span] = []
        self.progress = Progress()
        self.hurried: Callable[[], bool] = lambda: True
        check_room(self.comm, _HEADER + nbytes, "window: expected room for what the ranks share")
        try:
            self._window = MPI.Win.Allocate(_HEADER + nbytes, 1, comm=self.comm)
        except MPI.Exception as error:  # on all ranks: of Open MPI 4 between hosts without InfiniBand
            raise ConfigError(
                f"window: expected an MPI whose ranks can share memory, got: {error}; remedy: another MPI, or a rule "
                "whose ranks are in step"
            ) from None
        np.asarray(self._window.tomemory()).view(np.uint8)[:] = 0
        self._window.Lock_all(MPI.MODE_NOCHECK)
        self._window.Sync()
        self.comm.Barrier()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.helped = self._waits_for_target()
        self.description = "an MPI window"
        if self.helped:
            if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
                raise ConfigError(
                    "rule: expected an MPI library that lets a second thread communicate (MPI_THREAD_MULTIPLE), as "
                    "ranks here do not get at each other's memory by themselves, got one that does not"
                )
            self.description += ", kept going by a thread on each rank"
            self._thread = threading.Thread(target=self._help, name="window", daemon=True)
            self._thread.start()

    def _waits_for_target(self) -> bool:
        """Whether rank 0, while it calls no MPI, lets the others wait: most times, as others use the cores, too."""
        slow = 0
        for _ in range(_TRIALS):
            self.comm.Barrier()
            took = 0.0
            if self.comm.rank:
                # By then rank 0, which would answer, has left the barrier.
                time.sleep(_PATIENCE / 3)
                began = time.monotonic()
                self.add(0, FLAG, 0)
                took = time.monotonic() - began
            else:
                time.sleep(_PATIENCE)
            slow += self.comm.allreduce(took > _PATIENCE / 3, MPI.LOR)
        return slow > _TRIALS / 2

    def _help(self) -> None:
        while not self._closed.wait(_PAUSE):
            self.comm.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG)

    def add(self, rank: int, number: int, value: int) -> int:
        """Add to one of the numbers in front of a rank's piece, atomically; gives what it was before."""
        return self._add(rank, (number, value))[0]

    def _add(self, rank: int, *what: tuple[int, int]) -> list[int]:
        """Add to several numbers, one after another in any order, in the time of one."""
        # MPI reads and writes these until the flush.
        values, before = np.array([value for _, value in what]), np.empty(len(what), np.int64)
        for i, (number, _) in enumerate(what):
            own = slice(i, i + 1)
            self._window.Fetch_and_op(values[own], before[own], rank, 8 * number, MPI.SUM)
        self._window.Flush(rank)
        return list(before.tolist())

    def lock(self, rank: int) -> None:
        """Have a rank's piece to oneself from now on, after all that have asked before."""
        with self.span("sync", f"what rank {rank} holds for all"):
            # What is being served may be older than the ticket, never newer than its turn.
            ticket, served = self._add(rank, (TICKETS, 1), (SERVED, 0))

            def mine() -> bool:
                nonlocal served
                served = self.add(rank, SERVED, 0)
                return served == ticket

            if served != ticket:
                poll(mine, hurried=lambda: served == ticket - 1 and self.hurried())

    def unlock(self, rank: int) -> None:
        """Let the next one have it."""
        self.add(rank, SERVED, 1)

    @contextmanager
    def locked(self, rank: int) -> Iterator[None]:
        """`lock`, and `unlock` at the end of the block."""
        self.lock(rank)
        try:
            yield
        finally:
            self.unlock(rank)

    def begin(self) -> None:
        """Forget the spans so far."""
        self.spans = []

    def span(self, kind: str, detail: str) -> AbstractContextManager[None]:
        """Note how long the block takes."""
        doing = "waiting for" if kind == "sync" else "copying"
        return self.progress.exchanging(f"{doing} {detail}", kind, detail, self.spans)

    def get(self, rank: int, into: np.ndarray, start: int = 0) -> None:
        """Read a rank's piece, from byte `start` on, into a contiguous array."""
        self._window.Get([into, MPI.BYTE], rank, [_HEADER + start, into.nbytes, MPI.BYTE])
        self._window.Flush(rank)

    def put(self, rank: int, values: np.ndarray, start: int = 0) -> None:
        """Write a contiguous array into a rank's piece, from byte `start` on."""
        self._window.Put([values, MPI.BYTE], rank, [_HEADER + start, values.nbytes, MPI.BYTE])
        self._window.Flush(rank)

    def close(self) -> None:
        """Give the memory back; collective."""
        self.comm.Barrier()
        if self._thread is not None:
            self._closed.set()
            self._thread.join()
        self._window.Unlock_all()
        self._window.Free()
        self.comm.Free()


class InWindow:
    """What lies in a window, a copy for each rank or a part of it.

    Attributes
    ----------
    window : LockedWindow
    description : str
    """

    window: LockedWindow
    description: str

    @property
    def spans(self) -> list[Span]:
        """What was done since this rank's last pass, or call, began."""
        return self.window.spans

    def close(self) -> None:
        """Give the memory back; collective."""
        self.window.close()


def check_room(comm: MPI.Intracomm, needed: int, expected: str, otherwise: str = "") -> None:
    """Refuse memory that ranks share and for which a machine has no room; collective.

    Without room, memory in a file system is granted, and writing to it kills the process.

    Parameters
    ----------
    needed : int
        Bytes of this rank.
    expected, otherwise : str
        What the message begins with, and which other remedy it has.

    Raises
    ------
    ConfigError
        On all ranks.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    free = total = node.allreduce(needed)
    if node.rank == 0 and os.path.isdir(_SHARED_MEMORY):
        status = os.statvfs(_SHARED_MEMORY)
        free = status.f_bavail * status.f_frsize
    node.Free()
    least = comm.allreduce(free - total, MPI.MIN)
    if least < 0:
        raise ConfigError(
            f"{expected} in {_SHARED_MEMORY} of each machine, got {-least >> 20} MiB too little on one; remedy: a "
            f"larger one (docker run --shm-size){otherwise}"
        )
