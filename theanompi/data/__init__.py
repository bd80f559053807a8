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
    from theanompi.data.modality import Field, Modality
    from theanompi.data.pictures.modality import Pictures
    from theanompi.data.reading.loader import Batch, Loader, LoaderError
    from theanompi.data.reading.sampler import Sampler, validation_batches
    from theanompi.data.store.schema import Dataset, open_dataset
    from theanompi.data.store.writer import write_dataset
    from theanompi.data.tokens import Tokens

_HOMES = {
    "Arrays": "arrays",
    "Batch": "reading.loader",
    "Dataset": "store.schema",
    "Field": "modality",
    "Loader": "reading.loader",
    "LoaderError": "reading.loader",
    "Modality": "modality",
    "Pictures": "pictures.modality",
    "Sampler": "reading.sampler",
    "Tokens": "tokens",
    "open_dataset": "store.schema",
    "validation_batches": "reading.sampler",
    "write_dataset": "store.writer",
}

__all__ = [
    "Arrays",
    "Batch",
    "Dataset",
    "Field",
    "Loader",
    "LoaderError",
    "Modality",
    "Pictures",
    "Sampler",
    "Tokens",
    "open_dataset",
    "validation_batches",
    "write_dataset",
]


def __getattr__(name: str) -> Any:
    # Lazy, because a loader's processes import this package and need neither HDF5 nor the loader.
    if name not in _HOMES:
        raise AttributeError(f"module 'theanompi.data' has no attribute {name!r}")
    return getattr(import_module(f"theanompi.data.{_HOMES[name]}"), name)
