"""The default strategy: `Allreduce` bucket by bucket, while backward goes on."""

from mpi4py import MPI

from theanompi.exchange.background import Background
from theanompi.exchange.base import Bucket, Buffer
from theanompi.exchange.route import Route


class Overlap(Background):
    """`Allreduce` in place on a helper thread, on the way that `Route` chose."""

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        super().__init__(comm, buffer)
        self._route = Route(self.comm, buffer)
        self.direct, self.description = self._route.direct, self._route.description

    def _sum(self, bucket: Bucket) -> None:
        self._route.allreduce(bucket.start, bucket.end)

    def _join(self) -> None:
        super()._join()
        self._route.join()
