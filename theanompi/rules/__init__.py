"""Rules: when and what the workers exchange, and how a user starts a run with `init` and `wait`."""

from theanompi.config import RULES, find_class, read_field
from theanompi.launch.session import RunFailed
from theanompi.rules.asgd import ASGD
from theanompi.rules.bsp import BSP
from theanompi.rules.easgd import EASGD
from theanompi.rules.gosgd import GOSGD
from theanompi.rules.rule import (
    Asynchronous,
    Diverged,
    Rule,
    Step,
    average_weights,
    check_finite,
    of_this_rank,
    over_all_ranks,
    own_step,
)

__all__ = [
    "ASGD",
    "Asynchronous",
    "BSP",
    "Diverged",
    "EASGD",
    "GOSGD",
    "Rule",
    "RunFailed",
    "Step",
    "average_weights",
    "check_finite",
    "get_rule",
    "of_this_rank",
    "over_all_ranks",
    "own_step",
]

_CLASSES = {name: f"theanompi.rules.{name.lower()}:{name}" for name in RULES}


def get_rule(name: str) -> Rule:
    """Make the rule called `name`, or of the class of the user's own that it is.

    Raises
    ------
    theanompi.config.ConfigError
        For an unknown name, or one that stands for no rule.
    """
    made: Rule = find_class("rule", read_field("rule", name), _CLASSES, base=Rule)()
    return made
