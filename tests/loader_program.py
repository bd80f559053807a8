"""A training process without training, for the tests of what happens when one ends: reads epochs until it is ended.

Prints the process ids of itself and its loader processes first; then ends in the way that its argument says.
"""

import itertools
import os
import signal
import sys

from theanompi.config import RunConfig, resolve
from theanompi.data import Loader, Pictures, Sampler, open_dataset


def main(end: str) -> None:
    """Read three batches, say so, and end; or read on for ever."""
    data = open_dataset("digits")
    loader = Loader(Pictures(data, resolve(RunConfig())), 16, processes=2, depth=3)
    sampler = Sampler(data.n_train, 16, 1, 0, 1, seed=0)
    # Each to its end: none is closed while a signal comes, when what that raises would be ignored.
    batches = (
        batch for epoch in itertools.count() for units in loader.train(sampler, epoch) for batch in units
    )
    for _ in range(3):
        next(batches)
    print(os.getpid(), *loader.pids, flush=True)
    if end == "run":
        for _ in batches:
            pass
    elif end == "sys.exit":
        sys.exit(3)
    elif end == "os._exit":
        os._exit(3)
    elif end == "error":
        raise KeyError("of the training process")
    elif end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif end != "forget":
        raise ValueError(f"expected a way to end, got {end!r}")


if __name__ == "__main__":
    main(sys.argv[1])
