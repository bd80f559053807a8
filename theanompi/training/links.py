"""What a rule exchanges by: sums of a buffer over the ranks, a centre, letters, a helper, and sums of a few numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from mpi4py import MPI

from theanompi.config import RunConfig
from theanompi.exchange import Exchanger, choose, get_exchanger
from theanompi.exchange.base import Buffer
from theanompi.exchange.centre import Centre, WindowCentre
from theanompi.exchange.helper import Helper, ThreadHelper
from theanompi.exchange.mailbox import Mailbox, WindowMailbox
from theanompi.exchange.window import COUNT, FLAG, InWindow, LockedWindow
from theanompi.record.progress import Progress
from theanompi.training.ranks import Agreed
from theanompi.training.stop import StopSignals

W = TypeVar("W", bound=InWindow)


class Links:
    """The ways from this rank to the others.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        All ranks.
    config : RunConfig
        Of the run.
    progress : Progress
        Told what the exchanges are doing.
    stop : StopSignals
        Whether this rank was asked to stop.

    Attributes
    ----------
    rank, size : int
    config : RunConfig
    rng : numpy.random.Generator
        Of this rank.
    words : str
        Which strategy was taken and which way the bytes go, for the log.
    """

    def __init__(self, comm: MPI.Intracomm, config: RunConfig, progress: Progress, stop: StopSignals) -> None:
        self.rank, self.size, self.config, self.words = comm.Get_rank(), comm.Get_size(), config, ""
        self.rng = np.random.default_rng([config.seed, self.rank])
        self._comm, self._progress, self._stop = comm, progress, stop
        self._exchangers: list[Exchanger] = []
        self._windows: list[InWindow] = []
        self._helper: ThreadHelper | None = None
        self._bell: LockedWindow | None = None
        self._rung = False

    def sum(self, buffer: Buffer, *, averages: bool = False) -> Exchanger:
        """An exchange of the run's strategy for a buffer, which may be moved; collective.

        Parameters
        ----------
        buffer : Buffer
            What is summed over the ranks.
        averages : bool
            Whether it holds weights and not gradients: then no strategy that rounds will do.

        Raises
        ------
        ConfigError
            If the strategy is not possible here.
        """
        name, cuda = self.config.exchange, self.config.require_cuda_aware
        if name == "auto" and self.size > 1 and not self._exchangers:
            choice = choose(self._comm, buffer, require_cuda_aware=cuda)
            nbytes = buffer.flat.numel() * buffer.flat.element_size()
            self._chosen, exchanger = choice.name, choice.exchanger
            self.words = f"{choice.name}, {exchanger.description}\n{choice.table(nbytes)}"
        else:
            # A single rank has nothing to choose by; what was taken for a first buffer is taken for all.
            if name == "auto":
                name = self._chosen if self.size > 1 else "overlap"
            exchanger = get_exchanger(name, self._comm, buffer, averages=averages, require_cuda_aware=cuda)
            self.words = self.words or f"{name}, {exchanger.description}"
        exchanger.progress = self._progress
        self._exchangers.append(exchanger)
        return exchanger

    def centre(self, buffer: Buffer) -> Centre:
        """Numbers that belong to all workers, like a buffer, which begin as rank 0's has them; collective.

        Raises
        ------
        ConfigError
            If a machine has no room for its part.
        """
        return self._kept(WindowCentre(self._comm, buffer, self._progress))

    def mailbox(self, buffer: Buffer) -> Mailbox:
        """Letters that are like a buffer, from worker to worker; collective.

        Raises
        ------
        ConfigError
            If a machine has no room for its box.
        """
        return self._kept(WindowMailbox(self._comm, buffer, self._progress))

    def _kept(self, made: W) -> W:
        made.window.hurried = self._hurried
        self._windows.append(made)
        return made

    def _hurried(self) -> bool:
        return self._helper is None or self._helper.hurried()

    def helper(self, buffer: Buffer) -> Helper:
        """A thread that exchanges while this rank computes, on the device on which a buffer lies; one of a rule's.

        Raises
        ------
        ConfigError
            When the MPI library lets only one thread make calls.
        """
        self._helper = ThreadHelper(buffer.flat.device)
        return self._helper

    def trade(self, values: torch.Tensor, partner: int) -> None:
        """Change places with the values that another rank gives for it at the same time."""
        host = values.cpu().contiguous()
        with self._progress.waiting(f"waiting for rank {partner}"):
            self._comm.Sendrecv_replace([host.numpy(), MPI.FLOAT], partner, 0, partner, 0)
        values.copy_(host)

    def hang_bell(self) -> None:
        """Make what `count`, `call` and `called` need, for rules that are not in step; collective."""
        self._bell = LockedWindow(self._comm, 0)

    def count(self, iterations: int) -> int:
        """Add to the iterations that all ranks have done; gives how many these are. Never waits for them."""
        assert self._bell is not None
        return self._bell.add(0, COUNT, iterations) + iterations

    def call(self) -> None:
        """Have all ranks meet, each after its iteration; for rules that are not in step. Never waits for them."""
        if self._bell is not None and not self._rung:
            self._rung = True
            for rank in range(self.size):
                self._bell.add(rank, FLAG, 1)

    def called(self) -> bool:
        """Whether one of them has called the others, as this one does if it was asked to stop."""
        if self.asked:
            self.call()
        return self._bell is not None and self._bell.add(self.rank, FLAG, 0) > 0

    @property
    def asked(self) -> bool:
        """Whether this rank was asked to stop."""
        return self._stop.asked

    def total(self, numbers: Sequence[float]) -> list[float]:
        """The sums of some numbers over all ranks, in double precision; collective."""
        values = np.array(numbers, dtype=float)
        self._comm.Allreduce(MPI.IN_PLACE, values)
        return list(values.tolist())

    def close(self) -> None:
        """Give back what the exchanges hold; collective. A second call does nothing."""
        if self._helper is not None:
            self._helper.close()
        for exchanger in self._exchangers:
            exchanger.close()
        for window in self._windows:
            window.close()
        if self._bell is not None:
            self._bell.close()
        self._exchangers, self._windows, self._bell, self._helper = [], [], None, None

    @contextmanager
    def closed_where_all_end(self) -> Iterator[None]:
        """`close` where all ranks agree within the block to end: MPI complains of windows that are open at its end."""
        try:
            yield
        except Agreed:
            # Of what one rank alone could not make, the others have more.
            made = len(self._exchangers), len(self._windows), self._bell is None
            if len(set(self._comm.allgather(made))) == 1:
                self.close()
            raise
