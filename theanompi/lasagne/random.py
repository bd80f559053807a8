"""The random generator that the initialisers draw from."""

from contextvars import ContextVar

import numpy as np

_rng: ContextVar[np.random.Generator | np.random.RandomState] = ContextVar("lasagne_rng")


def get_rng() -> np.random.Generator | np.random.RandomState:
    """Get the generator that initialisers draw from in this context.

    Where none was set, one seeded with 0 is made and kept, so that every process that builds the same
    network gets the same weights. A new thread starts with a context, and so a generator, of its own.

    Returns
    -------
    numpy.random.Generator

    Examples
    --------
    >>> get_rng() is get_rng()
    True
    """
    try:
        return _rng.get()
    except LookupError:
        rng = np.random.default_rng(0)
        _rng.set(rng)
        return rng


def set_rng(rng: np.random.Generator | np.random.RandomState) -> None:
    """Set the generator that initialisers draw from in this context.

    Parameters
    ----------
    rng : numpy.random.Generator
        A ``RandomState``, which is what Lasagne takes, is accepted too.

    Raises
    ------
    ValueError
        If `rng` is neither.

    Examples
    --------
    >>> set_rng(np.random.default_rng(42))
    >>> round(float(get_rng().normal()), 4)
    0.3047
    """
    if not isinstance(rng, np.random.Generator | np.random.RandomState):
        raise ValueError(f"set_rng: expected a numpy.random.Generator or RandomState, got {rng!r}")
    _rng.set(rng)
