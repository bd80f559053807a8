"""The reference strategy: every tensor by itself, through a copy in host memory."""

from mpi4py import MPI

from theanompi.exchange.base import Bucket, Exchanger


class Naive(Exchanger):
    """One `Allreduce` per tensor, of a contiguous host copy; slow, and easy to see to be right."""

    direct = False
    description = "tensor by tensor through host memory"

    def _sum(self, bucket: Bucket) -> None:
        for name in bucket.names:
            view = self.buffer.views[name]
            host = view.cpu().contiguous()
            # on the CPU that may still be the view itself, which is then summed in place
            self.comm.Allreduce(MPI.IN_PLACE, [host.numpy(), MPI.FLOAT])
            view.copy_(host)
