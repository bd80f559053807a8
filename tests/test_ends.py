"""How runs end: well only if the workers say so, all ranks together, with one message, and nothing lost."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from tests.mpi import ROOT, mpirun, run_mpi, run_warm
from tests.test_processes import LINUX
from tests.test_training_mpi import orderly, processes_of, refused, train, trained
from theanompi import BSP
from theanompi.config import RunConfig
from theanompi.launch import job as launch_job
from theanompi.launch.ends import Account, Notices
from theanompi.record import checkpoint
from theanompi.record.log import read_log
from theanompi.record.progress import Doing, Progress
from theanompi.rules import RunFailed
from theanompi.training.stop import ASKING, Interrupted, StopSignals
from theanompi.training.watchdog import Watchdog

BANNER = b"""
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 4037 RUNNING AT node0
=   EXIT CODE: 9
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
This typically refers to a problem with your application.
Please see the FAQ page for debugging suggestions
"""


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_what_workers_tell_is_taken_out_of_what_they_print(piece):
    printed = (
        b'epoch 1\n@theanompi {"ranks": [["node0.site", 4036], ["node0.site", 4037]]}\n'
        b'half @theanompi {"saved": 45}\n==== mine ====\n'
        + b"=" * 60
        + b"\nmine too\n"
        + BANNER
        + b"the last"
    )
    shown = []
    account = Account(shown.append)
    for begin in range(0, len(printed), piece):
        account.feed(printed[begin : begin + piece])
    account.close()
    assert b"".join(shown) == b"epoch 1\nhalf ==== mine ====\n" + b"=" * 60 + b"\nmine too\n\nthe last"
    assert account.saved == 45 and not account.well
    assert account.deaths == [
        "rank 1 (node0.site, pid 4037) was ended by SIGKILL, by mpirun perhaps when another one had ended"
    ]


NAMES = [f"rank {rank} (node0.site, pid {4036 + rank})" for rank in range(3)]
UNSAID = "was the first to end, and has not said why: killed, or by os._exit"


@pytest.mark.parametrize(
    ("ends", "well", "death"),
    [
        # How it ended, the banner has not said: that is of another one.
        ({2: None, 1: None, 0: None}, False, f"{NAMES[2]} {UNSAID}"),
        ({1: None, 2: None}, False, f"{NAMES[1]} was ended by SIGKILL"),
        ({2: -9, 1: -9}, False, f"{NAMES[2]} was ended by SIGKILL"),
        # mpirun takes a process for gone, and kills the others, before it is.
        ({0: -9, 1: -9, 2: 0}, False, f"{NAMES[2]} left with exit status 0"),
        ({1: -9, 2: -11, 0: -9}, False, f"{NAMES[2]} was ended by SIGSEGV"),
        # Two had ended, the third was killed: by somebody else than mpirun.
        ({0: 0, 2: 0, 1: -9}, True, f"{NAMES[1]} was ended by SIGKILL"),
        ({}, False, f"{NAMES[1]} was ended by SIGKILL, by mpirun perhaps when another one had ended"),
    ],
)
def test_who_ended_first_is_named_and_not_whom_mpirun_killed_after_that(ends, well, death):
    account = Account(lambda _: None)
    account.feed(
        b'@theanompi {"ranks": [["node0.site", 4036], ["node0.site", 4037], ["node0.site", 4038]]}\n'
    )
    account.well, account.ends = well, ends
    account.feed(BANNER)
    account.close()
    assert account.deaths == [death]


@pytest.mark.parametrize(
    ("code", "text", "how"),
    [
        (b"=   EXIT CODE: 11", b"(signal 11)", "was ended by SIGSEGV"),
        (b"=   KILLED BY SIGNAL: 11 (Segmentation fault)", b"", "was ended by SIGSEGV"),
        (
            b"=   EXIT CODE: 7",
            b"(signal 7)",
            "was ended by SIGBUS, as where /dev/shm is full: tmlauncher doctor looks at it",
        ),
        (b"=   EXIT CODE: 3", b"", "left with exit status 3"),
        (b"=   EXIT STATUS: 3", b"", "left with exit status 3"),
        (b"=   CLEANING UP", b"", "ended badly"),
    ],
)
def test_what_the_banner_says_of_any_other_end_is_said(code, text, how):
    account = Account(lambda _: None)
    account.feed(b'@theanompi {"ranks": [["node1", 4037], ["node0", 4037]], "resumable": false}\n')
    account.ends = {0: None}
    account.feed(BANNER.replace(b"=   EXIT CODE: 9", code).replace(b"Killed (signal 9)", text))
    account.close()
    # Processes of two hosts may have the same number.
    assert account.deaths == [f"rank 1 (node0, pid 4037) {how}"]


def test_a_single_rank_was_not_killed_because_another_one_had_ended():
    account = Account(lambda _: None)
    account.feed(b'@theanompi {"ranks": [["node0", 4037]]}\n' + BANNER.replace(b"node0", b"node0.site"))
    account.close()
    assert account.deaths == ["rank 0 (node0, pid 4037) was ended by SIGKILL"]


@pytest.mark.parametrize(
    ("ends", "well", "said"),
    [
        ({0: -9, 1: 0}, False, f"{NAMES[1]} left with exit status 0"),
        ({1: 3, 0: 0}, False, f"{NAMES[1]} left with exit status 3"),
        ({0: 0, 1: -6}, True, f"{NAMES[1]} was ended by SIGABRT"),
        # By whom, nobody knows.
        ({0: -9, 1: -9}, False, ""),
        ({1: None, 0: -9}, False, ""),
        ({0: 0, 1: 0}, True, ""),
        ({}, False, ""),
    ],
)
def test_who_left_of_itself_is_known_where_mpirun_says_nothing(ends, well, said):
    account = Account(lambda _: None)
    account.feed(b'@theanompi {"ranks": [["node0.site", 4036], ["node0.site", 4037]]}\n')
    account.well, account.ends = well, ends
    assert account.first_to_leave() == said


@pytest.mark.parametrize(
    ("ends", "stopped", "said"),
    [
        ({1: -9, 0: -15}, None, f"{NAMES[1]} was ended by SIGKILL"),
        ({1: -15, 0: -9}, None, f"{NAMES[1]} was ended by SIGTERM"),
        ({1: None, 0: None}, None, f"{NAMES[1]} {UNSAID}"),
        ({1: -9, 0: 75}, "SIGTERM", f"{NAMES[1]} was ended by SIGKILL"),
        ({1: 75, 0: -15}, "SIGTERM", ""),
        ({1: 0, 0: -15}, "SIGTERM", ""),
        ({1: None, 0: None}, "SIGTERM", ""),
    ],
)
def test_an_mpirun_that_waits_for_a_process_kills_nobody_before_it(ends, stopped, said):
    account = Account(lambda _: None, in_order=True)
    account.feed(b'@theanompi {"ranks": [["node0.site", 4036], ["node0.site", 4037]]}\n')
    account.stopped, account.ends = stopped, ends
    assert account.first_to_leave() == said


@pytest.mark.parametrize(
    "own",
    [
        b"=   BAD TERMINATION OF MY LOOP\n",
        b"=" * 60 + b"\n",
        b"=" * 60,
        b"=" * 60 + b"\n" + b"=" * 50 + b"\n",
    ],
)
def test_what_is_only_like_the_banner_is_shown(own):
    shown = []
    account = Account(shown.append)
    account.feed(own)
    account.close()
    assert b"".join(shown) == own and account.deaths == []


DASHES = b"-" * 74 + b"\n"
KILLED = b"""prterun noticed that process rank 1 with PID 4037 on node node0 exited on
signal 9 (Killed).
"""
RETURNED = b"""prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-node0-4030@1,1]
   Exit code:    3
"""
ABORTED = b"""MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD
  Proc: [[46412,1],1]
  Errorcode: 3

NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.
You may or may not see output from other processes, depending on
exactly when Open MPI kills them.
"""
IMPROPER = b"""prterun has exited due to process rank 1 with PID 4037 on node node0 exiting
improperly. There are three reasons this could occur:

1. this process did not call "init" before exiting, but others in the
job did. This can cause a job to hang indefinitely while it waits for
"""
VERSION_4 = b"""mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[62218,1],1]
  Exit code:    3
"""


@pytest.mark.parametrize("piece", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("text", "place", "how"),
    [
        (KILLED, " (node0, pid 4037)", "was ended by SIGKILL"),
        (KILLED.replace(b"9 (Killed)", b"11"), " (node0, pid 4037)", "was ended by SIGSEGV"),
        (KILLED.replace(b"PID 4037", b"PID 0"), " (node0)", "was ended by SIGKILL"),
        (RETURNED, "", "left with exit status 3"),
        (ABORTED, "", "left with exit status 3"),
        (IMPROPER, " (node0, pid 4037)", "left with exit status 0"),
        (VERSION_4, "", "left with exit status 3"),
    ],
)
def test_whom_open_mpi_names_is_named_in_its_place_before_ranks_have_told_and_after(piece, text, place, how):
    others = KILLED.replace(b"rank 1", b"rank 0")
    printed = b"epoch 1\n50 %" + (DASHES + text + DASHES) + b"\0" + (DASHES + others + DASHES)
    printed += b"the --\nlast-"
    shown = []
    notices = Notices(shown.append)
    for begin in range(0, len(printed), piece):
        notices.feed(printed[begin : begin + piece])
    notices.close()
    assert b"".join(shown) == b"epoch 1\n50 %the --\nlast-"
    account = Account(lambda _: None, in_order=True)
    account.notice = notices.first
    begun = " before it had begun; tmlauncher doctor says what MPI needs" * how.startswith("left")
    assert account.first_to_leave() == f"rank 1{place} {how}{begun}"
    account.feed(b'@theanompi {"ranks": [["node0.site", 4036], ["node0.site", 4037]]}\n')
    # Whom it kills may be gone before the one that has called MPI_Abort.
    account.ends = {0: -15, 1: 3}
    assert account.first_to_leave() == f"{NAMES[1]} {how}"


@pytest.mark.parametrize(
    "own", [b"-- mine\n", DASHES, DASHES[:-1], DASHES + DASHES, DASHES + b"50 %", DASHES + KILLED]
)
def test_what_is_only_like_a_notice_is_shown(own):
    shown = []
    notices = Notices(shown.append)
    notices.feed(own)
    notices.close()
    assert b"".join(shown) == own and notices.first is None


def test_half_a_line_on_standard_error_is_shown_at_once():
    shown = []
    notices = Notices(shown.append)
    notices.feed(b"a bar: 50 %")
    # What Open MPI says of the second signal within moments, which ends a run whatever it waits for.
    notices.feed(b"Abort is in progress...hit ctrl-c again to forcibly terminate\n\n")
    # And what Open MPI 4 says of one that it passes on.
    notices.feed(b"mpirun: Forwarding signal 10 to job\n")
    assert shown == [b"a bar: 50 %"]


def test_what_was_told_stays_when_more_is():
    account = Account(lambda _: None)
    told = {
        "ranks": [["node0", 7]], "out": "runs/x", "saved": 45, "stopped": "SIGTERM", "resumable": False, "well": True,
        "failed": True,
    }  # fmt: skip
    for facts in (*({name: value} for name, value in told.items()), {}):
        account.feed(f"@theanompi {json.dumps(facts)}\n".encode())
    assert {name: getattr(account, name) for name in told} == {**told, "ranks": [("node0", 7)]}


def test_half_a_line_is_shown_at_once():
    shown = []
    Account(shown.append).feed(b"50 %")
    assert shown == [b"50 %"]


def test_megabytes_without_the_end_of_a_line_are_not_kept_for_a_message_that_they_may_become():
    shown = []
    account = Account(shown.append)
    for _ in range(40):
        account.feed(b"@" * 2**16)
    assert sum(map(len, shown)) > 2**20
    account.feed(b'\n@theanompi {"saved": 45}\n')
    account.close()
    assert b"".join(shown) == b"@" * 40 * 2**16 + b"\n" and account.saved == 45


GUARDED = """
import os, signal, sys, threading, time
from mpi4py import MPI
from theanompi.record.progress import Progress
from theanompi.training.ranks import guarded
from theanompi.training.stop import StopSignals
comm = MPI.COMM_WORLD
last = comm.rank == comm.size - 1
with StopSignals(heed=True) as stop, guarded(comm, Progress(), lambda saved: "last words"):
    comm.Barrier()
    {what}
    time.sleep(60)
"""


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        (
            "if last: sys.exit(3)",
            1,
            r"rank {last} left by sys.exit\(3\) in <string>, line 11, before the end of the run",
        ),
        ("sys.exit(0)", 1, r"rank 0 left by sys.exit\(0\) in <string>, line 11, before the end of the run"),
        (
            "if last: raise ArithmeticError('mine')",
            1,
            "rank {last} failed:\nTraceback (?s:.)*\nArithmeticError: mine",
        ),
        (
            "if last: threading.Thread(target=lambda: 1 / 0).start()",
            1,
            "rank {last} failed:\nTraceback (?s:.)*\nZeroDivisionError: division by zero",
        ),
        ("if last: open('/proc/nothing')", 1, "rank {last} failed:\nTraceback (?s:.)*/proc/nothing'"),
        (
            "stop.set_up(); last and os.kill(os.getpid(), signal.SIGTERM)",
            75,
            "rank {last} stopped by SIGTERM before training began",
        ),
    ],
)
def test_a_rank_that_leaves_takes_all_along_with_one_message(n, what, status, message):
    done = run_mpi(n, ["-c", GUARDED.format(what=what)])
    assert done.returncode == status, done.stderr
    said = re.findall("^theanompi: .*", done.stderr, re.MULTILINE)
    assert len(said) == 2 and said[1] == "theanompi: last words", done.stderr
    assert re.search("theanompi: " + message.format(last=n - 1), done.stderr), done.stderr


def test_a_ctrl_c_that_nothing_heeds_is_one_line_and_its_status():
    done = run_mpi(2, ["-c", GUARDED.format(what="if last: raise KeyboardInterrupt")])
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert "theanompi: rank 1: stopped by SIGINT\n" in done.stderr


def test_a_rank_whose_main_thread_ends_while_another_trains_takes_all_along():
    program = """
import threading, time
from mpi4py import MPI
from theanompi.record.progress import Progress
from theanompi.training.ranks import guarded
begun = threading.Event()
def train():
    with guarded(MPI.COMM_WORLD, Progress()):
        begun.set()
        time.sleep(60)
threading.Thread(target=train, daemon=MPI.COMM_WORLD.rank == 1).start()
begun.wait()
"""
    done = run_mpi(2, ["-c", program])
    assert done.returncode == 1 and "theanompi: rank 1 left, before the end of the run\n" in done.stderr


def test_shared_memory_has_no_name_when_training_begins_nor_has_that_of_a_job_that_was_killed(tmp_path):
    program = """
import os, sys
from functools import partial
from pathlib import Path
from theanompi import worker
from theanompi.training import rank
from theanompi.config import RunConfig
def train(*args, comm, **rest):
    comm.Barrier()
    words = Path("/proc/self/maps").read_text().split()
    mapped = {word for word in words if "/mpich_shm_" in word or "/sm_segment." in word}
    print("left", [name for name in (*mapped, sys.argv[2]) if Path(name).exists()], comm.allreduce(1))
rank.train = train
worker.run(RunConfig(out=sys.argv[1], data="digits"), ("cpu",))
"""
    killed = Path(f"/dev/shm/mpich_shm_of_a_test_{os.getpid()}")
    killed.touch()
    os.utime(killed, (0, 0))
    done = run_mpi(2, ["-c", program, str(tmp_path / "run"), str(killed)])
    assert done.returncode == 0 and done.stdout == "left [] 2\n" * 2, done.stdout + done.stderr


@pytest.mark.parametrize("n", [1, 2])
def test_a_run_that_ends_while_its_ranks_ask_each_other_why_it_does_not_is_not_ended(n):
    program = """
import time
from mpi4py import MPI
from theanompi.record.progress import Progress
from theanompi.training.watchdog import COLLECT, TICK, Watchdog
with Watchdog(MPI.COMM_WORLD, Progress(), stall_seconds=0.1, abort=True):
    time.sleep(TICK + COLLECT / 2)
"""
    done = run_mpi(n, ["-c", program])
    assert (done.returncode, done.stderr) == (0, "")


def test_watchdogs_that_end_with_the_run_give_their_communicators_back():
    program = """
from contextlib import suppress
from mpi4py import MPI
from theanompi.record.progress import Progress
from theanompi.training import watchdog
from theanompi.training.ranks import Agreed

class Noted(MPI.Intracomm):
    freed = 0
    def Free(self):
        Noted.freed += 1
        super().Free()

watchdog.TICK = 100
comm = Noted(comm)
for error in (None, Agreed, ArithmeticError):
    with suppress(Agreed, ArithmeticError), watchdog.Watchdog(
        comm, Progress(), stall_seconds=100, abort=False
    ) as dog:
        dog._listen()
        assert dog._heard == {}, "something of the one before it"
        comm.Barrier()
        # Which nobody reads in time.
        dog._tell_others((False, tuple(dog.word())))
        if error is not None:
            raise error
assert Noted.freed == 2
"""
    done = run_warm(2, program, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def settings(out: Path, **changes) -> RunConfig:
    common = {
        "modelfile": "small_models",
        "devices": ["cpu"] * 2,
        "batch_size": 4,
        "max_iterations": 5,
        "curves": False,
    }
    return RunConfig.from_dict({**common, "out": str(out), **changes})


@pytest.fixture
def small_models(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# Which Open MPI's mpirun says where an older Linux does not.
LEFT = "left with exit status 0" + ("" if LINUX >= (6, 15) else f"|{UNSAID}")


def test_a_rank_that_leaves_early_with_status_0_is_no_good_end(small_models, tmp_path):
    rule = BSP()
    rule.start(settings(tmp_path / "run", modelclass="Leaves", checkpoint_interval=1))
    with pytest.raises(RunFailed) as caught:
        rule.wait()
    assert re.fullmatch(
        # MPICH's mpirun counts how it has ended the other one if it sees that soon enough, Open MPI's takes it for a
        # failure that the rank has not finalized MPI, as Intel's does.
        r"BSP: 2 ranks (left before the end of the run, though with exit status 0|failed with exit status ([19]|255))"
        rf" after \d+ s; (rank 1 \(\S+, pid \d+\) ({LEFT}); )?"
        rf"iteration 2 is saved in {tmp_path}/run: --resume goes on from there",
        str(caught.value),
    )
    assert caught.value.status in (1, 9, 255) and ("rank 1" in str(caught.value) or LINUX < (6, 15))


def test_a_mistake_in_a_model_keeps_its_traceback_once(tmp_path):
    done = orderly(2, tmp_path / "run", modelclass="Mistaken")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1 and done.stderr.count("small_models.py") == 1, done.stderr
    assert "ValueError: too many values to unpack (expected 2)" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("n", "sync_type"), [(1, "cdd"), (2, "cdd"), (4, "avg")])
def test_a_signal_to_one_rank_saves_and_stops_all_and_the_run_goes_on_bit_for_bit(n, sync_type, tmp_path):
    common = {"modelclass": "Normalised", "sync_type": sync_type, "max_iterations": 9}
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    trained(n, straight, **common)
    done = orderly(n, stopped, "term-4", **common)
    assert done.returncode == 75, done.stderr
    to = f" to rank {n - 1}" if n > 1 else ""
    saved = f"iteration 5 is saved in {stopped}: --resume goes on from there"
    line = f"theanompi: stopped in good order by SIGTERM{to}; {saved}"
    assert done.stderr.count("theanompi") == done.stderr.count(line) == 1, done.stderr
    trained(n, stopped, resume=True, **common)
    assert (straight / "checkpoint.h5").read_bytes() == (stopped / "checkpoint.h5").read_bytes()
    assert sorted(os.listdir(stopped)) == sorted(os.listdir(straight))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_saves_and_stops_all(number, small_models, tmp_path, monkeypatch):
    monkeypatch.setattr(launch_job, "GRACE", 0.1)  # within which no rank can save
    rule = BSP()
    rule.start(settings(tmp_path / "run", modelclass="Slow", max_iterations=100, log_interval=1))
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists() or not log.stat().st_size:
        time.sleep(0.05)
    signal.raise_signal(number)
    with pytest.raises(RunFailed) as caught:
        rule.wait()
    saved = checkpoint.load(tmp_path / "run" / "checkpoint.h5")[1]["iteration"]
    assert caught.value.status == 75 and 0 < saved < 100
    assert re.fullmatch(
        rf"BSP: 2 ranks stopped in good order by {signal.Signals(number).name} after \d+ s; "
        rf"iteration {saved} is saved in {tmp_path}/run: --resume goes on from there",
        str(caught.value),
    )


def test_a_signal_in_a_validation_stops_all_when_it_is_done(tmp_path):
    done = orderly(
        2, tmp_path, modelclass="TermInValidation", batch_size=100, max_iterations=20, overwrite=True
    )
    assert done.returncode == 75, done.stderr
    assert f"stopped in good order by SIGTERM to rank 1; iteration 7 is saved in {tmp_path}" in done.stderr
    assert [line["kind"] for line in read_log(tmp_path / "log.jsonl")] == ["train", "val"]


def test_a_signal_before_training_ends_all_at_once(tmp_path):
    done = train(2, tmp_path / "run", modelclass="TermInBuild")
    assert done.returncode == 75, done.stderr
    lines = re.findall(r"^theanompi: (.*)$", done.stderr, re.MULTILINE)
    assert lines == ["rank 1 stopped by SIGTERM before training began", "nothing is saved"], done.stderr


@pytest.mark.parametrize("modelclass", ["ExitsInBuild", "Exits", "ExitsInValidation"])
def test_a_model_that_exits_on_one_rank_ends_all(modelclass, tmp_path):
    done = train(2, tmp_path / "run", modelclass=modelclass, batch_size=100, max_iterations=10)
    assert done.returncode == 1
    said = re.findall(r"^theanompi: (.*)$", done.stderr, re.MULTILINE)
    assert len(said) == 2 and said[1] == "nothing is saved", done.stderr
    assert re.fullmatch(
        r"rank 1 left by sys\.exit\(3\) in \S+/small_models\.py, line \d+, before the end of the run", said[0]
    )


@pytest.mark.parametrize(
    ("last", "modelclass", "sync_type"),
    [(3, "SpoiltUpdate", "cdd"), (6, "SpoiltUpdate", "cdd"), (6, "SpoiltVelocity", "avg")],
)
def test_what_is_not_finite_is_never_saved(last, modelclass, sync_type, tmp_path):
    """The third update spoils a number; its own loss is finite, and with 3 updates in all there is no other."""
    (line,) = refused(
        2, tmp_path, modelclass=modelclass, sync_type=sync_type, checkpoint_interval=1, max_iterations=last,
        overwrite=True,
    )  # fmt: skip
    text = "the update has made weights or velocities that are not finite"
    assert line == f"theanompi: iteration 3: {text}"
    arrays, attributes = checkpoint.load(tmp_path / "checkpoint.h5")
    assert attributes["iteration"] == 2 and all(np.isfinite(value).all() for value in arrays.values())
    assert read_log(tmp_path / "log.jsonl")[-1] == {
        "kind": "diverged", "epoch": 0, "iteration": 3, "reason": text,
    }  # fmt: skip


def test_a_blocked_rank_is_named_by_all_and_ends_the_run_when_asked_to(tmp_path):
    done = train(2, tmp_path / "run", modelclass="Blocks", stall_seconds=300, stall_abort=True)
    assert done.returncode == 1
    lines = "\n".join(re.findall(r"^theanompi: (.*)$", done.stderr, re.MULTILINE))
    assert re.search(
        r"no progress for \d+ s, after iteration [23]:\n"
        r"  rank 0 on \S+, pid \d+: exchanging \(waiting for the other ranks: bucket 0, .* MB\), for \d+ s\n"
        r"  rank 1 on \S+, pid \d+: in the training loop, for \d+ s\n"
        r"  the others wait for rank 1\n"
        r"the run ends, as --stall-abort has it; nothing is saved\n",
        lines,
    ), done.stderr
    assert "small_models.py" in done.stderr.partition("its stack")[2], "the stack of the blocked rank"


STUCK = """
import os, signal, sys, time
from mpi4py import MPI
from theanompi.record.progress import Progress
from theanompi.training.watchdog import Watchdog
comm = MPI.COMM_WORLD
progress = Progress()
with Watchdog(comm, progress, stall_seconds=1, abort=sys.argv[1] == "abort"):
    comm.Barrier()
    if comm.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    with progress.waiting("waiting for the other ranks"):
        comm.Barrier()
"""


def test_a_rank_that_waits_for_one_that_goes_on_is_not_stuck():
    program = """
import time
from mpi4py import MPI
from theanompi.record.progress import Progress
from theanompi.training import watchdog
watchdog.TICK, watchdog.COLLECT = 0.1, 0.5
comm, progress = MPI.COMM_WORLD, Progress()
with watchdog.Watchdog(comm, progress, stall_seconds=1.5, abort=True):
    comm.Barrier()
    progress.now("meeting the other ranks")
    if comm.rank == 1:
        for batch in range(40):
            progress.now(f"validating, batch {batch}")
            time.sleep(0.1)
    with progress.waiting("waiting for the other ranks"):
        comm.Barrier()
"""
    done = run_mpi(2, ["-c", program])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stopped_loader_process_is_named_by_the_rank_that_waits_for_it():
    progress = Progress()
    progress.doing = Doing("waiting for a batch", time.monotonic() - 100)
    loader, other = (subprocess.Popen(["sleep", "100"]) for _ in range(2))
    try:
        os.kill(loader.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, loader.pid, os.WSTOPPED)
        with Watchdog(MPI.COMM_SELF, progress, stall_seconds=200, abort=False) as watchdog:
            assert watchdog.word().what == "waiting for a batch"
        with Watchdog(MPI.COMM_SELF, progress, stall_seconds=60, abort=False) as watchdog:
            assert watchdog.word().what == f"waiting for a batch; its process {loader.pid} is stopped"
    finally:
        for process in (loader, other):
            process.kill()
            process.wait()


def test_what_is_said_of_a_stall_is_as_wide_as_the_terminal(monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", "48")
    monkeypatch.setattr("theanompi.training.watchdog.TICK", 0.05)
    progress = Progress()
    progress.doing = Doing("validating, with batches that take a long time", time.monotonic() - 100)
    said = ""
    with Watchdog(MPI.COMM_SELF, progress, stall_seconds=60, abort=False):
        for _ in range(100):
            said += capfd.readouterr().err
            if "for 100 s" in said:
                break
            time.sleep(0.05)
    assert "a long time, for 100 s" in " ".join(said.split())
    assert max(map(len, said.splitlines())) <= 48, said


@pytest.mark.parametrize("n", [2, 4])
def test_a_stopped_rank_is_named_by_the_others_and_ended(n):
    done = run_mpi(n, ["-c", STUCK, "abort"])
    assert done.returncode != 0
    assert done.stderr.count("no progress for ") == 1, done.stderr
    assert re.search(
        r"rank 1 on \S+, pid \d+: says nothing; stopped, stuck outside Python, or gone\n"
        r"theanompi:   the others wait for rank 1\n",
        done.stderr,
    ), done.stderr
    assert done.stderr.count("setting up (waiting for the other ranks), for ") == n - 1
    # All that can speak show theirs.
    for rank in {0, n - 1} - {1}:
        stack = rf"rank {rank} on \S+, pid \d+, setting up \(waiting for the other ranks\); its stack:\n"
        assert re.search(stack, done.stderr), done.stderr
    assert 'File "<string>", line ' in done.stderr.partition("its stack:")[2]


def test_ranks_watch_all_between_them_and_the_mpirun_that_started_them():
    done = run_mpi(
        1,
        ["-c", "from theanompi.system.processes import launchers; print(launchers()[-1].parent)"],
    )
    assert done.stdout.split() == [str(os.getpid())], done.stderr


@pytest.mark.parametrize("target", ["mpirun", "proxy"])
def test_ranks_do_not_outlive_what_started_them(target, tmp_path):
    """Whatever the name of an mpirun's process: Open MPI 5's becomes prterun, Intel's is a shell's."""
    environ = {**os.environ, "RUN_OF_A_TEST": str(tmp_path), "PYTHONPATH": str(ROOT)}
    program = STUCK.replace(
        "os.kill(os.getpid(), signal.SIGSTOP)", "print('here', flush=True); time.sleep(100)"
    )
    command = [*mpirun(), "-np", "2", sys.executable, "-c", program, "report"]
    job = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert job.stdout is not None and job.stdout.readline() == b"here\n"
    # Of the processes between this one and the ranks: the first, or the last.
    starters = [job.pid]
    while len(own := children(starters[-1])) == 1:
        starters += own
    os.kill(starters[-1 * (target == "proxy")], signal.SIGKILL)
    job.wait(timeout=60)
    job.stdout.close()
    assert processes_of(tmp_path) == []
    if target == "proxy" and len(starters) == 1:
        pytest.skip("this MPI's mpirun starts the ranks itself")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_second_run_in_the_folder_of_one_at_work_is_refused_and_disturbs_nothing(
    small_models, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rule = BSP()
    rule.start(settings(tmp_path / "run", modelclass="Held", batch_size=64, max_iterations=20))
    log = tmp_path / "run" / "log.jsonl"
    while not log.exists():
        time.sleep(0.05)
    (line,) = refused(2, tmp_path / "run", overwrite=True)
    assert "expected one in which no run is at work, got one in which process " in line
    (tmp_path / "go").touch()
    assert rule.wait() == 0
    assert [r["iteration"] for r in read_log(log) if r["kind"] == "train"] == [10, 11, 20]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["modelclass"] == "Held"


def test_a_signal_twice_within_moments_is_one_and_later_does_what_it_did_before(monkeypatch):
    with StopSignals(heed=True) as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGHUP"
        monkeypatch.setattr("theanompi.training.stop.monotonic", lambda: time.monotonic() + 10)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopSignals(heed=False) as stop, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_before_there_is_anything_to_save_ends_at_once_also_one_that_has_come_before():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals(heed=True) as stop:
        signal.signal(signal.SIGTERM, lambda *_: None)  # as MPI may do when it starts
        stop.set_up()
        with pytest.raises(Interrupted, match="^SIGTERM$"):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before, "put back at the end"
    with StopSignals(heed=True) as stop:
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(Interrupted, match="^SIGUSR1$"):
            stop.set_up()


def test_signals_that_are_ignored_stay_so_and_who_handles_them_later_keeps_them(monkeypatch):
    before = [signal.getsignal(number) for number in ASKING]
    try:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        with StopSignals(heed=True) as stop:
            signal.raise_signal(signal.SIGUSR1)
            assert not stop.asked and stop.name == ""
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        with StopSignals(heed=True) as stop:
            stop.close()
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
        with monkeypatch.context() as patch:
            # As of a handler that was not set from Python.
            patch.setattr(signal, "getsignal", lambda number: None)
            StopSignals(heed=True).close()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        for number, handler in zip(ASKING, before, strict=True):
            signal.signal(number, handler)


def test_a_thread_that_trains_heeds_no_signal():
    made = []
    thread = threading.Thread(target=lambda: made.append(StopSignals(heed=True)))
    thread.start()
    thread.join()
    assert [stop.asked for stop in made] == [False]
