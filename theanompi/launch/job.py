"""From a `RunConfig` to running processes: the mpirun command line, the environment, signals and the end.

The launcher needs neither torch nor MPI: it names the worker by its module and speaks to it through the
environment (`theanompi.config.to_environment`).
"""

import atexit
import contextlib
import os
import platform
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from theanompi.config import ConfigError, Host, RunConfig, counted, hosts, to_environment
from theanompi.config.files import reason
from theanompi.config.modules import hides_pythons_own
from theanompi.launch.ends import STOPPED, Account, Notices
from theanompi.launch.libraries import algorithm_settings, launch_settings
from theanompi.launch.mpirun import Launcher, identify, launched, without_job, world
from theanompi.system.cgroup import cores
from theanompi.system.output import Lenient, put
from theanompi.system.processes import (
    LAUNCHER,
    Process,
    children,
    exit_status,
    has_variable,
    launcher_name,
    look_up,
    signal_name,
)

WORKER = "theanompi.worker"
"""The module of a rank that trains."""
EVALUATOR = "theanompi.evaluator"
"""The module of a rank that validates what was trained."""
PATIENCE = 20.0
"""Seconds in which mpirun has to have a process of its own to wait for: one that has none waits for ever."""
GRACE = 10.0
"""Seconds that mpirun gets to end its processes after a signal, before it is killed."""
SAVING = 30.0
"""Seconds that the workers get to finish an update and save it after a signal, before they are ended: as long as
Slurm waits between SIGTERM and SIGKILL."""
LAST = 2.0
"""Seconds that ranks get to notice that their mpirun is gone."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a job."""
WARNING = signal.SIGUSR1
"""The signal that asks a job's workers to save and to end; nothing hurries them."""

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
        for number in (*FORWARDED, WARNING)
        if signal.getsignal(number) is not signal.SIG_IGN
    }


def mpi_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return this process's rank when an mpirun or srun started it, else None: see `theanompi.launch.mpirun.world`."""
    place = world(environ)
    return None if place is None else place.rank


def is_worker(devices: Sequence[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of the workers that compute on these devices, and does not start them.

    It is under an mpirun of the user's own with several ranks. A world of one, as an interactive shell of Slurm
    is, can be the only worker, on one device of this machine; for more it starts an mpirun.

    >>> is_worker(("cpu", "cpu"), {"PMI_RANK": "0", "PMI_SIZE": "1"})
    False
    >>> is_worker(("cpu", "cpu"), {"PMI_RANK": "0", "PMI_SIZE": "2"})
    True
    """
    place = world(environ)
    alone = len(devices) == 1 and hosts(devices)[0].name is None
    return launched(environ) or (place is not None and alone)


def command(
    config: RunConfig,
    mpirun: str,
    kind: str,
    release: int = 0,
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
    mpirun, kind, release
        As in `theanompi.launch.mpirun.Launcher`.
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
        if release >= 5:
            # Whole lines, by default: a bar would be seen when it is done. Before, it had no such option.
            words += ["--stream-buffering", "0"]
        # Its default binds a rank to one core, where all of its threads would share that core.
        words += (
            ["--map-by", f"slot:PE={cores() // most}", "--bind-to", "core"] if bind else ["--bind-to", "none"]
        )
        if os.geteuid() == 0:
            words.append("--allow-run-as-root")
        if most > cores():
            words.append("--oversubscribe")
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
        # Of release 4 other hosts get only what their own context names.
        names = [name for name in sorted(os.environ) if name.startswith(_EXPORTED)]
        for name in [*names, "PATH", "PYTHONPATH", "THEANOMPI_CONFIG", "THEANOMPI_PLAN"]:
            words += ["-x", name]
    elif machine.name and kind == "intel":
        words = ["-host", machine.name]
    words += ["-n", str(ranks)]
    for name, value in own.items():
        words += ["-x", f"{name}={value}"] if kind == "openmpi" else ["-env", name, value]
    return words


def _environment(config: RunConfig, launcher: Launcher, plan: bool) -> dict[str, str]:
    """The environment of an mpirun and its ranks, but for the number of their threads."""
    machines = hosts(config.devices)
    # In a job of one process: that job's variables are not for these ranks.
    outer = without_job(os.environ, allocation=machines[0].name is not None) if world() else os.environ
    environ = {
        **launch_settings(launcher.kind, config.devices, len(machines) > 1),
        **outer,
        **to_environment(config, config.devices, plan),
        LAUNCHER: launcher_name(),
        **algorithm_settings(launcher.kind, config.allreduce_algorithm),
    }
    # Workers find modules where this process finds them. Intel's mpirun looks for its parts on PATH.
    environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    environ["PATH"] = os.pathsep.join([str(Path(launcher.path).parent), environ.get("PATH", os.defpath)])
    return environ


# Becomes mpirun, which from now on gets SIGTERM when the thread that started it is gone, by SIGKILL too. This is
# no preexec_fn, because that may hang when there are other threads.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class Job:
    """A running mpirun: started by the constructor, ended by itself, a signal or the end of this process.

    While it runs, SIGINT, SIGTERM, SIGHUP and SIGUSR1 to this process let the workers save and then end all ranks (when
    the job was made in the main thread, the only one that may handle signals), unless it ignores them. A second signal
    ends them at once, a third does what it would have done before. A job that another thread has made also ends
    with that thread.

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
    account
        What the workers have told.

    Raises
    ------
    ConfigError
        When there is no mpirun or one of an unknown kind, or it cannot be started.
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
        launcher = identify()
        mpirun, kind, release = launcher
        machines = hosts(config.devices)
        environ = _environment(config, launcher, plan)
        if threads is not None:
            environ.setdefault("OMP_NUM_THREADS", str(threads))
        words = command(
            config,
            mpirun,
            kind,
            release,
            threads="OMP_NUM_THREADS" not in environ,
            module=module,
            bind=bind,
        )
        # What mpirun starts on other machines need not be its child: Open MPI's ssh goes to the background.
        self._machines = machines
        self._local = [machine.name for machine in machines] == [None]
        self._stall_seconds, self._stall_abort = config.stall_seconds, config.stall_abort
        self.ended_by: int | None = None
        self._deadline: float | None = None
        self._stopped: dict[Process, float] = {}
        self._told: set[str] = set()
        self._proxies: set[int] = set()
        self._handlers: dict[int, Any] = {}
        tied = [sys.executable, "-IS", "-c", _TIED, str(os.getpid())]
        self._output = Lenient(output, "a") if output else None
        # A session of its own: a Ctrl-C in the terminal reaches this process alone, which passes it on once.
        try:
            self._mpirun = subprocess.Popen(
                [*tied, *words],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=keep_open,
            )
        except OSError as error:  # the names of thousands of hosts, which are words of the command
            ranks = counted(len(config.devices), "rank")
            raise ConfigError(f"{mpirun}: expected to be started for {ranks}, got: {reason(error)}") from None
        self.account = Account(
            put if self._output is None else self._output.write, in_order=kind == "openmpi"
        )
        self._reader = threading.Thread(target=self._read, name="output of mpirun", daemon=True)
        self._reader.start()
        atexit.register(self.stop)
        if threading.current_thread() is threading.main_thread():
            self._handlers = handle_signals(self._forward)

    def _read(self) -> None:
        """Read what mpirun prints until nothing can print any more; see which rank ends first."""
        notices = Notices(partial(put, error=True) if self._output is None else self._output.write)
        takers = {self._mpirun.stdout: self.account.feed, self._mpirun.stderr: notices.feed}
        with select.epoll() as events, contextlib.ExitStack() as opened:
            printed = {opened.enter_context(pipe).fileno(): take for pipe, take in takers.items() if pipe}
            for file in printed:
                events.register(file, select.EPOLLIN)
            ranks: dict[int, int] = {}
            ended: dict[int, int | None] = {}
            unseen = self._local
            while printed:
                # In the order in which they have happened.
                for file, _ in events.poll():
                    if file in ranks:
                        ended[ranks[file]] = file
                        events.unregister(file)
                    elif data := os.read(file, 1 << 16):
                        printed[file](data)
                    else:
                        events.unregister(file)
                        del printed[file]
                if unseen and self.account.ranks:
                    unseen = False
                    for rank, (_, pid) in enumerate(self.account.ranks):
                        try:
                            file = os.pidfd_open(pid)
                        except ProcessLookupError:
                            ended[rank] = None
                        except OSError:  # an old kernel
                            break
                        else:
                            opened.callback(os.close, file)
                            ranks[file] = rank
                            events.register(file, select.EPOLLIN)
            # By now mpirun has waited for all of them.
            self.account.ends = {
                rank: None if file is None else exit_status(file) for rank, file in ended.items()
            }
        notices.close()
        self.account.notice = notices.first
        self.account.close()

    def _forward(self, number: int, frame: FrameType | None) -> None:
        if self.ended_by is None:
            self.ask(number)
        else:
            self._restore()
            self.cancel(number)

    def ask(self, number: int = WARNING) -> None:
        """Let the workers save after their update and end, as after the signal `number`: `wait` sees to the rest."""
        if not self.account.ranks:
            # They have not begun: there is nothing to save, and nobody who would heed it.
            self.cancel(number)
            return
        self.ended_by = number
        if number != WARNING:
            self._deadline = time.monotonic() + SAVING
        # mpirun passes it on. Intel's is a shell script, which would only end: its process has the script's name.
        pid = self._mpirun.pid
        with contextlib.suppress(OSError):
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) in ("sh", "bash", "dash"):
                pid = next(iter(children(pid) or ()), pid)
            os.kill(pid, WARNING)

    def cancel(self, number: int = signal.SIGTERM) -> None:
        """Begin to end all ranks, from any thread, as after the signal `number`: `wait` sees to the rest."""
        self.ended_by = number
        self._deadline = 0.0
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
        while self._mpirun.poll() is None and (self._deadline is None or time.monotonic() < self._deadline):
            # Short waits, so that a signal is acted upon even if mpirun ignores it.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._mpirun.wait(timeout=0.5)
            self._look_for_stopped()
            if not self._local or children(self._mpirun.pid) != []:
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                # MPICH's does not see it when the process that was to start the ranks is killed right away.
                self.cancel(signal.SIGKILL)
        self.stop()
        return self._verdict()

    def _verdict(self) -> int:
        """What `wait` gives, once all is over; in `account` is then who ended badly, or a guess."""
        status, account = self._mpirun.returncode, self.account
        if self.ended_by is None and status < 0:
            account.deaths.append(f"mpirun (pid {self._mpirun.pid}) was ended by {signal_name(-status)}")
        left = account.first_to_leave()
        if account.stopped is not None and not (account.deaths or left):
            return STOPPED
        if self.ended_by is not None:
            return 128 + self.ended_by
        if not (account.failed or account.deaths):
            hiding = hides_pythons_own() if status and not account.ranks else ""
            if left and not hiding:
                account.deaths.append(left)
            elif status:
                account.guess = f"no rank has said why: {self._guess(hiding)}"
        return 128 - status if status < 0 else status

    def _guess(self, hiding: str) -> str:
        """What may have happened where no rank has said it; `hiding` is a file that Python takes for its own."""
        if hiding:
            return f"{hiding} hides the module of Python's own that has its name; remedy: rename it"
        starters = ", ".join(map(str, [self._mpirun.pid, *sorted(self._proxies)]))
        how = f"one has left by os._exit, or what started it (pid {starters}) was ended"
        if self.account.ranks:
            return how
        remote = next((machine.name for machine in self._machines if machine.name), None)
        if remote is None:
            return f"mpirun has above, or {how}; tmlauncher doctor says what MPI needs"
        return (
            f"none has begun; 'ssh {remote} true' must work from here without a password, and {sys.executable} must be "
            "there under the same path: tmlauncher doctor looks"
        )

    def _look_for_stopped(self) -> None:
        """Say so when mpirun, or a process of it that ranks speak through, does not run, and end the job if asked."""
        now, pid = time.monotonic(), self._mpirun.pid
        self._proxies |= set(children(pid) or ())
        stopped = [found for p in (pid, *self._proxies) if (found := look_up(p)) and found.stopped]
        self._stopped = {process: self._stopped.get(process, now) for process in stopped}
        for process, begin in self._stopped.items():
            if now - begin < self._stall_seconds:
                continue
            who = str(process)
            if who not in self._told:
                self._told.add(who)
                ends = "; the run ends, as --stall-abort has it" if self._stall_abort else ""
                text = f"{who} has been stopped for {self._stall_seconds:g} s: nothing is heard of its ranks{ends}"
                print(f"theanompi: {text}", file=sys.stderr, flush=True)
            if self._stall_abort:
                self.account.deaths.append(f"{who} was stopped")
                # To which a stopped process would not answer.
                self._send(signal.SIGKILL)

    def _end_the_rest(self) -> None:
        """End what has outlived mpirun on this machine, being stopped or blocked: its proxies, the ranks."""
        deadline = time.monotonic() + LAST
        name = f"{LAUNCHER}={launcher_name()}".encode()
        pids = self._proxies | {pid for host, pid in self.account.ranks if host == platform.node()}
        while True:
            own = [pid for pid in pids if has_variable(pid, name)]
            if not own:
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        for pid in own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End all ranks if they still run: ask mpirun, and kill it after `GRACE` seconds."""
        self._restore()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._send(number):
                break
            deadline = time.monotonic() + GRACE
            while self._send(0) and time.monotonic() < deadline:
                time.sleep(0.05)
        self._end_the_rest()
        # Whoever has inherited it from a rank may hold it open for ever.
        self._reader.join(LAST)
        if self._output is not None:
            self._output.close()
        atexit.unregister(self.stop)
