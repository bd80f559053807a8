"""Images per second of ours against plain torch and DDP with gloo: `python benchmarks/step_throughput.py`.

``plain`` is eager torch with channels_last, ``contiguous`` the same in torch's default layout, ``averaged`` ours with a
moving average of the weights.

In each cell (ranks × image size) the contenders run in turn, in short bursts, the order reversed every round;
what counts is the median, and the ratio of bursts of the same round. The first step is timed from the start
of the process. The result is a JSON file under benchmarks/results/.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import common

EPOCH_STEPS = 20


def cell(args: argparse.Namespace, ranks: int, size: int) -> dict[str, Any]:
    """One cell of the table.

    Parameters
    ----------
    args : argparse.Namespace
        As parsed by `main`.
    ranks : int
        Processes.
    size : int
        Height and width of an image, in pixels.

    Returns
    -------
    dict
        A `common.compare` report with the cell's own numbers.
    """
    batch = args.batch_size or (8 if size >= 224 else 16)
    threads = max(1, args.threads // ranks)
    shape = ["--image-size", str(size), "--batch-size", str(batch)]
    ddp = ["--kind", "ddp", "--port", str(common.free_port()), *shape]
    folder = tempfile.TemporaryDirectory()
    data = Path(folder.name, "noise.h5")
    common.write_synthetic(data, size, EPOCH_STEPS * batch * ranks)
    own = ["--data", str(data), "--exchange", args.exchange, *shape]
    offers = {
        "ours": ("ours.py", own),
        "averaged": ("ours.py", [*own, "--ema", "0.9999"]),
        "plain": ("opponents.py", ["--kind", "plain", *shape]),
        "contiguous": ("opponents.py", ["--kind", "plain", "--contiguous", *shape]),
        "ddp": ("opponents.py", ddp),
    }
    started: list[common.Contender] = []
    try:
        for name in args.contenders:
            # Plain torch has no second rank to talk to.
            if name not in ("plain", "contiguous") or ranks == 1:
                script, flags = offers[name]
                started.append(common.Contender(name, script, flags, ranks, threads))
        report = common.compare(started, args.rounds, args.burst_seconds, batch * ranks)
    finally:
        for contender in started:
            contender.close()
        folder.cleanup()
    about = {"ranks": ranks, "image_size": size, "batch_size_per_rank": batch, "threads_per_rank": threads}
    common.print_comparison(", ".join(f"{name} {value}" for name, value in about.items()), report)
    return {**about, **report}


def main() -> None:
    """Run the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[32, 64, 224], help="pixels (default: 32 64 224)"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=["ours", "averaged", "plain", "contiguous", "ddp"],
        default=["ours", "plain", "contiguous", "ddp"],
        help="the others are compared with the first one (default: ours, plain, contiguous, ddp)",
    )
    parser.add_argument("--exchange", default="overlap", help="our strategy (default: overlap)")
    parser.add_argument("--rounds", type=int, default=12, help="bursts of each contender (default: 12)")
    parser.add_argument("--burst-seconds", type=float, default=2.0, help="about how long (default: 2)")
    parser.add_argument("--batch-size", type=int, help="images per rank (default: 16; from 224 pixels, 8)")
    parser.add_argument("--threads", type=int, default=2, help="in all, shared by the ranks (default: 2)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "step_throughput.json")
    args = parser.parse_args()

    result: dict[str, Any] = {
        "benchmark": "step_throughput",
        "environment": common.environment(),
        "rounds": args.rounds,
        "exchange": args.exchange,
        "cells": [cell(args, ranks, size) for ranks in args.ranks for size in args.sizes],
    }
    result["load_average_1_min_at_end"] = os.getloadavg()[0]
    common.write_json(args.out, result)


if __name__ == "__main__":
    main()
