"""The rewrites of a mode are put together once, and again when others are registered."""

from typing import Any

import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import optdb
from pytensor.graph.rewriting.basic import in2out, node_rewriter
from pytensor.tensor.math import exp, log

from theanompi import device
from theanompi.device.shapes import TAG


def ops(mode: Any) -> list[str]:
    x = pt.vector("x")
    return [str(node.op) for node in pytensor.function([x], pt.exp(x), mode=mode).maker.fgraph.toposort()]


def test_functions_share_a_rewriter_where_they_have_the_same_rewrites() -> None:
    one, other = device.mode("cpu"), device.mode("cpu", precision="bf16")
    assert one.optimizer is other.optimizer
    assert one.excluding("elemwise_fusion").optimizer is not one.optimizer
    with pytensor.config.change_flags(optdb__max_use_ratio=3):
        assert one.optimizer is not other.excluding("nothing").optimizer
        assert one.optimizer is other.optimizer
    assert ops(one) == ["Exp"]


def test_a_rewrite_that_is_registered_later_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    @node_rewriter([exp])
    def turned(fgraph: Any, node: Any) -> list[Any]:
        return [log(node.inputs[0])]

    assert ops(device.mode("cpu")) == ["Exp"]
    with monkeypatch.context() as patch:
        copied = type(optdb.__db__)(optdb.__db__.default_factory)
        copied.update({tag: found.copy() for tag, found in optdb.__db__.items()})
        patch.setattr(optdb, "__db__", copied)
        patch.setattr(optdb, "_names", set(optdb._names))
        patch.setattr(optdb, "__position__", dict(optdb.__position__))
        optdb.register("turned", in2out(turned), TAG, position=48)
        assert ops(device.mode("cpu")) == ["Log"]
    assert ops(device.mode("cpu")) == ["Exp"]
