"""The terminal that shows a run, and how lines are laid out for it."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

from theanompi.system.processes import launchers

if TYPE_CHECKING:
    from tqdm import tqdm

# Where no terminal shows the bar, a line at most this often says that the run is alive.
SECONDS_BETWEEN_LINES = 60.0


def terminal_columns(*, output: bool = False) -> int | None:
    """Return the width of the terminal that shows this process's stderr; None when no terminal does.

    Under mpirun, stderr is a pipe to mpirun, which copies it to its own: then that one counts.

    Parameters
    ----------
    output : bool
        Ask for standard output instead.
    """
    stream = sys.stdout if output else sys.stderr
    try:
        started_by = launchers()
        if stream.isatty():
            columns = os.get_terminal_size(stream.fileno()).columns
            # Open MPI gives a rank a terminal of its own for standard output, which has no size.
            if columns or not started_by:
                return columns or 80
        if not started_by:
            return None
        # Not blocking: a pipe whose reader is slow must not hold the run up.
        shown = f"/proc/{started_by[-1].pid}/fd/{1 if output else 2}"
        terminal = os.open(shown, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.get_terminal_size(terminal).columns or 80
    except OSError:
        return None
    finally:
        os.close(terminal)


def text_columns() -> int | None:
    """Return how wide lines may be: ``COLUMNS`` of the environment, or as `terminal_columns`."""
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdecimal() and int(asked) else terminal_columns()


def folded(text: str, columns: int | None, indent: int = 2) -> str:
    """Break each line that is too long: after a comma, semicolon or colon, or at any space where that does not do.

    A name in quotes stays with the value that a colon gives it, as JSON has it.

    Parameters
    ----------
    columns : int or None
        The width; None breaks nothing.
    indent : int
        Spaces before what is left of a line.

    Examples
    --------
    >>> print(folded("epoch 1: 120 images/s; training loss 2.1, error 80.00 %; validation loss 2.2", 40))
    epoch 1: 120 images/s;
      training loss 2.1, error 80.00 %;
      validation loss 2.2
    >>> print(folded('{"kind": "val", "loss": 0.5, "items": 360}', 32))
    {"kind": "val", "loss": 0.5,
      "items": 360}
    """
    if columns is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= columns:
            lines.append(line)
            continue
        # Blanks within a phrase, which `textwrap` shall not see.
        phrases = re.sub(r'(?<![,;:]) |(?<=":) ', "\0", line.strip())
        first = line[: len(line) - len(line.lstrip())]
        for words in (phrases, line.strip()):
            parts = textwrap.wrap(
                words,
                columns,
                initial_indent=first,
                subsequent_indent=" " * indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            if all(len(part) <= columns for part in parts):
                break
        lines += [part.replace("\0", " ") for part in parts]
    return "\n".join(lines)


def bar(columns: int, **options: Any) -> tqdm[Any]:
    """Show a bar on a terminal of so many columns, until it is closed, with more options of tqdm's."""
    # Not of everything that asks for the width of a line.
    from tqdm import tqdm

    # Its own lock may be a semaphore with a name, which a kill would leave behind.
    tqdm.set_lock(threading.RLock())
    # Room for the ^C that a terminal shows; without nrows, tqdm asks it, and shows no bar where it knows no size.
    return tqdm(file=sys.stderr, ncols=columns - 2, nrows=20, leave=False, **options)
