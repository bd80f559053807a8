"""The reference strategy: every tensor by itself, through a copy in host memory."""

from mpi4py import MPI

from theanompi.exchange.base import Buffer, Exchanger


class Naive(Exchanger):
    """One `Allreduce` per tensor, of a contiguous host copy; slow, and easy to see to be right."""

    def __init__(self, comm: MPI.Comm, buffer: Buffer) -> None:
        super().__init__(comm, buffer)
        self.description = "tensor by tensor through host memory"

    def _sum(self) -> None:
        for view in self.buffer.views.values():
            host = view.cpu().contiguous()
            # on the CPU that may still be the view itself, which is then summed in place
            self.comm.Allreduce(MPI.IN_PLACE, [host.numpy(), MPI.FLOAT])
            view.copy_(host)
