"""Carry out `containers/Dockerfile` without an engine: `python benchmarks/image.py ROOT`, as root.

ROOT is a folder with a system that stands for the image after FROM; it is written to. For ``python:3.12-slim`` that is
what ``debootstrap --variant=minbase`` makes of Debian 13, with a Python 3.12 and its pip in /usr/local. Each
instruction is carried out in order, in namespaces of its own, COPY with the files of the last commit that the
.dockerignore lets through. CMD, the doctor and a run of two ranks have to end well in it. An instruction that this does
not know is refused.
"""

import argparse
import json
import os
import shlex
import shutil
from fnmatch import fnmatch
from pathlib import Path

from clean_root import CleanRoot
from revisions import checked_out, git

RECIPE = "containers/Dockerfile"
LIMIT_S = 3600
AFTER = (
    "tmlauncher --version",
    "tmlauncher doctor -file examples.digits_net -class DigitsNet -s 2 --device cpu",
    "tmlauncher -file examples.digits_net -class DigitsNet -s 2 --device cpu --epochs 2",
)


def instructions(text: str) -> list[tuple[str, str]]:
    r"""The instructions of a Dockerfile with their arguments.

    >>> instructions("# two\nFROM debian\nRUN a \\\n    && b\n")
    [('FROM', 'debian'), ('RUN', 'a && b')]
    """
    lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.split("\n")) if word
    ]


def ignored(name: str, patterns: list[str]) -> bool:
    """Whether a .dockerignore's patterns leave out a name at the top: the last that fits decides.

    >>> ignored("tests", ["*", "!theanompi"]), ignored("theanompi", ["*", "!theanompi"])
    (True, False)
    """
    found = False
    for pattern in patterns:
        if fnmatch(name, pattern.removeprefix("!")):
            found = not pattern.startswith("!")
    return found


def copy(words: list[str], context: Path, folder: Path, patterns: list[str]) -> None:
    """COPY: files into a folder, what is in a folder into that of the last word."""
    *sources, target = words
    if len(sources) > 1 and not target.endswith("/"):
        raise SystemExit(f"COPY {shlex.join(words)}: several files go into a folder/")
    for name in sources:
        if ignored(name, patterns):
            raise SystemExit(f"COPY {name}: the .dockerignore leaves it out")
        if not (context / name).exists():
            raise SystemExit(f"COPY {name}: not there")
        if (context / name).is_dir():
            shutil.copytree(context / name, folder / target, dirs_exist_ok=True)
        else:
            (folder / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(context / name, folder / target)


def build(
    recipe: str, patterns: list[str], context: Path, root: CleanRoot, *, after: tuple[str, ...] = AFTER
) -> None:
    """Carry out the instructions of a Dockerfile, and then some commands, in its environment.

    Raises
    ------
    SystemExit
        When a command fails, a file is missing or an instruction is not known.
    """
    where, last = "/", ""
    environ: dict[str, str] = {}

    def run(command: str) -> None:
        print(f"{where} $ {command}", flush=True)
        done = root.run(f"cd {where} && {command}", timeout=LIMIT_S, environ=environ)
        print("\n".join(done.stdout.splitlines()[-20:]), flush=True)
        if done.returncode:
            raise SystemExit(f"{command}: status {done.returncode}")

    for word, rest in instructions(recipe):
        match word:
            case "FROM":
                pass
            case "RUN":
                run(shlex.join(["sh", "-c", rest]))
            case "WORKDIR":
                where = rest
                (root.folder / where[1:]).mkdir(parents=True, exist_ok=True)
            case "COPY":
                copy(shlex.split(rest), context, root.folder / where[1:], patterns)
            case "ENV":
                name, _, environ[name] = rest.partition("=")
            case "CMD":
                last = shlex.join(json.loads(rest))
            case _:
                raise SystemExit(f"{word}: not known here")
    for command in (last, *after):
        run(command)


def main() -> None:
    """Carry it out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", metavar="ROOT", type=Path)
    parser.add_argument(
        "--show", metavar="FOLDER", type=Path, action="append", default=[], help="that it sees too, read-only"
    )
    args = parser.parse_args()
    if os.geteuid():
        parser.error("apt has to be run as root")
    root = CleanRoot(args.root, None, shown=args.show)
    with checked_out(git("rev-parse", "HEAD")) as context:
        patterns = (context / f"{RECIPE}.dockerignore").read_text("utf-8").split()
        build((context / RECIPE).read_text("utf-8"), patterns, context, root)


if __name__ == "__main__":
    main()
