"""What `mpirun` runs on every device, as ``python -m theanompi.worker`` or from a script: one rank of a run.

What can be refused is refused before torch is imported and anything is compiled.
"""

import contextlib
import gc
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from theanompi.config import RunConfig, from_environment, run_folder, without_effect
from theanompi.config.lineage import DATA
from theanompi.launch.check import data_by_source
from theanompi.launch.ends import tell, what_is_saved
from theanompi.launch.job import mpi_rank
from theanompi.record.folder import CHECKPOINT_FILE, RunFolder
from theanompi.record.progress import Progress
from theanompi.record.terminal import folded, text_columns
from theanompi.system.output import print_anything
from theanompi.system.processes import LAUNCHER
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
    with contextlib.ExitStack() as stack:
        folder: RunFolder | None = None
        error: Exception | None = None
        keeper = not plan and not (mpi_rank() if comm is None else comm.Get_rank())

        def take(config: RunConfig) -> RunFolder:
            out = Path(run_folder(config))
            return stack.enter_context(RunFolder(out, resume=config.resume, overwrite=config.overwrite))

        # Else the data have a part in its name, and in them the model's class, which brings torch along, has a say; but
        # for one whose source tells.
        named = config
        if keeper and config.out is None and config.data is None:
            named = replace(config, data=data_by_source(config))
        if keeper and not (named.out is None and named.data is None):
            try:
                folder = take(named)
            except Exception as caught:  # the other ranks wait for this one where MPI starts
                error = caught
        progress = Progress()

        def last_words(saved: int | None) -> str:
            out = config.out or ""
            there = os.path.exists(os.path.join(out, CHECKPOINT_FILE))
            return (
                ""
                if LAUNCHER in os.environ or (config.resume and saved is None)
                else what_is_saved(saved if there else None, out, resumable=progress.resumable)
            )

        comm, stop = stack.enter_context(
            rank_of(config, comm, progress, error, last_words, heed=config.save_on_signal)
        )
        with nothing_is_garbage():
            from theanompi.training.model_class import find_model_class, kind_of_items
            from theanompi.training.rank import settle, train
            from theanompi.training.ranks import together
            from theanompi.training.simulated import train_simulated

        stack.callback(gc.unfreeze)  # what `train` has taken out of the garbage collector's sight
        given = config
        config, device = settle(given, devices, comm, progress)

        def taken() -> RunFolder | None:
            if folder is None or folder.path == Path(run_folder(config)):
                return take(config) if keeper and folder is None else folder
            folder.release()
            return take(config)

        folder = together(comm, taken)
        if comm.Get_rank() == 0:
            tell(out=config.out)
            if given.data is None and config.data is not None and config.verbose and not plan:
                place = DATA.get(find_model_class(config).__module__)
                instead = f" in the place of {place}" if place else ""
                text = f"no data set was given: {config.modelclass} takes {config.data}{instead}"
                print(folded(text, text_columns()), flush=True)
            workers = config.workers_simulated or comm.Get_size()
            items = kind_of_items(find_model_class(config))
            idle = without_effect(given, config, workers=workers, items=items)
            if idle and (config.verbose or plan):
                print(folded(f"without effect: {'; '.join(idle)}", text_columns()), flush=True)
        be = train if config.workers_simulated is None else train_simulated
        be(config, device, plan=plan, folder=folder, comm=comm, progress=progress, stop=stop)


@contextlib.contextmanager
def rank_of(
    config: RunConfig,
    comm: "MPI.Intracomm | None",
    progress: Progress,
    error: Exception | None = None,
    last_words: Callable[[int | None], str] = lambda saved: "",
    *,
    heed: bool = False,
) -> Iterator[tuple["MPI.Intracomm", StopSignals]]:
    """Be a rank among others within the block: none of them outlives a failure of another, and a stall is spoken of.

    Parameters
    ----------
    config : RunConfig
    comm : mpi4py.MPI.Intracomm, optional
        The ranks; all there are by default. When one fails, all there are end.
    progress : Progress
        Told what this rank is doing.
    error : Exception, optional
        What this rank has found before: all end with it.
    last_words : callable
        As for `theanompi.training.ranks.guarded`.
    heed : bool
        Whether signals ask for an end in good order.
    """
    with contextlib.ExitStack() as stack:
        # Before MPI starts: what it has begun has to be cleaned up by its own end.
        stop = stack.enter_context(StopSignals(heed=heed))
        from mpi4py import MPI

        from theanompi.training.ranks import agree, check_launcher, forget_shared_memory, guarded
        from theanompi.training.watchdog import Watchdog

        comm = MPI.COMM_WORLD if comm is None else comm
        check_launcher()
        forget_shared_memory(comm)
        # Every rank has to hear of it, or the others would wait.
        agree(comm, error)
        stack.enter_context(guarded(comm, progress, last_words))
        stack.enter_context(
            Watchdog(comm, progress, stall_seconds=config.stall_seconds, abort=config.stall_abort)
        )
        stop.set_up()
        places = comm.gather((platform.node(), os.getpid()))
        if places is not None:
            tell(ranks=places)
        progress.now("importing torch")
        remove_left_behind()
        yield comm, stop
        comm.Barrier()
        if places is not None:
            tell(well=True)


@contextlib.contextmanager
def nothing_is_garbage() -> Iterator[None]:
    """Keep the garbage collector from looking again and again at what is imported, which stays."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


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
