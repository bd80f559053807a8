"""PyTensor on a device: a mode that compiles graphs to torch, shared variables on the device, and ops.

>>> import numpy as np, pytensor, pytensor.tensor as pt
>>> from theanompi import device
>>> w = device.shared(np.ones(3, "float32"), name="w")
>>> step = pytensor.function([], (w**2).sum(), updates=[(w, 0.5 * w)])
>>> float(step()), float(step())
(3.0, 0.75)

Importing this package makes its mode the default of PyTensor for graphs with something of the device (all others
compile as before), unless ``pytensor.config.mode`` has been set to another. `mode` is for settings of its own.
"""

from theanompi.device import ops
from theanompi.device.buffers import FlatBuffer
from theanompi.device.default import make_default
from theanompi.device.linker import direct, mode
from theanompi.device.native import compile_folder
from theanompi.device.pinned import Pinned
from theanompi.device.placement import current, use, use_huge_pages
from theanompi.device.shared import DeviceSharedVariable, shared

__all__ = [
    "DeviceSharedVariable",
    "FlatBuffer",
    "Pinned",
    "compile_folder",
    "current",
    "direct",
    "mode",
    "ops",
    "shared",
    "use",
    "use_huge_pages",
]

make_default()
