"""Where the images of a data set come from: folders, archives and arrays, as `tmpack` reads them.

A `Source` knows, from the beginning, the label of every image, and hands out runs of images as `Items`: small
objects that are sent to a worker process, which then reads the files or makes the pixels. So a new source is one
class that lists its images in `__init__` and says in `items` how to read some of them.

Nothing is unpacked on the disk: an archive is listed once, and its files are then read at their positions.
"""

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
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError
from theanompi.data.decode import BadImage
from theanompi.data.random import Purpose, splitmix64, uniforms
from theanompi.data.schema import SPLITS, Split

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]

IMAGE_ENDINGS = (".jpeg", ".jpg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
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


class Folder(Source):
    """Class folders, one for training and one for validation: the layout that every ImageNet user has.

    The sorted names of the class folders in `train` are the classes. Folders within them are searched too, links to
    folders included, but each folder once: a link to one above it or to another class has nothing new. Files that do
    not end like an image, and hidden ones, are not looked at.

    Parameters
    ----------
    train, val : path

    Raises
    ------
    ConfigError
        If a folder is missing, has no class folders, one of them has no images or is a link to another one, or
        `val` has a class that `train` lacks.

    Examples
    --------
    >>> Folder("nowhere", "nowhere")
    Traceback (most recent call last):
    theanompi.config.ConfigError: nowhere: expected a folder of class folders, got: No such file or directory
    """

    augmentation = "imagenet"
    description = "Images from class folders."

    def __init__(self, train: str | os.PathLike[str], val: str | os.PathLike[str]) -> None:
        self._roots: dict[Split, Path] = {"train": Path(train), "val": Path(val)}
        self.name = Path(train).resolve().parent.name or "folder"
        self.source = f"the folders {printable(Path(train).name)} and {printable(Path(val).name)}"
        classes = {split: _class_folders(root) for split, root in self._roots.items()}
        unknown = sorted(set(classes["val"]) - set(classes["train"]))
        if unknown:
            raise ConfigError(
                f"{val}: expected only classes of {train}, got {printable(unknown[0])!r}"
                + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            )
        self.class_names = [printable(name) for name in classes["train"]]
        self._names: dict[Split, list[str]] = {}
        self.labels = {}
        self._ignored = 0
        self._again: list[str] = []
        self.fingerprint = fingerprint(self._list(classes))
        self.notes = []
        if self._ignored:
            self.notes.append(f"{self._ignored} files that are not named like images are ignored")
        if self._again:
            self.notes.append(
                f"{len(self._again)} links to folders that are listed already are ignored, such as {self._again[0]}"
            )

    def _list(self, classes: dict[Split, list[str]]) -> Iterator[tuple[object, ...]]:
        numbers = {name: label for label, name in enumerate(classes["train"])}
        starts = [
            folder for root in self._roots.values() for folder in (root.resolve(), *root.resolve().parents)
        ]
        for split, root in self._roots.items():
            owners: dict[tuple[int, int], str] = {}
            for class_name in classes[split]:
                owner = owners.setdefault(_identity(root / class_name), class_name)
                if owner != class_name:
                    raise ConfigError(
                        f"{root / class_name}: expected a folder of its own, got that of class {printable(owner)!r}"
                    )
            starts += [root / class_name for class_name in classes[split]]
        self._starts = {_identity(folder) for folder in starts}
        for split, root in self._roots.items():
            self._names[split] = []
            counts = np.zeros(len(numbers), np.int64)
            for class_name in classes[split]:
                names = self._class_files(root, class_name)
                if not names:
                    raise ConfigError(f"{root / class_name}: expected images of its class, got none")
                for name in names:
                    yield split, name, numbers[class_name], *_size_and_time(root / name)
                self._names[split] += names
                counts[numbers[class_name]] = len(names)
            self.labels[split] = np.repeat(np.arange(len(numbers)), counts)

    def _class_files(self, root: Path, class_name: str) -> list[str]:
        def stop(error: OSError) -> None:
            raise error

        names = []
        top = os.path.join(root, "")
        seen = set(self._starts)
        for folder, folders, files in os.walk(root / class_name, onerror=stop, followlinks=True):
            for name in sorted(folders):
                identity = _identity(Path(folder, name))
                if identity in seen:
                    folders.remove(name)
                    self._again.append(printable(os.path.join(folder, name)))
                seen.add(identity)
            for name in files:
                if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                    names.append(os.path.join(folder.removeprefix(top), name))
                else:
                    self._ignored += 1
        return sorted(names)

    def items(self, split: Split, start: int, stop: int) -> Items:
        return _FolderFiles(
            self._names[split][start:stop], self.labels[split][start:stop], str(self._roots[split])
        )


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


def _class_folders(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            found = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError as error:
        raise ConfigError(f"{root}: expected a folder of class folders, got: {_reason(error)}") from None
    if not found:
        raise ConfigError(f"{root}: expected a folder of class folders, got no folder in it")
    return sorted(found)


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


def _members(path: Path, start: int, length: int, name: str = "") -> Iterator[_Member]:
    """List the files in the tar archive at a position of a file; their offsets count from the file's beginning."""
    where = f"{path}: {name}" if name else f"{path}"
    window = _Window(_descriptor(str(path)), start, length)
    try:
        with tarfile.open(fileobj=window, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else a million would stay in memory
                if member.isfile():
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


class Ilsvrc(Source):
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

    name = "ILSVRC 2012"
    description = "ImageNet Large Scale Visual Recognition Challenge 2012, classification."
    source = "O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015, https://image-net.org"
    licence = "For non-commercial research and education only: https://image-net.org/download"
    augmentation = "imagenet"

    def __init__(
        self,
        train: str | os.PathLike[str],
        val: str | os.PathLike[str],
        devkit: str | os.PathLike[str],
    ) -> None:
        self._paths: dict[Split, Path] = {"train": Path(train), "val": Path(val)}
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
        for member in _members(path, 0, size):
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
                for file in _members(path, offset, length, f"{wnid}.tar")
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
        for member in _members(path, 0, size):
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


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _uint8,
}


def _refuse_bytearray(unpickler: Any) -> None:
    """No file of CIFAR has one; room for as many bytes as it says that it has would be made before any is read."""
    raise pickle.UnpicklingError("a bytearray, which is neither an array nor text")


class _Unpickler(pickle._Unpickler):
    """Loads arrays, containers, numbers and text: a pickle could otherwise run any code.

    The one in Python, whose table of objects is a dictionary: the one in C allocates gigabytes for a damaged number.
    """

    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _refuse_bytearray}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"{module}.{name}, which is neither an array nor text")


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
    return content


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
                if member.isfile() and name in names:
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


def _idx(folder: Path, stem: str, kind: str, dimensions: int) -> tuple[Pixels, tuple[Any, ...]]:
    """Read an IDX file of bytes, compressed or not: http://yann.lecun.com/exdb/mnist."""
    spellings = [f"{stem}{mark}{kind}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
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
    """MNIST, or another set in its format: a folder with the four files, compressed or not.

    Parameters
    ----------
    path : path
        With train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k; also with a dot before idx
        and with the ending .gz.

    Raises
    ------
    ConfigError
        If a file is missing.
    ValueError
        If one is damaged, or the images and labels do not match.

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

    def __init__(self, path: str | os.PathLike[str]) -> None:
        folder = Path(path)
        if not folder.is_dir():
            raise ConfigError(f"{path}: expected the folder of MNIST's files, got no folder")
        self.class_names = [str(digit) for digit in range(10)]
        pixels: dict[Split, Pixels] = {}
        labels: dict[Split, Labels] = {}
        stamps = []
        for split, stem in zip(SPLITS, ("train", "t10k"), strict=True):
            images, image_stamp = _idx(folder, f"{stem}-images", "idx3", 3)
            numbers, label_stamp = _idx(folder, f"{stem}-labels", "idx1", 1)
            if len(images) != len(numbers):
                raise ValueError(
                    f"{folder}: {stem}: expected a label for each image, got {len(numbers)} for {len(images)} images"
                )
            _check_labels(numbers.astype(np.int64), 10, f"{folder}: {label_stamp[0]}")
            pixels[split], labels[split] = images[..., None], numbers.astype(np.int64)
            stamps += [image_stamp, label_stamp]
        self._set(pixels, labels, stamps)


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """See that no array says that it is larger than its file: its memory is allocated before it is read."""
    for info in archive.infolist():
        with archive.open(info) as file:
            read = np.lib.format
            header = (
                read.read_array_header_1_0 if read.read_magic(file) == (1, 0) else read.read_array_header_2_0
            )
            shape, _, dtype = header(file)
            if math.prod(shape) * dtype.itemsize > info.file_size:
                raise ValueError(f"{info.filename}: {shape} of {dtype} in {info.file_size} bytes")


class Npz(_PixelSource):
    """Arrays of your own, from ``numpy.savez``.

    Parameters
    ----------
    path : path
        An .npz file with train_images, val_images, uint8 (n, h, w) or (n, h, w, c); train_labels, val_labels,
        whole numbers (n,) from 0; and, if wanted, class_names, texts.

    Raises
    ------
    ConfigError
        If there is no such file.
    ValueError
        If it is damaged, or an array is missing or of another kind.

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

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        stamp = _stamp(self._path)
        self.name, self.source = self._path.stem, f"the file {printable(self._path.name)}"
        try:
            if not zipfile.is_zipfile(self._path):  # which NumPy would take for a pickle, and say so
                raise ValueError("no zip archive")
            with np.load(self._path, allow_pickle=False) as file:
                _check_sizes(file.zip)
                content = {key: file[key] for key in file.files}
        except Exception as error:  # zipfile and NumPy let through whatever the damage makes happen
            raise ValueError(f"{path}: expected an .npz file of arrays, got: {_reason(error)}") from None
        pixels: dict[Split, Pixels] = {}
        labels: dict[Split, Labels] = {}
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
        most = max(int(numbers.max()) for numbers in labels.values())
        n_classes = min(1 + most, MOST_CLASSES) if names is None else len(names)
        for split in SPLITS:
            _check_labels(labels[split], n_classes, f"{path}: {split}_labels")
            labels[split] = labels[split].astype(np.int64)
        self.class_names = [str(i) for i in range(n_classes)] if names is None else names.tolist()
        self._set(pixels, labels, [stamp])

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
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise ValueError(
                f"{self._path}: {split}_labels: expected whole numbers (n,), got {labels.dtype} {labels.shape}"
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
