"""What an item is: which fields it has, where a loader process finds them, and what a network sees of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.config import ConfigError, RunConfig, got, listed
from theanompi.data.reading.random import sample_keys

if TYPE_CHECKING:
    from pytensor.graph.basic import Variable

    from theanompi.data.store.hdf5 import OpenFile, Split


# Of what a message shows of a value.
_MOST_SHOWN = 60
# Items of small batches that are asked for at once.
_PLANNED = 2048

VALIDATION = -1
"""The epoch whose keys items of validation have."""


class Field(NamedTuple):
    """Dtype and shape that a field has in one item."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one item."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class ReaderClass(NamedTuple):
    """What each loader process makes to read with: ``module.name(file, *arguments)``.

    The process imports the module, which should import no more than it needs.

    Attributes
    ----------
    module, name : str
        Of a class like `theanompi.data.reading.reader.BytesReader`.
    arguments : tuple of str or numbers
        After the file's descriptor.
    """

    module: str
    name: str
    arguments: tuple[str | int | float, ...] = ()

    def make(self, file: int) -> Any:
        """Import the class and make a reader of the file with this descriptor."""
        return getattr(import_module(self.module), self.name)(file, *self.arguments)


class Modality(ABC):
    """What an item is, of one data file and in one run.

    A batch has n items. Its fields are arrays (n, …): those in `read` are filled by loader processes, which are
    told by a row of int64 numbers for each item what to read; those in `given` are made in the training process.
    All of them go to the device, and `graph` makes of them what a model sees.

    Parameters
    ----------
    dataset : OpenFile
        Stays open as long as its items are read.
    config : RunConfig
        Resolved.

    Attributes
    ----------
    name : str
        Of the modality; in a data file the attribute ``modality``: a class of one's own has that of the files that it
        reads, "arrays", "tokens" or "pictures".
    noun : str
        What its items are called, in the plural.
    read : mapping of str to Field
        What the loader processes fill.
    given : mapping of str to Field
        What comes from the training process; always ``keys`` and ``weights``.
    columns : int
        Numbers in a row.
    reader : ReaderClass
        What reads items in a loader process.
    augmentations : tuple of str
        Settings that change training items and not every modality has, of those that this one heeds.
    items_alone : bool
        Whether `batch` gives of an item what it gives of it alone, so that several small batches may be asked for at
        once. It is of the class that has the method: a subclass with another one says it anew.
    for_networks : tuple of str
        Attributes of the data file, spelt as words, on which it depends which networks can take its items.

    Raises
    ------
    ConfigError
        If the file is of another modality, or does not fit the settings.
    """

    name: ClassVar[str]
    noun: str = "items"
    augmentations: ClassVar[tuple[str, ...]] = ()
    items_alone: ClassVar[bool] = False
    for_networks: ClassVar[tuple[str, ...]] = ("class names",)
    read: Mapping[str, Field]
    given: Mapping[str, Field]
    columns: int
    reader: ReaderClass

    def __init__(self, dataset: OpenFile, config: RunConfig) -> None:
        if dataset.modality != getattr(self, "name", None):
            name = getattr(self, "name", f"a {type(self).__name__}, whose class has no name")
            raise ConfigError(
                f"data file {dataset.path}: expected {name}, which the model is made for, got {dataset.modality}"
            )
        for setting in ("mixup", "cutmix", "random_erasing", "color_jitter", "lighting"):
            if (value := getattr(config, setting)) and setting not in self.augmentations:
                whose = "pictures" if setting in ("color_jitter", "lighting") else "classifiers of pictures"
                raise ConfigError(
                    f"{setting}: expected 0, as it is for {whose}, not for {self.noun} of {self.name}, "
                    f"got {value:g}"
                )
        self.dataset, self.seed = dataset, config.seed
        # For dropout, and 1 or 0 for the padding of the last validation batch.
        self.given = {"keys": Field("int64", ()), "weights": Field("float32", ())}

    def count(self, split: Split) -> int:
        """Items of a split."""
        return self.dataset.count(split)

    def item_name(self, split: Split, i: int) -> str:
        """What messages call item `i`: "train item 7"."""
        return f"{split} {self.noun.removesuffix('s')} {i}"

    def see_as(self, other: Modality) -> None:
        """Let a network that was trained on the items of another one see these as it saw those.

        Parameters
        ----------
        other : Modality
            Of the same kind and settings.

        Raises
        ------
        ConfigError
            If that network cannot take these items.
        """
        for what, ours, theirs in zip(
            self.for_networks, self._seen_by_networks(), other._seen_by_networks(), strict=True
        ):
            if ours != theirs:
                raise ConfigError(
                    f"data file {self.dataset.path}: expected {what} as in {other.dataset.path}, {_shown(theirs)}, got "
                    f"{_shown(ours)}"
                )

    def _seen_by_networks(self) -> list[Any]:
        return [getattr(self.dataset, name.replace(" ", "_"), None) for name in self.for_networks]

    def keys(self, epoch: int | None, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """A random key for each item, int64 (n,); in validation those of an epoch of its own, the same each time."""
        return sample_keys(self.seed, VALIDATION if epoch is None else epoch, ids)

    @abstractmethod
    def batch(
        self, split: Split, epoch: int | None, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        """Say what to read of some items, and make what is not read.

        Parameters
        ----------
        split : "train" or "val"
        epoch : int or None
            None in validation.
        ids : int64 (n,)
            Positions in the split, of a batch, or of several where `items_alone`.

        Returns
        -------
        rows : int64 (n, columns)
            What the reader is told of each item.
        values : dict of str to array (n, …)
            The fields in `given`, all but ``weights``. Functions of seed, epoch and ids alone.
        """

    @abstractmethod
    def graph(self, inputs: Mapping[str, Variable], training: bool) -> dict[str, Variable]:
        """Make of a batch's fields what a model sees.

        Parameters
        ----------
        inputs : mapping of str to Variable
            The fields in `read` and `given`, (n, …), as they are on the device.
        training : bool
            Or validation.

        Returns
        -------
        dict of str to Variable
            Always with ``weights`` float32 (n,) and ``keys`` int64 (n,).
        """


def check_modality(modality: Modality) -> None:
    """Refuse a modality of a user's own of which the loader could not be told what to read.

    Raises
    ------
    ConfigError
    """
    where = type(modality).__name__
    for attribute in ("read", "given"):
        fields = getattr(modality, attribute, None)
        if not isinstance(fields, Mapping):
            raise ConfigError(
                f"{where}.{attribute}: expected fields by name, after super().__init__(dataset, config), "
                f"got {'none' if fields is None else got(fields)}"
            )
        for name, field in fields.items():
            if not _is_field(field):
                raise ConfigError(
                    f"{where}.{attribute}: {name}: expected a theanompi.data.Field of a dtype and a shape, such as "
                    f'Field("float32", (3,)), got {got(field)}'
                )
    missing = {"keys", "weights"} - modality.given.keys()
    if missing:
        raise ConfigError(
            f"{where}.given: expected keys and weights too, as in {{…, **self.given}}, got {listed(modality.given)}"
        )
    columns, reader = getattr(modality, "columns", None), getattr(modality, "reader", None)
    if not isinstance(columns, int) or columns < 1:
        raise ConfigError(f"{where}.columns: expected a whole number of at least 1, got {got(columns)}")
    if not isinstance(reader, ReaderClass):
        raise ConfigError(
            f'{where}.reader: expected a theanompi.data.ReaderClass, such as ReaderClass("my_module", "MyReader"), got '
            f"{got(reader)}"
        )


def _is_field(field: Any) -> bool:
    try:
        return isinstance(field, Field) and field.nbytes >= 0 and np.dtype(field.dtype).kind in "biuf"
    except TypeError:
        return False


def batches_at_once(modality: Modality, n: int) -> int:
    """How many batches of n items a modality is asked for at once: of small ones it costs hardly more than of one."""
    writer = next(cls for cls in type(modality).__mro__ if "batch" in vars(cls))
    return max(1, _PLANNED // n) if vars(writer).get("items_alone", False) else 1


def batch_of(
    modality: Modality, split: Split, epoch: int | None, ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Mapping[str, NDArray[Any]]]:
    """Give what `Modality.batch` does, checked.

    Raises
    ------
    ConfigError
        If it is not what `columns` and `given` say.
    """
    where, made = f"{type(modality).__name__}.batch", modality.batch(split, epoch, ids)
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], Mapping):
        raise ConfigError(f"{where}: expected rows and values by name, got {got(made)}")
    rows, values = made
    if np.shape(rows) != (len(ids), modality.columns):
        raise ConfigError(f"{where}: expected rows ({len(ids)}, {modality.columns}), got {np.shape(rows)}")
    for name, field in modality.given.items():
        if name == "weights":
            continue
        value = values.get(name)
        wanted = (len(ids), *field.shape)
        if (
            not isinstance(value, np.ndarray)
            or value.shape != wanted
            or not np.can_cast(value.dtype, field.dtype, "same_kind")
        ):
            there = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else got(value, 40)
            raise ConfigError(f"{where}: {name}: expected {field.dtype} {wanted}, got {there}")
    return rows, values


def _shown(value: Any) -> str:
    """A value in a message: how many names, if it has some, and the first and last of them."""
    if isinstance(value, list):
        return f"{len(value)} ({listed(map(str, value), _MOST_SHOWN)})"
    if isinstance(value, Mapping):
        return listed((f"{name}: {field}" for name, field in value.items()), _MOST_SHOWN)
    return "none" if value is None else str(value)
