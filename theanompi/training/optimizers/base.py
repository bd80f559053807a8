"""What the update sees of an optimizer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from pytensor.tensor.variable import TensorVariable

from theanompi.config import ConfigError, RunConfig
from theanompi.config.plugins import NoSettings, read_settings
from theanompi.training.scalars import scalar

Slots = Mapping[str, TensorVariable]
Stepped = tuple[TensorVariable, dict[str, TensorVariable]]
"""New weights, and the next values of the slots."""


class Rates(NamedTuple):
    """When a step is made, and how large it is.

    Parameters
    ----------
    t : int64 scalar
        Updates that were made before this one.
    eta, eta_prev : float64 scalar
        η of this update and of the one before it (of this one at the first).
    """

    t: TensorVariable
    eta: TensorVariable
    eta_prev: TensorVariable


class Optimizer(ABC):
    """How weights move along a gradient.

    Parameters
    ----------
    config : RunConfig
        Resolved.

    Attributes
    ----------
    slots : tuple of str
        Arrays that it keeps, each like the weights, zero at first; their names are those in a checkpoint.
    scalars : tuple of str
        float64 scalars that it keeps, zero at first, one for all parameters.
    by_tensor : bool
        Whether `step` is called on each parameter that decays by itself, as a vector of its values. Those that do not
        decay (biases, γ, β) are one vector together, and so are for other optimizers those that do.
    label : str
        What the plan's row is called.
    correction : str or None
        What the plan says of the momentum correction: "applied", "not needed" or "left out"; None: nothing.
    weight_decay : float
        λ.
    settings : Settings
        Its own.

    Raises
    ------
    ConfigError
        For a setting that it does not have.
    """

    Settings: ClassVar[type] = NoSettings
    slots: tuple[str, ...] = ()
    scalars: tuple[str, ...] = ()
    by_tensor: ClassVar[bool] = False
    label: ClassVar[str] = "optimizer"
    correction: str | None = None

    def __init__(self, config: RunConfig) -> None:
        for names in ("slots", "scalars"):
            if isinstance(value := getattr(self, names), str):  # which would be a name for each letter
                raise ConfigError(
                    f"{type(self).__name__}.{names}: expected a tuple of names such as ('velocity',), got {value!r}"
                )
        self.weight_decay = config.weight_decay
        self.settings: Any = read_settings(self.Settings, config.settings, "optimizer")

    @abstractmethod
    def step(
        self, w: TensorVariable, g: TensorVariable, slots: Slots, rates: Rates, *, decayed: bool
    ) -> Stepped:
        """One step, as a graph.

        Parameters
        ----------
        w, g : float vector
            Weights, and the gradient of the loss averaged over the whole minibatch, of one length and dtype.
        slots : mapping
            By the names in `slots`, of the shape and dtype of `w`, and in `scalars`.
        rates : Rates
        decayed : bool
            Whether λ applies.

        Returns
        -------
        new_w : float tensor
            Of the dtype of `w`.
        new_slots : dict
            Next values by the names in `slots` and `scalars`, of the same dtypes.
        """

    def words(self) -> str:
        """What it is and how it is set, for the plan, in a line."""
        settings = (
            f"{name} = {value}" if isinstance(value, str) or value is None else f"{name} = {value:g}"
            for name, value in vars(self.settings).items()
        )
        return ", ".join([type(self).__name__, *settings])

    def penalised(self, w: TensorVariable, g: TensorVariable, decayed: bool) -> TensorVariable:
        """The gradient with that of the L2 penalty, g + λ·w, where λ applies."""
        return g + scalar(self.weight_decay, w) * w if decayed and self.weight_decay else g
