"""A thread of each rank that ends it with its launcher, and says where a run that does not go on is stuck.

A rank whose launcher was killed trains on for nobody, into a folder that may be another run's by then. A rank that
is stopped, blocked or starved holds all others up, and each of these only knows that it waits. So each one looks at
itself; who has done nothing for a while asks all others, thread to thread, and the first of those prints what all
said: whoever does not wait for others, or says nothing, is what they wait for. Who waits for ranks that go on, such as
a slower one's last batches before a meeting, is not stuck.
"""

import faulthandler
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import NamedTuple, NoReturn

from mpi4py import MPI

from theanompi.launch.ends import tell
from theanompi.record.progress import Progress
from theanompi.record.terminal import folded, terminal_columns, text_columns
from theanompi.system.processes import Process, children, launchers, look_up
from theanompi.training.ranks import Agreed

TICK = 0.5
"""Seconds between two looks."""
COLLECT = 2.0
"""Seconds in which the other ranks' words arrive."""
LEAVING = 5.0
"""Seconds after which a rank that was told to end does so by itself."""


class Word(NamedTuple):
    """What a rank says of itself: `seconds` that it has been doing `what`, after `iteration` updates."""

    rank: int
    place: str
    iteration: int
    what: str
    seconds: float
    waits: bool


class Watchdog:
    """Watches over this rank within the block, which all ranks leave together, or else the job ends.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        All ranks. The constructor is collective.
    progress : Progress
        What this rank's training thread says that it does.
    stall_seconds : float
        After how long a rank that does nothing new is spoken of.
    abort : bool
        Whether that ends the run, with a stack of each rank.
    """

    def __init__(self, comm: MPI.Intracomm, progress: Progress, *, stall_seconds: float, abort: bool) -> None:
        self._comm = comm
        self._rank, self._progress, self._abort = comm.Get_rank(), progress, abort
        self._limit = stall_seconds
        places = comm.allgather((platform.node(), os.getpid()))
        self._places = [f"{host}, pid {pid}" for host, pid in places]
        self._here = {rank: pid for rank, (host, pid) in enumerate(places) if host == platform.node()}
        # Between threads of ranks whose main threads are in MPI calls.
        speaks = comm.size > 1 and MPI.Query_thread() == MPI.THREAD_MULTIPLE
        self._channel = comm.Dup() if speaks else None
        self._heard: dict[int, tuple[Word, float]] = {}
        self._sent: list[MPI.Request] = []
        self._launchers = launchers()
        self._stopped: dict[Process, float] = {}
        self._speaks_at = stall_seconds
        self._end = threading.Event()
        # In C: it needs neither Python's lock nor its interpreter to be well, nor what stands for the standard error.
        faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._end.set()
        self._thread.join()
        if self._channel is not None and (kind is None or issubclass(kind, Agreed)):
            # MPICH has some 2,000 of them for a process. What nobody has read, the next one would get.
            self._channel.Barrier()
            while self._channel.Iprobe():
                self._channel.recv()
            MPI.Request.Waitall(self._sent)
            self._channel.Free()

    def word(self) -> Word:
        """What this rank says of itself now."""
        doing, exchange = self._progress.doing, self._progress.exchange
        what, waits = doing.what, False
        if exchange is not None:
            waits = exchange.waits
            what += f" ({exchange.what})"
        seconds = monotonic() - doing.since
        if seconds >= self._limit:
            # Such as a loader process.
            stopped = [
                str(pid) for pid in children(os.getpid()) or () if (found := look_up(pid)) and found.stopped
            ]
            what += f"; its process {', '.join(stopped)} is stopped" * bool(stopped)
        return Word(self._rank, self._places[self._rank], self._progress.iteration, what, seconds, waits)

    def _watch(self) -> None:
        while not self._end.wait(TICK):
            self._look_at_launchers()
            self._listen()
            word = self.word()
            if word.seconds < self._limit:
                self._speaks_at = self._limit
            elif word.seconds >= self._speaks_at:
                # Said again after twice as long, and so on.
                self._speaks_at = 2 * word.seconds
                self._speak(word)

    def _look_at_launchers(self) -> None:
        stopped = {}
        for launcher in self._launchers:
            now = look_up(launcher.pid)
            if now is None or now.started != launcher.started:
                self._leave(f"{launcher}, which started it, is gone")
            if now.stopped:
                begin = stopped[launcher] = self._stopped.get(launcher, monotonic())
                if self._abort and monotonic() - begin >= self._limit:
                    _signal(launcher.pid, signal.SIGKILL)
                    self._leave(f"{launcher}, which started it, has been stopped for {self._limit:g} s")
        self._stopped = stopped

    def _leave(self, why: str) -> NoReturn:
        """End this process, as there is nobody to run for."""
        self._print([f"rank {self._rank} on {self._places[self._rank]} ends: {why}"])
        _end_now()

    def _print(self, lines: list[str]) -> None:
        # A terminal has a bar in this line.
        begin = "" if terminal_columns() is None else "\r\x1b[K"
        text = folded("\n".join(f"theanompi: {line}" for line in lines), text_columns())
        try:
            print(f"{begin}{text}", file=sys.stderr, flush=True)
        except OSError:
            # Nobody reads it any more.
            return

    def _listen(self) -> None:
        if self._channel is None:
            return
        while self._channel.Iprobe():
            status = MPI.Status()
            message = self._channel.recv(status=status)
            if message == "end":
                self._show_stack()
                if not self._end.wait(LEAVING):
                    _end_now()
            else:
                asked, word = message
                self._heard[status.Get_source()] = Word(*word), monotonic()
                if asked:
                    self._send((False, tuple(self.word())), [status.Get_source()])

    def _show_stack(self) -> None:
        self._print([f"rank {self._rank} on {self._places[self._rank]}, {self.word().what}; its stack:"])
        os.kill(os.getpid(), signal.SIGUSR2)

    def _send(self, message: object, ranks: Iterable[int]) -> None:
        if self._channel is not None:
            self._sent = [request for request in self._sent if not request.Test()]
            self._sent += [self._channel.isend(message, rank) for rank in ranks]

    def _tell_others(self, message: object) -> None:
        self._send(message, (rank for rank in range(self._comm.size) if rank != self._rank))

    def _speak(self, own: Word) -> None:
        """Ask the others about a stall, and print what all say if there is one and no rank before this one does."""
        self._tell_others((True, tuple(own)))
        asked = monotonic()
        while monotonic() < asked + COLLECT:
            self._end.wait(TICK / 2)
            self._listen()
            if self._end.is_set() or self.word().seconds < own.seconds:
                return  # it goes on, or is over
        recent = monotonic() - COLLECT - max(TICK * 4, self._limit / 2)
        words = {self._rank: own}
        for rank, (word, at) in self._heard.items():
            # One that went on before it was asked may be stopped by now.
            if at > (recent if self._stuck(word) else asked):
                words[rank] = word
        at_work = [word for word in words.values() if not word.waits]
        if at_work and len(words) == self._comm.size and not any(map(self._stuck, at_work)):
            self._speaks_at = own.seconds + self._limit - max(word.seconds for word in at_work)
            return
        stuck = [rank for rank, word in words.items() if self._stuck(word)]
        if self._channel is not None and min(stuck) < self._rank:
            return
        self._print(list(self._report(words)))
        if self._abort:
            tell(failed=True)
            self._print([f"the run ends, as --stall-abort has it; {self._saved()}"])
            self._tell_others("end")
            for rank, pid in self._here.items():
                # One that is stopped, or stuck with Python's lock, has no other way to be seen.
                if rank not in words:
                    _signal(pid, signal.SIGUSR2)
            self._show_stack()
            self._end.wait(COLLECT)
            self._abort_all()

    def _stuck(self, word: Word) -> bool:
        return word.seconds >= self._limit

    def _abort_all(self) -> None:
        aborting = threading.Thread(target=self._comm.Abort, args=(1,), daemon=True)
        aborting.start()
        aborting.join(LEAVING)
        for rank, pid in self._here.items():
            if rank != self._rank:
                _signal(pid, signal.SIGKILL)
        _end_now()

    def _saved(self) -> str:
        saved = self._progress.saved
        return "nothing is saved" if saved is None else f"iteration {saved} is saved"

    def _report(self, words: dict[int, Word]) -> Iterator[str]:
        own = words[self._rank]
        yield f"no progress for {own.seconds:.0f} s, after iteration {own.iteration}:"
        silent = [rank for rank in range(self._comm.size) if rank not in words]
        for rank, word in sorted(words.items()):
            yield f"  rank {rank} on {word.place}: {word.what}, for {word.seconds:.0f} s"
        if self._channel is None and self._comm.size > 1:
            yield "  of the other ranks nothing is known: this MPI library lets only one thread make calls"
            return
        for rank in silent:
            yield f"  rank {rank} on {self._places[rank]}: says nothing; stopped, stuck outside Python, or gone"
        stuck = [rank for rank, word in sorted(words.items()) if self._stuck(word) and not word.waits]
        held_up_by = silent or stuck
        if held_up_by and any(word.waits for word in words.values()):
            ranks = ", ".join(map(str, held_up_by))
            yield f"  the others wait for rank{'s' * (len(held_up_by) > 1)} {ranks}"


def _end_now() -> NoReturn:
    """End this process and its children, which may be stopped, whatever its other threads are doing.

    By the signal that mpirun would send: its launcher shall not take it for the rank that left first.
    """
    for pid in (*(children(os.getpid()) or ()), os.getpid()):
        _signal(pid, signal.SIGKILL)
    os._exit(1)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
