"""One rank, top to bottom: what `mpirun` runs on every device, as ``python -m theanompi.worker`` or from a script."""

import importlib
import os
import platform
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import mpi4py
import numpy as np
import torch
from mpi4py import MPI

from theanompi import __version__, device
from theanompi.config import ConfigError, RunConfig, from_environment, local_device, one_line, resolve
from theanompi.contract import ContractModel
from theanompi.data import LoaderError
from theanompi.device import FlatBuffer
from theanompi.exchange import Exchanger, choose, get_exchanger
from theanompi.files import CannotWrite
from theanompi.library import check_algorithm, flavour
from theanompi.model import Model
from theanompi.plots import plot_curves
from theanompi.recorder import Recorder, prepare_run_folder, write_config
from theanompi.saving import load_checkpoint, save_checkpoint
from theanompi.training import Diverged, average_weights, sum_gradients, train_epoch, validate


def abort_on_error(comm: MPI.Comm) -> None:
    """From now on an uncaught exception in any thread ends all ranks, after its traceback.

    Without this the other ranks would wait for the lost one in their next exchange, for ever.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, LoaderError | CannotWrite):
            print(f"theanompi: rank {comm.Get_rank()}: {one_line(error)}", file=sys.stderr)
        else:
            print(f"theanompi: rank {comm.Get_rank()} failed:", file=sys.stderr)
            traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
        comm.Abort(1)

    sys.excepthook = hook


def check_launcher(comm: MPI.Comm) -> None:
    """End here if what started this process is not seen by MPI: every process would take itself for the only one."""
    environ = os.environ
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    started = environ.get("PMI_SIZE") or environ.get("OMPI_COMM_WORLD_SIZE") or tasks
    if comm.Get_size() == int(started) or (comm.Get_size() > 1 and started is tasks):
        return
    rank = environ.get("PMI_RANK") or environ.get("OMPI_COMM_WORLD_RANK") or environ.get("SLURM_PROCID")
    if rank == "0":
        if tasks == started and environ.get("SLURM_PROCID") == rank:
            how = "pmix" if flavour(library()) == "openmpi" else "pmi2"
            text = (
                f"srun: expected one world of {tasks} ranks, got {tasks} processes that {library()}, the MPI of "
                f"this Python, does not see; remedy: srun --mpi={how}"
            )
        else:
            text = (
                f"mpirun: expected the one that belongs to {library()}, the MPI of this Python, "
                f"got one whose {started} processes that MPI does not see"
            )
        print(f"theanompi: {text}", file=sys.stderr)
    raise SystemExit(1)


def agree(comm: MPI.Comm, error: Exception | None) -> None:
    """Go on if no rank has an error; else say the first one's, once, and end all ranks.

    A collective call. Every rank leaves through `SystemExit`, so that nothing is killed in the middle.
    """
    errors = comm.allgather(None if error is None else str(error))
    found = {rank: text for rank, text in enumerate(errors) if text is not None}
    if not found:
        return
    first, text = next(iter(found.items()))
    if comm.Get_rank() == first:
        where = "" if first == 0 else f"rank {first} on {platform.node()}: "
        print(one_line(f"theanompi: {where}{text}"), file=sys.stderr, flush=True)
    comm.Barrier()
    raise SystemExit(1)


def together(comm: MPI.Comm, action: Callable[[], Any]) -> Any:
    """Do something that may fail on some ranks because of what the user typed, and `agree` afterwards."""
    error: Exception | None = None
    result = None
    try:
        result = action()
    except (ValueError, OSError) as caught:
        error = caught
    agree(comm, error)
    return result


def choose_device(comm: MPI.Comm, devices: tuple[str, ...]) -> tuple[str, int]:
    """Take this rank's device by its rank on this machine; gives its name and this rank's share of the cores."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    local_rank, local_size = local.Get_rank(), local.Get_size()
    # srun and mpirun may have given each rank cores of its own, or all of them the same.
    cores = max(1, len(set().union(*local.allgather(os.sched_getaffinity(0)))) // local_size)
    local.Free()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores)
    name = local_device(devices, local_rank, torch.cuda.device_count())
    device.use(name)
    return name, cores


def make_model(config: RunConfig, comm: MPI.Comm) -> Any:
    """Import the model's class and make an instance for this rank."""
    rank = comm.Get_rank()
    module = importlib.import_module(config.modelfile)
    model_class = getattr(module, config.modelclass, None)
    if model_class is None:
        raise ConfigError(f"modelclass: expected a class of {module.__file__}, got {config.modelclass!r}")
    settings = {
        **config.to_dict(),
        "rank": rank,
        "size": comm.Get_size(),
        "verbose": config.verbose and rank == 0,
    }
    model = model_class(settings)
    return model if isinstance(model, Model) else ContractModel(model, config, comm.Get_size())


def make_exchanger(config: RunConfig, comm: MPI.Intracomm, buffer: FlatBuffer) -> tuple[Exchanger, str]:
    """The exchanger of a run, and what the log says of it."""
    averages = config.sync_type == "avg"
    if config.exchange == "auto" and comm.Get_size() > 1:
        choice = choose(comm, buffer, require_cuda_aware=config.require_cuda_aware)
        nbytes = buffer.flat.numel() * buffer.flat.element_size()
        return choice.exchanger, f"{choice.name}, {choice.exchanger.description}\n{choice.table(nbytes)}"
    # A single rank has nothing to choose by.
    name = "overlap" if config.exchange == "auto" else config.exchange
    exchanger = get_exchanger(
        name, comm, buffer, averages=averages, require_cuda_aware=config.require_cuda_aware
    )
    return exchanger, f"{name}, {exchanger.description}"


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
        With status 1, after one line on one rank, for anything that the user can put right.
    """
    comm = MPI.COMM_WORLD
    check_launcher(comm)
    abort_on_error(comm)
    config = resolve(config)
    rank, size = comm.Get_rank(), comm.Get_size()
    together(comm, lambda: check_algorithm(library(), config.allreduce_algorithm))
    name, cores = together(comm, lambda: choose_device(comm, devices))
    if config.loader_processes is None:
        config = replace(config, loader_processes=min(max(cores - 1, 1), 8))
    model = together(comm, lambda: make_model(config, comm))
    if plan:
        if rank == 0:
            print(model.plan(), flush=True)
        model.cleanup()
        return

    out = Path(config.out or "")
    together(comm, lambda: prepare_run_folder(out, config.resume, config.overwrite) if rank == 0 else None)
    gradients = config.sync_type == "cdd"
    buffer = model.state.gradients if gradients else model.weights_to_average()
    exchanger, way = together(comm, lambda: make_exchanger(config, comm, buffer))
    # Compiled after the exchange may have moved the buffer.
    if gradients:
        model.compile_iter_fns(config.sync_type, exchanger)
    else:
        model.compile_iter_fns(config.sync_type)
    iteration = together(comm, lambda: load_checkpoint(model, out, comm, config)) if config.resume else 0
    if rank == 0:
        write_config(out, {**config.to_dict(), "size": size, "versions": versions()})
    say = partial(print, flush=True) if rank == 0 and config.verbose else lambda *_: None
    per_epoch = model.data.n_batch_train
    total = model.n_epochs * per_epoch
    last = min(total, config.max_iterations or total)
    say(f"{config.modelclass} on {config.data}: {size} x {name}, {config.precision}, run folder {out}")
    algorithm = f", Allreduce by {config.allreduce_algorithm}" if config.allreduce_algorithm else ""
    say(f"exchange: {config.sync_type}, {way}{algorithm}")

    recorder = together(
        comm,
        lambda: Recorder(
            out,
            rank,
            size,
            last,
            config.log_interval,
            config.verbose,
            resume_from=iteration if config.resume else None,
            draw=plot_curves,
            timeline=config.timeline,
            comm=comm,
            place=f"{name} on {platform.node()}",
        ),
    )
    saved = iteration

    def save(done: int) -> None:
        nonlocal saved
        if done > saved:
            recorder.flush()
            save_checkpoint(model, out, comm, config, done)
            saved = done

    try:
        while iteration < last:
            epoch, start = divmod(iteration, per_epoch)
            stop = min(per_epoch, last - epoch * per_epoch)

            def after(position: int, epoch: int = epoch) -> None:
                done = epoch * per_epoch + position
                # At the end of an epoch the validation comes first: its line would be lost with a kill in between.
                if (
                    config.checkpoint_interval
                    and position < per_epoch
                    and done % config.checkpoint_interval == 0
                ):
                    save(done)

            train_epoch(
                model,
                sum_gradients if gradients else average_weights,
                exchanger,
                comm,
                recorder,
                epoch,
                start,
                stop,
                after,
            )
            iteration = epoch * per_epoch + stop
            if stop == per_epoch:
                validate(model, comm, recorder, epoch, iteration)
                model.adjust_hyperp(epoch)
            save(iteration)
    except Diverged as error:
        agree(comm, error)
    finally:
        model.cleanup()
    recorder.close()
    exchanger.close()
    if last < total:
        say(f"stopped after iteration {last} of {total} (max_iterations)")


def library() -> str:
    """The name and version of the MPI library."""
    return " ".join(MPI.Get_library_version().split("\n")[0].strip("\x00 ").split())


def versions() -> dict[str, str]:
    """The versions of what a run's numbers depend on."""
    import pytensor

    return {
        "theanompi": __version__,
        "python": platform.python_version(),
        "pytensor": pytensor.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "mpi4py": mpi4py.__version__,
        "mpi": library(),
    }


def main() -> NoReturn:
    """Run with what the launcher put into the environment."""
    config, devices, plan = from_environment(os.environ)
    run(config, devices, plan)
    sys.exit(0)


if __name__ == "__main__":
    main()
