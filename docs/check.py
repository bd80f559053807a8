"""Run every block of code of the README and of the pages beside this file, or say which test does: ``make docs``.

    python docs/check.py

`BLOCKS` has a line for each block, in the order of the page. One that is not in it fails, and so does a line without a
block. What needs a cluster, a GPU or a data set that nobody may pass on is only parsed: the flags and files exist.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from theanompi import cli
from theanompi.config import RunConfig
from theanompi.config.cfgfile import read_cfg
from theanompi.data.pack.command import _parser as tmpack_parser
from theanompi.experiments.file import read_experiment

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    name: [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]
    for name, module in (("tmlauncher", "theanompi.cli"), ("tmpack", "theanompi.data.pack.command"))
} | {"python": [sys.executable]}


class Block(NamedTuple):
    """A fenced block: its page, the line where it begins, its language and its text."""

    page: str
    line: int
    language: str
    text: str


Check = Callable[[Block, Path], None]


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page."""
    text = page.read_text("utf-8")
    name = str(page.relative_to(ROOT))
    for found in re.finditer(r"^(`{3,})(\S*)\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL):
        yield Block(name, text[: found.start()].count("\n") + 1, found[2], found[3])


def tested(place: str) -> Check:
    """The block is run by a test, such as ``test_readme.py::test_name``, which is there."""

    def check(block: Block, folder: Path) -> None:
        file, test = place.split("::")
        tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name == test for node in tree.body), place

    return check


def printed(block: Block, folder: Path) -> None:
    """Nothing to run: what a command has printed, or a list of pages."""
    assert block.language in ("", "{toctree}")


def parsed(block: Block, folder: Path) -> None:
    """Each line is a command whose files are there, and whose flags it has."""
    for line in block.text.splitlines():
        for command in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
            if not command.startswith("."):  # . .venv/bin/activate
                _parse(shlex.split(command))


def _parse(words: list[str]) -> None:
    match words:
        case ["make", target]:
            assert f"\n{target}:" in (ROOT / "Makefile").read_text("utf-8"), target
        case ["tmlauncher", ("evaluate" | "predict"), *_]:
            raise AssertionError("run it")
        case ["tmlauncher", *flags]:
            cli._launcher().parse_args(flags)
        case ["tmpack", *flags]:
            tmpack_parser().parse_args(flags)
        case ["mpirun", "-np", _, "python", script, *flags]:
            assert (ROOT / script).is_file(), script
            cli.from_flags(argv=[flag for flag in flags if flag != "imagenet.h5" and flag != "--data"])
        case ["python", script]:
            assert (ROOT / script).is_file(), script
        case ["docker" | "apptainer" | "srun", *others]:
            for word in others:
                assert not word.startswith("containers/") or (ROOT / word).is_file(), word
            if "tmlauncher" in others:
                _parse(others[others.index("tmlauncher") :])
        case ["pip", "install", "-c", constraints, "-e", what]:
            assert (ROOT / constraints).is_file()
            extras = re.findall(r"\w+", what)
            assert all(f'"{extra}": [' in (ROOT / "setup.py").read_text("utf-8") for extra in extras), what
        case ["python3" | "python", "-m", "venv" | "pytest", *_]:
            pass
        case _:
            raise AssertionError(f"nobody knows how to parse {shlex.join(words)}")


def execute(words: list[str], folder: Path, shown: str = "") -> None:
    """Run a command in a folder; among what it prints is what shall be `shown`."""
    done = subprocess.run(
        [*COMMANDS[words[0]], *words[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    text = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0 and shown in text, f"{shlex.join(words)}: expected {shown!r}, got:\n{text}"


def defined(block: Block) -> dict[str, Any]:
    """What a block of Python defines."""
    names: dict[str, Any] = {}
    exec(compile(block.text, f"{block.page}:{block.line}", "exec"), names)
    return names


def of_examples(block: Block, folder: Path) -> None:
    """A cfg file of the examples makes ranks plan a run of its model on its data."""
    (folder / "examples").symlink_to(ROOT / "examples")
    execute([*shlex.split(block.text), "--plan"], folder, "k = 2 workers")


def regression(block: Block, folder: Path) -> None:
    """The class learns from arrays with its fields."""
    import numpy as np

    (folder / "regression.py").write_text(block.text, "utf-8")
    rng = np.random.default_rng(0)
    fields = {"x": (4,), "y": (3,), "known": (3,)}
    arrays = {
        f"{split}_{name}": rng.random((n, *shape), np.float32)
        for split, n in (("train", 96), ("val", 32))
        for name, shape in fields.items()
    }
    np.savez(folder / "fields.npz", **arrays)
    execute(["tmpack", "arrays", "fields.npz", "-o", "fields.h5"], folder)
    flags = "-file regression -class Regression --data fields.h5 --device cpu --epochs 2 --no-curves"
    execute(["tmlauncher", *flags.split()], folder, "validation loss")


def own_script(block: Block, folder: Path) -> None:
    """It plans a run of the class that is above it."""
    of_page = next(one for one in blocks(ROOT / block.page) if "class SmallNet" in one.text)
    (folder / "mymodel.py").write_text(of_page.text, "utf-8")
    (folder / "train.py").write_text(block.text, "utf-8")
    execute(["python", "train.py", "--epochs", "3", "--plan"], folder, "3 epochs")


def predicted(block: Block, folder: Path) -> None:
    """Of the run above, by its command."""
    import numpy as np

    np.savez(folder / "new.npz", x=np.ones((7, 4)))
    execute(block.text.split(), folder, "predictions.npz: y of 7 items")


def views(block: Block, folder: Path) -> None:
    """They are learnt from the arrays of the block above, of which the last batch of a validation is filled up."""
    (folder / "views.py").write_text(block.text, "utf-8")
    flags = "-file views -class Views --data fields.h5 --device cpu --epochs 1 --batch-size 20 --no-curves"
    execute(["tmlauncher", *flags.split()], folder, "validation loss")


def codebook(block: Block, folder: Path) -> None:
    """It hands out what moves it, and gives the nearest vectors."""
    import numpy as np
    import pytensor.tensor as pt

    layer = defined(block)["Codebook"]((4, 2), 3, name="codes")
    x = layer.sums.get_value()[[2, 0, 2, 1]]
    statistics: dict[Any, Any] = {}
    given = layer.get_output_for(pt.as_tensor(x), batch_norm_statistics=statistics)
    assert np.allclose(given.eval(), x, atol=1e-6)
    assert statistics[layer.counts].eval().tolist() == [1, 1, 2]


def pairs(block: Block, folder: Path) -> None:
    """They are made of the same arrays."""
    (folder / "pairs.py").write_text(block.text, "utf-8")
    flags = "-file pairs -class Distances --data fields.h5 --device cpu --epochs 1 --no-curves"
    execute(["tmlauncher", *flags.split()], folder, "validation loss")


def watched(block: Block, folder: Path) -> None:
    """The hook acts upon a record of the log."""
    import contextlib
    import io

    hook = defined(block)["Watched"].on_validation
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for error in (0.21, 0.04):
            hook(SimpleNamespace(rank=0), {"kind": "val", "epoch": 6, "error": error})
    assert said.getvalue() == "below 5 % in epoch 7\n"


def keep(name: str) -> Check:
    """A file that a later block needs."""

    def check(block: Block, folder: Path) -> None:
        (folder / name).write_text(block.text, "utf-8")

    return check


def same_settings(block: Block, folder: Path) -> None:
    """The keywords say what the cfg file says."""
    written = read_cfg(str(folder / "settings.cfg"), {"modelfile"})
    given = RunConfig.from_dict(defined(block)["settings"])
    assert given.optimizer == written["optimizer"] == "adam"
    assert {name: str(value) for name, value in given.settings.items()} == {
        name: str(value) for name, value in written["settings"].items()
    }


def one_arm(block: Block, folder: Path) -> None:
    """The tables are an arm of an experiment, with the settings of the cfg file."""
    arm = tomllib.loads(block.text)["arms"]["adam"]
    assert (arm["optimizer"]["name"], arm["optimizer"]["beta2"], arm["model"]["width"]) == ("adam", 0.98, 6)
    path = folder / "adam.toml"
    path.write_text(
        f'scale = "own"\nseeds = 1\nworkers = [1]\n[settings]\nmodelfile = "net"\nmodelclass = "Net"\n{block.text}',
        "utf-8",
    )
    (experiment,) = read_experiment(path).arms.values()
    assert experiment.settings["settings"] == {"optimizer.beta2": 0.98, "model.width": 6}


def with_its_settings(block: Block, folder: Path) -> None:
    """The class trains by the page's command, its cfg file and its logger."""
    (folder / "net.py").write_text(block.text, "utf-8")
    of_page = next(blocks(ROOT / block.page)).text
    base = "RULE=BSP\nMODELFILE=net\nMODELCLASS=Net\nDEVICES=cpu\n"
    (folder / "run.cfg").write_text(base + (folder / "settings.cfg").read_text("utf-8"), "utf-8")
    more = "--epochs=1 --batch-size=64 --logger=csv,my_loggers.Printed --out=runs/net --no-curves"
    execute([*shlex.split(of_page), *more.split()], folder, "runs/net 22 0.")


def use(block: Block, folder: Path) -> None:
    """A run is evaluated, and predicts what its pictures show."""
    from PIL import Image

    from theanompi.data import open_dataset

    flags = "-file examples.digits_net -class DigitsNet --device cpu --epochs 1 --out runs/resnet50-digits"
    execute(["tmlauncher", *flags.split(), "--no-curves"], folder)
    (folder / "photos").mkdir()
    for i in range(3):
        pixels = open_dataset("digits").pixels("val", i)[:, :, 0]
        Image.fromarray(pixels).save(folder / "photos" / f"{i}.png")
    evaluate, predict = map(shlex.split, block.text.splitlines())
    execute(evaluate, folder, "as log.jsonl has them")
    execute(predict, folder, "photos.csv: 3 images by iteration 89")


def load(block: Block, folder: Path) -> None:
    """The run that is there predicts arrays."""
    import numpy as np

    before = os.getcwd()
    os.chdir(folder)
    try:
        names = {"images": np.zeros((2, 8, 8, 3), np.uint8)}
        exec(block.text, names)
    finally:
        os.chdir(before)


README, RUNS, EXERCISES = "test_readme.py", "test_the_three_lines_of_python_train", "test_exercises.py"
OWN = tested(f"{README}::test_a_model_of_ones_own_trains")
EXERCISE = tested(f"{EXERCISES}::test_an_exercise_can_be_done")
PORT = tested("test_lineage.py::test_the_page_about_porting_runs_as_it_stands_there")

BLOCKS: dict[str, list[Check]] = {
    "README.md": [parsed, parsed, printed, OWN, OWN],
    "CONTRIBUTING.md": [parsed],
    "docs/clusters.md": [parsed, parsed, printed, printed],
    "docs/experiments.md": [parsed, tested(f"{README}::test_the_experiment_is_one")],
    "docs/files.md": [parsed],
    "docs/index.md": [
        *(parsed, parsed, printed, tested(f"{README}::test_the_plan_is_what_is_printed")),
        *(use, load, parsed, of_examples, printed, tested(f"{README}::{RUNS}"), printed),
    ],
    "docs/ops.md": [printed],
    "docs/own.md": [OWN, OWN, own_script, regression, predicted, views, codebook, pairs, watched],
    "docs/port.md": [PORT] * 17,
    "docs/recipe.md": [tested(f"{README}::test_the_rates_of_the_recipe_are_these")],
    "docs/settings.md": [
        *(parsed, keep("settings.cfg"), same_settings, one_arm, keep("my_loggers.py"), with_its_settings),
    ],
    "docs/exercises/add_a_rule.md": [EXERCISE] * 4,
    "docs/exercises/add_an_optimizer.md": [EXERCISE] * 3,
    "docs/exercises/your_own_arrays.md": [EXERCISE] * 6,
}
# Written by a command that has run every block: first_hour.py.
WRITTEN = ("docs/first_hour.md",)


def main() -> None:
    """Check every block of every page; the first that fails ends it."""
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
    pages += sorted((ROOT / "docs").rglob("*.md"))
    number = 0
    for page in pages:
        name = str(page.relative_to(ROOT))
        found = list(blocks(page))
        checks = BLOCKS.get(name, [])
        if name in WRITTEN:
            continue
        if len(found) != len(checks):
            raise SystemExit(
                f"{name}: expected a line of BLOCKS in docs/check.py for each of its blocks, of which "
                f"there are {len(found)}, got {len(checks)}"
            )
        with tempfile.TemporaryDirectory() as folder:
            for block, check in zip(found, checks, strict=True):
                try:
                    check(block, Path(folder))
                except (Exception, SystemExit) as error:
                    raise SystemExit(f"{name}, line {block.line}: {error!r}:\n{block.text}") from error
                number += 1
    print(f"{number} blocks of {len(BLOCKS)} pages")


if __name__ == "__main__":
    main()
