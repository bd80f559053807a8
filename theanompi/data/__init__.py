"""Data sets in HDF5, and what a rank reads of them: order, augmentation and a loader that reads ahead.

Order, crops and random keys are functions of (seed, epoch, sample id) alone, so k ranks × A accumulation
steps see the same minibatches for every split of the same A·k.
"""

from theanompi.data.loader import Batch, Loader
from theanompi.data.sampler import Sampler, validation_batches
from theanompi.data.schema import Dataset, open_dataset
from theanompi.data.writer import write_dataset

__all__ = ["Batch", "Dataset", "Loader", "Sampler", "open_dataset", "validation_batches", "write_dataset"]
