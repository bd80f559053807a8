"""Every strategy, under mpirun, against a NumPy sum of data that each rank can make for all ranks."""

from types import SimpleNamespace

import pytest
import torch

from tests.mpi import run_mpi
from theanompi.config import EXCHANGES, ConfigError
from theanompi.exchange import STRATEGIES, Exchanger, ar, cuda_aware, get_exchanger

# argv: strategy, device. "cpu as cuda" runs the code for a CUDA buffer on host memory that says it is one.
PROGRAM = """
import sys
import numpy as np, torch
from mpi4py import MPI
from theanompi import device
from theanompi.exchange import STRATEGIES, Exchanger, ar, cuda_aware, get_exchanger

class Nothing(Exchanger):
    description = "the negative control"
    def _sum(self):
        pass

class Disguised(torch.Tensor):
    is_cuda = True

STRATEGIES["nothing"] = Nothing
comm, (strategy, name) = MPI.COMM_WORLD, sys.argv[1:]
disguised = name.startswith("cpu as cuda")
if disguised:
    synchronized = []
    torch.cuda.synchronize = synchronized.append
    empty = torch.empty
    torch.empty = lambda *shape, pin_memory, **options: empty(*shape, **options)
    cuda_aware.query = lambda: (name.endswith("aware"), "told so")
else:
    device.use(name)

def data(rank, call, size):
    # whole numbers, whose float32 sum is exact in any order
    return np.random.default_rng([rank, call, size]).integers(-1000, 1000, size).astype("float32")

chunk = ar.CHUNK // 4
for size in [4 * 3 * 3 * 3 + 1, 1007, chunk - 1, chunk, chunk + 1, 2 * chunk + 13]:
    buffer = device.FlatBuffer({"conv": (4, 3, 3, 3), "rest": (size - 108,)})
    if disguised:
        buffer.flat = buffer.flat.as_subclass(Disguised)
    exchanger = get_exchanger(strategy, comm, buffer)
    for call in range(2):
        buffer.flat.copy_(torch.from_numpy(data(comm.rank, call, size)))
        exchanger.sum()
        expected = np.sum([data(rank, call, size) for rank in range(comm.size)], axis=0, dtype="float64")
        got = np.asarray(buffer.flat.cpu())
        if not np.array_equal(got, expected):
            wrong = np.count_nonzero(got != expected)
            sys.exit(f"rank {comm.rank}: sum of {size} values is wrong in {wrong} places")
    if disguised:
        assert synchronized == [buffer.flat.device] * 2, synchronized
        synchronized.clear()
print("right on rank", comm.rank, "of", comm.size, "by", exchanger.description)
"""


def run(n: int, strategy: str, device: str = "cpu") -> list[str]:
    """What each rank said about its sums."""
    result = run_mpi(n, ["-m", "mpi4py", "-c", PROGRAM, strategy, device])
    assert result.returncode == 0, result.stderr
    lines = sorted(result.stdout.splitlines())
    assert [line.split(" by ")[0] for line in lines] == [f"right on rank {rank} of {n}" for rank in range(n)]
    return [line.split(" by ", 1)[1] for line in lines]


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sum_is_numpys(strategy: str, n: int) -> None:
    expected = {"ar": "host memory, in chunks of 2 MiB", "naive": "tensor by tensor through host memory"}
    assert run(n, strategy) == [expected[strategy]] * n


def test_negative_control() -> None:
    """Without the exchange the same program fails: it would see a sum that is missing."""
    result = run_mpi(2, ["-m", "mpi4py", "-c", PROGRAM, "nothing", "cpu"])
    assert result.returncode != 0
    assert "sum of 109 values is wrong" in result.stderr


@pytest.mark.parametrize(
    ("name", "description"),
    [
        ("cpu as cuda, aware", "device memory (told so)"),
        ("cpu as cuda", "staged through pinned host memory (told so), in chunks of 2 MiB"),
    ],
)
def test_paths_of_a_device_buffer(name: str, description: str) -> None:
    """What a CUDA buffer takes, but for CUDA itself: the device is waited for first, once in each sum."""
    assert run(2, "ar", name) == [description] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sum_on_a_cuda_device(strategy: str, n: int) -> None:
    for description in run(n, strategy, "cuda:0"):
        assert description.startswith(("device memory", "staged through pinned", "tensor by tensor"))


class Recorded(Exchanger):
    """Writes down when it was asked to sum."""

    description = "for tests"

    def _sum(self) -> None:
        self.comm.log.append("sum")


def buffer_of(flat: object) -> SimpleNamespace:
    return SimpleNamespace(flat=flat, views={})


def test_the_device_is_waited_for_before_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", log.append)
    flat = SimpleNamespace(
        dtype=torch.float32, ndim=1, is_contiguous=lambda: True, is_cuda=True, device=torch.device("cuda:3")
    )
    Recorded(SimpleNamespace(size=2, log=log), buffer_of(flat)).sum()
    assert log == [torch.device("cuda:3"), "sum"]


def test_one_rank_has_nothing_to_do() -> None:
    log: list[object] = []
    Recorded(SimpleNamespace(size=1, log=log), buffer_of(torch.ones(3))).sum()
    assert log == []


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("flat", "got"),
    [
        (torch.zeros(3, dtype=torch.float64), r"torch.float64 of shape \(3,\) and strides \(1,\)"),
        (torch.zeros(3, dtype=torch.bfloat16), r"torch.bfloat16 of shape \(3,\) and strides \(1,\)"),
        (torch.zeros(6)[::2], r"torch.float32 of shape \(3,\) and strides \(2,\)"),
        (torch.zeros(2, 3), r"torch.float32 of shape \(2, 3\) and strides \(3, 1\)"),
    ],
)
def test_other_buffers_are_refused(strategy: str, flat: torch.Tensor, got: str) -> None:
    message = f"^exchange: expected the flat buffer to be a contiguous float32 vector, got {got}$"
    with pytest.raises(ValueError, match=message):
        get_exchanger(strategy, SimpleNamespace(size=1), buffer_of(flat))


def test_unknown_strategy() -> None:
    with pytest.raises(
        ConfigError, match="^exchange: expected one of ar, naive, got 'naiv'; did you mean 'naive'\\?$"
    ):
        get_exchanger("naiv", SimpleNamespace(size=1), buffer_of(torch.zeros(1)))
    assert set(STRATEGIES) == set(EXCHANGES), "the names that a configuration may have are those there are"


def library(cuda: int | None = None, gpu: int | None = None, status: int = 0) -> SimpleNamespace:
    """An MPI library with the functions that have an answer."""
    functions = {}
    if cuda is not None:
        functions["MPIX_Query_cuda_support"] = lambda: cuda
    if gpu is not None:

        def query(kind: int, answer: object) -> int:
            assert kind == 0, "MPIX_GPU_SUPPORT_CUDA"
            answer._obj.value = gpu  # type: ignore[attr-defined]
            return status

        functions["MPIX_GPU_query_support"] = query
    return SimpleNamespace(**functions)


@pytest.mark.parametrize(
    ("answers", "aware", "reason"),
    [
        ({"cuda": 1}, True, "by MPIX_Query_cuda_support"),
        ({"cuda": 0}, False, "by MPIX_Query_cuda_support"),
        ({"gpu": 1}, True, "by MPIX_GPU_query_support"),
        ({"gpu": 1, "status": 5}, False, "by MPIX_GPU_query_support"),
        ({"cuda": 0, "gpu": 1}, True, "by MPIX_GPU_query_support"),
        ({"cuda": 0, "gpu": 0}, False, "by MPIX_Query_cuda_support and MPIX_GPU_query_support"),
        ({}, False, "as far as it can be asked"),
    ],
)
def test_cuda_aware_as_the_library_says(answers: dict[str, int], aware: bool, reason: str) -> None:
    assert cuda_aware.query(library(**answers)) == (
        aware,
        f"MPI is {'' if aware else 'not '}CUDA-aware {reason}",
    )


def test_cuda_aware_asks_the_library_at_hand() -> None:
    """In a process of its own, since asking needs MPI; whatever it answers, it answers without a crash."""
    result = run_mpi(1, ["-c", "from theanompi.exchange import cuda_aware; print(*cuda_aware.query())"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(("True MPI is CUDA-aware by MPIX_", "False MPI is not CUDA-aware "))


def test_ar_works_in_chunks() -> None:
    """Each value once; the whole buffer at once would be as right, and several times slower."""
    calls: list[int] = []

    def double(in_place: object, message: list) -> None:
        calls.append(message[0].size)
        message[0] *= 2

    chunk = ar.CHUNK // 4
    flat = torch.ones(2 * chunk + 13)
    get_exchanger("ar", SimpleNamespace(size=2, Allreduce=double), buffer_of(flat)).sum()
    assert calls == [chunk, chunk, 13]
    assert bool((flat == 2).all())
