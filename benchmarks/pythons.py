"""Does it install and train on other Pythons? `python benchmarks/pythons.py PYTHON PYTHON …`, in a bare root for each.

The root holds this machine's /usr and /etc, read-only, without /usr/local, the Python, a clone of what is committed,
and an empty home, in which a user's first commands are run: an environment, a wheel, what it requires, the version, the
doctor, ResNet-50 by an ``mpirun`` and a small network by ``tmlauncher``. All have to end well. The small network's
validation error and loss are kept: a Python that computed something else would show.

SYSTEM:PYTHON is the Python at that path of another system, as debootstrap makes it in a folder. What pip is configured
to use goes along; a folder of this machine that its settings name is to be given with ``--show``. What one Python
downloads, the next one finds in pip's cache. A root takes up to 6 GB, and is removed when its Python is done.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from clean_root import CleanRoot
from revisions import checked_out, git

SMALL = "-file examples.digits_net -class DigitsNet -s 2 --device cpu"
ACTIVATE = ". .venv/bin/activate && "
STEPS = {
    "environment": "{python} -m venv .venv",
    "wheel": ACTIVATE + "pip wheel -q --no-deps ./theanompi",
    "install": ACTIVATE + 'pip install -q {constraints} "$(ls theanompi-*.whl)[mpich]"',
    "version": ACTIVATE + "tmlauncher --version",
    "doctor": ACTIVATE + f"tmlauncher doctor {SMALL}",
    "mpirun": ACTIVATE
    + "mpirun -np 2 python theanompi/examples/train_resnet50.py --device cpu --max-iterations 4",
    "tmlauncher": ACTIVATE + f"tmlauncher {SMALL} --epochs 2 --out runs/small",
    "facts": ACTIVATE + "python facts.py",
}
FACTS = """
import json, platform
from importlib import metadata
import theanompi
from theanompi.record.log import read_log
assert "/.venv/" in theanompi.__file__, theanompi.__file__
last = [record for record in read_log("runs/small/log.jsonl") if record["kind"] == "val"][-1]
packages = ("torch", "pytensor", "numpy", "mpi4py", "mpich")
print(json.dumps({
    "python": platform.python_version(),
    "versions": {name: metadata.version(name) for name in packages},
    "validation": {name: last[name] for name in ("iteration", "error", "loss")},
}))
"""
LIMIT_S = 3600


class Failed(Exception):
    """What a command printed that did not end well."""


def tried(
    python: str, clone: Path, folder: Path, *, shown: list[Path], cache: Path, newest: bool
) -> dict[str, Any]:
    """Run the commands under a Python; gives its versions, the seconds of each and what the network came to.

    Packages are those of constraints.txt, or the newest ones that setup.py allows.

    Raises
    ------
    Failed
        If a command ends otherwise than well.
    """
    system, _, path = python.rpartition(":")
    prefix = Path(path).absolute().parent.parent
    if not system and prefix != Path("/usr"):
        shown = [*shown, prefix]
    root = CleanRoot(folder, Path(system or "/"), shown=shown, cache=cache)
    shutil.copytree(clone, root.home / "theanompi", symlinks=True)
    (root.home / "facts.py").write_text(FACTS, encoding="utf-8")
    constraints = "" if newest else "-c theanompi/constraints.txt"
    seconds = {}
    for name, command in STEPS.items():
        start = time.perf_counter()
        command = command.format(python=Path(path).absolute(), constraints=constraints)
        done = root.run(command, timeout=LIMIT_S)
        seconds[name] = time.perf_counter() - start
        if done.returncode:
            raise Failed(f"{name}: status {done.returncode}\n{done.stdout[-3000:]}")
    size = subprocess.run(
        ["du", "-sm", str(root.home / ".venv")], capture_output=True, encoding="utf-8", check=True
    )
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts | {"seconds": seconds, "environment_mib": int(size.stdout.split()[0])}


def told(row: dict[str, Any]) -> str:
    """The line for what `tried` gives."""
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    seconds = row["seconds"]
    return (
        f"Python {row['python']}: {versions}; {row['environment_mib']} MiB; validation error "
        f"{100 * row['validation']['error']:.2f} %, loss {row['validation']['loss']:.7g}; installed in "
        f"{seconds['install']:.0f} s, mpirun {seconds['mpirun']:.0f} s, tmlauncher {seconds['tmlauncher']:.0f} s"
    )


def main() -> None:
    """Try each Python, print a line for it, and write the result; the exit status is 1 if one failed."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "pythons", metavar="PYTHON", nargs="+", help="such as /usr/bin/python3, or SYSTEM:PYTHON"
    )
    parser.add_argument(
        "--show",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="that they see too, read-only",
    )
    parser.add_argument("--cache", metavar="FOLDER", type=Path, help="of pip; by default an empty one")
    parser.add_argument(
        "--newest", action="store_true", help="packages as new as may be, not constraints.txt's"
    )
    parser.add_argument("--out", type=Path, default=common.RESULTS / "pythons.json")
    args = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "pythons", "environment": common.environment(), "pythons": []}
    failed = False
    with checked_out(git("rev-parse", "HEAD")) as clone, tempfile.TemporaryDirectory() as folder:
        cache = args.cache or Path(folder, "cache")
        cache.mkdir(exist_ok=True)
        for python in args.pythons:
            with tempfile.TemporaryDirectory(dir=folder) as root:
                try:
                    row = tried(python, clone, Path(root), shown=args.show, cache=cache, newest=args.newest)
                except Failed as fault:
                    failed = True
                    print(f"{python}: {fault}", flush=True)
                else:
                    result["pythons"].append(row)
                    print(told(row), flush=True)
    common.write_json(args.out, result)
    sys.exit(failed)


if __name__ == "__main__":
    main()
