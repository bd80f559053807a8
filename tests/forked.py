"""Loader processes that are forks of the process that uses them, for tests that are not about how one starts.

They begin at once, where a process of its own takes the processor for a sixth of a second to import NumPy.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from unittest import mock

from theanompi.data.reading import process
from theanompi.data.reading.messages import Messages
from theanompi.data.reading.process import Work
from theanompi.data.store.hdf5 import OpenFile


@contextmanager
def forked_loaders() -> Iterator[None]:
    """Let loaders fork within the block."""
    with mock.patch("theanompi.data.reading.loader._start", fork_loader):
        yield


class Forked:
    """Of a Popen what the loader uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a loader process", timeout)
            else:
                time.sleep(0.001)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def fork_loader(dataset: OpenFile, memory: int, work: Work) -> tuple[Messages, Forked]:
    """Start a loader process as `theanompi.data.reading.loader` does."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads wait, and hold nothing
        pid = os.fork()
    if not pid:
        try:
            gc.disable()
            kept = (theirs.fileno(), dataset.fileno(), memory)
            os.dup2(2, 1)
            for descriptor in map(int, os.listdir("/proc/self/fd")):
                if descriptor > 2 and descriptor not in kept:
                    with suppress(OSError):  # that of the list
                        os.close(descriptor)
            sys.argv = ["a loader process", *map(str, kept), work.to_text()]
            process.main()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return Messages(ours), Forked(pid)
