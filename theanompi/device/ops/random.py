"""Dropout masks that depend on the sample alone, however the minibatch is split."""

from collections.abc import Callable, Sequence
from typing import Any

import pytensor.tensor as pt
import torch
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import Context, TorchOp, expect


def _signed(value: int) -> int:
    """The 64 bits of `value` as torch's int64."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _splitmix64(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014) on int64 bit patterns.

    Torch shifts int64 arithmetically; the masks make the shifts logical.
    """
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class DropoutMask(TorchOp):
    """0 with probability p, else 1 / (1 − p): a hash of (sample key, salt, element)."""

    __props__ = ("shape", "p", "salt")

    def __init__(self, shape: tuple[int, ...], p: float, salt: int) -> None:
        self.shape, self.p, self.salt = shape, p, salt

    def make_node(self, keys: Any) -> Apply:
        keys = pt.as_tensor_variable(keys)
        expect(
            keys.ndim == 1 and keys.dtype == "int64",
            "dropout_mask",
            "keys",
            "an int64 vector (n,)",
            keys.type,
        )
        return Apply(self, [keys], [TensorType("float32", shape=(keys.type.shape[0], *self.shape))()])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        shape, salt = self.shape, _signed(self.salt * 0x9E3779B97F4A7C15 % (1 << 64))
        size = 1
        for length in shape:
            size *= length
        threshold = int(self.p * (1 << 24))
        kept = 1.0 / (1.0 - self.p)

        def dropout_mask(keys: torch.Tensor) -> torch.Tensor:
            counter = torch.arange(1, size + 1, device=keys.device) * _GOLDEN
            bits = _splitmix64(_splitmix64(keys ^ salt)[:, None] + counter)
            return (
                (((bits >> 40) & 0xFFFFFF) >= threshold).to(torch.float32).mul_(kept).view(len(keys), *shape)
            )

        return dropout_mask

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False]]


def dropout_mask(keys: Variable, shape: Sequence[int], p: float, salt: int) -> Variable:
    """What dropout multiplies its input by (Srivastava et al. 2014, inverted: the mean is 1).

    Parameters
    ----------
    keys : int64 vector, shape (n,)
        One random key for each sample. Element j of sample i is a pure function of
        (``keys[i]``, `salt`, j), so the mask of a sample does not depend on the batch it is in.
    shape : sequence of int
        The shape of one sample's mask.
    p : float
        The probability of a zero, in [0, 1), rounded down to a multiple of 2⁻²⁴.
    salt : int
        Tells the layers of a network apart.

    Returns
    -------
    float32 tensor, shape (n, *shape)
        Of zeros and 1 / (1 − p).

    Examples
    --------
    >>> import numpy as np
    >>> mask = dropout_mask(np.arange(1000), (10,), p=0.25, salt=1).eval()
    >>> abs(float((mask == 0).mean()) - 0.25) < 0.02
    True
    """
    expect(0 <= p < 1, "dropout_mask", "p", "a probability in [0, 1)", p)
    return DropoutMask(tuple(int(s) for s in shape), float(p), int(salt))(keys)
