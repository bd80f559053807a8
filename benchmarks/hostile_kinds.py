"""The kinds of inputs of `hostile`: how a damaged one is made, and how this package reads it.

A kind is a function that is given a random generator and an empty folder (the current one, too), writes there what
the input consists of, and returns an `Input`; `@kind` puts it into `KINDS`. To add one is to write one function.
"""

import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import pickle
import random
import shlex
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import common  # noqa: F401  # finds the package and the tests
import h5py
import numpy as np
import scipy.io  # noqa: F401  # here, and not within the limits of the first input that needs it
from PIL import Image

from theanompi import cli
from theanompi.config import FIELDS, RunConfig, hosts, one_line, to_environment
from theanompi.data.pack import command, packing
from theanompi.data.pictures.decode import as_jpeg, decode, resize_shorter
from theanompi.data.sources import arrays, base, cifar, fields, folders, ilsvrc, mnist, texts
from theanompi.data.store import records, schema
from theanompi.data.store.record_writer import write_arrays, write_stream, write_texts
from theanompi.data.store.records import ArrayDataset
from theanompi.data.store.writer import Block, ChannelSums, Writer, write_dataset
from theanompi.data.store.writer import Image as Packed
from theanompi.doctor import examination
from theanompi.experiments import storage
from theanompi.experiments.file import Experiment
from theanompi.experiments.presets import PRESETS
from theanompi.launch import job
from theanompi.launch.check import check
from theanompi.launch.job import command as mpirun_command
from theanompi.record import checkpoint, log, recorder
from theanompi.record.folder import RunFolder
from theanompi.record.metrics import CLASSIFIER
from theanompi.record.weights import ENDINGS, read_weights, write_weights

# Not import statements: mypy knows what is in tests/ by other names.
archives: Any = importlib.import_module("tests.archives")
made_up: Any = importlib.import_module("tests.made_up")
Random = random.Random


class Input(NamedTuple):
    """A damaged input.

    Attributes
    ----------
    call
        Reads it.
    words
        What the real command is given, where there is one that reads it.
    good
        What the call must return, if it is not refused; None for anything.
    """

    call: Callable[[], Any]
    words: list[str] = []
    good: Any = None


class Kind(NamedTuple):
    """A kind of inputs.

    Attributes
    ----------
    make
        Makes an input in a folder.
    share
        Of all inputs, relative to the others.
    command
        The module whose `main` reads the words of an input. It prints what it refuses; without one, ValueError and
        OSError are what the user is shown in a line.
    unprivileged
        Whether the inputs must be read by a user who may not do everything.
    """

    make: Callable[[Random, Path], Input]
    share: int = 1
    command: str = ""
    unprivileged: bool = False

    def printed(self, error: Exception) -> str:
        """The line that the user is shown of an exception."""
        return one_line(f"theanompi: {error}")


KINDS: dict[str, Kind] = {}


def kind(
    name: str, **more: Any
) -> Callable[[Callable[[Random, Path], Input]], Callable[[Random, Path], Input]]:
    """Put a function into the table of kinds."""

    def register(make: Callable[[Random, Path], Input]) -> Callable[[Random, Path], Input]:
        KINDS[name] = Kind(make, **more)
        return make

    return register


# --- Values and damage ---------------------------------------------------------------------------------------

VALUES = (
    *(
        "",
        " ",
        "x",
        "0",
        "-1",
        "1",
        "2",
        "1.5",
        "1e400",
        "nan",
        "inf",
        "-inf",
        "0x10",
        "１２",
        "1_0",
        "true",
        "none",
    ),
    *("9" * 20, "9" * 400, "9" * 5000, "-" + "9" * 30, "0." + "0" * 400 + "1", "1e-400"),
    *("a" * 300, "b" * 5000, "../" * 1500, "c" * 100_000, "a,b", "a b", "a\nb", "a\tb", "\x1b[31m", "\x7f"),
    *(
        "\udcff",
        "x\udce9.h5",
        "é",
        "🦉",
        "'",
        '"',
        "$(id)",
        "`id`",
        "\\",
        "#",
        "%s%n",
        "{}",
        "[]",
        "{0}",
        "(",
        "-",
        "--",
    ),
    *(
        "/",
        "/dev/zero",
        "/dev/null",
        "/dev/full",
        "/proc/self/mem",
        "/etc/passwd",
        "/etc/passwd/below",
        "nowhere/x.h5",
    ),
    *(
        "cpu",
        "cuda:0",
        "cuda:99999999999",
        "host:cpu",
        "host:cpu,cpu",
        "cpu,host:cpu",
        "-x:cpu",
        "host:" * 50 + "cpu",
    ),
    *(
        "digits",
        "models.resnet50",
        "os",
        "__main__",
        "..",
        ".",
        "a..b",
        "é.x",
        "global",
        "cdd",
        "avg",
        "1,2,3",
        "3,2,1",
    ),
)
"""Texts that programs were seen to stumble over."""


def value(rng: Random) -> str:
    """A text for a place where a text is expected."""
    text = rng.choice(VALUES)
    if rng.random() < 0.2:
        text = rng.choice(VALUES)[:300] + text
    return text


def argument(rng: Random) -> str:
    """A text as the system hands it over to a program: without NUL, encodable."""
    return value(rng).replace("\0", "")


def damaged(rng: Random, data: bytes, first: int | None = None) -> bytes:
    """Bytes with one to three things wrong with them, among the first so many or anywhere."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        n = min(len(found), first or len(found))
        at = rng.randrange(n) if n else 0
        what = rng.randrange(8)
        if what <= 2 and n:
            found[at] ^= 1 << rng.randrange(8)
        elif what == 3 and n:
            found[at] = rng.choice((0, 255, 10, 34, 44, 123, 125, 91, 93, 45, 57))
        elif what == 4:
            del found[at : at + rng.choice((1, 2, 8, 100, 10_000))]
        elif what == 5:
            found[at:at] = rng.choice((b"\0", b"\n", b"\xff\xfe", b"9" * 30, bytes(8), rng.randbytes(20)))
        elif what == 6:
            found[at:at] = found[at : at + rng.choice((1, 10, 1000))]
        else:
            found[at:] = b""
    return bytes(found)


def damaged_text(rng: Random, text: str) -> bytes:
    """A text with something wrong in it: bytes, or a word in the place of another one."""
    if rng.random() < 0.4:
        return damaged(rng, text.encode("utf-8", "surrogatepass"))
    words = [i for i, c in enumerate(text) if not c.isalnum()] or [0]
    at = rng.choice(words)
    end = next((i for i in range(at + 1, len(text)) if not text[i].isalnum()), len(text))
    return (text[: at + 1] + value(rng) + text[end:]).encode("utf-8", "surrogatepass")


JSONS: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        10**12,
        2**63,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "x",
        "1",
        "9" * 300,
    ),
    *([], {}, [[]], [0], ["x"], {"a": 1}, "\ud800", "\0", "../../x"),
)


def changed_json(rng: Random, content: Any) -> Any:
    """JSON values of which one is gone or another one."""
    places: list[tuple[Any, Any]] = []

    def walk(at: Any) -> None:
        for key in list(at) if isinstance(at, dict) else range(len(at)):
            places.append((at, key))
            if isinstance(at[key], dict | list):
                walk(at[key])

    content = json.loads(json.dumps(content))
    walk(content)
    holder, key = rng.choice(places)
    if rng.random() < 0.25:
        del holder[key]
    else:
        holder[key] = rng.choice(JSONS)
    return content


def json_bytes(rng: Random, content: Any) -> bytes:
    """JSON in which something is wrong: a value, or bytes of the text."""
    if rng.random() < 0.5:
        return json.dumps(changed_json(rng, content)).encode()
    return damaged_text(rng, json.dumps(content))


def odd_path(rng: Random, folder: Path) -> str:
    """A path at which there is nothing of use."""
    file, pipe, locked = folder / "file.txt", folder / "pipe", folder / "locked"
    file.write_text("not what you want\n", encoding="utf-8")
    if not pipe.exists():
        os.mkfifo(pipe)
        (folder / "loop").symlink_to("loop")
        (folder / "dangling").symlink_to("nowhere")
        locked.mkdir()
        (locked / "x.h5").write_text("x", encoding="utf-8")
        locked.chmod(0)
    return rng.choice(
        (
            *(
                str(file),
                f"{file}/below",
                str(pipe),
                str(folder),
                f"{locked}/x.h5",
                f"{locked}",
                "loop",
                "dangling",
            ),
            *(
                "/dev/zero",
                "/dev/full",
                "/dev/null",
                "n" * 300,
                "n/" * 3000,
                "/" + "n" * 256 + "/x",
                "x\udcff.h5",
                "a\nb",
            ),
            *("", " ", "/proc/self/mem", "/proc/1/mem", "/nowhere/x", "é🦉" * 60),
        )
    )


# --- The commands, up to where they would start something ----------------------------------------------------


class _Rule:
    """Does what a rule does before it starts mpirun, for each kind of it."""

    def start(self, config: RunConfig, *, bind: bool = False, plan: bool = False, module: str = "") -> None:
        check(config)
        if job.mpi_rank() is None:
            for flavour in ("mpich", "openmpi", "intel"):
                mpirun_command(config, "mpirun", flavour, bind=bind)
            to_environment(config, hosts(config.devices)[0].devices, plan)

    def wait(self) -> int:
        return 0


def _examine(config: RunConfig, bind: bool = False, as_json: bool = False) -> int:
    json.dumps(examination.Doctor(config, bind).config.to_dict())
    return 0


def _compare(experiment: Experiment, out: Path, **more: Any) -> int:
    json.dumps(experiment.to_dict())
    trials = experiment.trials(out)
    storage._settings(trials[0].config, {})
    return 0


def _plot(experiment: Any, path: Path) -> None:
    path.write_bytes(b"")


def tmlauncher(words: Sequence[str]) -> Input:
    """A call of ``tmlauncher``."""

    def call() -> int:
        with (
            mock.patch.object(cli, "get_rule", lambda name: _Rule()),
            mock.patch.object(cli, "examine", _examine),
            mock.patch.object(cli, "compare", _compare),
            mock.patch("theanompi.experiments.report.plot_comparison", _plot),
        ):
            return cli.main(list(words))

    return Input(call, list(words))


CLI = "theanompi.cli"


def _flags(rng: Random) -> list[str]:
    words = ["--data", "digits"]
    for name in rng.sample(
        [name for name, item in FIELDS.items() if item.metadata["group"]], rng.randint(1, 3)
    ):
        item = FIELDS[name]
        flag = (item.metadata["flags"] or (f"--{name.replace('_', '-')}",))[0]
        if isinstance(item.default, bool):
            words.append(flag if rng.random() < 0.5 else f"{flag}={argument(rng)}")
        else:
            words.append(f"{flag}={argument(rng)}")
    if rng.random() < 0.1:
        words.insert(rng.randrange(len(words) + 1), argument(rng))
    return words


@kind("flags of a script", share=2)
def _(rng: Random, folder: Path) -> Input:
    words = _flags(rng)

    def call() -> int:
        json.dumps(cli.from_flags("Train.", words)[0].to_dict())
        return 0

    return Input(call)


@kind("flags of tmlauncher", share=4, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    words = _flags(rng)
    for flag in ("-s", "-file", "-class", "-r", "-cfg", "--hostfile", "-bsp_sync_type", "-bsp_exch_strategy"):
        if rng.random() < 0.15:
            words += [flag, argument(rng)]
    return tmlauncher(words)


@kind("flags of the doctor", share=2, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    more = ["-s", argument(rng)] if rng.random() < 0.3 else []
    return tmlauncher(["doctor", *_flags(rng), *more])


@kind("devices", share=2, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    names = (
        "cpu",
        "cpu0",
        "cuda",
        "cuda:1",
        "auto",
        "node0:cuda0",
        "node0:cpu",
        "n",
        "cuda:" + "9" * 10,
        "n:" * 9,
    )
    text = ",".join(rng.choice((*names, argument(rng))) for _ in range(rng.choice((1, 2, 3, 30))))
    if rng.random() < 0.3:
        text = (
            damaged(rng, text.encode("utf-8", "replace")).decode("utf-8", "surrogateescape").replace("\0", "")
        )
    return tmlauncher([f"--device={text}", "-s", rng.choice(("1", "2", argument(rng)))])


@kind("names of a model", share=2, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    module = rng.choice(("own", "own.deep", "models.resnet50", "own/deep.py", "n" * 300, argument(rng)))
    text = 'class Net:\n    """A net."""\n\n    def build(self):\n        return ("(", [1, 2], {"a": 3})\n'
    (folder / "own.py").write_bytes(
        rng.choice(
            (
                damaged(rng, text.encode()),
                b"(" * 5000,
                b"x = " + b"-" * 50_000 + b"1",
                b"\0",
                b"class A" * 100,
            )
        )
    )
    name = rng.choice(("Net", "Nets", "ResNet50", argument(rng)))
    return tmlauncher(["-file", module, "-class", name])


CFG = """# as in Theano-MPI
RULE=BSP
MODELFILE='models.resnet50'
MODELCLASS=ResNet50
DEVICES=(cpu0 cpu1)
BSP_SYNC_TYPE=cdd
BSP_EXCH_STRATEGY="overlap"
EPOCHS=3
DECAY_EPOCHS=(1 2)  # two
DATA=digits
OUT=runs/a\\ b
"""


@kind("cfg files", share=4, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    text = CFG
    if rng.random() < 0.4:
        name = rng.choice((*FIELDS, "hostfile", "x"))
        text += f"{name.upper()}={rng.choice(('', chr(39)))}{value(rng)}\n"
    (folder / "bsp.cfg").write_bytes(
        damaged_text(rng, text) if rng.random() < 0.8 else text.encode("utf-8", "surrogatepass")
    )
    return tmlauncher(["-cfg", "bsp.cfg"])


@kind("hostfiles", share=3, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    text = "# hosts\nnode0 slots=2\nnode1:3\nnode2  slots = 1 max_slots=4\nnode3\n"
    if rng.random() < 0.4:
        text = text.replace(rng.choice("0123"), rng.choice(("9" * 9, "9" * 5000, "99999", value(rng))))
        (folder / "hosts").write_text(text, "utf-8", "surrogatepass")
    else:
        (folder / "hosts").write_bytes(damaged_text(rng, text))
    return tmlauncher(["--hostfile", "hosts", "--device", rng.choice(("cpu", "auto", argument(rng)))])


@kind("Slurm and MPI variables", share=3, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    nodes = (
        "n[1-2]",
        "a,b",
        "gpu[01-03,7],login",
        "n[1-999999999]",
        "n[1-99][1-99][1-99]",
        "a" * 60 + "[",
        "n[5-1]",
        "n[]",
    )
    counts = ("2,1", "1(x2)", "2(x99999999)", "9" * 400, "0", "1(x", "99999(x2)")
    given = {
        "SLURM_JOB_NODELIST": rng.choice((nodes[0], rng.choice(nodes), argument(rng))),
        "SLURM_TASKS_PER_NODE": rng.choice((counts[0], rng.choice(counts), argument(rng))),
    }
    for name in (
        "SLURM_STEP_NUM_TASKS",
        "SLURM_PROCID",
        "PMI_RANK",
        "PMI_SIZE",
        "OMPI_COMM_WORLD_RANK",
        "SLURMD_NODENAME",
    ):
        if rng.random() < 0.1:
            given[name] = argument(rng)
    if rng.random() < 0.3:
        name = rng.choice(list(given))
        given[name] = (
            damaged(rng, given[name].encode("utf-8", "replace"))
            .decode("utf-8", "surrogateescape")
            .replace("\0", "")
        )
    os.environ.update(given)
    with contextlib.suppress(ValueError):
        if job.mpi_rank():
            # Only the first rank prints.
            os.environ.update({name: "0" for name in given if "RANK" in name or "PROCID" in name})
    return tmlauncher(["--data", "digits"])


@kind("paths", share=3, command=CLI, unprivileged=True)
def _(rng: Random, folder: Path) -> Input:
    path = odd_path(rng, folder)
    flag = rng.choice(("--data", "-cfg", "--hostfile", "report", "compare", "--reuse"))
    if flag in ("report", "compare"):
        return tmlauncher([flag, "--", path])
    if flag == "--reuse":
        return tmlauncher(["compare", path, flag, path, "--out", path])
    return tmlauncher(
        [f"{flag}={path}" if flag.startswith("--") else flag, *([] if flag.startswith("--") else [path])]
    )


@kind("run folders at odd places", share=2, unprivileged=True)
def _(rng: Random, folder: Path) -> Input:
    path, resume = odd_path(rng, folder), rng.random() < 0.5

    def call() -> int:
        with RunFolder(Path(path), resume=resume, overwrite=False):
            return 0

    return Input(call)


TOML = """question = "Which warmup?"
scale = "small"
seeds = 2
claims = ["gradual@64 ~ baseline@8", "none@64 > gradual@64"]
workers = [64]

[settings]
momentum = 0.8
epochs = { imagenet = 90, small = 6 }

[arms.baseline]
preset = "their_way"
workers = [8]

[arms.gradual]
preset = "their_way"

[arms.none]
preset = "their_way"
warmup = "none"
"""
TOMLS = (
    *(
        "9" * 400,
        "0x" + "f" * 4000,
        "9" * 5000,
        "1e400",
        "nan",
        "-1",
        "10000",
        "true",
        "[]",
        "[1, 1]",
        "{}",
        "[9999999]",
    ),
    *(
        '""',
        "'" + "x" * 500 + "'",
        "2020-01-01",
        "[[[[[[]]]]]]",
        "{a = 1}",
        '"\\uD800"',
        "0",
        "[[1]]",
        "1_000_000",
    ),
)


@kind("experiments (TOML)", share=4, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    if rng.random() < 0.5:
        lines = TOML.splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if " = " in line])
        key = lines[at].partition(" = ")[0]
        lines[at] = f"{rng.choice((key, key, key, rng.choice(list(FIELDS))))} = {rng.choice(TOMLS)}"
        text = (
            "\n".join(lines)
            .replace("their_way", rng.choice(("their_way", "their_way", *PRESETS)), 1)
            .encode()
        )
    else:
        text = damaged_text(rng, TOML)
    (folder / "e.toml").write_bytes(text)
    more = []
    for flag in ("--seeds", "--workers", "--simulate", "--device", "--jobs", "--scale"):
        if rng.random() < 0.1:
            more += [f"{flag}={argument(rng)}"]
    return tmlauncher(["compare", "e.toml", *more])


# --- What runs have left -------------------------------------------------------------------------------------


@functools.cache
def _experiment() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            ("a", 4): [made_up.Trial([0.5, 0.2]), made_up.Trial([0.5], "diverged")],
            ("b", 8): [made_up.Trial([0.4, 0.1], output="x\n"), made_up.Trial([0.3], "")],
        }
        made_up.write_experiment(Path(folder), runs, claims=["a@4 ~ b@8"])
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(Path(folder).rglob("*"))
            if path.is_file()
        }


@kind("experiment folders", share=4, command=CLI)
def _(rng: Random, folder: Path) -> Input:
    files = dict(_experiment())
    name = rng.choice((*files, "experiment.json"))
    if name.endswith(".json"):
        files[name] = json_bytes(rng, json.loads(files[name]))
    elif name.endswith(".jsonl"):
        files[name] = _damaged_log(rng, [json.loads(line) for line in files[name].splitlines()])
    else:
        files[name] = damaged(rng, files[name])
    archives.write_files(folder, files)
    return tmlauncher(["report", str(folder)])


def _damaged_log(rng: Random, lines: list[dict[str, Any]]) -> bytes:
    if rng.random() < 0.5:
        at = rng.randrange(len(lines))
        lines = [*lines[:at], changed_json(rng, lines[at]), *lines[at + 1 :]]
        return "".join(json.dumps(line) + "\n" for line in lines).encode()
    return damaged_text(rng, "".join(json.dumps(line) + "\n" for line in lines))


@kind("logs that a run goes on with", share=5)
def _(rng: Random, folder: Path) -> Input:
    lines = made_up.log_lines(made_up.Trial([0.5, 0.4, 0.3], rng.choice(("", "diverged", "summary"))))
    (folder / recorder.LOG_FILE).write_bytes(_damaged_log(rng, lines))
    lost: list[str] = []
    sums = dict.fromkeys(CLASSIFIER.metrics, (1.0, 8.0))

    def call() -> list[str]:
        run = recorder.Recorder(folder, 0, 1, 10, 2, False, resume_from=4)
        for iteration in (5, 6):
            run.start()
            run.end("calc")
            run.train(2, iteration, 8, sums, lr=0.1)
        # From here on nothing may be refused any more.
        try:
            run.validation(2, 6, 8, sums)
            run.close()
            log.read_log(folder / recorder.LOG_FILE)
        except Exception as error:
            raise RuntimeError("after training") from error
        return lost

    return Input(call, good=lost)


@kind("config.json", share=2)
def _(rng: Random, folder: Path) -> Input:
    config = {**RunConfig(devices=("cpu", "cpu")).to_dict(), "size": 2, "versions": {"torch": "2"}}
    config |= CLASSIFIER.to_dict()
    (folder / recorder.CONFIG_FILE).write_bytes(json_bytes(rng, config))
    return Input(lambda: storage._settings_in(folder) and 0)


# --- Checkpoints ---------------------------------------------------------------------------------------------

ARRAYS = {
    "weights/conv.W": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "weights/fc.b": np.ones(5, np.float32),
    "velocity/conv.W": np.zeros((2, 3, 2, 2), np.float32),
    "velocity/fc.b": np.zeros(5, np.float32),
}
ATTRIBUTES: dict[str, Any] = {
    "iteration": 25,
    "epoch": 2,
    "position": 5,
    "model": "a.B",
    "lr": 0.1,
    "nesterov": True,
}
FOREIGN: tuple[Any, ...] = (
    *(
        -1,
        10**12,
        2**64 - 1,
        0,
        1.5,
        np.inf,
        np.nan,
        "x",
        "",
        b"x",
        True,
        1j,
        np.float16(1),
        np.int8(3),
        np.uint64(2**63),
    ),
    *(
        [1, 2],
        [],
        ["a", "b"],
        np.zeros((2, 2)),
        h5py.Empty("f"),
        h5py.Empty(h5py.string_dtype()),
        np.bytes_(b"\xff"),
    ),
    np.array((1, 2.0), [("a", "i4"), ("b", "f8")]),
)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()


def _resumed(path: Path) -> tuple[int, str]:
    arrays, attributes = checkpoint.load(path)
    checkpoint.check(arrays, ARRAYS, path)
    return checkpoint.progress(attributes, path, per_epoch=10, last=100), _digest(arrays)


@functools.cache
def _checkpoint() -> bytes:
    return bytes(checkpoint._file_content(ARRAYS, ATTRIBUTES))


@kind("checkpoints, any bytes", share=5)
def _(rng: Random, folder: Path) -> Input:
    path = folder / recorder.CHECKPOINT_FILE
    path.write_bytes(damaged(rng, _checkpoint(), rng.choice((None, 512, 4096))))
    return Input(lambda: _resumed(path), good=(25, _digest(ARRAYS)))


@kind("checkpoints, other types", share=4)
def _(rng: Random, folder: Path) -> Input:
    """Right checksums: only what is in the file is wrong."""
    path = folder / recorder.CHECKPOINT_FILE
    arrays: dict[str, Any] = dict(ARRAYS)
    attributes = dict(ATTRIBUTES)
    if rng.random() < 0.5:
        name = rng.choice(("iteration", "epoch", "position"))
        if rng.random() < 0.2:
            del attributes[name]
        else:
            attributes[name] = rng.choice(FOREIGN)
    else:
        name = rng.choice(list(arrays))
        dtype = rng.choice(
            ("f8", "f2", ">f4", "i4", "i8", "?", "c8", "u1", "S4", "gone", "shape", "string", "more")
        )
        if dtype == "gone":
            del arrays[name]
        elif dtype == "shape":
            arrays[name] = arrays[name].reshape(-1, 1)
        elif dtype == "string":
            arrays[name] = np.array("x", h5py.string_dtype())
        elif dtype == "more":
            arrays["weights/more"] = np.zeros(3, np.float32)
        else:
            arrays[name] = arrays[name].astype(dtype)
    try:
        content = bytes(checkpoint._file_content(arrays, attributes))
    except (TypeError, ValueError, AttributeError):  # what h5py cannot write either
        content = b""
    path.write_bytes(content)
    return Input(lambda: _resumed(path), good=(25, _digest(ARRAYS)))


@kind("checkpoints, other tables", share=2)
def _(rng: Random, folder: Path) -> Input:
    """The table of checksums, or HDF5's part, is something else, and the header agrees with it."""
    path = folder / recorder.CHECKPOINT_FILE
    content = bytearray(_checkpoint())
    start = int(content.split(b"checksums at ")[1].split(b" ")[0])
    table = json.loads(content[start:])
    body = content[:start]
    if rng.random() < 0.5:
        body = bytearray(damaged(rng, bytes(body[checkpoint.USER_BLOCK :]), 1000))
        body[:0] = bytes(checkpoint.USER_BLOCK)
        extents = [checkpoint._Extent(*extent) for extent in table["arrays"]]
        table["crc32"] = checkpoint._checksums(memoryview(body), extents)
    else:
        table = changed_json(rng, table)
    text = json.dumps(table).encode()
    header = checkpoint.HEADER.format(1, len(body) + len(text), len(body), zlib.crc32(text)).encode()
    body[: checkpoint.USER_BLOCK] = header.ljust(checkpoint.USER_BLOCK, b"\0")
    path.write_bytes(bytes(body) + text)
    return Input(lambda: _resumed(path))


# --- Weights -------------------------------------------------------------------------------------------------


@functools.cache
def _weights(ending: str) -> bytes:
    """A file of weights; ``.pkl`` as Lasagne's zoo has them, by an old protocol or a new one."""
    arrays = {name: array for name, array in ARRAYS.items() if array.dtype.kind == "f"}
    if ending.startswith(".pkl"):
        return pickle.dumps({"param values": list(arrays.values())}, protocol=int(ending[-1]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"net{ending}")
        write_weights(path, arrays)
        return path.read_bytes()


def _read_weights(path: Path) -> str:
    return _digest(read_weights(path).arrays)


@kind("weights, any bytes", share=5)
def _(rng: Random, folder: Path) -> Input:
    ending = rng.choice((*ENDINGS, ".pkl0", ".pkl2", ".pkl5"))
    path = folder / "net"
    path.write_bytes(damaged(rng, _weights(ending), rng.choice((None, 64, 512))))
    return Input(lambda: _read_weights(path))


# --- Data sets -----------------------------------------------------------------------------------------------


@functools.cache
def _dataset(store: str) -> bytes:
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "d.h5")
        if store == "raw":
            images = draw.integers(0, 256, (6, 5, 4, 3), np.uint8)
            labels = np.arange(6) % 3
            write_dataset(
                path,
                (images, labels),
                (images[:3], labels[:3]),
                name="raw",
                class_names=["a", "b", "c"],
                augmentation="none",
                description="d",
                source="s",
                licence="CC0",
            )
        else:
            with Writer(path, {}) as writer:
                for split in schema.SPLITS:
                    packed = []
                    for i in range(3):
                        data, pixels = as_jpeg(
                            archives.encoded(Image.new("RGB", (20 + i, 16), (40 * i, 90, 7)), "JPEG")
                        )
                        packed.append(Packed(f"{i}.jpg", i % 2, pixels.shape[0], pixels.shape[1], data))
                    writer.append(
                        split, Block(packed, [], ChannelSums(100, (5000, 5000, 5000), (300_000,) * 3))
                    )
                writer.finish(
                    name="jpeg",
                    description="d",
                    source="s",
                    licence="CC0",
                    class_names=["a", "b"],
                    store="jpeg",
                    channels=3,
                    augmentation="imagenet",
                )
        return path.read_bytes()


def _read_all(path: Path) -> str:
    digest = hashlib.sha256()
    with schema.open_pictures(path) as data:
        texts = (data.name, data.description, data.source, data.licence, data.augmentation, data.store)
        digest.update(repr((texts, data.class_names, data.left_out, data.channels, data.largest)).encode())
        digest.update(repr((data.mean.tolist(), data.std.tolist())).encode())
        for split in schema.SPLITS:
            digest.update(
                data.labels(split).astype("<i8").tobytes() + data.sizes(split).astype("<i4").tobytes()
            )
            for i in range(data.count(split)):
                digest.update(data.pixels(split, i).tobytes() + data.image_name(split, i).encode())
    return digest.hexdigest()


@functools.cache
def _good_dataset(store: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "d.h5").write_bytes(_dataset(store))
        return _read_all(Path(folder, "d.h5"))


@kind("data sets, any bytes", share=6)
def _(rng: Random, folder: Path) -> Input:
    store, path = rng.choice(schema.STORES), folder / "d.h5"
    content = _dataset(store)
    path.write_bytes(damaged(rng, content, rng.choice((None, 512, 2048))))
    return Input(lambda: _read_all(path), good=_good_dataset(store))


def _change_array(rng: Random, file: h5py.File, name: str) -> None:
    """Take an array away, or put another one in its place."""
    values = file[name][()]
    del file[name]
    what = rng.choice(
        ("gone", "shape", "huge", "group", "value", "i2", "i4", "i8", "u8", "f8", "?", "c8", "S300")
    )
    if what == "group":
        file.create_group(name)
    elif what == "shape":
        file[name] = values[:-1]
    elif what == "huge":
        file.create_dataset(name, (10**6,), values.dtype, chunks=(1000,))
    elif what == "value" and values.dtype.kind in "iu":
        values.flat[rng.randrange(values.size)] = rng.choice((-1, 0, 1, 2**31 - 1, 10**6)) % 2**31
        file[name] = values
    elif what != "gone":
        file[name] = values.astype(what)


@kind("data sets, other types", share=4)
def _(rng: Random, folder: Path) -> Input:
    """The digest of the index is right: only what is in the file is wrong."""
    path = folder / "d.h5"
    path.write_bytes(_dataset(rng.choice(schema.STORES)))
    with contextlib.suppress(TypeError, ValueError, AttributeError, OSError), h5py.File(path, "r+") as file:
        if rng.random() < 0.5:
            name = rng.choice([name for name in file.attrs if name != "sha256"])
            file.attrs[name] = rng.choice(FOREIGN)
        else:
            _change_array(rng, file, f"{rng.choice(schema.SPLITS)}/{rng.choice(list(schema._COLUMNS))}")
        with contextlib.suppress(KeyError, MemoryError):
            file.attrs["sha256"] = schema.index_sha256(file)
    return Input(lambda: _read_all(path) and 0)


@kind("data sets, other images", share=2)
def _(rng: Random, folder: Path) -> Input:
    """The checksum of an image is right, and it is no such picture."""
    path = folder / "d.h5"
    path.write_bytes(_dataset("jpeg"))
    with h5py.File(path, "r+") as file:
        offsets, checksums = file["train/offsets"][()], file["train/crc32"][()]
        image = bytearray(file["train/data"][offsets[1] : offsets[2]].tobytes())
        at = image.index(b"\xff\xc0") + 5 if rng.random() < 0.5 else rng.randrange(len(image) - 4)
        image[at : at + 4] = rng.choice(
            (b"\xff\xff\xff\xff", bytes(4), b"\x40\x00\x40\x00", rng.randbytes(4))
        )
        position = file["train/data"].id.get_offset() + int(offsets[1])
        checksums[1] = zlib.crc32(image)
        file["train/crc32"][...] = checksums
        file.attrs["sha256"] = schema.index_sha256(file)
    with path.open("r+b") as raw:
        raw.seek(position)
        raw.write(image)
    return Input(lambda: _read_all(path) and 0)


@functools.cache
def _record_file(modality: str) -> bytes:
    draw = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "r.h5")
        if modality == "arrays":
            split = {
                "x": draw.normal(size=(6, 3)),
                "seen": draw.random((6, 2)) < 0.5,
                "labels": np.arange(6) % 2,
            }
            write_arrays(path, split, split, name="arrays", class_names=["a", "b"])
        elif modality == "stream":
            write_stream(path, draw.integers(0, 256, 300), draw.integers(0, 256, 40), name="stream")
        else:
            texts = [draw.integers(0, 4, n + 1) for n in range(4)], np.arange(4) % 2
            words = ["<unk>", "<eos>", "a", "b"]
            write_texts(
                path, texts, texts, name="t", class_names=["a", "b"], tokens="words", vocabulary=words
            )
        return path.read_bytes()


def _read_records(path: Path) -> str:
    digest = hashlib.sha256()
    with schema.open_dataset(path) as data:
        if isinstance(data, schema.Dataset):
            return "pictures"
        texts = (data.name, data.description, data.source, data.licence, data.class_names, data.left_out)
        digest.update(repr((texts, data.modality, data.fields, data.n_train, data.n_val)).encode())
        for split in schema.SPLITS:
            if isinstance(data, ArrayDataset):
                for i in range(data.count(split)):
                    digest.update(b"".join(values.tobytes() for values in data.item(split, i).values()))
            else:
                ids = data.ids(split, 0, data.length(split))
                labels = [] if data.kind == "stream" else data.labels(split).tolist()
                digest.update(
                    ids.tobytes() + repr((data.text(ids), data.offsets(split).tolist(), labels)).encode()
                )
    return digest.hexdigest()


@functools.cache
def _good_records(modality: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "r.h5").write_bytes(_record_file(modality))
        return _read_records(Path(folder, "r.h5"))


def _damaged_records(rng: Random, folder: Path, modality: str) -> Input:
    path = folder / "r.h5"
    path.write_bytes(damaged(rng, _record_file(modality), rng.choice((None, 512, 2048))))
    return Input(lambda: _read_records(path), good=_good_records(modality))


def _other_records(rng: Random, folder: Path, modality: str) -> Input:
    """The digest of the index is right: only what is in the file is wrong."""
    path = folder / "r.h5"
    path.write_bytes(_record_file(modality))
    with contextlib.suppress(TypeError, ValueError, AttributeError, OSError), h5py.File(path, "r+") as file:
        names = [name for name in file.attrs if name != "sha256"]
        arrays: list[str] = []
        file.visititems(lambda name, found: arrays.append(name) if isinstance(found, h5py.Dataset) else None)
        what = rng.random()
        if what < 0.3:
            file.attrs[rng.choice(names)] = rng.choice(FOREIGN)
        elif what < 0.5:
            name = rng.choice([name for name in names if name in ("fields", "vocabulary")])
            file.attrs[name] = json.dumps(changed_json(rng, json.loads(file.attrs[name])))
        else:
            _change_array(rng, file, rng.choice(arrays))
        with contextlib.suppress(KeyError, MemoryError):
            file.attrs["sha256"] = records.index_sha256(file)
    return Input(lambda: _read_records(path) and 0)


@kind("arrays-file, any bytes", share=2)
def _(rng: Random, folder: Path) -> Input:
    return _damaged_records(rng, folder, "arrays")


@kind("tokens-file, any bytes", share=2)
def _(rng: Random, folder: Path) -> Input:
    return _damaged_records(rng, folder, rng.choice(("stream", "texts")))


@kind("arrays-file, other types", share=2)
def _(rng: Random, folder: Path) -> Input:
    return _other_records(rng, folder, "arrays")


@kind("tokens-file, other types", share=2)
def _(rng: Random, folder: Path) -> Input:
    return _other_records(rng, folder, rng.choice(("stream", "texts")))


# --- What tmpack reads ---------------------------------------------------------------------------------------


def _packed(source: base.Source) -> str:
    """All that a source has, as `tmpack`'s workers make it."""
    digest = hashlib.sha256(
        repr((source.name, source.class_names, source.channels, source.fingerprint[:0])).encode()
    )
    for split in schema.SPLITS:
        n = len(source.labels[split])
        if n:
            block = packing.pack_block(split, source.items(split, 0, n), "raw", 8)
            digest.update(repr([(image.name, image.label, image.data) for image in block.images]).encode())
    return digest.hexdigest()


def _pack(source: Callable[[], base.Source], good: str | None = None) -> Input:
    return Input(lambda: _packed(source()) if good is not None else _packed(source()) and 0, good=good)


@functools.cache
def _npz() -> bytes:
    file = io.BytesIO()
    images = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)
    np.savez_compressed(
        file, train_images=images, train_labels=[0, 1, 0, 1], val_images=images, val_labels=[1, 0, 1, 0]
    )
    return file.getvalue()


@functools.cache
def _good_npz() -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.npz").write_bytes(_npz())
        return _packed(arrays.Npz(Path(folder, "a.npz")))


@kind("npz, any bytes", share=3)
def _(rng: Random, folder: Path) -> Input:
    path = folder / "a.npz"
    path.write_bytes(damaged(rng, _npz()))
    return _pack(lambda: arrays.Npz(path), _good_npz())


@kind("npz, other arrays", share=2)
def _(rng: Random, folder: Path) -> Input:
    path = folder / "a.npz"
    images, labels = np.zeros((4, 6, 5), np.uint8), np.array([0, 1, 0, 1])
    content: dict[str, Any] = {
        f"{split}_{what}": array
        for split in schema.SPLITS
        for what, array in (("images", images), ("labels", labels))
    }
    name = rng.choice(list(content))
    if rng.random() < 0.7:
        content[name] = rng.choice(
            (
                *(images.astype(d) for d in ("f4", "i8", "?", "c8", "S2")),
                *(labels.astype(d) for d in ("f8", "?", "u8", "S2", "M8[s]")),
                *(
                    np.array(3),
                    np.zeros((0, 6, 5), np.uint8),
                    np.zeros((4, 0, 5), np.uint8),
                    labels - 1,
                    np.array(["a"]),
                ),
                *(
                    np.array([0, 1, 0, 10**6]),
                    np.array([2**64 - 1] * 4, np.uint64),
                    np.zeros((4, 6, 5, 7), np.uint8),
                ),
            )
        )
        np.savez(path, **content)
    else:
        with zipfile.ZipFile(path, "w") as file:
            for key, array in content.items():
                member = io.BytesIO()
                np.lib.format.write_array(member, array)
                data = member.getvalue()
                if key == name:
                    data = data.replace(
                        b"(4,", rng.choice((b"(9" + b"9" * 9 + b",", b"(-4,", b"(4.5,", b"((4,"))
                    )
                file.writestr(f"{key}.npy", data)
    return _pack(lambda: arrays.Npz(path))


@functools.cache
def _pictures() -> list[bytes]:
    good, bad = archives.odd_files()
    return [*good.values(), *(data for data, _ in bad.values() if data)]


@kind("image files", share=4)
def _(rng: Random, folder: Path) -> Input:
    data = damaged(rng, rng.choice(_pictures()), rng.choice((None, 100)))

    def call() -> int:
        decode(data)
        as_jpeg(data)
        return 0

    return Input(call)


@functools.cache
def _cifar(binary: bool) -> dict[str, bytes]:
    batches = archives.cifar10_batches()
    return archives.cifar10_binary(batches) if binary else archives.cifar10_python(batches)


@kind("CIFAR", share=4)
def _(rng: Random, folder: Path) -> Input:
    files = {Path(name).name: data for name, data in _cifar(rng.random() < 0.3).items()}
    name = rng.choice(list(files))
    files[name] = damaged(rng, files[name], rng.choice((None, 200)))
    archives.write_files(folder, files)
    return _pack(lambda: cifar.Cifar10(folder))


@kind("tar archives of CIFAR", share=2)
def _(rng: Random, folder: Path) -> Input:
    path = archives.write_tar(folder / "c.tar.gz", _cifar(True), rng.choice(("w", "w:gz")))
    path.write_bytes(damaged(rng, path.read_bytes(), rng.choice((None, 1024))))
    return _pack(lambda: cifar.Cifar10(path))


@kind("MNIST", share=2)
def _(rng: Random, folder: Path) -> Input:
    draw = np.random.default_rng(0)
    part = draw.integers(0, 256, (5, 28, 28), np.uint8), draw.integers(0, 10, 5, np.uint8)
    files = archives.mnist(part, part, rng.random() < 0.5)
    name = rng.choice(list(files))
    files[name] = damaged(rng, files[name], rng.choice((None, 20)))
    archives.write_files(folder, files)
    return _pack(lambda: mnist.Mnist(folder))


@functools.cache
def _ilsvrc() -> dict[str, bytes]:
    picture = archives.encoded(Image.new("RGB", (12, 10), (1, 2, 3)), "JPEG")
    synsets = [(1, "n01", "one", 0, 2), (2, "n02", "two", 0, 2)]
    inner = {
        f"{wnid}.tar": archives.tar_bytes({f"{wnid}_{i}.JPEG": picture for i in range(2)})
        for wnid in ("n01", "n02")
    }
    val = {f"ILSVRC2012_val_0000000{i}.JPEG": picture for i in (1, 2)}
    with tempfile.TemporaryDirectory() as folder:
        kit = archives.write_tar(
            Path(folder, "k.tar.gz"), archives.devkit(synsets, [1, 2]), "w:gz"
        ).read_bytes()
    return {"train.tar": archives.tar_bytes(inner), "val.tar": archives.tar_bytes(val), "devkit.tar.gz": kit}


@kind("archives of ImageNet", share=3)
def _(rng: Random, folder: Path) -> Input:
    files = dict(_ilsvrc())
    name = rng.choice(list(files))
    files[name] = damaged(rng, files[name], rng.choice((None, 512)))
    archives.write_files(folder, files)
    return _pack(lambda: ilsvrc.Ilsvrc(*(folder / name for name in files)))


@kind("class folders", share=2)
def _(rng: Random, folder: Path) -> Input:
    picture = archives.encoded(Image.new("RGB", (12, 10), (1, 2, 3)), "JPEG")
    for split in schema.SPLITS:
        for name in ("a", "b"):
            archives.write_files(folder / split / name, {"1.jpg": picture, "2.png": damaged(rng, picture)})
    odd = rng.choice(("x\udcff.jpg", "a\nb.jpg", "n" * 250 + ".jpg", ".jpg", "é🦉.jpg", "t.JPEG"))
    where = folder / rng.choice(schema.SPLITS) / rng.choice(("a", "b", "c", "x\udcff"))
    where.mkdir(exist_ok=True)
    (where / odd).write_bytes(damaged(rng, picture))
    return _pack(lambda: folders.Folder(folder / "train", folder / "val"))


# --- Trees as people have them -------------------------------------------------------------------------------

REFUSED = object()
"""What no call returns: the input must be refused."""
CAFE = ("caf\u00e9", "cafe\u0301")
"""One name, composed (NFC) and decomposed (NFD)."""
_JUNK = {
    **dict.fromkeys(
        ("notes.txt", "README", "Thumbs.db", "x.heic", "labels.csv", "a\nb.xml", "x\udcff.json"), b"junk"
    ),
    **dict.fromkeys(("._a.jpg", ".DS_Store", "._train", "._x.tar"), b"\0\5\x16\7"),
}
_HIDDEN = (
    ".ipynb_checkpoints",
    ".thumbnails",
    ".Trash-1000",
    "@eaDir",
    "__MACOSX",
    "$RECYCLE.BIN",
    "lost+found",
)


@functools.cache
def _photograph(i: int) -> bytes:
    picture = np.random.default_rng(i).integers(0, 256, (9, 10, 3), np.uint8)
    return archives.encoded(Image.fromarray(picture), "JPEG")


def _held(source: base.Source, named: bool = True) -> str:
    """What is in a source, whatever its files are called: the classes and, by label, the pictures."""
    found: dict[str, Any] = {"classes": source.class_names if named else None}
    for split in schema.SPLITS:
        block = packing.pack_block(split, source.items(split, 0, len(source.labels[split])), "raw", 8)
        found[split] = sorted((image.label, zlib.crc32(image.data)) for image in block.images), block.left_out
    return repr(found)


def _pollute(rng: Random, root: Path, folders: Sequence[Path]) -> None:
    """Put into class folders what is found in people's, and must not become images of a class."""
    for number in range(rng.randint(1, 4)):
        where = rng.choice((root, *folders))
        what = rng.randrange(6)
        if what == 0:
            hidden = where / rng.choice(_HIDDEN) / rng.choice(("", "deep"))
            archives.write_files(hidden, {"1.jpg": _photograph(90), "2-checkpoint.jpg": _photograph(91)})
            with contextlib.suppress(FileExistsError):
                (hidden / "around").symlink_to(root)
        elif what == 1:
            archives.write_files(where, dict(rng.sample(list(_JUNK.items()), 3)))
        elif what == 2:
            other = rng.choice(folders)
            target = rng.choice((root, root.parent, other, other / "deep", other / "deep" / "er"))
            (rng.choice(folders) / f"link {number}").symlink_to(target)
        elif what == 3:
            (rng.choice(folders) / f"empty {number}" / "deep").mkdir(parents=True)
        elif what == 4:
            (where / f"dangling {number}").symlink_to("nowhere")
            os.mkfifo(where / f"pipe {number}")
        else:
            archives.write_files(root, {f"loose {number}.jpg": _photograph(92)})


def _class_tree(rng: Random, root: Path, classes: Sequence[str], first: int) -> list[Path]:
    """Class folders with two pictures each, one of them deeper."""
    for i, name in enumerate(classes):
        ending = rng.choice(("jpg", "JPEG", "jpe", "jfif"))
        files = {
            f"1.{ending}": _photograph(first + 2 * i),
            f"deep/er/2.{ending}": _photograph(first + 2 * i + 1),
        }
        archives.write_files(root / name, files)
    return [root / name for name in classes]


@kind("trees of class folders")
def _(rng: Random, folder: Path) -> Input:
    train, val = folder / "train", folder / "val"
    for root, first in ((train, 0), (val, 50)):
        classes = ["a b", rng.choice(CAFE), *(["zebra"] if root is train else [])]
        _pollute(rng, root, _class_tree(rng, root, classes, first))
    wrong = rng.choice((None, None, "twice", "unknown", "empty", "linked"))
    if wrong == "twice":
        for name in CAFE:
            archives.write_files(rng.choice((train, val)) / name, {"3.jpg": _photograph(3)})
        wrong = (
            wrong if any(all((root / name).is_dir() for name in CAFE) for root in (train, val)) else "perhaps"
        )
    elif wrong == "unknown":
        archives.write_files(val / "wolf", {"3.jpg": _photograph(3)})
    elif wrong == "empty":
        (train / "wolf").mkdir()
    elif wrong == "linked":
        (train / "wolf").symlink_to("zebra")
    elif rng.random() < 0.5:
        (val / "zebra").mkdir()
    # Sorted by their names in normal form.
    pictures = [[(i // 2, _photograph(first + i)) for i in range(n)] for first, n in ((0, 6), (50, 4))]
    good: dict[str, Any] = {"classes": ["a b", CAFE[0], "zebra"]} | {
        split: (sorted((label, zlib.crc32(_small(data))) for label, data in found), [])
        for split, found in zip(schema.SPLITS, pictures, strict=True)
    }
    result = REFUSED if wrong not in (None, "perhaps") else None if wrong else repr(good)
    return Input(lambda: _held(folders.Folder(train, val)), good=result)


def _small(data: bytes) -> bytes:
    return resize_shorter(decode(data), 8).tobytes()


WNIDS = ("n01000001", "n02000002")


def _ilsvrc_held() -> str:
    """What is in either form of the small ImageNet below."""
    train = sorted(
        (label, zlib.crc32(_small(_photograph(2 * label + i)))) for label in (0, 1) for i in (0, 1)
    )
    val = sorted((i % 2, zlib.crc32(_small(_photograph(50 + i)))) for i in range(3))
    return repr({"classes": [f"{w} class of {w}" for w in WNIDS], "train": (train, []), "val": (val, [])})


@kind("trees of Kaggle's ImageNet")
def _(rng: Random, folder: Path) -> Input:
    data = folder / rng.choice(("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", "."))
    _pollute(rng, data / "train", _class_tree(rng, data / "train", WNIDS, 0))
    names = [f"ILSVRC2012_val_{i + 1:08}" for i in range(3)]
    archives.write_files(data / "val", {f"{name}.JPEG": _photograph(50 + i) for i, name in enumerate(names)})
    archives.write_files(data / "val", dict(rng.sample(list(_JUNK.items()), 3)))
    rows = [f"{name},{WNIDS[i % 2]} 1 2 3 4 {WNIDS[i % 2]} 5 6 7 8 " for i, name in enumerate(names)]
    rng.shuffle(rows)
    end = rng.choice(("\n", "\r\n"))
    mapping = [f"{wnid} class of {wnid}" for wnid in rng.sample(WNIDS, 2)]
    tables = {
        "LOC_val_solution.csv": end.join(["ImageId,PredictionString", *rows, ""]),
        "LOC_synset_mapping.txt": end.join([*mapping, ""]),
    }
    wrong = rng.random() < 0.4
    content = {name: text.encode() for name, text in tables.items()}
    if wrong:
        name = rng.choice(list(tables))
        content[name] = damaged_text(rng, tables[name])
    archives.write_files(rng.choice((folder, data)), content)
    # A damaged name of a class, or coordinate, is another one, and nobody can tell.
    return Input(lambda: _held(ilsvrc.KaggleIlsvrc(folder)), good=None if wrong else _ilsvrc_held())


def _doubled(rng: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """The entries of an archive as macOS packs them."""
    found: dict[str, bytes] = {}
    for name, data in files.items():
        at, base = os.path.split(name)
        if rng.random() < 0.5:
            found[os.path.join(rng.choice((at, "__MACOSX")), f"._{base}")] = b"\0\5\x16\7"
        found[f"./{name}" if rng.random() < 0.3 else name] = data
    return found


@kind("trees of ImageNet's archives")
def _(rng: Random, folder: Path) -> Input:
    inner = {
        f"{wnid}.tar": archives.tar_bytes(
            _doubled(rng, {f"{wnid}_{i}.JPEG": _photograph(2 * label + i) for i in (0, 1)})
        )
        for label, wnid in enumerate(WNIDS)
    }
    val = {f"ILSVRC2012_val_{i + 1:08}.JPEG": _photograph(50 + i) for i in range(3)}
    ids = rng.sample((1, 2), 2)
    synsets = [(i, wnid, f"class of {wnid}", 0, 2) for i, wnid in zip(ids, WNIDS, strict=True)]
    kit = archives.devkit(synsets, [ids[i % 2] for i in range(3)], rng.random() < 0.5)
    paths = [
        archives.write_tar(folder / name, _doubled(rng, files), mode)
        for name, files, mode in (("t.tar", inner, "w"), ("v.tar", val, "w"), ("k.tar.gz", kit, "w:gz"))
    ]
    return Input(lambda: _held(ilsvrc.Ilsvrc(*paths)), good=_ilsvrc_held())


def _pixels_held(contents: Sequence[tuple[np.ndarray, np.ndarray]]) -> str:
    """What `_held` gives of pixels, without the names of the classes."""
    found: dict[str, Any] = {"classes": None}
    for split, (images, labels) in zip(schema.SPLITS, contents, strict=True):
        pairs = zip(labels.tolist(), images, strict=True)
        found[split] = sorted((label, zlib.crc32(image.tobytes())) for label, image in pairs), []
    return repr(found)


def _drawn(rng: Random, shape: tuple[int, ...], classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(rng.getrandbits(32))
    labels = (np.arange(n) % classes for n in (2 * classes, classes))
    return [(draw.integers(0, 256, (len(y), *shape), np.uint8), draw.permutation(y)) for y in labels]


@kind("trees of arrays")
def _(rng: Random, folder: Path) -> Input:
    contents = _drawn(rng, (5, 4), 4)
    numbers = np.array(
        rng.choice(((0, 1, 2, 3), (1, 2, 3, 4), (0, 2, 5, 9), (1440764, 1443537, 1484850, 15075141)))
    )
    dtype = rng.choice(("u1", "i1", "i4", "i8", "u8")) if numbers[-1] < 100 else "i4"
    held: dict[str, Any] = {}
    for split, (images, labels) in zip(schema.SPLITS, contents, strict=True):
        held[f"{split}_images"] = np.asfortranarray(images) if rng.random() < 0.3 else images
        given = numbers[labels].astype(dtype)
        held[f"{split}_labels"] = given[:, None] if rng.random() < 0.5 else given
    if rng.random() < 0.3:
        held |= {"test_images": np.zeros(3), "note": np.array([None])}
    renumber = rng.random() < 0.7
    path = folder / "a.npz"
    rng.choice((np.savez, np.savez_compressed))(path, **held)
    good = _pixels_held(contents) if renumber or numbers[-1] == 3 else REFUSED
    return Input(lambda: _held(arrays.Npz(path, renumber), named=False), good=good)


@kind("trees of MNIST and EMNIST")
def _(rng: Random, folder: Path) -> Input:
    contents = _drawn(rng, (28, 28), 10)
    letters, compressed, mark = rng.random() < 0.5, rng.random() < 0.5, rng.choice("-.")
    first = int(letters)
    given = [
        (images.transpose(0, 2, 1) if letters else images, (labels + first).astype(np.uint8))
        for images, labels in contents
    ]
    files = archives.mnist(given[0], given[1], compressed, mark)
    if letters:
        files = {f"emnist-letters-{name.replace('t10k', 'test')}": data for name, data in files.items()}
    mapping = letters and rng.random() < 0.5
    if mapping:
        files["emnist-letters-mapping.txt"] = "".join(
            f"{i} {64 + i} {96 + i}\n" for i in range(1, 11)
        ).encode()
    archives.write_files(folder, files | dict(rng.sample(list(_JUNK.items()), 3)))
    archives.write_files(folder, {f"._{name}": b"\0\5\x16\7" for name in files})
    renumber = rng.random() < 0.5
    good = _pixels_held(contents) if mapping or renumber or not letters else REFUSED
    return Input(lambda: _held(mnist.Mnist(folder, renumber=renumber), named=False), good=good)


@kind("trees of CIFAR")
def _(rng: Random, folder: Path) -> Input:
    batches = archives.cifar10_batches()
    if rng.random() < 0.2:
        files = {Path(name).name: data for name, data in archives.cifar10_binary(batches).items()}
    else:
        protocol, text = rng.randrange(6), rng.choice((str, str.encode))
        files = {
            "batches.meta": pickle.dumps({text("label_names"): [text(f"c{i}") for i in range(10)]}, protocol)
        }
        for name, (images, labels) in batches.items():
            planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
            entry = {text("data"): planes, text("labels"): labels.tolist(), text("batch_label"): text(name)}
            files[name] = pickle.dumps(entry, protocol)
    path = folder / "c"
    if rng.random() < 0.5:
        inside = {f"cifar-10/{name}": data for name, data in files.items()}
        archives.write_tar(path, _doubled(rng, inside), rng.choice(("w", "w:gz", "w:xz", "w:bz2")))
    else:
        archives.write_files(path, files | dict(rng.sample(list(_JUNK.items()), 3)))
    train = [batches[f"data_batch_{i}"] for i in range(1, 6)]
    images, labels = (np.concatenate([batch[part] for batch in train]) for part in (0, 1))
    good = _pixels_held([(images, labels), batches["test_batch"]])
    return Input(lambda: _held(cifar.Cifar10(path), named=False), good=good)


# --- Arrays of any fields, and texts


def _fields_read(path: Path) -> str:
    source = fields.FieldSource(path)
    digest = hashlib.sha256(repr((source.fields, source.counts, source.class_names)).encode())
    for split in schema.SPLITS:
        for name in source.fields:
            for block in source.blocks(split, name):
                digest.update(block.tobytes())
    return digest.hexdigest()


@functools.cache
def _field_file(name: str) -> bytes:
    content = {"x": np.arange(12.0).reshape(4, 3), "labels": np.array([0, 1, 1, 0]), "seen": np.ones(4, bool)}
    file = io.BytesIO()
    if name == "a.npz":
        arrays: dict[str, Any] = {f"{s}_{key}": a for s in schema.SPLITS for key, a in content.items()}
        np.savez_compressed(file, **arrays)
    else:
        with h5py.File(file, "w") as made:
            for split in schema.SPLITS:
                for key, array in content.items():
                    made.create_dataset(f"{split}/{key}", data=array, chunks=array.shape, compression="gzip")
    return file.getvalue()


@functools.cache
def _good_fields() -> str:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.npz").write_bytes(_field_file("a.npz"))
        return _fields_read(Path(folder, "a.npz"))


@kind("fields, any bytes", share=2)
def _(rng: Random, folder: Path) -> Input:
    path = folder / rng.choice(("a.npz", "a.h5"))
    path.write_bytes(damaged(rng, _field_file(path.name)))
    # HDF5 has no checksums of what a user's file has in it.
    if path.name == "a.npz":
        return Input(lambda: _fields_read(path), good=_good_fields())
    return Input(lambda: _fields_read(path) and 0)


@kind("texts, any bytes")
def _(rng: Random, folder: Path) -> Input:
    path = folder / "t.txt"
    path.write_bytes(damaged(rng, "The cat sat\non the naïve mat – \U0001f600.\n".encode() * 3))
    tokens = rng.choice(list(texts.CODERS))

    def call() -> int:
        source = texts.TextStream([str(path)], tokens=tokens, val_share=0.3)
        source.survey(lambda n: None)
        found = {
            split: sum(len(ids) for ids in source.blocks(split, lambda n: None)) for split in schema.SPLITS
        }
        assert found == source.counts
        return 0

    return Input(call)


@kind("flags of tmpack", share=4, command="theanompi.data.pack.command")
def _(rng: Random, folder: Path) -> Input:
    commands = {
        "synthetic": "--classes --train --val --size --channels --seed",
        "glyphs": "--train --val --seed",
        "folder": "--store --size",
        "mnist": "--set",
        "cifar10": "",
        "arrays": "--val-share",
        "text": "--tokens --val-share --vocabulary-size --val",
        "info": "",
        "verify": "",
    }
    name = rng.choice(list(commands))
    words = [name]
    if name == "synthetic":
        words += shlex.split("--classes 2 --train 4 --val 2 --size 4")
    if name not in ("synthetic", "glyphs"):
        words += ["--", odd_path(rng, folder)] if rng.random() < 0.5 else [argument(rng)]
    flags = [*commands[name].split(), "--name", "-o"]
    if name != "text":
        flags += ["--augmentation", "--processes"]
    words[1:1] = [
        f"{flag}={argument(rng)}" for flag in rng.sample(flags, rng.randint(0, 2)) if flag.startswith("--")
    ]
    if name not in ("info", "verify"):
        words[1:1] = ["-o", "out.h5"]

    def call() -> int:
        with contextlib.ExitStack() as stack:
            for pack in ("pack", "pack_arrays", "pack_text"):
                stack.enter_context(mock.patch.object(command, pack, lambda source, output, **more: True))
            return command.main(words)

    # The real one would pack what is right.
    return Input(call, words if name in ("info", "verify", "mnist", "cifar10", "arrays") else [])
