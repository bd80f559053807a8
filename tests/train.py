"""What the tests of training run under mpirun: one worker, with settings from the command line.

``python tests/train.py '{"epochs": 1, …}'``; a second argument spoils the run in a way that a test must notice:
``no-exchange`` leaves the exchange out, ``own-batches`` lets a rank divide by the batches that it has in a minibatch
instead of by its workers, ``kill-N`` ends the last rank by SIGKILL after iteration N, ``kill-loader-N`` its loader
process, ``kill-holding-N`` that rank as it writes for the Nth time what it has locked for all, ``term-N`` sends the
last rank SIGTERM, ``full-N`` leaves no room in any file after iteration N, ``blind`` has the last rank find no
checkpoint, ``slow-validation-N`` lets N seconds pass on the recorder's clock while validation is compiled.

No run draws curves: nobody looks at them, and they take longer to draw than such a run to train.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from theanompi.config import RunConfig
from theanompi.record.recorder import Recorder
from theanompi.system.processes import children
from theanompi.worker import run

if TYPE_CHECKING:
    from mpi4py import MPI


@contextmanager
def spoilt(how: str, comm: "MPI.Intracomm") -> Iterator[None]:
    """A run that goes wrong in one of the ways above."""
    with ExitStack() as stack:
        patch = mock.patch.object
        # What brings torch along is imported where it is needed, as a worker does, which refuses much before that.
        if how == "no-exchange":
            from theanompi.exchange import STRATEGIES

            for strategy in set(STRATEGIES.values()):
                stack.enter_context(patch(strategy, "_sum", lambda self, bucket: None))
        elif how == "own-batches":
            from theanompi.training.model import Model

            update = Model.update

            def update_by_the_mean_of_its_batches(self: Model, objective: int = 0) -> Any:
                own = max(self.data.sampler.own_units(self._count), 1)
                self.state.gradients.flat.mul_(self.config.accumulation / own)
                return update(self, objective)

            stack.enter_context(patch(Model, "update", update_by_the_mean_of_its_batches))
        elif how == "blind":
            from theanompi.record import checkpoint

            if comm.Get_rank() == comm.Get_size() - 1:
                stack.enter_context(
                    patch(checkpoint, "load", side_effect=ValueError("expected a checkpoint"))
                )

        elif how.startswith("slow-validation"):
            from theanompi.record import recorder
            from theanompi.training.model import Model

            compile_validation, clock, passed = Model.compile_validation, recorder.monotonic, [0.0]

            def compile_slowly(self: Model) -> None:
                passed[0] += float(how.split("-")[-1])
                compile_validation(self)

            stack.enter_context(patch(recorder, "monotonic", lambda: clock() + passed[0]))
            stack.enter_context(patch(Model, "compile_validation", compile_slowly))
        elif how.startswith("kill-holding"):
            from theanompi.exchange.window import LockedWindow

            put, left = LockedWindow.put, [int(how.split("-")[-1])]

            def put_or_die(self: LockedWindow, *args: Any) -> None:
                left[0] -= 1
                if not left[0] and comm.Get_rank() == comm.Get_size() - 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                put(self, *args)

            stack.enter_context(patch(LockedWindow, "put", put_or_die))
        else:
            *_, last = how.split("-")
            train, due = Recorder.train, [int(last)]

            def train_and_kill(
                self: Recorder, epoch: int, iteration: int, *args: float, **kwargs: float
            ) -> None:
                train(self, epoch, iteration, *args, **kwargs)  # type: ignore[arg-type]
                # Of ranks that are not in step, not every one sees every iteration.
                if not due or iteration < due[0]:
                    return
                due.clear()
                if how.startswith("full"):
                    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
                elif comm.Get_rank() == comm.Get_size() - 1:
                    number = signal.SIGTERM if how.startswith("term") else signal.SIGKILL
                    os.kill(loader_process() if "loader" in how else os.getpid(), number)

            stack.enter_context(patch(Recorder, "train", train_and_kill))
        yield


def loader_process() -> int:
    """The process id of this rank's loader process."""
    (child,) = children(os.getpid()) or ()
    return child


def train(settings: dict[str, Any], comm: "MPI.Intracomm | None" = None, *spoils: str) -> None:
    """Be one worker of a run."""
    config = RunConfig.from_dict({**settings, "curves": False})
    with ExitStack() as stack:
        for how in spoils:
            from mpi4py import MPI

            stack.enter_context(spoilt(how, comm or MPI.COMM_WORLD))
        run(config, config.devices, comm=comm)


if __name__ == "__main__":
    train(json.loads(sys.argv[1]), None, *sys.argv[2:])
