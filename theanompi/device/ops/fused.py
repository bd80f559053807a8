"""Nodes that only Triton's kernels compute: :mod:`theanompi.device.fusion` makes them, in modes for CUDA devices.

They have no pullback.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import Context, TorchOp, tensor_type
from theanompi.device.ops.pool import Pool


class NormalizedCrop(TorchOp):
    """`CropResize`, then · scale + shift by channel if there are such inputs.

    Parameters
    ----------
    size : int
    narrow : bool
        Whether those that read it would round it to bf16 themselves, where convolutions compute in that.
    """

    __props__ = ("size", "narrow")

    def __init__(self, size: int, narrow: bool) -> None:
        self.size, self.narrow = size, narrow

    def make_node(self, images: Variable, boxes: Variable, *affine: Variable) -> Apply:
        shape = (*images.type.shape[:2], self.size, self.size)
        return Apply(self, [images, boxes, *affine], [TensorType("float32", shape=shape)()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import crop  # imports Triton

        bf16 = self.narrow and context.precision == "bf16"
        return partial(crop.crop, size=self.size, dtype=torch.bfloat16 if bf16 else torch.float32)


class BiasedRelu(TorchOp):
    """relu(x + b) with b one number for each channel, the second axis."""

    __props__ = ()
    overwrites = {0: (0,)}

    def make_node(self, x: Variable, bias: Variable) -> Apply:
        return Apply(self, [x, bias], [x.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import norm  # imports Triton

        return partial(norm.biased, overwrite=bool(context.overwrite))


class BiasedReluGrad(TorchOp):
    """Gradients of `BiasedRelu`, of whose output y, with respect to input and bias."""

    __props__ = ()
    overwrites = {0: (0,)}

    def make_node(self, gy: Variable, y: Variable) -> Apply:
        return Apply(self, [gy, y], [gy.type(), tensor_type(gy, (gy.type.shape[1],))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import norm  # imports Triton

        return partial(norm.biased_backward, overwrite=0 in context.overwrite)


class BlockEnd(TorchOp):
    """relu(batch_norm(x) + residual), where the residual may be normalised too; for the gradient one bit an element.

    Inputs are x, whose shape is known, gamma, beta, the residual, and of one that is normalised its gamma and beta.
    Outputs are y, mean and inv_std, of a normalised residual mean and inv_std, and last the bits that
    `JoinedBatchNormGrad` takes for a mask.

    Parameters
    ----------
    epsilon, epsilon2 : float
        What is added to the variance of x, and of the residual if it is normalised.
    """

    __props__ = ("epsilon", "epsilon2")
    overwrites = {0: (3,)}

    def __init__(self, epsilon: float, epsilon2: float = 0.0) -> None:
        self.epsilon, self.epsilon2 = epsilon, epsilon2

    def make_node(self, x: Variable, gamma: Variable, beta: Variable, *residual: Variable) -> Apply:
        from theanompi.device.triton import norm  # imports Triton

        statistics = [vector.type() for vector in (gamma, beta, *residual[1:])]
        bits = TensorType("uint8", shape=norm.bits_shape(x.type.shape))
        return Apply(self, [x, gamma, beta, *residual], [x.type(), *statistics, bits()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import norm  # imports Triton

        epsilon, epsilon2 = self.epsilon, self.epsilon2
        keep, overwrite = context.used[-1], 0 in context.overwrite

        def block_end(*tensors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            return norm.block_end(
                *tensors, epsilon=epsilon, epsilon2=epsilon2, keep=keep, overwrite=overwrite
            )

        return block_end


class PooledBatchNorm(Pool):
    """Maximum pooling of a rectified batch normalisation; outputs y, mean, inv_std and the places of the maxima.

    Parameters
    ----------
    epsilon : float
    size, stride, padding, ceil_mode
        As of `MaxPool`.
    """

    __props__ = ("epsilon", *Pool.__props__)

    def __init__(self, epsilon: float, *geometry: Any) -> None:
        super().__init__(*geometry)
        self.epsilon = epsilon

    def make_node(self, x: Variable, gamma: Variable, beta: Variable) -> Apply:
        shape = self.output_shape(x)
        types = tensor_type(x, shape), gamma.type, gamma.type, TensorType("int8", shape=shape)
        return Apply(self, [x, gamma, beta], [made() for made in types])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import pool  # imports Triton

        geometry = self.size, self.stride, self.padding
        return lambda x, gamma, beta: pool.normalised_forward(
            x, gamma, beta, *geometry, self.windows(x.shape[2:]), epsilon=self.epsilon
        )


class PooledBatchNormGrad(Pool):
    """Gradients of `PooledBatchNorm` with respect to input, gamma and beta."""

    def make_node(self, gy: Variable, x: Variable, gamma: Variable, *others: Variable) -> Apply:
        return Apply(self, [gy, x, gamma, *others], [x.type(), gamma.type(), gamma.type()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import pool  # imports Triton

        return partial(pool.normalised_backward, size=self.size, stride=self.stride, padding=self.padding)


class JoinedBatchNormGrad(TorchOp):
    """`BatchNormGrad` of a rectified normalisation, with what costs a GPU passes over memory put into it.

    Inputs are those of `BatchNormGrad`, then gy2 if there are two cotangents, then those of the projection.

    Parameters
    ----------
    mask : {"y", "beta", "bits"}
        What the sixth input is, which tells where the rectifier has let something through: its output, or beta, of
        which and of `x` that output is computed again, or what `BlockEnd` has kept.
    joined : bool
        The cotangent is the sum of the first input and the seventh. A single one may have axes of one element for
        those along which it is the same.
    projected : bool
        The residual was normalised as well: the last inputs are it, its gamma, mean and inv_std. In the place of the
        cotangent of what was rectified there are then the gradients with respect to it and its gamma.
    """

    __props__ = ("mask", "joined", "projected")
    overwrites = {0: (0,)}

    def __init__(self, mask: str, joined: bool, projected: bool = False) -> None:
        self.mask, self.joined, self.projected = mask, joined, projected

    def make_node(self, gy: Variable, x: Variable, gamma: Variable, *others: Variable) -> Apply:
        first = [x.type(), gamma.type(), gamma.type()]
        last = [v.type() for v in others[-4:-2]] if self.projected else [x.type()]
        return Apply(self, [gy, x, gamma, *others], [*first, *last])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        from theanompi.device.triton import norm  # imports Triton

        mask, joined, projected = self.mask, self.joined, self.projected
        keep, overwrite = not projected and context.used[3], 0 in context.overwrite

        def joined_batch_norm_grad(
            gy: torch.Tensor,
            x: torch.Tensor,
            gamma: torch.Tensor,
            mean: torch.Tensor,
            inv_std: torch.Tensor,
            passed: torch.Tensor,
            *others: torch.Tensor,
        ) -> tuple[torch.Tensor, ...]:
            options: dict[str, Any] = {mask: passed}
            if joined:
                options["gy2"] = others[0]
            if projected:
                options["projection"] = others[-4:]
            return norm.backward(
                gy.expand(x.shape), x, gamma, mean, inv_std, **options, keep=keep, overwrite=overwrite
            )

        return joined_batch_norm_grad
