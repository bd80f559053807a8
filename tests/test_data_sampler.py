"""Who reads which images: one global permutation, cut the same way for every split into ranks and steps."""

from math import comb
from typing import Any

import numpy as np
import pytest

from theanompi.data import Sampler, validation_batches
from theanompi.data.reading.random import permutation

N, BATCH = 1001, 8


def minibatches(
    size: int, accumulation: int, epoch: int, start: int = 0, n: int = N, shuffle: str = "global"
) -> list[list[np.ndarray]]:
    """Put the ranks' units back together: minibatch by minibatch, unit i from rank i % k at step i // k."""
    samplers = [Sampler(n, BATCH, size, rank, accumulation, 3, shuffle) for rank in range(size)]
    streams = [list(sampler.batches(epoch, start)) for sampler in samplers]
    whole = []
    for iteration, parts in enumerate(zip(*streams, strict=True), start):
        units = samplers[0].units(iteration)
        assert sum(len(part) for part in parts) == units
        assert [len(part) for part in parts] == [sampler.own_units(iteration) for sampler in samplers]
        whole.append([parts[i % size][i // size] for i in range(units)])
    return whole


@pytest.mark.parametrize("per_minibatch, splits", [(4, [(1, 4), (2, 2), (4, 1)]), (3, [(1, 3), (3, 1)])])
@pytest.mark.parametrize("epoch", [0, 5])
@pytest.mark.parametrize("shuffle", ["global", "worker"])
def test_every_split_gives_the_same_minibatches(
    per_minibatch: int, splits: list[tuple[int, int]], epoch: int, shuffle: str
) -> None:
    wholes = [minibatches(size, accumulation, epoch, shuffle=shuffle) for size, accumulation in splits]
    for whole in wholes:
        assert [len(m) for m in whole[:-1]] == [per_minibatch] * (len(whole) - 1)
        np.testing.assert_array_equal(np.concatenate(sum(whole, [])), np.concatenate(sum(wholes[0], [])))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_an_epoch_uses_each_image_at_most_once_and_drops_fewer_than_n(size: int, accumulation: int) -> None:
    seen = np.concatenate(sum(minibatches(size, accumulation, epoch=1), []))
    assert np.unique(seen).size == seen.size
    assert seen.min() >= 0 and seen.max() < N
    dropped = Sampler(N, BATCH, size, 0, accumulation, seed=3).dropped
    assert N - seen.size == dropped == N % BATCH < BATCH


def test_consecutive_epochs_differ_and_seeds_differ() -> None:
    def order(epoch: int, seed: int) -> np.ndarray:
        return np.concatenate(sum(Sampler(N, BATCH, 1, 0, 1, seed).batches(epoch), []))

    chance = 1 / N
    for other in (order(1, 0), order(0, 1)):
        assert np.mean(order(0, 0) == other) < 10 * chance
    np.testing.assert_array_equal(order(0, 0), order(0, 0))


@pytest.mark.parametrize("size", [2, 4])
def test_the_shuffle_is_global_not_within_shards(size: int) -> None:
    # Pitfall 4. Were each rank to shuffle a shard of its own, it would see the same images in every epoch.
    n, epochs = 1024, 60
    times = np.zeros((size, n))
    for rank in range(size):
        sampler = Sampler(n, BATCH, size, rank, 1, seed=0)
        for epoch in range(epochs):
            times[rank, np.concatenate(sum(sampler.batches(epoch), []))] += 1
    # An image visits each rank binomial(epochs, 1/size) times.
    mean, variance = epochs / size, epochs / size * (1 - 1 / size)
    assert (times.sum(axis=0) == epochs).all()
    assert np.abs(times - mean).max() < 6 * variance**0.5
    assert 0.8 < times.var() / variance < 1.2
    # Nor may an image keep its neighbours: within a minibatch, pairs are as mixed as chance has it.
    first, second = (minibatches(size, 1, epoch, n=n) for epoch in (0, 1))
    place = np.empty(n, int)
    for where, minibatch in enumerate(second):
        place[np.concatenate(minibatch)] = where
    together = [np.mean(place[np.concatenate(m)] == place[m[0][0]]) for m in first]
    assert np.mean(together) < 0.2


@pytest.mark.parametrize("start", [0, 7])
def test_pitfall_4_as_a_switch(start: int) -> None:
    """Worker i has the i-th unit of every minibatch, from an order of all images that only it has."""
    workers, epoch = 6, 4
    iterations = -(-(N // BATCH) // workers)
    order = [permutation(3, epoch, N, worker) for worker in range(workers)]
    got = minibatches(2, 3, epoch, start, shuffle="worker")
    assert [len(units) for units in got] == [6] * (iterations - 1 - start) + [N // BATCH % workers]
    for iteration, units in enumerate(got, start):
        for worker, ids in enumerate(units):
            np.testing.assert_array_equal(ids, order[worker][iteration * BATCH : (iteration + 1) * BATCH])


def test_with_a_shuffle_per_worker_an_epoch_repeats_images_and_misses_others() -> None:
    n, workers = 8192, 32
    once, wrong = (
        np.concatenate(sum(minibatches(8, 4, 0, n=n, shuffle=s), [])) for s in ("global", "worker")
    )
    assert len(wrong) == len(once) == n
    assert np.unique(once).size == n
    # An image is with each worker with probability 1/32: the number of times is binomial.
    times = np.bincount(np.bincount(wrong, minlength=n), minlength=9)[:6] / n
    expected = [comb(workers, j) / workers**j * (1 - 1 / workers) ** (workers - j) for j in range(6)]
    np.testing.assert_allclose(times, expected, atol=0.015)
    # But no worker sees one twice.
    for rank in range(8):
        for step, units in enumerate(
            zip(*Sampler(n, BATCH, 8, rank, 4, 3, "worker").batches(0), strict=True)
        ):
            assert np.unique(np.concatenate(units)).size == n // workers, (rank, step)


@pytest.mark.parametrize("n", [8, 9, 70, 1001])
def test_a_shuffle_per_worker_never_asks_for_more_images_than_there_are(n: int) -> None:
    for workers in {1, min(3, n // BATCH), n // BATCH}:
        whole = minibatches(1, workers, 2, n=n, shuffle="worker")
        assert sum(map(len, whole)) == n // BATCH
        assert all(ids.shape == (BATCH,) and ids.max() < n for units in whole for ids in units)


@pytest.mark.parametrize(
    "n, size, accumulation, iterations, last, owned, dropped",
    [
        (64, 2, 2, 2, 4, [2, 2], 0),  # no trailing minibatch
        (71, 2, 2, 2, 4, [2, 2], 7),  # what is left over does not fill a unit
        (72, 2, 2, 3, 1, [1, 0], 0),  # rank 1 has none
        (90, 2, 2, 3, 3, [2, 1], 2),  # ranks differ
        (72, 4, 1, 3, 1, [1, 0, 0, 0], 0),
        (65, 4, 2, 1, 8, [2, 2, 2, 2], 1),  # a single minibatch
    ],
)
def test_trailing_minibatch(
    n: int, size: int, accumulation: int, iterations: int, last: int, owned: list[int], dropped: int
) -> None:
    samplers = [Sampler(n, BATCH, size, rank, accumulation, seed=0) for rank in range(size)]
    for sampler, own in zip(samplers, owned, strict=True):
        assert (sampler.iterations_per_epoch, sampler.dropped) == (iterations, dropped)
        assert (sampler.units(iterations - 1), sampler.own_units(iterations - 1)) == (last, own)
        batches = list(sampler.batches(0))
        assert len(batches) == iterations and len(batches[-1]) == own
        assert all(ids.shape == (BATCH,) and ids.dtype == np.int64 for units in batches for ids in units)


def test_resume_continues_where_the_epoch_stopped() -> None:
    straight = minibatches(2, 2, epoch=4)
    for start in (0, 1, 13, len(straight) - 1, len(straight)):
        resumed = minibatches(2, 2, epoch=4, start=start)
        assert len(resumed) == len(straight) - start
        for a, b in zip(resumed, straight[start:], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n_val", [1, 5, 16, 17, 360])
def test_validation_counts_each_image_once(size: int, n_val: int) -> None:
    count, batches = np.zeros(n_val), []
    for rank in range(size):
        own = validation_batches(n_val, 16, size, rank)
        batches.append(own)
        for ids, weights in own:
            assert ids.shape == weights.shape == (16,)
            assert ids.dtype == np.int64 and weights.dtype == np.float32
            np.add.at(count, ids, weights)
    np.testing.assert_array_equal(count, 1)
    # Padding is only ever in one batch of all, whatever k is, and the work is even.
    assert sum((weights == 0).any() for own in batches for _, weights in own) <= 1
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


@pytest.mark.parametrize(
    "change, text",
    [
        ({"n_images": 7}, "sampler: expected at least batch_size = 8 training images, got 7"),
        ({"batch_size": 0}, "sampler: expected batch_size of at least 1, got 0"),
        ({"size": 0}, "sampler: expected size of at least 1, got 0"),
        ({"accumulation": -1}, "sampler: expected accumulation of at least 1, got -1"),
        ({"rank": 2}, "sampler: expected a rank from 0 to 1, got 2"),
        ({"rank": -1}, "sampler: expected a rank from 0 to 1, got -1"),
        (
            {"n_images": 80, "batch_size": 32, "size": 1, "accumulation": 64},
            "accumulation: expected at most 2 on 1 rank, as the 80 training images make 2 batches of 32, got 64",
        ),
        (
            {"accumulation": 7},
            "accumulation: expected at most 6 on 2 ranks, as the 100 training images make 12 batches of 8, got 7",
        ),
        (
            {"size": 13},
            "devices: expected at most 12, as the 100 training images make 12 batches of 8, got 13",
        ),
        ({"shuffle": "local"}, "sampler: expected shuffle to be one of global, worker, got 'local'"),
    ],
)
def test_sampler_errors(change: dict[str, Any], text: str) -> None:
    good: dict[str, Any] = {
        "n_images": 100,
        "batch_size": 8,
        "size": 2,
        "rank": 0,
        "accumulation": 1,
        "seed": 0,
    }
    Sampler(**good)
    with pytest.raises(ValueError) as error:
        Sampler(**{**good, **change})
    assert str(error.value) == text


def test_position_errors() -> None:
    sampler = Sampler(100, 8, 2, 0, 1, seed=0)
    assert sampler.iterations_per_epoch == 6
    for position in (-1, 6):
        with pytest.raises(
            ValueError, match=f"^sampler: expected a position .* from 0 to 5, got {position}$"
        ):
            sampler.units(position)
    for start in (-1, 7):
        with pytest.raises(ValueError, match=f"^sampler: expected a start from 0 to 6, got {start}$"):
            sampler.batches(0, start)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((0, 8, 2, 0), "validation: expected n_val of at least 1, got 0"),
        ((10, 0, 2, 0), "validation: expected batch_size of at least 1, got 0"),
        ((10, 8, 0, 0), "validation: expected size of at least 1, got 0"),
        ((10, 8, 2, 2), "validation: expected a rank from 0 to 1, got 2"),
    ],
)
def test_validation_errors(arguments: tuple[int, int, int, int], text: str) -> None:
    with pytest.raises(ValueError) as error:
        validation_batches(*arguments)
    assert str(error.value) == text
