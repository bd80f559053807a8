"""From a `RunConfig` to running processes: the mpirun command line, the environment, signals and the end.

The launcher needs neither torch nor MPI: it names the worker by its module and speaks to it through the
environment (`theanompi.config.to_environment`).
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from theanompi.config import COUNT, ConfigError, Host, RunConfig, hosts, read_as, to_environment
from theanompi.library import algorithm_settings, flavour, launch_settings
from theanompi.mpirun import find_mpirun

WORKER = "theanompi.worker"
PATIENCE = 20.0
"""Seconds in which mpirun has to have a process of its own to wait for: one that has none waits for ever."""
GRACE = 10.0
"""Seconds that mpirun gets to end its processes after a signal, before it is killed."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a job."""

# Each of these is set by every launcher of its kind for each process, and by nothing else.
_RANK_VARIABLES = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
# What Open MPI must be told to take to other machines; the hydras take the whole environment.
_EXPORTED = (
    *("CUDA_", "FI_", "HDF5_", "LD_LIBRARY_PATH", "MKL_", "MPI4PY_", "NCCL_", "OMP_"),
    *("PYTENSOR_", "TORCH", "UCX_"),
)


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handle the signals that end a job; those that are ignored stay so, as SIGHUP under ``nohup``.

    Parameters
    ----------
    handler
        As for `signal.signal`.

    Returns
    -------
    dict
        By signal number, the handlers before.
    """
    return {
        number: signal.signal(number, handler)
        for number in FORWARDED
        if signal.getsignal(number) is not signal.SIG_IGN
    }


def mpi_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return this process's rank when an mpirun or srun started it, else None; MPI is not loaded.

    Of Slurm's own variables, most are also set in a batch script, which runs once and may start an mpirun. Only a
    step of several tasks is surely srun's, even without PMI, where MPI takes each task for a world of its own:
    `theanompi.worker.check_launcher` says so.

    Raises
    ------
    ConfigError
        When a variable has no number in it.

    Examples
    --------
    >>> mpi_rank({"PMI_RANK": "3", "PMI_SIZE": "4"})
    3
    >>> mpi_rank({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None
    True
    >>> mpi_rank({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"})
    1
    """
    names = [name for name in _RANK_VARIABLES if name in environ]
    if not names and read_as(COUNT, "SLURM_STEP_NUM_TASKS", environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ["SLURM_PROCID"]
    return read_as(COUNT, names[0], environ.get(names[0])) if names else None


def cores() -> int:
    """Count the cores that this process may use.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0))


def command(
    config: RunConfig,
    mpirun: str,
    kind: str,
    *,
    threads: bool = True,
    module: str = WORKER,
    bind: bool = False,
) -> list[str]:
    """Build the command line that starts one worker per device.

    Each machine has a context of its own (``mpirun … : …``) with the variables that differ between machines:
    its devices and its number of threads per rank. Other machines are taken to have as many cores as this
    one, and this Python and the current folder at the same paths.

    Parameters
    ----------
    config
        The run; its devices say how many ranks start where.
    mpirun, kind
        The path of mpirun, and its `flavour`.
    threads
        Whether to set ``OMP_NUM_THREADS`` to a machine's cores divided by its ranks, but at least 1.
    module
        The worker's module.
    bind
        Whether to bind each rank to cores of its own; otherwise ranks are not bound.

    Raises
    ------
    ConfigError
        When ranks shall be bound and there are more of them than cores.

    Examples
    --------
    >>> config = RunConfig(devices="node0:cuda0,node1:cuda0,cuda1")
    >>> words = command(config, "mpirun", "mpich")
    >>> words[:5]
    ['mpirun', '-hosts', 'node0:1,node1:2', '-n', '1']
    >>> words[words.index(":") + 1 :][:5]
    ['-n', '2', '-env', 'THEANOMPI_DEVICES', '["cuda:0", "cuda:1"]']
    """
    machines = hosts(config.devices)
    most = max(len(machine.devices) for machine in machines)
    if bind and most > cores():
        raise ConfigError(f"bind: expected at most {cores()} ranks on {cores()} cores, got {most}")
    words = [mpirun]
    if kind == "openmpi":
        # Its default binds a rank to one core, where all of its threads would share that core.
        words += (
            ["--map-by", f"slot:PE={cores() // most}", "--bind-to", "core"] if bind else ["--bind-to", "none"]
        )
        if os.geteuid() == 0:
            words.append("--allow-run-as-root")
        if most > cores():
            words.append("--oversubscribe")
        if machines[0].name:
            names = [name for name in sorted(os.environ) if name.startswith(_EXPORTED)]
            for name in [*names, "PATH", "PYTHONPATH", "THEANOMPI_CONFIG", "THEANOMPI_PLAN"]:
                words += ["-x", name]
    elif kind == "intel":
        words += ["-genv", "I_MPI_PIN", "1" if bind else "0"]
    elif bind:
        words += ["-bind-to", f"core:{cores() // most}"]
    if kind == "mpich" and machines[0].name:
        words += ["-hosts", ",".join(f"{machine.name}:{len(machine.devices)}" for machine in machines)]
    for number, machine in enumerate(machines):
        words += [":"] * (number > 0) + _context(config, machine, kind, threads)
        words += [sys.executable, "-m", module]
    return words


def _context(config: RunConfig, machine: Host, kind: str, threads: bool) -> list[str]:
    ranks = len(machine.devices)
    job = to_environment(config, machine.devices)
    own = {"THEANOMPI_DEVICES": job["THEANOMPI_DEVICES"]}
    if threads:
        own["OMP_NUM_THREADS"] = str(max(1, cores() // ranks))
    words: list[str] = []
    if machine.name and kind == "openmpi":
        words = ["--host", f"{machine.name}:{ranks}"]
    elif machine.name and kind == "intel":
        words = ["-host", machine.name]
    words += ["-n", str(ranks)]
    for name, value in own.items():
        words += ["-x", f"{name}={value}"] if kind == "openmpi" else ["-env", name, value]
    return words


# Becomes mpirun, which from now on gets SIGTERM when the thread that started it is gone, by SIGKILL too. This is
# no preexec_fn, because that may hang when there are other threads.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def _has_children(pid: int) -> bool:
    """Whether a process has children; True where the kernel does not tell."""
    lists = list(Path(f"/proc/{pid}/task").glob("*/children"))
    try:
        return not lists or any(path.read_text().strip() for path in lists)
    except OSError:
        return True


class Job:
    """A running mpirun: started by the constructor, ended by itself, a signal or the end of this process.

    While it runs, SIGINT, SIGTERM and SIGHUP to this process end all ranks (when the job was made in the main
    thread, the only one that may handle signals), unless it ignores them. A second signal does what it would have
    done before. A job that another thread has made also ends with that thread.

    Parameters
    ----------
    config
        The run.
    module, bind
        As in `command`.
    plan
        Whether the workers shall only print the plan.
    output
        A file to which goes what the workers print, added to what is in it; by default they print here.
    threads
        Of each rank, where ``OMP_NUM_THREADS`` does not say it; by default as in `command`.
    keep_open
        File descriptors that mpirun (and what it starts, if it allows that) shall inherit.

    Attributes
    ----------
    ended_by
        The number of the signal that ended it: sent to this process, given to `cancel`, or SIGKILL when mpirun alone
        was left; None for any other end.

    Raises
    ------
    ConfigError
        When there is no mpirun, or one of an unknown kind.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        module: str = WORKER,
        bind: bool = False,
        plan: bool = False,
        output: Path | None = None,
        threads: int | None = None,
        keep_open: Sequence[int] = (),
    ):
        mpirun = find_mpirun()
        environ = {**os.environ, **to_environment(config, config.devices, plan)}
        # Workers find modules where this process finds them. Intel's mpirun looks for its parts on PATH.
        environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environ["PATH"] = os.pathsep.join([str(Path(mpirun).parent), environ.get("PATH", os.defpath)])
        version = subprocess.run(
            [mpirun, "--version"], env=environ, capture_output=True, text=True, check=False
        )
        kind = flavour(version.stdout)
        machines = hosts(config.devices)
        environ = {**launch_settings(kind, config.devices, len(machines) > 1), **environ}
        environ |= algorithm_settings(kind, config.allreduce_algorithm)
        if threads is not None:
            environ.setdefault("OMP_NUM_THREADS", str(threads))
        words = command(
            config,
            mpirun,
            kind,
            threads="OMP_NUM_THREADS" not in environ,
            module=module,
            bind=bind,
        )
        # What mpirun starts on other machines need not be its child: Open MPI's ssh goes to the background.
        self._local = [machine.name for machine in machines] == [None]
        self.ended_by: int | None = None
        self._handlers: dict[int, Any] = {}
        tied = [sys.executable, "-IS", "-c", _TIED, str(os.getpid())]
        with contextlib.ExitStack() as files:
            printed = files.enter_context(open(output, "ab")) if output else None
            # A session of its own: a Ctrl-C in the terminal reaches this process alone, which passes it on once.
            self._mpirun = subprocess.Popen(
                [*tied, *words],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
                pass_fds=keep_open,
            )
        atexit.register(self.stop)
        if threading.current_thread() is threading.main_thread():
            self._handlers = handle_signals(self._forward)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self.cancel(number)

    def cancel(self, number: int = signal.SIGTERM) -> None:
        """Begin to end all ranks, from any thread, as after the signal `number`: `wait` sees to the rest."""
        self.ended_by = number
        self._send(signal.SIGTERM)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _send(self, number: int) -> bool:
        """Send a signal (or 0 for none) to mpirun's group; tell whether anything was there to get it.

        The group, because Intel's mpirun is a shell script that may end before the hydra that it started.
        """
        self._mpirun.poll()
        try:
            os.killpg(self._mpirun.pid, number)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> int:
        """Wait for the end.

        Returns
        -------
        int
            0 when all ranks ended well; mpirun's exit status when not; 128 + the number of a signal that this
            process was sent, or of `cancel`, or of SIGKILL when mpirun alone was left.
        """
        seen = time.monotonic()
        while self.ended_by is None and self._mpirun.poll() is None:
            # Short waits, so that a signal is acted upon even if mpirun ignores it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._mpirun.wait(timeout=0.5)
            if not self._local or _has_children(self._mpirun.pid):
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                # MPICH's does not see it when the process that was to start the ranks is killed right away.
                self.ended_by = signal.SIGKILL
        self.stop()
        if self.ended_by is not None:
            return 128 + self.ended_by
        status = self._mpirun.returncode
        return 128 - status if status < 0 else status

    def stop(self) -> None:
        """End all ranks if they still run: ask mpirun, and kill it after `GRACE` seconds."""
        self._restore()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._send(number):
                break
            deadline = time.monotonic() + GRACE
            while self._send(0) and time.monotonic() < deadline:
                time.sleep(0.05)
        atexit.unregister(self.stop)
