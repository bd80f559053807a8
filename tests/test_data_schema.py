"""The file format: what is written comes back, and every way to be wrong has its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from theanompi.config import ConfigError
from theanompi.data import open_dataset, schema, write_dataset

RNG = np.random.default_rng(0)
TRAIN = (RNG.integers(0, 256, (20, 6, 5, 3), np.uint8), RNG.integers(0, 4, 20))
VAL = (RNG.integers(0, 256, (7, 6, 5, 3), np.uint8), RNG.integers(0, 4, 7))
TEXTS: dict[str, Any] = {
    "name": "noise",
    "class_names": ["one", "two", "three", "vier – 4"],
    "augmentation": "imagenet",
    "description": "Noise.",
    "source": "this test",
    "licence": "CC0",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "noise.h5"
    write_dataset(file, TRAIN, VAL, **TEXTS)
    return file


@pytest.mark.parametrize("limit", [schema.IN_MEMORY_BYTES, 0], ids=["memory", "file"])
@pytest.mark.parametrize("compress", [False, True])
def test_what_was_written_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, compress: bool
) -> None:
    monkeypatch.setattr(schema, "IN_MEMORY_BYTES", limit)
    file = tmp_path / "noise.h5"
    write_dataset(file, TRAIN, VAL, compress=compress, **TEXTS)
    with open_dataset(file) as data:
        assert (data.n_train, data.n_val, data.shape, data.n_classes) == (20, 7, (6, 5, 3), 4)
        for name, expected in TEXTS.items():
            assert getattr(data, name) == expected
        scaled = TRAIN[0].reshape(-1, 3) / 255
        np.testing.assert_allclose(data.mean, scaled.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(data.std, scaled.std(axis=0), rtol=1e-12)
        ids = np.array([6, 0, 3, 3, 6, 1])
        for split, (images, labels) in (("train", TRAIN), ("val", VAL)):
            got_images, got_labels = data.read(split, ids)  # type: ignore[arg-type]
            np.testing.assert_array_equal(got_images, images[ids])
            np.testing.assert_array_equal(got_labels, labels[ids])
            assert (got_images.dtype, got_labels.dtype) == (np.uint8, np.int64)
    assert [f.name for f in tmp_path.iterdir()] == ["noise.h5"]


def test_the_file_is_kept_open_only_if_it_must(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = open_dataset(path)
    # HDF5 refuses this for as long as the process has the file open for reading.
    h5py.File(path, "r+").close()
    small.close()
    small.read("val", np.array([0]))
    monkeypatch.setattr(schema, "IN_MEMORY_BYTES", TRAIN[0].nbytes + VAL[0].nbytes - 1)
    large = open_dataset(path)
    large.read("val", np.array([0]))
    large.close()
    with pytest.raises((OSError, ValueError)):
        large.read("val", np.array([0]))


def test_names_of_very_many_classes_fit(tmp_path: Path) -> None:
    names = [f"class number {i}" for i in range(21_841)]
    write_dataset(tmp_path / "many.h5", TRAIN, VAL, **{**TEXTS, "class_names": names})
    assert open_dataset(tmp_path / "many.h5").class_names == names


def test_a_name_that_is_neither_packaged_nor_a_path() -> None:
    with pytest.raises(ConfigError) as error:
        open_dataset("imagnet")
    assert str(error.value) == "data: expected digits (packaged) or the path of an HDF5 file, got 'imagnet'"


@pytest.mark.parametrize("name", ["imagenet.h5", "sub/imagenet"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_dataset(tmp_path / name)
    assert (
        str(error.value)
        == f"data file {tmp_path / name}: expected an HDF5 file, got: No such file or directory"
    )


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        open_dataset(tmp_path)
    assert str(error.value) == f"data file {tmp_path}: expected an HDF5 file, got: Is a directory"


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04 a zip file, say"])
def test_not_hdf5(tmp_path: Path, contents: bytes) -> None:
    file = tmp_path / "other.h5"
    file.write_bytes(contents)
    with pytest.raises(ValueError) as error:
        open_dataset(file)
    assert str(error.value) == f"data file {file}: expected an HDF5 file, got something else"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated(path: Path, part: float) -> None:
    contents = path.read_bytes()
    path.write_bytes(contents[: int(part * len(contents))])
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    text = str(error.value)
    assert text.startswith(f"data file {path}: expected a whole HDF5 file, got a damaged one: ")
    assert "truncated file" in text and "\n" not in text


@pytest.mark.parametrize("what", ["train/images", "train/labels", "val/images", "val/labels"])
def test_a_flipped_bit_is_found(path: Path, what: str) -> None:
    with h5py.File(path, "r+") as file:
        # A label stays in range: only the checksum can tell.
        file[what][0] = file[what][0] ^ 1
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    split = what.split("/")[0]
    assert str(error.value).startswith(f"data file {path}: {split}: expected contents with SHA-256 ")


def test_a_damaged_compressed_chunk(tmp_path: Path) -> None:
    file = tmp_path / "noise.h5"
    write_dataset(file, TRAIN, VAL, compress=True, **TEXTS)
    with h5py.File(file) as whole:
        chunk = whole["train/images"].id.get_chunk_info(0)
    contents = bytearray(file.read_bytes())
    contents[chunk.byte_offset : chunk.byte_offset + 8] = bytes(8)
    file.write_bytes(contents)
    with pytest.raises(ValueError) as error:
        open_dataset(file)
    assert str(error.value).startswith(f"data file {file}: damaged (")


def replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def without(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del (file if "/" in name or name in file else file.attrs)[name]

    return change


LABELS = TRAIN[1].copy()
LABELS[3] = 4
NEGATIVE = VAL[1].copy()
NEGATIVE[2] = -1
WRONG: list[tuple[Callable[[h5py.File], None], str]] = [
    (without("format"), "expected format 'theanompi-dataset', got None"),
    (attribute("format", "cifar"), "expected format 'theanompi-dataset', got 'cifar'"),
    (attribute("version", 2), "expected version 1, got np.int64(2)"),
    (without("train"), "expected a data set train/images, found none"),
    (without("val/labels"), "expected a data set val/labels, found none"),
    (
        replace("train/images", TRAIN[0] / 255),
        "train/images: expected uint8 (n, h, w, c), got float64 (20, 6, 5, 3)",
    ),
    (replace("val/images", VAL[0][..., 0]), "val/images: expected uint8 (n, h, w, c), got uint8 (7, 6, 5)"),
    (replace("val/images", VAL[0][:0]), "val/images: expected uint8 (n, h, w, c), got uint8 (0, 6, 5, 3)"),
    (
        replace("val/images", VAL[0][:, :5]),
        "val/images: expected images of (6, 5, 3) as in train/images, got (5, 5, 3)",
    ),
    (
        replace("train/labels", LABELS[:-1]),
        "train/labels: expected integers (20,), one for each of train/images, got int64 (19,)",
    ),
    (
        replace("train/labels", LABELS / 2),
        "train/labels: expected integers (20,), one for each of train/images, got float64 (20,)",
    ),
    (replace("train/labels", LABELS), "train/labels[3]: expected a label from 0 to 3, got 4"),
    (replace("val/labels", NEGATIVE), "val/labels[2]: expected a label from 0 to 3, got -1"),
    (attribute("val_count", 8), "attribute 'val_count': expected 7 as in val/images, got 8"),
    (
        attribute("augmentation", "flip"),
        "attribute 'augmentation': expected one of none, shift, imagenet; got 'flip'",
    ),
    (attribute("class_names", "four"), "attribute 'class_names': expected a list of texts, got 'four'"),
    (attribute("licence", 4), "attribute 'licence': expected text, got np.int64(4)"),
    (attribute("mean", [0.5]), "attribute 'mean': expected 3 numbers from 0 to 1, got array([0.5])"),
    (
        attribute("std", [0.5, 40, 0.5]),
        "attribute 'std': expected 3 numbers from 0 to 1, got array([ 0.5, 40. ,  0.5])",
    ),
    *((without(name), f"expected an attribute {name!r}, found none") for name in schema._ATTRIBUTES[2:]),
]


@pytest.mark.parametrize("change, text", WRONG, ids=[text for _, text in WRONG])
def test_what_does_not_satisfy_the_schema(path: Path, change: Callable[[h5py.File], None], text: str) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    assert str(error.value) == f"data file {path}: {text}"


def test_writing_what_is_wrong_leaves_no_file_and_spares_the_old_one(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError) as error:
        write_dataset(path, (TRAIN[0], LABELS), VAL, **TEXTS)
    assert str(error.value) == f"data file {path}: train/labels[3]: expected a label from 0 to 3, got 4"
    with pytest.raises(ValueError, match="train/images: expected uint8"):
        write_dataset(path, (TRAIN[0][:0], TRAIN[1][:0]), VAL, **TEXTS)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_writing_into_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "noise.h5"
    with pytest.raises(ConfigError) as error:
        write_dataset(file, TRAIN, VAL, **TEXTS)
    assert str(error.value) == f"data file {file}: expected an existing folder, got {file.parent}"
