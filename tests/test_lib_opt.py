"""Models of Theano-MPI that let ``theanompi.lib.opt`` compile their functions."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from theanompi import device
from theanompi.lib.opt import pre_model_iter_fn

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
Y = np.float32([0, 1, 0, 1, 1, 0])


def model(shared: Any, **changed: Any) -> Any:
    m = SimpleNamespace(
        use_momentum=True, use_nesterov_momentum=False, mu=0.9, eta=0.1, weight_types=["W", "b"]
    )
    vars(m).update(changed)
    m.x, m.y, m.lr, m.subb_ind = pt.fmatrix("x"), pt.fvector("y"), pt.fscalar("lr"), pt.iscalar("i")
    w, b = shared(np.float32([1, -1, 0.5])), shared(np.float32(0.25))
    m.params, m.shared_lr = [w, b], pytensor.shared(np.float32(0.05))
    part = slice(3 * m.subb_ind, 3 * (m.subb_ind + 1))
    m.shared_x_slice, m.shared_y_slice = pytensor.shared(X)[part], pytensor.shared(Y)[part]
    rest = m.x.dot(w) + b - m.y
    m.cost, m.error, m.compiled_train_fn_list = (rest**2).sum(), pt.abs(rest).max(), []
    m.grads = pytensor.grad(m.cost, m.params)
    mode = device.mode("cpu")

    def compile_train(*arguments: Any) -> None:
        m.compiled_train_fn_list += [pytensor.function(**a, mode=mode) for a in arguments]

    def compile_val() -> None:
        given = [(m.x, m.shared_x_slice), (m.y, m.shared_y_slice)]
        m.val_fn = pytensor.function([m.subb_ind], [m.cost, m.error], givens=given, mode=mode)

    m.compile_train, m.compile_val = compile_train, compile_val
    return m


@pytest.mark.parametrize("momentum, nesterov", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("shared", [pytensor.shared, device.shared])
def test_a_model_descends_with_momentum_and_decay_of_weights_alone(
    shared: Any, momentum: bool, nesterov: bool
) -> None:
    m = model(shared, use_momentum=momentum, use_nesterov_momentum=nesterov)
    pre_model_iter_fn(m, "avg")
    w, b = np.array([1, -1, 0.5]), 0.25
    velocities = np.zeros(3), 0.0
    for i in (0, 1, 0):
        x, y = X[3 * i : 3 * i + 3].astype("float64"), Y[3 * i : 3 * i + 3]
        rest = x @ w + b - y
        np.testing.assert_allclose(m.val_iter_fn(i), [(rest**2).sum(), abs(rest).max()], rtol=1e-4)
        np.testing.assert_allclose(m.train_iter_fn(i), [(rest**2).sum(), abs(rest).max()], rtol=1e-4)
        steps = 0.05 * (2 * rest @ x + 0.1 * w), 2 * 0.05 * 2 * rest.sum()
        if nesterov:
            velocities = tuple(0.81 * v - 1.9 * s for v, s in zip(velocities, steps, strict=True))
        else:
            velocities = tuple(0.9 * momentum * v - s for v, s in zip(velocities, steps, strict=True))
        w, b = w + velocities[0], b + velocities[1]
        np.testing.assert_allclose(m.params[0].get_value(), w, rtol=1e-4)
        np.testing.assert_allclose(m.params[1].get_value(), b, rtol=1e-4)


def test_what_cannot_be_compiled_is_said_in_a_line() -> None:
    with pytest.raises(
        ValueError, match="expected sync_type 'avg' or 'swap', got 'cdd'; gradients are summed for"
    ):
        pre_model_iter_fn(model(pytensor.shared), "cdd")
    with pytest.raises(ValueError, match="expected weight_types 'W' or 'b' for 2 parameters, got"):
        pre_model_iter_fn(model(pytensor.shared, weight_types=["W"]), "avg")
