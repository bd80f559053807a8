"""What watchdogs make of what ranks say: several of them in this process, on a clock and a network of the test's."""

import faulthandler
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mpi4py import MPI

from tests.mpi import ROOT
from theanompi.record.progress import Doing, Progress
from theanompi.system.processes import Process, look_up
from theanompi.training import watchdog
from theanompi.training.watchdog import COLLECT, LEAVING, Watchdog

LIMIT = 100.0


class Ended(Exception):
    """In the place of an end of this process."""


class Done:
    def Test(self) -> bool:
        return True


class Pack:
    """Watchdogs of ranks 0 to `n` - 1, of which those in `silent` hear and say nothing.

    `doing` sets what a rank does, `wait` lets time go by, in which the others listen, and `signals` has what was sent
    to which process.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, n: int, *, abort: bool = False, away: int | None = None
    ):
        self.now, self.silent, self.inboxes = 1000.0, set[int](), [[] for _ in range(n)]  # type: ignore[var-annotated]
        self.signals: list[tuple[int, int]] = []
        self.aborted, self.meanwhile = list[int](), dict[float, Callable[[], Any]]()
        self.away = away
        monkeypatch.setattr(watchdog, "TICK", 1.0)
        monkeypatch.setattr(watchdog, "monotonic", lambda: self.now)
        monkeypatch.setattr(watchdog, "_signal", lambda pid, number: self.signals.append((pid, number)))
        monkeypatch.setattr(watchdog, "_end_now", self._end_now)
        monkeypatch.setattr(watchdog, "tell", lambda **facts: self.told.append(facts))
        monkeypatch.setattr(watchdog.threading, "Thread", NoThread)
        monkeypatch.setattr("os.kill", lambda pid, number: self.signals.append((pid, number)))
        monkeypatch.setattr(watchdog, "launchers", list)
        self.told: list[dict[str, Any]] = []
        self.progress = [Progress() for _ in range(n)]
        self.dogs = [
            Watchdog(Comm(self, rank, n), progress, stall_seconds=LIMIT, abort=abort)  # type: ignore[arg-type]
            for rank, progress in enumerate(self.progress)
        ]
        for rank, dog in enumerate(self.dogs):
            dog._end = End(self, rank)  # type: ignore[assignment]
            self.doing(rank, "training", 0)

    def doing(self, rank: int, what: str, seconds: float, *, waits: bool = False) -> None:
        self.progress[rank].doing = Doing(what, self.now - seconds)
        self.progress[rank].exchange = Doing("for others", self.now, waits=True) if waits else None

    def wait(self, seconds: float, but: int | None = None) -> None:
        self.now += seconds
        for at in [at for at in self.meanwhile if at <= self.now]:
            self.meanwhile.pop(at)()
        for rank, dog in enumerate(self.dogs):
            if rank != but and rank not in self.silent:
                dog._listen()

    def _end_now(self) -> None:
        raise Ended

    def look(self, rank: int) -> None:
        """What a watchdog does at every tick."""
        dog = self.dogs[rank]
        dog._end.ticks = 1  # type: ignore[attr-defined]
        dog._watch()


class NoThread:
    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...] = (), **named: Any) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        if self._args:  # of `Abort`
            self._target(*self._args)

    def join(self, timeout: float) -> None:
        assert timeout <= LEAVING, "an abort may never come back"


class End:
    """The event of a watchdog's end."""

    def __init__(self, pack: Pack, rank: int) -> None:
        self._pack, self._rank, self.set, self.ticks, self.waited = pack, rank, False, 0, list[float]()

    def is_set(self) -> bool:
        return self.set

    def wait(self, seconds: float) -> bool:
        if self.ticks:
            self.ticks -= 1
            return False
        self.waited.append(seconds)
        if seconds == watchdog.TICK:
            return True
        self._pack.wait(seconds, but=self._rank)
        return self.set


class Comm:
    def __init__(self, pack: Pack, rank: int, size: int) -> None:
        self._pack, self._rank, self.size = pack, rank, size

    def Get_rank(self) -> int:
        return self._rank

    def allgather(self, own: tuple[str, int]) -> list[tuple[str, int]]:
        return [("away" if rank == self._pack.away else own[0], 5000 + rank) for rank in range(self.size)]

    def Dup(self) -> "Comm":
        return self

    def Iprobe(self) -> bool:
        return bool(self._pack.inboxes[self._rank])

    def recv(self, status: MPI.Status) -> Any:
        source, message = self._pack.inboxes[self._rank].pop(0)
        status.Set_source(source)
        return message

    def isend(self, message: Any, rank: int) -> Done:
        assert rank != self._rank
        self._pack.inboxes[rank].append((self._rank, message))
        return Done()

    def Abort(self, status: int) -> None:
        self._pack.aborted.append(status)


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pack]]:
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        pytest.skip("this MPI lets only one thread make calls")
    monkeypatch.delenv("COLUMNS", raising=False)
    yield lambda n, **named: Pack(monkeypatch, n, **named)
    faulthandler.unregister(signal.SIGUSR2)


def test_nothing_is_said_before_the_limit_and_then_after_twice_as_long(pack, capsys):
    dogs = pack(1)
    at = []
    for _ in range(500):
        dogs.wait(1)
        dogs.look(0)
        if capsys.readouterr().err:
            at.append(round(dogs.now - 1000))
    # It is said when there was time to answer.
    assert at == [102, 202, 402]


def test_after_something_new_the_limit_counts_anew(pack, capsys):
    dogs = pack(1)
    dogs.doing(0, "training", 150)
    dogs.look(0)
    dogs.doing(0, "validating", 0)
    dogs.look(0)
    dogs.doing(0, "validating", 101)
    dogs.look(0)
    assert capsys.readouterr().err.count("no progress for") == 2


def test_all_are_named_and_for_whom_they_wait(pack, capsys):
    dogs = pack(4)
    for rank in (0, 1):
        dogs.doing(rank, "exchanging", 110 - 1.2 * rank, waits=True)
    dogs.doing(2, "sleeping", 130)
    dogs.silent = {3}
    dogs.look(0)
    places = dogs.dogs[0]._places
    assert capsys.readouterr().err == "".join(
        f"theanompi: {line}\n"
        for line in (
            "no progress for 110 s, after iteration 0:",
            f"  rank 0 on {places[0]}: exchanging (for others), for 110 s",
            f"  rank 1 on {places[1]}: exchanging (for others), for 109 s",
            f"  rank 2 on {places[2]}: sleeping, for 130 s",
            f"  rank 3 on {places[3]}: says nothing; stopped, stuck outside Python, or gone",
            "  the others wait for rank 3",
        )
    )


@pytest.mark.parametrize(
    ("waiting", "sleeping", "said"),
    [([0], [1, 2], "ranks 1, 2"), ([0, 2], [1], "rank 1"), ([0, 1, 2], [], ""), ([], [0, 1, 2], "")],
)
def test_who_is_stuck_and_does_not_wait_is_whom_the_others_wait_for(pack, capsys, waiting, sleeping, said):
    dogs = pack(3)
    for rank in range(3):
        dogs.doing(rank, "busy", 110, waits=rank in waiting)
    dogs.look(0)
    assert sleeping + waiting and capsys.readouterr().err.partition("the others wait for ")[2].strip() == said


def test_one_rank_speaks_for_all(pack, capsys):
    dogs = pack(3)
    dogs.doing(1, "exchanging", 110, waits=True)
    dogs.doing(2, "exchanging", 110, waits=True)
    dogs.silent = {0}
    dogs.look(2)
    assert capsys.readouterr().err == ""
    dogs.look(1)
    assert "says nothing" in capsys.readouterr().err


def test_who_goes_on_while_it_asks_says_nothing(pack, capsys):
    dogs = pack(2)
    dogs.doing(0, "training", 110)
    dogs.meanwhile[dogs.now + 1] = lambda: dogs.doing(0, "validating", 0)
    dogs.look(0)
    assert capsys.readouterr().err == "" and dogs.now < 1000 + COLLECT


def test_who_is_over_while_it_asks_says_nothing(pack, capsys):
    dogs = pack(1, abort=True)
    dogs.doing(0, "training", 110)
    dogs.meanwhile[dogs.now + 1] = lambda: setattr(dogs.dogs[0]._end, "set", True)
    dogs.look(0)
    assert capsys.readouterr().err == "" and not dogs.aborted


def test_who_waits_for_one_that_goes_on_looks_again_when_that_may_be_stuck(pack, capsys):
    dogs = pack(2, abort=True)
    dogs.doing(0, "meeting", 110, waits=True)
    dogs.doing(1, "validating", 30)
    dogs.look(0)
    assert capsys.readouterr().err == "" and not dogs.aborted
    # 102 s of which the other was 32 s at what it does: in 70 s more that is stuck if it is still at it.
    assert dogs.dogs[0]._speaks_at == pytest.approx(110 + LIMIT - 30, abs=2.1)


def test_one_that_goes_on_does_not_speak_for_one_that_says_nothing(pack, capsys):
    dogs = pack(3)
    dogs.doing(0, "meeting", 110, waits=True)
    dogs.doing(1, "validating", 30)
    dogs.silent = {2}
    dogs.look(0)
    assert "  the others wait for rank 2\n" in capsys.readouterr().err


def test_who_says_nothing_any_more_was_not_going_on(pack, capsys):
    """A word of a rank that was at work before it was asked counts for nothing, one of a stall for some time."""
    dogs = pack(3)
    dogs.dogs[0]._heard = {
        1: (watchdog.Word(1, "there", 7, "validating", 3, False), dogs.now - 1),
        2: (watchdog.Word(2, "there", 7, "exchanging", 101, True), dogs.now - 40),
    }
    dogs.silent = {1, 2}
    dogs.doing(0, "meeting", 110, waits=True)
    dogs.look(0)
    said = capsys.readouterr().err
    assert "rank 1 on" in said and "says nothing" in said.partition("rank 1 on")[2].splitlines()[0]
    assert "exchanging, for 101 s" in said and "wait for rank 1\n" in said


def test_a_word_of_a_stall_long_ago_counts_for_nothing(pack, capsys):
    dogs = pack(2)
    dogs.dogs[0]._heard = {1: (watchdog.Word(1, "there", 7, "exchanging", 101, True), dogs.now - 60)}
    dogs.silent = {1}
    dogs.doing(0, "meeting", 110, waits=True)
    dogs.look(0)
    assert "rank 1 on " in (said := capsys.readouterr().err) and "says nothing" in said


def test_only_who_is_asked_answers(pack):
    dogs = pack(2)
    dogs.dogs[0]._tell_others((False, tuple(dogs.dogs[0].word())))
    dogs.wait(1)
    assert dogs.dogs[0]._heard == {} and list(dogs.dogs[1]._heard) == [0]
    dogs.dogs[0]._tell_others((True, tuple(dogs.dogs[0].word())))
    dogs.wait(1)
    dogs.wait(1)
    assert list(dogs.dogs[0]._heard) == [1] and dogs.inboxes == [[], []]


def test_an_abort_is_told_to_all_with_their_stacks_before_the_silent_are_killed(pack, capsys):
    dogs = pack(4, abort=True, away=2)
    dogs.progress[0].saved = 0
    for rank in (0, 1):
        dogs.doing(rank, "exchanging", 110, waits=True)
    dogs.silent = {2, 3}
    # Who is told to end does so by itself after a while.
    with pytest.raises(Ended):
        dogs.look(0)
    said = capsys.readouterr().err
    assert "the run ends, as --stall-abort has it; iteration 0 is saved\n" in said
    assert dogs.told == [{"failed": True}]
    own = (os.getpid(), signal.SIGUSR2)
    # That of another machine has a process of the same number here, perhaps.
    assert dogs.signals[:2] == [(5003, signal.SIGUSR2), own]
    assert "rank 0 on" in said.partition("is saved")[2] and "; its stack:" in said
    # The one that was told.
    assert dogs.dogs[1]._end.waited == [LEAVING] and said.count("; its stack:") == 2


def test_who_does_not_end_by_an_abort_is_killed_on_this_machine(pack):
    dogs = pack(4, away=2)
    with pytest.raises(Ended):
        dogs.dogs[1]._abort_all()
    assert dogs.aborted == [1]
    assert dogs.signals == [(5000, signal.SIGKILL), (5003, signal.SIGKILL)]


def test_where_only_one_thread_may_speak_each_rank_speaks_for_itself(pack, capsys, monkeypatch):
    monkeypatch.setattr(watchdog.MPI, "Query_thread", lambda: MPI.THREAD_SERIALIZED)
    dogs = pack(2)
    dogs.doing(1, "training", 110)
    dogs.look(1)
    said = capsys.readouterr().err
    assert "of the other ranks nothing is known: this MPI library lets only one thread make calls\n" in said
    assert "says nothing" not in said and dogs.inboxes == [[], []]


def launcher(**changes: Any) -> Process:
    found = look_up(os.getpid())
    assert found is not None
    return found._replace(**changes)


@pytest.mark.parametrize("now", [None, launcher(started=1)])
def test_a_rank_whose_launcher_is_gone_ends_though_another_process_may_have_its_number(
    pack, capsys, monkeypatch, now
):
    dogs = pack(1)
    mpirun = launcher(name="mpirun", started=0)
    dogs.dogs[0]._launchers = [mpirun]
    monkeypatch.setattr(watchdog, "look_up", lambda pid: now)
    with pytest.raises(Ended):
        dogs.look(0)
    place = dogs.dogs[0]._places[0]
    assert capsys.readouterr().err == (
        f"theanompi: rank 0 on {place} ends: mpirun (pid {os.getpid()}), which started it, is gone\n"
    )


@pytest.mark.parametrize("abort", [False, True])
def test_a_launcher_that_stays_stopped_is_killed_if_asked_to(pack, capsys, monkeypatch, abort):
    dogs = pack(1, abort=abort)
    mpirun = launcher(name="mpirun")
    dogs.dogs[0]._launchers = [mpirun]

    def look(seconds: float, stopped: bool) -> None:
        dogs.now += seconds
        dogs.doing(0, "training", 0)
        monkeypatch.setattr(watchdog, "look_up", lambda pid: mpirun._replace(stopped=stopped))
        dogs.look(0)

    for seconds, stopped in ((0, True), (99, True), (1, False), (1, True), (99, True)):
        look(seconds, stopped)
    assert dogs.signals == []
    if abort:
        with pytest.raises(Ended):
            look(1, True)
        assert dogs.signals == [(mpirun.pid, signal.SIGKILL)]
        assert "mpirun (pid" in (said := capsys.readouterr().err) and "has been stopped for 100 s\n" in said
    else:
        look(1, True)
        assert dogs.signals == [] and capsys.readouterr().err == ""


def test_what_nobody_reads_any_more_ends_nothing(pack, monkeypatch):
    dogs = pack(1)
    dogs.doing(0, "training", 110)

    class Gone:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr("sys.stderr", Gone())
    dogs.look(0)
    assert dogs.dogs[0]._speaks_at == 220


def test_on_a_terminal_the_bar_is_written_over(pack, capsys, monkeypatch):
    monkeypatch.setattr(watchdog, "terminal_columns", lambda: 80)
    dogs = pack(1)
    dogs.doing(0, "training", 110)
    dogs.look(0)
    assert capsys.readouterr().err.startswith("\r\x1b[Ktheanompi: no progress for")


def test_who_ends_takes_its_processes_along_those_that_are_stopped_too_and_looks_as_if_mpirun_had_done_it():
    program = """
import os, signal, subprocess
from theanompi.training import watchdog
child = subprocess.Popen(["sleep", "100"], stdout=subprocess.DEVNULL)
os.kill(child.pid, signal.SIGSTOP)
print(child.pid, flush=True)
watchdog._end_now()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while look_up(int(done.stdout)) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
