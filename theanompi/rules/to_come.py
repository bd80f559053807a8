"""The rules of Theano-MPI that are still to come: a script that makes one ends with one line that says so."""

import sys

from theanompi.config import ConfigError, one_line, read_field
from theanompi.launch.job import mpi_rank


class _ToCome:
    """Ends the program where it is made, with exit status 2; of the ranks of an mpirun the first one says why."""

    def __init__(self) -> None:
        try:
            read_field("rule", type(self).__name__)
        except ConfigError as error:
            if not mpi_rank():
                print(one_line(f"theanompi: {error}"), file=sys.stderr, flush=True)
            raise SystemExit(2) from None


class EASGD(_ToCome):
    """Elastic averaging SGD (Zhang et al. 2015, arXiv 1412.6651)."""


class ASGD(_ToCome):
    """Asynchronous SGD (Dean et al. 2012)."""


class GOSGD(_ToCome):
    """Gossip SGD (Blot et al. 2016, arXiv 1611.09726)."""
