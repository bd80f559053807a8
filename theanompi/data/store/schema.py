"""The HDF5 format of pictures, version 2: checked and opened here, written by `theanompi.data.store.writer`.

Arrays and tokens have a format of their own, version 3: `theanompi.data.store.records`.

Both groups, ``train`` and ``val``, have, for n images:

=============  ===========================================================================================
``data``       uint8, contiguous: the images one after another, as `store` says; may be padded at the end
``offsets``    int64 (n + 1,): where each image begins in ``data``, and where the last one ends
``sizes``      int32 (n, 2): height and width in pixels
``labels``     int64 (n,): 0 … number of classes - 1
``names``      bytes (n,): UTF-8, what each image was called where it comes from
``crc32``      uint32 (n,): CRC-32 (zlib's) of each image as it is stored
=============  ===========================================================================================

Attributes of the root group:

=================================  =======================================================================
``format``, ``version``            ``"theanompi-dataset"``, 2
``name``, ``description``          a short name and a sentence or two
``source``, ``licence``            where the images come from and on what terms they may be used
``class_names``                    strings, one per class, in the order of the labels
``store``                          ``"jpeg"``: JPEG files that decode to upright RGB pictures; ``"raw"``:
                                   pixels (height, width, channels), uint8
``channels``                       of a decoded image
``augmentation``                   a policy of `theanompi.data.pictures.augment`
``train_count``, ``val_count``     number of images
``mean``, ``std``                  float64 (channels,), over all pixels of the training images as they are
                                   stored, scaled to 0 … 1
``left_out``                       strings ``"name: reason"``: what could not be packed
``sha256``                         SHA-256 over all attributes but this one and all arrays but ``data``,
                                   which ``crc32`` stands for: see `index_sha256`
=================================  =======================================================================

``data`` is contiguous so that an image is one `os.pread` from the file, without HDF5: from any process, without
a lock and without a copy.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from theanompi.config import PACKAGED, ConfigError, got, shortened
from theanompi.data.pictures.augment import POLICIES
from theanompi.data.pictures.decode import BadImage, decode_jpeg
from theanompi.data.store import records
from theanompi.data.store.hdf5 import (
    SPLITS,
    OpenFile,
    Split,
    check_attributes,
    check_digest,
    check_labels,
    check_version,
    digest,
    open_again,
    plain,
)
from theanompi.data.store.records import ArrayDataset, TokenDataset

VERSION = 2
_MOST_NAME = 65536

Store = Literal["jpeg", "raw"]

STORES: tuple[Store, ...] = ("jpeg", "raw")
_TEXTS = ("name", "description", "source", "licence", "store", "augmentation", "sha256")
_LISTS = ("class_names", "left_out")
_WHOLE = ("channels", "train_count", "val_count")
_NUMBERS = ("mean", "std")
# Names have as many bytes as the longest one.
_COLUMNS = {"offsets": "int64", "sizes": "int32", "labels": "int64", "names": "S", "crc32": "uint32"}


def index_sha256(file: h5py.File) -> str:
    """Digest the attributes (but ``sha256``) as sorted JSON, then each split's arrays (but ``data``), little-endian."""
    return digest(file, [f"{split}/{name}" for split in SPLITS for name in _COLUMNS])


def check(file: h5py.File) -> None:
    """Check that a file satisfies the schema, the bytes of its images excepted.

    Raises
    ------
    ValueError
        One line that says what is wrong, and where in the file.
    """
    attributes = file.attrs
    check_version(file, VERSION)
    known = {"augmentation": POLICIES, "store": STORES}
    check_attributes(file, texts=_TEXTS, lists=_LISTS, whole=_WHOLE, others=_NUMBERS, known=known)
    channels = attributes["channels"]
    if channels < 1 or (attributes["store"] == "jpeg" and channels != 3):
        raise ValueError(f"attribute 'channels': expected 3, or at least 1 for raw images, got {channels}")
    for name in _NUMBERS:
        value = np.asarray(attributes[name])
        if value.dtype != np.float64 or value.shape != (channels,) or not np.all((0 <= value) & (value <= 1)):
            raise ValueError(
                f"attribute {name!r}: expected {channels} float64 numbers from 0 to 1, got {got(plain(value))} "
                f"({value.dtype})"
            )
    for split in SPLITS:
        _check_split(file, split)
    check_digest(file, index_sha256(file))


def _check_split(file: h5py.File, split: Split) -> None:
    for name in ("data", *_COLUMNS):
        if not isinstance(file.get(f"{split}/{name}"), h5py.Dataset):
            raise ValueError(f"expected a data set {split}/{name}, found none")
    data, n = file[f"{split}/data"], int(file.attrs[f"{split}_count"])
    if data.dtype != np.uint8 or data.ndim != 1 or data.id.get_offset() is None:
        raise ValueError(
            f"{split}/data: expected contiguous uint8 (bytes,), got {data.dtype} {data.shape}"
            + ("" if data.chunks is None else f" in chunks of {data.chunks}")
        )
    if n < 1:
        raise ValueError(f"attribute '{split}_count': expected at least 1, got {n}")
    if n > len(data):  # and so on: else a small file could ask for any amount of memory
        raise ValueError(
            f"attribute '{split}_count': expected at most {len(data)}, the bytes of all, got {n}"
        )
    shapes = {"offsets": (n + 1,), "sizes": (n, 2)}
    column = {}
    for name, dtype in _COLUMNS.items():
        values, shape = file[f"{split}/{name}"], shapes.get(name, (n,))
        right = values.dtype.kind == "S" if dtype == "S" else values.dtype.newbyteorder("=") == dtype
        if not right or values.shape != shape:
            found = shortened(str(values.dtype), 80)
            raise ValueError(
                f"{split}/{name}: expected {dtype} {shape} for {n} images, got {found} {values.shape}"
            )
        if values.dtype.itemsize > _MOST_NAME:
            raise ValueError(
                f"{split}/{name}: expected at most {_MOST_NAME} bytes each, got {values.dtype.itemsize}"
            )
        column[name] = values[:]
    offsets, sizes, labels = column["offsets"], column["sizes"], column["labels"]
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] > len(data) or (lengths < 1).any():
        raise ValueError(
            f"{split}/offsets: expected increasing positions from 0 to at most {len(data)}, got others"
        )
    if (sizes < 1).any():
        raise ValueError(f"{split}/sizes: expected sizes of at least 1 pixel, got {sizes.min()}")
    if file.attrs["store"] == "raw":
        pixels = sizes.astype(np.int64).prod(axis=1) * int(file.attrs["channels"])
        wrong = np.flatnonzero(lengths != pixels)
        if wrong.size:
            i = wrong[0]
            raise ValueError(
                f"{split}/sizes[{i}]: expected the {lengths[i]} bytes of its image, got {pixels[i]} pixels"
            )
    check_labels(labels, len(plain(file.attrs["class_names"])), f"{split}/labels")


class Dataset(OpenFile):
    """An opened data set file: its index is in memory, its images stay in the file.

    Parameters
    ----------
    path : path
        A file in the format of this module.
    check_images : bool
        Compare the images with their checksums if they take at most 64 MiB. Those of larger files, and what is
        wrong with more than one, `verify` tells.

    Attributes
    ----------
    path : Path
    name, description, source, licence, augmentation : str
    store : "jpeg" or "raw"
    n_train, n_val : int
        Number of images.
    channels : int
    largest : (int, int)
        The largest height and the largest width of all images, in pixels.
    class_names : list of str
    n_classes : int
    mean, std : float64 (channels,)
        Of the training images' channels, scaled to 0 … 1.
    left_out : list of str
        What could not be packed, and why.
    sha256 : str
        What tells its contents from any other's, wherever the file lies: `index_sha256`.

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
    ...     data.n_train, data.n_val, data.channels, data.n_classes, data.store, data.augmentation
    (1437, 360, 1, 10, 'raw', 'shift')
    """

    modality = "pictures"
    noun = "images"

    def __init__(self, path: str | os.PathLike[str], check_images: bool = True) -> None:
        # Read when one is asked for, which is seldom.
        self._names: dict[Split, NDArray[np.object_]] = {}
        super().__init__(path, check, check_images)

    def _index(self, file: h5py.File, attributes: Mapping[str, Any]) -> None:
        self._sizes = {split: file[f"{split}/sizes"][:] for split in SPLITS}
        self._labels = {split: file[f"{split}/labels"][:] for split in SPLITS}
        self._offsets = {split: file[f"{split}/offsets"][:] for split in SPLITS}
        self._starts = {split: file[f"{split}/data"].id.get_offset() for split in SPLITS}
        self.augmentation: str = attributes["augmentation"]
        self.store: Store = attributes["store"]
        self.channels: int = attributes["channels"]
        height, width = np.max([self._sizes[split].max(axis=0) for split in SPLITS], axis=0).tolist()
        self.largest: tuple[int, int] = (height, width)
        self.mean = np.array(attributes["mean"], np.float64)
        self.std = np.array(attributes["std"], np.float64)

    def nbytes(self, split: Split) -> int:
        return int(self._offsets[split][-1])

    def item_name(self, split: Split, i: int) -> str:
        return f"image {i}"

    def sizes(self, split: Split) -> NDArray[np.int32]:
        """Give the size of each image.

        Returns
        -------
        int32 (n, 2)
            Height and width in pixels.
        """
        return self._sizes[split]

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Give the label of each image, int64 (n,)."""
        return self._labels[split]

    def locate(self, split: Split, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Say where images lie in the file.

        Parameters
        ----------
        split : "train" or "val"
        ids : int64 (n,)

        Returns
        -------
        positions, lengths : int64 (n,)
            Bytes from the beginning of the file, and their number.

        Raises
        ------
        IndexError
            If an id is past the end.

        Examples
        --------
        >>> open_dataset("digits").locate("train", np.array([0, 2]))
        (array([4096, 6144]), array([1024, 1024]))
        """
        offsets = self._offsets[split]
        begins = offsets[ids]
        return self._starts[split] + begins, offsets[ids + 1] - begins

    def image_name(self, split: Split, i: int) -> str:
        """Say what image `i` was called where it comes from."""
        if split not in self._names:
            with open_again(self._descriptor) as file:
                self._names[split] = file[f"{split}/names"][:]
        name: bytes = self._names[split][i]
        return name.decode(errors="backslashreplace")

    def read(self, split: Split, i: int) -> bytes:
        """Read one image as it is stored.

        Raises
        ------
        ValueError
            If the file ends before the image does.
        """
        (position,), (length,) = self.locate(split, np.array([i]))
        return bytes(self._read(int(position), int(length), f"{split} image {i}"))

    def pixels(self, split: Split, i: int) -> NDArray[np.uint8]:
        """Read and decode one image.

        Returns
        -------
        uint8 (h, w, channels)

        Raises
        ------
        ValueError
            If the image is damaged.
        """
        data, (height, width) = self.read(split, i), self._sizes[split][i]
        if self.store == "raw":
            return np.frombuffer(data, np.uint8).reshape(height, width, self.channels)
        try:
            return decode_jpeg(data, size=(int(height), int(width)))
        except BadImage as error:
            raise ValueError(f"data file {self.path}: {split} image {i}: {error}") from None

    def verify(self) -> Iterator[tuple[Split, int, str | None]]:
        for split in SPLITS:
            for i, _, wrong in self._verified(split, self._starts[split], self._offsets[split]):
                yield split, i, wrong


def open_dataset(
    name_or_path: str | os.PathLike[str], check_images: bool = True
) -> Dataset | ArrayDataset | TokenDataset:
    """Open a packaged data set by its name, or any data set by its path.

    Parameters
    ----------
    name_or_path : str or path
        ``"digits"``, ``"reviews"`` or ``"sentences"``, or the path of a file in the format of this module or of
        `theanompi.data.store.records`.
    check_images : bool
        As in `Dataset`; so for arrays and tokens.

    Returns
    -------
    Dataset, ArrayDataset or TokenDataset
        Its attribute `modality` says which: "pictures", "arrays" or "tokens".

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
    theanompi.config.errors.ConfigError: data: expected digits, reviews, sentences (packaged) or the path of an HDF5 \
file, got 'digit'
    """
    name = os.fspath(name_or_path)
    if name in PACKAGED:
        name = os.fspath(Path(__file__).parents[1] / f"{name}.h5")
    elif not os.path.exists(name) and Path(name).name == name and not Path(name).suffix:
        raise ConfigError(
            f"data: expected {', '.join(PACKAGED)} (packaged) or the path of an HDF5 file, got {got(name)}"
        )
    kinds = {kind.modality: kind for kind in (Dataset, ArrayDataset, TokenDataset)}
    return kinds[records.modality_of(name)](name, check_images)


def open_pictures(name_or_path: str | os.PathLike[str], check_images: bool = True) -> Dataset:
    """Open a data set that must be one of pictures.

    Parameters
    ----------
    name_or_path, check_images
        As in `open_dataset`.

    Raises
    ------
    ConfigError, ValueError
        As `open_dataset`, and if the data set has no pictures.
    """
    dataset = open_dataset(name_or_path, check_images)
    if not isinstance(dataset, Dataset):
        dataset.close()
        raise ConfigError(f"data file {dataset.path}: expected pictures, got {dataset.modality}")
    return dataset
