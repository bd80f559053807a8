"""The file format of arrays and of tokens: what is written comes back, and every way to be wrong has its line."""

import fcntl
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from theanompi.config import ConfigError
from theanompi.data import (
    open_dataset,
    open_pictures,
    write_arrays,
    write_stream,
    write_texts,
)
from theanompi.data.modality import Field
from theanompi.data.store import hdf5, records
from theanompi.data.store.record_writer import RecordWriter
from theanompi.data.store.records import index_sha256

DRAW = np.random.default_rng(0)


def fields(n: int) -> dict[str, Any]:
    return {
        "x": DRAW.normal(size=(n, 3, 2)).astype(np.float32),
        "half": DRAW.normal(size=n).astype(np.float16),
        "double": DRAW.normal(size=(n, 1)),
        "seen": DRAW.random((n, 5)) < 0.5,
        "byte": DRAW.integers(0, 256, (n, 2), np.uint8),
        "big": DRAW.integers(-(10**12), 10**12, n).astype(">i8"),
        "labels": np.arange(n) % 3,
    }


ARRAYS = {"train": fields(20), "val": fields(7)}
STREAM = {"train": DRAW.integers(0, 256, 150_000), "val": DRAW.integers(0, 256, 70)}
TEXTS = {
    split: ([DRAW.integers(0, 70_000, DRAW.integers(1, 9)) for _ in range(n)], np.arange(n) % 2)
    for split, n in (("train", 9), ("val", 5))
}
WORDS = [f"w{i}" for i in range(70_000)]


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    write_arrays(tmp_path / "a.h5", ARRAYS["train"], ARRAYS["val"], name="a", class_names=["x", "y", "z"])
    return tmp_path / "a.h5"


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    write_stream(tmp_path / "s.h5", STREAM["train"], STREAM["val"], name="s")
    return tmp_path / "s.h5"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    write_texts(
        tmp_path / "t.h5",
        TEXTS["train"],
        TEXTS["val"],
        name="t",
        class_names=["bad", "good"],
        tokens="words",
        vocabulary=WORDS,
    )
    return tmp_path / "t.h5"


def test_arrays_come_back(arrays: Path, tmp_path: Path) -> None:
    with open_dataset(arrays) as data:
        assert (data.modality, data.name, data.n_train, data.n_val, data.noun) == (
            "arrays",
            "a",
            20,
            7,
            "items",
        )
        assert (data.n_classes, data.class_names, data.left_out) == (3, ["x", "y", "z"], [])
        assert list(data.fields) == sorted(ARRAYS["train"])
        for split, expected in ARRAYS.items():
            for name, values in expected.items():
                assert data.fields[name] == Field(values.dtype.name, values.shape[1:])
                np.testing.assert_array_equal(data.column(split, name), values)
                np.testing.assert_array_equal(data.item(split, 4)[name], values[4])
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_an_item_lies_where_the_file_says_with_its_checksum(arrays: Path) -> None:
    with open_dataset(arrays) as data:
        ids = np.array([6, 0, 6])
        for name, values in ARRAYS["val"].items():
            little = values.astype(values.dtype.newbyteorder("<"))
            positions, lengths = data.locate("val", name, ids)
            for i, position, length in zip(ids, positions, lengths, strict=True):
                assert os.pread(data.fileno(), length, position) == little[i].tobytes()
        for i in range(7):
            item = data.item("val", i)
            assert data.checksums("val")[i] == zlib.crc32(b"".join(item[n].tobytes() for n in data.fields))
        with pytest.raises(IndexError):
            data.locate("val", "x", np.array([7]))


def test_what_the_system_gives_in_pieces_is_read_whole(monkeypatch: pytest.MonkeyPatch, arrays: Path) -> None:
    """As it does with more than 2 GiB."""
    with (
        open_dataset("digits") as pictures,
        open_dataset("sentences") as tokens,
        open_dataset(arrays) as data,
    ):
        expected = pictures.read("val", 3), tokens.ids("val", 0, 900)
        pread, preadv = os.pread, os.preadv
        monkeypatch.setattr(os, "pread", lambda file, n, at: pread(file, min(n, 300), at))
        monkeypatch.setattr(os, "preadv", lambda file, into, at: preadv(file, [into[0][:300]], at))
        assert pictures.read("val", 3) == expected[0]
        np.testing.assert_array_equal(tokens.ids("val", 0, 900), expected[1])
        assert [wrong for _, _, wrong in pictures.verify() if wrong] == []
        for name, values in ARRAYS["train"].items():
            np.testing.assert_array_equal(data.column("train", name), values)


def test_hdf5_alone_reads_the_arrays(arrays: Path) -> None:
    with h5py.File(arrays) as file:
        for name, values in ARRAYS["train"].items():
            assert file[f"train/fields/{name}"].chunks is None
            np.testing.assert_array_equal(file[f"train/fields/{name}"][:], values)


def test_a_stream_comes_back(stream: Path) -> None:
    with open_dataset(stream) as data:
        assert (data.modality, data.kind, data.tokens, data.n_tokens) == ("tokens", "stream", "bytes", 256)
        assert (data.dtype, data.n_train, data.length("val"), data.n_classes) == (np.uint16, 150_000, 70, 0)
        for split, ids in STREAM.items():
            np.testing.assert_array_equal(data.ids(split, 0, len(ids)), ids)
            assert os.pread(data.fileno(), 2, data.start(split)) == int(ids[0]).to_bytes(2, "little")
            little = ids.astype("<u2")
            expected = [zlib.crc32(little[i : i + 65536].tobytes()) for i in range(0, len(ids), 65536)]
            assert data.checksums(split).tolist() == expected
        assert data.offsets("val").tolist() == [0, 70]
        with pytest.raises(ValueError, match="expected texts with labels, got a stream of tokens"):
            data.labels("train")


def test_a_stream_has_the_same_checksums_in_any_blocks(stream: Path, tmp_path: Path) -> None:
    path, cuts = tmp_path / "b.h5", [1, 70_000, 131_072, 140_000]
    with RecordWriter(path) as writer:
        for split, cut in (("train", cuts), ("val", [0, 33])):
            writer.stream(split, len(STREAM[split]), "uint16", np.split(STREAM[split], cut))
        writer.finish(name="s", description="s", source="s", licence="s", tokens="bytes")
    with open_dataset(stream) as one, open_dataset(path) as other:
        for split in ("train", "val"):
            assert np.array_equal(one.checksums(split), other.checksums(split))
    write_stream(tmp_path / "e.h5", np.zeros(2 * 65_536, int), [1], name="e")
    with open_dataset(tmp_path / "e.h5") as even:
        assert len(even.checksums("train")) == 2


def test_a_file_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, seen = os.fsync, []

    def noted(file: int) -> None:
        seen.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    write_stream(tmp_path / "s.h5", [1, 2], [3], name="s")
    assert seen == ["s.h5.writing", tmp_path.name]


@pytest.mark.parametrize(
    ("blocks", "got"),
    [
        ([2, 3], "expected (4,) in all, got a block (3,) after 2"),
        ([3], "expected 4 in all, got 3"),
    ],
)
def test_more_or_fewer_tokens_than_were_announced(tmp_path: Path, blocks: list[int], got: str) -> None:
    with pytest.raises(ValueError) as error, RecordWriter(tmp_path / "a.h5") as writer:
        writer.stream("train", 4, "uint16", [np.ones(n, np.uint16) for n in blocks])
    assert str(error.value) == f"data file {tmp_path}/a.h5: train/tokens: {got}"
    assert os.listdir(tmp_path) == []


def test_texts_come_back(texts: Path) -> None:
    with open_dataset(texts) as data:
        assert (data.kind, data.tokens, data.n_tokens, data.dtype) == ("texts", "words", 70_000, np.int32)
        assert (data.n_train, data.n_val, data.class_names) == (9, 5, ["bad", "good"])
        for split, (ids, labels) in TEXTS.items():
            offsets = data.offsets(split)
            assert data.labels(split).tolist() == labels.tolist()
            for i, text in enumerate(ids):
                np.testing.assert_array_equal(data.ids(split, offsets[i], offsets[i + 1]), text)
                assert data.checksums(split)[i] == zlib.crc32(text.astype("<i4").tobytes())
        first = TEXTS["val"][0][0]
        assert data.text(first) == " ".join(f"w{i}" for i in first)


def test_the_same_contents_make_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_arrays(tmp_path / name / "a.h5", ARRAYS["train"], ARRAYS["val"], name="a")
    assert (tmp_path / "one/a.h5").read_bytes() == (tmp_path / "two/a.h5").read_bytes()


def test_a_vocabulary_with_any_character_comes_back(tmp_path: Path) -> None:
    vocabulary = ["<unk>", "\0", "é", "\n", '"', "\U0001f600"]
    write_stream(tmp_path / "s.h5", [1, 2, 5], [3], name="s", tokens="characters", vocabulary=vocabulary)
    with open_dataset(tmp_path / "s.h5") as data:
        assert data.vocabulary == vocabulary
        assert data.text(data.ids("train", 0, 3)) == "\0é\U0001f600"


def test_pictures_stay_what_they_were() -> None:
    assert open_dataset("digits").modality == "pictures"
    assert open_pictures("digits").n_train == 1437


def test_where_pictures_are_needed_nothing_else_will_do(stream: Path) -> None:
    with pytest.raises(ConfigError) as error:
        open_pictures(stream)
    assert str(error.value) == f"data file {stream}: expected pictures, got tokens"


# --- Damage


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", sorted(ARRAYS["train"]))
def test_a_flipped_bit_in_any_field_is_found(arrays: Path, split: str, name: str) -> None:
    with h5py.File(arrays) as file:
        array = file[f"{split}/fields/{name}"]
        flip(arrays, array.id.get_offset() + 5 * (array.id.get_storage_size() // len(array)))
    if name == "labels":  # of a class that is not, or of another, which only the checksum tells
        with pytest.raises(ValueError):
            open_dataset(arrays)
        return
    with pytest.raises(ValueError) as error:
        open_dataset(arrays)
    assert str(error.value).startswith(f"data file {arrays}: {split} item 5: expected CRC-32 ")
    with open_dataset(arrays, check_images=False) as data:
        assert [(s, i) for s, i, wrong in data.verify() if wrong] == [(split, 5)]
        assert len(list(data.verify())) == 27


def test_a_flipped_bit_in_a_stream_is_found(stream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(stream) as file:
        flip(stream, file["train/tokens"].id.get_offset() + 2 * 65536)
    with pytest.raises(ValueError) as error:
        open_dataset(stream)
    assert str(error.value).startswith(
        f"data file {stream}: train tokens 65,536 to 131,071: expected CRC-32 "
    )
    # A large file is checked on demand.
    monkeypatch.setattr(hdf5, "CHECKED_BYTES", 2 * 150_070 - 1)
    with open_dataset(stream) as data:
        found = list(data.verify())
    assert [(split, i) for split, i, _ in found] == [("train", 0), ("train", 1), ("train", 2), ("val", 0)]
    assert [(split, i) for split, i, wrong in found if wrong] == [("train", 1)]


def test_a_damaged_heap_behind_the_items_is_found(tmp_path: Path) -> None:
    """HDF5 would walk through it for ever; it is where the attributes are, which come last."""
    path = tmp_path / "long.h5"
    write_stream(path, np.zeros(3 * 2**20, np.uint8), [1], name="long")
    content = bytearray(path.read_bytes())
    heap = content.rfind(b"GCOL")
    assert heap > hdf5._HEAPS_WITHIN and hdf5._heaps_are_whole(path, (0,))
    content[heap + 25] = 8
    path.write_bytes(content)
    assert not hdf5._heaps_are_whole(path, (1,))


def test_a_flipped_bit_in_a_text_is_found(texts: Path) -> None:
    with h5py.File(texts) as file:
        flip(texts, file["val/tokens"].id.get_offset() + 4 * int(file["val/offsets"][3]))
    with open_dataset(texts, check_images=False) as data:
        assert [(s, i) for s, i, wrong in data.verify() if wrong] == [("val", 3)]


@pytest.mark.parametrize("name", ["train/offsets", "train/labels", "train/crc32", "val/crc32"])
def test_a_flipped_bit_in_the_index_is_found(texts: Path, name: str) -> None:
    with h5py.File(texts) as file:
        flip(texts, file[name].id.get_offset() + file[name].id.get_storage_size() - 4)
    with pytest.raises(ValueError) as error:
        open_dataset(texts, check_images=False)
    assert str(error.value).startswith(f"data file {texts}: ") and "\n" not in str(error.value)


def test_a_token_outside_the_vocabulary_is_found_whatever_its_checksum_says(stream: Path) -> None:
    with h5py.File(stream, "r+") as file:
        file["val/tokens"][3] = 256
        file["val/crc32"][0] = zlib.crc32(file["val/tokens"][:].tobytes())
        file.attrs["sha256"] = index_sha256(file)
    with pytest.raises(ValueError) as error:
        open_dataset(stream)
    assert str(error.value) == (
        f"data file {stream}: val tokens 0 to 69: expected tokens from 0 to 255, got 256"
    )


@pytest.mark.parametrize("part", [0.1, 0.6, 0.99])
def test_truncated(arrays: Path, part: float) -> None:
    content = arrays.read_bytes()
    arrays.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError) as error:
        open_dataset(arrays)
    assert str(error.value).startswith(f"data file {arrays}: expected a whole HDF5 file, got ")


def test_a_file_that_is_replaced_while_it_is_opened_is_read_as_one(
    stream: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, check = stream.with_name("other.h5"), records.check
    write_stream(other, STREAM["val"], STREAM["val"], name="other")

    def replaced(file: h5py.File) -> None:
        check(file)
        other.replace(stream)

    monkeypatch.setattr(records, "check", replaced)
    with open_dataset(stream) as data:
        assert np.array_equal(data.ids("train", 0, 150_000), STREAM["train"])


def test_a_file_cut_short_while_it_is_open(arrays: Path) -> None:
    with open_dataset(arrays) as data:
        position = data.locate("val", "x", np.array([3]))[0][0]
        os.truncate(arrays, position + 5)
        with pytest.raises(ValueError) as error:
            data.item("val", 3)
        assert str(error.value) == f"data file {arrays}: val field x: expected 24 bytes, got 5"
        assert ("val", 3, "x: expected 24 bytes, got 5") in list(data.verify())


def test_any_damage_to_the_root_of_the_file_is_one_line(arrays: Path) -> None:
    content = arrays.read_bytes()
    for position in range(0, 3000, 37):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        arrays.write_bytes(damaged)
        try:
            with open_dataset(arrays) as data:  # what HDF5 does not use
                for name, values in ARRAYS["val"].items():
                    np.testing.assert_array_equal(data.column("val", name), values)
        except ValueError as error:
            assert str(error).startswith(f"data file {arrays}: ") and len(str(error)) < 300 + len(str(arrays))


# --- What does not satisfy the schema


def replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def without(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del (file if "/" in name else file.attrs)[name]

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def chunked(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        values = file[name][:]
        del file[name]
        file.create_dataset(name, data=values, chunks=values.shape)

    return change


def changed_fields(**changes: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        content = json.loads(file.attrs["fields"])
        file.attrs["fields"] = json.dumps({**content, **changes})

    return change


DTYPES = ", ".join(records.DTYPES)
WRONG_ARRAYS: list[tuple[Callable[[h5py.File], None], str]] = [
    (without("name"), "expected an attribute 'name', found none"),
    (without("fields"), "expected an attribute 'fields', found none"),
    (
        attribute("format", "cifar"),
        "expected format 'theanompi-dataset', got 'cifar'; tmpack arrays makes one of arrays",
    ),
    (attribute("version", 4), "expected version 2, got 4"),
    (attribute("modality", "sounds"), "attribute 'modality': expected one of arrays, tokens; got 'sounds'"),
    (attribute("train_count", 2.0), "attribute 'train_count': expected a whole number, got 2.0"),
    (attribute("val_count", 0), "attribute 'val_count': expected at least 1, got 0"),
    (attribute("val_count", 8), "val/fields/big: expected int64 (8,), got int64 (7,)"),
    (attribute("val_count", 10**15), "val/fields/big: expected int64 (1000000000000000,), got int64 (7,)"),
    (attribute("licence", 3), "attribute 'licence': expected text, got np.int64(3)"),
    (attribute("left_out", "none"), "attribute 'left_out': expected a list of texts, got 'none'"),
    (attribute("fields", "{"), "attribute 'fields': expected JSON text, got '{'"),
    (attribute("fields", "[" * 100_000), "attribute 'fields': expected JSON text, got "),
    (attribute("fields", "[]"), "attribute 'fields': expected 1 to 64 fields by name, got []"),
    (attribute("fields", "{}"), "attribute 'fields': expected 1 to 64 fields by name, got {}"),
    (changed_fields(x=3), "attribute 'fields': x: expected a dtype and a shape, got 3"),
    (
        changed_fields(x={"dtype": "float32", "shape": [3, 2.5]}),
        "attribute 'fields': x: expected a dtype and a shape, got {'dtype': 'float32', 'shape': [3, 2.5]}",
    ),
    (
        changed_fields(x={"dtype": "complex64", "shape": []}),
        f"attribute 'fields': x: expected {DTYPES}, got complex64",
    ),
    (
        changed_fields(x={"dtype": "float32", "shape": [10**9, 10**9]}),
        "attribute 'fields': x: expected items of at most 16 dimensions and 1 to 1,073,741,824 bytes, got float32 "
        "(1000000000, 1000000000)",
    ),
    (
        changed_fields(**{"../x": {"dtype": "float32", "shape": []}}),
        "attribute 'fields': ../x: expected a name of letters, digits and _, at most 64, got '../x'",
    ),
    (
        changed_fields(weights={"dtype": "float32", "shape": []}),
        "attribute 'fields': weights: expected a name other than keys and weights, which every batch has, got weights",
    ),
    (
        changed_fields(y={"dtype": "float32", "shape": []}),
        "expected a data set train/fields/y, found none",
    ),
    (without("val/fields/x"), "expected a data set val/fields/x, found none"),
    (without("train/crc32"), "expected a data set train/crc32, found none"),
    (
        replace("train/fields/x", np.zeros((20, 3, 2))),
        "train/fields/x: expected float32 (20, 3, 2), got float64 (20, 3, 2)",
    ),
    (
        replace("train/fields/x", np.zeros((20, 3, 2), ">f4")),
        "train/fields/x: expected float32 (20, 3, 2), got >f4 (20, 3, 2)",
    ),
    (
        replace("train/fields/x", np.zeros((20, 6), np.float32)),
        "train/fields/x: expected float32 (20, 3, 2), got float32 (20, 6)",
    ),
    (chunked("val/fields/x"), "val/fields/x: expected a contiguous array, got one in pieces or nowhere"),
    (
        replace("val/crc32", np.zeros(7, np.int32)),
        "val/crc32: expected uint32 (7,), got int32 (7,)",
    ),
    (
        replace("train/fields/labels", np.arange(20)),
        "train/fields/labels[3]: expected a label from 0 to 2, got 3",
    ),
    (
        replace("val/fields/labels", np.array([0, 1, -1, 0, 1, 0, 1])),
        "val/fields/labels[2]: expected a label from 0 to 2, got -1",
    ),
    (attribute("class_names", "x"), "attribute 'class_names': expected a list of texts, got 'x'"),
    (
        changed_fields(labels={"dtype": "int32", "shape": []}),
        "attribute 'class_names': expected a field labels, int64 (), got none",
    ),
    (attribute("description", "Other."), "index: expected contents with SHA-256 "),
]
WRONG_TEXTS: list[tuple[Callable[[h5py.File], None], str]] = [
    (attribute("kind", "verse"), "attribute 'kind': expected one of stream, texts; got 'verse'"),
    (
        attribute("tokens", "runes"),
        "attribute 'tokens': expected one of bytes, characters, words; got 'runes'",
    ),
    (attribute("vocabulary", "["), "attribute 'vocabulary': expected JSON text, got '['"),
    (
        attribute("vocabulary", "[1]"),
        "attribute 'vocabulary': expected \"bytes\" or a list of texts, got [1]",
    ),
    (attribute("vocabulary", '"bytes"'), "attribute 'vocabulary': expected one of words, got 'bytes'"),
    (attribute("n_tokens", 7), "attribute 'n_tokens': expected 70000, the size of the vocabulary, got 7"),
    (attribute("n_tokens", "7"), "attribute 'n_tokens': expected a whole number, got '7'"),
    (
        changed_fields(tokens={"dtype": "uint16", "shape": []}),
        "attribute 'fields': expected {'tokens': 'int32 ()', 'labels': 'int64 ()'}, got ",
    ),
    (without("class_names"), "attribute 'class_names': expected it for texts, and only for them"),
    (without("val/offsets"), "expected a data set val/offsets, found none"),
    (
        replace("val/offsets", np.array([1, 2, 3, 4, 5, 6])),
        "val/offsets: expected increasing positions from 0 on, got others",
    ),
    (
        replace("val/offsets", np.array([0, 2, 2, 4, 5, 6])),
        "val/offsets: expected increasing positions from 0 on, got others",
    ),
    (
        replace("val/offsets", np.array([0, 2**62, -(2**63) + 5, -3, 5, 6])),
        "val/offsets: expected increasing positions from 0 on, got others",
    ),
    (
        replace("val/offsets", np.array([0, 1, 2, 3, 4, 10**15])),
        "val/tokens: expected int32 (1000000000000000,), got int32 (",
    ),
    (replace("val/labels", np.array([0, 1, 2, 0, 1])), "val/labels[2]: expected a label from 0 to 1, got 2"),
    (replace("val/labels", np.array([0, 1])), "val/labels: expected int64 (5,), got int64 (2,)"),
    (
        replace("val/tokens", np.zeros(3, np.int64)),
        f"val/tokens: expected int32 ({sum(map(len, TEXTS['val'][0]))},), got int64 (3,)",
    ),
]


@pytest.mark.parametrize("change, text", WRONG_ARRAYS, ids=[text for _, text in WRONG_ARRAYS])
def test_arrays_that_do_not_satisfy_the_schema(
    arrays: Path, change: Callable[[h5py.File], None], text: str
) -> None:
    refused(arrays, change, text)


@pytest.mark.parametrize("change, text", WRONG_TEXTS, ids=[text for _, text in WRONG_TEXTS])
def test_texts_that_do_not_satisfy_the_schema(
    texts: Path, change: Callable[[h5py.File], None], text: str
) -> None:
    refused(texts, change, text)


def test_a_stream_of_another_length_than_it_says(stream: Path) -> None:
    refused(stream, attribute("val_count", 71), "val/tokens: expected uint16 (71,), got uint16 (70,)")


def refused(path: Path, change: Callable[[h5py.File], None], text: str) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    line = str(error.value).removeprefix(f"data file {path}: ")
    assert line.startswith(text) if text[-1] == " " or text[-1] == "(" else line == text, line
    assert "\n" not in line and len(line) < 300


def test_an_array_that_ends_behind_the_file_is_refused(arrays: Path) -> None:
    """HDF5 itself opens such a file when the end that it notes is beyond the array's."""
    with h5py.File(arrays, "r+") as file:
        del file["train/fields/x"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.CONTIGUOUS)
        space = h5py.h5s.create_simple((20, 3, 2))
        h5py.h5d.create(file.id, b"train/fields/x", h5py.h5t.IEEE_F32LE, space, made)  # no room until written
    refused(
        arrays, lambda file: None, "train/fields/x: expected a contiguous array, got one in pieces or nowhere"
    )


# --- Writing


def test_what_cannot_be_stored_leaves_no_file_and_spares_the_old_one(arrays: Path) -> None:
    before = arrays.read_bytes()
    one = np.zeros(3, np.float32)
    for train, val, text in (
        ({}, {}, "expected at least one field, got none"),
        (
            {"x": one},
            {"y": one},
            "val: expected the fields of train, got {'y': Field(dtype='float32', shape=())}",
        ),
        ({"x": np.float32(3)}, {"x": one}, "x: expected an array (n, …), got ()"),
        ({"x": one.astype("c8")}, {"x": one.astype("c8")}, f"x: expected {DTYPES}, got complex64"),
        ({"x": one.astype("u8")}, {"x": one.astype("u8")}, f"x: expected {DTYPES}, got uint64"),
        (
            {"x": one[:, None][:, :0]},
            {"x": one[:, None][:, :0]},
            "x: expected items of at most 16 dimensions and 1 to 1,073,741,824 bytes, got float32 (0,)",
        ),
        ({"x": one, "y": one[:2]}, {"x": one, "y": one}, "train/fields/y: expected 3 in all, got 2"),
    ):
        with pytest.raises(ValueError) as error:
            write_arrays(arrays, train, val, name="a")
        line = str(error.value).removeprefix(f"data file {arrays}: ")
        assert line == text
        assert arrays.read_bytes() == before and os.listdir(arrays.parent) == ["a.h5"]


def test_tokens_that_cannot_be_stored(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    for ids, text in (
        ([1, 256], "val: expected tokens from 0 to 255, got 1 to 256"),
        ([1, -1], "val: expected tokens from 0 to 255, got -1 to 1"),
        ([], "val: expected whole numbers (m,), at least one, got float64 (0,)"),
        ([[1]], "val: expected whole numbers (m,), at least one, got int64 (1, 1)"),
    ):
        with pytest.raises(ValueError) as error:
            write_stream(path, [1], ids, name="s")
        assert str(error.value) == f"data file {path}: {text}"
        assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="train/labels"):
        write_texts(path, ([[1]], [1]), ([[1]], [0]), name="t", class_names=["a"])


def test_labels_are_not_rounded(tmp_path: Path) -> None:
    path, half = tmp_path / "a.h5", {"x": np.zeros(2), "labels": np.array([0.0, 0.5])}
    for write in (
        lambda: write_arrays(path, half, half, name="a", class_names=["a", "b"]),
        lambda: write_texts(path, ([[1], [2]], [0, 0.5]), ([[1]], [0]), name="a", class_names=["a", "b"]),
    ):
        with pytest.raises(ValueError) as error:
            write()
        assert (
            str(error.value)
            == f"data file {path}: train labels: expected whole numbers (n,), got float64 (2,)"
        )
        assert os.listdir(tmp_path) == []


def test_who_comes_while_another_one_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flock = tmp_path / "a.h5", fcntl.flock
    first = RecordWriter(path)

    def late(*given: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        for split in ("train", "val"):
            first.stream(split, 2, "uint16", [np.zeros(2)])
        first.finish(name="a", description="a", source="a", licence="a", tokens="bytes")
        flock(*given)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(ConfigError, match="expected no other process writing it, got one"):
        RecordWriter(path)
    assert os.listdir(tmp_path) == ["a.h5"] and open_dataset(path).n_train == 2


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "a.h5"):
        with pytest.raises(ConfigError) as error:
            RecordWriter(tmp_path / "a.h5")
        assert str(error.value) == f"data file {tmp_path}/a.h5: expected no other process writing it, got one"
    assert os.listdir(tmp_path) == []


def test_what_a_kill_left_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "s.h5.writing").write_bytes(b"half a file")
    write_stream(tmp_path / "s.h5", [1, 2], [3], name="s")
    assert os.listdir(tmp_path) == ["s.h5"]
    assert open_dataset(tmp_path / "s.h5").n_train == 2


def test_a_file_that_is_there_is_not_replaced_unasked(stream: Path) -> None:
    with pytest.raises(ConfigError) as error:
        RecordWriter(stream)
    assert (
        str(error.value)
        == f"data file {stream}: expected no file of this name, got one; --overwrite replaces it"
    )
