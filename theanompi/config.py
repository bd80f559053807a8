"""The settings of one run: what a user may choose, its defaults, its limits and its flags, all in one table.

Everything that starts a run (a script's flags, ``tmlauncher``'s cfg file, ``rule.init``) ends in one frozen
`RunConfig`, which is what the workers receive and what is saved with the run. This module imports nothing but
the standard library and opens no file.

Examples
--------
>>> config = RunConfig(data="digits", epochs=2)
>>> config.batch_size is None
True
>>> resolve(config).batch_size
16
>>> RunConfig(epochs=0)
Traceback (most recent call last):
    ...
theanompi.config.ConfigError: epochs: expected a whole number of at least 1, got 0
"""

import argparse
import difflib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

SYNC_TYPES = ("cdd", "avg")
EXCHANGES = (
    *("auto", "overlap", "ar", "shm", "nccl", "naive", "fp16", "bf16"),
    *("nccl32", "nccl16", "asa32", "asa16"),
)
ALGORITHMS = ("recursive_doubling", "ring", "segmented_ring", "reduce_scatter_allgather", "tree")
RULES = ("BSP",)
PRECISIONS = ("float32", "tf32", "bf16")
SCALINGS = ("linear", "sqrt", "none")
WARMUPS = ("gradual", "constant", "none")
MOMENTUM_FORMS = ("v", "u", "uncorrected")
SCALED = ("rate", "loss")
NORMALIZATIONS = ("minibatch", "worker")
SHUFFLES = ("global", "worker")

DEVICE_NAMES = "device names such as cpu, cpu0, cuda0, cuda:0, auto or host:cuda0"
HOST = r"\w[\w.@-]{0,254}"
"""A machine's name, as a regular expression."""
_DEVICE = re.compile(rf"(?:(?P<host>{HOST}):)?(?P<kind>auto|cpu|cuda)(?::?(?P<index>\d{{1,6}}))?")

MOST_MESSAGE = 300
"""Characters of a message about something that is refused."""
MOST_RANKS = 10_000
"""Ranks of a run: far more than this package was made for, far fewer than memory holds the names of."""
_MOST_GOT = 80
_MOST_PATH = 4096


class ConfigError(ValueError):
    """Something that a user typed is wrong; the message is one line: what, where, expected, got."""


def shortened(text: str, most: int) -> str:
    """Cut a text in its middle.

    >>> shortened("abcdefghijklmnopqrstuvwxyz", 12)
    'abcd … wxyz'
    """
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]} … {text[len(text) - half :]}"


def got(value: Any, most: int = _MOST_GOT) -> str:
    """Show a value in a message: its `repr`, cut in the middle when it is long.

    >>> got("x"), got("x" * 1000, 20)
    ("'x'", "'xxxxxxx … xxxxxxx'")
    """
    # Before its repr, which takes as much memory again, and does not write numbers of 4,300 digits.
    if isinstance(value, str) and len(value) > 2 * most:
        value = value[:most] + value[-most:]
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a very large {type(value).__name__}"
    return shortened(text, most)


def listed(names: Iterable[str], most: int = 100) -> str:
    """Write names one after another, without those in the middle when they are many.

    >>> listed(["a", "b"]), listed(map(str, range(1000)), 20)
    ('a, b', '0, 1, 2, … 998, 999')
    """
    return shortened(", ".join(names), most)


def escaped(text: str) -> str:
    r"""Spell a text so that it is one line on any terminal: what cannot be printed is escaped.

    >>> escaped("a\nb \udcff")
    'a\\nb \\udcff'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def one_line(text: object, most: int = MOST_MESSAGE) -> str:
    r"""Make a message fit one line of any terminal: what cannot be printed is escaped, what is too long is cut.

    Every message about something refused goes through here just before it is printed.

    >>> one_line("a\nb \udcff")
    'a\\nb \\udcff'
    """
    return shortened(escaped(str(text)), most)


def is_text(value: Any) -> bool:
    r"""Whether something is a text that can be written to a file: halves of characters cannot.

    >>> is_text("a"), is_text("\ud800"), is_text(3)
    (True, False, False)
    """
    return isinstance(value, str) and re.search("[\ud800-\udfff]", value) is None


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse ``--flag=--``, of which `argparse` makes an empty list, whatever the flag's type."""
        args = sys.argv[1:] if args is None else list(args)
        for word in args:
            if word.startswith("-") and word.endswith("=--"):
                self.error(f"argument {word[:-3]}: expected a value, got '--'")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print `message` and exit with status 2."""
        self.exit(2, f"{one_line(f'{self.prog}: error: {message}')}\n")


class Host(NamedTuple):
    """The devices of one machine, one per rank, in the order of the ranks.

    `name` is None for the machine at hand; `devices` are spelled as torch does (``"cpu"``, ``"cuda:1"``), or
    are ``"auto"`` or ``"cuda"``.
    """

    name: str | None
    devices: tuple[str, ...]


def closest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name most like `name`, or nothing when none is like it.

    >>> closest("epoch", ["epochs", "seed"])
    "; did you mean 'epochs'?"
    >>> closest("zzz", ["epochs", "seed"])
    ''
    """
    # Comparing takes time that grows with the square of the length.
    match = difflib.get_close_matches(name, list(known), n=1) if len(name) <= 100 else []
    return f"; did you mean {match[0]!r}?" if match else ""


def parse_devices(devices: str | Iterable[str]) -> tuple[str, ...]:
    """Return one canonical name per rank from the ways a user may write devices.

    Parameters
    ----------
    devices
        Names such as ``"cpu"``, ``"cpu0"``, ``"cuda"``, ``"cuda0"``, ``"cuda:0"``, ``"auto"``, separated by
        commas or as a sequence. A name may follow a host and a colon (``"node0:cuda0,cuda1"``); the host
        holds up to the next one.

    Returns
    -------
    tuple of str
        Names as torch spells them, each with its host when hosts were given. A CPU has no number: ``"cpu1"``
        is ``"cpu"``.

    Raises
    ------
    ConfigError
        For an unknown name, an empty list, or names with and without a host mixed.

    Examples
    --------
    >>> parse_devices("cuda0,cuda1")
    ('cuda:0', 'cuda:1')
    >>> parse_devices(["node0:cuda0", "node1:cuda0,cuda1"])
    ('node0:cuda:0', 'node1:cuda:0', 'node1:cuda:1')
    """
    names: list[str] = []
    places: list[str | None] = []
    for entry in [devices] if isinstance(devices, str) else devices:
        host = None
        for item in str(entry).split(","):
            match = _DEVICE.fullmatch(item.strip())
            if match is None or (match["kind"] == "auto" and match["index"] is not None):
                raise ConfigError(f"devices: expected {DEVICE_NAMES}, got {got(item.strip())}")
            host = match["host"] or host
            numbered = match["kind"] == "cuda" and match["index"]
            name = f"cuda:{int(match['index'])}" if numbered else match["kind"]
            names.append(f"{host}:{name}" if host else name)
            places.append(host)
            if len(names) > MOST_RANKS:
                raise ConfigError(f"devices: expected at most {MOST_RANKS} devices, got more")
    if not names:
        raise ConfigError("devices: expected at least one device, got none")
    if None in places and any(places):
        raise ConfigError(f"devices: expected a host for every device or for none, got {listed(names)}")
    return tuple(names)


def hosts(devices: str | Iterable[str]) -> tuple[Host, ...]:
    """Return the devices grouped by machine, hosts in the order in which they first appear.

    >>> hosts(["node0:cuda0", "node1:cuda0,cuda1"])
    (Host(name='node0', devices=('cuda:0',)), Host(name='node1', devices=('cuda:0', 'cuda:1')))
    >>> hosts("cpu0,cpu1")
    (Host(name=None, devices=('cpu', 'cpu')),)
    """
    grouped: dict[str | None, list[str]] = {}
    for name in parse_devices(devices):
        match = _DEVICE.fullmatch(name)
        assert match is not None
        grouped.setdefault(match["host"], []).append(name.removeprefix(f"{match['host']}:"))
    return tuple(Host(name, tuple(local)) for name, local in grouped.items())


def local_device(devices: Sequence[str], local_rank: int, n_cuda: int) -> str:
    """Return the device of one rank, chosen by its rank among those of its machine.

    Parameters
    ----------
    devices
        The machine's devices in `parse_devices`' spelling, one per local rank; a single one serves all.
    local_rank
        This process's rank among those on its machine.
    n_cuda
        How many CUDA devices this process sees.

    Returns
    -------
    str
        ``"cpu"`` or ``"cuda:N"``. ``"auto"`` and ``"cuda"`` go round the GPUs by local rank; ``"auto"``
        without any is ``"cpu"``.

    Raises
    ------
    ConfigError
        When there are more ranks than devices, or the GPU asked for is not there.

    Examples
    --------
    >>> local_device(("auto",), 1, n_cuda=4), local_device(("auto",), 1, n_cuda=0)
    ('cuda:1', 'cpu')
    >>> local_device(("cuda:2", "cuda:3"), 1, n_cuda=4)
    'cuda:3'
    """
    local = hosts(devices)
    if local[0].name is not None:
        raise ConfigError(
            "devices: expected names without a host, because your own mpirun chooses the hosts, "
            f"got {listed(devices)}"
        )
    names = local[0].devices
    if len(names) > 1 and local_rank >= len(names):
        raise ConfigError(
            f"devices: expected one for each rank of this machine, got {len(names)} for rank {local_rank}"
        )
    name = names[0] if len(names) == 1 else names[local_rank]
    if name == "cpu" or (name == "auto" and n_cuda == 0):
        return "cpu"
    index = int(name.removeprefix("cuda:")) if ":" in name else local_rank % max(n_cuda, 1)
    if index >= n_cuda:
        raise ConfigError(f"devices: expected one of the {n_cuda} GPUs that torch sees here, got {name!r}")
    return f"cuda:{index}"


class Kind(NamedTuple):
    """What a field may hold: `expected` says it to a person, `read` makes it from text or a value."""

    expected: str
    read: Callable[[Any], Any]


def _whole(minimum: int, maximum: int = 2**63 - 1) -> Kind:
    def read(value: Any) -> int:
        if isinstance(value, bool | float) or int(value) < minimum:
            raise ValueError
        if int(value) > maximum:
            raise ValueError(f"; the largest is {maximum}")
        return int(value)

    return Kind(f"a whole number of at least {minimum}", read)


def _number(expected: str, allowed: Callable[[float], bool]) -> Kind:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not math.isfinite(float(value)) or not allowed(float(value)):
            raise ValueError
        return float(value)

    return Kind(expected, read)


def _choice(names: Sequence[str]) -> Kind:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError(closest(value, names) if isinstance(value, str) else "")
        return str(value)

    return Kind("one of " + ", ".join(names), read)


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    if len(value) > _MOST_PATH:
        raise ValueError(f"; it has {len(value)} characters, {_MOST_PATH} are the most")
    wrong = re.search("[\0\ud800-\udfff]", value)
    if wrong:
        raise ValueError(f"; {wrong[0]!r} in it is no character")
    return value


def _read_module(value: Any) -> str:
    name = _read_text(value).removesuffix(".py").removeprefix("./").replace("/", ".")
    if name == "__main__" or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError
    return name


def _read_switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]


def _read_epochs(value: Any) -> tuple[float, ...]:
    items = value.replace(",", " ").split() if isinstance(value, str) else value
    epochs = tuple(_number("", lambda x: x > 0).read(item) for item in items)
    if list(epochs) != sorted(set(epochs)):
        raise ValueError
    return epochs


TEXT = Kind("a text that is not empty", _read_text)
MODULE = Kind("a module such as models.resnet50, or its file under the current folder", _read_module)
SWITCH = Kind("true or false", _read_switch)
COUNT, RANKS, SIMULATED = _whole(0), _whole(1, MOST_RANKS), _whole(0, MOST_RANKS)
POSITIVE = _number("a number above 0", lambda x: x > 0)
NOT_NEGATIVE = _number("a number of at least 0", lambda x: x >= 0)
DEVICES = Kind(DEVICE_NAMES, parse_devices)
EPOCHS = Kind("increasing epochs above 0, such as 30,60,80", _read_epochs)


ROLES = {
    "run": "another value makes another run: a resume refuses it",
    "recipe": "how weights are updated: a resume goes on with another value and says so",
    "ends": "counts only where a run begins or stops: a resume takes any value",
    "machine": "how the work is shared out and summed, which rounds otherwise: a resume takes any value",
    "aside": "what is kept, printed and read ahead: neither a resume nor a comparison cares",
}
"""What a field of `RunConfig` may be to a run."""


def _option(
    role: str, default: Any, kind: Kind, group: str = "", help: str = "", flags: tuple[str, ...] = ()
) -> Any:
    """Make a field of `RunConfig`; one with a `group` has a command-line flag, by default its own name."""
    assert role in ROLES
    about = {"role": role, "kind": kind, "group": group, "help": help, "flags": flags}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a run, checked when made; None stands for a default that `resolve` fills in.

    The fields, their defaults and meanings are those of the flags: see
    ``python examples/train_resnet50.py --help``.

    Raises
    ------
    ConfigError
        From the constructor, when a field has a value that it may not have.

    Examples
    --------
    >>> RunConfig(momentum=0.95).momentum
    0.95
    >>> RunConfig.from_dict(RunConfig().to_dict()) == RunConfig()
    True
    """

    rule: str = _option("run", "BSP", _choice(RULES))
    modelfile: str = _option("run", "models.resnet50", MODULE)
    modelclass: str = _option("run", "ResNet50", TEXT)

    data: str = _option("run", "digits", TEXT, "data", "'digits' (packaged) or the path of an HDF5 data set")
    image_size: int | None = _option(
        "run", None, _whole(1), "data", "side of the images in pixels (default: 32 for digits, else 224)"
    )
    batch_size: int | None = _option(
        "run", None, _whole(1), "data", "n, images per worker and step (default: 16 for digits, else 32)"
    )
    accumulation: int = _option(
        "machine", 1, _whole(1), "data", "A, steps before one update, as if each were a worker of its own"
    )
    shuffle: str = _option(
        "run",
        "global",
        _choice(SHUFFLES),
        "data",
        "global: one order of the images in each epoch, shared out; worker: an order for each (pitfall 4)",
    )

    color_jitter: float = _option(
        "run",
        0.0,
        _number("a number from 0 to 1", lambda x: 0 <= x <= 1),
        "data",
        "of brightness, contrast and saturation, as in fb.resnet.torch, which has 0.4; 0: none",
    )
    lighting: float = _option(
        "run",
        0.0,
        NOT_NEGATIVE,
        "data",
        "noise along the principal components of colour, as in fb.resnet.torch, which has 0.1; 0: none",
    )
    loader_processes: int | None = _option(
        "aside",
        None,
        _whole(1),
        "data",
        "processes per rank that read ahead (default: its share of the cores, less one, from 1 to 8)",
    )

    epochs: int | None = _option(
        "run", None, _whole(1), "run", "passes over the training images (default: 12 for digits, else 90)"
    )
    max_iterations: int | None = _option(
        "ends", None, _whole(1), "run", "stop after so many updates; the schedule stays that of all epochs"
    )
    seed: int = _option("run", 0, _whole(0), "run", "of the weights, the order, the augmentation and dropout")
    devices: tuple[str, ...] = _option(
        "machine",
        ("auto",),
        DEVICES,
        "run",
        "cpu, cuda:N, cuda (by local rank) or auto (cuda if any, else cpu)",
        ("--device", "--devices"),
    )
    precision: str = _option(
        "run",
        "float32",
        _choice(PRECISIONS),
        "run",
        "arithmetic of the computation; the weights stay float32",
    )
    cuda_graph: bool = _option(
        "machine", True, SWITCH, "run", "on a CUDA device, record each step's kernels once and replay them"
    )
    sync_type: str = _option(
        "run",
        "cdd",
        _choice(SYNC_TYPES),
        "run",
        "cdd sums gradients ('their way'), avg averages weights ('my way')",
    )
    exchange: str = _option(
        "machine",
        "overlap",
        _choice(EXCHANGES),
        "run",
        "overlap: by buckets while backward goes on; ar: all at once after it; shm: in the shared memory of each "
        "machine; nccl: a GPU for each rank; fp16, bf16: weights in 16 bits; naive: the reference, tensor by "
        "tensor; auto: the fastest one that is exact; nccl32, nccl16, asa32, asa16: as in Theano-MPI",
    )
    require_cuda_aware: bool = _option(
        "machine",
        False,
        SWITCH,
        "run",
        "refuse to take gradients through host memory if MPI is not CUDA-aware",
    )
    allreduce_algorithm: str | None = _option(
        "machine",
        None,
        _choice(ALGORITHMS),
        "run",
        "MPI's own way of summing (default: the library's choice)",
    )

    base_lr: float = _option(
        "recipe", 0.1, POSITIVE, "recipe", "learning rate for a minibatch of base-batch images"
    )
    base_batch: int = _option("recipe", 256, _whole(1), "recipe", "the minibatch that base-lr is meant for")
    scaling: str | None = _option(
        "recipe",
        None,
        _choice(SCALINGS),
        "recipe",
        "of base-lr with the minibatch (default: linear for cdd, none for avg)",
    )
    scaled: str = _option(
        "run",
        "rate",
        _choice(SCALED),
        "recipe",
        "what scaling and warmup multiply: the rate, or the loss without its weight decay (pitfall 1)",
    )
    normalization: str = _option(
        "run",
        "minibatch",
        _choice(NORMALIZATIONS),
        "recipe",
        "what the summed loss is divided by: all images, or those of one worker (pitfall 3)",
    )
    warmup: str = _option(
        "recipe",
        "gradual",
        _choice(WARMUPS),
        "recipe",
        "from base-lr to the scaled rate, when that is larger",
    )
    warmup_epochs: float | None = _option(
        "recipe", None, NOT_NEGATIVE, "recipe", "length of the warmup (default: epochs * 5/90)"
    )
    decay_epochs: tuple[float, ...] | None = _option(
        "recipe", None, EPOCHS, "recipe", "where the rate decays (default: epochs * 30/90, 60/90, 80/90)"
    )
    decay_factor: float = _option(
        "recipe",
        0.1,
        _number("a number above 0 and at most 1", lambda x: 0 < x <= 1),
        "recipe",
        "of the rate, each time",
    )
    momentum: float = _option(
        "recipe",
        0.9,
        _number("a number of at least 0 and below 1", lambda x: 0 <= x < 1),
        "recipe",
        "m of the velocity",
    )
    momentum_form: str = _option(
        "recipe",
        "v",
        _choice(MOMENTUM_FORMS),
        "recipe",
        "v: velocity holds the rate, corrected when it changes; u: without; uncorrected: with it, but not corrected "
        "(pitfall 2)",
    )
    nesterov: bool = _option("recipe", True, SWITCH, "recipe", "Nesterov's momentum, or plain")
    weight_decay: float = _option(
        "recipe", 1e-4, NOT_NEGATIVE, "recipe", "L2 penalty on the weights of convolutions and dense layers"
    )
    zero_gamma: bool = _option(
        "ends",
        True,
        SWITCH,
        "recipe",
        "start each residual block as the identity: 0 for gamma of its last batch norm",
    )

    out: str | None = _option(
        "aside", None, TEXT, "folder and log", "the run's folder (default: runs/<model>-<data>)"
    )
    resume: bool = _option(
        "aside", False, SWITCH, "folder and log", "go on from the folder's last checkpoint"
    )
    overwrite: bool = _option(
        "aside", False, SWITCH, "folder and log", "replace the run that is in the folder"
    )
    log_interval: int = _option(
        "aside", 10, _whole(1), "folder and log", "updates between two lines of the log"
    )
    checkpoint_interval: int | None = _option(
        "aside",
        None,
        _whole(1),
        "folder and log",
        "updates between checkpoints (default: at the end of each epoch)",
    )
    save_on_signal: bool = _option(
        "aside",
        True,
        SWITCH,
        "folder and log",
        "at SIGINT, SIGTERM or SIGUSR1 save after the update, then end: status 75",
    )
    stall_seconds: float = _option(
        "aside",
        60.0,
        POSITIVE,
        "folder and log",
        "say where each rank is when one has done nothing for so long",
    )
    stall_abort: bool = _option(
        "aside", False, SWITCH, "folder and log", "then also end the run, with a stack of each rank"
    )
    timeline: int | None = _option(
        "aside",
        None,
        _whole(1),
        "folder and log",
        "updates to trace on all ranks, in a timeline.json for https://ui.perfetto.dev (default: none)",
    )
    verbose: bool = _option("aside", True, SWITCH)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or item.default is not None:
                object.__setattr__(self, item.name, read_field(item.name, value))
        if self.resume and self.overwrite:
            raise ConfigError("resume, overwrite: expected at most one of them, got both")
        if self.normalization == "worker" and self.sync_type == "avg":
            raise ConfigError(
                "normalization: expected minibatch, as with sync_type avg no gradients are summed, got worker"
            )
        if self.scaled == "loss" and (self.scaling or default_scaling(self.sync_type)) == "none":
            raise ConfigError(
                "scaled: expected rate, as with scaling none there is nothing to scale, got loss"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types (tuples as lists).

        >>> RunConfig(decay_epochs=(30, 60)).to_dict()["decay_epochs"]
        [30.0, 60.0]
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Undo `to_dict`; fields that are left out have their defaults.

        Raises
        ------
        ConfigError
            For an unknown key, naming it and the closest known one, or a value that the field may not have.

        Examples
        --------
        >>> RunConfig.from_dict({"epoch": 3})
        Traceback (most recent call last):
            ...
        theanompi.config.ConfigError: unknown setting 'epoch'; did you mean 'epochs'?
        """
        for name in values:
            if name not in FIELDS:
                raise ConfigError(f"unknown setting {got(name)}{closest(name, FIELDS)}")
        return cls(**values)


FIELDS = {item.name: item for item in fields(RunConfig)}


def fields_of(*roles: str) -> tuple[str, ...]:
    """Name the fields that have one of these `ROLES`.

    >>> fields_of("ends")
    ('max_iterations', 'zero_gamma')
    """
    return tuple(name for name, item in FIELDS.items() if item.metadata["role"] in roles)


def default_scaling(sync_type: str) -> str:
    """The scaling rule of a run that names none.

    >>> default_scaling("cdd"), default_scaling("avg")
    ('linear', 'none')
    """
    return "linear" if sync_type == "cdd" else "none"


def read_field(name: str, value: Any) -> Any:
    """Return the value of a field from text (a flag, a cfg file) or a plain value, checked.

    Raises
    ------
    ConfigError
        When the field may not have that value.

    Examples
    --------
    >>> read_field("decay_epochs", "30,60,80")
    (30.0, 60.0, 80.0)
    """
    return read_as(FIELDS[name].metadata["kind"], name, value)


def read_as(kind: Kind, name: str, value: Any) -> Any:
    """Return what `kind` makes of a value that the user knows as `name`, checked.

    Raises
    ------
    ConfigError
        When it may not have that value.

    Examples
    --------
    >>> read_as(RANKS, "size", "2")
    2
    """
    try:
        return kind.read(value)
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        hint = str(error) if str(error).startswith("; ") else ""
        raise ConfigError(f"{name}: expected {kind.expected}, got {got(value)}{hint}") from None


def to_environment(config: RunConfig, devices: Sequence[str], plan: bool = False) -> dict[str, str]:
    """Make the environment variables that tell a spawned worker what to run.

    Parameters
    ----------
    config
        The run.
    devices
        The devices of the worker's machine, one per local rank.
    plan
        Whether the worker shall only print the plan.

    Examples
    --------
    >>> from_environment(to_environment(RunConfig(), ["cpu", "cpu"])) == (RunConfig(), ("cpu", "cpu"), False)
    True
    """
    return {
        "THEANOMPI_CONFIG": json.dumps(config.to_dict()),
        "THEANOMPI_DEVICES": json.dumps(list(devices)),
        "THEANOMPI_PLAN": json.dumps(plan),
    }


def from_environment(environ: Mapping[str, str] = os.environ) -> tuple[RunConfig, tuple[str, ...], bool]:
    """Read what `to_environment` wrote: the arguments of `theanompi.worker.run`.

    Raises
    ------
    ConfigError
        When the process was not started by `theanompi.launch`.

    Examples
    --------
    >>> from_environment({})
    Traceback (most recent call last):
        ...
    theanompi.config.ConfigError: THEANOMPI_CONFIG: expected a worker of rule.init or tmlauncher, got none
    """
    if "THEANOMPI_CONFIG" not in environ:
        raise ConfigError("THEANOMPI_CONFIG: expected a worker of rule.init or tmlauncher, got none")
    return (
        RunConfig.from_dict(json.loads(environ["THEANOMPI_CONFIG"])),
        tuple(json.loads(environ["THEANOMPI_DEVICES"])),
        json.loads(environ["THEANOMPI_PLAN"]),
    )


def resolve(config: RunConfig) -> RunConfig:
    """Fill in every default that does not depend on the machine.

    `max_iterations`, `checkpoint_interval` and `timeline` may stay None (no limit, none), and so does
    `loader_processes`, which each rank chooses.

    The packaged digits get n = 16, 12 epochs and 32 pixels; any other data set what Goyal et al. 2017 (arXiv
    1706.02677, §5.1) used: n = 32, 90 epochs, 224 pixels. Warmup and decay keep the paper's shares of a run:
    5, 30, 60 and 80 of 90 epochs.

    Examples
    --------
    >>> resolve(RunConfig(data="imagenet.h5")).decay_epochs
    (30.0, 60.0, 80.0)
    >>> resolve(RunConfig(sync_type="avg")).scaling
    'none'
    """
    batch_size, epochs, image_size = (16, 12, 32) if config.data == "digits" else (32, 90, 224)
    epochs = config.epochs or epochs
    model = config.modelfile.rsplit(".", 1)[-1]
    defaults: dict[str, Any] = {
        "batch_size": batch_size,
        "epochs": epochs,
        "image_size": image_size,
        "scaling": default_scaling(config.sync_type),
        "warmup_epochs": epochs * 5 / 90,
        "decay_epochs": tuple(epochs * share / 90 for share in (30, 60, 80)),
        "out": f"runs/{model}-{Path(config.data).stem}",
    }
    missing = {name: value for name, value in defaults.items() if getattr(config, name) is None}
    return replace(config, **missing)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` a flag for each field that has one, in groups, and ``--plan``.

    The values stay text until `from_args` reads them, so that a flag and a line of a cfg file fail with the
    same words.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> from_args(parser.parse_args(["--epochs", "2", "--no-nesterov"])).nesterov
    False
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, item in FIELDS.items():
        kind, title = item.metadata["kind"], item.metadata["group"]
        if not title:
            continue
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        flags = item.metadata["flags"] or ("--" + name.replace("_", "-"),)
        text, default = item.metadata["help"], item.default
        if default is not None and default is not False:
            shown = "yes" if default is True else default[0] if isinstance(default, tuple) else default
            text += f" (default: {shown})"
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if kind is SWITCH:
            options["action"] = argparse.BooleanOptionalAction if default else "store_true"
        else:
            options["metavar"] = _metavar(kind)
        groups[title].add_argument(*flags, **options)
    groups["run"].add_argument("--plan", action="store_true", help="print the schedule as a table and exit")


def _metavar(kind: Kind) -> str:
    if kind.expected.startswith("one of "):
        return "{" + kind.expected.removeprefix("one of ").replace(", ", ",") + "}"
    if kind.expected.startswith("a whole number"):
        return "N"
    return {EPOCHS: "E,E,...", DEVICES: "DEVICE", TEXT: "TEXT"}.get(kind, "X")


def from_args(args: argparse.Namespace, **base: Any) -> RunConfig:
    """Make a `RunConfig` from what a parser with `add_arguments` read; flags that were given override `base`.

    Raises
    ------
    ConfigError
        When a flag has a value that its field may not have.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> from_args(parser.parse_args(["--epochs", "2"]), epochs=9, seed=5).to_dict()["epochs"]
    2
    """
    return RunConfig.from_dict(base | {name: value for name, value in vars(args).items() if name in FIELDS})
