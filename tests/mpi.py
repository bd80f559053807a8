"""Runs a Python program under a real ``mpirun``, with a hard time-out."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@cache
def mpirun() -> list[str]:
    """The launcher of this interpreter's MPI, with what it needs to start more ranks than cores, as root.

    Returns
    -------
    list of str
        The first words of a command line; ``-np`` follows.

    Raises
    ------
    FileNotFoundError
        Without an ``mpirun`` beside ``sys.executable`` or on ``PATH``.

    Examples
    --------
    >>> Path(mpirun()[0]).name
    'mpirun'
    """
    path = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if path is None:
        raise FileNotFoundError(f"mpirun: expected it beside {sys.executable} or on PATH, found none")
    version = subprocess.run(
        [path, "--version"], capture_output=True, encoding="utf-8", check=False, timeout=60
    ).stdout
    return [path, "--allow-run-as-root", "--oversubscribe"] if "Open MPI" in version else [path]


def run_mpi(
    n: int, args: Sequence[str], timeout: float = 120, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``mpirun -np n python args…`` in the repository, one thread per rank.

    Parameters
    ----------
    n : int
        Number of ranks.
    args : sequence of str
        What follows ``python``: a script and its arguments, or ``-c`` and a program, or ``-m mpi4py`` before either
        to end all ranks when one raises.
    timeout : float
        Seconds after which every process of the job is killed.
    env : mapping, optional
        Variables to set on top of this process's environment.

    Returns
    -------
    subprocess.CompletedProcess
        With ``returncode``, ``stdout`` and ``stderr`` (text); a non-zero exit is the caller's to judge.

    Raises
    ------
    AssertionError
        When the time is up; the message holds what was printed until then.

    Examples
    --------
    >>> run_mpi(2, ["-c", "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"]).stdout.split()
    ['2', '2']
    """
    command = [*mpirun(), "-np", str(n), sys.executable, *args]
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    job = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=ROOT,
        # unbuffered, print writes a line in pieces, and hydra mixes those of several ranks
        env={**os.environ, "PYTHONUNBUFFERED": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **(env or {})},
        start_new_session=True,
    )
    try:
        out, err = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # hydra gives each rank a session of its own, which only hydra can end: ask it first
        os.killpg(job.pid, signal.SIGTERM)
        try:
            out, err = job.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            out, err = job.communicate(timeout=10)
        raise AssertionError(f"{' '.join(command)}: not finished after {timeout} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(command, job.returncode, out, err)
