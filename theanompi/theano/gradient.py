"""Gradients: ``pytensor.gradient``, and what it has dropped."""

from typing import Any

import pytensor.gradient
from pytensor.gradient import zero_grad

__all__ = ["consider_constant"]

consider_constant = zero_grad


def __getattr__(name: str) -> Any:
    return getattr(pytensor.gradient, name)
