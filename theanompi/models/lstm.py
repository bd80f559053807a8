"""LSTM for the sentiment of a text: the network of Theano's tutorial "LSTM Networks for Sentiment Analysis".

An embedding of words, an LSTM (Hochreiter and Schmidhuber 1997, with the forget gates of Gers et al. 2000, without
peepholes), the mean of its states over the words that there are, dropout and a softmax
(http://deeplearning.net/tutorial/lstm.html; P. L. Carrier and K. Cho). Theano-MPI has the same network. The defaults
are the tutorial's: width, minibatch, Adadelta, orthogonal weights; where it leaves out texts of more than 100 words,
they are cut here.

    tmpack imdb aclImdb -o imdb.h5
    tmlauncher -file theanompi.models.lstm -class LSTM --data imdb.h5

Without ``--data`` they are trained on ``reviews``, small and made up, which come with the package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytensor.tensor as pt
from pytensor.graph.basic import Variable

from theanompi import Model, Objective, classification
from theanompi.config import setting
from theanompi.config.kinds import SHARE, whole
from theanompi.data import TokenDataset, Tokens
from theanompi.lasagne.init import Constant, Normal, Orthogonal, Uniform
from theanompi.lasagne.layers import (
    DenseLayer,
    DropoutLayer,
    EmbeddingLayer,
    Gate,
    InputLayer,
    LSTMLayer,
    MergeLayer,
    get_output,
)
from theanompi.lasagne.nonlinearities import softmax, tanh
from theanompi.models.parts import Net, add


class MaskedMeanLayer(MergeLayer):
    """The mean of states over the steps that a mask leaves: (n, steps, units) and (n, steps) to (n, units)."""

    def get_output_shape_for(self, input_shapes: Sequence[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        n, _, units = input_shapes[0]
        return n, units

    def get_output_for(self, inputs: Any, **kwargs: Any) -> Any:
        states, mask = inputs
        return pt.sum(states * mask[:, :, None], axis=1) / pt.sum(mask, axis=1)[:, None]


def gate(nonlinearity: Any = None) -> Gate:
    """A gate with orthogonal weights and a bias of 0, a sigmoid by default."""
    kwargs = {} if nonlinearity is None else {"nonlinearity": nonlinearity}
    return Gate(W_in=Orthogonal(), W_hid=Orthogonal(), W_cell=None, b=Constant(0.0), **kwargs)


def build_model(
    input_shape: tuple[int | None, int] = (None, 100),
    num_tokens: int = 10_000,
    num_classes: int = 2,
    *,
    width: int = 128,
    dropout: float = 0.5,
) -> Net:
    """Build the network.

    Parameters
    ----------
    input_shape : (n or None, length)
    num_tokens : int
        Size of the vocabulary.
    num_classes : int
    width : int
        Of the embedding, and units of the LSTM.
    dropout : float
        Of the mean state.

    Returns
    -------
    dict of str to Layer
        Name → layer, from ``"tokens"`` and ``"mask"`` to ``"prob"``, the softmax of the class scores.

    Examples
    --------
    >>> from theanompi.lasagne.layers import count_params
    >>> count_params(build_model()["prob"], trainable=True)
    1411842
    """
    net: Net = {}
    tokens = add(net, InputLayer(input_shape, pt.lmatrix("tokens"), name="tokens"))
    mask = add(net, InputLayer(input_shape, pt.fmatrix("mask"), name="mask"))
    top = add(net, EmbeddingLayer(tokens, num_tokens, width, W=Uniform((0, 0.01)), name="embedding"))
    gates: dict[str, Any] = {"ingate": gate(), "forgetgate": gate(), "cell": gate(tanh), "outgate": gate()}
    states = add(net, LSTMLayer(top, width, **gates, peepholes=False, mask_input=mask, name="lstm"))
    top = add(net, MaskedMeanLayer([states, mask], name="mean"))
    top = add(net, DropoutLayer(top, dropout, name="drop"))
    add(net, DenseLayer(top, num_classes, W=Normal(0.01), nonlinearity=softmax, name="prob"))
    return net


class LSTM(Model):
    """The class of a text, from its tokens.

    It reports the cross-entropy in nats and ``error``, the share of texts of the wrong class.
    """

    paper: ClassVar[str] = "Hochreiter and Schmidhuber 1997; Theano's tutorial on sentiment analysis"
    architecture: ClassVar[Mapping[str, Any]] = {}
    modality = Tokens
    network: Net
    dataset: TokenDataset
    defaults = {
        "data": "reviews",
        "batch_size": 16,
        "length": 100,
        "epochs": 20,
        "optimizer": "adadelta",
        "base_lr": 1.0,
        "base_batch": 16,
        "scaling": "none",
        "schedule": "constant",
        "warmup": "none",
        "weight_decay": 0.0,
    }

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        width: int = setting(128, whole(1), "of the embedding, and units of the LSTM")
        dropout: float = setting(0.5, SHARE, "of the mean of the states")

    def build(self, batch: Mapping[str, Variable]) -> Net:
        shape, own = batch["tokens"].type.shape, self.settings
        return build_model(
            shape, self.dataset.n_tokens, self.dataset.n_classes, width=own.width, dropout=own.dropout
        )

    def objectives(self, batch: Mapping[str, Variable], training: bool) -> Objective:
        inputs = {self.network[name]: batch[name] for name in ("tokens", "mask")}
        objective = classification(get_output(self.network["prob"], inputs), batch["labels"])
        return objective._replace(metrics={"error": objective.metrics["error"]})
