"""The flat strategy: the whole buffer in place, once all of it is there."""

from mpi4py import MPI

from theanompi.exchange.base import Bucket, Buffer, Exchanger
from theanompi.exchange.path import Path


class AllReduce(Exchanger):
    """`Allreduce` in place on the flat buffer, after backward, on the way that `Path` chose."""

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        super().__init__(comm, buffer)
        self._path = Path(comm, buffer)
        self.direct, self.description = self._path.direct, self._path.description

    def _sum(self, bucket: Bucket) -> None:
        self._path.allreduce(bucket.start, bucket.end)
        self._path.join()
