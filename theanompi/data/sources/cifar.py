"""CIFAR-10 and CIFAR-100 as they are downloaded: pickles."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from theanompi.config import ConfigError
from theanompi.data.sources.arrays import PixelSource, check_labels
from theanompi.data.sources.base import DAMAGE, Labels, Pixels, cause, is_hidden_member, stamp_of
from theanompi.data.sources.pickles import Unpickler
from theanompi.data.store.schema import Split


def _text(value: Any) -> Any:
    """Text of Python 2 that Python 3 has read and written again, as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _unpickle(data: bytes, where: str) -> dict[str, Any]:
    try:
        # The files were written by Python 2, whose text is bytes.
        content = Unpickler(io.BytesIO(data), encoding="latin1").load()
    except EOFError:
        raise ValueError(f"{where}: expected a pickle of CIFAR, got one that is cut short") from None
    except Exception as error:  # the unpickler lets through whatever the damage makes happen
        raise ValueError(f"{where}: expected a pickle of CIFAR, got: {cause(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected a dictionary, got {type(content).__name__}")
    return {_text(key): value for key, value in content.items()}


def _read_some(path: Path, names: set[str]) -> tuple[dict[str, bytes], list[tuple[Any, ...]]]:
    """Read those of the named files that a folder or an archive has; and what tells it from another one."""
    files: dict[str, bytes] = {}
    if path.is_dir():
        found = [path / name for name in sorted(names) if (path / name).is_file()]
        return {file.name: file.read_bytes() for file in found}, [stamp_of(file) for file in found]
    stamp = stamp_of(path)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = os.path.basename(member.name)
                if member.isfile() and name in names and not is_hidden_member(member.name):
                    files[name] = archive.extractfile(member).read()  # type: ignore[union-attr]
    except DAMAGE as error:
        raise ValueError(f"{path}: expected a whole tar archive or a folder, got: {cause(error)}") from None
    return files, [stamp]


class _Cifar(PixelSource):
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
        check_labels(np.array(numbers, object), self._n_classes, where)
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
        check_labels(labels, self._n_classes, where)
        return np.ascontiguousarray(values.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


class Cifar10(_Cifar):
    """CIFAR-10: cifar-10-python.tar.gz, cifar-10-binary.tar.gz, or the folder that is in one of them.

    Raises
    ------
    ConfigError, ValueError
        If there is no such file or folder; if it is damaged or incomplete.
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

    Errors are those of `Cifar10`.
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
