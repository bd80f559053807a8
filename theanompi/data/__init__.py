"""Data sets in HDF5, and what a rank reads of them: order, augmentation and a loader that reads ahead.

Order, crops and random keys are functions of (seed, epoch, sample id) alone, so k ranks × A accumulation
steps see the same minibatches for every split of the same A·k.

>>> from theanompi.data import open_dataset
>>> open_dataset("digits").n_train
1437
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theanompi.data.arrays import Arrays
    from theanompi.data.modality import Field, Modality, ReaderClass
    from theanompi.data.pictures.modality import Pictures
    from theanompi.data.reading.errors import LoaderError
    from theanompi.data.reading.loader import Batch, Loader
    from theanompi.data.reading.sampler import Sampler, validation_batches
    from theanompi.data.store.record_writer import write_arrays, write_stream, write_texts
    from theanompi.data.store.records import ArrayDataset, RecordDataset, TokenDataset
    from theanompi.data.store.schema import Dataset, open_dataset, open_pictures
    from theanompi.data.store.writer import write_dataset
    from theanompi.data.tokens import Tokens

_HOMES = {
    "ArrayDataset": "store.records",
    "Arrays": "arrays",
    "Batch": "reading.loader",
    "Dataset": "store.schema",
    "Field": "modality",
    "Loader": "reading.loader",
    "LoaderError": "reading.errors",
    "Modality": "modality",
    "Pictures": "pictures.modality",
    "ReaderClass": "modality",
    "RecordDataset": "store.records",
    "Sampler": "reading.sampler",
    "TokenDataset": "store.records",
    "Tokens": "tokens",
    "open_dataset": "store.schema",
    "open_pictures": "store.schema",
    "validation_batches": "reading.sampler",
    "write_arrays": "store.record_writer",
    "write_dataset": "store.writer",
    "write_stream": "store.record_writer",
    "write_texts": "store.record_writer",
}

__all__ = [
    "ArrayDataset",
    "Arrays",
    "Batch",
    "Dataset",
    "Field",
    "Loader",
    "LoaderError",
    "Modality",
    "Pictures",
    "ReaderClass",
    "RecordDataset",
    "Sampler",
    "TokenDataset",
    "Tokens",
    "open_dataset",
    "open_pictures",
    "validation_batches",
    "write_arrays",
    "write_dataset",
    "write_stream",
    "write_texts",
]


def __getattr__(name: str) -> Any:
    # Lazy, because a loader's processes import this package and need neither HDF5 nor the loader.
    if name not in _HOMES:
        raise AttributeError(f"module 'theanompi.data' has no attribute {name!r}")
    return getattr(import_module(f"theanompi.data.{_HOMES[name]}"), name)
