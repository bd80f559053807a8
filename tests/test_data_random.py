"""Counter-based random numbers: against the published algorithm, and as random numbers."""

import numpy as np
import pytest
from scipy import stats

from theanompi.data.reading.random import Purpose, permutation, sample_keys, splitmix64, uniforms

MASK = 2**64 - 1


def reference_splitmix64(state: int, count: int) -> list[int]:
    """Vigna's C code (https://prng.di.unimi.it/splitmix64.c) in Python's integers."""
    out = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


@pytest.mark.parametrize("state", [0, 1, 1234567, MASK])
def test_splitmix64_is_the_published_generator(state: int) -> None:
    assert splitmix64(np.array([state], np.uint64), 50)[0].tolist() == reference_splitmix64(state, 50)


def state(*words: int) -> int:
    """What a generator starts from that is for these."""
    value = 0
    for word in words:
        value = reference_splitmix64(value ^ (word & MASK), 1)[0]
    return value


def test_uniforms_absorb_seed_epoch_purpose_and_id_in_turn() -> None:
    draws = reference_splitmix64(state(-5, 3, int(Purpose.CROP), 17), 3)
    expected = [(z >> 11) / 2**53 for z in draws]
    assert uniforms(-5, 3, np.array([17]), Purpose.CROP, 3)[0].tolist() == expected


@pytest.mark.parametrize("seed, epoch", [(0, 0), (1, 0), (0, 89)])
def test_uniforms_are_uniform(seed: int, epoch: int) -> None:
    u = uniforms(seed, epoch, np.arange(20_000), Purpose.CROP, 4)
    assert u.shape == (20_000, 4) and u.dtype == np.float64
    assert u.min() >= 0 and u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
        assert stats.chisquare(np.bincount((column * 100).astype(int), minlength=100)).pvalue > 1e-3


def test_neighbours_are_independent() -> None:
    # Where a weak counter-based generator shows its lattice.
    ids = np.arange(20_000)
    base = uniforms(0, 0, ids, Purpose.CROP, 2)
    others = {
        "id": uniforms(0, 0, ids + 1, Purpose.CROP, 1)[:, 0],
        "counter": base[:, 1],
        "epoch": uniforms(0, 1, ids, Purpose.CROP, 1)[:, 0],
        "seed": uniforms(1, 0, ids, Purpose.CROP, 1)[:, 0],
        "purpose": uniforms(0, 0, ids, Purpose.DROPOUT, 1)[:, 0],
    }
    for what, other in others.items():
        table = np.histogram2d(base[:, 0], other, bins=16, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(table.ravel()).pvalue > 1e-3, what
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < 4 / np.sqrt(len(ids)), what


def test_a_number_does_not_depend_on_who_else_asks() -> None:
    together = uniforms(7, 2, np.array([5, 900, 31]), Purpose.CROP, 6)
    for row, i in zip(together, (5, 900, 31), strict=True):
        assert (uniforms(7, 2, np.array([i]), Purpose.CROP, 6)[0] == row).all()
        assert (uniforms(7, 2, np.array([i]), Purpose.CROP, 2)[0] == row[:2]).all()


def test_sample_keys_differ_between_samples_epochs_and_seeds() -> None:
    ids = np.arange(5000)
    keys = np.stack([sample_keys(seed, epoch, ids) for seed in (0, 1) for epoch in (0, 1)])
    assert keys.dtype == np.int64
    assert np.unique(keys).size == keys.size
    bits = ((keys.ravel()[:, None] >> np.arange(64)) & 1).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 5 * 0.5 / np.sqrt(keys.size)
    assert (sample_keys(1, 1, ids) == keys[3]).all()


def test_sample_keys_are_for_dropout_alone() -> None:
    expected = [reference_splitmix64(state(5, -1, int(Purpose.DROPOUT), i), 1)[0] for i in (0, 7)]
    assert sample_keys(5, -1, np.array([0, 7])).view(np.uint64).tolist() == expected


def test_a_workers_permutation_has_a_seed_of_its_own() -> None:
    (seed,) = reference_splitmix64(state(3, 2, int(Purpose.WORKER_ORDER), 5), 1)
    keys = [reference_splitmix64(state(seed, 2, int(Purpose.WORKER_ORDER), i), 1)[0] for i in range(50)]
    assert permutation(3, 2, 50, worker=5).tolist() == sorted(range(50), key=lambda i: keys[i])


def test_workers_permutations_are_fair_and_independent() -> None:
    orders = np.stack([permutation(0, epoch, 4, worker) for epoch in range(60) for worker in range(60)])
    codes = np.unique(orders @ 4 ** np.arange(4), return_counts=True)[1]
    assert len(codes) == 24 and stats.chisquare(codes).pvalue > 1e-3
    # Of two workers in one epoch, every pair of orders is as frequent.
    place = {tuple(order): i for i, order in enumerate(np.unique(orders, axis=0).tolist())}
    table = np.zeros((24, 24))
    for epoch in range(6000):
        first, second = (tuple(permutation(1, epoch, 4, worker).tolist()) for worker in (0, 1))
        table[place[first], place[second]] += 1
    assert stats.chisquare(table.ravel()).pvalue > 1e-3
    assert not (permutation(0, 0, 1000) == permutation(0, 0, 1000, worker=0)).all()


def test_permutation_is_a_fair_shuffle() -> None:
    n = 5
    orders = np.stack([permutation(seed, epoch, n) for seed in range(60) for epoch in range(60)])
    assert (np.sort(orders, axis=1) == np.arange(n)).all()
    codes = np.unique(orders @ n ** np.arange(n), return_counts=True)[1]
    assert len(codes) == 120
    assert stats.chisquare(codes).pvalue > 1e-3
    assert not (permutation(0, 0, 1000) == permutation(0, 1, 1000)).all()
    assert not (permutation(0, 0, 1000) == permutation(1, 0, 1000)).all()
