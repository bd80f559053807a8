"""Rules side by side: updates per second and the share of communication, by rule, two ranks of one thread.

Every rule trains the same network for some steps through ``tmlauncher``, in turn, round by round; what the steps spend
on what is read from the runs' own logs, those of rank 0. An update of BSP with gradients or averaged weights is one of
all workers together, one of the others is each worker's own: images per second tell how fast all of them go.

    python benchmarks/rules.py            on this machine
    python benchmarks/rules.py --link     between two network namespaces, by default 1 Gbit/s and 1 ms (needs root)
"""

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import common

from tests.network import Hosts, measure, refusal
from theanompi.record.folder import LOG_FILE
from theanompi.record.log import read_log

RULES: dict[str, list[str]] = {
    "BSP cdd": [],
    "BSP avg": ["--sync-type", "avg"],
    "local SGD": ["--sync-type", "avg", "--set", "rule.period=10"],
    "EASGD": ["--rule", "EASGD"],
    "ASGD": ["--rule", "ASGD"],
    "GOSGD": ["--rule", "GOSGD", "--set", "rule.p=0.1"],
}
TOGETHER = ("BSP cdd", "BSP avg")
"""In which an update is one of all workers."""
RANKS = 2
START = "import sys; from theanompi.cli import main; sys.exit(main())"


def train(name: str, data: Path, args: argparse.Namespace, hosts: Hosts | None) -> dict[str, float]:
    """Train by one rule, once.

    Returns
    -------
    dict
        Of the steps after the warm-up: updates and images per second of all workers, and the shares of the time.
    """
    devices = [f"{host}:cpu" for host in hosts.names] if hosts else ["cpu"] * RANKS
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "-file": args.modelfile,
            "-class": args.modelclass,
            "--data": data,
            "--image-size": args.image_size,
            "--batch-size": args.batch_size,
            "--device": ",".join(devices),
            "--base-lr": 0.001,
            "--max-iterations": common.WARM_UP_STEPS + args.steps,
            "--log-interval": 1,
            "--out": Path(folder, "run"),
        }
        words = [
            sys.executable,
            "-c",
            START,
            *(str(word) for flag in flags.items() for word in flag),
            *RULES[name],
        ]
        if hosts:
            environ = {"PYTHONPATH": str(common.ROOT), "OMP_NUM_THREADS": "1"}
            done = hosts.run(0, words, timeout=600, env=environ)
        else:
            done = subprocess.run(
                words,
                env=common.child_environment(threads=1),
                capture_output=True,
                encoding="utf-8",
                timeout=600,
                check=False,
            )
        if done.returncode:
            raise SystemExit(f"{name}: ended with status {done.returncode}\n{done.stderr}")
        log = [line for line in read_log(Path(folder, "run", LOG_FILE)) if line["kind"] == "train"]
    steps = log[common.WARM_UP_STEPS :]
    wall = sum(step["wall_s"] for step in steps)
    workers = 1 if name in TOGETHER else RANKS
    return {
        "updates_per_s": workers * len(steps) / wall,
        "images_per_s": RANKS * args.batch_size * len(steps) / wall,
        "communication": sum(step["comm_s"] for step in steps) / wall,
        "waiting": sum(step["sync_s"] for step in steps) / wall,
    }


def main() -> None:
    """Run the benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--rules",
        nargs="+",
        metavar="RULE",
        choices=RULES,
        default=list(RULES),
        help="of %(choices)s; BSP cdd is always there",
    )
    parser.add_argument("--modelfile", default="models.resnet50")
    parser.add_argument("--modelclass", default="ResNet50")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16, help="images per rank")
    parser.add_argument("--link", action="store_true", help="between two network namespaces")
    parser.add_argument("--rate", default="1gbit", help="of the link, as tc spells it")
    parser.add_argument("--delay", type=float, default=0.001, help="from host to host, in seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="measured steps of a rule in a round")
    parser.add_argument("--out", type=Path, help="(default: results/rules.json, with --link rules_link.json)")
    args = parser.parse_args()
    if args.link and refusal():
        parser.exit(1, f"rules: {refusal()}\n")
    out = args.out or common.RESULTS / ("rules_link.json" if args.link else "rules.json")
    names = list(dict.fromkeys(["BSP cdd", *args.rules]))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    link: dict[str, Any] | None = None
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(RANKS, args.rate, args.delay)) if args.link else None
        if hosts:
            round_trip, rate = measure(hosts, 100_000_000)
            link = {"rate": args.rate, "delay_s": args.delay, "bits_per_s": rate, "round_trip_s": round_trip}
        data = Path(stack.enter_context(tempfile.TemporaryDirectory()), "noise.h5")
        images = RANKS * args.batch_size * (common.WARM_UP_STEPS + args.steps + 1)
        common.write_synthetic(data, args.image_size + args.image_size // 7, images)
        for turn in range(args.rounds):
            for name in names[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(train(name, data, args, hosts))
    report: dict[str, Any] = {}
    for name, rounds in found.items():
        report[name] = {key: common.spread([one[key] for one in rounds]) for key in rounds[0]}
        report[name]["ratio"] = common.spread(
            [a["images_per_s"] / b["images_per_s"] for a, b in zip(rounds, found["BSP cdd"], strict=True)]
        )
    print(f"{args.modelclass}, {args.image_size} pixels, n = {args.batch_size}, {RANKS} ranks of 1 thread")
    for name, row in report.items():
        shares = ", ".join(
            f"{kind} {100 * row[kind]['median']:.1f} %" for kind in ("communication", "waiting")
        )
        print(
            f"  {name:<10}{row['updates_per_s']['median']:8.2f} updates/s "
            f"{row['images_per_s']['median']:8.1f} images/s, "
            f"{row['ratio']['median']:.2f} ± {row['ratio']['iqr'] / 2:.2f} of BSP cdd; {shares}"
        )
    common.write_json(
        out,
        {
            "benchmark": "rules",
            "unit": "updates and images per second of all workers; communication and waiting as shares of the wall "
            "time of rank 0; ratio: images per second over those of BSP cdd in the same round",
            "model": args.modelclass,
            "image_size": args.image_size,
            "batch_size": args.batch_size,
            "ranks": RANKS,
            "threads_per_rank": 1,
            "rounds": args.rounds,
            "steps_per_round": args.steps,
            "link": link,
            "load_average_before": load,
            "environment": common.environment(),
            "rules": report,
        },
    )


if __name__ == "__main__":
    main()
