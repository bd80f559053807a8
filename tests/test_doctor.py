"""``tmlauncher doctor`` as a user meets it, on this machine and on ones that are made to be ill."""

import errno
import io
import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import mpi4py
import pytest

from tests.mpi import ROOT
from theanompi import cli
from theanompi.config import RunConfig
from theanompi.doctor import examination, findings, questions
from theanompi.doctor.examination import Doctor, line
from theanompi.doctor.findings import Finding
from theanompi.launch import mpirun
from theanompi.system.load import Load

DIGITS = ROOT / "theanompi" / "data" / "digits.h5"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small sums, patience with a busy machine, and a current folder that may be anywhere."""
    monkeypatch.setattr(examination, "VALUES", (1000,))
    monkeypatch.setattr(examination, "TIMEOUTS", dict.fromkeys(examination.TIMEOUTS, 200.0))
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A function that puts another mpirun beside Python: a shell script."""
    real = Path(sys.executable)
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))

    def make(script: str) -> Path:
        path = folder / "mpirun"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


def answer(who: Doctor, question: str, *given: object) -> tuple[dict, str]:
    """What `Doctor._ask` gives, without a process for the question."""
    status, said = 0, io.StringIO()
    with redirect_stdout(said):
        try:
            questions.QUESTIONS[question](*given)
        except (ValueError, OSError) as error:
            status = 1
            mpirun.say(error=str(error))
    return who._answer(question, mpirun.Outcome(status, said.getvalue(), ""))


def diagnose(part: str, config: RunConfig | None = None, **machine: object) -> list[str]:
    """The lines of one part of the examination, of which the part before found a healthy machine without GPUs."""
    who = Doctor(config or RunConfig(), bind=False)
    who.facts["machine"] = {"packages": {}, "gpus": [], "library": "MPICH Version: 5.0.2", **machine}
    if part == "_run":
        # A model of the zoo is built sooner than a process for it begins.
        ours = who.given.modelfile == RunConfig().modelfile
        with patch.object(Doctor, "_ask", answer) if ours else nullcontext():
            assert [*who._model()] == []
    return [re.sub(r" +", " ", line(item)) for item in getattr(who, part)()]


@pytest.mark.parametrize(
    ("levels", "status", "last"),
    [
        (["ok", "warning"], 0, "It will work: 1 ok, 1 warning, 0 problems."),
        (["ok", "problem", "warning", "warning"], 1, "It will not work: 1 ok, 2 warnings, 1 problem."),
    ],
)
def test_lines_and_exit_status(levels, status, last, capsys, monkeypatch):
    found = [Finding(f"topic {i}", level, "text", "help" * (level != "ok")) for i, level in enumerate(levels)]
    monkeypatch.setattr(Doctor, "examine", lambda self: iter(found))
    assert cli.main(["doctor", "-s", "2"]) == status
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"theanompi \S+ on \S+: cpu, cpu", out[0])
    assert out[1:4] == [
        "ok       topic 0        text",
        f"{levels[1]:<8} topic 1        text",
        "                        remedy: help",
    ]
    assert out[-1] == last


def test_json(tmp_path):
    """In a process of its own: nothing else is on standard output, and the exit status tells of the problem."""
    (tmp_path / "config.json").write_text("{}")
    code = """
import sys
from theanompi.cli import main
from theanompi.doctor import examination
examination.VALUES = (1000,)
examination.TIMEOUTS = dict.fromkeys(examination.TIMEOUTS, 200.0)
sys.exit(main(sys.argv[1:]))
"""
    words = [
        "doctor",
        "--json",
        *("-file", "models.resnet_cifar", "-class", "ResNetCifar"),
        "--out",
        str(tmp_path),
        "--batch-size",
        "8",
        "--device",
        "localhost:cpu,127.0.0.1:cpu",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert set(report) == {"theanompi", "host", "config", "findings", "counts", "exit_status", "facts"}
    assert report["exit_status"] == 1 and report["config"]["batch_size"] == 8
    assert report["counts"]["problem"] == 1 and set(report["counts"]) == {"ok", "warning", "problem"}
    for item in report["findings"]:
        assert set(item) == {"topic", "level", "text", "remedy"}
        assert bool(item["remedy"]) == (item["level"] != "ok")
    topics = [item["topic"] for item in report["findings"]]
    assert topics == [
        "load",
        *("python", "packages", "MPI library", "C compiler", "cores", "memory", "/dev/shm", "GPUs", "ranks"),
        "mpirun",
        *(
            "thread level",
            "allreduce",
            "CUDA-aware",
            *["host"] * 6,
            "data",
            "reading",
            "run folder",
            "checkpoints",
        ),
    ]
    assert "308,794 parameters: 2.4 MiB each, 3 at a time" in report["findings"][-1]["text"]
    assert os.listdir(tmp_path) == ["config.json"], "looking changes nothing"
    (problem,) = [item for item in report["findings"] if item["level"] == "problem"]
    assert problem["text"].endswith(": holds a run")
    found = report["facts"]
    assert found["ranks"]["size"] == 2 and found["ranks"]["threads"] == 3
    assert [item["path"] for item in found["ranks"]["sums"]] == ["host"]
    assert found["machine"]["processors"] == len(os.sched_getaffinity(0))
    assert found["data"]["n_train"] == 1437 and found["data"]["items_per_s"] > 0
    assert found["model"]["parameters"] == 308_794
    for host in ("localhost", "127.0.0.1"):
        assert found[f"host {host}"]["python"] == found["machine"]["python"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "0"], "epochs: expected a whole number of at least 1, got '0'"),
        (
            ["-cfg", "no.cfg"],
            "cfg file: expected a readable text file, got 'no.cfg' (No such file or directory)",
        ),
        (["--plan"], "plan: expected a run, got the doctor; tmlauncher --plan prints it"),
        (["doctr"], "expected flags only, got 'doctr'"),
    ],
)
def test_a_wrong_flag(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", *argv])
    assert end.value.code == 2
    assert capsys.readouterr().err == f"tmlauncher doctor: error: {message}\n"


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", "--help"])
    assert end.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("usage: tmlauncher doctor [flags]")
    assert "Exit status: 0 when there is no problem, 1 when there is one, 2 when a flag is wrong." in out
    assert "--json" in out and "-cfg" in out and "--batch-size" in out
    cli.main([])
    assert "doctor [flags] find out beforehand whether a run will work" in " ".join(
        capsys.readouterr().out.split()
    )


def test_no_mpirun(other, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert diagnose("_mpi") == [
        f"problem mpirun mpirun: expected one in {tmp_path}/bin or on PATH, got none\n remedy: pip install mpich"
    ]


def test_an_mpirun_that_hangs(other, monkeypatch):
    path = other('[ "$1" = --version ] && exec echo HYDRA\nexec sleep 60')
    monkeypatch.setitem(examination.TIMEOUTS, "ranks", 1)
    (found,) = diagnose("_mpi")
    assert found.startswith(
        f"problem mpirun {path}: a job had not ended after 1 s\n remedy: try '{path} -n 2 hostname'"
    )


def test_an_mpirun_that_does_not_even_say_what_it_is(other, monkeypatch):
    path = other("exec sleep 60")
    monkeypatch.setattr(mpirun, "ANSWER", 0.5)
    (found,) = diagnose("_mpi")
    assert found.startswith(
        f"problem mpirun {path} --version: expected an answer, got none: it had not ended after 0.5 s\n remedy: "
    )


def test_an_mpirun_of_another_mpi(other):
    """It starts two processes, which know nothing of each other."""
    path = other(
        '[ "$1" = --version ] && { echo HYDRA; exit; }\nwhile [ "$1" != -n ]; do shift; done\n'
        'shift 2\n"$@" &\n"$@"\nwait'
    )
    found = diagnose("_mpi")
    assert found[0].startswith(
        f"problem mpirun {path} does not belong to MPICH Version: 5.0.2: it started 2 processes, and each is alone\n"
    )
    assert "MPI4PY_LIBMPI" in found[0]
    assert [text.split(" ")[0] for text in found[1:]] == ["ok", "ok"]


def test_a_thread_level_that_is_too_low(monkeypatch):
    monkeypatch.setenv("MPI4PY_RC_THREAD_LEVEL", "single")
    found = diagnose("_mpi")[1]
    assert found.startswith("problem thread level MPI_THREAD_SINGLE is what MPI gave; the exchange needs ")


def test_more_ranks_than_gpus():
    """Devices that are not there are one problem, and nothing is tried on them."""
    gpu = {"name": "H100", "uuid": "GPU-a", "memory": 80, "free": 80}
    found = diagnose("_mpi", RunConfig(devices="cuda0,cuda1"), gpus=[gpu])
    assert not [text for text in found if "CUDA-aware" in text]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("", "ok Triton batch normalisation, max pooling and crops on GPUs are Triton's kernels"),
        (
            "not installed",
            "warning Triton not installed: batch normalisation, max pooling and crops on GPUs are torch's",
        ),
    ],
)
def test_whether_tritons_kernels_run_on_the_gpus(reason, said):
    gpu = {"name": "H100", "uuid": "GPU-a", "memory": 80, "free": 80}
    facts = {"gpus": [gpu], "driver": "1", "triton": reason}
    found = [re.sub(r" +", " ", line(item)) for item in findings.devices(("cuda:0",), facts, "node0")]
    assert found[1].startswith(said)
    without = findings.devices(("cpu",), {**facts, "gpus": [], "driver": None}, "node0")
    assert not [item for item in without if item.topic == "Triton"]


def test_a_truncated_data_set(tmp_path):
    path = tmp_path / "cut.h5"
    path.write_bytes(DIGITS.read_bytes()[:100_000])
    found = diagnose("_run", RunConfig(data=str(path), out=str(tmp_path)))
    assert found[0].startswith(
        f"problem data {path}: opening it failed (data file {path}: expected a whole HDF5 file, got a damaged one: "
    )
    assert found[1:] == [f"ok run folder {tmp_path} on {questions.file_system(tmp_path)}: can be written in"]


def test_a_data_set_that_is_not_there_and_a_folder_that_cannot_be_written(tmp_path):
    data, run = diagnose("_run", RunConfig(data=str(tmp_path / "no.h5"), out="/proc/run"))
    assert (
        "expected an HDF5 file, got: No such file or directory)\n remedy: --data (DATA in a cfg file)" in data
    )
    assert run.startswith(
        "problem run folder /proc/run: nothing can be written in /proc (No such file or directory)\n"
    )


def test_a_data_set_of_the_hosts_that_is_not_here(tmp_path):
    config = RunConfig(data=str(tmp_path / "no.h5"), out=str(tmp_path), devices="node0:cpu")
    assert diagnose("_run", config)[0] == (
        f"warning data {tmp_path}/no.h5 is not on this machine, and was not opened\n remedy: tmlauncher doctor on node0"
    )


@pytest.mark.parametrize(
    ("batch_size", "devices", "message"),
    [
        (5000, "cpu", "sampler: expected at least batch_size = 5000"),
        (
            1000,
            "cpu,cpu",
            "devices: expected at most 1, as the 1437 training images make 1 batches of 1000, got 2",
        ),
    ],
)
def test_too_few_images_are_said_once(tmp_path, batch_size, devices, message):
    config = RunConfig(batch_size=batch_size, devices=devices, out=str(tmp_path))
    problems = [text for text in diagnose("_run", config) if text.startswith("problem")]
    (found,) = problems
    assert found.startswith(f"problem reading digits: reading batches failed ({message}")


def test_a_model_that_cannot_be_built(tmp_path, monkeypatch):
    (tmp_path / "illmodel.py").write_text(
        "class Net:\n def __init__(self, config): raise TypeError('no such layer')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = RunConfig(modelfile="illmodel", modelclass="Net", out=str(tmp_path))
    assert diagnose("_run", config)[1] == (
        "problem model illmodel.Net: building it failed (TypeError: no such layer)\n "
        "remedy: tmlauncher --plan with the same flags shows where"
    )
    found = diagnose("_model", RunConfig(modelfile="illmodel", modelclass="Ned", out=str(tmp_path)))[0]
    assert (
        found.startswith("problem model modelclass: expected a class of ") and "did you mean 'Net'" in found
    )


def test_the_data_are_those_of_the_models_class(monkeypatch, capsys):
    questions.model(RunConfig(modelfile="models.lstm", modelclass="LSTM").to_dict())
    said = json.loads(capsys.readouterr().out.splitlines()[0].partition(" ")[2])["settings"]
    assert (said["data"], said["out"], said["length"]) == ("reviews", "runs/lstm-reviews", 100)
    answers = {"model": {"settings": {**said, "data": None}}}
    monkeypatch.setattr(Doctor, "_ask", lambda self, question, *given: (answers.get(question, {}), ""))
    who = Doctor(RunConfig(modelfile="models.lstm", modelclass="LSTM"), bind=False)
    who.facts["machine"] = {"packages": {}}
    found = next(chain(who._model(), who._run()))
    assert (found.topic, found.level, found.text) == ("data", "ok", "LSTM reads its own")


def test_a_full_disk(tmp_path):
    """A file system of one megabyte, where that may be mounted; a quota is noticed in the same way."""
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"needs to mount a file system: {mount.stderr.decode().strip()}")
    try:
        found = diagnose("_run", RunConfig(out=str(tmp_path)))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert found[2] == f"ok run folder {tmp_path} on tmpfs: can be written in"
    assert (
        "1 MiB free: 538.4 MiB do not fit (No space left on device)\n remedy: room or quota there" in found[3]
    )


@pytest.mark.parametrize(
    ("question", "part", "topic"), [("machine", "_machine", "machine"), ("data", "_run", "data")]
)
def test_a_question_that_is_not_answered_is_a_finding(question, part, topic, monkeypatch, tmp_path):
    monkeypatch.setitem(examination.TIMEOUTS, question, 0.01)
    found = diagnose(part, RunConfig(out=str(tmp_path)))
    (problem,) = [text for text in found if text.startswith("problem")]
    assert problem.startswith(f"problem {topic} ") and "had not ended after 0.01 s" in problem


def test_a_busy_machine_is_told_from_an_ill_one(tmp_path, monkeypatch, capsys):
    """Its own load does not count, nor what it takes of the processors' time; that of others does."""
    proc, processors = tmp_path / "proc", os.cpu_count()
    proc.mkdir()
    stat, per_processor = proc / "stat", "{:.2f} 0.10 0.10 1/100 4242\n"
    stat.write_text("cpu  100 0 100 800 0 0 0 50 0 0\ncpu0 1 1 1 1 1 1 1 1\n")
    (proc / "loadavg").write_text(per_processor.format(1.9 * processors))
    quiet = Load(tmp_path)
    (proc / "loadavg").write_text(per_processor.format(10 * processors))
    assert quiet.busy() == ""
    assert Load(tmp_path).busy().startswith(f"load {10 * processors} on {processors} processor")
    stat.write_text("cpu  1000 0 100 800 0 0 0 250 0 0\n")
    assert quiet.busy() == ""
    stat.write_text("cpu  250 0 100 800 0 0 0 100 0 0\n")
    assert quiet.busy() == "25 % of the processors' time taken by other machines"
    stat.write_text("cpu  150 0 100 800 0 0 0 100 0 0\n")
    assert quiet.busy() == "50 % of the processors' time taken by other machines"

    late = findings.problem("data", f"digits: opening it {mpirun.Outcome(None, '', '').how(60)}", "another")
    wrong = findings.problem("folder", "x: holds a run", "--resume")
    monkeypatch.setattr(Load, "busy", lambda self: "load 20 on 2 processors")
    for parts, status, last in (
        ([late], 0, "Not all could be judged: 0 ok, 2 warnings, 0 problems."),
        ([late, wrong], 1, "It will not work: 0 ok, 2 warnings, 1 problem."),
    ):
        monkeypatch.setattr(Doctor, "_parts", lambda self, parts=parts: iter(parts))
        assert cli.main(["doctor", "-s", "2"]) == status
        out = capsys.readouterr().out
        assert "had not ended after 60 s; busy machine (load 20 on 2 processors): this is not judged\n" in out
        assert out.splitlines()[-1] == last


def test_a_host_that_is_not_there():
    found = diagnose("_hosts", RunConfig(devices="nosuchhost.invalid:cpu"), executable="/p")
    (text,) = found
    assert text.startswith("problem host nosuchhost.invalid: no process could be started there: it failed (")
    assert "remedy: 'ssh nosuchhost.invalid true' must work" in text


def test_who_would_start_the_ranks_is_said(monkeypatch):
    for part in ("_machine", "_mpi", "_model", "_hosts", "_run"):
        monkeypatch.setattr(Doctor, part, lambda self: iter(()))
    assert diagnose("_parts", RunConfig(devices="cpu,cpu")) == []
    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "1")
    (found,) = diagnose("_parts", RunConfig(devices="cpu,cpu"))
    assert found == "ok launcher this is the only process of a job: an mpirun starts 2 ranks"


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        ({"sync_type": "cdd"}, 2),
        ({"sync_type": "cdd", "ema": 0.9}, 3),
        ({"sync_type": "avg"}, 4),
    ],
)
def test_how_much_room_checkpoints_take(monkeypatch, settings, copies):
    """Weights and velocity, of each rank where they differ, an average; in the kept ones, the best and a new one."""
    asked = {}
    monkeypatch.setattr(Doctor, "_ask", lambda self, *question: (asked.update([question]) or {}, "failed"))
    doctor = Doctor(RunConfig(devices="cpu,cpu,cpu", keep=2, **settings), bind=False)
    doctor.config = replace(doctor.config, data=None)
    doctor.facts = {"machine": {}, "model": {"parameters": 1000}}
    assert list(doctor._run())
    assert asked["folder"]["bytes"] == 4 * (4 * 1000 * copies)


def test_a_package_without_metadata_has_the_version_that_it_says(monkeypatch):
    """Of one that is only on the path, the doctor ended where it looked at this machine."""
    monkeypatch.setitem(sys.modules, "simplejpeg", SimpleNamespace(__version__="9.8"))
    monkeypatch.setattr("importlib.metadata.version", None)
    assert questions._package("simplejpeg") == {"version": "9.8"}
    assert questions._package("mpi4py") == {"version": mpi4py.__version__}
    assert "ModuleNotFoundError" in questions._package("no_such_package")["error"]


def test_a_file_system_is_that_of_the_deepest_mount(monkeypatch):
    mounts = rb"""38 37 8:1 / /mnt\040disk/local rw - xfs /dev/sdb1 rw
22 1 8:0 / / rw - ext4 /dev/sda1 rw
37 22 0:9 / /mnt\040disk rw shared:1 - nfs4 server:/ rw
"""
    monkeypatch.setattr(Path, "read_bytes", lambda path: mounts)
    for name, kind in (("/mnt disk/x", "nfs4"), ("/mnt disk/local/x", "xfs"), ("/mnt diskette", "ext4")):
        assert questions.file_system(Path(name)) == kind


def test_a_limit_of_the_size_of_files_is_like_a_full_disk(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr(questions, "say", told.update)
    for number, full in ((errno.EFBIG, True), (errno.ENOSPC, True), (errno.EIO, False)):

        def refuse(*_, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        questions.folder({"out": str(tmp_path / "run"), "bytes": 1, "files": []})
        assert (told["writable"], told["refused"], told["full"]) == (True, os.strerror(number), full)


def test_nobody_knows_what_of_anothers_file_is_in_memory(tmp_path, monkeypatch):
    path = tmp_path / "data"
    path.write_bytes(bytes(1 << 20))
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert questions.cached(path) is None


def test_what_is_in_memory(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(1 << 20))
    assert questions.cached(path) in (1.0, None)
    # A hole that nobody has read; the kernel need not drop pages of what was written when asked.
    os.truncate(path, 64 << 20)
    share = questions.cached(path)
    assert share is None or share == pytest.approx(1 / 64, abs=0.005)


SMALL = {"shm": {"size": 16 << 20, "free": 16 << 20, "left": {}}}


def test_too_little_shared_memory_to_start_mpi_is_named_once(monkeypatch):
    """As with MPICH and 16 MiB: the first process that imports mpi4py.MPI crashes, and each one after it would."""

    def ask(self, question, *args):
        assert question in ("machine", "data", "folder"), f"{question} starts MPI"
        answer = {"machine": (SMALL, "crashed (Segmentation fault)")}.get(question, ({}, "failed"))
        return self.facts.setdefault(question, answer[0]), answer[1]

    monkeypatch.setattr(Doctor, "_ask", ask)
    found = list(Doctor(RunConfig(), bind=False).examine())
    (shm,) = [item for item in found if item.topic == "/dev/shm"]
    assert shm.level == "problem" and shm.text == (
        "16 MiB of 16 MiB free, where 256 MiB should be: MPI needs it to start, and a process that did crashed "
        "(Segmentation fault)"
    )
    assert "--shm-size=2g" in shm.remedy
    assert not {"mpirun", "machine", "model"} & {item.topic for item in found}


def test_how_much_shared_memory_there_is_is_told_before_mpi_crashes_for_want_of_it(monkeypatch):
    told = {}
    monkeypatch.setattr(questions, "say", told.update)
    monkeypatch.setattr(questions, "_package", lambda name: sys.exit("crash"))
    with pytest.raises(SystemExit, match="crash"):
        questions.machine()
    assert told["shm"].keys() == {"size", "free", "left"}


def test_too_little_shared_memory_for_several_ranks_is_named(other):
    other('[ "$1" = --version ] && exec echo HYDRA; kill -BUS $$')
    (found,) = diagnose("_mpi", **SMALL)
    assert found.startswith(
        "problem /dev/shm 16 MiB of 16 MiB free, where 256 MiB should be: MPI needs it to start, and a process that "
        "did as one of 2 ranks was ended by SIGBUS"
    )


def test_what_crashes_with_enough_shared_memory_is_not_blamed_on_it(monkeypatch):
    large = {"shm": {"size": 1 << 30, "free": 1 << 30, "left": {}}}
    monkeypatch.setattr(Doctor, "_ask", lambda self, *_: (large, "crashed (Segmentation fault)"))
    (found,) = diagnose("_machine")
    assert found.startswith("problem machine the process that looks at it crashed (Segmentation fault)")
