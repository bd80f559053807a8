"""tmpack of arrays and of texts: what is in the files is what was given, and what cannot be packed is one line."""

import errno
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

from tests.test_pack_sources import arrays as pictures
from theanompi.data import open_dataset
from theanompi.data.pack.command import main
from theanompi.data.pack.records import _Megabytes
from theanompi.data.sources import fields, texts
from theanompi.data.store.record_writer import RecordWriter
from theanompi.data.store.schema import SPLITS

Content = dict[str, Any]


def content(n: int, m: int) -> Content:
    draw = np.random.default_rng(0)
    return {
        f"{split}_{name}": values
        for split, k in (("train", n), ("val", m))
        for name, values in (
            ("x", draw.normal(size=(k, 4)).astype(np.float32)),
            ("y", draw.normal(size=k)),
            ("seen", draw.random((k, 2, 2)) < 0.5),
            ("count", draw.integers(-9, 9, k).astype(">i2")),
        )
    }


def npz(path: Path, given: Content) -> Path:
    with path.open("wb") as file:
        np.savez(file, **given)
    return path


def hdf5(path: Path, given: Content) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in given.items():
            split, _, name = key.partition("_")
            array = np.asarray(values)
            compressed = {"chunks": (1, *array.shape[1:]), "compression": "gzip"} if array.ndim else {}
            file.create_dataset(f"{split}/{name}", data=array, **compressed)
    return path


def packed(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run what must fail; gives its last line on stderr."""
    assert main([str(word) for word in words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    line = err.splitlines()[-1]
    assert len(line) <= 300
    return line.removeprefix("tmpack: ")


# --- Arrays


@pytest.mark.parametrize("make", [npz, hdf5])
def test_arrays_are_packed_as_they_are(
    tmp_path: Path, make: Callable[[Path, Content], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "_BLOCK_BYTES", 50)  # many blocks
    given = content(20, 7)
    packed("arrays", make(tmp_path / "a.in", given), "-o", tmp_path / "a.h5")
    with open_dataset(tmp_path / "a.h5") as data:
        assert (data.modality, data.name, data.n_train, data.n_val) == ("arrays", "a", 20, 7)
        assert sorted(data.fields) == ["count", "seen", "x", "y"] and data.n_classes == 0
        for split in SPLITS:
            for name in data.fields:
                values = data.column(split, name)
                assert values.dtype.name == given[f"{split}_{name}"].dtype.name
                np.testing.assert_array_equal(values, given[f"{split}_{name}"])


def test_arrays_in_fortrans_order_and_compressed(tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(60.0).reshape(12, 5))
    np.savez_compressed(tmp_path / "a.npz", train_x=values, val_x=values[:3])
    packed("arrays", tmp_path / "a.npz", "-o", tmp_path / "a.h5")
    with open_dataset(tmp_path / "a.h5") as data:
        np.testing.assert_array_equal(data.column("train", "x"), values)
        np.testing.assert_array_equal(data.column("val", "x"), values[:3])


def test_labels_number_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        "train_x": np.zeros((5, 2)),
        "train_labels": np.array([[3], [1], [7], [1], [3]], np.uint8),
        "val_x": np.ones((2, 2)),
        "val_labels": np.array([7, 7]),
    }
    path = npz(tmp_path / "a.npz", given)
    assert refused(capsys, "arrays", path, "-o", tmp_path / "a.h5") == (
        f"{path}: expected the labels 0 to 2 of 3 classes, got 3 different ones, such as 3 for item 0 of train; "
        "--renumber numbers them in their order"
    )
    packed("arrays", path, "-o", tmp_path / "a.h5", "--renumber")
    assert capsys.readouterr().err.splitlines() == [
        "tmpack: the labels 1, 3, 7 are numbered 0 to 2",
        "tmpack: val has no items of 2 of 3 classes: 1, 3",
    ]
    with open_dataset(tmp_path / "a.h5") as data:
        assert (data.n_classes, data.class_names) == (3, ["1", "3", "7"])
        assert data.column("train", "labels").tolist() == [1, 0, 2, 0, 1]
        assert data.column("val", "labels").tolist() == [2, 2]


@pytest.mark.parametrize("make", [npz, hdf5])
def test_class_names(tmp_path: Path, make: Callable[[Path, Content], Path]) -> None:
    given = {"train_x": np.zeros(4), "train_labels": [0, 1, 1, 0], "val_x": np.zeros(1), "val_labels": [1]}
    path = make(tmp_path / "a.in", given)
    if make is hdf5:
        with h5py.File(path, "r+") as file:
            file["class_names"] = ["no", "yes – ja"]
    else:
        npz(path, {**given, "class_names": ["no", "yes – ja"]})
    packed("arrays", path, "-o", tmp_path / "a.h5")
    assert open_dataset(tmp_path / "a.h5").class_names == ["no", "yes – ja"]


def test_labels_that_are_no_classes_are_a_field_like_others(tmp_path: Path) -> None:
    given = {"train_labels": np.zeros((4, 14), np.int8), "val_labels": np.ones((2, 14), np.int8)}
    packed("arrays", npz(tmp_path / "a.npz", given), "-o", tmp_path / "a.h5")
    with open_dataset(tmp_path / "a.h5") as data:
        assert data.n_classes == 0 and data.fields["labels"] == ("int8", (14,))


def test_labelled_images_are_still_packed_as_images(tmp_path: Path) -> None:
    path = pictures(tmp_path / "a.npz")
    packed("arrays", path, "-o", tmp_path / "a.h5", "--processes", 1)
    with open_dataset(tmp_path / "a.h5") as data:
        assert data.modality == "pictures" and data.n_train == 11


def test_the_last_share_is_for_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"train_x": np.arange(30.0).reshape(10, 3), "test_x": np.zeros(3)}
    path = npz(tmp_path / "a.npz", given)
    assert refused(capsys, "arrays", path, "-o", tmp_path / "a.h5") == (
        f"{path}: expected arrays val_NAME, or --val-share 0.1 for the last tenth of the items, got only train_NAME"
    )
    packed("arrays", path, "-o", tmp_path / "a.h5", "--val-share", "0.3")
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "tmpack: the last 3 of 10 items are for validation",
        "tmpack: arrays that are not used: test_x",
    ]
    assert out.startswith(f"{tmp_path}/a.h5: 7 training and 3 validation items, 1 field, ")
    with open_dataset(tmp_path / "a.h5") as data:
        np.testing.assert_array_equal(data.column("train", "x"), given["train_x"][:7])
        np.testing.assert_array_equal(data.column("val", "x"), given["train_x"][7:])


def test_what_is_not_finite_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = content(20, 7)
    given["train_x"][3, 1:3] = np.nan
    given["train_x"][4, 0] = -np.inf
    packed("arrays", npz(tmp_path / "a.npz", given), "-o", tmp_path / "a.h5")
    assert capsys.readouterr().err == "tmpack: train: x has 2 NaN and 1 infinite ones\n"


ALL = "bool, int8, int16, int32, int64, uint8, uint16, uint32, float16, float32, float64"
ONE = np.zeros(4)
WRONG: list[tuple[Content, str]] = [
    ({"x": ONE}, "expected arrays train_NAME and val_NAME, got x"),
    ({"val_x": ONE}, "expected arrays train_NAME and val_NAME, got none"),
    (
        {"train_x": ONE.astype("u8"), "val_x": ONE.astype("u8")},
        f"train_x: expected {ALL}, got uint64",
    ),
    ({"train_x": ONE + 0j, "val_x": ONE + 0j}, f"train_x: expected {ALL}, got complex128"),
    ({"train_x": ["a"], "val_x": ["a"]}, f"train_x: expected {ALL}, got str32"),
    (
        {"train_x": ONE, "val_x": ONE.astype("f4")},
        "val_x: expected items float64 () as in train_x, got float32 ()",
    ),
    (
        {"train_x": ONE, "val_x": ONE[:, None]},
        "val_x: expected items float64 () as in train_x, got float64 (1,)",
    ),
    ({"train_x": ONE, "val_y": ONE}, "val: expected the fields of train, x; got y"),
    (
        {"train_x": ONE, "train_y": ONE[:3], "val_x": ONE, "val_y": ONE},
        "train_y: expected 4 items as in train_x, got 3",
    ),
    (
        {"train_x": np.array(3), "val_x": ONE},
        "train_x: expected an array (n, …) of at least one item, got ()",
    ),
    ({"train_x": ONE[:0], "val_x": ONE}, "train_x: expected an array (n, …) of at least one item, got (0,)"),
    (
        {"train_x": np.zeros((4, 0)), "val_x": np.zeros((4, 0))},
        "train_x: expected items of at most 16 dimensions and 1 to 1,073,741,824 bytes, got float64 (0,)",
    ),
    (
        {"train_a b": ONE, "val_a b": ONE},
        "train_a b: expected a name of letters, digits and _, at most 64, got 'a b'",
    ),
    (
        {"train_weights": ONE, "val_weights": ONE},
        "train_weights: expected a name other than keys and weights, which every batch has, got weights",
    ),
    (
        {"train_x": ONE, "val_x": ONE, "class_names": ["a"]},
        "class_names: expected labels, whole numbers (n,), got none",
    ),
    (
        {"train_labels": [0, 1, 2, 3], "val_labels": [0], "class_names": ["a", "b"]},
        "expected the labels 0 to 1 of 2 classes, got 4 different ones, such as 2 for item 2 of train",
    ),
]


@pytest.mark.parametrize("given, text", WRONG, ids=[text for _, text in WRONG])
def test_arrays_that_cannot_be_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: Content, text: str
) -> None:
    path = npz(tmp_path / "a.npz", given)
    assert refused(capsys, "arrays", path, "-o", tmp_path / "a.h5") == f"{path}: {text}"
    assert os.listdir(tmp_path) == ["a.npz"]


def test_options_that_do_not_fit_the_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = npz(tmp_path / "a.npz", content(4, 2)), tmp_path / "a.h5"
    assert refused(capsys, "arrays", path, "-o", out, "--val-share", "0.5") == (
        "--val-share: expected it only without arrays for val, got 0.5"
    )
    assert refused(capsys, "arrays", path, "-o", out, "--augmentation", "none") == (
        "--augmentation: expected it only for images, got none"
    )
    images = pictures(tmp_path / "b.npz")
    assert refused(capsys, "arrays", images, "-o", out, "--val-share", "0.5") == (
        "--val-share: expected it only for arrays that are no images, got 0.5"
    )
    one = npz(tmp_path / "c.npz", {"train_x": ONE[:1]})
    assert refused(capsys, "arrays", one, "-o", out, "--val-share", "0.5") == (
        "--val-share: expected items left for training, got 1 of 1 for val"
    )
    with pytest.raises(SystemExit):
        main(["arrays", str(path), "-o", str(out), "--val-share", "1"])
    assert "expected a number between 0 and 1, got '1'" in capsys.readouterr().err
    packed("arrays", path, "-o", out)
    capsys.readouterr()
    assert refused(capsys, "arrays", path, "-o", out) == (
        f"data file {out}: expected no file of this name, got one; --overwrite replaces it"
    )
    packed("arrays", path, "-o", out, "--overwrite")


def test_hdf5_files_that_cannot_be_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "a.hdf5", tmp_path / "a.h5"
    expected = f"{path}: expected an HDF5 file of arrays, got: "

    def line(change: Callable[[h5py.File], object]) -> str:
        hdf5(path, content(4, 2))
        with h5py.File(path, "r+") as file:
            change(file)
        return refused(capsys, "arrays", path, "-o", out).removeprefix(expected)

    def link(file: h5py.File) -> None:
        file["train/z"] = h5py.ExternalLink("/etc/passwd", "/x")

    assert line(lambda file: file.create_group("train/z")) == "train/z: expected an array, got a group"
    assert line(link) == "train/z: expected an array in the file itself, got a link"
    huge = line(lambda file: file.create_dataset("train/z", (10**12,), "f8", chunks=(1000,)))
    assert re.fullmatch(r"train/z: \(1000000000000,\) of float64 in a file of \d+ bytes", huge)
    assert line(lambda file: file.create_dataset("train/z", data=h5py.Empty("f4"))) == (
        "train/z: expected an array whose values lie in the file itself"
    )
    assert line(lambda file: file.pop("train")) == (
        f"{path}: expected arrays train/NAME and val/NAME, got none"
    )
    assert refused(capsys, "arrays", open_dataset("digits").path, "-o", out).endswith(
        "expected an HDF5 file of arrays, got: a data set that is packed already"
    )
    assert not out.exists()


def test_files_that_hold_no_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.h5"
    assert refused(capsys, "arrays", tmp_path / "nowhere.npz", "-o", out) == (
        f"{tmp_path}/nowhere.npz: expected a file, got: No such file or directory"
    )
    path = tmp_path / "a.npz"
    path.write_bytes(b"no")
    assert refused(capsys, "arrays", path, "-o", out) == (
        f"{path}: expected an .npz or HDF5 file of arrays, got: neither a zip archive nor HDF5"
    )
    os.mkfifo(tmp_path / "f")
    assert (
        refused(capsys, "arrays", tmp_path / "f", "-o", out) == f"{tmp_path}/f: expected a file, got a pipe"
    )


@pytest.mark.parametrize("make", [npz, hdf5])
def test_damaged_values_are_a_line_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path, Content], Path]
) -> None:
    path = make(tmp_path / "a.npz", content(500, 7))
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(30):
        damaged = bytearray(whole)
        at = draw.randrange(len(damaged))
        damaged[at : at + 8] = draw.randbytes(8)
        path.write_bytes(damaged)
        if main(["arrays", str(path), "-o", str(tmp_path / "a.h5")]):
            err = capsys.readouterr().err
            assert err.startswith(f"tmpack: {path}: ") and err.count("\n") <= 2
            assert os.listdir(tmp_path) == ["a.npz"]
        else:  # where nobody looks, or HDF5 without checksums
            (tmp_path / "a.h5").unlink()
            capsys.readouterr()


def test_a_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "Can't write data (file write failed: …)")

    path = npz(tmp_path / "a.npz", content(20, 7))
    monkeypatch.setattr(h5py.Dataset, "__setitem__", full)
    assert refused(capsys, "arrays", path, "-o", tmp_path / "a.h5") == (
        f"{tmp_path}/a.h5: No space left on device"
    )
    assert os.listdir(tmp_path) == ["a.npz"]


def test_a_file_that_hdf5_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "Unable to synchronously create file (…)")

    monkeypatch.setattr(h5py, "File", full)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="No space left on device"):
        RecordWriter(tmp_path / "a.h5")
    assert os.listdir("/proc/self/fd") == before and os.listdir(tmp_path) == []


# --- Text


LINES = "the cat sat on the mat\nthe dog\tsat,  naïve – \U0001f600 on the cat\n\n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def expected_tokens(text: str, tokens: str) -> list[str]:
    """A plain loop over characters."""
    if tokens == "characters":
        return list(text)
    found, word = [], ""
    for character in text + " ":
        if not character.isspace():
            word += character
            continue
        if word:
            found.append(word)
        word = ""
        if character == "\n":
            found.append("<eos>")
    return found


def expected_ids(
    train: str, val: str, tokens: str, size: int | None
) -> tuple[list[str], list[int], list[int]]:
    counts = Counter(expected_tokens(train, tokens))
    vocabulary = ["<unk>"]
    for token in sorted(counts, key=lambda token: (-counts[token], token)):
        if size is None or len(vocabulary) <= size:
            vocabulary.append(token)
    ids = [
        [vocabulary.index(token) if token in vocabulary else 0 for token in expected_tokens(text, tokens)]
        for text in (train, val)
    ]
    return vocabulary, ids[0], ids[1]


@pytest.mark.parametrize("block", [1, 3, 4096])
@pytest.mark.parametrize(
    "tokens, size", [("characters", None), ("words", None), ("words", 4), ("characters", 5)]
)
def test_tokens_are_those_of_a_plain_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: str, size: int | None, block: int
) -> None:
    monkeypatch.setattr(texts, "_BLOCK_BYTES", block)  # cuts words, and characters of several bytes
    one, two = write(tmp_path / "one.txt", LINES), write(tmp_path / "two.txt", "a cat\r\nthat sat")
    val = write(tmp_path / "val.txt", "the bird on the \U0001f600 mat\n")
    options = [] if size is None else ["--vocabulary-size", size]
    packed("text", one, two, "--val", val, "--tokens", tokens, *options, "-o", tmp_path / "t.h5")
    vocabulary, *ids = expected_ids(LINES + "a cat\r\nthat sat", val.read_bytes().decode(), tokens, size)
    with open_dataset(tmp_path / "t.h5") as data:
        assert (data.kind, data.tokens, data.name) == ("stream", tokens, "one")
        assert data.vocabulary == vocabulary and data.n_tokens == len(vocabulary)
        for split, expected in zip(SPLITS, ids, strict=True):
            assert data.length(split) == len(expected)
            assert data.ids(split, 0, len(expected)).tolist() == expected


@pytest.mark.parametrize("block", [1, 4096])
def test_bytes_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(texts, "_BLOCK_BYTES", block)
    one = write(tmp_path / "one.txt", LINES)
    # What tells some programs that a file is UTF-8 is no part of its text.
    two = write(tmp_path / "two.txt", b"\xef\xbb\xbfabc") if block > 3 else write(tmp_path / "two.txt", "abc")
    packed("text", one, two, "--val", one, "-o", tmp_path / "t.h5")
    with open_dataset(tmp_path / "t.h5") as data:
        assert (data.vocabulary, data.n_tokens, data.dtype) == ("bytes", 256, np.uint16)
        assert bytes(data.ids("train", 0, data.n_train).tolist()) == (LINES + "abc").encode()
        assert data.text(data.ids("val", 0, data.n_val)) == LINES


@pytest.mark.parametrize("tokens", ["bytes", "characters", "words"])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.61, 0.8])
def test_the_last_share_of_the_text_is_for_validation(tmp_path: Path, tokens: str, share: float) -> None:
    """Both parts together are the text, neither cuts a character or a word, and the cut is where it was asked for."""
    pieces = [LINES * 3, "one two three\n", "four"]
    paths = [write(tmp_path / f"{i}.txt", piece) for i, piece in enumerate(pieces)]
    packed("text", *paths, "--val-share", share, "--tokens", tokens, "-o", tmp_path / "t.h5")
    whole = "".join(pieces)
    with open_dataset(tmp_path / "t.h5") as data:
        parts = [data.ids(split, 0, data.count(split)).tolist() for split in SPLITS]
        if tokens == "bytes":
            assert bytes(parts[0] + parts[1]) == whole.encode()
            bytes(parts[1]).decode()
            assert abs(len(parts[1]) - share * len(whole.encode())) <= 4
            return
        vocabulary = data.vocabulary
        given = expected_tokens(whole, tokens)
        assert len(parts[0]) + len(parts[1]) == len(given)
        assert [vocabulary[i] for i in parts[0]] == given[: len(parts[0])]
        for i, token in zip(parts[1], given[len(parts[0]) :], strict=True):
            assert vocabulary[i] == token or (i == 0 and token not in vocabulary)
        if tokens == "words":
            assert abs(len(parts[1]) - share * len(given)) < 5


def test_a_vocabulary_beyond_16_bits(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(70_000)]
    train = write(tmp_path / "t.txt", " ".join(words))
    packed("text", train, "--val", train, "--tokens", "words", "-o", tmp_path / "t.h5")
    with open_dataset(tmp_path / "t.h5") as data:
        assert (data.n_tokens, data.dtype) == (70_001, np.int32)
        assert data.text(data.ids("train", 69_990, 69_992)) == "w69990 w69991"


def test_arrays_in_fortrans_order_are_split_too(tmp_path: Path) -> None:
    rows = np.arange(40).reshape(10, 4)
    np.savez(tmp_path / "a.npz", train_x=np.asfortranarray(rows))
    source = fields.FieldSource(tmp_path / "a.npz", val_share=0.2)
    for split, expected in (("train", rows[:8]), ("val", rows[8:])):
        assert np.array_equal(np.concatenate(list(source.blocks(split, "x"))), expected)


def test_a_byte_order_mark_within_a_text_is_a_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_BLOCK_BYTES", 4)
    train = write(tmp_path / "t.txt", "\ufeffa\ufeffb")
    packed("text", train, "--val", train, "--tokens", "characters", "-o", tmp_path / "t.h5")
    with open_dataset(tmp_path / "t.h5") as data:
        assert data.text(data.ids("train", 0, data.n_train)) == "a\ufeffb"


def test_megabytes_are_counted_over_blocks_of_any_size() -> None:
    added: list[int] = []
    megabytes = _Megabytes(SimpleNamespace(add=added.append))  # type: ignore[arg-type]
    for n_bytes in (400_000, 400_000, 400_000, 2_500_000, 299_999, 1):
        megabytes.add(n_bytes)
    assert added == [1, 2, 1]


def test_what_is_unknown_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val = write(tmp_path / "t.txt", "a a b"), write(tmp_path / "v.txt", "a c a d")
    packed("text", train, "--val", val, "--tokens", "words", "-o", tmp_path / "t.h5")
    out, err = capsys.readouterr()
    assert err == "tmpack: val: 2 of 4 tokens (50 %) are <unk>\n"
    assert out.startswith(f"{tmp_path}/t.h5: 3 training and 4 validation tokens: words, a vocabulary of 3, ")
    packed(
        "text", train, "--val", write(tmp_path / "n.txt", "c d"), "--tokens", "words", "-o", tmp_path / "n.h5"
    )
    assert capsys.readouterr().err == "tmpack: val: 2 of 2 tokens (100 %) are <unk>\n"


def test_texts_that_cannot_be_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, out = write(tmp_path / "good.txt", LINES), tmp_path / "t.h5"
    nowhere, empty = tmp_path / "nowhere.txt", write(tmp_path / "empty.txt", "")
    latin = write(tmp_path / "latin.txt", "caf\xe9 au lait".encode("latin-1"))
    half = write(tmp_path / "half.txt", "abc\u20ac".encode()[:-1])
    blank = write(tmp_path / "blank.txt", "  ")
    for words, line in (
        ([good], "text: expected --val FILE, or --val-share 0.1 to take the last tenth, got neither"),
        ([good, "--val", good, "--val-share", "0.1"], "--val-share: expected it only without --val, got 0.1"),
        ([nowhere, "--val", good], f"{nowhere}: expected a file, got: No such file or directory"),
        ([good, "--val", tmp_path], f"{tmp_path}: expected a file, got a folder"),
        ([empty, "--val", good], f"{empty}: expected text, got an empty file"),
        ([latin, "--val", good], f"{latin}: expected text in UTF-8, got byte 0xe9 at position 3"),
        ([good, "--val", half], f"{half}: expected text in UTF-8, got byte 0xe2 at position 3"),
        ([good, "--val", blank, "--tokens", "words"], f"{blank}: expected words, got none for val"),
        (
            [good, "--val", good, "--vocabulary-size", "3"],
            "--vocabulary-size: expected it with --tokens characters or words, got 3",
        ),
        (
            [good, "--val", good, "--skip-bad"],
            "--skip-bad: expected it only for a folder of texts, got files",
        ),
        (
            [write(tmp_path / "one.txt", "x"), "--val-share", "0.1"],
            "--val-share: expected text on both sides, got none for train",
        ),
        (
            [write(tmp_path / "word.txt", "x" * 70_000), "--val", good, "--tokens", "words"],
            f"{tmp_path}/word.txt: expected words of at most 65,536 characters, got one of 70,000 or more",
        ),
    ):
        assert refused(capsys, "text", *words, "-o", out) == line
        assert not any(name.startswith("t.h5") for name in os.listdir(tmp_path))


def test_a_byte_that_is_no_utf8_is_found_at_its_position(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_BLOCK_BYTES", 2)
    path = write(tmp_path / "t.txt", "a\u20ac\u20ac".encode() + b"\xe2\x28")
    assert refused(capsys, "text", path, "--val", path, "-o", tmp_path / "t.h5") == (
        f"{path}: expected text in UTF-8, got byte 0xe2 at position 7"
    )


def test_a_vocabulary_that_is_too_large(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("theanompi.data.store.record_writer.MOST_VOCABULARY", 30)
    path = write(tmp_path / "t.txt", "one two three four five six")
    words = ["text", path, "--val", path, "--tokens", "words", "-o", tmp_path / "t.h5"]
    assert refused(capsys, *words) == (
        f"data file {tmp_path}/t.h5: expected a vocabulary of at most 30 bytes, got 7 entries in 55 bytes; "
        "fewer by --vocabulary-size"
    )
    packed(*words, "--vocabulary-size", 2)


# --- Folders of texts


def reviews(root: Path, val: str | None = "test") -> dict[str, list[tuple[str, str]]]:
    """As aclImdb has them: texts without a class in train only, and files of other kinds."""
    given: dict[str, list[tuple[str, str]]] = {}
    for split in ("train", *([val] if val else [])):
        for name in ("neg", "pos"):
            for i in range(4):
                text = f"{split} {name} film {i} é\n" * (i + 1)
                write(root / split / name / f"{i}_{i + 2}.txt", text)
                given.setdefault(split, []).append((name, text))
        write(root / split / "urls_pos.txt", "http://")
        write(root / split / "labeledBow.feat", "0:1")
    write(root / "train/unsup/0_0.txt", "nobody knows")
    write(root / "README", "Large Movie Review Dataset v1.0")
    return given


@pytest.mark.parametrize("tokens", ["bytes", "characters", "words"])
def test_a_folder_of_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str], tokens: str) -> None:
    given = reviews(tmp_path / "imdb")
    packed("text", tmp_path / "imdb", "--tokens", tokens, "-o", tmp_path / "t.h5")
    out, err = capsys.readouterr()
    assert err.splitlines()[:3] == [
        "tmpack: test has no folder of these, which are no classes and are left out: unsup",
        "tmpack: ignored: 2 files not named like texts: .feat 2",
        f"tmpack: ignored: 2 texts that lie in no class folder, such as {tmp_path}/imdb/train/urls_pos.txt",
    ]
    assert out.startswith(f"{tmp_path}/t.h5: 8 training and 8 validation texts in 2 classes, ")
    with open_dataset(tmp_path / "t.h5") as data:
        assert (data.kind, data.name, data.class_names) == ("texts", "imdb", ["neg", "pos"])
        for split, folder in (("train", "train"), ("val", "test")):
            offsets = data.offsets(split)
            assert data.labels(split).tolist() == [["neg", "pos"].index(name) for name, _ in given[folder]]
            for i, (_, text) in enumerate(given[folder]):
                ids = data.ids(split, offsets[i], offsets[i + 1])
                if tokens == "bytes":
                    assert bytes(ids.tolist()) == text.encode()
                else:
                    known = data.vocabulary
                    expected = expected_tokens(text, tokens)
                    assert [known[j] for j in ids] == [t if t in known else "<unk>" for t in expected]


def test_the_last_texts_of_each_class_are_for_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reviews(tmp_path / "imdb", val=None)
    assert refused(capsys, "text", tmp_path / "imdb", "-o", tmp_path / "t.h5") == (
        f"{tmp_path}/imdb: expected a folder val or test, or --val-share 0.1 for a tenth of each class, got neither"
    )
    write(tmp_path / "imdb/train/unsup/1_0.txt", "still nobody")
    packed("text", tmp_path / "imdb", "--val-share", "0.25", "-o", tmp_path / "t.h5")
    assert "tmpack: the last 3 texts of the classes, by name, are for validation" in capsys.readouterr().err
    with open_dataset(tmp_path / "t.h5") as data:
        assert data.labels("train").tolist() == [0, 0, 0, 1, 1, 1, 2]
        assert data.labels("val").tolist() == [0, 1, 2]
        assert data.text(data.ids("val", 0, 16)) == "train neg film 3"


def test_what_is_no_text_stops_the_packing_or_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reviews(tmp_path / "imdb")
    write(tmp_path / "imdb/train/neg/2_4.txt", "")
    write(tmp_path / "imdb/test/pos/0_2.txt", b"\xff\xfe")
    words = ["text", tmp_path / "imdb", "-o", tmp_path / "t.h5"]
    assert main([str(word) for word in words]) == 1
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "train/neg/2_4.txt: expected bytes, got none",
        "test/pos/0_2.txt: expected text in UTF-8, got byte 0xff at position 0",
        f"tmpack: {tmp_path}/t.h5: expected only texts, got 2 files of 16 that are none (above); mend them, or leave "
        "them out: the same command with --skip-bad",
    ]
    assert os.listdir(tmp_path) == ["imdb"]
    packed(*words, "--skip-bad")
    assert "left out 2 files that are no text:\n  train/neg/2_4.txt: " in capsys.readouterr().out
    with open_dataset(tmp_path / "t.h5") as data:
        assert (data.n_train, data.n_val, len(data.left_out)) == (7, 7, 2)
        assert data.labels("train").tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_folders_that_cannot_be_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, root = tmp_path / "t.h5", tmp_path / "imdb"
    reviews(root)
    assert refused(capsys, "text", root, root, "-o", out) == (
        f"text: expected one folder, with train and val in it, or files, got {root} and others"
    )
    assert refused(capsys, "text", root, "--val-share", "0.1", "-o", out) == (
        "--val-share: expected it only without folders val and test, got 0.1"
    )
    write(root / "test/middling/1.txt", "so so")
    assert refused(capsys, "text", root, "-o", out) == (
        f"{root}/test: expected only classes of train, got 'middling'"
    )
    (root / "test/middling/1.txt").unlink()
    (root / "test/middling").rmdir()
    for path in (root / "train/neg").iterdir():
        path.unlink()
    assert (
        refused(capsys, "text", root, "-o", out) == f"{root}/train/neg: expected texts of its class, got none"
    )
    (tmp_path / "none").mkdir()
    assert refused(capsys, "text", tmp_path / "none", "--val-share", "0.1", "-o", out) == (
        f"{tmp_path}/none/train: expected a folder of class folders, got: No such file or directory"
    )


# --- info and verify


def test_info_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed("arrays", npz(tmp_path / "a.npz", content(20, 7)), "-o", tmp_path / "a.h5")
    text = write(tmp_path / "t.txt", LINES)
    packed("text", text, "--val", text, "--tokens", "words", "-o", tmp_path / "s.h5")
    reviews(tmp_path / "imdb")
    packed("text", tmp_path / "imdb", "-o", tmp_path / "t.h5")
    capsys.readouterr()

    def rows(name: str) -> list[str]:
        packed("info", tmp_path / name)
        lines = capsys.readouterr().out.splitlines()
        assert all(len(line) <= 80 for line in lines if not line.startswith("file"))
        return lines

    arrays = rows("a.h5")
    assert "fields        count  int16 scalar" in arrays and "              x      float32 (4,)" in arrays
    assert "training      20 items, 600 bytes" in arrays
    stream = rows("s.h5")
    assert "vocabulary    12: '<unk>', 'the', '<eos>', 'cat', 'on', 'dog', …" in stream
    assert "validation    18 tokens, 36 bytes" in stream
    assert "  as ids      1 3 8 4 1 6 2 1 5 9 7 10 11 4 1 3 2 2" in stream
    assert any(line.startswith("first tokens  'the cat sat on the mat ") for line in stream)
    folder = rows("t.h5")
    assert "classes       2: neg, pos" in folder
    assert "first text    'train neg film 0 é\\n'" in folder
    assert "  length      20 – 50 – 80 tokens (least, median, most)" in folder
    for name, line in (
        ("a.h5", "all 27 items are as they were packed"),
        ("s.h5", "all 2 blocks of 65,536 tokens are as they were packed"),
        ("t.h5", "all 16 texts are as they were packed"),
    ):
        packed("verify", tmp_path / name)
        assert capsys.readouterr().out == f"{tmp_path / name}: {line}\n"


def test_verify_names_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.h5"
    packed("arrays", npz(tmp_path / "a.npz", content(20, 7)), "-o", path)
    with h5py.File(path) as file:
        position = file["val/fields/y"].id.get_offset() + 3 * 8
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.write_bytes(damaged)
    capsys.readouterr()
    assert main(["verify", str(path)]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("val: item 3: expected CRC-32 ")
    assert last == f"tmpack: {path}: expected 27 items as they were packed, got 1 damaged ones (above)"
