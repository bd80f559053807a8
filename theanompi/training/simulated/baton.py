"""Whose turn it is: simulated workers are threads, one of which runs at a time."""

import heapq
import threading
from collections.abc import Callable
from typing import Any

_LOOK = 0.2
"""Seconds between two looks of the main thread, which handles signals, at its workers."""


class Ended(BaseException):
    """The simulation is over, because of another worker."""


class Deadlock(RuntimeError):
    """All workers wait for each other."""


class Baton:
    """Lets one of several threads run at a time, the one that is the furthest behind in virtual time.

    Parameters
    ----------
    size : int
        Workers; all begin at the time 0.

    Attributes
    ----------
    times : list of float
        Of each worker, in seconds.
    error : BaseException or None
        What has ended the simulation.
    """

    def __init__(self, size: int) -> None:
        self.times = [0.0] * size
        self.error: BaseException | None = None
        self._next = [(0.0, rank) for rank in range(size)]
        self._turns = [threading.Semaphore(0) for _ in range(size)]
        self._waiting: dict[int, str] = {}

    def begin(self) -> None:
        """Let the first worker run."""
        self._turns[heapq.heappop(self._next)[1]].release()

    def take(self, rank: int) -> None:
        """Wait for the turn of a worker, in its thread.

        Raises
        ------
        Ended
            If there will be none.
        """
        self._turns[rank].acquire()
        if self.error is not None:
            raise Ended

    def spend(self, rank: int, seconds: float) -> None:
        """Let time pass for the worker that runs; others may run meanwhile."""
        self.times[rank] += seconds
        heapq.heappush(self._next, (self.times[rank], rank))
        self._hand_over(rank)

    def wait(self, rank: int, what: str) -> None:
        """Let others run until one of them wakes the worker that runs.

        Raises
        ------
        Deadlock
            If none is left that could.
        """
        self._waiting[rank] = what
        self._hand_over(rank)

    def wake(self, rank: int, time: float) -> None:
        """Let a worker that waits go on, at a time not before its own."""
        del self._waiting[rank]
        self.times[rank] = max(self.times[rank], time)
        heapq.heappush(self._next, (self.times[rank], rank))

    def _hand_over(self, rank: int) -> None:
        if not self._next:
            raise Deadlock(f"simulated workers wait for each other: {self._waits()}")
        _, other = heapq.heappop(self._next)
        if other != rank:
            self._turns[other].release()
            self.take(rank)

    def _waits(self) -> str:
        return ", ".join(f"{of} for {what}" for of, what in sorted(self._waiting.items()))

    def leave(self) -> None:
        """Let the others run: the worker that runs has come to its end."""
        if self._next:
            self._turns[heapq.heappop(self._next)[1]].release()
        elif self._waiting:
            self.end(Deadlock(f"a simulated worker has ended before the others: {self._waits()}"))

    def end(self, error: BaseException) -> None:
        """End all workers; the first error is kept."""
        self.error = self.error or error
        for turn in self._turns:
            turn.release()


class Meeting:
    """Where all workers wait for the last one, and then go on with what all have brought."""

    def __init__(self, baton: Baton, size: int) -> None:
        self._baton, self._size = baton, size
        self._what, self._brought = "", dict[int, Any]()
        self._found: dict[int, Any] = {}

    def __call__(
        self,
        rank: int,
        what: str,
        value: Any,
        *,
        seconds: float = 0.0,
        made_of: Callable[[list[Any]], Any] = list,
    ) -> Any:
        """Wait for all; gives what `made_of` makes, once, of their values by rank, `seconds` after the last came.

        Raises
        ------
        RuntimeError
            If another worker meets for another reason.
        """
        self._what = self._what or what
        if what != self._what:
            raise RuntimeError(f"worker {rank} has come for {what}, where others wait for {self._what}")
        self._brought[rank] = value
        if len(self._brought) < self._size:
            self._baton.wait(rank, what)
        else:
            found = made_of([self._brought[of] for of in range(self._size)])
            self._found = dict.fromkeys(range(self._size), found)
            when = max(self._baton.times) + seconds
            for other in range(self._size):
                if other != rank:
                    self._baton.wake(other, when)
            self._what, self._brought = "", {}
            self._baton.spend(rank, when - self._baton.times[rank])
        return self._found.pop(rank)


def run_workers(baton: Baton, work: Callable[[int], None]) -> None:
    """Let each worker do its work in a thread of its own; raises what one of them has raised."""
    left: list[SystemExit] = []

    def be(rank: int) -> None:
        try:
            baton.take(rank)
            work(rank)
            baton.leave()
        except Ended:
            pass
        except SystemExit as error:
            left.append(error)
            baton.leave()
        except BaseException as error:
            baton.end(error)

    threads = [
        threading.Thread(target=be, args=(rank,), name=f"worker {rank}", daemon=True)
        for rank in range(len(baton.times))
    ]
    for thread in threads:
        thread.start()
    baton.begin()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_LOOK)
    except BaseException as error:
        baton.end(error)
        raise
    if left:
        raise left[0]
    if baton.error is not None:
        raise baton.error
