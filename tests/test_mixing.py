"""Mixup, cutmix and random erasing: laws of what is drawn, pixels against NumPy loops, losses against torch."""

import math
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor
import pytest
import torch
from scipy import stats
from torch.nn.functional import cross_entropy

from theanompi import classification, device
from theanompi.config import ConfigError, RunConfig, resolve
from theanompi.data import Loader, Pictures, Sampler, open_dataset
from theanompi.data.arrays import Arrays
from theanompi.data.pictures import augment
from theanompi.data.pictures.augment import erased_boxes, mixing
from theanompi.training.inputs import Inputs
from theanompi.training.objective import trace

SIZE = 40
BATCHES = np.arange(6_000)


def drawn(mixup: float, cutmix: float, seed: int = 0, epoch: int = 0) -> np.ndarray:
    """Of many batches, each with two samples: y0, x0, height, width, share."""
    both = [mixing(mixup, cutmix, SIZE, seed, epoch, np.array([first, 9])) for first in BATCHES]
    assert all((rows[0] == rows[1]).all() for rows in both)
    return np.array([rows[0] for rows in both], np.float64)


def test_mixup_is_of_whole_images_by_shares_from_a_beta_distribution() -> None:
    draws = drawn(0.4, 0)
    assert (draws[:, :4] == [0, 0, SIZE, SIZE]).all()
    assert stats.kstest(draws[:, 4], stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_cutmix_cuts_boxes_of_those_shares_around_centres_anywhere() -> None:
    """As an independent sampler of the paper's algorithm does."""
    y, x, h, w, share = drawn(0, 1).T
    assert (share == 1).all() and (y >= 0).all() and (y + h <= SIZE).all() and (x + w <= SIZE).all()
    rng = np.random.default_rng(0)
    areas, edges = [], []
    for _ in BATCHES:
        side = math.sqrt(rng.beta(1, 1))
        rows = [rng.integers(SIZE) + sign * int(0.5 * SIZE * side) * np.array([-1, 1]) for sign in (1, 1)]
        (top, bottom), (left, right) = (row.clip(0, SIZE) for row in rows)
        areas.append((bottom - top) * (right - left))
        edges.append(top)
    assert stats.ks_2samp(h * w, areas).pvalue > 1e-3
    assert stats.ks_2samp(y, edges).pvalue > 1e-3 and stats.ks_2samp(x, edges).pvalue > 1e-3


def test_cutmix_has_its_centre_on_any_pixel_alike() -> None:
    # Shares are all near 1/2: boxes of 4 pixels, cut off at the edges of the image.
    boxes = np.concatenate([mixing(0, 1e6, 8, 0, 0, np.array([i])) for i in range(2000)])
    for start, side in ((boxes[:, 0], boxes[:, 2]), (boxes[:, 1], boxes[:, 3])):
        centre = np.where(start > 0, start + 2, side - 2)
        values, counts = np.unique(centre, return_counts=True)
        assert values.tolist() == list(range(8)) and stats.chisquare(counts).pvalue > 1e-3


def test_of_both_one_is_drawn_for_a_batch() -> None:
    cut = drawn(0.2, 1)[:, 4] == 1
    assert stats.binomtest(int(cut.sum()), len(cut), 0.5).pvalue > 1e-3


def test_what_is_drawn_is_a_function_of_seed_epoch_and_the_first_image() -> None:
    draws = drawn(0.2, 1)
    np.testing.assert_array_equal(draws, drawn(0.2, 1))
    for other in (drawn(0.2, 1, seed=1), drawn(0.2, 1, epoch=1)):
        assert abs(np.corrcoef(draws[:, 4], other[:, 4])[0, 1]) < 4 / np.sqrt(len(BATCHES))
    # From the version that had it first: a run that is resumed with a later one goes on with the same numbers.
    kept = [mixing(0.2, 1, SIZE, 3, 1, np.array([first]))[0] for first in (7, 8)]
    np.testing.assert_allclose(kept, [[0, 0, 40, 40, 0.9507831], [0, 8, 27, 32, 1]], rtol=1e-6)


@pytest.mark.usefixtures("forks")
def test_each_batch_of_a_loader_has_what_its_own_first_image_draws() -> None:
    with open_dataset("digits") as digits:
        pictures = Pictures(digits, resolve(RunConfig(image_size=SIZE, mixup=0.2, cutmix=1.0)))
        sampler = Sampler(digits.n_train, 16, 1, 0, 1, seed=0)
        with Loader(pictures, 16) as loader:
            for units in islice(loader.train(sampler, epoch=3), 5):
                for batch in units:
                    expected = mixing(0.2, 1.0, SIZE, pictures.seed, 3, batch.ids)
                    np.testing.assert_array_equal(batch.fields["mixing"], expected)


def test_erased_boxes_have_the_papers_areas_and_lie_anywhere() -> None:
    size = 10_000  # so that whole pixels do not matter
    ids = np.arange(20_000)
    boxes = erased_boxes(0.3, size, 0, 0, ids).astype(np.float64)
    y, x, h, w = boxes[boxes[:, 2] > 0].T
    # Nearly all boxes fit at one of ten attempts.
    assert stats.binomtest(len(h), len(ids), 0.3).pvalue > 1e-3
    assert (y >= 0).all() and (y + h <= size).all() and (x >= 0).all() and (x + w <= size).all()
    rng = np.random.default_rng(1)
    areas = rng.uniform(0.02, 0.4, 50_000)
    aspects = np.exp(rng.uniform(math.log(0.3), -math.log(0.3), len(areas)))
    fits = (areas * aspects <= 1) & (areas / aspects <= 1)
    assert stats.ks_2samp(h * w / size**2, areas[fits]).pvalue > 1e-3
    assert stats.ks_2samp(h / w, aspects[fits]).pvalue > 1e-3
    assert stats.kstest(y / (size - h), "uniform").pvalue > 1e-3
    np.testing.assert_array_equal(boxes[5:9], erased_boxes(0.3, size, 0, 0, ids[5:9]))
    assert (erased_boxes(1, 3, 0, 0, ids)[:, 2:] <= 3).all()


def test_erased_boxes_lie_on_any_pixels_alike() -> None:
    y, x, h, w = erased_boxes(1, 6, 0, 0, np.arange(20_000)).T
    for starts, sides in ((y, h), (x, w)):
        _, counts = np.unique(starts[sides == 2], return_counts=True)
        assert len(counts) == 5 and stats.chisquare(counts).pvalue > 1e-3


def test_what_fits_at_no_attempt_erases_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "_ATTEMPTS", 1)
    y, x, h, w = erased_boxes(1, 1000, 0, 0, np.arange(20_000)).T
    assert (y + h <= 1000).all() and (x + w <= 1000).all()
    rng = np.random.default_rng(1)
    areas = rng.uniform(0.02, 0.4, 50_000)
    aspects = np.exp(rng.uniform(math.log(0.3), -math.log(0.3), len(areas)))
    fits = (areas * aspects <= 1) & (areas / aspects <= 1)
    assert 0.9 < fits.mean() < 0.99
    assert stats.binomtest(int((h > 0).sum()), len(h), fits.mean()).pvalue > 1e-3


def seen(ids: np.ndarray, training: bool, **settings: Any) -> tuple[Pictures, dict[str, np.ndarray]]:
    """What a network sees of digits, 16 pixels wide."""
    pictures = Pictures(
        open_dataset("digits"), resolve(RunConfig(image_size=16, batch_size=len(ids), **settings))
    )
    inputs = Inputs(pictures, len(ids))
    rows, values = pictures.batch("train", 2 if training else None, ids)
    images = np.stack([pictures.dataset.pixels("train", i) for i in ids])
    for name, value in {**values, "images": images, "weights": np.ones(len(ids), "float32")}.items():
        inputs.variables[name].set_value(value)
    graph = pictures.graph(inputs.variables, training)
    found = pytensor.function([], list(graph.values()), mode=device.mode())()
    return pictures, dict(zip(graph, found, strict=True)) | {f"given {k}": v for k, v in values.items()}


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_pixels_and_labels_are_mixed_as_in_a_loop(way: str) -> None:
    ids = np.array([11, 5, 900, 33])
    plain = seen(ids, True)[1]["images"]
    settings = {way: 1.0, "random_erasing": 1.0}
    pictures, after = seen(ids, True, **settings)
    erased = erased_boxes(1, 16, 0, 2, ids).astype(int)
    y, x, h, w, share = mixing(settings.get("mixup", 0), settings.get("cutmix", 0), 16, 0, 2, ids)[0]
    blank = plain.copy()
    for image, (top, left, height, width) in zip(blank, erased, strict=True):
        image[:, top : top + height, left : left + width] = 0
    expected = blank.copy()
    weight = np.zeros(4)
    for i in range(4):
        for row in range(16):
            for column in range(16):
                if y <= row < y + h and x <= column < x + w:
                    theirs = blank[i - 1, :, row, column]
                    expected[i, :, row, column] = (1 - share) * blank[i, :, row, column] + share * theirs
                    weight[i] += share / 16**2
    assert 0 < weight[0] < 1
    np.testing.assert_allclose(after["images"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["mixed"], weight, rtol=1e-5)
    # A validation sees them as they are, and nothing is mixed in it.
    _, validated = seen(ids, False, **settings)
    assert "mixed" not in validated
    np.testing.assert_array_equal(validated["images"], seen(ids, False)[1]["images"])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_mixed_labels_and_errors_are_about_the_larger_share(smoothing: float) -> None:
    n, classes = 4, 7
    rng = np.random.default_rng(2)
    values, labels = rng.normal(size=(n, classes)).astype("float32"), rng.integers(0, classes, n)
    x, mixed = device.shared(values), device.shared(np.full(n, 0.7, "float32"))
    batch = {"labels": device.shared(labels), "keys": device.shared(np.arange(n)), "mixed": mixed}
    model = SimpleNamespace(
        config=resolve(RunConfig(mixup=1, label_smoothing=smoothing)),
        objectives=lambda batch, training: classification(x, batch["labels"]),
    )
    objective = trace(model, batch, n, training=True).objectives[0]
    loss, error = objective.loss, objective.metrics["error"]
    ours = pytensor.function([], [loss, pytensor.grad(loss.sum(), x), error], mode=device.mode())()
    targets = torch.zeros(n, classes)
    for i in range(n):
        targets[i, labels[i]] += 0.3
        targets[i, labels[i - 1]] += 0.7
    theirs = torch.from_numpy(values).requires_grad_()
    expected = cross_entropy(theirs, targets, label_smoothing=smoothing, reduction="none")
    expected.sum().backward()
    np.testing.assert_allclose(ours[0], expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(ours[1], theirs.grad, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(ours[2], values.argmax(1) != np.roll(labels, 1))


def test_what_cannot_be_mixed_is_one_line() -> None:
    digits = open_dataset("digits")
    with pytest.raises(ConfigError, match="^batch_size: expected at least 2 with mixup or cutmix, .* got 1$"):
        Pictures(digits, resolve(RunConfig(cutmix=1, batch_size=1)))

    class Other(Arrays):
        name = "pictures"

    with pytest.raises(
        ConfigError, match="^cutmix: expected 0, as it is for classifiers of pictures, not for .* got 1$"
    ):
        Other(digits, resolve(RunConfig(cutmix=1)))
    with pytest.raises(
        ConfigError, match=r"^lighting: expected 0, as it is for pictures, not for .* got 0\.1$"
    ):
        Other(digits, resolve(RunConfig(lighting=0.1)))
    batch = {"keys": device.shared(np.arange(2)), "mixed": device.shared(np.full(2, 0.5, "float32"))}
    four = device.shared(np.zeros((4, 3), "float32")), device.shared(np.zeros(4, "int64"))
    model = SimpleNamespace(
        config=resolve(RunConfig(mixup=1)), objectives=lambda batch, training: classification(*four)
    )
    with pytest.raises(
        ConfigError, match="^classification: expected 2 labels with mixup or cutmix, .* got 4$"
    ):
        trace(model, batch, 2, training=True)
