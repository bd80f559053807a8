"""What a moving average of the weights costs: `python benchmarks/average.py`, on the CPU.

ResNet-50 with loading, exchange and update is trained with and without it in the same processes, a step of each in
turn, the order reversed every round. The average is part of the update, so that its share of a step is what the update
takes longer, by the step without it: medians over the rounds of a start. Where memory happens to lie makes one start
faster than another, so what counts is the mean over the starts with a 95 % interval (Student's t). The ratio of whole
steps, without an average by with it, is of all rounds. The result is a JSON file under benchmarks/results/.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import common
from step_throughput import EPOCH_STEPS

from theanompi.experiments.statistics import interval

KINDS = ("without", "with")


def start(args: argparse.Namespace, ranks: int, data: Path) -> dict[str, Any]:
    """Both, in new processes.

    Parameters
    ----------
    args : argparse.Namespace
        As parsed by `main`.
    ranks : int
        Processes.
    data : pathlib.Path
        The set to train on.

    Returns
    -------
    dict
        ``step_s`` and ``update_s``, medians by kind; ``share``, what the average adds by the step without it; and
        ``ratios``, of whole steps of a round.
    """
    flags = ["--data", str(data), "--image-size", str(args.image_size), "--batch-size", str(args.batch_size)]
    flags += ["--exchange", args.exchange]
    threads = max(1, args.threads // ranks)
    with common.Contender("average", "average_child.py", flags, ranks, threads) as contender:
        said = contender.burst(args.rounds)
    spent = {kind: {what: said[kind][what][-args.rounds :] for what in ("step", "update")} for kind in KINDS}
    without, averaged = (spent[kind] for kind in KINDS)
    added = [b - a for a, b in zip(without["update"], averaged["update"], strict=True)]
    return {
        "step_s": {kind: statistics.median(spent[kind]["step"]) for kind in KINDS},
        "update_s": {kind: statistics.median(spent[kind]["update"]) for kind in KINDS},
        "share": statistics.median(added) / statistics.median(without["step"]),
        "ratios": [a / b for a, b in zip(without["step"], averaged["step"], strict=True)],
    }


def cell(args: argparse.Namespace, ranks: int) -> dict[str, Any]:
    """The starts with so many ranks, and what they say."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "noise.h5")
        common.write_synthetic(data, args.image_size, EPOCH_STEPS * args.batch_size * ranks)
        starts = [start(args, ranks, data) for _ in range(args.starts)]
    share, half = interval([found["share"] for found in starts])
    ratio = common.spread([ratio for found in starts for ratio in found.pop("ratios")])
    print(
        f"{ranks} ranks: {share:.2%} of a step ({share - half:.2%} to {share + half:.2%}); steps without it by steps "
        f"with it {ratio['median']:.3f} ({ratio['q1']:.3f} to {ratio['q3']:.3f})",
        flush=True,
    )
    found = {"share": share, "low": share - half, "high": share + half, "ratio": ratio, "starts": starts}
    return {"ranks": ranks, "threads_per_rank": max(1, args.threads // ranks), **found}


def main() -> None:
    """Measure, print and write."""
    parser = common.parser(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--image-size", type=int, default=64, help="pixels (default: 64)")
    parser.add_argument("--batch-size", type=int, default=16, help="images per rank (default: 16)")
    parser.add_argument("--exchange", default="overlap", help="the strategy (default: overlap)")
    parser.add_argument("--starts", type=int, default=4, help="at least 2 (default: 4)")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each in a start (default: 20)")
    parser.add_argument("--threads", type=int, default=2, help="in all, shared by the ranks (default: 2)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "ema.json")
    args = parser.parse_args()
    if args.starts < 2:
        parser.error(f"--starts: expected at least 2, for an interval, got {args.starts}")
    result: dict[str, Any] = {
        "benchmark": "average",
        "environment": common.environment(),
        "image_size": args.image_size,
        "batch_size_per_rank": args.batch_size,
        "exchange": args.exchange,
        "rounds": args.rounds,
        "cells": [cell(args, ranks) for ranks in args.ranks],
    }
    result["load_average_1_min_at_end"] = os.getloadavg()[0]
    common.write_json(args.out, result)


if __name__ == "__main__":
    main()
