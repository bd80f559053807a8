"""What this process's control groups leave it of the machine: a container's limits of CPU time and memory.

They show nowhere else: a container with the time of one core still sees all of them, and threads beyond that time
hold each other up.
"""

import os
import resource
from collections.abc import Collection
from pathlib import Path


def limits(root: Path = Path("/")) -> dict[str, float]:
    """Return what the control groups (version 1 or 2) allow: ``cores`` of CPU time and ``memory`` in bytes.

    What is not limited is left out.

    Parameters
    ----------
    root
        The folder with ``proc`` and ``sys``.
    """
    found: dict[str, float] = {}

    def numbers(file: Path) -> list[float]:
        try:
            return [float(word) for word in file.read_text(encoding="utf-8").split()]
        except (OSError, ValueError):  # not there, or "max"
            return []

    try:
        groups = os.fsdecode((root / "proc/self/cgroup").read_bytes())
    except OSError:  # a kernel without them
        return {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        top = root / "sys/fs/cgroup" / controllers
        own = top / path.strip("/")
        for folder in [own, *own.parents]:
            if not folder.is_relative_to(top):
                break
            cpu = numbers(folder / "cpu.max") or [
                *numbers(folder / "cpu.cfs_quota_us"),
                *numbers(folder / "cpu.cfs_period_us"),
            ]
            if len(cpu) == 2 and min(cpu) > 0:
                found["cores"] = min(found.get("cores", cpu[0] / cpu[1]), cpu[0] / cpu[1])
            memory = numbers(folder / "memory.max") or numbers(folder / "memory.limit_in_bytes")
            # Version 1 says "no limit" by a number near 2^63.
            if memory and memory[0] < min(2**60, found.get("memory", 2**60)):
                used = numbers(folder / "memory.current") or numbers(folder / "memory.usage_in_bytes")
                found |= {"memory": memory[0], "memory_used": used[0] if used else 0.0}
    return found


def cores(affinity: Collection[int] | None = None, root: Path = Path("/")) -> int:
    """Count the cores that this process can keep busy: as many as it may run on, and has the CPU time of.

    Of a limit that is no whole number, the whole cores count: threads that run at the same pace wait for the one
    that is held up.

    Parameters
    ----------
    affinity
        The cores that may be run on, by default by this process.
    root
        As in `limits`.

    Returns
    -------
    int
        At least 1.
    """
    n = len(os.sched_getaffinity(0) if affinity is None else affinity)
    return max(1, int(min(n, limits(root).get("cores", n))))


def free_memory(root: Path = Path("/")) -> int:
    """Count the bytes that this process may take: of the machine, its control groups and its own limit (ulimit -v).

    Parameters
    ----------
    root
        As in `limits`.
    """
    lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    (available,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    # What a group has used counts files that are kept in memory, which go when there is need.
    free = min(available, limits(root).get("memory", available))
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        pages = int((root / "proc/self/statm").read_text(encoding="ascii").split()[0])
        free = min(free, most - pages * resource.getpagesize())
    return max(int(free), 0)
