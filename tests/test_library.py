"""What each MPI library is told: by the launcher, or by a process before it starts MPI."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.mpi import run_mpi, run_warm
from tests.test_hosts import SUMMING
from theanompi.config import ALGORITHMS, ConfigError, RunConfig
from theanompi.launch.job import Job
from theanompi.launch.libraries import (
    _ALGORITHMS,
    algorithm_settings,
    check_algorithm,
    launch_settings,
    prepare_rank,
)


def test_every_algorithm_is_somewhere_and_no_other():
    assert set().union(*_ALGORITHMS.values()) == set(ALGORITHMS)


def test_a_library_without_a_counterpart_says_so():
    with pytest.raises(ConfigError) as caught:
        algorithm_settings("mpich", "segmented_ring")
    assert str(caught.value) == (
        "allreduce_algorithm: expected one of recursive_doubling, ring, reduce_scatter_allgather, tree, which "
        "MPICH has, got 'segmented_ring'"
    )


def test_settings_of_intel_mpi(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("I_MPI_OFFLOAD_CUDA_LIBRARY", "libc.so.6")
    assert launch_settings("intel", ("cuda:0",), False) == {
        "I_MPI_OFFLOAD": "1",
        "I_MPI_OFFLOAD_MODE": "cuda",
        "I_MPI_FABRICS": "shm",
    }
    # Without a driver it would end the ranks before they can say that there are no GPUs. Other hosts may have one.
    monkeypatch.setenv("I_MPI_OFFLOAD_CUDA_LIBRARY", str(tmp_path / "libcuda.so"))
    assert launch_settings("intel", ("cuda:0",), False) == {"I_MPI_FABRICS": "shm"}
    assert launch_settings("intel", ("n0:cuda:0", "n1:cuda:0"), True) == {
        "I_MPI_OFFLOAD": "1",
        "I_MPI_OFFLOAD_MODE": "cuda",
    }
    assert launch_settings("intel", ("cpu", "auto"), False) == {"I_MPI_FABRICS": "shm"}


def test_the_wheel_of_intel_mpi_finds_its_gpu_kernels(tmp_path, monkeypatch):
    """Without its root it claims to be CUDA-aware, and fails at the first sum: no coll.fatbin."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(os, "environ", {"I_MPI_OFFLOAD_CUDA_LIBRARY": "libc.so.6"})
    prepare_rank(("cuda:0",))
    assert "I_MPI_ROOT" not in os.environ
    (tmp_path / "opt/mpi/etc").mkdir(parents=True)
    (tmp_path / "opt/mpi/etc/coll.fatbin").touch()
    assert launch_settings("intel", ("cuda:0",), False)["I_MPI_ROOT"] == str(tmp_path)
    assert "I_MPI_ROOT" not in launch_settings("intel", ("cpu",), False)
    assert "I_MPI_ROOT" not in launch_settings("mpich", ("cuda:0",), False)
    prepare_rank(("cuda:0",))
    assert os.environ["I_MPI_ROOT"] == str(tmp_path)
    os.environ["I_MPI_ROOT"] = "/opt/intel/mpi"
    prepare_rank(("cuda:0",))
    assert os.environ["I_MPI_ROOT"] == "/opt/intel/mpi"


def test_only_ranks_that_compute_on_their_cores_give_them_up_while_they_wait():
    assert launch_settings("mpich", ("a:cpu", "b:cpu"), True) == {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
    assert launch_settings("mpich", ("a:cuda", "b:cuda"), True) == {}
    assert launch_settings("mpich", ("cpu", "cpu"), False) == {}
    assert launch_settings("openmpi", ("a:cpu", "b:cpu"), True) == {}


def test_open_mpi_on_one_host_is_not_asked_for_windows_over_ucx(monkeypatch):
    """Which says that it has none where there is no network for it; the user's own word goes before."""
    assert launch_settings("openmpi", ("cpu", "cpu"), False) == {"OMPI_MCA_osc": "^ucx"}
    monkeypatch.setattr(os, "environ", {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})
    prepare_rank(("cpu",))
    assert "OMPI_MCA_osc" not in os.environ
    os.environ["OMPI_COMM_WORLD_LOCAL_SIZE"] = "4"
    prepare_rank(("cpu",))
    assert os.environ["OMPI_MCA_osc"] == "^ucx"
    os.environ["OMPI_MCA_osc"] = "ucx"
    prepare_rank(("cpu",))
    assert os.environ["OMPI_MCA_osc"] == "ucx"


ENVIRONMENT = """
import json, os
from pathlib import Path
from mpi4py import MPI
if MPI.COMM_WORLD.rank == 0:
    Path("environment.json").write_text(json.dumps(dict(os.environ)))
"""


def test_what_the_user_set_is_kept(tmp_path, monkeypatch):
    (tmp_path / "environment.py").write_text(ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        "theanompi.launch.job.launch_settings", lambda *_: {"SET": "launcher", "NEW": "launcher"}
    )
    monkeypatch.setenv("SET", "user")
    job = Job(RunConfig(devices="cpu", allreduce_algorithm="ring"), module="environment")
    assert job.wait() == 0
    environ = json.loads((tmp_path / "environment.json").read_text())
    assert (environ["SET"], environ["NEW"]) == ("user", "launcher")
    check_algorithm(version(), "ring", environ)


def version() -> str:
    return run_warm(1, "from mpi4py import MPI; print(MPI.Get_library_version())").stdout


SCRIPT = """
import sys
{first}
from theanompi import BSP
from theanompi.config import RunConfig
BSP().run(RunConfig(out=sys.argv[1], allreduce_algorithm={algorithm!r}), module="summing")
"""


def test_under_the_users_own_mpirun_the_process_tells_its_library(tmp_path):
    (tmp_path / "summing.py").write_text(SUMMING)
    spread = {}
    for algorithm in ("ring", "recursive_doubling"):
        script = SCRIPT.format(first="", algorithm=algorithm)
        out = tmp_path / algorithm
        done = run_mpi(4, ["-c", script, str(out)], env={"PYTHONPATH": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        spread[algorithm] = np.ptp(np.array(json.loads(out.read_text())["sums"]), axis=1).max()
    assert spread["ring"] > 0
    assert spread["recursive_doubling"] == 0


def test_where_mpi_had_started_before_it_is_not_ignored_silently(tmp_path):
    script = SCRIPT.format(first="from mpi4py import MPI", algorithm="ring").replace(
        "summing", "theanompi.worker"
    )
    done = run_mpi(2, ["-c", script, str(tmp_path / "run")])
    assert done.returncode == 1
    starting, line = done.stderr.splitlines()
    assert starting == "starting 2 ranks …"
    assert line.startswith("theanompi: allreduce_algorithm: expected ")
    assert line.endswith("in the environment before MPI started, as tmlauncher sets it, got none")


def test_srun_without_pmi_is_said_once():
    """What Slurm sets for two tasks that MPI does not connect, each of them here alone."""
    program = (
        "from theanompi.worker import run; from theanompi.config import RunConfig; run(RunConfig(), ('cpu',))"
    )
    lines = []
    for rank in ("0", "1"):
        environ = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": rank}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        lines += done.stderr.splitlines()
    (line,) = lines
    assert line.startswith("theanompi: srun: expected one world of 2 ranks, got 2 processes that ")
    assert line.endswith(("remedy: srun --mpi=pmi2", "remedy: srun --mpi=pmix"))


@pytest.mark.parametrize(
    ("here", "device", "expected"), [("1", "auto", "1"), ("2", "auto", None), ("1", "cuda", None)]
)
def test_a_rank_of_the_users_own_mpirun_gives_its_core_up_too(here, device, expected, monkeypatch):
    monkeypatch.setattr(os, "environ", {"MPI_LOCALNRANKS": here, "PMI_SIZE": "2"})
    prepare_rank((device,))
    assert os.environ.get("MPIR_CVAR_ENABLE_HEAVY_YIELD") == expected
    os.environ["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "0"
    prepare_rank((device,))
    assert os.environ["MPIR_CVAR_ENABLE_HEAVY_YIELD"] == "0", "the user's own setting goes first"


@pytest.mark.parametrize(("first", "cores"), [("0", "2"), ("4 * rank", "4")])
def test_cores_are_shared_only_where_ranks_have_the_same(first, cores):
    program = (
        "import os; from unittest import mock; rank = comm.rank\n"
        "from theanompi.config import RunConfig; from theanompi.training.rank import choose_device\n"
        f"with mock.patch.object(os, 'sched_getaffinity', lambda pid: set(range({first}, {first} + 4))):\n"
        "    print(choose_device(comm, RunConfig(devices='cpu'), ('cpu',))[1])"
    )
    done = run_warm(2, program)
    assert done.stdout.split() == [cores] * 2, done.stderr
