"""The exchange of ResNet-50's gradients on this machine: `python benchmarks/exchange.py`.

bandwidth    bytes of the buffer ÷ seconds of one sum, for every strategy, in turn with `flat`: one `Allreduce` of as
             many bytes by the same MPI library in a process without this package; ratios are of the same round
chunks       the same for `ar` by the size of its chunks
hidden       how much of the exchange is hidden where a core is free for it: the main thread of each rank sleeps, as
             it does while a GPU computes, and each gradient is written when it was in a backward pass measured here

The result is a JSON file under benchmarks/results/.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import common

STRATEGIES = ("overlap", "ar", "shm", "naive", "fp16", "bf16", "asa32")
HIDDEN = ("ar", "overlap", "shm")
CHUNKS_MIB = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
PIXELS, BATCH, STEPS = 64, 16, 8
BURST = 5
"""Sums of a contender in a row."""


class Watch:
    """An exchanger that only notes when each gradient is written, in seconds since the step began."""

    listens = True

    def __init__(self) -> None:
        self.start = 0.0
        self.times: dict[str, list[float]] = {}

    def begin(self) -> None:
        """The last batch of the step begins; it is the only one."""

    def written(self, name: str) -> None:
        """Note the time."""
        self.times.setdefault(name, []).append(time.perf_counter() - self.start)


def backward(data: str, rank: int, size: int) -> tuple[Any, dict[str, float]]:
    """ResNet-50's gradients in their buffer, and when each is written in a step; the step's end has the name ""."""
    from ours import Unrecorded

    from theanompi import device
    from theanompi.models.resnet50 import ResNet50

    device.use("cpu")
    settings = {"data": data, "image_size": PIXELS, "batch_size": BATCH, "rank": rank, "size": size}
    model = ResNet50({**settings, "verbose": False})
    watch = Watch()
    model.compile_iter_fns("cdd", [watch])  # type: ignore[list-item]
    for count in range(STEPS):
        watch.start = time.perf_counter()
        model.train_iter(count, Unrecorded())
        watch.written("")
    model.cleanup()
    # The first two steps also set up what the others use.
    return model.state.gradients, {name: statistics.median(times[2:]) for name, times in watch.times.items()}


def in_turn(comm: Any, variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds until all ranks have run a variant, each in turn, after one round of warm-up."""
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            comm.Barrier()
            start = time.perf_counter()
            run()
            comm.Barrier()
            if number:
                samples[name].append(time.perf_counter() - start)
    return samples


def rank(args: argparse.Namespace) -> None:
    """One rank of the benchmark; the first tells the driver."""
    from mpi4py import MPI

    from theanompi.device import FlatBuffer
    from theanompi.exchange import get_exchanger, route

    comm = MPI.COMM_WORLD
    gradients, times = backward(args.data, comm.rank, comm.size)
    shapes = {name: tuple(view.shape) for name, view in gradients.views.items()}
    exchangers = {name: get_exchanger(name, comm, FlatBuffer(shapes)) for name in HIDDEN}

    def in_chunks(mib: float) -> Callable[[], None]:
        def run() -> None:
            route.CHUNK = int(mib * 2**20)
            exchangers["ar"].sum()

        return run

    chunk = route.CHUNK
    common.say(chunks=in_turn(comm, {f"{mib:g}": in_chunks(mib) for mib in CHUNKS_MIB}, args.rounds))
    route.CHUNK = chunk

    def replay(name: str) -> None:
        exchanger = exchangers[name]
        start = time.perf_counter()
        exchanger.begin()
        for view, moment in sorted(times.items(), key=lambda item: item[1]):
            time.sleep(max(0.0, start + moment - time.perf_counter()))
            if view:
                exchanger.written(view)
        waiting = time.monotonic()
        exchanger.sum()
        spans = [span for span in exchanger.spans if span.kind == "comm"]
        hidden = sum(max(0.0, min(span.end, waiting) - span.start) for span in spans)
        total = sum(span.end - span.start for span in spans)
        found[name].append({"comm_s": total, "hidden_s": hidden, "exposed_s": time.monotonic() - waiting})

    found: dict[str, list[dict[str, float]]] = {name: [] for name in HIDDEN}
    in_turn(comm, {name: lambda name=name: replay(name) for name in HIDDEN}, args.rounds)  # type: ignore[misc]
    common.say(hidden={name: rows[1:] for name, rows in found.items()}, backward_s=times[""])
    common.say(elements=gradients.flat.numel(), mpi=MPI.Get_library_version().split("\n")[0])
    for exchanger in exchangers.values():
        exchanger.close()


def figures(seconds: list[float], nbytes: int) -> dict[str, Any]:
    """Milliseconds and GB/s."""
    return {
        "ms": common.spread([1e3 * s for s in seconds]),
        "gb_per_s": common.spread([nbytes / s / 1e9 for s in seconds]),
    }


def bandwidth(ranks: int, elements: int, rounds: int) -> dict[str, Any]:
    """Every strategy in turn with the flat call, each in processes of its own."""
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(
                common.Contender(
                    name, "exchange_contender.py", ["--strategy", name, "--elements", str(elements)], ranks, 1
                )
            )
            for name in ("flat", *STRATEGIES)
        ]
        said = common.interleave(started, rounds, BURST)
    seconds = {name: [burst["seconds"] / BURST for burst in bursts] for name, bursts in said.items()}
    return {
        name: figures(own, 4 * elements)
        | {"ratio": common.spread([f / s for f, s in zip(seconds["flat"], own, strict=True)])}
        for name, own in seconds.items()
    }


def measure(ranks: int, rounds: int) -> dict[str, Any]:
    """What the ranks say, with ratios."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "noise.h5")
        common.write_synthetic(data, PIXELS, STEPS * BATCH * ranks)
        flags = ["--rank", "--data", str(data), "--rounds", str(rounds)]
        child = subprocess.run(
            [*common.mpirun(ranks), sys.executable, __file__, *flags],
            env=common.child_environment(threads=1),
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=True,
            timeout=600,
        )
    said: dict[str, Any] = {}
    for line in child.stdout.splitlines():
        _, mark, facts = line.partition(common.MARK)
        if mark:
            said |= json.loads(facts)
    nbytes = 4 * said["elements"]
    report: dict[str, Any] = {"ranks": ranks, "threads_per_rank": 1, "bytes": nbytes, "mpi": said["mpi"]}
    report["bandwidth"] = bandwidth(ranks, said["elements"], rounds)
    report["chunks"] = {name: figures(seconds, nbytes) for name, seconds in said["chunks"].items()}
    report["hidden"] = {"backward_ms": 1e3 * said["backward_s"], "pixels": PIXELS, "batch_size": BATCH}
    for name, rows in said["hidden"].items():
        report["hidden"][name] = {
            "exposed_ms": common.spread([1e3 * row["exposed_s"] for row in rows]),
            "hidden_share": common.spread([row["hidden_s"] / row["comm_s"] for row in rows]),
        }
    return report


def show(report: Mapping[str, Any]) -> None:
    """Three tables."""
    print(f"{report['ranks']} ranks, {report['bytes'] / 1e6:.0f} MB, {report['mpi']}")
    for name, row in report["bandwidth"].items():
        ms, rate, ratio = (row[key] for key in ("ms", "gb_per_s", "ratio"))
        print(
            f"  {name:<8}{ms['median']:8.1f} ms {rate['median']:7.2f} GB/s"
            f"   {ratio['median']:5.2f} x flat ({ratio['q1']:.2f}-{ratio['q3']:.2f})"
        )
    print("chunks of ar, MiB")
    for name, row in report["chunks"].items():
        print(f"  {name:<8}{row['ms']['median']:8.1f} ms {row['gb_per_s']['median']:7.2f} GB/s")
    print(f"hidden behind {report['hidden']['backward_ms']:.0f} ms of forward and backward, a core free")
    for name in HIDDEN:
        row = report["hidden"][name]
        print(
            f"  {name:<8}{100 * row['hidden_share']['median']:8.1f} %  exposed {row['exposed_ms']['median']:.1f} ms"
        )


def main() -> None:
    """Measure, print and write; or be a rank."""
    parser = common.parser(__doc__)
    parser.add_argument("--ranks", type=int, default=2, help="(default: 2)")
    parser.add_argument("--rounds", type=int, default=15, help="of each variant (default: 15)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "exchange.json")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank:
        rank(args)
        return
    report = measure(args.ranks, args.rounds)
    show(report)
    common.write_json(args.out, {"benchmark": "exchange", "environment": common.environment(), **report})


if __name__ == "__main__":
    main()
