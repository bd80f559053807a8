"""One rank, top to bottom: device, model, exchange, compiled functions, and every epoch to the last checkpoint."""

import gc
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import mpi4py
import numpy as np
import torch
from mpi4py import MPI

from theanompi import __version__, device
from theanompi.config import (
    ConfigError,
    RunConfig,
    default_loader_processes,
    hosts,
    local_device,
    read_defaults,
)
from theanompi.config.kinds import AUTO
from theanompi.launch.ends import tell
from theanompi.launch.libraries import check_algorithm
from theanompi.record.folder import RunFolder, write_config
from theanompi.record.loggers import find_logger
from theanompi.record.plots import plot_curves
from theanompi.record.progress import Progress
from theanompi.record.recorder import Recorder
from theanompi.record.terminal import folded, text_columns
from theanompi.rules import Rule, get_rule
from theanompi.system import cgroup
from theanompi.system.processes import LAUNCHER
from theanompi.training.links import Links
from theanompi.training.model import Model
from theanompi.training.model_class import defaults_of, find_model_class, make_model, resolve_by_class
from theanompi.training.ranks import agree, library, together
from theanompi.training.replica import Replica
from theanompi.training.saving import Resumed, load_checkpoint
from theanompi.training.stop import StopSignals
from theanompi.training.theano_mpi_model import no_resume
from theanompi.training.trainer import Trainer
from theanompi.training.weights import start_from


class Means(NamedTuple):
    """What a rank trains with.

    Attributes
    ----------
    model : callable
        As `make_model`.
    links : callable
        As `Links`.
    clock : callable or None
        Gives the virtual time of a simulated worker, in seconds.
    """

    model: Callable[..., Replica]
    links: Callable[[MPI.Intracomm, RunConfig, Progress, StopSignals], Links]
    clock: Callable[[], float] | None = None


def choose_device(comm: MPI.Comm, config: RunConfig, devices: tuple[str, ...]) -> tuple[str, int]:
    """Take this rank's device by its rank on this machine; gives its name and this rank's share of the cores.

    Raises
    ------
    ConfigError
        On all ranks, when there are more or fewer of them than the run has devices, or on those whose device is not
        there.
    """
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    local_rank, local_size = local.Get_rank(), local.Get_size()
    # srun and mpirun may have given each rank cores of its own, or all of them the same.
    together_on = set().union(*local.allgather(os.sched_getaffinity(0)))
    cores = max(1, cgroup.cores(together_on) // local_size)
    local.Free()
    _, note = device.compile_folder()
    if note and local_rank == 0:
        print(f"theanompi: {platform.node()}: {note}", file=sys.stderr, flush=True)
    # Of ranks that a launcher has started, each knows the devices of its own machine.
    started = LAUNCHER in os.environ
    given, ranks = len(config.devices if started else devices), comm.allreduce(local_size, MPI.MAX)
    ranks = comm.Get_size() if started else ranks
    if given != ranks and (started or given > 1) and hosts(devices)[0].name is None:
        where = "in all" if started else "on each machine, or one for all"
        raise ConfigError(
            f"devices: expected {ranks}, as many as mpirun has started ranks {where}, got {given}"
        )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores)
    name = local_device(devices, local_rank, torch.cuda.device_count())
    device.use(name, deterministic=config.deterministic)
    return name, cores


def algorithms(deterministic: bool) -> str:
    """What the log says of how CUDA's libraries choose theirs.

    >>> algorithms(deterministic=False)
    'the fastest, which may be others in another run and round otherwise (--deterministic: equal bits)'
    """
    if deterministic:
        return "those that give the same bits in every run"
    return "the fastest, which may be others in another run and round otherwise (--deterministic: equal bits)"


def metrics_differ(names: list[tuple[str, ...]]) -> ConfigError | None:
    """What is wrong if not all ranks have the same losses and metrics: their sums would be of different things."""
    rank = next((rank for rank, own in enumerate(names) if own != names[0]), None)
    if rank is None:
        return None
    return ConfigError(
        f"metrics: expected {', '.join(names[0])[:100]} on all ranks as on rank 0, got {', '.join(names[rank])[:100]} "
        f"on rank {rank}"
    )


def settle(
    config: RunConfig, devices: tuple[str, ...], comm: MPI.Intracomm, progress: Progress
) -> tuple[RunConfig, str]:
    """Choose this rank's device, import the model's class, and fill in all that the run has left open.

    A collective call, before which the folder of a run that says neither that nor its data has no name.

    Parameters
    ----------
    config, devices, comm, progress
        As for `theanompi.worker.run` and `train`.

    Returns
    -------
    RunConfig
        Resolved.
    str
        The device.
    """
    together(comm, lambda: check_algorithm(library(), config.allreduce_algorithm))
    name, cores = together(comm, lambda: choose_device(comm, config, devices), errors=(ValueError, OSError))
    if config.loader_processes is None:
        config = replace(config, loader_processes=default_loader_processes(cores))

    def settled() -> RunConfig:
        model_class = find_model_class(config)
        # What "auto" begins, it could not go on with.
        if config.resume and isinstance(model_class, type) and not issubclass(model_class, Model):
            raise no_resume(config.modelclass)
        return resolve_by_class(config)

    progress.now("importing the model")
    return together(comm, settled), name


def train(
    config: RunConfig,
    name: str,
    *,
    plan: bool,
    folder: RunFolder | None,
    comm: MPI.Intracomm,
    progress: Progress,
    stop: StopSignals,
    means: Means | None = None,
) -> None:
    """Be one rank of a run, from the making of its model to the last checkpoint; `theanompi.worker.run` calls it.

    Parameters
    ----------
    config : RunConfig
    name : str
        The device: both as `settle` gives them.
    plan : bool
        Print the schedule and return.
    folder : RunFolder or None
        The run's, on rank 0.
    comm : mpi4py.MPI.Intracomm
        All ranks.
    progress : Progress
        Told what this rank is doing.
    stop : StopSignals
        Whether it was asked to stop.
    means : Means, optional
        Those of a simulated worker.

    Raises
    ------
    SystemExit
        As `theanompi.worker.run`.
    """
    means = Means(make_model, Links) if means is None else means
    rank, size = comm.Get_rank(), comm.Get_size()
    rule = together(comm, lambda: get_rule(config.rule))
    loggers = together(comm, lambda: [*map(find_logger, () if rank else config.logger or ())])
    # What has been imported stays: the garbage collector would look at it again and again while graphs are built.
    gc.freeze()
    progress.now("building the model")
    model = together(comm, lambda: means.model(config, comm, lockstep=rule.lockstep))
    if config.resume == AUTO:  # which the folder has decided, if one is needed
        config = replace(config, resume=comm.bcast(folder is not None and folder.resume))
    agree(comm, metrics_differ(comm.allgather(model.reported.metrics)))
    progress.resumable = isinstance(model, Model)
    if rank == 0:
        tell(resumable=progress.resumable)
    if plan:
        if rank == 0:
            print_plan(model, rule, config, size)
        model.cleanup()
        return

    begun, about, settings = "", dict[str, str](), dict[str, Any]()
    if config.init and not config.resume and isinstance(model, Model):
        progress.now("reading the weights to start from")
        begun, about = start_from(model, config, comm)
    out = Path(config.out or "")
    links = means.links(comm, config, progress, stop)
    resumed = Resumed(0, "", 0, "")
    with links.closed_where_all_end():
        progress.now("setting up the exchange")
        told = together(comm, lambda: rule.attach(model, links), errors=(ValueError, OSError))
        if not rule.lockstep:
            together(comm, links.hang_bell, errors=(ValueError, OSError))
        gc.freeze()  # nor at what has been built
        # Compiled after the exchange may have moved the buffers.
        progress.now("compiling")
        sync_type = "cdd" if rule.sums_gradients else "avg"
        together(comm, lambda: model.compile_iter_fns(sync_type, told))
        if not rule.lockstep:
            # Later, each rank would be elsewhere.
            together(comm, model.compile_validation)
        if config.resume:
            resumed, of_rule = together(comm, lambda: load_checkpoint(model, rule, out, comm, config))
            rule.load_state_arrays(of_rule)
            rule.go_on(model)
    iteration = resumed.iteration
    progress.iteration, progress.saved = iteration, iteration if config.resume else None
    if folder is not None:
        folder.clear()
        settings = settings_of(config, model, size) | about
        write_config(out, settings)

    per_epoch = model.data.n_batch_train
    total = model.n_epochs * per_epoch
    last = min(total, config.max_iterations or total)

    def say(text: str) -> None:
        if rank == 0 and config.verbose and text:
            print(folded(text, text_columns()), flush=True)

    say(f"{config.modelclass} on {data_of(config)}: {size} x {name}, {config.precision}, run folder {out}")
    algorithm = f", Allreduce by {config.allreduce_algorithm}" if config.allreduce_algorithm else ""
    say(f"exchange: {rule.words()}" + (f", {links.words}{algorithm}" if links.words else ""))
    say("" if name == "cpu" else f"algorithms: {algorithms(config.deterministic)}")
    say(begun)
    say(resumed.changes and f"resumed with another recipe: {resumed.changes}")
    say(resumed.rate and f"learning rate: {resumed.rate}")

    with links.closed_where_all_end():
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
                draw=plot_curves if config.curves else None,
                timeline=config.timeline,
                comm=comm,
                place=f"{name} on {platform.node()}",
                progress=progress,
                reported=model.reported,
                lockstep=rule.lockstep,
                clock=means.clock,
                averaged=bool(config.ema),
                mixed=bool(config.mixup or config.cutmix),
                loggers=[
                    partial(logger, out, settings, iteration if config.resume else None) for logger in loggers
                ],
                # As each epoch ends with one, before its checkpoint.
                validated=iteration > 0 and iteration % per_epoch == 0,
            ),
        )
    trainer = Trainer(
        model,
        rule,
        links,
        recorder,
        config,
        last=last,
        comm=comm,
        progress=progress,
        stop=stop,
        clock=means.clock or time.monotonic,
    )
    if config.resume:
        if rank == 0:
            tell(saved=iteration)
        trainer.keep(iteration)  # which a kill may have come before
    stop.begin()
    try:
        with links.closed_where_all_end():
            trainer.train(iteration, resumed.own)
    finally:
        model.cleanup()
    progress.now("writing the summary")
    recorder.close()
    links.close()
    if last < total:
        say(f"stopped after iteration {last} of {total} (max_iterations)")
    trainer.tell_hook()


def data_of(config: RunConfig) -> str:
    """The name of a run's data, for people."""
    return "its own data" if config.data is None else config.data


def print_plan(model: Replica, rule: Rule, config: RunConfig, size: int) -> None:
    """Print what a run of so many ranks would do."""
    rows = [("data", data_of(config)), ("rule", rule.plan(config, size))]
    text = "\n".join([*(f"{label:<16}{text}" for label, text in rows if text), model.plan()])
    print(folded(text, min(text_columns() or 80, 120), indent=18), flush=True)


def settings_of(config: RunConfig, model: Replica, size: int) -> dict[str, Any]:
    """What the folder of a run of so many ranks has in its file of settings, which loggers are given too."""
    return {
        **config.to_dict(),
        # A class of Theano-MPI's contract has as many as it likes.
        "epochs": model.n_epochs,
        "size": size,
        "versions": versions(),
        **model.reported.to_dict(),
        "defaults": read_defaults(defaults_of(find_model_class(config)), config.modelclass),
    }


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
