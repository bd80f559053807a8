"""NCCL instead of MPI for the sums, by torch's own binding; one GPU for each rank. Theano-MPI's nccl32 and nccl16."""

import socket
from datetime import timedelta

import torch
from mpi4py import MPI
from torch import distributed

from theanompi.config import ConfigError
from theanompi.exchange.asa import Float16
from theanompi.exchange.background import Background
from theanompi.exchange.base import Bucket, Buffer

_TIMEOUT = timedelta(minutes=10)
# Exchangers of this process that have NCCL's communicator.
_users = 0


def join(comm: MPI.Intracomm, flat: torch.Tensor) -> str:
    """Use NCCL's communicator of the ranks of `comm` until `leave`; collective. Gives what the log says of it.

    A process has one, which the first of its exchangers makes; each has its sums one after another.

    Raises
    ------
    ConfigError
        On all ranks, where a rank is not on a GPU of its own, or torch comes without NCCL.
    """
    global _users
    usable = flat.is_cuda and distributed.is_nccl_available()
    gpus = comm.allgather(str(torch.cuda.get_device_properties(flat.device).uuid) if usable else None)
    if None in gpus:
        there = f"none on rank {gpus.index(None)}" if usable else str(flat.device)
        raise ConfigError(f"exchange nccl: expected CUDA devices and torch with NCCL, got {there}")
    if len(set(gpus)) < comm.size:
        raise ConfigError(
            f"exchange nccl: expected a GPU for each of the {comm.size} ranks, got {len(set(gpus))}; "
            "remedy: --exchange shm or overlap, which let ranks share one"
        )
    if not _users:
        _connect(comm, flat.device)
    _users += 1
    return f"device memory by NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"


def _connect(comm: MPI.Intracomm, device: torch.device) -> None:
    host, port = socket.gethostname(), 0
    store = None
    if comm.rank == 0:
        store = distributed.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT)
        port = store.port
    host, port = comm.bcast((host, port))
    if store is None:
        store = distributed.TCPStore(host, port, is_master=False, timeout=_TIMEOUT)
    distributed.init_process_group(
        "nccl", store=store, rank=comm.rank, world_size=comm.size, timeout=_TIMEOUT, device_id=device
    )


def leave() -> None:
    """Give NCCL's communicator back, when nobody else uses it."""
    global _users
    _users -= 1
    if not _users:
        distributed.destroy_process_group()


class Nccl(Background):
    """`ncclAllReduce` in place."""

    def __init__(self, comm: MPI.Intracomm, buffer: Buffer) -> None:
        super().__init__(comm, buffer)
        self.description = join(self.comm, buffer.flat)

    def _sum(self, bucket: Bucket) -> None:
        distributed.all_reduce(self.buffer.flat[bucket.start : bucket.end])
        torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        super().close()
        leave()


class Nccl16(Float16):
    """Float16 between the GPUs and sums in float32: `Float16` with NCCL's messages."""

    def _transport(self) -> str:
        return join(self.comm, self.buffer.flat)

    def _sum(self, bucket: Bucket) -> None:
        super()._sum(bucket)
        torch.cuda.current_stream().synchronize()

    def _alltoall(self, sent: torch.Tensor, received: torch.Tensor) -> None:
        distributed.all_to_all_single(received, sent)

    def _allgather(self, own: torch.Tensor, gathered: torch.Tensor) -> None:
        distributed.all_gather_into_tensor(gathered, own)

    def close(self) -> None:
        super().close()
        leave()
