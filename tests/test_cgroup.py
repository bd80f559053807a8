"""What control groups leave a process, from trees as the kernel lays them out, and in one of its own."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mpi import run_mpi
from theanompi.system import cgroup

Write = Callable[[str, str], None]
CPU = Path("/sys/fs/cgroup/cpu")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")

    return write


def test_the_tightest_limit_on_the_way_up_counts_in_version_2(tmp_path: Path, write: Write) -> None:
    write("proc/self/cgroup", "0::/job/step\n")
    write("sys/fs/cgroup/job/step/memory.max", "max\n")
    write("sys/fs/cgroup/job/step/cpu.max", "400000 100000\n")
    write("sys/fs/cgroup/job/memory.max", "8000\n")
    write("sys/fs/cgroup/job/memory.current", "3000\n")
    write("sys/fs/cgroup/job/cpu.max", "150000 100000\n")
    write("sys/fs/cgroup/cpu.max", "max 100000\n")
    write("sys/fs/cgroup/memory.max", "9000\n")
    assert cgroup.limits(tmp_path) == {"cores": 1.5, "memory": 8000, "memory_used": 3000}


def test_version_1_has_a_tree_for_each_controller(tmp_path: Path, write: Write) -> None:
    write("proc/self/cgroup", "4:memory:/job\n1:cpu,cpuacct:/job\n0::/\n")
    write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "9223372036854771712\n")
    write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n")
    write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    assert cgroup.limits(tmp_path) == {}
    write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "5000\n")
    write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "400000\n")
    assert cgroup.limits(tmp_path) == {"cores": 4, "memory": 5000, "memory_used": 0}


def test_a_container_may_see_its_group_as_the_top(tmp_path: Path, write: Write) -> None:
    # As docker's, in whose /sys the folder that /proc names is not.
    write("proc/self/cgroup", "1:cpu:/docker/0123\n")
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n")
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cgroup.cores(range(8), tmp_path) == 2


def test_the_least_of_what_is_left_of_memory_counts(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable: 8 kB\n")
    assert cgroup.free_memory(tmp_path) == 8192
    write("proc/self/cgroup", "0::/job\n")
    write("sys/fs/cgroup/job/memory.max", "5000\n")
    assert cgroup.free_memory(tmp_path) == 5000
    write("proc/self/statm", "2 1 1 1 0 1 0\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * resource.getpagesize() + 4000,) * 2)
    assert cgroup.free_memory(tmp_path) == 4000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000,) * 2)
    assert cgroup.free_memory(tmp_path) == 0


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [(8, "max", 8), (8, "250000", 2), (8, "100000", 1), (8, "50000", 1), (2, "800000", 2), (8, "0", 8)],
)
def test_as_many_cores_count_as_can_be_kept_busy(
    tmp_path: Path, write: Write, affinity: int, quota: str, cores: int
) -> None:
    write("proc/self/cgroup", "0::/\n")
    write("sys/fs/cgroup/cpu.max", f"{quota} 100000\n")
    assert cgroup.cores(range(affinity), tmp_path) == cores


def test_a_kernel_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert cgroup.limits(tmp_path) == {}
    assert cgroup.cores(root=tmp_path) == len(os.sched_getaffinity(0))


def test_the_ranks_of_a_machine_share_the_quota() -> None:
    program = (
        "import os; from mpi4py import MPI; from theanompi.system import cgroup\n"
        "os.sched_getaffinity = lambda pid: set(range(8))\n"
        "cgroup.limits = lambda root: {'cores': 6.5}\n"
        "del os.environ['OMP_NUM_THREADS']\n"
        "import torch\n"
        "from theanompi.record import progress\n"
        "from theanompi.training import rank, stop\n"
        "from theanompi.config import RunConfig\n"
        "def make_model(config, comm, **how):\n"
        "    print(torch.get_num_threads(), config.loader_processes)\n"
        "    raise SystemExit\n"
        "rank.make_model = make_model\n"
        "comm, told = MPI.COMM_WORLD, progress.Progress()\n"
        "config, name = rank.settle(RunConfig(), ('cpu',), comm, told)\n"
        "rank.train(config, name, plan=False, folder=None, comm=comm, progress=told,\n"
        "           stop=stop.StopSignals(heed=False))"
    )
    done = run_mpi(2, ["-c", program])
    assert done.stdout.splitlines() == ["3 2"] * 2, done.stderr


def test_tmpack_the_doctor_and_all_that_start_ranks_count_the_cores_of_a_quota(tmp_path: Path) -> None:
    program = (
        "import contextlib, os, sys; from theanompi.system import cgroup\n"
        "os.sched_getaffinity = lambda pid: set(range(8))\n"
        "cgroup.limits = lambda *root: {'cores': 1.5}\n"
        "from theanompi.doctor import examination, questions\n"
        "from theanompi.experiments import runner\n"
        "from theanompi.launch import job\n"
        "print(job.cores(), runner.cores(), examination.cores())\n"
        "questions.say = lambda **told: 'cores' in told and sys.exit(print(told['cores']))\n"
        "with contextlib.suppress(SystemExit):\n    questions.machine()\n"
        "from theanompi.data.pack import packing\n"
        "from theanompi.data.sources.synthetic import Synthetic\n"
        "packing._pack_blocks = lambda *arguments: sys.exit(print(arguments[4]))\n"
        "packing.pack(Synthetic(classes=2, train=6, val=2, size=4), sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "small.h5")],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["1"] * 5, done.stderr


@pytest.fixture
def one_core() -> Iterator[Path]:
    """A real group with the time of one core, where this user may make one."""
    group = CPU / f"theanompi_test_{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("100000", encoding="utf-8")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


def test_all_that_count_cores_count_those_of_a_real_group(one_core: Path) -> None:
    program = (
        f"import os; open({str(one_core / 'cgroup.procs')!r}, 'w', encoding='utf-8').write('0')\n"
        "os.sched_getaffinity = lambda pid: set(range(8))\n"
        "from theanompi.doctor import examination\n"
        "from theanompi.experiments import runner\n"
        "from theanompi.launch import job\n"
        "from theanompi.config import RunConfig\n"
        "words = job.command(RunConfig(), 'mpirun', 'mpich')\n"
        "print(job.cores(), runner.cores(), examination.cores(), words[words.index('OMP_NUM_THREADS') + 1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.stdout.split() == ["1"] * 4, done.stderr
