"""How a loader process gets a piece of a picture into a slot: bytes of a data file in, pixels out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.data.pictures.decode import decode_jpeg
from theanompi.data.reading.reader import fill


class Row(NamedTuple):
    """What to do for one image; a row of an int64 table.

    Attributes
    ----------
    position, length : int
        Of its bytes in the data file.
    height, width : int
        Of the whole image as it is stored, in pixels.
    reduction : int
        Decode to 1/reduction of the size (JPEG).
    top, left, cut_height, cut_width : int
        The piece to keep, in pixels after `reduction`.
    shrink : int
        Average squares of so many pixels at last.
    """

    position: int
    length: int
    height: int
    width: int
    reduction: int
    top: int
    left: int
    cut_height: int
    cut_width: int
    shrink: int


def shrunk(pixels: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Average squares of k × k pixels, if k is not 1; those at the end that are not whole, over what there is.

    Parameters
    ----------
    pixels : uint8 (h, w, c)
    k : int

    Returns
    -------
    uint8 (ceil(h / k), ceil(w / k), c)
        Rounded to the nearest.

    Examples
    --------
    >>> shrunk(np.arange(6, dtype=np.uint8).reshape(2, 3, 1), 2)[..., 0].tolist()
    [[2, 4]]
    """
    if k == 1:
        return pixels
    rows, columns = np.arange(0, pixels.shape[0], k), np.arange(0, pixels.shape[1], k)
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32), columns, axis=1)
    counts = np.outer(np.diff(rows, append=pixels.shape[0]), np.diff(columns, append=pixels.shape[1])).astype(
        np.uint32
    )[..., None]
    return ((sums + counts // 2) // counts).astype(np.uint8)


class PictureReader:
    """Reads pieces of images from an open data file.

    Parameters
    ----------
    file : int
        Descriptor of the data file.
    store : "jpeg" or "raw"
        What the bytes of an image are.
    """

    def __init__(self, file: int, store: str) -> None:
        self._file, self._store = file, store
        # Kept from image to image: fresh memory of this size costs more than what is done with it.
        self._buffer = bytearray()

    def read(self, row: Sequence[int], fields: Mapping[str, NDArray[Any]], i: int) -> None:
        """Put the piece of an image that a row describes into the top left of its canvas.

        Parameters
        ----------
        row : sequence of int
            As in `Row`.
        fields : mapping with ``images``, uint8 (n, h, w, c)
            The canvases; what lies outside the piece is left as it is.
        i : int
            Which of them.

        Raises
        ------
        BadItem
            If the bytes are not an image of the size that the row says, or are not there.
        """
        source, canvas = Row(*row), fields["images"][i]
        height, width = -(-source.cut_height // source.shrink), -(-source.cut_width // source.shrink)
        target = canvas[:height, :width]
        if self._store == "raw":
            whole_lines = source.cut_width == source.width == canvas.shape[1] and source.shrink == 1
            if whole_lines:
                fill(
                    self._file,
                    target.reshape(-1).data,
                    source.position + source.top * source.width * canvas.shape[2],
                )
                return
            piece = self._raw(source, canvas.shape[2])
        else:
            piece = self._jpeg(source)
        target[:] = shrunk(piece, source.shrink)

    def _raw(self, row: Row, channels: int) -> NDArray[np.uint8]:
        line = row.width * channels
        data = self._bytes(row.cut_height * line, row.position + row.top * line)
        lines = np.frombuffer(data, np.uint8).reshape(row.cut_height, row.width, channels)
        return lines[:, row.left : row.left + row.cut_width]

    def _jpeg(self, row: Row) -> NDArray[np.uint8]:
        data = self._bytes(row.length, row.position)
        pixels = decode_jpeg(data, row.reduction, (row.height, row.width))
        return pixels[row.top : row.top + row.cut_height, row.left : row.left + row.cut_width]

    def _bytes(self, length: int, position: int) -> memoryview:
        if length > len(self._buffer):
            self._buffer = bytearray(length)
        data = memoryview(self._buffer)[:length]
        fill(self._file, data, position)
        return data
