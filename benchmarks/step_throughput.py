"""Images per second of ours against plain torch and DDP with gloo: `python benchmarks/step_throughput.py`.

``plain`` is eager torch with channels_last, ``contiguous`` the same in torch's default layout, ``averaged`` ours with a
moving average of the weights.

In each cell (ranks × image size) the contenders run in turn, in short bursts, the order reversed every round;
what counts is the median, and the ratio of bursts of the same round. The first step is timed from the start
of the process. The result is a JSON file under benchmarks/results/.
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
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
    about = facts(args, ranks, size)
    batch, threads = about["batch_size_per_rank"], about["threads_per_rank"]
    shape = ["--image-size", str(size), "--batch-size", str(batch)]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        data = Path(folder, "noise.h5")
        common.write_synthetic(data, size, EPOCH_STEPS * batch * ranks)
        own = ["--data", str(data), "--exchange", args.exchange, *shape]
        offers = {
            "ours": ("ours.py", own),
            "averaged": ("ours.py", [*own, "--ema", "0.9999"]),
            "plain": ("opponents.py", ["--kind", "plain", *shape]),
            "contiguous": ("opponents.py", ["--kind", "plain", "--contiguous", *shape]),
            "ddp": ("opponents.py", ["--kind", "ddp", "--port", str(common.free_port()), *shape]),
        }
        started = [
            stack.enter_context(common.Contender(name, *offers[name], ranks, threads))
            for name in args.contenders
            # Plain torch has no second rank to talk to.
            if name not in ("plain", "contiguous") or ranks == 1
        ]
        report = common.compare(started, args.rounds, args.burst_seconds, batch * ranks)
    common.print_comparison(title(about), report)
    return {**about, **report}


def facts(args: argparse.Namespace, ranks: int, size: int) -> dict[str, int]:
    """A cell's own numbers, as for `cell`."""
    return {
        "ranks": ranks,
        "image_size": size,
        "batch_size_per_rank": args.batch_size or (8 if size >= 224 else 16),
        "threads_per_rank": max(1, args.threads // ranks),
    }


def title(about: Mapping[str, object]) -> str:
    """A cell's numbers as a line."""
    return ", ".join(f"{name} {value}" for name, value in about.items())


def add_arguments(parser: argparse.ArgumentParser, sizes: Sequence[int], rounds: int, burst_s: float) -> None:
    """The flags of cells, with their defaults."""
    listed = " ".join(map(str, sizes))
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help=f"pixels (default: {listed})")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--exchange", default="overlap", help="our strategy (default: overlap)")
    parser.add_argument("--rounds", type=int, default=rounds, help=f"bursts of each (default: {rounds})")
    parser.add_argument(
        "--burst-seconds", type=float, default=burst_s, help=f"about how long (default: {burst_s})"
    )
    parser.add_argument("--batch-size", type=int, help="images per rank (default: 16; from 224 pixels, 8)")
    parser.add_argument("--threads", type=int, default=2, help="in all, shared by the ranks (default: 2)")


def main() -> None:
    """Run the table and write it."""
    parser = common.parser(__doc__)
    add_arguments(parser, sizes=[32, 64, 224], rounds=12, burst_s=2.0)
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        choices=["ours", "averaged", "plain", "contiguous", "ddp"],
        default=["ours", "plain", "contiguous", "ddp"],
        help="of %(choices)s; the others are compared with the first one (default: all but averaged)",
    )
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
