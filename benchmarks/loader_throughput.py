"""How fast images are packed, opened, loaded and waited for: `python benchmarks/loader_throughput.py`.

Five sections, of which `--section` chooses some. Contenders take turns, the order reversed every round; what
counts is the median, and the ratio of bursts of the same round. Pictures are generated: 500 × 375 pixels or
upright, about 110 KB. The result is a JSON file under benchmarks/results/.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import common
import decoders

BATCH_SIZE = 32
CLASSES = 10
VALIDATION_IMAGES = 40
RAW_SIZE = 256
IMAGENET = (1_281_167, 50_000)
TARGETS = {
    "jpeg_ratio": 2.5,
    "raw_ratio": 10.0,
    "open_s": 2.0,
    "growth_mib": 0.0,
    "wait_percent": 2.0,
}


@dataclass(frozen=True)
class Amounts:
    """How much is measured; the defaults are for results, `QUICK` is for seeing that everything works."""

    photographs: int = 1000
    processes: tuple[int, ...] = (1, 2)
    rounds: int = 12
    burst_s: float = 3.0
    decoded: int = 50
    large_set: tuple[int, int] = IMAGENET
    large_batch: int = 1024
    openings: int = 9
    epochs: int = 5
    runs: int = 5
    iterations: int = 40
    packings: int = 5


QUICK = Amounts(
    photographs=160,
    rounds=2,
    burst_s=0.3,
    decoded=4,
    large_set=(20_000, 500),
    openings=3,
    epochs=3,
    runs=2,
    iterations=4,
    packings=2,
)


def write_photograph(folder: Path, number: int) -> None:
    """Write a photograph into its class's folder; every other one is upright."""
    from photographs import jpeg

    height, width = (375, 500) if number % 2 == 0 else (500, 375)
    path = Path(folder, f"class{number % CLASSES}", f"{number:06}.JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(number, height, width))


class Materials:
    """Photographs and what is packed from them, made when first asked for.

    Parameters
    ----------
    folder : Path
        An empty one.
    photographs : int
        Training images.
    """

    def __init__(self, folder: Path, photographs: int) -> None:
        self.folder, self.count = folder, photographs
        # Not methods with a cache, which would keep their objects alive for ever.
        self.photographs: Callable[[], tuple[Path, Path]] = cache(self._photographs)
        self.packed: Callable[[str, int], Path] = cache(self._packed)

    def _photographs(self) -> tuple[Path, Path]:
        """The folders of class folders for training and validation."""
        train, val = self.folder / "train", self.folder / "val"
        print(f"generating {self.count + VALIDATION_IMAGES} photographs", flush=True)
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            for folder, first, count in ((train, 0, self.count), (val, self.count, VALIDATION_IMAGES)):
                for _ in pool.map(
                    partial(write_photograph, folder), range(first, first + count), chunksize=8
                ):
                    pass
        return train, val

    def _packed(self, store: str, size: int) -> Path:
        """The photographs as a packed set; `size` is the shorter side in a ``raw`` one."""
        path = self.folder / f"{store}-{size}.h5"
        train, val = self.photographs()
        child("pack", *pack_words(train, val, path, store, size))
        return path


def pack_words(train: Path, val: Path, out: Path, store: str, size: int) -> list[str]:
    """The arguments of tmpack for a folder of class folders."""
    words = ["folder", str(train), str(val), "-o", str(out), "--store", store, "--overwrite"]
    return [*words, "--size", str(size)] if store == "raw" else words


def child(*words: str, root: Path = common.ROOT) -> dict[str, Any]:
    """Run `data_child.py` of a checkout and give what it says.

    Raises
    ------
    RuntimeError
        If it fails, with the end of its standard error.
    """
    python = [sys.executable, str(root / "benchmarks" / "data_child.py"), *words]
    environment = common.child_environment(1, root)
    result = subprocess.run(
        python, capture_output=True, encoding="utf-8", stdin=subprocess.DEVNULL, env=environment, check=False
    )
    said = [line for line in result.stdout.splitlines() if line.startswith(common.MARK)]
    if result.returncode or not said:
        tail = "\n".join(result.stderr.splitlines()[-30:])
        raise RuntimeError(f"data_child.py {words[0]}: exited with {result.returncode}\n{tail}")
    facts: dict[str, Any] = json.loads(said[-1].removeprefix(common.MARK))
    return facts


def loaders(amounts: Amounts, materials: Materials) -> list[dict[str, Any]]:
    """Images per second of the package's loader and of torch's `DataLoader`, each number of processes in turn.

    Returns
    -------
    list of dict
        `loader_report` of each number of processes.
    """
    train, _ = materials.photographs()
    jpeg, raw = materials.packed("jpeg", 0), materials.packed("raw", RAW_SIZE)
    offers = {
        "standard": ["--kind", "standard", "--data", str(train)],
        "jpeg": ["--kind", "ours", "--data", str(jpeg)],
        "raw": ["--kind", "ours", "--data", str(raw)],
        "jpeg, with the crop on the device": ["--kind", "ours", "--data", str(jpeg), "--crop"],
        "raw, with the crop on the device": ["--kind", "ours", "--data", str(raw), "--crop"],
    }
    reports = []
    for processes in amounts.processes:
        with contextlib.ExitStack() as stack:
            started = [
                stack.enter_context(
                    common.Contender(
                        name, "loader_contender.py", [*flags, "--processes", str(processes)], 1, 1
                    )
                )
                for name, flags in offers.items()
            ]
            said = take_turns(started, amounts.rounds, amounts.burst_s)
        reports.append(loader_report(said, processes))
        show_loaders(reports[-1])
    return reports


def take_turns(
    contenders: Sequence[common.Contender], rounds: int, burst_s: float
) -> dict[str, list[dict[str, Any]]]:
    """Bursts of the same length in seconds, as rates differ by a factor of ten; otherwise `common.interleave`."""
    said: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    # At least 8: a loader's processes finish whole batches, so a burst is off by a part of one.
    steps = {contender.name: max(8, round(burst_s / contender.step_s)) for contender in contenders}
    for turn in range(rounds):
        for contender in contenders[:: 1 if turn % 2 == 0 else -1]:
            count = steps[contender.name]
            said[contender.name].append(contender.burst(count) | {"images": BATCH_SIZE * count})
    return said


def loader_report(said: Mapping[str, Sequence[Mapping[str, float]]], processes: int) -> dict[str, Any]:
    """Rates, CPU time and ratios of the contenders of one number of processes.

    Parameters
    ----------
    said : mapping of str to sequence of mapping
        By contender, the standard one first: ``images``, ``seconds`` and ``cpu_s_per_image`` of each burst.
    processes : int
        Of a loader.

    Returns
    -------
    dict
        ``processes``; by name, each a `common.spread`: ``images_per_s``, ``images_per_s_per_process``,
        ``cpu_ms_per_image`` (processes and parent), and for those after the first ``ratio``, how many times the
        images per second of the first in the same round, and ``cpu_ratio``, what part of its CPU time, inverted.
    """
    rates = {name: [b["images"] / b["seconds"] for b in bursts] for name, bursts in said.items()}
    cpu = {name: [1e3 * b["cpu_s_per_image"] for b in bursts] for name, bursts in said.items()}
    first = next(iter(said))
    report: dict[str, Any] = {"processes": processes}
    for name in said:
        report[name] = {
            "images_per_s": common.spread(rates[name]),
            "images_per_s_per_process": common.spread([rate / processes for rate in rates[name]]),
            "cpu_ms_per_image": common.spread(cpu[name]),
        }
        if name != first:
            pairs = zip(rates[name], rates[first], strict=True)
            report[name]["ratio"] = common.spread([ours / theirs for ours, theirs in pairs])
            pairs = zip(cpu[name], cpu[first], strict=True)
            report[name]["cpu_ratio"] = common.spread([theirs / ours for ours, theirs in pairs])
    return report


def brackets(row: Mapping[str, Any], digits: int) -> str:
    """A spread as median and quartiles.

    Examples
    --------
    >>> brackets(common.spread([1.0, 2.0, 3.0]), 1)
    '2.0 (1.5–2.5)'
    """
    return f"{row['median']:.{digits}f} ({row['q1']:.{digits}f}–{row['q3']:.{digits}f})"


def show_loaders(report: Mapping[str, Any]) -> None:
    """Print a `loader_report` as a table."""
    print(f"loaders, processes: {report['processes']}")
    columns = ("images/s per process", "CPU ms/image", "÷ standard", "target")
    print(" ".join([f"  {'':<34}", *(f"{column:<22}" for column in columns)]).rstrip())
    for name, row in report.items():
        if isinstance(row, dict):
            target = f"{name}_ratio"
            cells = [
                brackets(row["images_per_s_per_process"], 0),
                brackets(row["cpu_ms_per_image"], 3),
                brackets(row["ratio"], 2) if "ratio" in row else "",
                f"≥ {TARGETS[target]:g}" if target in TARGETS else "",
            ]
            print(" ".join([f"  {name:<34}", *(f"{cell:<22}" for cell in cells)]).rstrip(), flush=True)


def decode(amounts: Amounts, materials: Materials) -> dict[str, Any]:
    """Milliseconds per image of the decoders that are installed: `decoders.measure`."""
    files = sorted(materials.photographs()[0].rglob("*.JPEG"))[: amounts.decoded]
    report = decoders.measure([file.read_bytes() for file in files], amounts.rounds)
    decoders.show(report)
    return report


def large_set(amounts: Amounts, materials: Materials) -> dict[str, Any]:
    """Time to open a set of as many images as ImageNet, and a rank's memory from epoch to epoch.

    Returns
    -------
    dict
        ``images``; ``open_s`` (`common.spread`, each in a fresh process, the file in the system's cache) and
        ``open_mib``, by how much it enlarges the process; ``resident`` and ``in_use``, the memory of a rank in
        MiB after each epoch as the system sees it, and, in another run, without what the allocator keeps of
        freed memory; ``growth_mib``, by how much each grows from the first epoch to the last.
    """
    path = str(materials.folder / "large.h5")
    train, val = (str(count) for count in amounts.large_set)
    words = ["synthetic", "--classes", "1000", "--train", train, "--val", val, "--size", "4", "-o", path]
    packing = child("pack", *words)
    openings = [child("open", path) for _ in range(amounts.openings + 1)][1:]
    words = ["--epochs", str(amounts.epochs), "--batch-size", str(amounts.large_batch), "--image-size", "4"]
    memory = {
        "resident": child("epochs", path, *words)["epochs"],
        "in_use": child("epochs", path, *words, "--trim")["epochs"],
    }
    growth = {
        f"{name}, {process}": epochs[-1][f"{process}_mib"] - epochs[0][f"{process}_mib"]
        for name, epochs in memory.items()
        for process in ("rank", "loader")
    }
    report = {
        "images": openings[0]["images"],
        "pack_s": packing["seconds"],
        "open_s": common.spread([opening["seconds"] for opening in openings]),
        "open_mib": common.spread([opening["growth_mib"] for opening in openings]),
        **memory,
        "growth_mib": growth,
    }
    print(f"large set: {report['images']} images of 4 × 4, packed in {report['pack_s']:.0f} s")
    print(f"  opened in {brackets(report['open_s'], 2)} s (target < {TARGETS['open_s']:g} s), ", end="")
    print(f"which takes {brackets(report['open_mib'], 0)} MiB")
    print(f"  MiB after each of {amounts.epochs} epochs, rank + loader process (target: no growth)")
    for name, title in (("resident", "resident"), ("in_use", "without what the allocator keeps")):
        cells = (f"{epoch['rank_mib']:.1f} + {epoch['loader_mib']:.1f}" for epoch in memory[name])
        print(f"    {title:<34}{', '.join(cells)}", flush=True)
    return report


def wait(amounts: Amounts, materials: Materials) -> dict[str, Any]:
    """The share of a training step that is spent waiting for data, ResNet-50 at 64 pixels with two ranks.

    As rank 0 logs it; what the other one waits for data, rank 0 waits in the exchange: see ``comm``.

    Returns
    -------
    dict
        What was run, and ``percent``: `common.spread` over the runs for each of ``wait``, ``calc``, ``comm``.
    """
    from theanompi.record.log import read_log

    data = materials.packed("raw", 72)
    flags = ["--image-size", "64", "--batch-size", "16", "--max-iterations", str(amounts.iterations)]
    interval = max(1, amounts.iterations // 4)
    runs = []
    for _ in range(amounts.runs):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "run")
            words = ["--data", str(data), *flags, "--log-interval", str(interval), "--out", str(out)]
            command = [*common.mpirun(2), sys.executable, "examples/train_resnet50.py", *words]
            result = subprocess.run(
                command,
                cwd=common.ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                encoding="utf-8",
                stdin=subprocess.DEVNULL,
                check=False,
            )
            if result.returncode:
                tail = "\n".join(result.stderr.splitlines()[-30:])
                raise RuntimeError(f"train_resnet50.py: exited with {result.returncode}\n{tail}")
            runs.append(shares(read_log(out / "log.jsonl")))
    report: dict[str, Any] = {
        "ranks": 2,
        "data": f"{materials.count} photographs, raw, shorter side 72",
        "flags": flags,
        "left_out": "the first interval of each run, a warm-up",
        "percent": {kind: common.spread([run[kind] for run in runs]) for kind in runs[0]},
    }
    print(f"wait share: 2 ranks, 64 pixels, n = 16, {report['data']}, {amounts.runs} runs")
    for kind, row in report["percent"].items():
        target = f"  target ≤ {TARGETS['wait_percent']:g} %" if kind == "wait" else ""
        print(f"  {kind}  {brackets(row, 2)} %{target}", flush=True)
    return report


def shares(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What a run spent its time with, in percent, its first interval left out.

    Parameters
    ----------
    records : iterable of mapping
        Of `theanompi.record.log.read_log`.

    Examples
    --------
    >>> slow = {"kind": "train", "wall_s": 9.0, "wait_s": 5.0, "calc_s": 4.0, "comm_s": 0.0}
    >>> fast = {"kind": "train", "wall_s": 4.0, "wait_s": 0.1, "calc_s": 3.0, "comm_s": 0.5}
    >>> shares([slow, fast, {"kind": "val"}])
    {'wait': 2.5, 'calc': 75.0, 'comm': 12.5}
    """
    intervals = [record for record in records if record["kind"] == "train"][1:]
    wall = sum(record["wall_s"] for record in intervals)
    return {
        kind: 100 * sum(record[f"{kind}_s"] for record in intervals) / wall
        for kind in ("wait", "calc", "comm")
    }


def packing(amounts: Amounts, materials: Materials) -> dict[str, Any]:
    """What tmpack takes per photograph, and what it would take for ImageNet.

    Start-up does not count: it is in the packing of few images too, which is subtracted.

    Returns
    -------
    dict
        By store, `packing_report`.
    """
    train, val = materials.photographs()
    few = 2 * VALIDATION_IMAGES
    many = materials.count + VALIDATION_IMAGES
    said: dict[str, list[dict[str, float]]] = {"jpeg": [], "raw": []}
    sizes = {}
    for turn in range(amounts.packings):
        for store in ("jpeg", "raw") if turn % 2 == 0 else ("raw", "jpeg"):
            out = materials.folder / f"packed-{store}.h5"
            one = [*pack_words(val, val, out, store, RAW_SIZE), "--processes", "1"]
            small = child("pack", *one)
            small_bytes = out.stat().st_size
            one = [*pack_words(train, val, out, store, RAW_SIZE), "--processes", "1"]
            large = child("pack", *one)
            sizes[store] = (out.stat().st_size - small_bytes) / (many - few)
            said[store].append({key: (large[key] - small[key]) / (many - few) for key in small})
            out.unlink()
    report: dict[str, Any] = {}
    print(f"packing: {many} photographs, one worker process; extrapolated to {sum(IMAGENET):,} images")
    for store, samples in said.items():
        report[store] = row = packing_report(samples, sizes[store], sum(IMAGENET))
        name = store if store == "jpeg" else f"raw, shorter side {RAW_SIZE}"
        far = row["extrapolated"]
        print(
            f"  {name:<24}{brackets(row['cpu_ms_per_image'], 2)} ms/image and core, "
            f"{row['bytes_per_image'] / 1000:.0f} kB/image; extrapolated: {far['hours_1_core']:.1f} h on 1 core, "
            f"{far['minutes_16_cores']:.0f} min on 16, {far['gb']:.0f} GB",
            flush=True,
        )
    return report


def packing_report(
    samples: Sequence[Mapping[str, float]], bytes_per_image: float, images: int
) -> dict[str, Any]:
    """Medians of packing, and the extrapolation.

    Parameters
    ----------
    samples : sequence of mapping
        For each packing, per image: ``seconds``, ``parent_cpu_s`` and ``worker_cpu_s``.
    bytes_per_image : float
    images : int
        To extrapolate to.

    Returns
    -------
    dict
        ``wall_ms_per_image``, ``cpu_ms_per_image`` (parent and worker), ``parent_cpu_ms_per_image``
        (`common.spread`); ``bytes_per_image``; ``extrapolated``: ``images``, ``hours_1_core``,
        ``minutes_16_cores`` and ``gb`` (10⁹ bytes). More cores help until the parent, which writes, is busy.

    Examples
    --------
    >>> sample = {"seconds": 0.004, "parent_cpu_s": 0.001, "worker_cpu_s": 0.003}
    >>> packing_report([sample], 1000.0, 3_600_000)["extrapolated"]
    {'images': 3600000, 'hours_1_core': 4.0, 'minutes_16_cores': 60.0, 'gb': 3.6}
    """
    parent = common.spread([1e3 * sample["parent_cpu_s"] for sample in samples])
    both = common.spread([1e3 * (sample["parent_cpu_s"] + sample["worker_cpu_s"]) for sample in samples])
    return {
        "wall_ms_per_image": common.spread([1e3 * sample["seconds"] for sample in samples]),
        "cpu_ms_per_image": both,
        "parent_cpu_ms_per_image": parent,
        "bytes_per_image": bytes_per_image,
        "extrapolated": {
            "images": images,
            "hours_1_core": both["median"] * images / 3.6e6,
            "minutes_16_cores": max(both["median"] / 16, parent["median"]) * images / 6e4,
            "gb": bytes_per_image * images / 1e9,
        },
    }


SECTIONS: dict[str, Callable[[Amounts, Materials], Any]] = {
    "loaders": loaders,
    "decoders": decode,
    "large-set": large_set,
    "wait": wait,
    "packing": packing,
}


def main() -> None:
    """Run the sections, print their tables and write the result."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--section",
        action="append",
        metavar="SECTION",
        choices=list(SECTIONS),
        help="one of %(choices)s; may be repeated (default: all)",
    )
    parser.add_argument("--quick", action="store_true", help="tiny amounts: does everything work?")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "loader_throughput.json")
    args = parser.parse_args()

    amounts = QUICK if args.quick else Amounts()
    environment = common.environment()
    environment["versions"] |= decoders.versions("pillow", "simplejpeg", "h5py")
    result: dict[str, Any] = {
        "benchmark": "loader_throughput",
        "environment": environment,
        "amounts": asdict(amounts),
        "targets": TARGETS,
    }
    with tempfile.TemporaryDirectory() as folder:
        materials = Materials(Path(folder), amounts.photographs)
        for name in SECTIONS:
            if not args.section or name in args.section:
                result[name] = SECTIONS[name](amounts, materials)
    result["load_average_1_min_at_end"] = os.getloadavg()[0]
    common.write_json(args.out, result)


if __name__ == "__main__":
    main()
