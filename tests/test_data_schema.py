"""The file format: what is written comes back, and every way to be wrong has its line."""

import io
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from tests.mpi import ROOT
from tests.photographs import jpeg
from theanompi.config import ConfigError
from theanompi.data import open_dataset, write_dataset
from theanompi.data.pictures.augment import POLICIES
from theanompi.data.pictures.decode import decode_jpeg
from theanompi.data.store import hdf5, schema
from theanompi.data.store.schema import Split
from theanompi.data.store.writer import Block, Image, Writer, channel_sums, merge

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


def test_what_was_written_comes_back(path: Path, tmp_path: Path) -> None:
    with open_dataset(path) as data:
        assert (data.n_train, data.n_val, data.largest, data.n_classes) == (20, 7, (6, 5), 4)
        assert (data.store, data.channels, data.left_out) == ("raw", 3, [])
        for name, expected in TEXTS.items():
            assert getattr(data, name) == expected
        scaled = TRAIN[0].reshape(-1, 3) / 255
        np.testing.assert_allclose(data.mean, scaled.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(data.std, scaled.std(axis=0), rtol=1e-12)
        for split, (images, labels) in (("train", TRAIN), ("val", VAL)):
            assert data.count(split) == len(images)
            assert data.sizes(split).tolist() == [[6, 5]] * len(images)
            np.testing.assert_array_equal(data.labels(split), labels)
            for i, image in enumerate(images):
                np.testing.assert_array_equal(data.pixels(split, i), image)
                assert data.image_name(split, i) == str(i)
    assert [f.name for f in tmp_path.iterdir()] == ["noise.h5"]


def test_images_of_many_sizes(tmp_path: Path) -> None:
    pictures = [RNG.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((3, 9), (8, 2), (1, 1), (40, 50))]
    split_of: dict[Split, list[NDArray[np.uint8]]] = {"train": pictures[:3], "val": pictures[2:]}
    with Writer(tmp_path / "mixed.h5", {}) as writer:
        for split, images in split_of.items():
            for i, pixels in enumerate(images):
                row = Image(f"{split} ü{i}.png", i, *pixels.shape[:2], pixels.tobytes())
                writer.append(split, Block([row], [], channel_sums(pixels)))
        writer.finish(**TEXTS, store="raw", channels=3)
    with open_dataset(tmp_path / "mixed.h5") as data:
        assert data.largest == (40, 50)
        for split, images in split_of.items():
            ids = np.array([len(images) - 1, 0, 0])
            positions, lengths = data.locate(split, ids)
            for i, position, length in zip(ids, positions, lengths, strict=True):
                assert os.pread(data.fileno(), length, position) == images[i].tobytes() == data.read(split, i)
                np.testing.assert_array_equal(data.pixels(split, i), images[i])
                assert data.image_name(split, i) == f"{split} ü{i}.png"
        everything = np.concatenate([p.reshape(-1, 3) for p in split_of["train"]]) / 255
        np.testing.assert_allclose(data.mean, everything.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(data.std, everything.std(axis=0), rtol=1e-12)


def test_the_names_of_many_images_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    original = schema.open_again

    def open_again(descriptor: int) -> Any:
        opened.append(descriptor)
        return original(descriptor)

    with open_dataset("digits") as data:
        monkeypatch.setattr(schema, "open_again", open_again)
        with h5py.File(data.path) as file:
            expected = [name.decode() for name in file["val/names"][:]]
        assert [data.image_name("val", i) for i in range(data.n_val)] == expected
        assert opened == [data.fileno()]


def test_jpeg_files(tmp_path: Path) -> None:
    files = [jpeg(seed, 30 + seed, 40) for seed in range(3)]
    with Writer(tmp_path / "photographs.h5", {}) as writer:
        for split in schema.SPLITS:
            rows = [Image(f"{i}.jpg", i, 30 + i, 40, file) for i, file in enumerate(files)]
            sums = [channel_sums(decode_jpeg(file)) for file in files]
            writer.append(split, Block(rows, [], reduce(merge, sums)))
        writer.finish(**TEXTS, store="jpeg", channels=3)
    with open_dataset(tmp_path / "photographs.h5") as data:
        for i, file in enumerate(files):
            assert data.read("val", i) == file
            with PIL.Image.open(io.BytesIO(file)) as image:
                difference = data.pixels("val", i).astype(int) - np.asarray(image)
            assert np.abs(difference).max() <= 1


def test_hdf5_alone_reads_the_file(path: Path) -> None:
    with h5py.File(path) as file:
        assert file["train/data"].chunks is None and file["train/data"].dtype == np.uint8
        images = file["train/data"][: file["train/offsets"][-1]].reshape(20, 6, 5, 3)
        np.testing.assert_array_equal(images, TRAIN[0])
        assert file["val/names"][3] == b"3"


def test_names_of_very_many_classes_fit(tmp_path: Path) -> None:
    names = [f"class number {i}" for i in range(21_841)]
    write_dataset(tmp_path / "many.h5", TRAIN, VAL, **{**TEXTS, "class_names": names})
    assert open_dataset(tmp_path / "many.h5").class_names == names


def test_a_name_that_is_neither_packaged_nor_a_path() -> None:
    with pytest.raises(ConfigError) as error:
        open_dataset("imagnet")
    assert (
        str(error.value)
        == "data: expected digits, reviews, sentences (packaged) or the path of an HDF5 file, got 'imagnet'"
    )


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
    assert str(error.value) == f"data file {tmp_path}: expected an HDF5 file, got: a folder"


@pytest.mark.parametrize(
    ("name", "contents", "hint"),
    [
        ("other.h5", b"", "--help says of what it makes one"),
        ("points.npz", b"PK\x03\x04", "arrays makes one of it"),
        ("a.TXT", b"a text", "text makes one of it"),
    ],
)
def test_not_hdf5(tmp_path: Path, name: str, contents: bytes, hint: str) -> None:
    file = tmp_path / name
    file.write_bytes(contents)
    with pytest.raises(ValueError) as error:
        open_dataset(file)
    assert str(error.value) == f"data file {file}: expected an HDF5 file, got something else; tmpack {hint}"


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "f.h5")
    with pytest.raises(ValueError, match="f.h5: expected an HDF5 file, got: a pipe"):
        open_dataset(tmp_path / "f.h5")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_truncated(path: Path, part: float) -> None:
    contents = path.read_bytes()
    path.write_bytes(contents[: int(part * len(contents))])
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    text = str(error.value)
    assert text.startswith(f"data file {path}: expected a whole HDF5 file, got a damaged one: ")
    assert "truncated file" in text and "\n" not in text


def flip(path: Path, position: int) -> None:
    contents = bytearray(path.read_bytes())
    contents[position] ^= 1
    path.write_bytes(contents)


@pytest.mark.parametrize("name", ["offsets", "sizes", "labels", "names", "crc32"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_flipped_bit_in_the_index_is_found(path: Path, split: str, name: str) -> None:
    with h5py.File(path) as file:
        data = file[f"{split}/{name}"]
        position = data.id.get_offset() + data.id.get_storage_size() // 2
    flip(path, position)
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    assert str(error.value).startswith(f"data file {path}: ") and "\n" not in str(error.value)


def test_any_damage_to_the_root_of_the_file_is_one_line(path: Path) -> None:
    """Flips before the images: h5py answers with errors of many kinds."""
    contents = path.read_bytes()
    with open_dataset(path) as data:
        good = [data.pixels("train", i).tolist() for i in range(20)], data.labels("val").tolist()
    for position in range(0, 2048, 13):
        damaged = bytearray(contents)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            with open_dataset(path) as data:
                # What HDF5 does not use, or the time of a change.
                assert (
                    [data.pixels("train", i).tolist() for i in range(20)],
                    data.labels("val").tolist(),
                ) == good
        except ValueError as error:
            assert str(error).startswith(f"data file {path}: ") and len(str(error)) < 300 + len(str(path))


def test_a_flipped_bit_in_an_attribute_is_found(path: Path) -> None:
    contents = path.read_bytes()
    flip(path, contents.index(b"vier"))
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    assert str(error.value).startswith(f"data file {path}: ")


def test_a_flipped_bit_in_an_image_is_found(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(path) as file:
        flip(path, file["val/data"].id.get_offset() + 4 * 90 + 7)
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    expected, got = zlib.crc32(VAL[0][4]), zlib.crc32(flipped(VAL[0][4], 7))
    wrong = f"expected CRC-32 {expected:08x}, got {got:08x}"
    assert str(error.value) == f"data file {path}: val image 4: {wrong}"
    # A large file is checked on demand.
    monkeypatch.setattr(hdf5, "CHECKED_BYTES", TRAIN[0].nbytes + VAL[0].nbytes - 1)
    with open_dataset(path) as data:
        found = list(data.verify())
    assert [(s, i) for s, i, _ in found] == [("train", i) for i in range(20)] + [("val", i) for i in range(7)]
    assert {(s, i, w) for s, i, w in found if w} == {("val", 4, wrong)}


def flipped(image: NDArray[np.uint8], i: int) -> bytes:
    contents = bytearray(image.tobytes())
    contents[i] ^= 1
    return bytes(contents)


def test_a_file_that_is_replaced_while_it_is_opened_is_read_as_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, check = path.with_name("other.h5"), schema.check
    write_dataset(other, (255 - TRAIN[0][:9], TRAIN[1][:9]), VAL, **TEXTS)

    def replaced(file: h5py.File) -> None:
        check(file)
        other.replace(path)

    monkeypatch.setattr(schema, "check", replaced)
    with open_dataset(path) as data:
        assert np.array_equal(data.pixels("train", 19), TRAIN[0][19])
        assert data.image_name("train", 19) == "19"
        assert not any(wrong for *_, wrong in data.verify())


def test_an_open_file_is_not_locked(path: Path) -> None:
    with open_dataset(path) as data, h5py.File(path, "r+"):
        assert data.image_name("train", 3) == "3"


def test_a_file_cut_short_while_it_is_open(path: Path) -> None:
    with open_dataset(path) as data:
        os.truncate(path, 5000)
        with pytest.raises(ValueError) as error:
            data.read("val", 3)
        assert str(error.value) == f"data file {path}: val image 3: expected 90 bytes, got 0"


def replace(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = value

    return change


def chunked(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=value, chunks=(600,))

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
SIZES = np.tile(np.array([6, 5], np.int32), (20, 1))
OTHER_SIZES = SIZES.copy()
OTHER_SIZES[7] = 5, 5
OFFSETS = np.arange(21) * 90
BACKWARDS = OFFSETS.copy()
BACKWARDS[5] = 300
DATA = TRAIN[0].ravel()
WRONG: list[tuple[Callable[[h5py.File], None], str]] = [
    (
        attribute("format", [1, 2]),
        "expected format 'theanompi-dataset', got [1, 2]; tmpack arrays makes one of arrays",
    ),
    (attribute("channels", "three"), "attribute 'channels': expected a whole number, got 'three'"),
    (attribute("channels", 3.0), "attribute 'channels': expected a whole number, got 3.0"),
    (attribute("train_count", [20]), "attribute 'train_count': expected a whole number, got [20]"),
    (
        attribute("val_count", 10**12),
        "attribute 'val_count': expected at most 4096, the bytes of all, got 1000000000000",
    ),
    (
        attribute("mean", [True, False, True]),
        "attribute 'mean': expected 3 float64 numbers from 0 to 1, got [True, False, True] (bool)",
    ),
    (
        replace("train/offsets", (np.arange(21) * 90).astype(np.int16)),
        "train/offsets: expected int64 (21,) for 20 images, got int16 (21,)",
    ),
    (
        replace("val/labels", VAL[1].astype(np.int8)),
        "val/labels: expected int64 (7,) for 7 images, got int8 (7,)",
    ),
    (
        replace("train/crc32", np.zeros(20, np.uint64)),
        "train/crc32: expected uint32 (20,) for 20 images, got uint64 (20,)",
    ),
    (
        replace("train/names", np.zeros(20, "S65537")),
        "train/names: expected at most 65536 bytes each, got 65537",
    ),
    (without("format"), "expected format 'theanompi-dataset', got None; tmpack arrays makes one of arrays"),
    (
        attribute("format", "cifar"),
        "expected format 'theanompi-dataset', got 'cifar'; tmpack arrays makes one of arrays",
    ),
    (attribute("version", 1), "expected version 2, got 1"),
    (without("train"), "expected a data set train/data, found none"),
    (without("val/labels"), "expected a data set val/labels, found none"),
    (
        replace("train/data", DATA / 255),
        "train/data: expected contiguous uint8 (bytes,), got float64 (1800,)",
    ),
    (replace("val/data", VAL[0]), "val/data: expected contiguous uint8 (bytes,), got uint8 (7, 6, 5, 3)"),
    (
        chunked("train/data", DATA),
        "train/data: expected contiguous uint8 (bytes,), got uint8 (1800,) in chunks of (600,)",
    ),
    (
        replace("train/labels", LABELS[:-1]),
        "train/labels: expected int64 (20,) for 20 images, got int64 (19,)",
    ),
    (
        replace("train/labels", LABELS / 2),
        "train/labels: expected int64 (20,) for 20 images, got float64 (20,)",
    ),
    (replace("train/labels", LABELS), "train/labels[3]: expected a label from 0 to 3, got 4"),
    (replace("val/labels", NEGATIVE), "val/labels[2]: expected a label from 0 to 3, got -1"),
    (
        replace("train/sizes", OTHER_SIZES),
        "train/sizes[7]: expected the 90 bytes of its image, got 75 pixels",
    ),
    (replace("train/sizes", SIZES - 5), "train/sizes: expected sizes of at least 1 pixel, got 0"),
    (
        replace("train/offsets", OFFSETS + 5000),
        "train/offsets: expected increasing positions from 0 to at most 4096, got others",
    ),
    (
        replace("train/offsets", OFFSETS * 3),
        "train/offsets: expected increasing positions from 0 to at most 4096, got others",
    ),
    (
        replace("train/offsets", BACKWARDS),
        "train/offsets: expected increasing positions from 0 to at most 4096, got others",
    ),
    (attribute("val_count", 8), "val/offsets: expected int64 (9,) for 8 images, got int64 (8,)"),
    (attribute("val_count", 0), "attribute 'val_count': expected at least 1, got 0"),
    (
        attribute("augmentation", "flip"),
        f"attribute 'augmentation': expected one of {', '.join(POLICIES)}; got 'flip'",
    ),
    (attribute("store", "png"), "attribute 'store': expected one of jpeg, raw; got 'png'"),
    (attribute("channels", 0), "attribute 'channels': expected 3, or at least 1 for raw images, got 0"),
    (attribute("class_names", "four"), "attribute 'class_names': expected a list of texts, got 'four'"),
    (attribute("licence", 4), "attribute 'licence': expected text, got np.int64(4)"),
    (
        attribute("mean", [0.5]),
        "attribute 'mean': expected 3 float64 numbers from 0 to 1, got [0.5] (float64)",
    ),
    (
        attribute("std", [0.5, 40, 0.5]),
        "attribute 'std': expected 3 float64 numbers from 0 to 1, got [0.5, 40.0, 0.5] (float64)",
    ),
    *(
        (without(name), f"expected an attribute {name!r}, found none")
        for name in (*schema._TEXTS, *schema._LISTS, *schema._WHOLE, *schema._NUMBERS)
    ),
]


@pytest.mark.parametrize("change, text", WRONG, ids=[text for _, text in WRONG])
def test_what_does_not_satisfy_the_schema(path: Path, change: Callable[[h5py.File], None], text: str) -> None:
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    assert str(error.value) == f"data file {path}: {text}"


def test_another_but_valid_index_is_noticed(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["train/labels"][0] = (TRAIN[1][0] + 1) % 4
    with pytest.raises(ValueError) as error:
        open_dataset(path)
    assert str(error.value).startswith(f"data file {path}: index: expected contents with SHA-256 ")


def test_writing_what_is_wrong_leaves_no_file_and_spares_the_old_one(path: Path) -> None:
    before = path.read_bytes()
    for train, text in (
        ((TRAIN[0], LABELS), "train/labels[3]: expected a label from 0 to 3, got 4"),
        (
            (TRAIN[0], np.full(20, 2**64 - 1, np.uint64)),
            "train/labels[0]: expected a label from 0 to 3, got -1",
        ),
        (
            (TRAIN[0][:0], TRAIN[1][:0]),
            "train images: expected uint8 (n, h, w, c), got uint8 (0, 6, 5, 3)",
        ),
        (
            (TRAIN[0] / 255, TRAIN[1]),
            "train images: expected uint8 (n, h, w, c), got float64 (20, 6, 5, 3)",
        ),
        (
            (TRAIN[0], TRAIN[1][:-1]),
            "train labels: expected integers (20,), one for each image, got int64 (19,)",
        ),
        ((TRAIN[0][..., :1], TRAIN[1]), "val images: expected 1 channels as in train, got 3"),
    ):
        with pytest.raises(ValueError) as error:
            write_dataset(path, train, VAL, **TEXTS)
        assert str(error.value) == f"data file {path}: {text}"
        assert path.read_bytes() == before
        assert list(path.parent.iterdir()) == [path]


def test_writing_into_no_folder(tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "noise.h5"
    with pytest.raises(ConfigError) as error:
        write_dataset(file, TRAIN, VAL, **TEXTS)
    assert str(error.value) == (
        f"data file {file}: expected a folder to write in, got '{file.parent}' (No such file or directory)"
    )


def test_a_file_is_searched_for_damaged_heaps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, content = tmp_path / "digits.h5", open_dataset("digits").path.read_bytes()
    seen, whole = [], hdf5._heap_is_whole
    monkeypatch.setattr(hdf5, "_heap_is_whole", lambda file, start: seen.append(start) or whole(file, start))
    path.write_bytes(content)
    open_dataset(path)
    heaps = len(seen)
    open_dataset(path)
    assert heaps == len(seen) == content.count(b"GCOL")
    path.write_bytes(content)  # another file of the same name
    os.utime(path, ns=(0, 0))
    open_dataset(path)
    assert len(seen) == 2 * heaps


def test_a_heap_that_hdf5_would_walk_through_for_ever_is_refused(tmp_path: Path) -> None:
    """HDF5 follows the size of a text into zeros, which say that the next one is nowhere but there.

    In another process: nothing but its end would interrupt it.
    """
    content = bytearray(open_dataset("digits").path.read_bytes())
    heap = content.find(b"GCOL")
    index, size = int.from_bytes(content[heap + 16 : heap + 18], "little"), content[heap + 24 : heap + 32]
    assert index == 1 and 0 < int.from_bytes(size, "little") < 256
    content[heap + 25] = 8  # 2,048 bytes more
    path = tmp_path / "damaged.h5"
    path.write_bytes(content)
    program = (
        "import sys; from theanompi.data import open_dataset\n"
        "try:\n    open_dataset(sys.argv[1])\nexcept ValueError as error:\n    print(error)"
    )
    words = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", cwd=ROOT, timeout=60, check=False)
    assert done.stdout == (
        f"data file {path}: expected a whole HDF5 file, got one with a damaged global heap\n"
    ), done.stderr
