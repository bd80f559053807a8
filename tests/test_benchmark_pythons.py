"""A root by namespaces holds a system and nothing else, and each Python is tried in one."""

import contextlib
import importlib
import json
import os
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
def pythons() -> Iterator[ModuleType]:
    # The benchmarks are scripts, which find each other because they lie in one folder.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("pythons")


@needs_namespaces
def test_a_clean_root_shows_a_system_and_what_it_is_told_to(
    pythons: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "file").write_text("here\n")
    (tmp_path / "hidden").write_text("not here")
    (tmp_path / "root").mkdir()
    root = pythons.CleanRoot(tmp_path / "root", shown=[shown])
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
def test_a_python_that_fails_is_told_and_the_next_one_tried(
    pythons: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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
