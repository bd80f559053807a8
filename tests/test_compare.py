"""``tmlauncher compare``: all runs of an experiment, stopped at any moment and continued, or ending badly."""

import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from tests.mpi import ROOT, run_mpi
from tests.test_launch import assert_gone
from theanompi import cli
from theanompi.experiments import runner, storage
from theanompi.launch import job
from theanompi.launch.mpirun import identify
from theanompi.record.log import read_log

WORKER = "tests.compare_worker"
pytestmark = pytest.mark.usefixtures("pictures")

REPORT = ("report.json", "report.md", "curves.png")
EXPERIMENT = """
scale = "small"
seeds = 2
workers = [2]
claims = ["theirs@2 < mine@2"]
[settings]
data = "digits"
modelfile = "tests.small_models"
modelclass = "Plain"
epochs = 3
[arms.theirs]
preset = "their_way"
[arms.mine]
preset = "my_way"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with an experiment of four runs."""
    (tmp_path / "test.toml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def run(*flags: str, worker: str = WORKER) -> int:
    return cli.main(["compare", "test.toml", *flags], worker)


def command(*flags: str, worker: str = WORKER) -> list[str]:
    # An mpirun whose own process was killed has none to wait for, which takes long to be sure of elsewhere.
    program = "import sys; from theanompi.launch import job; job.PATIENCE, job.GRACE = 8, 4; "
    # As the fixture `pictures` has it.
    program += "from theanompi.experiments import report; "
    program += "report.plot_comparison = report.plot_time = lambda _, path: path.touch(); "
    program += f"from theanompi.cli import main; sys.exit(main(sys.argv[1:], {worker!r}))"
    return [sys.executable, "-c", program, "compare", "test.toml", *flags]


def refused(capsys, *flags: str) -> str:
    """The one line of a call that is refused."""
    with pytest.raises(SystemExit) as caught:
        run(*flags)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("tmlauncher compare: error: ") and err.count("\n") == 1
    return err.removeprefix("tmlauncher compare: error: ").strip()


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and theirs."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in REPORT}


def test_runs_are_compared_by_the_metric_that_their_model_names(folder, capsys):
    Path("test.toml").write_text(EXPERIMENT.replace("Plain", "Regression"))
    assert run("--out", "e", "--jobs", "3") == 0
    out, err = capsys.readouterr()
    values = [r["mae"] for r in read_log("e/mine/2-workers/seed-1/log.jsonl") if r["kind"] == "val"]
    assert re.search(rf"mine, 2 workers, seed 1: mae {sorted(values)[1]:g}, \d+ s", err)
    assert "validation mae, median of 3 epochs" in out and "error" not in out
    # The runs are known again, whatever stands in their config.json beside the settings.
    assert run("--out", "e") == 0
    assert "4 runs, 4 of them done" in capsys.readouterr().err


def test_runs_of_different_metrics_are_not_reported_together(folder, capsys):
    Path("test.toml").write_text(EXPERIMENT + 'modelclass = "Regression"\n')
    assert run("--out", "e", "--jobs", "3") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1] == (
        "no report: experiment e: expected one metric in all runs, got 'error' in theirs, 2 workers, seed 0 and "
        "'mae' in mine, 2 workers, seed 0"
    )


def test_every_run_is_made_and_reported(folder, capsys):
    assert run("--out", "e", "--jobs", "3") == 0
    out, err = capsys.readouterr()
    first, *lines = err.splitlines()
    assert first == "test at scale small: 4 runs, 0 of them done; 3 at once; in e"
    names = {f"{arm}, 2 workers, seed {seed}" for arm in ("theirs", "mine") for seed in (0, 1)}
    assert {line.split(":")[0] for line in lines} == names
    for i, line in enumerate(lines, 1):
        assert re.fullmatch(rf".*: \d+\.0 %, \d+ s \({i} of 4\)", line)
    # the median of three epochs, as the log has it
    errors = [r["error"] for r in read_log("e/mine/2-workers/seed-1/log.jsonl") if r["kind"] == "val"]
    assert f"mine, 2 workers, seed 1: {100 * sorted(errors)[1]:.1f} %" in err
    assert (
        "2 workers" in out and "theirs@2 < mine@2" in out and "e: report.md, report.json, curves.png" in out
    )
    kept = {path.name for path in Path("e/mine/2-workers/seed-1").iterdir()}
    assert kept == {"config.json", "log.jsonl", "output.txt"}
    config = json.loads(Path("e/theirs/2-workers/seed-1/config.json").read_text())
    assert (config["accumulation"], config["devices"], config["seed"]) == (2, ["cpu"], 1)
    about = json.loads(Path("e/experiment.json").read_text())
    assert about["machine"]["cores"] == job.cores()
    assert about["arms"]["mine"]["settings"]["sync_type"] == "avg"


def test_nothing_is_run_twice_and_more_is_added(folder, capsys):
    assert run("--seeds", "1") == 0
    logs = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("log.jsonl")}
    assert len(logs) == 2
    before = files(Path("runs/compare/test-small"))
    assert run("--seeds", "1") == 0
    assert "2 runs, 2 of them done" in capsys.readouterr().err
    assert files(Path("runs/compare/test-small")) == before
    toml = EXPERIMENT.replace("[2]", "[2, 4]") + '[arms.scaled]\npreset = "my_way_scaled"\n'
    Path("test.toml").write_text(toml)
    assert run() == 0
    assert "12 runs, 2 of them done" in capsys.readouterr().err
    assert len(list(Path("runs").rglob("log.jsonl"))) == 12
    assert {path: path.stat().st_mtime_ns for path in logs} == logs


def test_ranks_and_threads_share_the_cores(folder, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(job, "cores", lambda: 8)
    monkeypatch.setattr(runner, "cores", lambda: 8)
    started = []

    class Recorded:
        ended_by = None

        def __init__(self, config, **how):
            started.append((len(config.devices), config.accumulation, how["threads"]))

        def wait(self):
            return 1

    monkeypatch.setattr("theanompi.launch.session.Job", Recorded)
    assert run("--seeds", "1", "--simulate", "0", "--workers", "2", "4") == 1
    # 2 runs at once, as the larger ones leave room for
    assert sorted(started) == [(2, 1, 2), (2, 1, 2), (4, 1, 1), (4, 1, 1)]
    started.clear()
    assert run("--seeds", "1", "--workers", "4", "--simulate", "2", "--jobs", "1", "--out", "two") == 1
    assert started == [(2, 2, 4)] * 2
    started.clear()
    assert run("--seeds", "1", "--device", "cuda", "--out", "gpu") == 1
    assert started == [(1, 2, 8)] * 2


def test_a_failed_run_does_not_lose_the_others(folder, capsys):
    Path("test.toml").write_text(EXPERIMENT + '[arms.wrong]\nmodelclass = "Broken"\n')
    assert run("--out", "e") == 1
    out, err = capsys.readouterr()
    where = "e/wrong/2-workers/seed-1/output.txt"
    line = f"wrong, 2 workers, seed 1: failed (ArithmeticError: the user's own mistake); see {where} ("
    assert line in err
    assert err.endswith("2 of 6 runs failed; the same command tries them again\n")
    assert "the user's own mistake" in Path(where).read_text()
    assert "Traceback" not in out + err
    incomplete = "stopped after epoch 1; its output ends with: ArithmeticError: the user's own mistake"
    assert f"not complete:\n  wrong, 2 workers, seeds 0, 1: {incomplete}\n" in out
    # tried once more from its checkpoint, and what is left to do if that is what is wrong
    assert run("--out", "e") == 1
    remedy = f"; see {where}, or remove e/wrong/2-workers/seed-1 to begin it again ("
    assert (
        f"wrong, 2 workers, seed 1: failed (ArithmeticError: the user's own mistake){remedy}"
        in capsys.readouterr().err
    )
    Path("mended").touch()
    assert run("--out", "e") == 0
    out, err = capsys.readouterr()
    assert "6 runs, 4 of them done" in err and "failed" not in out + err
    # from its checkpoint, with what it said before
    assert re.findall(r"begins at \d+", Path(where).read_text()) == [
        "begins at 0",
        "begins at 4",
        "begins at 4",
    ]


def test_a_mistake_of_ours_in_one_run_does_not_lose_the_others(folder, capsys, monkeypatch):
    # Two are made to check the runs beforehand.
    bsp = runner.get_rule("BSP")
    rules = Mock(side_effect=[bsp, bsp, RuntimeError("not thought of"), bsp])
    monkeypatch.setattr(runner, "get_rule", rules)
    assert run("--out", "e", "--seeds", "1", "--jobs", "1") == 1
    err = capsys.readouterr().err
    assert "theirs, 2 workers, seed 0: failed (not thought of); see " in err
    assert "mine, 2 workers, seed 0: " in err and "1 of 2 runs failed" in err


def test_a_killed_rank_is_named_by_its_signal(folder, capsys):
    Path("test.toml").write_text(EXPERIMENT.replace("epochs = 3", "epochs = 1000"))
    process = subprocess.Popen(command("--out", "e", "--jobs", "1"), stderr=subprocess.PIPE, text=True)
    await_file(process, Path("e/theirs/2-workers/seed-0/checkpoint.h5"))
    # The second one does nothing, and may have ended.
    command_line = f"{sys.executable}\0-m\0{WORKER}\0"
    ranks = (
        pid for pid in descendants(process.pid) if Path(f"/proc/{pid}/cmdline").read_text() == command_line
    )
    kill(next(ranks), signal.SIGKILL)
    await_file(process, Path("e/mine/2-workers/seed-0/log.jsonl"))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    who = r"rank \d" if identify()[1] == "openmpi" else "a rank"
    line = rf"{who} \(\S+(, pid \d+)?\) was ended by SIGKILL.*; see e/theirs/2-workers/seed-0/"
    line = f"theirs, 2 workers, seed 0: {line}"
    assert re.search(line, err), err
    assert process.returncode == 128 + signal.SIGTERM


def test_a_diverged_run_is_complete(folder, capsys):
    Path("test.toml").write_text(EXPERIMENT + '[arms.wrong]\nmodelclass = "NotFinite"\n')
    assert run("--out", "e") == 0
    out, err = capsys.readouterr()
    reason = "the loss is not finite on rank 0 (nan), η = 0.1"
    assert re.search(
        rf"wrong, 2 workers, seed 0: diverged in epoch 2: {re.escape(reason)}, \d+ s \(\d of 6\)\n", err
    )
    assert "diverged" in out
    assert run("--out", "e") == 0
    assert "6 runs, 6 of them done" in capsys.readouterr().err


def await_file(process: subprocess.Popen, path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


def test_only_one_at_a_time(folder, capsys):
    process = subprocess.Popen(command("--out", "e"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await_file(process, Path("e/theirs/2-workers/seed-0/config.json"))
    assert refused(capsys, "--out", "e") == (
        "out: expected a folder in which no other compare is at work, got 'e', "
        f"in which process {process.pid} is"
    )
    assert process.wait(timeout=120) == 0


def test_runs_that_a_killed_one_left_behind_are_waited_for(folder, capsys, monkeypatch):
    """Their end is sure to come; until then nobody else writes into their folders."""
    Path("e").mkdir()
    holder = (
        "import fcntl, os; f = os.open('e/.lock', os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX); "
    )
    holder += "os.write(f, b'999999999'); print('held', flush=True); input()"
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        waited = []

        def wait(seconds):
            waited.append(seconds)
            assert not Path("e/experiment.json").exists()
            if len(waited) == 3:
                process.communicate(b"\n")

        with monkeypatch.context() as patch:
            patch.setattr(storage, "time", SimpleNamespace(monotonic=time.monotonic, sleep=wait))
            assert run("--out", "e", "--seeds", "1") == 0
        assert len(waited) == 3
    capsys.readouterr()
    monkeypatch.setattr(storage, "HANDOVER", 0.3)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert refused(capsys, "--out", "e") == (
            "out: expected a folder in which no run is at work, got 'e', in which runs go on that process 999999999 "
            "has left behind"
        )
        process.communicate(b"\n")


def test_other_settings_are_not_mixed(folder, capsys):
    assert run("--out", "e", "--seeds", "1") == 0
    capsys.readouterr()
    Path("test.toml").write_text(EXPERIMENT + "warmup_epochs = 1\nmomentum = 0.8\n")
    remedy = "--overwrite runs it again, --out takes another folder"
    message = (
        "e/mine/2-workers/seed-0/config.json: warmup_epochs: expected 1.0 as the experiment has it, "
        f"got {3 * 5 / 90} (and 1 more); {remedy}"
    )
    assert refused(capsys, "--out", "e") == message
    # of a run too that has not ended
    log, checkpoint = (Path("e/mine/2-workers/seed-0", name) for name in ("log.jsonl", "checkpoint.h5"))
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    checkpoint.touch()
    assert refused(capsys, "--out", "e") == message
    log.write_text(whole)
    checkpoint.unlink()
    kept = Path("e/theirs/2-workers/seed-0/log.jsonl").stat().st_mtime_ns
    assert run("--out", "e", "--overwrite", "--seeds", "1") == 0
    assert "2 runs, 1 of them done" in capsys.readouterr().err
    assert Path("e/theirs/2-workers/seed-0/log.jsonl").stat().st_mtime_ns == kept
    Path("test.toml").write_text('name = "other"\n' + EXPERIMENT)
    assert refused(capsys, "--out", "e") == f"e/experiment.json: name: expected 'other', got 'test'; {remedy}"
    # what does not change the figures may change
    Path("test.toml").write_text(EXPERIMENT + "warmup_epochs = 1\nmomentum = 0.8\nloader_processes = 2\n")
    assert run("--out", "e", "--seeds", "1") == 0
    Path("e/mine/2-workers/seed-0/config.json").write_text("{")
    assert run("--out", "e", "--seeds", "1") == 0  # begun again, as its files are of no use
    assert "2 runs, 1 of them done" in capsys.readouterr().err


def test_runs_of_other_experiments_are_reused(folder, capsys):
    assert run("--out", "first") == 0
    capsys.readouterr()
    # the same settings under another name, and others under the same one
    toml = EXPERIMENT.replace("arms.theirs", "arms.baseline").replace(
        "theirs@2 < mine@2", "mine@2 > baseline@2"
    )
    Path("second.toml").write_text(toml + "momentum = 0.8\n")
    argv = ["compare", "second.toml", "--out", "second", "--seeds", "3", "--reuse", "first"]
    assert cli.main(argv, WORKER) == 0
    err = capsys.readouterr().err
    for seed in (0, 1):
        assert f"baseline, 2 workers, seed {seed}: taken from first/theirs/2-workers/seed-{seed}\n" in err
    assert err.count("taken from") == 2 and "6 runs, 2 of them done" in err
    one, two = (Path(f"{name}/2-workers/seed-1/log.jsonl") for name in ("first/theirs", "second/baseline"))
    assert one.read_text() == two.read_text()
    os.symlink("loop", "loop")
    for nowhere in ("nowhere", "loop"):
        assert refused(capsys, "--reuse", nowhere) == (
            f"reuse: expected the folder of an experiment, got {nowhere!r}"
        )


def logs(folder: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("log.jsonl")}


def test_a_call_that_is_refused_removes_nothing(folder, capsys):
    assert run("--out", "e", "--seeds", "1") == 0
    before = logs("e") | {path: path.stat().st_mtime_ns for path in Path("e").glob("[!.]*.*")}
    capsys.readouterr()
    again = ("--out", "e", "--seeds", "1", "--overwrite")
    Path("test.toml").write_text(EXPERIMENT.replace("epochs = 3", "epochs = 4"))
    assert refused(capsys, *again, "--reuse", "nowhere").startswith(
        "reuse: expected the folder of an experiment"
    )
    assert refused(capsys, *again, "--reuse", "e") == (
        "reuse: expected the folder of another experiment, got that of this one, 'e'"
    )
    Path("test.toml").write_text(EXPERIMENT.replace('"digits"', '"nowhere.h5"'))
    assert refused(capsys, *again).startswith("theirs: data: expected")
    assert logs("e") | {path: path.stat().st_mtime_ns for path in Path("e").glob("[!.]*.*")} == before
    Path("test.toml").write_text(EXPERIMENT.replace("epochs = 3", "epochs = 4"))
    assert run(*again) == 0
    assert len(logs("e")) == 2 and not logs("e").items() & before.items()


def test_a_damaged_run_is_set_aside_and_made_again(folder, capsys):
    assert run("--out", "e") == 0
    whole = files(Path("e"))
    log = Path("e/mine/2-workers/seed-0/log.jsonl")
    damaged = b"\0" * 100 + b"\n" + log.read_bytes()
    log.write_bytes(damaged)
    # Stopped as it begins again, there is a report all the same.
    Path("test.toml").write_text(EXPERIMENT.replace("seeds = 2", "seeds = [0, 1, 2]"))
    process = subprocess.Popen(
        command("--out", "e", "--jobs", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    aside = Path("e/mine/2-workers/seed-0.damaged/log.jsonl")
    await_file(process, aside)
    await_file(process, Path("e/mine/2-workers/seed-0/output.txt"))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT
    assert f"mine, 2 workers, seed 0: log {log}, line 1: expected a JSON object, got " in err
    assert "; now e/mine/2-workers/seed-0.damaged, and begun again\n" in err
    assert "Traceback" not in out + err and "e: report.md, report.json, curves.png" in out
    assert aside.read_bytes() == damaged
    Path("test.toml").write_text(EXPERIMENT)
    assert run("--out", "e") == 0
    assert files(Path("e")) == whole


def test_a_report_that_cannot_be_made_is_one_line(folder, capsys):
    folder = Path("e" * 200, "f" * 200)
    Path(folder, "report.md.tmp").mkdir(parents=True)
    assert run("--out", str(folder), "--seeds", "1") == 1
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("no report: ")]
    assert out == "" and len(line) <= 300
    assert line.startswith("no report: eee") and line.endswith(
        "/report.md: cannot be written: Is a directory"
    )


def test_the_machine_is_that_of_the_runs(folder, capsys):
    """Who only looks at runs, or copies them, has not made them."""

    def machine(name: str) -> dict[str, object]:
        return json.loads(Path(name, "experiment.json").read_text())["machine"]

    assert run("--out", "e", "--seeds", "1") == 0
    about = Path("e/experiment.json")
    about.write_text(about.read_text().replace(f'"cores": {job.cores()}', '"cores": 1234'))
    assert run("--out", "e", "--seeds", "1") == 0 and machine("e")["cores"] == 1234
    assert run("--out", "copy", "--seeds", "1", "--reuse", "e") == 0 and machine("copy")["cores"] == 1234
    assert run("--out", "copy", "--seeds", "2", "--reuse", "e") == 0
    assert machine("copy")["cores"] == job.cores()


def test_the_page_says_with_which_flags(folder, capsys):
    assert run("--out", "e", "--seeds", "1", "--workers", "4", "2", "--device", "cpu0") == 0
    flags = "--scale small --seeds 1 --simulate 1 --workers 4 2 --device cpu0"
    assert f"`tmlauncher compare test.toml {flags}` runs it" in Path("e/report.md").read_text()


def test_bad_calls_are_one_line(folder, capsys):
    Path("file").touch()
    assert (
        refused(capsys, "--out", "file")
        == "out: expected a folder to write in, got 'file' (a file of this name)"
    )
    Path("locked/.lock").mkdir(parents=True)
    assert refused(capsys, "--out", "locked") == (
        "locked/.lock: expected to be readable and writable, got: Is a directory"
    )
    Path("taken/experiment.json").mkdir(parents=True)
    assert refused(capsys, "--out", "taken") == (
        "taken/experiment.json: expected a readable text file, got 'taken/experiment.json' (a folder)"
    )
    assert refused(capsys, "--jobs", "0") == "jobs: expected a whole number of at least 1, got 0"
    Path("test.toml").write_text(EXPERIMENT.replace("small_models", "smal_models"))
    assert refused(capsys) == (
        "theirs: modelfile: expected a module on sys.path, got 'tests.smal_models'; did you mean 'tests.small_models'?"
    )
    Path("test.toml").write_text(EXPERIMENT.replace('"digits"', '"nowhere.h5"'))
    assert refused(capsys) == (
        "theirs: data: expected digits, reviews, sentences or the path of an HDF5 file, got 'nowhere.h5', which is none"
    )
    assert not list(Path("runs").rglob("experiment.json"))


def test_not_under_an_mpirun(folder):
    *program, _ = command()[1:]
    done = run_mpi(2, [*program, str(folder / "test.toml")])
    assert done.returncode != 0
    line = "compare: expected to be started alone, as it starts an mpirun for each run, got a rank of one\n"
    assert (done.stdout + done.stderr).count(line) == 1
    assert not (folder / "runs").exists() and not (ROOT / "runs" / "compare" / "test-small").exists()


def test_the_data_set_of_the_small_scale_is_made(folder, monkeypatch, capsys):
    # As in a fresh clone: there is no folder runs yet.
    made = []

    def pack(argv):
        made.append(argv)
        shutil.copy(ROOT / "theanompi" / "data" / "digits.h5", argv[-1])
        return 0

    monkeypatch.setattr("theanompi.data.pack.command.main", pack)
    Path("test.toml").write_text(EXPERIMENT.replace('data = "digits"\n', ""))
    assert run("--seeds", "1", "--out", "e") == 0
    assert run("--out", "e") == 0
    assert made == [["glyphs", "-o", "runs/glyphs.h5"]]
    Path("runs/glyphs.h5").unlink()
    monkeypatch.setattr("theanompi.data.pack.command.main", lambda argv: 1)
    assert run("--out", "e") == 0  # nothing is left that needs it
    capsys.readouterr()
    assert refused(capsys, "--seeds", "3", "--out", "e").startswith(
        "data: expected runs/glyphs.h5 to be made"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_and_reports_what_there_is(folder, number):
    Path("test.toml").write_text(EXPERIMENT.replace("seeds = 2", "seeds = 20"))
    process = subprocess.Popen(
        command("--out", "e", "--jobs", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    config = Path("e/mine/2-workers/seed-1/config.json")
    await_file(process, config)
    # What is stopped begins its epoch again: its log is that of a run that never was.
    assert json.loads(config.read_text())["save_on_signal"] is False
    jobs = descendants(process.pid)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert re.search(r"\nstopped with \d+ of 40 runs done; the same command goes on\n$", err)
    assert "Traceback" not in err and "failed" not in err
    assert "theirs@2 < mine@2" in out
    assert_gone(jobs)


def test_under_nohup_a_closed_terminal_stops_nothing(folder):
    Path("test.toml").write_text(EXPERIMENT.replace("seeds = 2", "seeds = 20"))
    process = subprocess.Popen(
        ["nohup", *command("--out", "e")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    await_file(process, Path("e/mine/2-workers/seed-1/config.json"))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err


def test_ctrl_c_after_the_runs(folder, monkeypatch, capsys):
    def interrupted(out, *, columns):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "report", interrupted)
    assert run("--seeds", "1") == 130
    assert capsys.readouterr().err.endswith("stopped; the same command goes on\n")


def test_stopped_at_ten_moments_it_gives_the_same_report(folder):
    """By signals and kills of the whole, of a part, or of all at once, nine times at random."""
    Path("test.toml").write_text(EXPERIMENT.replace("epochs = 3", "epochs = 16"))
    begin = time.time()
    subprocess.run(command("--out", "whole", "--jobs", "2"), capture_output=True, check=True, timeout=120)
    # Without the report, which is made when all is done.
    duration = max(path.stat().st_mtime for path in Path("whole").rglob("log.jsonl")) - begin
    # Once surely after a checkpoint: on a busy machine none of the moments need be. And before the end, which workers
    # would come to where an mpirun takes its time to end them.
    Path("held").touch()
    with subprocess.Popen(command("--out", "parts", "--jobs", "2"), stderr=subprocess.DEVNULL) as process:
        while not any(Path("parts").rglob("checkpoint.h5")):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    Path("held").unlink()
    moments = random.Random(7)
    for _ in range(9):
        process = subprocess.Popen(
            command("--out", "parts", "--jobs", "2"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(duration * moments.uniform(0.05, 0.4))
        except subprocess.TimeoutExpired:
            all_of_it = [process.pid, *descendants(process.pid)]
            victims, number = moments.choice(
                [
                    ([process.pid], signal.SIGINT),
                    ([process.pid], signal.SIGTERM),
                    ([process.pid], signal.SIGKILL),
                    (all_of_it, signal.SIGKILL),
                    (all_of_it[-1:], signal.SIGKILL),
                ]
            )
            for pid in victims:
                kill(pid, number)
        # Longer where the process was killed that was to start the ranks: mpirun does not see that.
        process.wait(timeout=90)
    assert run("--out", "parts", "--jobs", "2") == 0
    assert files(Path("parts")) == files(Path("whole"))
    # and that by going on, not by beginning again
    begun = [path.read_text() for path in Path("parts").rglob("output.txt")]
    assert any(re.search("begins at [1-9]", text) for text in begun)


def test_real_runs_go_on_where_they_were(folder, capsys):
    """With the real worker, after a kill of the launcher alone."""
    real = job.WORKER
    theirs = '[arms.theirs]\npreset = "their_way"\n'
    one = EXPERIMENT.replace(theirs, "").replace("theirs@2", "mine@2")
    Path("test.toml").write_text(one.replace("Plain", "Held"))
    Path("go").touch()
    assert run("--out", "whole", "--seeds", "1", worker=real) == 0
    Path("go").unlink()
    process = subprocess.Popen(
        command("--out", "parts", "--seeds", "1", worker=real), stderr=subprocess.DEVNULL
    )
    await_file(process, Path("parts/mine/2-workers/seed-0/checkpoint.h5"))
    jobs = descendants(process.pid)
    process.kill()
    process.wait()
    capsys.readouterr()

    def go_on_when_they_are_gone():
        assert_gone(jobs)
        Path("go").touch()

    threading.Thread(target=go_on_when_they_are_gone).start()
    assert run("--out", "parts", "--seeds", "1", worker=real) == 0
    assert files(Path("parts")) == files(Path("whole"))
    config = json.loads(Path("parts/mine/2-workers/seed-0/config.json").read_text())
    assert config["resume"] is True


def test_on_a_terminal_a_bar_shows_the_whole(folder):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command("--out", "e", "--jobs", "2"), stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    process.communicate(timeout=120)
    assert process.returncode == 0
    text = shown.decode()
    assert re.search(r"[1-3] of 4 runs .*\| \d+/12 epochs \[\d\d:\d\d left\]", text)
    assert re.search(r"mine, 2 workers, seed 1: \d+\.0 %, \d+ s \(\d of 4\)\r\n", text)


def test_without_a_terminal_a_line_now_and_then(folder, capsys, monkeypatch):
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_LINES", 0.2)
    monkeypatch.setattr(runner, "TICK", 0.05)
    assert run("--jobs", "1") == 0
    err = capsys.readouterr().err
    assert re.search(r"^[1-3] of 4 runs, \d+ of 12 epochs, about \d+ s left$", err, re.MULTILINE)
    assert [runner._time(seconds) for seconds in (99.4, 100, 3600, 9000)] == [
        "99 s",
        "2 min",
        "60 min",
        "2.5 h",
    ]


def test_the_example_is_the_slides_experiment():
    example = [sys.executable, str(ROOT / "examples" / "my_way_vs_their_way.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*example, "--scale", "smal"], capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 2
    assert done.stderr.startswith("tmlauncher compare: error: ")
    assert done.stderr.endswith(
        "slides.toml: scale: expected one of imagenet, small, own, got 'smal'; did you mean 'small'?\n"
    )
