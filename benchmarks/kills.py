"""What becomes of runs whose processes are killed, stopped or asked to end: `python benchmarks/kills.py`.

Each case starts a run of two ranks, under an mpirun of its own or by tmlauncher, and at a random moment, set-up and
end included, sends SIGKILL, SIGTERM, SIGINT or SIGSTOP to one of its processes: a rank, a loader process, mpirun, its
proxy, or tmlauncher. Then

gone       every process of the run has ended, after so many seconds (a stopped one holds the others up until
           `--stall-abort` ends them)
status     the exit status is not 0
named      what was printed names the process that got the signal, or says by which signal the run was stopped; of a
           process that the user had started, and of one through which all others speak, the exit status does
same       the run is resumed, or begun again where nothing was saved yet, and ends with the same bytes in its
           checkpoint and the same validations as a run that was left alone
left       MPI's segments in /dev/shm that were not there before and that no process uses, and files beside the run's
           own, after resuming; a run of somebody else's that crashes meanwhile is seen, too

With `--rule`, a run of four ranks by another rule than summed gradients has one of them killed by SIGKILL at so many
random moments of each rule, and every fifth of them is resumed. Of ranks that are not in step (EASGD, ASGD, GOSGD) no
run is the same twice: the resumed one has to come to its end, with every validation and what its checkpoint has of each
worker:

    python benchmarks/kills.py --rule EASGD ASGD GOSGD local swap --kills 20

Some signals do nothing, and that is right: a SIGTERM or SIGINT to a loader process alone, which is for its rank to
judge, or to hydra's proxy, which ignores them. Such a run is then stopped through its launcher. A run that is over, but
for its last lines, when the signal comes ends well; a process that was stopped then ends when it goes on.

The result is a JSON file under benchmarks/results/, written after each rule; the exit status is 1 if a case was not as
it must be.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import common

from theanompi.config import RunConfig, to_environment
from theanompi.record import checkpoint
from theanompi.record.folder import CHECKPOINT_FILE, LOG_FILE, RUN_FILES
from theanompi.record.log import read_log
from theanompi.system.segments import SHARED_MEMORY, left_behind

WAYS = ("tmlauncher", "mpirun")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP)
TARGETS = {
    "tmlauncher": ("rank", "loader", "mpirun", "proxy", "tmlauncher"),
    "mpirun": ("rank", "loader", "mpirun", "proxy"),
}
GONE = 10.0
STALL = 3.0
SETTLES = 20.0
RANKS, ITERATIONS, INTERVAL = 2, 400, 7
RULES: dict[str, dict[str, Any]] = {
    "EASGD": {"rule": "EASGD", "settings": {"rule.period": 2}},
    "ASGD": {"rule": "ASGD"},
    "GOSGD": {"rule": "GOSGD", "settings": {"rule.p": 0.5}},
    "local": {"sync_type": "avg", "settings": {"rule.period": 2}},
    "swap": {"sync_type": "swap", "modelclass": "Rivals", "base_lr": 0.001},
}
"""Rules other than the sum of gradients, with settings for exchanges that come often."""
ALONE = ("EASGD", "ASGD", "GOSGD")
"""Those whose ranks are not in step."""
RANKS_OF_RULES, ITERATIONS_OF_RULES, RESUMED_OF_RULES = 4, 100, 5
MARK = "KILLS_RUN"


class Case(NamedTuple):
    """A signal to a process of a run by a rule that was started in some way, `after` seconds."""

    way: str
    target: str
    signal: int
    after: float
    rule: str = "BSP"


class Process(NamedTuple):
    """A process of a run; `kind` is one of the targets."""

    pid: int
    kind: str


def settings(out: Path, rule: str, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """A small network with batch normalisation and dropout, whose checkpoints come often."""
    return {
        "settings": {},
        "modelfile": "small_models",
        "modelclass": "Normalised",
        "batch_size": 16,
        "epochs": 12,
        "max_iterations": ITERATIONS_OF_RULES if rule in RULES else ITERATIONS,
        "checkpoint_interval": INTERVAL,
        "stall_seconds": STALL,
        # A rank that is killed ends all without it.
        "stall_abort": rule not in RULES,
        "out": str(out),
        "resume": resume,
        "overwrite": overwrite,
        **RULES.get(rule, {}),
    }


def command(way: str, ranks: int, config: dict[str, Any]) -> list[str]:
    """How a user starts such a run."""
    if way == "mpirun":
        return [*common.mpirun(ranks), sys.executable, "-m", "theanompi.worker"]
    words = [str(Path(sys.executable).with_name("tmlauncher")), "-s", str(ranks)]
    names = {"modelfile": "-file", "modelclass": "-class"}
    config = dict(config)
    for name, value in config.pop("settings").items():
        words += ["--set", f"{name}={value}"]
    for name, value in config.items():
        flag = names.get(name, "--" + name.replace("_", "-"))
        words += [flag] * value if isinstance(value, bool) else [flag, str(value)]
    return words


def start(way: str, rule: str, mark: str, config: dict[str, Any], printed: Path) -> subprocess.Popen[bytes]:
    """Start a run by a rule, whose processes bear a mark."""
    ranks = RANKS_OF_RULES if rule in RULES else RANKS
    paths = [str(common.ROOT), str(common.ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        MARK: mark,
    }
    environ |= to_environment(RunConfig.from_dict({**config, "devices": ["cpu"]}), ["cpu"])
    with open(printed, "wb") as file:
        return subprocess.Popen(
            command(way, ranks, config), env=environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip


def processes(mark: str) -> Iterator[Process]:
    """The living processes of a run."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
            name = (folder / "comm").read_text(encoding="utf-8").strip()
            kind = "other"
            if name == "tmlauncher":
                kind = name
            elif name in ("mpirun", "mpiexec", "mpiexec.hydra", "prterun"):
                kind = "mpirun"
            elif name in ("hydra_pmi_proxy", "prted"):
                kind = "proxy"
            elif b"theanompi.data.reading.process" in words:
                kind = "loader"
            elif b"theanompi.worker" in words:
                kind = "rank"
            yield Process(int(folder.name), kind)


def wait_until_gone(mark: str, seconds: float) -> float | None:
    """Wait for the end of a run's processes; gives how long it took, None if some are still there."""
    begin = time.monotonic()
    while any(True for _ in processes(mark)):
        if time.monotonic() - begin > seconds:
            return None
        time.sleep(0.05)
    return time.monotonic() - begin


def left_in_shared_memory(before: set[str]) -> list[str]:
    """The names of MPI's segments that were not there before and that no process uses, now and for a while.

    One of another run may be seen unused for a moment, as it is made or as its run ends.
    """
    found, end = set(left_behind()) - before, time.monotonic() + SETTLES
    while found and time.monotonic() < end:
        time.sleep(0.5)
        found &= set(left_behind())
    return sorted(found)


def hit(case: Case, mark: str, run: subprocess.Popen[bytes], rng: random.Random) -> Process | None:
    """Send the case's signal at its moment, or as soon as there is such a process; None if there was none."""
    time.sleep(case.after)
    while run.poll() is None:
        found = [process for process in processes(mark) if process.kind == case.target]
        if found:
            chosen = rng.choice(sorted(found))
            with suppress(ProcessLookupError):
                os.kill(chosen.pid, case.signal)
                return chosen
        time.sleep(0.01)
    return None


def named(case: Case, process: Process, printed: str, status: int) -> bool:
    """Whether the user can tell from what was printed, or from the status, what has ended the run."""
    text = printed + f" {signal.Signals(case.signal).name}" * (status == -case.signal)
    if case.target == case.way or (case.target == "proxy" and case.way == "mpirun"):
        return status != 0
    if case.rule in RULES:
        # Of several ranks one may be named that mpirun has killed after the first.
        return "KILL" in text.upper() and status != 0
    if case.signal in (signal.SIGTERM, signal.SIGINT):
        asked = signal.Signals(case.signal).name in text or "SIGUSR1" in text
        return asked or str(process.pid) in text
    return str(process.pid) in text


def try_case(case: Case, number: int, reference: Path, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Do one case; gives what was seen."""
    out, printed, mark = folder / f"run{number}", folder / f"run{number}.txt", f"{os.getpid()}-{number}"
    seen: dict[str, Any] = {
        "rule": case.rule,
        "way": case.way,
        "target": case.target,
        "signal": signal.Signals(case.signal).name,
    }
    before = {file.name for file in SHARED_MEMORY.iterdir()}
    run = start(case.way, case.rule, mark, settings(out, case.rule), printed)
    process = hit(case, mark, run, rng)
    if process is None:
        wait_until_gone(mark, GONE)
        return {**seen, "hit": False, "status": run.wait()}
    begin = time.monotonic()
    if case.target in ("loader", "proxy") and case.signal in (signal.SIGTERM, signal.SIGINT):
        seen["went_on"] = wait_until_gone(mark, 1.0) is None
        if seen["went_on"]:
            with suppress(ProcessLookupError):
                os.kill(run.pid, signal.SIGTERM)
            case = case._replace(target=case.way, signal=signal.SIGTERM)
    gone = wait_until_gone(mark, GONE)
    if gone is None and complete(out) and case.signal == signal.SIGSTOP:
        # Nobody ends a process that is stopped when its run is over.
        begin = time.monotonic()
        os.kill(process.pid, signal.SIGCONT)
        gone = wait_until_gone(mark, GONE)
    seen["gone_s"] = gone and time.monotonic() - begin
    for left in list(processes(mark)):
        with suppress(ProcessLookupError):
            os.kill(left.pid, signal.SIGKILL)
    status = run.wait()
    text = printed.read_text(encoding="utf-8", errors="replace")
    seen |= {
        "hit": True,
        "status": status,
        "named": named(case, process, text, status),
        "traceback": "Traceback" in text,
    }
    seen["complete"] = complete(out)
    seen["saved"] = (out / CHECKPOINT_FILE).exists()
    if case.rule not in RULES or number % RESUMED_OF_RULES == 0:
        seen |= resumed(case.rule, mark, reference, out, folder / f"again{number}.txt", before)
    return seen


def resumed(
    rule: str, mark: str, reference: Path, out: Path, printed: Path, before: set[str]
) -> dict[str, Any]:
    """Resume a run, or begin it again where nothing was saved; gives what it has come to and what is left over."""
    saved = (out / CHECKPOINT_FILE).exists()
    config = settings(out, rule, resume=saved, overwrite=not saved)
    status = start("tmlauncher", rule, mark, config, printed).wait()
    return {
        "resume_status": status,
        "same": status == 0 and outcome(out, rule) == outcome(reference, rule),
        "left_in_shm": left_in_shared_memory(before),
        "left_beside": sorted({path.name for path in out.iterdir()} - set(RUN_FILES)),
    }


def complete(out: Path) -> bool:
    """Whether a run has come to its end."""
    return (out / LOG_FILE).exists() and any(r["kind"] == "summary" for r in read_log(out / LOG_FILE))


def outcome(out: Path, rule: str) -> Any:
    """What a run has come to: the bytes of its checkpoint, and its validations.

    Of ranks that are not in step: what the checkpoint has, and which validations there were.
    """
    validations = [r for r in read_log(out / LOG_FILE) if r["kind"] == "val"]
    if rule not in ALONE:
        return (out / CHECKPOINT_FILE).read_bytes(), validations
    arrays, attributes = checkpoint.load(out / CHECKPOINT_FILE)
    return list(arrays), attributes["iteration"], [(r["iteration"], r["items"]) for r in validations]


def wrong(seen: dict[str, Any]) -> list[str]:
    """What was not as it must be."""
    if not seen["hit"]:
        return ["it failed by itself"] * bool(seen["status"])
    checks = {
        "processes left": seen["gone_s"] is not None,
        "status 0": seen["status"] != 0 or seen["complete"],
        "not named": seen["named"] or seen["complete"],
        "a traceback": not seen["traceback"],
    }
    if "same" in seen:
        checks |= {
            "other weights": seen["same"],
            "files in /dev/shm": not seen["left_in_shm"],
            "files beside": not seen["left_beside"],
        }
    return [what for what, right in checks.items() if not right]


def summary(of: list[dict[str, Any]]) -> dict[str, Any]:
    """Of a rule's cases how many met a process, of these how many a run that had saved, and how soon all were gone."""
    hits = [seen for seen in of if seen["hit"]]
    return {
        "n": len(of),
        "hits": len(hits),
        "saved": sum(seen["saved"] for seen in hits),
        "resumed": sum("same" in seen for seen in hits),
        "gone_s": common.spread([seen["gone_s"] for seen in hits if seen["gone_s"] is not None]),
        "wrong": sum(bool(seen["wrong"]) for seen in of),
    }


def cases(n: int, rng: random.Random, ways: list[str], seconds: float) -> Iterator[Case]:
    """So many cases: every signal to every target in turn, at random moments of a run that takes so many seconds."""
    kinds = [(way, target, number) for way in ways for target in TARGETS[way] for number in SIGNALS]
    while n > 0:
        rng.shuffle(kinds)
        for way, target, number in kinds[:n]:
            yield Case(way, target, number, rng.uniform(0, seconds))
        n -= len(kinds)


def cases_of_rule(
    n: int, rng: random.Random, ways: list[str], rule: str, seconds: float, results: list[dict[str, Any]]
) -> Iterator[Case]:
    """Cases of a rule, one of whose ranks is killed at a random moment, until so many of the results are hits.

    A run that had ended before its moment makes the moments after it earlier.
    """
    while (hits := sum(seen["hit"] for seen in results if seen["rule"] == rule)) < n:
        yield Case(ways[hits % len(ways)], "rank", signal.SIGKILL, rng.uniform(0, seconds), rule)
        seconds *= 1.0 if results[-1]["hit"] else 0.9


def main() -> int:
    """Run the cases, print a table and write the JSON."""
    # Which is ignored, here and in all that is started, where a shell has started this in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parser = common.parser(__doc__)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="how many (default: 100)")
    parser.add_argument(
        "--rule",
        nargs="+",
        metavar="RULE",
        choices=list(RULES),
        default=[],
        help="kill ranks under other rules, N times for each: %(choices)s",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--out", type=Path, help="(default: results/kills.json, with --rule kills_rules.json)"
    )
    args = parser.parse_args()
    rng = random.Random(args.seed)
    results, by_rule = list[dict[str, Any]](), dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rule in args.rule or ["BSP"]:
            begin = time.monotonic()
            reference, printed = folder / f"reference-{rule}", folder / f"reference-{rule}.txt"
            mark = f"{os.getpid()}-reference-{rule}"
            if start("tmlauncher", rule, mark, settings(reference, rule), printed).wait():
                raise SystemExit(printed.read_text(encoding="utf-8"))
            seconds = time.monotonic() - begin
            print(f"{rule}: a run that is left alone takes {seconds:.1f} s", flush=True)
            drawn = (
                cases_of_rule(args.kills, rng, args.ways, rule, 0.8 * seconds, results)
                if rule in RULES
                else cases(args.kills, rng, args.ways, 0.8 * seconds)
            )
            for case in drawn:
                number = len(results)
                seen = try_case(case, number, reference, folder, rng)
                results.append(seen | {"after_s": case.after, "wrong": wrong(seen)})
                gone, problems = seen.get("gone_s"), results[-1]["wrong"]
                how = "still there" if gone is None else f"gone after {gone:.1f} s"
                line = (
                    f"{number + 1:4} {case.way:10} {seen['signal']:7} to {case.target:10} after {case.after:5.1f} s: "
                    f"{how if seen['hit'] else 'had ended before'}, status {seen['status']}"
                )
                print(line + f"; WRONG: {', '.join(problems)}" * bool(problems), flush=True)
                for file in (folder / f"run{number}.txt", folder / f"again{number}.txt"):
                    if problems and file.exists():
                        print(file.read_text(encoding="utf-8", errors="replace"), flush=True)
            row = summary([seen for seen in results if seen["rule"] == rule])
            gone = row["gone_s"]
            print(
                f"{rule}: {row['hits']} of {row['n']} hit, {row['saved']} of them with a checkpoint, {row['resumed']} "
                f"resumed; gone after {gone['median']:.2f} s (IQR {gone['iqr']:.2f}, {max(gone['samples']):.2f} at "
                f"most), {row['wrong']} not as they must be",
                flush=True,
            )
            by_rule[rule] = row
            report = {
                "benchmark": "kills",
                "unit": "seconds from the signal until every process of the run has ended",
                "seed": args.seed,
                "environment": common.environment(),
                "rules": by_rule,
                "cases": results,
                "wrong": sum(row["wrong"] for row in by_rule.values()),
            }
            common.write_json(args.out or common.RESULTS / f"kills{'_rules' * bool(args.rule)}.json", report)
    return int(any(row["wrong"] for row in by_rule.values()))


if __name__ == "__main__":
    sys.exit(main())
