"""C functions where torch has no single call: compiled at their first use, run by the threads of torch.

Without a C compiler there are none, and torch's own calls do the same work in more passes over memory.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytensor
import torch

from theanompi.config import ConfigError

_ADDRESS = ctypes.c_void_p
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-shared", "-fPIC")


@cache
def compile_folder() -> tuple[Path, str]:
    """The folder that keeps compiled code, PyTensor's and ours; if nothing can be written there, another one.

    That one is in the temporary folder and this user's alone: what is in it is run. To be asked for before PyTensor
    compiles anything, which would fail.

    Returns
    -------
    folder : pathlib.Path
    note : str
        One line that says why it is not PyTensor's own, or nothing.

    Raises
    ------
    ConfigError
        If there is no temporary folder either.
    """
    try:
        return Path(pytensor.config.compiledir), ""
    except (ValueError, OSError):
        pass
    try:
        base = Path(tempfile.gettempdir(), f"pytensor-{os.geteuid()}")
        with suppress(FileExistsError):
            base.mkdir(0o700)
        about = base.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
            base = Path(tempfile.mkdtemp(prefix="pytensor-"))
        folder = base / f"python-{platform.python_version()}"
        pytensor.config.compiledir = folder
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"PYTENSOR_FLAGS: expected base_compiledir=FOLDER, for compiled code, as nothing can be written in "
            f"{pytensor.config.base_compiledir} nor in a temporary folder, got: {error}"
        ) from None
    return folder, (
        f"nothing can be written in {pytensor.config.base_compiledir}: compiled code is kept in {base} "
        "(PYTENSOR_FLAGS=base_compiledir=FOLDER names another)"
    )


@cache
def library(source: Path, folder: Path) -> ctypes.CDLL | None:
    """The functions of a C file, if there is a compiler, or was when they were first needed.

    Parameters
    ----------
    source : pathlib.Path
    folder : pathlib.Path
        Where what has been compiled is kept, for each kind of processor by itself.

    Returns
    -------
    ctypes.CDLL or None
    """
    try:
        flags = [
            line
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("flags")
        ]
        key = "\n".join([source.read_text(encoding="utf-8"), *FLAGS, platform.machine(), *flags[:1]])
        target = folder / f"{source.stem}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        if not target.exists():
            compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
            if compiler is None:
                return None
            # Several ranks may do this at once: what one of them moves into place is complete.
            with tempfile.TemporaryDirectory(dir=folder) as workshop:
                built = Path(workshop, target.name)
                subprocess.run(
                    [compiler, *FLAGS, "-o", built, source, "-lm"], check=True, capture_output=True
                )
                built.replace(target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.CalledProcessError):
        return None


class OpenMP(ctypes.Structure):
    """Three functions of the OpenMP that torch itself uses, where that has GCC's interface, or nulls.

    Threads beside torch's would be no use: OpenMP's wait for their next region at full speed for a while, so
    that each pool would take the cores from the other.
    """

    _fields_ = [("parallel", _ADDRESS), ("number", _ADDRESS), ("count", _ADDRESS)]


@cache
def openmp() -> OpenMP:
    """GOMP_parallel, omp_get_thread_num and omp_get_num_threads."""
    try:
        torch_library = ctypes.CDLL(torch._C.__file__)
        functions = (
            torch_library.GOMP_parallel,
            torch_library.omp_get_thread_num,
            torch_library.omp_get_num_threads,
        )
    except (AttributeError, OSError):
        return OpenMP()
    return OpenMP(*(ctypes.cast(function, _ADDRESS) for function in functions))
