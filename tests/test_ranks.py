"""One rank's part in the end of all, beside a stand-in for the others: what it says, and with what status."""

import io
import os
import platform
import re
import signal
import sys
import threading
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from mpi4py import MPI

from tests.mpi import ROOT
from theanompi.config import ConfigError
from theanompi.config.files import CannotWrite
from theanompi.data import LoaderError
from theanompi.launch.ends import STOPPED
from theanompi.launch.mpirun import world
from theanompi.record import checkpoint
from theanompi.record.progress import Progress
from theanompi.system.processes import LAUNCHER
from theanompi.system.segments import opened_at_once
from theanompi.training import ranks
from theanompi.training.ranks import Agreed, agree, check_launcher, forget_shared_memory, guarded, together
from theanompi.training.stop import Interrupted


class Ended(BaseException):
    """In the place of the end of all processes, with their status."""


class Rank:
    """A rank of a job whose other ranks have said something."""

    def __init__(self, rank=0, said=()):
        self.rank, self.said, self.waited = rank, list(said), False

    def Get_rank(self):  # noqa: N802
        return self.rank

    def Abort(self, status):  # noqa: N802
        raise Ended(status)

    def allgather(self, own):
        return [own if rank == self.rank else text for rank, text in enumerate(self.said)]

    def Barrier(self):  # noqa: N802
        self.waited = True


@pytest.fixture
def slept(monkeypatch):
    """The seconds that a rank would have slept; SIGTERM does what it does before, and afterwards."""
    seconds = []
    monkeypatch.setattr(ranks, "signal", lambda *_: None)
    monkeypatch.setattr(ranks, "time", SimpleNamespace(sleep=seconds.append))
    return seconds


def leave(statement, file="<frozen ours>", rank=3, words="", **names):
    """Let a rank leave what is guarded by a statement in a file; gives the status with which all end."""
    text = f"with guarded(rank, Progress(), lambda saved: words):\n    {statement}"
    names |= {"guarded": guarded, "rank": Rank(rank), "Progress": Progress, "words": words, "sys": sys}
    with pytest.raises(Ended) as ended:
        exec(compile(text, file, "exec"), names)
    return ended.value.args[0]


@pytest.mark.parametrize("error", [LoaderError, CannotWrite, ConfigError, OSError])
def test_what_is_no_mistake_in_a_model_is_one_line(error, slept, capsys):
    file = "<frozen ours>" if error is OSError else "/home/me/net.py"
    assert leave("raise error('five')", file, error=error) == 1
    assert capsys.readouterr().err == "theanompi: rank 3: five\n"


def test_what_a_rank_refuses_is_one_line_of_at_most_300_characters(slept, capsys):
    leave("raise error('much ' * 1000)", error=ConfigError)
    with pytest.raises(Agreed):
        agree(Rank(3, [None] * 4), ConfigError("much " * 1000))
    for line in capsys.readouterr().err.splitlines():
        assert (
            re.match(r"theanompi: rank 3( on \S+)?: much much ", line) and len(line) <= 300 and " … " in line
        )


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_an_error_that_has_come_through_a_users_code_has_its_traceback(error, slept, capsys):
    assert leave("raise error('five')", "/home/me/net.py", error=error) == 1
    said = capsys.readouterr().err
    assert said.startswith("theanompi: rank 3 failed:\nTraceback ") and said.endswith("Error: five\n")
    assert 'File "/home/me/net.py", line 2' in said


def test_who_leaves_without_a_status_is_told_where(slept, capsys):
    assert leave("sys.exit()", "/home/me/net.py", words="last words") == 1
    assert capsys.readouterr().err == (
        "theanompi: rank 3 left by sys.exit() in /home/me/net.py, line 2, before the end of the run\n"
        "theanompi: last words\n"
    )


def test_the_launcher_is_told_who_has_said_why(slept, capsys, monkeypatch):
    monkeypatch.setenv(LAUNCHER, "here")
    assert leave("raise Interrupted('SIGTERM')", Interrupted=Interrupted) == STOPPED
    assert capsys.readouterr().out == '@theanompi {"failed": true, "stopped": "SIGTERM"}\n'
    with pytest.raises(Agreed):
        agree(Rank(0, [None, "theanompi: five"]), ConfigError("four"))
    assert capsys.readouterr().out == '@theanompi {"failed": true}\n'


@pytest.mark.parametrize("words", ["", "last words"])
def test_what_is_in_buffers_is_printed_before_all_end(words, slept, monkeypatch):
    streams = {name: io.TextIOWrapper(io.BytesIO()) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    leave("print('mine'); raise ValueError", words=words)
    out, err = (stream.buffer.getvalue().decode() for stream in streams.values())
    assert out == "mine\n" and err.endswith("\nValueError\n" + (f"theanompi: {words}\n" if words else ""))
    assert len(slept) == 2, "its turn, and until a launcher has read it"
    with pytest.raises(Agreed):
        agree(Rank(0, [None]), ConfigError("five"))
    assert streams["stderr"].buffer.getvalue().endswith(b"theanompi: five\n")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_all_end_also_where_nothing_can_be_printed(name, slept, monkeypatch, capsys):
    monkeypatch.setattr(sys, name, io.StringIO())
    getattr(sys, name).close()
    assert leave("raise ConfigError('five')", ConfigError=ConfigError) == 1
    assert capsys.readouterr().err == ("theanompi: rank 3: five\n" if name == "stdout" else "")


def test_no_rank_of_a_thousand_lets_the_others_wait_long_until_it_ends_them(slept, capsys):
    leave("raise ValueError", rank=1)
    first = sum(slept)
    leave("raise ValueError", rank=999)
    assert 0 < first < sum(slept) - first < 3


def test_whom_open_mpi_ends_after_another_one_has_spoken_says_nothing(slept, capsys, monkeypatch):
    """It sends SIGTERM, and SIGKILL 0.25 s later."""
    done = []
    monkeypatch.setattr(ranks, "signal", lambda *what: done.append(what))
    monkeypatch.setattr(ranks.time, "sleep", lambda seconds: (done.append(seconds), capsys.readouterr()))
    leave("raise ValueError")
    # It waits for its turn, which a signal that it takes note of would not end.
    assert done[0] == (signal.SIGTERM, signal.SIG_DFL) and done[1] > 0
    done.clear()
    leave("raise Interrupted('SIGTERM')", rank=0, Interrupted=Interrupted)
    # The signal may be that one.
    assert done[1] >= 0.4


def test_what_ends_a_thread_or_the_interpreter_ends_all(slept, capsys):
    """A thread's exception may have been let go; the main thread may end while another one trains."""
    hooks = sys.excepthook, threading.excepthook
    thread = SimpleNamespace(exc_type=ArithmeticError, exc_value=None, exc_traceback=None)
    for statement in ("sys.excepthook(*error)", "threading.excepthook(thread)"):
        error = ArithmeticError, ArithmeticError(), None
        assert leave(statement, error=error, thread=thread, threading=threading) == 1
        assert "rank 3 failed:\nArithmeticError\n" in capsys.readouterr().err
        assert (sys.excepthook, threading.excepthook) == hooks


def test_a_thread_that_ends_itself_ends_nobody_else(slept):
    with guarded(Rank(), Progress()):
        thread = threading.Thread(target=sys.exit)
        thread.start()
        thread.join()
    assert slept == []


@pytest.mark.parametrize(("rank", "said"), [(0, ""), (1, "theanompi: rank 1 on "), (2, "")])
def test_of_several_errors_the_first_is_said_once_and_all_wait_for_that(rank, said, capsys):
    comm = Rank(rank, [None, "theanompi: of rank 1", "theanompi: of rank 2"])
    with pytest.raises(Agreed) as ended:
        agree(comm, ConfigError("five") if rank else None)
    assert ended.value.code == 1 and comm.waited
    out = capsys.readouterr().err
    assert out.startswith(said) and out.endswith(": five\n") if said else out == ""


def test_an_error_for_which_nobody_waits_is_raised_where_it_is():
    with pytest.raises(ArithmeticError):
        together(Rank(), partial(exec, "raise ArithmeticError"), errors=(ValueError,))


def refusal(action, capsys):
    """What the only rank says where an action fails."""
    with pytest.raises(Agreed) as ended:
        together(MPI.COMM_SELF, action)
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_what_our_own_code_says_of_a_file_is_one_line(capsys):
    said = refusal(partial(checkpoint.load, "nowhere.h5"), capsys)
    assert said == "theanompi: checkpoint nowhere.h5: expected a file, got none there\n"


@pytest.mark.parametrize(
    ("file", "ours"),
    [
        ("/home/me/.local/lib/python3.12/site-packages/h5py/_hl/files.py", True),
        ("/apps/h5py/lib64/python3.12/site-packages/h5py/_hl/files.py", True),
        ("/usr/lib/python3/dist-packages/h5py/_hl/files.py", True),
        (os.__file__, True),
        ("<frozen os>", True),
        # Its name begins with that of the package.
        (f"{ROOT}/theanompi_experiments/net.py", False),
        ("/home/me/net.py", False),
    ],
)
def test_what_a_library_says_is_one_line_and_what_a_users_code_raises_has_its_traceback(file, ours, capsys):
    for error in (ValueError, OSError, ConfigError):
        action = partial(exec, compile("raise error('five')", file, "exec"), {"error": error})
        said = refusal(action, capsys)
        # Who raises ours has something to say to who types.
        if ours or error is ConfigError:
            assert said == "theanompi: five\n"
        else:
            assert f'File "{file}", line 1' in said and said.endswith(f"\n{error.__name__}: five\n")


@pytest.mark.parametrize(
    ("environ", "library", "remedy"),
    [
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "MPICH Version: 5.0", "srun --mpi=pmi2"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "Open MPI v5.0.7", "srun --mpi=pmix"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "Intel(R) MPI  Library\0\nmore", "got one whose 2 processes"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "Intel(R) MPI Library", None),
        # Nobody tells how many there are.
        ({"PMIX_RANK": "0"}, "Open MPI v5.0.7", ""),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, "MPICH Version: 5.0", ""),
        ({}, "MPICH Version: 5.0", ""),
    ],
)
def test_processes_that_mpi_does_not_see_are_said_once_with_the_remedy(
    environ, library, remedy, monkeypatch, capsys
):
    """None is said by another one; nothing where all is well."""
    monkeypatch.setattr(ranks, "world", lambda: world(environ))
    monkeypatch.setattr(MPI, "Get_library_version", lambda: library)
    monkeypatch.setattr(os, "environ", environ)
    if remedy == "":
        check_launcher()
    else:
        with pytest.raises(SystemExit, match="^1$"):
            check_launcher()
    said = capsys.readouterr().err
    assert (remedy in said and said.count("\n") == 1 and "\0" not in said) if remedy else said == ""


def test_names_of_shared_memory_that_are_gone_already_are_no_error(tmp_path, monkeypatch):
    there, gone = tmp_path / "there", tmp_path / "gone"
    there.touch()
    monkeypatch.setattr(ranks, "opened_at_once", lambda: {there, gone})
    forget_shared_memory(MPI.COMM_SELF)
    assert not there.exists()


@pytest.mark.parametrize(("size", "left"), [(3, ["mine", "yours"]), (4, ["mine", "ours", "yours"])])
def test_names_of_shared_memory_stay_that_not_all_of_this_machine_have_opened(
    tmp_path, monkeypatch, size, left
):
    """Or where not all of the job are asked."""
    mine, ours, yours = (tmp_path / name for name in ("mine", "ours", "yours"))
    for file in (mine, ours, yours):
        file.touch()
    elsewhere = ("another machine", {yours})
    comm = Mock(allgather=lambda own: [own, (platform.node(), {ours, yours}), elsewhere])
    monkeypatch.setattr(ranks, "opened_at_once", lambda: {mine, ours})
    monkeypatch.setattr(ranks, "MPI", Mock(COMM_WORLD=Mock(Get_size=lambda: size)))
    forget_shared_memory(comm)
    assert sorted(os.listdir(tmp_path)) == left


def test_a_process_alone_leaves_no_name_of_shared_memory():
    """As Open MPI 5 would; here it is this one, which has loaded MPI."""
    assert opened_at_once() == set()
