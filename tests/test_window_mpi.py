"""The centre of asynchronous rules under a real mpirun: nothing is lost, and all parts see one order of workers."""

from pathlib import Path

import pytest

from tests.mpi import check_warm

HEAD = """
import sys, time, zlib
from unittest import mock
import numpy as np, torch
from contextlib import ExitStack
from pathlib import Path
from mpi4py import MPI
from theanompi.device import FlatBuffer
from theanompi.exchange import centre as module
from theanompi.exchange.centre import WindowCentre
from theanompi.exchange.mailbox import WindowMailbox
from theanompi.exchange.window import LockedWindow
from theanompi.record.progress import Progress
rank, size = comm.rank, comm.size

def made(n=64, value=0.0):
    buffer = FlatBuffer({"w": (n,)})
    buffer.flat.fill_(value if rank == 0 else -1000.0)
    return buffer, WindowCentre(comm, buffer, Progress())

# So that a small centre has several parts.
with mock.patch.object(module, "LEAST", 8):
"""


def check(n: int, program: str) -> None:
    check_warm(n, HEAD, program)


@pytest.mark.parametrize("n", [2, 4])
def test_no_accumulation_is_lost_of_two_thousand_by_all_ranks(n: int) -> None:
    check(
        n,
        """
buffer, centre = made()
assert centre.n_parts == size
own = 2_000 // size**2
for _ in range(own):
    for i in range(centre.n_parts):
        with centre.part(i) as (where, c):
            c += 1
comm.Barrier()
centre.read(buffer.flat)
assert (buffer.flat == own * size).all(), buffer.flat
assert comm.allreduce(centre.number, MPI.MAX) == own * size - 1
centre.close()
""",
    )


@pytest.mark.parametrize("n", [2, 4])
def test_all_parts_see_the_same_order_of_workers(n: int) -> None:
    check(
        n,
        """
# Each pass makes of every value one that depends on all passes before, in their order.
buffer, centre = made()
random, own = np.random.default_rng(rank), []
for _ in range(60):
    time.sleep(random.uniform(0, 5e-4))
    with ExitStack() as all_at_once:
        enter = all_at_once.enter_context if random.random() < 0.3 else None
        for i in range(centre.n_parts):
            with centre.part(i) if enter is None else ExitStack() as taken:
                where, c = enter(centre.part(i)) if enter else taken
                c.mul_(0.5).add_(rank + 1)
    own.append((centre.number, rank))
comm.Barrier()
centre.read(buffer.flat)
value = np.float32(0)
numbers = sorted(sum(comm.allgather(own), []))
assert [number for number, _ in numbers] == list(range(60 * size))
for _, who in numbers:
    value = np.float32(value * np.float32(0.5) + np.float32(who + 1))
assert (buffer.flat == float(value)).all(), (buffer.flat, value)
assert {span.kind for span in centre.spans} == {"comm", "sync"}
centre.close()
""",
    )


def test_what_a_block_that_raises_has_written_is_not_the_centres_and_others_go_on() -> None:
    check(
        2,
        """
buffer, centre = made(value=3.0)
try:
    with centre.part(0) as (where, c):
        c.fill_(77.0)
        raise ArithmeticError
except ArithmeticError:
    pass
comm.Barrier()
centre.read(buffer.flat)
assert (buffer.flat == 3).all()
# What is written is nobody's before all write, and everybody's after that.
comm.Barrier()
if rank:
    time.sleep(0.1)
    centre.read(buffer.flat)
    assert (buffer.flat == 3).all()
put = centre.window.put
with mock.patch.object(centre.window, "put", lambda *what: (time.sleep(0.1 * rank), put(*what))):
    centre.write(torch.arange(64.0))
centre.read(buffer.flat)
assert (buffer.flat == torch.arange(64.0)).all()
for _ in range(2):
    try:
        with centre.window.locked(0):
            raise ArithmeticError
    except ArithmeticError:
        pass
centre.close()
""",
    )


def test_a_rank_that_computes_does_not_let_the_others_wait(tmp_path: Path) -> None:
    """It goes on until the others have passed, and MPI hears nothing of it meanwhile."""
    check(
        2,
        f"""
passed = Path({str(tmp_path / "passed")!r})
buffer, centre = made()
comm.Barrier()
if rank == 0:
    end = time.monotonic() + 20
    while not passed.exists() and time.monotonic() < end:
        zlib.crc32(bytes(1 << 20))
    assert passed.exists()
else:
    for _ in range(20):
        for i in range(centre.n_parts):
            with centre.part(i):
                pass
    passed.touch()
comm.Barrier()
centre.close()
""",
    )


def test_what_is_waited_for_and_what_is_copied_is_told() -> None:
    check(
        1,
        """
window = LockedWindow(comm, 0)
for kind, what, waits in (("sync", "waiting for it", True), ("comm", "copying it", False)):
    with window.span(kind, "it"):
        assert (window.progress.exchange.what, window.progress.exchange.waits) == (what, waits)
    assert window.progress.exchange is None
window.close()
""",
    )


def test_where_the_target_has_to_help_a_thread_of_its_does() -> None:
    check(
        2,
        """
window = LockedWindow(comm, 8)
assert not window.helped, "within a machine no library needs it"
window.close()
with mock.patch.object(LockedWindow, "_waits_for_target", lambda self: True):
    window = LockedWindow(comm, 8)
assert window.helped and "thread" in window.description and window._thread.is_alive()
for _ in range(200):
    with window.locked(0):
        value = np.empty(1)
        window.get(0, value)
        window.put(0, value + 1)
comm.Barrier()
window.get(0, value)
assert value == 200 * size
window.close()
assert not window._thread.is_alive()

# Others may take the cores for a while: it counts what is slow most times.
asked = []
def late(window, *what):
    asked.append(what)
    time.sleep(0 if len(asked) == 2 else 0.05)
with mock.patch.object(LockedWindow, "add", late):
    window = LockedWindow(comm, 8)
assert window.helped and len(asked) == 3 * rank
window.close()
""",
    )


def test_an_mpi_that_has_no_window_is_refused_in_a_line() -> None:
    """As Open MPI 4 between hosts without InfiniBand."""
    check(
        1,
        """
with mock.patch("theanompi.exchange.window.MPI.Win") as Win:
    Win.Allocate.side_effect = MPI.Exception(MPI.ERR_WIN)
    try:
        LockedWindow(comm, 8)
    except ValueError as error:
        told = str(error)
assert told.startswith("window: expected an MPI whose ranks can share memory, got: "), told
""",
    )


def test_what_lies_on_a_device_goes_through_the_host() -> None:
    """On host memory that says it is a device's."""
    check(
        2,
        """
from exchange_program import Disguised, disguised
buffer = FlatBuffer({"w": (64,)})
buffer.flat = buffer.flat.fill_(1.0).as_subclass(Disguised)
with disguised(aware=False):
    centre, mailbox = WindowCentre(comm, buffer, Progress()), WindowMailbox(comm, buffer, Progress())
assert centre._values is not centre._host
for _ in range(50):
    for i in range(centre.n_parts):
        with centre.part(i) as (where, c):
            assert c.is_cuda
            c += 1
comm.Barrier()
centre.read(buffer.flat)
assert (buffer.flat == 1 + 50 * size).all()
# Two letters that meet in a box are their mean by their shares.
if rank == 0:
    mailbox.post(1, buffer.flat, 0.25)
    mailbox.post(1, buffer.flat + 4, 0.75)
mailbox.settle()
letters = mailbox.collect()
assert len(letters) == rank
for values, share, senders in letters:
    assert values.is_cuda and share == 1 and (values == 1 + 50 * size + 3).all() and senders == (0, 0)
assert mailbox.collect() == []
centre.close()
mailbox.close()
""",
    )


def test_a_small_centre_of_odd_size_is_held_by_some_of_the_ranks() -> None:
    check(
        3,
        """
for n, pieces in ((21, [slice(0, 10), slice(10, 21)]), (1, [slice(0, 1)])):
    buffer, centre = made(n, value=1.0)
    assert centre.n_parts == len(pieces) and centre.description.endswith(f" over {len(pieces)} of 3 ranks")
    for _ in range(2):
        for i, piece in enumerate(pieces):
            with centre.part(i) as (where, c):
                assert where == piece and len(c) == piece.stop - piece.start
                c += rank + 1
        assert [span.kind for span in centre.spans].count("comm") == 2 * len(pieces)
    comm.Barrier()
    centre.read(buffer.flat)
    assert (buffer.flat == 1 + 2 * (1 + 2 + 3)).all() and centre.number == 5
    centre.close()
""",
    )


def test_letters_that_meet_are_one_and_say_whose_they_are_and_nothing_is_left() -> None:
    """Whatever the type of their shares."""
    check(
        3,
        """
from exchange_program import Counted
mailbox = WindowMailbox(Counted(comm), FlatBuffer({"w": (5,)}), Progress())
for _ in range(2):
    for _ in range(rank):
        mailbox.post(0, torch.full((5,), float(rank)), 1 if rank == 1 else np.float32(2))
    mailbox.settle()
    letters = mailbox.collect()
    assert len(letters) == (rank == 0)
    for values, share, senders in letters:
        assert share == 1 + 2 + 2 and senders == (1, 2, 2)
        torch.testing.assert_close(values, torch.full((5,), (1 * 1 + 2 * 2 + 2 * 2) / 5))
    assert mailbox.collect() == []
    mailbox.settle()
mailbox.close()
assert Counted.made == 0 and mailbox.window._window == MPI.WIN_NULL
""",
    )
