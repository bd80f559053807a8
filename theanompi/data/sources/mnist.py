"""MNIST and what comes in its format."""

import gzip
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, got, listed
from theanompi.data.sources.arrays import PixelSource, numbered
from theanompi.data.sources.base import DAMAGE, Pixels, cause, is_hidden, stamp_of
from theanompi.data.store.schema import SPLITS, Split


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
    except DAMAGE as error:
        raise ValueError(f"{path}: expected a whole gzip file, got: {cause(error)}") from None
    magic, start = 0x800 + dimensions, 4 + 4 * dimensions
    if len(data) < start or int.from_bytes(data[:4], "big") != magic:
        raise ValueError(f"{path}: expected the magic number {magic:#010x}, got 0x{data[:4].hex()}")
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], ">u4"))
    if len(data) - start != math.prod(shape) or 0 in shape:
        raise ValueError(
            f"{path}: expected {' × '.join(map(str, shape))} bytes after the header, got {len(data) - start}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape), stamp_of(path)


class Mnist(PixelSource):
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
            stamps.append(stamp_of(mapping))
            numbers, class_names = _mapped(numbers, mapping)
        elif not prefix and not (renumber and max(int(values.max()) for values in numbers.values()) > 9):
            class_names = [str(digit) for digit in range(10)]
        labels, self.class_names, self.notes = numbered(numbers, class_names, renumber, f"{folder}")
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
