"""What `scaling_model.py` measures under mpirun: allreduces of many sizes, and the phases of ResNet-50's step."""

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import common
import numpy as np

if TYPE_CHECKING:  # MPI starts when it is imported, which must come after the parameters
    from theanompi.exchange import Exchanger

# For each algorithm of the model what MPICH and Open MPI call it; read when MPI starts.
LIBRARY_PARAMETERS = {
    "halving_doubling": {
        "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM": "reduce_scatter_allgather",
        "OMPI_MCA_coll_tuned_use_dynamic_rules": "1",
        "OMPI_MCA_coll_tuned_allreduce_algorithm": "6",
    },
    "ring": {
        "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM": "ring",
        "OMPI_MCA_coll_tuned_use_dynamic_rules": "1",
        "OMPI_MCA_coll_tuned_allreduce_algorithm": "4",
    },
}
# Of a step with `ar`, which consists of the first five: waiting for data, computing, waiting for slower ranks,
# communicating, updating. Of a step with `overlap`, what of its exchange is left after backward; and of its replay.
PHASES = (
    "wait",
    "calc",
    "skew",
    "exchange",
    "update",
    "step",
    "overlapped_step",
    "exposed",
    "replay_exposed",
)
_REDUCED = 1 << 20


class PhaseClock:
    """A recorder that keeps the seconds of one step's phases."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def start(self, doing: str = "") -> None:
        """Begin a phase."""
        self._start = time.perf_counter()

    def end(self, phase: str) -> None:
        """End it."""
        self.seconds[phase] += time.perf_counter() - self._start


class Watched:
    """What the model takes for its exchanger: it notes when each gradient is written, and passes it on.

    Attributes
    ----------
    exchanger : Exchanger
        May be changed between steps.
    ready : dict of str to float
        By name, seconds after the gradient function was called.
    """

    listens = True

    def __init__(self, exchanger: Any) -> None:
        self.exchanger = exchanger
        self.ready: dict[str, float] = {}

    def begin(self) -> None:
        """The gradient function is called next."""
        self.ready = {}
        self.exchanger.begin()
        self._start = time.perf_counter()

    def written(self, name: str) -> None:
        """A gradient is there."""
        self.ready[name] = time.perf_counter() - self._start
        self.exchanger.written(name)


def allreduces(sizes: list[int]) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """A step of one allreduce of each size, and what it reports: the seconds of the slowest rank, by step and size.

    The sizes take turns, so that each buffer comes from memory, as gradients do.
    """
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    buffers = [np.zeros(size // 4, "float32") for size in sizes]
    own, received = np.zeros((2, _REDUCED // 4), "float32")
    rows: list[list[float]] = []
    reduce_s: list[float] = []

    def step() -> None:
        row = []
        for buffer in buffers:
            world.Barrier()
            start = time.perf_counter()
            world.Allreduce(MPI.IN_PLACE, [buffer, MPI.FLOAT])
            row.append(time.perf_counter() - start)
        rows.append(row)
        start = time.perf_counter()
        np.add(own, received, out=own)
        reduce_s.append(time.perf_counter() - start)

    def facts() -> dict[str, Any]:
        slowest = np.array(rows)
        world.Allreduce(MPI.IN_PLACE, slowest, MPI.MAX)
        return {"allreduce_s": slowest.tolist(), "reduce_s_per_byte": [s / _REDUCED for s in reduce_s]}

    return step, facts


def training(
    name: str, data: str, image_size: int, batch_size: int
) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """A step with the strategy `ar`, one with `overlap`, and a replay of that one; and what they report.

    In the replay the main thread sleeps until each gradient is due, as it does while a GPU computes: then there is
    a core free for the exchange.

    Returns
    -------
    step : callable
    facts : callable
        ``phases_s``, by step, a mean over the ranks, of `PHASES`; ``forward_s``, when the first gradient of a
        parameter is there; and ``buckets``, when each of the buckets of `overlap` is there, and its bytes. The last
        two are those of rank 0 in the last step of `ar`, in seconds after the gradient function was called.
    """
    from mpi4py import MPI

    from theanompi import Model, device
    from theanompi.config.plugins import find_class
    from theanompi.device.buffers import BUCKET
    from theanompi.exchange import get_exchanger
    from theanompi.exchange.base import make_buckets

    world = MPI.COMM_WORLD
    device.use("cpu")
    config = {"data": data, "image_size": image_size, "batch_size": batch_size}
    model_class: type[Model] = find_class("model", name, {}, base=Model)
    model = model_class({**config, "rank": world.rank, "size": world.size, "verbose": False})
    ar, overlap = (get_exchanger(name, world, model.state.gradients) for name in ("ar", "overlap"))
    watched = Watched(ar)
    model.compile_iter_fns("cdd", [watched])  # type: ignore[list-item]
    done = 0
    rows: list[list[float]] = []
    ready: dict[str, float] = {}

    def train(exchanger: "Exchanger") -> PhaseClock:
        nonlocal done
        clock = PhaseClock()
        watched.exchanger = exchanger
        model.epoch, count = divmod(done, model.data.n_batch_train)
        model.train_iter(count, clock)
        clock.start()
        exchanger.sum()
        clock.end("exposed")
        clock.start()
        model.update()
        clock.end("update")
        done += 1
        return clock

    def replay() -> float:
        overlap.begin()
        start = time.perf_counter()
        for name, moment in sorted(ready.items(), key=lambda item: item[1]):
            time.sleep(max(0.0, start + moment - time.perf_counter()))
            overlap.written(name)
        end = time.perf_counter()
        overlap.sum()
        return time.perf_counter() - end

    def step() -> None:
        nonlocal ready
        seconds = dict(train(ar).seconds)
        ready = world.bcast(watched.ready)  # in the replay, no rank is slower than another one
        exchange = sum(span.end - span.start for span in ar.spans if span.kind == "comm")
        skew = seconds["exposed"] - exchange
        overlapped = train(overlap).seconds
        row = {
            **{phase: seconds[phase] for phase in ("wait", "calc", "update")},
            "skew": skew,
            "exchange": exchange,
            "step": sum(seconds.values()),
            "overlapped_step": sum(overlapped.values()),
            "exposed": overlapped["exposed"],
            "replay_exposed": replay(),
        }
        rows.append([row[phase] for phase in PHASES])

    def facts() -> dict[str, Any]:
        mean = np.array(rows) / world.size
        world.Allreduce(MPI.IN_PLACE, mean)
        return {
            "phases_s": mean.tolist(),
            "forward_s": min(ready[str(p.name)] for p in model.params),
            "buckets": [
                (max(ready[name] for name in bucket.names), 4 * (bucket.end - bucket.start))
                for bucket in make_buckets(model.state.gradients, BUCKET // 4)
            ],
        }

    return step, facts


def main() -> None:
    """Take part in the benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", choices=list(LIBRARY_PARAMETERS), required=True)
    parser.add_argument("--sizes", type=int, nargs="+", help="bytes of the buffers; allreduces only")
    parser.add_argument("--model", help="module.Class; training")
    parser.add_argument("--data", help="a data set of the package's own format; training")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, help="images per rank")
    args = parser.parse_args()
    os.environ.update(LIBRARY_PARAMETERS[args.algorithm])
    from mpi4py import MPI

    if args.sizes:
        step, facts = allreduces(args.sizes)
    else:
        step, facts = training(args.model, args.data, args.image_size, args.batch_size)
    common.serve(step, lambda: None, MPI.COMM_WORLD.Barrier, facts)


if __name__ == "__main__":
    main()
