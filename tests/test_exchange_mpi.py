"""The helper that runs MPI programs: every other MPI test relies on it."""

import os
import time
from pathlib import Path

import pytest

from tests.mpi import run_mpi

HANG = """
import os, signal, sys, time
from pathlib import Path
from mpi4py import MPI
signal.signal(signal.SIGTERM, signal.SIG_IGN)
rank = MPI.COMM_WORLD.rank
Path(sys.argv[1], str(rank)).write_text(str(os.getpid()))
print(f"rank {rank} hangs", flush=True)
MPI.COMM_WORLD.Barrier()
time.sleep(300)
"""


def running(pid: int) -> bool:
    """Whether the process is there and no zombie, whose command line is empty."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("n", [1, 2, 4])
def test_starts_n_ranks_with_one_thread_in_the_repository(n: int) -> None:
    code = """if True:
        import os, tests.mpi
        from mpi4py import MPI
        print(MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size, os.environ["OMP_NUM_THREADS"], os.environ["X"])"""
    result = run_mpi(n, ["-c", code], env={"X": "y"})
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.splitlines()) == [f"{rank} {n} 1 y" for rank in range(n)]


def test_a_failing_rank_is_a_non_zero_exit() -> None:
    result = run_mpi(
        2, ["-c", "from mpi4py import MPI; MPI.COMM_WORLD.rank == 1 and MPI.COMM_WORLD.Abort(3)"]
    )
    assert result.returncode != 0


@pytest.mark.skipif(not os.path.exists("/proc/self/cmdline"), reason="needs /proc to see processes")
def test_time_out_fails_with_the_output_and_leaves_no_process(tmp_path: Path) -> None:
    for timeout in (3, 10, 60):  # a busy machine needs longer to start them
        with pytest.raises(AssertionError, match=f"not finished after {timeout} s\n") as caught:
            run_mpi(2, ["-c", HANG, str(tmp_path)], timeout=timeout)
        pids = [int(path.read_text()) for path in tmp_path.iterdir()]
        if all(f"rank {rank} hangs\n" in str(caught.value) for rank in range(2)):
            break
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while alive := [pid for pid in pids if running(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.1)
