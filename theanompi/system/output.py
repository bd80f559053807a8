"""What is printed: in whatever encoding the terminal, or the file that takes it, has, and as long as it takes any."""

import errno
import io
import os
import sys

_GONE = (errno.EPIPE, errno.EIO)
"""What a pipe says that nobody reads any more, as of ``… | head``, and a terminal that has been closed."""
_full: set[int] = set()


class Lenient(io.FileIO):
    """A file that never fails: once it has not been able to write something, all that follows is dropped too."""

    def write(self, data: bytes) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            _give_up(self.fileno(), error)
            return len(data)

    def seekable(self) -> bool:
        """No: where it is does not matter to who only writes, and may not be known any more after an `os.dup2`."""
        return False


def _give_up(number: int, error: OSError) -> None:
    """Write nothing more to a descriptor, and say so unless nobody reads it any more: what is computed goes on."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)
    if error.errno not in _GONE:
        _full.add(number)
        if number == 1:
            text = (
                f"theanompi: standard output: cannot be written: {error.strerror}; the rest of it is lost\n"
            )
            put(text.encode(), error=True)


def print_anything() -> None:
    r"""From now on nothing fails because it cannot be printed.

    What the encoding of standard output or error lacks is printed as an escape, such as ``\u2013``. What they cannot
    take, because nobody reads it any more or the disk is full, is dropped. One that is closed is opened on
    ``/dev/null``: the next file to be opened would else be taken for it.

    Every program of the package does this first.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Which gets the lowest number that is free.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        if number and stream is getattr(sys, f"__{name}__"):
            if stream is not None:
                try:
                    stream.flush()
                except OSError as error:
                    _give_up(number, error)
            file = Lenient(number, "w", closefd=False)
            at_once = stream is not None and stream.write_through  # as of python -u
            setattr(
                sys,
                name,
                io.TextIOWrapper(
                    file if at_once else io.BufferedWriter(file),
                    encoding=stream and stream.encoding,
                    errors="backslashreplace",
                    line_buffering=stream is None or stream.line_buffering,
                    write_through=at_once,
                ),
            )
        # Whatever else stands in for it, as a notebook's, takes any text.
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def unprinted() -> int:
    """Return the exit status of a program that has printed its result: 1 if standard output could not be written."""
    if sys.stdout is not None:
        sys.stdout.flush()
    return int(1 in _full)


def put(data: bytes, *, error: bool = False) -> None:
    r"""Write to standard output or error as it is now, which in a notebook is no file; to none once it takes no more.

    >>> put(b"epoch 1\n")
    epoch 1
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:
        return
    binary = getattr(stream, "buffer", None)
    try:
        if binary is None:
            stream.write(data.decode(errors="replace"))
        else:
            stream.flush()
            binary.write(data)
        stream.flush()
    except OSError as failure:
        # What is still to be flushed must not fail at the end of this process.
        _give_up(stream.fileno(), failure)
