"""Log-softmax cross-entropy against integer labels."""

from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.special import softmax

from theanompi.device.ops.base import Context, TorchOp, Variables, expect, pulled_back, tensor_type

# Torch leaves out what has this label, by default -100, without a word.
_NO_CLASS = -(2**63)


class SoftmaxCrossEntropy(TorchOp):
    """−log softmax(logits)[label] of every row, computed in at least float32."""

    __props__ = ()

    def make_node(self, logits: Any, labels: Any) -> Apply:
        logits, labels = pt.as_tensor_variable(logits), pt.as_tensor_variable(labels)
        expect(logits.ndim == 2, "softmax_cross_entropy", "logits", "2 dimensions (n, classes)", logits.type)
        expect(
            labels.ndim == 1 and labels.dtype == "int64",
            "softmax_cross_entropy",
            "labels",
            "an int64 vector (n,)",
            labels.type,
        )
        return Apply(self, [logits, labels], [tensor_type(logits, (logits.type.shape[0],))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        def softmax_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            logits = logits.float() if logits.dtype == torch.bfloat16 else logits
            try:
                return torch.nn.functional.cross_entropy(
                    logits, labels, reduction="none", ignore_index=_NO_CLASS
                )
            except IndexError:
                classes = logits.shape[1]
                wrong = labels[(labels < 0) | (labels >= classes)].tolist()
                if not wrong:
                    raise
                raise IndexError(
                    f"softmax_cross_entropy: labels: expected classes from 0 to {classes - 1}, got {wrong[0]}; "
                    "remedy: let what does not count have label 0 and weight 0"
                ) from None

        return softmax_cross_entropy

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True], [False]]

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        return [SoftmaxCrossEntropyGrad()(*inputs, cotangents[0]), disconnected_type()]


class SoftmaxCrossEntropyGrad(TorchOp):
    """(softmax(logits) − one-hot(label)) · cotangent, row by row."""

    __props__ = ()

    def make_node(self, logits: Variable, labels: Variable, g: Variable) -> Apply:
        return Apply(self, [logits, labels, g], [logits.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        def softmax_cross_entropy_grad(
            logits: torch.Tensor, labels: torch.Tensor, g: torch.Tensor
        ) -> torch.Tensor:
            logits = logits.float() if logits.dtype == torch.bfloat16 else logits
            gradient = torch.softmax(logits, 1)
            gradient.scatter_add_(
                1, labels[:, None], torch.full_like(labels[:, None], -1, dtype=gradient.dtype)
            )
            return gradient.mul_(g[:, None])

        return softmax_cross_entropy_grad

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[True], [False], [True]]

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        logits, labels, g = inputs

        def written_out(logits: Variable, g: Variable) -> list[Variable]:
            right = pt.eq(labels[:, None], pt.arange(logits.shape[1])).astype(logits.dtype)
            return [(softmax(logits, axis=1) - right) * g[:, None]]

        of_logits, of_g = pulled_back(written_out, [logits, g], cotangents)
        return [of_logits, disconnected_type(), of_g]


def softmax_cross_entropy(logits: Variable, labels: Variable) -> Variable:
    """The cross-entropy of a softmax classifier, numerically stable, one value for each sample.

    Parameters
    ----------
    logits : float tensor, shape (n, classes)
        What goes into the softmax.
    labels : int64 vector, shape (n,)
        The true class of each sample, in [0, classes).

    Returns
    -------
    float vector, shape (n,)
        In nats.

    Raises
    ------
    IndexError
        On the CPU, when a label is no class, also torch's -100: what does not count has any class, and the weight 0.

    Examples
    --------
    >>> import numpy as np
    >>> loss = softmax_cross_entropy(np.zeros((1, 4), "float32"), np.array([2]))
    >>> round(float(loss.eval()[0]), 4)  # log 4
    1.3863
    """
    return SoftmaxCrossEntropy()(logits, labels)
