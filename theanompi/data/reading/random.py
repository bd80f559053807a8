"""Random numbers as pure functions of (seed, epoch, sample id, purpose).

Nothing here has state: a number depends on what it is for, not on who asks, when, or how often. That is what
makes shuffling, augmentation and dropout the same for every split of a minibatch into ranks and accumulation
steps, and after a resume.

The generator is splitmix64 (Steele, Lea & Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA
2014, figure 16) in its counter form. It is written out here, rather than taken from `numpy.random`, because
NumPy may change its streams between versions.
"""

from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MASK = 2**64 - 1


class Purpose(IntEnum):
    """What a random number is for; numbers for different purposes are independent.

    Runs are resumed, and compared, across versions: never renumber.

    >>> Purpose.CROP.name
    'CROP'
    """

    ORDER = 1
    CROP = 2
    DROPOUT = 3
    SPLIT = 4
    COLOR = 5
    LIGHTING = 6
    WORKER_ORDER = 7
    GLYPH = 8
    SENTENCE = 9
    MIXING = 10
    ERASING = 11


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def splitmix64(states: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """Draw the first `count` outputs of one splitmix64 generator per state.

    Parameters
    ----------
    states : uint64 (n,)
        The state that each generator starts from.
    count : int
        How many numbers to draw from each.

    Returns
    -------
    uint64 (n, count)

    Examples
    --------
    >>> splitmix64(np.array([1234567], np.uint64), 2)
    array([[6457827717110365317, 3203168211198807973]], dtype=uint64)
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    return _mix(states[:, None] + steps)


@lru_cache(maxsize=16)
def _state(*words: int) -> NDArray[np.uint64]:
    """What all samples have in common, uint64 (1,); asked for with each batch of an epoch."""
    state = np.zeros(1, np.uint64)
    for word in words:
        state = _mix((state ^ np.uint64(word & _MASK)) + _GOLDEN)
    return state


def _states(seed: int, epoch: int, ids: NDArray[np.int64], purpose: Purpose) -> NDArray[np.uint64]:
    # Each word is absorbed by a bijection, so two samples of one (seed, epoch, purpose) never share a state.
    state = _state(seed, epoch, purpose)
    return _mix((state ^ np.asarray(ids, np.int64).view(np.uint64)) + _GOLDEN)


def uniforms(
    seed: int, epoch: int, ids: NDArray[np.int64], purpose: Purpose, count: int
) -> NDArray[np.float64]:
    """Draw uniform random numbers for each sample.

    Parameters
    ----------
    seed, epoch : int
        Any integers; taken modulo 2**64.
    ids : int64 (n,)
        Sample ids.
    purpose : Purpose
        What the numbers are for.
    count : int
        Numbers per sample.

    Returns
    -------
    float64 (n, count)
        In [0, 1), multiples of 2**-53.

    Examples
    --------
    >>> both = uniforms(0, 3, np.array([7, 8]), Purpose.CROP, 4)
    >>> alone = uniforms(0, 3, np.array([8]), Purpose.CROP, 4)
    >>> both.shape, bool((both[1] == alone[0]).all())
    ((2, 4), True)
    """
    bits = splitmix64(_states(seed, epoch, ids, purpose), count) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def sample_keys(seed: int, epoch: int, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Make one 64-bit key per sample, from which the device derives that sample's dropout masks.

    Parameters
    ----------
    seed, epoch : int
        Any integers; taken modulo 2**64.
    ids : int64 (n,)
        Sample ids.

    Returns
    -------
    int64 (n,)
        Over the whole int64 range, all different for different ids.
    """
    return splitmix64(_states(seed, epoch, ids, Purpose.DROPOUT), 1)[:, 0].view(np.int64)


def permutation(seed: int, epoch: int, n: int, worker: int | None = None) -> NDArray[np.int64]:
    """Shuffle: the one global order of an epoch's images (Goyal et al. 2017, §3, remark 4), or a worker's own.

    Parameters
    ----------
    seed, epoch : int
        Any integers; taken modulo 2**64.
    n : int
        How many images there are.
    worker : int, optional
        Whose order, independent of all others; the global one if left out.

    Returns
    -------
    int64 (n,)
        A permutation of 0 … n-1.
    """
    purpose = Purpose.ORDER
    if worker is not None:
        purpose = Purpose.WORKER_ORDER
        seed = int(splitmix64(_states(seed, epoch, np.array([worker]), purpose), 1)[0, 0])
    keys = splitmix64(_states(seed, epoch, np.arange(n), purpose), 1)[:, 0]
    return np.argsort(keys, kind="stable")
