"""Measures sums over the ranks of an mpirun, for `cuda_aware.prove` and for ``tmlauncher doctor``.

``python -m theanompi.exchange.probe '{"devices": ["cpu", "cpu"], "paths": ["host"], "sizes": [1024]}'`` on every
rank. It is a program of its own because what it tries may crash or hang. Rank 0 says what it found as soon as it
is known (`theanompi.launch.mpirun.say`): first the facts of the library, then one `Sum` for each path and size:

``host``
    One `Allreduce` in place, of host memory.
``direct``
    Device memory in chunks, on a second thread: as MPI is given it when it is CUDA-aware. A library may take it on
    the main thread, and as a whole, and fail at this.
``staged``
    The device memory copied to pinned host memory and summed there in chunks, each of which returns while the next
    one is summed.

With ``"window": true`` it says at the end whether ranks that compute have to help those that get at their memory.
"""

import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from mpi4py import MPI

from theanompi.exchange import cuda_aware
from theanompi.exchange.route import CHUNK, allreduce_chunks, bind_thread
from theanompi.exchange.window import LockedWindow
from theanompi.launch.mpirun import say


class Sum(NamedTuple):
    """A path at one size: the median time of a sum, and whether every value of every sum was right."""

    path: str
    bytes: int
    seconds: float
    right: bool


def fill(flat: torch.Tensor, rank: int, call: int) -> None:
    """Fill with whole numbers, different ones for each rank and call, whose float32 sums are exact in any order.

    >>> flat = torch.zeros(3)
    >>> fill(flat, rank=1, call=2)
    >>> flat.tolist()
    [6.0, 8.0, 10.0]
    """
    torch.arange(flat.numel(), out=flat)
    flat.remainder_(1009).add_(call + 1).mul_(rank + 1)


def measure(comm: MPI.Comm, path: str, flat: torch.Tensor, repeats: int) -> Sum:
    """Sum `flat` over the ranks by one path, again and again; a collective call.

    Parameters
    ----------
    path : str
        ``"host"``, ``"direct"`` or ``"staged"``.
    flat : float32 tensor (values,)
        On the rank's device, or on the host for ``"host"``; overwritten.
    repeats : int
        How many sums are timed, after one that is not.

    Returns
    -------
    Sum
        The same on every rank: a sum takes as long as on the slowest rank, and is right if it is on all.
    """
    host = torch.empty(flat.shape, pin_memory=flat.is_cuda) if path == "staged" else None
    expected = torch.empty_like(flat)
    size, right, times = comm.Get_size(), True, []
    for call in range(repeats + 1):
        fill(flat, comm.Get_rank(), call)
        fill(expected, size * (size + 1) // 2 - 1, call)
        _synchronise(flat)
        comm.Barrier()
        start = time.perf_counter()
        if host is not None:
            _sum_staged(comm, flat, host)
        elif path == "direct":
            # A new thread each time: none but the first would miss what the first has set up.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(_sum_direct, comm, flat).result()
        else:
            comm.Allreduce(MPI.IN_PLACE, [flat, MPI.FLOAT])
        _synchronise(flat)
        times.append(comm.allreduce(time.perf_counter() - start, MPI.MAX))
        right = comm.allreduce(right and torch.equal(flat, expected), MPI.LAND)
    return Sum(path, flat.numel() * flat.element_size(), statistics.median(times[1:]), right)


def _sum_direct(comm: MPI.Comm, flat: torch.Tensor) -> None:
    if flat.is_cuda:
        bind_thread(flat.device)
    allreduce_chunks(comm, flat)


def _sum_staged(comm: MPI.Comm, flat: torch.Tensor, host: torch.Tensor) -> None:
    host.copy_(flat)
    values = CHUNK // flat.element_size()
    for chunk, home in zip(host.split(values), flat.split(values), strict=True):
        comm.Allreduce(MPI.IN_PLACE, [chunk.numpy(), MPI.FLOAT])
        home.copy_(chunk, non_blocking=True)


def _synchronise(flat: torch.Tensor) -> None:
    if flat.is_cuda:
        torch.cuda.synchronize(flat.device)


def main(task: str) -> None:
    """Do what `task` says, as JSON: the device of each rank, the paths, and the sizes in values."""
    work = json.loads(task)
    comm = MPI.COMM_WORLD
    rank = comm.Get_rank()
    # A job binds its ranks to cores of their own; here several ranks would share those of the one that started them.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    torch.set_num_threads(1)

    def tell(**facts: Any) -> None:
        if rank == 0:
            say(**facts)

    claimed, claim = cuda_aware.query()
    tell(size=comm.Get_size(), threads=MPI.Query_thread(), claimed=claimed, claim=claim)
    if comm.Get_size() != len(work["devices"]):
        # An mpirun of another MPI: each process takes itself for the only one.
        return
    device = torch.device(work["devices"][rank])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    for path in work["paths"]:
        for values in work["sizes"]:
            flat = torch.zeros(values, device="cpu" if path == "host" else device)
            repeats = max(1, min(20, (32 << 20) // (4 * values)))
            tell(**measure(comm, path, flat, repeats)._asdict())
    if work.get("window"):
        window = LockedWindow(comm, 0)
        tell(helped=window.helped)
        window.close()


if __name__ == "__main__":
    main(sys.argv[1])
