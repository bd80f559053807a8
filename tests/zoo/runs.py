"""What the tests of each model of the zoo do: train it on one rank and two, and in two parts."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.mpi import run_warm
from theanompi.record import checkpoint
from theanompi.record.log import read_log

PART = 22
"""Iterations after which a run is compared with that of two ranks, and gone on with."""
SHARDS = 2

Arrays = dict[str, np.ndarray]


def trained(model: str, out: Path, iterations: int, ranks: int = 1, **settings: Any) -> Arrays:
    """Train ``module.Class`` of the zoo; gives all arrays of the checkpoint.

    Parameters
    ----------
    model : str
    out : Path
        The folder of the run.
    iterations : int
        In all; an epoch is one or more of them.
    ranks : int
        As many accumulation steps make it the same minibatches for 1 and 2.
    """
    module, _, cls = model.partition(".")
    run = {
        "modelfile": f"theanompi.models.{module}",
        "modelclass": cls,
        "out": str(out),
        "devices": ["cpu"],
        "accumulation": SHARDS // ranks,
        "epochs": 200,
        "max_iterations": iterations,
        "log_interval": 1,
        "verbose": False,
    }
    done = run_warm(ranks, run | settings)
    assert done.returncode == 0, done.stderr
    return dict(checkpoint.load(out / "checkpoint.h5")[0])


def curve(out: Path, metric: str) -> list[float]:
    """What was reported of each iteration."""
    records = read_log(out / "log.jsonl")
    return [r[metric] for r in records if r["kind"] == "train" and r.get(metric) is not None]


def same(found: Arrays, expected: Arrays, tolerance: float) -> None:
    """Assert that arrays are the same but for rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        atol = tolerance * max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


def equal(found: Arrays, expected: Arrays) -> None:
    """Assert that arrays are the same bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
