"""Predictions in a file: a table of the classes of image files, or of any other model the outputs of arrays."""

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from theanompi.config import ConfigError, counted, got, listed, one_line
from theanompi.config.files import trouble, write_whole, writing
from theanompi.data.sources.base import cause, printable
from theanompi.data.sources.folders import images_below
from theanompi.record.folder import replace_text
from theanompi.training.classifier import Classifier, load
from theanompi.training.predictor import Predictor

BEST = 5
"""How many classes of an image the table has."""


def predict(run: str, paths: Sequence[str], out: Path, device: str) -> int:
    """Write the predictions of a run; of a classifier, say of each file that shows no picture why.

    Parameters
    ----------
    run : str
        The run's folder, or a checkpoint in it.
    paths : sequence of str
        Image files, and folders of such; or, for a class with a method `predictions`, one .npz file of fields.
    out : Path
        The file, which has this name only when it is whole.
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
    used = load(run, device=device)
    if isinstance(used, Predictor):
        return _predict_arrays(used, run, paths, out)
    return _predict_classes(used, run, files, out)


def _predict_arrays(predictor: Predictor, run: str, paths: Sequence[str], out: Path) -> int:
    wanted = f"of a run whose class has a method predictions, of the fields {listed(predictor.fields)}"
    if len(paths) != 1 or not paths[0].endswith(".npz"):
        raise ConfigError(
            f"{printable(paths[0])}: expected one .npz file, {wanted}, got {counted(len(paths), 'path')}"
        )
    if out.suffix != ".npz":
        raise ConfigError(f"out: expected a name that ends in .npz, {wanted}, got {got(out.name)}")
    try:
        with open(paths[0], "rb") as file, np.load(file, allow_pickle=False) as arrays:
            given = dict(arrays)
    except Exception as error:  # whatever a damaged file makes zipfile or NumPy raise
        raise ConfigError(
            f"{printable(paths[0])}: expected an .npz file of arrays, got: {cause(error)}"
        ) from None
    made = predictor.predict(**given)
    with writing(out), io.BytesIO() as memory:
        np.savez(memory, **made)  # type: ignore[arg-type]
        write_whole(out, memory.getvalue())
    n = len(next(iter(made.values())))
    print(f"{out}: {listed(made)} of {counted(n, 'item')} by iteration {predictor.iteration} of {run}")
    return 0


def _predict_classes(classifier: Classifier, run: str, files: Sequence[str], out: Path) -> int:
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
