"""Letters from worker to worker: copies of some numbers, each with a share of the whole."""

from typing import Protocol

import numpy as np
import torch
from mpi4py import MPI

from theanompi.exchange.base import Buffer
from theanompi.exchange.window import LockedWindow
from theanompi.record.progress import Progress
from theanompi.record.timeline import Span

_SHARE = 8


class Mailbox(Protocol):
    """Takes copies of a buffer to other workers, who find them when they look.

    Attributes
    ----------
    spans : list of Span
        What the last call consisted of.
    description : str
        Where letters lie, for the log.
    """

    description: str

    @property
    def spans(self) -> list[Span]: ...

    def post(self, to: int, values: torch.Tensor, share: float) -> None:
        """Send a copy of a vector, and a share above 0, to a worker."""
        ...

    def collect(self) -> list[tuple[torch.Tensor, float]]:
        """What has arrived; never waits for a letter. The vectors hold until the next call."""
        ...

    def settle(self) -> None:
        """See to it that all letters have arrived; collective."""
        ...

    def close(self) -> None:
        """Give back what it holds; collective."""
        ...


class WindowMailbox:
    """A `Mailbox` in an MPI-3 window: a box for each rank, into which the others write by themselves.

    Letters that meet in a box are made one there, the mean by their shares: that is what their receiver would make of
    them, in whatever order. So a box holds one, and nothing is ever under way.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        All workers; the constructor is collective.
    buffer : Buffer
        What letters are like.
    progress : Progress
        Told what is done.
    """

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer, progress: Progress) -> None:
        flat = buffer.flat
        self._window = LockedWindow(comm, _SHARE + 4 * flat.numel())
        self._rank = comm.rank
        self._host = torch.empty(flat.shape, dtype=torch.float32, pin_memory=flat.is_cuda)
        self._other = torch.empty_like(self._host)
        self._values = torch.empty_like(flat)
        self._window.progress = progress
        self.description = self._window.description

    @property
    def spans(self) -> list[Span]:
        """As in `Mailbox`."""
        return self._window.spans

    def post(self, to: int, values: torch.Tensor, share: float) -> None:
        """As in `Mailbox`."""
        self._window.begin()
        self._host.copy_(values)
        with self._window.locked(to), self._window.span("comm", f"a letter to rank {to}"):
            there = self._share(to)
            if there:
                self._window.get(to, self._other.numpy(), _SHARE)
                share += there
                self._host.lerp_(self._other, there / share)
            self._window.put(to, self._host.numpy(), _SHARE)
            self._window.put(to, np.array([share]))

    def collect(self) -> list[tuple[torch.Tensor, float]]:
        """As in `Mailbox`."""
        self._window.begin()
        if not self._share(self._rank):
            return []
        with self._window.locked(self._rank), self._window.span("comm", "a letter"):
            share = self._share(self._rank)
            self._window.get(self._rank, self._host.numpy(), _SHARE)
            self._window.put(self._rank, np.zeros(1))
        self._values.copy_(self._host)
        return [(self._values, share)]

    def _share(self, rank: int) -> float:
        """That of the letter in a rank's box; 0 if there is none."""
        share = np.empty(1)
        self._window.get(rank, share)
        return float(share[0])

    def settle(self) -> None:
        """As in `Mailbox`."""
        self._window.comm.Barrier()

    def close(self) -> None:
        """As in `Mailbox`."""
        self._window.close()
