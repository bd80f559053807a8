"""Host memory that a CUDA device can read by itself."""

import warnings

import numpy as np
import torch

from theanompi.device.placement import current


class Pinned:
    """Locks memory into place for as long as it is needed, so that a CUDA device can read it by itself.

    Parameters
    ----------
    memory : uint8 (bytes,)
        Nothing is done where the current device is the CPU.
    """

    def __init__(self, memory: np.ndarray) -> None:
        self._address = 0
        if current().type != "cuda":
            return
        status = int(torch.cuda.cudart().cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
        if status:
            warnings.warn(
                f"pinned memory: expected {memory.nbytes >> 20} MiB that can be locked (ulimit -l), got CUDA error "
                f"{status}: copies to the device will be slower",
                stacklevel=2,
            )
            return
        self._address = memory.ctypes.data

    def release(self) -> None:
        """Unlock the memory; before it is unmapped, and after the last copy from it. A second call does nothing."""
        if self._address:
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaHostUnregister(self._address)
            self._address = 0
