"""The ranks that `tests.mpi.run_warm` starts once for all tests: ``mpirun -np 4 python tests/warm.py SOCKET``.

Each of them waits at a socket of its own for jobs, which takes no core, as a wait in MPI would. The first n ranks do
a job of n on a communicator of theirs, and put back what it has changed of their processes.
"""

import contextvars
import faulthandler
import gc
import json
import os
import signal
import socket
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from theanompi.worker import nothing_is_garbage

with nothing_is_garbage():
    import torch
    from mpi4py import MPI

    import theanompi.training.rank  # noqa: F401  (once, with all that it needs)
    from tests.forked import forked_loaders
    from tests.train import train
    from theanompi import device
    from theanompi.system.output import print_anything
    from theanompi.system.processes import children
    from theanompi.training.ranks import Agreed, forget_shared_memory

ROOT = Path(__file__).resolve().parents[1]
STAYING = (str(ROOT / "theanompi"), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
"""Where modules are that stay loaded: all others are a test's own, and the next one may write others."""


def program(comm: MPI.Intracomm, text: str, arguments: list[str]) -> None:
    """Run a program's text, in which ``comm`` is the communicator."""
    sys.argv = ["-c", *arguments]
    exec(compile(text, "<job>", "exec"), {"__name__": "__main__", "comm": comm})


@contextmanager
def redirected(stdout: str, stderr: str) -> Iterator[None]:
    """Let what this process and those that it starts print be added to two files."""
    kept = []
    for stream, path in ((sys.stdout, stdout), (sys.stderr, stderr)):
        stream.flush()
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        kept.append((stream, os.dup(stream.fileno())))
        os.dup2(file, stream.fileno())
        os.close(file)
    try:
        yield
    finally:
        for stream, was in kept:
            stream.flush()
            os.dup2(was, stream.fileno())
            os.close(was)


@contextmanager
def put_back() -> Iterator[None]:
    """Leave this process as it was, but for modules of the package and of libraries that are loaded by then."""
    environ, path, arguments, folder = dict(os.environ), sys.path[:], sys.argv[:], os.getcwd()
    modules = set(sys.modules)
    handlers = {
        number: handler
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        if (handler := signal.getsignal(number)) is not None
    }
    threads, generator = torch.get_num_threads(), torch.get_rng_state()
    # What is there stays: only what the job has made is looked through for garbage.
    gc.freeze()
    try:
        with warnings.catch_warnings(), mock.patch("gc.freeze"), mock.patch("gc.unfreeze"):
            with forked_loaders():
                yield
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:], sys.argv[:] = path, arguments
        for name in set(sys.modules) - modules:
            if not str(getattr(sys.modules[name], "__file__", None) or STAYING[0]).startswith(STAYING):
                del sys.modules[name]
        faulthandler.unregister(signal.SIGUSR2)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        torch.set_num_threads(threads)
        torch.set_rng_state(generator)
        device.use("cpu")
        gc.collect()


def left_behind(threads: set[threading.Thread], patience: float = 2.0) -> list[str]:
    """The threads and processes that a job has started and not ended."""
    deadline = time.monotonic() + patience
    while True:
        found = [thread.name for thread in set(threading.enumerate()) - threads if thread.is_alive()]
        found += [f"process {pid}" for pid in children(os.getpid()) or ()]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def do(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job; gives the exit status that a process would have, and what is left of it."""
    n, status, threads = job["n"], 0, set(threading.enumerate())
    with ExitStack() as stack:
        stack.enter_context(redirected(job["stdout"], job["stderr"]))
        stack.enter_context(put_back())
        for name, value in job["environ"].items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        sys.path[:0] = job["path"]
        world = MPI.COMM_WORLD.Get_group()
        group = world.Incl(range(n))
        comm = MPI.COMM_WORLD.Create_group(group)
        world.Free()
        group.Free()
        what, arguments = job["what"], job["arguments"]
        action = (
            (program, comm, what, arguments) if isinstance(what, str) else (train, what, comm, *arguments)
        )
        try:
            # In a context of its own: Lasagne's generator is a variable of the context.
            contextvars.copy_context().run(*action)
        except Agreed as ended:
            status = int(ended.code or 0)
        except BaseException:
            # The other ranks may wait for this one.
            traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            MPI.COMM_WORLD.Abort(1)
        comm.Free()
    return {"status": status, "left": left_behind(threads)}


def main() -> None:
    """Do jobs until there is nobody any more who gives them."""
    forget_shared_memory(MPI.COMM_WORLD)
    # A run's streams: else the first run would put others in the place of those that are redirected.
    print_anything()
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(sys.argv[1])
        with link.makefile("rw", encoding="utf-8") as lines:
            answer: dict[str, Any] = {"rank": MPI.COMM_WORLD.Get_rank()}
            while True:
                print(json.dumps(answer), file=lines, flush=True)
                line = lines.readline()
                if not line:
                    break
                answer = do(json.loads(line))


if __name__ == "__main__":
    main()
