"""The HDF5 data set format, version 1: written, checked and opened here and nowhere else.

=================================  =======================================================================
``train/images``, ``val/images``   uint8 (n, h, w, c); h, w and c are the same in both
``train/labels``, ``val/labels``   integer (n,), 0 … number of classes - 1
=================================  =======================================================================

Attributes of the root group:

=================================  =======================================================================
``format``, ``version``            ``"theanompi-dataset"``, 1
``name``, ``description``          a short name and a sentence or two
``source``, ``licence``            where the images come from and on what terms they may be used
``class_names``                    strings, one per class, in the order of the labels
``train_count``, ``val_count``     number of images
``mean``, ``std``                  float64 (c,), over all pixels of the training images, scaled to 0 … 1
``augmentation``                   a policy of `theanompi.data.augment`
``train_sha256``, ``val_sha256``   SHA-256 of the images' bytes, then the labels as little-endian int64
=================================  =======================================================================
"""

import hashlib
import importlib.resources
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError
from theanompi.data.augment import POLICIES

FORMAT = "theanompi-dataset"
VERSION = 1
PACKAGED = {"digits": "digits.h5"}
# Data sets of at most this many bytes of images are read once, checked against their checksums and kept in
# memory.
IN_MEMORY_BYTES = 64 * 2**20

Split = Literal["train", "val"]
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

_SPLITS: tuple[Split, ...] = ("train", "val")
_TEXTS = ("name", "description", "source", "licence", "augmentation", "train_sha256", "val_sha256")
_ATTRIBUTES = ("format", "version", *_TEXTS, "class_names", "train_count", "val_count", "mean", "std")


def _sha256(images: Images, labels: Labels) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    digest.update(labels.astype("<i8").data)
    return digest.hexdigest()


def _channel_statistics(images: Images) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # From histograms of whole numbers: exact, and no float copy of the images.
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)])
    weights, values = counts / counts.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = weights @ values
    return mean, np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))


def _check(file: h5py.File) -> None:
    attributes = file.attrs
    for name, expected in (("format", FORMAT), ("version", VERSION)):
        got = attributes.get(name)
        if got is None or got != expected:
            raise ValueError(f"expected {name} {expected!r}, got {got!r}")
    for name in _ATTRIBUTES:
        if name not in attributes:
            raise ValueError(f"expected an attribute {name!r}, found none")
    for name in _TEXTS:
        if not isinstance(attributes[name], str):
            raise ValueError(f"attribute {name!r}: expected text, got {attributes[name]!r}")
    names = attributes["class_names"]
    if np.ndim(names) != 1 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"attribute 'class_names': expected a list of texts, got {names!r}")
    if attributes["augmentation"] not in POLICIES:
        raise ValueError(
            f"attribute 'augmentation': expected one of {', '.join(POLICIES)}; "
            f"got {attributes['augmentation']!r}"
        )
    for split in _SPLITS:
        _check_split(file, split, len(names))
    if file["val/images"].shape[1:] != file["train/images"].shape[1:]:
        raise ValueError(
            f"val/images: expected images of {file['train/images'].shape[1:]} as in train/images, "
            f"got {file['val/images'].shape[1:]}"
        )
    channels = file["train/images"].shape[3]
    for name in ("mean", "std"):
        value = attributes[name]
        if np.shape(value) != (channels,) or not np.all((0 <= value) & (value <= 1)):
            raise ValueError(f"attribute {name!r}: expected {channels} numbers from 0 to 1, got {value!r}")


def _check_split(file: h5py.File, split: Split, n_classes: int) -> None:
    for name in (f"{split}/images", f"{split}/labels"):
        if not isinstance(file.get(name), h5py.Dataset):
            raise ValueError(f"expected a data set {name}, found none")
    images, labels = file[f"{split}/images"], file[f"{split}/labels"]
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{split}/images: expected uint8 (n, h, w, c), got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise ValueError(
            f"{split}/labels: expected integers ({len(images)},), one for each of {split}/images, "
            f"got {labels.dtype} {labels.shape}"
        )
    count = file.attrs[f"{split}_count"]
    if count != len(images):
        raise ValueError(
            f"attribute '{split}_count': expected {len(images)} as in {split}/images, got {count}"
        )
    values = labels[:]
    wrong = np.flatnonzero((values < 0) | (values >= n_classes))
    if wrong.size:
        raise ValueError(
            f"{split}/labels[{wrong[0]}]: expected a label from 0 to {n_classes - 1}, got {values[wrong[0]]}"
        )


def _check_sum(file: h5py.File, split: Split, images: Images, labels: Labels) -> None:
    expected, got = file.attrs[f"{split}_sha256"], _sha256(images, labels)
    if got != expected:
        raise ValueError(f"{split}: expected contents with SHA-256 {expected[:12]}…, got {got[:12]}…")


def write_dataset(
    path: str | os.PathLike[str],
    train: tuple[Images, Labels],
    val: tuple[Images, Labels],
    *,
    name: str,
    class_names: list[str],
    augmentation: str,
    description: str,
    source: str,
    licence: str,
    compress: bool = False,
) -> None:
    """Write a data set; the file appears under its name only when it is whole and valid.

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
        One of `theanompi.data.augment.POLICIES`.
    compress : bool
        Smaller with gzip; slower to read in random order.

    Raises
    ------
    ConfigError
        If the folder does not exist.
    ValueError
        If the contents do not satisfy the schema.

    Examples
    --------
    >>> import tempfile
    >>> images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/dark.h5"
    ...     write_dataset(path, (images, labels), (images[:2], labels[:2]), name="dark", augmentation="none",
    ...                   class_names=["a", "b"], description="Black.", source="made here", licence="CC0")
    ...     open_dataset(path).n_train
    4
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ConfigError(f"data file {path}: expected an existing folder, got {path.parent}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    texts = {
        "name": name,
        "description": description,
        "source": source,
        "licence": licence,
        "augmentation": augmentation,
    }
    try:
        # Older HDF5 layouts hold at most 64 KiB of attributes: too little for the names of some thousand
        # classes.
        with h5py.File(temporary, "w", libver="v108") as file:
            file.attrs.update({"format": FORMAT, "version": VERSION, "class_names": class_names, **texts})
            for split, (images, labels) in zip(_SPLITS, (train, val), strict=True):
                options = {"compression": "gzip", "compression_opts": 9} if compress else {}
                file.create_dataset(f"{split}/images", data=images, **options)
                file.create_dataset(f"{split}/labels", data=labels)
                file.attrs[f"{split}_count"] = len(images)
                file.attrs[f"{split}_sha256"] = _sha256(images, labels)
                _check_split(file, split, len(class_names))
            file.attrs["mean"], file.attrs["std"] = _channel_statistics(train[0])
            _check(file)
        temporary.replace(path)
    except ValueError as error:
        raise ValueError(f"data file {path}: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _open(path: Path) -> h5py.File:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"data file {path}: expected an HDF5 file, got: {error.strerror}") from None
    if not h5py.is_hdf5(path):
        raise ValueError(f"data file {path}: expected an HDF5 file, got something else")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(
            f"data file {path}: expected a whole HDF5 file, got a damaged one: {error}"
        ) from None


class Dataset:
    """An opened data set file. Small ones live in memory, large ones are read from the file.

    Parameters
    ----------
    path : path
        A file in the format of this module.

    Attributes
    ----------
    name, augmentation, description, source, licence : str
    n_train, n_val : int
        Number of images.
    shape : (int, int, int)
        h, w, c of every image.
    class_names : list of str
    n_classes : int
    mean, std : float64 (c,)
        Of the training images' channels, scaled to 0 … 1.

    Raises
    ------
    ConfigError
        If there is no readable file at `path`.
    ValueError
        If it is not HDF5, truncated, damaged, or does not satisfy the schema: one line that says what and
        where.

    Examples
    --------
    >>> with open_dataset("digits") as data:
    ...     data.n_train, data.n_val, data.shape, data.n_classes, data.augmentation
    (1437, 360, (32, 32, 1), 10, 'shift')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        with ExitStack() as stack:
            file = stack.enter_context(_open(path))
            try:
                _check(file)
                images = {split: file[f"{split}/images"] for split in _SPLITS}
                labels = {split: file[f"{split}/labels"][:].astype(np.int64) for split in _SPLITS}
                in_memory = sum(data.nbytes for data in images.values()) <= IN_MEMORY_BYTES
                if in_memory:
                    images = {split: data[:] for split, data in images.items()}
                    for split in _SPLITS:
                        _check_sum(file, split, images[split], labels[split])
            except (OSError, RuntimeError) as error:
                raise ValueError(f"data file {path}: damaged ({error})") from None
            except ValueError as error:
                raise ValueError(f"data file {path}: {error}") from None
            attributes = dict(file.attrs)
            self._file = ExitStack() if in_memory else stack.pop_all()
        self.name: str = attributes["name"]
        self.description: str = attributes["description"]
        self.source: str = attributes["source"]
        self.licence: str = attributes["licence"]
        self.augmentation: str = attributes["augmentation"]
        self.class_names: list[str] = list(attributes["class_names"])
        self.n_classes = len(self.class_names)
        self.n_train, self.n_val = len(labels["train"]), len(labels["val"])
        self.shape: tuple[int, int, int] = images["train"].shape[1:]
        self._images, self._labels = images, labels
        self.mean: NDArray[np.float64] = attributes["mean"]
        self.std: NDArray[np.float64] = attributes["std"]

    def read(self, split: Split, ids: NDArray[np.int64]) -> tuple[Images, Labels]:
        """Read some images and their labels, in the order asked for.

        Parameters
        ----------
        split : "train" or "val"
        ids : int64 (n,)
            Positions in the split, in any order; repeats are allowed.

        Returns
        -------
        (uint8 (n, h, w, c), int64 (n,))

        Raises
        ------
        IndexError
            If an id is past the end.

        Examples
        --------
        >>> images, labels = open_dataset("digits").read("val", np.array([3, 0, 3]))
        >>> images.shape, labels.shape, bool((images[0] == images[2]).all())
        ((3, 32, 32, 1), (3,), True)
        """
        images, labels = self._images[split], self._labels[split][ids]
        if isinstance(images, np.ndarray):
            return images[ids], labels
        # HDF5 reads only increasing positions without repeats, and reads them fastest that way.
        positions, inverse = np.unique(ids, return_inverse=True)
        return images[positions][inverse], labels

    def close(self) -> None:
        """Close the file, if it was kept open.

        Examples
        --------
        >>> open_dataset("digits").close()
        """
        self._file.close()

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_dataset(name_or_path: str | os.PathLike[str]) -> Dataset:
    """Open a packaged data set by its name, or any data set by its path.

    Parameters
    ----------
    name_or_path : str or path
        ``"digits"``, or the path of a file in the format of this module.

    Raises
    ------
    ConfigError
        If it is neither a packaged name nor a readable file.
    ValueError
        If the file is not a valid data set.

    Examples
    --------
    >>> open_dataset("digits").name
    'digits'
    >>> open_dataset("digit")
    Traceback (most recent call last):
    theanompi.config.ConfigError: data: expected digits (packaged) or the path of an HDF5 file, got 'digit'
    """
    name = os.fspath(name_or_path)
    if name in PACKAGED:
        # A zipped package gives a temporary file, which need not outlive this call: packaged sets are small
        # enough for memory.
        with importlib.resources.as_file(importlib.resources.files(__package__) / PACKAGED[name]) as path:
            return Dataset(path)
    if not Path(name).exists() and Path(name).name == name and not Path(name).suffix:
        raise ConfigError(
            f"data: expected {', '.join(PACKAGED)} (packaged) or the path of an HDF5 file, got {name!r}"
        )
    return Dataset(name)
