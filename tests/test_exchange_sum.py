"""Every strategy, under mpirun, against a NumPy sum of data that each rank can make for all ranks."""

import math
import re
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from mpi4py import MPI

from tests.mpi import run_mpi, run_warm
from theanompi.config import EXCHANGES, ConfigError
from theanompi.config.run import ROUNDING
from theanompi.device import FlatBuffer
from theanompi.exchange import STRATEGIES, cuda_aware, get_exchanger, nccl, route
from theanompi.exchange.asa import scale_of
from theanompi.exchange.background import Background
from theanompi.exchange.base import Bucket
from theanompi.exchange.naive import Naive

DESCRIPTIONS = {
    "overlap": "host memory, in chunks of 2 MiB",
    "ar": "host memory, in chunks of 2 MiB",
    "shm": "shared memory",
    "naive": "tensor by tensor through host memory",
    "fp16": "host memory, gradients of weights in float16, sums in float32",
    "bf16": "host memory, gradients of weights in bfloat16, sums in float32",
    "asa32": "host memory",
}
"""The strategies that need no GPU; asa16 is another name of fp16."""
HIDDEN = tuple(name for name in DESCRIPTIONS if STRATEGIES[name].hidden)
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cache
def run(n: int, case: str, strategies: tuple[str, ...], device: str = "cpu") -> str:
    """What the ranks said: each strategy in turn in one process, so that its start is paid for once."""
    if device.startswith("cpu") and "nothing" not in strategies:
        text = "import sys; from exchange_program import main; main(comm, *sys.argv[1:])"
        result = run_warm(n, text, case, device, *strategies)
    else:
        result = run_mpi(n, ["-m", "mpi4py", "tests/exchange_program.py", case, device, *strategies])
    assert result.returncode == 0, result.stderr
    return result.stdout


def right(said: str, strategy: str, n: int) -> list[str]:
    """By which way each of the ranks got the right sums."""
    lines = sorted(line for line in said.splitlines() if line.startswith(f"{strategy} is right on rank "))
    assert [line.split(" by ")[0] for line in lines] == [f"{strategy} is right on rank {r}" for r in range(n)]
    return [line.partition(" by ")[2] for line in lines]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("strategy", DESCRIPTIONS)
def test_sum_is_numpys(strategy: str, n: int) -> None:
    said = right(run(n, "sums", tuple(DESCRIPTIONS)), strategy, n)
    assert said == [DESCRIPTIONS[strategy].replace("2 MiB", "0 MiB")] * n


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("strategy", ["fp16", "bf16"])
def test_what_travels_in_16_bits_is_added_in_32(strategy: str, n: int) -> None:
    right(run(n, "rounded", ("fp16", "bf16")), strategy, n)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("strategy", HIDDEN)
def test_complete_buckets_are_summed_while_the_rest_is_computed(strategy: str, n: int) -> None:
    right(run(n, "hidden", HIDDEN), strategy, n)


@pytest.mark.parametrize("n", [3, 4])
def test_shared_memory_on_several_machines(n: int) -> None:
    assert right(run(n, "machines", ("shm",)), "shm", n) == ["shared memory, then between 2 machines"] * n


def test_negative_control() -> None:
    """Without the exchange the same program fails: it would see a sum that is missing."""
    with pytest.raises(AssertionError, match="sum of 121 values is wrong"):
        run(2, "sums", ("nothing",))


@pytest.mark.parametrize("case", ["sums", "hidden"])
@pytest.mark.parametrize("strategy", DESCRIPTIONS)
@pytest.mark.parametrize("aware", [", aware", ""])
def test_paths_of_a_device_buffer(aware: str, strategy: str, case: str) -> None:
    """What a CUDA buffer takes, but for CUDA itself."""
    if case == "hidden" and strategy not in HIDDEN:
        return
    strategies = HIDDEN if case == "hidden" else tuple(DESCRIPTIONS)
    said = right(run(2, case, strategies, f"cpu as cuda{aware}"), strategy, 2)
    if case == "sums" and strategy in ("overlap", "ar"):
        way = "device memory" if aware else "staged through pinned host memory"
        assert said == [f"{way} (told so), in chunks of 0 MiB"] * 2


@pytest.mark.parametrize("strategy", DESCRIPTIONS)
def test_a_rank_on_the_cpu_sums_with_others_on_devices(strategy: str) -> None:
    right(run(3, "sums", tuple(DESCRIPTIONS), "cpu on rank 0"), strategy, 3)


@CUDA
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("strategy", DESCRIPTIONS)
def test_sum_on_a_cuda_device(strategy: str, n: int) -> None:
    right(run(n, "sums", tuple(DESCRIPTIONS), "cuda:0"), strategy, n)


@CUDA
@pytest.mark.parametrize("strategy", HIDDEN)
def test_hidden_on_a_cuda_device(strategy: str) -> None:
    right(run(2, "hidden", HIDDEN, "cuda:0"), strategy, 2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, one for each rank")
@pytest.mark.parametrize("strategy", ["nccl", "nccl16"])
def test_sum_by_nccl(strategy: str) -> None:
    right(run(2, "sums", ("nccl", "nccl16"), "cuda by rank"), strategy, 2)


def test_the_buffers_of_several_objectives_share_one_communicator_of_nccl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of which a process has one."""
    log: list[str] = []
    gpu = SimpleNamespace(is_cuda=True, device="cuda:0")
    comm = SimpleNamespace(rank=0, size=1, allgather=lambda value: [value], bcast=lambda value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a"))
    monkeypatch.setattr(torch.cuda, "nccl", SimpleNamespace(version=lambda: (2, 27)))
    monkeypatch.setattr(nccl.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(nccl.distributed, "TCPStore", lambda *_, **__: SimpleNamespace(port=1))
    monkeypatch.setattr(nccl.distributed, "init_process_group", lambda *_, **__: log.append("made"))
    monkeypatch.setattr(nccl.distributed, "destroy_process_group", lambda: log.append("gone"))
    for _ in range(2):
        assert [nccl.join(comm, gpu), nccl.join(comm, gpu)] == ["device memory by NCCL 2.27"] * 2
        nccl.leave()
        assert log.pop() == "made" and log == []
        nccl.leave()
        assert log.pop() == "gone" and log == []


def test_nccl_is_refused_where_ranks_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimpleNamespace(is_cuda=True, device="cuda:0")
    comm = SimpleNamespace(size=3, allgather=lambda value: [value, "another", value])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a"))
    monkeypatch.setattr(nccl.distributed, "is_nccl_available", lambda: True)
    message = (
        "^exchange nccl: expected a GPU for each of the 3 ranks, got 2; remedy: --exchange shm or overlap, "
        "which let ranks share one$"
    )
    with pytest.raises(ConfigError, match=message):
        nccl.join(comm, gpu)


def test_nccl_is_refused_on_all_ranks_where_one_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the others would wait for it, to connect."""
    given: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a"))
    monkeypatch.setattr(nccl.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(nccl, "_connect", lambda *_: pytest.fail("waits for the other rank"))
    on_cpu = SimpleNamespace(size=2, allgather=lambda value: given.append(value) or ["a", value])
    with pytest.raises(ConfigError, match="^exchange nccl: expected CUDA devices .*, got cpu$"):
        nccl.join(on_cpu, torch.zeros(1))
    on_gpu = SimpleNamespace(size=2, allgather=lambda value: [value, *given])
    with pytest.raises(ConfigError, match="^exchange nccl: expected CUDA devices .*, got none on rank 1$"):
        nccl.join(on_gpu, SimpleNamespace(is_cuda=True, device="cuda:0"))


class Recorded(Naive):
    """Writes down when it was asked to sum."""

    def _exchange(self, bucket: Bucket, what: str) -> None:
        self.comm.log.append("sum")


def buffer_of(flat: object) -> SimpleNamespace:
    return SimpleNamespace(flat=flat, views={}, offsets={})


def test_the_device_is_waited_for_before_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", log.append)
    flat = SimpleNamespace(
        dtype=torch.float32, ndim=1, is_contiguous=lambda: True, is_cuda=True, device=torch.device("cuda:3")
    )
    flat.numel = lambda: 3
    Recorded(SimpleNamespace(size=2, log=log), buffer_of(flat)).sum()
    assert log == [torch.device("cuda:3"), "sum"]


@pytest.mark.parametrize("strategy", HIDDEN)
def test_values_told_of_twice_complete_no_bucket(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a recording of a CUDA graph that fails on its way: the values are computed anew."""
    exchanger = get_exchanger(strategy, MPI.COMM_SELF, FlatBuffer({"a": (2,), "b": (3,)}))
    assert isinstance(exchanger, Background)
    complete: list[str] = []
    monkeypatch.setattr(exchanger._signals, "set", lambda k: complete.append(f"bucket {k}"))
    for name in ("a", "a"):
        exchanger.written(name)
    assert complete == []
    for name in ("b", "a", "b"):
        exchanger.written(name)
    assert complete == ["bucket 0", "bucket 0"]
    exchanger.close()


def test_one_rank_has_nothing_to_do() -> None:
    log: list[object] = []
    Recorded(SimpleNamespace(size=1, log=log), buffer_of(torch.ones(3))).sum()
    assert log == []


def test_the_settings_know_which_strategies_round() -> None:
    assert set(ROUNDING) == {name for name, strategy in STRATEGIES.items() if not strategy.exact}


@pytest.mark.parametrize("strategy", ["ar", "overlap"])
def test_who_sums_in_the_background_with_another_rank_listens(strategy: str) -> None:
    exchanger = get_exchanger(strategy, MPI.COMM_SELF, FlatBuffer({"a": (2,)}))
    assert not exchanger.listens
    exchanger.comm = SimpleNamespace(size=2)  # type: ignore[assignment]
    assert exchanger.listens == (strategy == "overlap")


def test_a_bucket_is_complete_when_all_its_values_are_written_at_each_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of those calls that count: a CUDA graph is captured in a second one, and an earlier one may have ended early."""
    told: list[int] = []
    comm = SimpleNamespace(size=2, Dup=lambda: comm, allgather=lambda value: [value] * 2)
    exchanger = get_exchanger("overlap", comm, FlatBuffer({"a": (2, 2), "b": (3, 2), "c": (3,)}))
    monkeypatch.setattr(exchanger, "_signals", SimpleNamespace(set=told.append, begin=told.clear))
    monkeypatch.setattr(exchanger, "_thread", "which would wait for them")
    for _ in range(2):
        for name, expected in (("b", []), ("a", [0]), ("c", [0, 1])):
            exchanger.written(name)
            assert told == expected, name
        told.clear()
    exchanger.written("b")
    exchanger.begin()
    exchanger.written("a")
    assert told == []
    exchanger.written("b")
    assert told == [0]


@pytest.mark.parametrize("largest", [1e-44, 3e-30, 2.0**-15, 0.7, 2.0**15, 65519.0, 65535.0, 3e38])
def test_what_travels_in_float16_is_scaled_to_its_range_and_not_beyond_that_of_float32(
    largest: float,
) -> None:
    values = torch.tensor([largest / 3, -largest, 0.0], dtype=torch.float32)
    scale = scale_of(values)
    scaled = values * scale
    assert math.frexp(scale)[0] == 0.5, "another number would round"
    assert 0 < float(torch.tensor(scale)) < math.inf and torch.equal(scaled / scale, values)
    assert torch.isfinite(scaled.half()).all()
    assert scaled.abs().max() > 2.0**14 or scale == 2.0**100


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
        ConfigError, match=r"^exchange: expected one of overlap, .*, got 'naiv'; did you mean 'naive'\?$"
    ):
        get_exchanger("naiv", SimpleNamespace(size=1), buffer_of(torch.zeros(1)))
    assert {"auto", *STRATEGIES} == set(EXCHANGES), (
        "the names that a configuration may have are those there are"
    )


def test_names_of_theano_mpi() -> None:
    assert STRATEGIES["nccl32"] is STRATEGIES["nccl"] and STRATEGIES["asa16"] is STRATEGIES["fp16"]


@pytest.mark.parametrize("strategy", ["fp16", "bf16", "asa16", "nccl16"])
def test_weights_do_not_travel_in_16_bits(strategy: str) -> None:
    message = (
        f"^exchange {strategy}: expected one that does not round, as weights are averaged here, got one for "
    )
    with pytest.raises(ConfigError, match=message):
        get_exchanger(strategy, SimpleNamespace(size=1), buffer_of(torch.zeros(1)), averages=True)


@pytest.mark.parametrize("strategy", ["ar", "naive"])
def test_a_way_through_host_memory_can_be_refused(strategy: str) -> None:
    message = (
        rf"^exchange {strategy}: expected CUDA memory to be handed over as it is \(require_cuda_aware\), "
        "got .*host memory"
    )
    with pytest.raises(ConfigError, match=message):
        get_exchanger(strategy, SimpleNamespace(size=1), buffer_of(torch.zeros(1)), require_cuda_aware=True)


def test_a_strategy_that_is_refused_leaves_nothing_behind() -> None:
    code = """if True:
        from exchange_program import Counted
        from theanompi import device
        from theanompi.config import ConfigError
        from theanompi.exchange import get_exchanger
        buffer = device.FlatBuffer({"w": (3, 1)})
        buffer.flat.fill_(7)
        try:
            get_exchanger("shm", Counted(comm), buffer, require_cuda_aware=True)
        except ConfigError as error:
            print(error)
        assert Counted.made == 0 and buffer.flat.tolist() == [7, 7, 7]"""
    result = run_warm(2, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("exchange shm: expected CUDA memory to be handed over as it is") == 2


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
    """In a rank, since asking needs MPI; whatever it answers, it answers without a crash."""
    result = run_warm(1, "from theanompi.exchange import cuda_aware; print(*cuda_aware.query())")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(("True MPI is CUDA-aware by MPIX_", "False MPI is not CUDA-aware "))


def test_ar_works_in_chunks() -> None:
    """Each value once; the whole buffer at once would be as right, and several times slower."""
    calls: list[int] = []

    def double(in_place: object, message: list) -> None:
        calls.append(message[0].size)
        message[0] *= 2

    chunk = route.CHUNK // 4
    flat = torch.ones(2 * chunk + 13)
    comm = SimpleNamespace(
        size=2,
        Allreduce=double,
        Ibarrier=lambda: SimpleNamespace(Test=lambda: True),
        allgather=lambda value: [value] * 2,
    )
    get_exchanger("ar", comm, buffer_of(flat)).sum()
    assert calls == [chunk, chunk, 13]
    assert bool((flat == 2).all())


CHOOSE = """
import time
from unittest import mock
import torch
from mpi4py import MPI
from theanompi import device
from theanompi.config import ConfigError
from theanompi.exchange import STRATEGIES, choose
from exchange_program import Counted, close

class Impossible(STRATEGIES["naive"]):
    def __init__(self, comm, buffer):
        raise ConfigError("exchange nccl: not here")

class Slow(STRATEGIES["ar"]):
    def _sum(self, bucket):
        # One slow rank is what all of them wait for.
        time.sleep(0.2 if self.comm.rank == 1 else 0)

buffer = device.FlatBuffer({"w": (300_000, 1), "b": (3,)})
values = torch.randn(300_003, generator=torch.Generator().manual_seed(comm.rank))
values[:2] = torch.tensor([float("nan"), -0.0])
buffer.flat.copy_(values)
start = time.monotonic()
with mock.patch.dict(STRATEGIES, nccl=Impossible, ar=Slow), mock.patch("theanompi.exchange._SECONDS", 1.0):
    choice = choose(Counted(comm), buffer)
assert torch.equal(buffer.flat.view(torch.int32), values.view(torch.int32)), "the measurement changed the buffer"
assert time.monotonic() - start < 60
assert set(choice.seconds) == {"overlap", "ar", "shm"} and choice.refused == {"nccl": "not here"}
assert choice.seconds[choice.name] == min(choice.seconds.values())
buffer.flat.fill_(comm.rank + 1)
choice.exchanger.sum()
close(choice.exchanger)
assert bool((buffer.flat == sum(range(1, comm.size + 1))).all())
texts = comm.gather(f"{choice.name}\\n{choice.table(1_200_012)}") or []  # printed by two ranks, lines may come mixed
print(*texts, sep="\\n", end="", flush=True)
"""


@pytest.mark.parametrize("n", [2, 4])
def test_auto_takes_the_fastest_everywhere_and_leaves_the_values(n: int) -> None:
    result = run_warm(n, CHOOSE)
    assert result.returncode == 0, result.stderr
    names = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert len(names) == n and len(set(names)) == 1 and names[0] in ("overlap", "shm")
    assert len(re.findall(r"^  (overlap|shm) +\d+\.\d ms +\d+\.\d\d GB/s   taken$", result.stdout, re.M)) == n
    assert len(re.findall(r"^  ar +([2-9]|\d+\d)\d\d\.\d ms +0\.0\d GB/s$", result.stdout, re.M)) == n
    assert result.stdout.count("  nccl     not here") == n


FAILS = """
from mpi4py import MPI
from theanompi import device
from theanompi.exchange import get_exchanger

exchanger = get_exchanger("overlap", MPI.COMM_WORLD, device.FlatBuffer({"w": (8, 1)}))
if MPI.COMM_WORLD.rank == 1:
    def broken(bucket):
        raise ArithmeticError("the thread's own mistake")
    exchanger._sum = broken
exchanger.sum()
MPI.COMM_WORLD.Barrier()
"""


def test_an_error_on_the_helper_thread_ends_the_run() -> None:
    result = run_mpi(2, ["-m", "mpi4py", "-c", FAILS])
    assert result.returncode != 0
    assert "ArithmeticError: the thread's own mistake" in result.stderr


def test_no_room_in_shared_memory_is_one_line_on_all_ranks() -> None:
    code = """if True:
        import os, types
        from unittest import mock
        from theanompi import device
        from theanompi.config import ConfigError
        from theanompi.exchange import get_exchanger
        free = 1 << 20 if comm.rank == 0 else 1 << 40
        room = types.SimpleNamespace(f_bavail=free, f_frsize=1)
        try:
            with mock.patch.object(os, "statvfs", lambda path: room):
                get_exchanger("shm", comm, device.FlatBuffer({"w": (1 << 20, 1)}))
        except ConfigError as error:
            print(error)"""
    result = run_warm(2, code)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 2 and lines[0] == lines[1]
    assert lines[0].startswith("exchange shm: expected room for the gradients of all ranks in /dev/shm")
    assert (
        "got 7 MiB too little on one; remedy: a larger one (docker run --shm-size), or --exchange overlap"
        in lines[0]
    )
