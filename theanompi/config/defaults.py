"""What a run is where it does not say so: the defaults of its recipe, its model's class, its data set and the rest."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from theanompi.config.errors import ConfigError, got
from theanompi.config.lineage import meant, ours
from theanompi.config.recipes import RECIPES
from theanompi.config.run import FIELDS, OF_MODELS, RunConfig, default_scaling, over, read_field


def default_loader_processes(cores: int) -> int:
    """How many processes read ahead for a rank with so many cores, one of which is its own.

    >>> default_loader_processes(1), default_loader_processes(4), default_loader_processes(64)
    (1, 3, 8)
    """
    return min(max(cores - 1, 1), 8)


def run_folder(config: RunConfig) -> str:
    """The folder of a run whose data are known, also of one that names none.

    >>> run_folder(RunConfig(data="sets/imagenet.h5"))
    'runs/resnet50-imagenet'
    """
    data = "" if config.data is None else f"-{Path(config.data).stem}"
    return config.out or f"runs/{re.split('[./]', config.modelfile)[-1]}{data}"


def read_defaults(defaults: Any, model: str) -> dict[str, Any]:
    """Return the defaults of a model's class, checked, as JSON types.

    Parameters
    ----------
    defaults
        The attribute ``defaults`` of the class: values by the names in `OF_MODELS`. With None for ``data`` it reads
        data of its own.
    model
        The name of the class, for the message.

    Raises
    ------
    ConfigError
        For anything else.

    Examples
    --------
    >>> read_defaults({"epoch": 30}, "ResNet")
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: ResNet.defaults: unknown setting 'epoch'; did you mean 'epochs'?
    """
    where = f"{model}.defaults"
    if not isinstance(defaults, Mapping):
        raise ConfigError(f"{where}: expected settings by name such as {{'epochs': 30}}, got {got(defaults)}")
    for name in defaults:
        if name not in FIELDS and (ours(name) not in FIELDS or ours(name) in OF_MODELS):
            raise ConfigError(f"{where}: unknown setting {got(name)}{meant(name, OF_MODELS)}")
        if name not in OF_MODELS:
            raise ConfigError(
                f"{where}: expected settings of the recipe or the data, got {name!r}, which a model does not decide"
            )
    try:
        values = {name: read_field(name, value) for name, value in defaults.items()}
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    for name in values.get("settings", ()):
        if not name.startswith(("optimizer.", "schedule.")):
            raise ConfigError(f"{where}: expected settings of an optimizer or a schedule, got {name!r}")
    return {name: value for name, value in RunConfig(**values).to_dict().items() if name in defaults}


def resolve(config: RunConfig, defaults: Mapping[str, Any] = {}, *, model: str = "Model") -> RunConfig:
    """Fill in every default that does not depend on the machine.

    `max_iterations`, `checkpoint_interval`, `clip_norm`, `init`, `recipe`, `timeline`, `logger` and `workers_simulated`
    may stay None (no limit, none), and so does `loader_processes`, which each rank chooses.

    What the run does not give, its recipe may, then the model's class, its data set too. Else these are the packaged
    digits, with n = 16, 12 epochs and 32 pixels; any other data set gets what Goyal et al. 2017 (arXiv 1706.02677,
    §5.1) used: n = 32, 90 epochs, 224 pixels. Warmup and decay keep the paper's shares of a run: 5, 30, 60 and 80 of 90
    epochs.

    Parameters
    ----------
    config
        The run.
    defaults, model
        Of the model's class, as for `read_defaults`.

    Raises
    ------
    ConfigError
        When the model's class has defaults that it may not have.

    Examples
    --------
    >>> resolve(RunConfig(data="imagenet.h5")).decay_epochs
    (30.0, 60.0, 80.0)
    >>> resolve(RunConfig(sync_type="avg")).scaling
    'none'
    >>> resolve(RunConfig(base_lr=0.2), {"base_lr": 0.05, "epochs": 18}).decay_epochs
    (6.0, 12.0, 16.0)
    >>> resolve(RunConfig(modelfile="models.lstm"), {"data": "reviews"}).out
    'runs/lstm-reviews'
    >>> resolve(RunConfig(recipe="bag-of-tricks", epochs=40), {"mixup": 0.4}).mixup
    0.2
    """
    given = {name: value for name, value in config.to_dict().items() if value is not None}
    values = read_defaults(defaults, model)
    if config.recipe is not None:
        values = over(values, RECIPES[config.recipe].defaults(config.epochs))
    values = over(values, given)
    general: dict[str, Any] = {name: FIELDS[name].metadata["default"] for name in OF_MODELS}
    data = {**general, **values}["data"]
    batch_size, epochs, image_size = (16, 12, 32) if data in ("digits", None) else (32, 90, 224)
    epochs = values.get("epochs", epochs)
    general |= {
        "batch_size": batch_size,
        "epochs": epochs,
        "image_size": image_size,
        "scaling": default_scaling(config.sync_type, config.rule),
        "warmup_epochs": epochs * 5 / 90,
        "decay_epochs": tuple(epochs * share / 90 for share in (30, 60, 80)),
        "out": run_folder(replace(config, data=data)),
    }
    return RunConfig(**{**general, **values})
