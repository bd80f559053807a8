"""Where the images of a data set come from: folders, archives and arrays, as `tmpack` reads them.

A `Source` knows, from the beginning, the label of every image, and hands out runs of images as `Items`: small
objects that are sent to a worker process, which then reads the files or makes the pixels. So a new source is one
class that lists its images in `__init__` and says in `items` how to read some of them.

Nothing is unpacked on the disk: an archive is listed once, and its files are then read at their positions.
"""

import csv
import errno
import gzip
import hashlib
import io
import math
import os
import pickle
import re
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import features

from theanompi.config import ConfigError, got, listed
from theanompi.data.decode import BadImage
from theanompi.data.random import Purpose, splitmix64, uniforms
from theanompi.data.schema import SPLITS, Split

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

IMAGE_ENDINGS = (
    *(
        ".jpeg",
        ".jpg",
        ".jpe",
        ".jfif",
        ".png",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ),
    # What Pillow may be built without.
    *(
        ending
        for ending, feature in ((".webp", "webp"), (".avif", "avif"), (".jp2", "jpg_2000"))
        if feature in features.get_supported()
    ),
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
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError)


@dataclass(frozen=True)
class Items(ABC):
    """Some images that follow each other, picklable; their contents are read by whoever asks.

    Attributes
    ----------
    names : list of str
    labels : int64 (n,)
    """

    names: list[str]
    labels: Labels


class Files(Items):
    """Images that are files to decode."""

    @abstractmethod
    def contents(self) -> Iterator[bytes | BadImage]:
        """Read one file after another; what cannot be read has its reason instead."""


class Arrays(Items):
    """Images that are pixels, all of one size."""

    @abstractmethod
    def pixels(self) -> Pixels:
        """Give the pixels of all, uint8 (n, h, w, c)."""


@dataclass(frozen=True)
class _FolderFiles(Files):
    folder: str

    def contents(self) -> Iterator[bytes | BadImage]:
        for name in self.names:
            try:
                yield _read_regular(os.path.join(self.folder, name))
            except BadImage as error:
                yield error


# What is wrong with one name, and not with the file system that it is on.
_OF_ONE_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO}
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def _read_regular(path: str) -> bytes:
    """Read a regular file or a link to one: from anything else there may never come an end, or a beginning."""
    try:
        # A FIFO would be waited for, until somebody writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _OF_ONE_FILE:
            raise
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise BadImage(f"expected a regular file, got {_kind(os.lstat(path).st_mode)}") from None
        dangling = error.errno == errno.ENOENT and os.path.islink(path)
        raise BadImage("a link to nothing" if dangling else _reason(error)) from None
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise BadImage(f"expected a regular file, got {_kind(mode)}")
        return file.read()


@lru_cache(maxsize=4)
def _descriptor(path: str) -> int:
    return os.open(path, os.O_RDONLY)


@dataclass(frozen=True)
class _ArchiveFiles(Files):
    path: str
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def contents(self) -> Iterator[bytes | BadImage]:
        # Opened once in each process, and left to its end to close.
        descriptor = _descriptor(self.path)
        for name, offset, length in zip(
            self.names, self.offsets.tolist(), self.lengths.tolist(), strict=True
        ):
            data = os.pread(descriptor, length, offset)
            if len(data) != length:
                raise ValueError(f"{self.path}: {name}: expected {length} bytes at {offset}, got {len(data)}")
            yield data


@dataclass(frozen=True)
class _InMemory(Arrays):
    values: Pixels

    def pixels(self) -> Pixels:
        return self.values


@dataclass(frozen=True)
class _Patterns(Arrays):
    seed: int
    split: int
    first: int
    size: int
    channels: int

    def pixels(self) -> Pixels:
        ids = np.arange(self.first, self.first + len(self.labels))
        return _patterns(self.seed, self.split, ids, self.labels, self.size, self.channels)


class Source(ABC):
    """A data set before it is packed.

    Attributes
    ----------
    name, description, source, licence : str
        As in the data set.
    augmentation : str
        The policy that suits the images, one of `theanompi.data.augment.POLICIES`.
    channels : int
    class_names : list of str
    labels : dict of split to int64 (n,)
    image_bytes : int or None
        Size of one image's pixels; None for files to decode.
    fingerprint : str
        Differs whenever the images do: SHA-256 of their names, labels, sizes and times of modification.
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


def printable(name: str) -> str:
    r"""Spell a file's name so that it can be stored and printed: bytes that are no UTF-8 are escaped.

    Examples
    --------
    >>> printable("caf\udce9.jpg")
    'caf\\udce9.jpg'
    """
    return name.encode("utf-8", "backslashreplace").decode()


def _reason(error: Exception) -> str:
    """What an exception says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.splitlines() or [type(error).__name__]
    return lines[0].rstrip(":")


def _stamp(path: Path) -> tuple[str, int, int]:
    """Name, size and time of modification of a file that must exist."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: expected a file, got: {_reason(error)}") from None
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{path}: expected a file, got {_kind(status.st_mode)}")
    return path.name, status.st_size, status.st_mtime_ns


def fingerprint(rows: Iterable[tuple[object, ...]]) -> str:
    """SHA-256 of what a source consists of, in hexadecimal, row by row: another source has another one."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\0".join(map(str, row)).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


# --- Class folders -------------------------------------------------------------------------------------------


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's images, by its name: hidden, or kept by a system for itself.

    Examples
    --------
    >>> is_hidden(".ipynb_checkpoints"), is_hidden("._a.jpg"), is_hidden("@eaDir"), is_hidden("a.jpg")
    (True, True, True, False)
    """
    return name.startswith(".") or name.lower() in HIDDEN


class _Ignored:
    """What a source does not take, to be told to the user."""

    def __init__(self) -> None:
        self._endings: Counter[str] = Counter()
        # How many of each kind, and the first.
        self._paths: dict[str, tuple[int, str]] = {}

    def other(self, name: str) -> None:
        """Count a file that is not named like an image."""
        self._endings[os.path.splitext(name)[1].lower() or "without ending"] += 1

    def add(self, what: str, path: str) -> None:
        """Count something else."""
        n, first = self._paths.get(what, (0, path))
        self._paths[what] = n + 1, first

    def notes(self) -> list[str]:
        found = []
        if self._endings:
            kinds = listed(f"{printable(ending)} {n}" for ending, n in self._endings.most_common())
            found.append(f"{self._endings.total()} files that are not named like images are ignored: {kinds}")
        for what in (_HIDDEN, _AGAIN, _LOOSE):
            n, first = self._paths.get(what, (0, ""))
            if n:
                found.append(f"{n} {what} are ignored, such as {printable(first)}")
        return found


_HIDDEN = "hidden files and folders"
_AGAIN = "links to folders that are listed already"
_LOOSE = "images that lie in no class folder"


class _FolderSource(Source):
    """Images that are files in folders, one folder for each split."""

    augmentation = "imagenet"
    _roots: dict[Split, Path]
    _names: dict[Split, list[str]]

    def items(self, split: Split, start: int, stop: int) -> Items:
        return _FolderFiles(
            self._names[split][start:stop], self.labels[split][start:stop], str(self._roots[split])
        )

    def _rows(self) -> Iterator[tuple[object, ...]]:
        """What tells the images from others, for the fingerprint."""
        for split, root in self._roots.items():
            for name, label in zip(self._names[split], self.labels[split].tolist(), strict=True):
                yield split, name, label, *_size_and_time(root / name)


class Folder(_FolderSource):
    """Class folders, one for training and one for validation: the layout that every ImageNet user has.

    The sorted names of the class folders in `train` are the classes; how the system spells accents (NFC or NFD) does
    not matter. Folders within them are searched too, links to folders included, but each folder once: it belongs to
    the class in which it lies, and a link to one above it or to another class has nothing new. Files that do not end
    like an image, hidden files and folders, and what systems keep for themselves are not looked at; `notes` counts
    them. `val` may lack images of some classes.

    Parameters
    ----------
    train, val : path

    Raises
    ------
    ConfigError
        If a folder is missing, has no class folders, one of them in `train` has no images or is a link to another
        one, two have the same name but for its spelling, or `val` has a class that `train` lacks, or no images.

    Examples
    --------
    >>> Folder("nowhere", "nowhere")
    Traceback (most recent call last):
    theanompi.config.ConfigError: nowhere: expected a folder of class folders, got: No such file or directory
    """

    description = "Images from class folders."

    def __init__(self, train: str | os.PathLike[str], val: str | os.PathLike[str]) -> None:
        self._roots = {"train": Path(train), "val": Path(val)}
        self._names, self.labels = {}, {}
        self.name = Path(train).resolve().parent.name or "folder"
        self.source = f"the folders {printable(Path(train).name)} and {printable(Path(val).name)}"
        ignored = _Ignored()
        folders = {split: _class_folders(root, ignored) for split, root in self._roots.items()}
        classes = list(folders["train"])
        unknown = [name for name in folders["val"] if name not in folders["train"]]
        if unknown:
            raise ConfigError(
                f"{val}: expected only classes of {train}, got {printable(unknown[0])!r}"
                + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            )
        self.class_names = [printable(name) for name in classes]
        starts = _starts(self._roots, {split: list(found.values()) for split, found in folders.items()})
        for split, root in self._roots.items():
            files = _class_files(root, list(folders[split].values()), starts, ignored)
            of_class = [files.get(folders[split].get(name, ""), []) for name in classes]
            if split == "train":
                _check_not_empty(root, files)
            elif not any(of_class):
                raise ConfigError(f"{root}: expected images in its class folders, got none")
            self._names[split] = [name for found in of_class for name in found]
            self.labels[split] = np.repeat(np.arange(len(classes)), [len(found) for found in of_class])
        self.fingerprint = fingerprint(self._rows())
        self.notes = ignored.notes()


def _check_not_empty(root: Path, files: Mapping[str, list[str]]) -> None:
    for name, found in files.items():
        if not found:
            raise ConfigError(f"{root / name}: expected images of its class, got none")


def _starts(roots: Mapping[Split, Path], folders: Mapping[Split, list[str]]) -> set[tuple[int, int]]:
    """What no folder within a class may be: a class folder, of whichever split, or a folder around them."""
    starts = {
        _identity(folder) for root in roots.values() for folder in (root.resolve(), *root.resolve().parents)
    }
    for split, root in roots.items():
        owners: dict[tuple[int, int], str] = {}
        for name in folders[split]:
            owner = owners.setdefault(_identity(root / name), name)
            if owner != name:
                raise ConfigError(
                    f"{root / name}: expected a folder of its own, got that of class {printable(owner)!r}"
                )
        starts |= set(owners)
    return starts


def _class_files(
    root: Path, folders: list[str], starts: set[tuple[int, int]], ignored: _Ignored
) -> dict[str, list[str]]:
    """List the images below each class folder, sorted; each folder once."""
    found: dict[str, list[str]] = {name: [] for name in folders}
    seen = set(starts)
    todo = deque((name, name) for name in folders)
    # After all others, so that a folder belongs to the class in which it lies.
    links: deque[tuple[str, str]] = deque()
    while todo or links:
        class_name, folder = (todo or links).popleft()
        if folder != class_name:
            identity = _identity(root / folder)
            if identity in seen:
                ignored.add(_AGAIN, os.path.join(root, folder))
                continue
            seen.add(identity)
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}"
                if is_hidden(entry.name):
                    ignored.add(_HIDDEN, os.path.join(root, path))
                elif _is_folder(entry):
                    (links if entry.is_symlink() else todo).append((class_name, path))
                elif entry.name.lower().endswith(IMAGE_ENDINGS):
                    found[class_name].append(path)
                else:
                    ignored.other(entry.name)
    return {name: sorted(files) for name, files in found.items()}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for example: that shows when it is read
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """What a folder is, by whatever name: its device and inode."""
    about = folder.stat()
    return about.st_dev, about.st_ino


def _size_and_time(path: Path) -> tuple[int, int]:
    """Size and time of modification of a file, 0 of what cannot be asked: that shows when it is read."""
    try:
        about = path.stat()
    except OSError as error:
        if error.errno not in _OF_ONE_FILE:
            raise
        return 0, 0
    return about.st_size, about.st_mtime_ns


def _class_folders(root: Path, ignored: _Ignored) -> dict[str, str]:
    """List the class folders: their names in normal form (NFC), sorted, and in the system's spelling."""
    found: dict[str, str] = {}
    images = 0
    try:
        with os.scandir(root) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = os.path.join(root, entry.name)
                if is_hidden(entry.name):
                    ignored.add(_HIDDEN, path)
                elif _is_folder(entry):
                    name = unicodedata.normalize("NFC", entry.name)
                    other = found.setdefault(name, entry.name)
                    if other != entry.name:
                        raise ConfigError(
                            f"{root}: expected one folder for each class, got {ascii(other)} and {ascii(entry.name)}, "
                            "which are the same name"
                        )
                elif entry.name.lower().endswith(IMAGE_ENDINGS):
                    ignored.add(_LOOSE, path)
                    images += 1
                else:
                    ignored.other(entry.name)
    except OSError as error:
        raise ConfigError(f"{root}: expected a folder of class folders, got: {_reason(error)}") from None
    if not found:
        raise ConfigError(
            f"{root}: expected a folder of class folders, got no folder in it"
            + (f" but {images} images; ImageNet as Kaggle has it: tmpack ilsvrc FOLDER" if images else "")
        )
    return dict(sorted(found.items()))


# --- The archives of ILSVRC 2012 -----------------------------------------------------------------------------


class _Window(io.RawIOBase):
    """Part of a file as a file of its own: what a tar within a tar is."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length, self._position = descriptor, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        )
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._length - self._position, 0)
        data = os.pread(self._descriptor, left if size < 0 else min(size, left), self._start + self._position)
        self._position += len(data)
        return data


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


def _is_hidden_member(name: str) -> bool:
    """Whether a path in an archive is hidden, as the ._x beside each x that macOS packs."""
    return any(is_hidden(part) for part in name.split("/") if part not in (".", ".."))


def _members(path: Path, start: int, length: int, ignored: _Ignored, name: str = "") -> Iterator[_Member]:
    """List the files in the tar archive at a position of a file; their offsets count from the file's beginning."""
    where = f"{path}: {name}" if name else f"{path}"
    window = _Window(_descriptor(str(path)), start, length)
    try:
        with tarfile.open(fileobj=window, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else a million would stay in memory
                if member.isfile() and _is_hidden_member(member.name):
                    ignored.add(_HIDDEN, f"{where}: {member.name}")
                elif member.isfile():
                    yield _Member(member.name, start + member.offset_data, member.size)
            # Where a header is damaged or cut off, tarfile sees the end.
            window.seek(archive.offset)
            mark = window.read(tarfile.BLOCKSIZE)
    except _DAMAGE as error:
        raise ValueError(
            f"{where}: expected a whole tar archive, uncompressed, got: {_reason(error)}"
        ) from None
    if mark != bytes(tarfile.BLOCKSIZE):
        raise ValueError(
            f"{where}: expected a whole tar archive, got one without an end mark at byte {archive.offset}"
        )


class _Synset(NamedTuple):
    wnid: str
    words: str
    n_train: int | None


def _devkit(path: Path) -> tuple[dict[int, _Synset], list[int]]:
    """Read the leaf synsets by ILSVRC2012_ID, and the IDs of the validation images in their order."""
    # Here, because every worker process would wait for it.
    import scipy.io

    expected = "ILSVRC2012_devkit_t12.tar.gz"
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(
                    ("/meta.mat", "/ILSVRC2012_validation_ground_truth.txt")
                ):
                    files[member.name.rpartition("/")[2]] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except _DAMAGE as error:
        raise ValueError(f"{path}: expected the archive {expected}, got: {_reason(error)}") from None
    for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
        if name not in files:
            raise ValueError(f"{path}: expected the archive {expected} with data/{name}, got none")
    try:
        table = np.atleast_1d(scipy.io.loadmat(io.BytesIO(files["meta.mat"]), squeeze_me=True)["synsets"])
        has_counts = "num_train_images" in (table.dtype.names or ())
        synsets = {
            int(row["ILSVRC2012_ID"]): _Synset(
                str(row["WNID"]), str(row["words"]), int(row["num_train_images"]) if has_counts else None
            )
            for row in table
            if int(row["num_children"]) == 0
        }
    except Exception as error:  # loadmat lets through whatever the damage makes happen
        raise ValueError(
            f"{path}: meta.mat: expected synsets with ILSVRC2012_ID, WNID, words and num_children, got: "
            f"{type(error).__name__}: {_reason(error)}"
        ) from None
    text = files["ILSVRC2012_validation_ground_truth.txt"].decode("ascii", "replace")
    truth = []
    for number, line in enumerate(text.splitlines(), 1):
        # Beyond 4,300 digits Python refuses to make a number of them.
        if not line.strip().isdecimal() or len(line) > 20 or int(line) not in synsets:
            raise ValueError(
                f"{path}: ILSVRC2012_validation_ground_truth.txt, line {number}: expected the ILSVRC2012_ID of one "
                f"of {len(synsets)} classes, got {line[:40]!r}"
            )
        truth.append(int(line))
    return synsets, truth


class _OfIlsvrc:
    """What the two ways to get ImageNet have in common."""

    name = "ILSVRC 2012"
    description = "ImageNet Large Scale Visual Recognition Challenge 2012, classification."
    source = "O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015, https://image-net.org"
    licence = "For non-commercial research and education only: https://image-net.org/download"
    augmentation = "imagenet"


class Ilsvrc(_OfIlsvrc, Source):
    """The archives of the ImageNet Large Scale Visual Recognition Challenge 2012, as they are downloaded.

    Parameters
    ----------
    train : path
        ILSVRC2012_img_train.tar, which holds a tar archive of images for each class.
    val : path
        ILSVRC2012_img_val.tar.
    devkit : path
        ILSVRC2012_devkit_t12.tar.gz, for the names of the classes and the labels of the validation images.

    Raises
    ------
    ConfigError
        If a file is missing.
    ValueError
        If one is damaged, incomplete, or something else.

    Examples
    --------
    >>> Ilsvrc("train.tar", "val.tar", "devkit.tar.gz")
    Traceback (most recent call last):
    theanompi.config.ConfigError: train.tar: expected a file, got: No such file or directory
    """

    def __init__(
        self,
        train: str | os.PathLike[str],
        val: str | os.PathLike[str],
        devkit: str | os.PathLike[str],
    ) -> None:
        self._paths: dict[Split, Path] = {"train": Path(train), "val": Path(val)}
        self._ignored = _Ignored()
        stamps = [_stamp(path) for path in (*self._paths.values(), Path(devkit))]
        synsets, truth = _devkit(Path(devkit))
        wnids = sorted(synset.wnid for synset in synsets.values())
        by_wnid = {synset.wnid: synset for synset in synsets.values()}
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        self.class_names = [f"{wnid} {by_wnid[wnid].words}" for wnid in wnids]
        self._names: dict[Split, list[str]] = {}
        self._offsets: dict[Split, NDArray[np.int64]] = {}
        self._lengths: dict[Split, NDArray[np.int64]] = {}
        self.labels = {}
        self._set("train", *self._list_train(stamps[0][1], by_wnid, label_of))
        val_files = self._list_val(stamps[1][1], len(truth))
        self._set("val", val_files, [label_of[synsets[i].wnid] for i in truth])
        rows = (
            zip(
                self._names[s],
                self.labels[s].tolist(),
                self._offsets[s].tolist(),
                self._lengths[s].tolist(),
                strict=True,
            )
            for s in SPLITS
        )
        self.fingerprint = fingerprint((*stamps, *(row for split in rows for row in split)))
        self.notes = [*self.notes, *self._ignored.notes()]

    def _set(self, split: Split, files: list[_Member], labels: list[int]) -> None:
        self._names[split] = [file.name for file in files]
        self._offsets[split] = np.array([file.offset for file in files], np.int64)
        self._lengths[split] = np.array([file.size for file in files], np.int64)
        self.labels[split] = np.array(labels, np.int64)

    def _list_train(
        self, size: int, synsets: dict[str, _Synset], label_of: dict[str, int]
    ) -> tuple[list[_Member], list[int]]:
        path = self._paths["train"]
        classes = {}
        for member in _members(path, 0, size, self._ignored):
            wnid, ending = os.path.splitext(os.path.basename(member.name))
            if ending != ".tar" or wnid not in synsets:
                raise ValueError(
                    f"{path}: expected archives of the {len(synsets)} classes, such as {min(synsets)}.tar, "
                    f"got {printable(member.name)}"
                )
            classes[wnid] = member
        missing = sorted(set(synsets) - set(classes))
        if missing:
            raise ValueError(
                f"{path}: expected {len(synsets)} archives of classes, got none for {missing[0]}"
            )
        files: list[_Member] = []
        labels: list[int] = []
        notes = []
        for wnid in sorted(classes):
            _, offset, length = classes[wnid]
            found = sorted(
                file._replace(name=f"{wnid}/{printable(file.name)}")
                for file in _members(path, offset, length, self._ignored, f"{wnid}.tar")
            )
            if not found:
                raise ValueError(f"{path}: {wnid}.tar: expected images, got none")
            expected = synsets[wnid].n_train
            if expected is not None and len(found) != expected:
                # Not an error: a truncated archive is noticed by its missing end mark.
                notes.append(
                    f"{path}: {wnid}.tar has {len(found)} images, {expected} according to the devkit"
                )
            files += found
            labels += [label_of[wnid]] * len(found)
        self.notes = notes
        return files, labels

    def _list_val(self, size: int, n_labels: int) -> list[_Member]:
        path = self._paths["val"]
        files = {}
        for member in _members(path, 0, size, self._ignored):
            name = printable(os.path.basename(member.name))
            match = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name)
            if not match:
                raise ValueError(f"{path}: expected images such as ILSVRC2012_val_00000001.JPEG, got {name}")
            files[int(match[1])] = member._replace(name=name)
        if sorted(files) != list(range(1, n_labels + 1)):
            numbers = f"{len(files)}" + (f", numbered {min(files)} to {max(files)}" if files else "")
            raise ValueError(
                f"{path}: expected images 1 to {n_labels}, as the devkit's ground truth has lines, got {numbers}"
            )
        return [files[number] for number in sorted(files)]

    def items(self, split: Split, start: int, stop: int) -> Items:
        part = slice(start, stop)
        return _ArchiveFiles(
            self._names[split][part],
            self.labels[split][part],
            str(self._paths[split]),
            self._offsets[split][part],
            self._lengths[split][part],
        )


class KaggleIlsvrc(_OfIlsvrc, _FolderSource):
    """The same images in Kaggle's layout, unpacked: class folders for training, one folder for validation.

    Parameters
    ----------
    path : path
        The folder with ``ILSVRC/Data/CLS-LOC`` (its ``train`` has class folders, its ``val`` images),
        ``LOC_synset_mapping.txt``, the names of the classes, and ``LOC_val_solution.csv``, the labels of the
        validation images; or one of the folders down to ``CLS-LOC``, with the two files in it or above it.

    Raises
    ------
    ConfigError
        If a folder or file is missing.
    ValueError
        If a table is damaged, or does not match the folders.

    Examples
    --------
    >>> KaggleIlsvrc("nowhere")
    Traceback (most recent call last):
    theanompi.config.ConfigError: nowhere: expected Kaggle's folder with ILSVRC/Data/CLS-LOC/train and val, got none
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        top = Path(path)
        places = (top / "ILSVRC" / "Data" / "CLS-LOC", top / "Data" / "CLS-LOC", top / "CLS-LOC", top)
        data = next((p for p in places if (p / "train").is_dir() and (p / "val").is_dir()), None)
        if data is None:
            raise ConfigError(
                f"{path}: expected Kaggle's folder with ILSVRC/Data/CLS-LOC/train and val, got none"
            )
        self._roots = {"train": data / "train", "val": data / "val"}
        self._names, self.labels = {}, {}
        # Down to Data, ILSVRC and the folder around it.
        tables = {}
        for name in ("LOC_synset_mapping.txt", "LOC_val_solution.csv"):
            around = (top, data, *data.absolute().parents[:3])
            tables[name] = next((p / name for p in around if (p / name).is_file()), top / name)
        stamps = [_stamp(table) for table in tables.values()]
        words = _mapping(tables["LOC_synset_mapping.txt"])
        label_of = {wnid: label for label, wnid in enumerate(words)}
        self.class_names = [f"{wnid} {text}" for wnid, text in words.items()]
        ignored = _Ignored()
        folders = _class_folders(self._roots["train"], ignored)
        odd = sorted(set(folders) ^ set(words))
        if odd:
            raise ValueError(
                f"{self._roots['train']}: expected a folder for each class of LOC_synset_mapping.txt and no other, "
                f"got {'one more,' if odd[0] in folders else 'none for'} {printable(odd[0])}"
            )
        starts = _starts(self._roots, {"train": list(folders), "val": []})
        files = _class_files(self._roots["train"], list(folders), starts, ignored)
        _check_not_empty(self._roots["train"], files)
        self._names["train"] = [name for found in files.values() for name in found]
        self.labels["train"] = np.repeat(np.arange(len(words)), [len(found) for found in files.values()])
        truth = _solution(tables["LOC_val_solution.csv"], label_of)
        names = _flat(self._roots["val"], set(truth), tables["LOC_val_solution.csv"].name, ignored)
        self._names["val"] = names
        self.labels["val"] = np.array([truth[Path(name).stem] for name in names], np.int64)
        self.fingerprint = fingerprint(chain(stamps, self._rows()))
        self.notes = ignored.notes()


def _mapping(path: Path) -> dict[str, str]:
    """Read the classes, sorted, and their names: ``n01440764 tench, Tinca tinca``."""
    words = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        wnid, _, text = line.strip().partition(" ")
        if not re.fullmatch(r"n\d+", wnid) or not text or wnid in words:
            raise ValueError(
                f"{path}, line {number}: expected a class of its own, such as 'n01440764 tench', got {got(line, 60)}"
            )
        words[wnid] = text
    if not words:
        raise ValueError(f"{path}: expected the classes, got an empty file")
    return dict(sorted(words.items()))


def _solution(path: Path, label_of: Mapping[str, int]) -> dict[str, int]:
    """Read the labels of the validation images: an image's name, and its class before each of its boxes."""
    truth: dict[str, int] = {}
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.reader(file)
        try:
            for row in rows:
                if row == ["ImageId", "PredictionString"] and rows.line_num == 1:
                    continue
                wnids = set(row[1].split()[::5]) if len(row) == 2 else set()
                if len(wnids) != 1 or not wnids <= label_of.keys() or row[0] in truth:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: expected an image of its own and one of {len(label_of)} "
                        f"classes, got {got(','.join(row), 80)}"
                    )
                truth[row[0]] = label_of[wnids.pop()]
        except csv.Error as error:
            raise ValueError(f"{path}, line {rows.line_num}: expected a table, got: {error}") from None
    return truth


def _flat(root: Path, expected: set[str], table: str, ignored: _Ignored) -> list[str]:
    """List a folder of images, which a table names without their endings, sorted."""
    names = []
    with os.scandir(root) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                ignored.add(_HIDDEN, os.path.join(root, entry.name))
            elif _is_folder(entry):
                raise ValueError(
                    f"{root}: expected images, as Kaggle has them, got a folder {got(entry.name, 60)}; class folders: "
                    "tmpack folder TRAIN VAL"
                )
            elif entry.name.lower().endswith(IMAGE_ENDINGS):
                names.append(entry.name)
            else:
                ignored.other(entry.name)
    stems = Counter(Path(name).stem for name in names)
    for odd, what in (
        (sorted(expected - set(stems)), "no"),
        (sorted(set(stems) - expected), "one more,"),
        ([stem for stem, n in stems.items() if n > 1], "two files for"),
    ):
        if odd:
            raise ValueError(
                f"{root}: expected the {len(expected)} images of {table}, got {what} {printable(odd[0])}"
            )
    return sorted(names)


# --- Pixels --------------------------------------------------------------------------------------------------


class _PixelSource(Source):
    """A source whose pixels are all in memory."""

    _pixels: dict[Split, Pixels]

    def _set(
        self, pixels: dict[Split, Pixels], labels: dict[Split, Labels], stamps: list[tuple[Any, ...]]
    ) -> None:
        self._pixels, self.labels = pixels, labels
        self.channels = pixels["train"].shape[3]
        self.image_bytes = max(math.prod(values.shape[1:]) for values in pixels.values())
        self.fingerprint = fingerprint((*stamps, *((split, len(labels[split])) for split in SPLITS)))

    def _name(self, split: Split, i: int) -> str:
        return str(i)

    def items(self, split: Split, start: int, stop: int) -> Items:
        names = [self._name(split, i) for i in range(start, min(stop, len(self.labels[split])))]
        return _InMemory(names, self.labels[split][start:stop], self._pixels[split][start:stop])


def _uint8(*_: object) -> np.dtype[np.uint8]:
    # Whatever an old pickle calls it: the published files have arrays of no other kind, and NumPy warns of how
    # Python 2 spelled the arguments.
    return np.dtype("u1", align=False, copy=True)


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes where the protocol has none."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as text in {encoding}")
    return text.encode("latin1")


def _frombuffer(buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """How protocol 5 has arrays."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _uint8,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = np.empty(0).__reduce__()[0]
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _frombuffer


def _load_bytearray(unpickler: Any) -> None:
    """Read first and see then: Python's own makes room for as many bytes as a file says that it has."""
    length = int.from_bytes(unpickler.read(8), "little")
    data = unpickler.read(length)
    if len(data) != length:
        raise EOFError
    unpickler.append(data)


class _Unpickler(pickle._Unpickler):
    """Loads arrays, containers, numbers and text: a pickle could otherwise run any code.

    The one in Python, whose table of objects is a dictionary: the one in C allocates gigabytes for a damaged number.
    """

    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"{module}.{name}, which is neither an array nor text")


def _text(value: Any) -> Any:
    """Text of Python 2 that Python 3 has read and written again, as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _unpickle(data: bytes, where: str) -> dict[str, Any]:
    try:
        # The files were written by Python 2, whose text is bytes.
        content = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except EOFError:
        raise ValueError(f"{where}: expected a pickle of CIFAR, got one that is cut short") from None
    except Exception as error:  # the unpickler lets through whatever the damage makes happen
        raise ValueError(f"{where}: expected a pickle of CIFAR, got: {_reason(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a dictionary, got {type(content).__name__}")
    return {_text(key): value for key, value in content.items()}


def _read_some(path: Path, names: set[str]) -> tuple[dict[str, bytes], list[tuple[Any, ...]]]:
    """Read those of the named files that a folder or an archive has; and what tells it from another one."""
    files: dict[str, bytes] = {}
    if path.is_dir():
        found = [path / name for name in sorted(names) if (path / name).is_file()]
        return {file.name: file.read_bytes() for file in found}, [_stamp(file) for file in found]
    stamp = _stamp(path)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = os.path.basename(member.name)
                if member.isfile() and name in names and not _is_hidden_member(member.name):
                    files[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except _DAMAGE as error:
        raise ValueError(f"{path}: expected a whole tar archive or a folder, got: {_reason(error)}") from None
    return files, [stamp]


class _Cifar(_PixelSource):
    """CIFAR in the published layouts: an archive or its folder, of pickles ("python") or records ("binary")."""

    augmentation = "crop"
    source = (
        "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009, "
        "https://www.cs.toronto.edu/~kriz/cifar.html"
    )
    _train: tuple[str, ...]
    _val: str
    _n_classes: int
    _python_classes: tuple[str, str]  # file, key
    _python_labels: str
    _binary_classes: str
    _label_bytes: int  # in a record; the last counts

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        batches = (*self._train, self._val)
        python = {*batches, self._python_classes[0]}
        binary = {*(f"{name}.bin" for name in batches), self._binary_classes}
        files, stamps = _read_some(self._path, python | binary)
        is_binary = f"{self._val}.bin" in files
        missing = sorted((binary if is_binary else python) - set(files))
        if missing:
            raise ConfigError(
                f"{path}: expected the files of {self.name}, python or binary version, got no {missing[0]}"
            )
        read = self._records if is_binary else self._pickled
        self.class_names = self._classes(files, is_binary)
        data = {name: read(files.pop(f"{name}.bin" if is_binary else name), name) for name in batches}
        self._batches: dict[Split, list[tuple[str, int]]] = {
            "train": [(name, len(data[name][1])) for name in self._train],
            "val": [(self._val, len(data[self._val][1]))],
        }
        pixels, labels = {}, {}
        for split, parts in self._batches.items():
            pixels[split] = np.concatenate([data[name][0] for name, _ in parts])
            labels[split] = np.concatenate([data[name][1] for name, _ in parts])
        self._set(pixels, labels, stamps)

    def _name(self, split: Split, i: int) -> str:
        for name, length in self._batches[split]:
            if i < length:
                return f"{name}/{i}"
            i -= length
        raise IndexError(i)

    def _classes(self, files: dict[str, bytes], is_binary: bool) -> list[str]:
        if is_binary:
            where = f"{self._path}: {self._binary_classes}"
            names: Any = files[self._binary_classes].decode("ascii", "replace").split()
        else:
            file, key = self._python_classes
            where = f"{self._path}: {file}"
            names = _unpickle(files[file], where).get(key)
            names = [_text(name) for name in names] if isinstance(names, list) else names
        if (
            not isinstance(names, list)
            or len(names) != self._n_classes
            or not all(isinstance(name, str) for name in names)
        ):
            got = f"{len(names)}" if isinstance(names, list) else f"{names!r}"
            raise ValueError(f"{where}: expected the names of {self._n_classes} classes, got {got}")
        return names

    def _pickled(self, data: bytes, name: str) -> tuple[Pixels, Labels]:
        where = f"{self._path}: {name}"
        content = _unpickle(data, where)
        for key in ("data", self._python_labels):
            if key not in content:
                raise ValueError(f"{where}: expected an entry {key!r}, got {', '.join(map(repr, content))}")
        values, numbers = content["data"], content[self._python_labels]
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.shape[1] != 3072:
            raise ValueError(
                f"{where}: data: expected uint8 (n, 3072), got {getattr(values, 'shape', type(values).__name__)}"
            )
        if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
            raise ValueError(
                f"{where}: {self._python_labels}: expected a list of whole numbers, got something else"
            )
        # Before they are int64, which has no room for some.
        _check_labels(np.array(numbers, object), self._n_classes, where)
        return self._checked(values, np.array(numbers, np.int64), where)

    def _records(self, data: bytes, name: str) -> tuple[Pixels, Labels]:
        where, length = f"{self._path}: {name}.bin", self._label_bytes + 3072
        if len(data) % length:
            raise ValueError(f"{where}: expected records of {length} bytes, got {len(data)} bytes")
        records = np.frombuffer(data, np.uint8).reshape(-1, length)
        labels = records[:, self._label_bytes - 1].astype(np.int64)
        return self._checked(records[:, self._label_bytes :], labels, where)

    def _checked(self, values: Pixels, labels: Labels, where: str) -> tuple[Pixels, Labels]:
        if not len(values) or len(values) != len(labels):
            raise ValueError(
                f"{where}: expected a label for each image, got {len(labels)} for {len(values)} images"
            )
        _check_labels(labels, self._n_classes, where)
        return np.ascontiguousarray(values.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _check_labels(labels: NDArray[Any], n_classes: int, where: str) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if wrong.size:
        raise ValueError(
            f"{where}: expected labels from 0 to {n_classes - 1}, got {str(labels[wrong[0]])[:40]} for image {wrong[0]}"
        )


def _numbered(
    labels: Mapping[Split, NDArray[Any]], names: list[str] | None, renumber: bool, where: str
) -> tuple[dict[Split, Labels], list[str], list[str]]:
    """See that labels number the classes from 0 on, or make them do so.

    Parameters
    ----------
    labels : mapping of split to whole numbers (n,)
    names : list of str or None
        Of the classes; None: as many classes as there are labels, named by them.
    renumber : bool
        Number them anew, in their order.
    where : str

    Returns
    -------
    labels, names, notes
    """
    values = {split: np.unique(numbers, return_inverse=True) for split, numbers in labels.items()}
    numbers = sorted({int(number) for found, _ in values.values() for number in found})
    n = len(numbers) if names is None else len(names)
    wrong = next((number for number in numbers if not 0 <= number < n), None)
    if wrong is None:
        made = {split: found.astype(np.int64) for split, found in labels.items()}
        return made, [str(number) for number in numbers] if names is None else names, []
    if len(numbers) != n or n > MOST_CLASSES or not renumber:
        split = next(split for split, (found, _) in values.items() if wrong in found.tolist())
        remedy = "; --renumber numbers them in their order" if len(numbers) == n and n <= MOST_CLASSES else ""
        raise ValueError(
            f"{where}: expected the labels 0 to {n - 1} of {n} classes, got {len(numbers)} different ones, such as "
            f"{wrong} for image {np.flatnonzero(labels[split] == wrong)[0]} of {split}{remedy}"
        )
    row = {number: label for label, number in enumerate(numbers)}
    made = {
        split: np.array([row[int(number)] for number in found], np.int64)[inverse]
        for split, (found, inverse) in values.items()
    }
    notes = [f"the labels {listed(map(str, numbers))} are numbered 0 to {n - 1}"]
    return made, [str(number) for number in numbers] if names is None else names, notes


class Cifar10(_Cifar):
    """CIFAR-10: cifar-10-python.tar.gz, cifar-10-binary.tar.gz, or the folder that is in one of them.

    Parameters
    ----------
    path : path

    Raises
    ------
    ConfigError, ValueError
        If there is no such file or folder; if it is damaged or incomplete.

    Examples
    --------
    >>> Cifar10("cifar-10-python.tar.gz")
    Traceback (most recent call last):
    theanompi.config.ConfigError: cifar-10-python.tar.gz: expected a file, got: No such file or directory
    """

    name = "CIFAR-10"
    description = "CIFAR-10: colour images of 32 × 32 pixels in ten classes."
    _train = tuple(f"data_batch_{i}" for i in range(1, 6))
    _val = "test_batch"
    _n_classes = 10
    _python_classes = ("batches.meta", "label_names")
    _python_labels = "labels"
    _binary_classes = "batches.meta.txt"
    _label_bytes = 1


class Cifar100(_Cifar):
    """CIFAR-100 with its fine labels: cifar-100-python.tar.gz, cifar-100-binary.tar.gz, or its folder.

    Parameters and errors are those of `Cifar10`.

    Examples
    --------
    >>> Cifar100("cifar-100-python.tar.gz")
    Traceback (most recent call last):
    theanompi.config.ConfigError: cifar-100-python.tar.gz: expected a file, got: No such file or directory
    """

    name = "CIFAR-100"
    description = "CIFAR-100: colour images of 32 × 32 pixels in a hundred classes."
    _train = ("train",)
    _val = "test"
    _n_classes = 100
    _python_classes = ("meta", "fine_label_names")
    _python_labels = "fine_labels"
    _binary_classes = "fine_label_names.txt"
    _label_bytes = 2


def _idx_names(stem: str, kind: str) -> list[str]:
    return [f"{stem}{mark}{kind}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]


def _idx(folder: Path, stems: Sequence[str], kind: str, dimensions: int) -> tuple[Pixels, tuple[Any, ...]]:
    """Read an IDX file of bytes, compressed or not: http://yann.lecun.com/exdb/mnist."""
    spellings = [name for stem in stems for name in _idx_names(stem, kind)]
    path = next((folder / name for name in spellings if (folder / name).is_file()), None)
    if path is None:
        raise ConfigError(f"{folder}: expected {' or '.join(spellings[:2])}, got neither")
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except _DAMAGE as error:
        raise ValueError(f"{path}: expected a whole gzip file, got: {_reason(error)}") from None
    magic, start = 0x800 + dimensions, 4 + 4 * dimensions
    if len(data) < start or int.from_bytes(data[:4], "big") != magic:
        raise ValueError(f"{path}: expected the magic number {magic:#010x}, got 0x{data[:4].hex()}")
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], ">u4"))
    if len(data) - start != math.prod(shape) or 0 in shape:
        raise ValueError(
            f"{path}: expected {' × '.join(map(str, shape))} bytes after the header, got {len(data) - start}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape), _stamp(path)


class Mnist(_PixelSource):
    """MNIST, EMNIST, or another set in their format: a folder with the four files, compressed or not.

    EMNIST's pictures, which lie on their side, are turned; its labels get the names and, in their order, the numbers
    from 0 on that its mapping file gives them, if that is there.

    Parameters
    ----------
    path : path
        With train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k; also with a dot before idx
        and with the ending .gz. In EMNIST each has the set before it and test for t10k:
        emnist-letters-test-images-idx3-ubyte; beside them is emnist-letters-mapping.txt.
    subset : str, optional
        Which of several sets in the folder, such as ``"emnist-letters"``.
    renumber : bool
        Number labels that are not 0 … number of classes - 1 in their order.

    Raises
    ------
    ConfigError
        If a file is missing, or several sets are there and `subset` is none of them.
    ValueError
        If one is damaged, the images and labels do not match, or the labels do not number the classes.

    Examples
    --------
    >>> Mnist("nowhere")
    Traceback (most recent call last):
    theanompi.config.ConfigError: nowhere: expected the folder of MNIST's files, got no folder
    """

    name = "MNIST"
    description = "MNIST: grey handwritten digits of 28 × 28 pixels in ten classes."
    source = "Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database, http://yann.lecun.com/exdb/mnist"
    augmentation = "shift"

    def __init__(
        self, path: str | os.PathLike[str], subset: str | None = None, renumber: bool = False
    ) -> None:
        folder = Path(path)
        if not folder.is_dir():
            raise ConfigError(f"{path}: expected the folder of MNIST's files, got no folder")
        prefix = _idx_prefix(folder, subset)
        pixels: dict[Split, Pixels] = {}
        numbers: dict[Split, NDArray[Any]] = {}
        stamps = []
        for split in SPLITS:
            stems = [f"{prefix}{name}" for name in (["train"] if split == "train" else ["t10k", "test"])]
            pixels[split], image_stamp = _idx(folder, [f"{stem}-images" for stem in stems], "idx3", 3)
            numbers[split], label_stamp = _idx(folder, [f"{stem}-labels" for stem in stems], "idx1", 1)
            if len(pixels[split]) != len(numbers[split]):
                raise ValueError(
                    f"{folder}: {label_stamp[0]}: expected a label for each image, got {len(numbers[split])} for "
                    f"{len(pixels[split])} images"
                )
            stamps += [image_stamp, label_stamp]
        if prefix.startswith("emnist-"):
            self.name = f"EMNIST {prefix.removeprefix('emnist-').removesuffix('-')}"
            self.description = f"{self.name}: grey handwritten characters of 28 × 28 pixels."
            self.source = (
                "G. Cohen, S. Afshar, J. Tapson and A. van Schaik, EMNIST: an extension of MNIST to handwritten "
                "letters, 2017, https://www.nist.gov/itl/products-and-services/emnist-dataset"
            )
            pixels = {split: images.transpose(0, 2, 1) for split, images in pixels.items()}
        mapping = folder / f"{prefix}mapping.txt"
        class_names = None
        if mapping.is_file():
            stamps.append(_stamp(mapping))
            numbers, class_names = _mapped(numbers, mapping)
        elif not prefix and not (renumber and max(int(values.max()) for values in numbers.values()) > 9):
            class_names = [str(digit) for digit in range(10)]
        labels, self.class_names, self.notes = _numbered(numbers, class_names, renumber, f"{folder}")
        self._set({split: images[..., None] for split, images in pixels.items()}, labels, stamps)


def _idx_prefix(folder: Path, subset: str | None) -> str:
    """Find which set is in a folder: what is before ``train-images`` in the names of its files."""
    found = set()
    for entry in os.listdir(folder):
        prefix, stem, _ = entry.partition("train-images")
        if stem and not is_hidden(entry) and entry in _idx_names(f"{prefix}{stem}", "idx3"):
            found.add(prefix)
    wanted = None if subset is None else f"{subset}-"
    if (wanted is not None and wanted not in found) or len(found) > 1 and wanted is None:
        sets = listed(sorted(prefix.removesuffix("-") or "MNIST" for prefix in found))
        asked = "one set, or one of them named by --set" if wanted is None else f"the set {got(subset, 60)}"
        raise ConfigError(f"{folder}: expected {asked}, got {sets or 'no train-images-idx3-ubyte'}")
    return wanted or (found.pop() if found else "")


def _mapped(numbers: dict[Split, NDArray[Any]], path: Path) -> tuple[dict[Split, NDArray[Any]], list[str]]:
    """Give labels the numbers from 0 on, and names, by EMNIST's mapping: a label, and its characters' codes."""
    names: dict[int, str] = {}
    for number, line in enumerate(path.read_text("ascii", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if (
            len(words) < 2
            or not all(re.fullmatch("[0-9]{1,3}", word) and int(word) < 256 for word in words)
            or int(words[0]) in names
        ):
            raise ValueError(
                f"{path}, line {number}: expected a label of its own and the codes of its characters, "
                f"got {got(line, 60)}"
            )
        names[int(words[0])] = "".join(chr(int(code)) for code in words[1:])
    order = {number: label for label, number in enumerate(sorted(names))}
    for split, values in numbers.items():
        for value in np.unique(values).tolist():
            if value not in order:
                i = np.flatnonzero(values == value)[0]
                raise ValueError(
                    f"{path}: expected all labels in it, got none for {value}, of image {i} of {split}"
                )
    table = np.zeros(256, np.int64)
    table[list(order)] = list(order.values())
    return {split: table[values] for split, values in numbers.items()}, [
        names[number] for number in sorted(names)
    ]


def _check_size(archive: zipfile.ZipFile, name: str) -> None:
    """See that an array does not say that it is larger than its file: its memory is allocated before it is read."""
    info = archive.getinfo(name)
    with archive.open(info) as file:
        read = np.lib.format
        header = read.read_array_header_1_0 if read.read_magic(file) == (1, 0) else read.read_array_header_2_0
        shape, _, dtype = header(file)
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"{info.filename}: {shape} of {dtype} in {info.file_size} bytes")


class Npz(_PixelSource):
    """Arrays of your own, from ``numpy.savez``.

    Parameters
    ----------
    path : path
        An .npz file with train_images, val_images, uint8 (n, h, w) or (n, h, w, c); train_labels, val_labels,
        whole numbers (n,) or (n, 1); and, if wanted, class_names, texts. Other arrays are not read.
    renumber : bool
        Number labels that are not 0 … number of classes - 1 in their order.

    Raises
    ------
    ConfigError
        If there is no such file.
    ValueError
        If it is damaged, an array is missing or of another kind, or the labels do not number the classes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     images, labels = np.zeros((4, 8, 9), np.uint8), [0, 1, 0, 1]
    ...     np.savez(f"{folder}/a.npz", train_images=images, train_labels=labels, val_images=images,
    ...              val_labels=labels)
    ...     Npz(f"{folder}/a.npz").items("val", 0, 2).pixels().shape
    (2, 8, 9, 1)
    """

    description = "Images from arrays."

    _wanted = (*(f"{split}_{what}" for split in SPLITS for what in ("images", "labels")), "class_names")

    def __init__(self, path: str | os.PathLike[str], renumber: bool = False) -> None:
        self._path = Path(path)
        stamp = _stamp(self._path)
        self.name, self.source = self._path.stem, f"the file {printable(self._path.name)}"
        try:
            if not zipfile.is_zipfile(self._path):  # which NumPy would take for a pickle, and say so
                raise ValueError("no zip archive")
            with np.load(self._path, allow_pickle=False) as file:
                others = [key for key in file.files if key not in self._wanted]
                content = {}
                for key in file.files:
                    if key in self._wanted:
                        # Without the ending, which numpy.savez adds, there is no array in it.
                        _check_size(file.zip, f"{key}.npy")
                        content[key] = file[key]
        except Exception as error:  # zipfile and NumPy let through whatever the damage makes happen
            raise ValueError(f"{path}: expected an .npz file of arrays, got: {_reason(error)}") from None
        pixels: dict[Split, Pixels] = {}
        labels: dict[Split, NDArray[Any]] = {}
        for split in SPLITS:
            pixels[split], labels[split] = self._images(content, split), self._labels(content, split)
            if len(pixels[split]) != len(labels[split]):
                raise ValueError(
                    f"{path}: {split}_labels: expected {len(pixels[split])}, one for each of {split}_images, "
                    f"got {len(labels[split])}"
                )
        if pixels["val"].shape[3] != pixels["train"].shape[3]:
            raise ValueError(
                f"{path}: val_images: expected {pixels['train'].shape[3]} channels as in train_images, "
                f"got {pixels['val'].shape[3]}"
            )
        names = content.get("class_names")
        if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
            raise ValueError(f"{path}: class_names: expected texts (n,), got {names.dtype} {names.shape}")
        made, self.class_names, notes = _numbered(
            labels, None if names is None else names.tolist(), renumber, f"{path}"
        )
        self.notes = notes + ([f"arrays that are not used: {printable(listed(others))}"] if others else [])
        self._set(pixels, made, [stamp])

    def _array(self, content: dict[str, NDArray[Any]], key: str) -> NDArray[Any]:
        if key not in content:
            raise ValueError(f"{self._path}: expected an array {key}, got {', '.join(content) or 'none'}")
        return content[key]

    def _images(self, content: dict[str, NDArray[Any]], split: Split) -> Pixels:
        images = self._array(content, f"{split}_images")
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
            raise ValueError(
                f"{self._path}: {split}_images: expected uint8 (n, h, w) or (n, h, w, c), "
                f"got {images.dtype} {images.shape}"
            )
        return images if images.ndim == 4 else images[..., None]

    def _labels(self, content: dict[str, NDArray[Any]], split: Split) -> NDArray[Any]:
        labels = self._array(content, f"{split}_labels")
        if labels.ndim == 2 and labels.shape[1] == 1:  # as MedMNIST has them
            labels = labels[:, 0]
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise ValueError(
                f"{self._path}: {split}_labels: expected whole numbers (n,) or (n, 1), "
                f"got {labels.dtype} {labels.shape}"
            )
        return labels


# --- Generated images ----------------------------------------------------------------------------------------

# Waves across the image and down, of which each class has its own mixture in each channel.
_WAVES = np.array([(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)])


def _patterns(seed: int, split: int, ids: Labels, labels: Labels, size: int, channels: int) -> Pixels:
    """Each image's class pattern, shifted, with noise; a function of (seed, split, id) alone."""
    n_waves = len(_WAVES)
    classes, rows = np.unique(labels, return_inverse=True)
    # 0 and 1 are the splits.
    draws = uniforms(seed, 2, classes, Purpose.SPLIT, channels * (2 * n_waves + 1))[rows]
    draws = draws.reshape(len(ids), channels, 2 * n_waves + 1)
    shift = (uniforms(seed, split, ids, Purpose.SPLIT, 2) - 0.5) / 4  # of the image's size
    phase = 2 * np.pi * (draws[..., :n_waves] + (shift @ _WAVES.T)[:, None])
    height = 36 * draws[..., n_waves : 2 * n_waves]
    grid = np.stack(np.meshgrid(*2 * [np.arange(size) / size], indexing="ij"), axis=-1).reshape(-1, 2)
    angle = 2 * np.pi * (_WAVES @ grid.T)
    # cos(a + b) = cos a cos b - sin a sin b: the shifts then need no grid of their own.
    mixture = np.concatenate([height * np.cos(phase), -height * np.sin(phase)], axis=-1)
    waves = np.concatenate([np.cos(angle), np.sin(angle)])
    # In whole numbers, whose products and sums are exact: BLAS rounds others in a way that hangs on how many
    # images are made at once.
    values = np.rint(64 * mixture).reshape(-1, 2 * n_waves) @ np.rint(256 * waves)
    values = values / (64 * 256) + np.rint(78 + 100 * draws[..., -1]).reshape(-1, 1)
    values = values.reshape(len(ids), channels, size, size).transpose(0, 2, 3, 1)
    states = splitmix64(np.array([seed & (2**64 - 1)], np.uint64), 1)[0] ^ (ids * 2 + split).astype(np.uint64)
    words = -(-size * size * channels // 8)
    # One more round, so that neighbouring states have nothing in common.
    noise = splitmix64(splitmix64(states, 1)[:, 0], words).astype("<u8").view(np.uint8)
    values += noise[:, : size * size * channels].reshape(values.shape) / 8.0 - 16
    return values.clip(0, 255).astype(np.uint8)


class Synthetic(Source):
    """Generated images that can be learnt: a smooth pattern for each class, shifted, with noise.

    Parameters
    ----------
    classes, train, val : int
        Number of classes, and of images in each split.
    size : int
        Height and width in pixels.
    channels : int
    seed : int

    Raises
    ------
    ConfigError
        If a number is below 1 or too large, or `seed` below 0.

    Examples
    --------
    >>> source = Synthetic(classes=10, train=20, val=10, size=4, channels=3, seed=0)
    >>> source.items("train", 5, 8).pixels().shape, source.labels["val"].tolist()
    ((3, 4, 4, 3), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    name = "synthetic"
    source = "generated by tmpack"
    licence = "CC0"

    def __init__(
        self, classes: int, train: int, val: int, size: int, channels: int = 3, seed: int = 0
    ) -> None:
        numbers = {"classes": classes, "train": train, "val": val, "size": size, "channels": channels}
        most = {
            "classes": MOST_CLASSES,
            "train": MOST_IMAGES,
            "val": MOST_IMAGES,
            "size": 1 << 14,
            "channels": 16,
        }
        for option, number in numbers.items():
            if number < 1:
                raise ConfigError(f"--{option}: expected at least 1, got {number}")
            if number > most[option]:
                raise ConfigError(f"--{option}: expected at most {most[option]}, got {number}")
        if seed < 0:
            raise ConfigError(f"--seed: expected at least 0, got {seed}")
        self._seed, self._size, self.channels = seed, size, channels
        self.description = f"Generated patterns of {size} × {size} pixels in {classes} classes, seed {seed}."
        self.class_names = [str(i) for i in range(classes)]
        self.labels = {"train": np.arange(train) % classes, "val": np.arange(val) % classes}
        self.image_bytes = size * size * channels
        self.fingerprint = fingerprint([(*numbers.values(), seed)])

    def items(self, split: Split, start: int, stop: int) -> Items:
        labels = self.labels[split][start:stop]
        names = [str(i) for i in range(start, start + len(labels))]
        return _Patterns(names, labels, self._seed, SPLITS.index(split), start, self._size, self.channels)
