"""Arrays of any fields, in an npz or an HDF5 file: read in blocks, so that they may be larger than the memory."""

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, listed
from theanompi.config.files import trouble
from theanompi.data.modality import Field
from theanompi.data.sources.arrays import npy_header, numbered
from theanompi.data.sources.base import MOST_IMAGES, Labels, cause, printable, stamp_of
from theanompi.data.store.hdf5 import FORMAT, SPLITS, Split, open_hdf5
from theanompi.data.store.records import field_trouble

_BLOCK_BYTES = 8 * 2**20
# Deflate makes at most 1,032 bytes of one: what says that it is larger is not.
_MOST_EXPANSION = 1100


@dataclass(frozen=True)
class Array:
    """One array of the file: what it is called there, and how to read some of its rows, block by block."""

    called: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: Callable[[int, int], Iterator[NDArray[Any]]]


@dataclass
class _Content:
    """What a file has: arrays by split and field, texts for the classes, and names of what else there is."""

    arrays: dict[Split, dict[str, Array]]
    class_names: list[str] | None
    others: list[str] = field(default_factory=list)


def _blocks(start: int, stop: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK_BYTES // max(1, math.prod(shape[1:]) * dtype.itemsize))
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def npz_array(path: Path, info: zipfile.ZipInfo) -> Array:
    """Find an array of numbers in an .npz file."""
    with zipfile.ZipFile(path) as archive, archive.open(info) as file:
        shape, fortran, dtype = npy_header(file)
    n_bytes = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or n_bytes > min(
        info.file_size, _MOST_EXPANSION * (info.compress_size + 100)
    ):
        raise ValueError(f"{info.filename}: {shape} of {dtype} in {info.file_size} bytes")

    def rows(start: int, stop: int) -> Iterator[NDArray[Any]]:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            if fortran and len(shape) > 1:
                file.seek(0)
                whole = np.lib.format.read_array(file, allow_pickle=False)
                for first, last in _blocks(start, stop, shape, dtype):
                    yield whole[first:last]
                return
            npy_header(file)
            size = math.prod(shape[1:]) * dtype.itemsize
            file.seek(start * size, os.SEEK_CUR)
            for first, last in _blocks(start, stop, shape, dtype):
                data = file.read((last - first) * size)
                yield np.frombuffer(data, dtype).reshape(last - first, *shape[1:])

    return Array(info.filename.removesuffix(".npy"), dtype, shape, rows)


def _npz(path: Path) -> _Content:
    content = _Content({split: {} for split in SPLITS}, None)
    if not zipfile.is_zipfile(path):
        raise ValueError("neither a zip archive nor HDF5")
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    for info in infos:
        key = info.filename.removesuffix(".npy")
        first, _, name = key.partition("_")
        if not info.filename.endswith(".npy") or (key != "class_names" and first not in SPLITS):
            content.others.append(key)
            continue
        array = npz_array(path, info)
        if key == "class_names":
            if len(array.shape) != 1 or array.dtype.kind != "U":
                raise ValueError(f"class_names of {array.dtype} {array.shape}, expected texts (n,)")
            content.class_names = [str(text) for block in array.rows(0, array.shape[0]) for text in block]
        else:
            content.arrays["train" if first == "train" else "val"][name] = array
    return content


def _hdf5_array(path: Path, name: str, array: h5py.Dataset, size: int) -> Array:
    if array.shape is None or array.is_virtual or array.external:
        raise ValueError(f"{name}: expected an array whose values lie in the file itself")
    shape, dtype = array.shape, array.dtype
    if math.prod(shape) * dtype.itemsize > _MOST_EXPANSION * size:
        raise ValueError(f"{name}: {shape} of {dtype} in a file of {size} bytes")

    def rows(start: int, stop: int) -> Iterator[NDArray[Any]]:
        with open_hdf5(path) as file:
            for first, last in _blocks(start, stop, shape, dtype):
                yield file[name][first:last]

    return Array(name, dtype, shape, rows)


def _hdf5(path: Path) -> _Content:
    content = _Content({split: {} for split in SPLITS}, None)
    with open_hdf5(path) as file:
        if file.attrs.get("format") == FORMAT:
            raise ValueError("a data set that is packed already")
        size = path.stat().st_size
        for key in file:
            if key == "class_names" and isinstance(file[key], h5py.Dataset):
                names = file[key]
                if names.ndim != 1 or not h5py.check_string_dtype(names.dtype):
                    raise ValueError(f"class_names of {names.dtype} {names.shape}, expected texts (n,)")
                content.class_names = [str(text) for text in names.asstr()[:]]
            elif key not in SPLITS or not isinstance(file[key], h5py.Group):
                content.others.append(key)
            else:
                for name in file[key]:
                    if not isinstance(file[key].get(name, getlink=True), h5py.HardLink):
                        raise ValueError(f"{key}/{name}: expected an array in the file itself, got a link")
                    if not isinstance(file[key][name], h5py.Dataset):
                        raise ValueError(f"{key}/{name}: expected an array, got a group")
                    array = _hdf5_array(path, f"{key}/{name}", file[key][name], size)
                    content.arrays["train" if key == "train" else "val"][name] = array
    return content


def holds_pictures(path: str | os.PathLike[str]) -> bool:
    """Whether an .npz file is one for `theanompi.data.sources.arrays.Npz`: it has labelled images, uint8."""
    if trouble(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            if "train_labels.npy" not in archive.namelist():
                return False
            with archive.open("train_images.npy") as file:
                shape, _, dtype = npy_header(file)
        return dtype == np.uint8 and len(shape) in (3, 4)
    except (
        Exception
    ):  # zipfile and NumPy let through whatever damage makes happen; who reads all of it says so
        return False


class FieldSource:
    """Arrays of any fields, before they are packed.

    Parameters
    ----------
    path : path
        An .npz file with arrays ``train_NAME`` and ``val_NAME``, or an HDF5 file with groups ``train`` and ``val``
        that have arrays NAME: bool, integers or floats, (n, …). Both splits have the same fields, whose items have
        the same shape and dtype. A field ``labels`` of whole numbers (n,) or (n, 1) numbers classes, which texts
        ``class_names`` may name.
    renumber : bool
        Number labels that are not 0 … number of classes - 1 in their order.
    val_share : float, optional
        Without arrays for val: the share of the items that are taken for it, the last ones.

    Attributes
    ----------
    name, description, source, licence : str
        As in the data set.
    fields : dict of str to Field
    counts : dict of split to int
        Number of items.
    labels : dict of split to int64 (n,), or None
    class_names : list of str or None
        None: there are no labels.
    notes : list of str
        What the user should hear about.

    Raises
    ------
    ConfigError
        If there is no such file, or it has no arrays for val and no share is given, or both.
    ValueError
        If it is damaged, or an array is missing or cannot be packed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", train_x=np.zeros((10, 3)), train_y=np.arange(10))
    ...     source = FieldSource(f"{folder}/a.npz", val_share=0.2)
    ...     source.counts, source.fields["x"], [block.tolist() for block in source.blocks("val", "y")]
    ({'train': 8, 'val': 2}, Field(dtype='float64', shape=(3,)), [[8, 9]])
    """

    description = "Arrays."
    licence = "not stated"

    def __init__(
        self, path: str | os.PathLike[str], renumber: bool = False, val_share: float | None = None
    ) -> None:
        self._path = Path(path)
        stamp_of(self._path)
        self.name, self.source = self._path.stem, f"the file {printable(self._path.name)}"
        hdf5 = h5py.is_hdf5(self._path)
        self._kind = "an HDF5 file of arrays" if hdf5 else "an .npz or HDF5 file of arrays"
        try:
            content = (_hdf5 if hdf5 else _npz)(self._path)
        except Exception as error:  # zipfile, NumPy and HDF5 let through whatever the damage makes happen
            raise self._damaged(error) from None
        self.notes: list[str] = []
        self._not_finite: dict[str, NDArray[np.int64]] = {}
        # What splits are called in the file, for messages.
        spelt = "{}/{}" if hdf5 else "{}_{}"
        arrays = content.arrays
        if not arrays["train"]:
            raise ValueError(
                f"{path}: expected arrays {spelt.format('train', 'NAME')} and {spelt.format('val', 'NAME')}, "
                f"got {printable(listed(content.others, 80)) or 'none'}"
            )
        for split in SPLITS:
            for name, array in arrays[split].items():
                self._check(name, array)
        whole = self._count(arrays["train"])
        if arrays["val"] and val_share is not None:
            raise ConfigError(f"--val-share: expected it only without arrays for val, got {val_share}")
        if not arrays["val"]:
            if val_share is None:
                raise ConfigError(
                    f"{path}: expected arrays {spelt.format('val', 'NAME')}, or --val-share 0.1 for the last tenth of "
                    f"the items, got only {spelt.format('train', 'NAME')}"
                )
            n = max(1, round(whole * val_share))
            if n >= whole:
                raise ConfigError(
                    f"--val-share: expected items left for training, got {n} of {whole} for val"
                )
            self.counts: dict[Split, int] = {"train": whole - n, "val": n}
            self._from: dict[Split, dict[str, Array]] = dict.fromkeys(SPLITS, arrays["train"])
            self._starts: dict[Split, int] = {"train": 0, "val": whole - n}
            self.notes.append(f"the last {n:,} of {whole:,} items are for validation")
        else:
            self.counts = {"train": whole, "val": self._count(arrays["val"])}
            self._from, self._starts = arrays, {"train": 0, "val": 0}
            self._check_same(arrays)
        self.fields = {
            name: Field(array.dtype.name, array.shape[1:]) for name, array in sorted(arrays["train"].items())
        }
        self._number(content.class_names, renumber)
        if content.others:
            self.notes.append(f"arrays that are not used: {printable(listed(content.others))}")

    def _damaged(self, error: Exception) -> ValueError:
        text = cause(error).removeprefix(f"data file {self._path}: ")
        return ValueError(f"{self._path}: expected {self._kind}, got: {text}")

    def _check(self, name: str, array: Array) -> None:
        where = f"{self._path}: {printable(array.called)[:80]}"
        if not array.shape or array.shape[0] == 0:
            raise ValueError(f"{where}: expected an array (n, …) of at least one item, got {array.shape}")
        if array.shape[0] > MOST_IMAGES:
            raise ValueError(f"{where}: expected at most {MOST_IMAGES:,} items, got {array.shape[0]:,}")
        dtype = array.dtype.name
        if name == "labels" and dtype == "uint64":  # they are packed as int64
            dtype = "int64"
        wrong = field_trouble(name, Field(dtype, array.shape[1:]))
        if wrong:
            raise ValueError(f"{where}: {wrong}")

    def _count(self, arrays: Mapping[str, Array]) -> int:
        first, *rest = arrays.values()
        for array in rest:
            if array.shape[0] != first.shape[0]:
                raise ValueError(
                    f"{self._path}: {array.called}: expected {first.shape[0]:,} items as in {first.called}, "
                    f"got {array.shape[0]:,}"
                )
        return first.shape[0]

    def _check_same(self, arrays: Mapping[Split, Mapping[str, Array]]) -> None:
        train, val = arrays["train"], arrays["val"]
        if set(train) != set(val):
            raise ValueError(
                f"{self._path}: val: expected the fields of train, {listed(sorted(train), 80)}; "
                f"got {listed(sorted(val), 80)}"
            )
        for name, array in train.items():
            other = val[name]
            # Labels become int64 (n,), whatever whole numbers they were.
            if _are_labels(name, array) and _are_labels(name, other):
                continue
            if (array.dtype.name, array.shape[1:]) != (other.dtype.name, other.shape[1:]):
                raise ValueError(
                    f"{self._path}: {other.called}: expected items {array.dtype.name} {array.shape[1:]} as in "
                    f"{array.called}, got {other.dtype.name} {other.shape[1:]}"
                )

    def _number(self, names: list[str] | None, renumber: bool) -> None:
        self.labels: dict[Split, Labels] | None = None
        self.class_names: list[str] | None = None
        array = self._from["train"].get("labels")
        if array is None or not _are_labels("labels", array):
            if names is not None:
                raise ValueError(f"{self._path}: class_names: expected labels, whole numbers (n,), got none")
            if array is not None and array.dtype.name == "uint64":
                raise ValueError(
                    f"{self._path}: {array.called}: {field_trouble('labels', Field('uint64', ()))}"
                )
            return
        found = {split: np.concatenate(list(self._read(split, "labels"))).reshape(-1) for split in SPLITS}
        self.labels, self.class_names, notes = numbered(found, names, renumber, f"{self._path}", "item")
        self.notes += notes
        self.fields["labels"] = Field("int64", ())

    def _read(self, split: Split, name: str) -> Iterator[NDArray[Any]]:
        start = self._starts[split]
        try:
            yield from self._from[split][name].rows(start, start + self.counts[split])
        except Exception as error:
            raise self._damaged(error) from None

    def blocks(self, split: Split, name: str) -> Iterator[NDArray[Any]]:
        """Read a field of all items of a split, some items after another; (k, …) each."""
        if name == "labels" and self.labels is not None:
            yield self.labels[split]
            return
        for block in self._read(split, name):
            if block.dtype.kind == "f":
                counts = self._not_finite.setdefault(f"{split}: {name}", np.zeros(2, np.int64))
                counts += [np.isnan(block).sum(), np.isinf(block).sum()]
            yield block

    def not_finite(self) -> list[str]:
        """Say which fields had NaN or infinities in the blocks that were read."""
        return [
            f"{name} has {nans:,} NaN and {infinite:,} infinite ones"
            for name, (nans, infinite) in self._not_finite.items()
            if nans or infinite
        ]


def _are_labels(name: str, array: Array) -> bool:
    return name == "labels" and array.dtype.kind in "iu" and array.shape[1:] in ((), (1,))
