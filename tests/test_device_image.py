"""Crops against Pillow's filter and a plain loop; colours against NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from tolerance import assert_close

from theanompi import device
from theanompi.data.pictures.augment import color_transforms, evaluation_boxes, train_boxes
from theanompi.device import ops
from theanompi.device.ops.base import Context
from theanompi.device.ops.image import CropResize, _crop_resize

DEVICES = [
    "cpu",
    pytest.param(
        "cuda:0", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
    ),
]
ON_EACH_DEVICE = pytest.mark.parametrize("place", DEVICES)


def run(place: str, op: Callable[..., Any], *arguments: np.ndarray, precision: str = "float32") -> np.ndarray:
    """Values of `op`, after checking that its static shape and dtype are those of the values."""
    inputs = [pt.tensor(dtype=a.dtype.name, shape=a.shape) for a in arguments]
    output = op(*inputs)
    value = pytensor.function(inputs, output, mode=device.mode(place, precision))(*arguments)
    assert output.type.shape == value.shape and output.dtype == value.dtype
    return value


def crop(place: str, images: np.ndarray, boxes: np.ndarray, size: int, **more: Any) -> np.ndarray:
    return run(place, lambda i, b: ops.crop_resize(i, b, size), images, boxes, **more)


# y0, x0, height, width, flip, extent of the image
BOXES = np.array(
    [
        [0, 0, 9, 7, 0, 9, 7],
        [0, 0, 9, 7, 1, 9, 7],
        [1.5, 2.25, 4, 3, 0, 9, 7],
        [-0.6, -0.4, 10.1, 7.8, 1, 9, 7],
        [-0.6, -0.4, 10.1, 7.8, 0, 9, 6],
        [3, 2, 1, 1, 0, 9, 7],
        [3, 2, 1, 1, 1, 4, 3],
        [0, 0, 4, 7, 0, 4, 7],
        [0.25, 0.5, 8.5, 1.25, 1, 9, 2],
        [20, 20, 4, 4, 0, 9, 7],
        [-7, 2, 4, 4, 0, 9, 7],
        [4, -4, 9, 7, 1, 9, 7],
    ],
    "float32",
)
IMAGES = np.random.default_rng(0).integers(0, 256, (len(BOXES), 3, 9, 7)).astype("uint8")


def loop_weights(start: float, length: float, extent: float, size: int) -> list[dict[int, float]]:
    """For each output pixel of one axis, the weights of the pixels that it is made of."""
    out = []
    scale = length / size
    for k in range(size):
        centre = start + (k + 0.5) * scale
        weights: dict[int, float] = {}
        if 0 <= centre <= extent:
            for pixel in range(int(extent)):
                weight = 1 - abs(pixel + 0.5 - centre) / max(scale, 1)
                if weight > 0:
                    weights[pixel] = weight
        total = sum(weights.values())
        out.append({pixel: weight / total for pixel, weight in weights.items()})
    return out


def loop_crop_resize(images: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    out = np.zeros((len(images), images.shape[1], size, size))
    for k, (y0, x0, height, width, flip, *extent) in enumerate(boxes.astype("float64")):
        rows = loop_weights(y0, height, extent[0], size)
        columns = loop_weights(x0, width, extent[1], size)
        for i, down in enumerate(rows):
            for j, across in enumerate(columns[::-1] if flip else columns):
                for a, v in down.items():
                    for b, w in across.items():
                        out[k, :, i, j] += v * w * images[k, :, a, b]
    return out.astype("float32")


@ON_EACH_DEVICE
@pytest.mark.parametrize("size", [1, 2, 5, 8, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_resize(place: str, size: int, channels: int) -> None:
    images = IMAGES[:, :channels]
    assert_close(crop(place, images, BOXES, size), loop_crop_resize(images, BOXES, size), device=place)


PICTURES = load_sample_images().images


def pillow(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    y, x, height, width, flip = box[:5].tolist()
    picture = Image.fromarray(image).resize(
        (size, size), Image.Resampling.BILINEAR, (x, y, x + width, y + height)
    )
    return np.asarray(picture)[:, :: -1 if flip else 1].transpose(2, 0, 1)


@ON_EACH_DEVICE
@pytest.mark.parametrize("size", [7, 32, 224, 500])
@pytest.mark.parametrize("picture", [0, 1], ids=["china", "flower"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole pixels", "fractions"])
def test_crop_resize_of_photographs_is_that_of_pillow(
    place: str, size: int, picture: int, whole: bool
) -> None:
    image = PICTURES[picture]
    rng = np.random.default_rng(size)
    # From boxes of a few pixels, which are enlarged, to the whole picture, made smaller up to 90 times.
    sides = np.exp(rng.uniform(np.log(5), np.log([427, 640]), (6, 2)))
    sides[0] = 427, 640
    boxes = np.concatenate(
        [rng.uniform(0, [427, 640] - sides), sides, np.arange(6)[:, None] % 2, np.tile([427, 640], (6, 1))], 1
    ).astype("float32")
    boxes = np.floor(boxes) if whole else boxes
    images = np.repeat(image.transpose(2, 0, 1)[None], 6, axis=0)
    got = crop(place, images, boxes, size)
    for result, box in zip(got, boxes, strict=True):
        # Pillow rounds to whole numbers, after each of the two axes.
        difference = np.abs(result - pillow(image, box, size))
        assert difference.mean() <= 0.5 and difference.max() <= 1.05


def test_crop_of_the_whole_image_is_the_image() -> None:
    got = crop("cpu", IMAGES[:1, :, :7], np.array([[0, 0, 7, 7, 0, 7, 7]], "float32"), 7)
    assert_close(got, IMAGES[:1, :, :7].astype("float32"))


def test_images_taken_as_they_are_are_those_of_the_filter() -> None:
    images = torch.from_numpy(np.ascontiguousarray(IMAGES[:, :, :7]))
    whole = torch.tensor([[0.0, 0, 7, 7, 0, 7, 7]]).repeat(len(images), 1)
    steps = torch.arange(7) + 0.5
    # Moved, mirrored, or narrower than its canvas: none of them, all, or only the last image.
    for which in (slice(0, 0), slice(None), slice(-1, None)):
        for column, value in ((0, 1.0), (4, 1.0), (6, 5.0)):
            boxes = whole.clone()
            boxes[which, column] = value
            short, filtered = (_crop_resize(images, boxes, steps, tight) for tight in (True, False))
            assert torch.equal(short, filtered)
            changed = len(boxes[which]) > 0
            assert torch.equal(short[-1], images[-1].float()) != changed
            assert short.is_contiguous(memory_format=torch.channels_last)


@ON_EACH_DEVICE
@pytest.mark.parametrize("size", [28, 32])
def test_padded_crops_are_the_pixels_and_zeros(place: str, size: int) -> None:
    ids = np.arange(40)
    images = np.random.default_rng(1).integers(1, 256, (40, 3, size, size)).astype("uint8")
    sizes = np.tile([size, size], (40, 1))
    boxes = np.concatenate([train_boxes("crop", sizes, 0, 0, ids), sizes], axis=1).astype("float32")
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4))).astype("float32")
    expected = []
    for image, box in zip(padded, boxes, strict=True):
        y, x = int(box[0]) + 4, int(box[1]) + 4
        expected.append(image[:, y : y + size, x : x + size][:, :, :: -1 if box[4] else 1])
    assert {0.0, 1.0} == set(boxes[:, 4])
    assert_close(crop(place, images, boxes, size), np.stack(expected), device=place)


@ON_EACH_DEVICE
def test_what_is_outside_the_extent_does_not_matter(place: str) -> None:
    changed = IMAGES.copy()
    for image, box in zip(changed, BOXES, strict=True):
        image[:, int(box[5]) :] = 99
        image[:, :, int(box[6]) :] = 99
    assert (changed != IMAGES).any()
    np.testing.assert_array_equal(crop(place, changed, BOXES, 6), crop(place, IMAGES, BOXES, 6))


def test_a_crop_does_not_depend_on_the_batch() -> None:
    together = crop("cpu", IMAGES, BOXES, 6)
    for k in range(len(BOXES)):
        assert_close(crop("cpu", IMAGES[k : k + 1], BOXES[k : k + 1], 6), together[k : k + 1])


def test_crops_of_no_images() -> None:
    assert crop("cpu", np.zeros((0, 3, 9, 7), "uint8"), BOXES[:0], 5).shape == (0, 3, 5, 5)


def test_a_mirrored_crop_is_the_mirror_image_of_the_crop() -> None:
    boxes = np.array([[0.3, 1.1, 7.9, 5.2, 0, 9, 7], [0.3, 1.1, 7.9, 5.2, 1, 9, 7]], "float32")
    for size in (3, 7):
        one, other = crop("cpu", np.repeat(IMAGES[:1], 2, axis=0), boxes, size)
        np.testing.assert_array_equal(one[:, :, ::-1], other)


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_fixed_shapes_give_the_same_as_the_boxes_own(size: int) -> None:
    # What CUDA devices do, which must not read the boxes back; the box of `shift` is the largest that there is.
    sizes = np.tile([9, 7], (500, 1))
    boxes = np.concatenate([train_boxes("shift", sizes, 0, 0, np.arange(500)), sizes], axis=1)
    assert boxes[:, 2].max() > 9.85
    boxes = np.concatenate([BOXES, boxes.astype("float32")])
    images = torch.from_numpy(np.resize(IMAGES, (len(boxes), 3, 9, 7)))
    steps = torch.arange(size) + 0.5
    tight, fixed = (_crop_resize(images, torch.from_numpy(boxes), steps, choice) for choice in (True, False))
    assert_close(fixed, tight)
    assert fixed.is_contiguous(memory_format=torch.channels_last)


@ON_EACH_DEVICE
def test_memory_layout_of_images_and_result(place: str) -> None:
    place_of = torch.device(place)
    function = CropResize(6).function(None, Context(place_of))
    images, boxes = torch.from_numpy(IMAGES).to(place_of), torch.from_numpy(BOXES).to(place_of)
    adjacent = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not adjacent.is_contiguous() and images.is_contiguous()
    one, other = function(images, boxes), function(adjacent, boxes)
    assert one.is_contiguous(memory_format=torch.channels_last) and one.dtype == torch.float32
    assert torch.equal(one, other)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@ON_EACH_DEVICE
def test_crops_and_colours_are_float32_at_any_precision(place: str, precision: str) -> None:
    got = crop(place, IMAGES, BOXES, 6, precision=precision)
    np.testing.assert_array_equal(got, crop(place, IMAGES, BOXES, 6))
    colors = color_transforms(0.4, 0.1, 0, 0, np.arange(len(got)))
    adjusted = run(place, ops.color_adjust, got / 255, colors, precision=precision)
    np.testing.assert_array_equal(adjusted, run(place, ops.color_adjust, got / 255, colors))


def test_nothing_is_differentiable() -> None:
    boxes, images, colors = pt.fmatrix(), pt.tensor4(dtype="float32"), pt.ftensor3()
    for cost, variable in (
        (ops.crop_resize(images, boxes, 3).sum(), boxes),
        (ops.crop_resize(images, boxes, 3).sum(), images),
        (ops.color_adjust(images, colors).sum(), images),
        (ops.color_adjust(images, colors).sum(), colors),
    ):
        with pytest.raises(pytensor.gradient.DisconnectedInputError):
            pytensor.grad(cost, variable)


@pytest.mark.parametrize(
    ("message", "images", "boxes", "size"),
    [
        (r"crop_resize: images: expected 4 dimensions", IMAGES[0], BOXES[:1], 4),
        (r"crop_resize: boxes: expected a float32 matrix \(n, 7\)", IMAGES[:1], BOXES[:1, :5], 4),
        (r"crop_resize: boxes: expected a float32 matrix", IMAGES[:1], BOXES[:1].astype("float64"), 4),
        (r"crop_resize: size: expected at least 1, got 0", IMAGES[:1], BOXES[:1], 0),
    ],
)
def test_crop_resize_refuses(message: str, images: np.ndarray, boxes: np.ndarray, size: int) -> None:
    with pytest.raises(ValueError, match=message):
        ops.crop_resize(images, boxes, size)


# Evaluation, from the picture to the network's input


@pytest.mark.parametrize("picture", [0, 1], ids=["china", "flower"])
def test_evaluation_of_photographs_is_resizing_and_cutting(picture: int) -> None:
    image = PICTURES[picture]
    sizes = np.array([image.shape[:2]])
    boxes = np.concatenate([evaluation_boxes("imagenet", sizes), sizes], axis=1).astype("float32")
    got = crop("cpu", image.transpose(2, 0, 1)[None].copy(), boxes, 224)[0]
    # torchvision: Resize(256) gives 256 × int(256 · 640 / 427) = 256 × 383, CenterCrop(224) begins at
    # (256 - 224) / 2 = 16 and round((383 - 224) / 2) = 80.
    resized = Image.fromarray(image).resize((383, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(resized.crop((80, 16, 80 + 224, 16 + 224))).transpose(2, 0, 1)
    assert np.abs(got - expected).mean() <= 0.5


# Colours


@ON_EACH_DEVICE
@pytest.mark.parametrize("last", [False, True], ids=["planes", "adjacent channels"])
def test_color_adjust(place: str, last: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.random((4, 3, 5, 6), "float32")
    transforms = rng.standard_normal((4, 3, 7), "float32")
    expected = np.zeros(images.shape)
    for k in range(4):
        mean = [images[k, c].astype("float64").mean() for c in range(3)]
        for c in range(3):
            expected[k, c] = transforms[k, c, 6]
            for other in range(3):
                expected[k, c] += transforms[k, c, other] * images[k, other]
                expected[k, c] += transforms[k, c, 3 + other] * mean[other]
    given = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if last else images
    got = run(place, ops.color_adjust, given, transforms)
    assert_close(got, expected.astype("float32"), device=place)
    np.testing.assert_array_equal(
        run("cpu", ops.color_adjust, images, np.tile(np.eye(3, 7, dtype="f"), (4, 1, 1))), images
    )


def test_color_adjust_keeps_channels_adjacent() -> None:
    x = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    out = ops.image.ColorAdjust().function(None, Context())(x, torch.rand(2, 3, 7))
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("message", "images", "transforms"),
    [
        (r"color_adjust: images: expected a float32 tensor \(n, 3, ", (2, 1, 4, 4), (2, 3, 7)),
        (r"color_adjust: images: expected", (2, 3, 4), (2, 3, 7)),
        (r"color_adjust: transforms: expected a float32 tensor \(n, 3, 7\)", (2, 3, 4, 4), (2, 3, 4)),
        (r"color_adjust: transforms: expected", (2, 3, 4, 4), (2, 7)),
    ],
)
def test_color_adjust_refuses(message: str, images: tuple[int, ...], transforms: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=message):
        ops.color_adjust(np.zeros(images, "float32"), np.zeros(transforms, "float32"))
    with pytest.raises(ValueError, match="color_adjust: images: expected a float32 tensor"):
        ops.color_adjust(np.zeros((2, 3, 4, 4), "uint8"), np.zeros((2, 3, 7), "float32"))
