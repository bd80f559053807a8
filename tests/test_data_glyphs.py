"""The pictures of characters: the same everywhere, unlike each other, and what is said of wrong numbers."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from theanompi.config import ConfigError
from theanompi.data.pack import command
from theanompi.data.sources.base import Arrays
from theanompi.data.sources.glyphs import CHARACTERS, FONTS, Glyphs, glyphs
from theanompi.data.store.schema import open_dataset


def drawn(source: Glyphs, split: str, start: int, stop: int) -> np.ndarray:
    items = source.items(split, start, stop)  # type: ignore[arg-type]
    assert isinstance(items, Arrays)
    return items.pixels()


def test_a_picture_hangs_on_seed_split_number_and_label_alone() -> None:
    source = Glyphs(train=80, val=62, seed=3)
    whole = drawn(source, "train", 0, 80)
    assert whole.shape == (80, 32, 32, 1) and whole.dtype == np.uint8
    np.testing.assert_array_equal(drawn(source, "train", 70, 75), whole[70:75])
    np.testing.assert_array_equal(drawn(Glyphs(train=99, val=1, seed=3), "train", 0, 80), whole)
    np.testing.assert_array_equal(glyphs(3, 0, np.array([64]), np.array([2]))[0], whole[64])
    for other in (drawn(source, "val", 0, 62), drawn(Glyphs(train=62, val=1, seed=4), "train", 0, 62)):
        # Not one picture is that of the other split, or seed.
        assert (np.abs(other.astype(int) - whole[:62]).mean(axis=(1, 2, 3)) > 2).all()
    assert len(np.unique(whole.reshape(80, -1), axis=0)) == 80


def test_another_process_draws_the_same() -> None:
    program = (
        "import hashlib, numpy as np; from theanompi.data.sources.glyphs import glyphs; ids = np.arange(62); "
        "print(hashlib.sha256(glyphs(0, 1, ids, ids).tobytes()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
        ).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


def test_labels_take_turns_and_are_named() -> None:
    source = Glyphs(train=130, val=63)
    assert source.class_names == list(CHARACTERS) and len(set(CHARACTERS)) == 62
    assert source.labels["train"].tolist() == [i % 62 for i in range(130)]
    assert source.items("val", 61, 63).names == ["z-61", "0-62"]


def test_every_font_draws_every_character() -> None:
    from theanompi.data.sources.glyphs import _drawn

    for font in range(len(FONTS)):
        seen = {np.asarray(_drawn(font, character)).tobytes() for character in CHARACTERS}
        # An empty picture, or the box that stands for a missing character, would come again.
        assert len(seen) == 62, FONTS[font]


def test_a_character_is_bright_in_the_middle_and_the_task_is_neither_trivial_nor_hopeless() -> None:
    source = Glyphs(train=62 * 40, val=62 * 5)
    train, val = drawn(source, "train", 0, 62 * 40), drawn(source, "val", 0, 62 * 5)
    assert train[:, 8:24, 8:24].mean() > train[:, :4].mean() + 10
    x, y = (pixels.reshape(len(pixels), -1) / 255.0 for pixels in (train, val))
    means = np.stack([x[source.labels["train"] == label].mean(axis=0) for label in range(62)])
    nearest = ((y[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    right = (nearest == source.labels["val"]).mean()
    assert 3 / 62 < right < 0.6


@pytest.mark.parametrize(("option", "value", "least"), [("train", 0, 1), ("val", -1, 1), ("seed", -1, 0)])
def test_wrong_numbers(option: str, value: int, least: int) -> None:
    with pytest.raises(ConfigError, match=f"^--{option}: expected at least {least}, got {value}$"):
        Glyphs(**{"train": 2, "val": 2, option: value})


def test_another_set_has_another_fingerprint() -> None:
    first = Glyphs(train=2, val=3, seed=4).fingerprint
    assert first == Glyphs(train=2, val=3, seed=4).fingerprint
    assert len({first, *(Glyphs(*numbers).fingerprint for numbers in ((3, 3, 4), (2, 4, 4), (2, 3, 5)))}) == 4


@pytest.mark.parametrize("processes", [1, 2])
def test_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str], processes: int) -> None:
    output = tmp_path / "glyphs.h5"
    words = f"glyphs --train 130 --val 63 --seed 2 --processes {processes} -o {output}"
    assert command.main(words.split()) == 0
    assert "130 training and 63 validation images in 62 classes" in capsys.readouterr().out
    expected: Callable[[str, int, int], np.ndarray] = lambda *part: drawn(Glyphs(130, 63, 2), *part)  # noqa: E731
    with open_dataset(output) as dataset:
        assert dataset.augmentation == "none" and dataset.channels == 1
        np.testing.assert_array_equal(
            np.stack([dataset.pixels("train", i) for i in range(130)]), expected("train", 0, 130)
        )
        np.testing.assert_array_equal(
            np.stack([dataset.pixels("val", i) for i in range(63)]), expected("val", 0, 63)
        )
