"""Rules: when and what the workers exchange, and how a user starts a run with `init` and `wait`."""

from theanompi.config import RULES, read_field
from theanompi.launch.session import Rule, RunFailed
from theanompi.rules.bsp import BSP

__all__ = ["BSP", "Rule", "RunFailed", "get_rule"]

_CLASSES: dict[str, type[Rule]] = {"BSP": BSP}
assert tuple(_CLASSES) == RULES


def get_rule(name: str) -> Rule:
    """Make the rule called `name`.

    Raises
    ------
    theanompi.config.ConfigError
        For an unknown name; the message lists the known ones.

    Examples
    --------
    >>> get_rule("BSP").name
    'BSP'
    """
    return _CLASSES[read_field("rule", name)]()
