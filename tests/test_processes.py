"""What /proc says of processes, whatever they are called and however they have ended."""

import os
import platform
import re
import subprocess
import time
from pathlib import Path

import pytest

from theanompi.record.terminal import terminal_columns
from theanompi.system.processes import LAUNCHER, children, exit_status, launcher_name, launchers, look_up

LINUX = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


def test_a_process_may_be_called_anything(tmp_path: Path) -> None:
    program = tmp_path / "a) Z (b"
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o755)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as process:
        try:
            found = look_up(process.pid)
            assert found is not None
            assert (found.name, found.pid, found.parent, found.stopped) == (
                *("a) Z (b", process.pid, os.getpid(), False),
            )
            assert process.pid in (children(os.getpid()) or [process.pid])
        finally:
            process.kill()


def test_a_python_that_has_started_the_job_is_one_of_its_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its terminal is the one that shows the run: what mpirun prints goes through it."""
    parent = os.getppid()
    assert parent not in [found.pid for found in launchers()]
    monkeypatch.setenv(LAUNCHER, launcher_name(parent))
    assert launchers()[-1].pid == parent
    monkeypatch.setenv(LAUNCHER, f"elsewhere:{parent}")
    assert parent not in [found.pid for found in launchers()]


def test_what_has_ended_and_is_not_waited_for_is_no_process() -> None:
    with subprocess.Popen(["true"]) as process:
        end = time.monotonic() + 60
        while look_up(process.pid) is not None:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert Path(f"/proc/{process.pid}").is_dir()


@pytest.mark.parametrize(
    ("end", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -11 $$", -11)]
)
def test_how_a_process_has_ended_is_told_when_its_parent_knows_it(end: str, status: int) -> None:
    with subprocess.Popen(["sh", "-c", f"read line; {end}"], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            assert exit_status(pidfd) is None
            process.communicate()
            assert process.returncode == status
            assert exit_status(pidfd) == (status if LINUX >= (6, 15) else None)
        finally:
            os.close(pidfd)


def test_where_linux_does_not_tell_how_a_process_has_ended_that_is_not_known() -> None:
    reader, writer = os.pipe()  # which knows as little of processes
    os.close(writer)
    assert exit_status(reader) is None
    os.close(reader)


def test_a_terminal_without_a_size_that_a_launcher_has_made_shows_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = os.openpty()
    with open(ends[1], "w") as stream, subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE) as launcher:
        monkeypatch.setattr("sys.stdout", stream)
        for started_by, columns in (([], 80), ([look_up(launcher.pid)], None)):
            monkeypatch.setattr("theanompi.record.terminal.launchers", lambda chain=started_by: chain)
            assert terminal_columns(output=True) == columns
        monkeypatch.undo()
        launcher.kill()
    os.close(ends[0])
