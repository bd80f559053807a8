"""Batch normalisation with the statistics of the batch, its gradient, and normalisation by given statistics."""

from collections.abc import Callable
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.gradient import DisconnectedType
from pytensor.graph.basic import Apply, Variable

from theanompi.device import triton
from theanompi.device.ops import rows
from theanompi.device.ops.base import Context, TorchOp, Variables, expect, pulled_back, tensor_type


def _by_channel(op: str, x: Any, **vectors: Any) -> list[Any]:
    """An input whose second axis is the channels, and vectors of them, as variables."""
    x = pt.as_tensor_variable(x)
    expect(x.ndim in (2, 4), op, "input", "2 or 4 dimensions, channels second", x.type)
    channels = x.type.shape[1]
    variables = {name: pt.as_tensor_variable(v) for name, v in vectors.items()}
    for name, v in variables.items():
        fits = v.ndim == 1 and (None in (channels, v.type.shape[0]) or v.type.shape[0] == channels)
        expect(fits, op, name, f"a vector of {channels} channels", v.type)
        expect(v.dtype == x.dtype, op, name, f"the dtype of the input, {x.dtype}", v.dtype)
    return [x, *variables.values()]


def _fused(x: torch.Tensor, *others: torch.Tensor) -> Any:
    """The functions that do it in few passes over memory, if there are any for such tensors."""
    if rows.fit(x, *others):
        return rows
    if triton.available() and triton.computes(x):
        from theanompi.device.triton import norm  # imports Triton

        return norm if norm.fit(x, *others) else None
    return None


class BatchNorm(TorchOp):
    """Normalises every channel over all other axes; outputs y, mean and 1 / sqrt(variance + epsilon).

    A fourth input is added to the normalised one, and the sum rectified if `rectify` says so. Only
    :mod:`theanompi.device.fusion` makes such nodes, of the sum and the rectifier that follow: they have no pullback.
    """

    __props__ = ("epsilon", "rectify")
    overwrites = {0: (3,)}

    def __init__(self, epsilon: float, rectify: bool = False) -> None:
        self.epsilon, self.rectify = epsilon, rectify

    def make_node(self, x: Any, gamma: Any, beta: Any, *residual: Any) -> Apply:
        x, gamma, beta = _by_channel("batch_norm", x, gamma=gamma, beta=beta)
        statistic = tensor_type(gamma, (x.type.shape[1],))
        return Apply(self, [x, gamma, beta, *residual], [x.type(), statistic(), statistic()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        epsilon, rectify, overwrite = self.epsilon, self.rectify, 0 in context.overwrite

        def batch_norm(
            x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, *residual: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            fused = _fused(x, *residual)
            if fused is not None:
                return fused.forward(
                    x, gamma, beta, *residual, epsilon=epsilon, rectify=rectify, overwrite=overwrite
                )
            y, mean, inv_std = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, epsilon)
            for r in residual:
                y = y.add_(r) if y.dtype == r.dtype else y + r
            return y.relu_() if rectify else y, mean, inv_std

        return batch_norm

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
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
    """Gradients of y with respect to input, gamma and beta.

    With the output of a rectifier as a sixth input the cotangent is that of the rectifier; then there is a fourth
    output, the cotangent of what is rectified. Such nodes too are made by :mod:`theanompi.device.fusion`.
    """

    __props__ = ("epsilon",)
    overwrites = {0: (0,)}

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def make_node(
        self,
        gy: Variable,
        x: Variable,
        gamma: Variable,
        mean: Variable,
        inv_std: Variable,
        *rectified: Variable,
    ) -> Apply:
        gradients = [x.type(), gamma.type(), gamma.type(), *(gy.type() for _ in rectified)]
        return Apply(self, [gy, x, gamma, mean, inv_std, *rectified], gradients)

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        epsilon, overwrite, used = self.epsilon, 0 in context.overwrite, list(context.used)
        batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
        threshold_backward = torch.ops.aten.threshold_backward

        def batch_norm_grad(
            gy: torch.Tensor,
            x: torch.Tensor,
            gamma: torch.Tensor,
            mean: torch.Tensor,
            inv_std: torch.Tensor,
            *rectified: torch.Tensor,
        ) -> tuple[torch.Tensor, ...]:
            fused = _fused(x, *rectified) if triton.computes(x) or gy.dtype == x.dtype else None
            if fused is not None:
                keep = used[3:] == [True]
                return fused.backward(gy, x, gamma, mean, inv_std, *rectified, keep=keep, overwrite=overwrite)
            for y in rectified:
                if overwrite:
                    threshold_backward.grad_input(gy, y, 0, grad_input=gy)
                else:
                    gy = threshold_backward.default(gy, y, 0)
            gx, g_gamma, g_beta = batch_norm_backward(
                gy.to(x.dtype), x, gamma, None, None, mean, inv_std, True, epsilon, used[:3]
            )
            return gx, g_gamma, g_beta, *(gy for _ in rectified)

        return batch_norm_grad

    @staticmethod
    def written_out(
        gy: Variable, x: Variable, gamma: Variable, mean: Variable, inv_std: Variable
    ) -> list[Variable]:
        """The same as element-wise nodes and sums."""
        axes, channels = (0, *range(2, x.ndim)), ("x", 0, *("x",) * (x.ndim - 2))
        gamma, mean, inv_std = (v.dimshuffle(*channels) for v in (gamma, mean, inv_std))
        normalized = (x - mean) * inv_std
        g_gamma, g_beta = pt.sum(gy * normalized, axes), pt.sum(gy, axes)
        count = (x.size / x.shape[1]).astype(x.dtype)
        along, shared = ((g / count).dimshuffle(*channels) for g in (g_gamma, g_beta))
        return [gamma * inv_std * (gy - shared - along * normalized), g_gamma, g_beta]

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        return pulled_back(self.written_out, inputs, cotangents)


class Normalize(TorchOp):
    """Normalises every channel by a mean and a 1 / sqrt(variance + epsilon) that are given.

    It is one node while a graph is simplified, for which it has nothing to offer; :mod:`theanompi.device.fusion` then
    writes it out, so that it is fused with the element-wise nodes around it.
    """

    __props__ = ()

    def make_node(self, x: Any, gamma: Any, beta: Any, mean: Any, inv_std: Any) -> Apply:
        inputs = _by_channel("normalize", x, gamma=gamma, beta=beta, mean=mean, inv_std=inv_std)
        return Apply(self, inputs, [inputs[0].type()])

    @staticmethod
    def written_out(
        x: Variable, gamma: Variable, beta: Variable, mean: Variable, inv_std: Variable
    ) -> Variable:
        """The same as element-wise nodes."""
        scale = gamma * inv_std
        shift = beta - mean * scale
        channels = ("x", 0, *("x",) * (x.ndim - 2))
        return x * scale.dimshuffle(*channels) + shift.dimshuffle(*channels)

    @staticmethod
    def of(
        x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, mean: torch.Tensor, inv_std: torch.Tensor
    ) -> torch.Tensor:
        """The same of tensors."""
        scale = gamma * inv_std
        channels = (-1, *(1,) * (x.ndim - 2))
        return x * scale.view(channels) + (beta - mean * scale).view(channels)

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        return self.of

    def pullback(self, inputs: Variables, outputs: Variables, cotangents: Variables) -> list[Variable]:
        return pulled_back(lambda *own: [self.written_out(*own)], inputs, cotangents)


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


def normalize(x: Variable, gamma: Variable, beta: Variable, mean: Variable, inv_std: Variable) -> Variable:
    """Normalise by statistics that are given, such as running averages (Ioffe and Szegedy 2015, algorithm 2).

    Parameters
    ----------
    x : float tensor, shape (n, c) or (n, c, h, w)
    gamma, beta : float vectors, shape (c,)
        Scale and shift.
    mean, inv_std : float vectors, shape (c,)
        The mean, and 1 / sqrt(variance + epsilon).

    Returns
    -------
    as `x`
        gamma · (x − mean) · inv_std + beta, as x · (gamma · inv_std) + (beta − mean · gamma · inv_std).
    """
    y: Variable = Normalize()(x, gamma, beta, mean, inv_std)
    return y
