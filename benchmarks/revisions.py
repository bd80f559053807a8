"""Is a step as fast as at another revision? `python benchmarks/revisions.py REVISION`: this checkout against that one.

Each runs its own `ours.py` (ResNet-50 with loading, exchange and update) with its own package; the other one is checked
out into a temporary folder. In a start both are started, and run in turn, in short bursts, the order reversed every
round; its ratio is the median over its rounds, of this checkout's rate to the other's. Where memory happens to lie
makes one process faster than another of the same code, so what counts are the starts: the mean of their ratios
with a 95 % interval (Student's t). The result is a JSON file under benchmarks/results/; the exit status is 1 if this
checkout is slower.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common
from step_throughput import EPOCH_STEPS

from theanompi.experiments.statistics import interval

LEAST = 0.99
"""A step may take this much of the other's speed."""


def verdict(ratios: Sequence[float]) -> dict[str, Any]:
    """What the ratios of several starts say.

    Parameters
    ----------
    ratios : sequence of float
        This checkout's speed to the other's, at least two.

    Returns
    -------
    dict
        ``ratio`` (mean), ``low`` and ``high`` (95 % interval), and ``verdict``: "as fast" if all of the interval is at
        least `LEAST`, "slower" if none is, else "cannot be told".

    Examples
    --------
    >>> verdict([1.0, 1.002, 0.998])["verdict"]
    'as fast'
    >>> verdict([0.95, 0.952, 0.948])["verdict"]
    'slower'
    >>> verdict([0.98, 1.02, 0.99])["verdict"]
    'cannot be told'
    """
    mean, half = interval(ratios)
    low, high = mean - half, mean + half
    said = "as fast" if low >= LEAST else "slower" if high < LEAST else "cannot be told"
    return {"ratio": mean, "low": low, "high": high, "least": LEAST, "verdict": said, "ratios": list(ratios)}


def git(*words: str) -> str:
    """Run git in this checkout; gives what it prints.

    Raises
    ------
    SystemExit
        With what git says, if it fails.
    """
    done = subprocess.run(["git", "-C", str(common.ROOT), *words], capture_output=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, for as long as the block is run."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "checkout")
        git("worktree", "add", "--detach", str(root), commit)
        try:
            yield root
        finally:
            git("worktree", "remove", "--force", str(root))


def cell(args: argparse.Namespace, other: Path, ranks: int, size: int) -> dict[str, Any]:
    """The starts with so many ranks and pixels, and what they say.

    Parameters
    ----------
    args : argparse.Namespace
        As parsed by `main`.
    other : pathlib.Path
        The other checkout.
    ranks : int
        Processes.
    size : int
        Height and width of an image, in pixels.

    Returns
    -------
    dict
        A `verdict` with the cell's own numbers, and under ``starts`` the `common.compare` reports.
    """
    batch = args.batch_size or (8 if size >= 224 else 16)
    threads = max(1, args.threads // ranks)
    about = {"ranks": ranks, "image_size": size, "batch_size_per_rank": batch, "threads_per_rank": threads}
    title = ", ".join(f"{name} {value}" for name, value in about.items())
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "noise.h5")
        # By the other one: what it has written must still be read, and not the other way round.
        write = (
            f"import common, pathlib; common.write_synthetic(pathlib.Path({str(data)!r}), {size}, "
            f"{EPOCH_STEPS * batch * ranks})"
        )
        environment = common.child_environment(args.threads, other)
        subprocess.run([sys.executable, "-c", write], cwd=other / "benchmarks", env=environment, check=True)
        flags = ["--data", str(data), "--exchange", args.exchange, "--image-size", str(size)]
        flags += ["--batch-size", str(batch)]
        for number in range(args.starts):
            # The one that begins also ends the last round, and has fewer bursts after one of its own: take turns.
            order = [("this", common.ROOT), ("other", other)][:: 1 if number % 2 == 0 else -1]
            with contextlib.ExitStack() as stack:
                started = [
                    stack.enter_context(
                        contextlib.closing(common.Contender(name, "ours.py", flags, ranks, threads, root))
                    )
                    for name, root in order
                ]
                report = common.compare(started, args.rounds, args.burst_seconds, batch * ranks)
            common.print_comparison(f"{title}, start {number + 1} of {args.starts}", report)
            starts.append(report)
    # `common.compare` gives the ratio of the first to the second one.
    found = verdict(
        [
            report["other"]["ratio"]["median"]
            if "ratio" in report["other"]
            else 1 / report["this"]["ratio"]["median"]
            for report in starts
        ]
    )
    print(
        f"{title}: {found['ratio']:.4f} ({found['low']:.4f} to {found['high']:.4f}) of the other's speed, at least "
        f"{LEAST} expected: {found['verdict']}",
        flush=True,
    )
    return {**about, **found, "starts": starts}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", metavar="REVISION", help="what git calls it: a commit, branch or tag")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64], help="pixels (default: 32 64)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="(default: 1 2)")
    parser.add_argument("--exchange", default="overlap", help="the strategy (default: overlap)")
    parser.add_argument("--starts", type=int, default=6, help="of both, at least 2 (default: 6)")
    parser.add_argument("--rounds", type=int, default=8, help="bursts of each in a start (default: 8)")
    parser.add_argument("--burst-seconds", type=float, default=1.5, help="about how long (default: 1.5)")
    parser.add_argument("--batch-size", type=int, help="images per rank (default: 16; from 224 pixels, 8)")
    parser.add_argument("--threads", type=int, default=2, help="in all, shared by the ranks (default: 2)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "revisions.json")
    args = parser.parse_args()
    if args.starts < 2:
        parser.error(f"--starts: expected at least 2, for an interval, got {args.starts}")
    commit = git("rev-parse", "--verify", f"{args.revision}^{{commit}}")
    result: dict[str, Any] = {
        "benchmark": "revisions",
        "environment": common.environment(),
        "other_commit": commit,
        "rounds": args.rounds,
        "exchange": args.exchange,
    }
    with checked_out(commit) as other:
        result["cells"] = [cell(args, other, ranks, size) for ranks in args.ranks for size in args.sizes]
    result["load_average_1_min_at_end"] = os.getloadavg()[0]
    common.write_json(args.out, result)
    sys.exit(any(found["verdict"] == "slower" for found in result["cells"]))


if __name__ == "__main__":
    main()
