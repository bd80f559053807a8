"""ResNet-50 with and without a moving average of the weights, a step of each in turn, for `average.py`."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import common
import ours
from mpi4py import MPI

from theanompi import Model

DECAYS = {"without": 0.0, "with": 0.9999}


seconds = [0.0]
"""Of the last update, until the last rank had made it."""


def timed(update: Callable[..., Any]) -> Callable[..., Any]:
    """An update between barriers, which keeps its `seconds`."""

    def between_barriers(model: Model, objective: int = 0) -> Any:
        MPI.COMM_WORLD.Barrier()
        start = time.perf_counter()
        eta = update(model, objective)
        MPI.COMM_WORLD.Barrier()
        seconds[0] = time.perf_counter() - start
        return eta

    return between_barriers


def main() -> None:
    """Take part in a benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="a data set of the package's own format")
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True, help="images per rank")
    parser.add_argument("--exchange", default="overlap")
    settings = {**vars(parser.parse_args()), "device": "cpu", "precision": "float32"}
    Model.update = timed(Model.update)  # type: ignore[method-assign]
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
            spent[kind]["update"].append(seconds[0])

    common.serve(both, lambda: None, MPI.COMM_WORLD.Barrier, lambda: spent)


if __name__ == "__main__":
    main()
