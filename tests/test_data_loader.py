"""The loader: right batches in the right order, however many read them; and whatever ends, nothing hangs or is left."""

import gc
import io
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from tests.mpi import ROOT, run_mpi
from tests.photographs import jpeg, photograph, pictures
from theanompi.config import ConfigError, RunConfig, resolve
from theanompi.data import Arrays, Batch, Dataset, Loader, LoaderError, Sampler, open_dataset, write_arrays
from theanompi.data.pictures.augment import color_transforms, evaluation_boxes, train_boxes
from theanompi.data.pictures.regions import regions
from theanompi.data.reading.messages import Messages
from theanompi.data.reading.random import sample_keys
from theanompi.data.store.schema import SPLITS, Split, Store
from theanompi.data.store.writer import Block, ChannelSums, Image, Writer, channel_sums, merge
from theanompi.record.timeline import Span
from theanompi.system import cgroup
from theanompi.training.stop import ASKING

pytestmark = pytest.mark.timeout(240)

COUNTS: dict[Split, int] = {"train": 75, "val": 23}
SEED = 5
CLOSED = "^loader: expected an open loader, got a closed one$"


def grey_jpeg(seed: int, height: int, width: int) -> bytes:
    file = io.BytesIO()
    PillowImage.fromarray(photograph(seed, height, width)).convert("L").save(file, "JPEG")
    return file.getvalue()


def pack(path: Path, store: Store) -> Path:
    """Photographs of many sizes, with the paper's augmentation; among them a long one, and a grey one if JPEG."""
    draw = np.random.default_rng(0)
    with Writer(path, {}) as writer:
        for split in SPLITS:
            images, sums = [], ChannelSums(0, (), ())
            for i in range(COUNTS[split]):
                height, width = (int(side) for side in draw.integers(20, 160, 2))
                if i == 3:
                    height, width = 30, 400
                pixels, data = photograph(i, height, width), b""
                if store == "jpeg":
                    data = grey_jpeg(i, height, width) if i == 2 else jpeg(i, height, width)
                else:
                    data = pixels.tobytes()
                images.append(Image(f"{split}/{i}.JPEG", i % 3, height, width, data))
                sums = merge(sums, channel_sums(pixels))
            writer.append(split, Block(images, [], sums))
        writer.finish(
            name="photographs",
            description="Generated.",
            source="this test",
            licence="CC0",
            class_names=["a", "b", "c"],
            store=store,
            channels=3,
            augmentation="imagenet",
        )
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Store, Path]:
    folder = tmp_path_factory.mktemp("photographs")
    return {store: pack(folder / f"{store}.h5", store) for store in ("jpeg", "raw")}


@pytest.fixture(params=["jpeg", "raw"])
def photographs(files: dict[Store, Path], request: pytest.FixtureRequest) -> Iterator[Dataset]:
    with open_dataset(files[request.param]) as data:
        yield data


@pytest.fixture
def jpegs(tmp_path: Path, files: dict[Store, Path]) -> Iterator[Dataset]:
    """A copy, to be damaged."""
    path = tmp_path / "damaged.h5"
    path.write_bytes(files["jpeg"].read_bytes())
    with open_dataset(path) as data:
        yield data


@pytest.fixture(scope="module")
def digits() -> Iterator[Dataset]:
    with open_dataset("digits") as data:
        yield data


class Copy(NamedTuple):
    """What counts of a batch, to be compared, and kept for longer than the batch is valid."""

    ids: list[int]
    rest: tuple[bytes, ...]
    pieces: list[bytes]


def filled(batch: Batch, i: int) -> NDArray[np.uint8]:
    height, width = batch.fields["boxes"][i, 5:].astype(int)
    return batch.fields["images"][i, :height, :width]


def copy(batch: Batch) -> Copy:
    rest = [batch.fields[name] for name in ("labels", "boxes", "keys", "colors", "weights")]
    pieces = [filled(batch, i).tobytes() for i in range(len(batch.ids))]
    return Copy(batch.ids.tolist(), tuple(values.tobytes() for values in rest), pieces)


def epoch_of(loader: Loader, sampler: Sampler, epoch: int = 0, start: int = 0) -> list[list[Copy]]:
    return [[copy(batch) for batch in units] for units in loader.train(sampler, epoch, start)]


def sampler_for(data: Dataset, size: int = 1, rank: int = 0, accumulation: int = 1, n: int = 4) -> Sampler:
    return Sampler(data.n_train, n, size, rank, accumulation, SEED)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that its parent has yet to wait for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, f"still running: {[pid for pid in pids if not gone(pid)]}"
        time.sleep(0.02)


def descriptors() -> dict[str, str]:
    """What this process has open, apart from the folder that says so."""
    entries = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            entries[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
    return entries


def children() -> set[int]:
    """The processes that this one has started and not waited for, ended ones included."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text("utf-8").split()}


@pytest.fixture
def own_processes() -> None:
    """Loader processes begin as in a run, for a test that is about them."""


@pytest.fixture(autouse=True)
def forked_elsewhere(request: pytest.FixtureRequest) -> None:
    """Where nobody looks at them they are forks, which begin at once."""
    if "own_processes" not in request.fixturenames:
        request.getfixturevalue("forks")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    gc.collect()
    before = (children(), descriptors())
    yield
    gc.collect()
    assert (children(), descriptors()) == before


# --- the right pixels


def scaled(data: Dataset, split: Split, i: int, reduction: int) -> NDArray[np.uint8]:
    """A picture at 1/reduction of its size, as Pillow's libjpeg decodes it."""
    if data.store == "raw":
        height, width = data.sizes(split)[i]
        return np.frombuffer(data.read(split, i), np.uint8).reshape(height, width, data.channels)
    image = PillowImage.open(io.BytesIO(data.read(split, i)))
    image.draft("RGB", (image.width // reduction, image.height // reduction))
    return np.asarray(image.convert("RGB"))


def averaged(pixels: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    if k == 1:
        return pixels
    rows = []
    for y in range(0, pixels.shape[0], k):
        squares = [pixels[y : y + k, x : x + k].astype(float) for x in range(0, pixels.shape[1], k)]
        rows.append([np.floor(square.mean(axis=(0, 1)) + 0.5) for square in squares])
    return np.array(rows).astype(np.uint8)


def check_images(
    data: Dataset, split: Split, batch: Batch, boxes: NDArray[np.float32], size: int
) -> set[tuple[int, int]]:
    """Compare each piece with the box, cut out of the picture; gives the reductions, of both kinds, that occurred."""
    wanted = regions(data.store, data.augmentation, data.sizes(split)[batch.ids], boxes, size)
    ways = list(zip(wanted.reduction.tolist(), wanted.shrink.tolist(), strict=True))
    for i, (image, (reduction, k)) in enumerate(zip(batch.ids.tolist(), ways, strict=True)):
        piece = scaled(data, split, image, reduction)
        if data.augmentation == "imagenet":
            y, x, height, width = (float(value) / reduction for value in boxes[i, :4])
            piece = piece[math.floor(y) : math.ceil(y + height), math.floor(x) : math.ceil(x + width)]
        np.testing.assert_array_equal(filled(batch, i), averaged(piece, k))
        np.testing.assert_array_equal(batch.fields["boxes"][i], wanted.boxes[i])
    return set(ways)


@pytest.mark.parametrize("size", [2, 16, 64])
def test_training_batches(photographs: Dataset, size: int) -> None:
    sampler = sampler_for(photographs, accumulation=2)
    ways: set[tuple[int, int]] = set()
    with Loader(
        pictures(photographs, size, seed=SEED, color_jitter=0.4, lighting=0.1), 4, processes=2
    ) as loader:
        seen = []
        for units, ids in zip(loader.train(sampler, 3), sampler.batches(3), strict=True):
            for batch, own in zip(units, ids, strict=True):
                seen += own.tolist()
                np.testing.assert_array_equal(batch.ids, own)
                boxes = train_boxes("imagenet", photographs.sizes("train")[own], SEED, 3, own)
                ways |= check_images(photographs, "train", batch, boxes, size)
                assert batch.fields["images"].shape == (4, *pictures(photographs, size).canvas, 3)
                assert np.shares_memory(batch.fields["images"], loader.memory)
                np.testing.assert_array_equal(batch.fields["labels"], own % 3)
                np.testing.assert_array_equal(batch.fields["keys"], sample_keys(SEED, 3, own))
                np.testing.assert_array_equal(
                    batch.fields["colors"], color_transforms(0.4, 0.1, SEED, 3, own)
                )
                np.testing.assert_array_equal(batch.weights, np.ones(4, np.float32))
        assert len(seen) == len(set(seen)) == 72
    # The reductions that this size is to show have been there.
    expected = (
        {2: {(8, 1), (8, 2)}, 16: {(1, 1), (2, 1)}, 64: {(1, 1)}} if photographs.store == "jpeg" else {}
    )
    assert ways >= expected.get(size, {(1, 1)})


@pytest.mark.parametrize("size", [4, 32])
def test_validation_batches(photographs: Dataset, size: int) -> None:
    sizes = photographs.sizes("val")
    with Loader(pictures(photographs, size, seed=SEED, color_jitter=0.4, lighting=0.1), 5) as loader:
        batches = 0
        for batch in loader.validation(size=1, rank=0):
            check_images(photographs, "val", batch, evaluation_boxes("imagenet", sizes[batch.ids]), size)
            np.testing.assert_array_equal(batch.fields["labels"], batch.ids % 3)
            np.testing.assert_array_equal(batch.fields["keys"], sample_keys(SEED, -1, batch.ids))
            # Validation shows the pictures in their own colours.
            np.testing.assert_array_equal(batch.fields["colors"], [np.eye(3, 7)] * 5)
            batches += 1
        assert batches == 5


def test_whole_images(digits: Dataset) -> None:
    sampler = sampler_for(digits, n=16)
    with Loader(pictures(digits, seed=SEED), 16) as loader:
        assert pictures(digits).canvas == (32, 32)
        for units in loader.train(sampler, 1, start=80):
            for batch in units:
                boxes = train_boxes("shift", digits.sizes("train")[batch.ids], SEED, 1, batch.ids)
                check_images(digits, "train", batch, boxes, 32)
                np.testing.assert_array_equal(
                    batch.fields["images"], [digits.pixels("train", i) for i in batch.ids]
                )
                np.testing.assert_array_equal(batch.fields["boxes"][:, :5], boxes)
                np.testing.assert_array_equal(batch.fields["colors"], [np.eye(3, 7)] * 16)


# --- the same, whoever reads


def test_the_same_units_for_every_number_of_ranks(photographs: Dataset) -> None:
    results = []
    with Loader(pictures(photographs, 16, seed=SEED), 4, processes=2) as loader:
        for size in (1, 2, 4):
            ranks = [
                epoch_of(loader, sampler_for(photographs, size, rank, 4 // size)) for rank in range(size)
            ]
            # Unit i of a minibatch belongs to rank i % k.
            results.append(
                [
                    [ranks[i % size][t][i // size] for i in range(sum(len(rank[t]) for rank in ranks))]
                    for t in range(len(ranks[0]))
                ]
            )
    assert results[0] == results[1] == results[2]
    assert [len(units) for units in results[0]] == [4, 4, 4, 4, 2]


def test_the_same_batches_for_every_number_of_processes_and_every_depth(photographs: Dataset) -> None:
    sampler = sampler_for(photographs, accumulation=3)
    expected = None
    for depth in range(1, 7):
        for processes in {1, 2, 3} if depth in (1, 4) else {depth % 3 + 1}:
            with Loader(pictures(photographs, 16, seed=SEED), 4, processes=processes, depth=depth) as loader:
                assert len(loader.pids) == processes
                got = epoch_of(loader, sampler)
            expected = expected or got
            assert got == expected


def test_a_restart_at_any_position_goes_on_with_the_same_batches(photographs: Dataset) -> None:
    sampler = sampler_for(photographs, size=2, rank=1, accumulation=2)
    with Loader(pictures(photographs, 16, seed=SEED), 4, processes=2) as loader:
        expected = epoch_of(loader, sampler, epoch=2)
        assert [len(units) for units in expected] == [2, 2, 2, 2, 1]
        for start in range(len(expected) + 1):
            assert epoch_of(loader, sampler, 2, start) == expected[start:]
    with Loader(pictures(photographs, 16, seed=SEED), 4) as fresh:
        assert epoch_of(fresh, sampler, 2, 3) == expected[3:]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_each_training_image_at_most_once_and_all_but_the_dropped(digits: Dataset, size: int) -> None:
    count = np.zeros(digits.n_train, int)
    with Loader(pictures(digits), 16, processes=2) as loader:
        for rank in range(size):
            sampler = sampler_for(digits, size, rank, n=16)
            for units in loader.train(sampler, epoch=4):
                for batch in units:
                    np.add.at(count, batch.ids, 1)
    assert set(count.tolist()) == {0, 1} and (count == 0).sum() == sampler.dropped == 1437 % 16


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_validation_counts_every_image_once(digits: Dataset, size: int) -> None:
    count = np.zeros(digits.n_val)
    with Loader(pictures(digits), 32, processes=2) as loader:
        for rank in range(size):
            for batch in loader.validation(size, rank):
                np.add.at(count, batch.ids, batch.weights)
    np.testing.assert_array_equal(count, 1)


def test_consecutive_epochs_and_other_seeds_differ(photographs: Dataset) -> None:
    def whole(seed: int, epoch: int) -> tuple[list[int], dict[int, bytes]]:
        sampler = sampler_for(photographs)
        with Loader(pictures(photographs, 16, seed=seed), 4) as loader:
            units = [unit for group in epoch_of(loader, sampler, epoch) for unit in group]
        ids = [i for unit in units for i in unit.ids]
        return ids, dict(zip(ids, (piece for unit in units for piece in unit.pieces), strict=True))

    (order, first), (other_order, second), (_, other_seed) = whole(0, 0), whole(0, 1), whole(1, 0)
    assert order != other_order
    for other in (second, other_seed):
        common = first.keys() & other.keys()
        assert len(common) > 60 and all(first[i] != other[i] for i in common)


# --- reading ahead


@pytest.mark.parametrize(("depth", "processes", "ahead"), [(1, 1, 1), (4, 2, 4), (1, 3, 3)])
def test_it_reads_ahead_but_only_so_far(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, depth: int, processes: int, ahead: int
) -> None:
    asked = mock.Mock(wraps=Messages.ask)
    monkeypatch.setattr(Messages, "ask", lambda *message: asked(*message))
    with Loader(pictures(digits), 16, processes=processes, depth=depth) as loader:
        batches = loader.train(Sampler(digits.n_train, 16, 1, 0, 1, seed=0), epoch=0)
        # From the beginning, before anybody asks; one more than later, since no slot is in use.
        assert asked.call_count == ahead + 1
        for taken in range(1, 20):
            next(next(batches))
            assert asked.call_count == taken + ahead


class Rows(Arrays):
    """Knows how many items it has been asked for at once."""

    asked: list[int]
    items_alone = True

    def batch(self, split: Split, epoch: int | None, ids: NDArray[np.int64]) -> Any:
        self.asked.append(len(ids))
        return super().batch(split, epoch, ids)


class RowsOfABatch(Rows):
    """Says nothing of items, and may draw something for all of a batch."""

    def batch(self, split: Split, epoch: int | None, ids: NDArray[np.int64]) -> Any:
        return super().batch(split, epoch, ids)


@pytest.mark.parametrize(
    ("kind", "batch_size", "asked"),
    [
        (Rows, 16, [2048, 144]),
        (Rows, 1100, [1100, 1100]),
        (Rows, 2200, [2200]),
        (RowsOfABatch, 550, [550] * 4),
    ],
)
def test_rows_of_several_small_batches_are_asked_for_at_once_where_items_are_each_alone(
    kind: type[Rows], tmp_path: Path, batch_size: int, asked: list[int]
) -> None:
    x = np.arange(2200, dtype=np.float32)
    write_arrays(tmp_path / "a.h5", {"x": x}, {"x": x[:100]}, name="a")
    with open_dataset(tmp_path / "a.h5") as data:
        modality = kind(data, resolve(RunConfig()))
        modality.asked = []
        with Loader(modality, batch_size) as loader:
            seen = []
            for units in loader.train(Sampler(2200, batch_size, 1, 0, 1, seed=0), epoch=2):
                for batch in units:
                    assert (batch.fields["x"] == x[batch.ids]).all()
                    assert (batch.fields["keys"] == sample_keys(0, 2, batch.ids)).all()
                    assert batch.weights.shape == (batch_size,)
                    seen += batch.ids.tolist()
    assert modality.asked == asked
    assert len(set(seen)) == len(seen) == sum(asked)


@pytest.mark.parametrize("processes", [1, 2])
def test_it_tells_when_each_batch_was_read(photographs: Dataset, processes: int) -> None:
    before = time.monotonic()
    with Loader(pictures(photographs), 4, processes=processes) as loader:
        batches, readings = loader.train(sampler_for(photographs), 0), [[] for _ in range(processes)]  # type: ignore[var-annotated]
        for units in batches:
            for _ in units:
                for spans, new in zip(readings, loader.readings(), strict=True):
                    spans += new
        after = time.monotonic()
        assert sum(map(len, readings)) == COUNTS["train"] // 4
        assert {span.kind for spans in readings for span in spans} == {"read"}
        for spans in readings:
            # One after another, none of no length.
            times = [before, *(time for span in spans for time in (span.start, span.end)), after]
            assert len(times) > 2 and times == sorted(times)
            assert all(span.end > span.start for span in spans)
        assert loader.readings() == [[] for _ in range(processes)]
        # Those of a stream that another one ends are none of the other's.
        next(loader.validation(1, 0))
        time.sleep(0.2)
        began = time.monotonic()
        batches = loader.train(sampler_for(photographs), 1)
        next(next(batches))
        # All that was read ahead.
        new: list[Span] = []
        while len(new) < 5:
            new += [span for spans in loader.readings() for span in spans]
            assert time.monotonic() < began + 60
            time.sleep(0.01)
        assert len(new) == 5 and all(span.start > began for span in new)
    assert loader.readings() == []


def test_only_the_last_readings_are_kept_for_those_who_never_ask(digits: Dataset) -> None:
    with Loader(pictures(digits, 8), 1) as loader:
        assert sum(1 for units in loader.train(sampler_for(digits, n=1), 0) for _ in units) == 1437
        assert [len(spans) for spans in loader.readings()] == [1024]


def test_a_batch_stays_as_it_is_until_the_next_one_is_asked_for(digits: Dataset) -> None:
    sampler = sampler_for(digits, accumulation=4, n=16)
    with Loader(pictures(digits), 16, processes=2, depth=2) as loader:
        for units in loader.train(sampler, epoch=0, start=15):
            for batch in units:
                time.sleep(0.01)  # for everything that is read ahead to be there
                np.testing.assert_array_equal(
                    batch.fields["images"], [digits.pixels("train", i) for i in batch.ids]
                )


def test_a_group_left_early_does_not_shift_the_next(digits: Dataset) -> None:
    sampler = sampler_for(digits, accumulation=4, n=16)
    expected = [[ids.tolist() for ids in units] for units in sampler.batches(0)]
    with Loader(pictures(digits), 16) as loader:
        groups = loader.train(sampler, epoch=0)
        assert next(next(groups)).ids.tolist() == expected[0][0]
        next(groups)
        assert [[batch.ids.tolist() for batch in units] for units in groups] == expected[2:]


def test_a_new_stream_ends_the_one_before(photographs: Dataset) -> None:
    sampler = sampler_for(photographs, accumulation=2)
    text = "^loader: expected its newest stream of batches, got one that the next one has ended$"
    with Loader(pictures(photographs, 16, seed=SEED), 4, processes=2, depth=5) as loader:
        expected = epoch_of(loader, sampler)
        validation = [copy(batch) for batch in loader.validation(1, 0)]
        for taken in range(8):
            old = loader.train(sampler, epoch=taken)
            units = next(old)
            for _ in range(taken % 3):
                next(units)
            new = loader.validation(1, 0)
            with pytest.raises(ValueError, match=text):
                next(units if taken % 3 < 2 and taken % 2 else old)
            first = copy(next(new))
            again = loader.validation(1, 0)
            with pytest.raises(ValueError, match=text):
                next(new)
            assert [copy(batch) for batch in again] == validation and first == validation[0]
            assert epoch_of(loader, sampler) == expected


def test_an_exhausted_stream_stays_exhausted(digits: Dataset) -> None:
    with Loader(pictures(digits), 100) as loader:
        batches = loader.validation(1, 0)
        assert len(list(batches)) == 4
        assert list(batches) == []


def test_more_slots_than_a_connection_has_room_for(digits: Dataset) -> None:
    # Neither side may wait for the other to take something first.
    sampler = Sampler(digits.n_train, 1, 1, 0, 1, seed=0)
    with Loader(pictures(digits), 1, depth=1400) as loader:
        batches = loader.train(sampler, epoch=0)
        assert sum(1 for units in batches for _ in units) == digits.n_train


# --- images that cannot be read


def overwrite(data: Dataset, split: Split, i: int, content: bytes) -> None:
    (position,), _ = data.locate(split, np.array([i]))
    with open(data.path, "r+b") as file:
        file.seek(position)
        file.write(content)


def failure(data: Dataset, split: Split = "val") -> str:
    """The message with which reading a split ends; the same again after it, and then it can be closed."""
    sampler = sampler_for(data, n=5)
    with Loader(pictures(data, 16), 5, processes=2) as loader:
        groups: Iterator[Any] = (
            iter([loader.validation(1, 0)]) if split == "val" else loader.train(sampler, 0)
        )
        with pytest.raises(LoaderError) as error:
            for units in groups:
                for _ in units:
                    pass
        for begin in (lambda: loader.validation(1, 0), lambda: loader.train(sampler, 0)):
            with pytest.raises(LoaderError, match=re.escape(str(error.value))):
                begin()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("split", SPLITS)
def test_an_image_that_is_damaged(jpegs: Dataset, split: Split) -> None:
    overwrite(jpegs, split, 7, b"\0\0\0\0")
    start, end = (
        re.escape(f"data file {jpegs.path}: {split} image 7 ({split}/7.JPEG): "),
        re.escape(f"; 'tmpack verify {jpegs.path}' finds all that is damaged"),
    )
    assert re.fullmatch(f"{start}[^;]+{end}", failure(jpegs, split))


def test_an_image_of_another_size(jpegs: Dataset) -> None:
    overwrite(jpegs, "val", 7, jpeg(0, 8, 9, quality=30))
    height, width = jpegs.sizes("val")[7]
    text = f"val image 7 (val/7.JPEG): expected a picture of {height} × {width} pixels, got one of 8 × 9"
    assert failure(jpegs).startswith(f"data file {jpegs.path}: {text}")


def test_a_file_that_is_cut_short_while_it_is_used(jpegs: Dataset) -> None:
    (position,), (length,) = jpegs.locate("val", np.array([7]))
    os.truncate(jpegs.path, position + 9)
    # The name has gone with the end of the file.
    assert failure(jpegs) == (
        f"data file {jpegs.path}: val image 7: expected {length} bytes at byte {position} of the file, "
        f"which ends after 9 of them; 'tmpack verify {jpegs.path}' finds all that is damaged"
    )


def test_batches_before_a_damaged_image_are_good(jpegs: Dataset) -> None:
    overwrite(jpegs, "val", 17, b"\0\0\0\0")
    with Loader(pictures(jpegs, 16), 5, processes=3) as loader:
        batches = loader.validation(1, 0)
        assert [next(batches).ids[0] for _ in range(3)] == [0, 5, 10]
        with pytest.raises(LoaderError, match="val image 17 "):
            next(batches)


def test_a_damaged_image_that_nobody_waits_for_any_more(jpegs: Dataset) -> None:
    overwrite(jpegs, "val", 7, b"\0\0\0\0")
    with Loader(pictures(jpegs, 16), 5, depth=5) as loader:
        next(loader.validation(1, 0))
        assert len(epoch_of(loader, sampler_for(jpegs, n=5))) == 15


def test_another_file_of_the_same_name_changes_nothing(jpegs: Dataset, files: dict[Store, Path]) -> None:
    with Loader(pictures(jpegs, 16), 4, processes=2) as loader:
        expected = epoch_of(loader, sampler_for(jpegs))
        other = jpegs.path.with_name("other.h5")
        other.write_bytes(files["raw"].read_bytes())
        other.replace(jpegs.path)
        assert epoch_of(loader, sampler_for(jpegs)) == expected


# --- processes that die


@pytest.mark.usefixtures("own_processes")
def test_a_process_killed_while_it_is_waited_for(digits: Dataset) -> None:
    with Loader(pictures(digits), 16, processes=2, depth=3) as loader:
        batches = loader.train(sampler_for(digits, n=16), epoch=0)
        next(next(batches))
        pids = loader.pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(0.3, os.kill, (pids[1], signal.SIGKILL))
        timer.start()
        text = (
            rf"^loader process {pids[1]} ended by signal SIGKILL while reading the batch of train image \d+ and 15 "
            rf"others of {re.escape(str(digits.path))}; somebody ended it, or the machine is out of memory: then give "
            "it fewer loader processes$"
        )
        with pytest.raises(LoaderError, match=text):
            for units in batches:
                list(units)
        timer.join()
        with pytest.raises(LoaderError, match=text):
            loader.validation(1, 0)
    # The other one, which is stopped, neither sees that it is alone nor obeys SIGTERM: it had to be killed.
    assert all(map(gone, pids)) and loader.pids == ()


@pytest.mark.usefixtures("own_processes")
def test_a_process_killed_at_any_moment(digits: Dataset) -> None:
    draw = np.random.default_rng(0)
    for attempt in range(8):
        with Loader(pictures(digits), 16, processes=1 + attempt % 3, depth=1 + attempt % 4) as loader:
            victim = loader.pids[attempt % len(loader.pids)]
            timer = threading.Timer(float(draw.uniform(0, 0.4)), os.kill, (victim, signal.SIGKILL))
            timer.start()
            with pytest.raises(LoaderError, match=f"^loader process {victim} ended by signal SIGKILL "):
                for epoch in range(10**6):
                    epoch_of(loader, sampler_for(digits, n=16), epoch)
            timer.join()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SIGSEGV", "somebody ended it, or something in it crashed"),
        ("SIGBUS", "the file was cut short while it was read, or its disk has failed"),
    ],
)
@pytest.mark.usefixtures("own_processes")
def test_a_process_killed_when_it_has_nothing_to_do(digits: Dataset, name: str, hint: str) -> None:
    with Loader(pictures(digits), 16, processes=2) as loader:
        assert len(list(loader.validation(1, 0))) == 23
        # What an mpirun passes on to all of a rank is for the rank to judge.
        os.kill(loader.pids[0], signal.SIGTERM)
        assert len(list(loader.validation(1, 0))) == 23
        os.kill(loader.pids[0], signal.Signals[name])
        wait_until_gone([loader.pids[0]])
        text = f"^loader process {loader.pids[0]} ended by signal {name} with nothing to do; {hint}$"
        with pytest.raises(LoaderError, match=text):
            loader.validation(1, 0)


@pytest.mark.usefixtures("own_processes")
def test_a_process_killed_by_a_signal_without_a_name(digits: Dataset) -> None:
    with Loader(pictures(digits), 16) as loader:
        list(loader.validation(1, 0))
        number = signal.SIGRTMIN + 3
        os.kill(loader.pids[0], number)
        wait_until_gone(loader.pids)
        with pytest.raises(LoaderError, match=f" ended by signal {number:d} with nothing to do; somebody"):
            loader.validation(1, 0)


@pytest.mark.usefixtures("own_processes")
def test_a_process_that_ends_by_itself_says_why(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Loader(pictures(digits), 16) as loader:
        with pytest.raises(
            LoaderError, match=r"^loader process \d+ ended with exit code 1 .*; its own message stands above$"
        ):
            list(loader.validation(1, 0))


# --- the end


@pytest.mark.usefixtures("own_processes")
def test_closing_at_any_moment(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = sampler_for(digits, n=16)
    monkeypatch.setattr("theanompi.data.reading.loader._GRACE_SECONDS", 60.0)
    for attempt in range(8):
        loader = Loader(pictures(digits), 16, processes=1 + attempt % 2, depth=1 + attempt)
        processes = [child.process for child in loader._children.values()]
        batches = loader.train(sampler, 0)
        for _ in range(attempt // 2):
            next(next(batches))
        loader.close()
        loader.close()
        # They end by themselves, without a signal.
        assert [process.returncode for process in processes] == [0] * len(processes)
        with pytest.raises(ValueError, match=CLOSED):
            loader.train(sampler, 0)
        with pytest.raises(ValueError, match=CLOSED):
            loader.validation(1, 0)
        with pytest.raises(ValueError, match=CLOSED):
            next(next(batches))


@pytest.mark.usefixtures("own_processes")
def test_an_error_in_the_consumer_closes_it(digits: Dataset) -> None:
    with pytest.raises(KeyError), Loader(pictures(digits), 16) as loader:
        pids = loader.pids
        raise KeyError
    assert all(map(gone, pids))


@pytest.mark.usefixtures("own_processes")
def test_a_forgotten_loader_is_closed(digits: Dataset) -> None:
    loader = Loader(pictures(digits), 16, processes=2)
    batches = loader.validation(1, 0)
    pids, batch = loader.pids, next(batches)
    images = batch.fields["images"].copy()
    del loader, batches
    gc.collect()
    assert all(map(gone, pids))
    # What somebody still holds is not pulled away.
    np.testing.assert_array_equal(batch.fields["images"], images)


@pytest.mark.usefixtures("own_processes")
def test_the_processes_are_what_they_are_meant_to_be(
    photographs: Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    with Loader(pictures(photographs, 16), 4, processes=2) as loader:
        assert len(list(loader.validation(1, 0))) == 6  # each of them has read some
        for pid in loader.pids:
            maps = Path(f"/proc/{pid}/maps").read_text("utf-8")
            # The memory has no name: nothing is left in /dev/shm, because nothing is ever there.
            assert "/memfd:theanompi (deleted)" in maps and "/dev/shm" not in maps
            assert "simplejpeg" in maps and not re.search("libmpi|mpi4py|torch|hdf5|h5py", maps)
            own = Path(f"/proc/{pid}/environ").read_text("utf-8").split("\0")
            assert "OMP_NUM_THREADS=1" in own
            # Standard output belongs to the training process.
            output, errors, ours = (
                os.readlink(f"/proc/{name}") for name in (f"{pid}/fd/1", f"{pid}/fd/2", "self/fd/2")
            )
            assert output == errors == ours != os.readlink("/proc/self/fd/1")
            opened = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            assert opened.count(str(photographs.path)) == 1 and "/dev/null" in opened
            # Nobody else's connection, which would keep the other one alive.
            assert sum(name.startswith("socket:") for name in opened) == 1


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Any]:
    """Starts tests/loader_program.py; gives it, its loader processes, and what is read of its output until then."""
    started: list[subprocess.Popen[str]] = []
    # A loader process that looked into the current folder would not get far.
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong NumPy')")

    def start(end: str) -> tuple[subprocess.Popen[str], list[int]]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, ROOT / "tests/loader_program.py", end],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3 and pids[0] == process.pid
        return process, pids[1:]

    yield start
    for process in started:
        with process:
            process.kill()


def ended(process: subprocess.Popen[str], pids: list[int]) -> tuple[int, str]:
    """Exit code and error output. The latter ends only when no process holds it open any more."""
    out, err = process.communicate(timeout=120)
    assert out == ""
    wait_until_gone(pids)
    # The loader processes never say anything of their own.
    assert "process.py" not in err
    return process.returncode, err


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_training_process_that_is_ended(program: Any, end: signal.Signals, whole_group: bool) -> None:
    process, pids = program("run")
    time.sleep(0.2)
    assert not any(map(gone, pids))
    (os.killpg if whole_group else os.kill)(process.pid, end)
    code, err = ended(process, pids)
    assert code == -end
    assert err.endswith("KeyboardInterrupt\n") if end == signal.SIGINT else err == ""


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("sys.exit", 3, ""),
        ("os._exit", 3, ""),
        ("error", 1, "KeyError: 'of the training process'\n"),
        ("kill", -signal.SIGKILL, ""),
        ("forget", 0, ""),
    ],
)
def test_a_training_process_that_ends(program: Any, end: str, code: int, last: str) -> None:
    process, pids = program(end)
    got, err = ended(process, pids)
    assert got == code
    assert err.endswith(last) if last else err == ""


@pytest.mark.usefixtures("own_processes")
def test_a_module_in_the_current_folder_is_not_imported(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('another numpy')")
    monkeypatch.chdir(tmp_path)
    with Loader(pictures(digits), 16) as loader:
        assert len(list(loader.validation(1, 0))) == 23


def test_the_processes_run_the_same_package(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "theanompi", tmp_path / "theanompi", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "theanompi/data/reading/process.py").open("a") as file:
        file.write('    print("the copy", file=sys.stderr)\n')
    # The copy is found by way of the current folder, which then is another one.
    code = (
        "import os; from theanompi.config import RunConfig, resolve\n"
        "from theanompi.data import Loader, Pictures, open_dataset; os.chdir('/')\n"
        "digits = Pictures(open_dataset('digits'), resolve(RunConfig()))\n"
        "with Loader(digits, 16) as loader: next(loader.validation(1, 0))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "the copy\n")


@pytest.mark.usefixtures("own_processes")
def test_signals_that_ask_a_run_to_stop_leave_the_processes_to_the_training_process(digits: Dataset) -> None:
    with Loader(pictures(digits), 16, processes=2) as loader:
        for pid in loader.pids:
            for number in ASKING:
                os.kill(pid, number)
        assert len(list(loader.validation(1, 0))) == 23


def test_ranks_of_mpi_have_loaders_of_their_own() -> None:
    result = run_mpi(2, ["-m", "mpi4py", "tests/loader_mpi_program.py"])
    assert result.returncode == 0, result.stderr
    assert "1424 at most 1 times, 360" in result.stdout and result.stderr == ""


def test_a_lost_loader_process_ends_the_job_with_its_message() -> None:
    result = run_mpi(2, ["-m", "mpi4py", "tests/loader_mpi_program.py", "lose"])
    assert result.returncode != 0
    assert re.search(r"LoaderError: loader process \d+ ended by signal SIGKILL ", result.stderr)
    pids = re.findall(r"\d+", " ".join(re.findall("processes.*", result.stdout)))
    assert len(pids) == 4
    wait_until_gone([int(pid) for pid in pids])


# --- use


@pytest.mark.usefixtures("own_processes")
def test_what_is_resident_does_not_grow(digits: Dataset) -> None:
    def resident(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGESIZE")

    sampler = sampler_for(digits, n=64)
    with Loader(pictures(digits), 64, processes=2) as loader:
        who = ("self", *loader.pids)
        for epoch in range(50):
            for units in loader.train(sampler, epoch):
                for _ in units:
                    pass
            for _ in loader.validation(1, 0):
                pass
            # An abandoned stream, too.
            next(loader.train(sampler, epoch))
            if epoch == 9:
                gc.collect()
                before = [resident(pid) for pid in who]
        gc.collect()
        grown = [resident(pid) - then for pid, then in zip(who, before, strict=True)]
    assert max(grown) < 3 * 2**20, grown


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"processes": 0}, "loader: expected processes of at least 1, got 0"),
        ({"depth": 0}, "loader: expected depth of at least 1, got 0"),
        ({"batch_size": 0}, "loader: expected batch_size of at least 1, got 0"),
    ],
)
def test_errors_of_use(digits: Dataset, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Loader(pictures(digits), **{"batch_size": 16, **options})


@pytest.mark.parametrize("changes", [{"color_jitter": 0.4}, {"lighting": 0.1}])
def test_no_colours_are_changed_in_pictures_that_have_none(
    digits: Dataset, changes: dict[str, float]
) -> None:
    text = f"data file {digits.path}: expected pictures of 3 channels for color_jitter and lighting, got 1"
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        pictures(digits, **changes)


def test_more_memory_than_there_is(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    # 100 million pictures of 1 KiB, and their rows of 80 bytes, for each of 11 batches
    text = (
        r"^loader: expected 11\d{5} MiB of free memory, for 11 batches of 100000000 images of 1024 bytes each, "
        r"got \d+ MiB$"
    )
    with pytest.raises(ValueError, match=text):
        Loader(pictures(digits), 100_000_000, depth=10)
    # A container's limit counts too.
    monkeypatch.setattr(cgroup, "free_memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"^loader: expected 1 MiB .* batches of 300 images .*, got 1 MiB$"):
        Loader(pictures(digits), 300)
    Loader(pictures(digits), 16).close()


def test_errors_of_streams(digits: Dataset) -> None:
    with Loader(pictures(digits), 16) as loader:
        with pytest.raises(
            ValueError, match="^loader: expected a sampler over 1437 training images, got one over 100$"
        ):
            loader.train(Sampler(100, 16, 1, 0, 1, seed=0), epoch=0)
        with pytest.raises(
            ValueError, match="^loader: expected a sampler of units of 16 images, got one of units of 8$"
        ):
            loader.train(Sampler(digits.n_train, 8, 1, 0, 1, seed=0), epoch=0)
        with pytest.raises(ValueError, match="^sampler: expected a start from 0 to 89, got 90$"):
            loader.train(sampler_for(digits, n=16), epoch=0, start=90)
        with pytest.raises(ValueError, match="^validation: expected a rank from 0 to 1, got 2$"):
            loader.validation(size=2, rank=2)
