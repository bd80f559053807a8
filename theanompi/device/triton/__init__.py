"""Kernels for CUDA devices in Triton: what `ops/rows.c` is to the CPU.

Triton comes with torch's builds for CUDA. Where it is missing torch's own calls do the same work in more passes over
memory. The modules here import it, so they are imported only when it is there: by `available`.
"""

from functools import cache
from importlib.util import find_spec

import torch

LEAST = (3, 6)
"""The oldest version of Triton that the kernels were compiled with."""

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""Of all launches. Without fused multiplications and additions two kernels that compute the same thing get the same
bits: a rectifier's mask that is computed again is that of the first time. The kernels wait for memory anyway."""


@cache
def problem() -> str:
    """Why the kernels cannot be used, in a few words, or nothing."""
    if find_spec("triton") is None:
        return "not installed"
    # Whatever is wrong with it must not end a run that torch's calls can do.
    try:
        import triton

        if tuple(map(int, triton.__version__.split(".")[:2])) < LEAST:
            return f"version {triton.__version__} is older than {'.'.join(map(str, LEAST))}"
        if torch.cuda.is_available():
            # Compiles what starts kernels, for which it needs a C compiler and Python's headers.
            triton.runtime.driver.active.get_current_target()
    except Exception as error:
        return f"does not start ({type(error).__name__})"
    return ""


def available() -> bool:
    """Whether there are kernels to run: Triton is installed, and new enough."""
    return not problem()


def computes(x: torch.Tensor) -> bool:
    """Whether a tensor is of a device that the kernels run on."""
    return not x.is_cpu
