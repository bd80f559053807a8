"""Plain arrays: any fields with one entry for each item, as they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from theanompi.config import RunConfig
from theanompi.data.modality import Modality, ReaderClass

if TYPE_CHECKING:
    from pytensor.graph.basic import Variable

    from theanompi.data.store.hdf5 import Split
    from theanompi.data.store.records import ArrayDataset


class Arrays(Modality):
    """Items with any fields of fixed shapes.

    A model sees the file's fields by their names, (n, …): integers as int64, floats as float32, truth values as they
    are; and ``weights`` and ``keys``.

    Parameters
    ----------
    dataset : ArrayDataset
    config : RunConfig
        Resolved.

    Raises
    ------
    ConfigError
        If the file has no arrays.
    """

    name = "arrays"
    items_alone = True
    for_networks = ("fields", "class names")
    reader = ReaderClass("theanompi.data.reading.reader", "BytesReader")
    dataset: ArrayDataset

    def __init__(self, dataset: ArrayDataset, config: RunConfig) -> None:
        super().__init__(dataset, config)
        self.read = dataset.fields
        self.columns = 2 * len(self.read)

    def batch(
        self, split: Split, epoch: int | None, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
        places = [column for name in self.read for column in self.dataset.locate(split, name, ids)]
        return np.column_stack(places), {"keys": self.keys(epoch, ids)}

    def graph(self, inputs: Mapping[str, Variable], training: bool) -> dict[str, Variable]:
        import pytensor.tensor as pt

        kinds = {"i": "int64", "u": "int64", "f": "float32", "b": "bool"}
        seen = {name: pt.cast(inputs[name], kinds[np.dtype(of.dtype).kind]) for name, of in self.read.items()}
        return {**seen, "weights": inputs["weights"], "keys": inputs["keys"]}
