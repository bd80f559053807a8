"""What crashed jobs leave in /dev/shm: found, and removed where that cannot harm anybody."""

import mmap
import os
from contextlib import ExitStack

import pytest

from theanompi.system.segments import left_behind, opened_at_once, remove_left_behind

USED = ("mpich_shm_used_0", "sm_segment.vm.0.used", "vader_segment.used_0")


@pytest.fixture
def shared_memory(tmp_path):
    """Old, of an MPI, and in no process's memory; others are none of ours."""
    for name in (*("mpich_shm_1_0", "sm_segment.vm.0.1", "sem.mp-abc", "mpich_shm_new_0"), *USED):
        (tmp_path / name).write_bytes(bytes(4096))
        if "new" not in name:
            os.utime(tmp_path / name, (0, 0))
    with ExitStack() as stack:
        for name in USED:
            file = stack.enter_context(open(tmp_path / name, "r+b"))
            stack.enter_context(mmap.mmap(file.fileno(), 4096))
            os.utime(tmp_path / name, (0, 0))
        yield tmp_path


def test_files_of_crashed_jobs(shared_memory):
    assert left_behind(shared_memory) == {"mpich_shm_1_0": 4096, "sm_segment.vm.0.1": 4096}


def test_files_of_others_are_none_of_ours(shared_memory, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert left_behind(shared_memory) == {}


def test_a_name_may_begin_another_one_that_is_used(shared_memory):
    (shared_memory / "mpich_shm_us").write_bytes(bytes(4096))
    os.utime(shared_memory / "mpich_shm_us", (0, 0))
    assert "mpich_shm_us" in left_behind(shared_memory)


def test_the_next_run_removes_what_mpich_has_left(shared_memory):
    remove_left_behind(shared_memory)
    assert {path.name for path in shared_memory.iterdir()} == {
        *("sm_segment.vm.0.1", "sem.mp-abc", "mpich_shm_new_0", *USED),
    }


def test_only_mpichs_and_open_mpi_5s_are_opened_by_all_at_once(shared_memory):
    assert opened_at_once(shared_memory) == {shared_memory / name for name in USED[:2]}


def test_shared_memory_that_is_not_there(tmp_path):
    remove_left_behind(tmp_path / "shm")
