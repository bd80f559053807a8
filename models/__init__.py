"""The zoo under a short name, in the repository alone: `models.resnet50` is `theanompi.models.resnet50`, the same module."""

import pkgutil
import sys
from importlib import import_module

import theanompi.models

for _, name, _ in pkgutil.iter_modules(theanompi.models.__path__):
    globals()[name] = sys.modules[f"{__name__}.{name}"] = import_module(f"theanompi.models.{name}")
