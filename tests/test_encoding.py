"""Neither what is printed nor any file depends on the encoding of the user's locale."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up import Trial, write_experiment

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("theanompi", "models", "examples", "benchmarks", "docs", "tests")
# Of what opens things that are no text.
OTHERS = {"os", "tarfile", "zipfile", "archive", "gzip", "Image", "h5py"}
PIPES = {"run", "Popen", "check_output", "check_call"}
# Python's own way out, UTF-8 instead of ASCII, is closed.
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
LATIN = {"PYTHONIOENCODING": "iso-8859-1"}


def without_encoding(source: str) -> Iterator[int]:
    """The lines with a call that reads or writes text in the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if method else getattr(node.func, "id", "")  # type: ignore[attr-defined]
        owner = ast.unparse(node.func.value).split(".")[0] if isinstance(node.func, ast.Attribute) else None
        if "encoding" in keywords or (name == "open" and owner in OTHERS):
            continue
        if name in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile"):
            at = 0 if name.endswith("TemporaryFile") or (method and name == "open") else 1
            default = "w+b" if name.endswith("TemporaryFile") else "r"
            mode = node.args[at] if len(node.args) > at else keywords.get("mode", ast.Constant(default))
            if not (isinstance(mode, ast.Constant) and "b" in str(mode.value)):
                yield node.lineno
        elif name in ("read_text", "write_text"):
            if len(node.args) < (1 if name == "read_text" else 2):
                yield node.lineno
        elif name in PIPES and {"text", "universal_newlines"} & keywords.keys():
            yield node.lineno


def test_every_file_and_pipe_names_its_encoding() -> None:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    # Tests write and read small texts in the locale of whoever develops this.
    files = [file for file in files if not file.name.startswith("test_")]
    assert len(files) > 100
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in files
        for line in without_encoding(file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "open(path, 'a')",
        "Path(path).open('w')",
        "os.fdopen(number)",
        "path.read_text()",
        "path.write_text(text)",
        "tempfile.NamedTemporaryFile('w')",
        "subprocess.run(words, text=True)",
    ],
)
def test_a_call_without_encoding_is_found(line: str) -> None:
    assert list(without_encoding(line)) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'rb')",
        "open(path, encoding='utf-8')",
        "Path(path).open('wb')",
        "os.open(path, os.O_RDONLY)",
        "path.read_text('utf-8')",
        "path.write_text(text, 'utf-8')",
        "tempfile.TemporaryFile()",
        "subprocess.run(words, encoding='utf-8')",
    ],
)
def test_a_call_with_one_is_not(line: str) -> None:
    assert list(without_encoding(line)) == []


def printed(words: list[str], env: dict[str, str], cwd: Path = ROOT) -> bytes:
    """Standard output of a Python program that must end well, in an environment of such a locale."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path, **env},
        cwd=cwd,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


@pytest.mark.parametrize(
    ("env", "between"), [(LATIN, rb"\u2013"), (ASCII, rb"\u2013"), ({"PYTHONUTF8": "1"}, "–".encode())]
)
def test_tmpack_prints_what_the_encoding_lacks_as_an_escape(env: dict[str, str], between: bytes) -> None:
    lines = printed(["-m", "theanompi.data.pack.command", "info", "digits"], env)
    assert b"  height      32 %s 32 %s 32 pixels" % (between, between) in lines


TMLAUNCHER = "from theanompi.cli import main; raise SystemExit(main())"


@pytest.mark.parametrize("env", [LATIN, ASCII])
def test_the_launcher_and_its_ranks_print_the_plan(env: dict[str, str]) -> None:
    words = ["-file", "models.resnet_cifar", "-class", "ResNetCifar", "-s", "1", "--plan"]
    lines = printed(["-c", TMLAUNCHER, *words], env)
    assert rb"\u2013" in lines and b"BSP: 1 rank ended well" in lines


def test_a_training_script_prints_the_plan() -> None:
    assert rb"\u2013" in printed(["examples/train_resnet50.py", "--plan"], ASCII)


def test_a_training_script_may_print_anything_itself() -> None:
    program = "from theanompi.cli import from_flags; from_flags('Train.', argv=[]); print(chr(0x3b7))"
    assert printed(["-c", program], ASCII) == b"\\u03b7\n"


def test_curves_are_drawn_in_a_folder_of_any_name(tmp_path: Path) -> None:
    out = tmp_path / "η"
    out.mkdir()
    line = '{"kind": "val", "epoch": 0, "iteration": 1, "images": 8, "loss": 1.0, "error": 0.5}\n'
    (out / "log.jsonl").write_text(line, encoding="utf-8")
    assert printed(["-m", "theanompi", "plot", str(out)], LATIN).endswith(b"\\u03b7/curves.png\n")


def test_the_report_is_printed(tmp_path: Path) -> None:
    write_experiment(tmp_path, {("small", 1): [Trial([0.5]), Trial([0.4])]})
    assert rb"\xb1" in printed(["-c", TMLAUNCHER, "report", str(tmp_path)], ASCII)


def test_a_users_own_text_is_printed_by_the_doctors_probes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from theanompi.models.resnet_cifar import ResNetCifar as Base\n"
        "class Mine(Base):\n    def build_model(self, *args):\n"
        "        print('η → 0')\n        return super().build_model(*args)\n",
        encoding="utf-8",
    )
    settings = '{"modelfile": "mine", "modelclass": "Mine"}'
    lines = printed(["-m", "theanompi.doctor.questions", "model", settings], ASCII, tmp_path)
    assert rb"\u03b7 \u2192 0" in lines
