"""What all data files have in common: opening without trust, attributes, and the digest of the index."""

import hashlib
import json
import os
import re
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, ClassVar, Literal, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, got, shortened
from theanompi.config.files import packed_by, reason, trouble

FORMAT = "theanompi-dataset"
# What is stored in a data set of at most so many bytes is checked when it is opened; of larger ones on demand.
CHECKED_BYTES = 64 * 2**20
READ_BYTES = 4 * 2**20
# HDF5 aligns what is at least this large to multiples of it; its own first blocks are smaller.
ALIGNMENT = 4096
# What h5py raises, besides OSError, for a damaged structure, according to where in it the damage is.
DAMAGE = (RuntimeError, KeyError, AttributeError, TypeError, IndexError, NotImplementedError)

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

# Signature, version and reserved bytes of a global heap collection of HDF5.
_HEAP = b"GCOL\x01\0\0\0"
_HEAPS_WITHIN = 4 * 2**20
_MOST_HEAP = 64 * 2**20


def plain(value: Any) -> Any:
    """Give one spelling for what HDF5 may give back as bytes, text, NumPy scalars or arrays.

    Examples
    --------
    >>> plain(np.int64(3)), plain(h5py.Empty("S1"))
    (3, [])
    """
    if isinstance(value, h5py.Empty):
        return []
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value


def digest(file: h5py.File, columns: Iterable[str]) -> str:
    """SHA-256 of the attributes (but ``sha256``) as sorted JSON, then of the arrays, little-endian, in this order."""
    attributes = {name: plain(value) for name, value in file.attrs.items() if name != "sha256"}
    found = hashlib.sha256(json.dumps(attributes, sort_keys=True).encode())
    for name in columns:
        values = file[name][:]
        found.update(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).data)
    return found.hexdigest()


def check_version(file: h5py.File, version: int) -> None:
    """See that a file is a data set of this version of the format; ValueError says what it is instead."""
    for name, expected in (("format", FORMAT), ("version", version)):
        found = file.attrs.get(name)
        if not isinstance(found, str | np.integer) or found != expected:
            hint = "; tmpack arrays makes one of arrays" if name == "format" else ""
            raise ValueError(f"expected {name} {expected!r}, got {got(plain(found))}{hint}")


def check_attributes(
    file: h5py.File,
    *,
    texts: Sequence[str] = (),
    lists: Sequence[str] = (),
    whole: Sequence[str] = (),
    others: Sequence[str] = (),
    known: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """See that texts, lists of texts and whole numbers are there, `others` too, and texts one of those that are known.

    ValueError is one line about the first that is not.
    """
    attributes = file.attrs
    for name in (*texts, *lists, *whole, *others):
        if name not in attributes:
            raise ValueError(f"expected an attribute {name!r}, found none")
    for name in texts:
        if not isinstance(attributes[name], str):
            raise ValueError(f"attribute {name!r}: expected text, got {got(attributes[name])}")
    for name in lists:
        found = plain(attributes[name])
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise ValueError(f"attribute {name!r}: expected a list of texts, got {got(found)}")
    for name in whole:
        if not isinstance(attributes[name], np.integer):
            raise ValueError(
                f"attribute {name!r}: expected a whole number, got {got(plain(attributes[name]))}"
            )
    for name, values in known.items():
        if attributes[name] not in values:
            raise ValueError(
                f"attribute {name!r}: expected one of {', '.join(values)}; got {got(attributes[name])}"
            )


def check_digest(file: h5py.File, found: str) -> None:
    """See that the attribute ``sha256`` is the digest that was found."""
    expected = file.attrs["sha256"]
    if found != expected:
        raise ValueError(f"index: expected contents with SHA-256 {expected[:12]}…, got {found[:12]}…")


def check_labels(labels: Any, n_classes: int, where: str) -> None:
    """See that labels are of the classes 0 … `n_classes` - 1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if wrong.size:
        raise ValueError(
            f"{where}[{wrong[0]}]: expected a label from 0 to {n_classes - 1}, got {labels[wrong[0]]}"
        )


def open_hdf5(path: Path) -> h5py.File:
    """Open a data file for reading.

    Raises
    ------
    ConfigError
        If there is no readable file.
    ValueError
        If it is not HDF5, truncated or damaged: one line.
    """
    try:
        wrong = trouble(path)
        if not wrong:
            with path.open("rb"):
                pass
    except OSError as error:
        wrong = reason(error)
    if wrong:
        raise ConfigError(f"data file {path}: expected an HDF5 file, got: {wrong}")
    try:
        if not h5py.is_hdf5(path):
            raise ValueError(f"data file {path}: expected an HDF5 file, got something else{packed_by(path)}")
        about = os.stat(path)
        if not _heaps_are_whole(path, (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)):
            raise ValueError(
                f"data file {path}: expected a whole HDF5 file, got one with a damaged global heap"
            )
        return h5py.File(path, "r")
    except (OSError, *DAMAGE) as error:
        raise ValueError(
            f"data file {path}: expected a whole HDF5 file, got a damaged one: {shortened(str(error), 120)}"
        ) from None


@contextmanager
def open_again(descriptor: int) -> Iterator[h5py.File]:
    """Open a data file that is open already, whatever has its name by now."""
    with open(f"/proc/self/fd/{descriptor}", "rb") as bytes_of, h5py.File(bytes_of, "r") as file:
        yield file


class OpenFile(ABC):
    """What has been opened of a data file: its index is in memory, its items stay in the file.

    Parameters
    ----------
    path : path
    check : callable
        Sees that the file satisfies its schema.
    check_items : bool
        Compare the items with their checksums if they take at most 64 MiB. Those of larger files, and what is wrong
        with more than one, `verify` tells.
    """

    modality: ClassVar[str]
    noun: str = "items"

    _descriptor = -1

    def __init__(
        self, path: str | os.PathLike[str], check: Callable[[h5py.File], None], check_items: bool
    ) -> None:
        self.path = Path(path)
        with open_hdf5(self.path) as file:
            try:
                check(file)
                attributes = {name: plain(value) for name, value in file.attrs.items()}
                self._checksums = {split: file[f"{split}/crc32"][:] for split in SPLITS}
                self._counts = {split: int(attributes[f"{split}_count"]) for split in SPLITS}
                self._index(file, attributes)
                self._keep(file)
            except (OSError, *DAMAGE) as error:
                raise ValueError(f"data file {self.path}: damaged ({shortened(str(error), 120)})") from None
            except ValueError as error:
                raise ValueError(f"data file {self.path}: {error}") from None
        self.name: str = attributes["name"]
        self.description: str = attributes["description"]
        self.source: str = attributes["source"]
        self.licence: str = attributes["licence"]
        self.sha256: str = attributes["sha256"]
        self.left_out: list[str] = attributes["left_out"]
        self.class_names: list[str] = attributes.get("class_names", [])
        self.n_classes = len(self.class_names)
        self.n_train, self.n_val = self.count("train"), self.count("val")
        with ExitStack() as stack:
            stack.callback(self.close)
            if check_items and sum(self.nbytes(split) for split in SPLITS) <= CHECKED_BYTES:
                for split, i, wrong in self.verify():
                    if wrong:
                        raise ValueError(
                            f"data file {self.path}: {split} {self.item_name(split, i)}: {wrong}"
                        )
            stack.pop_all()

    @abstractmethod
    def _index(self, file: h5py.File, attributes: Mapping[str, Any]) -> None:
        """Take what is kept in memory from the open, checked file."""

    @abstractmethod
    def nbytes(self, split: Split) -> int:
        """Count the bytes of all items of a split."""

    @abstractmethod
    def item_name(self, split: Split, i: int) -> str:
        """Say what the part of a split is called that `verify` gives as `i`."""

    @abstractmethod
    def verify(self) -> Iterator[tuple[Split, int, str | None]]:
        """Read everything and compare it with its checksums.

        Yields
        ------
        split, i, wrong
            One for each image, item, text or 65,536 tokens of a stream; what is wrong with it, or None.
        """

    def count(self, split: Split) -> int:
        """Count the images, items or texts of a split, or the tokens of a stream."""
        return self._counts[split]

    def checksums(self, split: Split) -> NDArray[np.uint32]:
        """Give the CRC-32 of each image, item or text, or of each 65,536 tokens of a stream."""
        return self._checksums[split]

    def _bytes(self, position: int, length: int) -> tuple[memoryview, str]:
        """Read some bytes; fewer, and why, if the file does not have them."""
        data, done, trouble = memoryview(bytearray(length)), 0, ""
        try:
            # The system gives at most 2 GiB at a time.
            while done < length and (n := os.preadv(self._descriptor, [data[done:]], position + done)):
                done += n
        except OSError as error:
            trouble = f" ({error.strerror})"
        return data[:done], trouble

    def _read(self, position: int, length: int, where: str) -> memoryview:
        """Read some bytes; `where` says in a message whose they are."""
        data, trouble = self._bytes(position, length)
        if len(data) != length:
            raise ValueError(
                f"data file {self.path}: {where}: expected {length} bytes, got {len(data)}{trouble}"
            )
        return data

    def _verified(
        self, split: Split, start: int, offsets: NDArray[np.int64]
    ) -> Iterator[tuple[int, memoryview, str | None]]:
        """Each item of a split, whose bytes lie at `offsets` from `start` on: its number, they, and what is wrong."""
        first, n = 0, len(offsets) - 1
        while first < n:
            # Small items are read many at a time.
            last = int(np.searchsorted(offsets, offsets[first] + READ_BYTES, side="right")) - 1
            last = min(max(last, first + 1), n)
            ends = (offsets[first : last + 1] - offsets[first]).tolist()
            data, trouble = self._bytes(start + int(offsets[first]), ends[-1])
            checksums = self._checksums[split][first:last].tolist()
            for i, ((begin, end), expected) in enumerate(zip(pairwise(ends), checksums, strict=True), first):
                part = data[begin:end]
                if len(part) == end - begin:
                    wrong = difference(zlib.crc32(part), expected)
                else:
                    wrong = f"expected {end - begin} bytes, got {len(part)}{trouble}"
                yield i, part, wrong
            first = last

    def _keep(self, file: h5py.File) -> None:
        """Keep a file open that HDF5 has open, without its lock, which a copy of its descriptor would keep too."""
        self._descriptor = os.open(f"/proc/self/fd/{file.id.get_vfd_handle()}", os.O_RDONLY)

    def fileno(self) -> int:
        """Give the descriptor of the file, open for reading, whatever has its name by now."""
        return self._descriptor

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def difference(found: int, expected: int) -> str | None:
    """Say that a checksum is another one than expected; None if it is not."""
    return None if found == expected else f"expected CRC-32 {expected:08x}, got {found:08x}"


@lru_cache(maxsize=16)
def _heaps_are_whole(path: Path, content: tuple[int, ...]) -> bool:
    """Whether the texts of a file's attributes lie in heaps that can be walked through.

    HDF5 itself does not come to the end of a heap in which the size of a text is damaged, and cannot be interrupted.
    Heaps are at the beginning or the end of a file, as what is large is written before them. A file is looked at once,
    as long as what says that it is the same, its `content`, has not changed.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        for begin in {0, max(0, size - _HEAPS_WITHIN)}:
            file.seek(begin)
            piece = file.read(_HEAPS_WITHIN)
            start = piece.find(_HEAP)
            while start >= 0:
                if not _heap_is_whole(file, begin + start):
                    return False
                start = piece.find(_HEAP, start + 1)
    return True


def _heap_is_whole(file: BinaryIO, start: int) -> bool:
    """Walk through a global heap collection (HDF5 file format, III.E): its objects, then what is free."""
    file.seek(start)
    heap = file.read(16)
    if len(heap) < 16:
        return False
    end, position = int.from_bytes(heap[8:16], "little"), 16
    heap += file.read(max(0, min(end, _MOST_HEAP) - 16))
    while position + 16 <= min(end, len(heap)):
        index, _, _, size = struct.unpack_from("<HHIQ", heap, position)
        if index == 0:
            return bool(position + size == end)
        position += 16 + -(-size // 8) * 8
    return position == end <= len(heap)


@contextmanager
def hdf5_writes(path: Path) -> Iterator[None]:
    """Say of a write that failed what the operating system says, instead of all that HDF5 says; it is of `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # Of some failures the number is in the text alone.
        named = re.search(r"errno = (\d+)", str(error))
        number = getattr(error, "errno", None) or int(named[1] if named else 0)
        text = os.strerror(number) if number else shortened(str(error), 120)
        raise OSError(number, text, os.fspath(path)) from None


def reserve(file: h5py.File, name: str, dtype: Any, shape: tuple[int, ...]) -> h5py.Dataset:
    """Make a contiguous array and its folders, with room in the file but nothing written to it."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.CONTIGUOUS)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    # Without the time of its making in it, the file is the same whenever it is made.
    creation.set_obj_track_times(False)
    folder = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    folder.set_obj_track_times(False)
    group, parts = file.id, name.encode().split(b"/")
    for part in parts[:-1]:
        found = group.links.exists(part)
        group = h5py.h5g.open(group, part) if found else h5py.h5g.create(group, part, gcpl=folder)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(group, parts[-1], kind, space, creation))


def put_attributes(file: h5py.File, attributes: Mapping[str, Any]) -> None:
    """Write attributes of the root group; an empty list is one of texts."""
    for name, value in attributes.items():
        empty = isinstance(value, list) and not value
        file.attrs[name] = h5py.Empty(h5py.string_dtype()) if empty else value
