"""What else is told of a run's log, by name: ``--logger csv,tensorboard``; one small file per logger."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from theanompi.config import ConfigError
from theanompi.config.plugins import find_class
from theanompi.record.loggers.base import Logger

__all__ = ["LOGGERS", "Logger", "find_logger"]

LOGGERS: Mapping[str, str] = {
    "csv": "theanompi.record.loggers.table:CSV",
    "tensorboard": "theanompi.record.loggers.tensorboard:TensorBoard",
    "wandb": "theanompi.record.loggers.wandb:WeightsAndBiases",
    "mlflow": "theanompi.record.loggers.mlflow:MLflow",
}


def find_logger(name: str) -> type[Logger]:
    """Find the class of a logger.

    Parameters
    ----------
    name : str
        A key of `LOGGERS`, or ``"module.Class"`` of the user's.

    Raises
    ------
    ConfigError
        For an unknown name, a class that is no `Logger`, or one that needs a package that is not installed.
    """
    found: type[Any] = find_class("logger", name, LOGGERS, base=Logger)
    package = found.needs
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"logger {name}: expected the package {package}, which it writes with, got none installed; remedy: "
            f"pip install {package}"
        )
    return found
