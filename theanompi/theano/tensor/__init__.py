"""PyTensor's tensors under Theano's names."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytensor.tensor as pt
from pytensor.gradient import Lop, Rop
from pytensor.tensor.type import continuous_dtypes, discrete_dtypes, float_dtypes, int_dtypes

from theanompi.theano.gradient import consider_constant
from theanompi.theano.tensor import nnet, shared_randomstreams, signal

__all__ = [
    "Lop",
    "Rop",
    "abs_",
    "addbroadcast",
    "consider_constant",
    "continuous_dtypes",
    "discrete_dtypes",
    "flatten",
    "float_dtypes",
    "int_dtypes",
    "inv",
    "nnet",
    "patternbroadcast",
    "reshape",
    "shared_randomstreams",
    "signal",
    "split",
    "stack",
    "tile",
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


def reshape(x: Any, newshape: Any, ndim: int | None = None) -> Any:
    """Give `x` another shape, of `ndim` axes if that is not known of a variable."""
    return pt.reshape(x, newshape, ndim=ndim)


def split(x: Any, splits_size: Any, n_splits: int | None = None, axis: int = 0) -> Any:
    """Split `x` along an axis into `n_splits` parts of these sizes."""
    return pt.split(x, splits_size, n_splits=n_splits, axis=axis)


def stack(*tensors: Any, axis: int = 0) -> Any:
    """Put variables together along a new axis: a list and an axis, or, as Theano once took them, one by one."""
    if isinstance(tensors[0], list | tuple):
        return pt.stack(tensors[0], *tensors[1:] or (axis,))
    return pt.stack(tensors, axis)


def tile(x: Any, reps: Any, ndim: int | None = None) -> Any:
    """Repeat `x` as often along each axis as `reps` says; of `ndim` axes, where `reps` has fewer."""
    if ndim is not None and not isinstance(reps, pt.TensorVariable):
        reps = (*[1] * (ndim - len(reps)), *reps)
    return pt.tile(x, reps)


def unbroadcast(x: Any, *axes: int) -> Any:
    """Give `x` itself: PyTensor's loops need not be told which sizes may differ from 1."""
    return x
