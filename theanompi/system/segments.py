"""The files in /dev/shm through which MPI's ranks share memory, and those that jobs which crashed have left there."""

import os
import re
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
# MPICH, Open MPI (two generations), UCX, Intel MPI, PSM and NCCL.
_NAMES = re.compile(r"(mpich_shm_|sm_segment\.|vader_segment\.|ucx_shm_posix_|Intel_MPI_|psm2_shm|nccl-)")
_MPICH = re.compile("mpich_shm_")
# Of MPICH and Open MPI 5, which let all of a segment's users open it before any of them goes on. Open MPI leaves it to
# mpirun to remove the name, and where there is none nobody does. Open MPI 4 complains at its end if it is gone.
_OPENED_AT_ONCE = re.compile(r"mpich_shm_|sm_segment\.")
# A segment is in no process's memory for the moment between its making and its mapping.
_MAKING_SECONDS = 1.0


def left_behind(folder: Path = SHARED_MEMORY, *, of: re.Pattern[str] = _NAMES) -> dict[str, int]:
    """Return name and bytes of this user's MPI segments that no process uses any more: what crashed jobs leave.

    Parameters
    ----------
    folder : Path
    of : re.Pattern
        With what their names begin.
    """
    found = {}
    for file in sorted(folder.iterdir()):
        if of.match(file.name):
            try:
                about = file.stat()
            except FileNotFoundError:
                continue
            if about.st_uid == os.geteuid() and time.time() - about.st_mtime > _MAKING_SECONDS:
                found[file.name] = about.st_size
    if found:
        for maps in Path("/proc").glob("[0-9]*/maps"):
            try:
                used = maps.read_text(encoding="utf-8", errors="surrogateescape")
            except OSError:  # it has ended, or is another user's
                continue
            found = {name: size for name, size in found.items() if f"{folder}/{name}\n" not in used}
    return found


def opened_at_once(folder: Path = SHARED_MEMORY) -> set[Path]:
    """Return the segments in the memory of this process whose names nobody needs once all users have opened them."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    files = re.findall(rf"{re.escape(str(folder))}/(\S+)$", maps, re.MULTILINE)
    return {folder / name for name in files if _OPENED_AT_ONCE.match(name)}


def forget_alone() -> None:
    """Remove the names of the shared memory of a process that is the only one of its job."""
    for segment in opened_at_once():
        segment.unlink(missing_ok=True)


def remove_left_behind(folder: Path = SHARED_MEMORY) -> None:
    """Remove MPICH's segments that a job has left which was killed while MPI started."""
    if folder.is_dir():
        for name in left_behind(folder, of=_MPICH):
            (folder / name).unlink(missing_ok=True)
