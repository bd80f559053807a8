"""One contender of `exchange.py`: the sum of ResNet-50's gradients by a strategy, or by one plain `Allreduce`.

``flat`` is what a program without this package does: NumPy, mpi4py, one call.
"""

import argparse
from collections.abc import Callable

import common
import numpy as np
from mpi4py import MPI

COMM = MPI.COMM_WORLD


def flat(elements: int) -> Callable[[], None]:
    """One call for all of it."""
    buffer = np.ones(elements, np.float32)
    return lambda: COMM.Allreduce(MPI.IN_PLACE, [buffer, MPI.FLOAT])


def ours(strategy: str) -> Callable[[], None]:
    """The package's exchange, on ResNet-50's own buffer."""
    from theanompi import device
    from theanompi.exchange import get_exchanger
    from theanompi.models.resnet50 import build_model

    device.use("cpu")
    buffer = device.FlatBuffer(common.gradient_shapes(build_model()["prob"]))
    return get_exchanger(strategy, COMM, buffer).sum


def main() -> None:
    """Take part in the benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", required=True)
    parser.add_argument("--elements", type=int, required=True)
    args = parser.parse_args()
    run = flat(args.elements) if args.strategy == "flat" else ours(args.strategy)
    common.serve(run, lambda: None, COMM.Barrier, dict)


if __name__ == "__main__":
    main()
