"""A root by namespaces holds a system and nothing else, and the recipes of the containers are carried out in one."""

import contextlib
import doctest
import importlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount", "--pid", "--fork"]

needs_namespaces = pytest.mark.skipif(
    subprocess.run(["sh", "-c", f"{' '.join(UNSHARE)} true"], capture_output=True, check=False).returncode
    != 0,
    reason="may not make namespaces",
)


@pytest.fixture
def image() -> Iterator[ModuleType]:
    # The benchmarks are scripts, which find each other because they lie in one folder.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("image")


def test_its_examples(image: ModuleType) -> None:
    assert doctest.testmod(image).failed == 0


@needs_namespaces
def test_a_clean_root_shows_a_system_and_what_it_is_told_to(
    image: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "file").write_text("here\n")
    (tmp_path / "hidden").write_text("not here")
    (tmp_path / "root").mkdir()
    root = image.CleanRoot(tmp_path / "root", shown=[shown])
    command = f"""
        pwd; echo $PYTHONPATH $PIP_TIMEOUT; ls {tmp_path}; cat {shown}/file; ls /usr/local
        touch mine; touch /usr/touched; touch {shown}/touched; ls /proc | grep -c '^[0-9]'; exit 3
    """
    done = root.run(command, timeout=30)
    assert done.returncode == 3
    printed = [line for line in done.stdout.splitlines() if "Read-only" not in line]
    assert printed[:4] == ["/home/user", "7", "shown", "here"]
    assert done.stdout.count("Read-only file system") == 2
    assert int(printed[-1]) <= 4, "it sees processes of others"
    assert (root.home / "mine").exists()
    # What was mounted is gone with the command.
    assert list((root.folder / "usr").iterdir()) == []


@needs_namespaces
def test_a_recipe_is_carried_out(
    image: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("context", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "context" / "one").write_text("1")
    (tmp_path / "context" / "two").write_text("2")
    root = image.CleanRoot(tmp_path / "root")
    recipe = 'FROM any\nWORKDIR /opt/a\n{}\nENV WHO=me\nRUN cat one \\\n && false || echo fails\nCMD ["echo", "a  b"]\n'
    image.build(recipe.format("COPY one ./"), ["*", "!one"], tmp_path / "context", root, after=("echo $WHO",))
    assert re.findall(r"^(?:1fails|a  b|me)$", capsys.readouterr().out, re.M) == ["1fails", "a  b", "me"]
    for copied, fault in (("two", "leaves it out"), ("none", "leaves it out")):
        with pytest.raises(SystemExit, match=f"COPY {copied}: the .dockerignore {fault}"):
            image.build(
                recipe.format(f"COPY {copied} ./"), ["*", "!one"], tmp_path / "context", root, after=()
            )
    with pytest.raises(SystemExit, match="false: status 1"):
        image.build("RUN false", [], tmp_path, root, after=())
    with pytest.raises(SystemExit, match="USER: not known here"):
        image.build("USER me", [], tmp_path, root, after=())


def test_both_recipes_make_the_same_image(image: ModuleType) -> None:
    docker = image.instructions((ROOT / "containers" / "Dockerfile").read_text("utf-8"))
    text = (ROOT / "containers" / "theanompi.def").read_text("utf-8")
    head, *parts = re.split(r"^%(\w+)\n", text, flags=re.M)
    section = {
        name: [line.strip() for line in lines.splitlines() if line.strip()]
        for name, lines in zip(parts[::2], parts[1::2], strict=True)
    }
    told: dict[str, list[str]] = {}
    for word, rest in docker:
        told.setdefault(word, []).append(rest)
    assert told["FROM"] == re.findall(r"^From: (.*)$", head, re.M)
    commands = [command.strip() for rest in told["RUN"] for command in rest.split("&&")]
    assert [line for line in section["post"] if not line.startswith("cd ")] == commands
    copied = [name for rest in told["COPY"] for name in rest.split()[:-1]]
    assert section["files"] == [f"{name} {told['WORKDIR'][0]}/{name}" for name in copied]
    assert section["post"].index(f"cd {told['WORKDIR'][0]}") == len(section["post"]) - 2
    assert "ENV" not in told and "environment" not in section


@needs_namespaces
def test_a_python_that_fails_is_told_and_the_next_one_tried(
    image: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pythons = importlib.import_module("pythons")
    (tmp_path / "clone").mkdir()
    facts = {"python": "3", "versions": {"torch": "2"}, "validation": {"error": 0.125, "loss": 0.5}}
    (tmp_path / "clone" / "facts").write_text(json.dumps(facts))
    steps = dict.fromkeys(("install", "mpirun", "tmlauncher"), "mkdir -p .venv")
    steps |= {"python": "{python} --version", "facts": "ls facts.py && cat theanompi/facts"}
    monkeypatch.setattr(pythons, "STEPS", steps)
    monkeypatch.setattr(pythons, "checked_out", lambda commit: contextlib.nullcontext(tmp_path / "clone"))
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["pythons.py", "/usr/bin/no-python", "/usr/bin/env", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        pythons.main()
    assert ended.value.code == 1
    first, *_, last, _ = capsys.readouterr().out.splitlines()
    assert first == "/usr/bin/no-python: python: status 127"
    assert last.startswith("Python 3: torch 2; ") and "validation error 12.50 %, loss 0.5;" in last
    (row,) = json.loads(out.read_text("utf-8"))["pythons"]
    assert row["validation"] == facts["validation"]
