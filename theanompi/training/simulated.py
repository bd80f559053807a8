"""Many workers in one process, each at its place in virtual time: ``--workers-simulated K``.

The same rules and the same loop as under ``mpirun`` drive it, unmodified. Each worker is a thread that runs
`theanompi.training.rank.train`; a `Baton` lets one of them run at a time, the one that is the furthest behind in
virtual time (of several the lowest). There is one compiled model, whose state changes with the worker: weights, what
the optimizer keeps, gradients, counters and the stream of batches. So a run is the same each time, to
the last bit.

What takes virtual time, and nothing else:

- a step, when its gradients are there: `clock.step_s` on average, in a `constant` or an `exponential` distribution, and
  `clock.straggler` times as long for the last worker;
- a sum over all workers, once all are there: `clock.exchange_s`, all of it exposed;
- a pass at a centre: `clock.exchange_s` for a centre as large as the weights, shared equally among its parts. A part
  belongs to one worker at a time, and others wait in the order in which they come;
- a letter: `clock.exchange_s`, in which its sender waits, and after which it is there.

Meetings are as real runs have them: an epoch is over when all workers together have done its iterations, whoever did
them, and each comes to the validation and the checkpoint after the iteration that it is in. These take no time but that
of a sum over all workers (GOSGD's mean, local SGD's). Every worker has its own share of the items of an epoch, as real
ones do; a fast one begins again with it.

With `clock.order`, the log of a real run or a simulated one, workers pass at the centre in its order, and meet after as
many iterations of each: who comes too early waits for its turn, whatever the step times. Rates that change from
iteration to iteration may differ by one of them.

What `theanompi.lasagne.random.fresh_keys` draws is one stream for all workers, in the order in which they run; dropout
goes by the items and is each one's own.
"""

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from mpi4py import MPI

from theanompi.config import ClockSettings, ConfigError, RunConfig, read_clock
from theanompi.data import Batch, LoaderError, validation_batches
from theanompi.data.reading.reader import BadItem
from theanompi.exchange import Exchanger
from theanompi.exchange.base import Bucket, Buffer
from theanompi.exchange.centre import LEAST
from theanompi.record.folder import RunFolder
from theanompi.record.log import read_log
from theanompi.record.progress import Progress
from theanompi.record.timeline import Span
from theanompi.training.inputs import Feed
from theanompi.training.items import Items
from theanompi.training.links import Links
from theanompi.training.model import Model
from theanompi.training.rank import Means, make_model, train
from theanompi.training.ranks import together
from theanompi.training.replica import Replica
from theanompi.training.state import METRICS
from theanompi.training.stop import StopSignals

_LOOK = 0.2
"""Seconds between two looks of the main thread, which handles signals, at its workers."""


class Ended(BaseException):
    """The simulation is over, because of another worker."""


class Deadlock(RuntimeError):
    """All workers wait for each other."""


class Baton:
    """Lets one of several threads run at a time, the one that is the furthest behind in virtual time.

    Parameters
    ----------
    size : int
        Workers; all begin at the time 0.

    Attributes
    ----------
    times : list of float
        Of each worker, in seconds.
    error : BaseException or None
        What has ended the simulation.
    """

    def __init__(self, size: int) -> None:
        self.times = [0.0] * size
        self.error: BaseException | None = None
        self._next = [(0.0, rank) for rank in range(size)]
        self._turns = [threading.Semaphore(0) for _ in range(size)]
        self._waiting: dict[int, str] = {}

    def begin(self) -> None:
        """Let the first worker run."""
        self._turns[heapq.heappop(self._next)[1]].release()

    def take(self, rank: int) -> None:
        """Wait for the turn of a worker, in its thread.

        Raises
        ------
        Ended
            If there will be none.
        """
        self._turns[rank].acquire()
        if self.error is not None:
            raise Ended

    def spend(self, rank: int, seconds: float) -> None:
        """Let time pass for the worker that runs; others may run meanwhile."""
        self.times[rank] += seconds
        heapq.heappush(self._next, (self.times[rank], rank))
        self._hand_over(rank)

    def wait(self, rank: int, what: str) -> None:
        """Let others run until one of them wakes the worker that runs.

        Raises
        ------
        Deadlock
            If none is left that could.
        """
        self._waiting[rank] = what
        self._hand_over(rank)

    def wake(self, rank: int, time: float) -> None:
        """Let a worker that waits go on, at a time not before its own."""
        del self._waiting[rank]
        self.times[rank] = max(self.times[rank], time)
        heapq.heappush(self._next, (self.times[rank], rank))

    def _hand_over(self, rank: int) -> None:
        if not self._next:
            waits = ", ".join(f"{of} for {what}" for of, what in sorted(self._waiting.items()))
            raise Deadlock(f"simulated workers wait for each other: {waits}")
        _, other = heapq.heappop(self._next)
        if other != rank:
            self._turns[other].release()
            self.take(rank)

    def leave(self) -> None:
        """Let the others run: the worker that runs has come to its end."""
        if self._next:
            self._turns[heapq.heappop(self._next)[1]].release()
        elif self._waiting:
            waits = ", ".join(f"{of} for {what}" for of, what in sorted(self._waiting.items()))
            self.end(Deadlock(f"a simulated worker has ended before the others: {waits}"))

    def end(self, error: BaseException) -> None:
        """End all workers; the first error is kept."""
        self.error = self.error or error
        for turn in self._turns:
            turn.release()


class Meeting:
    """Where all workers wait for the last one, and then go on with what all have brought.

    Parameters
    ----------
    baton : Baton
    size : int
    """

    def __init__(self, baton: Baton, size: int) -> None:
        self._baton, self._size = baton, size
        self._what, self._brought = "", dict[int, Any]()
        self._found: dict[int, Any] = {}

    def __call__(
        self,
        rank: int,
        what: str,
        value: Any,
        *,
        seconds: float = 0.0,
        made_of: Callable[[list[Any]], Any] = list,
    ) -> Any:
        """Wait for all; gives what `made_of` makes, once, of their values by rank, `seconds` after the last came.

        Raises
        ------
        RuntimeError
            If another worker meets for another reason.
        """
        self._what = self._what or what
        if what != self._what:
            raise RuntimeError(f"worker {rank} has come for {what}, where others wait for {self._what}")
        self._brought[rank] = value
        if len(self._brought) < self._size:
            self._baton.wait(rank, what)
        else:
            found = made_of([self._brought[of] for of in range(self._size)])
            self._found = dict.fromkeys(range(self._size), found)
            when = max(self._baton.times) + seconds
            for other in range(self._size):
                if other != rank:
                    self._baton.wake(other, when)
            self._what, self._brought = "", {}
            self._baton.spend(rank, when - self._baton.times[rank])
        return self._found.pop(rank)


class Communicator:
    """What the training loop asks of ``mpi4py.MPI.Intracomm``, of one simulated worker.

    Parameters
    ----------
    meet : callable
        As `World.meet`.
    rank, size : int
    """

    def __init__(self, meet: Callable[..., Any], rank: int, size: int) -> None:
        self._meet, self.rank, self.size = meet, rank, size

    def Get_rank(self) -> int:  # noqa: D102, N802
        return self.rank

    def Get_size(self) -> int:  # noqa: D102, N802
        return self.size

    def Split_type(self, kind: int) -> "MPI.Intracomm":  # noqa: D102, N802
        # One process: each worker has the whole machine while it runs.
        return MPI.COMM_SELF.Dup()

    def allgather(self, value: Any) -> list[Any]:  # noqa: D102
        return list(self._meet(self.rank, "allgather", value))

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:  # noqa: D102
        found = self.allgather(value)
        return found if self.rank == root else None

    def bcast(self, value: Any, root: int = 0) -> Any:  # noqa: D102
        return self.allgather(value)[root]

    def Bcast(self, array: np.ndarray, root: int = 0) -> None:  # noqa: D102, N802
        array[...] = self.bcast(np.array(array), root)

    def allreduce(self, value: Any, op: MPI.Op = MPI.SUM) -> Any:  # noqa: D102
        first, *others = self.allgather(value)
        for other in others:
            first = op(first, other)
        return first

    def Allreduce(self, place: Any, array: np.ndarray) -> None:  # noqa: D102, N802
        assert place == MPI.IN_PLACE
        array[...] = self._meet(self.rank, "Allreduce", array.copy(), made_of=lambda each: sum(each))

    def Barrier(self) -> None:  # noqa: D102, N802
        self.allgather(None)


class World:
    """All simulated workers: their model, where it is on loan, and what they exchange by.

    Parameters
    ----------
    size : int
    clock : ClockSettings
    seed : int
        Of the drawn step times.

    Attributes
    ----------
    baton : Baton
    size : int
    clock : ClockSettings
    order : deque of int
        Who is to pass at the centre next, as far as that is replayed.
    meetings : list of list of int
        After how many iterations of each worker they are to meet, as far as that is replayed.
    done : int
        Iterations of all workers.
    shared : dict
        What workers have in common, by its kind and number.
    rung : bool
        Whether a worker has called all others.
    """

    def __init__(self, size: int, clock: ClockSettings, seed: int) -> None:
        self.size, self.clock, self._seed = size, clock, seed
        self.baton = Baton(size)
        self.meeting = Meeting(self.baton, size)
        order, self.meetings = _order_of(clock.order, size) if clock.order else ([], [])
        self.order, self.done = deque(order), 0
        self.shared: dict[Any, Any] = {}
        self.rung = False
        self._model: Model | None = None
        self._owner = 0
        self._kept: list[tuple[list[torch.Tensor], dict[str, Any]]] = []

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

    def lend(self, rank: int) -> None:
        """Put a worker's state into the model, and keep that of the one before."""
        if self._model is None or rank == self._owner:
            return
        tensors, names = self._tensors(), self._kept[rank][1]
        kept = self._kept[self._owner]
        for own, tensor in zip(kept[0], tensors, strict=True):
            own.copy_(tensor)
        kept[1].update({name: getattr(self._model, name) for name in names})
        for own, tensor in zip(self._kept[rank][0], tensors, strict=True):
            tensor.copy_(own)
        for name, value in names.items():
            setattr(self._model, name, value)
        self._owner = rank

    def _tensors(self) -> list[torch.Tensor]:
        """All of the model's that are one worker's."""
        model = self._model
        assert model is not None
        buffers = [model.state.weights, model._bits, *model.gradient_buffers()]
        buffers += [buffer for state in model.states for buffer in state.slots.values()]
        variables = [model._stop, model._validation_sums]
        for state in model.states:
            variables += [state.iteration, state.made, state.last_eta, *state.scalars.values()]
        if len(model.states) > 1:
            # Objectives after the first find the batch there.
            variables += model.inputs.variables.values()
        return [*(buffer.flat for buffer in buffers), *(variable.tensor for variable in variables)]

    def model(self, config: RunConfig, comm: Communicator, *, lockstep: bool = True) -> Replica:
        """The model, of a worker; the first one makes it.

        Raises
        ------
        ConfigError
            If it is none whose state can be changed.
        """
        if comm.rank == 0:
            made = make_model(config, cast(MPI.Intracomm, comm), lockstep=True)
            if not isinstance(made, Model):
                raise ConfigError(
                    f"workers_simulated: expected a theanompi.Model, as a state is changed for another, got "
                    f"{config.modelclass}, another class"
                )
            self._take(made)
        elif self._model is None:
            # The first one says why, and all end.
            return cast(Replica, None)
        self.lend(comm.rank)
        assert self._model is not None
        return self._model

    def _take(self, model: Model) -> None:
        self._model = model
        tensors = self._tensors()
        for rank in range(self.size):
            own = {
                "rank": rank,
                "epoch": 0,
                "data": _Items(type(model.data.modality), model.config, rank, self.size),
                "_feed": Feed(model.inputs, iter(())),
                "_next": None,
                "_count": 0,
                "_val_position": 0,
                "_kept": [],
            }
            self._kept.append(([tensor.clone() for tensor in tensors], own))
        for name, value in self._kept[0][1].items():
            setattr(model, name, value)
        compiled: list[int] = []
        compile_iter_fns, train_iter = model.compile_iter_fns, model.train_iter

        def compile_once(sync_type: str = "cdd", exchangers: Sequence[Exchanger] = ()) -> None:
            if not compiled:
                compile_iter_fns(sync_type)
                compiled.append(model.rank)

        def timed(count: int, recorder: Any, objective: int | None = None) -> None:
            train_iter(count, recorder, objective)
            state, place = model.states[objective or 0], model.states[objective or 0].n_sums + 2
            metrics = state.gradients.views[METRICS]
            # Compiled for one worker's loss in the list of all.
            loss = metrics[place + compiled[0]].clone()
            metrics[place + compiled[0]] = 0
            metrics[place + model.rank] = loss
            if objective in (None, model.due(count)[0]) and model.data.sampler.own_units(count):
                rank, iteration = model.rank, model.epoch * model.data.n_batch_train + count
                recorder.start("computing gradients")
                self.spend(rank, self.step_seconds(rank, iteration))
                recorder.end("calc")

        model.compile_iter_fns, model.train_iter = compile_once, timed  # type: ignore[method-assign]


class _Items(Items):
    """Items that their worker's thread reads by itself, when it needs them."""

    def _read(self, split: Any, epoch: int | None, ids: np.ndarray, weights: np.ndarray) -> Batch:
        modality = self.modality
        rows, values = modality.batch(split, epoch, ids)
        fields = {name: np.empty((len(ids), *f.shape), f.dtype) for name, f in modality.read.items()}
        for i, row in enumerate(rows.tolist()):
            try:
                self._reader.read(row, fields, i)
            except (BadItem, OSError, MemoryError) as error:
                name = modality.item_name(split, int(ids[i]))
                raise LoaderError(f"data file {self.dataset.path}: {name}: {error}") from None
        return Batch({**fields, **values, "weights": weights}, ids)

    @property
    def _reader(self) -> Any:
        if "_made" not in vars(self):
            self._made = self.modality.reader.make(self.dataset.fileno())
        return self._made

    def train(self, epoch: int, start: int) -> Iterator[Batch]:
        ones = np.ones(self.batch_size, np.float32)
        for units in self.sampler.batches(epoch, start):
            for ids in units:
                yield self._read("train", epoch, ids, ones)

    def validation(self) -> Iterator[Batch]:
        for ids, weights in validation_batches(
            self.modality.count("val"), self.batch_size, self.size, self.rank
        ):
            yield self._read("val", None, ids, weights)


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

    Parameters
    ----------
    world : World
    rank : int
    buffer : Buffer
    number : int
        Which of its worker's centres it is; the first one's order can be replayed.
    """

    def __init__(self, world: World, rank: int, buffer: Buffer, number: int) -> None:
        total = buffer.flat.numel()
        self.n_parts = max(1, min(world.size, total // LEAST))
        bounds = [total * i // self.n_parts for i in range(self.n_parts + 1)]
        self._slices = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        self._world, self._rank, self._replayed = world, rank, number == 0

        def begin(values: list[torch.Tensor]) -> tuple[_Numbers, int]:
            weights = world.shared.setdefault("weights", values[0].numel())
            return _Numbers(values[0], self.n_parts), weights

        self._numbers, weights = world.meet(rank, "a centre", buffer.flat.clone(), made_of=begin)
        self._seconds = world.clock.exchange_s * total / weights / self.n_parts
        self.number, self._held, self._reached = -1, set[int](), -1
        self.spans: list[Span] = []
        self.description = f"in one process, in {self.n_parts} part(s)"

    @contextmanager
    def part(self, i: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """As in `theanompi.exchange.centre.Centre`."""
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
        if i == 0 and self._replayed and world.order:
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
        if world.order[0] != self._rank:
            parked.add(self._rank)
            world.wait(self._rank, "its turn at the centre")
        world.order.popleft()
        if not world.order:
            for rank in sorted(parked):
                world.baton.wake(rank, world.now(self._rank))
            parked.clear()
        elif world.order[0] in parked:
            parked.remove(world.order[0])
            world.baton.wake(world.order[0], world.now(self._rank))

    def _release(self, i: int) -> None:
        numbers = self._numbers
        self._held.discard(i)
        numbers.holders[i] = numbers.queues[i].popleft() if numbers.queues[i] else None
        following = numbers.holders[i]
        if following is not None and self._world.baton.error is None:
            self._world.baton.wake(following, self._world.now(self._rank))

    def read(self, out: torch.Tensor) -> None:
        """As in `theanompi.exchange.centre.Centre`; takes no time."""
        out.copy_(self._numbers.values)

    def write(self, values: torch.Tensor) -> None:
        """As in `theanompi.exchange.centre.Centre`."""
        self._numbers.values.copy_(values)
        self._world.meet(self._rank, "new values of a centre", None)

    def close(self) -> None:
        """Nothing is held."""


class SimulatedMailbox:
    """A `theanompi.exchange.mailbox.Mailbox` of simulated workers.

    Parameters
    ----------
    world : World
    rank : int
    number : int
        Which of its worker's mailboxes it is.
    """

    def __init__(self, world: World, rank: int, number: int) -> None:
        self._world, self._rank = world, rank
        self._boxes: list[list[tuple[torch.Tensor, float]]] = world.shared.setdefault(
            ("mailbox", number), [[] for _ in range(world.size)]
        )
        self.spans: list[Span] = []
        self.description = "boxes in one process"

    def post(self, to: int, values: torch.Tensor, share: float) -> None:
        """As in `theanompi.exchange.mailbox.Mailbox`."""
        world, rank, began, letter = self._world, self._rank, self._world.now(self._rank), values.clone()
        world.spend(rank, world.clock.exchange_s)
        self._boxes[to].append((letter, share))
        self.spans = [Span("comm", began, world.now(rank), f"a letter to worker {to}")]

    def collect(self) -> list[tuple[torch.Tensor, float]]:
        """As in `theanompi.exchange.mailbox.Mailbox`; takes no time."""
        self.spans = []
        found, self._boxes[self._rank] = self._boxes[self._rank], []
        return found

    def settle(self) -> None:
        """As in `theanompi.exchange.mailbox.Mailbox`."""
        self._world.meet(self._rank, "all letters", None)

    def close(self) -> None:
        """Nothing is held."""


class SimulatedLinks(Links):
    """The ways from one simulated worker to the others.

    Parameters
    ----------
    world : World
    comm : Communicator
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
        return SimulatedMailbox(self._world, self.rank, self._mailboxes - 1)

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
        planned = next((each for each in world.meetings if each[self.rank] >= self._own), None)
        if planned is None:
            return world.done
        end = sum(planned)
        return end if planned[self.rank] == self._own else min(world.done, end // self.size * self.size - 1)

    def call(self) -> None:
        self._world.rung = True

    def called(self) -> bool:
        if self.asked:
            self.call()
        return self._world.rung

    def close(self) -> None:
        """Nothing is held."""


def _order_of(path: str, size: int) -> tuple[list[int], list[list[int]]]:
    """In which order workers have passed at the centre, and their iterations at each meeting, from a run's log.

    Raises
    ------
    ConfigError
        If the log does not say, or is of more workers.
    """
    try:
        records = read_log(path)
    except ValueError as error:
        raise ConfigError(f"clock.order: {error}") from None
    meetings = [record for record in records if record["kind"] == "meeting"]
    order = [rank for record in meetings for rank in record["order"]]
    if not order or not all(type(rank) is int and 0 <= rank < size for rank in order):
        raise ConfigError(
            f"clock.order: expected the log of a run with a centre and {size} workers, got {path}, which has "
            f"{'that of others' if order else 'no order of passes'}"
        )
    return order, [record["done"] for record in meetings]


def train_simulated(
    config: RunConfig,
    devices: tuple[str, ...],
    *,
    plan: bool,
    folder: RunFolder | None,
    comm: MPI.Intracomm,
    progress: Progress,
    stop: StopSignals,
) -> None:
    """Be all workers of a run, from the choice of the device to the last checkpoint.

    Parameters
    ----------
    config, devices, plan, folder, comm, progress, stop
        As for `theanompi.training.rank.train`.

    Raises
    ------
    SystemExit
        As `theanompi.worker.run`.
    """
    size = config.workers_simulated or 1

    def make_world() -> World:
        if comm.Get_size() > 1:
            raise ConfigError(
                f"workers_simulated: expected one process, which is all workers, got {comm.Get_size()} ranks"
            )
        clock = read_clock(config)
        return World(size, clock, config.seed if clock.seed is None else clock.seed)

    world: World = together(comm, make_world)
    run_workers(
        world,
        lambda rank: train(
            config if rank == 0 else replace(config, verbose=False),
            devices,
            plan=plan,
            folder=folder if rank == 0 else None,
            comm=cast(MPI.Intracomm, Communicator(world.meet, rank, size)),
            progress=progress if rank == 0 else Progress(),
            stop=stop if rank == 0 else StopSignals(heed=False),
            means=Means(world.model, partial(SimulatedLinks, world), lambda: world.now(rank)),
        ),
    )


def run_workers(world: World, work: Callable[[int], None]) -> None:
    """Let each worker do its work in a thread of its own; raises what one of them has raised."""
    left: list[SystemExit] = []

    def be(rank: int) -> None:
        try:
            world.baton.take(rank)
            work(rank)
            world.baton.leave()
        except Ended:
            pass
        except SystemExit as error:
            left.append(error)
            world.baton.leave()
        except BaseException as error:
            world.baton.end(error)

    threads = [
        threading.Thread(target=be, args=(rank,), name=f"worker {rank}", daemon=True)
        for rank in range(world.size)
    ]
    for thread in threads:
        thread.start()
    world.baton.begin()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_LOOK)
    except BaseException as error:
        world.baton.end(error)
        raise
    if left:
        raise left[0]
    if world.baton.error is not None:
        raise world.baton.error
