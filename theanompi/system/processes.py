"""What Linux says of processes in /proc."""

import fcntl
import os
import platform
import struct
from pathlib import Path
from signal import Signals
from typing import NamedTuple

LAUNCHERS = {
    *("mpirun", "mpiexec", "mpiexec.hydra", "hydra_pmi_proxy", "hydra_bstrap_pr", "prterun", "prted"),
    *("orterun", "orterun_wrapper", "orted", "srun", "slurmstepd", "tmlauncher"),
}
"""Processes that start ranks, by the first 15 characters of their names, which Linux keeps."""
LAUNCHER = "THEANOMPI_LAUNCHER"
"""The variable that says a launcher listens to its ranks: its host and process."""


class Process(NamedTuple):
    """A process; `started` tells it from a later one of the same number."""

    name: str
    pid: int
    parent: int
    started: int
    stopped: bool

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


def launcher_name(pid: int | None = None) -> str:
    """Return what `LAUNCHER` holds where a process of this host, by default this one, is the launcher.

    >>> launcher_name().endswith(f":{os.getpid()}")
    True
    """
    return f"{platform.node()}:{os.getpid() if pid is None else pid}"


def look_up(pid: int) -> Process | None:
    """Return what is known of a living process, or None.

    >>> look_up(os.getpid()).parent == os.getppid()
    True
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    state, parent, *rest = text[text.rindex(")") + 2 :].split()
    return None if state in "ZX" else Process(name, pid, int(parent), int(rest[17]), state in "Tt")


def signal_name(number: int) -> str:
    """Name a signal.

    >>> signal_name(9), signal_name(99)
    ('SIGKILL', 'signal 99')
    """
    return Signals(number).name if number in {item.value for item in Signals} else f"signal {number}"


# The ioctl of a pidfd that fills in a struct of 64 bytes, of which the first word says what is asked for and was got.
_GET_INFO, _EXIT, _SIZE = 0xC040FF0B, 8, 64


def exit_status(pidfd: int) -> int | None:
    """Return how a process has ended that need not be a child, as `subprocess.Popen.returncode` has it.

    None before its parent has waited for it, and where Linux, which is older than 6.15, does not tell.
    """
    info = bytearray(struct.pack("=Q", _EXIT).ljust(_SIZE, b"\0"))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, info)
    except OSError:
        return None
    (got,) = struct.unpack_from("=Q", info)
    return os.waitstatus_to_exitcode(struct.unpack_from("=i", info, _SIZE - 4)[0]) if got & _EXIT else None


def children(pid: int) -> list[int] | None:
    """Return the numbers of a process's children, or None where the kernel does not tell."""
    lists = list(Path(f"/proc/{pid}/task").glob("*/children"))
    try:
        return [int(child) for path in lists for child in path.read_text("ascii").split()] if lists else None
    except OSError:
        return None


def has_variable(pid: int, text: bytes) -> bool:
    """Return whether a process is there whose environment has ``NAME=value``."""
    try:
        return text in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def launchers() -> list[Process]:
    """Return the processes between this one and the first that started the job here, that one included.

    Nothing where no launcher of ranks is among this process's ancestors: then nobody has to be outlived.

    >>> isinstance(launchers(), list)
    True
    """
    chain: list[Process] = []
    last, pid = 0, os.getppid()
    while pid > 1 and (found := look_up(pid)):
        chain.append(found)
        if found.name in LAUNCHERS or os.environ.get(LAUNCHER) == launcher_name(pid):
            last = len(chain)
        pid = found.parent
    return chain[:last]
