"""Theano's flags: PyTensor's, under dotted names too, and a word on those that it has no more."""

import warnings
from typing import Any

import pytensor

from theanompi import device

__all__ = ["config"]

# Words before a dot in the names of Theano's flags.
GROUPS = frozenset(
    """blas cmodule compile conv cuda DebugMode dnn dnn__conv experimental gcc gpu gpuarray lib magma NanGuardMode nvcc
    optdb profiling scan tensor traceback vm warn""".split()
)
AT_THE_START = {"base_compiledir", "compiledir", "optimizer", "optimizer_excluding", "optimizer_including"}


class Flags:
    """PyTensor's configuration, of which `prefix` is a part.

    A flag that PyTensor has only under another name (``scan.allow_gc`` is ``scan__allow_gc``) is found. Setting one
    that it does not have, as those of Theano's code for GPUs, or not while a program runs, warns and has no effect.
    """

    def __init__(self, prefix: str = ""):
        self.__dict__["_prefix"] = prefix

    def __getattr__(self, name: str) -> Any:
        full = self._prefix + name
        if hasattr(pytensor.config, full):
            return getattr(pytensor.config, full)
        if full == "device":
            return str(device.current()).replace(":", "")
        if full in GROUPS:
            return Flags(f"{full}__")
        raise AttributeError(f"theano.config.{full.replace('__', '.')}: PyTensor has no such flag")

    def __setattr__(self, name: str, value: Any) -> None:
        full = self._prefix + name
        shown = f"theano.config.{full.replace('__', '.')} = {value!r} has no effect"
        if not hasattr(pytensor.config, full):
            warnings.warn(f"{shown}: PyTensor has no such flag", stacklevel=2)
        elif full in AT_THE_START:
            warnings.warn(f"{shown}: PyTensor reads {full} at its start, from PYTENSOR_FLAGS", stacklevel=2)
        else:
            setattr(pytensor.config, full, value)


config = Flags()
