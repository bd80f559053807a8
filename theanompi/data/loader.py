"""Batches read ahead by a background thread."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from theanompi.data.augment import evaluation_boxes, train_boxes
from theanompi.data.random import sample_keys
from theanompi.data.sampler import Sampler, validation_batches
from theanompi.data.schema import Dataset


@dataclass(frozen=True)
class Batch:
    """The n images of one unit, as they go to the device.

    Attributes
    ----------
    images : uint8 (n, h, w, c)
    labels : int64 (n,)
    ids : int64 (n,)
        Positions in the split.
    boxes : float32 (n, 5)
        Where to crop and whether to mirror: y0, x0, height, width in source pixels, flip 0 or 1.
    keys : int64 (n,)
        Random keys for dropout; zeros in validation, which has no dropout.
    weights : float32 (n,)
        1, or 0 for the padding of the last validation batch.

    Examples
    --------
    >>> from theanompi.data import open_dataset
    >>> with Loader.validation(open_dataset("digits"), batch_size=16, size=1, rank=0) as loader:
    ...     next(loader).images.shape
    (16, 32, 32, 1)
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    boxes: NDArray[np.float32]
    keys: NDArray[np.int64]
    weights: NDArray[np.float32]


def _train_batches(
    dataset: Dataset, units: Iterator[NDArray[np.int64]], seed: int, epoch: int
) -> Iterator[Batch]:
    height, width, _ = dataset.shape
    for ids in units:
        images, labels = dataset.read("train", ids)
        boxes = train_boxes(dataset.augmentation, height, width, seed, epoch, ids)
        keys = sample_keys(seed, epoch, ids)
        yield Batch(images, labels, ids, boxes, keys, np.ones(len(ids), np.float32))


def _validation_batches(dataset: Dataset, batch_size: int, size: int, rank: int) -> Iterator[Batch]:
    height, width, _ = dataset.shape
    boxes = evaluation_boxes(dataset.augmentation, height, width, batch_size)
    for ids, weights in validation_batches(dataset.n_val, batch_size, size, rank):
        images, labels = dataset.read("val", ids)
        yield Batch(images, labels, ids, boxes, np.zeros(len(ids), np.int64), weights)


class Loader(Iterator[Batch]):
    """Runs an iterator of batches in a background thread, up to `depth` batches ahead.

    An exception in the thread is raised by `__next__`, as itself, after the batches that were made before it.
    Use it in a ``with`` statement, or call `close`; the thread is a daemon, so a loader that is forgotten
    does not keep the process alive.

    Parameters
    ----------
    batches : iterable of Batch
        Advanced in the thread only.
    depth : int
        How many finished batches may wait.
    units : iterable of int
        Batches in each iteration, for `iterations`.

    Raises
    ------
    ValueError
        If `depth` is less than 1.

    Examples
    --------
    >>> with Loader(iter([]), depth=2) as loader:
    ...     list(loader)
    []
    """

    def __init__(self, batches: Iterable[Batch], depth: int = 4, units: Iterable[int] = ()) -> None:
        if depth < 1:
            raise ValueError(f"loader: expected depth of at least 1, got {depth}")
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._units = units
        self._stop = threading.Event()
        self._finished = False
        self._thread = threading.Thread(target=self._fill, args=(batches,), name="loader", daemon=True)
        self._thread.start()

    @classmethod
    def train(
        cls, dataset: Dataset, sampler: Sampler, epoch: int, start: int = 0, depth: int = 4
    ) -> "Loader":
        """Load the units of one rank in a training epoch.

        Parameters
        ----------
        dataset : Dataset
        sampler : Sampler
            Over ``dataset.n_train`` images.
        epoch : int
        start : int
            Position in the epoch to begin at.
        depth : int
            How many finished batches may wait.

        Raises
        ------
        ValueError
            If the sampler is for another number of images, or `start` is outside the epoch.

        Examples
        --------
        >>> from theanompi.data import open_dataset
        >>> data = open_dataset("digits")
        >>> sampler = Sampler(data.n_train, batch_size=16, size=2, rank=1, accumulation=4, seed=0)
        >>> with Loader.train(data, sampler, epoch=0, start=10) as loader:
        ...     [[batch.labels.shape for batch in units] for units in loader.iterations()]
        [[(16,), (16,), (16,), (16,)], []]
        """
        if sampler.n_images != dataset.n_train:
            raise ValueError(
                f"loader: expected a sampler over {dataset.n_train} training images, "
                f"got one over {sampler.n_images}"
            )
        ids = chain.from_iterable(sampler.batches(epoch, start))
        counts = [sampler.own_units(iteration) for iteration in range(start, sampler.iterations_per_epoch)]
        return cls(_train_batches(dataset, ids, sampler.seed, epoch), depth, counts)

    @classmethod
    def validation(cls, dataset: Dataset, batch_size: int, size: int, rank: int, depth: int = 4) -> "Loader":
        """Load the validation images of one rank; over all ranks, each counts exactly once.

        Parameters
        ----------
        dataset : Dataset
        batch_size : int
            n, images per batch.
        size, rank : int
            k, the number of ranks, and which of them this is.
        depth : int
            How many finished batches may wait.

        Examples
        --------
        >>> from theanompi.data import open_dataset
        >>> with Loader.validation(open_dataset("digits"), batch_size=50, size=2, rank=1) as loader:
        ...     [int(batch.weights.sum()) for batch in loader]
        [50, 50, 50, 10]
        """
        return cls(_validation_batches(dataset, batch_size, size, rank), depth)

    def _fill(self, batches: Iterable[Batch]) -> None:
        end: BaseException = StopIteration()
        try:
            for batch in batches:
                self._queue.put(batch)
                if self._stop.is_set():
                    return
        except BaseException as error:
            # Handed over, not handled: whatever it is, the consumer must hear of it, or would wait for ever.
            end = error
        self._queue.put(end)

    def __next__(self) -> Batch:
        """Wait for the next batch.

        Raises
        ------
        StopIteration
            At the end.
        ValueError
            If the loader was closed.
        Exception
            Whatever was raised in the thread.
        """
        if self._stop.is_set():
            raise ValueError("loader: expected an open loader, got a closed one")
        if self._finished:
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._finished = True
            raise item
        return item

    def iterations(self) -> Iterator[Iterator[Batch]]:
        """Group the batches of a training epoch by iteration; the trailing one may have none for this rank.

        Each group reads on as it is consumed, so that accumulation needs no more memory than `depth`. What a
        consumer leaves of a group is skipped.

        Examples
        --------
        >>> with Loader(iter("abc"), units=[2, 1]) as loader:
        ...     [list(units) for units in loader.iterations()]
        [['a', 'b'], ['c']]
        """
        for count in self._units:
            units = islice(self, count)
            yield units
            for _ in units:
                pass

    def close(self) -> None:
        """Stop the thread, after the batch that it is making, and wait for that. A second call does nothing.

        Examples
        --------
        >>> Loader(iter("abc"), depth=1).close()
        """
        self._stop.set()
        # After a put the thread looks at the event, so it can fill at most one more place, and all of them
        # are free now.
        while not self._queue.empty():
            self._queue.get_nowait()
        self._thread.join()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
