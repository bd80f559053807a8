"""What a run has trained, to be used where it is no classifier of pictures: outputs of arrays, by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytensor
from numpy.typing import NDArray
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors

from theanompi import device as devices
from theanompi.config import ConfigError, Named, got, listed
from theanompi.data import Pictures
from theanompi.lasagne.layers import output_keywords
from theanompi.training.inputs import Feed
from theanompi.training.model import Model
from theanompi.training.objective import refuse_generators
from theanompi.training.shown import Shown, pixels

_MADE = ("weights", "keys")
"""Fields of a batch that are not the user's to give."""

_TAKEN = ("file", "allow_pickle")
"""What no array in an .npz file that NumPy writes can be called."""


class Predictor:
    """What a run has trained; `theanompi.load` makes it of a class with a method `predictions`.

    Parameters
    ----------
    model : Model
        With the weights of the run, not compiled.
    iteration : int

    Attributes
    ----------
    fields : dict of str to TensorType
        What `predict` is to be given: those fields of a batch that the predictions are made of, (n, …).
    names : tuple of str
        Of what it gives.
    iteration : int
        After how many updates the weights were saved.

    Raises
    ------
    ConfigError
        If `predictions` gives something else than variables with an entry for each item.
    """

    def __init__(self, model: Model, iteration: int) -> None:
        assert model.config.batch_size
        self.iteration, self._keys, self._n = iteration, model.data.modality.keys, model.config.batch_size
        where = f"{type(model).__name__}.predictions"
        seen = model.seen_in_validation
        for name, v in seen.items():
            if None in v.type.shape:
                raise ConfigError(f"{where}: expected fields of known shapes, got {name} of {v.type.shape}")
        batch = {name: devices.shared(np.zeros(v.type.shape, v.type.dtype), name) for name, v in seen.items()}
        with pytensor.config.change_flags(floatX="float32"), output_keywords(deterministic=True):
            made = model.predictions(Named("a batch", batch))
        outputs = {"predictions": made} if isinstance(made, Variable) else made
        named = isinstance(outputs, Mapping) and all(isinstance(v, Variable) for v in outputs.values())
        if not outputs or not named or any(not isinstance(name, str) or name in _TAKEN for name in outputs):
            raise ConfigError(f"{where}: expected a variable, or variables by name, got {got(made)}")
        for name, v in outputs.items():
            if v.type.ndim == 0 or v.type.shape[0] not in (self._n, None):
                raise ConfigError(
                    f"{where}: {name}: expected an entry for each of {self._n} items, got shape {v.type.shape}"
                )
        refuse_generators(list(outputs.values()), where, "keys")
        self.names = tuple(outputs)
        used = set(ancestors(outputs.values()))
        self._given = {name: v for name, v in batch.items() if v in used}
        self.fields = {name: v.type for name, v in self._given.items() if name not in _MADE}
        self._known = batch.keys() - set(_MADE)
        pictures = model.data.modality
        self._shown = (
            Shown(pictures, self._n) if isinstance(pictures, Pictures) and "images" in self.fields else None
        )
        if self._shown is not None:
            self._see = pytensor.function([], self._shown.graph()["images"], mode=devices.mode())
        self._compute = pytensor.function(
            [], list(outputs.values()), mode=devices.mode(precision=model.config.precision)
        )

    def predict(self, /, **arrays: Any) -> dict[str, NDArray[Any]]:
        """Compute the predictions for some items.

        Parameters
        ----------
        **arrays : array (n, …)
            The fields in `fields`, of any number of items. Others that a batch has are left aside. Pictures may also be
            uint8 (n, h, w, 3), RGB of any size: they are scaled, cropped and normalised as in validation.

        Returns
        -------
        dict of str to array (n, …)

        Raises
        ------
        ValueError
            If a field is missing or no batch has it, if one does not fit, or their numbers of items differ.
        """
        unknown = arrays.keys() - self._known
        missing = self.fields.keys() - arrays.keys()
        if unknown or missing:
            wrong = f"{listed(sorted(unknown))}, which no batch has" if unknown else f"no {listed(missing)}"
            raise ValueError(f"predict: expected the fields {listed(self.fields)}, got {wrong}")
        if self._shown is not None and np.asarray(arrays["images"]).dtype == np.uint8:
            arrays["images"] = self._seen(self._shown, pixels(arrays["images"]))
        held = {name: self._array(name, arrays[name]) for name in self.fields}
        lengths = {name: len(array) for name, array in held.items()}
        if len(set(lengths.values())) > 1:
            counts = listed(f"{count} of {name}" for name, count in lengths.items())
            raise ValueError(f"predict: expected as many items of each field, got {counts}")
        n = next(iter(lengths.values()), 0)
        parts = []
        for start in range(0, max(n, 1), self._n):
            # The last batch is filled up with its last item, as in validation.
            ids = np.minimum(np.arange(start, start + self._n), max(n - 1, 0))
            made = {"keys": self._keys(None, ids), "weights": np.ones(self._n, np.float32)}
            for name, variable in self._given.items():
                value = made[name] if name in made else held[name][ids] if n else None
                if value is not None:
                    variable.set_value(value)
            parts.append(
                [self._items(*of)[: n - start] for of in zip(self.names, self._compute(), strict=True)]
            )
        return {
            name: np.concatenate(rows)
            for name, rows in zip(self.names, zip(*parts, strict=True), strict=True)
        }

    def _seen(self, shown: Shown, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        feed = Feed(shown.inputs, shown.batches(images))
        parts = [np.empty((0, *self.fields["images"].shape[1:]), np.float32)]
        for start in range(0, len(images), self._n):
            feed.load()
            parts.append(self._see()[: len(images) - start])
            feed.stage()
        return np.concatenate(parts)

    def _items(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        if len(values) != self._n:
            raise ValueError(
                f"predictions: {name}: expected an entry for each of {self._n} items, got {len(values)}"
            )
        return values

    def _array(self, name: str, value: Any) -> NDArray[Any]:
        array, kind = np.asarray(value), self.fields[name]
        wanted = kind.shape[1:]
        if (
            array.shape[1:] != wanted
            or array.ndim == 0
            or not np.can_cast(array.dtype, kind.dtype, "same_kind")
        ):
            shape = ", ".join(map(str, ("n", *wanted))) + "," * (not wanted)
            raise ValueError(f"{name}: expected {kind.dtype} ({shape}), got {array.dtype} {array.shape}")
        return array.astype(kind.dtype)
