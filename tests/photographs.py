"""Generated photographs: the spectrum of natural pictures, about 110 KB as a JPEG file of 500 × 375 pixels."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from theanompi.config import RunConfig, resolve
from theanompi.data import Dataset, Pictures


def photograph(seed: int, height: int = 375, width: int = 500) -> NDArray[np.uint8]:
    """Colours that fall off as 1/f^1.3, correlated between the channels, with a little noise of the sensor.

    Parameters
    ----------
    seed : int
    height, width : int
        Pixels.

    Returns
    -------
    uint8 (height, width, 3)

    Examples
    --------
    >>> photograph(0, 30, 40).shape
    (30, 40, 3)
    """
    draw = np.random.default_rng(seed)
    side = max(height, width)
    spectrum = (side, side // 2 + 1)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = np.inf  # the mean is set below

    def waves() -> NDArray[np.complex128]:
        return draw.standard_normal(spectrum) + 1j * draw.standard_normal(spectrum)

    grey = waves()
    planes = []
    for _ in range(3):
        plane = np.fft.irfft2((0.8 * grey + 0.35 * waves()) * frequency**-1.3, (side, side))
        planes.append(118 + 55 * plane / plane.std())
    pixels = np.stack(planes, axis=-1)[:height, :width] + 3 * draw.standard_normal((height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def jpeg(seed: int, height: int = 375, width: int = 500, quality: int = 94) -> bytes:
    r"""Encode `photograph` as a JPEG file.

    Examples
    --------
    >>> jpeg(0, 30, 40)[:2]
    b'\xff\xd8'
    """
    file = io.BytesIO()
    Image.fromarray(photograph(seed, height, width)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def pictures(dataset: Dataset, size: int = 32, **settings: Any) -> Pictures:
    """A data set as a run of these settings sees it, in pictures of `size` × `size` pixels."""
    return Pictures(dataset, resolve(RunConfig(image_size=size, **settings)))
