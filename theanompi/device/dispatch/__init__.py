"""How each PyTensor op runs on torch. Importing this package registers all of them."""

from theanompi.device.dispatch import basic, indexing, reductions
from theanompi.device.dispatch.base import FRESH, constant_tensor, destinations, torch_function

__all__ = ["FRESH", "basic", "constant_tensor", "destinations", "indexing", "reductions", "torch_function"]
