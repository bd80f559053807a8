"""Waiting for the other ranks without taking a core from those who compute."""

import time
from collections.abc import Callable

from mpi4py import MPI

_TRIES, _LONGEST = 20, 2e-4


def poll(ready: Callable[[], bool]) -> None:
    """Return when `ready` does; asks at once, then ever more rarely, every 0.2 ms in the end.

    Examples
    --------
    >>> answers = iter([False, False, True])
    >>> poll(lambda: next(answers))
    """
    pause = 0.0
    tries = 0
    while not ready():
        time.sleep(pause)
        tries += 1
        if tries > _TRIES:
            pause = min(2 * pause or 1e-5, _LONGEST)


def barrier(comm: MPI.Intracomm) -> None:
    """Return when all ranks of `comm` are here. MPI's own barrier would spin."""
    poll(comm.Ibarrier().Test)
