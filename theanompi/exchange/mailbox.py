"""Letters from worker to worker: copies of some numbers, each with a share of the whole."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from mpi4py import MPI

from theanompi.exchange.base import Buffer
from theanompi.exchange.window import InWindow, LockedWindow
from theanompi.record.progress import Progress
from theanompi.record.timeline import Span

_NUMBER = 8
"""Bytes of a share, and of a count."""


class Letter(NamedTuple):
    """What has arrived.

    Attributes
    ----------
    values : Tensor
    share : float
        Of the whole.
    senders : tuple of int
        Whose letter it is: of several, if it was made of several, in any order.
    """

    values: torch.Tensor
    share: float
    senders: tuple[int, ...]


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

    def collect(self) -> list[Letter]:
        """What has arrived; never waits for a letter. The vectors hold until the next call."""

    def settle(self) -> None:
        """See to it that all letters have arrived; collective."""

    def close(self) -> None:
        """Give back what it holds; collective."""


class WindowMailbox(InWindow):
    """A `Mailbox` in an MPI-3 window: a box for each rank, into which the others write by themselves.

    Letters that meet in a box are made one there, the mean by their shares: that is what their receiver would make of
    them, in whatever order. So a box holds one, and nothing is ever under way. Before it are its share, and how many
    letters each rank has sent here so far.

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
        self._first = _NUMBER * (1 + comm.size)
        self.window = LockedWindow(comm, self._first + 4 * flat.numel())
        self._rank = comm.rank
        self._sent, self._seen = np.zeros(comm.size, np.int64), np.zeros(comm.size, np.int64)
        self._host = torch.empty(flat.shape, dtype=torch.float32, pin_memory=flat.is_cuda)
        self._other = torch.empty_like(self._host)
        self._values = torch.empty_like(flat)
        self.window.progress = progress
        self.description = self.window.description

    def post(self, to: int, values: torch.Tensor, share: float) -> None:
        self.window.begin()
        self._host.copy_(values)
        with self.window.locked(to), self.window.span("comm", f"a letter to rank {to}"):
            there = self._share(to)
            if there:
                self.window.get(to, self._other.numpy(), self._first)
                share += there
                self._host.lerp_(self._other, there / share)
            self._sent[to] += 1
            self.window.put(to, self._sent[to : to + 1], _NUMBER * (1 + self._rank))
            self.window.put(to, self._host.numpy(), self._first)
            self.window.put(to, np.array([share], np.float64))

    def collect(self) -> list[Letter]:
        self.window.begin()
        if not self._share(self._rank):
            return []
        with self.window.locked(self._rank), self.window.span("comm", "a letter"):
            share, counts = self._share(self._rank), np.empty_like(self._seen)
            self.window.get(self._rank, counts, _NUMBER)
            self.window.get(self._rank, self._host.numpy(), self._first)
            self.window.put(self._rank, np.zeros(1))
        self._values.copy_(self._host)
        new, self._seen = counts - self._seen, counts
        return [Letter(self._values, share, tuple(np.repeat(np.arange(len(new)), new).tolist()))]

    def _share(self, rank: int) -> float:
        """That of the letter in a rank's box; 0 if there is none."""
        share = np.empty(1)
        self.window.get(rank, share)
        return float(share[0])

    def settle(self) -> None:
        self.window.comm.Barrier()
