"""A copy of some numbers that belongs to all workers, spread over the ranks: no process serves it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import numpy as np
import torch
from mpi4py import MPI

from theanompi.exchange.base import Buffer
from theanompi.exchange.window import COUNT, InWindow, LockedWindow
from theanompi.record.progress import Progress
from theanompi.record.timeline import Span

LEAST = 1 << 14
"""Elements of a part: of a smaller centre not every rank has one."""


def parts(total: int, workers: int) -> list[slice]:
    """Divide so many elements among the workers, or fewer of them, as each part has `LEAST` or is the only one.

    >>> parts(40_000, 4)
    [slice(0, 20000, None), slice(20000, 40000, None)]
    """
    n = max(1, min(workers, total // LEAST))
    return [slice(total * i // n, total * (i + 1) // n) for i in range(n)]


class Centre(Protocol):
    """Numbers that belong to all workers, in parts that one worker at a time has to itself.

    A *pass* goes through the parts in their order, from 0 on. Each next one is taken before the one before is let go,
    so that all parts see the same order of workers.

    Attributes
    ----------
    n_parts : int
    number : int
        Of this worker's last pass: how many of all workers' passes have begun before it. After a `read`, of the last
        pass of any of them.
    spans : list of Span
        What this worker's last pass consisted of: "sync" is waiting for other workers.
    description : str
        Where it is, for the log.
    """

    n_parts: int
    number: int
    description: str

    @property
    def spans(self) -> list[Span]: ...

    def part(self, i: int) -> AbstractContextManager[tuple[slice, torch.Tensor]]:
        """Have part `i` to oneself: where it lies in the whole, and its values.

        What they are at the end of the block is the centre's from then on; of a block that raises, nothing is.
        The next part may be taken after the block or within it.
        """

    def read(self, out: torch.Tensor) -> None:
        """Copy the whole of it into a vector; this is no pass."""

    def write(self, values: torch.Tensor) -> None:
        """Begin with other values, the same on all ranks; collective."""

    def close(self) -> None:
        """Give back what it holds; collective."""


class WindowCentre(InWindow):
    """A `Centre` in an MPI-3 window, of which each rank holds a part.

    Parts on a CUDA device travel through pinned memory of the host.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        All workers; the constructor is collective.
    buffer : Buffer
        What the centre is like; it begins with rank 0's values.
    progress : Progress
        Told what is done.
    """

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer, progress: Progress) -> None:
        flat = buffer.flat
        total = flat.numel()
        self._slices = parts(total, comm.size)
        self.n_parts = len(self._slices)
        rank = comm.rank
        own = self._slices[rank] if rank < self.n_parts else slice(0, 0)
        self.window = LockedWindow(comm, 4 * (own.stop - own.start))
        self.window.progress = progress
        self.number = -1
        self._held, self._reached = set[int](), -1
        self._host = torch.empty(total, dtype=torch.float32, pin_memory=flat.is_cuda)
        self._values = torch.empty_like(flat) if flat.is_cuda else self._host
        self.description = f"{self.window.description} over {self.n_parts} of {comm.size} ranks"
        first = flat.cpu().clone()
        self.window.comm.Bcast([first.numpy(), MPI.FLOAT])
        self.write(first)

    @contextmanager
    def part(self, i: int) -> Iterator[tuple[slice, torch.Tensor]]:
        if i == 0:
            self.window.begin()
        self._take(i)
        if i == 0:
            self.number = self.window.add(0, COUNT, 1)
        where = self._slices[i]
        try:
            with self.window.span("comm", f"part {i} to this rank"):
                self._fetch(i)
            yield where, self._values[where]
            with self.window.span("comm", f"part {i} from this rank"):
                if self._values is not self._host:
                    self._host[where].copy_(self._values[where])
                self.window.put(i, self._host[where].numpy())
            if self._reached < i + 1 < self.n_parts:
                self._take(i + 1)
        finally:
            self._held.discard(i)
            self.window.unlock(i)

    def _take(self, i: int) -> None:
        if i not in self._held:
            self.window.lock(i)
            self._held.add(i)
            self._reached = i

    def _fetch(self, i: int) -> None:
        where = self._slices[i]
        self.window.get(i, self._host[where].numpy())
        if self._values is not self._host:
            self._values[where].copy_(self._host[where])

    def read(self, out: torch.Tensor) -> None:
        for i, where in enumerate(self._slices):
            with self.window.locked(i):
                self._fetch(i)
            out[where].copy_(self._values[where])
        self.number = self.window.add(0, COUNT, 0) - 1

    def write(self, values: torch.Tensor) -> None:
        rank = self.window.comm.rank
        self.window.comm.Barrier()
        if rank < self.n_parts:
            own: np.ndarray = values[self._slices[rank]].cpu().numpy()
            self.window.put(rank, np.ascontiguousarray(own))
        self.window.comm.Barrier()
