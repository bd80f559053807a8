"""Loops, where Theano had them: the module ``pytensor.scan``."""

from importlib import import_module
from typing import Any

from pytensor.scan import utils as scan_utils
from pytensor.scan import views as scan_views
from pytensor.scan.utils import until

__all__ = ["scan_utils", "scan_views", "until"]


def __getattr__(name: str) -> Any:
    # Not the function of that name, which pytensor.scan is as an attribute.
    return getattr(import_module("pytensor.scan"), name)
