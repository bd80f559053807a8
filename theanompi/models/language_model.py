"""A language model of words or characters by LSTMs (Zaremba et al. 2014, *Recurrent neural network regularization*).

arXiv 1409.2329. An embedding, LSTMs of the same width, and a softmax over the vocabulary, with dropout between them but
not from one step to the next. The defaults are those of the paper's network without regularisation: two layers of 200
units, windows of 35 tokens, 20 of them in a minibatch, 13 epochs of SGD with a rate of 1 that is halved after each
epoch from the fifth on, gradients of a norm of at most 5. The paper's loss is the sum over a window, and this one's the
mean over all tokens, so that its rate is 35 here and its norm 1/7. Its larger networks are
``--set model.width=650 --set model.dropout=0.5`` and ``--set model.width=1500 --set model.dropout=0.65``.

One thing differs: each window begins with a state of 0, because windows come in a random order, where the paper goes
on with the state at the end of the window before. A larger ``--length`` costs less of that.

    tmpack text ptb.train.txt --val ptb.valid.txt --tokens words -o ptb.h5
    tmlauncher -file theanompi.models.language_model -class LanguageModel --data ptb.h5

Without ``--data`` it is trained on ``sentences``, which come with the package: characters, whose entropy is known
(``tmpack info sentences``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi import Model, Objective
from theanompi.config import setting
from theanompi.config.kinds import SHARE, whole
from theanompi.data import TokenDataset, Tokens
from theanompi.device.ops import softmax_cross_entropy
from theanompi.lasagne.init import Uniform
from theanompi.lasagne.layers import (
    DenseLayer,
    DropoutLayer,
    EmbeddingLayer,
    Gate,
    InputLayer,
    LSTMLayer,
    get_output,
)
from theanompi.lasagne.nonlinearities import tanh
from theanompi.models.parts import Net, add

SCALE = 0.1
"""Parameters are uniform from −0.1 to 0.1 at first."""


def gate(**nonlinearity: Any) -> Gate:
    """A gate without a look at the cell, a sigmoid by default."""
    return Gate(W_in=Uniform(SCALE), W_hid=Uniform(SCALE), W_cell=None, b=Uniform(SCALE), **nonlinearity)


def build_model(
    input_shape: tuple[int | None, int] = (None, 35),
    num_tokens: int = 10_000,
    *,
    layers: int = 2,
    width: int = 200,
    dropout: float = 0.0,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, length)
    num_tokens : int
        Size of the vocabulary.
    layers : int
        LSTMs above each other.
    width : int
        Of the embedding, and units of each LSTM.
    dropout : float
        Of what goes into an LSTM or the softmax.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"tokens"`` to ``"scores"``, of shape (n, length, num_tokens).

    Examples
    --------
    >>> from theanompi.lasagne.layers import count_params
    >>> count_params(build_model()["scores"], trainable=True)
    4651600
    """
    net: Net = {}
    top = add(net, InputLayer(input_shape, pt.lmatrix("tokens"), name="tokens"))
    top = add(net, EmbeddingLayer(top, num_tokens, width, W=Uniform(SCALE), name="embedding"))
    top = add(net, DropoutLayer(top, dropout, name="drop0"))
    for i in range(1, layers + 1):
        gates: dict[str, Any] = {
            "ingate": gate(),
            "forgetgate": gate(),
            "cell": gate(nonlinearity=tanh),
            "outgate": gate(),
        }
        top = add(net, LSTMLayer(top, width, **gates, peepholes=False, name=f"lstm{i}"))
        top = add(net, DropoutLayer(top, dropout, name=f"drop{i}"))
    weights: dict[str, Any] = {"W": Uniform(SCALE), "b": Uniform(SCALE)}
    add(net, DenseLayer(top, num_tokens, **weights, nonlinearity=None, num_leading_axes=2, name="scores"))
    return net


class LanguageModel(Model):
    """The next token of a stream, from those before it in its window.

    It reports the cross-entropy as ``nats``, the mean over all tokens that there are; its exponential is the
    perplexity, which the terminal shows beside it.
    """

    paper: ClassVar[str] = "Zaremba et al. 2014, arXiv 1409.2329"
    architecture: ClassVar[Mapping[str, Any]] = {}
    modality = Tokens
    network: Net
    dataset: TokenDataset
    defaults = {
        "data": "sentences",
        "batch_size": 20,
        "length": 35,
        "epochs": 13,
        "base_lr": 35.0,
        "base_batch": 20,
        "scaling": "none",
        "warmup": "none",
        "decay_epochs": (4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0),
        "decay_factor": 0.5,
        "momentum": 0.0,
        "nesterov": False,
        "clip_norm": 5 / 35,
        "weight_decay": 0.0,
    }

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        layers: int = setting(2, whole(1), "LSTMs above each other")
        width: int = setting(200, whole(1), "of the embedding, and units of each LSTM")
        dropout: float = setting(0.0, SHARE, "of what goes into an LSTM or the softmax")

    def build(self, batch: Mapping[str, Variable]) -> Net:
        shape, own = batch["tokens"].type.shape, self.settings
        return build_model(
            shape, self.dataset.n_tokens, layers=own.layers, width=own.width, dropout=own.dropout
        )

    def objectives(self, batch: Mapping[str, Variable], training: bool) -> Objective:
        scores = get_output(self.network["scores"], {self.network["tokens"]: batch["tokens"]})
        n, length = batch["tokens"].type.shape
        scores = pt.reshape(scores, (n * length, self.dataset.n_tokens))
        loss = softmax_cross_entropy(scores, pt.flatten(batch["targets"]))
        return Objective(loss, weight=pt.flatten(batch["mask"]), name="nats")
