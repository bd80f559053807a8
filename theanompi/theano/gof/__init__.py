"""Graphs, where Theano had them: ``pytensor.graph``."""

from typing import Any

import pytensor.graph

from theanompi.theano.gof import graph

__all__ = ["graph"]


def __getattr__(name: str) -> Any:
    return getattr(pytensor.graph, name)
