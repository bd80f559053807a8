"""Alltoall, sum, allgather: Theano-MPI's strategies asa32 and asa16, and the same in bfloat16.

Each rank gets its share of every other rank's values, adds them up in float32, and hands the sums out. So values
can travel in 16 bits and are rounded twice only, whatever the number of ranks; an `Allreduce` of 16-bit numbers
would round at every addition, and MPI has none for bfloat16.
"""

import math
from typing import ClassVar

import torch
from mpi4py import MPI

from theanompi.exchange import cuda_aware
from theanompi.exchange.background import Background
from theanompi.exchange.base import Bucket, Buffer

_LARGEST = 2.0**15
"""What the largest magnitude in a float16 message is brought to at most."""


def scale_of(values: torch.Tensor) -> float:
    """The power of two that brings the largest magnitude just below `_LARGEST`; 1 if that is 0 or not finite.

    Gradients may be too small for float16, whose smallest number is 6e-8. A power of two rounds nothing.

    Examples
    --------
    >>> scale_of(torch.tensor([0.0, -3e-9])) * 3e-9 <= 2**15
    True
    >>> scale_of(torch.zeros(2))
    1.0
    """
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest == 0 or not math.isfinite(largest):
        return 1.0
    return 2.0 ** min(100, math.floor(math.log2(_LARGEST / largest)))


class AlltoallSumAllgather(Background):
    """Sums in float32 of values that travel in `wire`.

    What is not a matrix (biases, statistics, metrics) travels in float32: it is little, and a count of errors
    must stay whole.
    """

    wire: ClassVar[torch.dtype] = torch.float32

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        super().__init__(comm, buffer)
        self._staged = False
        self.description = self._transport()
        if not self.exact:
            self.description += (
                f", gradients of weights in {str(self.wire).removeprefix('torch.')}, sums in float32"
            )

    def _transport(self) -> str:
        """Choose the way of the messages; gives what the log says of it."""
        direct, reason = cuda_aware.decide(self.comm, self.buffer.flat.device)
        if not self.buffer.flat.is_cuda:
            return "host memory"
        self.direct = direct
        self._staged = not self.direct
        return f"device memory ({reason})" if self.direct else f"staged through host memory ({reason})"

    def _sum(self, bucket: Bucket) -> None:
        flat = self.buffer.flat[bucket.start : bucket.end]
        ranks, n = self.comm.size, flat.numel()
        share = -(-n // ranks)
        wire = self.wire if bucket.matrices else torch.float32
        sent = flat.new_zeros(ranks * share, dtype=wire)
        scale = self._encode(flat, sent[:n])
        received = torch.empty_like(sent)
        scales = self._everyones(scale, wire)
        self._alltoall(sent, received)
        parts = received.view(ranks, share)
        total = parts[0].float().div_(scales[0])
        for part, scale in zip(parts[1:], scales[1:], strict=True):
            total.add_(part, alpha=1 / scale)
        own = torch.empty_like(total, dtype=wire)
        scales = self._everyones(self._encode(total, own), wire)
        self._allgather(own, sent)
        for rank, scale in enumerate(scales):
            piece = flat[rank * share : (rank + 1) * share]
            piece.copy_(sent[rank * share : rank * share + piece.numel()])
            if scale != 1:
                piece.div_(scale)

    def _encode(self, values: torch.Tensor, wire: torch.Tensor) -> float:
        scale = scale_of(values) if wire.dtype == torch.float16 else 1.0
        wire.copy_(values * scale if scale != 1 else values)
        return scale

    def _everyones(self, scale: float, wire: torch.dtype) -> list[float]:
        return self.comm.allgather(scale) if wire == torch.float16 else [1.0] * self.comm.size

    def _alltoall(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        """Give rank r the r-th part of `sent`; `received` gets the parts of all ranks, in their order."""
        source, target = self._message(sent), self._message(received)
        self.comm.Alltoall([source, MPI.BYTE], [target, MPI.BYTE])
        self._arrived(target, received)

    def _allgather(self, own: torch.Tensor, gathered: torch.Tensor) -> None:
        """Give all ranks what each of them has, in their order."""
        source, target = self._message(own), self._message(gathered)
        self.comm.Allgather([source, MPI.BYTE], [target, MPI.BYTE])
        self._arrived(target, gathered)

    def _message(self, tensor: torch.Tensor) -> torch.Tensor:
        """What MPI gets: bytes, because it knows no bfloat16 and adds nothing here."""
        if tensor.is_cuda:
            tensor = tensor.cpu() if self._staged else tensor
            torch.cuda.current_stream().synchronize()
        return tensor.view(torch.uint8)

    def _arrived(self, message: torch.Tensor, target: torch.Tensor) -> None:
        if self._staged:
            target.copy_(message.view(target.dtype))


class Float16(AlltoallSumAllgather):
    """Float16 on the wire: the old asa16. Each message is scaled by a power of two, so that nothing underflows."""

    wire = torch.float16
    exact = False


class BFloat16(AlltoallSumAllgather):
    """Bfloat16 on the wire: the range of float32, 8 bits of it."""

    wire = torch.bfloat16
    exact = False
