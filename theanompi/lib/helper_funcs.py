"""How Theano-MPI saves the weights of a model that is trained without a rule."""

import os
from typing import Any

import numpy as np


def save_model(model: Any, path: str, verbose: bool) -> None:
    """Write a model's weights into a folder.

    Parameters
    ----------
    model : object
        Its own method ``save(path)`` does it, where it has one. Else ``CLASS_EPOCH.npz`` has the weights of a
        `theanompi.Model` by name, or the ``params`` of another class by number.
    path : str
        The folder, which is made.
    verbose : bool
        Whether to print a line.
    """
    os.makedirs(path, exist_ok=True)
    if hasattr(model, "save"):
        model.save(path)
    elif hasattr(model, "state_arrays"):
        weights = {
            name.removeprefix("weights/"): array
            for name, array in model.state_arrays().items()
            if name.startswith("weights/")
        }
        np.savez(_file(model, path), **weights)
    else:
        np.savez(_file(model, path), *(p.get_value() for p in model.params))
    if verbose:
        print(f"weights of epoch {model.epoch} saved in {path}", flush=True)


def _file(model: Any, path: str) -> str:
    return os.path.join(path, f"{type(model).__name__}_{model.epoch}.npz")
