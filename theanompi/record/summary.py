"""What a run's summary says: means, and where the time went."""

import statistics
from collections.abc import Sequence
from typing import Any

from theanompi.record.log import EXPOSED, HIDDEN, KINDS
from theanompi.record.metrics import as_number, ratio, values_of


class Totals:
    """The sums of several intervals, and the means of metrics over the items of those intervals that have one."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self._seconds = dict.fromkeys(("wall_s", *(f"{kind}_s" for kind in KINDS)), 0.0)
        self._iterations: int | None = 0
        self._items = 0
        # Of each metric the sum over items, and how many.
        self._sums = dict.fromkeys(metrics, (0.0, 0))

    def add(self, record: dict[str, Any]) -> None:
        """Take in an interval."""
        for name in self._seconds:
            # A run that is resumed may have been begun by a version that knew fewer kinds.
            self._seconds[name] += record.get(name, 0.0)
        counted = record.get("iterations")
        self._iterations = None if counted is None or self._iterations is None else self._iterations + counted
        items = record["items"]
        self._items += items
        for name, (total, count) in self._sums.items():
            if record.get(name) is not None:
                self._sums[name] = total + float(record[name]) * items, count + items

    def means(self) -> dict[str, Any]:
        """What the summary has of them."""
        return {
            **self._seconds,
            "iterations": self._iterations,
            "items": self._items,
            "items_per_s": ratio(self._items, self._seconds["wall_s"]),
            **{name: ratio(total, count) for name, (total, count) in self._sums.items()},
        }


def use_of_time(totals: dict[str, Any], size: int) -> list[str]:
    """The table of the closing summary, and how much was hidden."""
    wall, iterations = totals["wall_s"], totals["iterations"]
    seconds = {kind: totals[f"{kind}_s"] for kind in KINDS}
    rest = max(0.0, wall - sum(seconds[kind] for kind in EXPOSED))

    def cell(value: float) -> str:
        per_iteration = "n/a" if not iterations else f"{1000 * value / iterations:.1f} ms"
        return f"{per_iteration:>12} {100 * value / wall:6.1f} %"

    on_rank = "" if size == 1 else ", rank 0"
    lines = [f"{'time per iteration' + on_rank:26}{'exposed':>21}   {'hidden':>21}"]
    lines += [
        f"{label:26}{cell(seconds[kind])}" + (f"   {cell(seconds[HIDDEN[kind]])}" if kind in HIDDEN else "")
        for kind, label in EXPOSED.items()
    ]
    lines += [f"{'other':26}{cell(rest)}", f"{'in all':26}{cell(wall)}"]
    shares = []
    for kind in ("comm", "wait"):
        hidden = seconds[HIDDEN[kind]]
        if hidden + seconds[kind] > 0 and not (kind == "comm" and size == 1):
            shares.append(f"{100 * hidden / (hidden + seconds[kind]):.1f} % of {EXPOSED[kind]}")
    if shares:
        lines.append(f"hidden: {' and '.join(shares)}")
    return lines


def slowest_rank(ranks: list[dict[str, Any]]) -> list[str]:
    """Who held the others up, in a line, if the exchange tells who waited."""
    known = [rank for rank in ranks if rank["wall_s"]]
    if len(known) < 2 or not any(rank["sync_s"] for rank in known):
        return []
    share = [{kind: rank[f"{kind}_s"] / rank["wall_s"] for kind in EXPOSED} for rank in known]
    slowest = min(range(len(known)), key=lambda i: share[i]["sync"])
    own = share.pop(slowest)
    others = {kind: statistics.mean(rank[kind] for rank in share) for kind in EXPOSED}
    if others["sync"] - own["sync"] < 0.01:
        most = max(own["sync"], *(rank["sync"] for rank in share))
        return [f"no rank is slower than the others; each waited at most {100 * most:.1f} % of the time"]
    rank = known[slowest]
    # What it does more of than the others is where to look.
    kind = max(("calc", "comm", "wait"), key=lambda kind: own[kind] - others[kind])
    return [
        f"slowest rank: {rank['rank']} ({rank['place']}); the others waited {100 * others['sync']:.1f} % of the time "
        f"for slower ranks, it {100 * own['sync']:.1f} %",
        f"  {EXPOSED[kind]} is {100 * own[kind]:.1f} % of its time, {100 * others[kind]:.1f} % of theirs",
    ]


def progress_line(record: dict[str, Any], metrics: tuple[str, ...], noun: str) -> str:
    """Say how far training is.

    >>> progress_line({"items_per_s": 120.0, "loss": 2.1, "mae": 0.3, "lr": 0.1}, ("loss", "mae"), "items")
    '120 items/s, loss 2.1, mae 0.3, η 0.1'
    """
    return f"{as_number(record['items_per_s'])} {noun}/s, {values_of(record, metrics)}, η {as_number(record['lr'])}"
