"""Regression of several targets, not all of which are known of each item."""

import pytensor.tensor as pt

from theanompi import Model, Objective
from theanompi.data import Arrays
from theanompi.lasagne.layers import DenseLayer, InputLayer, get_output
from theanompi.lasagne.nonlinearities import tanh


class MaskedRegression(Model):
    """Fields of the data: x (features), y (targets), known (1 where a target is known, else 0)."""

    modality = Arrays
    defaults = {"batch_size": 8, "epochs": 2, "base_lr": 0.05, "base_batch": 8, "weight_decay": 0.01}

    def build(self, batch):
        hidden = DenseLayer(InputLayer(batch["x"].type.shape), 16, nonlinearity=tanh, name="hidden")
        return DenseLayer(hidden, batch["y"].type.shape[1], nonlinearity=None, name="targets")

    def objectives(self, batch, training):
        error = pt.flatten(get_output(self.network, batch["x"]) - batch["y"])
        return Objective(error**2, weight=pt.flatten(batch["known"]), metrics={"mae": abs(error)})

    def predictions(self, batch):
        return {"y": get_output(self.network, batch["x"])}
