"""Which settings of a run change nothing."""

from theanompi.config.run import OPTIMIZERS, SCHEDULES, RunConfig

_OF_ITEMS = {"image_size": "pictures", "length": "tokens"}
"""Settings that items of one modality alone have."""


def without_effect(
    given: RunConfig, run: RunConfig, *, workers: int | None = None, items: str | None = None
) -> list[str]:
    """Say which settings that a run gives change nothing, beside others that it has.

    Those of a class of the user's own, an optimizer, a schedule or a modality, may all have an effect.

    Parameters
    ----------
    given, run : RunConfig
        As it was given, and resolved.
    workers : int, optional
        k.
    items : str, optional
        Name of the package's modality that the data are read by.

    Examples
    --------
    >>> from theanompi.config import resolve
    >>> given = RunConfig(optimizer="adam", momentum=0.5, schedule="cosine", decay_factor=0.2)
    >>> without_effect(given, resolve(given))
    ['momentum, as the optimizer is adam', 'decay_factor, as the schedule is cosine']
    """
    kind, _, name = run.optimizer.rpartition(".")
    idle: list[tuple[tuple[str, ...], str]] = []
    if kind == "lasagne":
        held = () if name in ("momentum", "nesterov_momentum") else ("momentum",)
        idle.append(((*held, "momentum_form", "nesterov"), f"the optimizer is {run.optimizer}"))
    elif name in OPTIMIZERS and name not in ("momentum", "lars"):
        idle.append((("momentum", "momentum_form", "nesterov"), f"the optimizer is {name}"))
    elif name in OPTIMIZERS and run.momentum == 0:
        idle.append((("momentum_form", "nesterov"), "the momentum is 0"))
    if run.schedule in SCHEDULES and run.schedule != "steps":
        idle.append((("decay_epochs", "decay_factor"), f"the schedule is {run.schedule}"))
    warmup: tuple[str, ...] = ("warmup", "warmup_epochs")
    if run.warmup == "none":
        idle.append((("warmup_epochs",), "the warmup is none"))
        warmup = ()  # is as it was asked for
    if run.schedule in SCHEDULES and workers is not None and run.batch_size is not None:
        minibatch = workers * run.batch_size * run.accumulation
        if minibatch <= run.base_batch:
            reason = f"the minibatch of {minibatch} is not above base_batch, {run.base_batch}"
            idle.append((warmup, reason))
    # Others begin to decay where the warmup ends, also of a rate that is not scaled.
    if run.schedule in ("steps", "constant") and run.scaling == "none":
        idle.append((("base_batch", *warmup), "the scaling is none"))
    if items is not None:
        unread = tuple(name for name, of in _OF_ITEMS.items() if of != items)
        idle.append((unread, f"the data are {items}"))
    said, named = [], set[str]()
    for names, reason in idle:
        new = [name for name in names if getattr(given, name) is not None and name not in named]
        named.update(new)
        if new:
            said.append(f"{', '.join(new)}, as {reason}")
    return said
