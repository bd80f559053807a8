"""Exchange strategies over a slow network: real training between two hosts, joined by 1 Gbit/s with 1 ms of delay.

Each host is a network namespace (`tests/network.py`) with one rank of one thread. Every strategy trains ResNet-50
for some steps through ``tmlauncher``, in turn, round by round; what a step spends on what is read from the runs'
own logs. Needs root.

    python benchmarks/network.py
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import common

from tests.network import Hosts, measure, refusal
from theanompi.record.folder import LOG_FILE
from theanompi.record.log import read_log


def train(hosts: Hosts, strategy: str, data: Path, args: argparse.Namespace) -> dict[str, float]:
    """Train with one strategy, once.

    Returns
    -------
    dict
        Median over the steps after the warm-up, of each of the log's seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "-file": "models.resnet50",
            "-class": "ResNet50",
            "--data": data,
            "--image-size": args.image_size,
            "--batch-size": args.batch_size,
            "--device": ",".join(f"{name}:cpu" for name in hosts.names),
            "--exchange": strategy,
            "--max-iterations": common.WARM_UP_STEPS + args.steps,
            "--log-interval": 1,
            "--out": Path(folder, "run"),
        }
        words = [str(word) for flag in flags.items() for word in flag]
        done = hosts.run(
            0,
            [sys.executable, "-c", "import sys; from theanompi.cli import main; sys.exit(main())", *words],
            timeout=600,
            env={"PYTHONPATH": str(common.ROOT), "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise SystemExit(f"{strategy}: ended with status {done.returncode}\n{done.stderr}")
        log = [line for line in read_log(Path(folder, "run", LOG_FILE)) if line["kind"] == "train"]
    steps = log[common.WARM_UP_STEPS :]
    kinds = [name for name in steps[0] if name.endswith("_s") and not name.endswith("per_s")]
    return {kind: statistics.median(step[kind] for step in steps) for kind in kinds}


def main() -> None:
    """Run the benchmark."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=["ar", "overlap", "fp16"],
        help="the others are compared with the first",
    )
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32, help="images per rank")
    parser.add_argument("--rate", default="1gbit", help="of the link, as tc spells it")
    parser.add_argument("--delay", type=float, default=0.001, help="from host to host, in seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of a strategy in a round")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "network.json")
    args = parser.parse_args()
    if refusal():
        parser.exit(1, f"network: {refusal()}\n")

    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in args.strategies}
    with Hosts(2, args.rate, args.delay) as hosts, tempfile.TemporaryDirectory() as folder:
        round_trip, rate = measure(hosts, 100_000_000)
        print(f"link: {rate / 1e9:.2f} Gbit/s, round trip {1e3 * round_trip:.2f} ms", flush=True)
        data = Path(folder, "noise.h5")
        images = 2 * args.batch_size * (common.WARM_UP_STEPS + args.steps)
        common.write_synthetic(data, args.image_size + args.image_size // 7, images)
        for turn in range(args.rounds):
            for name in args.strategies[:: 1 if turn % 2 == 0 else -1]:
                seconds[name].append(train(hosts, name, data, args))
    first = args.strategies[0]
    report: dict[str, Any] = {}
    for name, rounds in seconds.items():
        report[name] = {kind: common.spread([one[kind] for one in rounds]) for kind in rounds[0]}
        if name != first:
            report[name]["exposed_ratio"] = common.spread(
                [a["comm_s"] / b["comm_s"] for a, b in zip(rounds, seconds[first], strict=True)]
            )
    print(f"ResNet-50, {args.image_size} pixels, n = {args.batch_size}, 2 ranks of 1 thread; seconds a step:")
    for name, row in report.items():
        figures = (
            f"{kind} {value['median']:.3f}" + (f" ± {value['iqr'] / 2:.3f}" if value["iqr"] else "")
            for kind, value in row.items()
        )
        print(f"  {name:<10}" + ", ".join(figures))
    common.write_json(
        args.out,
        {
            "benchmark": "network",
            "unit": "seconds per step of rank 0; exposed_ratio: comm_s over that of the first strategy",
            "image_size": args.image_size,
            "batch_size": args.batch_size,
            "ranks": 2,
            "threads_per_rank": 1,
            "rounds": args.rounds,
            "steps_per_round": args.steps,
            "warm_up_steps": common.WARM_UP_STEPS,
            "link": {
                "rate": args.rate,
                "delay_s": args.delay,
                "measured_bits_per_s": rate,
                "measured_round_trip_s": round_trip,
            },
            "environment": common.environment(),
            "strategies": report,
        },
    )


if __name__ == "__main__":
    main()
