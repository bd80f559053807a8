"""Batches read ahead by processes: filled into shared memory, handed over in order.

The training process decides everything: which items, which part of each, in which slot of the shared memory.
Its loader processes (`theanompi.data.reading.process`) only turn bytes into fields, so a batch does not depend on their
number, nor on which of them made it, nor on when. What an item is, and what to read of it, a
`theanompi.data.modality.Modality` knows.

They are started by fork and exec before anything of them runs, never by a plain fork, which is not safe once MPI
has started, and do not import this process's main module, which would import MPI a second time. The memory has
no name (memfd) and the connections are sockets, so whatever end either side meets, the kernel tidies up.
"""

import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.data.modality import Modality, batch_of, batches_at_once
from theanompi.data.reading.errors import LoaderError
from theanompi.data.reading.messages import Fault, Messages
from theanompi.data.reading.process import Layout, Work
from theanompi.data.reading.sampler import Sampler, validation_batches
from theanompi.data.store.hdf5 import OpenFile, Split
from theanompi.record.timeline import Span
from theanompi.system import cgroup
from theanompi.system.processes import signal_name

# By these a process of an MPI job knows that it is a rank; one that is none must not.
_MPI_VARIABLES = ("PMI", "OMPI_", "MPI", "I_MPI_")
# A loader process that has lost its connection ends after its batch; nothing is lost when it is ended sooner.
_GRACE_SECONDS = 1.0
# Kept for `Loader.readings`; who asks after each minibatch, accumulated as it may be, misses none.
_READINGS = 1024


class Batch(NamedTuple):
    """The n items of one unit, as they go to the device.

    Attributes
    ----------
    fields : mapping of str to array (n, …)
        What the modality reads and gives, ``keys`` and ``weights`` among it. What is read is a view of shared
        memory: valid until the next batch is asked for.
    ids : int64 (n,)
        Positions in the split.
    """

    fields: Mapping[str, NDArray[Any]]
    ids: NDArray[np.int64]

    @property
    def weights(self) -> NDArray[np.float32]:
        """1 for each item, or 0 for the padding of the last validation batch; float32 (n,)."""
        return self.fields["weights"]


class _Task(NamedTuple):
    """A batch that is being read, or waits to be handed over."""

    slot: int
    split: Split
    batch: Batch


class _Child(NamedTuple):
    """A loader process, the tasks that it has not answered yet, in their order, and when it made the last batches."""

    process: subprocess.Popen[bytes]
    messages: Messages
    tasks: deque[_Task]
    readings: deque[Span]


class _Stream(Iterator[Batch]):
    """The batches of one pass; those that are not dealt out yet are kept as ids and weights."""

    def __init__(
        self,
        loader: "Loader",
        split: Split,
        epoch: int | None,
        units: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
    ) -> None:
        self.loader, self.split = loader, split
        self.planned = self._plan(epoch, iter(units))

    def _plan(
        self, epoch: int | None, units: Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]
    ) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Rows of the next batches, and their fields, but for what is read."""
        n, modality = self.loader.batch_size, self.loader._modality
        made = modality.given.keys() - {"weights"}
        at_once = batches_at_once(modality, n)
        while ahead := list(islice(units, at_once)):
            every = np.concatenate([ids for ids, _ in ahead])
            rows, values = batch_of(modality, self.split, epoch, every)
            for k, (ids, weights) in enumerate(ahead):
                part = slice(k * n, (k + 1) * n)
                given = {name: values[name][part] for name in made}
                yield rows[part], Batch({**given, "weights": weights}, ids)

    def __next__(self) -> Batch:
        return self.loader._next(self)

    def grouped(self, counts: list[int]) -> Iterator[Iterator[Batch]]:
        for count in counts:
            self.loader._check(self)
            units = islice(self, count)
            yield units
            for _ in units:
                pass


class Loader:
    """Reads a rank's batches ahead, in processes of its own, which live as long as it does.

    Use it in a ``with`` statement, or call `close`; one that is forgotten is closed when it is collected or when
    the interpreter ends. After a `LoaderError` nothing but `close` is left to do.

    Parameters
    ----------
    modality : Modality
        Its data file stays open as long as the loader is used; the processes read the file that it has open, even
        if another one takes its name.
    batch_size : int
        n, items per batch.
    processes : int
        How many loader processes.
    depth : int
        How many batches may be in work or ready beside the one that is in use; at least one for each process.

    Attributes
    ----------
    memory : uint8 (bytes,)
        All of the shared memory, for a trainer that pins it; it must let go of it before `close`.
    pids : tuple of int
        Of the loader processes.

    Raises
    ------
    ValueError
        If a number is out of range, or the memory needed is not there.

    Examples
    --------
    >>> from theanompi.config import RunConfig, resolve
    >>> from theanompi.data import Pictures, open_dataset
    >>> with open_dataset("digits") as data, Loader(Pictures(data, resolve(RunConfig())), batch_size=50) as loader:
    ...     [int(batch.weights.sum()) for batch in loader.validation(size=2, rank=1)]
    [50, 50, 50, 10]
    """

    def __init__(self, modality: Modality, batch_size: int, *, processes: int = 1, depth: int = 4) -> None:
        for name, value in {"batch_size": batch_size, "processes": processes, "depth": depth}.items():
            if value < 1:
                raise ValueError(f"loader: expected {name} of at least 1, got {value}")
        self._modality, self._dataset = modality, modality.dataset
        slots = max(depth, processes) + 1
        layout = Layout(slots, batch_size, modality.columns, modality.read)
        self.batch_size = batch_size
        self.memory, memory = _shared_memory(layout, modality.noun)
        self._rows, self._slots = layout.arrays(self.memory)
        self._free = list(range(slots))
        self._stream: _Stream | None = None
        # Dealt out and not yet handed over, in the order of the batches; answers to them, by slot.
        self._tasks: deque[_Task] = deque()
        self._answers: dict[int, Fault | None] = {}
        self._failure: str | None = None
        # By the descriptor of its connection.
        self._children: dict[int, _Child] = {}
        self._answering = select.poll()
        # Not the loader's own method: that would keep the loader alive. It runs at the interpreter's end, too.
        self._finalizer = weakref.finalize(self, _end, self._children)
        try:
            for _ in range(processes):
                messages, process = _start(modality.dataset, memory, Work(modality.reader, layout))
                self._children[messages.fileno()] = _Child(
                    process, messages, deque(), deque(maxlen=_READINGS)
                )
                self._answering.register(messages.fileno(), select.POLLIN)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(memory)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the loader processes; none after `close`."""
        return tuple(child.process.pid for child in self._children.values())

    def train(self, sampler: Sampler, epoch: int, start: int = 0) -> Iterator[Iterator[Batch]]:
        """Begin to read the units of one rank in a training epoch; ends the stream before.

        Parameters
        ----------
        sampler : Sampler
            Over the training items, in units of `batch_size`.
        epoch : int
        start : int
            Position in the epoch to begin at.

        Returns
        -------
        iterator over iterators over Batch
            One for each minibatch, with the units of this rank; the trailing one may have none. Each reads on as
            it is consumed, so that accumulation needs no more memory. What is left of one is skipped.

        Raises
        ------
        ValueError
            If the sampler is for other items or units, `start` is outside the epoch, or the loader is closed;
            in the iterators, if another stream has been begun since.
        LoaderError
            If a process has died or an item cannot be read; in the iterators, too.
        """
        n_train, noun = self._modality.count("train"), self._modality.noun
        if sampler.n_images != n_train:
            raise ValueError(
                f"loader: expected a sampler over {n_train} training {noun}, got one over {sampler.n_images}"
            )
        if sampler.batch_size != self.batch_size:
            raise ValueError(
                f"loader: expected a sampler of units of {self.batch_size} {noun}, "
                f"got one of units of {sampler.batch_size}"
            )
        ids = chain.from_iterable(sampler.batches(epoch, start))
        counts = [sampler.own_units(iteration) for iteration in range(start, sampler.iterations_per_epoch)]
        ones = np.ones(self.batch_size, np.float32)
        return self._begin("train", epoch, ((i, ones) for i in ids)).grouped(counts)

    def validation(self, size: int, rank: int) -> Iterator[Batch]:
        """Begin to read the validation items of one rank; over all ranks, each counts exactly once.

        Ends the stream before.

        Parameters
        ----------
        size, rank : int
            k, the number of ranks, and which of them this is.

        Raises
        ------
        ValueError
            If there is no such rank, or the loader is closed; in the iterator, if another stream has been begun
            since.
        LoaderError
            If a process has died or an item cannot be read; in the iterator, too.
        """
        units = validation_batches(self._modality.count("val"), self.batch_size, size, rank)
        return self._begin("val", None, units)

    def readings(self) -> list[list[Span]]:
        """When the processes made the batches of the current stream.

        Returns
        -------
        list of lists of Span
            For each process the batches that it has finished since the last call, in order: from the first item
            of each to its last. No more than the last 1,024.

        Raises
        ------
        LoaderError
            If a process has died.
        """
        while self._receive(timeout=0):
            pass
        children = self._children.values()
        finished = [list(child.readings) for child in children]
        for child in children:
            child.readings.clear()
        return finished

    def close(self) -> None:
        """End the processes and let go of the memory. A second call does nothing.

        The memory is freed when nobody holds a view of it any more.
        """
        self._stream = None
        self._tasks.clear()
        self.memory = np.empty(0, np.uint8)
        self._rows, self._slots = np.empty(0, np.int64), []
        self._answering = select.poll()
        self._finalizer()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(
        self, split: Split, epoch: int | None, units: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]]
    ) -> _Stream:
        self._check()
        # Slots are free again when the processes are done with them; what they found there does not matter.
        self._stream = None
        while len(self._answers) < len(self._tasks):
            self._receive()
        self._free += [task.slot for task in self._tasks]
        self._tasks.clear()
        self._answers.clear()
        for child in self._children.values():
            child.readings.clear()
        self._stream = _Stream(self, split, epoch, units)
        self._deal_out(self._stream)
        return self._stream

    def _next(self, stream: _Stream) -> Batch:
        self._check(stream)
        self._deal_out(stream)
        if not self._tasks:
            raise StopIteration
        while self._tasks[0].slot not in self._answers:
            self._receive()
        task = self._tasks.popleft()
        # Dealt out again no earlier than the next batch is asked for.
        self._free.append(task.slot)
        fault = self._answers.pop(task.slot)
        if fault is not None:
            raise self._fail(self._unreadable(task, *fault))
        return task.batch

    def _check(self, stream: _Stream | None = None) -> None:
        if not self._finalizer.alive:
            raise ValueError("loader: expected an open loader, got a closed one")
        if self._failure is not None:
            raise LoaderError(self._failure)
        if stream is not None and stream is not self._stream:
            raise ValueError(
                "loader: expected its newest stream of batches, got one that the next one has ended"
            )

    def _deal_out(self, stream: _Stream) -> None:
        while self._free:
            # Between any two: to see who has least to do, that all live, and that no answers pile up, behind which
            # a process would wait while this one waits for it.
            self._receive(timeout=0)
            planned = next(stream.planned, None)
            if planned is None:
                return
            (rows, batch), slot = planned, self._free.pop()
            self._rows[slot] = rows
            task = _Task(slot, stream.split, Batch({**self._slots[slot], **batch.fields}, batch.ids))
            self._tasks.append(task)
            child = min(self._children.values(), key=lambda child: len(child.tasks))
            child.tasks.append(task)
            try:
                child.messages.ask(task.slot)
            except ConnectionError:
                raise self._fail(self._death(child)) from None

    def _receive(self, timeout: float | None = None) -> bool:
        """Take an answer of each process that has one; without any, wait. Gives whether there was one."""
        ready = self._answering.poll(None if timeout is None else 1000 * timeout)
        for descriptor, _ in ready:
            child = self._children[descriptor]
            try:
                answer = child.messages.answered()
            except ConnectionError:
                answer = None
            if answer is None:
                raise self._fail(self._death(child))
            child.tasks.popleft()
            self._answers[answer.slot] = answer.fault
            child.readings.append(Span("read", answer.start, answer.end))
        return bool(ready)

    def _fail(self, message: str) -> LoaderError:
        self._failure = message
        return LoaderError(message)

    def _death(self, child: _Child) -> str:
        path = self._dataset.path
        doing = "with nothing to do"
        if child.tasks:
            task = child.tasks[0]
            first, *others = task.batch.ids.tolist()
            doing = (
                f"while reading the batch of {task.split} {self._modality.noun.removesuffix('s')} {first} and "
                f"{len(others)} others of {path}"
            )
        # Its connection closes a little before the process can be waited for.
        try:
            code = child.process.wait(timeout=_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return f"loader process {child.process.pid} closed its connection {doing}"
        if code >= 0:
            how, hint = f"with exit code {code}", "its own message stands above"
        else:
            how = f"by signal {signal_name(-code).removeprefix('signal ')}"
            hints: dict[int, str] = {
                signal.SIGKILL: "somebody ended it, or the machine is out of memory: "
                "then give it fewer loader processes",
                signal.SIGBUS: "the file was cut short while it was read, or its disk has failed",
            }
            hint = hints.get(-code, "somebody ended it, or something in it crashed")
        return f"loader process {child.process.pid} ended {how} {doing}; {hint}"

    def _unreadable(self, task: _Task, i: int, reason: str) -> str:
        path, item = self._dataset.path, self._modality.item_name(task.split, int(task.batch.ids[i]))
        return f"data file {path}: {item}: {reason}; 'tmpack verify {path}' finds all that is damaged"


def _shared_memory(layout: Layout, noun: str) -> tuple[NDArray[np.uint8], int]:
    """Memory that other processes can share, and its descriptor. It has no name: it lives as long as its users."""
    free = cgroup.free_memory()
    if layout.nbytes > free:
        raise ValueError(
            f"loader: expected {layout.nbytes >> 20} MiB of free memory, for {layout.slots} batches of {layout.n} "
            f"{noun} of {layout.item_nbytes} bytes each, got {free >> 20} MiB"
        )
    descriptor = os.memfd_create("theanompi")
    os.ftruncate(descriptor, layout.nbytes)
    return np.frombuffer(mmap.mmap(descriptor, layout.nbytes), np.uint8), descriptor


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(_MPI_VARIABLES)}
    # What this process can import, the other can, wherever either stands.
    path = [os.path.abspath(entry) for entry in sys.path] + [str(Path(__file__).resolve().parents[3])]
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}


def _start(dataset: OpenFile, memory: int, work: Work) -> tuple[Messages, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    descriptors = (theirs.fileno(), dataset.fileno(), memory)
    # -P: without the current folder, which may hold a numpy.py or anything else.
    command = [sys.executable, "-P", "-m", "theanompi.data.reading.process"]
    # Ctrl-C and the terminal's end go to all its processes, and what an mpirun passes on to all of a rank; it is for
    # this one to decide what to do then. The mask is inherited, so there is no moment at which the other could be hit.
    mask = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}
    )
    try:
        process = subprocess.Popen(
            [*command, *map(str, descriptors), work.to_text()],
            pass_fds=descriptors,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=2,  # standard output belongs to the training process
        )
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return Messages(ours), process


def _end(children: dict[int, _Child]) -> None:
    for child in children.values():
        child.messages.close()
    processes = [child.process for child in children.values()]
    for end in (None, subprocess.Popen.kill):
        deadline = monotonic() + _GRACE_SECONDS
        for process in processes:
            if end is not None:
                end(process)
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - monotonic()))
        if all(process.returncode is not None for process in processes):
            break
    children.clear()
