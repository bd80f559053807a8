"""How each PyTensor op runs on torch. Importing this package registers all of them."""

from theanompi.device.dispatch import basic, graphs, indexing, linalg, loops, random, reductions, signal
from theanompi.device.dispatch.base import (
    FRESH,
    OF_LENGTHS,
    ON_HOST,
    REFUSED,
    batched_function,
    constant_tensor,
    destinations,
    torch_function,
)

__all__ = [
    "FRESH",
    "OF_LENGTHS",
    "ON_HOST",
    "REFUSED",
    "basic",
    "batched_function",
    "constant_tensor",
    "destinations",
    "graphs",
    "indexing",
    "linalg",
    "loops",
    "random",
    "reductions",
    "signal",
    "torch_function",
]
