"""What differs between the MPI libraries: how to tell them apart, and the names of the settings that a run needs.

Each of them reads its settings from the environment when MPI starts, and not later.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from theanompi.config import ConfigError

NAMES = {"mpich": "MPICH", "openmpi": "Open MPI", "intel": "Intel MPI"}

_OPEN_MPI = "OMPI_MCA_coll_tuned_allreduce_algorithm"
_MPICH = "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM"
_INTEL = "I_MPI_ADJUST_ALLREDUCE"
# By the names of `theanompi.config.ALGORITHMS`.
_ALGORITHMS = {
    "openmpi": {
        "recursive_doubling": "3",
        "ring": "4",
        "segmented_ring": "5",
        "reduce_scatter_allgather": "6",
    },
    "mpich": {
        "recursive_doubling": "recursive_doubling",
        "ring": "ring",
        "reduce_scatter_allgather": "reduce_scatter_allgather",
        "tree": "tree",
    },
    "intel": {"recursive_doubling": "1", "reduce_scatter_allgather": "2", "ring": "8", "tree": "9"},
}
_PARAMETER = {"openmpi": _OPEN_MPI, "mpich": _MPICH, "intel": _INTEL}
# What makes a library heed that parameter: by default Open MPI's `han`, and MPICH between hosts, first sum inside
# each host and ask for an algorithm among one rank per host only.
_TO_HEED_IT = {
    "openmpi": {"OMPI_MCA_coll_tuned_use_dynamic_rules": "1", "OMPI_MCA_coll_tuned_priority": "100"},
    "mpich": {"MPIR_CVAR_ALLREDUCE_DEVICE_COLLECTIVE": "0"},
    "intel": {},
}


def flavour(version: str) -> str:
    """Tell which family an mpirun or an MPI library belongs to from what it says of its version.

    Parameters
    ----------
    version
        What ``mpirun --version`` or ``MPI_Get_library_version`` gives.

    Returns
    -------
    str
        ``"mpich"``, ``"openmpi"`` or ``"intel"``.

    Raises
    ------
    ConfigError
        When it is none of them.

    Examples
    --------
    >>> flavour("mpirun (Open MPI) 5.0.11")
    'openmpi'
    """
    for words, name in (
        ("Open MPI", "openmpi"),
        ("Intel(R) MPI", "intel"),
        ("HYDRA", "mpich"),
        ("MPICH", "mpich"),
    ):
        if words in version:
            return name
    got = version.strip().splitlines()[0] if version.strip() else "nothing"
    raise ConfigError(f"mpirun --version: expected MPICH, Open MPI or Intel MPI, got {got!r}")


def algorithm_settings(kind: str, name: str | None) -> dict[str, str]:
    """Return the environment variables that make a library's ``Allreduce`` use an algorithm.

    Parameters
    ----------
    kind
        A `flavour`.
    name
        One of `theanompi.config.ALGORITHMS`; None leaves the choice to the library.

    Raises
    ------
    ConfigError
        When this library does not have it.

    Examples
    --------
    >>> algorithm_settings("intel", "ring")
    {'I_MPI_ADJUST_ALLREDUCE': '8'}
    """
    if name is None:
        return {}
    known = _ALGORITHMS[kind]
    if name not in known:
        raise ConfigError(
            f"allreduce_algorithm: expected one of {', '.join(known)}, which {NAMES[kind]} has, got {name!r}"
        )
    return {_PARAMETER[kind]: known[name], **_TO_HEED_IT[kind]}


def set_algorithm(name: str | None) -> None:
    """Put the settings of an algorithm into this process's environment, for whichever library it will load.

    Nothing where MPI has started already and would not heed them: `check_algorithm` says so.
    """
    if "mpi4py.MPI" in sys.modules:
        return
    for kind, known in _ALGORITHMS.items():
        if name in known:
            os.environ.update(algorithm_settings(kind, name))


def check_algorithm(version: str, name: str | None, environ: Mapping[str, str] = os.environ) -> None:
    """See to it that the library that was loaded has an algorithm and was told to use it.

    Parameters
    ----------
    version
        What ``MPI_Get_library_version`` gives.
    name
        One of `theanompi.config.ALGORITHMS`, or None, which is always right.
    environ
        The environment in which MPI was started.

    Raises
    ------
    ConfigError
        When the library does not have it, or was not told: the message says how to.

    Examples
    --------
    >>> check_algorithm("Intel(R) MPI Library 2021.18", "ring", {"I_MPI_ADJUST_ALLREDUCE": "8"})
    >>> check_algorithm("Intel(R) MPI Library 2021.18", "ring", {})
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: allreduce_algorithm: expected I_MPI_ADJUST_ALLREDUCE=8 in the environment \
before MPI started, as tmlauncher sets it, got none
    """
    if name is None:
        return
    for variable, value in algorithm_settings(flavour(version), name).items():
        if environ.get(variable) != value:
            raise ConfigError(
                f"allreduce_algorithm: expected {variable}={value} in the environment before MPI started, as "
                f"tmlauncher sets it, got {environ.get(variable) or 'none'}"
            )


def launch_settings(kind: str, devices: tuple[str, ...], several_hosts: bool) -> dict[str, str]:
    """Return the environment variables that a library needs for these devices; a user's own go before them.

    Parameters
    ----------
    kind
        A `flavour`.
    devices
        The devices of all ranks.
    several_hosts
        Whether ranks run on several machines.

    Examples
    --------
    >>> launch_settings("intel", ("cpu", "cpu"), several_hosts=False)
    {'I_MPI_FABRICS': 'shm'}
    """
    cuda = any("cuda" in name for name in devices)
    settings: dict[str, str] = {}
    if kind == "intel":
        if cuda and (several_hosts or _has_driver()):
            settings |= {"I_MPI_OFFLOAD": "1", "I_MPI_OFFLOAD_MODE": "cuda"} | _intel_root()
        if not several_hosts:
            settings["I_MPI_FABRICS"] = "shm"
    elif kind == "mpich" and several_hosts and not cuda:
        # A thread that waits for the network sleeps a moment instead of asking again at once, and leaves its core
        # to the threads that compute. Inside a host alone that would cost more than it gives.
        settings["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"
    elif kind == "openmpi" and not several_hosts:
        # Whose windows are in shared memory then. Without a network for it, UCX says twice a window that it has none.
        settings["OMPI_MCA_osc"] = "^ucx"
    return settings


def _has_driver() -> bool:
    """Whether NVIDIA's driver is here: without it Intel MPI would end ranks that shall send device memory, unheard."""
    try:
        ctypes.CDLL(os.environ.get("I_MPI_OFFLOAD_CUDA_LIBRARY", "libcuda.so"))
    except OSError:
        return False
    return True


def _intel_root() -> dict[str, str]:
    """Where Intel MPI finds its GPU kernels, if they are its wheel's: oneAPI's scripts say it, the wheel does not."""
    wheel = Path(sys.prefix, "opt", "mpi", "etc", "coll.fatbin").exists()
    return {"I_MPI_ROOT": sys.prefix} if wheel else {}


def prepare_rank(devices: tuple[str, ...]) -> None:
    """Put what `launch_settings` has into the environment of a rank of the user's own mpirun, where it can be known.

    That is Intel MPI's root, what MPICH needs on several hosts, and Open MPI on one: of the launchers only their own
    tell before MPI starts how many of the ranks are on this one.

    Parameters
    ----------
    devices
        Of this machine.
    """
    for name, value in _intel_root().items():
        os.environ.setdefault(name, value)
    for kind, local, size in (
        ("mpich", "MPI_LOCALNRANKS", "PMI_SIZE"),
        ("openmpi", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"),
    ):
        here, everywhere = os.environ.get(local), os.environ.get(size)
        if here and everywhere:
            for name, value in launch_settings(kind, devices, int(here) < int(everywhere)).items():
                os.environ.setdefault(name, value)
