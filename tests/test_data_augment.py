"""Crop laws, checked against closed forms and an independent rejection sampler."""

import numpy as np
import pytest
from scipy import stats

from theanompi.data import augment
from theanompi.data.augment import POLICIES, evaluation_boxes, train_boxes

IDS = np.arange(20_000)
LOG = np.log(4 / 3)


def test_none_is_the_whole_image() -> None:
    expected = np.tile(np.array([0, 0, 24, 32, 0], np.float32), (3, 1))
    np.testing.assert_array_equal(train_boxes("none", 24, 32, 1, 2, np.arange(3)), expected)


def test_shift_law() -> None:
    y, x, h, w, flip = train_boxes("shift", 32, 32, 0, 0, IDS).astype(np.float64).T
    np.testing.assert_array_equal(h, w)
    assert (flip == 0).all()
    scale, dy, dx = h / 32, y + h / 2 - 16, x + w / 2 - 16
    for value, low, high in ((scale, 0.9, 1.1), (dy, -2, 2), (dx, -2, 2)):
        assert value.min() >= low - 1e-5 and value.max() <= high + 1e-5
        assert stats.kstest(value, "uniform", (low, high - low)).pvalue > 1e-3
    for a, b in ((scale, dy), (scale, dx), (dy, dx)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(IDS))


def test_shift_of_an_oblong_image_keeps_its_aspect() -> None:
    y, x, h, w, _ = train_boxes("shift", 20, 40, 0, 0, IDS[:100]).astype(np.float64).T
    np.testing.assert_allclose(w / h, 2, rtol=1e-6)
    assert np.abs(y + h / 2 - 10).max() <= 2 + 1e-5 and np.abs(x + w / 2 - 20).max() <= 2 + 1e-5


def square_area_cdf(a: np.ndarray) -> np.ndarray:
    # (a, log r) is uniform; a box fits if a ≤ min(r, 1/r), so |log r| goes up to min(log 4/3, -log a).
    def integral(a: np.ndarray) -> np.ndarray:
        b = np.maximum(a, 0.75)
        return np.minimum(a, 0.75) * LOG + (b - b * np.log(b)) - (0.75 - 0.75 * np.log(0.75))

    low, high = integral(np.array([0.08, 1.0]))
    return (integral(np.clip(a, 0.08, 1)) - low) / (high - low)


def square_log_aspect_cdf(r: np.ndarray) -> np.ndarray:
    def half(r: np.ndarray) -> np.ndarray:
        return 1 - np.exp(-r) - 0.08 * r

    return 0.5 + 0.5 * np.sign(r) * half(np.minimum(np.abs(r), LOG)) / half(np.array(LOG))


def test_imagenet_law_in_a_square() -> None:
    boxes = train_boxes("imagenet", 256, 256, 0, 0, IDS)
    y, x, h, w, flip = boxes.astype(np.float64).T
    assert stats.kstest(h * w / 256**2, square_area_cdf).pvalue > 1e-3
    assert stats.kstest(np.log(w / h), square_log_aspect_cdf).pvalue > 1e-3
    for start, extent in ((y, h), (x, w)):
        assert start.min() >= 0 and (start + extent).max() <= 256 + 1e-3
        room = 256 - extent
        assert stats.kstest(start[room > 1] / room[room > 1], "uniform").pvalue > 1e-3
    room = np.minimum(256 - h, 256 - w) > 1
    where = [(y / (256 - h + 1e-9))[room], (x / (256 - w + 1e-9))[room], flip[room]]
    assert np.abs(np.corrcoef(where) - np.eye(3)).max() < 4 / np.sqrt(room.sum())
    assert set(flip) == {0, 1}
    assert abs(flip.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(IDS))


@pytest.mark.parametrize("height, width", [(375, 500), (500, 333), (256, 1024)])
def test_imagenet_law_in_other_shapes(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    expected: list[tuple[float, float]] = []
    while len(expected) < 5000:
        area = rng.uniform(0.08, 1) * height * width
        aspect = np.exp(rng.uniform(-LOG, LOG))
        w, h = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if w <= width and h <= height:
            expected.append((area / height / width, aspect))
    y, x, h, w, _ = train_boxes("imagenet", height, width, 3, 1, IDS[:5000]).astype(np.float64).T
    fallback = np.isclose(h, height) & np.isclose(w, height * 4 / 3, rtol=1e-6)
    if width == 1024:
        # An attempt fits if area ≤ aspect·height/width, and the mean aspect is (4/3 - 3/4) / (2 log 4/3).
        fits = ((4 / 3 - 3 / 4) / (2 * LOG) / 4 - 0.08) / 0.92
        assert stats.binomtest(int(fallback.sum()), len(fallback), (1 - fits) ** 10).pvalue > 1e-3
    else:
        assert not fallback.any()
    got = (h * w / height / width)[~fallback], (w / h)[~fallback]
    for ours, reference in zip(got, np.array(expected).T, strict=True):
        assert stats.ks_2samp(ours, reference).pvalue > 1e-3
    assert (y >= 0).all() and (x >= 0).all()
    assert (y + h).max() <= height + 1e-3 and (x + w).max() <= width + 1e-3


@pytest.mark.parametrize("height, width, box", [(10, 400, (10, 40 / 3)), (400, 10, (40 / 3, 10))])
def test_imagenet_in_an_image_that_no_attempt_fits(height: int, width: int, box: tuple[float, float]) -> None:
    y, x, h, w, _ = train_boxes("imagenet", height, width, 0, 0, IDS[:50]).astype(np.float64).T
    np.testing.assert_allclose(np.stack([h, w], 1), np.tile(box, (50, 1)), rtol=1e-6)
    assert (y + h).max() <= height + 1e-4 and (x + w).max() <= width + 1e-4


def test_imagenet_falls_back_whatever_rounding_says(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 200, 243
    assert min(height, width / (width / height)) * (width / height) > width
    # With one attempt, a seventh of the images need the fallback, which is then the whole image.
    monkeypatch.setattr(augment, "_ATTEMPTS", 1)
    _, _, h, w, _ = train_boxes("imagenet", height, width, 0, 0, IDS[:500]).astype(np.float64).T
    assert (h <= height).all() and (w <= width).all()
    assert 30 < ((h == height) & (w == width)).sum() < 120


@pytest.mark.parametrize("policy", ["shift", "imagenet"])
def test_a_box_is_a_function_of_seed_epoch_and_id(policy: str) -> None:
    def boxes(seed: int, epoch: int, ids: list[int]) -> np.ndarray:
        return train_boxes(policy, 64, 48, seed, epoch, np.array(ids))

    together = boxes(1, 2, [9, 4, 700])
    assert together.shape == (3, 5) and together.dtype == np.float32
    np.testing.assert_array_equal(boxes(1, 2, [700, 9]), together[[2, 0]])
    for other in (boxes(2, 2, [9, 4, 700]), boxes(1, 3, [9, 4, 700]), boxes(1, 2, [10, 5, 701])):
        assert (other[:, :4] != together[:, :4]).any(axis=1).all()


@pytest.mark.parametrize(
    "policy, height, width, box",
    [
        ("none", 32, 40, (0, 0, 32, 40, 0)),
        ("shift", 32, 32, (0, 0, 32, 32, 0)),
        # 500 × 375 resized to 341.33 × 256; the central 224 of each are 328.125 of the original's pixels.
        ("imagenet", 375, 500, (23.4375, 85.9375, 328.125, 328.125, 0)),
        ("imagenet", 500, 375, (85.9375, 23.4375, 328.125, 328.125, 0)),
    ],
)
def test_evaluation_boxes(policy: str, height: int, width: int, box: tuple[float, ...]) -> None:
    boxes = evaluation_boxes(policy, height, width, 4)
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, np.tile(np.array(box, np.float32), (4, 1)))


def test_unknown_policy() -> None:
    assert POLICIES == ("none", "shift", "imagenet")
    text = "^augmentation: expected one of none, shift, imagenet; got 'flip'$"
    with pytest.raises(ValueError, match=text):
        train_boxes("flip", 32, 32, 0, 0, IDS)
    with pytest.raises(ValueError, match=text):
        evaluation_boxes("flip", 32, 32, 1)
