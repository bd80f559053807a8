"""Writing in blocks: whatever moment the writer is killed at, the next one goes on, and the file comes out the same."""

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.mpi import ROOT
from theanompi.config import ConfigError
from theanompi.data.store.hdf5 import ALIGNMENT
from theanompi.data.store.record_writer import write_stream
from theanompi.data.store.schema import SPLITS, open_dataset
from theanompi.data.store.writer import (
    Block,
    ChannelSums,
    Image,
    Writer,
    channel_sums,
    merge,
    write_dataset,
)

TEXTS: dict[str, Any] = {
    "name": "noise",
    "class_names": ["one", "two"],
    "augmentation": "imagenet",
    "description": "Noise.",
    "source": "this test",
    "licence": "CC0",
    "store": "raw",
    "channels": 3,
}
BLOCKS = 6


def block(split: str, number: int) -> Block:
    draw = np.random.default_rng([number, len(split)])
    rows, sums = [], ChannelSums(0, (), ())
    for i in range(4):
        pixels = draw.integers(0, 256, (*draw.integers(1, 40, 2), 3), np.uint8)
        height, width = pixels.shape[:2]
        rows.append(Image(f"{split}/{number}-{i}", i % 2, height, width, pixels.tobytes()))
        sums = merge(sums, channel_sums(pixels))
    return Block(rows, [(4, f"{split}/{number}.txt: not an image")] if number % 2 else [], sums)


def written(writer: Writer, split: Any) -> int:
    """How many blocks are: of four images, every other one with one that is left out."""
    return writer.done[split] // 9 * 2 + writer.done[split] % 9 // 4


def write(path: Path, stop: int = 2 * BLOCKS, finish: bool = True) -> None:
    """Continue until `stop` blocks are written."""
    with Writer(path, {"what": "noise"}) as writer:
        for split in SPLITS:
            for number in range(written(writer, split), BLOCKS):
                if sum(written(writer, split) for split in SPLITS) == stop:
                    return
                writer.append(split, block(split, number))
        if finish:
            writer.finish(**TEXTS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "noise.h5"
    write(path)
    return path.read_bytes()


def test_channel_sums_are_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    rows = pixels.reshape(-1, 3).astype(int)
    expected = ChannelSums(3000, tuple(rows.sum(axis=0)), tuple((rows**2).sum(axis=0)))
    assert channel_sums(pixels) == expected
    assert merge(channel_sums(pixels[:7]), channel_sums(pixels[7:])) == expected
    assert merge(ChannelSums(0, (), ()), expected) == merge(expected, ChannelSums(0, (), ())) == expected


def test_left_out_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "noise.h5")
    with open_dataset(tmp_path / "noise.h5") as data:
        assert data.left_out == [f"{s}/{i}.txt: not an image" for s in SPLITS for i in (1, 3, 5)]
        assert (data.n_train, data.n_val) == (4 * BLOCKS, 4 * BLOCKS)


@pytest.mark.parametrize("stop", range(1, 2 * BLOCKS))
def test_unfinished_work_is_continued(tmp_path: Path, whole: bytes, stop: int) -> None:
    path = tmp_path / "noise.h5"
    write(path, stop)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["noise.h5.journal", "noise.h5.part"]
    write(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_block_that_is_half_written_is_written_again(tmp_path: Path, whole: bytes, cut: int) -> None:
    path = tmp_path / "noise.h5"
    journal, part = (path.with_name(f"noise.h5.{name}") for name in ("journal", "part"))
    for damaged in (journal, part):
        write(path, 4)
        os.truncate(damaged, damaged.stat().st_size - cut)
        write(path)
        assert path.read_bytes() == whole
        path.unlink()
    # A line that is whole, but no line of a journal.
    write(path, 4)
    with journal.open("ab") as file:
        file.write(b"7\n")
    write(path)
    assert path.read_bytes() == whole
    path.unlink()
    # Bytes that no line of the journal knows of.
    write(path, 4)
    with part.open("ab") as file:
        file.write(b"x" * cut)
    write(path)
    assert path.read_bytes() == whole


def test_killed_at_every_system_call_of_the_end(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "noise.h5"
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from theanompi.data.store import writer
from tests.test_data_writer import write

left = int(sys.argv[1])
def dying(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

write(Path({str(path)!r}), finish=False)
os.fsync, os.pwrite, os.ftruncate = map(dying, (os.fsync, os.pwrite, os.ftruncate))
Path.replace, Path.unlink = dying(Path.replace), dying(Path.unlink)
write(Path({str(path)!r}))
"""
    killed = 0
    for calls in range(1, 40):
        code = subprocess.run([sys.executable, "-c", program, str(calls)], timeout=60, check=False).returncode
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        if not path.exists():
            write(path)
        assert path.read_bytes() == whole
        for file in tmp_path.iterdir():
            if file != path:
                # Killed after the file had got its name: what is left is of no use, and in nobody's way.
                assert file.name == "noise.h5.journal"
        path.unlink()
    assert killed >= 6, killed


def test_an_existing_file_is_not_replaced_unasked(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "noise.h5"
    path.write_bytes(b"precious")
    with pytest.raises(ConfigError) as error:
        Writer(path, {})
    expected = "expected no file of this name, got one; --overwrite replaces it"
    assert str(error.value) == f"data file {path}: {expected}"
    with Writer(path, {"what": "noise"}, overwrite=True) as writer:
        for split in SPLITS:
            for number in range(BLOCKS):
                writer.append(split, block(split, number))
        assert path.read_bytes() == b"precious"
        writer.finish(**TEXTS)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_leads_to_where_the_file_is_written(tmp_path: Path, whole: bytes) -> None:
    """It was replaced by the file, where it led to nothing even unasked."""
    (tmp_path / "disk").mkdir()
    for name in ("noise.h5", "stream.h5"):
        (tmp_path / name).symlink_to(f"disk/{name}")
    write(tmp_path / "noise.h5", 3)
    assert (tmp_path / "disk" / "noise.h5.part").exists()
    write(tmp_path / "noise.h5")
    for tokens in ([1, 2], [3, 4]):
        write_stream(tmp_path / "stream.h5", tokens, tokens, name="s")
        with open_dataset(tmp_path / "disk" / "stream.h5") as data:
            assert data.ids("val", 0, 2).tolist() == tokens
    assert (tmp_path / "disk" / "noise.h5").read_bytes() == whole
    assert all((tmp_path / name).is_symlink() for name in ("noise.h5", "stream.h5"))
    assert sorted(os.listdir(tmp_path / "disk")) == ["noise.h5", "stream.h5"]


def test_another_commands_work_is_not_touched(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "noise.h5"
    write(path, 3)
    with pytest.raises(ConfigError) as error:
        Writer(path, {"what": "photographs"})
    assert str(error.value) == (
        f"{path}.part: expected unfinished work of the same command, got another's (what: expected "
        "'photographs', got 'noise'); replace it with --overwrite"
    )
    write(path)
    assert path.read_bytes() == whole
    path.unlink()
    write(path, 3)
    with Writer(path, {"what": "photographs"}, overwrite=True) as writer:
        assert writer.done == {"train": 0, "val": 0}
        # Nor does it take room any more.
        assert path.with_name("noise.h5.part").stat().st_size <= ALIGNMENT


def test_a_block_is_on_the_disk_before_the_journal_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, fsync = tmp_path / "noise.h5", os.fsync
    journal, seen = path.with_name("noise.h5.journal"), []

    def noted(file: int) -> None:
        seen.append(
            (Path(os.readlink(f"/proc/self/fd/{file}")).suffix, len(journal.read_bytes().splitlines()))
        )
        fsync(file)

    with Writer(path, {}) as writer:
        monkeypatch.setattr(os, "fsync", noted)
        writer.append("train", block("train", 0))
    assert seen == [(".part", 1), (".journal", 2)]


def test_only_one_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "noise.h5"
    write(path, 3)
    with path.with_name("noise.h5.journal").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError) as error:
            Writer(path, {"what": "noise"})
        assert str(error.value) == f"data file {path}: expected no other process writing it, got one"
    write(path)


def test_a_file_system_without_locks_does(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    write(tmp_path / "noise.h5")
    assert (tmp_path / "noise.h5").read_bytes() == whole


def test_who_comes_while_another_one_ends_is_refused(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock = tmp_path / "noise.h5", fcntl.flock

    def late(*given: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        write(path)
        flock(*given)

    write(path, 3)
    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ConfigError, match="expected no other process writing it, got one"):
        Writer(path, {"what": "noise"})
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == whole


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Writer(tmp_path / "no" / "noise.h5", {})
    assert "noise.h5: expected a folder to write in, got " in str(error.value)
    path = tmp_path / "noise.h5"
    with Writer(path, {}) as writer:
        with pytest.raises(ValueError) as wrong:
            writer.finish(**TEXTS)
        assert str(wrong.value) == f"data file {path}: train: expected at least one image, got none"
        writer.append("val", block("val", 0))
        with pytest.raises(ValueError, match="expected only blocks of val after the first of them"):
            writer.append("train", block("train", 0))
    assert json.loads(path.with_name("noise.h5.journal").read_bytes().splitlines()[0]) == {"identity": {}}
    with Writer(path, {}) as writer:
        writer.discard()
    assert not list(tmp_path.iterdir())


def test_a_write_that_takes_less_than_all_goes_on(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, memoryview(data)[:1500], at))
    write(tmp_path / "noise.h5")
    assert (tmp_path / "noise.h5").read_bytes() == whole


def test_a_disk_that_is_full_at_the_end_is_named_in_one_line_and_what_is_packed_stays(tmp_path: Path) -> None:
    write(tmp_path / "noise.h5", finish=False)
    files = sorted(os.listdir(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No room for the index, which HDF5 says in a hundred words.
    full = (tmp_path / "noise.h5.part").stat().st_size, limits[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, full)
    try:
        with pytest.raises(OSError) as error:
            write(tmp_path / "noise.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value) == f"[Errno {errno.EFBIG}] File too large: '{tmp_path}/noise.h5'"
    assert sorted(os.listdir(tmp_path)) == files


@pytest.mark.parametrize("full", [ALIGNMENT, 2**14])
def test_arrays_that_find_the_disk_full_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int
) -> None:
    pwrite = os.pwrite

    def write_some(file: int, data: Any, position: int) -> int:
        if position >= full or position == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data, position)

    monkeypatch.setattr(os, "pwrite", write_some)
    split = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2
    about = {"name": "a", "class_names": ["a", "b"], "augmentation": "none"}
    with pytest.raises(OSError, match="No space left"):
        write_dataset(tmp_path / "a.h5", split, split, **about, description="", source="", licence="")
    assert os.listdir(tmp_path) == []
