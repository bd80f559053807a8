"""One process of a loader: bytes of a data file in, pixels in shared memory out.

`theanompi.data.reading.loader` starts it and decides everything: which images, which piece of each, where to put it.
This side imports NumPy and the decoder, nothing else: no MPI, whose launcher would take it for a rank, no torch
and no HDF5, which would only cost memory and time.
"""

import mmap
import os
import sys
from multiprocessing.connection import Connection
from time import monotonic
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.data.pictures.decode import BadImage, decode_jpeg


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

    Examples
    --------
    >>> Row(4096, 300, 10, 10, 1, 2, 3, 5, 7, 1).cut_width
    7
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


class Layout(NamedTuple):
    """The shared memory: a table of rows for each slot, then the images of each slot, from a page on.

    A slot holds one batch of `n` images of at most `height` × `width` pixels.

    Examples
    --------
    >>> layout = Layout(slots=2, n=4, height=10, width=10, channels=3)
    >>> rows, images = layout.arrays(np.zeros(layout.nbytes, np.uint8))
    >>> rows.shape, images.shape, layout.nbytes // mmap.PAGESIZE
    ((2, 4, 10), (2, 4, 10, 10, 3), 3)
    """

    slots: int
    n: int
    height: int
    width: int
    channels: int

    @property
    def _table(self) -> int:
        return _pages(self.slots * self.n * len(Row._fields) * 8)

    @property
    def _slot(self) -> int:
        return _pages(self.n * self.height * self.width * self.channels)

    @property
    def nbytes(self) -> int:
        """Size of the whole memory, in bytes: whole pages."""
        return self._table + self.slots * self._slot

    def arrays(self, memory: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Show the memory as arrays.

        Parameters
        ----------
        memory : uint8 (nbytes,)

        Returns
        -------
        (int64 (slots, n, 10), uint8 (slots, n, height, width, channels))
            The tables, whose columns are those of `Row`, and the images; views.

        Examples
        --------
        >>> layout = Layout(slots=1, n=1, height=2, width=2, channels=1)
        >>> memory = np.zeros(layout.nbytes, np.uint8)
        >>> layout.arrays(memory)[1][0, 0, 1] = 7
        >>> int(memory.sum())
        14
        """
        line = self.width * self.channels
        rows: NDArray[np.int64] = np.ndarray((self.slots, self.n, len(Row._fields)), np.int64, memory.data)
        images: NDArray[np.uint8] = np.ndarray(
            self, np.uint8, memory.data, self._table, (self._slot, self.height * line, line, self.channels, 1)
        )
        return rows, images


def _pages(nbytes: int) -> int:
    return -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE


def shrunk(pixels: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Average squares of k × k pixels; those at the end that are not whole, over what there is.

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
    rows, columns = np.arange(0, pixels.shape[0], k), np.arange(0, pixels.shape[1], k)
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=0, dtype=np.uint32), columns, axis=1)
    counts = np.outer(np.diff(rows, append=pixels.shape[0]), np.diff(columns, append=pixels.shape[1])).astype(
        np.uint32
    )[..., None]
    return ((sums + counts // 2) // counts).astype(np.uint8)


class Reader:
    """Reads pieces of images from an open data file.

    Parameters
    ----------
    file : int
        Descriptor of the data file.
    store : "jpeg" or "raw"
        What the bytes of an image are.

    Examples
    --------
    >>> Reader(0, "raw").read.__name__
    'read'
    """

    def __init__(self, file: int, store: str) -> None:
        self._file, self._store = file, store
        # Kept from image to image: fresh memory of this size costs more than what is done with it.
        self._buffer = bytearray()

    def read(self, row: Row, canvas: NDArray[np.uint8]) -> None:
        """Put the piece of an image that a row describes into the top left of a canvas.

        Parameters
        ----------
        row : Row
        canvas : uint8 (h, w, c)
            What lies outside the piece is left as it is.

        Raises
        ------
        BadImage
            If the bytes are not an image of the size that the row says, or are not there.

        Examples
        --------
        >>> import tempfile
        >>> canvas = np.zeros((1, 2, 1), np.uint8)
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = file.write(bytes(range(12)))
        ...     file.flush()
        ...     whole = Row(0, 12, height=3, width=4, reduction=1, top=0, left=0, cut_height=3, cut_width=4, shrink=1)
        ...     cut = whole._replace(top=1, left=1, cut_height=1, cut_width=2)
        ...     Reader(file.fileno(), "raw").read(cut, canvas)
        >>> canvas.ravel().tolist()
        [5, 6]
        """
        height, width = -(-row.cut_height // row.shrink), -(-row.cut_width // row.shrink)
        target = canvas[:height, :width]
        if self._store == "raw":
            whole_lines = row.cut_width == row.width == canvas.shape[1] and row.shrink == 1
            if whole_lines:
                self._fill(target.reshape(-1).data, row.position + row.top * row.width * canvas.shape[2])
                return
            piece = self._raw(row, canvas.shape[2])
        else:
            piece = self._jpeg(row)
        target[:] = piece if row.shrink == 1 else shrunk(piece, row.shrink)

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
        self._fill(data, position)
        return data

    def _fill(self, data: memoryview, position: int) -> None:
        done = 0
        while done < len(data):
            got = os.preadv(self._file, [data[done:]], position + done)
            if not got:
                raise BadImage(
                    f"expected {len(data)} bytes at byte {position} of the file, which ends after {done} of them"
                )
            done += got


def serve(connection: Connection, reader: Reader, rows: NDArray[np.int64], images: NDArray[np.uint8]) -> None:
    """Fill the slots whose numbers come in, one after another, until the other side closes or dies.

    The answer to a slot is ``(slot, fault, start, end)``: when it was begun and done (seconds of
    `time.monotonic`), and as its fault None, or ``(i, reason)`` when image i cannot be read.

    Parameters
    ----------
    connection : Connection
    reader : Reader
    rows, images : int64 (slots, n, 10), uint8 (slots, n, height, width, channels)
        The shared memory.

    Examples
    --------
    >>> from multiprocessing import Pipe
    >>> ours, theirs = Pipe()
    >>> ours.close()
    >>> serve(theirs, Reader(0, "raw"), *Layout(1, 1, 1, 1, 1).arrays(np.zeros(8192, np.uint8)))
    """
    try:
        while True:
            slot = connection.recv()
            start, fault = monotonic(), None
            for i, row in enumerate(rows[slot].tolist()):
                try:
                    reader.read(Row(*row), images[slot, i])
                except (BadImage, OSError, MemoryError) as error:
                    fault = i, str(error) or type(error).__name__
                    break
            connection.send((slot, fault, start, monotonic()))
    except (EOFError, ConnectionError):
        # The training process has closed the loader, or is gone: nobody is left to tell.
        return


def main() -> None:
    """Run one loader process, as `theanompi.data.reading.loader` starts it.

    The arguments are three descriptors (of the connection, the data file and the shared memory), the way in
    which images are stored, and the fields of `Layout`.

    Examples
    --------
    >>> main.__name__
    'main'
    """
    connection, file, memory = map(int, sys.argv[1:4])
    layout = Layout(*map(int, sys.argv[5:]))
    mapping = np.frombuffer(mmap.mmap(memory, layout.nbytes), np.uint8)
    serve(Connection(connection), Reader(file, sys.argv[4]), *layout.arrays(mapping))


if __name__ == "__main__":
    main()
