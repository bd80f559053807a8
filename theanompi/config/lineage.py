"""Values that Theano-MPI's scripts and cfg files have for a setting and that mean nothing here."""

INSTEAD = {
    **{
        ("rule", name): f"{name} comes with a later version; BSP is there"
        for name in ("EASGD", "ASGD", "GOSGD")
    },
    ("sync_type", "swap"): "workers do not swap networks here; avg gives all of them the mean",
    **{("exchange", name): "shm adds up inside of a machine first" for name in ("copper", "copper16")},
}
"""By setting and value, what is said of it besides what the setting may be."""


def instead(name: str, value: object) -> str:
    """Return ``"; …"``, what stands in the place of a value of Theano-MPI's, or nothing.

    >>> instead("rule", "EASGD")
    '; EASGD comes with a later version; BSP is there'
    >>> instead("rule", "BPS")
    ''
    """
    words = INSTEAD.get((name, value)) if isinstance(value, str) else None
    return f"; {words}" if words else ""
