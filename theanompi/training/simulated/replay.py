"""What the log of a run says of the order of its events, for a simulation to go through them again."""

from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Self

from theanompi.config import ConfigError
from theanompi.record.log import read_log


class Replay:
    """The order of events in a run, as far as it was written down.

    Parameters
    ----------
    meetings : sequence of dict
        The lines of the log of kind "meeting".

    Attributes
    ----------
    order : deque of int
        Who is to pass at the centre next.
    done : list of list of int
        After how many iterations of each worker they are to meet.
    """

    def __init__(self, meetings: Sequence[dict[str, Any]] = ()) -> None:
        self.order = deque(rank for each in meetings for rank in each["order"])
        self.done: list[list[int]] = [each["done"] for each in meetings]
        self._letters: list[list[list[int]]] = [each.get("letters", []) for each in meetings]
        # Earlier versions did not write it.
        self._pace: list[list[list[int]]] = [each.get("pace", []) for each in meetings]

    @classmethod
    def read(cls, path: str, size: int) -> Self:
        """Read it from a run's log.

        Raises
        ------
        ConfigError
            If the log does not say, or is of another number of workers.
        """
        try:
            records = read_log(path)
        except ValueError as error:
            raise ConfigError(f"clock.order: {error}") from None
        found = cls([record for record in records if record["kind"] == "meeting"])
        letters = [letter for each in found._letters for letter in each]
        wrong = "no order of passes or letters"
        if found.order or letters:
            whole = all(_are_whole(done, size) for done in found.done)
            whole = whole and _are_whole(found.order, len(found.order)) and max(found.order, default=0) < size
            whole = whole and all(_are_whole(letter, 3) and max(letter[:2]) < size for letter in letters)
            whole = whole and found._have_their_pace()
            wrong = "" if whole else "that of others"
        if wrong:
            raise ConfigError(
                f"clock.order: expected the log of a run with a centre or letters and {size} workers, got {path}, "
                f"which has {wrong}"
            )
        return found

    def _have_their_pace(self) -> bool:
        """Whether each worker's is of as many iterations as it has done, in each meeting that says it."""
        before = [0] * len(self.done[0])
        for done, pace in zip(self.done, self._pace, strict=True):
            counts = [b - a for a, b in zip(before, done, strict=True)]
            if pace and (len(pace) != len(counts) or not all(map(_are_whole, pace, counts))):
                return False
            before = done
        return True

    def total(self, rank: int, own: int, total: int) -> int:
        """How many iterations all workers are taken to have done, so that each meets the others when it did.

        Their mean is what the schedule of the worker's next iteration goes by.

        Parameters
        ----------
        rank, own : int
            A worker, and its finished iterations.
        total : int
            Those of all workers.
        """
        meeting = next((i for i, each in enumerate(self.done) if each[rank] >= own), None)
        if meeting is None:
            return total
        planned, pace = self.done[meeting], self._pace[meeting]
        end, size = sum(planned), len(planned)
        if planned[rank] == own:
            return end
        if pace:
            return list(accumulate(pace[rank]))[own - planned[rank]] * size
        return min(total, end // size * size - 1)

    def letters(self, rank: int, meeting: int, own: int) -> Counter[int] | None:
        """Of whom, and how many, a worker took letters when it had done `own` iterations; None where it is not known.

        Parameters
        ----------
        meeting : int
            How many meetings were before.
        """
        if meeting >= len(self._letters):
            return None
        return Counter(sender for sender, to, at in self._letters[meeting] if (to, at) == (rank, own))


def _are_whole(numbers: Any, n: int) -> bool:
    """Whether these are n whole numbers of at least 0."""
    return (
        isinstance(numbers, list | deque)
        and len(numbers) == n
        and all(type(number) is int and number >= 0 for number in numbers)
    )
