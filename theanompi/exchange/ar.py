"""The flat strategy: the whole buffer in place, once all of it is there."""

from mpi4py import MPI

from theanompi.exchange.base import Bucket, Buffer, Exchanger
from theanompi.exchange.route import Route


class AllReduce(Exchanger):
    """`Allreduce` in place on the flat buffer, after backward, on the way that `Route` chose."""

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        super().__init__(comm, buffer)
        self._route = Route(comm, buffer)
        self.direct, self.description = self._route.direct, self._route.description

    def _sum(self, bucket: Bucket) -> None:
        self._route.allreduce(bucket.start, bucket.end)
        self._route.join()
