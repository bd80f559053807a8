"""A table of predictions: the most probable classes of image files, by the classifier that a run has trained."""

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from theanompi.config import ConfigError, counted, got, one_line
from theanompi.config.files import trouble
from theanompi.data.sources.base import printable
from theanompi.data.sources.folders import images_below
from theanompi.record.folder import replace_text
from theanompi.training.classifier import load

BEST = 5
"""How many classes of an image the table has."""


def predict(run: str, paths: Sequence[str], out: Path, device: str) -> int:
    """Write the table, and say of each file that shows no picture why.

    Parameters
    ----------
    run : str
        The run's folder, or a checkpoint in it.
    paths : sequence of str
        Image files, and folders of such.
    out : Path
        The table, which has this name only when it is whole.
    device : str

    Returns
    -------
    int
        1 if a file shows no picture, else 0.

    Raises
    ------
    ConfigError, ValueError, OSError
        As `theanompi.load`; if there is nothing to predict, or the table cannot be written.
    """
    files = image_files(paths)
    classifier = load(run, device=device)
    names = classifier.class_names
    table, faults = io.StringIO(), 0
    rows = csv.writer(table, lineterminator="\n")
    ranks = range(1, min(BEST, len(names)) + 1)
    rows.writerow(["file", *(f"{what}_{k}" for k in ranks for what in ("class", "probability"))])
    for path, probabilities, fault in classifier.predict_files(files):
        if probabilities is None:
            faults += 1
            print(one_line(f"tmlauncher: {printable(path)}: {fault}"), file=sys.stderr, flush=True)
            continue
        # Of equal ones the lower class goes first, as in validation.
        best = np.argsort(-probabilities, kind="stable")[: len(ranks)]
        rows.writerow([printable(path), *(x for i in best for x in (names[i], f"{probabilities[i]:.6g}"))])
    replace_text(out, table.getvalue())
    left = f", {faults:,} left out that {'shows' if faults == 1 else 'show'} no picture" if faults else ""
    done = len(files) - faults
    print(f"{out}: {counted(done, 'image')} by iteration {classifier.iteration} of {run}{left}")
    return 1 if faults else 0


def image_files(paths: Sequence[str]) -> list[str]:
    """List files as they are given, and of folders the images in and below them, sorted.

    Raises
    ------
    ConfigError
        If something is not there, or a folder has no images.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            inside = images_below(path)
            if not inside:
                raise ConfigError(f"{printable(path)}: expected images in the folder, got none")
            found += inside
        elif wrong := trouble(path):
            raise ConfigError(f"image: expected a file or a folder, got {got(path)} ({wrong})")
        else:
            found.append(path)
    return found
