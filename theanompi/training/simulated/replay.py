"""What the log of a run says of the order of its events, for a simulation to go through them again."""

from collections import Counter, deque
from collections.abc import Sequence
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
            wrong = "" if whole else "that of others"
        if wrong:
            raise ConfigError(
                f"clock.order: expected the log of a run with a centre or letters and {size} workers, got {path}, "
                f"which has {wrong}"
            )
        return found

    def total(self, rank: int, own: int, total: int) -> int:
        """How many iterations all workers are taken to have done, so that each meets the others when it did.

        Parameters
        ----------
        rank, own : int
            A worker, and its finished iterations.
        total : int
            Those of all workers.
        """
        planned = next((each for each in self.done if each[rank] >= own), None)
        if planned is None:
            return total
        end = sum(planned)
        return end if planned[rank] == own else min(total, end // len(planned) * len(planned) - 1)

    def letters(self, rank: int, meeting: int, own: int) -> Counter[int] | None:
        """Of whom, and how many, a worker took letters when it had done `own` iterations; None where it is not known.

        Parameters
        ----------
        rank : int
        meeting : int
            How many meetings were before.
        own : int
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
