"""One process of a loader: bytes of a data file in, the fields of a batch in shared memory out.

`theanompi.data.reading.loader` starts it and decides everything: which items, which part of each, where to put it.
This side imports NumPy and what reads the items (the decoder, if they are pictures), nothing else: no MPI, whose
launcher would take it for a rank, no torch and no HDF5, which would only cost memory and time.
"""

import json
import mmap
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from theanompi.data.modality import Field, ReaderClass
from theanompi.data.reading.messages import Answer, Fault, Messages
from theanompi.data.reading.reader import BadItem

# Vectors of any instruction set can be read from here without crossing a line of the cache.
_ALIGNMENT = 64


class Layout(NamedTuple):
    """The shared memory: a table of rows for each slot, then the slots, each from a page on.

    A slot holds one batch: the fields of its n items one after another, each a contiguous array (n, …) from a
    multiple of 64 bytes on.

    Attributes
    ----------
    slots, n : int
    columns : int
        Numbers in a row.
    fields : mapping of str to Field
    """

    slots: int
    n: int
    columns: int
    fields: Mapping[str, Field]

    @property
    def item_nbytes(self) -> int:
        """Bytes of one item's fields."""
        return sum(field.nbytes for field in self.fields.values())

    def _within(self) -> tuple[dict[str, int], int]:
        """Where each field begins in a slot, and how many bytes a slot has."""
        starts, end = {}, 0
        for name, field in self.fields.items():
            starts[name] = _rounded(end, _ALIGNMENT)
            end = starts[name] + self.n * field.nbytes
        return starts, _rounded(end, mmap.PAGESIZE)

    @property
    def _table(self) -> int:
        return _rounded(self.slots * self.n * self.columns * 8, mmap.PAGESIZE)

    @property
    def nbytes(self) -> int:
        """Size of the whole memory, in bytes: whole pages."""
        return self._table + self.slots * self._within()[1]

    def arrays(self, memory: NDArray[np.uint8]) -> tuple[NDArray[np.int64], list[dict[str, NDArray[Any]]]]:
        """Show the memory as arrays.

        Parameters
        ----------
        memory : uint8 (nbytes,)

        Returns
        -------
        rows : int64 (slots, n, columns)
        slots : list of dict of str to array (n, …)
            The fields of each slot, by name. All of it views.
        """
        starts, size = self._within()
        rows: NDArray[np.int64] = np.ndarray((self.slots, self.n, self.columns), np.int64, memory.data)
        slots = [
            {
                name: np.ndarray(
                    (self.n, *field.shape), field.dtype, memory.data, self._table + slot * size + starts[name]
                )
                for name, field in self.fields.items()
            }
            for slot in range(self.slots)
        ]
        return rows, slots


def _rounded(nbytes: int, unit: int) -> int:
    return -(-nbytes // unit) * unit


class Work(NamedTuple):
    """What a loader process is told when it is started."""

    reader: ReaderClass
    layout: Layout

    def to_text(self) -> str:
        """Write it as JSON."""
        return json.dumps([self.reader, self.layout])

    @classmethod
    def from_text(cls, text: str) -> "Work":
        """Undo `to_text`."""
        (module, name, arguments), (slots, n, columns, fields) = json.loads(text)
        by_name = {name: Field(dtype, tuple(shape)) for name, (dtype, shape) in fields.items()}
        return cls(ReaderClass(module, name, tuple(arguments)), Layout(slots, n, columns, by_name))


def serve(
    messages: Messages,
    reader: Any,
    rows: NDArray[np.int64],
    slots: Sequence[Mapping[str, NDArray[Any]]],
) -> None:
    """Fill the slots whose numbers come in, one after another, until the other side closes or dies.

    Parameters
    ----------
    messages : Messages
    reader : object
        With a method ``read(row, fields, i)``, and perhaps ``read_all(rows, fields)``, as
        `theanompi.data.reading.reader.BytesReader` has them.
    rows, slots : int64 (slots, n, columns), sequence of mappings
        The shared memory.
    """
    # Where the training process has closed the loader, or is gone, nobody is left to tell.
    with suppress(ConnectionError):
        while (slot := messages.asked()) is not None:
            start = monotonic()
            fault = read_batch(reader, rows[slot], slots[slot])
            messages.answer(Answer(slot, fault, start, monotonic()))


def read_batch(reader: Any, rows: NDArray[np.int64], fields: Mapping[str, NDArray[Any]]) -> Fault | None:
    """Fill a slot: all items at once, if the reader has a way for it that will do here, or else one after another."""
    read_all = getattr(reader, "read_all", None)
    if read_all is not None and read_all(rows, fields):
        return None
    for i, row in enumerate(rows.tolist()):
        try:
            reader.read(row, fields, i)
        except (BadItem, OSError, MemoryError) as error:
            return Fault(i, str(error) or type(error).__name__)
    return None


def main() -> None:
    """Run one loader process, as `theanompi.data.reading.loader` starts it.

    The arguments are three descriptors (of the connection, the data file and the shared memory) and `Work` as text.
    """
    connection, file, memory = map(int, sys.argv[1:4])
    reader, layout = Work.from_text(sys.argv[4])
    mapping = np.frombuffer(mmap.mmap(memory, layout.nbytes), np.uint8)
    serve(Messages(socket.socket(fileno=connection)), reader.make(file), *layout.arrays(mapping))


if __name__ == "__main__":
    main()
