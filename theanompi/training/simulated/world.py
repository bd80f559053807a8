"""Simulated workers as a whole: how long what takes, and what all of them know."""

from collections.abc import Callable
from typing import Any

import numpy as np

from theanompi.config import ClockSettings
from theanompi.training.simulated.baton import Baton, Meeting
from theanompi.training.simulated.replay import Replay


class World:
    """All simulated workers: their time, and what they have in common.

    Parameters
    ----------
    seed : int
        Of the drawn step times.

    Attributes
    ----------
    baton : Baton
    size : int
    clock : ClockSettings
    replay : Replay
        The order of events that is to be gone through again; of none, unless the clock says so.
    done : int
        Iterations of all workers.
    shared : dict
        What workers have in common, by its kind and number.
    rung : bool
        Whether a worker has called all others.
    lend : callable
        Called with a worker that goes on, after others may have run.
    """

    def __init__(self, size: int, clock: ClockSettings, seed: int) -> None:
        self.size, self.clock, self._seed = size, clock, seed
        self.baton = Baton(size)
        self.meeting = Meeting(self.baton, size)
        self.replay = Replay.read(clock.order, size) if clock.order else Replay()
        self.done = 0
        self.shared: dict[Any, Any] = {}
        self.rung = False
        self.lend: Callable[[int], None] = lambda rank: None

    def now(self, rank: int) -> float:
        """A worker's virtual time, in seconds."""
        return self.baton.times[rank]

    def step_seconds(self, rank: int, iteration: int) -> float:
        """How long a step of a worker takes: the same whenever it is asked."""
        seconds = self.clock.step_s
        if self.clock.steps == "exponential":
            seconds *= float(np.random.default_rng([self._seed, rank, iteration]).exponential())
        return seconds * (self.clock.straggler if rank == self.size - 1 else 1.0)

    def spend(self, rank: int, seconds: float) -> None:
        """Let time pass for a worker."""
        self.baton.spend(rank, seconds)
        self.lend(rank)

    def wait(self, rank: int, what: str) -> None:
        """Let a worker wait until another one wakes it."""
        self.baton.wait(rank, what)
        self.lend(rank)

    def meet(self, rank: int, what: str, value: Any, **how: Any) -> Any:
        """Let a worker wait for all others: see `Meeting`."""
        found = self.meeting(rank, what, value, **how)
        self.lend(rank)
        return found
