"""How a loader process gets bytes from a data file into the fields of a slot."""

import mmap
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALL = 16384
"""Bytes of a field of one item: for so few, asking the system for each item takes longer than copying it."""


class BadItem(ValueError):
    """The bytes of an item are not what they should be, or not there; the message is the reason, in one line."""


def fill(file: int, data: memoryview, position: int) -> None:
    """Fill memory with what a file has from a position on.

    Parameters
    ----------
    file : int
        Descriptor.
    data : memoryview
        Of bytes, writable.
    position : int
        In bytes from the beginning of the file.

    Raises
    ------
    BadItem
        If the file ends before.
    """
    done = 0
    while done < len(data):
        got = os.preadv(file, [data[done:]], position + done)
        if not got:
            raise BadItem(
                f"expected {len(data)} bytes at byte {position} of the file, which ends after {done} of them"
            )
        done += got


def _mapping(file: int) -> mmap.mmap | None:
    try:
        return mmap.mmap(file, 0, prot=mmap.PROT_READ)
    except (OSError, ValueError):  # of a file system that maps none, or empty
        return None


class BytesReader:
    """Copies bytes of the file into the fields as they are, and zeroes what is left of an item.

    Its rows have two columns for each field, in the order of the fields: position and number of its bytes.

    Parameters
    ----------
    file : int
        Descriptor of the data file.

    Examples
    --------
    >>> import tempfile
    >>> fields = {"x": np.full((2, 3), 9, np.uint8)}
    >>> with tempfile.TemporaryFile() as file:
    ...     _ = file.write(bytes(range(10)))
    ...     file.flush()
    ...     BytesReader(file.fileno()).read((4, 2), fields, 1)
    >>> fields["x"].tolist()
    [[9, 9, 9], [4, 5, 0]]
    """

    def __init__(self, file: int) -> None:
        self._file, self._mapped = file, _mapping(file)

    def read_all(self, rows: NDArray[np.int64], fields: Mapping[str, NDArray[Any]]) -> bool:
        """Fill all items at once, if their fields are small and the file has all of them.

        Parameters
        ----------
        rows : int64 (n, columns)
        fields : mapping of str to array (n, …)
            Contiguous.

        Returns
        -------
        bool
            Whether that was done; if not, `read` does each, and says what is wrong with it.
        """
        if self._mapped is None:
            return False
        end = min(len(self._mapped), os.fstat(self._file).st_size)
        columns = rows.T
        for array, positions, lengths in zip(fields.values(), columns[::2], columns[1::2], strict=True):
            target = array.reshape(len(array), -1).view(np.uint8)
            size = target.shape[1]
            if size > _SMALL or positions.max() + size > end or lengths.max() > size:
                return False
            # What begins at each byte of the file, of which the rows choose.
            pieces: NDArray[np.uint8] = np.ndarray(
                (end - size + 1, size), np.uint8, self._mapped, strides=(1, 1)
            )
            target[:] = pieces[positions]
            if lengths.min() < size:
                target[np.arange(size) >= lengths[:, None]] = 0
        return True

    def read(self, row: Sequence[int], fields: Mapping[str, NDArray[Any]], i: int) -> None:
        """Fill item `i` of the fields.

        Parameters
        ----------
        row : sequence of int
            A position and a number of bytes for each field.
        fields : mapping of str to array (n, …)
            Contiguous.
        i : int

        Raises
        ------
        BadItem
            If the file ends before the item does.
        """
        for k, array in enumerate(fields.values()):
            position, length = row[2 * k : 2 * k + 2]
            target = array[i : i + 1].data.cast("B")
            fill(self._file, target[:length], position)
            if length < len(target):
                target[length:] = bytes(len(target) - length)
