"""Finding an mpirun, and short jobs under a time-out: how they start, even inside another job, and how they end."""

import io
import os
import sys
import time
from pathlib import Path

import pytest

from tests.mpi import run_mpi
from tests.test_exchange_mpi import running
from theanompi.config import ConfigError
from theanompi.launch import mpirun
from theanompi.launch.mpirun import (
    Outcome,
    environment,
    find_mpirun,
    flavour,
    identify,
    run,
    run_ranks,
    without_job,
)


def test_without_mpirun_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match="mpirun: expected one in .* on PATH, got none; remedy: pip install mpich"
    ):
        find_mpirun()


def test_mpirun_beside_this_python_comes_first(tmp_path, monkeypatch):
    for name in ("beside", "path"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mpirun").write_text("#!/bin/sh\n")
        (tmp_path / name / "mpirun").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_mpirun() == str(tmp_path / "beside" / "mpirun")
    (tmp_path / "beside" / "mpirun").unlink()
    assert find_mpirun() == str(tmp_path / "path" / "mpirun")


def test_flavours():
    intel = "Intel(R) MPI Library for Linux* OS, Version 2021.18.1 Build 20260626 (id: b44796a)"
    assert flavour("mpirun (Open MPI) 5.0.11\n\nReport bugs to …") == "openmpi"
    assert flavour(intel) == "intel"
    assert flavour("HYDRA build details:\n    Version: 5.0.2") == "mpich"
    with pytest.raises(
        ConfigError, match="mpirun --version: expected MPICH, Open MPI or Intel MPI, got 'LAM 7.0'"
    ):
        flavour("LAM 7.0\n")


def program(folder: Path, text: str) -> None:
    """Put an executable of the name mpirun into a folder."""
    (folder / "mpirun").write_text(text)
    (folder / "mpirun").chmod(0o755)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "#!/bin/sh\nexec sleep 60\n",
            "/mpirun --version: expected an answer, got none: it had not ended after 0.5",
        ),
        ("#!/nowhere/sh\n", "/mpirun: expected a program, got: No such file or directory$"),
        ("#!/bin/sh\necho LAM 7\n", "^mpirun --version: expected MPICH, Open MPI or Intel MPI, got 'LAM 7'$"),
        ("#!/bin/sh\n", "^mpirun --version: expected MPICH, Open MPI or Intel MPI, got 'nothing'$"),
        ("#!/bin/sh\necho 'libm.so: cannot open' >&2\n", "Intel MPI, got 'libm.so: cannot open'$"),
    ],
)
def test_an_mpirun_that_does_not_say_what_it_is(tmp_path, monkeypatch, text, message):
    program(tmp_path, text)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    if "sleep" in text:
        monkeypatch.setattr(mpirun, "ANSWER", 0.5)
    with pytest.raises(ConfigError, match=message):
        identify()


RANK = """
HYDI_CONTROL_FD I_MPI_HYDRA_UUID I_MPI_INFO_NC I_MPI_PIN_INFO MPI_LOCALRANKID OMPI_COMM_WORLD_RANK OMPI_MCA_ess
OMPI_MCA_ess_base_jobid OMPI_MCA_orte_hnp_uri OPAL_OUTPUT PMIX_RANK PMI_FD PMI_RANK PRTE_LAUNCHED SLURM_GTIDS
SLURM_LOCALID SLURM_NODEID SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_TASK_PID
""".split()
ALLOCATION = "HYDRA_BSTRAP_XTERM LSB_HOSTS PBS_NODEFILE PE_HOSTFILE SLURM_JOB_ID SLURM_NTASKS".split()
SETTINGS = """
CUDA_VISIBLE_DEVICES HYDRA_IFACE I_MPI_OFFLOAD OMPI_MCA_orte_base_help_aggregate OMPI_MCA_pml OPAL_PREFIX PMIX_MCA_gds
PRTE_MCA_rmaps UCX_TLS
""".split()


def test_what_a_job_told_its_processes_is_left_out():
    environ = dict.fromkeys([*RANK, *ALLOCATION, *SETTINGS], "1")
    got = environment("/opt/mpi/bin/mpirun", environ | {"PATH": "/bin"})
    assert sorted(got) == sorted([*SETTINGS, "PATH", "PYTHONPATH"])
    assert got["PATH"] == f"/opt/mpi/bin{os.pathsep}/bin"
    assert environment("/opt/mpi/bin/mpirun", {})["PATH"] == f"/opt/mpi/bin{os.pathsep}{os.defpath}"
    assert sorted(without_job(environ, allocation=True)) == sorted([*ALLOCATION, *SETTINGS])


NESTED = """
from mpi4py import MPI
from theanompi.launch.mpirun import run_ranks
inner = "from mpi4py import MPI; from theanompi.launch.mpirun import say; say(size=MPI.COMM_WORLD.size)"
comm = MPI.COMM_WORLD
if comm.rank == comm.size - 1:
    outcome = run_ranks(2, ["-c", inner], timeout=60)
    print(comm.size, outcome.status, outcome.facts)
comm.Barrier()
"""


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_rank_can_start_a_job_of_its_own(n):
    result = run_mpi(n, ["-c", NESTED])
    assert result.returncode == 0, result.stderr
    # The ranks of the inner job write at the same time, and a line may hold two of its facts.
    assert result.stdout.startswith(f"{n} 0 [") and "'size': 2" in result.stdout


HANG = """
import os, signal, sys, time
from pathlib import Path
from mpi4py import MPI
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path(sys.argv[1], str(MPI.COMM_WORLD.rank)).write_text(str(os.getpid()))
MPI.COMM_WORLD.rank or print("hanging", flush=True)
time.sleep(300)
"""


def test_a_job_whose_time_is_up_is_ended_with_all_its_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(mpirun, "DYING", 2)
    for timeout in (3, 10, 60):  # a busy machine needs longer to start them
        begin = time.monotonic()
        outcome = run_ranks(2, ["-c", HANG, str(tmp_path)], timeout=timeout)
        assert outcome.status is None and outcome.how(timeout) == f"had not ended after {timeout} s"
        assert time.monotonic() - begin < timeout + 60
        pids = [int(path.read_text()) for path in tmp_path.iterdir()]
        if outcome.out and len(pids) == 2:
            break
    assert outcome.out == "hanging\n" and len(pids) == 2
    deadline = time.monotonic() + 60
    while alive := [pid for pid in pids if running(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.1)


def test_a_command_whose_time_is_up_is_asked_to_end_and_then_killed(monkeypatch):
    program = "trap 'echo asked' TERM; echo deaf; while true; do sleep 0.1; done"
    for seconds in (0.2, 5, 60):  # a busy machine needs longer
        monkeypatch.setattr(mpirun, "DYING", seconds)
        outcome = run(["sh", "-c", program], timeout=seconds)
        if outcome.out.endswith("asked\n"):
            break
    assert outcome.status is None and outcome.out == "deaf\nasked\n"


def test_what_a_command_has_left_running_is_ended():
    outcome = run(["sh", "-c", "sleep 100 >/dev/null 2>&1 & echo $!"], timeout=60)
    deadline = time.monotonic() + 60
    while running(int(outcome.out)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("crash", "how"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"crashed (Segmentation fault)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("raise ValueError('expected one, got two')", "failed (ValueError: expected one, got two)"),
    ],
)
def test_how_a_job_ended(crash, how):
    lines = f"import os, signal\nfrom mpi4py import MPI\nMPI.COMM_WORLD.Barrier()\nif MPI.COMM_WORLD.rank: {crash}\n"
    code = lines + "else: MPI.COMM_WORLD.Barrier()"
    outcome = run_ranks(2, ["-X", "faulthandler", "-m", "mpi4py", "-c", code], timeout=120)
    assert outcome.status not in (0, None)
    assert outcome.how(120) == how


@pytest.mark.parametrize(
    ("outcome", "how"),
    [
        (Outcome(-9, "", ""), "was ended by SIGKILL"),
        (
            Outcome(137, "", "prterun noticed that process rank 1 exited on\nsignal 9 (Killed)."),
            "was ended by SIGKILL",
        ),
        (Outcome(255, "", "=   KILLED BY SIGNAL: 11 (Segmentation fault)"), "was ended by SIGSEGV"),
        # A signal without a name.
        (Outcome(-40, "", ""), "failed (exit status -40)"),
        (Outcome(3, "", ""), "failed (exit status 3)"),
        # Two ranks have printed at once.
        (
            Outcome(139, "", "Fatal Python error: Fatal Python error: Segmentation fault\n"),
            "crashed (Segmentation fault)",
        ),
        (
            Outcome(1, "", "KeyError: 'a'\n\nDuring handling of it, another one:\n\nmine.OwnError: b\n"),
            "failed (mine.OwnError: b)",
        ),
        (Outcome(1, "", "x.py:3: UserWarning: slow\nno such host\n"), "failed (no such host)"),
        (
            Outcome(255, "", "-----\nssh: unknown host\n[mpiexec] what follows\n"),
            "failed (ssh: unknown host)",
        ),
        (
            Outcome(
                1,
                "",
                "mpi4py.MPI.Exception: Other MPI error, error stack:\n"
                "internal_Allreduce_c(4791).............: MPI_Allreduce_c(count=1000000, MPI_FLOAT) failed\n"
                "MPIR_Allreduce(331)....................: \n"
                "MPIDI_GPU_kernel_get(59)...............: Error returned from GPU AP\n"
                "Abort(1) on node 0 (rank 0 in comm 0): application called MPI_Abort\n",
            ),
            "failed (mpi4py.MPI.Exception: Other MPI error: Error returned from GPU AP)",
        ),
        (
            Outcome(
                143,
                "",
                "Abort(203048335): Fatal error in internal_Init_thread: Other MPI error, error stack:\n"
                "internal_Init_thread(71).: MPI_Init_thread(argc=(nil), argv=(nil), required=3) failed\n"
                "MPII_Init_thread(289)....: \n"
                "MPIDI_UCX_init_local(240):  ucx function returned with failed status (No such device)\n",
            ),
            "failed (Abort(203048335): Fatal error in internal_Init_thread: Other MPI error: ucx function "
            "returned with failed status (No such device))",
        ),
        # It was killed before it had printed more.
        (Outcome(1, "", "Fatal error in Init, error stack:\n"), "failed (Fatal error in Init, error stack:)"),
        (Outcome(1, "", "ValueError: five\nMPIR_Wait(9)....: lost\n"), "failed (ValueError: five)"),
    ],
)
def test_how_others_ended(outcome, how):
    assert outcome.how(9) == how


def test_facts_in_mixed_lines():
    out = 'noise @theanompi {"size": 1}@theanompi {"size": 2}\n\n@theanompi {"path": "host"}\n@theanompi {"pa'
    assert Outcome(0, out, "").facts == [{"size": 1}, {"size": 2}, {"path": "host"}]


def test_what_is_said_is_out_before_a_crash_and_any_bytes_are_read(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", stream)
    mpirun.say(size=2)
    assert stream.buffer.getvalue() == b'@theanompi {"size": 2}\n'
    assert run(["printf", r"\377"], timeout=60).out == "\N{REPLACEMENT CHARACTER}"


def test_an_mpirun_is_asked_as_if_by_no_rank(tmp_path, monkeypatch):
    program(tmp_path, '#!/bin/sh\necho "${PMI_RANK-HYDRA}"\n')
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PMI_RANK", "1")
    assert identify() == (str(tmp_path / "mpirun"), "mpich", 0)


@pytest.mark.parametrize(
    ("text", "release"), [("mpirun (Open MPI) 4.1.4", 4), ("mpirun (Open MPI) 5.0.11", 5), ("Open MPI", 0)]
)
def test_of_open_mpi_the_release_is_known_too(tmp_path, monkeypatch, text, release):
    program(tmp_path, f"#!/bin/sh\necho '{text}'\n")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert identify()[1:] == ("openmpi", release)


def test_the_library_is_told_what_the_devices_need(monkeypatch):
    monkeypatch.setattr(mpirun, "identify", lambda: ("/opt/mpi/bin/mpirun", "intel"))
    monkeypatch.setattr(mpirun, "run", lambda program, timeout, environ: environ)
    monkeypatch.setenv("I_MPI_FABRICS", "shm:ofi")
    monkeypatch.setenv("I_MPI_OFFLOAD_CUDA_LIBRARY", "libc.so.6")  # a driver
    environ = run_ranks(2, ["-c", ""], timeout=1, devices=("cuda:0", "cuda:1"))
    assert environ["I_MPI_OFFLOAD"] == "1" and environ["I_MPI_OFFLOAD_MODE"] == "cuda"
    assert environ["I_MPI_FABRICS"] == "shm:ofi", "the user's own setting goes first"
    monkeypatch.delenv("I_MPI_FABRICS")
    environ = run_ranks(2, ["-c", ""], timeout=1)
    assert "I_MPI_OFFLOAD" not in environ and environ["I_MPI_FABRICS"] == "shm"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mpich", []),
        ("openmpi", ["--bind-to", "none", "--oversubscribe", "--allow-run-as-root"]),
        ("intel", ["-genv", "I_MPI_PIN", "0"]),
    ],
)
def test_each_mpirun_is_told_not_to_bind_ranks_of_which_there_may_be_more_than_cores(
    kind, words, monkeypatch
):
    monkeypatch.setattr(mpirun, "identify", lambda: ("/opt/mpi/bin/mpirun", kind))
    monkeypatch.setattr(mpirun, "run", lambda program, timeout, environ: program)
    expected = ["/opt/mpi/bin/mpirun", *words, "-n", "3", sys.executable, "-c", ""]
    assert run_ranks(3, ["-c", ""], timeout=1) == expected
