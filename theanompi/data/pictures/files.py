"""Image files that are in no data set: read as those of a run were packed, and cut as in its validation."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from theanompi.config.files import read_bytes, reason
from theanompi.data.pictures.augment import evaluation_boxes
from theanompi.data.pictures.decode import Pixels, decode, decode_jpeg, jpeg_size, resize_shorter, to_jpeg
from theanompi.data.pictures.reader import shrunk
from theanompi.data.pictures.regions import canvas, regions
from theanompi.data.reading.reader import BadItem

FAULT_BYTES = 160
"""Of the field that says why a file shows no picture."""


class Preparation(NamedTuple):
    """What packing, and the reader of a data set, do to a picture before the device gets it; for validation.

    Attributes
    ----------
    store : "jpeg" or "raw"
    policy : str
        One of `theanompi.data.pictures.augment.POLICIES`.
    size : int
        Side of the network's input, in pixels.
    channels : int
        1 or 3.
    least, most : int
        Between which the shorter sides of stored pictures are, in pixels, where they are raw.
    height, width : int
        Of the canvas.
    """

    store: str
    policy: str
    size: int
    channels: int
    least: int
    most: int
    height: int
    width: int

    def file(self, data: bytes, target: Pixels) -> NDArray[np.float32]:
        """Put what validation sees of a file, if it were packed, on a canvas.

        Parameters
        ----------
        data : bytes
            A file of any format that Pillow reads.
        target : uint8 (height, width, channels)

        Returns
        -------
        float32 (7,)
            Where on it: a row of `theanompi.data.pictures.regions.Regions.boxes`.

        Raises
        ------
        BadImage
            If it shows no picture.
        """
        if self.store != "jpeg":
            return self.pixels(decode(data), target)
        data = to_jpeg(data)
        sizes = np.array([jpeg_size(data)])
        reduction = int(self._regions(sizes)[0][0])
        return self._cut(decode_jpeg(data, reduction, tuple(sizes[0].tolist())), sizes, target)

    def pixels(self, pixels: Pixels, target: Pixels) -> NDArray[np.float32]:
        """Put what validation sees of a decoded picture, uint8 (h, w, 3), on a canvas; gives what `file` does."""
        if self.store == "raw":
            short = min(pixels.shape[:2])
            pixels = resize_shorter(pixels, min(max(short, self.least), self.most))
        if self.channels == 1:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
        sizes = np.array([pixels.shape[:2]])
        return self._cut(shrunk(pixels, int(self._regions(sizes)[0][0])), sizes, target)

    def _regions(self, sizes: NDArray[np.int64]) -> Any:
        return regions(self.store, self.policy, sizes, evaluation_boxes(self.policy, sizes), self.size)

    def _cut(self, pixels: Pixels, sizes: NDArray[np.int64], target: Pixels) -> NDArray[np.float32]:
        _, (shrink,), ((top, left, height, width),), (box,) = self._regions(sizes)
        if self.policy != "imagenet" and (height > self.height or width > self.width):
            # All of it is shown, whatever its sides: as the device would have resized it.
            pixels = _resized(pixels, self.size)
            return self._cut(pixels, np.array([pixels.shape[:2]]), target)
        piece = shrunk(pixels[top : top + height, left : left + width], int(shrink))
        target[: piece.shape[0], : piece.shape[1]] = piece
        return box


def prepare(
    store: str, policy: str, sizes: NDArray[np.integer], size: int, channels: int, held: tuple[int, int]
) -> Preparation:
    """Find out how the pictures of a data set have been prepared.

    Parameters
    ----------
    store, policy, size, channels
        As of `Preparation`.
    sizes : integer (n, 2)
        Height and width of its pictures, in pixels.
    held : (int, int)
        Height and width of its own canvas.
    """
    shorter = sizes.min(axis=1)
    least, most = int(shorter.min()), int(shorter.max())
    if policy == "imagenet":
        # The most that is cut out of a picture of any size: JPEG files are reduced, others as large as they are stored.
        long = 2**16 if store == "jpeg" else most
        room = canvas(store, policy, np.array([[long, 2**16], [2**16, long]]), size)
    else:
        room = max(held[0], size), max(held[1], size)
    return Preparation(store, policy, size, channels, least, most, *room)


def _resized(pixels: Pixels, size: int) -> Pixels:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    resized = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return resized.reshape(size, size, pixels.shape[2])


class FileReader:
    """Reads image files, for a loader process. One that shows no picture does not end it: its field ``fault`` says why.

    Parameters
    ----------
    file : int
        Descriptor of a file with the list of their paths, as JSON.
    *preparation
        The fields of `Preparation`.
    """

    def __init__(self, file: int, *preparation: Any) -> None:
        self._paths: list[str] = json.loads(os.pread(file, os.fstat(file).st_size, 0))
        self._preparation = Preparation(*preparation)

    def read(self, row: Sequence[int], fields: Mapping[str, NDArray[Any]], i: int) -> None:
        """Put a file, ``row[0]`` of the list, into ``images`` and ``boxes`` at `i`, or a reason into ``fault``."""
        fields["fault"][i], words = 0, ""
        try:
            data = read_bytes(self._paths[row[0]])
            fields["boxes"][i] = self._preparation.file(data, fields["images"][i])
        except BadItem as error:
            words = str(error)
        except (OSError, MemoryError) as error:
            words = reason(error)
        if words:
            said = words.encode(errors="backslashreplace")[:FAULT_BYTES]
            fields["fault"][i, : len(said)] = np.frombuffer(said, np.uint8)
            # One pixel, whatever it is.
            fields["boxes"][i] = 0, 0, 1, 1, 0, 1, 1
