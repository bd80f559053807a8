"""The settings of a run: what they may be, and how they are read from Python, flags and cfg files.

This package needs neither torch nor MPI.
"""

from theanompi.config.devices import HOST, MOST_RANKS, Host, hosts, local_device, parse_devices
from theanompi.config.errors import (
    MOST_MESSAGE,
    ConfigError,
    closest,
    escaped,
    got,
    is_text,
    listed,
    one_line,
    shortened,
)
from theanompi.config.flags import OneLineParser, add_arguments, from_args
from theanompi.config.kinds import RANKS, SIMULATED
from theanompi.config.run import (
    ALGORITHMS,
    EXCHANGES,
    FIELDS,
    MOMENTUM_FORMS,
    ROLES,
    RULES,
    SCALED,
    SCALINGS,
    SHUFFLES,
    WARMUPS,
    RunConfig,
    fields_of,
    from_environment,
    read_as,
    read_field,
    resolve,
    to_environment,
)

__all__ = [
    "MOST_MESSAGE",
    "ALGORITHMS",
    "EXCHANGES",
    "FIELDS",
    "MOMENTUM_FORMS",
    "ROLES",
    "RULES",
    "RunConfig",
    "SCALED",
    "SCALINGS",
    "SHUFFLES",
    "WARMUPS",
    "fields_of",
    "from_environment",
    "read_as",
    "read_field",
    "resolve",
    "to_environment",
    "ConfigError",
    "closest",
    "escaped",
    "got",
    "is_text",
    "listed",
    "one_line",
    "shortened",
    "HOST",
    "Host",
    "MOST_RANKS",
    "hosts",
    "local_device",
    "parse_devices",
    "OneLineParser",
    "add_arguments",
    "from_args",
    "RANKS",
    "SIMULATED",
]
