"""The class of a run's model: where it is found, which defaults it has, and an instance of it for a rank."""

import sys
from collections.abc import Mapping
from typing import Any

from mpi4py import MPI

from theanompi.config import ConfigError, RunConfig, listed, one_line, resolve
from theanompi.config.plugins import import_module
from theanompi.data import Arrays, Pictures, Tokens
from theanompi.training.model import Model
from theanompi.training.objective import of_no_layer
from theanompi.training.own_class import refuse_unheeded
from theanompi.training.replica import Replica
from theanompi.training.theano_mpi_model import TheanoMPIModel


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
