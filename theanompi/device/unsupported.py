"""The refusal of an op that has no torch function with NumPy's values: one line, when a function is compiled."""

from theanompi.config import MOST_MESSAGE, ConfigError

_MOST_NAME = 120


class Unsupported(NotImplementedError, ConfigError):
    """An op that does not run on the device.

    Parameters
    ----------
    what : str
        The op, and if need be of what.
    why : str
    variable : str, optional
        The name of what it computes.

    Examples
    --------
    >>> print(Unsupported("Schur", "torch has no such factorization"))
    Schur: not supported on the device: torch has no such factorization; docs/ops.md lists the ops that are
    """

    def __init__(self, what: str, why: str, variable: str | None = None) -> None:
        self.what, self.why = what, why
        name = " ".join(what.split())
        name = name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 1]}…"
        named = f" ({variable[:40]})" if variable else ""
        end = "; docs/ops.md lists the ops that are"
        super().__init__(
            f"{name}{named}: not supported on the device: {why}"[: MOST_MESSAGE - len(end)] + end
        )
