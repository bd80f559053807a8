"""What a loader and its processes say to each other: fill this slot; it is done."""

import socket
import struct
from typing import NamedTuple

_SLOT = struct.Struct("<q")
# Slot, item that cannot be read or -1, begun, done; the reason follows.
_ANSWER = struct.Struct("<qqdd")
_MOST_BYTES = 1 << 14


class Fault(NamedTuple):
    """Which item of a batch cannot be read, and why."""

    i: int
    reason: str


class Answer(NamedTuple):
    """What a loader process says of a slot: its fault, if it has one, and when it was begun and done, `monotonic` s."""

    slot: int
    fault: Fault | None
    start: float
    end: float


class Messages:
    """One end of a connection between a loader and its process: a system call sends a whole message, or takes one.

    Parameters
    ----------
    connection : socket
        Of a pair of ``SOCK_SEQPACKET``.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.fileno, self.close = connection.fileno, connection.close

    def ask(self, slot: int) -> None:
        """Have a slot filled."""
        self._connection.send(_SLOT.pack(slot))

    def asked(self) -> int | None:
        """Wait for the slot that is to be filled next; None when the other side has closed."""
        message = self._connection.recv(_SLOT.size)
        return _SLOT.unpack(message)[0] if message else None

    def answer(self, answer: Answer) -> None:
        """Say that a slot is done."""
        slot, fault, start, end = answer
        i, reason = fault or (-1, "")
        message = _ANSWER.pack(slot, i, start, end) + reason.encode(errors="replace")
        self._connection.send(message[:_MOST_BYTES])

    def answered(self) -> Answer | None:
        """Wait for an answer; None when the other side has closed."""
        message = self._connection.recv(_MOST_BYTES)
        if not message:
            return None
        slot, i, start, end = _ANSWER.unpack_from(message)
        fault = None if i < 0 else Fault(i, message[_ANSWER.size :].decode(errors="replace"))
        return Answer(slot, fault, start, end)
