"""Checkpoints: named arrays and a few scalars in one HDF5 file, which is either whole or not there.

Layout of the file, readable with any HDF5 tool::

    user block        512 bytes, which HDF5 skips: one line of text with the format, its version, the size of
                      the file and where the table of checksums begins
    /attributes       one HDF5 attribute per scalar
    /arrays/<name>    one data set per array; a "/" in a name makes groups
    table             after the end of HDF5's part: JSON with offset, size and CRC-32 of every array, and the
                      CRC-32 of all the bytes between them

The checksums stand outside HDF5's own structures because its library can crash, not just fail, on a damaged
file: it sees only files that have passed. Equal states give bit-identical files: names are written in sorted
order and HDF5 records no times.
"""

import io
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

VERSION = 1
HEADER = "theanompi checkpoint, version {}, {} bytes, checksums at {} with crc32 {:08x}\n"
USER_BLOCK = 512

Scalar = int | float | str


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
    OSError
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
    content = _file_content(arrays, attributes)
    try:
        _replace(path, content)
    except OSError as error:
        raise OSError(
            f"checkpoint {path}: cannot be written: {error.strerror}; a previous one is kept as it was"
        ) from error


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
        In one line that names the file: if it is missing, not a checkpoint, of another version, truncated, or
        damaged (naming the array whose checksum differs).

    Examples
    --------
    >>> load("nowhere.h5")
    Traceback (most recent call last):
    ...
    ValueError: checkpoint nowhere.h5: expected a file, got none there
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"checkpoint {path}: expected a file, got {'a folder' if path.is_dir() else 'none there'}"
        )
    problem = _damage(path)
    if problem:
        raise ValueError(f"checkpoint {path}: {problem}")
    arrays: dict[str, np.ndarray] = {}

    def read(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item[()])

    # No lock: renaming keeps the writer away from readers, and locks fail on some network file systems.
    with h5py.File(path, "r", locking=False) as file:
        file["arrays"].visititems(read)
        scalars = file["attributes"].attrs
        return arrays, {name: v if isinstance(v, str) else v.item() for name, v in scalars.items()}


def check(
    arrays: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]], path: str | Path
) -> None:
    """Check that a checkpoint holds exactly the arrays that a model needs.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        As returned by `load`.
    expected : mapping of str to tuple of int
        The shape of every array that must be there.
    path : str or Path
        Where the arrays come from, for the message.

    Raises
    ------
    ValueError
        For the first array that is missing or has another shape, in the order of `expected`, else for the
        first one that was not expected.

    Examples
    --------
    >>> import numpy as np
    >>> check({"fc.W": np.zeros((3, 2))}, {"fc.W": (3, 2)}, "c.h5")
    >>> check({"fc.W": np.zeros((3, 2))}, {"fc.W": (3, 10)}, "c.h5")
    Traceback (most recent call last):
    ...
    ValueError: checkpoint c.h5: array 'fc.W': expected shape (3, 10), got (3, 2)
    """
    for name, shape in expected.items():
        if name not in arrays:
            raise ValueError(
                f"checkpoint {path}: array {name!r}: expected shape {tuple(shape)}, got no such array"
            )
        if arrays[name].shape != tuple(shape):
            raise ValueError(
                f"checkpoint {path}: array {name!r}: expected shape {tuple(shape)}, got {arrays[name].shape}"
            )
    for name in arrays:
        if name not in expected:
            raise ValueError(
                f"checkpoint {path}: array {name!r}: expected none of this name in this model, "
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
    extents.sort(key=lambda extent: extent.offset)
    start = memory.seek(0, io.SEEK_END)
    with memory.getbuffer() as content:
        table = json.dumps({"arrays": extents, "crc32": _checksums(content, extents)}).encode()
    memory.write(table)
    memory.seek(0)
    memory.write(HEADER.format(VERSION, start + len(table), start, zlib.crc32(table)).encode())
    return memory.getbuffer()


def _replace(path: Path, content: memoryview) -> None:
    """Put a file in the place of another one so that whoever opens it finds the old content or the new."""
    # Always the same name, so that the next one overwrites what a killed process left behind.
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    # The new name is an entry of the folder: without this a power cut may bring the old file back.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
    got = _checksums(content[:start], [_Extent(*extent) for extent in records["arrays"]])
    for name, expected in records["crc32"].items():
        if got[name] != expected:
            what = f"array {name!r}" if name else "the structure of HDF5"
            return f"{what}: expected checksum {expected:08x}, got {got[name]:08x}: the file is damaged"
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
        if array.dtype.kind not in "biufc":
            raise ValueError(f"checkpoint {path}: array {name!r}: expected numbers, got dtype {array.dtype}")
    for name, value in attributes.items():
        if not isinstance(value, int | float | str) or (
            isinstance(value, int) and not -(2**63) <= value < 2**64
        ):
            raise ValueError(
                f"checkpoint {path}: attribute {name!r}: expected a 64-bit int, float or str, got {value!r}"
            )
