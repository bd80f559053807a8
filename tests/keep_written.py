"""Keeps what this version writes: ``python -m tests.keep_written``.

It makes the folder ``tests/data/written_by_<version>``, which later versions must be able to use (`test_unchanged`):

``run_cdd``, ``run_avg``
    Folders of runs that were stopped after 12 of 20 updates: `record_unchanged.KEPT_RUNS`.
``pictures.h5``, ``pixels.h5``
    Data sets by ``tmpack folder``, as JPEG files and as pixels, of pictures in three colours, which name their classes;
    one file shows no picture and is left out.
``experiment.toml``, ``experiment``
    An experiment that ``tmlauncher compare`` has finished, with an arm that diverges.
``written.json``
    The version, the place (`record_unchanged.place`), and the digests of the checkpoints.

Pictures of curves are not kept: they are large, and only looked at.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.mpi import ROOT
from tests.record_unchanged import CASES, DATA, KEPT_RUNS, digests_of, place, revision, train
from theanompi import __version__, cli

COLOURS = {"blue": (40, 60, 220), "green": (30, 190, 60), "red": (230, 50, 40)}
"""By class, in the order of the labels."""
EXPERIMENT = """\
question = "Does what was finished before still report the same?"
scale = "small"
seeds = 2
workers = [2]
claims = ["theirs@2 ~ mine@2", "hot@2 > theirs@2"]

[settings]
data = "digits"
modelfile = "tests.small_models"
modelclass = "Plain"
batch_size = 32
epochs = 2

[arms.theirs]
preset = "their_way"

[arms.mine]
preset = "my_way"

[arms.hot]
preset = "their_way"
base_lr = 1e30
"""


def picture(colour: tuple[int, int, int], number: int) -> Image.Image:
    """A plane of one colour, with some noise, of a size of its own."""
    noise = np.random.default_rng(number).integers(-20, 21, (20 + number, 24, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype("uint8"))


def write_pictures(root: Path) -> None:
    """Class folders for training and validation."""
    for split, count in (("train", 4), ("val", 2)):
        for label, (name, colour) in enumerate(COLOURS.items()):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                kind = "png" if i % 2 else "jpg"
                picture(colour, 10 * label + i).save(folder / f"{name} {i}.{kind}", quality=90)
    (root / "train" / "red" / "no picture.jpg").write_text("This is text.", encoding="utf-8")


def write_runs(out: Path) -> None:
    """Runs that are stopped."""
    train(
        (CASES[case][0], {**CASES[case][1], "max_iterations": 12, "out": str(out / name)})
        for name, case in KEPT_RUNS.items()
    )


def write_data_sets(out: Path) -> None:
    """The same pictures in both stores."""
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        command = ["folder", f"{folder}/train", f"{folder}/val", "--skip-bad", "--name", "colours"]
        assert command.main([*command, "-o", str(out / "pictures.h5")]) == 0
        assert command.main([*command, "--store", "raw", "--size", "16", "-o", str(out / "pixels.h5")]) == 0


def write_experiment(out: Path) -> None:
    """All runs, and the report."""
    (out / "experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    os.environ["PYTHONPATH"] = str(ROOT)
    command = ["compare", str(out / "experiment.toml"), "--out", str(out / "experiment"), "--jobs", "1"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(command) == 0


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    os.chdir(ROOT)
    out = (DATA / f"written_by_{__version__}").relative_to(ROOT)
    if out.exists():
        parser.error(f"{out}: expected no such folder, as what a version has written is kept, got one")
    out.mkdir(parents=True)
    write_runs(out)
    write_data_sets(out)
    write_experiment(out)
    for file in out.rglob("*"):
        if file.name in ("curves.png", ".lock", "run.lock"):
            file.unlink()
    about = {
        "version": __version__,
        "revision": revision(),
        "place": place(),
        "digests": {name: digests_of(out / name / "checkpoint.h5") for name in KEPT_RUNS},
    }
    (out / "written.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
