"""Which items (images, say) a rank reads, and when.

A minibatch is A·k *units* of n images (A accumulation steps, k ranks, n images per rank and step). Unit i of
a minibatch belongs to rank i % k at accumulation step i // k, and the units of an epoch are consecutive
pieces of one global permutation (Goyal et al. 2017, §3, remark 4). The same A·k therefore gives the same
minibatches, unit by unit, however it is split into ranks and steps.

To show what happens where that remark is not heeded, there is ``shuffle="worker"``: unit i of each minibatch is
worker i's, who shuffles *all* images by itself, independently of the others, and takes the next n of its own
order. An epoch then has as many images, but some of them more than once and about 1/e of them not at all. The
split into ranks and steps still does not matter. An image that comes twice in an epoch is cropped alike.

The images left over after the last full minibatch form one trailing minibatch of u = rest // n units, if
u > 0. Its loss is normalised by u·n, and ranks without a unit in one of its steps contribute nothing. Fewer
than n images are dropped in each epoch, and which ones changes with the permutation. Validation drops and
repeats nothing.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from theanompi.config import SHUFFLES, counted
from theanompi.data.reading.random import permutation


class Sampler:
    """The training images of one rank, epoch by epoch.

    Parameters
    ----------
    n_images : int
        Images in the training set.
    batch_size : int
        n, images per unit.
    size, rank : int
        k, the number of ranks, and which of them this is.
    accumulation : int
        A, units per rank and minibatch.
    seed : int
        Seed of the order.
    shuffle : {"global", "worker"}
        One order for all, or each worker its own.
    noun : str
        What messages call the items, in the plural.

    Attributes
    ----------
    minibatch : int
        A·k·n, the images of each minibatch but a trailing one.
    iterations_per_epoch : int
        Minibatches per epoch, the trailing one included.
    dropped : int
        Images not used in an epoch, fewer than `batch_size`.

    Raises
    ------
    ValueError
        If a number is out of range, the images do not fill even one minibatch, or `shuffle` is another.

    Examples
    --------
    >>> sampler = Sampler(n_images=23, batch_size=2, size=2, rank=1, accumulation=2, seed=0)
    >>> sampler.iterations_per_epoch, sampler.dropped
    (3, 1)
    >>> [sampler.units(i) for i in range(3)], [sampler.own_units(i) for i in range(3)]
    ([4, 4, 3], [2, 2, 1])
    >>> [[ids.shape for ids in units] for units in sampler.batches(epoch=0, start=1)]
    [[(2,), (2,)], [(2,)]]
    """

    def __init__(
        self,
        n_images: int,
        batch_size: int,
        size: int,
        rank: int,
        accumulation: int,
        seed: int,
        shuffle: str = "global",
        noun: str = "images",
    ) -> None:
        for name, value in (("batch_size", batch_size), ("size", size), ("accumulation", accumulation)):
            if value < 1:
                raise ValueError(f"sampler: expected {name} of at least 1, got {value}")
        if not 0 <= rank < size:
            raise ValueError(f"sampler: expected a rank from 0 to {size - 1}, got {rank}")
        if n_images < batch_size:
            raise ValueError(
                f"sampler: expected at least batch_size = {batch_size} training {noun}, got {n_images}"
            )
        if shuffle not in SHUFFLES:
            raise ValueError(f"sampler: expected shuffle to be one of {', '.join(SHUFFLES)}, got {shuffle!r}")
        self.n_images, self.batch_size, self.size, self.rank = n_images, batch_size, size, rank
        self.accumulation, self.seed, self.shuffle = accumulation, seed, shuffle
        self._units = n_images // batch_size
        self.minibatch = accumulation * size * batch_size
        # A learning rate is meant for a minibatch: there has to be one.
        if accumulation * size > self._units:
            why = f"as the {n_images} training {noun} make {self._units} batches of {batch_size}"
            if size > self._units:
                raise ValueError(f"devices: expected at most {self._units}, {why}, got {size}")
            raise ValueError(
                f"accumulation: expected at most {self._units // size} on {counted(size, 'rank')}, {why}, "
                f"got {accumulation}"
            )
        self.dropped = n_images % batch_size
        self.iterations_per_epoch = -(-self._units // (accumulation * size))

    def units(self, iteration: int) -> int:
        """Count the units of a minibatch over all ranks: A·k, or u in a trailing one.

        The loss is normalised by this times n.

        Parameters
        ----------
        iteration : int
            Position in the epoch, 0 … iterations_per_epoch - 1.

        Raises
        ------
        ValueError
            If there is no such position.
        """
        if not 0 <= iteration < self.iterations_per_epoch:
            last = self.iterations_per_epoch - 1
            raise ValueError(f"sampler: expected a position in the epoch from 0 to {last}, got {iteration}")
        full = self.accumulation * self.size
        return min(full, self._units - iteration * full)

    def own_units(self, iteration: int) -> int:
        """Count the units of a minibatch that are this rank's: A, or fewer (maybe none) in a trailing one.

        Parameters
        ----------
        iteration : int
            Position in the epoch, 0 … iterations_per_epoch - 1.

        Raises
        ------
        ValueError
            If there is no such position.
        """
        return len(range(self.rank, self.units(iteration), self.size))

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[NDArray[np.int64]]]:
        """Deal out this rank's units, minibatch by minibatch.

        Parameters
        ----------
        epoch : int
            Which epoch's order to use.
        start : int
            Position in the epoch to begin at, for a resumed run; `iterations_per_epoch` gives an empty
            iterator.

        Returns
        -------
        iterator over list of int64 (n,)
            One list per minibatch, with `own_units` arrays of sample ids.

        Raises
        ------
        ValueError
            If `start` is outside the epoch.
        """
        if not 0 <= start <= self.iterations_per_epoch:
            raise ValueError(f"sampler: expected a start from 0 to {self.iterations_per_epoch}, got {start}")
        return self._batches(epoch, start)

    def _batches(self, epoch: int, start: int) -> Iterator[list[NDArray[np.int64]]]:
        full = self.accumulation * self.size
        if self.shuffle == "global":
            units = self._pieces(permutation(self.seed, epoch, self.n_images), self._units)
            for iteration in range(start, self.iterations_per_epoch):
                yield list(units[iteration * full : (iteration + 1) * full][self.rank :: self.size])
        else:
            own = [
                self._pieces(permutation(self.seed, epoch, self.n_images, worker), self.iterations_per_epoch)
                for worker in range(self.rank, full, self.size)
            ]
            for iteration in range(start, self.iterations_per_epoch):
                yield [pieces[iteration] for pieces in own[: self.own_units(iteration)]]

    def _pieces(self, order: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The first `count` pieces of n images; a copy, for the order may be much longer."""
        return order[: count * self.batch_size].reshape(count, self.batch_size).copy()


def validation_batches(
    n_val: int, batch_size: int, size: int, rank: int
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Deal out one rank's validation images; over all ranks each counts exactly once, for every k.

    Consecutive batches of the whole set are dealt out to the ranks in turn, so that the batches themselves do
    not depend on k. Ranks may get different numbers of batches, even none. Only the very last batch may be
    short: it is filled up with its last image at weight 0.

    Parameters
    ----------
    n_val : int
        Images in the validation set.
    batch_size : int
        n, images per batch.
    size, rank : int
        k, the number of ranks, and which of them this is.

    Returns
    -------
    list of (int64 (n,), float32 (n,))
        Sample ids and their weights, 0 or 1.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> validation_batches(n_val=7, batch_size=4, size=2, rank=1)
    [(array([4, 5, 6, 6]), array([1., 1., 1., 0.], dtype=float32))]
    """
    for name, value in (("n_val", n_val), ("batch_size", batch_size), ("size", size)):
        if value < 1:
            raise ValueError(f"validation: expected {name} of at least 1, got {value}")
    if not 0 <= rank < size:
        raise ValueError(f"validation: expected a rank from 0 to {size - 1}, got {rank}")
    starts = range(0, n_val, batch_size)[rank::size]
    positions = [np.arange(start, start + batch_size) for start in starts]
    return [(np.minimum(p, n_val - 1), (p < n_val).astype(np.float32)) for p in positions]
