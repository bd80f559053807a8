"""The images of a run as its model sees them: minibatches, loaders and shares."""

from collections.abc import Iterator
from itertools import chain

import numpy as np

from theanompi.config import RunConfig
from theanompi.data import Batch, Loader, Sampler, open_pictures, validation_batches
from theanompi.data.pictures.regions import canvas
from theanompi.device import Pinned
from theanompi.record.timeline import Span


class Data:
    """A data set as one rank reads it.

    Its loader processes are started when the first batch is asked for.

    Attributes
    ----------
    dataset : Dataset
    sampler : Sampler
    canvas : (int, int)
        Height and width of the images of a batch, in pixels.
    n_batch_train : int
        Weight updates in an epoch, the same on every rank.
    n_batch_val : int
        Validation batches of this rank.
    """

    def __init__(self, config: RunConfig, rank: int, size: int) -> None:
        assert config.batch_size is not None and config.image_size is not None
        self.dataset = open_pictures(config.data)
        self.config, self.rank, self.size, self.batch_size = config, rank, size, config.batch_size
        self.sampler = Sampler(
            self.dataset.n_train,
            config.batch_size,
            size,
            rank,
            config.accumulation,
            config.seed,
            config.shuffle,
        )
        sizes = np.concatenate([self.dataset.sizes("train"), self.dataset.sizes("val")])
        self.canvas = canvas(self.dataset.store, self.dataset.augmentation, sizes, config.image_size)
        self.n_batch_train = self.sampler.iterations_per_epoch
        self.n_batch_val = len(validation_batches(self.dataset.n_val, self.batch_size, size, rank))
        self._loader: Loader | None = None

    def train(self, epoch: int, start: int) -> Iterator[Batch]:
        """This rank's batches of an epoch from update `start` on; ends the stream before."""
        return chain.from_iterable(self._open_loader().train(self.sampler, epoch, start))

    def validation(self) -> Iterator[Batch]:
        """This rank's share of the validation images; ends the stream before."""
        return self._open_loader().validation(self.size, self.rank)

    def _open_loader(self) -> Loader:
        if self._loader is None:
            run = self.config
            assert run.image_size is not None
            self._loader = Loader(
                self.dataset,
                self.batch_size,
                run.image_size,
                seed=run.seed,
                color_jitter=run.color_jitter,
                lighting=run.lighting,
                processes=run.loader_processes or 1,
            )
            self._pinned = Pinned(self._loader.memory)
        return self._loader

    def readings(self) -> list[list[Span]]:
        """For each loader process, when it made the batches that it has finished since the last call."""
        return [] if self._loader is None else self._loader.readings()

    def close(self) -> None:
        """Stop reading ahead."""
        if self._loader is not None:
            self._pinned.release()
            self._loader.close()
            self._loader = None
