"""What is common to the torch functions of PyTensor's ops: how one is found, and what the linker knows of them."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from pytensor.compile.ops import DeepCopyOp, FromFunctionOp
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.scan.op import Scan
from pytensor.tensor.basic import (
    Alloc,
    AllocEmpty,
    Join,
    MakeVector,
    ScalarFromTensor,
    Split,
    TensorFromScalar,
)
from pytensor.tensor.blas import BatchedDot
from pytensor.tensor.elemwise import CAReduce, DimShuffle, Elemwise
from pytensor.tensor.extra_ops import UnravelIndex
from pytensor.tensor.fft import IRFFTOp, RFFTOp
from pytensor.tensor.linalg.decomposition.schur import QZ, Schur
from pytensor.tensor.linalg.solvers.linear_control import TRSYL
from pytensor.tensor.linalg.solvers.tridiagonal import LUFactorTridiagonal, SolveLUFactorTridiagonal
from pytensor.tensor.math import Argmax, Dot, Max, Min, Sum
from pytensor.tensor.optimize import ScipyWrapperOp
from pytensor.tensor.reshape import SplitDims
from pytensor.tensor.shape import Reshape
from pytensor.tensor.special import LogSoftmax, Softmax
from pytensor.tensor.subtensor import IncSubtensor, Subtensor
from pytensor.typed_list.basic import MakeList

from theanompi.device.ops.base import Context, TorchOp
from theanompi.device.ops.random import Keyed
from theanompi.device.unsupported import Unsupported
from theanompi.device.versions import INC_SUBTENSORS, SUBTENSORS

FRESH = (
    TorchOp,
    Elemwise,
    Sum,
    Max,
    Min,
    Argmax,
    Dot,
    BatchedDot,
    Softmax,
    LogSoftmax,
    DeepCopyOp,
    Alloc,
    AllocEmpty,
    IncSubtensor,
    *SUBTENSORS,
    *INC_SUBTENSORS,
    Scan,
)
"""Ops whose results are new memory; of every other op the linker assumes that they may be views of inputs."""

ON_HOST = (
    MakeVector,
    Elemwise,
    CAReduce,
    DimShuffle,
    Join,
    Subtensor,
    IncSubtensor,
    TensorFromScalar,
    ScalarFromTensor,
)
"""Ops that are computed on the host where all that they read are lengths."""

OF_LENGTHS = (Reshape, SplitDims, Split, RFFTOp, IRFFTOp, UnravelIndex, Keyed)
"""Ops whose operands after the first are lengths, which they read on the host."""


REFUSED: dict[type[Op], str] = {
    MakeList: "lists of tensors are not compiled to torch; stack them",
    FromFunctionOp: "it calls a Python function on NumPy's arrays; write it as a graph",
    ScipyWrapperOp: "it calls SciPy's optimizers",
    Schur: "torch has no such factorization",
    QZ: "torch has no such factorization",
    TRSYL: "torch has no such solver",
    LUFactorTridiagonal: "torch has no solvers of tridiagonal systems; use pt.linalg.solve",
    SolveLUFactorTridiagonal: "torch has no solvers of tridiagonal systems; use pt.linalg.solve",
}
"""Ops that are refused for a reason worth telling, with their subclasses. What is in no table is refused as unknown."""


def destinations(op: Op) -> tuple[int, ...]:
    """Which outputs of an op can be computed into a given tensor, so that no copy is needed.

    Examples
    --------
    >>> destinations(Dot()), destinations(DeepCopyOp())
    ((0,), ())
    """
    if isinstance(op, TorchOp):
        return op.destinations
    return (0,) if isinstance(op, Dot) else ()


@singledispatch
def torch_function(op: Op, node: Apply, context: Context) -> Callable[..., Any]:
    """The torch function that computes `node`.

    Parameters
    ----------
    op : Op
        ``node.op``; what is dispatched on.
    node : Apply
    context : Context

    Returns
    -------
    callable
        From the input tensors to the output tensor, or to a tuple of them.

    Raises
    ------
    Unsupported
        If the op does not run on the device: one line that names it.
    """
    why = next(
        (REFUSED[kind] for kind in type(op).__mro__ if kind in REFUSED), "it is unknown to theanompi.device"
    )
    raise Unsupported(str(op), why)


@singledispatch
def batched_function(op: Op, node: Apply, context: Context) -> Callable[..., Any] | None:
    """The torch function that computes `node` for a whole batch at once, if torch has one.

    An op that is registered here as well as for `torch_function`, often by the same function, is computed by one
    call under PyTensor's `Blockwise`; all others are called once for each element of the batch.

    Parameters
    ----------
    op : Op
        The core op, without a batch; what is dispatched on.
    node : Apply
        A node of the core op; its inputs have no batch axes.
    context : Context

    Returns
    -------
    callable or None
        From the input tensors, which all have the same leading batch axes before those of `node.inputs`, to the
        output tensor with these axes, or to a tuple of such. It may return views, and never writes into an input.
    """
    return None


def constant_tensor(data: Any, device: torch.device) -> Any:
    """A constant's value for the generated code.

    Arrays become tensors on the device; numbers zero-dimensional tensors on the CPU, which torch combines
    with tensors anywhere; slices and other values stay as they are.
    """
    if not isinstance(data, np.ndarray | np.number | bool | int | float):
        return data
    tensor = torch.from_numpy(np.array(data))
    return tensor if tensor.ndim == 0 else tensor.to(device)
