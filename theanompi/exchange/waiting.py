"""Waiting for the other ranks without taking a core, or Python's lock, from a thread that computes."""

import os
import time
from collections.abc import Callable

from mpi4py import MPI

_SHORTEST, _LONGEST = 1e-5, 2e-4


def poll(ready: Callable[[], bool], hurried: Callable[[], bool]) -> None:
    """Return when `ready` does.

    Parameters
    ----------
    ready : callable
        What is waited for.
    hurried : callable
        Whether nothing else is to be done meanwhile: then `ready` is asked again at once. Otherwise it is asked
        ever more rarely, every 0.2 ms in the end.
    """
    pause = _SHORTEST
    while not ready():
        if hurried():
            os.sched_yield()
        else:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST)


def barrier(comm: MPI.Intracomm, hurried: Callable[[], bool]) -> None:
    """Return when all ranks of `comm` are here. MPI's own barrier would always spin."""
    poll(comm.Ibarrier().Test, hurried)
