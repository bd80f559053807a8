"""A language model on windows of tokens: the next token from the last two."""

import pytensor.tensor as pt

from theanompi import Model, Objective
from theanompi.data import Tokens
from theanompi.device.ops import softmax_cross_entropy
from theanompi.lasagne.init import Normal
from theanompi.lasagne.layers import DenseLayer, InputLayer, Layer, get_output
from theanompi.lasagne.nonlinearities import tanh


class Embedding(Layer):
    """A vector for each token: whole numbers (n,) to (n, width)."""

    def __init__(self, incoming, tokens, width, **kwargs):
        super().__init__(incoming, **kwargs)
        self.width = width
        self.W = self.add_param(Normal(0.5), (tokens, width), "W")

    def get_output_shape_for(self, shape):
        return (*shape, self.width)

    def get_output_for(self, input, **kwargs):
        return self.W[input]


class Bigrams(Model):
    modality = Tokens
    defaults = {"batch_size": 4, "length": 12, "epochs": 2, "base_lr": 0.2, "base_batch": 4}

    def build(self, batch):
        n, length = batch["tokens"].type.shape
        here = Embedding(InputLayer((n * length,), name="here"), self.dataset.n_tokens, 8, name="embedding")
        hidden = DenseLayer(here, 16, nonlinearity=tanh, name="hidden")
        return DenseLayer(hidden, self.dataset.n_tokens, nonlinearity=None, name="next")

    def objectives(self, batch, training):
        scores = get_output(self.network, pt.flatten(batch["tokens"]))
        loss = softmax_cross_entropy(scores, pt.flatten(batch["targets"]))
        return Objective(loss, weight=pt.flatten(batch["mask"]), name="nats")
