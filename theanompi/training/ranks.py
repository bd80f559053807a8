"""What all ranks of a job do together: agree that something is wrong, and end, all of them, with one message."""

import atexit
import os
import platform
import re
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIG_DFL, SIGINT, SIGTERM, signal
from types import TracebackType
from typing import Any, NoReturn

from mpi4py import MPI

from theanompi.config import ConfigError, one_line
from theanompi.config.files import CannotWrite
from theanompi.data import LoaderError
from theanompi.launch.ends import STOPPED, tell
from theanompi.launch.libraries import flavour
from theanompi.launch.mpirun import world
from theanompi.record.progress import Progress
from theanompi.system.segments import forget_alone, opened_at_once
from theanompi.training.stop import Interrupted

# Where code is that its users did not write. Libraries may also be the system's, a user's own installation's
# (pip install --user), or of a cluster's modules, on PYTHONPATH.
_OURS = (
    os.path.join(Path(__file__).parents[1], ""),
    os.path.join(sysconfig.get_path("stdlib"), ""),
    "<frozen ",
)
_LIBRARIES = re.compile("/(site|dist)-packages/")
# Seconds for which each rank leaves it to those before it to say what goes wrong on all.
_TURN = 0.3
_PRINTING = 0.2
# Seconds within which Open MPI kills whom it has sent SIGTERM, because another one has failed: one of release 4, a
# quarter of one later.
_TERMINATED = 1.5


class Guard:
    """Sees to it that this rank takes all others along however it ends before its end: see `guarded`.

    Parameters
    ----------
    progress : Progress
        Whose checkpoint is spoken of at the end.
    last_words : callable
        From the iteration of the last checkpoint, or None, to what a message of a failure ends with.
    """

    def __init__(self, comm: MPI.Comm, progress: Progress, last_words: Callable[[int | None], str]) -> None:
        self._comm, self._progress, self._last_words = comm, progress, last_words

    def fail(
        self, lines: str, *, short: bool = False, status: int = 1, wait: float = 0.0, **facts: str
    ) -> NoReturn:
        """Print why after some seconds, tell a launcher that and the facts, and end all ranks."""
        rank = self._comm.Get_rank()
        try:
            if threading.current_thread() is threading.main_thread():
                signal(SIGTERM, SIG_DFL)  # by which Open MPI ends all when one has spoken
            # What goes wrong on all is said by one of them.
            time.sleep(_TURN * min(rank, 5) + wait)
            text = f"theanompi: rank {rank}{':' * short} {lines.rstrip()}"
            print(one_line(text) if short else text, file=sys.stderr, flush=True)
            words = self._last_words(self._progress.saved)
            if words:
                print(f"theanompi: {words}", file=sys.stderr, flush=True)
            tell(failed=True, **facts)
            # What a user's code has printed may be in its buffer yet.
            print(end="", flush=True)
            # A launcher that ends its processes may not read any more what they have just printed.
            time.sleep(_PRINTING)
        finally:
            # Even if it cannot be said: the others would wait for ever.
            self._comm.Abort(status)
            os._exit(status)

    def uncaught(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """End all ranks for an exception that nobody caught."""
        if isinstance(error, SystemExit):
            self.left(error)
        if isinstance(error, Interrupted):
            text = f"stopped by {error} before training began"
            self.fail(text, status=STOPPED, wait=_TERMINATED, stopped=str(error))
        if isinstance(error, KeyboardInterrupt):
            self.fail("stopped by SIGINT", short=True, status=128 + SIGINT)
        short = isinstance(error, LoaderError | CannotWrite | ConfigError) or (
            isinstance(error, OSError) and not _foreign(error)
        )
        trace_text = "".join(traceback.format_exception(kind, error, trace))
        self.fail(str(error) if short else f"failed:\n{trace_text}", short=short)

    def uncaught_in_thread(self, args: threading.ExceptHookArgs) -> None:
        """End all ranks for what a thread has not caught, but for a ``sys.exit``, which ends the thread alone."""
        if not issubclass(args.exc_type, SystemExit):
            self.uncaught(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)

    def left(self, error: SystemExit | None) -> NoReturn:
        """End all ranks because this one's program has ended early."""
        how, where = "", ""
        if error is not None:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            how = f" by sys.exit({'' if error.code is None else repr(error.code)})"
            where = f" in {frame.filename}, line {frame.lineno}"
        self.fail(f"left{how}{where}, before the end of the run")


@contextmanager
def guarded(
    comm: MPI.Comm, progress: Progress, last_words: Callable[[int | None], str] = lambda saved: ""
) -> Iterator[None]:
    """End all ranks when this one leaves the block, or its process ends, in any way but the block's end or `agree`.

    Without this the other ranks would wait for the lost one in their next exchange, for ever: after an uncaught
    exception in any thread, or a ``sys.exit`` in a user's code that this rank's training calls.

    Parameters
    ----------
    comm, progress, last_words
        As for `Guard`.
    """
    guard = Guard(comm, progress, last_words)
    hooks = sys.excepthook, threading.excepthook
    sys.excepthook = guard.uncaught
    threading.excepthook = guard.uncaught_in_thread
    left = atexit.register(guard.left, None)
    try:
        yield
    except Agreed:
        raise
    except BaseException as error:
        guard.uncaught(type(error), error, error.__traceback__)
    finally:
        atexit.unregister(left)
        sys.excepthook, threading.excepthook = hooks


class Agreed(SystemExit):
    """All ranks have agreed to end here; its message has been printed."""


def agree(comm: MPI.Comm, error: Exception | None) -> None:
    """Go on if no rank has an error; else say the first one's, once, and end all ranks.

    A collective call. Every rank leaves through `Agreed`, so that nothing is killed in the middle. The message is one
    line where the error is about what the user typed; a mistake in the user's own code keeps its traceback.
    """
    where = f"rank {comm.Get_rank()} on {platform.node()}: " if comm.Get_rank() else ""
    errors = comm.allgather(None if error is None else _message(error, where))
    found = {rank: text for rank, text in enumerate(errors) if text is not None}
    if not found:
        return
    first, text = next(iter(found.items()))
    if comm.Get_rank() == first:
        tell(failed=True)
        print(text, file=sys.stderr, flush=True)
    comm.Barrier()
    raise Agreed(1)


def _message(error: Exception, where: str) -> str:
    if isinstance(error, ConfigError) or (isinstance(error, ValueError | OSError) and not _foreign(error)):
        return one_line(f"theanompi: {where}{error}")
    return f"theanompi: {where}failed:\n" + "".join(traceback.format_exception(error)).rstrip()


def _foreign(error: BaseException) -> bool:
    """Whether an error has passed through code of the user's own."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    return not all(file.startswith(_OURS) or _LIBRARIES.search(file) for file in files)


def together(
    comm: MPI.Comm, action: Callable[[], Any], *, errors: tuple[type[Exception], ...] = (Exception,)
) -> Any:
    """Do something that may fail on some ranks, and `agree` afterwards.

    Parameters
    ----------
    errors : tuple of exception types
        What `agree` is told of. An action in which ranks wait for each other may not come to that after any other
        one: that ends all ranks where it is.
    """
    error: Exception | None = None
    result = None
    try:
        result = action()
    except errors as caught:
        error = caught
    agree(comm, error)
    return result


def check_launcher() -> None:
    """End here if what started this process is not seen by MPI: every process would take itself for the only one."""
    place = world()
    if MPI.COMM_WORLD.Get_size() > 1 or place is None or place.size in (None, 1):
        return
    if place.rank == 0:
        if os.environ.get("SLURM_STEP_NUM_TASKS") == str(place.size):
            how = "pmix" if flavour(library()) == "openmpi" else "pmi2"
            text = (
                f"srun: expected one world of {place.size} ranks, got {place.size} processes that {library()}, the MPI "
                f"of this Python, does not see; remedy: srun --mpi={how}"
            )
        else:
            text = (
                f"mpirun: expected the one that belongs to {library()}, the MPI of this Python, "
                f"got one whose {place.size} processes that MPI does not see"
            )
        print(f"theanompi: {text}", file=sys.stderr)
    raise SystemExit(1)


def library() -> str:
    """The name and version of the MPI library."""
    return " ".join(MPI.Get_library_version().split("\n")[0].strip("\x00 ").split())


def forget_shared_memory(comm: MPI.Intracomm) -> None:
    """Remove the names of MPI's shared memory that all ranks of this machine have opened; collective.

    The memory lives as long as it is used. With its name, a job that is killed would leave it behind for ever. Of a
    part of the job nothing is removed: others may yet open it.
    """
    comm.Barrier()  # which may be the first to need it
    here = platform.node()
    opened = comm.allgather((here, opened_at_once()))
    if len(opened) == MPI.COMM_WORLD.Get_size():
        for segment in set.intersection(*(segments for node, segments in opened if node == here)):
            segment.unlink(missing_ok=True)


# As one that predicts, or exports, is.
if MPI.Is_initialized() and MPI.COMM_WORLD.Get_size() == 1:
    forget_alone()
