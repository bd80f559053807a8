"""How a loader process gets bytes from a data file into the fields of a slot."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray


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


class BytesReader:
    """Copies bytes of the file into the fields as they are, and zeroes what is left of an item.

    Its rows have two columns for each field, in the order of the fields: position and number of its bytes.

    Parameters
    ----------
    file : int
        Descriptor of the data file.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> fields = {"x": np.full((2, 3), 9, np.uint8)}
    >>> with tempfile.TemporaryFile() as file:
    ...     _ = file.write(bytes(range(10)))
    ...     file.flush()
    ...     BytesReader(file.fileno()).read((4, 2), fields, 1)
    >>> fields["x"].tolist()
    [[9, 9, 9], [4, 5, 0]]
    """

    def __init__(self, file: int) -> None:
        self._file = file

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
