"""The documented hash of keyed random numbers in NumPy's uint64, apart from the package's."""

from collections.abc import Sequence

import numpy as np


def keyed_bits(keys: np.ndarray, shape: Sequence[int], salt: int) -> np.ndarray:
    """24 bits for each element of each key: SplitMix64 of the key, then counted on by the golden ratio."""
    u = np.uint64

    def finalise(x: np.ndarray) -> np.ndarray:
        x = (x ^ (x >> u(30))) * u(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> u(27))) * u(0x94D049BB133111EB)
        return x ^ (x >> u(31))

    golden = u(0x9E3779B97F4A7C15)
    size = int(np.prod(shape))
    seeds = finalise(keys.astype("int64").view("uint64") ^ u(salt * int(golden) % (1 << 64)))
    bits = finalise(seeds[:, None] + np.arange(1, size + 1, dtype="uint64") * golden)
    return (bits >> u(40)).reshape(len(keys), *shape)


def keyed_uniform(keys: np.ndarray, shape: Sequence[int], salt: int) -> np.ndarray:
    """The middles of 2²³ equal parts of (0, 1), float64."""
    return ((keyed_bits(keys, shape, salt) >> np.uint64(1)).astype(float) + 0.5) / 2**23


def keyed_normal(keys: np.ndarray, shape: Sequence[int], salt: int) -> np.ndarray:
    """Box and Muller's transform of two of them, float64."""
    u, v = np.moveaxis(keyed_uniform(keys, (2, *shape), salt), 1, 0)
    return np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
