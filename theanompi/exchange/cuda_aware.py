"""Does the MPI library take pointers to CUDA memory? Ask it, then have it prove it.

Open MPI and Intel MPI answer ``MPIX_Query_cuda_support``, MPICH ``MPIX_GPU_query_support``; others may have
neither. A library that says yes may still crash, hang, sum wrong or stage through host memory by itself, more
slowly than we do. So it is tried, in a job of its own under a time-out.
"""

import ctypes
import json
import platform
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mpi4py import MPI

from theanompi.config import ConfigError
from theanompi.launch.mpirun import run_ranks

_MPIX_GPU_SUPPORT_CUDA = 0
PROBE = "theanompi.exchange.probe"
GRADIENTS = 25_557_032
"""Values in the gradients of ResNet-50 for ImageNet."""
TIMEOUT = 60.0
"""Seconds that the proof may take; it needs fewer than ten, most of them to import torch."""


class Proof(NamedTuple):
    """What became of a library's claim to be CUDA-aware.

    Attributes
    ----------
    claimed : bool
        What the library says; without that nothing was tried.
    right : bool
        Whether every value of every sum of device memory was right.
    direct_s, staged_s : float or None
        Seconds of one sum, of device memory and through pinned host memory; None when it never ended.
    reason : str
        One line for the log.
    """

    claimed: bool
    right: bool
    direct_s: float | None
    staged_s: float | None
    reason: str

    @property
    def use_direct(self) -> bool:
        """Whether MPI shall be given device memory: the sums were right, and faster than staged ones."""
        return self.right and bool(self.direct_s and self.staged_s and self.direct_s < self.staged_s)


class Decision(NamedTuple):
    """Whether MPI is given device memory as it is (`direct`) or staged, and why."""

    direct: bool
    reason: str


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


def prove(
    devices: Sequence[str], *, values: int = GRADIENTS, timeout: float = TIMEOUT, module: str = PROBE
) -> Proof:
    """Sum device memory in a job of its own on this machine, compare the values, and time it against staging.

    Parameters
    ----------
    devices : sequence of str
        One per rank. A single one is given to two ranks: MPI sums nothing over one.
    values : int
        float32 values in a sum.
    timeout : float
        Seconds for the whole job.
    module : str
        The program of the ranks.

    Returns
    -------
    Proof
        Whatever happens in the job or to it; `claimed` is what the library says in the job.
    """
    devices = devices if len(devices) > 1 else [*devices] * 2
    task = json.dumps({"devices": [*devices], "paths": ["staged", "direct"], "sizes": [values]})
    program = ["-P", "-X", "faulthandler", "-m", "mpi4py", "-m", module, task]
    try:
        outcome = run_ranks(len(devices), program, timeout, devices)
    except ConfigError as error:
        return Proof(False, False, None, None, f"not proven: {error}")
    sums = [item for item in outcome.facts if "path" in item]
    facts = next((item for item in outcome.facts if "size" in item), {})
    claimed, size = facts.get("claimed", False), facts.get("size")
    seconds = {item["path"]: item["seconds"] for item in sums}
    direct_s, staged_s = seconds.get("direct"), seconds.get("staged")
    on = f"{len(devices)} ranks on {', '.join(dict.fromkeys(devices))}"
    if outcome.status != 0:
        reason = f"not proven: {on}: the job {outcome.how(timeout)}"
        return Proof(claimed, False, direct_s, staged_s, reason)
    if size != len(devices) or direct_s is None or staged_s is None:
        reason = f"not proven: {on}: expected one job of {len(devices)} ranks, got {size}: this mpirun is another MPI's"
        return Proof(claimed, False, direct_s, staged_s, reason)
    times = f"{direct_s * 1e3:.1f} ms against {staged_s * 1e3:.1f} ms staged, {on}, {4e-6 * values:.0f} MB"
    wrong = [item["path"] for item in sums if not item["right"]]
    if wrong:
        return Proof(claimed, False, direct_s, staged_s, f"wrong sums ({' and '.join(wrong)}), {times}")
    verdict = "faster" if direct_s < staged_s else "not faster"
    return Proof(claimed, True, direct_s, staged_s, f"right sums, {verdict}: {times}")


_decision: Decision | None = None


def decide(comm: MPI.Comm, device: torch.device) -> Decision:
    """Decide for all ranks whether MPI is given device memory; a collective call.

    On every machine one rank asks the library there and, if it claims to be CUDA-aware, has it proven on the
    devices of that machine's ranks. Staging on one machine is staging on all. The first answer holds for the
    life of this process. What is proven is the way inside each machine, not that between them.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        All ranks of the job.
    device : torch.device
        This rank's.

    Returns
    -------
    Decision
        The same on every rank.
    """
    global _decision
    if "cpu" in comm.allgather(device.type):
        return Decision(False, "host memory" if device.type == "cpu" else "some ranks compute on the CPU")
    if comm.Get_size() == 1:
        return Decision(False, "one rank has nothing to exchange")
    if _decision is None:
        _decision = _decide(comm, device)
    return _decision


def _decide(comm: MPI.Comm, device: torch.device) -> Decision:
    machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
    gpus = machine.gather((str(device), _identity(str(device))))
    proof = _prove_on(gpus) if gpus else None
    machine.Free()
    # Without spinning, as MPI does while it waits: the ranks of the proof need the cores.
    barrier = comm.Ibarrier()
    while not barrier.Test():
        time.sleep(0.01)
    named = comm.allgather(proof and (platform.node(), proof))
    proofs = [item for item in named if item]
    failed = [item for item in proofs if not item[1].use_direct]
    node, first = (failed or proofs)[0]
    where = f" on {node}" if len(proofs) > 1 else ""
    if failed:
        return Decision(False, f"{first.reason}{where}")
    return Decision(True, f"{first.reason}{where}" + (f", and so on {len(proofs)} machines" if where else ""))


def _identity(device: str) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def _prove_on(gpus: Sequence[tuple[str, str]]) -> Proof:
    """Ask, and prove on these devices of this machine; each has the UUID that its own rank sees."""
    claimed, reason = query()
    if not claimed:
        return Proof(False, False, None, None, reason)
    seen = torch.cuda.device_count()
    for device, identity in gpus:
        if int(device.removeprefix("cuda:")) >= seen or _identity(device) != identity:
            reason = f"not proven: {device} is not the same GPU to all ranks of {platform.node()}; let each see all"
            return Proof(True, False, None, None, reason)
    return prove([device for device, _ in gpus])
