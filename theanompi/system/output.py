"""What is printed: in whatever encoding the terminal, or the file that takes it, has."""

import io
import os
import sys


def print_anything() -> None:
    r"""From now on print to standard output what its encoding lacks as an escape, such as ``\u2013``, not fail over it.

    Every program of the package does this first; standard error does so by itself.
    """
    # Whatever else stands in for it, as a notebook's, takes any text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def put(data: bytes) -> None:
    r"""Write to standard output as it is now, which in a notebook is no file; to none once nobody reads it any more.

    >>> put(b"epoch 1\n")
    epoch 1
    """
    binary = getattr(sys.stdout, "buffer", None)
    try:
        if binary is None:
            sys.stdout.write(data.decode(errors="replace"))
        else:
            sys.stdout.flush()
            binary.write(data)
        sys.stdout.flush()
    except BrokenPipeError:
        # As of "… | head". What is still to be flushed must not fail at the end of this process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
