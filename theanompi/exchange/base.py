"""What every exchange strategy is: a buffer that is summed over the ranks, in place."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import ClassVar, NamedTuple, Protocol

import torch
from mpi4py import MPI

from theanompi.device.buffers import adjacent
from theanompi.exchange.waiting import barrier
from theanompi.record.progress import Progress
from theanompi.record.timeline import Span


class Buffer(Protocol):
    """A flat float32 vector and named views that fill it, as `theanompi.device.FlatBuffer`."""

    flat: torch.Tensor
    views: dict[str, torch.Tensor]
    offsets: dict[str, tuple[int, int]]

    def move(self, flat: torch.Tensor) -> None:
        """Go on in other memory, with the same values."""


class Bucket(NamedTuple):
    """Adjacent views of a buffer, which are summed together.

    `start` and `end` are positions in the flat vector. `matrices` says that all of them have two dimensions or
    more: weights and their gradients, not biases, statistics or metrics.
    """

    start: int
    end: int
    names: tuple[str, ...]
    matrices: bool


def make_buckets(buffer: Buffer, least: int) -> list[Bucket]:
    """Divide a buffer into buckets of at least so many elements, each ending with a view.

    The last one of each kind may be smaller.

    Examples
    --------
    >>> from theanompi.device import FlatBuffer
    >>> [bucket[:3] for bucket in make_buckets(FlatBuffer({"a": (2, 3), "b": (4, 4), "c": (9,)}), 10)]
    [(0, 22, ('a', 'b')), (22, 31, ('c',))]
    """
    names, shapes = list(buffer.views), [view.shape for view in buffer.views.values()]
    return [
        Bucket(
            buffer.offsets[names[bucket[0]]][0],
            buffer.offsets[names[bucket[-1]]][1],
            tuple(names[k] for k in bucket),
            len(shapes[bucket[0]]) >= 2,
        )
        for bucket in adjacent(shapes, least)
    ]


class Exchanger(ABC):
    """Sums a buffer over all ranks of a communicator; a strategy defines how.

    A caller that fills the buffer piece by piece may say so: `begin` before a step's values are written, `written`
    after each of them. Strategies that are `hidden` then sum while the rest is still being computed; for the
    others the two calls mean nothing. `sum` ends the step in any case.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The ranks that take part.
    buffer : Buffer
        On each rank the same names and shapes. It is kept: every call of `sum` works on it.

    Attributes
    ----------
    hidden : bool
        Whether sums can go on while the device computes.
    exact : bool
        Whether sums are those of float32 numbers; otherwise less is sent.
    direct : bool
        Whether device memory is handed over as it is, without a way through the host's.
    description : str
        Which way the bytes take and why, for the log.
    spans : list of Span
        What the last step's exchange consisted of, in order.
    progress : Progress
        Told what the exchange is doing.

    Raises
    ------
    ValueError
        When ``buffer.flat`` is not a contiguous float32 vector.
    """

    hidden: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    direct: bool = True
    description: str

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        flat = buffer.flat
        if flat.dtype != torch.float32 or flat.ndim != 1 or not flat.is_contiguous():
            # what is not float32 may have no MPI type: bfloat16 would travel as bytes and sum wrong
            raise ValueError(
                f"exchange: expected the flat buffer to be a contiguous float32 vector, got {flat.dtype} "
                f"of shape {tuple(flat.shape)} and strides {flat.stride()}"
            )
        self.comm, self.buffer = comm, buffer
        self.spans: list[Span] = []
        self.progress = Progress()

    def begin(self) -> None:  # noqa: B027
        """Say that the values of this step are going to be written from now on, each once."""

    @property
    def listens(self) -> bool:
        """Whether it makes anything of `written`: where sums are `hidden`, if there is another rank."""
        return self.hidden and self.comm.size > 1

    def written(self, name: str) -> None:  # noqa: B027
        """Say that the value of a view is in the buffer, or that the device has been told to write it there."""

    def synchronise(self) -> None:
        """Wait until the device has done what it was given: MPI reads memory without regard to CUDA streams.

        `sum` does so too; a caller who tells computing from communicating calls it between the two.
        """
        if self.buffer.flat.is_cuda:
            torch.cuda.synchronize(self.buffer.flat.device)

    def sum(self) -> None:
        """Replace ``buffer.flat`` by its sum over all ranks, on every rank; collective."""
        self.spans = []
        if self.comm.size > 1:
            self.synchronise()
            names = tuple(self.buffer.views)
            self._exchange(Bucket(0, self.buffer.flat.numel(), names, matrices=False), "everything")

    def _exchange(self, bucket: Bucket, what: str) -> None:
        """Sum a bucket once it is complete on all ranks, and note how long it took."""
        with self._span("sync", what):
            self._meet(self.comm)
        with self._span("comm", what):
            self._sum(bucket)

    def _meet(self, comm: MPI.Intracomm) -> None:
        """Wait for all ranks of a communicator."""
        barrier(comm, self._hurried)

    def _hurried(self) -> bool:
        """Whether nothing is computed meanwhile."""
        return True

    def _span(self, kind: str, detail: str) -> AbstractContextManager[None]:
        doing = "waiting for the other ranks" if kind == "sync" else "summing"
        return self.progress.exchanging(f"{doing}: {detail}", kind, detail, self.spans)

    @abstractmethod
    def _sum(self, bucket: Bucket) -> None:
        """Sum a bucket over more than one rank; it is complete on all of them."""

    def close(self) -> None:  # noqa: B027
        """Give back what the strategy holds; the buffer keeps its values. Collective."""
