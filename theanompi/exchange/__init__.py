"""Sums a flat buffer over the ranks; one small file per strategy, chosen by name.

>>> sorted(STRATEGIES)
['ar', 'asa16', 'asa32', 'bf16', 'fp16', 'naive', 'nccl', 'nccl16', 'nccl32', 'overlap', 'shm']
"""

import time
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from theanompi.config import ConfigError, closest
from theanompi.exchange.ar import AllReduce
from theanompi.exchange.asa import AlltoallSumAllgather, BFloat16, Float16
from theanompi.exchange.base import Buffer, Exchanger
from theanompi.exchange.naive import Naive
from theanompi.exchange.nccl import Nccl, Nccl16
from theanompi.exchange.overlap import Overlap
from theanompi.exchange.shm import SharedMemory

__all__ = ["STRATEGIES", "Choice", "Exchanger", "choose", "get_exchanger"]

STRATEGIES: dict[str, type[Exchanger]] = {
    "overlap": Overlap,
    "ar": AllReduce,
    "shm": SharedMemory,
    "nccl": Nccl,
    "naive": Naive,
    "fp16": Float16,
    "bf16": BFloat16,
    # Theano-MPI's names
    "nccl32": Nccl,
    "nccl16": Nccl16,
    "asa32": AlltoallSumAllgather,
    "asa16": Float16,
}

# About how long `choose` may take in all.
_SECONDS = 3.0


def get_exchanger(
    name: str,
    comm: MPI.Intracomm,
    buffer: Buffer,
    *,
    averages: bool = False,
    require_cuda_aware: bool = False,
) -> Exchanger:
    """Make the exchanger of a strategy; collective.

    Parameters
    ----------
    name : str
        A key of `STRATEGIES`.
    comm : mpi4py.MPI.Intracomm
        The ranks that take part.
    buffer : Buffer
        What is summed. Its memory may be moved.
    averages : bool
        Whether it holds weights and not gradients: then no strategy that rounds will do.
    require_cuda_aware : bool
        Whether a way through host memory is refused.

    Raises
    ------
    ConfigError
        For an unknown name, or a strategy that is not possible here.
    ValueError
        When the buffer is not a contiguous float32 vector.

    Examples
    --------
    >>> from theanompi.device import FlatBuffer
    >>> get_exchanger("nccl23", MPI.COMM_SELF, FlatBuffer({"b": (3,)}))
    Traceback (most recent call last):
    theanompi.config.errors.ConfigError: exchange: expected one of overlap, ar, shm, nccl, naive, fp16, bf16, nccl32, \
nccl16, asa32, asa16, got 'nccl23'; did you mean 'nccl32'?
    """
    if name not in STRATEGIES:
        raise ConfigError(
            f"exchange: expected one of {', '.join(STRATEGIES)}, got {name!r}{closest(name, STRATEGIES)}"
        )
    if averages and not STRATEGIES[name].exact:
        raise ConfigError(
            f"exchange {name}: expected one that does not round, as weights are averaged here, got one for gradients"
        )
    exchanger = STRATEGIES[name](comm, buffer)
    if require_cuda_aware and not (buffer.flat.is_cuda and exchanger.direct):
        exchanger.close()
        raise ConfigError(
            f"exchange {name}: expected CUDA memory to be handed over as it is (require_cuda_aware), "
            f"got {exchanger.description}"
        )
    return exchanger


class Choice(NamedTuple):
    """What `choose` took, and the seconds of one sum by each strategy, or why it could not be."""

    name: str
    exchanger: Exchanger
    seconds: dict[str, float]
    refused: dict[str, str]

    def table(self, nbytes: int) -> str:
        """The comparison, a line each, for the log.

        Parameters
        ----------
        nbytes : int
            Size of the buffer.
        """
        lines = [
            f"  {name:<9}{1e3 * seconds:9.1f} ms {nbytes / seconds / 1e9:7.2f} GB/s"
            + ("   taken" if name == self.name else "")
            for name, seconds in sorted(self.seconds.items(), key=lambda item: item[1])
        ]
        return "\n".join([*lines, *(f"  {name:<9}{why}" for name, why in self.refused.items())])


def choose(comm: MPI.Intracomm, buffer: Buffer, *, require_cuda_aware: bool = False) -> Choice:
    """Time the strategies that sum float32 numbers on the real buffer, and take the fastest; collective.

    All ranks take the same one. The buffer, which holds the weights under ``avg``, keeps its values.

    Parameters
    ----------
    comm, buffer, require_cuda_aware
        As in `get_exchanger`.

    Raises
    ------
    ConfigError
        When none is possible.
    """
    candidates = ("overlap", "ar", "shm", "nccl")
    share = _SECONDS / len(candidates)
    found: dict[str, float] = {}
    refused: dict[str, str] = {}
    # A measurement must not use up what it measures.
    values = buffer.flat.clone()
    for name in candidates:
        start = time.monotonic()
        try:
            exchanger = get_exchanger(name, comm, buffer, require_cuda_aware=require_cuda_aware)
        except ConfigError as error:
            refused[name] = str(error).removeprefix(f"exchange {name}: ")
            continue
        samples: list[float] = []
        # The first one also sets up what the later ones use.
        while len(samples) < 3 or comm.bcast(len(samples) < 20 and time.monotonic() - start < share / 2):
            buffer.flat.zero_()
            comm.Barrier()
            begin = time.monotonic()
            exchanger.sum()
            exchanger.synchronise()
            samples.append(time.monotonic() - begin)
        found[name] = comm.allreduce(float(np.median(samples[1:])), MPI.MAX)
        exchanger.close()
    buffer.flat.copy_(values)
    if not found:
        raise ConfigError("exchange auto: " + "; ".join(refused.values()))
    name = min(found, key=lambda name: found[name])
    return Choice(name, get_exchanger(name, comm, buffer), found, refused)
