"""How MPI gets at a buffer: as it lies, or through pinned memory of the host."""

from collections.abc import Callable
from typing import Any

import torch
from mpi4py import MPI

from theanompi.exchange import cuda_aware
from theanompi.exchange.base import Buffer
from theanompi.exchange.waiting import poll

# Bytes. What fits the processor's caches is copied and added there; in one call the buffer goes through memory
# at every stage of the algorithm. Much smaller chunks pay for the number of calls: benchmarks/exchange.py.
CHUNK = 2 << 20


def machine(comm: MPI.Intracomm) -> Any:
    """The ranks of `comm` on this one's machine, which can share memory with it; collective."""
    return comm.Split_type(MPI.COMM_TYPE_SHARED)


class Path:
    """`Allreduce` in place on ranges of a flat buffer, chunk by chunk.

    Device memory is given to MPI as it is where that has been proven to work and to be faster. Otherwise it is
    staged through one pinned buffer: later chunks come down and earlier ones go up while one is summed.

    Within one machine the call blocks, as MPI moves the bytes itself and needs the core for it. Between machines
    most of it is waiting for the network, in which a blocking call would spin: host memory is summed by
    nonblocking calls that are asked now and then. Device memory is not, as some libraries cannot.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
    buffer : Buffer
    hurried : callable
        As for `theanompi.exchange.waiting.poll`.

    Attributes
    ----------
    direct : bool
        Whether MPI gets the buffer's own memory.
    description : str
    """

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer, hurried: Callable[[], bool]) -> None:
        self.comm, self.buffer, self._hurried, self.direct = comm, buffer, hurried, True
        self._far = False
        if comm.size > 1:
            near = machine(comm)
            self._far = comm.allreduce(near.size < comm.size, MPI.LOR)
            near.Free()
        self.description = "host memory"
        flat = buffer.flat
        if flat.is_cuda and comm.size > 1:
            self.direct, reason = cuda_aware.decide(comm, flat.device)
            if self.direct:
                self.description = f"device memory ({reason})"
            else:
                self.description = f"staged through pinned host memory ({reason})"
                self._host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
                self._down, self._up = torch.cuda.Stream(flat.device), torch.cuda.Stream(flat.device)
        elif flat.is_cuda:
            self.description = "device memory"
        self.description += f", in chunks of {CHUNK >> 20} MiB"

    def allreduce(self, start: int, end: int) -> None:
        """Sum the elements from `start` to `end`; what the device was told to write there has been written."""
        flat = self.buffer.flat[start:end]
        size = CHUNK // flat.element_size()
        if not self.direct:
            self._staged(flat, self._host[start:end], size)
            return
        for chunk in flat.split(size):
            if chunk.is_cuda:
                self.comm.Allreduce(MPI.IN_PLACE, [chunk, MPI.FLOAT])
            else:
                self._allreduce(chunk.numpy())

    def _allreduce(self, chunk: Any) -> None:
        if self._far:
            poll(self.comm.Iallreduce(MPI.IN_PLACE, [chunk, MPI.FLOAT]).Test, self._hurried)
        else:
            self.comm.Allreduce(MPI.IN_PLACE, [chunk, MPI.FLOAT])

    def _staged(self, flat: torch.Tensor, host: torch.Tensor, size: int) -> None:
        pairs = list(zip(flat.split(size), host.split(size), strict=True))
        arrived = []
        with torch.cuda.stream(self._down):
            for device_chunk, host_chunk in pairs:
                host_chunk.copy_(device_chunk, non_blocking=True)
                arrived.append(torch.cuda.Event(blocking=True))
                arrived[-1].record()
        for (device_chunk, host_chunk), event in zip(pairs, arrived, strict=True):
            event.synchronize()
            self._allreduce(host_chunk.numpy())
            with torch.cuda.stream(self._up):
                device_chunk.copy_(host_chunk, non_blocking=True)

    def join(self) -> None:
        """Let what the device is told from now on come after the copies back to it."""
        if not self.direct:
            torch.cuda.current_stream().wait_stream(self._up)
