"""``theano.function``: what PyTensor's has dropped are inputs with default values, and outputs by name."""

from collections.abc import Mapping
from typing import Any

import pytensor

__all__ = ["In", "Param", "function"]


class In(pytensor.In):
    """An input of a function.

    Parameters
    ----------
    variable : pytensor variable
    name : str, optional
    value : object, optional
        What the input is where a call gives none.
    **kwargs
        For ``pytensor.In``.
    """

    def __init__(self, variable: Any, name: str | None = None, value: Any = None, **kwargs: Any):
        super().__init__(variable, name=name, **kwargs)
        self.default = value


def Param(variable: Any, default: Any = None, name: str | None = None, **kwargs: Any) -> In:  # noqa: N802
    """Make an input with a `default`: a former name of :class:`In`."""
    return In(variable, name, default, **kwargs)


class Function:
    """A compiled function whose inputs may have default values, and its outputs names; else it is PyTensor's."""

    def __init__(self, function: Any, inputs: list[Any], names: list[str] | None):
        self._function, self._inputs, self._names = function, inputs, names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._function, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = list(args)
        for input in self._inputs[len(args) :]:
            if input.name not in kwargs and getattr(input, "default", None) is None:
                break  # PyTensor says what is missing.
            values.append(kwargs.pop(input.name) if input.name in kwargs else input.default)
        outputs = self._function(*values, **kwargs)
        return outputs if self._names is None else dict(zip(self._names, outputs, strict=True))


def function(inputs: Any, outputs: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Compile a function, as ``pytensor.function`` does.

    Parameters
    ----------
    inputs : list of pytensor variable or In
    outputs : pytensor variable, list or dict of them, optional
        Of a dict, a call gives one with the values.
    *args, **kwargs
        For ``pytensor.function``.

    Returns
    -------
    callable
    """
    names = sorted(outputs) if isinstance(outputs, Mapping) else None
    if isinstance(outputs, Mapping):
        outputs = [outputs[name] for name in names or []]
    compiled = pytensor.function(inputs, outputs, *args, **kwargs)
    if names is None and all(getattr(input, "default", None) is None for input in inputs):
        return compiled
    return Function(compiled, list(inputs), names)
