"""One node on the device and in PyTensor's interpreter, with special values of every dtype."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pytensor.graph.basic import Apply

from theanompi.device.dispatch import torch_function
from theanompi.device.ops.base import Context

SIGNED = ["int8", "int16", "int32", "int64"]
UNSIGNED = ["uint8", "uint16", "uint32", "uint64"]
FLOATS = ["float16", "float32", "float64"]
DTYPES = ["bool", *SIGNED, *UNSIGNED, *FLOATS]
TOLERANCE = {"float16": 4e-3, "float32": 4e-6, "float64": 1e-11}


def special_values(dtype: str) -> np.ndarray:
    """Few, but the ends of the range, both zeros, halves, infinities and NaN."""
    if dtype == "bool":
        return np.array([False, True])
    if dtype.startswith("float"):
        small = [0, -0.0, 1e-3, 0.1, 0.5, -0.5, 0.9, -0.99, 1, -1, 1.5, 2.5, -2.5, 3, -3, 7.25, -7.25]
        return np.array([*small, 12.5, 21.5, -40, 88, np.inf, -np.inf, np.nan], dtype)
    about = np.iinfo(dtype)
    wide = [about.min, about.min + 1, about.max - 1, about.max, about.max // 2 + 1, about.max // 3]
    return np.array(
        [*wide, *(n for n in [0, 1, 2, 3, 5, 7, 11, 20, -1, -2, -3, -7] if n >= about.min)], dtype
    )


def interpreted(node: Apply, values: Sequence[np.ndarray]) -> list[Any]:
    """The outputs as PyTensor's `perform` computes them, in the dtypes of their types."""
    storage: list[list[Any]] = [[None] for _ in node.outputs]
    with np.errstate(all="ignore"):
        node.op.perform(node, [np.array(v) for v in values], storage)
    return [np.asarray(cell[0]).astype(v.type.dtype) for cell, v in zip(storage, node.outputs, strict=True)]


def on_device(node: Apply, values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs as the device's function computes them on the CPU."""
    function = torch_function(node.op, node=node, context=Context(used=(True,) * len(node.outputs)))
    results = function(*(torch.from_numpy(np.array(v)) for v in values))
    return [r.numpy() for r in ([results] if len(node.outputs) == 1 else results)]


def difference(got: np.ndarray, expected: np.ndarray, relative: float | None = None) -> str:
    """What differs by more than `relative`, which is the dtype's tolerance if not given; or nothing."""
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        return f"expected {expected.dtype}{expected.shape}, got {got.dtype}{got.shape}"
    alike = np.asarray(got == expected)
    if expected.dtype.kind in "fc":
        relative = TOLERANCE.get(expected.dtype.name, 1e-5) if relative is None else relative
        with np.errstate(all="ignore"):
            alike |= np.abs(got - expected) <= relative * np.maximum(1, np.abs(expected))
        alike |= np.isnan(got) & np.isnan(expected)
    if alike.all():
        return ""
    wrong = [(k, expected[k].item(), got[k].item()) for k in zip(*np.nonzero(~alike), strict=True)]
    return f"{len(wrong)} of {got.size}: (position, expected, got) = {wrong[:6]}"


def assert_as_interpreted(node: Apply, values: Sequence[np.ndarray], relative: float | None = None) -> None:
    """Fail, and name the op, unless the device has the interpreter's outputs."""
    pairs = zip(on_device(node, values), interpreted(node, values), strict=True)
    for k, (got, expected) in enumerate(pairs):
        message = difference(got, expected, relative)
        types = ", ".join(str(v.type) for v in node.inputs)
        assert not message, f"{node.op}({types}), output {k}: {message}"
