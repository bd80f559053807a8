"""Pickles of arrays, containers, numbers and text, as published data sets are: what they name is not run."""

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _uint8(*_: object) -> np.dtype[np.uint8]:
    # Whatever an old pickle calls it: the published files have arrays of no other kind, and NumPy warns of how
    # Python 2 spelled the arguments.
    return np.dtype("u1", align=False, copy=True)


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes where the protocol has none."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as text in {encoding}")
    return text.encode("latin1")


def _frombuffer(buffer: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """How protocol 5 has arrays."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _uint8,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = np.empty(0).__reduce__()[0]
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _frombuffer


def _load_bytearray(unpickler: Any) -> None:
    """Read first and see then: Python's own makes room for as many bytes as a file says that it has."""
    length = int.from_bytes(unpickler.read(8), "little")
    data = unpickler.read(length)
    if len(data) != length:
        raise EOFError
    unpickler.append(data)


class Unpickler(pickle._Unpickler):
    """Loads arrays, containers, numbers and text: a pickle could otherwise run any code.

    The one in Python, whose table of objects is a dictionary: the one in C allocates gigabytes for a damaged number.
    """

    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"{module}.{name}, which is neither an array nor text")


class _Objects:
    """Stands for an object array or its dtype: NumPy would fill one with what lies beyond a list that is too short."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _objects(*_: object) -> _Objects:
    return _Objects()


class _ListUnpickler(Unpickler):
    """Loads an object array of containers, numbers and text."""

    def find_class(self, module: str, name: str) -> Any:
        if name in ("_reconstruct", "dtype"):
            super().find_class(module, name)
            return _objects
        # The class is named, but need not be called.
        return None if (module, name) == ("numpy", "ndarray") else super().find_class(module, name)


def load_objects(file: Any) -> list[Any]:
    """Read the pickle of an object array (n,), as ``.npy`` files of dtype object hold it.

    Parameters
    ----------
    file : binary file
        From where the pickle begins.

    Returns
    -------
    list
        Of containers, numbers and text.

    Raises
    ------
    Exception
        Of any kind, if the pickle is damaged, is of something else, or would load more.
    """
    found = _ListUnpickler(file, encoding="latin1").load()
    state = found.state if isinstance(found, _Objects) else None
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[4], list):
        raise pickle.UnpicklingError(
            f"a {type(found).__name__.strip('_').lower()} that is no array of objects"
        )
    if state[1] != (len(state[4]),):
        raise pickle.UnpicklingError(f"{len(state[4])} objects for an array of shape {state[1]}")
    return state[4]
