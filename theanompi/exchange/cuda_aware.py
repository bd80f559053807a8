"""Does the MPI library take pointers to CUDA memory? Ask it.

Open MPI and Intel MPI answer ``MPIX_Query_cuda_support``, MPICH ``MPIX_GPU_query_support``; others may have
neither.
"""

import ctypes
from typing import Any

from mpi4py import MPI

_MPIX_GPU_SUPPORT_CUDA = 0


def query(library: Any = None) -> tuple[bool, str]:
    """Ask the MPI library that mpi4py runs on whether it is CUDA-aware.

    Parameters
    ----------
    library : ctypes.CDLL, optional
        By default mpi4py's own extension module, through which the symbols of its library are found.

    Returns
    -------
    aware : bool
        What the library claims; nothing is tried out.
    reason : str
        Which answer that was, for the log.

    Examples
    --------
    >>> class WithoutExtensions:
    ...     pass
    >>> query(WithoutExtensions())
    (False, 'MPI is not CUDA-aware as far as it can be asked')
    """
    if library is None:
        library = ctypes.CDLL(MPI.__file__)
    asked = []
    if hasattr(library, "MPIX_Query_cuda_support"):
        if library.MPIX_Query_cuda_support() == 1:
            return True, "MPI is CUDA-aware by MPIX_Query_cuda_support"
        asked.append("MPIX_Query_cuda_support")
    if hasattr(library, "MPIX_GPU_query_support"):
        answer = ctypes.c_int(0)
        status = library.MPIX_GPU_query_support(_MPIX_GPU_SUPPORT_CUDA, ctypes.byref(answer))
        if status == MPI.SUCCESS and answer.value == 1:
            return True, "MPI is CUDA-aware by MPIX_GPU_query_support"
        asked.append("MPIX_GPU_query_support")
    how = f"by {' and '.join(asked)}" if asked else "as far as it can be asked"
    return False, f"MPI is not CUDA-aware {how}"
