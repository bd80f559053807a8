"""The random generator that the initialisers draw from, and keys for noise that is drawn on the device."""

from contextvars import ContextVar
from typing import Any

import numpy as np
import pytensor.tensor as pt

from theanompi import device

_rng: ContextVar[np.random.Generator | np.random.RandomState] = ContextVar("lasagne_rng")


class Generator(np.random.Generator):
    """NumPy's generator with the methods of ``RandomState`` that recipes call."""

    def randint(self, low: int, high: int | None = None, size: Any = None, dtype: Any = int) -> Any:
        """Draw integers from ``low`` (0 if `high` is None) up to but not including ``high`` (or `low`)."""
        return self.integers(low, high, size, dtype)

    def rand(self, *shape: int) -> Any:
        """Draw from the uniform distribution over [0, 1)."""
        return self.random(shape or None)

    def randn(self, *shape: int) -> Any:
        """Draw from the standard normal distribution."""
        return self.standard_normal(shape or None)


def get_rng() -> np.random.Generator | np.random.RandomState:
    """Get the generator that initialisers draw from in this context.

    Where none was set, one seeded with 0 is made and kept, so that every process that builds the same
    network gets the same weights. A new thread starts with a context, and so a generator, of its own.

    Returns
    -------
    numpy.random.Generator
        Of the class :class:`Generator`, with ``randint`` and the like; or what :func:`set_rng` was given.

    Examples
    --------
    >>> get_rng() is get_rng()
    True
    """
    try:
        return _rng.get()
    except LookupError:
        rng = Generator(np.random.PCG64(0))
        _rng.set(rng)
        return rng


def set_rng(new_rng: np.random.Generator | np.random.RandomState) -> None:
    """Set the generator that initialisers draw from in this context.

    Parameters
    ----------
    new_rng : numpy.random.Generator
        A ``RandomState``, which is what Lasagne takes, is accepted too.

    Raises
    ------
    ValueError
        If `new_rng` is neither.

    Examples
    --------
    >>> set_rng(np.random.default_rng(42))
    >>> round(float(get_rng().normal()), 4)
    0.3047
    """
    if not isinstance(new_rng, np.random.Generator | np.random.RandomState):
        raise ValueError(f"set_rng: expected a numpy.random.Generator or RandomState, got {new_rng!r}")
    _rng.set(new_rng)


def fresh_keys(n: Any, rng: np.random.Generator | np.random.RandomState | None = None) -> Any:
    """Sample keys of their own for every call of a compiled function, for the ops of :mod:`theanompi.device.ops`.

    Their state lies on the device and counts on by itself, as a ``default_update``: nothing is drawn on the host.
    Where it starts is drawn from :func:`get_rng`, so that :func:`set_rng` decides all noise, or from `rng`.

    Parameters
    ----------
    n : int or integer scalar
        How many samples.
    rng : numpy.random.Generator, optional

    Returns
    -------
    int64 vector, shape (n,)

    Examples
    --------
    >>> import pytensor
    >>> draw = pytensor.function([], device.ops.uniform(fresh_keys(2), (3,), salt=0))
    >>> bool((draw() != draw()).all())
    True
    """
    return keys_of(fresh_state(rng), n)


def fresh_state(rng: np.random.Generator | np.random.RandomState | None = None) -> Any:
    """The state of :func:`fresh_keys`: a shared integer scalar, drawn from `rng` or :func:`get_rng`."""
    rng = get_rng() if rng is None else rng
    integers = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
    return device.shared(np.int64(integers(2**62)), name="random.state")


def keys_of(state: Any, n: Any) -> Any:
    """The next `n` sample keys of `state`, which then counts on by itself."""
    state.default_update = state + pt.cast(n, "int64")
    return state + pt.arange(n, dtype="int64")
