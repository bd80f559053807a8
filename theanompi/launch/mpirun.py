"""Which mpirun there is, which family it belongs to, and short jobs on this machine under a time-out.

Neither torch nor MPI is needed for that. The families are MPICH's hydra, Open MPI's prte and Intel MPI's hydra.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from theanompi.config import ConfigError
from theanompi.launch.libraries import flavour, launch_settings

DYING = 5.0
"""Seconds that a job whose time is up gets to end its processes, before it is killed."""
ANSWER = 20.0
"""Seconds that ``mpirun --version`` may take."""
MARK = "@theanompi"
LATE = "had not ended after"
"""What `Outcome.how` says of a command whose time was up."""

# What a launcher or a batch system tells the processes of its job: another mpirun that was started by one of them
# would take that for its own, or go to the other machines of the allocation. What begins with a word of
# _SETTINGS comes from the user and decides what the library does, so it stays.
_OF_A_RANK = (
    *("HYDI_", "I_MPI_HYDRA_UUID", "I_MPI_INFO_", "I_MPI_PIN", "MPI_LOCAL"),
    *("OMPI_", "OPAL_", "PMIX_", "PMI_", "PRTE_"),
    *("SLURM_GTIDS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_PROCID", "SLURM_STEP", "SLURM_TASK_PID"),
)
_OF_A_JOB = (*_OF_A_RANK, "HYDRA_BSTRAP_", "LSB_", "PBS_", "PE_HOSTFILE", "SLURM_")
_SETTINGS = ("OMPI_MCA_", "PMIX_MCA_", "PRTE_MCA_", "OPAL_PREFIX", "PMIX_PREFIX", "PRTE_PREFIX")
# But for these, by which Open MPI 4's mpirun is found by its ranks.
_ORTE = (
    *("OMPI_MCA_ess", "OMPI_MCA_initial_wdir", "OMPI_MCA_pmix", "OMPI_MCA_orte_app_num"),
    *(
        "OMPI_MCA_orte_bound_at_launch",
        "OMPI_MCA_orte_ess_",
        "OMPI_MCA_orte_hnp_uri",
        "OMPI_MCA_orte_jobfam_",
    ),
    *("OMPI_MCA_orte_launch", "OMPI_MCA_orte_local_daemon_uri", "OMPI_MCA_orte_num_nodes"),
    *("OMPI_MCA_orte_precondition_transports", "OMPI_MCA_orte_top_session_dir"),
)

# Each of these is set by every launcher of its kind for each process, and by nothing else; Slurm's PMIx tells no size.
_RANKS = {"PMI_RANK": "PMI_SIZE", "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE", "PMIX_RANK": ""}


class World(NamedTuple):
    """What a launcher tells a process of its place: its rank, and how many there are, or None if it does not tell."""

    rank: int
    size: int | None


def world(environ: Mapping[str, str] = os.environ) -> World | None:
    """Return this process's place when an mpirun or srun started it, else None; MPI is not loaded.

    A shell or script in a job of one process hands that job's variables on to what is started from it, an mpirun
    included: of several places the largest world counts.

    Of Slurm's own variables, most are also set in a batch script, which runs once and may start an mpirun. Only a
    step of several tasks is surely srun's, even without PMI, where MPI takes each task for a world of its own:
    `theanompi.training.ranks.check_launcher` says so.

    Examples
    --------
    >>> world({"PMI_RANK": "3", "PMI_SIZE": "4"})
    World(rank=3, size=4)
    >>> world({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None
    True
    >>> world({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"})
    World(rank=1, size=2)
    """

    def number(name: str) -> int | None:
        text = environ.get(name, "")
        return int(text) if text.isdecimal() and len(text) < 10 else None

    tasks = number("SLURM_STEP_NUM_TASKS")
    places = [
        World(rank, number(size) or tasks)
        for name, size in _RANKS.items()
        if (rank := number(name)) is not None
    ]
    rank = number("SLURM_PROCID")
    if not places and rank is not None and (tasks or 1) > 1:
        places = [World(rank, tasks)]
    return max(places, key=lambda place: place.size or 0, default=None)


def launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an mpirun or srun of the user's own started this process with others: one name is their devices'."""
    place = world(environ)
    return place is not None and place.size != 1


def without_job(environ: Mapping[str, str], allocation: bool = False) -> dict[str, str]:
    """Leave out what tells a process its place in a job, and unless it is kept, the batch system's `allocation`.

    >>> without_job({"PMI_RANK": "1", "OMPI_MCA_pml": "ucx", "SLURM_JOB_ID": "9", "HOME": "/root"})
    {'OMPI_MCA_pml': 'ucx', 'HOME': '/root'}
    >>> without_job({"PMI_RANK": "1", "SLURM_PROCID": "0", "SLURM_JOB_ID": "9"}, allocation=True)
    {'SLURM_JOB_ID': '9'}
    """
    gone = _OF_A_RANK if allocation else _OF_A_JOB
    kept = [k for k in environ if k.startswith(_SETTINGS) or not k.startswith(gone)]
    return {k: environ[k] for k in kept if not k.startswith(_ORTE)}


class Outcome(NamedTuple):
    """How a command ended: `status` is its exit status, negative for a signal, None when its time was up.

    >>> Outcome(0, 'noise @theanompi {"size": 2}', "").facts
    [{'size': 2}]
    """

    status: int | None
    out: str
    err: str

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What the command told by `say` until its end, in order."""
        found, decoder = [], json.JSONDecoder()
        # Two ranks, or a library, may have printed into one line, and a killed process half of one.
        for text in self.out.split(f"{MARK} ")[1:]:
            with contextlib.suppress(ValueError):
                found.append(decoder.raw_decode(text)[0])
        return found

    def how(self, timeout: float) -> str:
        r"""Say in a few words how a command that failed ended, `timeout` being the seconds it was given.

        >>> Outcome(None, "", "").how(60.0)
        'had not ended after 60 s'
        >>> Outcome(139, "", "Fatal Python error: Segmentation fault").how(60)
        'crashed (Segmentation fault)'
        >>> Outcome(1, "", "Traceback:\n...\nValueError: expected one, got two").how(60)
        'failed (ValueError: expected one, got two)'
        """
        if self.status is None:
            return f"{LATE} {timeout:g} s"
        crash = re.search(r"Fatal Python error: (?!Fatal)([A-Z][a-z -]+)", self.err)
        if crash:
            return f"crashed ({crash[1]})"
        # What the mpiruns say of a rank that was killed, MPICH's on standard output; their exit statuses differ.
        killed = re.search(r"\bsignal:? (\d+)", self.err + self.out, re.IGNORECASE)
        number = int(killed[1]) if killed else -self.status
        if number in {item.value for item in signal.Signals}:
            return f"was ended by {signal.Signals(number).name}"
        errors = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*", self.err, re.MULTILINE)
        # An mpirun says the cause first, and then what follows from it.
        words = [
            text.strip()
            for text in self.err.splitlines()
            if re.search("[a-z]", text) and "Warning" not in text
        ]
        cause = [*errors[-1:], *words, f"exit status {self.status}"][0]
        # Of MPICH and Intel MPI one line for each function follows, the innermost one last.
        stack = re.findall(r"^\w+\(\d+\)\.*: +(\S.*)", self.err, re.MULTILINE)
        if stack and cause.endswith(", error stack:"):
            cause = cause.replace(", error stack", "") + f" {stack[-1]}"
        return f"failed ({cause})"


def say(**facts: Any) -> None:
    """Tell the process that runs this one with `run`, on standard output, for `Outcome.facts`.

    >>> say(size=2)
    @theanompi {"size": 2}
    """
    print(f"{MARK} {json.dumps(facts)}", flush=True)


def find_mpirun() -> str:
    """Return the path of the mpirun beside this Python, or else of the first one on PATH.

    Raises
    ------
    ConfigError
        When there is none; the message says how to get one.
    """
    beside = str(Path(sys.executable).parent)
    found = shutil.which("mpirun", path=beside) or shutil.which("mpirun")
    if found is None:
        raise ConfigError(f"mpirun: expected one in {beside} or on PATH, got none; remedy: pip install mpich")
    return found


class Launcher(NamedTuple):
    """An mpirun: its path, its `flavour`, and the first number of Open MPI's version, of others 0."""

    path: str
    kind: str
    release: int = 0


def identify() -> Launcher:
    """Say which mpirun `find_mpirun` finds.

    Raises
    ------
    ConfigError
        When there is none, one of an unknown family, or one that does not say what it is.
    """
    mpirun = find_mpirun()
    try:
        version = run([mpirun, "--version"], ANSWER, environment(mpirun))
    except OSError as error:
        raise ConfigError(f"{mpirun}: expected a program, got: {error.strerror}") from None
    if version.status is None:
        raise ConfigError(f"{mpirun} --version: expected an answer, got none: it {LATE} {ANSWER:g} s")
    # Without a library that it needs, a program says only that, on standard error.
    said = version.out.strip() or version.err
    release = re.search(r"\(Open MPI\) (\d+)", said)
    return Launcher(mpirun, flavour(said), int(release[1]) if release else 0)


def environment(program: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for a job of its own, even when this process is a rank of another one.

    Its processes find modules where this one finds them, and what is beside `program` first: Intel's mpirun looks
    for its parts on PATH.

    Parameters
    ----------
    program
        The path of what starts the job.
    environ
        This process's environment.

    Examples
    --------
    >>> sorted(environment("/opt/mpi/bin/mpirun", {"PMI_RANK": "1", "OMPI_MCA_pml": "ucx", "HOME": "/root"}))
    ['HOME', 'OMPI_MCA_pml', 'PATH', 'PYTHONPATH']
    """
    kept = without_job(environ)
    path = os.pathsep.join([str(Path(program).parent), environ.get("PATH", os.defpath)])
    return {**kept, "PATH": path, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


def run(command: Sequence[str], timeout: float, environ: Mapping[str, str] | None = None) -> Outcome:
    r"""Run a command and wait for its end; when its time is up, end it and all that it started.

    Parameters
    ----------
    command
        The program and its arguments. It gets no input.
    timeout
        Seconds.
    environ
        Its environment, by default that of this process.

    Raises
    ------
    OSError
        When it cannot be started.

    Examples
    --------
    >>> run(["sh", "-c", "echo out; exit 3"], timeout=10)
    Outcome(status=3, out='out\n', err='')
    >>> run(["sleep", "10"], timeout=0.1).status is None
    True
    """
    process = subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
        return Outcome(process.returncode, out, err)
    except subprocess.TimeoutExpired:
        # hydra gives each rank a session of its own, which only hydra can end: it is asked first.
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return Outcome(None, *process.communicate(timeout=DYING))
        # Not even a kill reaches a process that waits for a dead network file system: it is left behind.
        return Outcome(None, "", "")
    finally:
        _signal(process.pid, signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def run_ranks(ranks: int, args: Sequence[str], timeout: float, devices: Sequence[str] = ("cpu",)) -> Outcome:
    """Run ``python args…`` on so many ranks of this machine, as a job of its own.

    The ranks are not bound to cores; there may be more of them than cores.

    Parameters
    ----------
    ranks
        How many.
    args
        What follows ``python``.
    timeout
        Seconds, for the whole job.
    devices
        What the ranks compute on: the library is told what it needs for that, as in a run.

    Raises
    ------
    ConfigError
        As `identify`.

    Examples
    --------
    >>> run_ranks(2, ["-c", "print('here')"], timeout=60).out.count("here")
    2
    """
    mpirun, kind = identify()[:2]
    words = {
        "mpich": [],
        "openmpi": ["--bind-to", "none", "--oversubscribe", "--allow-run-as-root"],
        "intel": ["-genv", "I_MPI_PIN", "0"],
    }
    program = [mpirun, *words[kind], "-n", str(ranks), sys.executable, *args]
    settings = launch_settings(kind, tuple(devices), several_hosts=False)
    return run(program, timeout, {**settings, **environment(mpirun)})
