"""What /proc says of processes, whatever they are called and however they have ended."""

import os
import subprocess
import time
from pathlib import Path

from theanompi.system.processes import children, look_up


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


def test_what_has_ended_and_is_not_waited_for_is_no_process() -> None:
    with subprocess.Popen(["true"]) as process:
        end = time.monotonic() + 10
        while look_up(process.pid) is not None:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert Path(f"/proc/{process.pid}").is_dir()
