"""Signals that ask a run to stop in good order: batch systems send them some time before they kill."""

import signal
import threading
from time import monotonic
from types import FrameType
from typing import Any, Self

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""A Ctrl-C, the end of an allocation or preemption, a terminal that is closed, and Slurm's ``--signal``.

UCX would take the third to print all that it does from then on.
"""
SAME = 3.0
"""Seconds in which a further signal is taken for the same: launcher and batch system may each pass it on."""


class Interrupted(BaseException):
    """A signal has come while there was nothing to save."""


class StopSignals:
    """Takes note of the signals of `ASKING`, so that the training loop can act on them between two updates.

    A second one, later, does what it would have done without this. Signals that are ignored stay so.

    Parameters
    ----------
    heed : bool
        Without, signals do what they do.

    Attributes
    ----------
    number : int or None
        The signal that this rank got.
    agreed : bool
        Whether all ranks know that one of them got a signal.

    Examples
    --------
    >>> with StopSignals(heed=True) as stop:
    ...     signal.raise_signal(signal.SIGUSR1)
    >>> stop.asked, stop.name
    (True, 'SIGUSR1')
    """

    def __init__(self, *, heed: bool) -> None:
        self.number: int | None = None
        self.agreed = False
        self._at = 0.0
        self._raises = False
        self._handlers: dict[int, Any] = {}
        if heed and threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.getsignal(number)
                for number in ASKING
                if signal.getsignal(number) is not signal.SIG_IGN
            }
            self._handle()

    def _handle(self) -> None:
        for number in self._handlers:
            signal.signal(number, self._note)

    def set_up(self) -> None:
        """Raise `Interrupted` at a signal from now on, or at once if there was one: nothing is trained yet.

        To be called when MPI has started, which may have put handlers of its own in the place of these.
        """
        self._raises = True
        self._handle()
        if self.number is not None:
            raise Interrupted(self.name)

    def begin(self) -> None:
        """Only take note of signals again: from now on somebody looks at `asked`."""
        self._raises = False

    @property
    def asked(self) -> bool:
        """Whether this rank got a signal."""
        return self.number is not None

    @property
    def name(self) -> str:
        """Which one; nothing if there was none."""
        return "" if self.number is None else signal.Signals(self.number).name

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if self.number is None:
            self.number, self._at = number, now
            if self._raises:
                raise Interrupted(self.name)
        elif now - self._at > SAME:
            self.close()
            signal.raise_signal(number)

    def close(self) -> None:
        """Put the handlers back."""
        for number, handler in self._handlers.items():
            # None is one that was not set from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
