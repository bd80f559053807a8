"""What `mpirun` runs on every device, as ``python -m theanompi.worker`` or from a script: one rank of a run.

What can be refused is refused before torch is imported and anything is compiled.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn

from theanompi.config import ConfigError, RunConfig, from_environment, resolve
from theanompi.folder import RunFolder
from theanompi.launch import mpi_rank


def run(config: RunConfig, devices: tuple[str, ...], plan: bool = False) -> None:
    """Be one worker of a run, from the first collective call to the last checkpoint.

    Parameters
    ----------
    config : RunConfig
    devices : tuple of str
        The devices of this machine, one per local rank, or one name for all.
    plan : bool
        Print the schedule and return.

    Raises
    ------
    SystemExit
        With status 1, after one line on one rank, for anything that the user can put right; with
        `theanompi.ends.STOPPED` when a signal has stopped the run.
    """
    config = resolve(config)
    with contextlib.ExitStack() as stack:
        folder: RunFolder | None = None
        error: ConfigError | None = None
        if not plan and not mpi_rank():
            try:
                folder = stack.enter_context(
                    RunFolder(Path(config.out or ""), resume=config.resume, overwrite=config.overwrite)
                )
            except ConfigError as caught:
                error = caught
        from mpi4py import MPI

        from theanompi.ranks import agree, check_launcher

        check_launcher(MPI.COMM_WORLD)
        # Every rank has to hear of it, or the others would wait.
        agree(MPI.COMM_WORLD, error)
        from theanompi.rank import train

        train(config, devices, plan, folder)


def main() -> NoReturn:
    """Run with what the launcher put into the environment."""
    config, devices, plan = from_environment(os.environ)
    run(config, devices, plan)
    sys.exit(0)


if __name__ == "__main__":
    main()
