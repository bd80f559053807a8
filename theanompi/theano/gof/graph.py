"""What a graph is made of: ``pytensor.graph.basic`` and ``pytensor.graph.traversal``."""

from collections.abc import Iterable
from typing import Any

from pytensor.graph import basic, traversal
from pytensor.graph.basic import Variable

__all__ = ["ancestors", "inputs", "variables"]


def __getattr__(name: str) -> Any:
    return getattr(traversal if hasattr(traversal, name) else basic, name)


def inputs(variable_list: Iterable[Variable], blockers: Any = None) -> list[Variable]:
    """List what the variables are computed from: constants, shared variables and inputs, each once."""
    return list(traversal.graph_inputs(variable_list, blockers))


def ancestors(variable_list: Iterable[Variable], blockers: Any = None) -> list[Variable]:
    """List the variables and all that they are computed from, each once."""
    return list(traversal.ancestors(variable_list, blockers))


def variables(i: Iterable[Variable], o: Iterable[Variable]) -> list[Variable]:
    """List all variables between the inputs `i` and the outputs `o`, both included."""
    return list(traversal.vars_between(i, o))
