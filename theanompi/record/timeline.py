"""What happened when, on which rank and stream: spans of time, and some iterations of them as one trace.

The trace is in Chrome's `trace event format`_, as https://ui.perfetto.dev opens it: a process for each rank, in
it a thread for each stream (``main``, ``exchange``, ``loader``), in it a complete event for each span, in
microseconds from the first one on. Times of all ranks are rank 0's: ranks on one machine share its clock, others
are aligned by `clock_offsets`, and ``otherData`` says how well.

.. _trace event format:
   https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """Something that took a while.

    Attributes
    ----------
    kind : str
        "comm" (bytes being summed), "sync" (waiting for slower ranks), "read" (a loader process makes a batch),
        or any other name.
    start, end : float
        Seconds of `time.monotonic`.
    detail : str
        For a person to read; may be empty.

    Examples
    --------
    >>> Span("comm", 1.0, 1.5, "bucket 3, 8.4 MB").within(1.25, 9.0)
    0.25
    """

    kind: str
    start: float
    end: float
    detail: str = ""

    def within(self, start: float, end: float) -> float:
        """How many of its seconds lie between two times."""
        # Not by min and max, which take longer: asked for every bucket of every step.
        first = self.start if self.start > start else start
        last = self.end if self.end < end else end
        return last - first if last > first else 0.0


class Timeline:
    """The spans of some iterations of one rank.

    Parameters
    ----------
    iterations : int
        How many to keep.
    skip : int
        How many to let go before.

    Attributes
    ----------
    rows : dict
        The spans of each row, by its name.
    first, last : int or None
        Numbers of the iterations that were kept.

    Examples
    --------
    >>> timeline = Timeline(iterations=1, skip=1)
    >>> for iteration in (1, 2, 3):
    ...     timeline.add("main", [Span("compute", iteration, iteration + 0.5)])
    ...     timeline.iteration(iteration, iteration, iteration + 0.75)
    False
    True
    False
    >>> [(span.kind, span.start, span.detail) for span in timeline.rows["main"]]
    [('compute', 2, ''), ('iteration', 2, '2')]
    """

    def __init__(self, iterations: int, skip: int) -> None:
        self._left, self._skip = iterations, skip
        self.rows: dict[str, list[Span]] = {}
        self.first: int | None = None
        self.last: int | None = None

    def add(self, row: str, spans: Sequence[Span]) -> None:
        """Keep spans of the current iteration, if it is to be kept."""
        if spans and self._left and not self._skip:
            self.rows.setdefault(row, []).extend(spans)

    def iteration(self, number: int, start: float, end: float) -> bool:
        """End an iteration; gives whether it was the last one to be kept."""
        if self._skip or not self._left:
            self._skip = max(0, self._skip - 1)
            return False
        self.add("main", [Span("iteration", start, end, str(number))])
        self.first, self.last = self.first or number, number
        self._left -= 1
        return not self._left
