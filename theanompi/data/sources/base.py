"""Where the images of a data set come from: folders, archives and arrays, as `tmpack` reads them.

A `Source` knows, from the beginning, the label of every image, and hands out runs of images as `Items`: small
objects that are sent to a worker process, which then reads the files or makes the pixels. So a new source is one
class that lists its images in `__init__` and says in `items` how to read some of them.

Nothing is unpacked on the disk: an archive is listed once, and its files are then read at their positions.
"""

import errno
import gzip
import hashlib
import math
import os
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import features

from theanompi.config import ConfigError, counted, listed
from theanompi.config.files import oddity_of
from theanompi.data.pictures.decode import BadImage
from theanompi.data.store.schema import Split

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
_ALWAYS = ".jpeg .jpg .jpe .jfif .png .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm"
# What Pillow may be built without.
_BY_FEATURE = {".webp": "webp", ".avif": "avif", ".jp2": "jpg_2000"}
IMAGE_ENDINGS = (
    *_ALWAYS.split(),
    *(ending for ending, feature in _BY_FEATURE.items() if feature in features.get_supported()),
)
# What systems and servers put into folders, besides what begins with a dot: copies, thumbnails, what was deleted.
HIDDEN = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
    "system volume information",
}
# In a block of pixels: enough to make the exchange with a worker worth its while, little enough to keep many.
_BLOCK_BYTES = 8 * 2**20
_BLOCK_FILES = 128
_BLOCK_MOST = 16384
# Each class has a name and each image a label: what is beyond these is a mistake, and would fill the memory.
MOST_CLASSES = 10**6
MOST_IMAGES = 10**8
# What a damaged archive makes the readers of the standard library raise.
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError)


class Files(NamedTuple):
    """Images that follow each other and are files to decode, picklable.

    Attributes
    ----------
    names : list of str
    labels : int64 (n,)
    contents : callable
        Reads one file after another, in the process that decodes them; what cannot be read has its reason instead.
    """

    names: list[str]
    labels: Labels
    contents: Callable[[], Iterator[bytes | BadImage]]


class Arrays(NamedTuple):
    """Images that follow each other and are pixels, all of one size, picklable.

    Attributes
    ----------
    names : list of str
    labels : int64 (n,)
    pixels : callable
        Gives the pixels of all, uint8 (n, h, w, c).
    """

    names: list[str]
    labels: Labels
    pixels: Callable[[], Pixels]


Items = Files | Arrays


# What is wrong with one name, and not with the file system that it is on.
OF_ONE_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}


def read_regular(path: str) -> bytes:
    """Read a regular file or a link to one: from anything else there may never come an end, or a beginning."""
    try:
        # A FIFO would be waited for, until somebody writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in OF_ONE_FILE:
            raise
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise BadImage(f"expected a regular file, got {oddity_of(os.lstat(path).st_mode)}") from None
        dangling = error.errno == errno.ENOENT and os.path.islink(path)
        raise BadImage("a link to nothing" if dangling else cause(error)) from None
    with open(descriptor, "rb") as file:
        odd = oddity_of(os.fstat(descriptor).st_mode)
        if odd:
            raise BadImage(f"expected a regular file, got {odd}")
        return file.read()


class Source(ABC):
    """A data set before it is packed.

    Attributes
    ----------
    name, description, source, licence : str
        As in the data set.
    augmentation : str
        The policy that suits the images, one of `theanompi.data.pictures.augment.POLICIES`.
    channels : int
    class_names : list of str
    labels : dict of split to int64 (n,)
    image_bytes : int or None
        Size of one image's pixels; None for files to decode.
    fingerprint : str
        Differs whenever the images do, but for what `stamps` tells: SHA-256.
    stamps : dict of split to list of int
        Of images that are files of their own, a number for each that differs whenever the image does: its name, label,
        size or time of modification. Empty for others.
    notes : list of str
        What the user should hear about.
    """

    name: str
    description: str
    source: str
    licence: str = "not stated"
    augmentation: str = "none"
    channels: int = 3
    class_names: list[str]
    labels: dict[Split, Labels]
    image_bytes: int | None = None
    fingerprint: str
    stamps: Mapping[Split, list[int]] = MappingProxyType({})
    notes: Sequence[str] = ()

    @abstractmethod
    def items(self, split: Split, start: int, stop: int) -> Items:
        """Hand out the images from `start` up to, not including, `stop`."""

    @property
    def block_images(self) -> int:
        """How many images to pack at a time, so that a block takes some megabytes."""
        if self.image_bytes is None:
            return _BLOCK_FILES
        return min(max(_BLOCK_BYTES // self.image_bytes, 1), _BLOCK_MOST)


def check_number(option: str, number: int, most: float = math.inf, least: int = 1) -> None:
    """Refuse a number that is too small or too large."""
    if number < least:
        raise ConfigError(f"--{option}: expected at least {least}, got {number}")
    if number > most:
        raise ConfigError(f"--{option}: expected at most {most}, got {number}")


def printable(name: str) -> str:
    r"""Spell a file's name so that it can be stored and printed: bytes that are no UTF-8 are escaped.

    Examples
    --------
    >>> printable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return name.encode("utf-8", "backslashreplace").decode()


def cause(error: Exception) -> str:
    """What an exception says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.splitlines() or [type(error).__name__]
    return lines[0].rstrip(":")


def stamp_of(path: Path) -> tuple[str, int, int]:
    """Name, size and time of modification of a file that must exist."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: expected a file, got: {cause(error)}") from None
    odd = oddity_of(status.st_mode)
    if odd:
        raise ConfigError(f"{path}: expected a file, got {odd}")
    return path.name, status.st_size, status.st_mtime_ns


def fingerprint(rows: Iterable[tuple[object, ...]]) -> str:
    """SHA-256 of what a source consists of, in hexadecimal, row by row: another source has another one."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\0".join(map(str, row)).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's images, by its name: hidden, or kept by a system for itself.

    Examples
    --------
    >>> is_hidden(".ipynb_checkpoints"), is_hidden("._a.jpg"), is_hidden("@eaDir"), is_hidden("a.jpg")
    (True, True, True, False)
    """
    return name.startswith(".") or name.lower() in HIDDEN


class Ignored:
    """What a source of images, or of something else, does not take, to be told to the user."""

    def __init__(self, noun: str = "images") -> None:
        self.noun = noun
        self._endings: Counter[str] = Counter()
        # How many of each kind, and the first.
        self._paths: dict[tuple[str, str], tuple[int, str]] = {}

    def other(self, name: str) -> None:
        """Count a file that is not named like an image."""
        self._endings[os.path.splitext(name)[1].lower() or "without ending"] += 1

    def add(self, what: tuple[str, str], path: str) -> None:
        """Count something else."""
        n, first = self._paths.get(what, (0, path))
        self._paths[what] = n + 1, first

    def notes(self) -> list[str]:
        found = []
        if self._endings:
            kinds = listed(f"{printable(ending)} {n}" for ending, n in self._endings.most_common())
            found.append(
                f"ignored: {counted(self._endings.total(), 'file')} not named like {self.noun}: {kinds}"
            )
        for what in (HIDDEN_FILES, AGAIN, LOOSE):
            n, first = self._paths.get(what, (0, ""))
            if n:
                one, many = (
                    text.format(noun) for text, noun in zip(what, (self.noun[:-1], self.noun), strict=True)
                )
                found.append(f"ignored: {counted(n, one, many)}, such as {printable(first)}")
        return found


# One and several of them.
HIDDEN_FILES = ("hidden file or folder", "hidden files and folders")
AGAIN = ("link to a folder that is listed already", "links to folders that are listed already")
LOOSE = ("{} that lies in no class folder", "{} that lie in no class folder")


def is_hidden_member(name: str) -> bool:
    """Whether a path in an archive is hidden, as the ._x beside each x that macOS packs."""
    return any(is_hidden(part) for part in name.split("/") if part not in (".", ".."))
