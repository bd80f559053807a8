"""The flat strategy: the whole buffer in place, in chunks."""

import torch
from mpi4py import MPI

from theanompi.exchange import cuda_aware
from theanompi.exchange.base import Buffer, Exchanger

# Bytes. What fits the processor's caches is copied and added there; in one call the buffer goes through memory
# at every stage of the algorithm. Much smaller chunks pay for the number of calls.
CHUNK = 2 << 20


class AllReduce(Exchanger):
    """`Allreduce` in place on the flat buffer.

    Host memory is summed where it lies, chunk by chunk. Device memory is given to MPI as it is, in one piece,
    when the library says that it takes it. Otherwise it is staged through one pinned buffer in host memory,
    each chunk returning to the device while the next one is summed.
    """

    def __init__(self, comm: MPI.Comm, buffer: Buffer) -> None:
        super().__init__(comm, buffer)
        flat = buffer.flat
        self._host: torch.Tensor | None = flat
        self.description = "host memory"
        if flat.is_cuda:
            aware, reason = cuda_aware.query()
            self._host = None if aware else torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
            self.description = (
                f"device memory ({reason})" if aware else f"staged through pinned host memory ({reason})"
            )
        if self._host is not None:
            self.description += f", in chunks of {CHUNK >> 20} MiB"

    def _sum(self) -> None:
        flat, host = self.buffer.flat, self._host
        if host is None:
            self.comm.Allreduce(MPI.IN_PLACE, [flat, MPI.FLOAT])
            return
        staged = host is not flat
        if staged:
            host.copy_(flat)
        size = CHUNK // flat.element_size()
        for chunk, home in zip(host.split(size), flat.split(size), strict=True):
            self.comm.Allreduce(MPI.IN_PLACE, [chunk.numpy(), MPI.FLOAT])
            if staged:
                home.copy_(chunk, non_blocking=True)
