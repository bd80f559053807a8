"""The zoo under a short name, in the repository alone: `models.resnet50` is the module `theanompi.models.resnet50`."""

import pkgutil
import sys
from importlib import import_module

import theanompi.models

for module in pkgutil.iter_modules(theanompi.models.__path__):
    found = import_module(f"theanompi.models.{module.name}")
    globals()[module.name] = sys.modules[f"{__name__}.{module.name}"] = found
