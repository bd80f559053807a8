"""A run's folder: no run in it is lost, and one process at a time is at work in it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from tests.mpi import ROOT
from theanompi.config import ConfigError, RunConfig
from theanompi.config.files import CannotWrite, write_whole
from theanompi.launch.check import data_by_source
from theanompi.record import folder as module
from theanompi.record.folder import RunFolder, append_text, keep_checkpoint, replace_text, write_config
from theanompi.record.log import json_line


def use(out: Path, *, resume: bool | str = False, overwrite: bool = False) -> bool:
    """Take a folder, begin the run that is asked for, and let it go; gives whether it is one that goes on."""
    with RunFolder(out, resume=resume, overwrite=overwrite) as folder:
        folder.clear()
        return folder.resume


def test_a_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "a", resume=False, overwrite=False):
        assert os.listdir(tmp_path / "runs" / "a") == ["run.lock"]
    assert os.listdir(tmp_path / "runs") == [], "made for nothing"


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "checkpoint.h5", "best.h5"])
def test_a_run_is_not_overwritten_without_being_asked(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError) as caught:
        use(tmp_path)
    assert str(caught.value) == (
        f"run folder {tmp_path}: expected none or one without a run, got one with a run in it; "
        "continue it with --resume, replace it with --overwrite, or choose another with --out"
    )
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_with_other_things_is_fine(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    use(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwriting_removes_our_files_only(tmp_path: Path) -> None:
    ours = ["config.json", "log.jsonl", "curves.png", "timeline.json", "checkpoint.h5", "checkpoint.h5.tmp"]
    ours += ["best.h5", "checkpoint-5.h5", "checkpoint-10.h5", "checkpoint-15.h5.tmp"]
    theirs = ["notes.txt", "checkpoint-old.h5", "log.jsonl.bak"]
    for name in ours + theirs:
        (tmp_path / name).write_text(name)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").touch()
    use(tmp_path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == sorted([*theirs, "sub"])
    assert os.listdir(tmp_path / "sub") == ["config.json"]


def test_resuming_needs_a_checkpoint_and_keeps_everything(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"folder .*: expected checkpoint\.h5 to resume from, got none there$"
    ):
        use(tmp_path / "typo", resume=True)
    assert os.listdir(tmp_path) == []
    for name in ("config.json", "log.jsonl", "checkpoint.h5"):
        (tmp_path / name).write_text(name)
    use(tmp_path, resume=True)
    assert len(os.listdir(tmp_path)) == 3


VALIDATED = [json_line({"kind": "val", "epoch": i, "iteration": i + 1, "items": 1}) for i in range(2)]


def test_auto_resumes_where_there_is_a_checkpoint_and_begins_where_there_has_been_none(
    tmp_path: Path,
) -> None:
    assert not use(tmp_path / "new", resume="auto")
    # What a kill before the first checkpoint leaves.
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "log.jsonl").write_text(VALIDATED[0])
    assert not use(tmp_path, resume="auto") and os.listdir(tmp_path) == []
    for name in ("config.json", "log.jsonl", "checkpoint.h5"):
        (tmp_path / name).write_text(name)
    assert use(tmp_path, resume="auto") and len(os.listdir(tmp_path)) == 3


def test_auto_does_not_begin_in_the_place_of_a_run_whose_checkpoint_is_lost(tmp_path: Path) -> None:
    for log in ("".join(VALIDATED), json_line({"kind": "summary", "iteration": 3})):
        (tmp_path / "log.jsonl").write_text(log)
        with pytest.raises(
            ConfigError, match=r"expected checkpoint\.h5, as log\.jsonl has [02] epochs of a run"
        ):
            use(tmp_path, resume="auto")
        assert (tmp_path / "log.jsonl").read_text() == log


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
def test_a_kept_checkpoint_is_not_written_over(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", mock.Mock(side_effect=OSError(errno.EPERM, "no links")))
    synced, fsync = list[str](), os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    (tmp_path / "checkpoint-99.h5").write_text("of a run from which this one goes on earlier")
    (tmp_path / "checkpoint-8.h5.tmp").write_text("what a killed process has left")
    for iteration in (8, 9, 10, 10, 11):
        write_whole(tmp_path / "checkpoint.h5", f"{iteration}".encode())
        # Twice after the same iteration: a run that was killed in between does so when it is resumed.
        keep_checkpoint(tmp_path, iteration, best=iteration == 10, last=2)
    # Or has the names already.
    keep_checkpoint(tmp_path, 11, best=False, last=2)
    found = {file.name: file.read_text() for file in tmp_path.iterdir() if file.name != "checkpoint-99.h5"}
    kept = {"best.h5": "10", "checkpoint-10.h5": "10", "checkpoint-11.h5": "11", "checkpoint.h5": "11"}
    assert found == kept and (tmp_path / "checkpoint-99.h5").exists()
    # A link has its bytes on the disk already.
    assert (tmp_path / "best.h5").stat().st_nlink == (2 if links else 1)
    for iteration in (8, 9, 10, 11):
        assert (f"{tmp_path}/checkpoint-{iteration}.h5.tmp" in synced) != links


def test_a_checkpoint_that_a_user_has_put_elsewhere_by_a_link_stays_there_and_is_kept(tmp_path: Path) -> None:
    """The link was kept instead, and led to the next checkpoint."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "checkpoint.h5").symlink_to("disk/c.h5")
    for iteration in (1, 2):
        write_whole(tmp_path / "checkpoint.h5", f"{iteration}".encode())
        keep_checkpoint(tmp_path, iteration, best=iteration == 1, last=1)
    assert (tmp_path / "best.h5").read_text() == "1" and (tmp_path / "disk" / "c.h5").read_text() == "2"


def test_what_is_no_folder_to_write_in_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, reason in (
        (tmp_path / "file", "a file of this name"),
        (tmp_path / "file" / "run", "Not a directory"),
        (Path("/proc/run"), "No such file or directory"),
        (Path("/proc"), ""),
    ):
        with pytest.raises(ConfigError) as caught:
            use(out, overwrite=True)
        assert str(caught.value).startswith(f"run folder {out}: expected a folder to write in, got: {reason}")


def test_the_config_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_config(tmp_path, {"seed": 0, "devices": ("cpu",), "out": None})
    with pytest.raises(TypeError):
        write_config(tmp_path, {"seed": object()})
    with pytest.raises(ValueError):
        write_config(tmp_path, {"seed": float("nan")})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 0, "devices": ["cpu"], "out": None}
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_text_that_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(CannotWrite, match=r"log\.csv: cannot be written: No space left on device$"):
        replace_text(tmp_path / "log.csv", "kind,epoch\n")
    assert os.listdir(tmp_path) == []


def test_a_config_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json.tmp").mkdir()
    with pytest.raises(CannotWrite, match=r"config\.json: cannot be written: Is a directory$"):
        write_config(tmp_path, {"seed": 0})


def test_the_old_run_is_there_until_the_new_one_can_start(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.h5").write_text("mine")
    with RunFolder(tmp_path, resume=False, overwrite=True) as folder:
        assert (tmp_path / "checkpoint.h5").read_text() == "mine"
        folder.clear()
        assert os.listdir(tmp_path) == ["run.lock"]


HOLD = """
import sys, time
from pathlib import Path
from theanompi.record.folder import RunFolder
with RunFolder(Path(sys.argv[1]), resume=False, overwrite=True):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_GRACE", 0.3)
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_in_a_folder_is_refused_and_changes_nothing(
    tmp_path: Path, holder: subprocess.Popen[str], resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint.h5").write_text("mine")
    monkeypatch.chdir(tmp_path.parent)  # the whole path may leave the line no room for the rest
    with pytest.raises(ConfigError) as caught:
        use(Path(tmp_path.name), resume=resume, overwrite=not resume)
    host = os.uname().nodename
    line = (
        f"expected one in which no run is at work, got one in which process {holder.pid} on {host}, since 20"
    )
    assert (
        str(caught.value).startswith(f"run folder {tmp_path.name}: {line}") and len(str(caught.value)) < 300
    )
    assert (tmp_path / "checkpoint.h5").read_text() == "mine"


OWN = """
from theanompi import Model


class Plain(Model):
    defaults = {"epochs": 2}


class Small(Plain):
    pass


class Words(Model):
    defaults = {"data": "reviews", "epochs": 2}


class Computed(Model):
    defaults = {**Words.defaults, "epochs": 3}


class Late(Model):
    pass


class Contract:
    pass
"""


@pytest.mark.parametrize(
    ("folder", "imported", "settings"),
    [
        ("run", False, {"out": "run"}),
        ("runs/resnet50-digits", False, {}),
        ("runs/resnet50-digits", False, {"data": "digits"}),
        ("runs/lstm-reviews", False, {"modelfile": "models.lstm", "modelclass": "LSTM"}),
        ("runs/own-digits", False, {"modelfile": "own", "modelclass": "Small"}),
        ("runs/own-reviews", False, {"modelfile": "own", "modelclass": "Words"}),
        ("runs/own-reviews", True, {"modelfile": "own", "modelclass": "Computed"}),
        ("runs/own", True, {"modelfile": "own", "modelclass": "Contract"}),
    ],
)
def test_a_folder_is_refused_before_torch_is_imported(
    folder: str, imported: bool, settings: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "checkpoint.h5").write_text("mine")
    (tmp_path / "own.py").write_text(OWN)
    program = (
        "import sys; from theanompi.config import RunConfig; from theanompi.worker import run\n"
        f"try:\n    run(RunConfig(**{settings}), ('cpu',))\n"
        "except SystemExit:\n    print('torch' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    words = [sys.executable, "-c", program]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60, check=False
    )
    assert done.stdout == f"{imported}\n"
    assert f"run folder {folder}: " in done.stderr and "got one with a run in it" in done.stderr


@pytest.mark.parametrize("more", ["", 'Late.defaults = {"data": "reviews"}\n'])
def test_defaults_that_are_set_from_outside_are_not_read_from_the_source(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN + more)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = RunConfig(modelfile="own", modelclass="Late")
    assert data_by_source(config) == (None if more else "digits")


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == holder.pid
    use(tmp_path)
    assert not (tmp_path / "run.lock").exists()


def test_where_a_file_system_has_no_locks_the_process_decides(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match=f"process {holder.pid} on "):
        use(tmp_path)
    holder.kill()
    holder.wait()
    use(tmp_path)
    (tmp_path / "run.lock").write_text('{"host": "elsewhere", "pid": 1, "since": "2026-01-01 00:00:00"}')
    with pytest.raises(ConfigError, match="process 1 on elsewhere, since 2026-01-01 00:00:00, is$"):
        use(tmp_path)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_folder_that_cannot_be(tmp_path: Path, resume: bool) -> None:
    """Below a file, with a name that is too long, or none at all: one line, not an exception of the system's."""
    file = tmp_path / "file"
    file.write_text("")
    for path in (file / "run", tmp_path / ("n" * 300), Path("a\0b")):
        with pytest.raises(ConfigError, match="^run folder ") as caught:
            use(path, resume=resume)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_another_one_has_taken_the_place_of_is_left_alone(
    tmp_path: Path, overwrite: bool
) -> None:
    out = tmp_path / "run"
    with RunFolder(out, resume=False, overwrite=overwrite) as mine:
        out.rename(tmp_path / "away")
        with pytest.raises(ConfigError, match="renamed or removed") as caught:
            mine.clear()
        assert len(str(caught.value)) <= 300 + len(str(out))
        with RunFolder(out, resume=False, overwrite=False) as other:
            other.clear()
            write_config(out, {})
            with pytest.raises(ConfigError, match="renamed or removed"):
                mine.clear()
            mine.release()
            assert sorted(os.listdir(out)) == ["config.json", "run.lock"]


def test_a_text_that_was_removed_is_not_begun_in_its_middle(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_text("a\n")
    append_text(file, "b\n")
    assert file.read_text() == "a\nb\n"
    file.unlink()
    with pytest.raises(CannotWrite, match="log.csv: cannot be written: No such file"):
        append_text(file, "c\n")
    assert not file.exists()


def test_a_folder_in_which_nothing_can_be_removed_is_one_line_and_let_go(tmp_path: Path) -> None:
    (tmp_path / "best.h5.tmp").write_text("unfinished")
    with mock.patch.object(Path, "unlink", side_effect=OSError(errno.EIO, "Input/output error")):
        with pytest.raises(ConfigError) as caught:
            use(tmp_path)
    assert str(caught.value) == (
        f"run folder {tmp_path}: expected a folder to write in, got: Input/output error"
    )
    use(tmp_path)
    assert os.listdir(tmp_path) == []
