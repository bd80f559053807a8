"""What every op of ours shares: it is computed by one torch function, here and in any other PyTensor mode."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import torch
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.op import Op
from pytensor.graph.replace import graph_replace
from pytensor.tensor.type import TensorType

PRECISIONS = ("float32", "tf32", "bf16")

Variables = Sequence[Variable]
"""What an op's `pullback` is given: inputs, outputs and cotangents."""


@dataclass(frozen=True)
class Context:
    """What a node may know about the place that it is compiled for.

    Attributes
    ----------
    device : torch.device
    precision : str
        One of `PRECISIONS`: what convolutions and matrix products compute in.
    used : tuple of bool
        For each output of the node whether anything reads it.
    overwrite : dict of int to int
        Output → input whose storage the output may take, because nothing reads that input later.
    into : tuple of int
        Outputs that are wanted in a given place: a tensor for each of them follows the inputs.
    graph : callable, optional
        Compiles a graph that the op holds, for the same place: from a FunctionGraph to the function from its inputs'
        tensors to a tuple of its outputs', which are views of no input, unless a second argument says that they may be.
    """

    device: torch.device = torch.device("cpu")
    precision: str = "float32"
    used: tuple[bool, ...] = ()
    overwrite: dict[int, int] = field(default_factory=dict)
    into: tuple[int, ...] = ()
    graph: Callable[..., Callable[..., tuple[torch.Tensor, ...]]] | None = None

    def compute(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The operands of a convolution or matrix product in the dtype that it computes in.

        Examples
        --------
        >>> x, i = Context(precision="bf16").compute(torch.zeros(2), torch.arange(2))
        >>> x.dtype, i.dtype
        (torch.bfloat16, torch.int64)
        """
        if self.precision != "bf16":
            return tensors
        return tuple(t.to(torch.bfloat16) if t.dtype == torch.float32 else t for t in tensors)


def placed(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device, where a number may lie on the CPU.

    A single number is filled in: to copy it, the device would be waited for, and no CUDA graph be recorded.
    """
    if x.device == device:
        return x
    if x.numel() == 1 and x.dtype != torch.uint64:
        return torch.full(x.shape, x.item(), dtype=x.dtype, device=device)
    return x.to(device)


def shared_memory(value: Any) -> torch.Tensor:
    """An array as a tensor, in its own memory unless that is read-only, runs backwards or has another order of bytes.

    Examples
    --------
    >>> shared_memory(np.arange(3, dtype=">i4")[::-1])
    tensor([2, 1, 0], dtype=torch.int32)
    """
    array = np.asarray(value)
    if not array.flags.writeable or min(array.strides, default=0) < 0 or not array.dtype.isnative:
        array = np.array(array, array.dtype.newbyteorder("="))
    return torch.from_numpy(array)


def numbers_of(vector: Variable) -> Callable[[torch.Tensor], list[int]]:
    """From a vector's tensor to its numbers; a constant's are known, else the device is asked and waited for."""
    if isinstance(vector, Constant):
        known: list[int] = vector.data.tolist()
        return lambda _: known
    return torch.Tensor.tolist


ALIGNMENT = 64
"""Bytes: new memory of torch's begins at a multiple of it, and so does a `FlatBuffer`."""


def matrix_product(x: torch.Tensor, y: torch.Tensor, into: torch.Tensor | None = None) -> torch.Tensor:
    """The product of two matrices, or batches of them, with the same bits wherever the result is wanted.

    Libraries have code of their own for results that lie where vectors do not fit, and it may sum in another order: the
    same gradient would have other bits as part of a larger buffer than in memory of its own. There it is copied.

    Parameters
    ----------
    x, y : torch.Tensor
        As `torch.matmul` takes them.
    into : torch.Tensor, optional
        Where the result is wanted, of its shape and dtype.

    Examples
    --------
    >>> x, place = torch.ones(2, 2), torch.empty(5)[1:].view(2, 2)
    >>> matrix_product(x, x, place) is place, place.sum()
    (True, tensor(8.))
    """
    if into is None:
        return torch.matmul(x, y)
    if into.data_ptr() % ALIGNMENT:
        return into.copy_(torch.matmul(x, y))
    return torch.matmul(x, y, out=into)


class TorchOp(Op):
    """A PyTensor op whose meaning is a torch function.

    A subclass says what its outputs look like (`make_node`), gives the torch function
    (`function`) and its gradient (`pullback`).
    """

    overwrites: dict[int, tuple[int, ...]] = {}
    """Output → inputs whose storage it can take: the function then writes into that input."""

    destinations: tuple[int, ...] = ()
    """Outputs that the function can compute into a given tensor."""

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        """The function from input tensors to the output tensor, or to a tuple of them."""
        raise NotImplementedError(f"{type(self).__name__} has no torch function")

    def perform(self, node: Apply, inputs: Sequence[Any], output_storage: list[list[Any]]) -> None:
        function = self.function(node, Context(used=(True,) * len(node.outputs)))
        results = function(*(torch.from_numpy(np.array(x)) for x in inputs))
        if len(node.outputs) == 1:
            results = (results,)
        for storage, result in zip(output_storage, results, strict=True):
            storage[0] = result.numpy()


def pulled_back(
    written_out: Callable[..., Sequence[Variable]], inputs: Sequence[Variable], cotangents: Sequence[Variable]
) -> list[Variable]:
    """The gradients of an op by PyTensor's own derivatives of the same in its ops.

    Parameters
    ----------
    written_out : callable
        From variables like the inputs to the outputs as PyTensor's ops make them.
    inputs : sequence of Variable
        Of floats.
    cotangents : sequence of Variable
        One for each output; disconnected ones count nothing.

    Returns
    -------
    list of Variable
        One for each input.
    """
    # Variables of their own: in the graph one input may be made of another.
    own = [v.type() for v in inputs]
    known = {
        v: cotangent
        for v, cotangent in zip(written_out(*own), cotangents, strict=True)
        if not isinstance(cotangent.type, DisconnectedType)
    }
    gradients = pytensor.grad(None, own, known_grads=known, disconnected_inputs="ignore")
    return list(graph_replace(gradients, dict(zip(own, inputs, strict=True)), strict=False))


def tensor_type(like: Variable, shape: Sequence[int | None]) -> TensorType:
    """The type of a tensor with the dtype of `like` and the given static shape."""
    return TensorType(like.type.dtype, shape=tuple(shape))


def lengths(x: Variable) -> list[Any]:
    """A tensor's lengths, as numbers where its type says them."""
    return [length if known is None else known for known, length in zip(x.type.shape, x.shape, strict=True)]


def bordered(x: Variable, widths: Sequence[tuple[int, int]], value: Any) -> Variable:
    """A tensor in a border of `value`, for each axis so wide before and after."""
    sides = lengths(x)
    full = pt.full(
        [side + sum(pair) for side, pair in zip(sides, widths, strict=True)], pt.cast(value, x.dtype)
    )
    inside = tuple(slice(before, before + side) for side, (before, _) in zip(sides, widths, strict=True))
    return pt.set_subtensor(full[inside], x)


def expect(condition: bool, op: str, what: str, expected: object, got: object) -> None:
    """Raise the one-line ValueError of a graph that does not fit, unless `condition` holds.

    Examples
    --------
    >>> expect(False, "conv2d", "stride", "at least 1", 0)
    Traceback (most recent call last):
        ...
    ValueError: conv2d: stride: expected at least 1, got 0
    """
    if not condition:
        raise ValueError(f"{op}: {what}: expected {expected}, got {got}")


AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}
"""What the axes of images after the second are, by their number."""

Sizes = tuple[int, ...]
"""One number for each of them."""

_COUNTS = ("one", "two", "three")


def each(value: int | Sequence[int], axes: int, op: str, what: str) -> Sizes:
    """`value` for every spatial axis, from one integer or as many as there are axes.

    Examples
    --------
    >>> each(3, 2, "pool2d", "stride")
    (3, 3)
    """
    values = tuple(int(v) for v in value) if isinstance(value, Sequence) else (int(value),) * axes
    expect(len(values) == axes, op, what, f"one integer or {_COUNTS[axes - 1]}", value)
    return values
