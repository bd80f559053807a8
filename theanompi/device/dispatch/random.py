"""PyTensor's random variables: drawn on the host by NumPy's generator, and then moved to the device.

So they are bit for bit what PyTensor's interpreter draws. The generator itself stays on the host.
"""

from collections.abc import Callable
from typing import Any

import torch
from pytensor.graph.basic import Apply, Variable
from pytensor.graph.op import Op
from pytensor.tensor.random.op import AbstractRNGConstructor, RandomVariable
from pytensor.tensor.type import TensorType

from theanompi.device.dispatch.base import torch_function
from theanompi.device.ops.base import Context, shared_memory


def _on_host(value: Any, variable: Variable) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    # Under bf16 a value may be narrower than its type says.
    return value.to(getattr(torch, variable.type.dtype)).cpu().numpy()


@torch_function.register(RandomVariable)
@torch_function.register(AbstractRNGConstructor)
def _random(op: Op, node: Apply, context: Context) -> Callable[..., Any]:
    def draw(*inputs: Any) -> Any:
        storage: list[list[Any]] = [[None] for _ in node.outputs]
        op.perform(node, [_on_host(x, v) for x, v in zip(inputs, node.inputs, strict=True)], storage)
        outputs = [
            shared_memory(cell[0]).to(context.device) if isinstance(v.type, TensorType) else cell[0]
            for cell, v in zip(storage, node.outputs, strict=True)
        ]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    return draw
