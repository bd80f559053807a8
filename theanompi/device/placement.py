"""Which device this process computes on: one process, one device."""

import ctypes
import mmap
import os
import sys

import torch

_current = torch.device("cpu")


_HUGE_PAGES = 3 << 29
"""Bytes of the heap that are asked for in huge pages: less than the C library would give back when they are free."""


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the next step, in huge pages.

    Every step allocates and frees the same tensors. By default large ones go back to the system at once, and
    the page faults of the next allocation cost more than many an operation that fills it.
    """
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h; glibc's, musl ignores them
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 64 << 20)
        # Addresses only: memory is taken when it is written to.
        libc.malloc.restype = ctypes.c_void_p
        if heap := libc.malloc(ctypes.c_size_t(_HUGE_PAGES)):
            first = -(-heap // mmap.PAGESIZE) * mmap.PAGESIZE
            size = ctypes.c_size_t(_HUGE_PAGES - mmap.PAGESIZE)
            libc.madvise(ctypes.c_void_p(first), size, mmap.MADV_HUGEPAGE)
            libc.free(ctypes.c_void_p(heap))


def _choose_algorithms(deterministic: bool) -> None:
    """Say how CUDA's libraries choose: by timing all, which may end differently each time, or for equal bits."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.deterministic = deterministic
    # What has no deterministic algorithm says so in a warning.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    if deterministic:
        # Else new memory is filled, for who reads what nobody wrote.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def parse(name: str) -> torch.device:
    """The device called `name`, if this machine has it.

    Parameters
    ----------
    name : str
        ``"cpu"`` or ``"cuda:N"``.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the name is neither, or names a CUDA device that this machine does not have.
    """
    kind, _, index = name.partition(":")
    if name == "cpu":
        return torch.device(name)
    if kind == "cuda" and index.isdigit():
        count = torch.cuda.device_count()
        if int(index) >= count:
            raise ValueError(
                f"device {name!r}: expected one of the {count} CUDA devices that torch sees here"
            )
        return torch.device(name)
    raise ValueError(f"device: expected 'cpu' or 'cuda:N', got {name!r}")


def use(name: str, *, deterministic: bool = False) -> torch.device:
    """Make `name` the device on which shared variables are created and functions run from now on.

    Parameters
    ----------
    name : str
        ``"cpu"`` or ``"cuda:N"``.
    deterministic : bool
        On a CUDA device, the same bits in every run. By default cuDNN times its algorithms for each shape of a
        convolution and takes the fastest, which may be another one next time. The CPU gives equal bits anyway.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        As :func:`parse`.
    """
    global _current
    _current = parse(name)
    if _current.type == "cuda":
        torch.cuda.set_device(_current)
        _choose_algorithms(deterministic)
    else:
        _keep_freed_memory()
    return _current


def current() -> torch.device:
    """The device chosen by :func:`use`; the CPU if none was."""
    return _current
