"""What the tests of the exchange run: `main`, or ``python tests/exchange_program.py CASE DEVICE STRATEGY…``.

The device "cpu as cuda" runs the code for a CUDA buffer on host memory that says it is one, "cpu on rank 0" only on the
others; with ", aware" MPI claims to take it. The case says what is done to the buffer; each rank checks its result
against NumPy.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from threading import current_thread, local
from threading import enumerate as enumerate_threads
from typing import Any
from unittest import mock

import numpy as np
import torch
from mpi4py import MPI

from theanompi import device
from theanompi.exchange import STRATEGIES, Exchanger, background, cuda_aware, get_exchanger, route, shm
from theanompi.exchange.asa import AlltoallSumAllgather
from theanompi.exchange.base import Bucket

COMM: MPI.Intracomm = MPI.COMM_WORLD
UNIT = 10_000
"""Elements of a bucket here: small, so that a few of them are summed in no time."""
BITS = {"bf16": 8, "fp16": 11, "asa16": 11, "nccl16": 11}
"""Significant bits, the hidden one included, of what travels."""


class Nothing(Exchanger):
    """The negative control."""

    description = "the negative control"

    def _sum(self, bucket: Bucket) -> None:
        pass


class Counted(MPI.Intracomm):
    """A communicator that knows how many were made of it, and of those, and not given back."""

    made = 0

    def Dup(self, *info: Any) -> "Counted":  # noqa: N802
        Counted.made += 1
        return Counted(super().Dup(*info))

    def Split(self, *how: Any) -> MPI.Intracomm:  # noqa: N802
        return Counted._counted(super().Split(*how))

    def Split_type(self, *how: Any) -> MPI.Intracomm:  # noqa: N802
        return Counted._counted(super().Split_type(*how))

    @staticmethod
    def _counted(comm: MPI.Intracomm) -> MPI.Intracomm:
        if comm == MPI.COMM_NULL:
            return comm
        Counted.made += 1
        return Counted(comm)

    def Free(self) -> None:  # noqa: N802
        Counted.made -= 1
        super().Free()


class Stream:
    """A stream of a device that begins nothing before somebody waits for it, as a slow one may do."""

    def __init__(self, *_: Any) -> None:
        self._work: list[Callable[[], object]] = []

    def add(self, work: Callable[[], object]) -> None:
        self._work.append(work)

    def finish(self) -> None:
        while self._work:
            self._work.pop(0)()

    def wait_stream(self, other: "Stream") -> None:
        self.add(other.finish)

    def synchronize(self) -> None:
        BOUND.append(current_thread().name)
        self.finish()


class Event:
    """What has been told to a stream until `record`."""

    def __init__(self, **_: Any) -> None:
        self._happened = False

    def record(self) -> None:
        self._stream = current_stream()
        self._stream.add(lambda: setattr(self, "_happened", True))

    def synchronize(self) -> None:
        while not self._happened:
            self._stream._work.pop(0)()


CURRENT = local()
MAIN = Stream()
"""The device's stream by default, of all threads."""


def current_stream(*_: Any) -> Stream:
    return getattr(CURRENT, "stream", None) or MAIN


@contextlib.contextmanager
def within(stream: Stream | None) -> Iterator[None]:
    CURRENT.stream, before = stream, getattr(CURRENT, "stream", None)
    try:
        yield
    finally:
        CURRENT.stream = before


class Disguised(torch.Tensor):
    """Host memory that says it is a device's: what does not block waits in the current stream, all else for that."""

    is_cuda = True  # type: ignore[assignment]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})

        def work() -> Any:
            return super(Disguised, cls).__torch_function__(func, types, args, kwargs)

        if func is torch.Tensor.copy_ and kwargs.pop("non_blocking", False):
            current_stream().add(work)
            return args[0]
        current_stream().finish()
        return work()


class Pinned:
    """Memory that is not pinned; how much of it is not released."""

    held = 0

    def __init__(self, memory: np.ndarray) -> None:
        Pinned.held += memory.nbytes

    def release(self) -> None:
        Pinned.held = 0


SYNCHRONISED: list[Any] = []
BOUND: list[str] = []
"""The threads that waited for their stream, in this order; it is a call that needs a context."""


@contextlib.contextmanager
def disguised(aware: bool | None) -> Iterator[None]:
    """Let everything that the strategies ask of torch.cuda be there; for None, ranks decide what they do."""

    def unpinned(make: Any) -> Any:
        return lambda *shape, pin_memory=False, **more: make(*shape, **more)

    with (
        mock.patch.multiple(
            torch.cuda,
            synchronize=SYNCHRONISED.append,
            Stream=Stream,
            Event=Event,
            stream=within,
            current_stream=current_stream,
        ),
        mock.patch.multiple(torch, empty=unpinned(torch.empty), zeros=unpinned(torch.zeros)),
        mock.patch.object(shm, "Pinned", Pinned),
        contextlib.nullcontext()
        if aware is None
        else mock.patch.object(cuda_aware, "decide", lambda *_: cuda_aware.Decision(aware, "told so")),
    ):
        yield


def make(strategy: str, name: str, shapes: dict[str, tuple[int, ...]]) -> tuple[Exchanger, Any]:
    buffer = device.FlatBuffer(shapes)
    if name.startswith("cpu as cuda"):
        buffer.flat = buffer.flat.as_subclass(Disguised)
    exchanger = get_exchanger(strategy, COMM, buffer)
    if buffer.flat.data_ptr() % 64:
        sys.exit(f"{strategy}: rank {COMM.rank}'s buffer begins where vectors do not fit")
    return exchanger, buffer


def close(exchanger: Exchanger) -> None:
    """Close an exchanger, which leaves nothing behind."""
    exchanger.close()
    assert Counted.made == 0, f"{Counted.made} communicators are left"
    assert getattr(exchanger, "_window", MPI.WIN_NULL) == MPI.WIN_NULL, "a window is left"
    assert Pinned.held == 0, "memory is left pinned"
    assert "exchange" not in [thread.name for thread in enumerate_threads()], "a thread is left"


def whole(rank: int, step: int, size: int) -> np.ndarray:
    """Whole numbers, whose float32 sum is exact in any order."""
    return np.random.default_rng([rank, step, size]).integers(-1000, 1000, size).astype("float32")


def bound(strategy: str) -> float:
    """How far the sum of such numbers may be off: each value is rounded, and so is the sum."""
    exact = STRATEGIES[strategy].exact or COMM.size == 1
    return 0.0 if exact else 2 * COMM.size * 1000 * 2.0 ** -BITS[strategy]


def fill(buffer: Any, values: np.ndarray) -> None:
    buffer.flat.copy_(torch.from_numpy(values))


def check(buffer: Any, expected: np.ndarray, bound: float | np.ndarray = 0.0) -> None:
    got = np.asarray(buffer.flat.cpu())
    wrong = ~(np.abs(got - expected) <= bound)
    if wrong.any():
        at = int(np.argmax(wrong))
        sys.exit(
            f"rank {COMM.rank}: sum of {got.size} values is wrong in {np.count_nonzero(wrong)} places, "
            f"first {at}: expected {expected[at]!r}, got {got[at]!r}"
        )


def layouts() -> Iterator[dict[str, tuple[int, ...]]]:
    """Buffers smaller and larger than a bucket and than the ranks are many, odd ones, with nothing in between."""
    for size in (1, 1007, UNIT - 1, UNIT, UNIT + 1, 2 * UNIT + 13):
        yield {"conv": (4, 3, 3, 3), "w": (size, 1), "bias": (7,), "metrics": (5,)}
    yield {"bias": (3,)}
    yield {"w": (1, 1), "nothing": (0, 4), "none": (0,)}
    yield {f"w{k}": (UNIT // 3, 1) for k in range(10)} | {"bias": (3,)}


def ways(exchanger: Exchanger, names: list[str]) -> Iterator[str]:
    """What a caller may say before it asks for the sum."""
    yield "nothing"
    for way, order in (("forwards", names), ("backwards", names[::-1])):
        # As with accumulation, where earlier calls of the compiled function do not count.
        for name in order:
            exchanger.written(name)
        exchanger.begin()
        for name in order:
            exchanger.written(name)
        yield way
    if COMM.rank == 0:
        exchanger.begin()
        exchanger.written(names[0])
    yield "one rank begins, the others have no batch"


def sums(strategy: str, name: str) -> None:
    """Exact sums, in every way to ask for them, and only after the device has been waited for."""
    for shapes in layouts():
        exchanger, buffer = make(strategy, name, shapes)
        size = buffer.flat.numel()
        step = n_sums = 0
        fill(buffer, whole(COMM.rank, step, size))
        for _ in ways(exchanger, list(shapes)):
            exchanger.sum()
            total = np.sum([whole(rank, step, size) for rank in range(COMM.size)], axis=0, dtype="float64")
            check(buffer, total, bound(strategy))
            if COMM.size > 1:
                kinds = [span.kind for span in exchanger.spans]
                n_sums += len(kinds) // 2
                assert kinds == ["sync", "comm"] * (len(kinds) // 2) and kinds, kinds
                starts = [moment for span in exchanger.spans for moment in (span.start, span.end)]
                assert starts == sorted(starts)
            step += 1
            fill(buffer, whole(COMM.rank, step, size))
        close(exchanger)
        if name.startswith("cpu as cuda") and exchanger.hidden and COMM.size > 1:
            assert BOUND[:1] == ["exchange"], BOUND
            # Each of the four messages of a sum is in memory before MPI reads it.
            assert not isinstance(exchanger, AlltoallSumAllgather) or len(BOUND) == 1 + 4 * n_sums
        BOUND.clear()
        assert np.array_equal(np.asarray(buffer.flat.cpu()), whole(COMM.rank, step, size))
    print(strategy, "is right on rank", COMM.rank, "by", exchanger.description, flush=True)


def rounded(strategy: str, name: str) -> None:
    """16 bits on the wire and 32 in the sum, for magnitudes that float16 does not have, and for what is not finite."""
    n = 10_001
    exchanger, buffer = make(strategy, name, {"w": (n, 1), "metrics": (4,)})
    bits = BITS[strategy]
    everyones = []
    for rank in range(COMM.size):
        random = np.random.default_rng(rank)
        # Together with the normal ones, 40 binary orders of magnitude, far below float16's smallest number.
        values = random.normal(size=n + 4) * np.exp2(random.uniform(-60, -50, n + 4))
        values[n:] = 1e6 + 1 + rank
        everyones.append(values.astype("float32"))
    fill(buffer, everyones[COMM.rank])
    exchanger.sum()
    total = np.sum(everyones, axis=0, dtype="float64")
    limit = (
        2.0**-bits * (np.sum(np.abs(everyones), axis=0) + np.abs(total)) + np.abs(everyones).max() * 2.0**-38
    )
    limit[n:] = 0
    check(buffer, total, limit)
    got = np.asarray(buffer.flat.cpu())
    assert np.count_nonzero(got[:n] != total[:n].astype("float32")) > n / 2, "nothing was rounded"

    # In 16 bits 2^m + 1 + 1 + 1 stays what it is; in 32 it grows, and is rounded once.
    large = 2.0**bits
    fill(buffer, np.full(n + 4, large if COMM.rank == 0 else 1.0, "float32"))
    exchanger.sum()
    expected = np.full(n + 4, large + COMM.size - 1)
    # Neighbours are 2 apart there, and a tie goes to the multiple of 4.
    expected[:n] = {1: large, 2: large, 3: large + 2, 4: large + 4}[COMM.size]
    check(buffer, expected)

    fill(buffer, np.full(n + 4, np.inf if COMM.rank == COMM.size - 1 else 1.0, "float32"))
    exchanger.sum()
    assert bool(torch.isinf(buffer.flat).all())
    close(exchanger)
    print(strategy, "is right on rank", COMM.rank, flush=True)


def hidden(strategy: str, name: str) -> None:
    """Complete buckets are summed before the last value is there, and never before all ranks have theirs."""
    exchanger, buffer = make(strategy, name, {"a": (UNIT, 1), "b": (UNIT, 1), "c": (3,)})
    add_up, hurried = exchanger._sum, list[bool]()

    def noted(bucket: Bucket) -> None:
        # Whoever asks for the sum while the last bucket is on its way waits for it.
        deadline = time.monotonic() + 60
        while bucket.names == ("c",) and not exchanger._hurried() and time.monotonic() < deadline:
            time.sleep(0.001)
        hurried.append(bucket.names == ("c",) and exchanger._hurried())
        add_up(bucket)

    exchanger._sum = noted  # type: ignore[method-assign]
    for step in range(2):
        fill(buffer, whole(COMM.rank, step, 2 * UNIT + 3))
        exchanger.begin()
        if COMM.rank == COMM.size - 1:
            time.sleep(0.1)
        came = time.monotonic()
        exchanger.written("a")
        deadline = time.monotonic() + 60
        while len(exchanger.spans) < 2:
            assert time.monotonic() < deadline, "the first bucket is not summed while the second is computed"
            time.sleep(0.001)
        assert len(exchanger.spans) == 2
        assert not exchanger._hurried(), "a core is taken from what computes"
        exchanger.written("c")
        exchanger.written("b")
        exchanger.sum()
        assert hurried == [False, False, True]
        hurried.clear()
        assert len(exchanger.spans) == 6
        total = np.sum(
            [whole(rank, step, 2 * UNIT + 3) for rank in range(COMM.size)], axis=0, dtype="float64"
        )
        check(buffer, total, bound(strategy))
        last = max(COMM.allgather(came))
        waits, sums, *_ = exchanger.spans
        assert (waits.kind, sums.kind) == ("sync", "comm")
        assert last <= waits.end <= sums.start, f"summed {last - waits.end} s before the last rank came"
    close(exchanger)
    print(strategy, "is right on rank", COMM.rank, flush=True)


def machines(strategy: str, name: str) -> None:
    """Two ranks to a machine."""
    with mock.patch.object(shm.SharedMemory, "_machine", lambda self: self.comm.Split(COMM.rank // 2)):
        sums(strategy, name)


def main(comm: MPI.Intracomm, case: str, name: str, *strategies: str) -> None:
    """Do a case with each strategy, on the ranks of a communicator."""
    global COMM
    COMM = Counted(comm)
    aware = None if name == "cpu on rank 0" else name.endswith("aware")
    if name == "cpu on rank 0":
        name = "cpu as cuda" if COMM.rank else "cpu"
    cuda = disguised(aware) if name.startswith("cpu as cuda") else contextlib.nullcontext()
    with (
        mock.patch.object(background, "BUCKET", 4 * UNIT),
        mock.patch.object(route, "CHUNK", 3 * UNIT),
        mock.patch.object(shm, "CHUNK", 3 * UNIT),
        mock.patch.object(shm, "BLOCK", UNIT // 7),
        mock.patch.dict(STRATEGIES, nothing=Nothing),
        cuda,
    ):
        if not name.startswith("cpu as cuda"):
            device.use(f"cuda:{COMM.rank}" if name == "cuda by rank" else name)
        for strategy in strategies:
            {"sums": sums, "rounded": rounded, "hidden": hidden, "machines": machines}[case](strategy, name)


if __name__ == "__main__":
    main(MPI.COMM_WORLD, *sys.argv[1:])
