"""Strategies that exchange on a helper thread, bucket by bucket, while backward goes on."""

import queue
import threading
from typing import ClassVar

import torch
from mpi4py import MPI

from theanompi.config import ConfigError
from theanompi.device.buffers import BUCKET
from theanompi.exchange.base import Buffer, Exchanger, make_buckets
from theanompi.exchange.route import bind_thread
from theanompi.exchange.waiting import poll


class HostSignals:
    """Which buckets are complete, for a buffer in host memory."""

    def __init__(self, n: int) -> None:
        self._events = [threading.Event() for _ in range(n)]

    def begin(self) -> None:
        """Begin a step: none is complete."""
        for event in self._events:
            event.clear()

    def set(self, k: int) -> None:
        """Say that bucket `k` is complete."""
        self._events[k].set()

    def wait(self, k: int) -> None:
        """Return when bucket `k` is complete."""
        self._events[k].wait()


class DeviceSignals:
    """Which buckets are complete, for a buffer on a CUDA device, told by the device itself.

    After a bucket the device copies the number of the step into pinned host memory. That is work in its stream
    like any other: it comes when all before it is done, also where a CUDA graph is replayed that Python only saw
    once.
    """

    def __init__(self, n: int, device: torch.device) -> None:
        self._step = 0
        self._current = torch.zeros((), dtype=torch.int64, device=device)
        self._complete = torch.zeros(n, dtype=torch.int64, pin_memory=True)
        self._seen = self._complete.numpy()

    def begin(self) -> None:
        """Begin a step: none is complete."""
        self._step += 1
        self._current.fill_(self._step)

    def set(self, k: int) -> None:
        """Tell the device to say that bucket `k` is complete."""
        self._complete[k].copy_(self._current, non_blocking=True)

    def wait(self, k: int) -> None:
        """Return when bucket `k` is complete."""
        poll(lambda: bool(self._seen[k] >= self._step), hurried=lambda: False)


class Background(Exchanger):
    """Sums each bucket as soon as it is complete on all ranks, on a thread of its own.

    All ranks take the buckets in the same order, that of the buffer, which is the order of backward. A rank that
    has nothing to compute takes part all the same.

    Raises
    ------
    ConfigError
        When the MPI library lets only one thread make calls.
    """

    hidden: ClassVar[bool] = True

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        if comm.size > 1 and MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise ConfigError(
                "exchange: expected an MPI library that lets a second thread communicate "
                "(MPI_THREAD_SERIALIZED or more), got one that does not; remedy: --exchange ar"
            )
        # A communicator of its own: the main thread's messages never meet these.
        super().__init__(comm.Dup() if comm.size > 1 else comm, buffer)
        self.buckets = make_buckets(buffer, BUCKET // buffer.flat.element_size())
        self._bucket_of = {name: k for k, bucket in enumerate(self.buckets) for name in bucket.names}
        self._missing = [set(bucket.names) for bucket in self.buckets]
        n = len(self.buckets)
        self._signals: HostSignals | DeviceSignals = (
            DeviceSignals(n, buffer.flat.device) if buffer.flat.is_cuda else HostSignals(n)
        )
        # The thread's work on a CUDA device must not queue behind the computation.
        self._stream = torch.cuda.Stream(buffer.flat.device) if buffer.flat.is_cuda else None
        self._begun = self._waited_for = False
        self._steps: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        if self.comm.size == 1:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="exchange", daemon=True)
            self._thread.start()
        self.spans = []
        self._signals.begin()
        self._missing = [set(bucket.names) for bucket in self.buckets]
        self._begun = True
        self._steps.put(True)

    def written(self, name: str) -> None:
        k = self._bucket_of[name]
        # Once more, after a recording that failed on its way, a name counts no second time.
        self._missing[k].discard(name)
        if not self._missing[k]:
            # For the next call of the compiled function: only the last one of a step comes after `begin`, and counts.
            self._missing[k] = set(self.buckets[k].names)
            self._signals.set(k)

    def sum(self) -> None:
        if self.comm.size == 1:
            return
        if not self._begun:
            self.begin()
        for k in range(len(self.buckets)):
            self._signals.set(k)
        self._waited_for = True
        error = self._ends.get()
        self._begun = self._waited_for = False
        if error is not None:
            raise error
        self._join()

    def _work(self) -> None:
        bound = self._stream is None
        with torch.cuda.stream(self._stream):
            while self._steps.get():
                error: BaseException | None = None
                try:
                    if not bound:
                        bind_thread(self.buffer.flat.device)
                        bound = True
                    for k, bucket in enumerate(self.buckets):
                        self._signals.wait(k)
                        self._exchange(bucket, f"bucket {k}, {(bucket.end - bucket.start) * 4 / 1e6:.1f} MB")
                except Exception as caught:
                    error = caught
                self._ends.put(error)

    def _hurried(self) -> bool:
        return self._waited_for

    def _join(self) -> None:
        """Let what the device is told from now on come after the sums."""
        if self._stream is not None:
            torch.cuda.current_stream().wait_stream(self._stream)

    def close(self) -> None:
        if self._thread is not None:
            self._steps.put(False)
            self._thread.join()
            self._thread = None
        if self.comm.size > 1:
            self.comm.Free()
