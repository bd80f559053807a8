"""Weights that a run has saved, in its network again: loaded, and validated on any number of ranks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mpi4py import MPI

from theanompi.config import ConfigError, RunConfig
from theanompi.record import checkpoint
from theanompi.record.folder import LOG_FILE, read_settings_of
from theanompi.record.log import json_line, read_log, validation_record
from theanompi.record.metrics import values_of
from theanompi.record.progress import Progress
from theanompi.record.terminal import folded, terminal_columns
from theanompi.record.weights import WEIGHTS
from theanompi.training.loop import validation_of
from theanompi.training.model import Model
from theanompi.training.model_class import make_model, resolve_by_class
from theanompi.training.rank import settle
from theanompi.training.ranks import together
from theanompi.training.saving import DIGITS, take_fixed, without_fixed
from theanompi.training.state import load_views
from theanompi.training.stop import StopSignals


def trained(path: Path, config: RunConfig, comm: MPI.Intracomm) -> tuple[Model, dict[str, checkpoint.Scalar]]:
    """Build the model of a run with the weights and running statistics of its checkpoint: the average, if it has one.

    Parameters
    ----------
    path : Path
        The checkpoint.
    config : RunConfig
        Of the run, with the data that it was trained on.
    comm : mpi4py.MPI.Intracomm
        Whose ranks share out the validation.

    Returns
    -------
    model : Model
        Not compiled.
    attributes : dict of str to int, float or str
        Of the checkpoint.

    Raises
    ------
    ConfigError, ValueError
        If the class builds another network by now, or is none of `theanompi.Model`, or the checkpoint is damaged.
    """
    arrays, attributes = checkpoint.load(path)
    model = make_model(resolve_by_class(replace(config, init=None, ema=0.0)), comm)
    if not isinstance(model, Model):
        model.cleanup()
        raise ConfigError(
            f"{config.modelclass}: expected a theanompi.Model, got a class of Theano-MPI's interface"
        )
    views = model.state.weights.views
    found, expected = take_fixed(model, arrays, path), without_fixed(model, model.state_arrays())
    found, expected = ({k: v for k, v in of.items() if k.startswith(WEIGHTS)} for of in (found, expected))
    checkpoint.check(found, expected, path)
    load_views(model.state.weights, {name: arrays[f"{WEIGHTS}{name}"] for name in views})
    return model, attributes


def evaluate(
    config: RunConfig, devices: tuple[str, ...], *, comm: MPI.Intracomm, progress: Progress, stop: StopSignals
) -> None:
    """Be one rank of an evaluation: rank 0 prints what came out, in words and as the log of a run has it.

    Parameters
    ----------
    config : RunConfig
        That of the run, but for `data`, which are validated, and `init`, the checkpoint.
    devices, comm, progress, stop
        As for `theanompi.training.rank.train`.

    Raises
    ------
    SystemExit
        With status 1, on all ranks, after one line on one of them.
    """
    path = Path(config.init or "")
    config, _ = settle(config, devices, comm, progress)
    progress.now("building the model")

    def build() -> tuple[Model, dict[str, checkpoint.Scalar]]:
        own = read_settings_of(path.parent).data
        model, attributes = trained(path, replace(config, data=own), comm)
        if config.data is not None and config.data != own:
            model.validate_on(config.data)
        elif (sha := attributes.get("data_sha256", model.dataset.sha256)) != model.dataset.sha256:
            raise ConfigError(
                f"data: expected the {model.data.modality.noun} of the run (SHA-256 {str(sha)[:DIGITS]}), got others "
                f"in {model.dataset.path} (SHA-256 {model.dataset.sha256[:DIGITS]}); --data FILE takes any"
            )
        return model, attributes

    model, attributes = together(comm, build)
    try:
        progress.now("compiling")
        together(comm, model.compile_validation)
        items, sums = validation_of(model, comm, None, stop, progress)
    finally:
        model.cleanup()
    if comm.Get_rank():
        return
    iteration, epoch = int(attributes["iteration"]), int(attributes["epoch"])
    # Counted from 0, of the last iteration.
    epoch -= attributes["position"] == 0
    record = validation_record(
        model.reported.metrics, epoch, iteration, items, sums, averaged=bool(attributes.get("ema"))
    )
    there = (
        _compared(path.parent / LOG_FILE, record)
        if model.dataset.sha256 == attributes.get("data_sha256")
        else ""
    )
    about = f"{path}: iteration {iteration}, {items:,} {model.reported.noun} of {model.dataset.path.stem}"
    # Of a terminal alone: a program reads the record as one line.
    columns = terminal_columns(output=True)
    text = f"{about}: {values_of(record, model.reported.metrics)}{there}\n{json_line(record)}"
    print(folded(text, columns), end="", flush=True)


def _compared(log: Path, record: dict[str, Any]) -> str:
    """What the log of the run has for the same validation, in words."""
    try:
        records = [r for r in read_log(log) if r["kind"] == "val" and r["iteration"] == record["iteration"]]
    except ValueError:
        return "; there is no log to compare with"
    if not records:
        return f"; no validation of this iteration is in {log.name}"
    figures = [name for name in record if records[-1].get(name) != record[name]]
    if not figures:
        return f", as {log.name} has them"
    return f"; {log.name} has {', '.join(f'{name} {records[-1].get(name)}' for name in figures)}"
