"""The proof that a library is CUDA-aware: libraries that crash, hang, sum wrong or are slow, and one decision for all.

Without a GPU the device is the CPU: MPI is then given the tensor itself ("direct") or a copy of it ("staged").
"""

import sys
from functools import cache

import numpy as np
import pytest
import torch

from tests.mpi import run_warm
from theanompi.exchange import cuda_aware, probe
from theanompi.exchange.cuda_aware import Proof, prove
from theanompi.launch.mpirun import Outcome

# The real program of the proof, with a library that does something wrong when it is given device memory.
SPOILED = """
import os, signal, sys, time
from mpi4py import MPI
from theanompi.exchange import cuda_aware, probe

class Spoiled(MPI.Intracomm):
    def Allreduce(self, place, message):
        super().Allreduce(place, message)
        {spoil}

measure = probe.measure

def spoiled(comm, path, flat, repeats):
    return measure(Spoiled(comm) if path == {path!r} else comm, path, flat, repeats)

probe.measure = spoiled
cuda_aware.query = lambda: (True, "told so")
probe.main(sys.argv[1])
"""

# Of two ranks that say it at once the lines mix: one of them says nothing.
RAISE = "sys.stderr = sys.stderr if self.rank == 0 else open(os.devnull, 'w'); raise MPI.Exception(MPI.ERR_INTERN)"


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A function that makes a program of the proof whose library does something after each sum of a path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(spoil: str, path: str = "direct") -> str:
        (tmp_path / "spoiled_probe.py").write_text(SPOILED.format(spoil=spoil, path=path))
        return "spoiled_probe"

    return make


# The program of the proof on ranks that are there already; how many cores it may use goes for a job of its own.
WARM = """
import os, runpy, sys
from types import SimpleNamespace
from unittest import mock
from mpi4py import MPI
from theanompi.exchange import cuda_aware, probe
folder, module, task = sys.argv[1:]
sys.path.insert(0, folder)
sys.argv[1:] = [task]
with (
    mock.patch.multiple(probe, measure=probe.measure, MPI=SimpleNamespace(**vars(MPI) | {"COMM_WORLD": comm})),
    mock.patch.multiple(cuda_aware, query=cuda_aware.query),
    mock.patch.object(os, "sched_setaffinity"),
):
    runpy.run_module(module)
"""


@pytest.fixture
def warm(tmp_path, monkeypatch):
    """For libraries at which the program ends well."""

    def run_ranks(n, program, timeout, devices):
        *_, module, task = program
        done = run_warm(n, WARM, str(tmp_path), module, task)
        return Outcome(done.returncode, done.stdout, done.stderr)

    monkeypatch.setattr(cuda_aware, "run_ranks", run_ranks)


def test_a_library_that_is_faster_than_staging(library, warm):
    proof = prove(["cpu"], values=1_000_000, module=library("time.sleep(0.05)", path="staged"))
    assert proof.claimed and proof.right and proof.use_direct
    assert proof.staged_s > 0.05 and proof.staged_s > proof.direct_s > 0
    assert proof.reason == (
        f"right sums, faster: {proof.direct_s * 1e3:.1f} ms against {proof.staged_s * 1e3:.1f} ms staged, "
        "2 ranks on cpu, 4 MB"
    )


def test_one_that_is_slower(library, warm):
    proof = prove(["cpu"], values=500_000, module=library("time.sleep(0.05)"))
    assert proof.right and not proof.use_direct
    assert proof.direct_s > 0.05
    assert proof.reason.startswith(f"right sums, not faster: {proof.direct_s * 1e3:.1f} ms against ")


@pytest.mark.parametrize("which", ["rank == 1", "size == 2"])
def test_one_that_sums_wrong(library, warm, which):
    """On one rank, or on all; one value of many."""
    proof = prove(["cpu"], values=100_000, module=library(f"if self.{which}: message[0][77_777] += 1"))
    assert proof.claimed and not proof.right and not proof.use_direct
    assert proof.direct_s and proof.staged_s
    assert proof.reason.startswith("wrong sums (direct), ")


def test_one_that_returns_what_was_summed_before(library, warm):
    """The values of each call differ, so that not to have summed at all is noticed too."""
    proof = prove(
        ["cpu"], values=1000, module=library("message[0][:] = self.__dict__.setdefault('kept', 0) or 1")
    )
    assert not proof.right


def test_one_that_crashes(library):
    proof = prove(["cpu"], values=1000, module=library("os.kill(os.getpid(), signal.SIGSEGV)"))
    assert (proof.claimed, proof.right, proof.direct_s, proof.use_direct) == (True, False, None, False)
    assert proof.staged_s > 0, "what was known before the crash is kept"
    assert proof.reason == "not proven: 2 ranks on cpu: the job crashed (Segmentation fault)"


def test_one_that_raises(library):
    proof = prove(["cpu"], values=1000, module=library(RAISE))
    assert proof.reason.startswith("not proven: 2 ranks on cpu: the job failed (mpi4py.MPI.Exception: ")


def test_one_that_fails_on_a_second_thread(library):
    """Where the exchange runs that is hidden behind backward: what works on the main thread is no proof."""
    spoil = f"if threading.current_thread() is not threading.main_thread(): {RAISE}"
    proof = prove(["cpu"], values=1000, module=library(f"import threading\n        {spoil}"))
    assert not proof.right
    assert proof.reason.startswith("not proven: 2 ranks on cpu: the job failed (mpi4py.MPI.Exception: ")


def test_one_that_fails_at_parts_of_what_it_was_given_whole(library):
    """The exchange sums in chunks: 2 MiB of 4 MB is one."""
    proof = prove(["cpu"], values=1_000_000, module=library("assert len(message[0]) == 1_000_000"))
    assert not proof.right


def test_one_that_hangs(library):
    module = library("time.sleep(300)")
    for timeout in (6, 20, 60):  # a busy machine needs longer to come so far
        proof = prove(["cpu"], values=1000, timeout=timeout, module=module)
        assert proof.reason == f"not proven: 2 ranks on cpu: the job had not ended after {timeout} s"
        if proof.staged_s is not None:
            break
    assert (proof.claimed, proof.right, proof.direct_s) == (True, False, None)
    assert proof.staged_s > 0


def test_without_an_mpirun(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    proof = prove(["cpu"], values=1000)
    assert not proof.use_direct
    assert proof.reason.startswith("not proven: mpirun: expected one in ")


ALONE = """
from mpi4py import MPI
import sys
from theanompi.exchange import probe
class Alone:
    Get_size, Get_rank = (lambda self: 1), (lambda self: 0)
probe.MPI = type("MPI", (), dict(vars(MPI), COMM_WORLD=Alone()))
probe.main(sys.argv[1])
"""


def test_an_mpirun_of_another_mpi(tmp_path, monkeypatch):
    """Each of its processes takes itself for the only one."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "alone_probe.py").write_text(ALONE)
    proof = prove(["cpu"], values=1000, module="alone_probe")
    reason = "not proven: 2 ranks on cpu: expected one job of 2 ranks, got 1: this mpirun is another MPI's"
    assert proof == Proof(False, False, None, None, reason)


def test_known_values() -> None:
    """Against NumPy: whole numbers below 2^24, so that float32 sums are exact."""
    flat, n = torch.zeros(5000), np.arange(5000)
    for rank, call in [(0, 0), (3, 2)]:
        probe.fill(flat, rank, call)
        assert np.array_equal(flat.numpy(), (n % 1009 + call + 1) * (rank + 1))


MEASURE = """
import torch
from theanompi.exchange import probe
for size in (1, 1007, probe.CHUNK // 4 + 1):
    for path in ("host", "direct", "staged"):
        found = probe.measure(comm, path, torch.zeros(size), 2)
        assert found.right and found.bytes == 4 * size and found.seconds > 0, found
        assert comm.allgather(found) == [found] * comm.size
print("right")
"""


@pytest.mark.parametrize("n", [1, 2, 4])
def test_every_path_is_right(n):
    result = run_warm(n, MEASURE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["right"] * n


# Ranks on two machines: the first half of them on one, the others on the other.
DECIDE = """
from unittest import mock
import torch
from mpi4py import MPI
from theanompi.exchange import cuda_aware
from theanompi.exchange.cuda_aware import Proof, decide

class Machines(MPI.Intracomm):
    def Split_type(self, kind):
        return self.Split(2 * self.rank // self.size)

comm = Machines(comm)
second, last = 2 * comm.rank // comm.size, comm.rank == comm.size - 1
results = []
for how in ("right", "wrong", "silent", "hidden", "cpu", "mixed"):
    calls = []

    def prove(devices):
        calls.append(devices)
        wrong = how == "wrong" and second
        return Proof(True, not wrong, 1.0, 2.0, "wrong sums" if wrong else "right sums")

    library = {
        "query": lambda: (how != "silent", "told so"),
        "_identity": lambda device: "hidden" if how == "hidden" and last else device,
        "prove": prove,
        "_decision": None,
    }
    device = torch.device("cpu" if how == "cpu" or (how == "mixed" and comm.rank == 0) else f"cuda:{comm.rank}")
    with mock.patch.multiple(cuda_aware, **library), mock.patch("torch.cuda.device_count", lambda: 8):
        first = decide(comm, device)
        assert decide(comm, device) == first
    results.append(f"{how}|{comm.rank}|{first.direct}|{first.reason}|{calls}\\n")
print(end="".join(results))
"""


@cache
def decisions(n: int) -> dict[str, list[list[str]]]:
    """For each case what each rank decided, why, and what it had proven."""
    result = run_warm(n, DECIDE)
    assert result.returncode == 0, result.stderr
    found: dict[str, list[list[str]]] = {}
    for how, _, *words in sorted(text.split("|") for text in result.stdout.splitlines()):
        found.setdefault(how, []).append(words)
    assert len(found) == 6 and {len(ranks) for ranks in found.values()} == {n}
    return found


@pytest.mark.parametrize("n", [2, 4])
def test_one_rank_per_machine_proves_it_on_the_devices_there(n):
    found = decisions(n)["right"]
    assert {(direct, reason.split(" on ")[0]) for direct, reason, _ in found} == {("True", "right sums")}
    assert found[0][1].endswith(", and so on 2 machines")
    assert [calls for *_, calls in found] == {
        2: ["[['cuda:0']]", "[['cuda:1']]"],
        4: ["[['cuda:0', 'cuda:1']]", "[]", "[['cuda:2', 'cuda:3']]", "[]"],
    }[n]


@pytest.mark.parametrize("n", [2, 4])
def test_staging_on_one_machine_is_staging_on_all(n):
    found = decisions(n)["wrong"]
    assert {(direct, reason.split(" on ")[0]) for direct, reason, _ in found} == {("False", "wrong sums")}
    assert len({reason for _, reason, _ in found}) == 1


@pytest.mark.parametrize("n", [2, 4])
def test_nothing_is_tried_without_a_claim_or_a_gpu(n):
    for how, reason in {"silent": "told so on ", "cpu": "host memory"}.items():
        for direct, text, calls in decisions(n)[how]:
            assert (direct, calls) == ("False", "[]")
            assert text.startswith(reason)
    reasons = [reason for _, reason, _ in decisions(n)["mixed"]]
    assert reasons == ["host memory", *["some ranks compute on the CPU"] * (n - 1)]


def test_gpus_that_are_hidden_from_each_other():
    """Slurm may show each rank its own GPU only, which all then call cuda:0."""
    found = decisions(4)["hidden"]
    assert {direct for direct, *_ in found} == {"False"}
    assert found[0][1].startswith("not proven: cuda:3 is not the same GPU to all ranks of ")
    assert found[2][2] == "[]"


def test_one_rank_has_nothing_to_decide():
    assert decisions(1)["right"] == [["False", "one rank has nothing to exchange", "[]"]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_library_at_hand_on_a_gpu():
    claimed, _ = cuda_aware.query()
    proof = prove(["cuda:0"])
    assert proof.staged_s
    assert proof.right or not claimed, proof.reason
