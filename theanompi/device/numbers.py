"""Scalar operations on Python's numbers, with the bits that torch gives.

Of one element a call of torch's takes a microsecond, whatever it computes, and an operator of Python's a small part of
that.
"""

import math
from ctypes import c_float, c_int64
from functools import reduce

import numpy as np
import pytensor.scalar as ps
from pytensor.graph.basic import Apply
from pytensor.scalar.basic import ScalarOp

# Those whose values float32 has all, and those that fit into int64.
_SHORT = ("bool", "int8", "uint8", "int16", "uint16")
_INTEGERS = (*_SHORT, "int32", "uint32", "int64")


def quotient(x: float, y: float) -> float:
    """The quotient where y may be zero.

    >>> quotient(-1.0, 0.0), quotient(0.0, 0.0)
    (-inf, nan)
    """
    if y:
        return x / y
    return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1, y)


def root(x: float) -> float:
    """The square root where x may be negative.

    >>> root(-1.0)
    nan
    """
    return math.sqrt(x) if x >= 0 else math.nan


def maximum(x: float, y: float) -> float:
    """The larger number, or NaN if one is."""
    return x if x >= y or x != x else y


def minimum(x: float, y: float) -> float:
    """The smaller number, or NaN if one is."""
    return x if x <= y or x != x else y


FUNCTIONS = {
    "c_float": c_float,
    "c_int64": c_int64,
    "quotient": quotient,
    "root": root,
    "maximum": maximum,
    "minimum": minimum,
}
"""What the expressions call, by name."""

# Results that are rounded, or wrap around, in `_REPRESENTED`. A float32 of +, -, ·, / or √ of float32 has the same bits
# computed in float64: that has more than twice its digits.
_COMPUTED: dict[type[ScalarOp], str] = {
    ps.Add: "{} + {}",
    ps.Sub: "{} - {}",
    ps.Mul: "{} * {}",
    ps.Neg: "-{}",
    ps.Abs: "abs({})",
    ps.Sqr: "{0} * {0}",
    ps.ScalarMaximum: "maximum({}, {})",
    ps.ScalarMinimum: "minimum({}, {})",
}
_OF_FLOATS: dict[type[ScalarOp], str] = {
    ps.TrueDiv: "quotient({}, {})",
    ps.Reciprocal: "quotient(1.0, {})",
    ps.Sqrt: "root({})",
}
_OF_BOOLS: dict[type[ScalarOp], str] = {
    ps.AND: "{} and {}",
    ps.OR: "{} or {}",
    ps.XOR: "{} is not {}",
    ps.Invert: "not {}",
}
COMPARISONS: dict[type[ScalarOp], str] = {
    ps.LT: "{} < {}",
    ps.GT: "{} > {}",
    ps.LE: "{} <= {}",
    ps.GE: "{} >= {}",
    ps.EQ: "{} == {}",
    ps.NEQ: "{} != {}",
}
"""As Python and Triton write them."""
_REPRESENTED = {
    "bool": "({})",
    "float64": "({})",
    "float32": "c_float({}).value",
    "int64": "c_int64({}).value",
}


def _cast(x: str, source: str, target: str) -> str | None:
    if source == target:
        return x
    if target in ("bool", "float64"):
        return f"{target.removesuffix('64')}({x})"
    if target == "int64" and source in _INTEGERS:
        return f"int({x})"
    return f"c_float({x}).value" if target == "float32" and source in (*_SHORT, "float64") else None


def python_expression(node: Apply) -> str | None:
    """The Python expression that computes a scalar op's node, if there is one with the same bits.

    Parameters
    ----------
    node : Apply
        Of a scalar op.

    Returns
    -------
    str or None
        With ``{0}``, ``{1}``, … in the places of the operands. Its names are builtins and `FUNCTIONS`.

    Examples
    --------
    >>> x, y = ps.float32("x"), ps.float64("y")
    >>> [python_expression(made.owner) for made in (ps.add(x, x, x), ps.lt(x, y), ps.cos(x))]
    ['c_float(c_float({0} + {1}).value + {2}).value', '(float({0}) < {1})', None]
    """
    kind, result = type(node.op), node.outputs[0].type.dtype
    sources = [v.type.dtype for v in node.inputs]
    if result not in _REPRESENTED or not {*sources} <= {*_INTEGERS, "float32", "float64"}:
        return None
    places = [f"{{{k}}}" for k in range(len(sources))]
    if kind is ps.Cast:
        return _cast(places[0], sources[0], result)
    template: str | None
    if kind in COMPARISONS:
        template, wanted = COMPARISONS[kind], [np.result_type(*sources).name] * 2
    elif kind is ps.Switch:
        template, wanted = "{1} if {0} else {2}", ["bool", result, result]
    elif result == "bool":
        template, wanted = _OF_BOOLS.get(kind), sources
    else:
        of_floats = _OF_FLOATS.get(kind) if result.startswith("float") else None
        template, wanted = _COMPUTED.get(kind, of_floats), [result] * len(sources)
    if template is None:
        return None
    operands = [_cast(x, source, dtype) for x, source, dtype in zip(places, sources, wanted, strict=True)]
    if None in operands:
        return None
    represented = _REPRESENTED[result]
    if kind in (ps.Add, ps.Mul):  # of any number of operands
        return reduce(lambda x, y: represented.format(template.format(x, y)), operands)
    return represented.format(template.format(*operands))
