"""Training steps of five kinds of models, ours against plain torch and DDP: `python benchmarks/kinds.py`.

The models of `tests/users` (masked regression, two heads, a language model, a GAN with three updates of the critic for
each of the generator, Adam with cosine and clipping) are small, so that what is timed is what a step costs besides
arithmetic. Ours has its loader, its exchange, its schedule and its metrics. ``torch`` is eager, with its own optimizers
and its `DataLoader`, which has as many processes as ours; ``memory`` is the same with batches cut from memory. Of two
ranks both are under DDP with gloo. They run in turn, in short bursts, the order reversed every round; what counts is
the median of ratios of the same round. The result is a JSON file under benchmarks/results/.
"""

import argparse
import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import common
import numpy as np
from kinds_child import MODELS

ITEMS, FEATURES, TARGETS, CLASSES = 8192, 6, 3, 4


def write_data(folder: Path) -> None:
    """Write vectors and a text, packed and as they are."""
    from theanompi.data.pack.command import main as pack

    rng = np.random.default_rng(0)
    fields: dict[str, np.ndarray] = {}
    for split, n in (("train", ITEMS), ("val", 64)):
        fields |= {
            f"{split}_x": rng.normal(size=(n, FEATURES)).astype("float32"),
            f"{split}_y": rng.normal(size=(n, TARGETS)).astype("float32"),
            f"{split}_known": (rng.random((n, TARGETS)) < 0.7).astype("float32"),
            f"{split}_labels": rng.integers(CLASSES, size=n),
        }
    np.savez(folder / "vectors.npz", **fields)  # type: ignore[arg-type]
    letters = rng.choice(np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ", np.uint8), 12 * ITEMS)
    for name, text in (("train", letters), ("val", letters[:1000])):
        (folder / f"{name}.txt").write_bytes(text.tobytes())
    texts = [f"{folder}/{name}.txt" for name in ("train", "val")]
    for words in (
        ["arrays", f"{folder}/vectors.npz", "-o", f"{folder}/vectors.h5"],
        ["text", texts[0], "--val", texts[1], "-o", f"{folder}/text.h5"],
    ):
        if pack(words):
            raise SystemExit(f"kinds: tmpack {words[0]} failed")


def cell(args: argparse.Namespace, folder: Path, kind: str, ranks: int) -> dict[str, Any]:
    """One kind of model on so many ranks: a `common.compare` report; its images are items of any kind."""
    flags = [kind, "--data", str(folder), "--batch-size", str(args.batch_size)]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                common.Contender(
                    name, "kinds_child.py", [name, *flags, "--port", str(common.free_port())], ranks, 1
                )
            )
            for name in ("ours", "torch", "memory")
        ]
        report = common.compare(started, args.rounds, args.burst_seconds, args.batch_size * ranks)
    common.print_comparison(f"{kind}, ranks {ranks}, batch_size_per_rank {args.batch_size}", report)
    return {"kind": kind, "ranks": ranks, "batch_size_per_rank": args.batch_size, **report}


def main() -> None:
    """Run the table and write it."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--kinds",
        nargs="+",
        metavar="KIND",
        choices=MODELS,
        default=list(MODELS),
        help="of %(choices)s (default: all)",
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--batch-size", type=int, default=64, help="items per rank (default: 64)")
    parser.add_argument("--rounds", type=int, default=12, help="bursts of each contender (default: 12)")
    parser.add_argument("--burst-seconds", type=float, default=1.0, help="about how long (default: 1)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "kinds.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        result: dict[str, Any] = {
            "benchmark": "kinds",
            "environment": common.environment(),
            "rounds": args.rounds,
            "cells": [cell(args, folder, kind, ranks) for ranks in args.ranks for kind in args.kinds],
        }
    result["load_average_1_min_at_end"] = os.getloadavg()[0]
    common.write_json(args.out, result)


if __name__ == "__main__":
    main()
