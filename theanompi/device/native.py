"""C functions where torch has no single call: compiled at their first use, run by the threads of torch.

Without a C compiler there are none, and torch's own calls do the same work in more passes over memory.
"""

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytensor
import torch

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-shared", "-fPIC")


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The functions of a C file, if there is a compiler, or was when they were first needed.

    What has been compiled is kept in PyTensor's directory for such things, for each processor by itself.

    Parameters
    ----------
    source : pathlib.Path

    Returns
    -------
    ctypes.CDLL or None

    Examples
    --------
    >>> library(Path("/no/such.c")) is None
    True
    """
    try:
        processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")]
        key = "\n".join([source.read_text(), *FLAGS, platform.machine(), *processor[:1]])
        target = Path(pytensor.config.compiledir, f"{source.stem}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.so")
        if not target.exists():
            compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
            if compiler is None:
                return None
            # Several ranks may do this at once: what one of them moves into place is complete.
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                built = Path(folder, target.name)
                subprocess.run([compiler, *FLAGS, "-o", built, source, "-lm"], check=True, capture_output=True)
                built.replace(target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.CalledProcessError):
        return None


class OpenMP(ctypes.Structure):
    """Three functions of the OpenMP that torch itself uses, where that has GCC's interface, or nulls.

    Threads beside torch's would be no use: OpenMP's wait for their next region at full speed for a while, so
    that each pool would take the cores from the other.
    """

    _fields_ = [(name, ctypes.c_void_p) for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")]


@cache
def openmp() -> OpenMP:
    """The functions.

    Examples
    --------
    >>> openmp() is openmp()
    True
    """
    try:
        torch_library = ctypes.CDLL(torch._C.__file__)
        functions = [getattr(torch_library, name) for name, _ in OpenMP._fields_]
    except (AttributeError, OSError):
        return OpenMP()
    return OpenMP(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
