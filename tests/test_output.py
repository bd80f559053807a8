"""What is printed where standard output or error takes nothing, or is closed."""

import os
import select
import subprocess
import sys

import pytest

PROGRAM = """
import os, subprocess, sys
from theanompi.system.output import print_anything, unprinted
print("first", end="")
print_anything()
print_anything()
with open(os.devnull) as file:
    assert file.fileno() > 2, "what is printed would be written into it"
subprocess.run(["sh", "-c", ": 3<&0 4>&1 5>&2"], check=True)
for _ in range(2):
    print("out" * 50_000)
    print("err" * 50_000, file=sys.stderr)
sys.exit(unprinted())
"""
OUT, ERR = "first" + 2 * ("out" * 50_000 + "\n"), 2 * ("err" * 50_000 + "\n")
LOST = "theanompi: standard output: cannot be written: No space left on device; the rest of it is lost\n"


@pytest.mark.parametrize(
    ("redirected", "out", "err", "status"),
    [
        ("", OUT, ERR, 0),
        ("<&-", OUT, ERR, 0),
        (">&-", "", ERR, 0),
        ("2>&-", OUT, "", 0),
        ("<&- >&- 2>&-", "", "", 0),
        ("> >(exit)", "", ERR, 0),  # a pipe that nobody reads
        ("2> >(exit)", OUT, "", 0),
        ("> /dev/full", "", LOST + ERR, 1),
        ("2> /dev/full", OUT, "", 0),
        ("> /dev/full 2>&1", "", "", 1),
    ],
)
def test_what_cannot_be_printed_is_dropped_and_only_a_full_disk_is_worth_a_word(redirected, out, err, status):
    ended = subprocess.run(
        ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == (out, err, status)


def test_without_a_buffer_each_word_is_out_at_once():
    program = "import sys; from theanompi.system.output import print_anything; print_anything(); "
    program += "print('a', end=''); sys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert select.select([started.stdout], [], [], 10)[0]
        started.communicate(b"\n")
