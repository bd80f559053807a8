"""Shapes that types say are not inferred, and all others as PyTensor infers them."""

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.graph.fg import FunctionGraph
from pytensor.tensor.rewriting.shape import ShapeFeature

from theanompi import device
from theanompi.device.ops.base import TorchOp
from theanompi.device.shapes import StaticShapes


def lengths(feature: ShapeFeature, fgraph: FunctionGraph, values: dict[Any, Any]) -> list[list[int]]:
    """The shape of each variable in the order of the graph, in numbers."""
    found = []
    for node in fgraph.toposort():
        for variable in node.outputs:
            shape = [pt.as_tensor_variable(s) for s in feature.shape_tuple(variable)]
            f = pytensor.function(list(values), shape, on_unused_input="ignore", mode="FAST_COMPILE")
            found.append([int(v) for v in f(*values.values())])
    return found


def test_the_shapes_of_all_variables_are_those_that_pytensor_infers() -> None:
    x, y = pt.tensor("x", dtype="float32", shape=(2, 3)), pt.matrix("y", dtype="float32")
    z = pt.concatenate([x.T @ y[:2], pt.exp(x).sum(0, keepdims=True).T * y], axis=1)[:, 1:].reshape((-1, 1))
    values = {x: np.zeros((2, 3), "float32"), y: np.zeros((3, 1), "float32")}
    found = []
    for kind in (ShapeFeature, StaticShapes):
        feature = kind()
        fgraph = FunctionGraph([x, y], [z], features=[feature], clone=True)
        found.append(lengths(feature, fgraph, dict(zip(fgraph.inputs, values.values(), strict=True))))
    assert found[0] == found[1] and [3, 1] in found[0]


class Untold(TorchOp):
    """An op with a known shape that must not be asked for it."""

    __props__ = ()

    def make_node(self, x: Any) -> Any:
        return pytensor.graph.basic.Apply(self, [x], [x.type()])

    def infer_shape(self, *_: Any) -> Any:
        raise AssertionError("asked for a shape that the type has")

    def function(self, node: Any, context: Any) -> Any:
        return lambda x: x + 1


def test_what_a_type_says_is_not_asked_for() -> None:
    x = pt.tensor("x", dtype="float32", shape=(2, 3))
    f = pytensor.function([x], Untold()(x), mode=device.mode("cpu"))
    np.testing.assert_array_equal(f(np.zeros((2, 3), "float32")), np.ones((2, 3)))


def test_a_length_that_a_replacement_knows_better_is_taken_over() -> None:
    x = pt.matrix("x", dtype="float32")
    wide = pt.specify_shape(x, (None, 5))
    f = pytensor.function([x], pt.exp(wide).shape[1] + x.shape[0], mode=device.mode("cpu"))
    assert int(f(np.zeros((2, 5), "float32"))) == 7
