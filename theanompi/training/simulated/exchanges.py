"""What simulated workers exchange by: sums, a centre, letters; each takes its virtual time."""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from mpi4py import MPI

from theanompi.config import counted
from theanompi.exchange import Exchanger
from theanompi.exchange.base import Bucket, Buffer
from theanompi.exchange.centre import parts
from theanompi.exchange.mailbox import Letter
from theanompi.record.timeline import Span
from theanompi.training.simulated.communicator import Communicator
from theanompi.training.simulated.world import World


class SimulatedSum(Exchanger):
    """Sums over simulated workers, in the order of their ranks."""

    def __init__(self, world: World, comm: Communicator, buffer: Buffer) -> None:
        super().__init__(cast(MPI.Intracomm, comm), buffer)
        self.description = "in one process"
        self._world = world

    def sum(self) -> None:
        world, rank, flat = self._world, self.comm.rank, self.buffer.flat
        came, seconds = world.now(rank), world.clock.exchange_s
        total = world.meet(rank, "a sum", flat.clone(), seconds=seconds, made_of=_total)
        flat.copy_(total)
        now = world.now(rank)
        self.spans = [
            Span("sync", came, now - seconds, "everything"),
            Span("comm", now - seconds, now, "everything"),
        ]

    def _sum(self, bucket: Bucket) -> None:
        raise NotImplementedError


def _total(tensors: list[torch.Tensor]) -> torch.Tensor:
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total


class _Numbers:
    """What a centre is, for all workers."""

    def __init__(self, values: torch.Tensor, n_parts: int) -> None:
        self.values, self.count = values.clone(), 0
        self.holders: list[int | None] = [None] * n_parts
        self.queues: list[deque[int]] = [deque() for _ in range(n_parts)]


class SimulatedCentre:
    """A `theanompi.exchange.centre.Centre` of simulated workers, of as many parts as that of real ones.

    To read it takes no time.

    Parameters
    ----------
    number : int
        Which of its worker's centres it is; the first one's order can be replayed.
    """

    def __init__(self, world: World, rank: int, buffer: Buffer, number: int) -> None:
        total = buffer.flat.numel()
        self._slices = parts(total, world.size)
        self.n_parts = len(self._slices)
        self._world, self._rank, self._replayed = world, rank, number == 0

        def begin(values: list[torch.Tensor]) -> tuple[_Numbers, int]:
            weights = world.shared.setdefault("weights", values[0].numel())
            return _Numbers(values[0], self.n_parts), weights

        self._numbers, weights = world.meet(rank, "a centre", buffer.flat.clone(), made_of=begin)
        self._seconds = world.clock.exchange_s * total / weights / self.n_parts
        self.number, self._held, self._reached = -1, set[int](), -1
        self.spans: list[Span] = []
        self.description = f"in one process, in {counted(self.n_parts, 'part')}"

    @contextmanager
    def part(self, i: int) -> Iterator[tuple[slice, torch.Tensor]]:
        if i == 0:
            self._reached, self.spans = -1, []
        self._take(i)
        if i == 0:
            self.number, self._numbers.count = self._numbers.count, self._numbers.count + 1
        try:
            began = self._world.now(self._rank)
            self._world.spend(self._rank, self._seconds)
            self.spans.append(Span("comm", began, self._world.now(self._rank), f"part {i}"))
            yield self._slices[i], self._numbers.values[self._slices[i]]
            if self._reached < i + 1 < self.n_parts:
                self._take(i + 1)
        finally:
            self._release(i)

    def _take(self, i: int) -> None:
        if i in self._held:
            return
        world, rank, numbers, began = self._world, self._rank, self._numbers, self._world.now(self._rank)
        if i == 0 and self._replayed and world.replay.order:
            self._wait_for_turn()
        if numbers.holders[i] is None:
            numbers.holders[i] = rank
        else:
            numbers.queues[i].append(rank)
            world.wait(rank, f"part {i} of the centre")
        self._held.add(i)
        self._reached = i
        self.spans.append(Span("sync", began, world.now(rank), f"part {i}"))

    def _wait_for_turn(self) -> None:
        world, parked = self._world, self._world.shared.setdefault("parked", set())
        if world.replay.order[0] != self._rank:
            parked.add(self._rank)
            world.wait(self._rank, "its turn at the centre")
        world.replay.order.popleft()
        if not world.replay.order:
            for rank in sorted(parked):
                world.baton.wake(rank, world.now(self._rank))
            parked.clear()
        elif world.replay.order[0] in parked:
            parked.remove(world.replay.order[0])
            world.baton.wake(world.replay.order[0], world.now(self._rank))

    def _release(self, i: int) -> None:
        numbers = self._numbers
        self._held.discard(i)
        numbers.holders[i] = numbers.queues[i].popleft() if numbers.queues[i] else None
        following = numbers.holders[i]
        if following is not None and self._world.baton.error is None:
            self._world.baton.wake(following, self._world.now(self._rank))

    def read(self, out: torch.Tensor) -> None:
        out.copy_(self._numbers.values)
        self.number = self._numbers.count - 1

    def write(self, values: torch.Tensor) -> None:
        self._numbers.values.copy_(values)
        self._world.meet(self._rank, "new values of a centre", None)

    def close(self) -> None:
        """Nothing is held."""


class SimulatedMailbox:
    """A `theanompi.exchange.mailbox.Mailbox` of simulated workers.

    To collect takes no time, unless letters are still to come.

    Parameters
    ----------
    number : int
        Which of its worker's mailboxes it is.
    own : callable
        How many iterations its worker has done.
    """

    def __init__(self, world: World, rank: int, number: int, own: Callable[[], int]) -> None:
        self._world, self._rank = world, rank
        self._boxes: list[list[Letter]]
        self._boxes, self._parked = world.shared.setdefault(
            ("mailbox", number), ([[] for _ in range(world.size)], set[int]())
        )
        self._own, self._meetings, self._settled = own, 0, False
        self.spans: list[Span] = []
        self.description = "boxes in one process"

    def post(self, to: int, values: torch.Tensor, share: float) -> None:
        world, rank, began, letter = self._world, self._rank, self._world.now(self._rank), values.clone()
        world.spend(rank, world.clock.exchange_s)
        self._boxes[to].append(Letter(letter, share, (rank,)))
        if to in self._parked:
            self._parked.remove(to)
            world.baton.wake(to, world.now(rank))
        self.spans = [Span("comm", began, world.now(rank), f"a letter to worker {to}")]

    def collect(self) -> list[Letter]:
        self.spans = []
        planned = self._world.replay.letters(self._rank, self._meetings, self._own())
        if planned is None or self._settled:
            self._meetings, self._settled = self._meetings + self._settled, False
            everything, self._boxes[self._rank] = self._boxes[self._rank], []
            return everything
        box = self._boxes[self._rank]
        while planned - Counter(letter.senders[0] for letter in box):
            self._parked.add(self._rank)
            self._world.wait(self._rank, "a letter")
        found: list[Letter] = []
        left: list[Letter] = []
        for letter in box:
            due = planned[letter.senders[0]] > 0
            planned.subtract(letter.senders[:due])
            (found if due else left).append(letter)
        box[:] = left
        return found

    def settle(self) -> None:
        self._world.meet(self._rank, "all letters", None)
        self._settled = True

    def close(self) -> None:
        """Nothing is held."""


class SimulatedHelper:
    """A `theanompi.exchange.helper.Helper` of a simulated worker.

    Its task is done at once, and then the worker goes back in time to where it began: what it does until it joins
    nobody sees.
    """

    def __init__(self, world: World, rank: int) -> None:
        self._world, self._rank, self._end = world, rank, 0.0

    def begin(self, task: Callable[[], None]) -> None:
        began = self._world.now(self._rank)
        task()
        self._end = self._world.now(self._rank)
        self._world.baton.times[self._rank] = began

    def join(self) -> None:
        self._world.spend(self._rank, max(0.0, self._end - self._world.now(self._rank)))
