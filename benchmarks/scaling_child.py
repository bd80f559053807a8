"""What `scaling_model.py` measures under mpirun: allreduces of many sizes, and the phases of ResNet-50's step."""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import common
import numpy as np

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
PHASES = ("wait", "calc", "skew", "exchange", "update")
_REDUCED = 1 << 20


class PhaseClock:
    """A recorder that keeps the seconds of one step's phases, and when each began."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.began: dict[str, float] = {}

    def start(self) -> None:
        """Begin a phase."""
        self._start = time.perf_counter()

    def end(self, phase: str) -> None:
        """End it."""
        self.began[phase] = self._start
        self.seconds[phase] += time.perf_counter() - self._start


class GradientClock:
    """When each gradient is computed within the compiled function, on the CPU.

    Parameters
    ----------
    compile : callable
        Compiles; the functions of all nodes then note the time when they are through.
    """

    def __init__(self, compile: Callable[[], object]) -> None:
        from theanompi.device import linker

        self._through: dict[Any, float] = {}
        dispatch = linker.torch_function

        def timed(op: Any, node: Any, context: Any) -> Callable[..., Any]:
            function = dispatch(op, node=node, context=context)

            def run(*values: Any) -> Any:
                result = function(*values)
                self._through[node] = time.perf_counter()
                return result

            return run

        with mock.patch.object(linker, "torch_function", timed):
            compile()

    def read(self, graph: Any, since: float) -> tuple[float, list[tuple[float, int]]]:
        """The last call of a function.

        Parameters
        ----------
        graph : pytensor FunctionGraph
            Of the compiled gradient function.
        since : float
            When it was called, by `time.perf_counter`.

        Returns
        -------
        forward_s : float
            Seconds until backward had begun.
        gradients : list of (ready_s, bytes)
            Of what lies in the gradient buffer: gradients, and the statistics and metrics that travel with them.
        """
        from theanompi.device.ops.loss import SoftmaxCrossEntropyGrad

        # Not the loss itself: nothing in backward needs its value, which may be computed at any time.
        (first,) = (node for node in graph.apply_nodes if isinstance(node.op, SoftmaxCrossEntropyGrad))
        gradients = []
        for output, target in graph.update_mapping.items():
            ready = self._through[graph.outputs[output].owner] - since
            gradients.append((ready, graph.inputs[target].get_value(borrow=True).nbytes))
        return self._through[first] - since, sorted(gradients)


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
    data: str, image_size: int, batch_size: int
) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """A training step with the strategy `ar`, and what it reports: the seconds of each phase, a mean over the ranks.

    A barrier before the exchange tells waiting for slower ranks (skew) from communicating. The gradients' times
    are those of rank 0 in the last step.
    """
    from mpi4py import MPI

    from models.resnet50 import ResNet50
    from theanompi import device
    from theanompi.exchange import get_exchanger

    world = MPI.COMM_WORLD
    device.use("cpu")
    config = {"data": data, "image_size": image_size, "batch_size": batch_size}
    model = ResNet50({**config, "rank": world.rank, "size": world.size, "verbose": False})
    gradient_clock = GradientClock(model.compile_iter_fns)
    gradients: Any = model._gradients  # a compiled PyTensor function
    exchanger = get_exchanger("ar", world, model.state.gradients)
    rows: list[list[float]] = []
    clock = PhaseClock()

    def step() -> None:
        nonlocal clock
        clock = PhaseClock()
        model.epoch, count = divmod(len(rows), model.data.n_batch_train)
        model.train_iter(count, clock)
        for phase, run in (
            ("skew", world.Barrier),
            ("exchange", exchanger.sum),
            ("update", model.update),
        ):
            clock.start()
            run()
            clock.end(phase)
        rows.append([clock.seconds[phase] for phase in PHASES])

    def facts() -> dict[str, Any]:
        mean = np.array(rows) / world.size
        world.Allreduce(MPI.IN_PLACE, mean)
        forward_s, ready = gradient_clock.read(gradients.maker.fgraph, clock.began["calc"])
        return {"phases_s": mean.tolist(), "forward_s": forward_s, "gradients": ready}

    return step, facts


def main() -> None:
    """Take part in the benchmark; started by its driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", choices=list(LIBRARY_PARAMETERS), required=True)
    parser.add_argument("--sizes", type=int, nargs="+", help="bytes of the buffers; allreduces only")
    parser.add_argument("--data", help="a data set of the package's own format; training")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, help="images per rank")
    args = parser.parse_args()
    os.environ.update(LIBRARY_PARAMETERS[args.algorithm])
    from mpi4py import MPI

    if args.sizes:
        step, facts = allreduces(args.sizes)
    else:
        step, facts = training(args.data, args.image_size, args.batch_size)
    common.serve(step, lambda: None, MPI.COMM_WORLD.Barrier, facts)


if __name__ == "__main__":
    main()
