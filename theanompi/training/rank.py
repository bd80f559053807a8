"""One rank, top to bottom: device, model, exchange, compiled functions, and every epoch to the last checkpoint."""

import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
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
    listed,
    local_device,
    one_line,
    read_defaults,
    resolve,
)
from theanompi.config.kinds import AUTO
from theanompi.config.plugins import import_module
from theanompi.data import Arrays, Pictures, Tokens
from theanompi.launch.ends import STOPPED, tell, what_is_saved
from theanompi.launch.libraries import check_algorithm
from theanompi.record.folder import RunFolder, keep_checkpoint, write_config
from theanompi.record.loggers import find_logger
from theanompi.record.meetings import Told
from theanompi.record.plots import plot_curves
from theanompi.record.progress import Progress
from theanompi.record.recorder import Recorder
from theanompi.record.terminal import folded, text_columns
from theanompi.rules import Diverged, get_rule
from theanompi.rules.rule import comes_due
from theanompi.system import cgroup
from theanompi.system.processes import LAUNCHER
from theanompi.training.links import Links
from theanompi.training.loop import train_alone, train_epoch, validate
from theanompi.training.model import Model, hook, refuse_unheeded
from theanompi.training.objective import of_no_layer
from theanompi.training.ranks import Agreed, agree, library, together
from theanompi.training.replica import Replica
from theanompi.training.saving import load_checkpoint, save_checkpoint
from theanompi.training.stop import StopSignals
from theanompi.training.theano_mpi_model import TheanoMPIModel, no_resume
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


def find_model_class(config: RunConfig) -> Any:
    """Import the class of a run's model.

    Raises
    ------
    ConfigError
        If it is not there.
    """
    module = import_module("modelfile", config.modelfile)
    model_class = getattr(module, config.modelclass, None)
    if model_class is None:
        raise ConfigError(f"modelclass: expected a class of {module.__file__}, got {config.modelclass!r}")
    return model_class


def defaults_of(model_class: Any) -> Any:
    """What a model's class has defaults for; with no more than Theano-MPI's interface it reads data of its own."""
    own = isinstance(model_class, type) and issubclass(model_class, Model)
    given = getattr(model_class, "defaults", {})
    return given if own or not isinstance(given, Mapping) else {"data": None, **given}


def kind_of_items(model_class: Any) -> str | None:
    """The name of the package's modality that a model's data are read by; None where it is a class of the user's."""
    modality = getattr(model_class, "modality", None)
    return modality.name if modality in (Pictures, Arrays, Tokens) else None


def resolve_by_class(config: RunConfig) -> RunConfig:
    """Fill in every default of a run, those that its model's class has too.

    Raises
    ------
    ConfigError
        If there is no such class, or it has defaults that it may not have.
    """
    return resolve(config, defaults_of(find_model_class(config)), model=config.modelclass)


def make_model(config: RunConfig, comm: MPI.Comm, *, lockstep: bool = True) -> Replica:
    """Make an instance of the model's class for this rank.

    Parameters
    ----------
    config : RunConfig
        Resolved.
    comm : mpi4py.MPI.Comm
        All ranks.
    lockstep : bool
        Whether all of them are in the same iteration.
    """
    rank, model_class = comm.Get_rank(), find_model_class(config)
    settings = {
        **config.to_dict(),
        "rank": rank,
        "size": comm.Get_size(),
        "verbose": config.verbose and rank == 0,
        "mname": config.modelclass,
    }
    model = model_class(settings)
    if isinstance(model, Model):
        refuse_unheeded(model)
        loose = of_no_layer(model.traced.objectives, model._outputs())
        if loose and rank == 0:
            names = listed(v.name or f"one without a name, {v.type}" for v in loose)
            text = (
                f"{config.modelclass}.objectives: in the loss are shared variables of no layer, which are not trained "
                f"or saved: {names}; remedy: add_param of a layer, or for a constant an array in its place"
            )
            print(one_line(f"theanompi: {text}"), file=sys.stderr, flush=True)
        return model
    return TheanoMPIModel(model, config, rank, comm.Get_size(), comm, lockstep=lockstep)


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
    data = "its own data" if config.data is None else config.data
    if plan:
        if rank == 0:
            rows = [("data", data), ("rule", rule.plan(config, size))]
            text = "\n".join([*(f"{label:<16}{text}" for label, text in rows if text), model.plan()])
            print(folded(text, min(text_columns() or 80, 120), indent=18), flush=True)
        model.cleanup()
        return

    begun, about, settings = "", dict[str, str](), dict[str, Any]()
    if config.init and not config.resume and isinstance(model, Model):
        progress.now("reading the weights to start from")
        begun, about = start_from(model, config, comm)
    out = Path(config.out or "")
    links = means.links(comm, config, progress, stop)
    iteration, own, changes, rate = 0, 0, "", ""
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
            (iteration, changes, own, rate), of_rule = together(
                comm, lambda: load_checkpoint(model, rule, out, comm, config)
            )
            rule.load_state_arrays(of_rule)
            rule.go_on(model)
    progress.iteration, progress.saved = iteration, iteration if config.resume else None
    if folder is not None:
        folder.clear()
        defaults = read_defaults(defaults_of(find_model_class(config)), config.modelclass)
        more = {**model.reported.to_dict(), "defaults": defaults, **about}
        # A class of Theano-MPI's contract has as many as it likes.
        done = {"epochs": model.n_epochs}
        settings = {**config.to_dict(), **done, "size": size, "versions": versions(), **more}
        write_config(out, settings)

    def say(text: str) -> None:
        if rank == 0 and config.verbose:
            print(folded(text, text_columns()), flush=True)

    per_epoch = model.data.n_batch_train
    total = model.n_epochs * per_epoch
    last = min(total, config.max_iterations or total)
    say(f"{config.modelclass} on {data}: {size} x {name}, {config.precision}, run folder {out}")
    algorithm = f", Allreduce by {config.allreduce_algorithm}" if config.allreduce_algorithm else ""
    say(f"exchange: {rule.words()}, {links.words}{algorithm}" if links.words else f"exchange: {rule.words()}")
    if name != "cpu":
        say(f"algorithms: {algorithms(config.deterministic)}")
    if begun:
        say(begun)
    if changes:
        say(f"resumed with another recipe: {changes}")
    if rate:
        say(f"learning rate: {rate}")

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

    def keep(done: int) -> None:
        """Keep what was saved after that iteration beyond the next checkpoint, if it is the best, or asked for."""
        if rank == 0:
            best = recorder.best
            keep_checkpoint(out, done, best=best is not None and best["iteration"] == done, last=config.keep)

    if config.resume:
        if rank == 0:
            tell(saved=iteration)
        keep(iteration)  # which a kill may have come before

    def save(done: int, epoch: int, own: int) -> None:
        if done > (progress.saved or 0):
            progress.now("writing a checkpoint")
            recorder.flush()
            rule.meet(model)
            finite = model.finite()
            with progress.waiting("waiting for the other ranks"):
                finite = comm.allreduce(finite, MPI.LAND)
            if not finite:
                reason = "the update has made weights or velocities that are not finite"
                recorder.diverged(epoch, done, reason)
                agree(comm, Diverged(f"iteration {done}: {reason}"))
            save_checkpoint(model, rule, out, comm, config, done, own)
            progress.saved = done
            if rank == 0:
                tell(saved=done)
            keep(done)
            rule.go_on(model)

    def tell_hook() -> None:
        """Let the model's class know that the run has ended in good order."""
        on_end = hook(model, "on_end")
        if on_end is not None:
            progress.now("in the model's own on_end")
            on_end(comm.bcast(recorder.last))

    def stop_if_agreed(done: int, epoch: int, own: int) -> None:
        """End in good order if all ranks know that one of them was asked to."""
        if not stop.agreed or done == last:
            return
        save(done, epoch, own)
        recorder.stopped()
        tell_hook()
        names = comm.allgather(stop.name)
        if rank == 0:
            asked = next(of for of, name in enumerate(names) if name)
            why = names[asked] + (f" to rank {asked}" if asked else "")
            tell(stopped=why)
            if LAUNCHER not in os.environ:
                text = f"stopped in good order by {why}; {what_is_saved(done, str(out), resumable=progress.resumable)}"
                print(f"theanompi: {text}", file=sys.stderr, flush=True)
        raise Agreed(STOPPED)

    def end_epoch(epoch: int, own: int) -> None:
        done = min((epoch + 1) * per_epoch, last)
        if done == (epoch + 1) * per_epoch:
            rule.meet(model)
            validate(model, comm, recorder, epoch, done, stop, progress)
            model.adjust_hyperp(epoch)
        save(done, epoch, own)
        stop_if_agreed(done, epoch, own)

    def in_step() -> None:
        """All ranks are in the same iteration."""
        done = iteration
        will_validate = last // per_epoch > iteration // per_epoch
        while done < last:
            epoch, start = divmod(done, per_epoch)
            end = min(per_epoch, last - epoch * per_epoch)

            def after(position: int, epoch: int = epoch) -> None:
                nonlocal will_validate
                before, done = progress.iteration, epoch * per_epoch + position
                progress.iteration = done
                if will_validate:
                    # The first update has not waited for it; what is wrong with it is said at once all the same.
                    will_validate = False
                    progress.now("compiling the validation")
                    with recorder.aside():
                        together(comm, model.compile_validation)
                # At the end of an epoch the validation comes first: its line would be lost with a kill in between.
                if position < per_epoch:
                    if config.checkpoint_interval and comes_due(config.checkpoint_interval, before, done):
                        save(done, epoch, done)
                    stop_if_agreed(done, epoch, done)

            train_epoch(model, rule, recorder, epoch, start, end, stop, after)
            done = epoch * per_epoch + end
            end_epoch(epoch, done)

    def alone() -> None:
        """Each rank is in an iteration of its own; an epoch is one of all ranks together, whoever did it."""
        done, total = own, comm.allreduce(own)
        if rank == 0:
            links.count(total)
        comm.Barrier()
        pace: list[int] = []

        def after(reached: int) -> None:
            progress.iteration = reached

        while total < last * size:
            epoch = total // size // per_epoch
            until = end = min((epoch + 1) * per_epoch, last)
            if config.checkpoint_interval:
                until = min(
                    end, (total // size // config.checkpoint_interval + 1) * config.checkpoint_interval
                )
            reason = None
            try:
                done = train_alone(
                    model,
                    rule,
                    recorder,
                    done,
                    total,
                    until * size,
                    size,
                    stop,
                    links.count,
                    pace.append,
                    after,
                )
            except Diverged as error:
                links.call()
                reason = error
            total = meet(epoch, done, pace, reason)
            pace.clear()
            if total >= end * size:
                end_epoch(epoch, done)
            else:
                if total >= until * size:
                    save(until, epoch, done)
                stop_if_agreed(total // size, epoch, done)

    def meet(epoch: int, done: int, pace: list[int], error: Diverged | None) -> int:
        """Wait for the other ranks; gives how many iterations all have done.

        Raises
        ------
        Agreed
            If one of them comes with an error.
        """
        progress.now("meeting the other ranks")
        now = means.clock or time.monotonic
        began = now()
        with progress.waiting("waiting for the other ranks"):
            told = comm.allgather((done, stop.asked, "" if error is None else str(error)))
        waited = now() - began
        stop.agreed = any(asked for _, asked, _ in told)
        reason = next((reason for *_, reason in told if reason), "")
        total = sum(done for done, *_ in told)
        if reason and error is None:
            recorder.diverged(epoch, progress.iteration + 1, reason)
        agree(comm, error)
        recorder.flush()
        recorder.meeting(
            epoch,
            total // size,
            [done for done, *_ in told],
            comm.gather(Told(waited, rule.passes(), rule.letters(), list(pace))) or [],
        )
        return total

    stop.begin()
    try:
        with links.closed_where_all_end():
            try:
                (in_step if rule.lockstep else alone)()
            except Diverged as error:
                agree(comm, error)
    finally:
        model.cleanup()
    progress.now("writing the summary")
    recorder.close()
    links.close()
    if last < total:
        say(f"stopped after iteration {last} of {total} (max_iterations)")
    tell_hook()


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
