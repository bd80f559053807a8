"""What happened when, on which rank and stream."""

from typing import NamedTuple


class Span(NamedTuple):
    """Something that took a while.

    `kind` is "comm" (bytes being summed) or "sync" (waiting for slower ranks), `start` and `end` are seconds of
    `time.monotonic`, `detail` is for a person to read.
    """

    kind: str
    start: float
    end: float
    detail: str
