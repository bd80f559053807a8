"""What `mpirun` runs on every device for ``tmlauncher evaluate``: one rank that validates what a run has saved."""

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from theanompi.config import RunConfig, from_environment
from theanompi.record.progress import Progress
from theanompi.system.output import print_anything
from theanompi.worker import nothing_is_garbage, rank_of

if TYPE_CHECKING:
    from mpi4py import MPI


def run(
    config: RunConfig, devices: tuple[str, ...], plan: bool = False, *, comm: "MPI.Intracomm | None" = None
) -> None:
    """Be one rank of an evaluation.

    Parameters
    ----------
    config : RunConfig
        That of the run, but for its data, which are what is validated; `init` is the checkpoint.
    devices : tuple of str
        The devices of this machine, one per local rank, or one name for all.
    plan : bool
        Not used, as an evaluation has none: whoever starts workers calls all of them alike.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; all there are by default.

    Raises
    ------
    SystemExit
        With status 1, after one line on one rank, for anything that the user can put right.
    """
    print_anything()
    progress = Progress()
    with rank_of(config, comm, progress) as (comm, stop):
        with nothing_is_garbage():
            from theanompi.training.evaluation import evaluate

        evaluate(config, devices, comm=comm, progress=progress, stop=stop)


def main() -> NoReturn:
    """Evaluate with what the launcher put into the environment."""
    config, devices, plan = from_environment(os.environ)
    run(config, devices, plan)
    sys.exit(0)


if __name__ == "__main__":
    main()
