"""How weights are updated; one small file per optimizer, chosen by name."""

from theanompi.config.plugins import find_class
from theanompi.training.optimizers.base import Optimizer, Rates

__all__ = ["OPTIMIZERS", "Optimizer", "Rates", "get_optimizer"]

OPTIMIZERS = {
    "momentum": "theanompi.training.optimizers.momentum:Momentum",
    "adam": "theanompi.training.optimizers.adam:Adam",
    "adamw": "theanompi.training.optimizers.adam:AdamW",
    "rmsprop": "theanompi.training.optimizers.lasagne:RMSProp",
    "adadelta": "theanompi.training.optimizers.lasagne:Adadelta",
    "lars": "theanompi.training.optimizers.lars:LARS",
    "lamb": "theanompi.training.optimizers.lamb:LAMB",
}


def get_optimizer(name: str) -> type[Optimizer]:
    """Find the class of an optimizer.

    Parameters
    ----------
    name : str
        A key of `OPTIMIZERS`, ``"lasagne.NAME"`` for a function of `theanompi.lasagne.updates`, or
        ``"module.Class"`` of the user's.

    Raises
    ------
    ConfigError
        For an unknown name, with the closest known one, or a class that is not an `Optimizer`.
    """
    library, _, function = name.partition(".")
    if library == "lasagne":
        from theanompi.training.optimizers.lasagne import adapted

        return adapted(function)
    found: type[Optimizer] = find_class("optimizer", name, OPTIMIZERS, base=Optimizer)
    return found
