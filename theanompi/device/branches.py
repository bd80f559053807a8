"""`ifelse` computes the taken branch only: what one branch alone needs becomes a graph of its own."""

from typing import Any

from pytensor.compile.mode import optdb
from pytensor.graph.basic import Apply, Constant
from pytensor.graph.fg import FunctionGraph
from pytensor.graph.op import Op
from pytensor.graph.rewriting.basic import GraphRewriter

from theanompi.device.fusion import TAG
from theanompi.device.versions import IfElse


class Branches(Op):
    """A condition, and for each of its values a graph; both take the same inputs.

    Parameters
    ----------
    then, otherwise : FunctionGraph
        What is computed if the condition, the first input, is not 0, and if it is.
    """

    def __init__(self, then: FunctionGraph, otherwise: FunctionGraph) -> None:
        self.then, self.otherwise = then, otherwise

    def perform(self, node: Apply, inputs: Any, output_storage: Any) -> None:
        raise NotImplementedError("Branches: is computed by the functions of its graphs only")


def _only_for(fgraph: FunctionGraph, node: Apply) -> list[Apply]:
    """The nodes that nothing reads but, through each other, the branches of an IfElse."""
    only: dict[Apply, None] = {}
    order = fgraph.toposort()
    for candidate in reversed(order[: order.index(node)]):
        readers = [reader for v in candidate.outputs for reader in fgraph.clients[v]]
        if all(r in only or (r is node and position > 0) for r, position in readers):
            only[candidate] = None
    return list(only)


def _separate(fgraph: FunctionGraph, node: Apply) -> None:
    """Put `Branches` in the place of an IfElse, if there is anything that its branches alone need.

    What both need is in both graphs: of a branch within a branch it may be that neither comes to it.
    """
    inside = _only_for(fgraph, node)
    if not inside:
        return
    count = len(node.outputs)
    outputs = node.inputs[1 : 1 + count], node.inputs[1 + count :]
    computed = {v for n in inside for v in n.outputs}
    read = [*(v for n in inside for v in n.inputs), *node.inputs[1:]]
    inputs = [v for v in dict.fromkeys(read) if v not in computed and not isinstance(v, Constant)]
    op = Branches(*(FunctionGraph(inputs, list(o), clone=True) for o in outputs))
    new = Apply(op, [node.inputs[0], *inputs], [v.type() for v in node.outputs])
    fgraph.replace_all(list(zip(node.outputs, new.outputs, strict=True)), reason="separate_branches")


class _SeparateBranches(GraphRewriter):
    def apply(self, fgraph: FunctionGraph) -> None:
        # The last ones first: what they hold goes into their branches with them.
        for node in reversed(fgraph.toposort()):
            if isinstance(node.op, IfElse) and node in fgraph.apply_nodes:
                _separate(fgraph, node)


# After all other rewrites: a graph within an op is rewritten by itself.
optdb.register("separate_branches", _SeparateBranches(), TAG, position=100)
