"""Two ranks for `progress.py`: the first computes and calls no MPI, the second wants its memory meanwhile."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
from mpi4py import MPI

from theanompi.config import RunConfig, from_environment
from theanompi.exchange.window import LockedWindow
from theanompi.launch.ends import tell

COMPUTING, PAUSE = 1.0, 0.01
NBYTES = 1 << 20


def longest(comm: MPI.Intracomm, do: Callable[[], None]) -> float:
    """How long it takes rank 1 to do something with rank 0's memory, at most, while rank 0 computes."""
    do()
    comm.Barrier()
    end, found = time.perf_counter() + COMPUTING, 0.0
    if comm.rank == 0:
        matrix = np.random.default_rng(0).random((300, 300))
        while time.perf_counter() < end:
            matrix @ matrix
    else:
        time.sleep(COMPUTING / 10)
        while time.perf_counter() < end - COMPUTING / 10:
            start = time.perf_counter()
            do()
            found = max(found, time.perf_counter() - start)
            time.sleep(PAUSE)
    comm.Barrier()
    return float(comm.allreduce(found, MPI.MAX))


def run(config: RunConfig, devices: tuple[str, ...], plan: bool = False) -> None:
    """Be one of the two, and write down what was found."""
    comm = MPI.COMM_WORLD
    theirs = MPI.Win.Allocate(8, 1, comm=comm)
    values = np.zeros(NBYTES, np.uint8)

    def lock_theirs() -> None:
        theirs.Lock(0, MPI.LOCK_EXCLUSIVE)
        theirs.Unlock(0)

    window = LockedWindow(comm, NBYTES)
    found: dict[str, object] = {"needs_thread": window.helped}
    window.close()
    found["mpi_lock_s"] = longest(comm, lock_theirs)
    for helped in (False, True):
        with mock.patch.object(LockedWindow, "_waits_for_target", lambda self, helped=helped: helped):
            window = LockedWindow(comm, NBYTES)

        def lock(window: LockedWindow = window) -> None:
            with window.locked(0):
                pass

        def exchange(window: LockedWindow = window) -> None:
            with window.locked(0):
                window.get(0, values)
                window.put(0, values)

        name = "with_thread" if helped else "without"
        found[f"lock_{name}_s"] = longest(comm, lock)
        found[f"exchange_{name}_s"] = longest(comm, exchange)
        window.close()
    theirs.Free()
    if comm.rank == 0:
        library = MPI.Get_library_version().split("\n")[0].split(",")[0].strip("\0 ")
        library = " ".join(library.replace("Version:", "").split())
        Path(str(config.out)).write_text(json.dumps({"library": library, **found}), encoding="utf-8")
        tell(well=True)


if __name__ == "__main__":
    run(*from_environment())
