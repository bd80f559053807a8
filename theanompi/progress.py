"""What a rank is doing and since when, as its training thread says and its watchdog reads."""

from time import monotonic
from typing import NamedTuple


class Doing(NamedTuple):
    """What a thread is doing, since when (seconds of `time.monotonic`)."""

    what: str
    since: float


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

    Examples
    --------
    >>> progress = Progress()
    >>> progress.now("validating")
    >>> progress.doing.what
    'validating'
    """

    def __init__(self) -> None:
        self.exchange: Doing | None = None
        self.iteration = 0
        self.saved: int | None = None
        self.now("setting up")

    def now(self, what: str) -> None:
        """Say what is done from now on."""
        self.doing = Doing(what, monotonic())
