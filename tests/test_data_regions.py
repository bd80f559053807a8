"""What is fetched of a picture: against plain arithmetic, and the whole chain on photographs against Pillow."""

import io
import math

import numpy as np
import pytensor
import pytest
from photographs import jpeg
from PIL import Image
from sklearn.datasets import load_sample_images

from theanompi import device
from theanompi.data.pictures.augment import evaluation_boxes, train_boxes
from theanompi.data.pictures.decode import decode_jpeg
from theanompi.data.pictures.regions import Regions, canvas, regions
from theanompi.device import ops

RNG = np.random.default_rng(0)
SIZES = np.concatenate(
    [
        RNG.integers(1, 12, (3000, 2)),
        RNG.integers(1, 3000, (3000, 2)),
        np.stack([RNG.integers(1, 30, 1500), RNG.integers(1, 3000, 1500)], axis=1),
        np.stack([RNG.integers(1, 3000, 1500), RNG.integers(1, 30, 1500)], axis=1),
        [(20, 3000), (3000, 20), (1, 1), (1, 3000), (20_000, 20_000), (9000, 12_000)],
    ]
)


def boxes_of(sizes: np.ndarray, evaluation: bool) -> np.ndarray:
    if evaluation:
        return evaluation_boxes("imagenet", sizes)
    return train_boxes("imagenet", sizes, 0, 0, np.arange(len(sizes)))


def filled(of: Regions) -> np.ndarray:
    return -(-of.cuts[:, 2:] // of.shrink[:, None])


@pytest.mark.parametrize("evaluation", [False, True], ids=["training", "evaluation"])
@pytest.mark.parametrize("size", [1, 2, 7, 32, 224])
@pytest.mark.parametrize("store", ["jpeg", "raw"])
def test_regions_by_plain_arithmetic(store: str, size: int, evaluation: bool) -> None:
    boxes = boxes_of(SIZES, evaluation)
    of = regions(store, "imagenet", SIZES, boxes, size)
    assert [part.dtype.name for part in of] == ["int32", "int32", "int32", "float32"]
    assert [part.shape for part in of] == [(9006,), (9006,), (9006, 4), (9006, 7)]
    for k in [*range(0, 9000, 20), *range(9000, 9006)]:
        height, width = SIZES[k].tolist()
        y, x, h, w, flip = boxes[k].tolist()
        r = 1
        while store == "jpeg" and r < 8 and min(h, w) / (2 * r) >= 1.75 * size:
            r *= 2
        top, left = math.floor(y / r), math.floor(x / r)
        bottom = min(math.ceil((y + h) / r), math.ceil(height / r))
        right = min(math.ceil((x + w) / r), math.ceil(width / r))
        s = 1
        while (
            store == "jpeg"
            and max(math.ceil((bottom - top) / s), math.ceil((right - left) / s))
            > math.ceil(14 / 3 * size) + 1
        ):
            s += 1
        assert (of.reduction[k], of.shrink[k]) == (r, s)
        assert of.cuts[k].tolist() == [top, left, bottom - top, right - left]
        expected = [(y / r - top) / s, (x / r - left) / s, h / r / s, w / r / s, flip]
        expected += [math.ceil((bottom - top) / s), math.ceil((right - left) / s)]
        np.testing.assert_allclose(of.boxes[k], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("evaluation", [False, True], ids=["training", "evaluation"])
@pytest.mark.parametrize("size", [1, 2, 3, 8, 32, 224])
@pytest.mark.parametrize("store", ["jpeg", "raw"])
def test_a_region_is_in_the_picture_and_in_the_canvas(store: str, size: int, evaluation: bool) -> None:
    boxes = boxes_of(SIZES, evaluation)
    of = regions(store, "imagenet", SIZES, boxes, size)
    assert (of.cuts[:, :2] >= 0).all() and (of.cuts[:, 2:] >= 1).all()
    assert (of.cuts[:, :2] + of.cuts[:, 2:] <= -(-SIZES // of.reduction[:, None])).all()
    # The box is in what is filled.
    assert (of.boxes[:, :2] >= 0).all()
    assert (of.boxes[:, :2] + of.boxes[:, 2:4] <= of.boxes[:, 5:] + 1e-3).all()
    np.testing.assert_array_equal(of.boxes[:, 5:], filled(of))
    # Each picture's region in the canvas of a data set of it alone.
    for k in [*range(0, 9000, 20), *range(9000, 9006)]:
        height, width = canvas(store, "imagenet", SIZES[k : k + 1], size)
        assert filled(of)[k, 0] <= height and filled(of)[k, 1] <= width
    # Nothing that was larger than the output is smaller now.
    shorter = of.boxes[:, 2:4].min(axis=1)
    assert (shorter >= np.minimum(boxes[:, 2:4].min(axis=1), size)).all()
    assert store == "jpeg" or (of.shrink == 1).all() and (of.reduction == 1).all()


def test_huge_pictures_alone_are_shrunk() -> None:
    sizes = RNG.integers(1, 5000, (5000, 2))
    of = regions("jpeg", "imagenet", sizes, boxes_of(sizes, False), 224)
    assert (of.shrink == 1).all() and set(of.reduction) == {1, 2, 4, 8}
    sizes = np.array([[20_000, 20_000]])
    assert regions("jpeg", "imagenet", sizes, evaluation_boxes("imagenet", sizes), 224).shrink.tolist() == [3]


@pytest.mark.parametrize(
    "store, size, height, width",
    [("raw", 224, 375, 500), ("raw", 224, 300, 900), ("raw", 224, 900, 300), ("raw", 64, 5, 50)]
    + [("jpeg", 224, 375, 500), ("jpeg", 32, 375, 500), ("jpeg", 32, 1500, 1500), ("jpeg", 50, 60, 900)],
)
def test_the_canvas_is_no_larger_than_needed(store: str, size: int, height: int, width: int) -> None:
    sizes = np.tile([height, width], (20_000, 1))
    largest = filled(regions(store, "imagenet", sizes, boxes_of(sizes, False), size)).max(axis=0)
    bound = canvas(store, "imagenet", sizes, size)
    assert (largest <= bound).all() and (largest >= 0.97 * np.array(bound) - 1).all()


def test_the_canvas_is_for_all_pictures_at_once() -> None:
    # A tall and a wide one: 4/3 · 300 = 400, and what rounding adds.
    sizes = np.array([[300, 900], [900, 300]])
    assert canvas("raw", "imagenet", sizes, 224) == (401, 401)
    assert canvas("jpeg", "imagenet", sizes, 64) == (300, 300)
    assert canvas("jpeg", "imagenet", sizes, 224) == (401, 401)
    for policy in ("none", "shift", "crop"):
        assert canvas("raw", policy, sizes, 224) == (900, 900)


@pytest.mark.parametrize("policy", ["none", "shift", "crop"])
@pytest.mark.parametrize("store", ["jpeg", "raw"])
def test_other_policies_take_the_whole_picture(store: str, policy: str) -> None:
    sizes = np.tile(np.array([32, 40], np.int32), (50, 1))
    for boxes in (train_boxes(policy, sizes, 0, 0, np.arange(50)), evaluation_boxes(policy, sizes)):
        of = regions(store, policy, sizes, boxes, 8)
        assert [part.dtype.name for part in of] == ["int32", "int32", "int32", "float32"]
        assert (of.reduction == 1).all() and (of.shrink == 1).all()
        np.testing.assert_array_equal(of.cuts, np.tile([0, 0, 32, 40], (50, 1)))
        np.testing.assert_array_equal(of.boxes[:, :5], boxes)
        np.testing.assert_array_equal(of.boxes[:, 5:], sizes)


# From the file to the network's input


def shrunk(pixels: np.ndarray, by: int) -> np.ndarray:
    height, width = (-(-side // by) for side in pixels.shape[:2])
    out = np.empty((height, width, 3))
    for i in range(height):
        for j in range(width):
            out[i, j] = pixels[i * by : i * by + by, j * by : j * by + by].mean(axis=(0, 1))
    return np.rint(out).astype(np.uint8)


def network_input(store: str, data: bytes, boxes: np.ndarray, size: int) -> tuple[np.ndarray, Regions]:
    whole = decode_jpeg(data)
    sizes = np.tile(whole.shape[:2], (len(boxes), 1))
    of = regions(store, "imagenet", sizes, boxes, size)
    # What is not filled must not be seen.
    images = np.full((len(boxes), *canvas(store, "imagenet", sizes, size), 3), 255, np.uint8)
    scaled = {r: decode_jpeg(data, r) if store == "jpeg" else whole for r in set(of.reduction.tolist())}
    for k, (top, left, height, width) in enumerate(of.cuts):
        cut = scaled[int(of.reduction[k])][top : top + height, left : left + width]
        cut = shrunk(cut, of.shrink[k]) if of.shrink[k] > 1 else cut
        images[k, : cut.shape[0], : cut.shape[1]] = cut
    crop = ops.crop_resize(images.transpose(0, 3, 1, 2), of.boxes, size)
    return pytensor.function([], crop, mode=device.mode("cpu"))().transpose(0, 2, 3, 1), of


def encoded(picture: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(load_sample_images().images[picture]).save(file, "JPEG", quality=94)
    return file.getvalue()


def cropped(data: bytes, box: np.ndarray, size: int) -> np.ndarray:
    """The whole file decoded, cut, resized and mirrored by Pillow."""
    y, x, height, width, flip = box.astype(int).tolist()
    image = Image.open(io.BytesIO(data)).crop((x, y, x + width, y + height))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR), float)[:, :: -1 if flip else 1]


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128, 224])
@pytest.mark.parametrize("picture", [0, 1], ids=["china", "flower"])
@pytest.mark.parametrize("store", ["jpeg", "raw"])
def test_training_crops_are_those_of_pillow(store: str, picture: int, size: int) -> None:
    data, count = encoded(picture), 100 if store == "jpeg" and size <= 96 else 15
    boxes = train_boxes("imagenet", np.tile([427, 640], (count, 1)), 1, size, np.arange(count))
    got, of = network_input(store, data, boxes, size)
    assert store == "raw" or size > 96 or of.reduction.max() > 1
    for result, box in zip(got, boxes, strict=True):
        # Of 255. Pillow rounds to whole numbers, after each of the two axes.
        difference = np.abs(result - cropped(data, box, size))
        assert difference.mean() <= (2 if store == "jpeg" else 0.5)
        assert store == "jpeg" or difference.max() <= 1.05


def test_shrunk_crops_are_those_of_pillow() -> None:
    data = jpeg(3, 900, 1203)
    boxes = train_boxes("imagenet", np.tile([900, 1203], (40, 1)), 1, 0, np.arange(40))
    got, of = network_input("jpeg", data, boxes, 20)
    assert set(of.shrink) == {1, 2}
    for result, box in zip(got, boxes, strict=True):
        assert np.abs(result - cropped(data, box, 20)).mean() <= 2


@pytest.mark.parametrize("picture", ["china", "flower", "large"])
@pytest.mark.parametrize("store", ["jpeg", "raw"])
def test_evaluation_is_resizing_and_cutting(store: str, picture: str) -> None:
    data = jpeg(3, 900, 1203) if picture == "large" else encoded(["china", "flower"].index(picture))
    image = Image.open(io.BytesIO(data))
    got, of = network_input(store, data, evaluation_boxes("imagenet", np.array([image.size[::-1]])), 224)
    assert of.reduction[0] == (2 if picture == "large" and store == "jpeg" else 1)
    # torchvision: Resize(256), then CenterCrop(224).
    width = int(256 * image.width / image.height)
    left = round((width - 224) / 2)
    expected = image.resize((width, 256), Image.Resampling.BILINEAR).crop((left, 16, left + 224, 240))
    assert np.abs(got[0] - np.asarray(expected, float)).mean() <= 2
