"""Runs programs and training under a real ``mpirun``, with a hard time-out: `run_mpi` and `run_warm`.

To be imported as ``tests.mpi`` only: under a second name there would be a second pool of ranks.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any

from theanompi.launch.ends import Notices
from theanompi.launch.job import _TIED

ROOT = Path(__file__).resolve().parents[1]
RANKS = 4
"""How many ranks wait for the jobs of `run_warm`."""


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
        With ``returncode``, ``stdout`` and ``stderr`` (text), without what Open MPI's mpirun itself says of ranks that
        end badly; a non-zero exit is the caller's to judge.

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
    job = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        cwd=ROOT,
        env={**environ_of_ranks(), **(env or {})},
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
    return subprocess.CompletedProcess(command, job.returncode, out, of_ranks(err))


def of_ranks(err: str) -> str:
    """Leave out of a standard error what Open MPI's mpirun itself says of ranks that end badly."""
    shown: list[bytes] = []
    notices = Notices(shown.append)
    notices.feed(err.encode())
    notices.close()
    return b"".join(shown).decode()


def environ_of_ranks() -> dict[str, str]:
    """This process's environment, with one thread per rank and the repository among the places of modules."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # unbuffered, print writes a line in pieces, and hydra mixes those of several ranks
    return {**os.environ, "PYTHONUNBUFFERED": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


class Pool:
    """Ranks that do one job after the other, in processes that are started once: ``tests/warm.py`` under mpirun.

    It ends with `close`, and with this process, however that ends.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        self._number = 0
        self._environ = environ_of_ranks()
        self._printed = Path(self._folder.name, "printed")
        words = [*mpirun(), "-np", str(RANKS), sys.executable, "tests/warm.py", f"{self._folder.name}/socket"]
        self._links: list[socket.socket] = []
        atexit.register(self.close)
        with socket.socket(socket.AF_UNIX) as server, self._printed.open("wb") as printed:
            server.bind(words[-1])
            server.listen(RANKS)
            self._mpirun = subprocess.Popen(
                [sys.executable, "-IS", "-c", _TIED, str(os.getpid()), *words],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                cwd=ROOT,
                env=self._environ,
                start_new_session=True,
            )
            server.settimeout(1)
            deadline = time.monotonic() + 300
            while len(self._links) < RANKS:
                try:
                    self._links.append(server.accept()[0])
                except TimeoutError:
                    alive = self._mpirun.poll() is None and time.monotonic() < deadline
                    assert alive, f"{' '.join(words)}: not started\n{self._printed.read_text('utf-8')}"
        answers = {self._answer(link, deadline)["rank"]: link for link in self._links}
        self._links = [answers[rank] for rank in range(RANKS)]

    @staticmethod
    def _answer(link: socket.socket, deadline: float) -> dict[str, Any]:
        """What a rank says next; EOFError when it is gone, TimeoutError when the time is up."""
        line = b""
        while not line.endswith(b"\n"):
            link.settimeout(max(deadline - time.monotonic(), 0.001))
            part = link.recv(1 << 16)
            if not part:
                raise EOFError
            line += part
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, n: int, job: dict[str, Any], timeout: float) -> tuple[int | None, str, str]:
        """The exit status of a job on the first `n` ranks, None if it has none after `timeout`, and what it prints.

        Where it has taken the ranks along, or left something behind in them, the pool is closed.
        """
        self._number += 1
        files = [Path(self._folder.name, f"{self._number}.{name}") for name in ("stdout", "stderr")]
        for file in files:
            file.touch()
        now = {**environ_of_ranks(), **job.pop("environ")}
        changed = {name: value for name, value in now.items() if self._environ.get(name) != value}
        removed = dict.fromkeys(self._environ.keys() - now.keys())
        places = {"stdout": str(files[0]), "stderr": str(files[1])}
        data = json.dumps({"n": n, **job, **places, "environ": removed | changed}) + "\n"
        deadline, status, well = time.monotonic() + timeout, None, False
        try:
            for link in self._links[:n]:
                link.sendall(data.encode())
            answers = [self._answer(link, deadline) for link in self._links[:n]]
            status = max(answer["status"] for answer in answers)
            well = not any(answer["left"] for answer in answers)
        except (EOFError, ConnectionError):
            try:
                status = self._mpirun.wait(timeout=10) or 1
            except subprocess.TimeoutExpired:
                status = 1
        except TimeoutError:
            status = None
        finally:
            out, err = (file.read_text(encoding="utf-8", errors="replace") for file in files)
            if not well:
                self.close()
        return status, out, err

    @property
    def open(self) -> bool:
        """Whether it takes jobs."""
        return bool(self._links) and self._mpirun.poll() is None

    def close(self) -> None:
        """End the ranks: those that wait end when nobody is there any more, the others are killed."""
        atexit.unregister(self.close)
        for link in self._links:
            link.close()
        self._links = []
        for number, patience in ((0, 3), (signal.SIGTERM, 5), (signal.SIGKILL, 10)):
            if number:
                os.killpg(self._mpirun.pid, number)
            try:
                self._mpirun.wait(timeout=patience)
                break
            except subprocess.TimeoutExpired:
                continue
        self._folder.cleanup()


_pool: list[Pool] = []


def check_warm(n: int, head: str, program: str) -> None:
    """Assert that a program within the ``with`` that `head` ends in ends well on `n` ranks; it says where it hangs.

    Ranks that hand something over again and again wait for a core each time: a busy machine needs minutes.
    """
    text = f"import faulthandler\nfaulthandler.dump_traceback_later(350)\n{head}{indent(program, '    ')}"
    done = run_warm(n, f"{text}\nfaulthandler.cancel_dump_traceback_later()", timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr


def run_warm(
    n: int,
    what: Mapping[str, Any] | str,
    *arguments: str,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Do what `run_mpi` does, on ranks that other tests have started: for what ends in good order on all ranks.

    That is well, refused by all of them (`theanompi.training.ranks.agree`), or stopped by a signal that is heeded. What
    fails in another way, is killed, or is about processes (their start, environment, memory, ends) needs `run_mpi`.

    Parameters
    ----------
    n : int
        Number of ranks, at most `RANKS`.
    what : mapping or str
        The settings of a run, which is trained as ``python tests/train.py`` does it, with the modules in ``tests/``;
        or the text of a program, in which ``comm`` is the communicator of the `n` ranks and ``sys.argv[1:]`` are the
        arguments.
    *arguments : str
        Of the program, or of ``tests/train.py`` after the settings.
    timeout : float
        Seconds after which all ranks are killed.
    env : mapping, optional
        Variables to set for this job on top of this process's environment.

    Returns
    -------
    subprocess.CompletedProcess
        As of `run_mpi`.

    Raises
    ------
    AssertionError
        When the time is up; the message holds what was printed until then.
    """
    if not (_pool and _pool[0].open):
        for pool in _pool:
            pool.close()
        _pool[:] = [Pool()]
    job = {
        "what": what if isinstance(what, str) else dict(what),
        "arguments": arguments,
        "path": [str(ROOT / "tests")],
        "environ": dict(env or {}),
    }
    status, out, err = _pool[0].run(n, job, timeout)
    if status is None:
        raise AssertionError(f"{n} ranks: {what}: not finished after {timeout} s\n{out}\n{err}")
    return subprocess.CompletedProcess([str(what), *arguments], status, out, err)
