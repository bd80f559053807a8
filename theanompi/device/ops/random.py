"""Random numbers that depend on the sample alone, however the minibatch is split: noise and dropout masks."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor.tensor as pt
import torch
from pytensor.graph.basic import Apply, Variable
from pytensor.tensor.type import TensorType

from theanompi.device.ops.base import Context, TorchOp, expect, numbers_of


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


class Keyed(TorchOp):
    """Numbers that are a hash of (sample key, salt, element).

    Sizes that are None in `shape` are known when the function runs: they then are in a vector of all sizes, the
    second input.
    """

    name = ""
    shape: tuple[int | None, ...]
    salt: int

    def make_node(self, keys: Any, *sizes: Any) -> Apply:
        keys = pt.as_tensor_variable(keys)
        expect(keys.ndim == 1 and keys.dtype == "int64", self.name, "keys", "an int64 vector (n,)", keys.type)
        output = TensorType("float32", shape=(keys.type.shape[0], *self.shape))()
        return Apply(self, [keys, *sizes], [output])

    def function(self, node: Apply, context: Context) -> Callable[..., Any]:
        salt, of_bits = _signed(self.salt * 0x9E3779B97F4A7C15 % (1 << 64)), self.of_bits
        known, numbers = self.shape, numbers_of(node.inputs[-1])

        def keyed(keys: torch.Tensor, *sizes: torch.Tensor) -> torch.Tensor:
            shape: Any = numbers(sizes[0]) if sizes else known
            counter = torch.arange(1, math.prod(shape) + 1, device=keys.device) * _GOLDEN
            bits = _splitmix64(_splitmix64(keys ^ salt)[:, None] + counter)
            return of_bits((bits >> 40) & 0xFFFFFF).view(len(keys), *shape)

        return keyed

    @abstractmethod
    def of_bits(self, bits: torch.Tensor) -> torch.Tensor:
        """From 24 random bits each, int64, to float32."""

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        return [[False] for _ in node.inputs]


class DropoutMask(Keyed):
    """0 with probability p, else 1 / (1 − p)."""

    __props__ = ("shape", "p", "salt")
    name = "dropout_mask"

    def __init__(self, shape: tuple[int | None, ...], p: float, salt: int) -> None:
        self.shape, self.p, self.salt = shape, p, salt

    def of_bits(self, bits: torch.Tensor) -> torch.Tensor:
        return (bits >= int(self.p * (1 << 24))).to(torch.float32).mul_(1.0 / (1.0 - self.p))


class Uniform(Keyed):
    """Uniform in (0, 1): the middles of 2²³ equal parts, which float32 has exactly."""

    __props__ = ("shape", "salt")
    name = "uniform"

    def __init__(self, shape: tuple[int | None, ...], salt: int) -> None:
        self.shape, self.salt = shape, salt

    def of_bits(self, bits: torch.Tensor) -> torch.Tensor:
        return (bits | 1).to(torch.float32).mul_(2.0**-24)


def _sizes(shape: Sequence[Any]) -> tuple[tuple[int | None, ...], list[Any]]:
    """The sizes that are numbers, None for the others, and what then tells all of them: what `Keyed` takes."""
    known = tuple(None if isinstance(size, Variable) else int(size) for size in shape)
    return known, [pt.stack([pt.cast(size, "int64") for size in shape])] if None in known else []


def dropout_mask(keys: Variable, shape: Sequence[Any], p: float, salt: int) -> Variable:
    """What dropout multiplies its input by (Srivastava et al. 2014, inverted: the mean is 1).

    Parameters
    ----------
    keys : int64 vector, shape (n,)
        One random key for each sample. Element j of sample i is a pure function of
        (``keys[i]``, `salt`, j), so the mask of a sample does not depend on the batch it is in.
    shape : sequence of int or integer scalar
        The shape of one sample's mask.
    p : float
        The probability of a zero, in [0, 1), rounded down to a multiple of 2⁻²⁴.
    salt : int
        Tells the layers of a network apart.

    Returns
    -------
    float32 tensor, shape ``(n, *shape)``
        Of zeros and 1 / (1 − p).
    """
    expect(0 <= p < 1, "dropout_mask", "p", "a probability in [0, 1)", p)
    known, sizes = _sizes(shape)
    return DropoutMask(known, float(p), int(salt))(keys, *sizes)


def uniform(keys: Variable, shape: Sequence[Any], salt: int) -> Variable:
    """Random numbers between 0 and 1, neither included.

    Parameters
    ----------
    keys : int64 vector, shape (n,)
        One random key for each sample, as the ``keys`` of a batch.
    shape : sequence of int or integer scalar
        Of what one sample gets.
    salt : int
        Tells what is drawn here from what is drawn elsewhere by the same keys.

    Returns
    -------
    float32 tensor, shape ``(n, *shape)``
        Element j of sample i is a pure function of (``keys[i]``, `salt`, j): it does not depend on how a minibatch is
        split into ranks and steps.
    """
    known, sizes = _sizes(shape)
    return Uniform(known, int(salt))(keys, *sizes)


def normal(keys: Variable, shape: Sequence[Any], salt: int) -> Variable:
    """Standard normal random numbers, by Box and Muller's transform (1958) of two `uniform` ones.

    Parameters
    ----------
    keys, shape, salt
        As for `uniform`.

    Returns
    -------
    float32 tensor, shape ``(n, *shape)``
    """
    pair = uniform(keys, (2, *shape), salt)
    return pt.sqrt(np.float32(-2) * pt.log(pair[:, 0])) * pt.cos(np.float32(2 * np.pi) * pair[:, 1])
