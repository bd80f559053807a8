"""What a run's summary says: means, and where the time went."""

import statistics
from typing import Any

from theanompi.record.log import EXPOSED, HIDDEN, KINDS, ratio


class Totals:
    """The means and sums of several intervals; None where an interval has none."""

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(("wall_s", *(f"{kind}_s" for kind in KINDS)), 0.0)
        self._iterations: int | None = 0
        self._images = 0
        self._products: dict[str, float | None] = {"loss": 0.0, "error": 0.0}

    def add(self, record: dict[str, Any]) -> None:
        """Take in an interval."""
        for name in self._seconds:
            # A run that is resumed may have been begun by a version that knew fewer kinds.
            self._seconds[name] += record.get(name, 0.0)
        counted = record.get("iterations")
        self._iterations = None if counted is None or self._iterations is None else self._iterations + counted
        self._images += record["images"]
        for name, product in self._products.items():
            known = product is not None and record[name] is not None
            self._products[name] = product + record[name] * record["images"] if known else None

    def means(self) -> dict[str, Any]:
        """What the summary has of them."""
        images = self._images
        return {
            **self._seconds,
            "iterations": self._iterations,
            "images": images,
            "images_per_s": ratio(images, self._seconds["wall_s"]),
            **{name: None if p is None else ratio(p, images) for name, p in self._products.items()},
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


def progress_line(record: dict[str, Any]) -> str:
    """Say how far training is, where no terminal shows a bar."""
    return (
        f"{as_number(record['images_per_s'])} images/s, loss {as_number(record['loss'])}, "
        f"error {as_percent(record['error'])}, η {as_number(record['lr'])}"
    )


def as_number(value: float | None) -> str:
    """Write a number with three digits."""
    return "n/a" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def as_percent(fraction: float | None) -> str:
    """Write a fraction in per cent."""
    return "n/a" if fraction is None else f"{100 * fraction:.2f} %"
