"""What the training loop asks of MPI, answered within one process."""

from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI


class Communicator:
    """What the training loop asks of ``mpi4py.MPI.Intracomm``, of one simulated worker.

    Parameters
    ----------
    meet : callable
        As `World.meet`.
    """

    def __init__(self, meet: Callable[..., Any], rank: int, size: int) -> None:
        self._meet, self.rank, self.size = meet, rank, size

    def Get_rank(self) -> int:  # noqa: D102, N802
        return self.rank

    def Get_size(self) -> int:  # noqa: D102, N802
        return self.size

    def allgather(self, value: Any) -> list[Any]:  # noqa: D102
        return list(self._meet(self.rank, "allgather", value))

    def gather(self, value: Any, root: int = 0) -> list[Any] | None:  # noqa: D102
        found = self.allgather(value)
        return found if self.rank == root else None

    def bcast(self, value: Any, root: int = 0) -> Any:  # noqa: D102
        return self.allgather(value)[root]

    def Bcast(self, array: np.ndarray, root: int = 0) -> None:  # noqa: D102, N802
        array[...] = self.bcast(np.array(array), root)

    def allreduce(self, value: Any, op: MPI.Op = MPI.SUM) -> Any:  # noqa: D102
        first, *others = self.allgather(value)
        for other in others:
            first = op(first, other)
        return first

    def Allreduce(self, place: Any, array: np.ndarray) -> None:  # noqa: D102, N802
        assert place == MPI.IN_PLACE
        array[...] = self._meet(self.rank, "Allreduce", array.copy(), made_of=lambda each: sum(each))

    def Barrier(self) -> None:  # noqa: D102, N802
        self.allgather(None)
