"""What would start a kernel for each of many small tensors, at once: weights are rounded, updates are written.

Only :mod:`theanompi.device.fusion` makes such nodes, for CUDA devices: they have no pullback.
"""

from collections.abc import Callable
from typing import Any

import torch
from pytensor.graph.basic import Apply, Variable

from theanompi.device.ops.base import Context, TorchOp


class NarrowWeights(TorchOp):
    """Filters and matrices rounded to bfloat16, once a step: what computes in that precision takes them as they are."""

    __props__ = ()

    def make_node(self, *weights: Variable) -> Apply:
        return Apply(self, list(weights), [w.type() for w in weights])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        several = len(node.outputs) > 1

        def narrow_weights(*weights: torch.Tensor) -> Any:
            narrow = [torch.empty_like(w, dtype=torch.bfloat16) for w in weights]
            torch._foreach_copy_(narrow, weights)
            return tuple(narrow) if several else narrow[0]

        return narrow_weights


class WrittenTogether(TorchOp):
    """Values that are nothing but updates, times a factor, in float32: all of a bucket at once.

    Gradients with respect to filters, which convolutions leave in bfloat16, and the vectors of normalisations.

    Parameters
    ----------
    number : int
        How many there are.
    factor : float
        Exact in float32.
    """

    __props__ = ("number", "factor")

    def __init__(self, number: int, factor: float = 1.0) -> None:
        self.number, self.factor, self.destinations = number, factor, tuple(range(number))

    def make_node(self, *values: Variable) -> Apply:
        return Apply(self, list(values), [v.type() for v in values])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        number, factor, into = self.number, self.factor, context.into

        def written_together(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            values, given = tensors[:number], dict(zip(into, tensors[number:], strict=True))
            wide = [
                given[k] if k in given else torch.empty_like(v, dtype=torch.float32)
                for k, v in enumerate(values)
            ]
            torch._foreach_copy_(wide, values)
            if factor != 1:
                torch._foreach_mul_(wide, factor)
            return tuple(wide)

        return written_together
