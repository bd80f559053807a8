"""Laws of crops and colours, checked against closed forms, independent samplers and fb.resnet.torch's steps."""

import math
from itertools import permutations

import numpy as np
import pytest
from photographs import photograph
from PIL import Image
from scipy import stats

from theanompi.data.pictures import augment
from theanompi.data.pictures.augment import color_transforms, evaluation_boxes, train_boxes

IDS = np.arange(20_000)
LOG = math.log(4 / 3)
# So large that rounding to whole pixels is far below what a test of Kolmogorov and Smirnov can see.
LARGE = 100_000

SHIFT_0_1_0 = [
    [-0.9710695, -0.53889215, 30.389341, 37.986675, 0.0],
    [1.7426655, 3.0486417, 28.863142, 36.078926, 0.0],
    [1.0536907, -0.11766763, 33.613426, 42.016785, 0.0],
]


def sizes_of(height: int, width: int, n: int = len(IDS)) -> np.ndarray:
    return np.tile(np.array([height, width], np.int32), (n, 1))


def columns(boxes: np.ndarray) -> np.ndarray:
    assert boxes.dtype == np.float32 and boxes.shape[1] == 5
    return boxes.astype(np.float64).T


def test_none_is_the_whole_image() -> None:
    expected = np.array([[0, 0, 24, 32, 0], [0, 0, 7, 9, 0]], np.float32)
    sizes = np.array([[24, 32], [7, 9]])
    np.testing.assert_array_equal(train_boxes("none", sizes, 1, 2, np.arange(2)), expected)


def test_shift_law() -> None:
    y, x, h, w, flip = columns(train_boxes("shift", sizes_of(32, 32), 0, 0, IDS))
    np.testing.assert_array_equal(h, w)
    assert (flip == 0).all()
    scale, dy, dx = h / 32, y + h / 2 - 16, x + w / 2 - 16
    for value, low, high in ((scale, 0.9, 1.1), (dy, -2, 2), (dx, -2, 2)):
        assert value.min() >= low - 1e-5 and value.max() <= high + 1e-5
        assert stats.kstest(value, "uniform", (low, high - low)).pvalue > 1e-3
    for a, b in ((scale, dy), (scale, dx), (dy, dx)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(IDS))


def test_shift_keeps_its_numbers() -> None:
    # From version 0.1.0, `train_boxes("shift", 32, 40, 3, 1, [0, 1, 1000])`: a run that is resumed with a later
    # version goes on with the same boxes.
    got = train_boxes("shift", sizes_of(32, 40, 3), 3, 1, np.array([0, 1, 1000]))
    np.testing.assert_array_equal(got, np.array(SHIFT_0_1_0, np.float32))


def test_shift_of_an_oblong_image_keeps_its_aspect() -> None:
    y, x, h, w, _ = columns(train_boxes("shift", sizes_of(20, 40, 100), 0, 0, IDS[:100]))
    np.testing.assert_allclose(w / h, 2, rtol=1e-6)
    assert np.abs(y + h / 2 - 10).max() <= 2 + 1e-5 and np.abs(x + w / 2 - 20).max() <= 2 + 1e-5


def test_crop_law() -> None:
    y, x, h, w, flip = columns(train_boxes("crop", sizes_of(32, 40), 0, 0, IDS))
    assert (h == 32).all() and (w == 40).all() and set(flip) == {0, 1}
    for start in (y, x):
        values, counts = np.unique(start, return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.binomtest(int(flip.sum()), len(IDS)).pvalue > 1e-3
    assert np.abs(np.corrcoef([y, x, flip]) - np.eye(3)).max() < 4 / np.sqrt(len(IDS))


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
    y, x, h, w, flip = columns(train_boxes("imagenet", sizes_of(LARGE, LARGE), 0, 0, IDS))
    area, log_aspect = h * w / LARGE**2, np.log(w / h)
    assert stats.kstest(area, square_area_cdf).pvalue > 1e-3
    assert stats.kstest(log_aspect, square_log_aspect_cdf).pvalue > 1e-3
    # Up to 3/4 of the area the first attempt fits, whatever its aspect: there the laws are the plain ones.
    certain = area < 0.749
    assert stats.kstest(area[certain], "uniform", (0.08, 0.669)).pvalue > 1e-3
    assert stats.kstest(log_aspect[certain], "uniform", (-LOG, 2 * LOG)).pvalue > 1e-3
    for start, extent in ((y, h), (x, w)):
        room = LARGE - extent
        assert (start >= 0).all() and (start <= room).all()
        free = room > 1000
        assert stats.kstest((start / (room + 1))[free], "uniform").pvalue > 1e-3
    where = [(y / (LARGE - h + 1))[certain], (x / (LARGE - w + 1))[certain], flip[certain]]
    assert np.abs(np.corrcoef(where) - np.eye(3)).max() < 4 / np.sqrt(certain.sum())
    assert set(flip) == {0, 1}
    assert stats.binomtest(int(flip.sum()), len(IDS)).pvalue > 1e-3


def random_resized_crop(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, bool]:
    """Height and width as torchvision's RandomResizedCrop draws them, and whether no attempt fitted."""
    for _ in range(10):
        area = rng.uniform(0.08, 1) * height * width
        aspect = math.exp(rng.uniform(-LOG, LOG))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return h, w, False
    if width / height < 3 / 4:
        return round(width / (3 / 4)), width, True
    if width / height > 4 / 3:
        return height, round(height * (4 / 3)), True
    return height, width, True


@pytest.mark.parametrize("height, width", [(375, 500), (500, 333), (256, 1024), (9, 12)])
def test_imagenet_law_in_other_shapes(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    reference = np.array([random_resized_crop(rng, height, width) for _ in range(5000)]).T
    y, x, h, w, _ = columns(train_boxes("imagenet", sizes_of(height, width, 5000), 3, 1, IDS[:5000]))
    for ours, expected in (
        (h, reference[0]),
        (w, reference[1]),
        (h * w, reference[0] * reference[1]),
        (w / h, reference[1] / reference[0]),
    ):
        assert stats.ks_2samp(ours, expected).pvalue > 1e-3
    assert (y >= 0).all() and (x >= 0).all()
    assert (y + h <= height).all() and (x + w <= width).all()
    if width == 1024:
        # An attempt fits if area ≤ aspect·height/width, and the mean aspect is (4/3 - 3/4) / (2 log 4/3).
        fits = ((4 / 3 - 3 / 4) / (2 * LOG) / 4 - 0.08) / 0.92
        fallback = int(((h == height) & (w == round(height * 4 / 3))).sum())
        assert stats.binomtest(fallback, 5000, (1 - fits) ** 10).pvalue > 1e-3


@pytest.mark.parametrize("largest", [3, 3000])
@pytest.mark.parametrize("policy", ["crop", "imagenet"])
def test_boxes_are_whole_pixels(policy: str, largest: int) -> None:
    sizes = np.random.default_rng(0).integers(1, largest, (len(IDS), 2), endpoint=True)
    boxes = train_boxes(policy, sizes, 0, 0, IDS)
    np.testing.assert_array_equal(boxes, np.rint(boxes))
    assert boxes[:, 2:4].min() >= 1


def test_imagenet_positions_are_uniform_over_whole_pixels() -> None:
    y, x, h, w, _ = columns(train_boxes("imagenet", sizes_of(6, 7), 0, 0, IDS))
    for start, extent, side in ((y, h, 6), (x, w, 7)):
        for length in range(3, side):
            counts = np.bincount(start[extent == length].astype(int), minlength=side - length + 1)
            assert len(counts) == side - length + 1
            assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("height, width, box", [(10, 400, (10, 13)), (400, 10, (13, 10)), (1, 90, (1, 1))])
def test_imagenet_in_an_image_that_no_attempt_fits(height: int, width: int, box: tuple[int, int]) -> None:
    y, x, h, w, _ = columns(train_boxes("imagenet", sizes_of(height, width, 50), 0, 0, IDS[:50]))
    np.testing.assert_array_equal(np.stack([h, w], 1), np.tile(box, (50, 1)))
    assert (y + h).max() <= height and (x + w).max() <= width


def test_imagenet_falls_back_to_the_whole_image(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 200, 243
    # With one attempt, a seventh of the images need the fallback.
    monkeypatch.setattr(augment, "_ATTEMPTS", 1)
    _, _, h, w, _ = columns(train_boxes("imagenet", sizes_of(height, width, 500), 0, 0, IDS[:500]))
    assert (h <= height).all() and (w <= width).all()
    assert 30 < ((h == height) & (w == width)).sum() < 120


@pytest.mark.parametrize("policy", ["shift", "crop", "imagenet"])
def test_a_box_is_a_function_of_seed_epoch_id_and_its_own_size(policy: str) -> None:
    sizes = {9: (64, 48), 4: (300, 500), 700: (90, 80), 31: (64, 64), 32: (100, 640)}

    def boxes(seed: int, epoch: int, ids: list[int]) -> np.ndarray:
        return train_boxes(policy, np.array([sizes[i] for i in ids]), seed, epoch, np.array(ids))

    together = boxes(1, 2, list(sizes))
    assert together.shape == (5, 5) and together.dtype == np.float32
    np.testing.assert_array_equal(boxes(1, 2, [700, 9]), together[[2, 0]])
    np.testing.assert_array_equal(boxes(1, 2, [31]), together[[3]])
    for other in (boxes(2, 2, list(sizes)), boxes(1, 3, list(sizes))):
        assert (other != together).any(axis=1).sum() >= 4


@pytest.mark.parametrize("policy", ["shift", "crop", "imagenet"])
def test_consecutive_epochs_are_independent(policy: str) -> None:
    one, other = (columns(train_boxes(policy, sizes_of(400, 400), 0, epoch, IDS)) for epoch in (6, 7))
    for a, b in zip(one, other, strict=True):
        if a.std() > 0:
            assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(IDS))
    # Of 9 · 9 · 2 crops, one in 162 comes again; of the others none.
    assert (one == other).all(axis=0).mean() < 0.01


@pytest.mark.parametrize("policy", ["none", "shift", "crop"])
def test_evaluation_boxes_are_whole_images(policy: str) -> None:
    boxes = evaluation_boxes(policy, np.array([[32, 40], [5, 6]]))
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, np.array([[0, 0, 32, 40, 0], [0, 0, 5, 6, 0]], np.float32))


def test_imagenet_evaluation_boxes_are_where_torchvision_rounds_them_to() -> None:
    sizes = [
        *np.random.default_rng(0).integers(1, 3000, (200, 2)),
        (375, 500),
        (500, 375),
        (256, 341),
        (1, 9),
    ]
    got = columns(evaluation_boxes("imagenet", np.array(sizes))).T
    for box, (height, width) in zip(got, np.array(sizes).tolist(), strict=True):
        # Resize(256): the shorter side becomes 256, the longer one int(256 * long / short).
        if height <= width:
            new_height, new_width = 256, int(256 * width / height)
        else:
            new_height, new_width = int(256 * height / width), 256
        # CenterCrop(224)
        top, left = round((new_height - 224) / 2), round((new_width - 224) / 2)
        vertical, horizontal = height / new_height, width / new_width
        expected = (top * vertical, left * horizontal, 224 * vertical, 224 * horizontal, 0)
        np.testing.assert_allclose(box, expected, rtol=1e-6)


def test_imagenet_evaluation_shows_what_resizing_and_cropping_shows() -> None:
    image = Image.fromarray(photograph(0, 375, 500))
    (y, x, h, w, _) = columns(evaluation_boxes("imagenet", np.array([[375, 500]])))[:, 0]
    got = image.resize((224, 224), Image.Resampling.BILINEAR, (x, y, x + w, y + h))
    resized = image.resize((341, 256), Image.Resampling.BILINEAR)
    expected = resized.crop((58, 16, 58 + 224, 16 + 224))
    assert np.abs(np.asarray(got, int) - np.asarray(expected, int)).mean() < 0.01


# Colours


def grey(x: np.ndarray) -> np.ndarray:
    return 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]


def brightness(x: np.ndarray, alpha: float) -> np.ndarray:
    return alpha * x


def contrast(x: np.ndarray, alpha: float) -> np.ndarray:
    return alpha * x + (1 - alpha) * grey(x).mean()


def saturation(x: np.ndarray, alpha: float) -> np.ndarray:
    return alpha * x + (1 - alpha) * grey(x)[..., None]


def apply(transform: np.ndarray, x: np.ndarray) -> np.ndarray:
    transform = transform.astype(np.float64)
    return x @ transform[:, :3].T + transform[:, 3:6] @ x.mean(axis=(0, 1)) + transform[:, 6]


def test_jitter_is_three_steps_in_any_order() -> None:
    x = photograph(1, 30, 40) / 255
    ids = np.array([3, 77, 1_000_000])
    transforms = color_transforms(0.4, 0, 5, 2, ids)
    assert transforms.shape == (3, 3, 7) and transforms.dtype == np.float32
    alphas = 1 + 0.4 * (2 * augment.uniforms(5, 2, ids, augment.Purpose.COLOR, 3) - 1)
    for transform, alpha in zip(transforms, alphas, strict=True):
        steps = list(zip((brightness, contrast, saturation), alpha, strict=True))
        for order in permutations(steps):
            expected = x
            for step, a in order:
                expected = step(expected, a)
            np.testing.assert_allclose(apply(transform, x), expected, atol=2e-6)


def test_jitter_law() -> None:
    transforms = color_transforms(0.4, 0, 0, 0, IDS).astype(np.float64)
    m, b = transforms[:, :, :3], transforms[:, :, 3:6]
    # Of a grey picture, M leaves brightness times contrast, and M and B together brightness alone.
    both, bright = m[:, 0].sum(1), (m + b)[:, 0].sum(1)
    saturated = (m[:, 0, 0] - m[:, 1, 0]) / both
    alphas = np.stack([bright, both / bright, saturated])
    for alpha in alphas:
        assert stats.kstest(alpha, "uniform", (0.6, 0.8)).pvalue > 1e-3
    assert np.abs(np.corrcoef(alphas) - np.eye(3)).max() < 4 / np.sqrt(len(IDS))
    assert (transforms[:, :, 6] == 0).all()


def test_lighting_law() -> None:
    transforms = color_transforms(0, 0.1, 0, 0, IDS).astype(np.float64)
    np.testing.assert_array_equal(transforms[:, :, :6], np.tile(np.eye(3, 6), (len(IDS), 1, 1)))
    # fb.resnet.torch, datasets/imagenet.lua
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    # Lighting: rgb[i] = Σ_j eigvec[i][j] · alpha[j] · eigval[j]
    alphas = np.linalg.solve(vectors * values, transforms[:, :, 6].T)
    for alpha in alphas:
        assert stats.kstest(alpha / 0.1, "norm").pvalue > 1e-3
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(alphas[a], alphas[b])[0, 1]) < 4 / np.sqrt(len(IDS))
        assert abs(np.corrcoef(alphas[a] ** 2, alphas[b] ** 2)[0, 1]) < 4 / np.sqrt(len(IDS))


def test_lighting_is_finite_for_every_random_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "uniforms", lambda *where: np.zeros((1, where[-1])))
    assert np.isfinite(color_transforms(0, 0.1, 0, 0, IDS[:1])).all()


def test_lighting_comes_after_jitter_and_is_independent_of_it() -> None:
    jitter, light = color_transforms(0.4, 0, 1, 1, IDS), color_transforms(0, 0.1, 1, 1, IDS)[:, :, 6]
    both = color_transforms(0.4, 0.1, 1, 1, IDS)
    np.testing.assert_array_equal(both[:, :, :6], jitter[:, :, :6])
    np.testing.assert_array_equal(both[:, :, 6], light)
    for column in jitter[:, :, :6].reshape(len(IDS), 18).T:
        for strength in (light**2).T:
            assert abs(stats.spearmanr(column, strength).statistic) < 4 / np.sqrt(len(IDS))


def test_colours_are_functions_of_seed_epoch_and_id() -> None:
    together = color_transforms(0.4, 0.1, 1, 2, np.array([9, 4, 700]))
    np.testing.assert_array_equal(color_transforms(0.4, 0.1, 1, 2, np.array([700, 9])), together[[2, 0]])
    for other in (
        color_transforms(0.4, 0.1, 2, 2, np.array([9, 4, 700])),
        color_transforms(0.4, 0.1, 1, 3, np.array([9, 4, 700])),
        color_transforms(0.4, 0.1, 1, 2, np.array([10, 5, 701])),
    ):
        assert (other != together).all()


def test_no_colours_are_the_identity() -> None:
    expected = np.tile(np.eye(3, 7, dtype=np.float32), (5, 1, 1))
    np.testing.assert_array_equal(color_transforms(0, 0, 1, 2, IDS[:5]), expected)
