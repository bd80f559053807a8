"""Checkpoints: named arrays and a few scalars in one HDF5 file, which is either whole or not there.

Layout of the file, readable with any HDF5 tool::

    user block        512 bytes, which HDF5 skips: one line of text with the format, its version, the size of
                      the file and where the table of checksums begins
    /attributes       one HDF5 attribute per scalar
    /arrays/<name>    one data set per array; a "/" in a name makes groups
    /<name>           the same by a soft link: ``h5py.File(path)["weights/conv1.W"]``
    table             after the end of HDF5's part: JSON with offset, size and CRC-32 of every array, and the
                      CRC-32 of all the bytes between them

The checksums stand outside HDF5's own structures because its library can crash, not just fail, on a damaged
file: it sees only files that have passed. Equal states give bit-identical files: names are written in sorted
order and HDF5 records no times.
"""

import io
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from theanompi.config import got
from theanompi.config.files import instead_of_file, reason, write_whole, writing

VERSION = 1
HEADER = "theanompi checkpoint, version {}, {} bytes, checksums at {} with crc32 {:08x}\n"
USER_BLOCK = 512

Scalar = int | float | str
# Kinds of dtypes: bool, integers, floats, complex numbers.
_NUMBERS = "biufc"


class _Extent(NamedTuple):
    """Where in the file the bytes of an array are."""

    name: str
    offset: int
    size: int


def save(path: str | Path, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Scalar]) -> None:
    """Write a checkpoint; a previous one at `path` stays until the new one is safely on disk.

    Parameters
    ----------
    path : str or Path
        The HDF5 file. Its folder must exist.
    arrays : mapping of str to ndarray
        Boolean, integer, floating or complex arrays of any shape, under names such as ``"weights/conv1.W"``.
    attributes : mapping of str to int, float or str
        Scalars. Integers from -2**63 to 2**64 - 1.

    Raises
    ------
    ValueError
        If a name is not a path of non-empty parts or is also the group of another one, or if a value has a
        type that a checkpoint cannot hold.
    theanompi.config.files.CannotWrite
        If the file cannot be written (a full disk, no permission); the previous checkpoint is kept.

    Examples
    --------
    >>> import numpy as np
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(folder + "/c.h5", {"weights/fc.W": np.eye(2, dtype=np.float32)}, {"iteration": 7})
    ...     arrays, attributes = load(folder + "/c.h5")
    >>> arrays["weights/fc.W"].tolist(), attributes
    ([[1.0, 0.0], [0.0, 1.0]], {'iteration': 7})
    """
    path = Path(path)
    arrays = {name: np.asarray(arrays[name]) for name in sorted(arrays)}
    _check_writable(arrays, attributes, path)
    # Released here: an exception may keep the view, and Python 3.12 crashes if a BytesIO is freed before its view.
    with (
        _file_content(arrays, attributes) as content,
        writing(f"checkpoint {path}", "; a previous one is kept as it was"),
    ):
        write_whole(path, content)


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Scalar]]:
    """Read a checkpoint back and verify every checksum in it.

    Parameters
    ----------
    path : str or Path
        A file written by `save`.

    Returns
    -------
    arrays : dict of str to ndarray
        By name, in sorted order, with the shapes, dtypes and bits that were saved.
    attributes : dict of str to int, float or str

    Raises
    ------
    ValueError
        In one line that names the file: if it is missing, not a checkpoint, of another version, truncated,
        damaged (naming the array whose checksum differs), or has what `save` does not write.

    Examples
    --------
    >>> load("nowhere.h5")
    Traceback (most recent call last):
    ...
    ValueError: checkpoint nowhere.h5: expected a file, got none there
    """
    path = Path(path)
    wrong = instead_of_file(path)
    if wrong:
        raise ValueError(f"checkpoint {path}: expected a file, got {wrong}")
    try:
        problem = _damage(path)
        if not problem:
            return _content(path)
    except OSError as error:
        problem = f"expected to be read, got: {reason(error)}"
    except _Foreign as error:
        problem = str(error)
    except Exception as error:  # h5py lets through whatever a foreign structure makes happen
        problem = f"expected what theanompi writes, got something else ({type(error).__name__}: {error})"
    raise ValueError(f"checkpoint {path}: {problem}")


class _Foreign(ValueError):
    """Something in a file that `save` does not write."""


def _content(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Scalar]]:
    arrays: dict[str, np.ndarray] = {}

    def read(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            if item.dtype.kind not in _NUMBERS:
                raise _Foreign(f"array {got(name)}: expected numbers, got dtype {got(item.dtype)}")
            # A small file could otherwise say that it has more than memory can hold.
            if item.nbytes > len_file:
                raise _Foreign(
                    f"array {got(name)}: expected its {item.nbytes} bytes in the file's {len_file}, got others"
                )
            arrays[name] = np.asarray(item[()])

    len_file = path.stat().st_size
    attributes: dict[str, Scalar] = {}
    # No lock: renaming keeps the writer away from readers, and locks fail on some network file systems.
    with h5py.File(path, "r", locking=False) as file:
        file["arrays"].visititems(read)
        for name, value in file["attributes"].attrs.items():
            if isinstance(value, np.bool_ | np.integer | np.floating):
                value = value.item()
            if not isinstance(value, int | float | str):
                raise _Foreign(f"attribute {got(name)}: expected a number or a text, got {got(value)}")
            attributes[name] = value
    return arrays, attributes


def progress(attributes: Mapping[str, Scalar], path: str | Path, per_epoch: int, last: int) -> int:
    """Return how many updates a checkpoint has had, checked.

    Parameters
    ----------
    attributes : mapping of str to int, float or str
        As returned by `load`, with ``iteration``, and ``epoch`` and ``position`` in it.
    path : str or Path
        Where they come from, for the message.
    per_epoch, last : int
        Updates of an epoch and of the whole run.

    Raises
    ------
    ValueError
        If they are not there, no whole numbers, beyond the end, or do not go together.

    Examples
    --------
    >>> progress({"iteration": 25, "epoch": 2, "position": 5}, "c.h5", 10, 100)
    25
    >>> progress({"iteration": -1, "epoch": 0, "position": 0}, "c.h5", 10, 100)
    Traceback (most recent call last):
    ...
    ValueError: checkpoint c.h5: iteration: expected a whole number from 0 to 100, got -1
    """
    iteration = attributes.get("iteration")
    if type(iteration) is not int or not 0 <= iteration <= last:
        raise ValueError(
            f"checkpoint {path}: iteration: expected a whole number from 0 to {last}, got {got(iteration)}"
        )
    for name, expected in zip(("epoch", "position"), divmod(iteration, per_epoch), strict=True):
        found = attributes.get(name)
        if type(found) is not int or found != expected:
            raise ValueError(
                f"checkpoint {path}: {name}: expected {expected} after {iteration} updates, {per_epoch} of an epoch, "
                f"got {got(found)}"
            )
    return iteration


def check(arrays: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Check that a checkpoint holds exactly the arrays that a model needs.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        As returned by `load`.
    expected : mapping of str to ndarray
        For every array that must be there, one of its shape and dtype.
    path : str or Path
        Where the arrays come from, for the message.

    Raises
    ------
    ValueError
        For the first array that is missing, has another shape or dtype or numbers that are not finite, in the order
        of `expected`, else for the first one that was not expected.

    Examples
    --------
    >>> import numpy as np
    >>> check({"fc.W": np.zeros((3, 2))}, {"fc.W": np.ones((3, 2))}, "c.h5")
    >>> check({"fc.W": np.zeros((3, 2))}, {"fc.W": np.ones((3, 10))}, "c.h5")
    Traceback (most recent call last):
    ...
    ValueError: checkpoint c.h5: array 'fc.W': expected shape (3, 10), got (3, 2)
    """
    for name, wanted in expected.items():
        where, shape = f"checkpoint {path}: array {got(name)}", wanted.shape
        if name not in arrays:
            raise ValueError(f"{where}: expected shape {shape}, got no such array")
        if arrays[name].shape != shape:
            raise ValueError(f"{where}: expected shape {shape}, got {arrays[name].shape}")
        if arrays[name].dtype != wanted.dtype:
            raise ValueError(f"{where}: expected dtype {wanted.dtype}, got {arrays[name].dtype}")
        odd = arrays[name].size - np.count_nonzero(np.isfinite(arrays[name]))
        if odd:
            raise ValueError(f"{where}: expected finite numbers, got {odd} that are not")
    for name in arrays:
        if name not in expected:
            raise ValueError(
                f"checkpoint {path}: array {got(name)}: expected none of this name in this model, "
                f"got one of shape {arrays[name].shape}"
            )


def _file_content(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Scalar]) -> memoryview:
    """All bytes of the file, made in memory: a disk that fills up under HDF5 leaves its library broken."""
    memory = io.BytesIO()
    extents = []
    with h5py.File(memory, "w", userblock_size=USER_BLOCK) as file:
        scalars = file.create_group("attributes", track_times=False)
        for name in sorted(attributes):
            scalars.attrs[name] = attributes[name]
        group = file.create_group("arrays", track_times=False)
        for name, array in arrays.items():
            dataset = group.create_dataset(name, data=array, track_times=False)
            if array.size:
                extents.append(_Extent(name, dataset.id.get_offset(), array.nbytes))
        for first in sorted({name.split("/")[0] for name in arrays} - set(file)):
            file[first] = h5py.SoftLink(f"/arrays/{first}")
    extents.sort(key=lambda extent: extent.offset)
    start = memory.seek(0, io.SEEK_END)
    with memory.getbuffer() as content:
        table = json.dumps({"arrays": extents, "crc32": _checksums(content, extents)}).encode()
    memory.write(table)
    memory.seek(0)
    memory.write(HEADER.format(VERSION, start + len(table), start, zlib.crc32(table)).encode())
    return memory.getbuffer()


def _damage(path: Path) -> str:
    """Return what is wrong with the file, or nothing when every checksum holds."""
    with open(path, "rb") as file:
        first = file.read(USER_BLOCK).split(b"\n")[0]
    header = re.fullmatch(
        HEADER.strip().replace("{:08x}", "([0-9a-f]{8})").replace("{}", "([0-9]+)").encode(), first
    )
    if header is None:
        return f"expected a file that begins with 'theanompi checkpoint', got {first[:40]!r}"
    version, size, start = (int(number) for number in header.groups()[:3])
    if version != VERSION:
        return f"expected format version {VERSION}, got {version}"
    content = np.memmap(path, np.uint8, "r").data
    if len(content) != size:
        return f"expected {size} bytes, got {len(content)}: the file is truncated"
    table = bytes(content[start:])
    if zlib.crc32(table) != int(header[4], 16):
        return "the table of checksums is damaged"
    records = json.loads(table)
    found = _checksums(content[:start], [_Extent(*extent) for extent in records["arrays"]])
    for name, expected in records["crc32"].items():
        if found[name] != expected:
            what = f"array {name!r}" if name else "the structure of HDF5"
            return f"{what}: expected checksum {expected:08x}, got {found[name]:08x}: the file is damaged"
    return ""


def _checksums(content: memoryview, extents: list[_Extent]) -> dict[str, int]:
    """CRC-32 of each array's bytes, and under the empty name of all else after the user block."""
    checksums, structure, position = {}, 0, USER_BLOCK
    for name, offset, size in extents:
        structure = zlib.crc32(content[position:offset], structure)
        checksums[name] = zlib.crc32(content[offset : offset + size])
        position = offset + size
    return checksums | {"": zlib.crc32(content[position:], structure)}


def _check_writable(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Scalar], path: Path) -> None:
    for name, array in arrays.items():
        parts = name.split("/")
        if "" in parts or "." in parts:
            raise ValueError(f"checkpoint {path}: expected array names with non-empty parts, got {name!r}")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in arrays:
                raise ValueError(
                    f"checkpoint {path}: array {name!r}: expected a group {'/'.join(parts[:end])!r}, "
                    "got an array of this name"
                )
        if array.dtype.kind not in _NUMBERS:
            raise ValueError(f"checkpoint {path}: array {name!r}: expected numbers, got dtype {array.dtype}")
    for name, value in attributes.items():
        if not isinstance(value, int | float | str) or (
            isinstance(value, int) and not -(2**63) <= value < 2**64
        ):
            raise ValueError(
                f"checkpoint {path}: attribute {name!r}: expected a 64-bit int, float or str, got {value!r}"
            )
