"""The rewrites of a mode, put together once and not for each function."""

from collections.abc import Hashable
from itertools import chain
from typing import Any

import pytensor
from pytensor.compile.mode import Mode, optdb
from pytensor.graph.rewriting.basic import GraphRewriter
from pytensor.graph.rewriting.db import RewriteDatabase, RewriteDatabaseQuery

_made: dict[Hashable, GraphRewriter] = {}
_databases: list[RewriteDatabase] = []


class RememberedMode(Mode):
    """A mode whose rewriter is that of all functions with the same rewrites.

    PyTensor makes one for each function, and sorts all rewrites by the ops that they are for: for a small graph that is
    a good part of the time. Rewrites that are registered, or tagged, later are noticed.
    """

    @property
    def optimizer(self) -> Any:
        """The rewriter."""
        query = self._optimizer
        if not isinstance(query, RewriteDatabaseQuery) or query.extra_rewrites or query.subquery:
            return super().optimizer
        config = pytensor.config
        asked = (
            *(tuple(tags) for tags in (query.include, query.require, query.exclude)),
            *(query.position_cutoff, config.optdb__position_cutoff, config.optdb__max_use_ratio),
        )
        key = (*asked, _registered())
        if key not in _made:
            _databases[:] = _within(optdb)
            key = (*asked, _registered())
            _made[key] = super().optimizer
        return _made[key]


def _registered() -> tuple[tuple[int, ...], ...]:
    """What has which tag in each database: a database that is new is so in one of those that are known."""
    return tuple(tuple(map(id, chain.from_iterable(one.__db__.values()))) for one in _databases)


def _within(database: RewriteDatabase) -> list[RewriteDatabase]:
    """A database and all that are in it."""
    found = [database]
    for one in found:
        held = [
            each for each in chain.from_iterable(one.__db__.values()) if isinstance(each, RewriteDatabase)
        ]
        found += {id(each): each for each in held if not any(each is known for known in found)}.values()
    return found
