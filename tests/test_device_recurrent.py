"""The LSTM of all steps in one op: by oneDNN and step by step, against a loop in torch, to second derivatives."""

from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
import torch

from theanompi import device
from theanompi.device import ops
from theanompi.device.ops import recurrent
from theanompi.device.ops.recurrent import LSTM, LSTMGrad

STEPS, N, IN, UNITS = 4, 3, 2, 5
SHAPES = [(STEPS, N, IN), (4 * UNITS, IN), (4 * UNITS, UNITS), (4 * UNITS,), (N, UNITS), (N, UNITS)]
PEEPHOLES = [(UNITS,)] * 3
WEIGHTS = torch.cos(torch.arange(STEPS * N * UNITS)).view(STEPS, N, UNITS)


def values(dtype: str = "float32", peepholes: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for shape in SHAPES + PEEPHOLES * peepholes]


def looped(x: Any, w_in: Any, w_hid: Any, b: Any, h: Any, c: Any, *peepholes: Any, clip: float = 0) -> Any:
    """Graves' equations (2013, 7 to 11) in torch, with gradients of the totals clipped."""
    states = []
    for row in x:
        total = row @ w_in.T + h @ w_hid.T + b
        if clip and total.requires_grad:
            total.register_hook(lambda g: g.clamp(-clip, clip))
        i, f, new, o = total.chunk(4, 1)
        if peepholes:
            i, f = i + c * peepholes[0], f + c * peepholes[1]
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(new)
        if peepholes:
            o = o + c * peepholes[2]
        h = torch.sigmoid(o) * torch.tanh(c)
        states.append(h)
    return torch.stack(states)


def ours(arguments: list[np.ndarray], precision: str = "float32", **settings: Any) -> list[np.ndarray]:
    """The states, and the gradients by all operands of their sum with `WEIGHTS`."""
    inputs = [pt.tensor(dtype=a.dtype.name, shape=(None,) * a.ndim) for a in arguments]
    y = ops.lstm(*inputs, **settings)
    weights = WEIGHTS.numpy().astype(y.dtype)[: len(arguments[0])]
    gradients = pytensor.grad((y * weights).sum(), inputs)
    f = pytensor.function(inputs, [y, *gradients], mode=device.mode("cpu", precision))
    assert len([node for node in f.maker.fgraph.toposort() if isinstance(node.op, LSTM | LSTMGrad)]) == 2
    return list(f(*arguments))


def theirs(arguments: list[np.ndarray], **settings: Any) -> list[np.ndarray]:
    leaves = [torch.from_numpy(a).requires_grad_() for a in arguments]
    y = looped(*leaves, **settings)
    return [v.detach().numpy() for v in (y, *torch.autograd.grad((y * WEIGHTS).sum(), leaves))]


def agree(got: list[np.ndarray], wanted: list[np.ndarray], tolerance: float = 2e-5) -> None:
    for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance, err_msg=f"output {k}")


@pytest.mark.parametrize("onednn", [True, False])
def test_states_and_gradients(onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    if onednn:
        onednns_order = recurrent._for_onednn
        monkeypatch.setattr(
            recurrent, "_for_onednn", lambda *a, **k: called.append(1) or onednns_order(*a, **k)
        )
    else:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    agree(ours(values()), theirs(values()))
    assert len(called) == 2 * (onednn and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("peepholes", [True, False])
def test_peepholes_clipped_gradients_and_doubles(dtype: str, clip: float, peepholes: bool) -> None:
    arguments = values(dtype, peepholes)
    wanted = theirs(arguments, clip=clip)
    assert not clip or abs(wanted[1] - theirs(arguments)[1]).max() > 0.01
    agree(ours(arguments, clip=clip), wanted, 2e-5 if dtype == "float32" else 1e-12)


def test_narrow_products() -> None:
    arguments = values(peepholes=True)
    got, wanted = ours(arguments, "bf16"), theirs(arguments)
    differences = [abs(one - other).max() / abs(other).max() for one, other in zip(got, wanted, strict=True)]
    assert 1e-5 < max(differences) < 0.05


def test_second_derivatives_also_where_an_operand_is_given_twice_or_made_of_another() -> None:
    # Without the rewrites of loops, which take long here.
    mode = device.mode("cpu").excluding("scan", "fusion", "scan_save_mem_no_prealloc")
    x, w_in, w_hid, b, h, _ = (pt.tensor(dtype="float64", shape=shape) for shape in SHAPES)
    wrt = [x, w_in, w_hid, b, h]
    first = pytensor.grad((ops.lstm(x, w_in, w_hid, 2 * w_hid[:, 0] + b, h, h) ** 2).sum(), wrt)
    second = pytensor.grad(sum((g**2).sum() for g in first), wrt)
    arguments = values("float64")[:5]
    got = pytensor.function(wrt, [*first, *second], mode=mode)(*arguments)
    leaves = [torch.from_numpy(a).requires_grad_() for a in arguments]
    y = looped(*leaves[:3], 2 * leaves[2][:, 0] + leaves[3], leaves[4], leaves[4])
    wanted = torch.autograd.grad((y**2).sum(), leaves, create_graph=True)
    wanted += torch.autograd.grad(sum((g**2).sum() for g in wanted), leaves)
    agree(got, [g.detach().numpy() for g in wanted], 1e-9)


def test_no_step_leaves_the_initial_states_without_a_gradient() -> None:
    x, *others = values()
    states, gx, *gradients = ours([x[:0], *others])
    assert states.shape == (0, N, UNITS) and gx.shape == (0, N, IN)
    assert not any(g.any() for g in gradients)


def test_it_runs_in_other_modes_too() -> None:
    inputs = [pt.tensor(dtype="float32", shape=shape) for shape in SHAPES]
    y = ops.lstm(*inputs)
    assert y.type.shape == (STEPS, N, UNITS)
    outputs = [y, *pytensor.grad((y * WEIGHTS.numpy()).sum(), inputs)]
    agree(list(pytensor.function(inputs, outputs, mode="FAST_COMPILE")(*values())), theirs(values()))


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (N, IN), r"lstm: input: expected 3 dimensions \(steps, n, features\)"),
        (1, (4 * UNITS, IN + 1), r"lstm: w_in: expected float32 of shape \(20, 2\)"),
        (3, (UNITS,), r"lstm: b: expected float32 of shape \(20,\)"),
        (5, (N + 1, UNITS), r"lstm: c: expected float32 of shape \(3, 5\)"),
    ],
)
def test_what_does_not_fit_is_one_line(position: int, shape: tuple[int, ...], message: str) -> None:
    shapes: list[Any] = [*SHAPES]
    shapes[position] = shape
    with pytest.raises(ValueError, match=message):
        ops.lstm(*(pt.tensor(dtype="float32", shape=shape) for shape in shapes))
    with pytest.raises(ValueError, match="lstm: peepholes: expected none or three, got 1"):
        ops.lstm(*(pt.tensor(dtype="float32", shape=shape) for shape in [*SHAPES, (UNITS,)]))
