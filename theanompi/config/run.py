"""The settings of one run: what a user may choose, its limits and its flags, all in one table.

Everything that starts a run (a script's flags, ``tmlauncher``'s cfg file, ``rule.init``) ends in one frozen
`RunConfig`, which is what the workers receive and what is saved with the run. What it is where they say nothing is
in `theanompi.config.defaults`.

Examples
--------
>>> config = RunConfig(data="digits", epochs=2)
>>> config.batch_size is None
True
>>> from theanompi.config import resolve
>>> resolve(config).batch_size
16
>>> RunConfig(epochs=0)
Traceback (most recent call last):
    ...
theanompi.config.errors.ConfigError: epochs: expected a whole number of at least 1, got 0
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Self

from theanompi.config.errors import ConfigError, got
from theanompi.config.kinds import (
    DATA,
    DEVICES,
    EPOCHS,
    FRACTION,
    MODULE,
    MOST_SIMULATED,
    NOT_NEGATIVE,
    PLUGINS,
    POSITIVE,
    RESUME,
    SETTINGS,
    SHARE,
    SWITCH,
    TEXT,
    FrozenMapping,
    Kind,
    choice,
    named,
    number,
    several,
    whole,
)
from theanompi.config.lineage import instead, meant
from theanompi.config.recipes import RECIPES

SYNC_TYPES = ("cdd", "avg", "swap")
EXCHANGES = (
    *("auto", "overlap", "ar", "shm", "nccl", "naive", "fp16", "bf16"),
    *("nccl32", "nccl16", "asa32", "asa16"),
)
ROUNDING = ("fp16", "bf16", "nccl16", "asa16")
"""Those that send 16 bits."""
ALGORITHMS = ("recursive_doubling", "ring", "segmented_ring", "reduce_scatter_allgather", "tree")
RULES = ("BSP", "EASGD", "ASGD", "GOSGD")
ASYNCHRONOUS = RULES[1:]
"""Those whose workers are not in step."""
LOGGERS = ("csv", "tensorboard", "wandb", "mlflow")
OPTIMIZERS = ("momentum", "adam", "adamw", "rmsprop", "adadelta", "lars", "lamb")
SCHEDULES = ("steps", "poly", "cosine", "constant")
PACKAGED = ("digits", "reviews", "sentences")
"""Data sets that come with the package, by name."""
PRECISIONS = ("float32", "tf32", "bf16")
SCALINGS = ("linear", "sqrt", "none")
WARMUPS = ("gradual", "constant", "none")
MOMENTUM_FORMS = ("v", "u", "uncorrected")
SCALED = ("rate", "loss")
NORMALIZATIONS = ("minibatch", "worker")
SHUFFLES = ("global", "worker")
ROLES = {
    "run": "another value makes another run: a resume refuses it",
    "recipe": "how weights are updated: a resume goes on with another value and says so",
    "ends": "counts only where a run begins or stops: a resume takes any value",
    "machine": "how the work is shared out and summed, which rounds otherwise: a resume takes any value",
    "aside": "what is kept, printed and read ahead: neither a resume nor a comparison cares",
}
"""What a field of `RunConfig` may be to a run."""


def _option(
    group: str,
    role: str,
    default: Any,
    kind: Kind,
    help: str = "",
    flags: tuple[str, ...] = (),
    *,
    of_model: bool = False,
    later: bool = False,
) -> Any:
    """Make a field of `RunConfig`; one with a `group` has a command-line flag, by default its own name.

    One `of_model` is None until `resolve`, which takes what the model's class says, or else the `default`. One that
    came `later` is missing in what version 0.1.0 has written, where its default counted.
    """
    assert role in ROLES
    about = {"role": role, "kind": kind, "group": group, "help": help, "flags": flags, "later": later}
    about |= {"default": default, "model": of_model}
    return field(default=None if of_model else default, metadata=about)


# By the groups of their flags.
_GROUPS = ("data", "run", "recipe", "folder and log")
_data, _run, _recipe, _folder = (partial(_option, group) for group in _GROUPS)
_model_data, _model_run, _model_recipe = (partial(_option, group, of_model=True) for group in _GROUPS[:3])
_no_flag = partial(_option, "")


@dataclass(frozen=True)
class RunConfig:
    """Every setting of a run, checked when made; None stands for a default that `resolve` fills in.

    Where the default is always a value, the field's annotation is of the resolved one.

    The fields, their defaults and meanings are those of the flags: see
    ``python examples/train_resnet50.py --help``.

    Raises
    ------
    ConfigError
        From the constructor, when a field has a value that it may not have.
    """

    rule: str = _no_flag("run", "BSP", named(RULES, "my_rules.Halves"))
    modelfile: str = _no_flag("run", "models.resnet50", MODULE)
    modelclass: str = _no_flag("run", "ResNet50", TEXT)

    data: str | None = _model_data(
        "run", "digits", DATA, f"{', '.join(PACKAGED)} (packaged) or the path of an HDF5 data set"
    )
    image_size: int | None = _model_data(
        "run", None, whole(1), "side of the images in pixels (default: 32 for digits, else 224)"
    )
    batch_size: int | None = _model_data(
        "run", None, whole(1), "n, images per worker and step (default: 16 for digits, else 32)"
    )
    length: int = _model_data(
        "run", 128, whole(1), "tokens of an item, where the data are tokens", later=True
    )
    accumulation: int = _data(
        "machine", 1, whole(1), "A, steps before one update, as if each were a worker of its own"
    )
    shuffle: str = _data(
        "run",
        "global",
        choice(SHUFFLES),
        "global: one order of the images in each epoch, shared out; worker: an order for each (pitfall 4)",
    )

    color_jitter: float = _model_data(
        "run",
        0.0,
        FRACTION,
        "of brightness, contrast and saturation, as in fb.resnet.torch, which has 0.4; 0: none",
    )
    lighting: float = _model_data(
        "run",
        0.0,
        NOT_NEGATIVE,
        "noise along the principal components of colour, as in fb.resnet.torch, which has 0.1; 0: none",
    )
    mixup: float = _model_data(
        "recipe",
        0.0,
        NOT_NEGATIVE,
        "α of mixup: each training image is blended with another, their labels too, by shares from Beta(α, α), such as "
        "0.2; 0: none",
        later=True,
    )
    cutmix: float = _model_data(
        "recipe",
        0.0,
        NOT_NEGATIVE,
        "α of cutmix: a box of each training image is another's, and that share of its label, such as 1; 0: none; with "
        "mixup too: the one or the other for each batch",
        later=True,
    )
    random_erasing: float = _model_data(
        "recipe",
        0.0,
        FRACTION,
        "probability that a box of a training image is blanked out, such as 0.25; 0: none",
        later=True,
    )
    loader_processes: int | None = _data(
        "aside",
        None,
        whole(1),
        "processes per rank that read ahead (default: its share of the cores, less one, from 1 to 8)",
    )

    epochs: int | None = _model_run(
        "recipe", None, whole(1), "passes over the training images (default: 12 for digits, else 90)"
    )
    max_iterations: int | None = _run(
        "ends", None, whole(1), "stop after so many updates; the schedule stays that of all epochs"
    )
    seed: int = _run("run", 0, whole(0), "of the weights, the order, the augmentation and dropout")
    init: str | None = _run(
        "ends",
        None,
        TEXT,
        "FILE[#PREFIX], weights to start from: a run's folder or checkpoint, .npz, pickle, .pt or .safetensors "
        "(default: at random)",
        later=True,
    )
    devices: tuple[str, ...] = _run(
        "machine",
        ("auto",),
        DEVICES,
        "cpu, cuda:N, cuda (by local rank) or auto (cuda if any, else cpu)",
        ("--device", "--devices"),
    )
    precision: str = _run(
        "run", "float32", choice(PRECISIONS), "arithmetic of the computation; the weights stay float32"
    )
    workers_simulated: int | None = _run(
        "run",
        None,
        whole(1, MOST_SIMULATED),
        "be so many workers in one process, in the order of a virtual clock: see --set clock.… (default: each device "
        "is a worker)",
        later=True,
    )
    cuda_graph: bool = _run(
        "machine", True, SWITCH, "on a CUDA device, record each step's kernels once and replay them"
    )
    deterministic: bool = _run(
        "machine",
        False,
        SWITCH,
        "on a CUDA device, choose algorithms that give the same bits in every run, not the fastest",
        later=True,
    )
    sync_type: str = _run(
        "run",
        "cdd",
        choice(SYNC_TYPES),
        "cdd sums gradients ('their way'), avg averages weights ('my way'), swap lets discriminators of "
        "GANs change places",
    )
    exchange: str = _run(
        "machine",
        "overlap",
        choice(EXCHANGES),
        "overlap: by buckets while backward goes on; ar: all at once after it; shm: in the shared memory of each "
        "machine; nccl: a GPU for each rank; fp16, bf16: gradients in 16 bits; naive: the reference, tensor by "
        "tensor; auto: the fastest one that is exact; nccl32, nccl16, asa32, asa16: as in Theano-MPI",
    )
    require_cuda_aware: bool = _run(
        "machine", False, SWITCH, "refuse to take gradients through host memory if MPI is not CUDA-aware"
    )
    allreduce_algorithm: str | None = _run(
        "machine",
        None,
        choice(ALGORITHMS),
        f"MPI's own way of summing: {', '.join(ALGORITHMS)} (default: the library's choice)",
    )

    recipe: str | None = _recipe(
        "aside",
        None,
        choice(tuple(RECIPES)),
        "defaults from a paper, before those of the model's class (default: none)",
        later=True,
    )
    optimizer: str = _model_recipe(
        "run",
        "momentum",
        named(OPTIMIZERS, "my_steps.Lion, or lasagne.adam"),
        f"{', '.join(OPTIMIZERS)}, lasagne.NAME (a function of theanompi.lasagne.updates), or a class of your own: "
        "MODULE.CLASS",
        later=True,
    )
    schedule: str = _model_recipe(
        "recipe",
        "steps",
        named(SCHEDULES, "my_rates.Cyclic"),
        f"of the rate after the warmup: {', '.join(SCHEDULES)}, or a class of your own: MODULE.CLASS",
        later=True,
    )
    base_lr: float = _model_recipe(
        "recipe", 0.1, POSITIVE, "learning rate for a minibatch of base-batch images"
    )
    base_batch: int = _model_recipe("recipe", 256, whole(1), "the minibatch that base-lr is meant for")
    scaling: str | None = _model_recipe(
        "recipe",
        None,
        choice(SCALINGS),
        "of base-lr with the minibatch (default: linear where gradients are summed, or else none)",
    )
    scaled: str = _recipe(
        "run",
        "rate",
        choice(SCALED),
        "what scaling and warmup multiply: the rate, or the loss without its weight decay (pitfall 1)",
    )
    normalization: str = _recipe(
        "run",
        "minibatch",
        choice(NORMALIZATIONS),
        "what the summed loss is divided by: all images, or those of one worker (pitfall 3)",
    )
    warmup: str = _model_recipe(
        "recipe", "gradual", choice(WARMUPS), "from base-lr to the scaled rate, when that is larger"
    )
    warmup_epochs: float | None = _model_recipe(
        "recipe", None, NOT_NEGATIVE, "length of the warmup (default: epochs * 5/90)"
    )
    decay_epochs: tuple[float, ...] | None = _model_recipe(
        "recipe", None, EPOCHS, "where the rate decays (default: epochs * 30/90, 60/90, 80/90)"
    )
    decay_factor: float = _model_recipe(
        "recipe",
        0.1,
        number("a number above 0 and at most 1", lambda x: 0 < x <= 1),
        "of the rate, each time",
    )
    momentum: float = _model_recipe("recipe", 0.9, SHARE, "m of the velocity")
    momentum_form: str = _model_recipe(
        "recipe",
        "v",
        choice(MOMENTUM_FORMS),
        "v: velocity holds the rate, corrected when it changes; u: without; uncorrected: with it, but not corrected "
        "(pitfall 2)",
    )
    nesterov: bool = _model_recipe("recipe", True, SWITCH, "Nesterov's momentum, or plain")
    weight_decay: float = _model_recipe(
        "recipe", 1e-4, NOT_NEGATIVE, "L2 penalty on the weights of convolutions and dense layers"
    )
    clip_norm: float | None = _model_recipe(
        "recipe",
        None,
        NOT_NEGATIVE,
        "longest gradient of all parameters together, after the exchange; 0: any (default: any)",
        later=True,
    )
    label_smoothing: float = _model_recipe(
        "recipe",
        0.0,
        SHARE,
        "share of each label that is spread over all classes, in the training loss of a classifier; 0: none",
        later=True,
    )
    ema: float = _model_recipe(
        "run",
        0.0,
        SHARE,
        "d of an exponential moving average of the weights, such as 0.9999, which is then what is validated and used; "
        "0: none",
        later=True,
    )
    zero_gamma: bool = _recipe(
        "ends", True, SWITCH, "start each residual block as the identity: 0 for gamma of its last batch norm"
    )

    settings: Mapping[str, str | int | float | bool] = _recipe(
        "recipe",
        FrozenMapping(),
        SETTINGS,
        f"a setting of the {', '.join(PLUGINS[:-1])} or {PLUGINS[-1]} alone, such as optimizer.beta2=0.98; may be "
        "repeated",
        ("--set",),
        later=True,
    )

    out: str | None = _folder("aside", None, TEXT, "the run's folder (default: runs/<model>-<data>)")
    resume: bool | str = _folder(
        "aside", False, RESUME, "go on from the folder's last checkpoint; auto: if it has one, else begin"
    )
    overwrite: bool = _folder("aside", False, SWITCH, "replace the run that is in the folder")
    log_interval: int = _folder("aside", 10, whole(1), "updates between two lines of the log")
    checkpoint_interval: int | None = _folder(
        "aside", None, whole(1), "updates between checkpoints (default: at the end of each epoch)"
    )
    keep: int = _folder(
        "aside",
        1,
        whole(1),
        "checkpoints to keep: above 1 the last ones are also checkpoint-ITERATION.h5",
        later=True,
    )
    save_on_signal: bool = _folder(
        "aside",
        True,
        SWITCH,
        "at SIGINT, SIGTERM, SIGHUP or SIGUSR1 save after the update, then end: status 75",
    )
    stall_seconds: float = _folder(
        "aside", 60.0, POSITIVE, "say where each rank is when one has done nothing for so long"
    )
    stall_abort: bool = _folder("aside", False, SWITCH, "then also end the run, with a stack of each rank")
    curves: bool = _folder(
        "aside", True, SWITCH, "draw curves.png; tmlauncher plot does it later as well", later=True
    )
    timeline: int | None = _folder(
        "aside",
        None,
        whole(1),
        "updates to trace on all ranks, in a timeline.json for https://ui.perfetto.dev (default: none)",
    )
    logger: tuple[str, ...] | None = _folder(
        "aside",
        None,
        several(named(LOGGERS, "my_loggers.Mine")),
        f"what else is told of the log, with commas between: {', '.join(LOGGERS)}, or classes of your own: "
        "MODULE.CLASS (default: none)",
        later=True,
    )
    verbose: bool = _no_flag("aside", True, SWITCH)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or item.default is not None:
                object.__setattr__(self, item.name, read_field(item.name, value))
        if self.resume and self.overwrite:
            raise ConfigError("resume, overwrite: expected at most one of them, got both")
        if self.sync_type != "cdd" or self.rule in ASYNCHRONOUS:
            how = f"rule {self.rule}" if self.rule in ASYNCHRONOUS else f"sync_type {self.sync_type}"
            if self.normalization == "worker":
                raise ConfigError(
                    f"normalization: expected minibatch, as with {how} no gradients are summed, got worker"
                )
            if self.ema:
                raise ConfigError(
                    f"ema: expected 0, as with {how} each worker has weights of its own, got {self.ema:g}"
                )
            averages = self.sync_type == "avg" or self.rule == "GOSGD"
            if averages and self.exchange in ROUNDING and self.workers_simulated is None:
                raise ConfigError(
                    f"exchange: expected one that does not round, as with {how} weights are averaged, got "
                    f"{self.exchange!r}"
                )
        if self.scaled == "loss" and (self.scaling or default_scaling(self.sync_type, self.rule)) == "none":
            raise ConfigError(
                "scaled: expected rate, as with scaling none there is nothing to scale, got loss"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types: tuples as lists, `settings` as a dict.

        >>> RunConfig(decay_epochs=(30, 60)).to_dict()["decay_epochs"]
        [30.0, 60.0]
        """
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return plain | {"settings": dict(self.settings)}

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
        theanompi.config.errors.ConfigError: unknown setting 'epoch'; did you mean 'epochs'?
        """
        for name in values:
            if name not in FIELDS:
                raise ConfigError(f"unknown setting {got(name)}{meant(name, FIELDS)}")
        return cls(**values)


FIELDS = {item.name: item for item in fields(RunConfig)}
OF_MODELS = (*(name for name, item in FIELDS.items() if item.metadata["model"]), "settings")
"""What a model's class may have defaults of its own for."""


def fields_of(*roles: str) -> tuple[str, ...]:
    """Name the fields that have one of these `ROLES`.

    >>> fields_of("ends")
    ('max_iterations', 'init', 'zero_gamma')
    """
    return tuple(name for name, item in FIELDS.items() if item.metadata["role"] in roles)


def over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of one place over those of a more general one.

    Of `settings` each overrides that of the same name. Those of an optimizer (schedule, rule, model) in `base` do not
    count where `own` has another one.

    Raises
    ------
    ConfigError
        When one has `settings` that no run may have.

    Examples
    --------
    >>> base = {"optimizer": "adam", "settings": {"optimizer.beta2": 0.98, "schedule.power": 2}}
    >>> over(base, {"optimizer": "lars"})
    {'optimizer': 'lars', 'settings': {'schedule.power': 2}}
    >>> over(base, {"settings": {"optimizer.eps": 1e-6}})["settings"]
    {'optimizer.beta2': 0.98, 'schedule.power': 2, 'optimizer.eps': 1e-06}
    """
    values = {**base, **own}
    if "settings" in values:
        before, after = (read_field("settings", place.get("settings", {})) for place in (base, own))
        inherited = {
            name: value
            for name, value in before.items()
            if all(own.get(field) in (None, base.get(field)) for field in _chosen_by(name))
        }
        values["settings"] = {**inherited, **after}
    return values


def _chosen_by(setting: str) -> tuple[str, ...]:
    """The fields that say whose setting it is."""
    plugin = setting.partition(".")[0]
    return ("modelfile", "modelclass") if plugin == "model" else (plugin,)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields as `RunConfig.to_dict` gives them, with an entry for each of the `settings`.

    >>> flat({"epochs": 3, "settings": {"optimizer.beta2": 0.98}})
    {'epochs': 3, 'optimizer.beta2': 0.98}
    """
    return {k: v for k, v in values.items() if k != "settings"} | dict(values.get("settings", {}))


def default_scaling(sync_type: str, rule: str = "BSP") -> str:
    """The scaling rule of a run that names none: where each worker updates by its own minibatch, it scales nothing.

    >>> default_scaling("cdd"), default_scaling("avg"), default_scaling("cdd", "EASGD")
    ('linear', 'none', 'none')
    """
    return "linear" if sync_type == "cdd" and rule not in ASYNCHRONOUS else "none"


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
    """
    try:
        return kind.read(value)
    except ConfigError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        hint = instead(name, value) or (str(error) if str(error).startswith("; ") else "")
        raise ConfigError(f"{name}: expected {kind.expected}, got {got(value)}{hint}") from None
