"""Make the packaged data set of handwritten digits: ``python -m theanompi.data.sources.make_digits OUT.h5``.

Needs scikit-learn, whose `load_digits` carries the images; nothing else in the package does. The contents are
the same on every machine: whole-number arithmetic, and a split that hangs on no library's random numbers.
"""

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theanompi.data.reading.random import Purpose, uniforms
from theanompi.data.store.writer import write_dataset
from theanompi.system.output import print_anything

VALIDATION_IMAGES = 360
# Grey levels are multiples of this. The source has 17 levels, so nothing is lost to the eye, and the file
# shrinks by a third.
STEP = 3

SOURCE = (
    "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
    "1998, https://doi.org/10.24432/C50P49. The 1,797 images of its test set, by way of scikit-learn"
)
LICENCE = "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/"
DESCRIPTION = (
    "1,797 handwritten digits by 13 writers, 8 x 8 pixels of 0 to 16, enlarged to 32 x 32 by Catmull-Rom "
    "interpolation. Grey, bright on dark. A fixed split, stratified by digit: 1,437 images for training, "
    "360 for validation."
)


def enlarge(images: NDArray[Any], factor: int = 4, white: int = 16) -> NDArray[np.uint8]:
    """Enlarge grey images by Catmull-Rom interpolation, in exact whole-number arithmetic.

    The kernel is the cubic convolution of Keys (1981) with a = -1/2. Pixels are squares with their
    value at the centre; outside the image its border continues.

    Parameters
    ----------
    images : (n, h, h)
        Whole numbers from 0 to `white`.
    factor : int
        Side of the square that each pixel becomes.
    white : int
        The value that becomes 255.

    Returns
    -------
    uint8 (n, factor·h, factor·h)
        Rounded to multiples of `STEP`.

    Examples
    --------
    >>> enlarge(np.full((1, 2, 2), 16), factor=2).tolist()[0][0]
    [255, 255, 255, 255]
    """
    size = images.shape[1]
    # Centre of output pixel i in source pixels is ((2i + 1)/factor - 1)/2; t/unit is its distance past source
    # pixel `left`.
    unit = 2 * factor
    left, t = np.divmod(2 * np.arange(factor * size) + 1 - factor, unit)
    weights = np.zeros((factor * size, size), np.int64)
    terms = (
        -(t**3) + 2 * unit * t**2 - unit**2 * t,
        3 * t**3 - 5 * unit * t**2 + 2 * unit**3,
        -3 * t**3 + 4 * unit * t**2 + unit**2 * t,
        t**3 - unit * t**2,
    )
    for offset, term in zip((-1, 0, 1, 2), terms, strict=True):
        np.add.at(weights, (np.arange(factor * size), np.clip(left + offset, 0, size - 1)), term)
    one = (2 * unit**3) ** 2 * white
    values = weights @ np.rint(images).astype(np.int64) @ weights.T
    levels = 255 // STEP
    return (STEP * np.clip((values * levels + one // 2) // one, 0, levels)).astype(np.uint8)


def split(labels: NDArray[np.int64], n_val: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split so that the validation images hold every class in its proportion, to within one.

    Parameters
    ----------
    labels : int64 (n,)
    n_val : int
        Images for validation.

    Returns
    -------
    (int64 (n - n_val,), int64 (n_val,))
        Positions of the training and the validation images, increasing.

    Examples
    --------
    >>> train, val = split(np.array([0, 0, 0, 1, 1, 1]), n_val=2)
    >>> len(train), len(val), [int(v) // 3 for v in val]
    (4, 2, [0, 1])
    """
    chance = uniforms(0, 0, np.arange(len(labels)), Purpose.SPLIT, 1)[:, 0]
    quantile = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        quantile[members[np.argsort(chance[members])]] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.argsort(quantile, kind="stable")
    return np.sort(order[n_val:]), np.sort(order[:n_val])


def main(arguments: list[str] | None = None) -> None:
    """Write the file named on the command line."""
    print_anything()
    parser = argparse.ArgumentParser(
        prog="python -m theanompi.data.sources.make_digits", description=DESCRIPTION
    )
    parser.add_argument("out", metavar="OUT.h5", help="the file to write")
    out = parser.parse_args(arguments).out
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("make_digits: needs scikit-learn: pip install scikit-learn") from None
    digits = load_digits()
    images, labels = enlarge(digits.images)[..., None], digits.target.astype(np.int64)
    train, val = split(labels, VALIDATION_IMAGES)
    write_dataset(
        out,
        (images[train], labels[train]),
        (images[val], labels[val]),
        name="digits",
        class_names=[str(digit) for digit in range(10)],
        augmentation="shift",
        description=DESCRIPTION,
        source=SOURCE,
        licence=LICENCE,
    )
    print(f"{out}: {len(train)} training and {len(val)} validation images")


if __name__ == "__main__":
    main()
