"""Inside a machine the ranks add up each other's buffers where they lie; between machines, one rank of each."""

from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from theanompi.device import Pinned
from theanompi.device.ops.base import ALIGNMENT
from theanompi.exchange.background import Background
from theanompi.exchange.base import Bucket, Buffer
from theanompi.exchange.route import CHUNK
from theanompi.exchange.window import check_room

# Elements that are added up at a time: what comes from all ranks is still in the core's L2 when it is copied.
BLOCK = 1 << 16


class SharedMemory(Background):
    """The three phases of Goyal et al. 2017, §4, in MPI-3 shared memory.

    Each rank's buffer lies in a window that the others of its machine see. Of every bucket, each of them adds up
    one part from all buffers; the first rank of each machine sums the result over the machines; the others take
    it over. On one machine the middle phase falls away and each rank writes its part into all buffers at once.
    Buffers on CUDA devices go through the window bucket by bucket.

    Sums have the order of the ranks within a machine: they are the same in every run.

    Raises
    ------
    ConfigError
        On all ranks, when a machine has no room for the window.
    """

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        super().__init__(comm, buffer)
        self._node = self._machine()
        first = self._node.rank == 0
        self._leaders = self.comm.Split(0 if first else MPI.UNDEFINED, self.comm.rank)
        machines = self.comm.allreduce(int(first))
        size = buffer.flat.numel() * buffer.flat.element_size()
        check_room(
            *(self.comm, size + ALIGNMENT, "exchange shm: expected room for the gradients of all ranks"),
            otherwise=", or --exchange overlap",
        )
        self._window = MPI.Win.Allocate_shared(size + ALIGNMENT, 1, comm=self._node)
        self._flats = [self._part(rank, size) for rank in range(self._node.size)]
        self._own = self._flats[self._node.rank]
        self._several = machines > 1
        self.description = "shared memory" + (f", then between {machines} machines" if self._several else "")
        # Who has its values in the window all the time waits for those that have to put them there.
        self._copies = bool(self._node.allreduce(buffer.flat.is_cuda, MPI.LOR))
        self._pinned: Pinned | None = None
        if buffer.flat.is_cuda:
            self.direct = False
            self._pinned = Pinned(self._own.numpy())
        else:
            buffer.move(self._own)

    def _part(self, rank: int, size: int) -> torch.Tensor:
        """A rank's part of the window, from where vectors fit: it lies at whole pages in all processes, or in one."""
        memory = np.asarray(self._window.Shared_query(rank)[0])
        first = -memory.ctypes.data % ALIGNMENT
        return torch.from_numpy(memory[first : first + size].view(np.float32))

    def _machine(self) -> Any:
        """The ranks that can share memory with this one."""
        return self.comm.Split_type(MPI.COMM_TYPE_SHARED)

    def _sum(self, bucket: Bucket) -> None:
        start, end = bucket.start, bucket.end
        if self._stream is not None:
            self._own[start:end].copy_(self.buffer.flat[start:end], non_blocking=True)
            self._stream.synchronize()
        if self._copies:
            self._meet(self._node)
        size, ranks = end - start, self._node.size
        first = start + size * self._node.rank // ranks
        last = start + size * (self._node.rank + 1) // ranks
        for low in range(first, last, BLOCK):
            total, *others = (flat[low : min(low + BLOCK, last)] for flat in self._flats)
            for other in others:
                total += other
            if not self._several:
                for other in others:
                    other.copy_(total)
        self._meet(self._node)
        if self._several:
            self._between_machines(start, end)
        if self._stream is not None:
            self.buffer.flat[start:end].copy_(self._own[start:end], non_blocking=True)

    def _between_machines(self, start: int, end: int) -> None:
        total = self._flats[0][start:end]
        if self._leaders != MPI.COMM_NULL:
            for chunk in total.split(CHUNK // total.element_size()):
                self._leaders.Allreduce(MPI.IN_PLACE, [chunk.numpy(), MPI.FLOAT])
        self._meet(self._node)
        if self._leaders == MPI.COMM_NULL:
            self._own[start:end].copy_(total)
        # Before the first rank writes its next gradients over what the others read.
        self._meet(self._node)

    def close(self) -> None:
        if self._pinned:
            self._pinned.release()
        else:
            self.buffer.move(torch.empty_like(self.buffer.flat))
        self._flats, self._own = [], torch.empty(0)
        self._window.Free()
        for comm in (self._node, self._leaders):
            if comm != MPI.COMM_NULL:
                comm.Free()
        super().close()
