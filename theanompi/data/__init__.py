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
    from theanompi.data.arrays import Arrays as Arrays
    from theanompi.data.modality import Field as Field
    from theanompi.data.modality import Modality as Modality
    from theanompi.data.modality import ReaderClass as ReaderClass
    from theanompi.data.pictures.modality import Pictures as Pictures
    from theanompi.data.reading.errors import LoaderError as LoaderError
    from theanompi.data.reading.loader import Batch as Batch
    from theanompi.data.reading.loader import Loader as Loader
    from theanompi.data.reading.sampler import Sampler as Sampler
    from theanompi.data.reading.sampler import validation_batches as validation_batches
    from theanompi.data.store.record_writer import write_arrays as write_arrays
    from theanompi.data.store.record_writer import write_stream as write_stream
    from theanompi.data.store.record_writer import write_texts as write_texts
    from theanompi.data.store.records import ArrayDataset as ArrayDataset
    from theanompi.data.store.records import RecordDataset as RecordDataset
    from theanompi.data.store.records import TokenDataset as TokenDataset
    from theanompi.data.store.schema import Dataset as Dataset
    from theanompi.data.store.schema import open_dataset as open_dataset
    from theanompi.data.store.schema import open_pictures as open_pictures
    from theanompi.data.store.writer import write_dataset as write_dataset
    from theanompi.data.tokens import Tokens as Tokens

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

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    # Lazy, because a loader's processes import this package and need neither HDF5 nor the loader.
    if name not in _HOMES:
        raise AttributeError(f"module 'theanompi.data' has no attribute {name!r}")
    return getattr(import_module(f"theanompi.data.{_HOMES[name]}"), name)
