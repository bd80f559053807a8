"""What every exchange strategy is: a buffer that is summed over the ranks, in place."""

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from mpi4py import MPI


class Buffer(Protocol):
    """A flat float32 vector and named views that fill it, as `theanompi.device.FlatBuffer`."""

    flat: torch.Tensor
    views: dict[str, torch.Tensor]


class Exchanger(ABC):
    """Sums a buffer over all ranks of a communicator; a strategy defines how.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        The ranks that take part.
    buffer : Buffer
        On each rank the same names and shapes. It is kept: every call of `sum` works on this storage.

    Attributes
    ----------
    description : str
        Which way the bytes take and why, for the log.

    Raises
    ------
    ValueError
        When ``buffer.flat`` is not a contiguous float32 vector.

    Examples
    --------
    >>> from theanompi.device import FlatBuffer
    >>> from theanompi.exchange import get_exchanger
    >>> get_exchanger("ar", MPI.COMM_SELF, FlatBuffer({"W": (2, 3)})).description
    'host memory, in chunks of 2 MiB'
    """

    description: str

    def __init__(self, comm: MPI.Comm, buffer: Buffer) -> None:
        flat = buffer.flat
        if flat.dtype != torch.float32 or flat.ndim != 1 or not flat.is_contiguous():
            # what is not float32 may have no MPI type: bfloat16 would travel as bytes and sum wrong
            raise ValueError(
                f"exchange: expected the flat buffer to be a contiguous float32 vector, got {flat.dtype} "
                f"of shape {tuple(flat.shape)} and strides {flat.stride()}"
            )
        self.comm, self.buffer = comm, buffer

    def synchronise(self) -> None:
        """Wait until the device has done what it was given: MPI reads memory without regard to CUDA streams.

        `sum` does so too; a caller who tells computing from communicating calls it between the two.
        """
        if self.buffer.flat.is_cuda:
            torch.cuda.synchronize(self.buffer.flat.device)

    def sum(self) -> None:
        """Replace ``buffer.flat`` by its sum over all ranks, on every rank; collective."""
        if self.comm.size > 1:
            self.synchronise()
            self._sum()

    @abstractmethod
    def _sum(self) -> None:
        """Sum over more than one rank; what the device was given before has been done."""
