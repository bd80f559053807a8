"""Names of devices, of which each rank has one."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from theanompi.config.errors import ConfigError, got, listed

DEVICE_NAMES = "device names such as cpu, cpu0, cuda0, cuda:0, auto or host:cuda0"
HOST = r"\w[\w.@-]{0,254}"
"""A machine's name, as a regular expression."""
_DEVICE = re.compile(rf"(?:(?P<host>{HOST}):)?(?P<kind>auto|cpu|cuda)(?::?(?P<index>\d{{1,6}}))?")
MOST_RANKS = 10_000
"""Ranks of a run: far more than this package was made for, far fewer than memory holds the names of."""


class Host(NamedTuple):
    """The devices of one machine, one per rank, in the order of the ranks.

    `name` is None for the machine at hand; `devices` are spelled as torch does (``"cpu"``, ``"cuda:1"``), or
    are ``"auto"`` or ``"cuda"``.
    """

    name: str | None
    devices: tuple[str, ...]


def parse_devices(devices: str | Iterable[str]) -> tuple[str, ...]:
    """Return one canonical name per rank from the ways a user may write devices.

    Parameters
    ----------
    devices
        Names such as ``"cpu"``, ``"cpu0"``, ``"cuda"``, ``"cuda0"``, ``"cuda:0"``, ``"auto"``, separated by
        commas or as a sequence. A name may follow a host and a colon (``"node0:cuda0,cuda1"``); the host
        holds up to the next one.

    Returns
    -------
    tuple of str
        Names as torch spells them, each with its host when hosts were given. A CPU has no number: ``"cpu1"``
        is ``"cpu"``.

    Raises
    ------
    ConfigError
        For an unknown name, an empty list, or names with and without a host mixed.

    Examples
    --------
    >>> parse_devices("cuda0,cuda1")
    ('cuda:0', 'cuda:1')
    >>> parse_devices(["node0:cuda0", "node1:cuda0,cuda1"])
    ('node0:cuda:0', 'node1:cuda:0', 'node1:cuda:1')
    """
    names: list[str] = []
    places: list[str | None] = []
    for entry in [devices] if isinstance(devices, str) else devices:
        host = None
        for item in str(entry).split(","):
            match = _DEVICE.fullmatch(item.strip())
            if match is None or (match["kind"] == "auto" and match["index"] is not None):
                # Theano's older name.
                other = re.sub(r"gpu(\d*)$", r"cuda\1", item.strip())
                hint = (
                    f"; did you mean {other!r}?" if other != item.strip() and _DEVICE.fullmatch(other) else ""
                )
                raise ConfigError(f"devices: expected {DEVICE_NAMES}, got {got(item.strip())}{hint}")
            host = match["host"] or host
            numbered = match["kind"] == "cuda" and match["index"]
            name = f"cuda:{int(match['index'])}" if numbered else match["kind"]
            names.append(f"{host}:{name}" if host else name)
            places.append(host)
            if len(names) > MOST_RANKS:
                raise ConfigError(f"devices: expected at most {MOST_RANKS} devices, got more")
    if not names:
        raise ConfigError("devices: expected at least one device, got none")
    if None in places and any(places):
        raise ConfigError(f"devices: expected a host for every device or for none, got {listed(names)}")
    return tuple(names)


def in_place_of(devices: str | Iterable[str], wanted: str | Iterable[str]) -> tuple[str, ...]:
    """Return the devices that are asked for instead of others; one name without a number serves all workers.

    Parameters
    ----------
    devices, wanted
        As for `parse_devices`.

    Raises
    ------
    ConfigError
        As `parse_devices`.

    Examples
    --------
    >>> in_place_of(["node0:cuda0", "node1:cuda0,cuda1"], "cpu")
    ('cpu', 'cpu', 'cpu')
    >>> in_place_of("cuda0,cuda1", "cuda2")
    ('cuda:2',)
    """
    names = parse_devices(wanted)
    return names * len(parse_devices(devices)) if names in (("auto",), ("cpu",), ("cuda",)) else names


def hosts(devices: str | Iterable[str]) -> tuple[Host, ...]:
    """Return the devices grouped by machine, hosts in the order in which they first appear.

    >>> hosts(["node0:cuda0", "node1:cuda0,cuda1"])
    (Host(name='node0', devices=('cuda:0',)), Host(name='node1', devices=('cuda:0', 'cuda:1')))
    >>> hosts("cpu0,cpu1")
    (Host(name=None, devices=('cpu', 'cpu')),)
    """
    grouped: dict[str | None, list[str]] = {}
    for name in parse_devices(devices):
        match = _DEVICE.fullmatch(name)
        assert match is not None
        grouped.setdefault(match["host"], []).append(name.removeprefix(f"{match['host']}:"))
    return tuple(Host(name, tuple(local)) for name, local in grouped.items())


def local_device(devices: Sequence[str], local_rank: int, n_cuda: int) -> str:
    """Return the device of one rank, chosen by its rank among those of its machine.

    Parameters
    ----------
    devices
        The machine's devices in `parse_devices`' spelling, one per local rank; a single one serves all.
    local_rank
        This process's rank among those on its machine.
    n_cuda
        How many CUDA devices this process sees.

    Returns
    -------
    str
        ``"cpu"`` or ``"cuda:N"``. ``"auto"`` and ``"cuda"`` go round the GPUs by local rank; ``"auto"``
        without any is ``"cpu"``.

    Raises
    ------
    ConfigError
        When there are more ranks than devices, or the GPU asked for is not there.

    Examples
    --------
    >>> local_device(("auto",), 1, n_cuda=4), local_device(("auto",), 1, n_cuda=0)
    ('cuda:1', 'cpu')
    >>> local_device(("cuda:2", "cuda:3"), 1, n_cuda=4)
    'cuda:3'
    """
    local = hosts(devices)
    if local[0].name is not None:
        raise ConfigError(
            "devices: expected names without a host, because your own mpirun chooses the hosts, "
            f"got {listed(devices)}"
        )
    names = local[0].devices
    if len(names) > 1 and local_rank >= len(names):
        raise ConfigError(
            f"devices: expected one for each rank of this machine, got {len(names)} for rank {local_rank}"
        )
    name = names[0] if len(names) == 1 else names[local_rank]
    if name == "cpu" or (name == "auto" and n_cuda == 0):
        return "cpu"
    index = int(name.removeprefix("cuda:")) if ":" in name else local_rank % max(n_cuda, 1)
    if index >= n_cuda:
        raise ConfigError(f"devices: expected one of the {n_cuda} GPUs that torch sees here, got {name!r}")
    return f"cuda:{index}"
