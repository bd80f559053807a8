"""A run's weights by the names that torch has for them."""

from dataclasses import replace

import numpy as np
from mpi4py import MPI

from theanompi import device
from theanompi.config import ConfigError
from theanompi.config.modules import look_in_current_folder
from theanompi.record.folder import read_settings_of
from theanompi.record.weights import Weights
from theanompi.rules import get_rule
from theanompi.training.model import Model
from theanompi.training.model_class import make_model
from theanompi.training.weights import as_torch


def for_torch(weights: Weights) -> dict[str, np.ndarray]:
    """Lay out the weights of a run's checkpoint as torch does, by the names of its model's `Model.torch_names`.

    The model is built, on the CPU, with the settings beside the checkpoint: it needs its class and its data.

    Raises
    ------
    ConfigError
        If there are no settings, or the model cannot be built.
    """
    config = read_settings_of(weights.path.parent)
    look_in_current_folder()
    device.use("cpu")
    settings = replace(config, devices=("cpu",), init=None, resume=False, verbose=False)
    model = make_model(settings, MPI.COMM_SELF, lockstep=get_rule(config.rule).lockstep)
    try:
        if not isinstance(model, Model):
            raise ConfigError(
                f"{config.modelclass}: expected a theanompi.Model, got a class of Theano-MPI's interface"
            )
        return as_torch(weights.arrays, model._outputs(), model.torch_names())
    finally:
        model.cleanup()
