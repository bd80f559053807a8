"""The ranks that tests share: what one job does, the next one does not see, and no bit of it is another."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import mpi
from tests.mpi import ROOT, run_mpi, run_warm
from tests.record_unchanged import CASES, digests_of
from tests.test_exchange_mpi import running

STATE = """
import json, os, signal, sys, threading, torch
from theanompi.lasagne.random import get_rng
handlers = {int(n): repr(signal.getsignal(n)) for n in signal.valid_signals()}
print(json.dumps({
    "environ": dict(os.environ), "path": sys.path, "folder": os.getcwd(), "handlers": handlers,
    "threads": [thread.name for thread in threading.enumerate()], "torch": torch.get_num_threads(),
    "random": torch.rand(3).tolist(), "lasagne": get_rng().random(3).tolist(), "output": sys.stdout.errors,
    "files": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{fd}")),
    "modules": sorted(name for name in sys.modules if name.split(".")[0] in ("made_here", "small_models", "users")),
}))
"""
CHANGE = """
import os, signal, sys, torch, numpy
from pathlib import Path
from theanompi.lasagne.random import set_rng
set_rng(numpy.random.default_rng(7))
folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
os.chdir(folder)
os.environ.update(OMP_NUM_THREADS="2", ONLY_HERE="1")
os.environ.pop("PATH")
torch.set_num_threads(2)
torch.manual_seed(5)
signal.signal(signal.SIGUSR1, lambda *_: None)
sys.stdout.reconfigure(errors="replace")
import made_here
print(made_here.VALUE)
"""


def state() -> dict[str, Any]:
    done = run_warm(1, STATE)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    # What a job prints goes to files of its own.
    found["files"] = [name for name in found["files"] if not name.endswith((".stdout", ".stderr"))]
    return found


def test_a_job_leaves_nothing_to_the_next_one(tmp_path: Path) -> None:
    ranks, settings = CASES["2 ranks, avg, A = 1"]
    run_warm(ranks, {**settings, "out": str(tmp_path / "first")})  # loads what it needs, once
    before = state()
    for number in (1, 2):
        (tmp_path / "made_here.py").write_text(f"VALUE = {number}")
        assert run_warm(1, CHANGE, str(tmp_path)).stdout == f"{number}\n"
        # Python takes a file of the same second and size for the same.
        os.utime(tmp_path / "made_here.py", (number, number))
        for cached in tmp_path.glob("__pycache__/*"):
            cached.unlink()
    done = run_warm(ranks, {**settings, "out": str(tmp_path / "run"), "max_iterations": 2})
    assert done.returncode == 0, done.stderr
    assert state() == before


def test_a_run_has_the_bits_of_a_run_in_processes_of_its_own(tmp_path: Path) -> None:
    """After others, too; those bits are the recorded ones: `test_unchanged`."""
    ranks, settings = CASES["2 ranks, cdd, A = 2"]
    other_ranks, other = CASES["1 rank, avg, A = 2"]
    assert run_warm(other_ranks, {**other, "out": str(tmp_path / "other")}).returncode == 0
    assert run_warm(ranks, {**settings, "out": str(tmp_path / "warm")}).returncode == 0
    path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = run_mpi(
        ranks, ["tests/train.py", json.dumps({**settings, "out": str(tmp_path / "own")})], env=path
    )
    assert done.returncode == 0, done.stderr
    warm, own = (digests_of(tmp_path / name / "checkpoint.h5") for name in ("warm", "own"))
    assert warm == own


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_as_many_ranks_as_asked_for(n: int) -> None:
    done = run_warm(n, "print(comm.rank, comm.size, comm.allreduce(1))")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [f"{rank} {n} {n}" for rank in range(n)]


def test_what_all_ranks_refuse_is_an_exit_status(tmp_path: Path) -> None:
    ranks, settings = CASES["2 ranks, avg, A = 1"]
    pid = run_warm(1, "import os; print(os.getpid())").stdout
    done = run_warm(ranks, {**settings, "out": str(tmp_path / "run"), "resume": True})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("theanompi: ") == 1
    # In the middle of training, too.
    more = {"modelfile": "small_models", "modelclass": "NotFinite", "exchange": "overlap"}
    assert run_warm(ranks, {**settings, **more, "out": str(tmp_path / "nan")}).returncode == 1
    assert run_warm(1, "import os; print(os.getpid())").stdout == pid


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ranks that no other test has: no more than it takes."""
    own: list[mpi.Pool] = []
    monkeypatch.setattr(mpi, "RANKS", 2)
    monkeypatch.setattr(mpi, "_pool", own)
    yield
    for pool in own:
        pool.close()


@pytest.mark.usefixtures("two_ranks")
def test_after_what_fails_hangs_or_leaves_a_thread_behind_the_next_job_has_other_ranks() -> None:
    done = run_warm(2, "print('here', flush=True)\ncomm.Barrier()\nassert comm.rank\ncomm.Barrier()")
    assert done.returncode != 0
    assert done.stdout == "here\n" * 2 and done.stderr.count("AssertionError") == 1
    pids = run_warm(2, "import os; print(os.getpid())").stdout.split()
    with pytest.raises(AssertionError, match="not finished after 1 s"):
        run_warm(2, "import time; time.sleep(100)", timeout=1)
    left = "import threading; threading.Thread(target=time.sleep, args=(100,), daemon=True).start()"
    mpi.RANKS = 1
    done = run_warm(1, f"import os, time; print(os.getpid()); {left}")
    assert done.returncode == 0
    pids += done.stdout.split()
    assert len(set(pids)) == 3
    await_end(list(map(int, pids)))


def await_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(map(running, pids)):
        assert time.monotonic() < deadline, "the ranks live on"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_a_session_that_is_ended(number: int, tmp_path: Path) -> None:
    """In the middle of a job: here it is the whole of a session."""
    program = (
        "import sys; from tests import mpi\n"
        "mpi.RANKS = 2\n"
        'text = \'import os, sys, time; open(f"{sys.argv[1]}/{os.getpid()}", "w"); time.sleep(100)\'\n'
        "mpi.run_warm(2, text, sys.argv[1])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as session:
        deadline = time.monotonic() + 120
        while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < 2:
            assert time.monotonic() < deadline and session.poll() is None
            time.sleep(0.1)
        session.send_signal(number)
        assert session.wait(timeout=60) != 0
    await_end(pids)
