"""Sparse matrices: ``pytensor.sparse``, under Theano's names of its types too."""

from importlib import import_module
from typing import Any

from pytensor.sparse import SparseTensorType
from pytensor.sparse.variable import SparseVariable

__all__ = ["SparseType", "SparseVariable"]

SparseType = SparseTensorType


def __getattr__(name: str) -> Any:
    return getattr(import_module("pytensor.sparse"), name)
