"""What is told of workers that are not in step: how old their weights were, in what order they came, who waited."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple

_BAR = 40
_MOST_ROWS = 12


class Told(NamedTuple):
    """What a rank tells at a meeting.

    Attributes
    ----------
    waited : float
        Seconds.
    passes : sequence of (int, int)
        The number and staleness of each of its passes at the centre.
    letters : sequence of (int, int)
        Of each letter that it has taken in the sender, and after how many iterations of its own.
    pace : sequence of int
        The iteration of all that the schedule went by in each of its own.
    """

    waited: float
    passes: Sequence[tuple[int, int]] = ()
    letters: Sequence[tuple[int, int]] = ()
    pace: Sequence[int] = ()


def meeting_record(epoch: int, iteration: int, done: Sequence[int], told: Sequence[Told]) -> dict[str, Any]:
    """The line of the log of one meeting.

    Parameters
    ----------
    epoch, iteration : int
        To which all ranks have come, on average.
    done : sequence of int
        How many iterations each of them has done.
    told : sequence of Told
        Of each rank.

    Examples
    --------
    >>> meeting_record(0, 2, [3, 2], [Told(0.5, [(0, 0), (3, 2)]), Told(0.0, [(1, 0), (2, 0)])])["staleness"]
    [3, 0, 1]
    """
    passes = sorted((number, rank, old) for rank, each in enumerate(told) for number, old in each.passes)
    return {
        "kind": "meeting",
        "epoch": epoch,
        "iteration": iteration,
        "done": list(done),
        "waited_s": [each.waited for each in told],
        "order": [rank for _, rank, _ in passes],
        "staleness": _histogram(Counter(old for *_, old in passes)),
        "letters": [[sender, rank, own] for rank, each in enumerate(told) for sender, own in each.letters],
        # Differences, as they are short.
        "pace": [[*each.pace[:1], *(b - a for a, b in pairwise(each.pace))] for each in told],
    }


def _histogram(counts: Mapping[int, int]) -> list[int]:
    return [counts.get(old, 0) for old in range(max(counts, default=-1) + 1)]


class Meetings:
    """The sums of several of these lines."""

    def __init__(self) -> None:
        self._waited: list[float] = []
        self._counts: Counter[int] = Counter()
        self._number = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in a line."""
        self._number += 1
        # A resumed run may have another number of workers.
        both = zip_longest(self._waited, record["waited_s"], fillvalue=0.0)
        self._waited = [before + now for before, now in both]
        # Which keeps none that are 0.
        self._counts += Counter(dict(enumerate(record["staleness"])))

    def totals(self) -> dict[str, Any]:
        """What the summary has of them, if there were any."""
        return {"waited_s": self._waited, "staleness": _histogram(self._counts)} if self._number else {}

    def lines(self) -> list[str]:
        """What a person is told of them."""
        if not self._number:
            return []
        waits = ", ".join(f"{seconds:.1f}" for seconds in self._waited)
        lines = [
            f"workers waited for each other at {self._number} meetings only: {waits} s (not in the times above)"
        ]
        counts = self._counts
        total = counts.total()
        if total:
            mean = sum(old * count for old, count in counts.items()) / total
            lines.append(f"staleness of {total} passes at the centre: mean {mean:.2f}, largest {max(counts)}")
            most = max(counts.values())
            rows = sorted(counts.items())
            lines += [
                f"  {old:>5} {100 * count / total:6.1f} % {'#' * round(_BAR * count / most)}".rstrip()
                for old, count in rows[:_MOST_ROWS]
            ]
            rest = sum(count for _, count in rows[_MOST_ROWS:])
            if rest:
                lines.append(f"   more {100 * rest / total:6.1f} %")
        return lines
