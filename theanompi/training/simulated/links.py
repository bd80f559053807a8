"""The ways from one simulated worker to the others."""

from typing import cast

import torch
from mpi4py import MPI

from theanompi.config import RunConfig
from theanompi.exchange import Exchanger
from theanompi.exchange.base import Buffer
from theanompi.record.progress import Progress
from theanompi.training.links import Links
from theanompi.training.simulated.communicator import Communicator
from theanompi.training.simulated.exchanges import (
    SimulatedCentre,
    SimulatedHelper,
    SimulatedMailbox,
    SimulatedSum,
)
from theanompi.training.simulated.world import World
from theanompi.training.stop import StopSignals


class SimulatedLinks(Links):
    """The ways from one simulated worker to the others.

    Parameters
    ----------
    config, progress, stop
        As for `Links`.
    """

    def __init__(
        self, world: World, comm: Communicator, config: RunConfig, progress: Progress, stop: StopSignals
    ) -> None:
        super().__init__(cast(MPI.Intracomm, comm), config, progress, stop)
        self._world, self._simulated = world, comm
        self._centres = self._mailboxes = self._own = 0

    def sum(self, buffer: Buffer, *, averages: bool = False) -> Exchanger:
        self.words = "simulated, in the order of a virtual clock"
        return SimulatedSum(self._world, self._simulated, buffer)

    def centre(self, buffer: Buffer) -> SimulatedCentre:
        self._centres += 1
        return SimulatedCentre(self._world, self.rank, buffer, self._centres - 1)

    def mailbox(self, buffer: Buffer) -> SimulatedMailbox:
        self._mailboxes += 1
        return SimulatedMailbox(self._world, self.rank, self._mailboxes - 1, lambda: self._own)

    def helper(self, buffer: Buffer) -> SimulatedHelper:
        return SimulatedHelper(self._world, self.rank)

    def trade(self, values: torch.Tensor, partner: int) -> None:
        world, rank = self._world, self.rank
        given = world.shared.setdefault("trades", {})
        given[rank, partner] = values.clone()
        if (partner, rank) in given:
            world.baton.wake(partner, world.now(rank) + world.clock.exchange_s)
            world.spend(rank, world.clock.exchange_s)
        else:
            world.wait(rank, f"the network of worker {partner}")
        values.copy_(given.pop((partner, rank)))

    def hang_bell(self) -> None:
        """The world has one."""

    def count(self, iterations: int) -> int:
        world = self._world
        world.done += iterations
        self._own += iterations
        return world.replay.total(self.rank, self._own, world.done)

    def call(self) -> None:
        self._world.rung = True

    def called(self) -> bool:
        if self.asked:
            self.call()
        return self._world.rung

    def close(self) -> None:
        """Nothing is held."""
