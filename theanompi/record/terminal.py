"""The terminal that shows a run."""

import os
import sys

from theanompi.system.processes import launchers

# Where no terminal shows the bar, a line at most this often says that the run is alive.
SECONDS_BETWEEN_LINES = 60.0


def terminal_columns() -> int | None:
    """Return the width of the terminal that shows this process's stderr; None when no terminal does.

    Under mpirun, stderr is a pipe to mpirun, which copies it to its own: then that one counts.
    """
    try:
        if sys.stderr.isatty():
            return os.get_terminal_size(sys.stderr.fileno()).columns or 80
        started_by = launchers()
        if not started_by:
            return None
        # Not blocking: a pipe whose reader is slow must not hold the run up.
        stderr = os.open(f"/proc/{started_by[-1].pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.get_terminal_size(stderr).columns or 80
    except OSError:
        return None
    finally:
        os.close(stderr)
