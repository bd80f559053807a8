"""How a run ends, and what its workers tell the launcher of it.

An mpirun that ends with status 0 has seen no process fail; it does not know whether they did what they were started
for. So the workers say it, in lines on their standard output that the launcher takes out of what is printed
(`theanompi.launch.mpirun.say`): who they are, what is saved, and that they came to their end.
"""

import os
import re
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from theanompi.launch.mpirun import MARK, Outcome, say
from theanompi.system.processes import LAUNCHER, signal_name

STOPPED = 75
"""Exit status of a run that a signal stopped after a checkpoint: sysexits.h's EX_TEMPFAIL, "try again later"."""

_BANNER = re.compile(
    rb"=+|=   .*|YOUR APPLICATION TERMINATED WITH THE EXIT .*|This typically refers to a problem with your .*"
    rb"|Please see the FAQ page for debugging suggestions|"
)
_RULER = re.compile(rb"={40,}")
_PID = re.compile(rb"\bPID (\d+) RUNNING AT (\S+)")
_SIGNAL = re.compile(rb"\(signal (\d+)\)|KILLED BY SIGNAL: (\d+)")
_STATUS = re.compile(rb"EXIT (?:CODE|STATUS): (\d+)")
# Bytes of a line that may be a message: that of who they are has some 30 for each rank.
_LONGEST = 2**20

# Open MPI's, between two lines of dashes on standard error; the words of versions 4 and 5.
_DASHES = b"-" * 74 + b"\n"
_NOTICE = re.compile(
    rb"\S+ (noticed that process rank|has exited due to process rank|detected that one or more processes) "
    rb"|MPI_ABORT was invoked on rank |Primary job +terminated normally, but "
)
# Of a second signal, and of one that it passes on.
_SIGNALS = re.compile(
    rb"Abort is in progress...hit ctrl-c again to forcibly terminate\n\n|mpirun: Forwarding signal \d+ to job\n"
)
_NOTICED = re.compile(
    rb"process rank (?P<rank>\d+) with PID (?P<pid>\d+) on node (?P<node>\S+)\s+"
    rb"(?:exited on\s+signal (?P<signal>\d+)|exiting)"
)
_LEFT = re.compile(
    rb"invoked on rank (\d+)[^-]*Errorcode: (\d+)|Process name: .*,(\d+)\]\s+Exit code: +(\d+)"
)


def tell(**facts: Any) -> None:
    """Tell the launcher, if there is one: facts that `Account` has as attributes."""
    if LAUNCHER in os.environ:
        say(**facts)


class Notice(NamedTuple):
    """The first rank that Open MPI's mpirun says has ended badly: host and process where it says them, and how."""

    rank: int
    place: str
    status: int


class Notices:
    r"""Takes out of what an Open MPI prints on standard error what it says of ranks that ended badly.

    That is up to thirty lines which blame the application whatever the cause. All else is passed on.

    Parameters
    ----------
    write : callable
        Takes the bytes that are passed on.

    Attributes
    ----------
    first : Notice or None
        The first one.

    Examples
    --------
    >>> shown = []
    >>> notices = Notices(shown.append)
    >>> text = b"prterun noticed that process rank 1 with PID 4037 on node node0 exited on\nsignal 9 (Killed).\n"
    >>> notices.feed(b"epoch 1\n" + _DASHES + text + _DASHES)
    >>> b"".join(shown), notices.first
    (b'epoch 1\n', Notice(rank=1, place=' (node0, pid 4037)', status=-9))
    """

    def __init__(self, write: Callable[[bytes], Any]) -> None:
        self._write = write
        self._rest = self._held = b""
        self.first: Notice | None = None

    def feed(self, data: bytes) -> None:
        """Take in what was printed since the last call."""
        # Behind some of what it says is a NUL.
        text = _SIGNALS.sub(b"", (self._rest + data).replace(b"\0", b""))
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            self._line(line + b"\n")
        # Half a line may be all that there will be for long, as of a bar, but for what may become dashes.
        if not self._held:
            half = self._rest.rstrip(b"-")
            self._pass_on(half)
            self._rest = self._rest[len(half) :]

    def close(self) -> None:
        """Take note that nothing follows."""
        self._pass_on(self._held + self._rest)

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._write(data)

    def _line(self, line: bytes) -> None:
        if self._held == _DASHES and not _NOTICE.match(line):
            self._pass_on(self._held)
            self._held = b""
        if not self._held:
            half, dashes, _ = line.partition(_DASHES)
            self._pass_on(half)
            self._held = dashes
            return
        self._held += line
        if line == _DASHES:
            self._take(self._held)
            self._held = b""

    def _take(self, text: bytes) -> None:
        if self.first is None and (found := _NOTICED.search(text)):
            # Open MPI 5 says 0 of each.
            pid = f", pid {int(found['pid'])}" * bool(int(found["pid"]))
            place = f" ({found['node'].decode(errors='replace')}{pid})"
            self.first = Notice(int(found["rank"]), place, -int(found["signal"] or 0))
        elif self.first is None and (found := _LEFT.search(text)):
            rank, status = filter(None, found.groups())
            self.first = Notice(int(rank), "", int(status))


class Account:
    r"""What a job's workers have told, read from what its mpirun prints; all else is passed on.

    The banner of hydra about a process that ended badly is not: it blames the application whatever the cause, and
    knows no ranks. What it says is in `deaths`, but for a rank that mpirun has killed after another one, as far as
    `ends` tells.

    Parameters
    ----------
    write : callable
        Takes the bytes that are not for the launcher.
    in_order : bool
        Whether mpirun kills the others only when a rank has ended, as Open MPI's does. Hydra takes a closed socket for
        an end, so that whom it kills may be gone first.

    Attributes
    ----------
    ranks : list of (str, int)
        Host and process of each rank, empty until they have told.
    out : str
        The folder of the run.
    saved : int or None
        The iteration of the last checkpoint.
    resumable : bool
        Whether it has all that the run needs to go on.
    stopped : str or None
        What made the workers stop in good order before the end, if they did.
    well : bool
        Whether they came to the end.
    failed : bool
        Whether one of them has said why it could not go on.
    ends : dict of int to (int or None)
        By rank, in the order in which they were seen to end, the status of each, as
        `theanompi.system.processes.exit_status` has it.
    notice : Notice or None
        What an Open MPI has said of the first that ended badly.
    deaths : list of str
        Who ended badly, in words.
    guess : str
        What may have happened where nobody has said it.

    Examples
    --------
    >>> shown = []
    >>> account = Account(shown.append)
    >>> account.feed(b'epoch 1\n@theanompi {"saved": 45}\nepoch')
    >>> account.feed(b' 2\n@theanompi {"well": true}\n')
    >>> account.close()
    >>> b"".join(shown), account.saved, account.well
    (b'epoch 1\nepoch 2\n', 45, True)
    """

    def __init__(self, write: Callable[[bytes], Any], *, in_order: bool = False) -> None:
        self._write, self._in_order = write, in_order
        self._rest = b""
        self._ruler = b""
        self._banner: list[bytes] | None = None
        self._banners: list[bytes] = []
        self.ranks: list[tuple[str, int]] = []
        self.out = ""
        self.saved: int | None = None
        self.stopped: str | None = None
        self.well = self.failed = False
        self.resumable = True
        self.ends: dict[int, int | None] = {}
        self.notice: Notice | None = None
        self.deaths: list[str] = []
        self.guess = ""

    def feed(self, data: bytes) -> None:
        """Take in what was printed since the last call."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line + b"\n")
        # Half a line may be all that there will be for long; where it may become a message, it has to wait.
        may_become = self._banner is not None or self._ruler or self._rest[:1] == b"=" or b"@" in self._rest
        if self._rest and (not may_become or len(self._rest) > _LONGEST):
            self._write(self._rest)
            self._rest = b""

    def close(self) -> None:
        """Take note that nothing follows, and that no rank is seen to end any more."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._line(rest)
        self._end_banner()
        if self._ruler:
            self._write(self._ruler)
        named = [(text, _PID.search(text)) for text in self._banners]
        self.deaths += [self._death(text, process) for text, process in named if process]

    def _line(self, line: bytes) -> None:
        if self._banner is not None:
            if _BANNER.fullmatch(line.strip()):
                self._banner.append(line)
                return
            self._end_banner()
        ruler, self._ruler = self._ruler, b""
        if ruler and b"BAD TERMINATION" in line:
            self._banner = [line]
            return
        if _RULER.fullmatch(line.strip()):
            self._write(ruler)
            self._ruler = line
            return
        text, *told = line.split(f"{MARK} ".encode())
        self._write(ruler + text)
        # Two ranks may have printed into one line.
        for facts in Outcome(None, (f"{MARK} ".encode() + b"".join(told)).decode(errors="replace"), "").facts:
            self._take(facts)

    def _take(self, facts: dict[str, Any]) -> None:
        if "ranks" in facts:
            self.ranks = [(str(host), int(pid)) for host, pid in facts["ranks"]]
        self.out = facts.get("out", self.out)
        self.saved = facts.get("saved", self.saved)
        self.stopped = facts.get("stopped", self.stopped)
        self.resumable = facts.get("resumable", self.resumable)
        self.well = facts.get("well", self.well)
        self.failed = facts.get("failed", self.failed)

    def _end_banner(self) -> None:
        if self._banner is not None:
            self._banners.append(b"".join(self._banner))
            self._banner = None

    def _death(self, banner: bytes, process: re.Match[bytes]) -> str:
        """Who has ended badly and how, in words."""
        pid, host = int(process[1]), process[2].decode(errors="replace")
        rank, first = self._rank(pid, host), self._first()
        number, status = _SIGNAL.search(banner), _STATUS.search(banner)
        how = "ended badly"
        if number:
            how = _in_words(-int(number[1] or number[2]))
        elif status:
            how = _in_words(int(status[1]))
        # Which mpirun does to all ranks when one of them has ended.
        if how == _in_words(-signal.SIGKILL):
            if first is None and len(self.ranks) != 1:
                how += ", by mpirun perhaps when another one had ended"
            elif first not in (None, rank):
                rank, how = first, _in_words(self.ends[first])
        return f"{self._name(rank) if rank is not None else f'a rank ({host}, pid {pid})'} {how}"

    def first_to_leave(self) -> str:
        """Who was the first to end and how, in words, where a rank was seen to, or noticed, that mpirun has not ended.

        Of a run that was stopped, only who did not end in good order.
        """
        # Open MPI's knows it better than who sees all of them end, where one has called MPI_Abort.
        first = self._first() if self.notice is None else self.notice.rank
        if first is None:
            return ""
        status = self.ends[first] if self.notice is None else self.notice.status
        if self.stopped is not None and status in (0, STOPPED, None):
            return ""
        if not self._in_order and status in (None, -signal.SIGKILL):
            return ""
        how = _in_words(status)
        if not self.ranks and status is not None and status >= 0:
            how += " before it had begun; tmlauncher doctor says what MPI needs"
        return f"{self._name(first)} {how}"

    def _first(self) -> int | None:
        """The rank that was the first to end, as far as that was seen."""
        ends = {rank: status for rank, status in self.ends.items() if not (self.well and status == 0)}
        first = next(iter(ends), None)
        if self._in_order:
            return first
        # A process closes its files some time before its end.
        return next((rank for rank, status in ends.items() if status != -signal.SIGKILL), first)

    def _rank(self, pid: int, host: str) -> int | None:
        """The rank that a process is, where the ranks have told."""
        short = host.partition(".")[0]
        places = [(place.partition(".")[0], own) for place, own in self.ranks]
        return places.index((short, pid)) if (short, pid) in places else None

    def _name(self, rank: int) -> str:
        if rank >= len(self.ranks):  # they have not told
            return f"rank {rank}{self.notice.place if self.notice else ''}"
        place, pid = self.ranks[rank]
        return f"rank {rank} ({place}, pid {pid})"


def _in_words(status: int | None) -> str:
    """How a rank ended that has not said why."""
    if status is None:
        return "was the first to end, and has not said why: killed, or by os._exit"
    if status == -signal.SIGBUS:
        return "was ended by SIGBUS, as where /dev/shm is full: tmlauncher doctor looks at it"
    return f"was ended by {signal_name(-status)}" if status < 0 else f"left with exit status {status}"


def what_is_saved(saved: int | None, out: str, *, resumable: bool = True) -> str:
    """Say what a run that ended early leaves.

    Examples
    --------
    >>> what_is_saved(45, "runs/x")
    'iteration 45 is saved in runs/x: --resume goes on from there'
    >>> what_is_saved(45, "runs/x", resumable=False)
    'the weights after iteration 45 are saved in runs/x'
    >>> what_is_saved(None, "runs/x")
    'nothing is saved'
    """
    if saved is None:
        return "nothing is saved"
    if not resumable:
        return f"the weights after iteration {saved} are saved in {out}"
    return f"iteration {saved} is saved in {out}: --resume goes on from there"
