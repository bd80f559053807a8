"""Fused element-wise expressions as one kernel each, whose source is written here: the update is one pass over memory.

Only operations that IEEE 754 rounds in one way are taken, and none is fused with another: the bits are those of
torch's calls, one for each operation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytensor.scalar as ps
import torch
import triton
import triton.language as tl
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.scalar.basic import ScalarOp

from theanompi.device.generated import define
from theanompi.device.numbers import COMPARISONS
from theanompi.device.triton import OPTIONS

ELEMENTS = 1024
"""Of a program: eight a thread."""

_FORMS: dict[type[ScalarOp], str] = {
    ps.Add: "{} + {}",
    ps.Sub: "{} - {}",
    ps.Mul: "{} * {}",
    ps.TrueDiv: "tl.div_rn({}, {})",
    ps.Neg: "-{}",
    ps.Abs: "tl.abs({})",
    ps.Sqr: "{0} * {0}",
    ps.Sqrt: "tl.sqrt_rn({})",
    ps.Reciprocal: "tl.div_rn(1.0, {})",
    ps.ScalarMaximum: "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    ps.ScalarMinimum: "tl.minimum({}, {}, propagate_nan=tl.PropagateNan.ALL)",
    ps.Switch: "tl.where({}, {}, {})",
    **COMPARISONS,
}
_VARIADIC = (ps.Add, ps.Mul)


def _operand(variable: Variable, names: Mapping[Variable, str]) -> str | None:
    """A name, or the number that a constant is."""
    if not isinstance(variable, Constant):
        return names.get(variable)
    value = float(np.asarray(variable.data))
    return f"({value!r})" if math.isfinite(value) and value == np.float32(value) else None


def _instruction(node: Apply, names: Mapping[Variable, str]) -> str | None:
    """What computes a node, or None if that is not known to be what torch computes."""
    kind = type(node.op)
    dtypes = [v.type.dtype for v in node.inputs if not isinstance(v, Constant)]
    wanted = ["bool", *["float32"] * (len(dtypes) - 1)] if kind is ps.Switch else ["float32"] * len(dtypes)
    result = "bool" if kind in COMPARISONS else "float32"
    operands = [_operand(v, names) for v in node.inputs]
    if kind not in _FORMS or dtypes != wanted or node.outputs[0].type.dtype != result or None in operands:
        return None
    if kind not in _VARIADIC:
        return _FORMS[kind].format(*operands)
    if len(operands) < 2:
        return None
    line = operands[0]
    for operand in operands[1:]:
        line = f"({_FORMS[kind].format(line, operand)})"
    return line


def kernel_of(
    inputs: Sequence[Variable], outputs: Sequence[Variable], nodes: Sequence[Apply], uniform: set[Variable]
) -> Any:
    """The kernel of a scalar graph.

    Parameters
    ----------
    inputs, outputs : sequence of Variable
    nodes : sequence of Apply
        In an order in which each comes after those that it reads.
    uniform : set of Variable
        Inputs of one element.

    Returns
    -------
    triton.JITFunction or None
        It takes the inputs, the outputs, how many elements they have, and ELEMENTS. None if some node has no form here.
    """
    if any(v.type.dtype != "float32" for v in (*inputs, *outputs)):
        return None
    names = {v: f"x{k}" for k, v in enumerate(inputs)}
    lines = [
        "place = tl.program_id(0) * ELEMENTS + tl.arange(0, ELEMENTS)",
        "inside = place < n",
        *(
            f"x{k} = tl.load(i{k})" if v in uniform else f"x{k} = tl.load(i{k} + place, mask=inside, other=0)"
            for k, v in enumerate(inputs)
        ),
    ]
    for k, node in enumerate(nodes):
        line = _instruction(node, names)
        if line is None:
            return None
        names[node.outputs[0]] = f"t{k}"
        lines.append(f"t{k} = {line}")
    lines += [f"tl.store(o{k} + place, {names[v]}, mask=inside)" for k, v in enumerate(outputs)]
    parameters = [*(f"i{k}" for k in range(len(inputs))), *(f"o{k}" for k in range(len(outputs)))]
    source = f"def _elementwise({', '.join(parameters)}, n, ELEMENTS: tl.constexpr):\n"
    source += "".join(f"    {line}\n" for line in lines)
    return _defined(source)


@cache
def _defined(source: str) -> Any:
    """The kernel of a source: a network has many expressions that differ in nothing but their operands."""
    return triton.jit(define(source, "_elementwise", {"tl": tl, "__name__": __name__}))


def in_one_pass(
    inputs: Sequence[Variable],
    outputs: Sequence[Variable],
    nodes: Sequence[Apply],
    uniform: set[Variable],
    overwrite: Mapping[int, int],
    otherwise: Callable[..., Any],
) -> Callable[..., Any]:
    """The function of an expression that is one kernel where its operands lie alike in memory.

    Parameters
    ----------
    inputs, outputs, nodes, uniform
        As of `kernel_of`.
    overwrite : mapping of int to int
        Output → input whose storage it takes.
    otherwise : callable
        From the input tensors to the output tensor, or a tuple of them: what computes it in other cases.

    Returns
    -------
    callable
        As `otherwise`, which it is where there is no kernel.
    """
    kernel = kernel_of(inputs, outputs, nodes, uniform)
    streams = [k for k, v in enumerate(inputs) if v not in uniform]
    if kernel is None or not streams:
        return otherwise

    def one_pass(*tensors: torch.Tensor) -> Any:
        like = tensors[streams[0]]
        dense = like.is_contiguous() or (
            like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
        )
        alike = all(tensors[k].shape == like.shape and tensors[k].stride() == like.stride() for k in streams)
        known = all(t.dtype == torch.float32 for t in tensors)
        if not (dense and alike and known and 0 < like.numel() < 2**31 - ELEMENTS):
            return otherwise(*tensors)
        made = [
            tensors[overwrite[k]] if k in overwrite else torch.empty_like(like) for k in range(len(outputs))
        ]
        n = like.numel()
        kernel[(triton.cdiv(n, ELEMENTS),)](*tensors, *made, n, ELEMENTS=ELEMENTS, **OPTIONS)
        return made[0] if len(made) == 1 else tuple(made)

    return one_pass
