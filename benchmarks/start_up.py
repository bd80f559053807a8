"""From the shell to the first step, ours and DDP with gloo in turn: `python benchmarks/start_up.py`.

Two ranks train ResNet-50 until each has done one step, and end: seconds from the start of ``mpirun``, round by round,
the order reversed every round. What counts is the ratio of starts of the same round. The first start of each is not
counted: Python compiles modules there, and keeps them.

With ``--against REVISION`` also the processor seconds that the three functions of a ResNet-50 take to be compiled, of
this checkout and of another one, in turn, each time in a process of its own.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
from revisions import checked_out, git, in_turn

RANKS = 2

CHILD = """
import sys, time
start = time.process_time()
import pytensor, argparse, json
import ours
from theanompi import Model
imported = time.process_time()
compiling, compile_one, functions = 0.0, pytensor.function, 0
def timed(*arguments, **named):
    global compiling, functions
    begin = time.process_time()
    try:
        return compile_one(*arguments, **named)
    finally:
        compiling += time.process_time() - begin
        functions += 1
pytensor.function = timed
compile_iter_fns, models = Model.compile_iter_fns, []
def remembered(model, *arguments, **named):
    models.append(model)
    return compile_iter_fns(model, *arguments, **named)
Model.compile_iter_fns = remembered
settings = {"exchange": "overlap", "device": "cpu", "precision": "float32", "ema": 0.0, **json.loads(sys.argv[1])}
step = ours.build_step(argparse.Namespace(**settings))
built, before = time.process_time(), compiling
step()
stepped = time.process_time()
if functions == 2:
    models[0].compile_validation()
print(json.dumps({
    "import_s": imported - start,
    "compile_s": compiling,
    "build_s": built - imported - before,
    "step_s": stepped - built,
    "functions": functions,
}))
"""
"""Builds the training step of the checkout in whose ``benchmarks`` it runs, and tells what that took.

A checkout that does not compile the validation before the first step does it after that one here.
"""


def starts(args: argparse.Namespace, size: int) -> dict[str, Any]:
    """Seconds to the first step at an image size, of both contenders in turn."""
    batch = 8 if size >= 224 else 16
    shape = ["--image-size", str(size), "--batch-size", str(batch)]
    seconds: dict[str, list[float]] = {"ours": [], "ddp": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "noise.h5")
        common.write_synthetic(data, size, 4 * batch * RANKS)
        for turn in range(-1, args.rounds):
            for name in list(seconds)[:: 1 if turn % 2 == 0 else -1]:
                script, flags = {
                    "ours": ("ours.py", ["--data", str(data)]),
                    "ddp": ("opponents.py", ["--kind", "ddp", "--port", str(common.free_port())]),
                }[name]
                threads = max(1, args.threads // RANKS)
                contender = common.Contender(name, script, [*flags, *shape], RANKS, threads)
                contender.close()
                if turn >= 0:
                    seconds[name].append(contender.first_step_s)
    ratios = [ours / ddp for ours, ddp in zip(seconds["ours"], seconds["ddp"], strict=True)]
    found = {name: common.spread(values) for name, values in seconds.items()} | {
        "ratio": common.spread(ratios)
    }
    print(
        f"{size} pixels, n = {batch}, {RANKS} ranks: first step after {found['ours']['median']:.1f} s, DDP's after "
        f"{found['ddp']['median']:.1f} s, ratio {found['ratio']['median']:.2f} ± {found['ratio']['iqr'] / 2:.2f}",
        flush=True,
    )
    return {"image_size": size, "batch_size_per_rank": batch, "ranks": RANKS, **found}


def compiling(args: argparse.Namespace, other: Path, size: int) -> dict[str, Any]:
    """Processor seconds of one process up to its first step, by what they are spent on, of both checkouts in turn."""
    batch = 8 if size >= 224 else 16
    said: dict[str, list[dict[str, float]]] = {"this": [], "other": []}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "noise.h5")
        common.write_synthetic(data, size, 4 * batch)
        settings = json.dumps({"data": str(data), "image_size": size, "batch_size": batch})
        for turn in range(args.rounds):
            for name, root in in_turn(other, turn):
                done = subprocess.run(
                    [sys.executable, "-c", CHILD, settings],
                    cwd=root / "benchmarks",
                    env=common.child_environment(1, root),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    encoding="utf-8",
                    check=True,
                )
                said[name].append(json.loads(done.stdout.splitlines()[-1]))
    ratios = [a["compile_s"] / b["compile_s"] for a, b in zip(said["this"], said["other"], strict=True)]
    found: dict[str, Any] = {
        name: {part: common.spread([row[part] for row in rows]) for part in rows[0]}
        for name, rows in said.items()
    }
    print(
        f"{size} pixels: compiling takes {found['this']['compile_s']['median']:.2f} s of the processor, the other's "
        f"{found['other']['compile_s']['median']:.2f} s, ratio {common.spread(ratios)['median']:.2f}",
        flush=True,
    )
    return {"image_size": size, **found, "ratio": common.spread(ratios)}


def main() -> None:
    """Measure, print and write."""
    parser = common.parser(__doc__)
    parser.add_argument("--against", metavar="REVISION", help="what git calls the other checkout")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 224], help="pixels (default: 64 224)")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="in all, shared by the ranks (default: 2)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "start_up.json")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "start_up",
        "unit": "starts: seconds from the start of mpirun to the end of the first step; compiling: processor seconds",
        "environment": common.environment(),
        "rounds": args.rounds,
        "starts": [starts(args, size) for size in args.sizes],
    }
    if args.against:
        result["other_commit"] = git("rev-parse", "--verify", f"{args.against}^{{commit}}")
        with contextlib.ExitStack() as stack:
            other = stack.enter_context(checked_out(result["other_commit"]))
            result["compiling"] = [compiling(args, other, size) for size in args.sizes]
    result["load_average_1_min_at_end"] = os.getloadavg()[0]
    common.write_json(args.out, result)


if __name__ == "__main__":
    main()
