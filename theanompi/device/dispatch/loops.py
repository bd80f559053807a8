"""Loops: a Scan is its step, compiled for the device like any other graph, called by Python once for each step.

What a step needs of earlier ones stays in lists of tensors, of which those that are wanted become one tensor at the
end: nothing is written step by step, and nobody waits for the device but a loop that ends by a condition.
"""

from collections import deque
from collections.abc import Callable, Iterable, MutableSequence
from typing import Any

import torch
from pytensor.graph.basic import Apply, Variable
from pytensor.scan.op import Scan

from theanompi.device.dispatch.base import torch_function
from theanompi.device.ops.base import Context
from theanompi.device.scalars import torch_dtype


def _joined(rows: Iterable[torch.Tensor], variable: Variable, context: Context) -> torch.Tensor:
    """The rows as one tensor."""
    values = list(rows)
    if not values:
        # No step was taken: of a length that is not known before one, there is nothing.
        shape = [length or 0 for length in variable.type.shape[1:]]
        return torch.empty([0, *shape], dtype=torch_dtype(variable.type.dtype), device=context.device)
    if context.device.type != "cpu":
        # Numbers may have stayed on the host.
        values = [v.to(context.device) for v in values]
    if any(v.shape != values[0].shape for v in values):
        shapes = sorted({tuple(v.shape) for v in values})
        raise ValueError(f"Scan: expected a result of the same shape at each step, got {shapes}")
    return torch.stack(values)


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


@torch_function.register(Scan)
def _scan(op: Scan, node: Apply, context: Context) -> Callable[..., Any]:
    assert context.graph is not None
    step = context.graph(op.fgraph, True)
    info, used, as_while = op.info, context.used, op.info.as_while
    mot_taps = list(zip(info.mit_mot_in_slices, info.mit_mot_out_slices, strict=True))
    # The tap that lies furthest back is at the first row.
    mot_offsets = [-min(0, *taps) for taps in info.mit_mot_in_slices]
    sot_taps = info.mit_sot_in_slices + info.sit_sot_in_slices
    n_mot, n_mot_outs, n_sot, n_nit = info.n_mit_mot, info.n_mit_mot_outs, len(sot_taps), info.n_nit_sot
    n_traces = n_sot + n_nit
    traced = range(n_mot, n_mot + n_traces)
    carried_from = n_mot_outs + n_traces
    carried_to = carried_from + info.n_untraced_sit_sot

    def finished(trace: MutableSequence[torch.Tensor], variable: Variable, length: int) -> torch.Tensor:
        result = _joined(trace, variable, context)
        if len(trace) < length and not as_while:
            # Steps that a truncated gradient leaves out.
            result = torch.cat([result, result.new_zeros([length - len(trace), *result.shape[1:]])])
        return result

    def scan(n_steps: torch.Tensor, *inputs: Any) -> Any:
        steps = int(n_steps)
        outer = [n_steps, *inputs]
        if steps < 0:
            raise IndexError(f"Scan: expected a number of steps of at least 0, got {steps}")
        for sequence in op.outer_seqs(outer):
            if len(sequence) < steps:
                raise ValueError(f"Scan: expected sequences of {steps} steps, got one of {len(sequence)}")
        sequences = [sequence[:steps].unbind() for sequence in op.outer_seqs(outer)]
        gradients = [list(start.unbind()) for start in op.outer_mitmot(outer)]
        starts = [*op.outer_mitsot(outer), *op.outer_sitsot(outer)]
        lengths = [*(len(start) for start in starts), *(int(length) for length in op.outer_nitsot(outer))]
        carried = op.outer_untraced_sit_sot(outer)
        fixed = op.outer_non_seqs(outer)
        # Of a trace that is shorter than the loop the last rows are kept.
        traces: list[deque[torch.Tensor]] = [
            deque(start[: -min(taps)].unbind(), length)
            for start, taps, length in zip(starts, sot_taps, lengths, strict=False)
        ]
        traces += [deque(maxlen=length) for length in lengths[n_sot:]]
        recurrent = list(zip(traces, sot_taps, strict=False))
        moving = list(zip(gradients, mot_offsets, mot_taps, strict=True))

        for i in range(steps):
            arguments = [sequence[i] for sequence in sequences]
            for rows, offset, (taps, _) in moving:
                arguments += [rows[i + offset + tap] for tap in taps]
            for trace, taps in recurrent:
                arguments += [trace[tap] for tap in taps]
            results = step(*arguments, *carried, *fixed)
            position = 0
            for rows, offset, (_, taps) in moving:
                for tap in taps:
                    rows[i + offset + tap] = results[position]
                    position += 1
            for trace, result in zip(traces, results[n_mot_outs:], strict=False):
                trace.append(result)
            carried = results[carried_from:carried_to]
            if as_while and results[-1].item() != 0:
                break

        if steps == 0:
            outputs = [
                *(_kept(start) for start in [*op.outer_mitmot(outer), *starts]),
                *(_joined((), v, context) for v in op.outer_nitsot_outs(node.outputs)),
            ]
        else:
            outputs = [
                _joined(rows, v, context) if u else None
                for rows, v, u in zip(gradients, node.outputs, used, strict=False)
            ]
            for k, trace, length in zip(traced, traces, lengths, strict=True):
                outputs.append(finished(trace, node.outputs[k], length) if used[k] else None)
        outputs += [_kept(value) for value in carried]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    return scan
