"""Rules: when and what the workers exchange, and how a user starts a run with `init` and `wait`."""

from theanompi.config import RULES, read_field
from theanompi.launch.session import RunFailed
from theanompi.rules.bsp import BSP
from theanompi.rules.rule import (
    Diverged,
    Rule,
    Step,
    average_weights,
    check_finite,
    over_all_ranks,
    own_step,
)

__all__ = [
    "BSP",
    "Diverged",
    "Rule",
    "RunFailed",
    "Step",
    "average_weights",
    "check_finite",
    "get_rule",
    "over_all_ranks",
    "own_step",
]

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
