"""Sums a flat buffer over the ranks; one small file per strategy, chosen by name.

>>> sorted(STRATEGIES)
['ar', 'naive']
"""

from mpi4py import MPI

from theanompi.config import ConfigError, closest
from theanompi.exchange.ar import AllReduce
from theanompi.exchange.base import Buffer, Exchanger
from theanompi.exchange.naive import Naive

__all__ = ["STRATEGIES", "Exchanger", "get_exchanger"]

STRATEGIES: dict[str, type[Exchanger]] = {"ar": AllReduce, "naive": Naive}


def get_exchanger(name: str, comm: MPI.Comm, buffer: Buffer) -> Exchanger:
    """Make the exchanger of a strategy.

    Parameters
    ----------
    name : str
        A key of `STRATEGIES`.
    comm : mpi4py.MPI.Comm
        The ranks that take part.
    buffer : Buffer
        What is summed.

    Raises
    ------
    ConfigError
        For an unknown name.
    ValueError
        When the buffer is not a contiguous float32 vector.

    Examples
    --------
    >>> from theanompi.device import FlatBuffer
    >>> get_exchanger("nccl32", MPI.COMM_SELF, FlatBuffer({"b": (3,)}))
    Traceback (most recent call last):
    theanompi.config.ConfigError: exchange: expected one of ar, naive, got 'nccl32'
    """
    if name not in STRATEGIES:
        raise ConfigError(
            f"exchange: expected one of {', '.join(STRATEGIES)}, got {name!r}{closest(name, STRATEGIES)}"
        )
    return STRATEGIES[name](comm, buffer)
