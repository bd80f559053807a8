"""What `mpirun` runs on every device, as ``python -m theanompi.worker`` or from a script: one rank of a run.

What can be refused is refused before torch is imported and anything is compiled.
"""

import contextlib
import gc
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from theanompi.config import RunConfig, from_environment, run_folder
from theanompi.launch.ends import LAUNCHER, tell, what_is_saved
from theanompi.launch.job import mpi_rank
from theanompi.record.folder import CHECKPOINT_FILE, RunFolder
from theanompi.record.progress import Progress
from theanompi.system.output import print_anything
from theanompi.system.segments import remove_left_behind
from theanompi.training.stop import StopSignals

if TYPE_CHECKING:
    from mpi4py import MPI


def run(
    config: RunConfig,
    devices: tuple[str, ...],
    plan: bool = False,
    *,
    comm: "MPI.Intracomm | None" = None,
) -> None:
    """Be one worker of a run, from the first collective call to the last checkpoint.

    Parameters
    ----------
    config : RunConfig
    devices : tuple of str
        The devices of this machine, one per local rank, or one name for all.
    plan : bool
        Print the schedule and return.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks of the run; all there are by default. When the run fails, all there are end.

    Raises
    ------
    SystemExit
        With status 1, after one line on one rank, for anything that the user can put right; with
        `theanompi.launch.ends.STOPPED` when a signal has stopped the run.
    """
    print_anything()
    # The model's class, which brings torch along, has a say in all other defaults.
    config = replace(config, out=run_folder(config))
    with contextlib.ExitStack() as stack:
        folder: RunFolder | None = None
        error: Exception | None = None
        if not plan and not (mpi_rank() if comm is None else comm.Get_rank()):
            try:
                folder = stack.enter_context(
                    RunFolder(Path(config.out or ""), resume=config.resume, overwrite=config.overwrite)
                )
            except Exception as caught:  # the other ranks wait for this one where MPI starts
                error = caught
        # Before MPI starts: what it has begun has to be cleaned up by its own end.
        stop = stack.enter_context(StopSignals(heed=config.save_on_signal))
        from mpi4py import MPI

        from theanompi.training.ranks import agree, check_launcher, forget_shared_memory, guarded
        from theanompi.training.watchdog import Watchdog

        progress, out = Progress(), str(config.out)
        comm = MPI.COMM_WORLD if comm is None else comm
        check_launcher()
        forget_shared_memory(comm)
        # Every rank has to hear of it, or the others would wait.
        agree(comm, error)
        launched = LAUNCHER in os.environ

        def last_words(saved: int | None) -> str:
            there = os.path.exists(os.path.join(out, CHECKPOINT_FILE))
            return (
                "" if launched else what_is_saved(saved if there else None, out, resumable=progress.resumable)
            )

        stack.enter_context(guarded(comm, progress, last_words))
        stack.enter_context(
            Watchdog(comm, progress, stall_seconds=config.stall_seconds, abort=config.stall_abort)
        )
        stop.set_up()
        places = comm.gather((platform.node(), os.getpid()))
        if places is not None:
            tell(ranks=places)
        progress.now("importing torch")
        from theanompi.training.rank import train

        remove_left_behind()
        stack.callback(gc.unfreeze)  # what `train` has taken out of the garbage collector's sight
        train(config, devices, plan=plan, folder=folder, comm=comm, progress=progress, stop=stop)
        comm.Barrier()
        if places is not None:
            tell(well=True)


def take_others_along() -> NoReturn:
    """End all ranks because this one's program has ended before MPI has started.

    An mpirun does not mind a process that leaves with a status of its own; the others would wait for it where MPI
    starts, for ever.
    """
    print("theanompi: a rank's program has ended before wait was called", file=sys.stderr, flush=True)
    from mpi4py import MPI  # starts MPI, with all others

    MPI.COMM_WORLD.Abort(1)
    os._exit(1)


def main() -> NoReturn:
    """Run with what the launcher put into the environment."""
    config, devices, plan = from_environment(os.environ)
    run(config, devices, plan)
    sys.exit(0)


if __name__ == "__main__":
    main()
