"""ResNet-50 with and without a moving average of the weights, a step of each in turn, for `average.py`."""

import argparse
import time
from typing import Any
from unittest import mock

import common
import ours
from mpi4py import MPI

from theanompi.models.resnet50 import ResNet50

DECAYS = {"without": 0.0, "with": 0.9999}


class Timed(ResNet50):
    """It keeps the seconds of the last update, until the last rank had made it."""

    seconds: float

    def update(self, objective: int = 0) -> Any:
        """Apply the compiled update to the gradients in the buffer; gives η."""
        MPI.COMM_WORLD.Barrier()
        start = time.perf_counter()
        eta = super().update(objective)
        MPI.COMM_WORLD.Barrier()
        Timed.seconds = time.perf_counter() - start
        return eta


def main() -> None:
    """Take part in a benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a data set of the package's own format")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="images per rank")
    parser.add_argument("--exchange", default="overlap")
    settings = {**vars(parser.parse_args()), "device": "cpu", "precision": "float32"}
    with mock.patch.object(ours, "ResNet50", Timed):
        steps = {
            kind: ours.build_step(argparse.Namespace(**settings, ema=decay)) for kind, decay in DECAYS.items()
        }
    spent: dict[str, dict[str, list[float]]] = {kind: {"step": [], "update": []} for kind in steps}

    def both() -> None:
        for kind in list(steps)[:: 1 if len(spent["with"]["step"]) % 2 else -1]:
            MPI.COMM_WORLD.Barrier()
            start = time.perf_counter()
            steps[kind]()
            spent[kind]["step"].append(time.perf_counter() - start)
            spent[kind]["update"].append(Timed.seconds)

    common.serve(both, lambda: None, MPI.COMM_WORLD.Barrier, lambda: spent)


if __name__ == "__main__":
    main()
