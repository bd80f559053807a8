"""The items of a run, of any modality, as one rank reads them: minibatches, loaders and shares."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from theanompi.config import RunConfig
from theanompi.data import Batch, Loader, Modality, Sampler, open_dataset, validation_batches
from theanompi.data.modality import check_modality
from theanompi.device import Pinned
from theanompi.record.timeline import Span


class Items:
    """A data set as one rank reads it.

    Its loader processes are started by `start_loader`, or when the first batch is asked for.

    Parameters
    ----------
    modality : type of Modality
        What the model takes for an item.
    config : RunConfig
        Resolved.
    rank, size : int
        Which rank this is, and of how many.
    dataset : Dataset, ArrayDataset or TokenDataset, optional
        That of `config`, if it is open already.

    Attributes
    ----------
    dataset : Dataset, ArrayDataset or TokenDataset
    modality : Modality
    sampler : Sampler
    n_batch_train : int
        Weight updates in an epoch, the same on every rank.
    n_batch_val : int
        Validation batches of this rank.

    Raises
    ------
    ConfigError, ValueError
        If there is no such data set, it does not fit the modality, or it has too few items.
    """

    def __init__(
        self, modality: type[Modality], config: RunConfig, rank: int, size: int, dataset: Any = None
    ) -> None:
        assert config.batch_size is not None and config.data is not None
        self.dataset = open_dataset(config.data) if dataset is None else dataset
        self.modality = modality(self.dataset, config)
        check_modality(self.modality)
        self.rank, self.size, self.batch_size = rank, size, config.batch_size
        self.sampler = Sampler(
            self.modality.count("train"),
            config.batch_size,
            size,
            rank,
            config.accumulation,
            config.seed,
            config.shuffle,
            self.modality.noun,
        )
        self.n_batch_train = self.sampler.iterations_per_epoch
        self.n_batch_val = len(validation_batches(self.modality.count("val"), self.batch_size, size, rank))
        self._processes = config.loader_processes or 1
        self._loader: Loader | None = None

    def start_loader(self) -> None:
        """Start the loader processes, which come up while this process has other things to do."""
        self._open_loader()

    def train(self, epoch: int, start: int) -> Iterator[Batch]:
        """This rank's batches of an epoch from update `start` on; ends the stream before."""
        return chain.from_iterable(self._open_loader().train(self.sampler, epoch, start))

    def validation(self) -> Iterator[Batch]:
        """This rank's share of the validation items; ends the stream before."""
        return self._open_loader().validation(self.size, self.rank)

    def _open_loader(self) -> Loader:
        if self._loader is None:
            self._loader = Loader(self.modality, self.batch_size, processes=self._processes)
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
