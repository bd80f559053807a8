"""Two ranks with a loader each: every image arrives once; then rank 1 loses a loader process, if asked to."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from theanompi.config import RunConfig, resolve
from theanompi.data import Loader, Pictures, Sampler, open_dataset

MPI_VARIABLES = ("PMI", "OMPI_", "MPI")


def environment(pid: int) -> list[str]:
    """What a process was started with: nothing in the moment in which it becomes another program."""
    while not (text := Path(f"/proc/{pid}/environ").read_text("utf-8")):
        time.sleep(0.01)
    return text.split("\0")


def main(lose: bool) -> None:
    """Read an epoch, and a validation, and the beginning of another epoch."""
    comm = MPI.COMM_WORLD
    digits = Pictures(open_dataset("digits"), resolve(RunConfig()))
    with digits.dataset as data, Loader(digits, 16, processes=2) as loader:
        names = {entry.partition("=")[0] for pid in loader.pids for entry in environment(pid)}
        assert "PATH" in names and not [name for name in names if name.startswith(MPI_VARIABLES)], names
        assert any(name.startswith(MPI_VARIABLES) for name in os.environ)
        sampler = Sampler(data.n_train, 16, comm.size, comm.rank, 1, seed=0)
        seen = np.zeros(data.n_train)
        for units in loader.train(sampler, epoch=0):
            for batch in units:
                np.add.at(seen, batch.ids, 1)
        comm.Allreduce(MPI.IN_PLACE, seen)
        counted = np.zeros(1)
        for batch in loader.validation(comm.size, comm.rank):
            counted += batch.weights.sum()
        comm.Allreduce(MPI.IN_PLACE, counted)
        if comm.rank == 0:
            print(f"{int(seen.sum())} at most {int(seen.max())} times, {int(counted[0])}")
        print("processes", *loader.pids, flush=True)
        comm.Barrier()  # both have said so before the job ends
        if lose and comm.rank == 1:
            os.kill(loader.pids[0], signal.SIGKILL)
        for units in loader.train(sampler, epoch=1):
            for _ in units:
                pass
            comm.Barrier()


if __name__ == "__main__":
    main("lose" in sys.argv)
