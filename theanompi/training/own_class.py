"""What a user's class of a model may have, and what is refused: what the trainer would not heed, or has itself."""

from inspect import isabstract, signature
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from theanompi.config import FIELDS, OF_MODELS, ConfigError, got
from theanompi.config.lineage import ours
from theanompi.data import Modality

if TYPE_CHECKING:
    from theanompi.training.model import Model

# What a subclass might set in the hope that it counts: a field of RunConfig, or what Theano-MPI's models had for one.
_FOR_FIELDS = {name: name for name in FIELDS if name not in ("init", "optimizer", "settings")} | {
    name: str(ours(name))
    for name in (
        *("n_epochs", "learning_rate", "lr", "lr_policy", "lr_step", "file_batch_size"),
        *("use_momentum", "use_nesterov_momentum"),
    )
}
# What other trainers call by these names, and what does it here. Not `forward` and the like, which a build_model may
# well use itself.
_NOT_CALLED = {
    "loss": "objectives",
    "cost": "objectives",
    "objective": "objectives",
    "training_step": "objectives",
    "configure_optimizers": "optimizer",
    "on_train_batch_end": "on_iteration",
    "on_validation_end": "on_validation",
    "on_train_end": "on_end",
    "predict_step": "predictions",
}
# What a subclass may have of its own: all else of a model is the trainer's. The second line is Theano-MPI's contract.
_MAY_BE_OWN = frozenset(
    """modality defaults bias_rate Settings build build_model objectives scores predictions optimizer torch_names
    compile_iter_fns train_iter val_iter reset_iter adjust_hyperp cleanup n_subb
    on_iteration on_validation on_end""".split()
)
# Its methods that the trainer calls with as many arguments as those of `Model` have.
_CALLED = (
    *("build", "build_model", "objectives", "scores", "predictions", "optimizer", "torch_names"),
    *("on_iteration", "on_validation", "on_end"),
)
# What the constructor puts on a model; `network` aside, which many a `build` sets to what it returns.
TAKEN = frozenset(
    """config settings bias_rate rank size verbose n_epochs epoch data dataset inputs traced reported optimizers
    states state params fixed schedule _batches _validated _alphas _stop _validation_sums _validated_batches
    _exchangers _gradients _updates _validate _feed _next _count _val_position _kept _asked""".split()
)


def check_names(model: "Model") -> None:
    """Refuse what a subclass calls as the trainer calls something of its own, as either would get it for the other."""
    of_model = dir(_base(model))
    places = [
        *((own.__name__, vars(own)) for own in _own_classes(model)),
        (f"{type(model).__name__}.__init__", vars(model)),  # what it sets before it calls Model's
    ]
    for where, namespace in places:
        for name, value in namespace.items():
            ours = name in TAKEN or (name in of_model and not name.startswith("__"))
            if ours and name not in _MAY_BE_OWN and name not in _FOR_FIELDS:
                raise ConfigError(
                    f"{where}: expected another name than {name}, which is the trainer's on a Model, got {name} = "
                    f"{type(value).__name__}"
                )


def check_kinds(model: "Model") -> None:
    """Refuse what a subclass has in the place of a modality or of a method and cannot be used as one."""
    base, where, modality = _base(model), type(model).__name__, model.modality
    if not isinstance(modality, type) or not issubclass(modality, Modality):
        raise ConfigError(
            f"{where}.modality: expected a subclass of theanompi.data.Modality such as Pictures, Arrays or Tokens, "
            f"got {got(modality)}"
        )
    if isabstract(modality):
        missing = " and ".join(sorted(modality.__abstractmethods__))
        raise ConfigError(f"{where}.modality: expected methods {missing} of {modality.__name__}, got none")
    for name in _CALLED:
        own, taken = getattr(model, name), list(signature(getattr(base, name)).parameters)[1:]
        wanted = f"{where}.{name}: expected a method ({', '.join(['self', *taken])})"
        if not callable(own):
            field = FIELDS.get(name)
            hint = f"; remedy: {name} in defaults of its class" if field is not None else ""
            raise ConfigError(f"{wanted}, got {got(own)}{hint}")
        try:
            signature(own).bind(*taken)
        except TypeError:
            raise ConfigError(f"{wanted}, got one that takes {signature(own)} after self") from None


def refuse_unheeded(model: "Model") -> None:
    """Refuse what a model's class or constructor has set that looks as if it decided something, but does not.

    Raises
    ------
    ConfigError
        For the first attribute that is named as a setting or as a method that other trainers call.
    """
    for cls in _own_classes(model):
        for name in vars(cls):
            if name in _FOR_FIELDS:
                raise ConfigError(
                    f"{cls.__name__}.{name}: expected no such attribute, as a model does not decide this, got one; "
                    f"remedy: {_remedy(name)}"
                )
            if name in _NOT_CALLED:
                raise ConfigError(
                    f"{cls.__name__}.{name}: expected no such attribute, as nothing here uses it, got one; "
                    f"remedy: the method {_NOT_CALLED[name]}"
                )
    own, ours = vars(model), ("data", "verbose", "n_epochs", "schedule")
    changed = [name for name in own if name in _FOR_FIELDS and name not in ours]
    if changed or own["n_epochs"] != model.config.epochs:
        name = changed[0] if changed else "n_epochs"
        raise ConfigError(
            f"{type(model).__name__}: expected its constructor to leave {name} alone, as a model does not decide this, "
            f"got {name} = {own[name]!r}; remedy: {_remedy(name)}"
        )


def _remedy(name: str) -> str:
    field = _FOR_FIELDS[name]
    return (
        f"{field} in defaults of its class, or the setting {field}"
        if field in OF_MODELS
        else f"the setting {field}"
    )


def _own_classes(model: "Model") -> list[type]:
    """The class of a model and those that it is made of, which are not the trainer's."""
    base = _base(model)
    return [*takewhile(lambda cls: cls is not base, type(model).__mro__)]


def _base(model: "Model") -> Any:
    """`theanompi.Model`, which imports this module."""
    return next(cls for cls in type(model).__mro__ if cls.__module__ == "theanompi.training.model")
