"""Any update rule of `theanompi.lasagne.updates` as an optimizer."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import make_dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytensor.tensor as pt
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import ancestors
from pytensor.tensor.variable import TensorVariable

from theanompi import device
from theanompi.config import FIELDS, ConfigError, RunConfig, closest, got, listed
from theanompi.config.kinds import NOT_NEGATIVE
from theanompi.config.plugins import setting
from theanompi.lasagne import updates
from theanompi.training.optimizers.base import Optimizer, Rates, Slots, Stepped

_COMMON = ("loss_or_grads", "params", "learning_rate")


def rules() -> dict[str, Callable[..., Any]]:
    """The update rules of `theanompi.lasagne.updates`, by name: what makes updates from gradients at a rate.

    >>> sorted(rules())
    ['adadelta', 'adagrad', 'adam', 'adamax', 'amsgrad', 'momentum', 'nesterov_momentum', 'rmsprop', 'sgd']
    """
    functions = {name: getattr(updates, name) for name in updates.__all__}
    return {k: f for k, f in functions.items() if tuple(inspect.signature(f).parameters)[:3] == _COMMON}


class Lasagne(Optimizer):
    """An update rule of Lasagne's; made by `adapted`.

    The rule is called with each group's gradient, λ·w included. What it keeps, shared variables that start at zero, is
    found by a trial call: arrays of the parameter's shape become slots, scalars become scalars. A rule that holds the
    rate in what it keeps does so as in Lasagne: without a momentum correction.
    """

    rule: ClassVar[Callable[..., Any]]

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        accepted = set(inspect.signature(type(self).rule).parameters) & set(FIELDS)
        self.arguments = {name: getattr(config, name) for name in sorted(accepted)} | vars(self.settings)
        w, g = device.shared(np.zeros(2, "float32"), "w"), pt.tensor("g", dtype="float32", shape=(2,))
        found = self._call(w, g, pt.dscalar("eta"))
        kept = _kept(w, found)
        if len(kept) != len(found) - 1:
            raise ValueError(
                f"{self.words()}: expected a name of its own for all that it keeps, got {list(found)}"
            )
        for name, variable in kept.items():
            of_all = variable.ndim == 0 and not {w, g} & set(ancestors([found[variable]]))
            if not (of_all or variable.type == w.type) or np.any(variable.get_value()):
                raise ValueError(
                    f"{self.words()}: expected {name} to be of the parameter's type, or a scalar of its own, and 0 at "
                    f"first, got {variable.type}"
                )
        self.slots = tuple(name for name, variable in kept.items() if variable.ndim)
        self.scalars = tuple(name for name, variable in kept.items() if not variable.ndim)

    def step(
        self, w: TensorVariable, g: TensorVariable, slots: Slots, rates: Rates, *, decayed: bool
    ) -> Stepped:
        """One step of the rule; `w` is a shared variable."""
        found = self._call(w, self.penalised(w, g, decayed), rates.eta)
        kept = _kept(w, found)
        ours = {variable: pt.cast(slots[name], variable.dtype) for name, variable in kept.items()}
        new_w, *new = clone_replace(
            [found[w], *(found[variable] for variable in kept.values())], ours, rebuild_strict=False
        )
        return new_w, {name: pt.cast(x, slots[name].dtype) for name, x in zip(kept, new, strict=True)}

    def words(self) -> str:
        arguments = "".join(f", {name} = {value:g}" for name, value in self.arguments.items())
        return f"lasagne.{type(self).rule.__name__}{arguments}"

    def _call(self, w: Any, g: TensorVariable, eta: TensorVariable) -> Mapping[Any, TensorVariable]:
        found: Mapping[Any, TensorVariable] = type(self).rule([g], [w], learning_rate=eta, **self.arguments)
        return found


def _kept(w: Any, found: Mapping[Any, TensorVariable]) -> dict[str, SharedVariable]:
    """What a rule keeps, by the last parts of the names."""
    return {str(v.name).rpartition(".")[2]: v for v in found if v is not w}


@cache
def adapted(name: str) -> type[Lasagne]:
    """Make the optimizer of an update rule.

    Its settings are the rule's arguments that have a default; where a run has a setting of that name (``momentum``), it
    counts. The rate is always the schedule's.

    Raises
    ------
    ConfigError
        For an unknown rule, naming the closest known one.

    Examples
    --------
    >>> adapted("adagrad").Settings()
    Settings(epsilon=1e-06)
    """
    known = rules()
    if name not in known:
        raise ConfigError(
            f"optimizer: expected lasagne.NAME with one of {listed(known)}, got {got(name)}{closest(name, known)}"
        )
    arguments = list(inspect.signature(known[name]).parameters.values())[3:]
    settings = make_dataclass(
        "Settings",
        [
            (a.name, float, setting(a.default, NOT_NEGATIVE, f"of theanompi.lasagne.updates.{name}"))
            for a in arguments
            if a.name not in FIELDS
        ],
        frozen=True,
    )
    return type(name, (Lasagne,), {"rule": staticmethod(known[name]), "Settings": settings})


RMSProp = adapted("rmsprop")
"""RMSProp (Tieleman and Hinton 2012), with ε under the root; torch adds it to the root."""
Adadelta = adapted("adadelta")
"""Adadelta (Zeiler 2012, arXiv 1212.5701, algorithm 1); the rate multiplies its step, as in torch."""
