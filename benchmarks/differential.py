"""Random graphs by us and by PyTensor's own interpreter: `python benchmarks/differential.py --graphs 5000 --seed 0`.

The graphs are drawn, by a seed, from a grammar over every op that a user of PyTensor's tensor API can write
(`tests/graph_rules.py`), with their gradients and updates of shared variables. By op, it counts

equal       in every value, dtype and shape, integers and NaN too; floats to a tolerance (`tests/graph_judge.py`)
refused     when it is compiled, in one line that names an op
both raise  PyTensor's interpreter too
different   anything else: another value, or an error where the other has a value

The last must be 0, else the exit status is 1; what differs is printed as the least program that shows it, one line
of Python. The result is a JSON file under benchmarks/results/.
"""

import collections
import os
import resource
import sys
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import common
import torch
from graph_grammar import Program
from graph_judge import VERDICTS, Finding, Verdict, examine, interpreter
from graph_rules import RULES, dealt, draw

BATCH = 10
"""Graphs of one task."""
MEMORY = 6 << 30
"""Bytes that a process may have: what needs more is told, and nothing is killed, for which the others would wait."""


@dataclass(frozen=True)
class Graph:
    """What became of a graph: its verdict, why it is equal if not at once, its rules and what was found."""

    number: int
    verdict: str
    why: str
    drawn: tuple[str, ...]
    findings: tuple[Finding, ...]
    rest: tuple[str, ...]


def look(seed: int, number: int) -> Graph | None:
    """Draw a graph and judge it; None if nothing came of the drawing."""
    with interpreter():
        program = draw(seed, number)
    if not program.lines:
        return None
    verdict, findings, rest = examine(program)
    return Graph(
        number,
        verdict.kind,
        verdict.about if verdict.kind == "equal" else "",
        tuple(line.rule for line in program.lines),
        tuple(findings),
        tuple(line.rule for line in rest.lines),
    )


def look_at(seed: int, numbers: range) -> list[Graph | None]:
    """Judge some graphs in this process; one that our own programs fail at is told among what differs."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found = []
    for number in numbers:
        try:
            found.append(look(seed, number))
        except Exception as error:
            verdict = Verdict(
                "different", f"the drawing or the judge failed: {type(error).__name__}: {error}"
            )
            rules = dealt(seed, number)
            finding = Finding(verdict, rules[0], Program())
            found.append(Graph(number, verdict.kind, "", tuple(rules), (finding,), ()))
    return found


def show(title: str, counts: dict[str, collections.Counter[str]]) -> None:
    """Print a table."""
    print(f"{title:<36}{'drawn':>8}" + "".join(f"{verdict:>12}" for verdict in VERDICTS))
    for name, found in counts.items():
        print(f"{name:<36}{found['drawn']:>8,}" + "".join(f"{found[verdict]:>12,}" for verdict in VERDICTS))
    sys.stdout.flush()


def measure(graphs: int, seed: int, jobs: int) -> dict[str, Any]:
    """Judge the graphs, print the table, and return it.

    Parameters
    ----------
    graphs : int
        How many.
    seed : int
    jobs : int
        Processes at once.
    """
    begin = time.perf_counter()
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in sorted(RULES)}
    whole: collections.Counter[str] = collections.Counter()
    refusals: collections.Counter[str] = collections.Counter()
    different: dict[tuple[str, str], dict[str, Any]] = {}
    explained: dict[str, list[int]] = {"by rewrites": [], "by rounding or dtype": []}
    batches = [range(first, min(first + BATCH, graphs)) for first in range(0, graphs, BATCH)]
    # Not concurrent.futures, whose processes may wait for ever once one has done its share (CPython issue 115634).
    with get_context("forkserver").Pool(jobs, maxtasksperchild=40) as pool:
        for graph in (g for found in pool.imap_unordered(partial(look_at, seed), batches) for g in found):
            if graph is None:
                continue
            whole["drawn"] += 1
            whole[graph.verdict] += 1
            if graph.why:
                explained[graph.why].append(graph.number)
            for rule in graph.drawn:
                counts[rule]["drawn"] += 1
            for rule in graph.rest:
                counts[rule]["equal"] += 1
            for finding in graph.findings:
                verdict, rule = finding.verdict, finding.rule
                counts[rule][verdict.kind] += 1
                if verdict.kind == "refused":
                    refusals[verdict.about] += 1
                elif verdict.kind == "different":
                    key = (rule, verdict.about[:30])
                    if key not in different:
                        print(
                            f"{rule}, graph {graph.number}: {verdict.about}\n    {finding.program.text()}",
                            flush=True,
                        )
                        different[key] = {
                            "op": rule,
                            "graph": graph.number,
                            "about": verdict.about,
                            "program": finding.program.text(),
                            "times": 0,
                        }
                    different[key]["times"] += 1
    seconds = time.perf_counter() - begin
    show("op", counts)
    show("graphs", {"in all": whole})
    for message, n in refusals.most_common():
        print(f"refused {n} times: {message}")
    for why, numbers in explained.items():
        print(f"equal {why}: {len(numbers):,} graphs")
    print(f"{whole['drawn']:,} graphs in {seconds:.0f} s; seed {seed}; {whole['different']} with differences")
    return {
        "seed": seed,
        "seconds": seconds,
        "graphs": {name: whole[name] for name in ("drawn", *VERDICTS)},
        "equal_not_at_once": {why: sorted(numbers) for why, numbers in explained.items()},
        "ops": {name: {key: found[key] for key in ("drawn", *VERDICTS)} for name, found in counts.items()},
        "refusals": dict(refusals.most_common()),
        "different": list(different.values()),
    }


def main() -> int:
    """Judge, print, write; 1 if something is different."""
    parser = common.parser(__doc__)
    parser.add_argument("--graphs", type=int, default=5_000, help="(default: 5,000)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="(default: one per core)"
    )
    parser.add_argument("--out", type=Path, default=common.RESULTS / "differential.json")
    args = parser.parse_args()
    report = measure(args.graphs, args.seed, args.jobs)
    common.write_json(args.out, {"benchmark": "differential", "environment": common.environment(), **report})
    return int(bool(report["different"] or report["graphs"]["different"]))


if __name__ == "__main__":
    sys.exit(main())
