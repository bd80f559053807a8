"""Pictures that are in no data file, as the network of a run sees those that it is validated on."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from pytensor.graph.basic import Variable

from theanompi.config import ConfigError
from theanompi.data import Batch, Field, Pictures
from theanompi.data.modality import ReaderClass
from theanompi.data.pictures.augment import color_transforms
from theanompi.data.pictures.files import FAULT_BYTES, Preparation, prepare
from theanompi.data.store.schema import Split
from theanompi.training.inputs import Inputs


class _Paths:
    """A list of files, as a loader wants a data file: its descriptor, which is made when asked for, has the list."""

    modality = "pictures"

    def __init__(self, paths: Sequence[str], mean: NDArray[np.float64], std: NDArray[np.float64]) -> None:
        self.path, self.mean, self.std, self._paths = Path("the files to predict"), mean, std, paths
        self._list: TextIO | None = None

    def count(self, split: Split) -> int:
        return len(self._paths) if split == "val" else 0

    def fileno(self) -> int:
        if self._list is None:
            self._list = open(os.memfd_create("theanompi"), "w", encoding="utf-8")
            json.dump(self._paths, self._list)
            self._list.flush()
        return self._list.fileno()

    def close(self) -> None:
        if self._list is not None:
            self._list.close()


class Seen(Pictures):
    """Pictures without labels that are in no data file, as a network sees those that it is validated on."""

    columns = 1

    def __init__(self, of: Pictures, preparation: Preparation, paths: Sequence[str] = ()) -> None:
        self.dataset = _Paths(paths, of.dataset.mean, of.dataset.std)  # type: ignore[assignment]
        self.seed, self.image_size, self.color_jitter, self.lighting = of.seed, of.image_size, 0.0, 0.0
        self.canvas = preparation.height, preparation.width
        self.read = {
            "images": Field("uint8", (*self.canvas, preparation.channels)),
            "boxes": Field("float32", (7,)),
            "fault": Field("uint8", (FAULT_BYTES,)),
        }
        self.given = {name: of.given[name] for name in ("colors", "labels", "keys", "weights")}
        self.reader = ReaderClass("theanompi.data.pictures.files", "FileReader", tuple(preparation))

    def batch(
        self, split: Split, epoch: int | None, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        values: dict[str, NDArray[Any]] = {
            "colors": color_transforms(0.0, 0.0, self.seed, 0, ids),
            "labels": np.zeros(len(ids), np.int64),
            "keys": self.keys(epoch, ids),
        }
        return ids[:, None], values


class Shown:
    """Arrays of pictures of any size, on their way to a network: scaled, cropped and normalised as in validation.

    Parameters
    ----------
    pictures : Pictures
        Of the run.
    n : int
        Pictures of a batch.

    Attributes
    ----------
    preparation : Preparation
    inputs : Inputs
        What a batch is loaded into.

    Raises
    ------
    ConfigError
        If the pictures have neither 1 nor 3 channels.
    """

    def __init__(self, pictures: Pictures, n: int) -> None:
        data = pictures.dataset
        if data.channels not in (1, 3):
            raise ConfigError(
                f"data file {data.path}: expected pictures of 1 or 3 channels, got {data.channels}"
            )
        sizes = np.concatenate([data.sizes("train"), data.sizes("val")])
        self.preparation = prepare(
            data.store, data.augmentation, sizes, pictures.image_size, data.channels, pictures.canvas
        )
        self._seen, self._n = Seen(pictures, self.preparation), n
        self.inputs = Inputs(self._seen, n)

    def graph(self) -> Mapping[str, Variable]:
        """What a network sees of a batch."""
        return self._seen.graph(self.inputs.variables, False)

    def batches(self, images: NDArray[np.uint8]) -> Iterator[Batch]:
        """Arrays as a loader would have them from files; the last batch is filled up with its last one."""
        held = self.preparation
        fields = {
            name: np.zeros((self._n, *field.shape), field.dtype) for name, field in self._seen.read.items()
        }
        for start in range(0, len(images), self._n):
            ids = np.minimum(np.arange(start, start + self._n), len(images) - 1)
            # The device may still have the last ones.
            fields = {name: np.empty_like(values) for name, values in fields.items()}
            fields["fault"][:] = 0
            for i, image in enumerate(images[ids]):
                fields["boxes"][i] = held.pixels(image, fields["images"][i])
            _, values = self._seen.batch("val", None, ids)
            yield Batch({**fields, **values, "weights": np.ones(self._n, np.float32)}, ids)


def pixels(images: Any) -> NDArray[np.uint8]:
    """Pictures as an array.

    Raises
    ------
    ValueError
        If it is not one of uint8 (n, h, w, 3).
    """
    array = np.asarray(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape[1:]:
        raise ValueError(f"images: expected uint8 (n, h, w, 3), got {array.dtype} {array.shape}")
    return array
