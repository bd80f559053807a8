"""Data-parallel training of Theano-style graphs over MPI, with the large-minibatch recipe compiled in.

>>> import theanompi
>>> theanompi.BSP.__name__
'BSP'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from theanompi.rules import ASGD, BSP, EASGD, GOSGD
    from theanompi.training.classifier import load
    from theanompi.training.model import Model
    from theanompi.training.objective import Objective, classification

__version__ = "0.1.0"
__all__ = ["ASGD", "BSP", "EASGD", "GOSGD", "Model", "Objective", "__version__", "classification", "load"]

_HOMES = {
    **dict.fromkeys(("ASGD", "BSP", "EASGD", "GOSGD"), "theanompi.rules"),
    "load": "theanompi.training.classifier",
    "Model": "theanompi.training.model",
    "Objective": "theanompi.training.objective",
    "classification": "theanompi.training.objective",
}


def __getattr__(name: str) -> Any:
    # Lazy, because the launcher imports this package and must start without torch and MPI.
    if name not in _HOMES:
        raise AttributeError(f"module 'theanompi' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
