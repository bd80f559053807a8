"""``tmpack`` from end to end: what goes in comes out, whatever happens on the way."""

import contextlib
import errno
import multiprocessing
import os
import platform
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from tests import archives
from tests.archives import odd_files, write_files, write_tar
from tests.mpi import ROOT, run_warm
from tests.photographs import jpeg
from tests.test_pack_sources import DIGITS, arrays, files_of, ilsvrc, kaggle
from theanompi.config import ConfigError
from theanompi.data.pack import packing
from theanompi.data.pack.command import main
from theanompi.data.pictures.decode import as_jpeg, decode, resize_shorter
from theanompi.data.sources import base
from theanompi.data.sources.folders import Folder
from theanompi.data.sources.ilsvrc import Ilsvrc
from theanompi.data.sources.synthetic import Synthetic
from theanompi.data.store.schema import SPLITS, open_dataset
from theanompi.data.store.writer import Writer
from theanompi.record import checkpoint
from theanompi.record.log import read_log

# In small blocks, so that there is much to interrupt.
TMPACK = """
import sys
from theanompi.data.pack.command import main
from theanompi.data.sources import base
base._BLOCK_FILES = 8
sys.exit(main(sys.argv[1:]))
"""
GOOD, BAD = odd_files()
IMAGES = 1000


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 files in class folders, train and val, with every odd case among them."""
    odd = {**GOOD, **{name: data for name, (data, _) in BAD.items()}}
    # Not as many pictures as files, which would take long to draw; but no two neighbours are the same.
    pictures = [jpeg(i, 60, 80) for i in range(499)]
    files = {f"{i:04}.JPEG": pictures[i % 499] for i in range(IMAGES - 2 * len(odd))}
    root = tmp_path_factory.mktemp("photographs")
    for i, (name, data) in enumerate(files.items()):
        split = "val" if i % 10 == 0 else "train"
        write_files(root / split / f"class {i % 7}", {name: data})
    for i, (name, data) in enumerate(odd.items()):
        for split in SPLITS:
            write_files(root / split / f"class {i % 7}", {f"{1000 + i}{name}": data})
    return root


def tmpack(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Start it in a session of its own, so that all its processes can be killed at once."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", TMPACK, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def finished(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def pack_folder(photographs: Path, output: Path, *options: object, **streams: Any) -> "subprocess.Popen[str]":
    return tmpack(
        "folder",
        photographs / "train",
        photographs / "val",
        "-o",
        output,
        "--processes",
        2,
        *options,
        **streams,
    )


def blocks(output: Path) -> int:
    """How many blocks are written."""
    try:
        return Path(f"{output}.journal").read_bytes().count(b"\n") - 1
    except FileNotFoundError:
        return -1


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, finished(process)
        assert time.monotonic() < end
        time.sleep(0.001)


@contextlib.contextmanager
def in_the_middle(photographs: Path, output: Path) -> Iterator["subprocess.Popen[str]"]:
    """A packing some way in; killed, if need be, in the end."""
    process = pack_folder(photographs, output, "--skip-bad")
    try:
        wait_for(lambda: blocks(output) >= 5, process)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(
                process.pid, signal.SIGKILL
            )  # workers that live on too, which would keep the pipes open
        process.communicate()


def workers(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (path / "stat").read_text(), (path / "cmdline").read_bytes()
        except OSError:
            continue
        state, ppid = status.rpartition(")")[2].split()[:2]
        if int(ppid) == parent and state != "Z" and b"spawn_main" in command:
            found.append(int(path.name))
    return found


@pytest.fixture(scope="session")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed without interruption."""
    path = tmp_path_factory.mktemp("whole") / "photographs.h5"
    status, out, err = finished(pack_folder(photographs, path, "--skip-bad"))
    assert status == 0, err
    return path


# --- Contents


def test_a_folder_of_jpeg_files(photographs: Path, whole: Path) -> None:
    source = Folder(photographs / "train", photographs / "val")
    with h5py.File(whole) as file:  # each call of image_name opens the file again
        names = {split: file[f"{split}/names"][:].tolist() for split in SPLITS}
    with open_dataset(whole) as dataset:
        assert dataset.n_train + dataset.n_val == IMAGES - 2 * len(BAD)
        assert dataset.image_name("val", 7).encode() == names["val"][7]
        assert dataset.class_names == [f"class {i}" for i in range(7)]
        assert (dataset.store, dataset.augmentation, dataset.largest) == ("jpeg", "imagenet", (60, 80))
        left_out = []
        untouched = 0
        for split in SPLITS:
            i = 0
            for name, (label, data) in files_of(source, split).items():
                reason = BAD.get(re.sub(r".*/\d{4}", "", name), (b"", ""))[1]
                if reason:
                    left_out.append(f"{split}/{name}: {reason}")
                    continue
                assert names[split][i].decode() == name
                assert dataset.labels(split)[i] == label
                stored, pixels = as_jpeg(data)
                assert dataset.read(split, i) == stored
                untouched += stored == data
                if i % 20 == 0:
                    np.testing.assert_array_equal(dataset.pixels(split, i), pixels)
                i += 1
            assert dataset.count(split) == i
        assert sorted(dataset.left_out) == sorted(left_out)
        # Only CMYK, PNG, GIF and rotated files are other bytes.
        assert untouched == dataset.n_train + dataset.n_val - 2 * 7


def test_mean_and_std_are_those_of_the_training_images(whole: Path) -> None:
    with open_dataset(whole) as dataset:
        values = (
            np.concatenate([dataset.pixels("train", i).reshape(-1, 3) for i in range(dataset.n_train)]) / 255
        )
        np.testing.assert_allclose(dataset.mean, values.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(dataset.std, values.std(axis=0), rtol=1e-9)


def test_a_folder_of_pixels(tmp_path: Path) -> None:
    files = {f"a/{name}": data for name, data in GOOD.items()} | {"b/1.jpg": jpeg(1, 50, 90)}
    for split in SPLITS:
        write_files(tmp_path / split, files)
    output = tmp_path / "raw.h5"
    options = ["--store", "raw", "--size", "40", "--name", "pixels", "--augmentation", "shift"]
    assert main(["folder", f"{tmp_path}/train", f"{tmp_path}/val", "-o", f"{output}", *options]) == 0
    with open_dataset(output) as dataset:
        assert (dataset.store, dataset.name, dataset.augmentation) == ("raw", "pixels", "shift")
        for split in SPLITS:
            for i, name in enumerate(sorted(files)):
                assert dataset.image_name(split, i) == name
                np.testing.assert_array_equal(
                    dataset.pixels(split, i), resize_shorter(decode(files[name]), 40)
                )
        assert dataset.sizes("val")[-1].tolist() == [40, 72]


def test_the_archives_of_ilsvrc(tmp_path: Path) -> None:
    paths = ilsvrc(tmp_path)
    output = tmp_path / "imagenet.h5"
    assert main(["ilsvrc", *map(str, paths), "-o", str(output), "--processes", "2"]) == 0
    source = Ilsvrc(*paths)
    with open_dataset(output) as dataset:
        assert dataset.class_names == source.class_names
        assert dataset.name == "ILSVRC 2012" and "non-commercial" in dataset.licence
        for split in SPLITS:
            for i, (name, (label, data)) in enumerate(files_of(source, split).items()):
                assert dataset.image_name(split, i) == name
                assert dataset.labels(split)[i] == label
                assert dataset.read(split, i) == data


Contents = dict[str, tuple[NDArray[np.uint8], NDArray[Any]]]


def cifar10(path: Path) -> Contents:
    batches = archives.cifar10_batches()
    write_tar(path, archives.cifar10_python(batches), "w:gz")
    train = [batches[f"data_batch_{i}"] for i in range(1, 6)]
    images, labels = (np.concatenate([batch[part] for batch in train]) for part in (0, 1))
    return {"train": (images, labels), "val": batches["test_batch"]}


def cifar100(path: Path) -> Contents:
    batches = archives.cifar_batches(["train", "test"], 100)
    write_tar(path, archives.cifar100_binary(batches), "w:gz")
    return {"train": batches["train"], "val": batches["test"]}


def mnist(path: Path) -> Contents:
    write_files(path, archives.mnist(DIGITS, DIGITS, compressed=True))
    digits = DIGITS[0][..., None], DIGITS[1]
    return {"train": digits, "val": digits}


def npz(path: Path) -> Contents:
    arrays(path)
    with np.load(path) as content:
        return {split: (content[f"{split}_images"], content[f"{split}_labels"]) for split in SPLITS}


@pytest.mark.parametrize(
    ("command", "file", "make", "policy"),
    [
        ("cifar10", "cifar-10-python.tar.gz", cifar10, "crop"),
        ("cifar100", "cifar-100-binary.tar.gz", cifar100, "crop"),
        ("mnist", "mnist", mnist, "shift"),
        ("arrays", "arrays.npz", npz, "none"),
    ],
)
def test_pixels(
    tmp_path: Path, command: str, file: str, make: Callable[[Path], Contents], policy: str
) -> None:
    contents = make(tmp_path / file)
    assert main([command, f"{tmp_path / file}", "-o", f"{tmp_path}/out.h5", "--processes", "1"]) == 0
    with open_dataset(tmp_path / "out.h5") as dataset:
        assert dataset.augmentation == policy and dataset.store == "raw"
        for split in SPLITS:
            images, labels = contents[split]
            assert dataset.count(split) == len(images)
            np.testing.assert_array_equal(dataset.labels(split), labels)
            for i, image in enumerate(images):
                np.testing.assert_array_equal(dataset.pixels(split, i), image)


def test_generated_images_and_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "s.h5"
    command = (
        "synthetic --classes 3 --train 30 --val 9 --size 8 --channels 1 --seed 4 --processes 1 -o".split()
    )
    assert main([*command, str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{output}: 30 training and 9 validation images in 3 classes, [\d.]+ kB", lines[0])
    assert re.fullmatch(r"mean 0\.\d{4}, std 0\.\d{4}", lines[1])
    assert re.fullmatch(r"packed 39 images in [\d.]+ s: \d+ images/s, [\d.]+ ms per image and core", lines[2])
    images = Synthetic(classes=3, train=30, val=9, size=8, channels=1, seed=4).items("train", 0, 30)
    with open_dataset(output) as dataset:
        got = [dataset.pixels("train", i) for i in range(30)]
        np.testing.assert_array_equal(np.stack(got), images.pixels())  # type: ignore[attr-defined]


def test_the_number_of_processes_changes_nothing(photographs: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / whole.name
    status, _, err = finished(pack_folder(photographs, output, "--skip-bad", "--processes", 1))
    assert status == 0, err
    assert output.read_bytes() == whole.read_bytes()


# --- Interruptions


def test_killed_ten_times_the_contents_are_identical(photographs: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / whole.name
    draw = np.random.default_rng(20)
    done, kills, total = -1, 0, -(-900 // 8) + -(-100 // 8)
    middle = 0
    while kills < 10:
        # After some more blocks, each fifth time also while it starts: whatever comes first.
        enough = done + int(draw.integers(0, 13))
        end = time.monotonic() + (draw.uniform(0, 0.5) if kills % 5 == 4 else 60)
        process = pack_folder(photographs, output, "--skip-bad")
        wait_for(lambda: blocks(output) >= enough or time.monotonic() > end, process)  # noqa: B023
        time.sleep(draw.uniform(0, 0.01))
        os.killpg(process.pid, signal.SIGKILL)
        _, _, err = finished(process)
        assert process.returncode == -signal.SIGKILL, err
        assert not output.exists()
        assert blocks(output) >= done
        done = blocks(output)
        middle += 0 < done < total
        kills += 1
    assert middle >= 7, f"{middle} of 10 kills were in the middle"
    status, _, err = finished(pack_folder(photographs, output, "--skip-bad"))
    assert status == 0 and re.search(r"continuing after [\d,]+ of 1,000 images", err)
    assert output.read_bytes() == whole.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_ctrl_c_says_how_to_continue(photographs: Path, whole: Path, tmp_path: Path) -> None:
    output = tmp_path / whole.name
    with in_the_middle(photographs, output) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        status, _, err = finished(process)
    assert status == 130
    assert err.splitlines()[-1] == "tmpack: interrupted; what is packed is kept: the same command continues"
    assert "Traceback" not in err and not output.exists()
    status, _, err = finished(pack_folder(photographs, output, "--skip-bad"))
    assert status == 0 and "continuing after" in err
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("owner", "name"), [(SpawnProcess, "start"), (Synthetic, "items"), (Writer, "append")]
)
def test_ctrl_c_leaves_no_worker_wherever_it_comes(
    owner: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, threads = getattr(owner, name), threading.active_count()

    def interrupted(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return call(*args)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        packing.pack(Synthetic(classes=2, train=4, val=2, size=4), tmp_path / "s.h5", processes=1)
    assert multiprocessing.active_children() == []
    end = time.monotonic() + 10
    while threading.active_count() > threads:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_worker_that_is_killed_ends_the_run(photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with in_the_middle(photographs, output) as process:
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        status, _, err = finished(process)
    assert status == 1
    assert err.splitlines()[-1] == (
        f"tmpack: {output}: a worker process was killed, perhaps for want of memory; what is packed is kept: "
        "run the same command again"
    )
    assert "Traceback" not in err and blocks(output) >= 5


PACKS = """
from theanompi.data.pack.packing import pack
from theanompi.data.sources.synthetic import Synthetic

{before}
pack(Synthetic(classes=2, train=6, val=2, size=4), "small.h5", processes=2)
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (
            "",
            "small.h5: expected a script that packs only where it is run, as each worker process imports it, got one "
            'that packs there too; remedy: its call of pack under if __name__ == "__main__":',
        ),
        (
            "import sys\nif __name__ != '__main__': sys.exit(3)",
            "small.h5: a worker process has ended with status 3, as what it printed says; what is packed is kept",
        ),
    ],
    ids=["packs", "ends"],
)
def test_a_script_that_a_worker_cannot_import_is_told_so(before: str, said: str, tmp_path: Path) -> None:
    """A worker that is spawned imports the script that packs; it was said to have been killed for want of memory."""
    (tmp_path / "packs.py").write_text(PACKS.format(before=before), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "packs.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"theanompi.data.pack.packing.WorkerDied: {said}"
    # Nor does a worker say anything.
    assert done.stderr.count("Traceback") == 1
    assert not (tmp_path / "small.h5").exists()


def test_a_worker_killed_while_it_sends_ends_the_run(photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    # A block larger than the pipe holds, sent to a parent that does not read: a worker stops in the middle of it.
    program = TMPACK.replace("= 8", "= 128")
    folders = (str(photographs / "train"), str(photographs / "val"))
    process = subprocess.Popen(
        [sys.executable, "-c", program, "folder", *folders, "-o", output, "--processes", "2"],
        cwd=ROOT,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: len(workers(process.pid)) == 2, process)
        sender = None
        end = time.monotonic() + 60
        # Unless they had nothing to do when the parent stopped.
        while sender is None:
            children = workers(process.pid)
            process.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            while sender is None and time.monotonic() < stopped + 3:
                sending = [child for child in children if waits(child) == "write"]
                sender = sending[0] if sending else None
                time.sleep(0.1)
            if sender is None:
                assert time.monotonic() < end, [waits(child) for child in children]
                process.send_signal(signal.SIGCONT)
                time.sleep(0.05)
        os.kill(sender, signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        status, _, err = finished(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert status == 1
    assert "a worker process was killed" in err.splitlines()[-1] and "Traceback" not in err


def waits(pid: int) -> str:
    """The system call that a process is in: "write" by name, others by number."""
    call = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return {"x86_64": {"1": "write"}, "aarch64": {"64": "write"}}[platform.machine()].get(call, call)


def test_workers_do_not_outlive_their_parent_nor_have_semaphores(photographs: Path, tmp_path: Path) -> None:
    with in_the_middle(photographs, tmp_path / "out.h5") as process:
        children = workers(process.pid)
        assert len(children) == 2
        # Whose names would outlive them all, if all were killed.
        assert not any(
            "/dev/shm" in Path(f"/proc/{pid}/maps").read_text() for pid in (process.pid, *children)
        )
        process.kill()
        process.wait()
        end = time.monotonic() + 60
        while any(Path(f"/proc/{child}").exists() for child in children):
            assert time.monotonic() < end, "the workers live on"
            time.sleep(0.01)


def test_two_at_once_are_refused(photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with in_the_middle(photographs, output) as process:
        os.killpg(process.pid, signal.SIGSTOP)
        status, _, err = finished(pack_folder(photographs, output, "--skip-bad"))
    assert status == 1 and err.count("\n") == 2
    assert "expected no other process writing it, got one" in err


# --- Bad files


def test_bad_files_stop_the_run_until_they_are_to_be_skipped(
    photographs: Path, whole: Path, tmp_path: Path
) -> None:
    output = tmp_path / whole.name
    status, out, err = finished(pack_folder(photographs, output))
    assert status == 1 and out == "" and not output.exists()
    lines = err.splitlines()
    assert lines[-1] == (
        f"tmpack: {output}: expected only images, got 8 files of 1,000 that show none (above); mend them, or "
        "leave them out: the same command with --skip-bad"
    )
    with open_dataset(whole) as dataset:
        assert lines[-9:-1] == dataset.left_out
    status, out, err = finished(pack_folder(photographs, output, "--skip-bad"))
    assert status == 0
    assert f"{output}: continuing after 1,000 of 1,000 images" in err
    assert output.read_bytes() == whole.read_bytes()
    assert out.splitlines()[-9:] == [
        "left out 8 files that show no picture:",
        *(f"  {line}" for line in lines[-9:-1]),
    ]


def folders(tmp_path: Path, *classes: str, n: int = 2) -> list[str]:
    """Class folders with pictures; gives the words of a command that packs them."""
    for split in SPLITS:
        write_files(
            tmp_path / split, {f"{name}/{i}.jpg": jpeg(i, 8, 8) for name in classes for i in range(n)}
        )
    paths = [str(tmp_path / name) for name in ("train", "val")]
    return ["folder", *paths, "-o", str(tmp_path / "out.h5"), "--processes", "1"]


def test_what_was_bad_and_is_mended_removed_or_renamed_is_packed_and_nothing_else_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command was refused as another's, whose work was to be replaced."""
    monkeypatch.setattr(base, "_BLOCK_FILES", 2)
    train, val = tmp_path / "train", tmp_path / "val"
    words = folders(tmp_path, "a", "b", n=6)
    out, source = tmp_path / "out.h5", tmp_path / "val" / "b"
    for bad in (train / "a" / "0.jpg", train / "b" / "3.jpg", val / "a" / "2.jpg", source / "5.jpg"):
        bad.write_bytes(b"none")
    assert main(words) == 1
    (train / "a" / "0.jpg").write_bytes(jpeg(90, 30, 40))  # larger than any: all that follows is moved
    (train / "b" / "3.jpg").unlink()
    (val / "a" / "2.jpg").rename(val / "a" / "2.png")
    (val / "a" / "2.png").write_bytes(jpeg(91, 30, 40))
    (train / "b" / "9.jpg").write_bytes(jpeg(92, 8, 8))
    capsys.readouterr()
    assert main(words) == 1  # the last one is still none
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == (
        f"tmpack: {out}: keeping 16 of 24 images; what is new, or showed no picture, is packed with what lies around it"
    )
    assert [line.partition(":")[0] for line in lines[2:-1]] == ["val/b/5.jpg"]
    (source / "5.jpg").write_bytes(jpeg(93, 8, 8))
    assert main(words) == 0
    anew = [*words[:4], str(tmp_path / "anew.h5")]
    assert main([*anew, "--name", tmp_path.name]) == 0
    assert out.read_bytes() == (tmp_path / "anew.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("*.h5*")) == ["anew.h5", "out.h5"]


def test_a_block_of_nothing_but_bad_files_that_are_removed_takes_no_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_BLOCK_FILES", 2)
    words, place = folders(tmp_path, "a", n=6), tmp_path / "train" / "a"
    for bad in ("2.jpg", "3.jpg"):
        (place / bad).write_bytes(b"none")
    assert main(words) == 1
    for bad in ("2.jpg", "3.jpg"):
        (place / bad).unlink()
    assert main([*words, "--skip-bad"]) == 0
    assert main([*words[:4], str(tmp_path / "anew.h5"), "--name", tmp_path.name]) == 0
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "anew.h5").read_bytes()


def test_another_source_than_that_of_unfinished_work_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = folders(tmp_path, "b", "c")
    place, kept = tmp_path / "train" / "b", tmp_path / "out.h5.part"
    (place / "bad.jpg").write_bytes(b"none")
    assert main(words) == 1
    before = kept.read_bytes()

    def another(of: str) -> None:
        assert main(words) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"expected unfinished work of the same {of}, got " in last and "with --overwrite" in last
        assert kept.read_bytes() == before

    write_files(tmp_path / "train" / "a", {"a.jpg": jpeg(0, 8, 8)})
    another("command")
    shutil.rmtree(tmp_path / "train" / "a")
    os.utime(place / "1.jpg", (1, 1))
    another("images")
    for name in ("1.jpg", "bad.jpg"):
        (place / name).unlink()
    another("images")
    assert main([*words, "--overwrite"]) == 0


def test_classes_that_are_empty_or_become_so_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = folders(tmp_path, "a", "b", "c")
    for i in range(2):
        (tmp_path / "val" / "b" / f"{i}.jpg").unlink()
        (tmp_path / "train" / "c" / f"{i}.jpg").write_bytes(b"")
    assert main([*words, "--skip-bad"]) == 0
    err = capsys.readouterr().err.splitlines()
    assert err[1:] == [
        "tmpack: val has no images of 1 of 3 classes: b",
        "tmpack: --skip-bad left no image in train of 1 class: c",
    ]


def test_a_name_is_one_line_wherever_it_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = folders(tmp_path, "a", "b\n\x1b[2Jb")
    (tmp_path / "train" / "a" / "x\ny.jpg").write_bytes(b"")
    assert main(words) == 1
    line = "train/a/x\\ny.jpg: empty file"
    assert capsys.readouterr().err.splitlines()[1] == line
    assert main([*words, "--skip-bad"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"  {line}"
    assert main(["info", words[4]]) == 0
    rows = capsys.readouterr().out
    assert "2: a, b\\n\\x1b[2Jb\n" in rows and f" {line}\n" in rows and "\x1b" not in rows
    with open_dataset(words[4]) as dataset:
        (position,), _ = dataset.locate("train", np.array([2]))
    with open(words[4], "r+b") as file:
        file.seek(position + 9)
        file.write(b"?")
    assert main(["verify", words[4]]) == 1
    assert (
        capsys.readouterr().err.splitlines()[0].startswith("train/b\\n\\x1b[2Jb/0.jpg: image 2 of train: exp")
    )


def test_imagenet_as_kaggle_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = ilsvrc(tmp_path)
    outputs = [tmp_path / "archives.h5", tmp_path / "kaggle.h5"]
    assert main(["ilsvrc", *map(str, paths), "-o", str(outputs[0]), "--processes", "1"]) == 0
    top = kaggle(tmp_path / "kaggle")
    assert main(["ilsvrc", str(top), "-o", str(outputs[1]), "--processes", "1"]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    capsys.readouterr()
    assert errors(capsys, "ilsvrc", paths[0], "-o", tmp_path / "x.h5") == (
        f"{paths[0]}: expected Kaggle's folder, or VAL_TAR and DEVKIT_TAR after it, got one file"
    )
    assert errors(capsys, "ilsvrc", paths[0], paths[1], "-o", tmp_path / "x.h5") == (
        "ilsvrc: expected TRAIN_TAR, VAL_TAR and DEVKIT_TAR, got no third path"
    )


def test_labels_are_numbered_anew_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"train_labels": np.arange(11) % 4 + 1, "val_labels": np.array([1, 4, 2, 2])}
    path = arrays(tmp_path / "a.npz", **labels)
    words = ["arrays", path, "-o", tmp_path / "a.h5", "--processes", "1"]
    assert errors(capsys, *words) == (
        f"{path}: expected the labels 0 to 3 of 4 classes, got 4 different ones, such as 4 for image 3 of train; "
        "--renumber numbers them in their order"
    )
    assert not (tmp_path / "a.h5").exists()
    assert main([*map(str, words), "--renumber"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "tmpack: the labels 1, 2, 3, 4 are numbered 0 to 3",
        "tmpack: val has no images of 1 of 4 classes: 3",
    ]
    with open_dataset(tmp_path / "a.h5") as dataset:
        assert dataset.class_names == ["1", "2", "3", "4"]
        assert dataset.labels("val").tolist() == [0, 3, 1, 1]


# --- What is said


def errors(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run what must fail; gives its one line."""
    assert main([str(argument) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("tmpack: listing")]
    assert out == "" and len(lines) == 1 and lines[0].startswith("tmpack: ")
    return lines[0].removeprefix("tmpack: ")


def test_wrong_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "made.h5"
    small = "--classes 2 --train 4 --val 2 --size 4 --processes 1 -o".split()
    assert main(["synthetic", *small, str(made)]) == 0
    capsys.readouterr()
    assert errors(capsys, "synthetic", *small, made) == (
        f"data file {made}: expected no file of this name, got one; --overwrite replaces it"
    )
    assert main(["synthetic", *small, str(made), "--overwrite"]) == 0
    capsys.readouterr()
    nowhere = tmp_path / "no" / "x.h5"
    assert errors(capsys, "synthetic", *small, nowhere).startswith(
        f"data file {nowhere}: expected a folder to write in, got "
    )
    assert errors(capsys, "folder", nowhere, nowhere, "-o", made).startswith(
        f"{nowhere}: expected a folder of class folders, got: No such file"
    )
    assert errors(capsys, "folder", tmp_path, tmp_path, "-o", made, "--size", 32) == (
        "--size: expected it only with --store raw, got 32 with --store jpeg"
    )
    assert errors(capsys, "info", nowhere).startswith(
        f"data file {nowhere}: expected an HDF5 file, got: No such"
    )
    assert errors(capsys, "verify", nowhere).startswith(f"data file {nowhere}: expected an HDF5 file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["folder", "a", "b"], "the following arguments are required: -o/--output"),
        (["mnist", "a", "-o", "b", "--processes", "0"], "expected a whole number of at least 1, got '0'"),
        (["mnist", "a", "-o", "b", "--augmentation", "cut"], "invalid choice: 'cut'"),
        (["cifar10", "a", "-o", "b", "--store", "jpeg"], "--store: unknown"),
        (
            ["folder", "a", "b", "--outptu", "c"],
            "tmpack folder: error: --outptu: unknown; did you mean '--output'?",
        ),
        (
            ["foldr", "a", "b", "--output", "c"],
            "tmpack: error: expected one of folder, ilsvrc, cifar10, cifar100, mnist, arrays, glyphs, synthetic, text, "
            "imdb, info, verify, got 'foldr'; did you mean 'folder'?\n",
        ),
        (["--hlep"], "tmpack: error: --hlep: unknown; did you mean '--help'?\n"),
        (["synthetic", "-o", "b"], "the following arguments are required: --classes, --train, --val, --size"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("columns", [80, 120])
def test_each_help_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))

    def helped(*words: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            main([*words, "--help"])
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= columns
        return text

    top = helped()
    assert "  synthetic  generate images that can be learnt\n" in top
    table = top.partition("commands, each with a --help of its own:\n")[2].partition("\n\n")[0]
    names = [line.split()[0] for line in table.splitlines() if line[2] != " "]
    assert len(names) == 12
    for name in names:
        assert helped(name).startswith(f"usage: tmpack {name} ")
    # What is one name is not broken at its hyphen.
    assert "emnist-letters" in helped("mnist")


def test_other_unfinished_work_is_refused(photographs: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5"
    with in_the_middle(photographs, output):
        pass
    status, _, err = finished(pack_folder(photographs, output, "--skip-bad", "--store", "raw"))
    assert status == 1
    assert "expected unfinished work of the same command, got another's (store: expected 'raw'" in err


def test_unfinished_work_of_other_options_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path / "train" / "a", {"good.jpg": jpeg(0, 40, 40), "bad.jpg": b"none"})
    write_files(tmp_path / "val" / "a", {"good.jpg": jpeg(1, 40, 40)})
    source, options = Folder(tmp_path / "train", tmp_path / "val"), {"size": 32, "name": "a"}
    output = tmp_path / "out.h5"
    assert not packing.pack(source, output, store="raw", processes=1, **options)
    for name, other in (("size", 33), ("name", "b"), ("augmentation", "none")):
        with pytest.raises(ConfigError, match=rf"got another's \({name}: expected {other!r}, got "):
            packing.pack(source, output, store="raw", **options | {name: other})
    assert packing.pack(source, output, store="raw", processes=1, skip_bad=True, **options)
    assert f"{output}: continuing after 3 of 3 images" in capsys.readouterr().err


def test_a_file_that_vanishes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in SPLITS:
        write_files(tmp_path / split, {f"a/{i}.jpg": jpeg(i, 8, 8) for i in range(3)})
    source = Folder(tmp_path / "train", tmp_path / "val")
    (tmp_path / "val" / "a" / "1.jpg").unlink()
    assert not packing.pack(source, tmp_path / "out.h5", store="jpeg", processes=1)
    bad = "val/a/1.jpg: No such file or directory"
    assert capsys.readouterr().err.splitlines()[0] == bad
    assert packing.pack(source, tmp_path / "out.h5", store="jpeg", processes=1, skip_bad=True)
    with open_dataset(tmp_path / "out.h5") as dataset:
        assert (dataset.n_train, dataset.n_val, dataset.left_out) == (3, 2, [bad])


def test_what_is_no_regular_file_is_named_and_left_out_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A FIFO would be waited for for ever, and a device never ends."""
    for split in SPLITS:
        write_files(tmp_path / split, {f"a/{i}.jpg": jpeg(i, 8, 8) for i in range(3)})
    place = tmp_path / "train" / "a"
    os.mkfifo(place / "fifo.jpg")
    # Whoever waits for it all the same goes on, and has read nothing.
    writer = threading.Timer(20, lambda: os.close(os.open(place / "fifo.jpg", os.O_WRONLY | os.O_NONBLOCK)))
    writer.start()
    (place / "gone.jpg").symlink_to("nowhere.jpg")
    (place / "self.jpg").symlink_to("self.jpg")
    (place / "void.jpg").symlink_to("/dev/null")
    (place / "elsewhere.jpg").symlink_to(tmp_path / "val" / "a" / "1.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(place / "socket.jpg"))
        words = ["folder", str(tmp_path / "train"), str(tmp_path / "val"), "-o", str(tmp_path / "out.h5")]
        words += ["--processes", "1"]
        assert main(words) == 1
        *lines, last = capsys.readouterr().err.splitlines()[1:]
        bad = [
            "train/a/fifo.jpg: expected a regular file, got a pipe",
            "train/a/gone.jpg: a link to nothing",
            "train/a/self.jpg: Too many levels of symbolic links",
            "train/a/socket.jpg: expected a regular file, got a socket",
            "train/a/void.jpg: expected a regular file, got a device",
        ]
        writer.cancel()
        assert lines == bad and "expected only images, got 5 files of 12 that show none" in last
        assert main([*words, "--skip-bad"]) == 0
    with open_dataset(tmp_path / "out.h5") as dataset:
        # A link to a file is that file, wherever it is.
        assert (dataset.n_train, dataset.n_val, dataset.left_out) == (4, 3, bad)


def test_a_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    command = "synthetic --classes 2 --train 4 --val 2 --size 4 --processes 1 -o".split()
    assert errors(capsys, *command, tmp_path / "s.h5") == f"{tmp_path / 's.h5'}: No space left on device"
    monkeypatch.undo()
    assert main([*command, f"{tmp_path}/s.h5"]) == 0


def test_a_worker_without_memory_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> bool:
        raise MemoryError

    monkeypatch.setattr("theanompi.data.pack.command.pack", none_left)
    command = "synthetic --classes 2 --train 4 --val 2 --size 4 -o".split()
    assert errors(capsys, *command, tmp_path / "s.h5") == (
        "synthetic: expected more memory, got none; what is packed is kept: fewer --processes take less"
    )


def test_info(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(whole)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:13].rstrip(): line[14:] for line in lines}
    assert rows["classes"] == "7: class 0, class 1, class 2, class 3, class 4, class 5, …"
    assert rows["store"] == "jpeg" and rows["licence"] == "not stated"
    assert re.fullmatch(r"[\d,]+ images, [\d.]+ MB", rows["training"])
    assert rows["  height"] == "60 – 60 – 60 pixels (least, median, most)"
    assert rows["left out"] == "8 files"
    assert sum("zero.JPEG: empty file" in line for line in lines) == 2
    with open_dataset(whole) as dataset:
        assert rows["mean"] == " ".join(f"{value:.4f}" for value in dataset.mean)


def test_verify_names_each_flipped_byte(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "flipped.h5"
    data = bytearray(whole.read_bytes())
    path.write_bytes(data)
    assert main(["verify", str(path)]) == 0
    with open_dataset(whole) as dataset:
        total = dataset.n_train + dataset.n_val
        assert capsys.readouterr().out == f"{path}: all {total:,} images are as they were packed\n"
        names = []
        for split, i in (("train", 0), ("train", 700), ("val", 5)):
            (position,), (length,) = dataset.locate(split, np.array([i]))  # type: ignore[arg-type]
            data[position + length - 1] ^= 1
            names.append(f"{split}/{dataset.image_name(split, i)}: image {i} of {split}: expected CRC-32")  # type: ignore[arg-type]
    path.write_bytes(data)
    assert main(["verify", str(path)]) == 1
    out, err = capsys.readouterr()
    *bad, last = err.splitlines()
    assert out == "" and len(bad) == 3
    assert all(line.startswith(name) for line, name in zip(bad, names, strict=True))
    assert (
        last == f"tmpack: {path}: expected {total:,} images as they were packed, got 3 damaged ones (above)"
    )


def test_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0, 140.0, 140.0, 141.0, 200.0, 200.0])
    monkeypatch.setattr(packing, "monotonic", lambda: next(clock))
    with packing.Progress(10_000, 1000) as progress:
        progress.add(1000)
        progress.add(3000)
        progress.add(10)
        progress.add(10)
    assert capsys.readouterr().err == (
        "tmpack: 5,000 of 10,000 images, 100 images/s, 00:50 left\n"
        "tmpack: 5,020 of 10,000 images, 40 images/s, 02:03 left\n"
    )


def test_a_bar_on_a_terminal(photographs: Path, tmp_path: Path) -> None:
    terminal, side = pty.openpty()
    process = pack_folder(photographs, tmp_path / "out.h5", "--skip-bad", stderr=side)
    os.close(side)
    shown = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
        shown += data
    os.close(terminal)
    assert finished(process)[0] == 0
    assert re.search(r"█.*\| \d+/1000 images, +[\d.?]+ ?images/s, \d\d:\d\d left", shown.decode())


# --- Training on it


def train(n: int, data: Path, out: Path, **settings: Any) -> dict[str, NDArray[np.float32]]:
    """A run of a small network under mpirun; gives its weights."""
    config = {
        "modelfile": "small_models",
        "modelclass": "Normalised",
        "data": str(data),
        "out": str(out),
        "image_size": 32,
        "batch_size": 16,
        "epochs": 1,
        "color_jitter": 0.4,
        "lighting": 0.1,
        "verbose": False,
        "devices": ["cpu"],
        **settings,
    }
    done = run_warm(n, config, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return checkpoint.load(out / "checkpoint.h5")[0]


@pytest.mark.parametrize("store", ["jpeg", "raw"])
def test_packed_verified_and_trained_on(
    photographs: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str
) -> None:
    data = whole
    if store == "raw":
        data = tmp_path / "raw.h5"
        options = ("--skip-bad", "--store", "raw", "--size", 48)
        assert finished(pack_folder(photographs, data, *options))[0] == 0
    assert main(["verify", str(data)]) == 0
    assert capsys.readouterr().out.endswith("images are as they were packed\n")

    straight = train(2, data, tmp_path / "straight")
    lines = read_log(tmp_path / "straight" / "log.jsonl")
    with open_dataset(data) as dataset:
        used = dataset.n_train // 16 * 16
        assert sum(line["items"] for line in lines if line["kind"] == "train") == used
        assert [line["items"] for line in lines if line["kind"] == "val"] == [dataset.n_val]
    # Neither a stop in mid-epoch nor the number of loader processes changes a bit.
    train(2, data, tmp_path / "resumed", max_iterations=23)
    resumed = train(2, data, tmp_path / "resumed", resume=True, loader_processes=3)
    assert resumed.keys() == straight.keys()
    for name, values in straight.items():
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)
    # Nor does the number of ranks, but for rounding.
    alone = train(1, data, tmp_path / "alone", accumulation=2)
    for name, values in straight.items():
        assert np.linalg.norm(alone[name] - values) <= 1e-4 * np.linalg.norm(values), name
