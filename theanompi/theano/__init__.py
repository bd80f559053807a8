"""Theano's names on PyTensor, for scripts in which only the import lines are to change.

>>> import theanompi.theano as theano
>>> import theanompi.theano.tensor as T
>>> x = T.matrix("x")
>>> theano.function([x], T.nnet.relu(x).sum())([[1, -2]])
array(1., dtype=float32)

All of PyTensor is here. The modules of this package add what PyTensor has dropped: ``tensor.nnet``, pooling, the random
streams, ``clone``, ``grad_overrides``. Importing it makes ``floatX`` float32, as it was wherever Theano ran on a GPU,
unless ``PYTENSOR_FLAGS`` says what it is.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pytensor
from pytensor.graph.basic import Variable
from pytensor.graph.replace import clone_replace
from pytensor.printing import pp, pprint
from pytensor.scan import views

from theanompi.theano.modules import Finder

# What is imported below may be asked for by any of Theano's names.
sys.meta_path.insert(0, Finder())

from theanompi.theano import gof, gradient, ifelse, sandbox, scan_module, tensor  # noqa: E402
from theanompi.theano.flags import config  # noqa: E402
from theanompi.theano.functions import In, Param, function  # noqa: E402
from theanompi.theano.updates import OrderedUpdates  # noqa: E402

__all__ = [
    "In",
    "OpFromGraph",
    "OrderedUpdates",
    "Param",
    "clone",
    "config",
    "dot",
    "function",
    "gof",
    "gradient",
    "ifelse",
    "pp",
    "pprint",
    "sandbox",
    "scan",
    "scan_module",
    "tensor",
]

if "floatX" not in os.environ.get("PYTENSOR_FLAGS", ""):
    pytensor.config.floatX = "float32"

dot = tensor.dot


def __getattr__(name: str) -> Any:
    if name in ("foldl", "foldr", "map", "reduce"):
        return partial(_loop, getattr(views, name))
    if hasattr(pytensor, name):
        return getattr(pytensor, name)
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"{__name__}: expected a name of PyTensor's or Theano's, got {name!r}") from None


def _asarray(a: Any, dtype: Any, order: Any = None) -> Any:
    return np.asarray(a, dtype=dtype, order=order)


def scan(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Loop over sequences, as ``pytensor.scan``; ``map``, ``reduce``, ``foldl`` and ``foldr`` are there too.

    Returns
    -------
    tuple
        The outputs, and updates for ``function``.
    """
    return _loop(pytensor.scan, *args, **kwargs)


def _loop(loop: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Scan return signature", DeprecationWarning)
        outputs, updates = loop(*args, **kwargs)
    return outputs, OrderedUpdates(updates)


def clone(output: Any, replace: Any = None, strict: bool = True, share_inputs: bool = True) -> Any:
    """Copy one or several graphs, with what `replace` maps some of their variables to in the place of those.

    Parameters
    ----------
    output : pytensor variable or list of them
    replace : mapping or iterable of pairs, optional
    strict : bool
        Whether what replaces a variable must be of its type.
    share_inputs : bool
        Whether the copy has the same inputs, or copies of them.

    Returns
    -------
    pytensor variable or list of them
    """
    return clone_replace(output, replace, rebuild_strict=strict, copy_inputs_over=share_inputs)


class OpFromGraph(pytensor.OpFromGraph):
    """An op made of a graph, whose gradient may be another one.

    Parameters
    ----------
    inputs, outputs : list of pytensor variable
    inline : bool
    grad_overrides : callable, optional
        From the inputs and the gradients of the outputs to those of the inputs. ``op.grad = callable`` does the same.
    **kwargs
        For ``pytensor.OpFromGraph``.
    """

    def __init__(
        self,
        inputs: Sequence[Variable],
        outputs: Sequence[Variable],
        inline: bool = False,
        grad_overrides: Callable[..., Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(inputs, outputs, inline=inline, **kwargs)
        if grad_overrides is not None:
            self.grad = grad_overrides

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "grad":
            name, theirs = "pullback_overrides", value

            def value(inputs: Any, outputs: Any, gradients: Any) -> list[Any]:
                return list(theirs(inputs, gradients))

        super().__setattr__(name, value)
