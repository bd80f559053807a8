"""Is it as fast as at another revision? `python benchmarks/revisions.py REVISION`: this checkout against that one.

Each runs its own scripts with its own package; the other one is checked out into a temporary folder. Four parts:

step        `ours.py`: ResNet-50 with loading, exchange and update
run         a whole run of a small network, with all that its loop does between steps: images per second after the first
            epoch, as its log has them
loading     `loader_contender.py`: batches from a packed set of photographs, JPEG files and raw pixels
packing     `data_child.py`: tmpack of a folder of photographs, to both

In a start both are started, and run in turn, in short bursts, the order reversed every round; its ratio is the median
over its rounds, of this checkout's rate to the other's. Where memory happens to lie makes one process faster than
another of the same code, so what counts are the starts: the mean of their ratios with a 95 % interval (Student's t).
Each packing is a start, and each run; runs of one rank are made at once, where there are two cores. The result is a
JSON file under benchmarks/results/; the exit status is 1 if this checkout is slower.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
from loader_throughput import Materials, child, pack_words
from step_throughput import EPOCH_STEPS, add_arguments, facts, title

from theanompi.experiments.statistics import interval

LEAST = 0.99
"""The least share of the other's speed."""
PARTS = ["step", "run", "loading", "packing"]
PHOTOGRAPHS, PACKINGS, RAW_SIZE = 200, 24, 256
SMALL_RUN = "-file models.resnet_cifar -class ResNetCifar --data digits --device cpu".split()
SMALL_RUN_EPOCHS = 4


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
    about: dict[str, Any] = {"part": "step", **facts(args, ranks, size)}
    batch, threads = about["batch_size_per_rank"], about["threads_per_rank"]
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
            with contextlib.ExitStack() as stack:
                started = [
                    stack.enter_context(common.Contender(name, "ours.py", flags, ranks, threads, root))
                    for name, root in in_turn(other, number)
                ]
                report = common.compare(started, args.rounds, args.burst_seconds, batch * ranks)
            common.print_comparison(f"{title(about)}, start {number + 1} of {args.starts}", report)
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
    show(title(about), found)
    return {**about, **found, "starts": starts}


def show(what: str, found: Mapping[str, Any]) -> None:
    """Print a `verdict`."""
    print(
        f"{what}: {found['ratio']:.4f} ({found['low']:.4f} to {found['high']:.4f}) of the other's speed, at least "
        f"{LEAST} expected: {found['verdict']}",
        flush=True,
    )


def in_turn(other: Path, number: int) -> list[tuple[str, Path]]:
    """Both checkouts, the first one first in every other turn."""
    return [("this", common.ROOT), ("other", other)][:: 1 if number % 2 == 0 else -1]


def run(args: argparse.Namespace, other: Path, ranks: int) -> dict[str, Any]:
    """Runs by both, each with processes of its own, and what they say.

    With a core for each rank of both they run at once, so that what disturbs the machine meets both; else in turn.
    """
    at_once = 2 * ranks <= args.threads
    ratios = []
    for number in range(args.runs):
        with contextlib.ExitStack() as stack:
            folders: dict[str, Path] = {}
            started: dict[str, subprocess.Popen[bytes]] = {}
            for name, root in in_turn(other, number):
                folders[name] = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                flags = [*SMALL_RUN, "--size", str(ranks), "--epochs", str(SMALL_RUN_EPOCHS)]
                process = subprocess.Popen(
                    [sys.executable, "-m", "theanompi", *flags, "--out", str(folders[name] / "run")],
                    cwd=folders[name],
                    env=common.child_environment(1, root),
                    stdout=subprocess.DEVNULL,
                    stderr=stack.enter_context((folders[name] / "errors").open("w", encoding="utf-8")),
                )
                started[name] = stack.enter_context(process)
                if not at_once:
                    process.wait()
            for name, process in started.items():
                if process.wait():
                    raise SystemExit((folders[name] / "errors").read_text(encoding="utf-8"))
            rates = {name: rate(folder / "run" / "log.jsonl") for name, folder in folders.items()}
        ratios.append(rates["this"] / rates["other"])
    found = verdict(ratios)
    show(f"run, ranks {ranks}", found)
    return {"part": "run", "ranks": ranks, "at_once": at_once, **found}


def rate(log: Path) -> float:
    """Items per second after the first epoch, as a run's log has them."""
    records = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    epochs = [record for record in records if record["kind"] == "train" and record["epoch"] > 0]
    # The log of former versions calls all items images.
    return float(sum(e.get("items", e.get("images")) for e in epochs) / sum(e["wall_s"] for e in epochs))


def loading(args: argparse.Namespace, other: Path, materials: Materials, store: str) -> dict[str, Any]:
    """The starts of both loaders with one process, and what they say."""
    data = str(materials.packed(store, RAW_SIZE))
    ratios = []
    for number in range(args.starts):
        with contextlib.ExitStack() as stack:
            flags = ["--kind", "ours", "--data", data, "--processes", "1"]
            started = [
                stack.enter_context(common.Contender(name, "loader_contender.py", flags, 1, 1, root))
                for name, root in in_turn(other, number)
            ]
            steps = max(1, round(args.burst_seconds / max(contender.step_s for contender in started)))
            said = common.interleave(started, args.rounds, steps)
        pairs = zip(said["this"], said["other"], strict=True)
        ratios.append(statistics.median(b["seconds"] / a["seconds"] for a, b in pairs))
    found = verdict(ratios)
    show(f"loading, {store}", found)
    return {"part": "loading", "store": store, **found}


def packing(other: Path, materials: Materials, store: str) -> dict[str, Any]:
    """Packings by both in turn, each in a process of its own, and what they say."""
    words = pack_words(*materials.photographs(), materials.folder / "packed.h5", store, RAW_SIZE)
    ratios = []
    for number in range(PACKINGS):
        seconds = {
            name: child("pack", *words, "--processes", "1", root=root)["seconds"]
            for name, root in in_turn(other, number)
        }
        ratios.append(seconds["other"] / seconds["this"])
    found = verdict(ratios)
    show(f"packing, {store}", found)
    return {"part": "packing", "store": store, **found}


def main() -> None:
    """Measure, print and write."""
    parser = common.parser(__doc__)
    parser.add_argument("revision", metavar="REVISION", help="what git calls it: a commit, branch or tag")
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", choices=PARTS, default=PARTS, help="(default: all)"
    )
    add_arguments(parser, sizes=[32, 64], rounds=8, burst_s=1.5)
    parser.add_argument("--starts", type=int, default=6, help="of both, at least 2 (default: 6)")
    parser.add_argument("--runs", type=int, default=16, help="by both, at least 2 (default: 16)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "revisions.json")
    args = parser.parse_args()
    for flag, number in (("--starts", args.starts), ("--runs", args.runs)):
        if number < 2:
            parser.error(f"{flag}: expected at least 2, for an interval, got {number}")
    commit = git("rev-parse", "--verify", f"{args.revision}^{{commit}}")
    result: dict[str, Any] = {
        "benchmark": "revisions",
        "environment": common.environment(),
        "other_commit": commit,
        "rounds": args.rounds,
        "exchange": args.exchange,
    }
    with checked_out(commit) as other:
        cells = result["cells"] = []
        if "step" in args.parts:
            cells += [cell(args, other, ranks, size) for ranks in args.ranks for size in args.sizes]
        if "run" in args.parts:
            cells += [run(args, other, ranks) for ranks in args.ranks]
        with tempfile.TemporaryDirectory() as folder:
            materials = Materials(Path(folder), PHOTOGRAPHS)
            if "loading" in args.parts:
                cells += [loading(args, other, materials, store) for store in ("jpeg", "raw")]
            if "packing" in args.parts:
                cells += [packing(other, materials, store) for store in ("jpeg", "raw")]
    result["load_average_1_min_at_end"] = os.getloadavg()[0]
    common.write_json(args.out, result)
    sys.exit(any(found["verdict"] == "slower" for found in result["cells"]))


if __name__ == "__main__":
    main()
