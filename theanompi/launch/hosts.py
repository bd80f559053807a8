"""Where ranks may run, as a hostfile or Slurm says it: one rank per slot, its device chosen by its local rank."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from theanompi.config import HOST, MOST_RANKS, ConfigError, got
from theanompi.config.files import read_text

# No number with more digits than can be a count: Python refuses to read thousands of them.
_COUNT = r"\d{1,9}"
_LINE = re.compile(
    rf"(?P<host>{HOST})(?::(?P<colon>{_COUNT})|(?:\s+slots\s*=\s*(?P<slots>{_COUNT}))?(?:\s+max[_-]slots\s*=\s*\d+)?)"
)
_RANGE = rf"{_COUNT}(?:-{_COUNT})?"
_NAME = rf"(?:[\w.@-]|\[{_RANGE}(?:,{_RANGE})*\])+"
_NODES = re.compile(rf"{_NAME}(?:,{_NAME})*")
_SLURM_COUNT = re.compile(rf"({_COUNT})(?:\(x({_COUNT})\))?")


def read_hostfile(path: str | Path, device: str = "auto") -> tuple[str, ...]:
    r"""Read a hostfile as the MPI libraries know it.

    Parameters
    ----------
    path
        One host a line: ``node0`` (one slot), ``node0:2`` or ``node0 slots=2``; a host named again has that many
        slots more. A ``#`` begins a comment.
    device
        What each slot is: ``"auto"``, ``"cuda"`` (the GPU of the local rank) or ``"cpu"``.

    Returns
    -------
    tuple of str
        One name per rank, as `theanompi.config.parse_devices` gives them.

    Raises
    ------
    ConfigError
        With file and line, for a line that is none of these; for no host at all; for a file that cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
    ...     _ = file.write("# two machines\nnode0 slots=2\nnode1\n")
    ...     file.flush()
    ...     read_hostfile(file.name)
    ('node0:auto', 'node0:auto', 'node1:auto')
    """
    slots: dict[str, int] = {}
    for number, line in enumerate(read_text(path, "hostfile").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        count = int(match["colon"] or match["slots"] or 1) if match else 0
        if match is None or count < 1:
            raise ConfigError(
                f"{path}, line {number}: expected a host and its slots, such as node0, node0:2 or "
                f"node0 slots=2, got {got(text)}"
            )
        slots[match["host"]] = slots.get(match["host"], 0) + count
        if sum(slots.values()) > MOST_RANKS:
            raise ConfigError(
                f"{path}, line {number}: expected at most {MOST_RANKS} slots up to here, got more"
            )
    if not slots:
        raise ConfigError(f"{path}: expected at least one host, got none")
    return tuple(f"{host}:{device}" for host, count in slots.items() for _ in range(count))


def slurm_devices(environ: Mapping[str, str] = os.environ, device: str = "auto") -> tuple[str, ...] | None:
    """Return the slots of the Slurm allocation that this process is in.

    Parameters
    ----------
    environ
        With Slurm's ``SLURM_JOB_NODELIST`` and ``SLURM_TASKS_PER_NODE``.
    device
        As in `read_hostfile`.

    Returns
    -------
    tuple of str or None
        None outside an allocation. A single node that this process runs on needs no host name.

    Raises
    ------
    ConfigError
        When Slurm's variables say something that cannot be understood.

    Examples
    --------
    >>> slurm_devices({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "2,1"})
    ('n1:auto', 'n1:auto', 'n2:auto')
    """
    if "SLURM_JOB_NODELIST" not in environ:
        return None
    names = expand_nodes(environ["SLURM_JOB_NODELIST"])
    text = environ.get("SLURM_TASKS_PER_NODE", f"1(x{len(names)})")
    counts: list[int] = []
    for item in text.split(","):
        match = _SLURM_COUNT.fullmatch(item)
        # One more than there are nodes is as wrong as a billion more.
        counts += [int(match[1])] * min(int(match[2] or 1), len(names) + 1) if match else []
    if len(counts) != len(names) or 0 in counts or sum(counts) > MOST_RANKS:
        raise ConfigError(
            f"SLURM_TASKS_PER_NODE: expected counts for the {len(names)} nodes of the allocation, "
            f"at most {MOST_RANKS} in all, got {got(text)}"
        )
    if names == [environ.get("SLURMD_NODENAME")]:
        return (device,) * counts[0]
    return tuple(f"{name}:{device}" for name, count in zip(names, counts, strict=True) for _ in range(count))


def expand_nodes(text: str) -> list[str]:
    """Write out Slurm's list of nodes.

    Raises
    ------
    ConfigError
        When it is not one.

    Examples
    --------
    >>> expand_nodes("gpu[01-03,7],login")
    ['gpu01', 'gpu02', 'gpu03', 'gpu7', 'login']
    """
    names: list[str] = []
    for name in re.findall(_NAME, text) if _NODES.fullmatch(text) else ():
        expanded = [""]
        for plain, numbers in re.findall(r"([^\[\]]+)|\[(.+?)\]", name):
            tails = [plain] if plain else [tail for item in numbers.split(",") for tail in _range(item)]
            if len(expanded) * len(tails) + len(names) > MOST_RANKS:
                raise ConfigError(
                    f"SLURM_JOB_NODELIST: expected at most {MOST_RANKS} nodes, got more in {got(text)}"
                )
            expanded = [head + tail for head in expanded for tail in tails]
        names += expanded
    if not names:
        raise ConfigError(f"SLURM_JOB_NODELIST: expected a list such as node[01-03,7], got {got(text)}")
    return names


def _range(item: str) -> list[str]:
    first, _, last = item.partition("-")
    numbers = range(int(first), int(last or first) + 1)
    # As many as show that they are too many.
    return [str(number).zfill(len(first)) for number in numbers[: MOST_RANKS + 1]]
