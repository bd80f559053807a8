"""Pickles of arrays, read without running what they name: anything else could run any code."""

import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Names = Mapping[tuple[str, str], Any]
"""What is called for a module and a name in a pickle."""


class NotLoaded(pickle.UnpicklingError):
    """A pickle would load something else: its argument is ``module.name``."""


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes where the protocol has none."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes as text in {encoding}")
    return text.encode("latin1")


def _frombuffer(buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """How protocol 5 has arrays."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def of_numpy(name: str, function: Any) -> dict[tuple[str, str], Any]:
    """A function of NumPy's core, wherever that is in the version that wrote a pickle."""
    module, _, name = name.partition(".")
    return {(f"numpy.{core}.{module}", name): function for core in ("core", "_core")}


ARRAYS: Names = {
    ("numpy", "ndarray"): np.ndarray,
    ("_codecs", "encode"): _encode,
    **of_numpy("multiarray._reconstruct", np.empty(0).__reduce__()[0]),
    **of_numpy("numeric._frombuffer", _frombuffer),
}
"""What pickles of arrays call, but for their dtypes."""


def _load_bytearray(unpickler: Any) -> None:
    """Read first and see then: Python's own makes room for as many bytes as a file says that it has."""
    length = int.from_bytes(unpickler.read(8), "little")
    data = unpickler.read(length)
    if len(data) != length:
        raise EOFError
    unpickler.append(data)


class Unpickler(pickle._Unpickler):
    """Loads containers, numbers, text and what is in `names`.

    The one in Python, whose table of objects is a dictionary: the one in C allocates gigabytes for a damaged number.

    Raises
    ------
    NotLoaded
        From `load`, for a name that is not in `names`.
    """

    names: ClassVar[Names] = ARRAYS
    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.names:
            raise NotLoaded(f"{module}.{name}")
        return self.names[module, name]
