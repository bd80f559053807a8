"""Pictures of characters: a task that can tell learning recipes apart within minutes on a CPU.

Letters and digits in the 21 text fonts that matplotlib brings along, turned, sheared, moved, partly covered and
noisy. Some characters look alike in some fonts (O, o and 0; I and l), so that no network gets all of them right.
"""

import string
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from theanompi.data.reading.random import Purpose, uniforms
from theanompi.data.sources.base import (
    MOST_IMAGES,
    Arrays,
    Items,
    Labels,
    Pixels,
    Source,
    check_number,
    fingerprint,
)
from theanompi.data.store.schema import SPLITS, Split

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *(f"cm{style}10" for style in ("b", "r", "ss", "ti", "tt")),
)
SIZE = 32
TRAIN_GLYPHS, VAL_GLYPHS = 12_000, 2_000
# A character is drawn once in this size, in the middle of a square that holds it, and then transformed.
_EM, _CANVAS = 64, 128
_PATCHES = 2
# What one picture takes of the random numbers: font, geometry and tones, patches, noise.
_COUNTS = (1, 8, 5 * _PATCHES, 3 * SIZE * SIZE)


@cache
def _drawn(font: int, character: str) -> Image.Image:
    """A character, white on black, its line's middle in the middle."""
    from matplotlib import get_data_path

    path = f"{get_data_path()}/fonts/ttf/{FONTS[font]}.ttf"
    face = ImageFont.truetype(path, _EM, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(canvas).text((_CANVAS / 2, _CANVAS / 2), character, 255, face, anchor="mm")
    return canvas


def _coverage(font: int, character: str, u: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each pixel the turned, sheared, scaled and moved character covers, (SIZE, SIZE) from 0 to 1."""
    angle, shear = np.deg2rad(20 * u[0] - 10), 0.3 * u[1] - 0.15
    scale = (24 + 10 * u[2]) / _EM * np.array([0.9 + 0.2 * u[3], 1])
    shift = 3 * u[4:6] - 1.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale)
    # At twice the size, then averaged: the interpolation alone would skip pixels of the drawing.
    back = np.linalg.inv(2 * forward)
    offset = _CANVAS / 2 - back @ (SIZE + 2 * shift)
    data = (*back[0], offset[0], *back[1], offset[1])
    side = 2 * SIZE
    drawn = _drawn(font, character).transform(
        (side, side), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR
    )
    return np.asarray(drawn.reduce(2), float) / 255


def glyphs(seed: int, split: int, ids: Labels, labels: Labels) -> Pixels:
    """Draw pictures, each a function of its arguments and of nothing else.

    Parameters
    ----------
    seed, split : int
    ids : int64 (n,)
        Numbers of the pictures in their split.
    labels : int64 (n,)
        Positions in `CHARACTERS`.

    Returns
    -------
    uint8 (n, 32, 32, 1)
        A bright character on a dark ground: turned by up to 10°, sheared by up to 0.15, 24 to 34 pixels high from
        line to line and up to 10 % narrower or wider, moved by up to 1.5 pixels, covered by two grey patches, with
        noise of standard deviation 0.05 of the range.
    """
    images = np.empty((len(ids), SIZE, SIZE, 1), np.uint8)
    for i, label in enumerate(labels.tolist()):
        numbers = uniforms(seed, split, ids[i : i + 1], Purpose.GLYPH, sum(_COUNTS))[0]
        font, shape, patches, noise = np.split(numbers, np.cumsum(_COUNTS)[:-1])
        ground, ink = 0.2 * shape[6], 0.5 + 0.5 * shape[7]
        covered = _coverage(int(font[0] * len(FONTS)), CHARACTERS[label], shape)
        values = ground + (ink - ground) * covered
        for y, x, height, width, tone in patches.reshape(_PATCHES, 5):
            h, w = 3 + int(7 * height), 3 + int(7 * width)
            top, left = int(y * (SIZE - h + 1)), int(x * (SIZE - w + 1))
            values[top : top + h, left : left + w] = 0.7 * tone
        # The sum of three uniform numbers has a variance of 1/4.
        values += 0.1 * (noise.reshape(3, SIZE, SIZE).sum(0) - 1.5)
        images[i, ..., 0] = np.rint(255 * np.clip(values, 0, 1))
    return images


class Glyphs(Source):
    """Pictures of the 62 letters and digits, 32 × 32, grey.

    Parameters
    ----------
    train, val : int
        Number of images in each split.
    seed : int

    Raises
    ------
    ConfigError
        If a number is below 1 or too large, or `seed` below 0.

    Examples
    --------
    >>> source = Glyphs(train=124, val=62)
    >>> source.items("train", 60, 64).labels.tolist()
    [60, 61, 0, 1]
    """

    name = "glyphs"
    source = "drawn by tmpack in the fonts of matplotlib (DejaVu, STIX, Computer Modern)"
    licence = "CC0"
    channels = 1
    # Neither shifts nor flips: every picture has been moved already.
    augmentation = "none"

    def __init__(self, train: int = TRAIN_GLYPHS, val: int = VAL_GLYPHS, seed: int = 0) -> None:
        check_number("train", train, MOST_IMAGES)
        check_number("val", val, MOST_IMAGES)
        check_number("seed", seed, least=0)
        self._seed = seed
        self.description = (
            f"Pictures of letters and digits in {len(FONTS)} fonts, 32 × 32 pixels, seed {seed}."
        )
        self.class_names = list(CHARACTERS)
        self.labels = {"train": np.arange(train) % 62, "val": np.arange(val) % 62}
        self.image_bytes = SIZE * SIZE
        self.fingerprint = fingerprint([(train, val, seed)])

    def items(self, split: Split, start: int, stop: int) -> Items:
        labels = self.labels[split][start:stop]
        names = [f"{CHARACTERS[label]}-{i}" for i, label in enumerate(labels.tolist(), start)]
        ids = np.arange(start, start + len(labels))
        return Arrays(names, labels, partial(glyphs, self._seed, SPLITS.index(split), ids, labels))
