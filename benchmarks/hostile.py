"""What becomes of inputs that are wrong: `python benchmarks/hostile.py`.

Thousands of inputs of every kind that a user can give are damaged at random, by a seed, and read by this package as
a run or a tool would read them, each in a process with little memory and little time. By kind, it counts

refused     in one line of at most 300 characters, with everything left as it was
accepted    and read to the end
traceback   any exception but that line, several lines, or a crash
past limit  of memory or time
too long    a line of more than 300 characters
damage      accepted, and other values than the undamaged file has, where checksums could tell; or refused, and
            a file is not as it was before

The kinds "trees of …" are what people have on their disks, and `tmpack` must pack of it exactly what is right: hidden
folders, links, other spellings of names, what systems leave in archives, labels from 1 on, files of every age. Other
images, other labels, or what must be refused and is not, count as damage. They alone: `--kinds trees`.

The last four verdicts must be 0, else the exit status is 1. A sample of the refused inputs also goes through the real
commands. What kinds there are is in `hostile_kinds`. The result is a JSON file under benchmarks/results/.
"""

import collections
import contextlib
import io
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

import common
from hostile_kinds import KINDS, Input, Kind

VERDICTS = ("refused", "accepted", "traceback", "past limit", "too long", "damage")
FORBIDDEN = VERDICTS[2:]
SECONDS = 10.0
"""That one input may take."""
MEMORY = 2**30
"""Bytes that one input may take, beside what the process has."""
MOST_LINE = 300
BATCH = 100
"""Inputs of one process."""
NOBODY = 65534

_fork = multiprocessing.get_context("fork")


class PastLimit(BaseException):
    """The time of an input is over."""


@dataclass
class Case:
    """What became of an input: `about` says it in a line."""

    kind: str
    number: int
    verdict: str
    about: str = ""
    words: list[str] = field(default_factory=list)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """All files of a folder, and what is in them."""
    found: dict[str, bytes | None] = {}
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(at, name)
            found[path] = Path(path).read_bytes() if os.path.isfile(path) else None
    return found


def beyond(error: BaseException) -> bool:
    """Whether an exception comes from a limit, be it that it was caught and made a line of."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, PastLimit):
            return True
        if isinstance(at, MemoryError):
            last = traceback.extract_tb(at.__traceback__)[-1:]
            # Python's parser says so of what is nested too deeply, however much memory there is.
            if not last or Path(last[0].filename).name != "ast.py":
                return True
        at = at.__cause__ or at.__context__
    return False


def judge(kind: Kind, given: Input, folder: Path) -> tuple[str, str]:
    """Read an input, and say what became of it: a verdict, and a line about it."""
    before = snapshot(folder)
    printed, refused = io.StringIO(), None
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        try:
            result = given.call()
            if kind.command and result:
                refused = printed.getvalue()
        except PastLimit:
            return "past limit", "time"
        except MemoryError as error:
            return "past limit", repr(error)
        except SystemExit as error:
            result = error.code
            if error.code:
                refused = printed.getvalue()
            if beyond(error):
                return "past limit", printed.getvalue()
        except Exception as error:
            if kind.command or not isinstance(error, ValueError | OSError):
                return "traceback", f"{type(error).__name__}: {error}"
            if beyond(error):
                return "past limit", f"{error}"
            # As `theanompi.training.ranks.agree` and `tmpack` print it.
            refused = kind.printed(error)
    if refused is None:
        if given.good is not None and result != given.good:
            return "damage", f"accepted with other values: {str(result)[:200]}"
        return "accepted", ""
    line = refused.strip("\n")
    if "\n" in line or not line:
        return "traceback", f"expected one line, got {line!r}"
    if len(line) > MOST_LINE:
        return "too long", f"{len(line)} characters: {line}"
    if snapshot(folder) != before:
        return "damage", f"refused, with other files than before: {line}"
    return "refused", line


def look(name: str, numbers: range, seed: int, parent: Connection) -> None:
    """Judge some inputs of a kind in this process, and tell the parent."""
    kind = KINDS[name]
    top = Path(tempfile.mkdtemp(prefix="hostile-"))
    folder = top / "here"
    environ = dict(os.environ)
    try:
        # First of all: another user may not even see Python's own files.
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        if kind.unprivileged and os.geteuid() == 0:
            # root may enter any folder.
            os.chown(top, NOBODY, NOBODY)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)

        def over(number: int, frame: FrameType | None) -> None:
            raise PastLimit

        signal.signal(signal.SIGALRM, over)
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        for number in numbers:
            folder.mkdir()
            os.chdir(folder)
            rng = random.Random(f"{seed}/{name}/{number}")
            given = kind.make(rng, folder)
            parent.send((number, None))
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                verdict, about = judge(kind, given, folder)
            except PastLimit:
                verdict, about = "past limit", "time"
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            os.environ.clear()
            os.environ.update(environ)
            os.chdir(top)
            for locked in folder.glob("locked*"):
                locked.chmod(0o700)
            shutil.rmtree(folder)
            parent.send((number, Case(name, number, verdict, about, given.words)))
    finally:
        shutil.rmtree(top, ignore_errors=True)
        parent.close()


@dataclass
class Batch:
    """Some inputs of a kind, in a process of their own."""

    name: str
    numbers: range
    process: Any
    connection: Connection
    heard: float
    at: int | None = None


def start(name: str, numbers: range, seed: int) -> Batch:
    """Begin a batch."""
    ours, theirs = _fork.Pipe(duplex=False)
    process = _fork.Process(target=look, args=(name, numbers, seed, theirs))
    process.start()
    theirs.close()
    return Batch(name, numbers, process, ours, time.monotonic())


def cases(shares: dict[str, int], seed: int, jobs: int) -> Iterator[Case]:
    """Judge so many inputs of each kind, in several processes at once.

    Parameters
    ----------
    shares : dict of str to int
        By kind, how many.
    seed : int
    jobs : int
        Processes at once.
    """
    todo = [
        (name, range(first, min(first + BATCH, n)))
        for name, n in shares.items()
        for first in range(0, n, BATCH)
    ]
    running: list[Batch] = []
    while todo or running:
        while todo and len(running) < jobs:
            running.append(start(*todo.pop(0), seed))
        ready = wait([batch.connection for batch in running], timeout=1)
        for batch in list(running):
            ended = False
            if batch.connection in ready:
                try:
                    number, case = batch.connection.recv()
                    batch.heard, batch.at = time.monotonic(), number
                    if case is not None:
                        batch.at = None
                        batch.numbers = range(number + 1, batch.numbers.stop)
                        yield case
                except EOFError:
                    ended = True
            elif time.monotonic() - batch.heard > 3 * SECONDS:
                # Stuck where no signal of Python's comes through.
                batch.process.kill()
                ended = True
            if ended:
                batch.process.join()
                running.remove(batch)
                if batch.at is not None:
                    how = "past limit" if batch.process.exitcode == -signal.SIGKILL else "traceback"
                    yield Case(batch.name, batch.at, how, f"the process ended with {batch.process.exitcode}")
                    todo.insert(0, (batch.name, range(batch.at + 1, batch.numbers.stop)))
                elif batch.numbers:
                    raise RuntimeError(f"{batch.name}: making input {batch.numbers.start} failed, see above")


def shares(inputs: int, pattern: str = "") -> dict[str, int]:
    """Share inputs out among the kinds whose names have a regular expression in them."""
    chosen = {name: kind for name, kind in KINDS.items() if re.search(pattern, name)}
    whole = sum(kind.share for kind in chosen.values())
    return {name: -(-inputs * kind.share // whole) for name, kind in chosen.items()}


def real(case: Case, seed: int) -> Case:
    """Give an input to the real command, which must refuse it too."""
    kind = KINDS[case.kind]
    with tempfile.TemporaryDirectory(prefix="hostile-") as top:
        folder = Path(top, "here")
        folder.mkdir()
        environ, here = dict(os.environ), Path.cwd()
        os.chdir(folder)
        try:
            given = kind.make(random.Random(f"{seed}/{case.kind}/{case.number}"), folder)
            changed = {**os.environ, "PYTHONPATH": str(common.ROOT)}
        finally:
            os.chdir(here)
            os.environ.clear()
            os.environ.update(environ)
        before = snapshot(folder)
        code = f"import sys; from {kind.command} import main; sys.exit(main())"
        try:
            ended = subprocess.run(
                [sys.executable, "-c", code, *given.words],
                cwd=folder,
                env=changed,
                capture_output=True,
                timeout=6 * SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Case(case.kind, case.number, "past limit", "time")
        line = ended.stderr.decode(errors="replace").strip("\n")
        verdict, about = "refused", line
        if ended.returncode not in (1, 2) or "\n" in line or not line:
            verdict, about = "traceback", f"exit status {ended.returncode}: {line[-500:]}"
        elif len(line) > MOST_LINE:
            verdict = "too long"
        elif snapshot(folder) != before:
            verdict = "damage"
        return Case(case.kind, case.number, verdict, about)


def show(counts: dict[str, collections.Counter[str]]) -> None:
    """Print the table."""
    print(f"{'kind':<24}" + "".join(f"{verdict:>12}" for verdict in VERDICTS))
    total: collections.Counter[str] = collections.Counter()
    for name, found in counts.items():
        total += found
        print(f"{name:<24}" + "".join(f"{found[verdict]:>12,}" for verdict in VERDICTS))
    print(f"{'in all':<24}" + "".join(f"{total[verdict]:>12,}" for verdict in VERDICTS), flush=True)


def measure(inputs: int, sample: int, seed: int, jobs: int, pattern: str = "") -> dict[str, Any]:
    """Judge the inputs and the sample, print the tables, and return them."""
    begin = time.perf_counter()
    counts = {name: collections.Counter[str]() for name in shares(inputs, pattern)}
    failures: list[Case] = []
    refused: list[Case] = []
    for case in cases(shares(inputs, pattern), seed, jobs):
        counts[case.kind][case.verdict] += 1
        if case.verdict in FORBIDDEN:
            failures.append(case)
            print(f"{case.kind} {case.number}: {case.verdict}: {case.about[:500]}", flush=True)
        elif case.verdict == "refused" and case.words and KINDS[case.kind].command:
            # As root, the real command would find what another user may not see, and start a run.
            if os.geteuid() or not KINDS[case.kind].unprivileged:
                refused.append(case)
    seconds = time.perf_counter() - begin
    show(counts)
    chosen = random.Random(seed).sample(
        sorted(refused, key=lambda c: (c.kind, c.number)), min(sample, len(refused))
    )
    by_command: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    if chosen:
        with _fork.Pool(jobs) as pool:
            for case in pool.starmap(real, [(case, seed) for case in chosen], chunksize=1):
                by_command[f"{case.kind}, real"][case.verdict] += 1
                if case.verdict != "refused":
                    failures.append(case)
                    print(f"{case.kind} {case.number}, real: {case.verdict}: {case.about[:500]}", flush=True)
        print()
        show(dict(sorted(by_command.items())))
    print(f"{sum(found.total() for found in counts.values()):,} inputs in {seconds:.0f} s; seed {seed}")
    return {
        "seed": seed,
        "limits": {"seconds": SECONDS, "bytes": MEMORY, "characters": MOST_LINE},
        "seconds": seconds,
        "inputs": {name: {verdict: found[verdict] for verdict in VERDICTS} for name, found in counts.items()},
        "real_commands": {name: dict(found) for name, found in sorted(by_command.items())},
        "failures": [vars(case) for case in failures],
    }


def main() -> int:
    """Judge, print, write; 1 if something is not as it must be."""
    parser = common.parser(__doc__)
    parser.add_argument("--inputs", type=int, default=24_000, help="(default: 24,000)")
    parser.add_argument(
        "--sample", type=int, default=200, help="of them through the real commands (default: 200)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument(
        "--kinds",
        default="",
        help="a regular expression: only kinds with such a name, as 'trees' (default: all)",
    )
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="(default: one per core)"
    )
    parser.add_argument("--out", type=Path, default=common.RESULTS / "hostile.json")
    args = parser.parse_args()
    report = measure(args.inputs, args.sample, args.seed, args.jobs, args.kinds)
    common.write_json(args.out, {"benchmark": "hostile", "environment": common.environment(), **report})
    return int(bool(report["failures"]))


if __name__ == "__main__":
    sys.exit(main())
