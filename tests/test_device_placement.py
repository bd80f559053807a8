"""Numbers may lie on the CPU; whatever has axes is on the device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor.tensor as pt
import pytest
import torch

from tests.without_memory import GpuWithoutMemory, compiled
from theanompi.device import placement

X = np.ones((3, 4), "float32")

GRAPHS: dict[str, Callable[[Any], Any]] = {
    "a number many times": lambda x: pt.alloc(np.float32(2), x.shape[0], 5),
    "zeros that are written into": lambda x: pt.set_subtensor(pt.zeros((5, x.shape[1]))[1:4], x),
    "a number with axes": lambda x: pt.cast(x.shape[0], "float32").dimshuffle("x", "x") * 2,
    "numbers as a vector": lambda x: pt.stack([x.shape[0], x.shape[1]]),
    "a number written": lambda x: pt.set_subtensor(x[1:], 2),
    "a number added": lambda x: pt.inc_subtensor(x[1:, ::-1], np.float32(1.5)),
    "a number written to rows": lambda x: pt.set_subtensor(x[np.array([0, 2])], np.float32(3)),
    "a number added to rows": lambda x: pt.inc_subtensor(x[np.array([0, 0])], np.float32(3)),
    "a diagonal": lambda x: pt.diag(x[0]),
    "an identity": lambda x: pt.eye(x.shape[0]),
    "a choice": lambda x: pt.switch(x.shape[0] > 2, x, np.float32(0)),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_has_axes_is_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_current", torch.device("meta"))
    x = pt.matrix("x", dtype="float32")
    with GpuWithoutMemory():
        result = compiled([x], GRAPHS[name](x))(X)
    assert result.is_meta and result.ndim > 0
