"""The newcomer's exercises in docs/ are done as they stand there, each in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mpi import ROOT

PAGES = sorted((ROOT / "docs" / "exercises").glob("*.md"))
# What stands for the commands that a user has on the PATH.
COMMANDS = {
    name: [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())"]
    for name, module in (("tmlauncher", "theanompi.cli"), ("tmpack", "theanompi.data.pack.command"))
} | {"python": [sys.executable]}


def do(page: Path, folder: Path, *more: str) -> list[str]:
    """Write each file of a page and run each command, in their order; gives what the commands print.

    What names its devices has `more` flags.

    A block of code is the file that its first line names. A line of a console block that begins with ``$`` is a command
    that must end well, one with ``!`` one that must be refused in one line, in which the words below it are.
    """
    printed = []
    for kind, text in re.findall(r"```(\w+)\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        if kind != "console":
            (folder / text.splitlines()[0].removeprefix("# ")).write_text(text, "utf-8")
            continue
        for command, expected in re.findall(r"^([$!] .*)\n((?:(?![$!] ).*\n)*)", text, re.MULTILINE):
            sign, name, *words = command.split()
            done = subprocess.run(
                [*COMMANDS[name], *words, *(more if " --device" in command else ())],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=240,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"},
                check=False,
            )
            assert (done.returncode == 0) == (sign == "$"), f"{command}\n{done.stdout}{done.stderr}"
            if sign == "!":
                lines = [line for line in done.stderr.splitlines() if line.startswith("theanompi:")]
                assert len(lines) == 1, done.stderr
                assert expected.strip() in lines[0]
            printed.append(done.stdout)
    return printed


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_an_exercise_can_be_done(page: Path, tmp_path: Path) -> None:
    looked_at = page.stem == "your_own_arrays"
    printed = do(page, tmp_path, *(() if looked_at else ["--no-curves"]))
    assert printed
    assert any("ended well" in text for text in printed)
    report = tmp_path / "days" / "report.md"
    if page.stem == "your_own_arrays":
        assert "mae" in report.read_text("utf-8")
        assert (tmp_path / "runs" / "forecast-days" / "curves.png").is_file()
        # Those of an experiment draw none.
        assert [path.parent for path in tmp_path.rglob("days/**/curves.png")] == [tmp_path / "days"]
