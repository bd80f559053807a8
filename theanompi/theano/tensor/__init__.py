"""PyTensor's tensors under Theano's names."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytensor.tensor as pt
from pytensor.gradient import Lop, Rop
from pytensor.tensor.type import continuous_dtypes, discrete_dtypes, float_dtypes, int_dtypes

from theanompi.theano.tensor import nnet, shared_randomstreams, signal

__all__ = [
    "Lop",
    "Rop",
    "abs_",
    "addbroadcast",
    "continuous_dtypes",
    "discrete_dtypes",
    "flatten",
    "float_dtypes",
    "int_dtypes",
    "inv",
    "nnet",
    "patternbroadcast",
    "shared_randomstreams",
    "signal",
    "unbroadcast",
]

abs_ = pt.abs
addbroadcast = pt.specify_broadcastable
inv = pt.reciprocal


def __getattr__(name: str) -> Any:
    if hasattr(pt, name):
        return getattr(pt, name)
    try:
        return import_module(f"pytensor.tensor.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"{__name__}: expected a name of PyTensor's or Theano's, got {name!r}") from None


def flatten(x: Any, ndim: int = 1, outdim: int | None = None) -> Any:
    """Flatten the last axes into one, so that `ndim` axes are left; `outdim` is a former name of that."""
    return pt.flatten(x, ndim if outdim is None else outdim)


def patternbroadcast(x: Any, broadcastable: Sequence[bool]) -> Any:
    """Say of which axes the size is 1."""
    return pt.specify_broadcastable(x, *(axis for axis, one in enumerate(broadcastable) if one))


def unbroadcast(x: Any, *axes: int) -> Any:
    """Give `x` itself: PyTensor's loops need not be told which sizes may differ from 1."""
    return x
