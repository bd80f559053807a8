"""Long short-term memory over all steps of sequences as one op.

On the CPU oneDNN has it as one call, forward and backward. Where that does not do (other devices and dtypes, narrow
products, peepholes, clipped gradients) it is a loop of a few calls a step: backward the gradients of a step are linear
in those of its state and cell, so that all factors are computed for all steps at once, before the loop.
"""

from collections.abc import Callable
from typing import Any

import pytensor
import pytensor.tensor as pt
import torch
from pytensor.gradient import DisconnectedType, disconnected_type, grad_clip
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import Context, TorchOp, Variables, expect, pulled_back, tensor_type
from theanompi.device.scalars import torch_dtype

_ONEDNN_LSTM = 2
"""The number of an LSTM among torch's recurrent networks."""


class _LSTM(TorchOp):
    __props__ = ("clip",)

    def __init__(self, clip: float) -> None:
        self.clip = clip

    def fused(self, context: Context, x: torch.Tensor, *peepholes: torch.Tensor) -> bool:
        """Whether oneDNN computes it: forward and backward must agree."""
        return (
            not (peepholes or self.clip)
            and context.precision != "bf16"
            and (x.device.type, x.dtype) == ("cpu", torch.float32)
            and x.numel() > 0
            and torch.backends.mkldnn.is_available()
        )


def _for_onednn(
    x: torch.Tensor, *parameters: torch.Tensor, h: torch.Tensor, c: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The operands in oneDNN's order: it has two biases, and a layer's axis before the initial state."""
    w_in, w_hid, b = parameters
    operands = (x, w_in, w_hid, b, torch.zeros_like(b), h.unsqueeze(0), c.unsqueeze(0))
    return tuple(operand.contiguous() for operand in operands)


def _parts(workspace: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of a workspace for the loop: the gates, (steps, n, 4, units), the cells and their hyperbolic tangents."""
    memory = workspace.view(like.dtype).view(6, *like.shape)
    steps, n, units = like.shape
    return memory[:4].view(steps, n, 4, units), memory[4], memory[5]


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Add a·b, in the dtype of b."""
    if a.dtype == b.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a.to(b.dtype) @ b)


class LSTM(_LSTM):
    """States of all steps; also the last cell and what backward needs, of which there is no gradient."""

    default_output = 0

    def make_node(self, *operands: Any) -> Apply:
        x, w_in, w_hid, b, h, c, *peepholes = map(pt.as_tensor_variable, operands)
        given = dict(zip(("w_in", "w_hid", "b", "h", "c"), (w_in, w_hid, b, h, c), strict=True))
        given |= {f"peephole {k}": p for k, p in enumerate(peepholes)}
        (steps, n, features), units = x.type.shape if x.ndim == 3 else (None,) * 3, w_hid.type.shape[-1]
        four = None if units is None else 4 * units
        expect(x.ndim == 3, "lstm", "input", "3 dimensions (steps, n, features)", x.type)
        expect(len(peepholes) in (0, 3), "lstm", "peepholes", "none or three", len(peepholes))
        shapes = [(four, features), (four, units), (four,), (n, units), (n, units), *[(units,)] * 3]
        for (name, v), shape in zip(given.items(), shapes, strict=False):
            fits = v.ndim == len(shape) and all(
                None in pair or pair[0] == pair[1] for pair in zip(v.type.shape, shape, strict=True)
            )
            expect(fits and v.dtype == x.dtype, "lstm", name, f"{x.dtype} of shape {shape}", v.type)
        outputs = [(steps, n, units), (n, units)]
        return Apply(
            self,
            [x, *given.values()],
            [*(tensor_type(x, shape)() for shape in outputs), TensorType("uint8", shape=(None,))()],
        )

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        layer, dtype = torch.ops.aten.mkldnn_rnn_layer.default, torch_dtype(node.inputs[0].type.dtype)

        def lstm(x: torch.Tensor, *operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
            w_in, w_hid, b, h, c, *peepholes = operands
            if self.fused(context, x, *peepholes):
                whole = _for_onednn(x, w_in, w_hid, b, h=h, c=c)
                how: Any = (False, [], _ONEDNN_LSTM, h.shape[1], 1, True, False, False, True)
                states, _, cell, workspace = layer(*whole, *how)
                return states, cell.squeeze(0), workspace
            x, w_in, w_hid, b, h, c, *peepholes = (v.to(dtype) for v in (x, *operands))
            (steps, n, _), units = x.shape, h.shape[1]
            states = x.new_empty(steps, n, units)
            workspace = x.new_empty(6 * states.numel()).view(torch.uint8)
            gates, cells, squashed = _parts(workspace, states)
            rows, w_in, w_hid = context.compute(x.flatten(0, 1), w_in.t(), w_hid.t())
            gates.view(steps * n, 4 * units).copy_(rows @ w_in).add_(b)
            in_and_forget = gates[:, :, :2]
            before = [gates[:, :, k].unbind() for k in range(4)]
            looked = torch.stack(peepholes[:2]) if peepholes else None
            each = zip(
                *(tensor.unbind() for tensor in (gates, in_and_forget, cells, squashed, states)),
                *before,
                strict=True,
            )
            for total, two, cell, tanh, state, i, f, new, o in each:
                _add_product(total.view(n, 4 * units), h, w_hid)
                if looked is not None:
                    two.addcmul_(c.unsqueeze(1), looked)
                two.sigmoid_()
                torch.mul(f, c, out=cell).addcmul_(i, new.tanh_())
                if looked is not None:
                    o.addcmul_(cell, peepholes[2])
                torch.mul(o.sigmoid_(), torch.tanh(cell, out=tanh), out=state)
                h, c = state, cell
            return states, c.clone(), workspace

        return lstm

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True, False, False] for _ in node.inputs]

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        if isinstance(cotangents[0].type, DisconnectedType):
            return [disconnected_type() for _ in inputs]
        gradients: list[Variable] = LSTMGrad(self.clip).make_node(cotangents[0], *outputs, *inputs).outputs
        return gradients


class LSTMGrad(_LSTM):
    """Gradients of the states with respect to all operands of :class:`LSTM`."""

    def make_node(self, *operands: Variable) -> Apply:
        return Apply(self, list(operands), [v.type() for v in operands[4:]])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        backward = torch.ops.aten.mkldnn_rnn_layer_backward.default

        def lstm_grad(
            g: torch.Tensor,
            states: torch.Tensor,
            cell: torch.Tensor,
            workspace: torch.Tensor,
            x: torch.Tensor,
            *operands: torch.Tensor,
        ) -> tuple[Any, ...]:
            w_in, w_hid, b, h, c, *peepholes = operands
            if self.fused(context, x, *peepholes):
                whole = _for_onednn(x, w_in, w_hid, b, h=h, c=c)
                after = (states, states[-1:], cell.unsqueeze(0), g.contiguous(), None, None)
                how: Any = (False, _ONEDNN_LSTM, h.shape[1], 1, True, True, False, [], False)
                gx, g_in, g_hid, gb, _, gh, gc = backward(*whole, *after, *how, workspace)
                return gx, g_in, g_hid, gb, gh.squeeze(0), gc.squeeze(0)
            return self._by_steps(context, g, states, workspace, x, *operands)

        return lstm_grad

    def _by_steps(
        self,
        context: Context,
        g: torch.Tensor,
        states: torch.Tensor,
        workspace: torch.Tensor,
        x: torch.Tensor,
        *operands: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        g, x, w_in, w_hid, b, h, c, *peepholes = (v.to(states.dtype) for v in (g, x, *operands))
        steps, n, units = states.shape
        gates, cells, squashed = _parts(workspace, states)
        i, f, new, o = gates.unbind(2)
        earlier = torch.cat([c.unsqueeze(0), cells[:-1]]) if steps else cells
        d_sigmoid, d_tanh = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
        # Each gate's gradient is that of the cell, and the last gate's that of the state, times these.
        factors = torch.stack(
            [d_sigmoid(new, i), d_sigmoid(earlier, f), d_tanh(i, new), d_sigmoid(squashed, o)], 2
        )
        to_cell, to_earlier = d_tanh(o, squashed), f
        if peepholes:
            to_cell = torch.addcmul(to_cell, factors[:, :, 3], peepholes[2])
            for k in (0, 1):
                to_earlier = torch.addcmul(to_earlier, factors[:, :, k], peepholes[k])
        x, w_in, w_hid = context.compute(x, w_in, w_hid)
        totals = torch.empty_like(gates)
        clipped = torch.empty_like(gates) if self.clip else totals
        of_cell, of_state = g.new_zeros(n, units), g.new_zeros(n, units)
        by_step = (t.unbind() for t in (g, factors, to_cell, to_earlier, totals, clipped))
        for gy, factor, seen, kept, total, sent in reversed(list(zip(*by_step, strict=True))):
            of_state = of_state.add_(gy)
            of_cell.addcmul_(of_state, seen)
            torch.mul(of_cell.unsqueeze(1), factor[:, :3], out=total[:, :3])
            torch.mul(of_state, factor[:, 3], out=total[:, 3])
            if self.clip:
                torch.clamp(total, -self.clip, self.clip, out=sent)
            of_cell.mul_(kept)
            of_state = (sent.view(n, 4 * units).to(w_hid.dtype) @ w_hid).to(g.dtype)
        rows = clipped.view(steps * n, 4 * units)
        narrow, before = context.compute(rows, torch.cat([h.unsqueeze(0), states[:-1]]) if steps else states)
        gradients: list[torch.Tensor | None] = [
            (narrow @ w_in).view(x.shape) if context.used[0] else None,
            narrow.t() @ x.flatten(0, 1),
            narrow.t() @ before.flatten(0, 1),
            rows.sum(0),
            of_state,
            of_cell,
        ]
        seen_by = (earlier, earlier, cells)
        gradients += [
            (totals[:, :, k] * cell).sum((0, 1)) for k, cell in zip((0, 1, 3), seen_by, strict=True)
        ][: len(peepholes)]
        return tuple(None if one is None else one.to(states.dtype) for one in gradients)

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        # States, cell and workspace are functions of the operands.
        outputs = len(node.outputs)
        return [[position not in (1, 2, 3)] * outputs for position in range(len(node.inputs))]

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        def gradients(g: Variable, *operands: Variable) -> list[Variable]:
            states = written_out(*operands, clip=self.clip)
            return list(pytensor.grad(None, list(operands), known_grads={states: g}))

        of_g, *of_operands = pulled_back(gradients, [inputs[0], *inputs[4:]], cotangents)
        return [of_g, *(disconnected_type() for _ in range(3)), *of_operands]


def written_out(
    x: Variable,
    w_in: Variable,
    w_hid: Variable,
    b: Variable,
    h: Variable,
    c: Variable,
    *peepholes: Variable,
    clip: float = 0.0,
) -> Variable:
    """The same as a loop of PyTensor's, which has derivatives of any order; see :func:`lstm`."""

    def step(total: Variable, h: Variable, c: Variable, w_hid: Variable, *peepholes: Variable) -> Any:
        total = total + pt.dot(h, w_hid.T)
        if clip:
            total = grad_clip(total, -clip, clip)
        i, f, new, o = (total[:, k * h.shape[1] : (k + 1) * h.shape[1]] for k in range(4))
        if peepholes:
            i, f = i + c * peepholes[0], f + c * peepholes[1]
        c = pt.sigmoid(f) * c + pt.sigmoid(i) * pt.tanh(new)
        if peepholes:
            o = o + c * peepholes[2]
        return [pt.sigmoid(o) * pt.tanh(c), c]

    states, _ = pytensor.scan(
        step, [pt.dot(x, w_in.T) + b], [h, c], [w_hid, *peepholes], return_updates=False
    )
    return states


def lstm(
    x: Variable,
    w_in: Variable,
    w_hid: Variable,
    b: Variable,
    h: Variable,
    c: Variable,
    *peepholes: Variable,
    clip: float = 0.0,
) -> Variable:
    """Long short-term memory (Graves 2013, arXiv:1308.0850, equations 7 to 11) over all steps.

    Parameters
    ----------
    x : float tensor, shape (steps, n, features)
    w_in : float tensor, shape (4 · units, features)
        As torch has them: of the input gate, the forget gate, the cell's input and the output gate.
    w_hid : float tensor, shape (4 · units, units)
    b : float tensor, shape (4 · units,)
    h, c : float tensors, shape (n, units)
        State and cell before the first step.
    *peepholes : float tensors, shape (units,)
        None, or those of the input, forget and output gate.
    clip : float
        Gradients of what the gates' nonlinearities are applied to, without the peepholes, are clipped at each step,
        element by element, to [−clip, clip]; 0 for no clipping.

    Returns
    -------
    float tensor, shape (steps, n, units)
        The state after each step.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> x, h = (pt.tensor(dtype="float32", shape=shape) for shape in ((7, 2, 3), (2, 5)))
    >>> w_in, w_hid = (pt.zeros(shape, "float32") for shape in ((20, 3), (20, 5)))
    >>> lstm(x, w_in, w_hid, pt.zeros(20, "float32"), h, h).type.shape
    (7, 2, 5)
    """
    states: Variable = LSTM(float(clip))(x, w_in, w_hid, b, h, c, *peepholes)
    return states
