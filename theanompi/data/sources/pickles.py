"""Pickles as published data sets are: arrays of bytes, and arrays of objects."""

import pickle
from typing import Any

import numpy as np

from theanompi.record import pickles


def _uint8(*_: object) -> np.dtype[np.uint8]:
    # Whatever an old pickle calls it: the published files have arrays of no other kind, and NumPy warns of how
    # Python 2 spelled the arguments.
    return np.dtype("u1", align=False, copy=True)


class Unpickler(pickles.Unpickler):
    """Loads arrays of bytes, containers, numbers and text."""

    names = {**pickles.ARRAYS, ("numpy", "dtype"): _uint8}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except pickles.NotLoaded as error:
            raise pickle.UnpicklingError(f"{error}, which is neither an array nor text") from None


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
