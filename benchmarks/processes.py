"""CPU time and memory of a process and of those that it started, as Linux counts them."""

import os
from pathlib import Path


def _stat() -> dict[int, list[str]]:
    """The fields of proc_pid_stat(5) from the state on, by process."""
    fields = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                # The name, in parentheses, may itself hold spaces and parentheses.
                fields[int(folder.name)] = (
                    Path(folder, "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                )
            except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                continue
    return fields


def _family(stat: dict[int, list[str]]) -> list[int]:
    family = [os.getpid()]
    for member in family:
        family += [pid for pid, fields in stat.items() if int(fields[1]) == member]
    return family


def cpu_ticks() -> int:
    """CPU time of this process and of its descendants that are alive, in clock ticks."""
    stat = _stat()
    return sum(int(stat[pid][11]) + int(stat[pid][12]) for pid in _family(stat))


def resident_mib() -> list[float]:
    """Resident memory in MiB: of this process, then of each descendant."""
    sizes = []
    for pid in _family(_stat()):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        sizes += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")]
    return sizes
