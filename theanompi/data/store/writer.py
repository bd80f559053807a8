"""Writes a data set image by image, so that a kill at any moment loses at most the block in work.

Beside ``OUT`` stand two work files. ``OUT.part`` holds the bytes of the images where they will stay, with room
for HDF5's metadata in front of them; ``OUT.journal`` has one JSON object a line: first what is being packed,
then each block, written when its bytes are on the disk. Where files have changed since, the blocks without such a
file stay, and their bytes are moved to where they then belong. At the end an empty HDF5 file of the same layout gives
the metadata, which is copied around the bytes; then the file is renamed. So the images are written once, in one
piece that `os.pread` can read, and HDF5 never has a file open that a kill could damage.
"""

import fcntl
import json
import os
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError
from theanompi.config.files import check_new, destination, sync_folder
from theanompi.data.store.hdf5 import ALIGNMENT, FORMAT, SPLITS, Split, hdf5_writes, put_attributes, reserve
from theanompi.data.store.schema import VERSION, check, index_sha256

# Images that are packed anew in front of kept blocks; as many as that are held in memory while those are moved.
MOST_NEW = 4096


class Image(NamedTuple):
    """One image as it is stored: a JPEG file, or pixels (height, width, channels)."""

    name: str
    label: int
    height: int
    width: int
    data: bytes


class ChannelSums(NamedTuple):
    """Number of pixels, and for each channel the sums of their values and of the squares: exact."""

    pixels: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]


class Block(NamedTuple):
    """Some images that follow each other, others among them that are left out, and their sums.

    What is left out has its position among all of them, and ``"name: reason"``.
    """

    images: list[Image]
    left_out: list[tuple[int, str]]
    sums: ChannelSums


def channel_sums(pixels: NDArray[np.uint8]) -> ChannelSums:
    """Sum the values and their squares.

    Parameters
    ----------
    pixels : uint8 (..., c)

    Examples
    --------
    >>> channel_sums(np.array([[[1, 2], [3, 4]]], np.uint8))
    ChannelSums(pixels=2, sums=(4, 6), squares=(10, 20))
    """
    values = np.arange(256)
    rows = pixels.reshape(-1, pixels.shape[-1])
    counts = [np.bincount(rows[:, channel], minlength=256) for channel in range(rows.shape[1])]
    sums = tuple(int(count @ values) for count in counts)
    return ChannelSums(len(rows), sums, tuple(int(count @ values**2) for count in counts))


def merge(a: ChannelSums, b: ChannelSums) -> ChannelSums:
    """Add two sums; one without pixels may lack channels."""
    if not (a.pixels and b.pixels):
        return a if a.pixels else b
    sums = tuple(x + y for x, y in zip(a.sums, b.sums, strict=True))
    squares = tuple(x + y for x, y in zip(a.squares, b.squares, strict=True))
    return ChannelSums(a.pixels + b.pixels, sums, squares)


def no_folder(path: str | os.PathLike[str], error: OSError) -> ConfigError:
    """What is said when a work file cannot be opened."""
    return ConfigError(f"data file {path}: expected a folder to write in, got: {error.strerror}")


def lock(descriptor: int, work_file: Path, path: Path) -> None:
    """See that no other process is writing `path`: whoever is has locked its work file, if the file system has locks.

    Raises
    ------
    ConfigError
        If one is, or was until just now and has put away the work file that is open here.
    """
    alone = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = os.path.samestat(os.fstat(descriptor), work_file.stat())
    except (BlockingIOError, FileNotFoundError):
        alone = False
    except OSError:  # a file system without locks
        pass
    if not alone:
        raise ConfigError(f"data file {path}: expected no other process writing it, got one")


def _images(record: Mapping[str, Any]) -> int:
    """Count the images of a block, left-out ones included."""
    return len(record["labels"]) + len(record["left_out"])


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _lines(journal: Any) -> Iterator[tuple[int, Any]]:
    """Position after each whole line of a journal, and what the line says; ends at the first that is not whole."""
    journal.seek(0)
    end = 0
    for line in journal:
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            record = None
        if not isinstance(record, dict):
            return
        end += len(line)
        yield end, record


@dataclass
class Kept:
    """A block of earlier work that is still right, but comes after images that have changed, or has other neighbours.

    Attributes
    ----------
    start, stop : int
        Its images in the split as it is now, left-out ones included.
    record : dict
        Its line of the journal.
    data : bytes or None
        What is to be written in its old place, or just has been, is read before.
    """

    start: int
    stop: int
    record: dict[str, Any]
    data: bytes | None = None


class Writer:
    """Writes a data set block by block: all of train, then all of val.

    Leaving it without `finish` keeps the work files; the next writer of the same identity goes on from there.

    Parameters
    ----------
    path : path
        The file, which appears when all is done.
    identity : mapping of str to JSON values
        Whatever determines the contents.
    overwrite : bool
        Replace a file of that name, and forget work files of another identity.
    stamps : mapping of str to list of int
        Of each image of a split a number that changes with it, where images may change one by one. All that were
        written before have to be as they were, in their order; what was left out may have changed, others may be new.
    retry : bool
        Expect blocks of which something was left out anew.

    Attributes
    ----------
    done : dict of str to int
        Images of each split that are written or left out.
    kept : deque of Kept
        Blocks that come after those, which `keep` takes, one after another, where they belong.
    changed : bool
        Whether some of the earlier work is not where it was any more.
    left_out : list of str
        What was left out of what is done.

    Raises
    ------
    ConfigError
        If the folder does not exist, the file does and must not be replaced, the work files belong to something
        else, or another process is writing them.

    Examples
    --------
    >>> import tempfile
    >>> from theanompi.data import open_dataset
    >>> image = Image("a.png", 0, 2, 2, bytes(12))
    >>> with tempfile.TemporaryDirectory() as folder, Writer(f"{folder}/dark.h5", {}) as writer:
    ...     for split in ("train", "val"):
    ...         writer.append(split, Block([image], [], ChannelSums(4, (0, 0, 0), (0, 0, 0))))
    ...     writer.finish(name="dark", description="Black.", source="here", licence="CC0", class_names=["a"],
    ...                   store="raw", channels=3, augmentation="none")
    ...     with open_dataset(f"{folder}/dark.h5") as data:
    ...         data.n_train, data.pixels("val", 0).shape
    (1, (2, 2, 3))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: Mapping[str, Any],
        overwrite: bool = False,
        stamps: Mapping[Split, list[int]] = MappingProxyType({}),
        retry: bool = False,
    ) -> None:
        self.path = Path(path)
        check_new(path, f"data file {path}", overwrite=overwrite)
        self._target = destination(path)
        self._part, self._skeleton, self._journal_path = (
            self._target.with_name(f"{self._target.name}.{what}") for what in ("part", "skeleton", "journal")
        )
        self._forget()
        self._ours = False
        self._bytes = -1
        try:
            self._journal = open(self._journal_path, "a+b")  # noqa: SIM115
        except OSError as error:
            raise no_folder(path, error) from None
        try:
            lock(self._journal.fileno(), self._journal_path, self.path)
            try:
                self._bytes = os.open(self._part, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise no_folder(path, error) from None
            self._continue(json.loads(json.dumps(dict(identity))), overwrite, stamps, retry)
        except BaseException:
            self.close()
            raise

    def _forget(self) -> None:
        self.done: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.kept: deque[Kept] = deque()
        self.changed = False
        self.left_out: list[str] = []
        self._counts: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._starts: dict[Split, int] = {"train": ALIGNMENT}
        self._end = ALIGNMENT

    def _continue(
        self, identity: dict[str, Any], overwrite: bool, stamps: Mapping[Split, list[int]], retry: bool
    ) -> None:
        position, size = 0, os.fstat(self._bytes).st_size
        at, split, new = 0, SPLITS[0], 0
        try:
            for end, record in _lines(self._journal):
                if position == 0:
                    self._compare(record["identity"], identity)
                    position = end
                    continue
                if size < record["end"]:
                    break
                if record["split"] != split:
                    new += len(stamps.get(split, [])[at:])
                    at, split = 0, record["split"]
                stop, still = self._still(record, stamps.get(split), at, retry)
                self.changed = self.changed or new > 0 or still is not record
                if still is None:
                    new += stop - at
                elif not self.changed:
                    self._take(still)
                    position = end
                elif stop > at:  # else nothing of it is there any more
                    self.kept.append(Kept(at, stop, still))
                at = stop
                if new > MOST_NEW:
                    break
        except ConfigError:
            if not overwrite:
                raise
            self._forget()
            position = 0
        self._ours = True
        self._journal.seek(position)
        self._journal.truncate()
        os.fsync(self._journal.fileno())  # before the bytes change of which it told
        if not self.kept:
            os.ftruncate(self._bytes, self._end)
        if position == 0:
            self._write_line({"identity": identity})

    def _compare(self, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
        if theirs != ours:
            key = next(k for k in {**ours, **theirs} if ours.get(k) != theirs.get(k))
            raise ConfigError(
                f"{self._part}: expected unfinished work of the same command, got another's ({key}: "
                f"expected {ours.get(key)!r}, got {theirs.get(key)!r}); replace it with --overwrite"
            )

    def _still(
        self, record: dict[str, Any], stamps: list[int] | None, start: int, retry: bool
    ) -> tuple[int, dict[str, Any] | None]:
        """Say where the images of a block now end, and what of it stays: all, all that is there, or nothing."""
        stop, left_out = start + _images(record), dict(record["left_out"])
        if stamps is None or (record["stamps"] == stamps[start:stop] and not (retry and left_out)):
            return stop, record
        stop, new, still = start, retry and bool(left_out), []
        for i, stamp in enumerate(record["stamps"]):
            try:
                at = stamps.index(stamp, stop)
            except ValueError:
                if i in left_out:
                    continue
                raise ConfigError(
                    f"{self._part}: expected unfinished work of the same images, got that of others: one of them has "
                    "changed since, or is not there any more; replace it with --overwrite"
                ) from None
            if i in left_out:
                still.append([at - start, left_out[i]])
            stop, new = at + 1, new or at > stop
        return stop, None if new else {**record, "stamps": stamps[start:stop], "left_out": still}

    def _take(self, record: Mapping[str, Any]) -> None:
        split = record["split"]
        self.done[split] += _images(record)
        self._counts[split] += len(record["labels"])
        self._starts.setdefault(split, record["start"])
        self.left_out += [text for _, text in record["left_out"]]
        self._end = record["end"]

    def _write(self, data: bytes, position: int) -> None:
        """Write all of it: at a time the system takes 2 GiB at most, and what fits on a disk that is nearly full."""
        done = 0
        while done < len(data):
            done += os.pwrite(self._bytes, memoryview(data)[done:], position + done)

    def _write_line(self, record: Mapping[str, Any]) -> None:
        self._journal.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def append(self, split: Split, block: Block, stamps: Sequence[int] = ()) -> None:
        """Write the next images; they are on the disk when this returns.

        Parameters
        ----------
        split : "train" or "val"
        block : Block
        stamps : sequence of int
            Those of its images, left-out ones included.

        Raises
        ------
        ValueError
            If `split` is "train" after a block of "val".
        OSError
            As when the disk is full; what was written before stays whole.
        """
        if split == "train" and self.done["val"]:
            raise ValueError("writer: expected only blocks of val after the first of them, got one of train")
        record = {
            "split": split,
            "names": [image.name for image in block.images],
            "labels": [int(image.label) for image in block.images],
            "sizes": [[image.height, image.width] for image in block.images],
            "lengths": [len(image.data) for image in block.images],
            "crc32": [zlib.crc32(image.data) for image in block.images],
            "left_out": block.left_out,
            "stamps": list(stamps),
            "sums": block.sums,
        }
        self._add(record, b"".join(image.data for image in block.images))

    def keep(self) -> None:
        """Take the next block that is kept; it is on the disk when this returns."""
        kept = self.kept.popleft()
        self._add(kept.record, self._read(kept))

    def _read(self, kept: Kept) -> bytes:
        start, end = kept.record["start"], kept.record["end"]
        return os.pread(self._bytes, end - start, start) if kept.data is None else kept.data

    def _add(self, record: dict[str, Any], data: bytes) -> None:
        split = record["split"]
        start = self._end if split in self._starts else _aligned(self._end)
        end = start + len(data)
        for later in takewhile(lambda kept: kept.record["start"] < end, self.kept):
            later.data = self._read(later)
        if record.get("start") != start:
            self._write(data, start)
            os.fsync(self._bytes)
        record = {**record, "start": start, "end": end}
        self._write_line(record)
        self._take(record)

    def finish(self, **attributes: Any) -> None:
        """Complete the file and give it its name.

        Parameters
        ----------
        **attributes
            Those of `theanompi.data.store.schema` from ``name`` to ``augmentation``.

        Raises
        ------
        ValueError
            If the contents do not satisfy the schema; the work files stay.
        """
        try:
            for split in SPLITS:
                if not self._counts[split]:
                    raise ValueError(f"{split}: expected at least one image, got none")
            attributes = {"format": FORMAT, "version": VERSION, **attributes, "left_out": self.left_out}
            with hdf5_writes(self.path):
                payloads = self._make_skeleton(attributes)
            with h5py.File(self._skeleton, "r") as file:
                check(file)
            self._copy_metadata(payloads)
        except ValueError as error:
            raise ValueError(f"data file {self.path}: {error}") from None
        finally:
            self._skeleton.unlink(missing_ok=True)
        self._part.replace(self._target)
        self._journal_path.unlink()
        sync_folder(self._target.parent)

    def _make_skeleton(self, attributes: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Write an HDF5 file that lacks only the images; gives where they begin and end."""
        columns: dict[Split, dict[str, list[Any]]] = {
            split: {key: [] for key in ("names", "labels", "sizes", "lengths", "crc32")} for split in SPLITS
        }
        total = ChannelSums(0, (), ())
        for _, record in _lines(self._journal):
            if "split" not in record:
                continue
            for key, values in columns[record["split"]].items():
                values.extend(record[key])
            if record["split"] == "train":
                pixels, sums, squares = record["sums"]
                total = merge(total, ChannelSums(pixels, tuple(sums), tuple(squares)))
        # Older HDF5 layouts hold at most 64 KiB of attributes: too little for the names of some thousand
        # classes.
        with h5py.File(
            self._skeleton, "w", libver="v108", alignment_threshold=ALIGNMENT, alignment_interval=ALIGNMENT
        ) as file:
            payloads = []
            # First of all, while the metadata is still smaller than the room in front of the images.
            for split in SPLITS:
                n_bytes = sum(columns[split]["lengths"])
                payloads.append((self._starts[split], self._starts[split] + n_bytes))
                _reserve(file, split, max(n_bytes, ALIGNMENT), self._starts[split])
            for split in SPLITS:
                column = columns[split]
                group = file[split]
                group["offsets"] = np.concatenate([[0], np.cumsum(column["lengths"], dtype=np.int64)])
                group["sizes"] = np.array(column["sizes"], np.int32)
                group["labels"] = np.array(column["labels"], np.int64)
                group["names"] = np.array([n.encode() for n in column["names"]])
                group["crc32"] = np.array(column["crc32"], np.uint32)
                file.attrs[f"{split}_count"] = len(column["labels"])
            mean, std = _mean_and_std(total)
            put_attributes(file, {**attributes, "mean": mean, "std": std})
            file.attrs["sha256"] = index_sha256(file)
        return payloads

    def _copy_metadata(self, payloads: list[tuple[int, int]]) -> None:
        size = self._skeleton.stat().st_size
        (_, train_end), (val_start, val_end) = payloads
        with open(self._skeleton, "rb") as skeleton:
            for start, end in ((0, ALIGNMENT), (train_end, val_start), (val_end, size)):
                skeleton.seek(start)
                self._write(skeleton.read(end - start), start)
        os.ftruncate(self._bytes, size)
        os.fsync(self._bytes)

    def close(self) -> None:
        """Close the work files; those of unfinished work stay, if there is any work in them."""
        if not self._journal.closed:
            if self._ours and not any(self.done.values()):
                self._part.unlink(missing_ok=True)
                self._journal_path.unlink(missing_ok=True)
            if self._bytes >= 0:
                os.close(self._bytes)
            self._journal.close()

    def discard(self) -> None:
        """Close and remove the work files."""
        for file in (self._part, self._journal_path):
            file.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reserve(file: h5py.File, split: Split, n_bytes: int, expected: int) -> None:
    """Make room for the images of a split without writing it, and see that HDF5 puts it where they are."""
    data = reserve(file, f"{split}/data", np.dtype("uint8"), (n_bytes,)).id
    if data.get_offset() != expected:
        raise RuntimeError(
            f"data file: expected HDF5 {h5py.version.hdf5_version} to place {split}/data at byte {expected}, "
            f"got {data.get_offset()}"
        )


def _mean_and_std(total: ChannelSums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # In whole numbers up to the last division: no rounding, however many pixels there are.
    mean = np.array([s / (255 * total.pixels) for s in total.sums])
    variance = [
        (total.pixels * sq - s * s) / (255 * total.pixels) ** 2
        for s, sq in zip(total.sums, total.squares, strict=True)
    ]
    return mean, np.sqrt(variance)


def write_dataset(
    path: str | os.PathLike[str],
    train: tuple[NDArray[np.uint8], NDArray[np.integer]],
    val: tuple[NDArray[np.uint8], NDArray[np.integer]],
    *,
    name: str,
    class_names: list[str],
    augmentation: str,
    description: str,
    source: str,
    licence: str,
) -> None:
    """Write arrays of images as a data set; the file appears under its name only when it is whole and valid.

    Parameters
    ----------
    path : path
        The file; one of that name is replaced.
    train, val : (uint8 (n, h, w, c), integer (n,))
        Images and labels of each split.
    name, description, source, licence : str
        What is in the file, where it comes from and on what terms it may be used.
    class_names : list of str
        One per class, in the order of the labels.
    augmentation : str
        One of `theanompi.data.pictures.augment.POLICIES`.

    Raises
    ------
    ConfigError
        If the folder does not exist.
    ValueError
        If the contents do not satisfy the schema.

    Examples
    --------
    >>> import tempfile
    >>> from theanompi.data import open_dataset
    >>> images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/dark.h5"
    ...     write_dataset(path, (images, labels), (images[:2], labels[:2]), name="dark", augmentation="none",
    ...                   class_names=["a", "b"], description="Black.", source="made here", licence="CC0")
    ...     open_dataset(path).n_train
    4
    """
    for split, (images, labels) in zip(SPLITS, (train, val), strict=True):
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            raise ValueError(
                f"data file {path}: {split} images: expected uint8 (n, h, w, c), got {images.dtype} {images.shape}"
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise ValueError(
                f"data file {path}: {split} labels: expected integers ({len(images)},), one for each image, "
                f"got {labels.dtype} {labels.shape}"
            )
    channels = train[0].shape[3]
    if val[0].shape[3] != channels:
        raise ValueError(
            f"data file {path}: val images: expected {channels} channels as in train, got {val[0].shape[3]}"
        )
    # An identity that no other work has: there is nothing to continue.
    with Writer(path, {"arrays": uuid.uuid4().hex}, overwrite=True) as writer:
        try:
            for split, (images, labels) in zip(SPLITS, (train, val), strict=True):
                height, width = images.shape[1:3]
                rows = [
                    Image(str(i), int(label), height, width, pixels.tobytes())
                    for i, (pixels, label) in enumerate(zip(images, labels.astype(np.int64), strict=True))
                ]
                writer.append(split, Block(rows, [], channel_sums(images)))
            writer.finish(
                name=name,
                description=description,
                source=source,
                licence=licence,
                class_names=class_names,
                store="raw",
                channels=channels,
                augmentation=augmentation,
            )
        except BaseException:
            # Nothing here is worth continuing: the arrays are still in the caller's hands.
            writer.discard()
            raise
