"""Do what a user does in a first hour, in terminals of 80 and of 120 columns, and keep what they show.

    python docs/first_hour.py            # writes docs/first_hour.md, and the run's curves to docs/curves.png
    python docs/first_hour.py --check    # in 80 columns only: writes nothing, and fails where the page says otherwise

Each command runs in a terminal of its own, in a folder that stands for the user's home, in a fresh environment with a
wheel of this repository. It fails where a command ends otherwise than expected, and where anything, a bar included, is
wider than the terminal. What the wheel requires is linked into the environment from that of this Python.
"""

import argparse
import difflib
import fcntl
import os
import platform
import pty
import re
import shutil
import signal
import struct
import sysconfig
import tempfile
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "first_hour.md"
CURVES = ROOT / "docs" / "curves.png"
CTRL_C = b"\x03"

DIGITS = """\
from pathlib import Path

from PIL import Image

from theanompi.data import open_dataset

folder = Path("digits")
folder.mkdir()
digits = open_dataset("digits")
for i in range(5):
    picture = Image.fromarray(digits.pixels("val", i)[:, :, 0])
    picture.save(folder / f"{i}.png")
"""
LOOK = """\
import theanompi

net = theanompi.load("runs/digits", device="cpu")
print(net.class_names, net.iteration)
"""
RATES = """\
question = "Does twice the rate cost accuracy?"
seeds = 2
workers = [2]
scale = "own"
claims = ["same@2 ~ twice@2"]

[settings]
modelfile = "examples.digits_net"
modelclass = "DigitsNet"
epochs = 4

[arms.same]
base_lr = 0.0125

[arms.twice]
base_lr = 0.025
"""


class Step(NamedTuple):
    """A command, the status with which it has to end, and what it prints when Ctrl-C is to be typed."""

    command: str
    status: int = 0
    interrupt_at: str | None = None


class Part(NamedTuple):
    """Some commands with what is said before them, and a file that is written first."""

    text: str
    steps: tuple[Step, ...]
    file: tuple[str, str] | None = None


TRAIN = (
    "tmlauncher -file models.resnet_cifar -class ResNetCifar -s 2 \\\n    --image-size 32 --out runs/digits"
)
INSTALL = Part(
    "`~/theanompi` is a clone. What the wheel requires was there already, so that nothing is fetched but an MPI.",
    (
        Step("mkdir first-hour && cd first-hour"),
        Step("python3 -m venv .venv && . .venv/bin/activate"),
        Step("pip wheel -qq --no-deps ~/theanompi"),
        Step('pip install -qq -c ~/theanompi/constraints.txt "$(ls theanompi-*.whl)[mpich]"'),
        Step("tmlauncher --version"),
    ),
)
PARTS = (
    Part(
        "A residual network learns handwritten digits, with two processes, until Ctrl-C in the fifth epoch.",
        (Step(TRAIN, 75, interrupt_at="epoch 4,"),),
    ),
    Part("`--resume` goes on, to the same bits as if nothing had happened.", (Step(f"{TRAIN} --resume"),)),
    Part(
        "The last checkpoint, and the best one, on one process.",
        (
            Step("tmlauncher evaluate runs/digits --device cpu"),
            Step("tmlauncher evaluate runs/digits/best.h5 --device cpu"),
        ),
    ),
    Part(
        "Five pictures as files:",
        (
            Step("python digits.py"),
            Step("tmlauncher predict runs/digits digits -o digits.csv"),
            Step("cut -d , -f 1-5 digits.csv"),
        ),
        ("digits.py", DIGITS),
    ),
    Part(
        "The weights for other programs, and the curves.",
        (
            Step("tmlauncher export runs/digits -o digits.safetensors"),
            Step("tmlauncher plot runs/digits -o curves.png"),
        ),
    ),
    Part(
        "Two arms with two seeds each, of a network so small that it takes seconds:",
        (Step("tmlauncher compare rates.toml"),),
        ("rates.toml", RATES),
    ),
)


class Wrapped(Exception):
    """Something is wider than the terminal, or none of what this one understands."""


class Screen:
    r"""What a terminal shows of the bytes that it gets; it refuses to wrap a line.

    >>> screen = Screen(20)
    >>> screen.write("10 %|#  |\r20 %|## |\r\x1b[Kdone\r\n")
    >>> screen.lines
    ['done', '']
    >>> screen.write("x" * 21)
    Traceback (most recent call last):
    first_hour.Wrapped: wider than 20 columns: xxxxxxxxxxxxxxxxxxxxx
    """

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines = [""]
        self._row = self._column = 0

    def write(self, text: str) -> None:
        for piece in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|[^\x1b]|\x1b", text):
            if piece == "\n":
                self._row += 1
                if self._row == len(self.lines):
                    self.lines.append("")
            elif piece == "\r":
                self._column = 0
            elif piece in ("\x1b[A", "\x1b[1A"):
                self._row -= 1
            elif piece in ("\x1b[K", "\x1b[0K"):
                self.lines[self._row] = self.lines[self._row][: self._column]
            elif len(piece) > 1 or not piece.isprintable():
                raise Wrapped(f"not understood: {piece!r}")
            else:
                line = self.lines[self._row].ljust(self._column)
                line = line[: self._column] + piece + line[self._column + 1 :]
                if len(line) > self.columns:
                    raise Wrapped(f"wider than {self.columns} columns: {line}")
                self.lines[self._row] = line
                self._column += 1


def run(step: Step, columns: int, folder: Path, environ: dict[str, str]) -> list[str]:
    """Run a command in a terminal of so many columns; gives the lines that are there when it has ended."""
    screen = Screen(columns)
    screen.write("\r\n".join(f"{'$ ' * (i == 0)}{line}" for i, line in enumerate(step.command.split("\n"))))
    screen.write("\r\n")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        # Which is ignored where a shell has started this in the background.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.execvpe("bash", ["bash", "-c", step.command], environ)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    interrupt_at, unread = step.interrupt_at, b""
    while True:
        try:
            got = os.read(terminal, 65536)
        except OSError:  # how the end of a terminal reads
            break
        if not got:
            break
        # A character may come in two parts.
        unread += got
        text = unread.decode(errors="ignore")
        unread = unread[len(text.encode()) :]
        try:
            screen.write(text)
        except Wrapped as fault:
            raise SystemExit("\n".join([*screen.lines, f"{step.command}: {fault}, in {text!r}"])) from None
        if interrupt_at and any(interrupt_at in line for line in screen.lines):
            os.write(terminal, CTRL_C)
            interrupt_at = None
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(terminal)
    lines = [line.rstrip() for line in screen.lines]
    while not lines[-1]:
        lines.pop()
    if status != step.status or interrupt_at:
        raise SystemExit("\n".join([*lines, f"expected status {step.status}, got {status}"]))
    return lines


def clone(folder: Path) -> None:
    """What a clone has that a wheel is made of, without what earlier builds have left there."""
    folder.mkdir()
    for name in ("setup.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "theanompi", folder / "theanompi", ignore=shutil.ignore_patterns("__pycache__"))


def link_requirements(environment: Path) -> None:
    """Make what is installed beside this Python importable in another environment, without theanompi and MPI."""
    (packages,) = environment.glob("lib/python*/site-packages")
    links = environment / "requirements"
    links.mkdir()
    for path in map(Path, {sysconfig.get_path(name) for name in ("purelib", "platlib")}):
        for entry in path.iterdir():
            own = re.match(r"_*(editable_*\.?)?_*(theanompi|mpich|pip|setuptools|distutils)\b", entry.name)
            if not own and entry.suffix != ".pth":
                (links / entry.name).symlink_to(entry)
    (packages / "requirements.pth").write_text(f"{links}\n", encoding="utf-8")


def sections(home: Path, widths: Sequence[int]) -> Iterator[str]:
    """The page, part by part, in terminals of these widths."""
    folder = home / "first-hour"
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "MAKEFLAGS")
    }
    pip = Path.home() / ".config" / "pip" / "pip.conf"
    if pip.exists():
        environ.setdefault("PIP_CONFIG_FILE", str(pip))
    environ |= {"HOME": str(home), "PATH": f"{folder}/.venv/bin:{environ['PATH']}", "TERM": "xterm"}
    environ["CUDA_VISIBLE_DEVICES"] = ""

    def done(part: Part, columns: int) -> Iterator[str]:
        yield part.text
        if part.file:
            name, text = part.file
            (folder / name).write_text(text, encoding="utf-8")
            yield f"```{name.rpartition('.')[2].replace('py', 'python')}\n# {name}\n{text}```"
        printed = []
        for step in part.steps:
            where = folder if folder.is_dir() else home
            printed += run(step, columns, where, environ)
            if step.command.startswith("python3 -m venv"):
                link_requirements(folder / ".venv")
        shown = "\n".join(printed).replace(str(home), "~")
        shown = re.sub(rf"\b{re.escape(platform.node())}\b", "pc", shown)
        yield f"```console\n{shown}\n```"

    yield "## Install"
    yield from done(INSTALL, 80)
    for columns in widths:
        yield f"## In {columns} columns"
        for part in PARTS:
            yield from done(part, columns)
        shutil.rmtree(folder / "runs")
        for name in ("digits", "digits.csv", "digits.safetensors"):
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def of_every_run(page: str) -> list[str]:
    r"""What a page says in every run and on every machine.

    Of what was printed these are the unbroken lines, without their numbers and the table of where time went.

    >>> of_every_run("2 runs:\n```console\n$ run -n 2\nepoch 1: 1151 images/s;\n  top-5 2.2 %^C\n```\n")
    ['2 runs:', '```console', '$ run -n 2', 'epoch #: # images/s; top-5 # %', '```']
    """
    lines: list[str] = []
    for i, part in enumerate(re.split(r"^(```console\n.*?^```$)", page, flags=re.MULTILINE | re.DOTALL)):
        if i % 2:
            text = re.sub(r"^time per iteration.*?\n\n", "", part.replace("^C", ""), flags=re.M | re.DOTALL)
            for line in re.split(r"\n(?! )", text):
                said = line if line[:1] == "$" else re.sub(r"(?<![\w-])-?\d+([.,]\d+)*(e[-+]\d+)?", "#", line)
                lines.append(" ".join(said.split()))
        else:
            lines += part.split("\n")
    return [line for line in lines if line]


def check(made: str) -> None:
    """Fail where the page has not what was printed now."""
    page = PAGE.read_text("utf-8").partition("\n## In 120 columns\n")[0]
    differ = difflib.unified_diff(of_every_run(page), of_every_run(made), "the page", "now", lineterm="", n=2)
    text = "\n".join(differ)
    if text:
        raise SystemExit(f"{text}\n{PAGE.name} is out of date: python docs/first_hour.py writes it again")


def main() -> None:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description="Write down a first hour in docs/first_hour.md.")
    parser.add_argument("--check", action="store_true", help="compare the page, in 80 columns only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        clone(Path(home) / "theanompi")
        page = "\n\n".join(
            [
                "# A first hour",
                "Every command with what it printed, as `python docs/first_hour.py` wrote it down, which fails "
                "where a line is wider than the terminal. Seconds are those of a machine with two cores.",
                *sections(Path(home), (80,) if args.check else (80, 120)),
            ]
        )
        curves = (Path(home) / "first-hour" / CURVES.name).read_bytes()
    if args.check:
        check(page)
    else:
        PAGE.write_text(f"{page}\n", encoding="utf-8")
        CURVES.write_bytes(curves)


if __name__ == "__main__":
    main()
