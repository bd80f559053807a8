"""What a loader process does with one image, and what it needs to be started: compared with Pillow and plain loops."""

import io
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.mpi import ROOT
from tests.photographs import jpeg, photograph
from theanompi.data.modality import Field, ReaderClass
from theanompi.data.pictures.decode import BadImage
from theanompi.data.pictures.reader import PictureReader, Row, shrunk
from theanompi.data.reading.process import Layout, Work, read_batch
from theanompi.data.reading.reader import BadItem, BytesReader

pytestmark = pytest.mark.timeout(60)

HEAVY = {"mpi4py", "torch", "h5py", "pytensor", "scipy", "matplotlib"}


def averaged(pixels: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Averages of k × k pixels, one by one, rounded half up."""
    height, width, channels = pixels.shape
    out = np.empty((math.ceil(height / k), math.ceil(width / k), channels), np.uint8)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for c in range(channels):
                square = pixels[y * k : y * k + k, x * k : x * k + k, c]
                out[y, x, c] = math.floor(square.astype(float).mean() + 0.5)
    return out


def pillow(data: bytes, reduction: int) -> NDArray[np.uint8]:
    """What Pillow's own libjpeg decodes at 1/reduction of the size."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (image.width // reduction, image.height // reduction))
    return np.asarray(image.convert("RGB"))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[io.BufferedRandom]:
    with open(tmp_path / "bytes", "w+b") as file:
        yield file


def put(file: io.BufferedRandom, data: bytes) -> tuple[int, int]:
    """Position and length of the data, behind something else."""
    file.write(b"before")
    position = file.tell()
    file.write(data + b"behind")
    file.flush()
    return position, len(data)


def piece(store: str, file: io.BufferedRandom, row: Row, canvas: tuple[int, int, int]) -> NDArray[np.uint8]:
    """What is filled of a canvas; nothing else may be."""
    out = np.full(canvas, 77, np.uint8)
    again = np.full(canvas, 78, np.uint8)
    for target in (out, again):
        PictureReader(file.fileno(), store).read(row, {"images": target[None]}, 0)
    height, width = math.ceil(row.cut_height / row.shrink), math.ceil(row.cut_width / row.shrink)
    written = out == again
    assert written[:height, :width].all()
    written[:height, :width] = False
    assert not written.any()
    return out[:height, :width]


def read_alone(file: io.BufferedRandom, store: str, row: Row, canvas: tuple[int, int]) -> None:
    PictureReader(file.fileno(), store).read(row, {"images": np.zeros((1, *canvas, 3), np.uint8)}, 0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("cut", "shrink", "canvas"),
    [
        ((0, 0, 11, 17), 1, (11, 17)),  # all of it, into the slot itself
        ((0, 0, 11, 17), 1, (13, 17)),
        ((2, 0, 5, 17), 1, (11, 17)),
        ((0, 0, 11, 17), 1, (11, 19)),  # narrower than the canvas
        ((3, 4, 6, 9), 1, (11, 17)),
        ((3, 8, 6, 9), 1, (6, 9)),
        ((10, 16, 1, 1), 1, (5, 5)),
        ((0, 0, 11, 17), 2, (11, 17)),
        ((1, 2, 10, 14), 3, (4, 5)),
    ],
)
def test_a_piece_of_raw_pixels(
    file: io.BufferedRandom,
    channels: int,
    cut: tuple[int, int, int, int],
    shrink: int,
    canvas: tuple[int, int],
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (11, 17, channels), np.uint8)
    row = Row(*put(file, pixels.tobytes()), 11, 17, 1, *cut, shrink)
    top, left, height, width = cut
    expected = averaged(pixels[top : top + height, left : left + width], shrink)
    np.testing.assert_array_equal(piece("raw", file, row, (*canvas, channels)), expected)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_piece_of_a_jpeg_file(file: io.BufferedRandom, reduction: int, shrink: int) -> None:
    data = jpeg(3, 101, 135)
    scaled = pillow(data, reduction)
    height, width = math.ceil(101 / reduction), math.ceil(135 / reduction)
    assert scaled.shape == (height, width, 3)
    cut = (1, 2, height - 3, width - 2)
    row = Row(*put(file, data), 101, 135, reduction, *cut, shrink)
    expected = averaged(scaled[1 : height - 2, 2:], shrink)
    np.testing.assert_array_equal(piece("jpeg", file, row, (101, 135, 3)), expected)


def test_a_grey_jpeg_file_has_three_equal_channels(file: io.BufferedRandom) -> None:
    encoded = io.BytesIO()
    Image.fromarray(photograph(1, 30, 40)).convert("L").save(encoded, "JPEG")
    row = Row(*put(file, encoded.getvalue()), 30, 40, 1, 0, 0, 30, 40, 1)
    got = piece("jpeg", file, row, (30, 40, 3))
    np.testing.assert_array_equal(got, pillow(encoded.getvalue(), 1))
    assert (got[..., :1] == got).all()


def test_one_reader_reads_large_and_small_in_any_order(file: io.BufferedRandom) -> None:
    rows, expected = [], []
    for i, (height, width) in enumerate([(20, 20), (90, 110), (10, 30), (91, 111), (20, 20)]):
        data = jpeg(i, height, width)
        rows.append(Row(*put(file, data), height, width, 1, 0, 0, height, width, 1))
        expected.append(pillow(data, 1))
    reader, canvases = PictureReader(file.fileno(), "jpeg"), np.zeros((len(rows), 91, 111, 3), np.uint8)
    for i, row in enumerate(rows):
        reader.read(row, {"images": canvases}, i)
    for row, canvas, pixels in zip(rows, canvases, expected, strict=True):
        np.testing.assert_array_equal(canvas[: row.height, : row.width], pixels)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 40])
def test_averages_of_squares(k: int) -> None:
    pixels = np.random.default_rng(k).integers(0, 256, (23, 31, 3), np.uint8)
    np.testing.assert_array_equal(shrunk(pixels, k), averaged(pixels, k))
    white = np.full((23, 31, 1), 255, np.uint8)
    assert (shrunk(white, k) == 255).all()


@pytest.mark.parametrize("store", ["jpeg", "raw"])
@pytest.mark.parametrize("canvas_width", [40, 41])
def test_a_file_that_ends_too_soon(file: io.BufferedRandom, store: str, canvas_width: int) -> None:
    data = jpeg(0, 30, 40) if store == "jpeg" else photograph(0, 30, 40).tobytes()
    position, length = put(file, data)
    os.truncate(file.fileno(), position + length - 9)
    row = Row(position, length, 30, 40, 1, 0, 0, 30, 40, 1)
    text = f"^expected {length} bytes at byte {position} of the file, which ends after {length - 9} of them$"
    with pytest.raises(BadItem, match=text):
        read_alone(file, store, row, (30, canvas_width))


@pytest.mark.parametrize("reduction", [1, 2])
def test_a_picture_of_another_size(file: io.BufferedRandom, reduction: int) -> None:
    row = Row(*put(file, jpeg(0, 30, 40)), 40, 30, reduction, 0, 0, 10, 10, 1)
    text = "^expected a picture of 40 × 30 pixels, got one of 30 × 40$"
    with pytest.raises(BadImage, match=text):
        read_alone(file, "jpeg", row, (40, 30))


def test_bytes_that_are_no_picture(file: io.BufferedRandom) -> None:
    row = Row(*put(file, b"<html>not found</html>"), 30, 40, 1, 0, 0, 30, 40, 1)
    with pytest.raises(BadImage, match="^not an image$"):
        read_alone(file, "jpeg", row, (30, 40))


def test_bytes_are_copied_as_they_are_and_what_is_past_an_item_is_zero(file: io.BufferedRandom) -> None:
    x, y = np.arange(6, dtype=np.float64).reshape(2, 3), np.array([258, 3, 4], np.uint16)
    x_at, y_at = put(file, x.tobytes()), put(file, y.tobytes())
    fields = {"x": np.full((3, 2, 3), -1.0), "y": np.full((3, 5), 9, np.uint16), "flag": np.ones(3, bool)}
    BytesReader(file.fileno()).read([*x_at, *y_at, x_at[0], 1], fields, 1)
    np.testing.assert_array_equal(fields["x"], [np.full((2, 3), -1), x, np.full((2, 3), -1)])
    np.testing.assert_array_equal(fields["y"], [[9] * 5, [258, 3, 4, 0, 0], [9] * 5])
    assert fields["flag"].tolist() == [True, False, True]


def test_bytes_that_are_not_there(file: io.BufferedRandom) -> None:
    position, length = put(file, b"12345678")
    os.truncate(file.fileno(), position + 3)
    text = f"^expected 8 bytes at byte {position} of the file, which ends after 3 of them$"
    with pytest.raises(BadItem, match=text):
        BytesReader(file.fileno()).read([position, length], {"x": np.zeros((1, 8), np.uint8)}, 0)


SMALL = {
    "a": Field("float32", (2, 3)),
    "b": Field("uint16", (5,)),
    "c": Field("bool", ()),
    "d": Field("int64", ()),
}


def holding(fields: dict[str, Field], n: int) -> dict[str, NDArray[Any]]:
    return {name: np.full((n, *shape), 9, dtype) for name, (dtype, shape) in fields.items()}


@pytest.mark.parametrize("whole", [True, False])
def test_all_items_at_once_are_what_each_is_alone(file: io.BufferedRandom, whole: bool) -> None:
    rng, n = np.random.default_rng(0), 33
    file.write(content := rng.integers(0, 2, 1000, np.uint8).tobytes())
    file.flush()
    got, expected = holding(SMALL, n), holding(SMALL, n)
    rows = np.zeros((n, 8), np.int64)
    for k, (name, field) in enumerate(SMALL.items()):
        size = field.nbytes
        # One of them ends where the file does.
        rows[:, 2 * k] = [1000 - size, *rng.integers(0, 1000 - size, n - 1)]
        rows[:, 2 * k + 1] = size if whole else rng.integers(0, size + 1, n)
        for i, (position, length) in enumerate(rows[:, 2 * k : 2 * k + 2].tolist()):
            data = content[position : position + length].ljust(size, b"\0")
            expected[name][i] = np.frombuffer(data, field.dtype).reshape(field.shape)
    assert BytesReader(file.fileno()).read_all(rows, got)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name].view(np.uint8), array.view(np.uint8), err_msg=name)


@pytest.mark.parametrize(
    ("row", "field", "length"),
    [
        ([993, 8], Field("uint8", (8,)), 1000),  # past the end
        ([992, 8], Field("uint8", (8,)), 999),  # of a file that was longer when it was opened
        ([0, 9], Field("uint8", (8,)), 1000),
        ([0, 20000], Field("uint8", (20000,)), 30000),  # large: a copy takes longer than a call of the system
    ],
)
def test_what_does_not_fit_and_what_is_large_is_read_item_by_item(
    file: io.BufferedRandom, row: list[int], field: Field, length: int
) -> None:
    file.write(bytes(max(length, 1000)))
    file.flush()
    reader = BytesReader(file.fileno())
    os.truncate(file.fileno(), length)
    assert not reader.read_all(np.array([row, row]), holding({"x": field}, 2))


def test_of_a_batch_the_first_item_that_cannot_be_read_is_told(file: io.BufferedRandom) -> None:
    file.write(bytes(100))
    file.flush()
    rows = np.array([[0, 8], [96, 8], [97, 8]])
    fault = read_batch(BytesReader(file.fileno()), rows, {"x": np.zeros((3, 8), np.uint8)})
    assert fault == (1, "expected 8 bytes at byte 96 of the file, which ends after 4 of them")


def test_an_empty_file_has_nothing_to_map(file: io.BufferedRandom) -> None:
    fault = read_batch(BytesReader(file.fileno()), np.array([[0, 1]]), {"x": np.zeros((1, 1), np.uint8)})
    assert fault == (0, "expected 1 bytes at byte 0 of the file, which ends after 0 of them")


IMAGES = {"images": Field("uint8", (7, 11, 3))}
FIELDS = {"a": Field("bool", ()), "b": Field("float64", (3, 5)), "c": Field("uint16", (7,))}


@pytest.mark.parametrize(
    "layout",
    [Layout(1, 1, 1, {"x": Field("uint8", ())}), Layout(3, 5, 10, IMAGES), Layout(2, 33, 6, FIELDS)],
)
def test_nothing_overlaps_in_the_shared_memory(layout: Layout) -> None:
    memory = np.zeros(layout.nbytes, np.uint8)
    rows, slots = layout.arrays(memory)
    assert rows.shape == (layout.slots, layout.n, layout.columns) and len(slots) == layout.slots
    rows[:] = -1
    assert np.count_nonzero(memory) == rows.nbytes
    arrays = []
    for slot in slots:
        # each slot begins on a page
        first = next(iter(slot.values()))
        assert (first.ctypes.data - memory.ctypes.data) % os.sysconf("SC_PAGESIZE") == 0
        for (name, field), array in zip(layout.fields.items(), slot.values(), strict=True):
            assert slot[name] is array and array.flags.c_contiguous
            assert (array.ctypes.data - memory.ctypes.data) % 64 == 0
            assert array.shape == (layout.n, *field.shape) and array.dtype == field.dtype
            arrays.append(array)
    for number, array in enumerate(arrays, start=1):
        array.view(np.uint8).fill(number)
    assert (rows == -1).all()
    assert [(memory == number).sum() for number in range(1, len(arrays) + 1)] == [a.nbytes for a in arrays]


@pytest.mark.parametrize(
    ("reader", "decodes"),
    [
        (ReaderClass("theanompi.data.pictures.reader", "PictureReader", ("jpeg",)), True),
        (ReaderClass("theanompi.data.reading.reader", "BytesReader"), False),
    ],
)
def test_a_loader_process_imports_neither_mpi_nor_torch_nor_hdf5(
    tmp_path: Path, reader: ReaderClass, decodes: bool
) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    memory = tmp_path / "memory"
    layout = Layout(1, 1, 10, IMAGES)
    memory.write_bytes(bytes(layout.nbytes))
    with theirs, memory.open("r+b") as shared:
        descriptors = (theirs.fileno(), 0, shared.fileno())
        # Nobody is at the other end: it comes up, sees that, and leaves without a word of its own.
        result = subprocess.run(
            [
                *(sys.executable, "-X", "importtime", "-m", "theanompi.data.reading.process"),
                *map(str, descriptors),
                Work(reader, layout).to_text(),
            ],
            pass_fds=descriptors,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    lines = result.stderr.splitlines()
    assert all(line.startswith("import time:") for line in lines)
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in lines}
    assert {"numpy", "theanompi"} <= loaded and ("simplejpeg" in loaded) == decodes
    assert not loaded & HEAVY
