"""Arrays of pixels in memory or in npz files."""

import math
import os
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theanompi.config import listed
from theanompi.data.sources.base import (
    MOST_CLASSES,
    Arrays,
    Items,
    Labels,
    Pixels,
    Source,
    cause,
    fingerprint,
    printable,
    stamp_of,
)
from theanompi.data.store.schema import SPLITS, Split


class PixelSource(Source):
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
        pixels = self._pixels[split][start:stop]
        return Arrays(names, self.labels[split][start:stop], partial(np.asarray, pixels))


def check_labels(labels: NDArray[Any], n_classes: int, where: str, noun: str = "image") -> None:
    """Refuse labels that are not whole numbers from 0 to the number of classes."""
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if wrong.size:
        raise ValueError(
            f"{where}: expected labels from 0 to {n_classes - 1}, got {str(labels[wrong[0]])[:40]} for {noun} "
            f"{wrong[0]}"
        )


def numbered(
    labels: Mapping[Split, NDArray[Any]],
    names: list[str] | None,
    renumber: bool,
    where: str,
    noun: str = "image",
) -> tuple[dict[Split, Labels], list[str], list[str]]:
    """See that labels number the classes from 0 on, or make them do so.

    Parameters
    ----------
    labels : mapping of split to whole numbers (n,)
    names : list of str or None
        Of the classes; None: as many classes as there are labels, named by them.
    renumber : bool
        Number them anew, in their order.
    where, noun : str
        For messages: the file, and what has a label.
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
            f"{wrong} for {noun} {np.flatnonzero(labels[split] == wrong)[0]} of {split}{remedy}"
        )
    row = {number: label for label, number in enumerate(numbers)}
    made = {
        split: np.array([row[int(number)] for number in found], np.int64)[inverse]
        for split, (found, inverse) in values.items()
    }
    notes = [f"the labels {listed(map(str, numbers))} are numbered 0 to {n - 1}"]
    return made, [str(number) for number in numbers] if names is None else names, notes


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the head of an .npy file: shape, whether in Fortran's order, dtype."""
    read = np.lib.format
    header = read.read_array_header_1_0 if read.read_magic(file) == (1, 0) else read.read_array_header_2_0
    shape, fortran, dtype = header(file)
    return shape, fortran, dtype


def _check_size(archive: zipfile.ZipFile, name: str) -> None:
    """See that an array does not say that it is larger than its file: its memory is allocated before it is read."""
    info = archive.getinfo(name)
    with archive.open(info) as file:
        shape, _, dtype = npy_header(file)
        if math.prod(shape) * dtype.itemsize > info.file_size:
            raise ValueError(f"{info.filename}: {shape} of {dtype} in {info.file_size} bytes")


class Npz(PixelSource):
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
        stamp = stamp_of(self._path)
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
            raise ValueError(f"{path}: expected an .npz file of arrays, got: {cause(error)}") from None
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
        made, self.class_names, notes = numbered(
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
