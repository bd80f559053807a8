"""The mpirun command lines, and real jobs: how they start, how they fail, and that nothing is left behind."""

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.mpi import ROOT
from theanompi.config import ConfigError, RunConfig
from theanompi.launch import job as module
from theanompi.launch.job import Job, command, is_worker, mpi_rank
from theanompi.launch.mpirun import identify
from theanompi.system.processes import children

WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from mpi4py import MPI
from theanompi.config import from_environment
from theanompi.launch.ends import tell

def run(config, devices, plan=False):
    comm = MPI.COMM_WORLD
    rank = comm.rank
    facts = {
        "size": comm.size, "total": comm.allreduce(rank), "pid": os.getpid(),
        "devices": devices, "plan": plan, "seed": config.seed,
        "threads": os.environ["OMP_NUM_THREADS"], "cores": len(os.sched_getaffinity(0)),
        "outer": os.environ.get("PMIX_OUTER"),
    }
    part = Path(f"rank{rank}.part")
    part.write_text(json.dumps(facts))
    part.rename(part.with_suffix(".json"))  # as what waits for it may end this process at once
    comm.Barrier()
    if config.out == "exit" and rank == comm.size - 1:
        os._exit(3)
    if config.out == "kill" and rank == comm.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.out in ("exit", "kill", "sleep"):
        time.sleep(100)
    if config.out == "deaf":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        Path(f"deaf{rank}").touch()
        time.sleep(100)
    comm.Barrier()
    if config.modelclass == "Path":
        print("on the output", flush=True)
        print("on the error", file=sys.stderr, flush=True)
    if config.out != "early" and rank == 0:
        tell(well=True)

if __name__ == "__main__":
    run(*from_environment())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder that holds the worker's module and is not the repository."""
    (tmp_path / "small_worker.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def facts(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank*.json"))]


def await_files(process: subprocess.Popen, folder: Path, pattern: str, n: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob(pattern))) < n:
        assert process.poll() is None and time.monotonic() < deadline, f"{n} ranks did not start"
        time.sleep(0.05)
    time.sleep(0.3)


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                os.kill(pid, 0)
                assert time.monotonic() < deadline, f"process {pid} is still there"
                time.sleep(0.05)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_one_rank_per_device(folder, monkeypatch, n):
    monkeypatch.delenv("OMP_NUM_THREADS")
    devices = ["cpu0", "cuda1", "cpu2", "cuda3"][:n]
    assert Job(RunConfig(devices=devices, seed=7), module="small_worker", plan=True).wait() == 0
    got = facts(folder)
    assert [item["total"] for item in got] == [n * (n - 1) // 2] * n
    for item in got:
        assert (item["size"], item["plan"], item["seed"]) == (n, True, 7)
        assert item["devices"] == ["cpu", "cuda:1", "cpu", "cuda:3"][:n]
        assert int(item["threads"]) == max(1, len(os.sched_getaffinity(0)) // n)
        assert item["cores"] == len(os.sched_getaffinity(0))


def test_the_users_threads_are_kept(folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    for threads in (None, 3):
        assert Job(RunConfig(devices="cpu"), module="small_worker", threads=threads).wait() == 0
        assert facts(folder)[0]["threads"] == "5"


def test_what_cannot_be_started_is_one_line(folder, monkeypatch):
    devices = [f"{'n' * 200}{i}:cpu" for i in range(1000)]
    with pytest.raises(
        ConfigError, match=r"mpirun: expected to be started for 1,000 ranks, got: Argument list too long$"
    ):
        Job(RunConfig(devices=devices), module="small_worker")
    (folder / "mpirun").write_bytes(b"\x7fELF")
    (folder / "mpirun").chmod(0o755)
    monkeypatch.setattr("theanompi.launch.mpirun.find_mpirun", lambda: str(folder / "mpirun"))
    with pytest.raises(ConfigError, match=r"mpirun: expected a program, got: Exec format error$"):
        Job(RunConfig(devices="cpu"), module="small_worker")


def test_threads_as_told_and_output_to_a_file(folder, monkeypatch, capfd):
    monkeypatch.delenv("OMP_NUM_THREADS")
    output = folder / "output.txt"
    output.write_text("before\n")
    job = Job(RunConfig(devices="cpu"), module="small_worker", threads=3, output=output)
    assert job.wait() == 0
    assert facts(folder)[0]["threads"] == "3"
    assert Job(RunConfig(devices="cpu"), module="no_such_module", output=output).wait() > 0
    text = output.read_text()
    assert text.startswith("before\n") and "No module named no_such_module" in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(
    identify()[1] == "openmpi", reason="Open MPI's mpirun closes what its ranks would inherit"
)
def test_what_is_kept_open_is_so_in_every_rank(folder):
    reader, writer = os.pipe()
    job = Job(RunConfig(devices=["cpu"] * 2, out="sleep"), module="small_worker", keep_open=[writer])
    os.close(writer)
    while len(list(folder.glob("rank*.json"))) < 2:
        time.sleep(0.05)
    os.killpg(job._mpirun.pid, signal.SIGKILL)
    # The end of the file comes when the last rank is gone.
    assert os.read(reader, 1) == b""
    assert_gone([item["pid"] for item in facts(folder)])
    os.close(reader)
    assert job.wait() == 128 + signal.SIGKILL


def test_cancelled_from_another_thread(folder):
    job = Job(RunConfig(devices=["cpu"] * 2, out="sleep"), module="small_worker")
    threading.Timer(1.0, job.cancel).start()
    assert job.wait() == 128 + signal.SIGTERM
    assert_gone([item["pid"] for item in facts(folder)])


def test_bound_ranks_have_cores_of_their_own(folder):
    n = min(2, module.cores())
    assert Job(RunConfig(devices=["cpu"] * n), module="small_worker", bind=True).wait() == 0
    assert [item["cores"] for item in facts(folder)] == [module.cores() // n] * n


def test_several_hosts_get_the_devices_of_their_own(folder, monkeypatch):
    # Two names of one machine: what differs between hosts really goes to each of them. Open MPI 4 sees one host.
    monkeypatch.setenv("OMPI_MCA_rmaps_base_oversubscribe", "1")
    # Intel's ends ranks for GPUs where there is no driver; these have none.
    monkeypatch.setenv("I_MPI_OFFLOAD", "0")
    assert Job(RunConfig(devices="localhost:cpu0,127.0.0.1:cuda0,cuda1"), module="small_worker").wait() == 0
    got = facts(folder)
    assert [item["devices"] for item in got] == [["cpu"], ["cuda:0", "cuda:1"], ["cuda:0", "cuda:1"]]
    assert [item["size"] for item in got] == [3, 3, 3]


@pytest.mark.parametrize("way", ["exit", "kill"])
def test_a_rank_that_dies_ends_all(folder, way):
    begin = time.monotonic()
    got = Job(RunConfig(devices=["cpu"] * 3, out=way), module="small_worker").wait()
    # Which number is mpirun's affair: the rank's own, all ranks' joined by "or" (MPICH), or 255 (Intel).
    assert got > 0
    assert time.monotonic() - begin < 100, "after what the others do"
    assert len(facts(folder)) == 3
    assert_gone([item["pid"] for item in facts(folder)])


SCRIPT = """
import sys
from theanompi.launch import job
from theanompi.config import RunConfig
job.GRACE, job.SAVING = 2, 1
sys.exit(job.Job(RunConfig(devices=["cpu"] * 2, out=sys.argv[1]), module="small_worker").wait())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_launcher_ends_all_ranks(folder, number):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "sleep"])
    await_files(process, folder, "rank*.json", 2)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert_gone([item["pid"] for item in facts(folder)])


def test_under_nohup_a_closed_terminal_ends_nothing(folder):
    process = subprocess.Popen(["nohup", sys.executable, "-c", SCRIPT, "sleep"])
    await_files(process, folder, "rank*.json", 2)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert_gone([item["pid"] for item in facts(folder)])


def test_ranks_that_ignore_signals_are_killed(folder):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "deaf"])
    await_files(process, folder, "deaf*", 2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT
    assert_gone([item["pid"] for item in facts(folder)])


BUSY = """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    tell(ranks=[[os.uname().nodename, os.getpid()]])
    time.sleep(3)
    Path("finished").touch()
"""


def busy_job(folder: Path) -> Job:
    """A job whose rank is at work for 3 s, and heeds no warning."""
    (folder / "small_worker.py").write_text(WORKER.replace("    comm.Barrier()\n", BUSY, 1))
    job = Job(RunConfig(devices="cpu"), module="small_worker")
    while not job.account.ranks:
        time.sleep(0.05)
    return job


@pytest.mark.parametrize(("number", "finishes"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_who_is_only_warned_may_take_any_time_to_end(folder, monkeypatch, number, finishes):
    monkeypatch.setattr(module, "SAVING", 0.1)
    job = busy_job(folder)
    job.ask(number)
    assert job.wait() == 128 + number
    assert Path("finished").exists() == finishes


def test_a_second_signal_ends_all_at_once_and_a_third_does_what_it_did_before(folder):
    before = signal.getsignal(signal.SIGTERM)
    job = busy_job(folder)
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    assert job.wait() == 128 + signal.SIGTERM
    assert not Path("finished").exists()


def test_a_process_that_has_got_the_number_of_a_rank_is_left_alone(folder):
    job = Job(RunConfig(devices="cpu"), module="small_worker")
    with subprocess.Popen(["sleep", "100"]) as other:
        job.account.ranks = [(platform.node(), other.pid)]
        assert job.wait() == 0
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=0.3)
        other.kill()


def test_a_killed_launcher_leaves_no_rank_behind(folder):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, "sleep"])
    await_files(process, folder, "rank*.json", 2)
    process.kill()
    process.wait()
    assert_gone([item["pid"] for item in facts(folder)])


END_EARLY = """
import time
from pathlib import Path
from theanompi.config import RunConfig
from theanompi.launch.job import Job
job = Job(RunConfig(devices=["cpu"] * 2, out="sleep"), module="small_worker")
while len(list(Path().glob("rank*.json"))) < 2:
    time.sleep(0.05)
raise SystemExit(5)
"""


def test_the_end_of_the_launcher_ends_all_ranks(folder):
    process = subprocess.Popen([sys.executable, "-c", END_EARLY])
    assert process.wait(timeout=60) == 5
    assert_gone([item["pid"] for item in facts(folder)])


def test_an_mpirun_that_nothing_is_left_of_is_ended(folder, monkeypatch):
    """As MPICH's is when its proxy is killed before it has answered: there is no process that could end any more."""
    fake = folder / "mpirun"
    monkeypatch.setattr("theanompi.launch.mpirun.find_mpirun", lambda: str(fake))
    monkeypatch.setattr(module, "PATIENCE", 1.0)

    def job_of(devices: str, doing: str) -> Job:
        fake.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo HYDRA build details: && exit\n{doing}\n")
        fake.chmod(0o755)
        return Job(RunConfig(devices=devices), module="small_worker")

    job, begin = job_of("cpu", "exec sleep 100"), time.monotonic()
    assert job.wait() == 128 + signal.SIGKILL and time.monotonic() - begin < 60
    assert job.ended_by == signal.SIGKILL
    # One that has a process may take its time, and one whose processes are on another machine.
    job = job_of("cpu", f"sleep 3 & touch {folder}/begun; wait $!; exit 4")
    while not (folder / "begun").exists():
        time.sleep(0.01)
    assert job.wait() == 4
    assert job_of("node7:cpu", "exec sleep 3").wait() == 0


@pytest.mark.parametrize("abort", [False, True])
def test_a_stopped_mpirun_is_named_and_ended_when_asked_to(folder, capfd, abort):
    config = RunConfig(devices="cpu", out="sleep", stall_seconds=0.5, stall_abort=abort)
    job = Job(config, module="small_worker")
    await_files(job._mpirun, folder, "rank*.json", 1)
    pid = job._mpirun.pid
    os.kill(pid, signal.SIGSTOP)

    def go_on_and_end():
        deadline = time.monotonic() + 60
        while not job._told and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(pid, signal.SIGCONT)
        job.cancel()

    if not abort:
        threading.Thread(target=go_on_and_end).start()
    assert job.wait() == 128 + (signal.SIGKILL if abort else signal.SIGTERM)
    ends = "; the run ends, as --stall-abort has it" if abort else ""
    said = (
        rf"theanompi: (\S+ \(pid {pid}\)) has been stopped for 0\.5 s: nothing is heard of its ranks{ends}\n"
    )
    (name,) = re.findall(said, capfd.readouterr().err)
    assert (f"{name} was stopped" in job.account.deaths) == abort
    assert_gone([item["pid"] for item in facts(folder)])


def test_what_is_stopped_when_mpirun_is_killed_does_not_outlive_it(folder):
    job = Job(RunConfig(devices="cpu", out="sleep"), module="small_worker")
    await_files(job._mpirun, folder, "rank*.json", 1)
    (rank,) = (item["pid"] for item in facts(folder))
    job.account.ranks = [(platform.node(), rank)]
    pids = [rank, *(children(job._mpirun.pid) or ())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    threading.Timer(1.5, os.kill, (job._mpirun.pid, signal.SIGKILL)).start()
    try:
        assert job.wait() == 128 + signal.SIGKILL
        assert job.account.deaths == [f"mpirun (pid {job._mpirun.pid}) was ended by SIGKILL"]
        assert_gone(pids)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_signal_handlers_are_put_back(folder):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    job = Job(RunConfig(devices="cpu"), module="small_worker")
    assert signal.getsignal(signal.SIGINT) not in before
    assert job.wait() == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize(
    ("environ", "rank"),
    [
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 1),
        ({"OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2"}, 2),
        ({"PMIX_RANK": "0"}, 0),
        # an mpirun in a shell of a job of one process, which has handed its variables on
        ({"PMI_RANK": "0", "PMI_SIZE": "1", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, 3),
        # a batch script, then a step of one task and one of several, without PMI
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "9"}, None),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, 3),
        ({"PMI_RANK": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, 1),
        # more digits than Python reads
        ({"PMI_RANK": "9" * 5000, "PMI_SIZE": "2"}, None),
        ({}, None),
    ],
)
def test_under_an_mpirun_or_not(environ, rank):
    assert mpi_rank(environ) == rank


ALONE = [
    {"PMI_RANK": "0", "PMI_SIZE": "1"},
    {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"},
    {"PMIX_RANK": "0", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
    {"PMI_RANK": "0", "PMI_SIZE": "1", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
]


@pytest.mark.parametrize("environ", ALONE)
def test_a_world_of_one_is_the_worker_of_one_device_only(environ):
    assert is_worker(("cpu",), environ)
    assert not is_worker(("cpu", "cpu"), environ)
    assert not is_worker(("node7:cpu",), environ)


def test_a_rank_of_several_is_a_worker_whatever_the_devices():
    for devices in (("cpu",), ("cpu", "cpu", "cpu")):
        assert is_worker(devices, {"PMI_RANK": "1", "PMI_SIZE": "2"})
        assert is_worker(devices, {"PMIX_RANK": "0"}), "as srun's PMIx has it, which tells no size"
        assert not is_worker(devices, {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"})


@pytest.mark.parametrize("environ", ALONE)
def test_a_job_in_a_world_of_one_has_a_world_of_its_own(folder, monkeypatch, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PMIX_OUTER", "what its launcher says of the outer job")
    assert Job(RunConfig(devices=["cpu"] * 2), module="small_worker").wait() == 0
    assert [(item["total"], item["outer"]) for item in facts(folder)] == [(1, None)] * 2


@pytest.fixture
def machine(monkeypatch):
    def set_to(cores: int, uid: int) -> None:
        monkeypatch.setattr(module, "cores", lambda: cores)
        monkeypatch.setattr(os, "geteuid", lambda: uid)

    for name in list(os.environ):
        if name.startswith(module._EXPORTED):
            monkeypatch.delenv(name)
    set_to(4, 1000)
    return set_to


WORDS = [sys.executable, "-m", "theanompi.worker"]
ONE = '["cuda:0"]'
TWO = '["cuda:0", "cuda:1"]'


def test_open_mpi_on_one_host(machine):
    config = RunConfig(devices="cuda0,cuda1")
    end = ["-n", "2", "-x", f"THEANOMPI_DEVICES={TWO}", "-x", "OMP_NUM_THREADS=2", *WORDS]
    assert command(config, "mpirun", "openmpi", 4) == ["mpirun", "--bind-to", "none", *end]
    as_it_comes = ["mpirun", "--stream-buffering", "0"]
    assert command(config, "mpirun", "openmpi", 5) == [*as_it_comes, "--bind-to", "none", *end]
    bound = ["mpirun", "--map-by", "slot:PE=2", "--bind-to", "core", *end]
    assert command(config, "mpirun", "openmpi", bind=True) == bound
    machine(2, 1000)
    assert "--oversubscribe" not in command(config, "mpirun", "openmpi")
    machine(1, 0)
    root = command(config, "mpirun", "openmpi", threads=False)
    assert root == [
        *["mpirun", "--bind-to", "none", "--allow-run-as-root", "--oversubscribe"],
        *["-n", "2", "-x", f"THEANOMPI_DEVICES={TWO}", *WORDS],
    ]


def test_open_mpi_on_several_hosts(machine, monkeypatch):
    monkeypatch.setenv("UCX_TLS", "rc")
    exported = ["UCX_TLS", "PATH", "PYTHONPATH", "THEANOMPI_CONFIG", "THEANOMPI_PLAN"]
    given = [word for name in exported for word in ("-x", name)]
    assert command(RunConfig(devices="a:cuda0,b:cuda0,cuda1"), "mpirun", "openmpi") == [
        *["mpirun", "--bind-to", "none"],
        *["--host", "a:1", *given, "-n", "1"],
        *["-x", f"THEANOMPI_DEVICES={ONE}", "-x", "OMP_NUM_THREADS=4", *WORDS, ":"],
        *["--host", "b:2", *given, "-n", "2"],
        *["-x", f"THEANOMPI_DEVICES={TWO}", "-x", "OMP_NUM_THREADS=2", *WORDS],
    ]


def test_mpich(machine):
    one = ["-n", "1", "-env", "THEANOMPI_DEVICES", ONE, "-env", "OMP_NUM_THREADS", "4", *WORDS]
    two = ["-n", "2", "-env", "THEANOMPI_DEVICES", TWO, "-env", "OMP_NUM_THREADS", "2", *WORDS]
    assert command(RunConfig(devices="cuda0,cuda1"), "mpirun", "mpich") == ["mpirun", *two]
    several = RunConfig(devices="a:cuda0,b:cuda0,cuda1")
    assert command(several, "mpirun", "mpich") == ["mpirun", "-hosts", "a:1,b:2", *one, ":", *two]
    bound = command(RunConfig(devices="cuda0,cuda1"), "mpirun", "mpich", bind=True)
    assert bound == ["mpirun", "-bind-to", "core:2", *two]


def test_intel_mpi(machine):
    one = ["-n", "1", "-env", "THEANOMPI_DEVICES", ONE, "-env", "OMP_NUM_THREADS", "4", *WORDS]
    two = ["-n", "2", "-env", "THEANOMPI_DEVICES", TWO, "-env", "OMP_NUM_THREADS", "2", *WORDS]
    head = ["mpirun", "-genv", "I_MPI_PIN"]
    assert command(RunConfig(devices="cuda0,cuda1"), "mpirun", "intel", bind=True) == [*head, "1", *two]
    several = RunConfig(devices="a:cuda0,b:cuda0,cuda1")
    assert command(several, "mpirun", "intel") == [*head, "0", "-host", "a", *one, ":", "-host", "b", *two]


def test_more_bound_ranks_than_cores(machine):
    with pytest.raises(ConfigError, match="bind: expected at most 4 ranks on 4 cores, got 5"):
        command(RunConfig(devices=["cpu"] * 5), "mpirun", "mpich", bind=True)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("place", ["a pipe without a reader", "/dev/full"])
def test_what_cannot_be_printed_ends_nothing(folder, stream, place):
    program = "from theanompi.rules import BSP; from theanompi.config import RunConfig; rule = BSP()\n"
    program += "config = RunConfig(devices='cpu', modelfile='small_worker', modelclass='Path')\n"
    program += "rule.start(config, module='small_worker')\n"
    if place == "/dev/full":
        broken = os.open(place, os.O_WRONLY)
    else:
        reader, broken = os.pipe()
        os.close(reader)
    job = subprocess.run(
        [sys.executable, "-c", program + "rule.wait()"],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: broken},
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    os.close(broken)
    full = "theanompi: standard output: cannot be written: No space left on device; the rest of it is lost\n"
    said = f"starting 1 rank …\non the error\n{full * (place == '/dev/full')}"
    assert job.returncode == 0
    if stream == "stdout":
        assert sorted(job.stderr.splitlines()) == sorted(said.splitlines())
    else:
        assert job.stdout.startswith("on the output\nBSP: 1 rank ended well after ")
