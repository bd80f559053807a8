"""Importing the device makes plain `pytensor.function` and `.eval()` work with what lies on it."""

import pickle

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch
from pytensor.compile.mode import get_mode

from theanompi import device
from theanompi.device.default import DefaultMode, make_default, of_device
from theanompi.device.linker import TorchLinker


def linker_of(function):
    return type(function.maker.linker)


def test_functions_of_device_variables_need_no_mode():
    w = device.shared(np.ones((3, 2), "float32"), name="w")
    x = pt.fmatrix("x")
    step = pytensor.function([x], x.dot(w), updates=[(w, w + 1)])
    assert linker_of(step) is TorchLinker
    np.testing.assert_array_equal(step(np.ones((1, 3), "float32")), [[3, 3]])
    np.testing.assert_array_equal(step(np.ones((1, 3), "float32")), [[6, 6]])
    assert w.sum().eval() == 18


def test_only_an_update_is_enough():
    w = device.shared(np.ones(2, "float32"), name="w")
    y = pt.fvector("y")
    pytensor.function([y], None, updates=[(w, y)])(np.array([4, 5], "float32"))
    np.testing.assert_array_equal(w.get_value(), [4, 5])


def test_a_host_variable_may_be_updated_beside():
    w, total = device.shared(np.float32(2), name="w"), pytensor.shared(np.float32(0))
    step = pytensor.function([], updates=[(total, total + w)])
    step(), step()
    assert total.get_value() == 4


def test_an_op_of_the_device_is_enough_also_within_a_graph_of_its_own():
    x = pt.fvector("x")
    inner = pytensor.compile.builders.OpFromGraph([x], [device.ops.relu(x)])
    assert of_device([device.ops.relu(x)]) and of_device([inner(x) + 1]) and not of_device([x + 1])
    np.testing.assert_array_equal(device.ops.relu(pt.constant(np.float32([-1, 2]))).eval(), [0, 2])


def test_graphs_of_pytensor_alone_stay_pytensors():
    """The linker that PyTensor is set to, also if that changed after the import."""
    x = pt.fscalar("x")
    with pytensor.config.change_flags(linker="py"):
        function = pytensor.function([x], 2 * x)
    assert linker_of(function) is type(pytensor.compile.mode.predefined_linkers["py"])


def test_tags_hold_for_the_devices_graphs_too():
    w = device.shared(np.ones(2, "float32"), name="w")
    graph = pt.exp(w) * pt.tanh(w) + 1
    fused, plain = (
        pytensor.function([], graph, mode=mode) for mode in (None, get_mode(None).excluding("fusion"))
    )
    assert linker_of(plain) is TorchLinker
    assert len(plain.maker.fgraph.apply_nodes) > len(fused.maker.fgraph.apply_nodes)
    np.testing.assert_allclose(plain(), np.exp(1) * np.tanh(1) + 1, rtol=1e-6)


def test_the_device_is_the_current_one_when_a_function_is_compiled(monkeypatch):
    w = device.shared(np.ones(2, "float32"), name="w")
    monkeypatch.setattr("theanompi.device.placement._current", torch.device("meta"))
    assert pytensor.function([], 2 * w).maker.linker.device.type == "meta"


@pytest.mark.parametrize("chosen", ["FAST_COMPILE", get_mode("FAST_RUN")])
def test_a_mode_that_the_user_chose_stays(chosen):
    with pytensor.config.change_flags(mode=chosen):
        make_default()
        assert pytensor.config.mode == chosen
    with pytensor.config.change_flags(mode="Mode"):
        make_default()
        assert isinstance(pytensor.config.mode, DefaultMode)


def test_a_pickled_function_is_compiled_again_and_shares_what_was_pickled_with_it() -> None:
    w, x = device.shared(np.float32([1, 2]), name="w"), pt.fvector("x")
    step = pytensor.function([x], (w * x).sum(), updates=[(w, w + x)])
    read = pytensor.function([x], (w * x.shape[0]).sum(), mode=device.mode("cpu"))
    one = np.float32([1, 1])
    step(one)
    again, read_again, w_again = pickle.loads(pickle.dumps((step, read, w)))
    assert again(one) == 5 and again(one) == 7
    np.testing.assert_array_equal(w_again.get_value(), [4, 5])
    assert read_again(one) == 18 and read(one) == 10
