"""Which device this process computes on: one process, one device."""

import ctypes
import mmap
import os
import sys

import torch

_current = torch.device("cpu")


_HUGE_PAGES = 3 << 29
"""Bytes of the heap that become huge pages: less than the C library would give back when they are free."""

_HUGE_PAGE = 2 << 20

_MADV_COLLAPSE = 25
"""Of Linux since 6.1; `mmap` has no name for it."""

_small_pages = range(0)
"""Addresses of what `use_huge_pages` has still to make huge pages of."""


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the next step.

    Every step allocates and frees the same tensors. By default large ones go back to the system at once, and
    the page faults of the next allocation cost more than many an operation that fills it.
    """
    global _small_pages
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
            first = -(-heap // _HUGE_PAGE) * _HUGE_PAGE
            _small_pages = range(first, heap + _HUGE_PAGES - _HUGE_PAGE, _HUGE_PAGE)
            libc.free(ctypes.c_void_p(heap))
            if libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(0), _MADV_COLLAPSE) != 0:
                use_huge_pages()  # what is there cannot be moved to them later


def use_huge_pages() -> None:
    """Let what the heap has, and what it will have, be huge pages, where the system gives them to who asks.

    For the end of the first step: each later one is faster for it. The first one is not, as huge pages take longer to
    come by than small ones, where the host of a virtual machine has to give each anew.
    """
    global _small_pages
    pages, _small_pages = _small_pages, range(0)
    if not pages or not _huge_pages_allowed():
        return
    madvise = ctypes.CDLL(None).madvise
    madvise(ctypes.c_void_p(pages.start), ctypes.c_size_t(len(pages) * _HUGE_PAGE), mmap.MADV_HUGEPAGE)
    for page in pages:
        madvise(ctypes.c_void_p(page), ctypes.c_size_t(_HUGE_PAGE), _MADV_COLLAPSE)


def _huge_pages_allowed() -> bool:
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as file:
            return "[never]" not in file.read()
    except OSError:  # a kernel without
        return False


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
