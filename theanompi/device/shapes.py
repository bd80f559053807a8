"""Shapes of a graph whose types say them: nothing has to be inferred.

Before version 3.1 PyTensor's `ShapeFeature` infers the shape of each node as a graph of its own, also where the type of
every output has it, and makes a new constant of every length.
"""

from collections.abc import Sequence
from typing import Any

from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.rewriting.basic import GraphRewriter
from pytensor.tensor.basic import constant
from pytensor.tensor.rewriting.shape import ShapeFeature
from pytensor.tensor.type import TensorType

from theanompi.device.fusion import TAG


def _is_static(variable: Variable) -> bool:
    return isinstance(variable.type, TensorType) and None not in variable.type.shape


class StaticShapes(ShapeFeature):
    """The shapes of variables, from their types where these say them."""

    def on_attach(self, fgraph: FunctionGraph) -> None:
        """Begin with all variables that there are."""
        # Constants of the graph's own: a graph's variables are in no other graph.
        self._lengths: dict[int, Constant] = {}
        super().on_attach(fgraph)

    def _length(self, length: int) -> Constant:
        if length not in self._lengths:
            self._lengths[length] = constant(length, dtype="int64")
        return self._lengths[length]

    def shape_ir(self, i: int, r: Variable) -> Any:
        """Length `i` of a variable, as a number or a graph."""
        length = r.type.shape[i] if isinstance(r.type, TensorType) else None
        return super().shape_ir(i, r) if length is None else self._length(length)

    def set_shape(self, r: Variable, s: Sequence[Any] | None, override: bool = False) -> None:
        """Take note of a variable's shape."""
        if _is_static(r):
            self.shape_of[r] = tuple(
                self.lscalar_one if length == 1 else self._length(length) for length in r.type.shape
            )
        else:
            super().set_shape(r, s, override)

    def update_shape(self, r: Variable, other_r: Variable) -> None:
        """Take over what is known of a variable that `r` replaces."""
        if not (r in self.shape_of and _is_static(r)):
            super().update_shape(r, other_r)

    def get_node_infer_shape(self, node: Apply) -> Any:
        """The shapes of a node's outputs."""
        if all(map(_is_static, node.outputs)):
            return [self.shape_tuple(output) for output in node.outputs]
        return super().get_node_infer_shape(node)


class _AttachShapes(GraphRewriter):
    def apply(self, fgraph: FunctionGraph) -> None:
        fgraph.attach_feature(StaticShapes() if hasattr(ShapeFeature, "set_shape") else ShapeFeature())


# In the place of PyTensor's "ShapeOpt".
optdb.register("static_shapes", _AttachShapes(), TAG, position=0.1)
