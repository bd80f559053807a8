"""What a rank is doing and since when, as its training thread says and its watchdog reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NamedTuple

from theanompi.record.timeline import Span


class Doing(NamedTuple):
    """What a thread is doing, since when (seconds of `time.monotonic`), and whether that is waiting for other ranks."""

    what: str
    since: float
    waits: bool = False


class Progress:
    """What a rank is doing.

    Attributes
    ----------
    doing : Doing
        Of the training thread.
    exchange : Doing or None
        Of the exchange, while one is under way.
    iteration : int
        Finished updates.
    saved : int or None
        The update of the last checkpoint.
    resumable : bool
        Whether a checkpoint has all that the run needs to go on.
    """

    def __init__(self) -> None:
        self.exchange: Doing | None = None
        self.iteration = 0
        self.saved: int | None = None
        self.resumable = True
        self.now("setting up")

    def now(self, what: str) -> None:
        """Say what is done from now on."""
        self.doing = Doing(what, monotonic())

    @contextmanager
    def exchanging(self, what: str, kind: str, detail: str, spans: list[Span]) -> Iterator[None]:
        """Say what the exchange does within the block, and add to `spans` how long it took, of that kind."""
        start = monotonic()
        self.exchange = Doing(what, start, waits=kind == "sync")
        yield
        self.exchange = None
        spans.append(Span(kind, start, monotonic(), detail))

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say that within the block the training thread waits for the other ranks, for what reason."""
        self.exchange = Doing(what, monotonic(), waits=True)
        yield
        self.exchange = None
