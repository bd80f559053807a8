"""Each network of the zoo, small, against plain torch of the same network: `python benchmarks/zoo.py`.

``train``: each is trained to an end with the defaults of its class, by us and by plain torch from the same initial
weights (the same optimizer, schedule, decay and numbers of batches; orders and dropout are each one's own). What is set
otherwise is in the table `zoo_child.CASES`: epochs, with which the schedule shrinks, the size of a minibatch, with
which the rate goes where the defaults say so, the number of filters, and the size of pictures and texts.

``speed``: training steps in turn, in short bursts, the order reversed every round; what counts is the median of ratios
of the same round. Ours has its loader, its exchange, its schedule and its metrics. ``torch`` is eager, in the memory
layout that is faster, with fused or ``foreach`` optimizers and a `DataLoader` of one process; ``memory`` is the same
with batches cut from memory. One thread each.

``ops``: milliseconds of a step of ours on its core, and how many of them each kind of op takes. What is not of an op is
the run's own: the loader's batch, the exchange, the schedule, and Python between the ops.

The result is a JSON file under benchmarks/results/; a part, or a network, that is run again replaces what was there.
``--page`` puts the tables into docs/zoo.md; with ``--parts`` and nothing after it, those of the results that there are.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import common
import numpy as np
from zoo_child import CASES, class_of, settings_of

from theanompi.config import RunConfig, resolve
from theanompi.data import open_pictures, write_dataset
from theanompi.data.store.schema import Split
from theanompi.training.schedules import make_schedule

PAGE = common.ROOT / "docs" / "zoo.md"
PICTURE = PAGE.with_name("zoo_wgan.png")
TRAINING, VALIDATION = 1408, 360


def write_digits(path: Path) -> None:
    """Write the packaged digits, as many as make whole batches, without augmentation."""
    with open_pictures("digits") as digits:
        splits: tuple[tuple[Split, int], ...] = (("train", TRAINING), ("val", VALIDATION))
        train, val = (
            (np.stack([digits.pixels(split, i) for i in range(n)]), digits.labels(split)[:n])
            for split, n in splits
        )
        write_dataset(
            *(path, train, val),
            name="digits",
            class_names=digits.class_names,
            augmentation="none",
            description="The packaged digits.",
            source=digits.source,
            licence=digits.licence,
        )


def said(*words: str) -> list[dict[str, Any]]:
    """What a process of `zoo_child.py` says."""
    done = subprocess.run(
        [sys.executable, str(common.ROOT / "benchmarks" / "zoo_child.py"), *words],
        env=common.child_environment(1),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{words[1]}: exited with {done.returncode}\n{done.stderr[-3000:]}")
    lines = [line.partition(common.MARK)[2] for line in done.stdout.splitlines()]
    return [json.loads(line) for line in lines if line]


def trained(name: str, data: Path, seeds: int, picture: Path | None) -> list[dict[str, Any]]:
    """What a process says that trains a network by both, a seed each."""
    words = ["train", name, "--data", str(data), "--seeds", str(seeds)]
    if picture and name == "WGAN":
        words += ["--picture", str(picture)]
    runs = said(*words)
    took = (
        f"{who} {of(runs, who)} in {sum(run[f'{who}_s'] for run in runs):.0f} s" for who in ("ours", "torch")
    )
    print(f"{name:<16}{', '.join(took)}", flush=True)
    return runs


def by_op(name: str, data: Path) -> dict[str, Any]:
    """Milliseconds of a step of ours, and of each kind of op in it."""
    (report,) = said("ops", name, "--data", str(data))
    print(f"{name:<16}{report['step']:.2f} ms a step, {sum(report['ops'].values()):.2f} in ops", flush=True)
    return report


def timed(name: str, data: Path, rounds: int, burst_s: float) -> dict[str, Any]:
    """Items per second of all three: a `common.compare` report; of texts the items are tokens."""
    case, kinds = CASES[name], ("ours", "torch", "memory")
    started: dict[str, common.Contender] = {}

    def start(kind: str) -> None:
        words = [kind, name, "--data", str(data)]
        started[kind] = common.Contender(kind, "zoo_child.py", words, ranks=1, threads=1)

    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(start, kinds))
        items = case.batch_size * (case.size if case.data != "digits" else 1)
        report = common.compare([started[kind] for kind in kinds], rounds, burst_s, items)
    finally:
        for contender in started.values():
            contender.close()
    common.print_comparison(name, report)
    return report


# The page.


def plus_minus(values: Sequence[float]) -> str:
    """Mean and standard deviation, with digits that the deviation leaves meaning.

    >>> plus_minus([1.0, 2.0, 3.0]), plus_minus([40.0, 60.0])
    ('2.00 ± 1.00', '50.0 ± 14.1')
    """
    digits = 1 if mean(values) >= 10 else 2
    return f"{mean(values):.{digits}f} ± {stdev(values) if len(values) > 1 else 0:.{digits}f}"


def of(runs: Sequence[Mapping[str, float]], key: str) -> str:
    """`plus_minus` over the seeds."""
    return plus_minus([run[key] for run in runs])


def recipe(name: str) -> str:
    """Optimizer, first rate and schedule as a run has them."""
    model = class_of(name)
    given = {key: value for key, value in settings_of(name, Path("x.h5"), 0).items() if key != "verbose"}
    run = resolve(RunConfig.from_dict(given), model.defaults, model=name)
    schedule = make_schedule(run, minibatch=CASES[name].batch_size, iterations_per_epoch=1)
    optimizer = run.optimizer if run.optimizer != "momentum" or run.momentum else "SGD"
    return f"{optimizer}, {schedule(0):.3g}{' (set)' * bool(CASES[name].base_lr)}, {run.schedule}"


def sizes(name: str) -> str:
    """What makes a network small."""
    case, model = CASES[name], class_of(name)
    own: Mapping[str, Any] = vars(model).get("architecture", {}) if model.__name__ != name else {}
    told = {key: value for key, value in own.items() if key not in ("configuration", "depth", "small")}
    told |= {key.partition(".")[2]: value for key, value in case.settings.items()}
    return ", ".join(f"{key} {str(value).strip('()')}" for key, value in told.items())


def row(*cells: object) -> str:
    """A line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(titles: Sequence[str], rows: Iterable[str]) -> str:
    """A table in Markdown."""
    return "\n".join([row(*titles), row(*["---"] * len(titles)), *rows])


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """The tables of the page, by name."""
    runs_of, reports = (result.get(part, {}).get("networks", {}) for part in ("train", "speed"))
    head = ("network", "small by", "items of", "epochs × updates of n", "optimizer, rate, schedule")

    def about(name: str) -> list[object]:
        case, run = CASES[name], runs_of[name][0]
        unit = "pixels" if case.data == "digits" else "tokens"
        runs = f"{run['epochs']} × {run['updates'] // run['epochs']} of {case.batch_size}"
        return [name, sizes(name), f"{case.size} {unit}", runs, recipe(name)]

    groups: dict[str, list[str]] = {"errors": [], "energies": []}
    for name, runs in runs_of.items():
        both = [of(runs, "ours"), of(runs, "torch")]
        groups["energies" if "data" in runs[0] else "errors"].append(row(*about(name), *both))

    def speed(report: Mapping[str, Any]) -> Iterator[str]:
        yield from (f"{report[who]['images_per_s']['median']:,.0f}" for who in ("ours", "memory", "torch"))
        for ratio in (report[who]["ratio"] for who in ("memory", "torch")):
            yield f"{ratio['median']:.2f} ± {ratio['iqr'] / 2:.2f}"

    columns = (
        "ours",
        "torch from memory",
        "torch with DataLoader",
        "ours / from memory",
        "ours / DataLoader",
    )
    return {
        "errors": table((*head, "ours", "torch"), groups["errors"]),
        "energies": table((*head, "ours", "torch"), groups["energies"]),
        "distances": distances(runs_of),
        "ops": slower(result),
        "speeds": table(("network", *columns), (row(name, *speed(reports[name])) for name in reports)),
    }


def slower(result: Mapping[str, Any], shown: int = 6) -> str:
    """Where the time of a step goes, in networks that are slower than torch with its `DataLoader`."""
    reports, parts = (result.get(part, {}).get("networks", {}) for part in ("speed", "ops"))
    rows = []
    for name, part in parts.items():
        if name in reports and reports[name]["torch"]["ratio"]["median"] < 1:
            most = list(part["ops"].items())[:shown]
            shares = (f"{op} {ms / part['step']:.0%}" for op, ms in most)
            no_op = 1 - sum(part["ops"].values()) / part["step"]
            rows.append(row(name, f"{part['step']:.1f}", ", ".join(shares), f"{no_op:.0%}"))
    return table(("network", "ms a step", "kinds of op that take most of it", "no op"), rows)


def distances(runs_of: Mapping[str, Any]) -> str:
    """The critics' estimates in the course of training, means over seeds and fortieths of the updates."""
    parts = (1, 3, 5, 10, 20, 30, 40)
    rows = [
        row(name, who, *(f"{mean(run[key][i - 1] for run in runs_of[name]):.3f}" for i in parts))
        for name in ("WGAN", "WGAN_GP")
        if name in runs_of
        for who, key in (("ours", "distance"), ("torch", "distance_by_torch"))
    ]
    return table(("network", "", *(f"{100 * i / 40:g} %" for i in parts)), rows)


def write_page(result: dict[str, Any]) -> None:
    """Put the tables into the page, between the comments that name them."""
    text = PAGE.read_text(encoding="utf-8")
    for name, made in tables(result).items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + made + end + after
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the parts that are asked for, and write what came of them."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME",
        choices=CASES,
        default=list(CASES),
        help="(default: all)",
    )
    parser.add_argument(
        "--parts",
        nargs="*",
        choices=["train", "speed", "ops"],
        default=["train", "speed", "ops"],
        help="(default: all)",
    )
    parser.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--rounds", type=int, default=8, help="bursts of each contender (default: 8)")
    parser.add_argument("--burst-seconds", type=float, default=0.4, help="about how long (default: 0.4)")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "zoo.json")
    parser.add_argument(
        "--page", action="store_true", help="write the tables into docs/zoo.md, and its picture"
    )
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "zoo"}
    if args.out.exists():
        result = json.loads(args.out.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "digits.h5")
        write_digits(data)
        parts: dict[str, tuple[int, Callable[[str], Any]]] = {
            "train": (
                2,
                partial(trained, data=data, seeds=args.seeds, picture=PICTURE if args.page else None),
            ),
            "speed": (1, partial(timed, data=data, rounds=args.rounds, burst_s=args.burst_seconds)),
            "ops": (1, partial(by_op, data=data)),
        }
        for part in args.parts:
            at_once, do = parts[part]
            found = result.setdefault(part, {})
            found["environment"] = common.environment()
            with ThreadPoolExecutor(at_once) as pool:
                for name, one in zip(args.models, pool.map(do, args.models), strict=True):
                    networks = {**found.get("networks", {}), name: one}
                    found["networks"] = {known: networks[known] for known in CASES if known in networks}
                    args.out.write_text(
                        json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
                    )
            found["environment"]["load_average_1_min_at_end"] = os.getloadavg()[0]
            common.write_json(args.out, result)
    if args.page:
        write_page(result)


if __name__ == "__main__":
    main()
