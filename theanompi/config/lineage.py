"""Values that Theano-MPI's scripts and cfg files have for a setting and that mean nothing here."""

INSTEAD = {
    **{("exchange", name): "shm adds up inside of a machine first" for name in ("copper", "copper16")},
}
"""By setting and value, what is said of it besides what the setting may be."""


def instead(name: str, value: object) -> str:
    """Return ``"; …"``, what stands in the place of a value of Theano-MPI's, or nothing.

    >>> instead("exchange", "copper")
    '; shm adds up inside of a machine first'
    >>> instead("rule", "BPS")
    ''
    """
    words = INSTEAD.get((name, value)) if isinstance(value, str) else None
    return f"; {words}" if words else ""
