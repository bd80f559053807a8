"""The packaged digits: what they are, and that the tool still makes them."""

import importlib.resources
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from theanompi.data import open_dataset
from theanompi.data.sources.make_digits import enlarge, split

PACKAGED = importlib.resources.files("theanompi.data") / "digits.h5"


def test_contents() -> None:
    with importlib.resources.as_file(PACKAGED) as path:
        assert path.stat().st_size < 2 * 2**20
    data = open_dataset("digits")
    assert (data.n_train, data.n_val, data.largest, data.channels) == (1437, 360, (32, 32), 1)
    assert data.class_names == [str(digit) for digit in range(10)]
    assert data.augmentation == "shift"
    assert "10.24432/C50P49" in data.source and "Alpaydin" in data.source and "Kaynak" in data.source
    assert data.licence.startswith("CC BY 4.0")
    # The totals are those of the UCI test set, as its description lists them.
    totals = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    images = np.stack([data.pixels("train", i) for i in range(1437)])
    val_images = [data.pixels("val", i) for i in range(360)]
    labels, val_labels = data.labels("train"), data.labels("val")
    assert (np.bincount(labels) + np.bincount(val_labels)).tolist() == totals
    assert np.abs(np.bincount(val_labels) - np.array(totals) * 360 / 1797).max() < 1
    # No image is in both splits.
    seen = {image.tobytes() for image in images}
    assert len(seen) == 1437 and not seen & {image.tobytes() for image in val_images}
    assert images.min() == 0 and images.max() == 255


def test_the_tool_makes_the_packaged_file(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn, which carries the digits, is not installed")
    out = tmp_path / "digits.h5"
    subprocess.run([sys.executable, "-m", "theanompi.data.sources.make_digits", out], check=True, timeout=120)
    with importlib.resources.as_file(PACKAGED) as path:
        assert out.read_bytes() == path.read_bytes()


def test_the_tool_says_what_it_needs(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None; from theanompi.data.sources.make_digits import main; "
        "main([sys.argv[1]])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "digits.h5"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1
    assert result.stderr == "make_digits: needs scikit-learn: pip install scikit-learn\n"
    assert not list(tmp_path.iterdir())


def test_enlarge_is_keys_cubic_convolution() -> None:
    def kernel(x: float) -> float:
        x = abs(x)
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0

    image = np.random.default_rng(0).integers(0, 17, (8, 8))
    weights = np.zeros((32, 8))
    for i in range(32):
        centre = (i + 0.5) / 4 - 0.5
        for source in range(-3, 12):
            weights[i, min(max(source, 0), 7)] += kernel(centre - source)
    expected = np.clip(weights @ image @ weights.T, 0, 16) * 255 / 16
    got = enlarge(image[None])[0]
    assert got.dtype == np.uint8 and (got % 3 == 0).all()
    # Rounded to the nearest multiple of three.
    assert np.abs(got - expected).max() <= 1.5 + 1e-9


@pytest.mark.parametrize("sizes, n_val", [((50, 50, 50), 30), ((5, 100, 33), 20), ((1, 1, 8), 3)])
def test_split_is_stratified(sizes: tuple[int, ...], n_val: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    train, val = split(labels, n_val)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(len(labels)))
    assert len(val) == n_val and (np.diff(train) > 0).all() and (np.diff(val) > 0).all()
    shares = np.array(sizes) * n_val / len(labels)
    assert np.abs(np.bincount(labels[val], minlength=len(sizes)) - shares).max() <= 1
