"""A thread that exchanges for its rank while this computes its next gradient."""

import queue
import threading
from collections.abc import Callable
from typing import Protocol

import torch
from mpi4py import MPI

from theanompi.config import ConfigError
from theanompi.exchange.route import bind_thread


class Helper(Protocol):
    """Does one task at a time while its rank computes.

    From `begin` to `join` the rank calls no MPI, and changes nothing of what the task reads.
    """

    def begin(self, task: Callable[[], None]) -> None:
        """Let it do a task."""

    def join(self) -> None:
        """Wait for the task that was begun; raises what it has raised."""


class ThreadHelper:
    """A `Helper` that is a thread, with a stream of its own on a CUDA device.

    Parameters
    ----------
    device : torch.device
        On which its rank computes.

    Raises
    ------
    ConfigError
        When the MPI library lets only one thread make calls.
    """

    def __init__(self, device: torch.device) -> None:
        if MPI.Query_thread() < MPI.THREAD_SERIALIZED:
            raise ConfigError(
                "rule: expected an MPI library that lets a second thread communicate (MPI_THREAD_SERIALIZED or more), "
                "as weights travel while a rank computes, got one that does not"
            )
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._computing = False
        self._thread = threading.Thread(target=self._work, name="helper", daemon=True)
        self._thread.start()

    def hurried(self) -> bool:
        """Whether its rank computes nothing meanwhile."""
        return not self._computing

    def begin(self, task: Callable[[], None]) -> None:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        self._computing = True
        self._tasks.put(task)

    def join(self) -> None:
        self._computing = False
        error = self._ends.get()
        if error is not None:
            raise error
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _work(self) -> None:
        with torch.cuda.stream(self._stream):
            if self._stream is not None:
                bind_thread(self._device)
            while (task := self._tasks.get()) is not None:
                error: BaseException | None = None
                try:
                    task()
                except Exception as caught:
                    error = caught
                self._ends.put(error)

    def close(self) -> None:
        """End the thread, which has nothing to do."""
        self._tasks.put(None)
        self._thread.join()
