"""Batch normalisation with the statistics of the batch, and its gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from theanompi.device.ops.base import Context, TorchOp, expect, tensor_type


class BatchNorm(TorchOp):
    """Normalises every channel over all other axes; outputs y, mean and 1 / sqrt(variance + epsilon)."""

    __props__ = ("epsilon",)

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def make_node(self, x: Any, gamma: Any, beta: Any) -> Apply:
        x, gamma, beta = (pt.as_tensor_variable(v) for v in (x, gamma, beta))
        expect(x.ndim in (2, 4), "batch_norm", "input", "2 or 4 dimensions, channels second", x.type)
        channels = x.type.shape[1]
        for name, v in (("gamma", gamma), ("beta", beta)):
            fits = v.ndim == 1 and (None in (channels, v.type.shape[0]) or v.type.shape[0] == channels)
            expect(fits, "batch_norm", name, f"a vector of {channels} channels", v.type)
            expect(v.dtype == x.dtype, "batch_norm", name, f"the dtype of the input, {x.dtype}", v.dtype)
        statistic = tensor_type(gamma, (channels,))
        return Apply(self, [x, gamma, beta], [x.type(), statistic(), statistic()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        epsilon = self.epsilon

        def batch_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, epsilon)

        return batch_norm

    def pullback(
        self, inputs: Sequence[Variable], outputs: Sequence[Variable], cotangents: Sequence[Variable]
    ) -> list[Variable]:
        x, gamma, beta = inputs
        y, mean, inv_std = outputs
        gy, g_mean, g_inv_std = cotangents
        if isinstance(gy.type, DisconnectedType):
            gy = y.zeros_like()
        gx, g_gamma, g_beta = BatchNormGrad(self.epsilon)(gy, x, gamma, mean, inv_std)
        axes = (0, *range(2, x.ndim))
        broadcast = ("x", 0, *("x",) * (x.ndim - 2))
        count = (x.size / x.shape[1]).astype(x.dtype)
        if not isinstance(g_mean.type, DisconnectedType):
            gx = gx + (g_mean / count).dimshuffle(*broadcast) * pt.ones_like(x)
        if not isinstance(g_inv_std.type, DisconnectedType):
            centred = x - x.mean(axes, keepdims=True)
            gx = gx - (g_inv_std * inv_std**3 / count).dimshuffle(*broadcast) * centred
        return [gx, g_gamma, g_beta]


class BatchNormGrad(TorchOp):
    """Gradients of the normalised output with respect to input, gamma and beta."""

    __props__ = ("epsilon",)

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def make_node(
        self, gy: Variable, x: Variable, gamma: Variable, mean: Variable, inv_std: Variable
    ) -> Apply:
        return Apply(self, [gy, x, gamma, mean, inv_std], [x.type(), gamma.type(), gamma.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        epsilon, used = self.epsilon, list(context.used)
        backward = torch.ops.aten.native_batch_norm_backward.default

        def batch_norm_grad(
            gy: torch.Tensor, x: torch.Tensor, gamma: torch.Tensor, mean: torch.Tensor, inv_std: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            return backward(gy.to(x.dtype), x, gamma, None, None, mean, inv_std, True, epsilon, used)

        return batch_norm_grad


def batch_norm(
    x: Variable, gamma: Variable, beta: Variable, epsilon: float = 1e-5
) -> tuple[Variable, Variable, Variable]:
    """Normalise with the statistics of the batch (Ioffe and Szegedy 2015, algorithm 1).

    Parameters
    ----------
    x : float tensor, shape (n, c) or (n, c, h, w)
    gamma, beta : float vectors, shape (c,)
        Scale and shift.
    epsilon : float
        Added to the variance.

    Returns
    -------
    y : as `x`
        gamma · (x − mean) · inv_std + beta.
    mean, inv_std : float vectors, shape (c,)
        The batch's mean and 1 / sqrt(biased variance + epsilon), which running averages are made of.

    Examples
    --------
    >>> import pytensor.tensor as pt
    >>> x = pt.tensor("x", dtype="float32", shape=(2, 3, 8, 8))
    >>> [v.type.shape for v in batch_norm(x, pt.ones(3, "float32"), pt.zeros(3, "float32"))]
    [(2, 3, 8, 8), (3,), (3,)]
    """
    return tuple(BatchNorm(float(epsilon))(x, gamma, beta))
