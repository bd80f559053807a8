"""Checkpoints: what comes back, equal files for equal states, damage that is found, crashes without loss."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from theanompi.config.files import write_whole
from theanompi.record import checkpoint

ROOT = Path(__file__).resolve().parents[1]
ARRAYS = {
    "weights/conv1.W": np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32),
    "weights/fc.b": np.arange(5.0),
    "velocity/conv1.W": np.zeros((2, 3), np.float32),
    "scalar": np.array(3.5, np.float32),
    "empty": np.zeros((0, 3)),
    "counts": np.array([[1, -2], [3, 2**40]]),
    "mask": np.array([True, False]),
}
ATTRIBUTES = {"iteration": 7, "seed": 2**64 - 1, "lr": 0.1, "model": "résumé", "shift": -3}


def program(body: str, *args: object) -> subprocess.Popen[str]:
    code = (
        "import os, resource, sys, time\nimport numpy as np\nfrom theanompi.record import checkpoint\n" + body
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.h5", ARRAYS, ATTRIBUTES)
    arrays, attributes = checkpoint.load(str(tmp_path / "c.h5"))
    assert list(arrays) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert isinstance(arrays[name], np.ndarray), name
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape), name
        assert arrays[name].tobytes() == array.tobytes(), name
    assert attributes == ATTRIBUTES
    assert {name: type(value) for name, value in attributes.items()} == {
        name: type(value) for name, value in ATTRIBUTES.items()
    }
    assert os.listdir(tmp_path) == ["c.h5"]


def test_arrays_may_have_the_names_that_the_file_has(tmp_path: Path) -> None:
    names = ("arrays/attributes/a", "arrays/b", "attributes")
    checkpoint.save(tmp_path / "c.h5", {name: np.arange(i) for i, name in enumerate(names)}, ATTRIBUTES)
    arrays, attributes = checkpoint.load(tmp_path / "c.h5")
    assert [len(arrays[name]) for name in names] == [0, 1, 2] and attributes == ATTRIBUTES


def test_a_file_that_another_process_has_locked_is_read(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.h5", ARRAYS, ATTRIBUTES)
    with open(tmp_path / "c.h5") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert checkpoint.load(tmp_path / "c.h5")[1] == ATTRIBUTES


def test_not_a_number_and_strided_arrays_survive(tmp_path: Path) -> None:
    strided = np.arange(24.0).reshape(4, 6)[::2, ::-3]
    checkpoint.save(
        tmp_path / "c.h5", {"a": strided, "n": np.array([np.nan, -0.0, np.inf])}, {"loss": float("nan")}
    )
    arrays, attributes = checkpoint.load(tmp_path / "c.h5")
    assert np.array_equal(arrays["a"], [[5, 2], [17, 14]])
    assert arrays["n"].tobytes() == np.array([np.nan, -0.0, np.inf]).tobytes()
    assert np.isnan(attributes["loss"])


def test_other_tools_can_read_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.h5", ARRAYS, ATTRIBUTES)
    with h5py.File(tmp_path / "c.h5") as file:
        assert np.array_equal(file["arrays/weights/conv1.W"], ARRAYS["weights/conv1.W"])
        assert np.array_equal(file["weights/conv1.W"], ARRAYS["weights/conv1.W"])
        assert file["attributes"].attrs["iteration"] == 7


def test_equal_states_give_identical_files_whenever_they_are_saved(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.h5", ARRAYS, ATTRIBUTES)
    # HDF5's time stamps, if there were any, count seconds.
    time.sleep(1.1)
    checkpoint.save(tmp_path / "b.h5", dict(reversed(ARRAYS.items())), dict(reversed(ATTRIBUTES.items())))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    checkpoint.save(tmp_path / "b.h5", ARRAYS | {"weights/fc.b": np.arange(5.0) + 1}, ATTRIBUTES)
    assert (tmp_path / "a.h5").read_bytes() != (tmp_path / "b.h5").read_bytes()


def test_processes_that_hash_otherwise_write_identical_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = []
    for seed in "01":
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        save = "checkpoint.save(sys.argv[1], {f'{c}/w': np.zeros(3) for c in 'abcdefgh'}, {})"
        processes.append(program(save, tmp_path / f"{seed}.h5"))
    for process in processes:
        process.communicate(timeout=60)
    assert (tmp_path / "0.h5").read_bytes() == (tmp_path / "1.h5").read_bytes()


@pytest.mark.parametrize("name", ["weights/conv1.W", "counts", "mask", "scalar"])
def test_a_flipped_bit_in_an_array_is_found_and_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.h5"
    checkpoint.save(path, ARRAYS, ATTRIBUTES)
    with h5py.File(path) as file:
        offset = file["arrays"][name].id.get_offset()
    content = bytearray(path.read_bytes())
    assert content[offset : offset + ARRAYS[name].nbytes] == ARRAYS[name].tobytes()
    content[offset + ARRAYS[name].nbytes // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"c\.h5: array '{name}': expected checksum \w{{8}}, got \w{{8}}: .*damaged"
    ):
        checkpoint.load(path)


def test_a_flipped_byte_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    checkpoint.save(path, ARRAYS, ATTRIBUTES)
    content = path.read_bytes()
    header = content.index(b"\n") + 1
    for position in [*range(header), *range(checkpoint.USER_BLOCK, len(content), 13)]:
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        with pytest.raises(ValueError, match=r"checkpoint \S*c\.h5: .+") as caught:
            checkpoint.load(path)
        assert "\n" not in str(caught.value)


def test_a_file_cut_short_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    checkpoint.save(path, ARRAYS, ATTRIBUTES)
    content = path.read_bytes()
    for length in range(checkpoint.USER_BLOCK, len(content), 97):
        path.write_bytes(content[:length])
        expected = rf"c\.h5: expected {len(content)} bytes, got {length}: the file is truncated"
        with pytest.raises(ValueError, match=expected):
            checkpoint.load(path)


def test_what_is_no_checkpoint_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    with pytest.raises(ValueError, match=r"c\.h5: expected a file, got none there$"):
        checkpoint.load(path)
    with pytest.raises(ValueError, match=r": expected a file, got a folder$"):
        checkpoint.load(tmp_path)
    for content in (b"", b"weights", b"\x89HDF\r\n\x1a\n" + bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"c\.h5: expected a file that begins with 'theanompi checkpoint', got b"
        ):
            checkpoint.load(path)
    with h5py.File(path, "w") as file:
        file["a"] = 1
    with pytest.raises(ValueError, match="expected a file that begins with 'theanompi checkpoint'"):
        checkpoint.load(path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    checkpoint.save(path, ARRAYS, ATTRIBUTES)
    path.write_bytes(path.read_bytes().replace(b"version 1,", b"version 2,", 1))
    with pytest.raises(ValueError, match=r"c\.h5: expected format version 1, got 2$"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("arrays", "attributes", "message"),
    [
        (
            {"a": np.zeros(1), "a/b": np.zeros(1)},
            {},
            "array 'a/b': expected a group 'a', got an array of this name",
        ),
        ({"/a": np.zeros(1)}, {}, "expected array names with non-empty parts, got '/a'"),
        ({"a//b": np.zeros(1)}, {}, "expected array names with non-empty parts, got 'a//b'"),
        ({"": np.zeros(1)}, {}, "expected array names with non-empty parts, got ''"),
        ({"a/./b": np.zeros(1)}, {}, "expected array names with non-empty parts, got 'a/./b'"),
        ({"a": np.array(["x"])}, {}, "array 'a': expected numbers, got dtype <U1"),
        ({"a": np.array([None])}, {}, "array 'a': expected numbers, got dtype object"),
        ({}, {"seed": 2**64}, f"attribute 'seed': expected a 64-bit int, float or str, got {2**64}"),
        ({}, {"seed": None}, "attribute 'seed': expected a 64-bit int, float or str, got None"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(
    tmp_path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        checkpoint.save(tmp_path / "c.h5", arrays, attributes)
    assert str(caught.value) == f"checkpoint {tmp_path / 'c.h5'}: {message}"
    assert not os.listdir(tmp_path)


def test_check_names_the_first_array_that_does_not_fit() -> None:
    arrays = {"a": np.zeros((2, 3)), "b": np.zeros(4)}
    a, b, other = arrays["a"], arrays["b"], np.zeros(1)
    checkpoint.check(arrays, {"b": b, "a": a}, "c.h5")
    for expected, message in (
        ({"a": a, "z": other, "y": other}, "array 'z': expected shape (1,), got no such array"),
        ({"b": np.zeros(5), "a": np.zeros(9)}, "array 'b': expected shape (5,), got (4,)"),
        ({"b": b.astype(np.float32), "a": a}, "array 'b': expected dtype float32, got float64"),
        ({"b": b, "a": a.astype(bool)}, "array 'a': expected dtype bool, got float64"),
        ({"a": a}, "array 'b': expected none of this name in this model, got one of shape (4,)"),
    ):
        with pytest.raises(ValueError) as caught:
            checkpoint.check(arrays, expected, "c.h5")
        assert str(caught.value) == f"checkpoint c.h5: {message}"


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_an_exception_while_writing_keeps_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    checkpoint.save(tmp_path / "c.h5", ARRAYS, {"iteration": 1})

    def interrupt(*_: object) -> None:
        assert (tmp_path / "c.h5.tmp").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, where, interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path / "c.h5", ARRAYS, {"iteration": 2})
    assert os.listdir(tmp_path) == ["c.h5"]
    assert checkpoint.load(tmp_path / "c.h5")[1] == {"iteration": 1}


def test_the_bytes_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, few as they are; the name does then; and no file stays open."""
    calls: list[object] = []
    fsync, replace, opened = os.fsync, os.replace, len(os.listdir("/proc/self/fd"))

    def synced(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        calls.append((path, None if os.path.isdir(path) else os.path.getsize(path)))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_whole(tmp_path / "c.h5", b"few")
    assert calls == [(str(tmp_path / "c.h5.tmp"), 3), "replace", (str(tmp_path), None)]
    assert os.listdir(tmp_path) == ["c.h5"] and len(os.listdir("/proc/self/fd")) == opened


def test_a_full_disk_keeps_the_previous_one_and_the_next_save_works(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails in the same way, half-way."""
    process = program(
        """
path = sys.argv[1]
checkpoint.save(path, {"a": np.zeros(1000)}, {"iteration": 1})
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
for limit in (600, 50_000, 300_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
    try:
        checkpoint.save(path, {f"w{i}": np.ones(20_000) for i in range(4)}, {"iteration": 2})
    except OSError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    print(message, checkpoint.load(path)[1], os.listdir(os.path.dirname(path)))
checkpoint.save(path, {"a": np.ones(1000)}, {"iteration": 3})
print(checkpoint.load(path)[1])
""",
        tmp_path / "c.h5",
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    failed = (
        f"checkpoint {tmp_path / 'c.h5'}: cannot be written: {os.strerror(27)}; "
        "a previous one is kept as it was "
        "{'iteration': 1} ['c.h5']"
    )
    assert out.splitlines() == [failed] * 3 + ["{'iteration': 3}"]


def test_a_process_killed_in_the_middle_of_writing_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    process = program(
        """
path = sys.argv[1]
checkpoint.save(path, {"a": np.zeros(1000)}, {"iteration": 1})
def hang(fd):
    os.ftruncate(fd, 5000)
    print("half-way", flush=True)
    time.sleep(60)
os.fsync = hang
checkpoint.save(path, {"a": np.ones(1000)}, {"iteration": 2})
""",
        path,
    )
    assert process.stdout is not None and process.stdout.readline() == "half-way\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert (tmp_path / "c.h5.tmp").stat().st_size == 5000
    assert checkpoint.load(path)[1] == {"iteration": 1}
    # What the killed process left behind is in nobody's way.
    checkpoint.save(path, {"a": np.ones(1000)}, {"iteration": 3})
    assert os.listdir(tmp_path) == ["c.h5"]
    assert checkpoint.load(path)[1] == {"iteration": 3}


def test_kills_at_any_moment_leave_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    checkpoint.save(path, {"a": np.zeros(1)}, {"iteration": 0})
    for pause in (0.0, 0.013, 0.031):
        process = program(
            """
print("go", flush=True)
for i in range(1, 1_000_000):
    checkpoint.save(sys.argv[1], {f"w{j}": np.full(50_000, i) for j in range(10)}, {"iteration": i})
""",
            path,
        )
        assert process.stdout is not None and process.stdout.readline() == "go\n"
        time.sleep(0.05 + pause)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        arrays, attributes = checkpoint.load(path)
        assert all((array == attributes["iteration"]).all() for array in arrays.values())


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({}, "iteration: expected a whole number from 0 to 100, got None"),
        ({"iteration": -1}, "iteration: expected a whole number from 0 to 100, got -1"),
        ({"iteration": 10**12}, "iteration: expected a whole number from 0 to 100, got 1000000000000"),
        ({"iteration": 2**63}, "iteration: expected a whole number from 0 to 100, got 9223372036854775808"),
        ({"iteration": float("inf")}, "iteration: expected a whole number from 0 to 100, got inf"),
        ({"iteration": 25.0}, "iteration: expected a whole number from 0 to 100, got 25.0"),
        ({"iteration": True}, "iteration: expected a whole number from 0 to 100, got True"),
        ({"iteration": 25}, "epoch: expected 2 after 25 updates, 10 of an epoch, got None"),
        (
            {"iteration": 25, "epoch": 2, "position": 4},
            "position: expected 5 after 25 updates, 10 of an epoch, got 4",
        ),
        (
            {"iteration": 25, "epoch": 2, "position": 5.0},
            "position: expected 5 after 25 updates, 10 of an epoch, got 5.0",
        ),
    ],
)
def test_a_number_of_updates_that_cannot_be(attributes: dict[str, int], message: str) -> None:
    assert checkpoint.progress({"iteration": 25, "epoch": 2, "position": 5}, "c.h5", 10, 100) == 25
    with pytest.raises(ValueError) as caught:
        checkpoint.progress(attributes, "c.h5", 10, 100)
    assert str(caught.value) == f"checkpoint c.h5: {message}"


@pytest.mark.parametrize(
    ("arrays", "attributes", "message"),
    [
        ({"a": np.array([b"x"])}, {}, "array 'a': expected numbers, got dtype dtype('S1')"),
        ({}, {"iteration": [1, 2]}, "attribute 'iteration': expected a number or a text, got array([1, 2])"),
        (
            {},
            {"iteration": h5py.Empty("f")},
            "attribute 'iteration': expected a number or a text, got Empty(",
        ),
        ({}, {"iteration": 1j}, "attribute 'iteration': expected a number or a text, got np.complex128(1j)"),
    ],
)
def test_right_checksums_over_other_types(
    tmp_path: Path, arrays: dict[str, np.ndarray], attributes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "c.h5"
    path.write_bytes(checkpoint._file_content(arrays, attributes))
    with pytest.raises(ValueError) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(f"checkpoint {path}: {message}")


def test_an_array_of_more_bytes_than_its_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = h5py.Group.create_dataset
    monkeypatch.setattr(
        h5py.Group,
        "create_dataset",
        lambda self, name, **_: create(self, name, (10**7,), "f4", chunks=(1024,)),
    )
    path = tmp_path / "c.h5"
    path.write_bytes(checkpoint._file_content({"a": np.zeros(0)}, {}))
    with pytest.raises(
        ValueError, match=r"array 'a': expected its 40000000 bytes in the file's \d{4}, got others$"
    ):
        checkpoint.load(path)


def test_a_path_that_leads_nowhere_is_one_line(tmp_path: Path) -> None:
    for path, reason in (
        (f"{__file__}/c.h5", "Not a directory"),
        ("n" * 300, "File name too long"),
        (str(tmp_path), "a folder"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(ValueError, match=rf"^checkpoint {path}: expected a file, got {reason}$"):
            checkpoint.load(path)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(odd: float) -> None:
    wanted = {"weights/fc.W": np.zeros((3, 2), "float32")}
    arrays = {"weights/fc.W": np.array([[1, 2], [3, odd], [odd, 6]], "float32")}
    with pytest.raises(
        ValueError,
        match=r"^checkpoint c.h5: array 'weights/fc.W': expected finite numbers, got 2 that are not$",
    ):
        checkpoint.check(arrays, wanted, "c.h5")
