"""The default mode of PyTensor, in which graphs with something of the device compile to torch.

>>> import numpy as np, pytensor
>>> from theanompi import device
>>> w = device.shared(np.ones(3, "float32"), name="w")
>>> double = pytensor.function([], 2 * w)
>>> double()
array([2., 2., 2.], dtype=float32)
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pytensor
from pytensor.compile.mode import Mode, get_mode
from pytensor.graph.basic import Variable
from pytensor.graph.op import HasInnerGraph
from pytensor.graph.traversal import ancestors

from theanompi.device.linker import mode as device_mode
from theanompi.device.ops.base import TorchOp
from theanompi.device.rewrites import RememberedMode
from theanompi.device.shapes import TAG
from theanompi.device.shared import DeviceSharedVariable


class DefaultMode(Mode):
    """PyTensor's own mode for graphs of PyTensor alone, and the device's for those with something of it.

    A graph has something of the device if it reads or updates a `DeviceSharedVariable`, or holds an op of
    :mod:`theanompi.device.ops`. It runs on the device that is the current one when it is compiled. Tags that a user
    excludes or includes hold for both.
    """

    @property
    def function_maker(self) -> Any:
        """What `pytensor.function` makes a function with: an official hook of PyTensor's modes."""
        return self._make

    def _make(self, inputs: Sequence[Any], outputs: Any, mode: Mode, **settings: Any) -> Any:
        results = outputs if isinstance(outputs, list | tuple) else [] if outputs is None else [outputs]
        read = [getattr(one, "variable", one) for one in [*inputs, *results]]
        updates = [one.update for one in inputs if getattr(one, "update", None) is not None]
        chosen = mode
        if of_device([*read, *updates]):
            chosen = RememberedMode(device_mode().linker, self.provided_optimizer.including(TAG))
        elif self is _default:
            # Not `self`, because PyTensor's settings of linker and rewrites may have changed since.
            chosen = get_mode("Mode")
        return super().function_maker(inputs, outputs, chosen, **settings)


def of_device(variables: Iterable[Variable]) -> bool:
    """Whether a graph needs the device's own linker.

    Parameters
    ----------
    variables : iterable of Variable
        The results of the graph.
    """
    for variable in ancestors(variables):
        op = None if variable.owner is None else variable.owner.op
        if isinstance(variable, DeviceSharedVariable) or isinstance(op, TorchOp):
            return True
        if isinstance(op, HasInnerGraph) and of_device(op.inner_outputs):
            return True
    return False


_default = DefaultMode("numba", "fast_run")


def make_default() -> None:
    """Make this mode PyTensor's default, unless the user has chosen one: by a flag or by ``pytensor.config.mode``."""
    if pytensor.config.mode == "Mode":
        pytensor.config.mode = _default
