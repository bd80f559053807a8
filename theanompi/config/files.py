"""Files that a user names: whether there is one, its text up to a sane size, and what is wrong with it in a line.

A path may lead below a folder that cannot be entered, to a device that never ends or to a pipe that never begins,
or be no path at all (300 characters, a NUL byte): each is a reason like any other, and none of them an exception
of the operating system's.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from theanompi.config.errors import ConfigError, got

_PACKED = {".npz": "arrays", ".txt": "text"}
"""By the ending of a file, the command of tmpack that makes a data set of it."""
MOST_TEXT = 4 * 2**20
"""Bytes of a file of settings; the largest sensible hostfile has a hundredth of it."""


class CannotWrite(OSError):
    """A file of a run cannot be written; the message is one line that names it and the reason."""


def reason(error: Exception) -> str:
    """Say why the operating system refuses, without the number and the path that it puts into its messages.

    >>> reason(FileNotFoundError(2, "No such file or directory", "a.txt"))
    'No such file or directory'
    >>> reason(ValueError("embedded null byte"))
    'embedded null byte'
    """
    if isinstance(error, UnicodeEncodeError):
        return "not a file name in this system's encoding"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def trouble(path: str | os.PathLike[str]) -> str:
    """Say why something is not a regular file that can be looked at; nothing when it is one.

    Examples
    --------
    >>> trouble("nowhere.txt"), trouble("/"), trouble("/dev/zero"), trouble(__file__)
    ('No such file or directory', 'a folder', 'a device', '')
    >>> trouble(__file__ + "/below"), trouble("x" * 300)
    ('Not a directory', 'File name too long')
    """
    try:
        return _oddity(path)
    except OSError as error:
        return reason(error)


def instead_of_file(path: str | os.PathLike[str]) -> str:
    """Say what there is instead of a regular file, for the end of a message; nothing when it is one.

    >>> instead_of_file("nowhere.txt"), instead_of_file("/")
    ('none there', 'a folder')
    """
    wrong = trouble(path)
    return "none there" if wrong == os.strerror(errno.ENOENT) else wrong


def _oddity(path: str | os.PathLike[str]) -> str:
    """What is there instead of a regular file; an OSError when nothing is."""
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, reason(error), os.fspath(path)) from None
    return oddity_of(mode)


def oddity_of(mode: int) -> str:
    """What is no regular file, by the mode that `os.stat` gives; nothing for one."""
    kinds = {stat.S_IFREG: "", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def packed_by(path: str | os.PathLike[str]) -> str:
    """Return ``"; …"``, what makes a data set of something that is there and is none.

    >>> packed_by("points.npz")
    '; tmpack arrays makes one of it'
    >>> packed_by("/")
    '; a folder of images? tmpack folder TRAIN_DIR VAL_DIR -o FILE.h5 packs it'
    >>> packed_by("points.mat")
    '; tmpack --help says of what it makes one'
    """
    if os.path.isdir(path):
        return "; a folder of images? tmpack folder TRAIN_DIR VAL_DIR -o FILE.h5 packs it"
    kind = _PACKED.get(os.path.splitext(path)[1].lower())
    return f"; tmpack {kind} makes one of it" if kind else "; tmpack --help says of what it makes one"


def split_prefix(source: str) -> tuple[str, str]:
    """Split ``FILE#PREFIX``, where no file has that whole name; without a prefix it is empty.

    Examples
    --------
    >>> split_prefix("net.pt#encoder"), split_prefix("net.pt")
    (('net.pt', 'encoder'), ('net.pt', ''))
    """
    file, mark, prefix = source.rpartition("#")
    return (file, prefix) if mark and trouble(source) else (source, "")


def read_bytes(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """Read a regular file.

    Parameters
    ----------
    path
        The file.
    most
        How many bytes it may have; any number by default.

    Raises
    ------
    OSError
        With the reason in `strerror`: whatever `trouble` says, no permission, too large.
    """
    wrong = _oddity(path)
    if wrong:
        raise OSError(errno.EINVAL, wrong, os.fspath(path))
    with open(path, "rb") as file:
        # A file of /proc says that it has no bytes, and one that is being written may grow.
        content = file.read(-1 if most is None else most + 1)
    if most is not None and len(content) > most:
        raise OSError(errno.EFBIG, f"more than {most:,} bytes", os.fspath(path))
    return content


def read_text(path: str | os.PathLike[str], what: str, kind: str = "text file") -> str:
    """Read a text of settings in UTF-8.

    Parameters
    ----------
    path
        The file.
    what
        What it is to the user, such as "hostfile".
    kind
        What is expected.

    Raises
    ------
    theanompi.config.ConfigError
        When there is no such file, or it is no text, or has more than `MOST_TEXT` bytes.

    Examples
    --------
    >>> read_text("/dev/zero", "hostfile")
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: hostfile: expected a readable text file, got '/dev/zero' (a device)
    """
    try:
        # Some editors begin a text with a byte order mark, which is no part of it.
        return read_bytes(path, MOST_TEXT).decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        wrong = "not UTF-8 text"
    except OSError as error:
        wrong = reason(error)
    raise ConfigError(f"{what}: expected a readable {kind}, got {got(os.fspath(path))} ({wrong})")


def destination(path: str | os.PathLike[str]) -> Path:
    """Say where a file of this name is written: a link is followed and stays, as for whoever opens it to write."""
    return Path(os.path.realpath(path) if os.path.islink(path) else path)


def check_new(path: str | os.PathLike[str], what: str, *, overwrite: bool) -> None:
    """Check that a file may be written under a name.

    Parameters
    ----------
    path
        The file.
    what
        What it is to the user, such as "weights a.npz".
    overwrite
        Whether one that is there may be replaced.

    Raises
    ------
    theanompi.config.ConfigError
        If there is something of that name, at the end of a link as well, or no folder to write it in.

    Examples
    --------
    >>> check_new("nowhere/a.csv", "out nowhere/a.csv", overwrite=False)
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: out nowhere/a.csv: expected a folder to write in, got 'nowhere' (No such \
file or directory)
    """
    path = destination(path)
    folder = os.path.dirname(path) or "."
    wrong = trouble(folder) or "a file"
    if wrong == "a folder" and not os.access(folder, os.W_OK | os.X_OK):
        wrong = os.strerror(errno.EACCES)
    if wrong != "a folder":
        raise ConfigError(f"{what}: expected a folder to write in, got {got(folder)} ({wrong})")
    odd = oddity_of(os.stat(path).st_mode) if os.path.exists(path) else ""
    if odd or (os.path.lexists(path) and not overwrite):
        raise ConfigError(
            f"{what}: expected no file of this name, got {odd or 'one; --overwrite replaces it'}"
        )


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], rest: str = "") -> Iterator[None]:
    """Turn the operating system's refusal to write a file of a run into one line.

    Parameters
    ----------
    path
        What is written within.
    rest
        What else the user should know.

    Raises
    ------
    CannotWrite
        For an OSError within.

    Examples
    --------
    >>> with writing("run/log.jsonl"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
        ...
    theanompi.config.files.CannotWrite: run/log.jsonl: cannot be written: No space left on device
    """
    try:
        yield
    except CannotWrite:
        raise
    except OSError as error:
        raise CannotWrite(f"{path}: cannot be written: {reason(error)}{rest}") from error


def write_whole(path: Path, content: memoryview | bytes) -> None:
    """Put a file in the place of another one so that whoever opens it finds the old content or the new.

    Raises
    ------
    OSError
        Which has changed nothing.
    """
    path = destination(path)
    # Always the same name, so that the next one overwrites what a killed process left behind.
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk: without this a power cut may bring an old file back."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
