"""A classifier of vectors by Adam, with a rate that falls as a cosine and the gradient's norm limited."""

from theanompi import Model, classification
from theanompi.data import Arrays
from theanompi.lasagne.layers import DenseLayer, InputLayer, get_output
from theanompi.lasagne.nonlinearities import softmax, tanh


class Classifier(Model):
    """Fields of the data: x (features), labels."""

    modality = Arrays
    defaults = {
        "batch_size": 8,
        "epochs": 2,
        "base_lr": 0.01,
        "base_batch": 8,
        "optimizer": "adam",
        "schedule": "cosine",
        "clip_norm": 0.5,
    }

    def build(self, batch):
        hidden = DenseLayer(InputLayer(batch["x"].type.shape), 16, nonlinearity=tanh, name="hidden")
        return DenseLayer(hidden, self.dataset.n_classes, nonlinearity=softmax, name="scores")

    def objectives(self, batch, training):
        return classification(get_output(self.network, batch["x"]), batch["labels"])
