"""Several "hosts" on one machine: network namespaces, joined by a link of a given rate and delay.

Between them MPI really goes over TCP.

Each host has a network, a host name (so that MPI takes it for another machine), an ``/etc/hosts`` with the names
of all, and an IPC namespace (so that UCX finds no shared memory) of its own. They live as long as the processes of
`Hosts`, which end with this one, however it ends: nothing has to be cleaned up, and no name can collide.

The link is a TUN device per host and a process that carries the packets between them, later by the delay; the rate
is the kernel's token bucket on each device. ``tc … netem`` would do both, but not every kernel has it.

One network per host is all that there is here. With two, MPI must be told which: ``UCX_NET_DEVICES=eth1`` for MPICH
over UCX (``FI_TCP_IFACE`` over libfabric, which Intel MPI uses too), ``OMPI_MCA_btl_tcp_if_include`` for Open MPI.
"""

import collections
import ctypes
import fcntl
import functools
import os
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]

_NAMESPACES = ("--net", "--uts", "--ipc", "--mount")
_DEVICE = "eth0"
# As a card that cuts large segments itself, so that the number of packets costs little time.
_MTU = 65000

# What mpirun calls instead of ssh: options, the host, and words for the host's shell. As with ssh, nothing of the
# caller's environment goes along.
_AGENT = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
case $1 in
{cases}
esac
shift
exec nsenter --target $host --wd=/ {namespaces} -- env -i HOME="$HOME" PATH=/usr/bin:/bin {keep} sh -c "$*"
"""


@functools.cache
def refusal() -> str | None:
    """Why there can be no such hosts here, or None.

    >>> refusal() is None or "network namespaces" in refusal()
    True
    """
    missing = [name for name in ("ip", "nsenter", "tc", "unshare") if shutil.which(name) is None]
    if missing:
        return f"network namespaces need {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "true"], capture_output=True, encoding="utf-8", check=False
    )
    if tried.returncode:
        return f"network namespaces are not permitted here ({tried.stderr.strip()})"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "network namespaces need /dev/net/tun to be joined"
    return None


class Hosts:
    """Hosts that see each other and nothing else.

    Parameters
    ----------
    n : int
        How many, up to 200.
    rate : str, optional
        Of what a host sends, as ``tc`` spells it: ``"1gbit"``.
    delay : float
        From one host to another, in seconds.

    Attributes
    ----------
    names : list of str
        By which they know each other.
    environ : dict
        What makes the three families of mpirun start processes on these hosts.

    Examples
    --------
    >>> if refusal() is None:
    ...     with Hosts(2) as hosts:
    ...         print(hosts.run(1, ["hostname"]).stdout.strip())
    ... else:
    ...     print("host1")
    host1
    """

    def __init__(self, n: int, rate: str | None = None, delay: float = 0.0) -> None:
        self.names = [f"host{number}" for number in range(n)]
        self._rate, self._delay = rate, delay
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        folder = Path(self._folder.name)
        addresses = [f"10.77.0.{number + 1}" for number in range(len(self.names))]
        known = zip(["127.0.0.1", *addresses], ["localhost", *self.names], strict=True)
        (folder / "hosts").write_text(
            "".join(f"{address} {name}\n" for address, name in known), encoding="utf-8"
        )
        for name in self.names:
            # cat ends when its input does, and that with this process; a namespace ends with its last process.
            words = (
                f"hostname {name}; mount --bind {folder}/hosts /etc/hosts; ip link set lo up; echo; exec cat"
            )
            self._hold(["unshare", *_NAMESPACES, "sh", "-ec", words])
        self._pids = [process.pid for process in self._processes]
        pairs = [f"{pid}:{address}" for pid, address in zip(self._pids, addresses, strict=True)]
        self._hold([sys.executable, __file__, str(self._delay), *pairs])
        for number, address in enumerate(addresses):
            self._configure(number, f"ip address add {address}/24 dev {_DEVICE}")
            self._configure(number, f"ip link set {_DEVICE} mtu {_MTU} txqueuelen 1000 up")
            if self._rate:
                shape = f"tbf rate {self._rate} burst 256k limit 16m"
                self._configure(number, f"tc qdisc add dev {_DEVICE} root {shape}")
        cases = [f"{name}) host={pid};;" for name, pid in zip(self.names, self._pids, strict=True)]
        keep = f"OPAL_PREFIX={os.environ['OPAL_PREFIX']}" if "OPAL_PREFIX" in os.environ else ""
        agent = folder / "agent"
        agent.write_text(
            _AGENT.format(cases="\n".join(cases), namespaces=" ".join(_NAMESPACES), keep=keep),
            encoding="utf-8",
        )
        agent.chmod(0o755)
        self.environ = {
            "HYDRA_LAUNCHER": "ssh",
            "HYDRA_LAUNCHER_EXEC": str(agent),
            "I_MPI_HYDRA_BOOTSTRAP": "ssh",
            "I_MPI_HYDRA_BOOTSTRAP_EXEC": str(agent),
            "PRTE_MCA_plm_ssh_agent": str(agent),  # of Open MPI 5, the next of 4
            "OMPI_MCA_plm_rsh_agent": str(agent),
        }

    def _hold(self, command: list[str]) -> None:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise OSError(f"{' '.join(command)}: ended with status {process.wait()}")

    def _configure(self, number: int, command: str) -> None:
        subprocess.run(self.enter(number, command.split()), check=True)

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()
            process.communicate()
        self._folder.cleanup()

    def enter(self, number: int, command: Sequence[str]) -> list[str]:
        """The command line that runs a command on a host."""
        into = ["--target", str(self._pids[number]), f"--wd={os.getcwd()}"]
        return ["nsenter", *into, *_NAMESPACES, "--", *command]

    def start(
        self, number: int, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command on a host, with pipes for its output, and do not wait for it."""
        return subprocess.Popen(
            self.enter(number, command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **self.environ, **(env or {})},
            start_new_session=True,
        )

    def run(
        self, number: int, command: Sequence[str], timeout: float = 120, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, where an mpirun starts ranks on the others too.

        Parameters
        ----------
        number : int
            The host.
        command : sequence of str
        timeout : float
            Seconds after which the command is ended, and then killed with its process group.
        env : mapping, optional
            Variables to set on top of this process's environment.

        Returns
        -------
        subprocess.CompletedProcess
            With ``returncode``, ``stdout`` and ``stderr`` (text).

        Raises
        ------
        AssertionError
            When the time is up; the message holds what was printed until then.
        """
        job = self.start(number, command, env)
        try:
            out, err = job.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGTERM)
            try:
                out, err = job.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                out, err = job.communicate(timeout=10)
            raise AssertionError(
                f"{' '.join(command)}: not finished after {timeout} s\n{out}\n{err}"
            ) from None
        return subprocess.CompletedProcess(list(command), job.returncode, out, err)

    def sent(self, number: int) -> int:
        """The bytes that a host has sent, those of TCP and IP included."""
        lines = self.run(number, ["cat", "/proc/net/dev"]).stdout.splitlines()
        (counts,) = (line.split() for line in lines if line.split()[0] == f"{_DEVICE}:")
        return int(counts[9])


_PROBE = """
import socket, sys, time
host, volume = sys.argv[1], int(sys.argv[2])
if host == "serve":
    server = socket.create_server(("", 5000))
    print(flush=True)
    peer, _ = server.accept()
    for _ in range(20):
        peer.sendall(peer.recv(1))
    left = volume
    while left:
        left -= len(peer.recv(1 << 20))
    peer.sendall(b"x")
else:
    peer = socket.create_connection((host, 5000))
    for data in (*[b"x"] * 20, bytes(volume)):
        start = time.perf_counter()
        peer.sendall(data)
        peer.recv(1)
        print(time.perf_counter() - start)
"""


def measure(hosts: Hosts, volume: int = 25_000_000) -> tuple[float, float]:
    """Measure the link from the first host to the second.

    Parameters
    ----------
    hosts : Hosts
    volume : int
        Bytes to send over one TCP connection.

    Returns
    -------
    round_trip : float
        Seconds from sending one byte to having one back, the median of 20.
    rate : float
        Bits per second of `volume` bytes.
    """
    python = [sys.executable, "-c", _PROBE]
    server = hosts.start(1, [*python, "serve", str(volume)])
    assert server.stdout is not None
    server.stdout.readline()
    *trips, last = map(float, hosts.run(0, [*python, hosts.names[1], str(volume)]).stdout.split())
    server.communicate(timeout=20)
    return statistics.median(trips), 8 * volume / last


def _tun(pid: int) -> int:
    """A TUN device in the network of a process."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")
    os.close(namespace)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    tunsetiff, tun, no_packet_information = 0x400454CA, 0x0001, 0x1000
    fcntl.ioctl(device, tunsetiff, struct.pack("16sH22x", _DEVICE.encode(), tun | no_packet_information))
    return device


def carry(delay: float, pairs: Sequence[str]) -> None:
    """Carry IPv4 packets between hosts until standard input ends.

    Parameters
    ----------
    delay : float
        Seconds from reading a packet to writing it.
    pairs : sequence of str
        A process on each host and the host's address: ``"1234:10.77.0.1"``.
    """
    to: dict[bytes, int] = {}
    for pair in pairs:
        pid, address = pair.split(":")
        to[bytes(map(int, address.split(".")))] = _tun(int(pid))
    print(flush=True)
    waiting: collections.deque[tuple[float, bytes]] = collections.deque()
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([0, *to.values()], [], [], timeout)
        if 0 in ready:
            return
        due = time.monotonic() + delay
        for device in ready:
            for _ in range(16):
                try:
                    waiting.append((due, os.read(device, _MTU)))
                except BlockingIOError:
                    break
        while waiting and waiting[0][0] <= time.monotonic():
            _, packet = waiting.popleft()
            device = to.get(packet[16:20], -1) if packet[0] >> 4 == 4 else -1
            if device >= 0:
                os.write(device, packet)


if __name__ == "__main__":
    carry(float(sys.argv[1]), sys.argv[2:])
