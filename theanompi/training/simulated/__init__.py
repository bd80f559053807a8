"""Many workers in one process, each at its place in virtual time: ``--workers-simulated K``.

The same rules and the same loop as under ``mpirun`` drive it, unmodified. Each worker is a thread that runs
`theanompi.training.rank.train`; a baton (``baton.py``) lets one of them run at a time, the one that is the furthest
behind in virtual time (of several the lowest). There is one compiled model, whose state changes with the worker
(``loan.py``): weights, what the optimizer keeps, gradients, counters and the stream of batches. So a run is the same
each time, to the last bit.

What takes virtual time, and nothing else:

- a step, when its gradients are there: `clock.step_s` on average, in a `constant` or an `exponential` distribution, and
  `clock.straggler` times as long for the last worker;
- a sum over all workers, once all are there: `clock.exchange_s`, all of it exposed;
- a pass at a centre: `clock.exchange_s` for a centre as large as the weights, shared equally among its parts. A part
  belongs to one worker at a time, and others wait in the order in which they come;
- a letter: `clock.exchange_s`, after which it is there.

EASGD's passes and GOSGD's letters are hidden by the gradient that is computed meanwhile, as far as that takes.

Meetings are as real runs have them: an epoch is over when all workers together have done its iterations, whoever did
them, and each comes to the validation and the checkpoint after the iteration that it is in. These take no time but that
of a sum over all workers (GOSGD's mean, local SGD's). Every worker has its own share of the items of an epoch, as real
ones do; a fast one begins again with it.

With `clock.order`, the log of a real run or a simulated one, workers pass at the centre in its order, take letters
before the same iterations, and meet after as many of each: who comes too early waits, whatever the step times. The
schedule goes by what each had seen of the others' progress. Logs of earlier versions do not say that: rates that change
from iteration to iteration may then differ by one of them.

What `theanompi.lasagne.random.fresh_keys` draws is one stream for all workers, in the order in which they run; dropout
goes by the items and is each one's own.
"""

from dataclasses import replace
from functools import partial
from typing import cast

from mpi4py import MPI

from theanompi.config import ConfigError, RunConfig, read_clock
from theanompi.record.folder import RunFolder
from theanompi.record.progress import Progress
from theanompi.training.rank import Means, train
from theanompi.training.ranks import together
from theanompi.training.simulated.baton import run_workers
from theanompi.training.simulated.communicator import Communicator
from theanompi.training.simulated.links import SimulatedLinks
from theanompi.training.simulated.loan import Loan
from theanompi.training.simulated.world import World
from theanompi.training.stop import StopSignals


class _OfAnother(Progress):
    """What a further worker is doing, which is news of the process: the watchdog looks at the first one's."""

    def __init__(self, first: Progress, rank: int) -> None:
        self._first, self._rank = first, rank
        super().__init__()

    def now(self, what: str) -> None:
        super().now(what)
        self._first.now(f"worker {self._rank}: {what}")


def train_simulated(
    config: RunConfig,
    name: str,
    *,
    plan: bool,
    folder: RunFolder | None,
    comm: MPI.Intracomm,
    progress: Progress,
    stop: StopSignals,
) -> None:
    """Be all workers of a run, from the making of the model to the last checkpoint.

    Parameters
    ----------
    config, name, plan, folder, comm, progress, stop
        As for `theanompi.training.rank.train`.

    Raises
    ------
    SystemExit
        As `theanompi.worker.run`.
    """
    size = config.workers_simulated or 1

    def make_world() -> World:
        if comm.Get_size() > 1:
            raise ConfigError(
                f"workers_simulated: expected one process, which is all workers, got {comm.Get_size()} ranks"
            )
        clock = read_clock(config)
        if clock.order and folder is not None and folder.resume:
            raise ConfigError(
                "clock.order: expected no resume, as the order of a run is gone through from its beginning, got one"
            )
        return World(size, clock, config.seed if clock.seed is None else clock.seed)

    world: World = together(comm, make_world)
    loan = Loan(world)
    run_workers(
        world.baton,
        lambda rank: train(
            config if rank == 0 else replace(config, verbose=False),
            name,
            plan=plan,
            folder=folder if rank == 0 else None,
            comm=cast(MPI.Intracomm, Communicator(world.meet, rank, size)),
            progress=_OfAnother(progress, rank) if rank else progress,
            stop=stop if rank == 0 else StopSignals(heed=False),
            means=Means(loan.model, partial(SimulatedLinks, world), lambda: world.now(rank)),
        ),
    )
