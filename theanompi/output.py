"""What is printed: in whatever encoding the terminal, or the file that takes it, has."""

import io
import sys


def print_anything() -> None:
    r"""From now on print to standard output what its encoding lacks as an escape, such as ``\u2013``, not fail over it.

    Every program of the package does this first; standard error does so by itself.

    Examples
    --------
    >>> print_anything()
    """
    # Whatever else stands in for it, as a notebook's, takes any text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
