"""How MPI gets at a buffer: as it lies, or through pinned memory of the host."""

import torch
from mpi4py import MPI

from theanompi.exchange import cuda_aware
from theanompi.exchange.base import Buffer

# Bytes. What fits the processor's caches is copied and added there; in one call the buffer goes through memory
# at every stage of the algorithm. Much smaller chunks pay for the number of calls: benchmarks/exchange.py.
CHUNK = 2 << 20


def bind_thread(device: torch.device) -> None:
    """Make a CUDA device's context the calling thread's, for an MPI library that is about to use the driver's API.

    The driver knows a context for each thread. CUDA's runtime, which torch calls, sets it at a thread's first call that
    needs one; a thread that only waits and calls MPI has made none, and MPI's own calls then fail.
    """
    torch.cuda.current_stream(device).synchronize()


def allreduce_chunks(comm: MPI.Comm, flat: torch.Tensor) -> None:
    """Sum a vector over the ranks in place, chunk by chunk; MPI is given its own memory."""
    for chunk in flat.split(CHUNK // flat.element_size()):
        comm.Allreduce(MPI.IN_PLACE, [chunk if chunk.is_cuda else chunk.numpy(), MPI.FLOAT])


class Route:
    """`Allreduce` in place on ranges of a flat buffer, chunk by chunk.

    Device memory is given to MPI as it is where that has been proven to work and to be faster. Otherwise it is
    staged through one pinned buffer: later chunks come down and earlier ones go up while one is summed.

    The calls block: nonblocking ones do not take device memory in every library, and know other algorithms. So
    that they leave the core to others while the network works, see `theanompi.launch.libraries.launch_settings`.

    Attributes
    ----------
    direct : bool
        Whether MPI gets the buffer's own memory.
    description : str
    """

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        self.comm, self.buffer, self.direct = comm, buffer, True
        self.description = "host memory"
        flat = buffer.flat
        # All ranks take part, those on the CPU too.
        decision = cuda_aware.decide(comm, flat.device) if comm.size > 1 else None
        if flat.is_cuda and decision is not None:
            self.direct, reason = decision
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
        if self.direct:
            allreduce_chunks(self.comm, flat)
        else:
            self._staged(flat, self._host[start:end])

    def _staged(self, flat: torch.Tensor, host: torch.Tensor) -> None:
        size = CHUNK // flat.element_size()
        pairs = list(zip(flat.split(size), host.split(size), strict=True))
        arrived = []
        with torch.cuda.stream(self._down):
            for device_chunk, host_chunk in pairs:
                host_chunk.copy_(device_chunk, non_blocking=True)
                arrived.append(torch.cuda.Event(blocking=True))
                arrived[-1].record()
        for (device_chunk, host_chunk), event in zip(pairs, arrived, strict=True):
            event.synchronize()
            self.comm.Allreduce(MPI.IN_PLACE, [host_chunk.numpy(), MPI.FLOAT])
            with torch.cuda.stream(self._up):
                device_chunk.copy_(host_chunk, non_blocking=True)

    def join(self) -> None:
        """Let what the device is told from now on come after the copies back to it."""
        if not self.direct:
            torch.cuda.current_stream().wait_stream(self._up)
