"""What the doctor says of every state, also of those that no machine at hand is in."""

import pytest

from theanompi.config import Host, RunConfig
from theanompi.doctor import findings
from theanompi.doctor.findings import GIB, MIB
from theanompi.launch.mpirun import World

H100 = {"name": "NVIDIA H100", "uuid": "GPU-a", "memory": 80 * GIB, "free": 79 * GIB}
OTHER = {**H100, "uuid": "GPU-b"}
MEMORY = {"total": 16 * GIB, "available": 12 * GIB}


def lines(found):
    """Level, topic and text of each finding; whatever is not ok must say what helps, and only that."""
    found = list(found)
    for item in found:
        assert bool(item.remedy) == (item.level != "ok"), item
        assert "\n" not in item.text + item.remedy
    return [f"{item.level} {item.topic}: {item.text}" for item in found]


def remedies(found):
    return [item.remedy for item in found if item.remedy]


def test_a_c_compiler():
    (there,), (missing,) = (list(findings.software({"compiled": is_there})) for is_there in (True, False))
    assert (there.level, missing.level) == ("ok", "warning")
    assert missing.text.startswith("none that works") and "gcc" in missing.remedy


def test_where_a_run_would_be_started_from():
    assert lines(findings.launcher(None, ("cpu", "cpu"))) == []
    assert lines(findings.launcher(World(0, 1), ("cpu", "cpu"))) == [
        "ok launcher: this is the only process of a job: an mpirun starts 2 ranks"
    ]
    assert lines(findings.launcher(World(0, 2), ("cpu",))) == [
        "ok launcher: this is a rank of an mpirun with 2, and so will be a worker"
    ]
    assert lines(findings.launcher(World(0, None), ("cpu", "cpu", "cpu"))) == [
        "problem launcher: this is a rank of an mpirun with several: no other is started for the 3 devices"
    ]


def test_packages():
    facts = {"packages": {"torch": {"version": "2.13.0"}, "h5py": {"error": "ImportError: libhdf5.so"}}}
    assert lines(findings.software(facts)) == [
        "problem packages: h5py cannot be imported (ImportError: libhdf5.so)",
        "ok packages: torch 2.13.0",
    ]
    facts = {"packages": {"mpi4py": {"error": "RuntimeError: cannot load MPI library"}}}
    assert "pip install mpich" in remedies(findings.software(facts))[0]


@pytest.mark.parametrize(
    ("size", "threads", "expected"),
    [
        (
            2,
            3,
            ["ok mpirun: /m started 2 ranks, which see each other", "ok thread level: MPI_THREAD_MULTIPLE"],
        ),
        (
            1,
            3,
            [
                "problem mpirun: /m does not belong to MPICH 5: it started 2 processes, and each is alone",
                "ok thread level: MPI_THREAD_MULTIPLE",
            ],
        ),
        (
            2,
            1,
            [
                "ok mpirun: /m started 2 ranks, which see each other",
                "problem thread level: MPI_THREAD_FUNNELED is what MPI gave; the exchange needs MPI_THREAD_MULTIPLE, "
                "to sum while backward goes on",
            ],
        ),
    ],
)
def test_mpirun(size, threads, expected):
    assert lines(findings.mpirun("/m", 2, "MPICH 5", {"size": size, "threads": threads})) == expected


def test_an_mpirun_whose_job_fails():
    same = findings.no_mpirun("/m", "mpich", "MPICH Version: 5.0.2", "had not ended after 60 s")
    assert lines([same]) == ["problem mpirun: /m: a job had not ended after 60 s"]
    other = findings.no_mpirun("/m", "intel", "Open MPI v5.0.11", "crashed (Segmentation fault)")
    assert "is of Intel(R) MPI and does not belong to Open MPI v5.0.11" in other.text
    assert "MPI4PY_LIBMPI" in other.remedy


@pytest.mark.parametrize(
    ("facts", "gpus", "expected"),
    [
        ({"claimed": True, "reason": "yes"}, False, "ok CUDA-aware: not needed without a GPU (yes)"),
        (
            {"claimed": False, "reason": "no"},
            True,
            "warning CUDA-aware: no: gradients are staged through pinned host memory",
        ),
        (
            {"claimed": True, "use_direct": True, "reason": "right sums, faster"},
            True,
            "ok CUDA-aware: claimed and proven: right sums, faster",
        ),
        (
            {"claimed": True, "use_direct": False, "reason": "the job crashed (Segmentation fault)"},
            True,
            "warning CUDA-aware: claimed, but: the job crashed (Segmentation fault); gradients are staged through "
            "pinned host memory",
        ),
    ],
)
def test_cuda_aware(facts, gpus, expected):
    assert lines(findings.cuda_aware(facts, gpus)) == [expected]


def test_sums():
    sums = [
        {"path": "staged", "bytes": 2**20, "seconds": 1e-3, "right": True},
        {"path": "direct", "bytes": 2**20, "seconds": 1e-3, "right": False},
        {"path": "staged", "bytes": 2**24, "seconds": 4e-3, "right": True},
        {"path": "staged", "bytes": 2**30, "seconds": 8e-3, "right": True},
    ]
    assert lines(findings.allreduce(4, sums)) == [
        "problem allreduce: device memory, 4 ranks: wrong sums of 1 MiB",
        "ok allreduce: staged from the device, 4 ranks: 1 MiB 1 GB/s, 16 MiB 4.2 GB/s, 1 GiB 134 GB/s",
    ]


@pytest.mark.parametrize(
    ("wanted", "gpus", "expected"),
    [
        (("auto", "auto"), [], "ok ranks: 2 on the CPU of n"),
        (("cuda:1", "cuda:0"), [H100, OTHER], "ok ranks: 2 on n: 0 on cuda:1, 1 on cuda:0"),
        (
            ("cuda",) * 3,
            [H100, OTHER],
            "warning ranks: 3 on n: 0 on cuda:0, 1 on cuda:1, 2 on cuda:0: cuda:0 shared by several ranks, which is no "
            "faster than one rank",
        ),
        (
            ("cuda:0", "cuda:1", "cuda:2"),
            [H100, OTHER],
            "problem ranks: devices: expected one of the 2 GPUs that torch sees here, got 'cuda:2'",
        ),
        (
            ("cuda",),
            [],
            "problem ranks: devices: expected one of the 0 GPUs that torch sees here, got 'cuda'",
        ),
    ],
)
def test_ranks_and_their_devices(wanted, gpus, expected):
    assert lines(findings.devices(wanted, {"gpus": gpus, "driver": None}, "n"))[-1] == expected


def test_gpus():
    facts = {"gpus": [H100, {**OTHER, "free": 39 * GIB}], "driver": "570.1"}
    assert lines(findings.devices(("cuda:0",), facts, "n"))[:2] == [
        "ok GPUs: cuda:0 NVIDIA H100, 80 GiB, GPU-a; cuda:1 NVIDIA H100, 80 GiB, GPU-b; driver 570.1",
        "warning GPUs: less than half of the memory is free on cuda:1 (39 GiB of 80 GiB)",
    ]
    hidden = findings.devices(("auto",), {"gpus": [], "driver": "570.1"}, "n")
    assert lines(hidden)[0] == "warning GPUs: torch sees none, though driver 570.1 is loaded"


@pytest.mark.parametrize(
    ("facts", "ranks", "bind", "omp", "expected"),
    [
        ({}, 1, False, None, "ok cores: 8 for 1 rank: 8 threads and 7 loader processes each"),
        ({}, 4, True, "3", "ok cores: 8 for 4 ranks: OMP_NUM_THREADS=3 and 1 loader process each"),
        (
            {},
            9,
            False,
            None,
            "warning cores: 8 for 9 ranks: 1 thread and 1 loader process each: ranks take turns on a core",
        ),
        (
            {},
            9,
            True,
            None,
            "problem cores: 8 for 9 ranks: 1 thread and 1 loader process each; --bind needs a core for each rank",
        ),
        (
            {"cores": 5, "limits": {"cores": 5.5}},
            2,
            False,
            None,
            "ok cores: 5 (of 8: the control group allows 5.5) for 2 ranks: 2 threads and 1 loader process each",
        ),
        (
            {"cores": 5, "limits": {"cores": 5.5}},
            2,
            False,
            "3",
            "warning cores: 5 (of 8: the control group allows 5.5) for 2 ranks: OMP_NUM_THREADS=3 and 1 loader "
            "process each: threads above that limit are held up",
        ),
    ],
)
def test_cores(facts, ranks, bind, omp, expected):
    facts = {"cores": 8, "processors": 8, "limits": {}, "memory": MEMORY, **facts}
    found = list(findings.cores(facts, RunConfig(), ranks, bind, omp))
    assert lines(found)[0] == expected
    if "held up" in expected:
        assert found[0].remedy.startswith("unset OMP_NUM_THREADS, for 2 each,")


def test_memory():
    facts = {
        "cores": 8,
        "processors": 8,
        "limits": {"memory": 4 * GIB, "memory_used": 3 * GIB},
        "memory": MEMORY,
    }
    assert lines(findings.cores(facts, RunConfig(), 2, False, None))[1] == (
        "warning memory: 1 GiB of 4 GiB free, 512 MiB for each rank (limited by the control group)"
    )
    facts["limits"] = {}
    assert lines(findings.cores(facts, RunConfig(), 2, False, None))[1] == (
        "ok memory: 12 GiB of 16 GiB free, 6 GiB for each rank"
    )


def test_locked_and_shared_memory():
    good = {
        "gpus": [],
        "infiniband": False,
        "locked_memory": 8 * MIB,
        "shm": {"size": GIB, "free": GIB, "left": {}},
    }
    assert lines(findings.system(good)) == ["ok /dev/shm: 1 GiB of 1 GiB free"]
    assert lines(findings.system({**good, "gpus": [H100]}))[0] == (
        "warning locked memory: at most 8 MiB: InfiniBand and GPUs register the memory that they transfer"
    )
    assert (
        lines(findings.system({**good, "infiniband": True, "locked_memory": -1}))[0]
        == "ok locked memory: unlimited"
    )
    small = {**good, "shm": {"size": 64 * MIB, "free": 60 * MIB, "left": {}}}
    assert lines(findings.system(small)) == [
        "warning /dev/shm: 60 MiB of 64 MiB free; ranks of one machine exchange through it"
    ]
    full = {**good, "shm": {"size": GIB, "free": 60 * MIB, "left": {}}}
    assert lines(findings.system(full)) == [
        "warning /dev/shm: 60 MiB of 1 GiB free; ranks of one machine exchange through it"
    ]
    many = {f"mpich_shm_{i}_0": 2 * MIB for i in range(9)} | {"sm_segment.vm.0.1": MIB}
    left = list(findings.system({**good, "shm": {"size": GIB, "free": GIB, "left": many}}))
    assert lines(left) == ["warning /dev/shm: 1 GiB of 1 GiB free; crashed MPI jobs left 10 files, 19 MiB"]
    assert left[0].remedy == "while no job of yours runs: rm /dev/shm/mpich_* /dev/shm/sm_*"


def test_the_data_set():
    facts = {
        "name": "imagenet", "n_train": 1281167, "n_val": 50000, "n_classes": 1000, "store": "jpeg", "bytes": 140 * GIB,
        "open_s": 0.74, "path": "/d/i.h5", "file_system": "nfs4", "cached": 0.02,
        "items_per_s": 762.0, "bytes_per_s": 84e6,
    }  # fmt: skip
    assert lines(findings.dataset(facts, RunConfig(batch_size=32, loader_processes=2))) == [
        "ok data: imagenet: 1,281,167 + 50,000 images of 1,000 classes, jpeg, 140 GiB; opened in 0.74 s; /d/i.h5 on a "
        "network file system, nfs4",
        "ok reading: 762 images/s, 84.0 MB/s, by 2 loader processes, batches of 32; 2 % of the file was in memory "
        "before",
    ]


FOLDER = {"place": "/r", "file_system": "ext4", "runs": [], "at_work": None, "writable": True, "free": GIB}


@pytest.mark.parametrize(
    ("facts", "config", "expected"),
    [
        (
            {},
            {},
            [
                "ok run folder: /r on ext4: can be written in",
                "ok checkpoints: 1,000,000 parameters: 7.6 MiB each, 3 at a time; 1 GiB free",
            ],
        ),
        (
            {"refused": "No space left on device", "full": True, "free": MIB},
            {},
            [
                "ok run folder: /r on ext4: can be written in",
                "problem checkpoints: 1,000,000 parameters: 7.6 MiB each, 3 at a time; 1 MiB free: 22.9 MiB do not "
                "fit (No space left on device)",
            ],
        ),
        (
            {"refused": "Input/output error", "full": False},
            {},
            ["problem run folder: /r: nothing can be written in /r (Input/output error)"],
        ),
        (
            {"refused": "Permission denied", "full": False, "writable": False},
            {},
            ["problem run folder: /r: nothing can be written in /r (Permission denied)"],
        ),
        ({"runs": ["log.jsonl"]}, {}, ["problem run folder: /r on ext4: holds a run"]),
        (
            {"runs": ["log.jsonl"], "at_work": "process 7 on node0, since 2026-11-28 12:00:00"},
            {"overwrite": True},
            [
                "problem run folder: /r on ext4: process 7 on node0, since 2026-11-28 12:00:00, is at work in it"
            ],
        ),
        ({"runs": ["log.jsonl"]}, {"overwrite": True}, ["ok run folder: /r on ext4: can be written in"]),
        (
            {"runs": ["log.jsonl"]},
            {"resume": True},
            ["problem run folder: /r on ext4: no checkpoint to resume from"],
        ),
        ({"runs": ["log.jsonl"]}, {"resume": "auto"}, ["ok run folder: /r on ext4: can be written in"]),
        ({"runs": ["checkpoint.h5"]}, {"resume": True}, ["ok run folder: /r on ext4: can be written in"]),
    ],
)
def test_the_run_folder(facts, config, expected):
    found = findings.run_folder(FOLDER | facts, RunConfig(out="/r", **config), 1_000_000, 24_000_000)
    assert lines(found)[: len(expected)] == expected


def test_hosts():
    here = {
        "theanompi": "0.1.0",
        "python": "3.11.7",
        "executable": "/p",
        "packages": {"torch": {"version": "2"}},
    }
    node = Host("node1", ("cuda:0",))
    assert lines(
        findings.host(node, here, {**here, "gpus": [H100], "driver": "1", "data": True}, "", "i.h5")
    ) == [
        "ok host: node1: a process was started there: Python 3.11.7, theanompi 0.1.0",
        "ok host: node1: GPUs: cuda:0 NVIDIA H100, 80 GiB, GPU-a; driver 1",
        "ok host: node1: ranks: 1 on node1: 0 on cuda:0",
    ]
    there = {**here, "python": "3.12.1", "packages": {"torch": {"error": "x"}}, "data": False}
    assert lines(findings.host(node, here, there, "", "i.h5")) == [
        "problem host: node1 has python 3.12.1, here 3.11.7; torch not importable, here 2",
        "problem host: node1: expected the data set i.h5 there, got no such file",
    ]
    for cut_short in ({}, {"theanompi": "0.1.0", "python": "3.11.7"}):  # what looked at this machine crashed
        assert lines(findings.host(node, cut_short, here, "", "digits")) == [
            "ok host: node1: a process was started there: Python 3.11.7, theanompi 0.1.0"
        ]
    assert lines(findings.host(node, here, here, "crashed (Bus error)", "digits")) == [
        "problem host: node1: a process was started there, but it crashed (Bus error)"
    ]
    lost = list(findings.host(node, here, {}, "failed (ssh: unknown host)", "digits"))
    assert lines(lost) == [
        "problem host: node1: no process could be started there: it failed (ssh: unknown host)"
    ]
    assert lost[0].remedy == (
        "'ssh node1 true' must work from here without a password, and /p must be there under the same path"
    )
