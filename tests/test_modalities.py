"""Arrays and tokens on their way from a file to a model: all that is stored arrives, once, and nothing else."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytensor
import pytest
from numpy.typing import NDArray

from tests.own_modality import Sums
from tests.photographs import pictures
from theanompi import device
from theanompi.config import ConfigError
from theanompi.data import Arrays, Batch, Loader, LoaderError, Modality, Sampler, Tokens, open_dataset
from theanompi.data.modality import Field, batch_of, check_modality
from theanompi.data.reading.random import sample_keys
from theanompi.training.inputs import Feed, Inputs

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("forks")]

SEED = 3
DRAW = np.random.default_rng(0)


class File:
    """A data file as the modalities see it: arrays one after another behind some other bytes."""

    def __init__(self, path: Path, modality: str, arrays: dict[str, NDArray[Any]]) -> None:
        self.path, self.modality, self.arrays, self.starts = path, modality, arrays, dict[str, int]()
        with open(path, "wb") as file:
            file.write(b"before")
            for name, array in arrays.items():
                self.starts[name] = file.tell()
                file.write(array.tobytes())
        self._file = open(path, "rb")

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


class ArrayFile(File):
    def __init__(self, path: Path, train: dict[str, NDArray[Any]], val: dict[str, NDArray[Any]]) -> None:
        splits = {"train": train, "val": val}
        super().__init__(path, "arrays", {f"{s}/{name}": a for s in splits for name, a in splits[s].items()})
        self.fields = {name: Field(a.dtype.name, a.shape[1:]) for name, a in train.items()}
        self.counts = {split: len(next(iter(fields.values()))) for split, fields in splits.items()}

    def count(self, split: str) -> int:
        return self.counts[split]

    def locate(self, split: str, field: str, ids: NDArray[np.int64]) -> tuple[Any, Any]:
        size = self.arrays[f"{split}/{field}"][0].nbytes
        return self.starts[f"{split}/{field}"] + ids * size, np.full(len(ids), size)


class TokenFile(File):
    def __init__(
        self, path: Path, train: Sequence[Sequence[int]], val: Sequence[Sequence[int]], dtype: str, kind: str
    ) -> None:
        self.texts, self.kind, self.dtype = {"train": train, "val": val}, kind, np.dtype(dtype)
        super().__init__(path, "tokens", {s: np.concatenate(t).astype(dtype) for s, t in self.texts.items()})

    def count(self, split: str) -> int:
        return len(self.texts[split]) if self.kind == "texts" else self.length(split)

    def length(self, split: str) -> int:
        return len(self.arrays[split])

    def start(self, split: str) -> int:
        return self.starts[split]

    def offsets(self, split: str) -> NDArray[np.int64]:
        return np.cumsum([0, *map(len, self.texts[split])])

    def labels(self, split: str) -> NDArray[np.int64]:
        return np.arange(len(self.texts[split])) % 4


def fields_of(n: int) -> dict[str, NDArray[Any]]:
    return {
        "x": DRAW.normal(size=(n, 2, 3)),
        "y": DRAW.normal(size=(n, 5)).astype(np.float32),
        "half": DRAW.normal(size=n).astype(np.float16),
        "small": DRAW.integers(-9, 9, (n, 4)).astype(np.int16),
        "flag": DRAW.integers(0, 2, (n, 3)).astype(bool),
        "pixels": DRAW.integers(0, 256, (n, 3, 2, 2)).astype(np.uint8),
        "large": DRAW.integers(0, 2**32, n).astype(np.uint32),
        "labels": DRAW.integers(0, 7, n),
    }


TRAIN, VAL = fields_of(61), fields_of(22)
STREAM = {"train": DRAW.integers(1, 60000, 203).tolist(), "val": DRAW.integers(1, 60000, 57).tolist()}
TEXTS = {
    split: [DRAW.integers(1, 90, length).tolist() for length in DRAW.integers(1, 15, n)]
    for split, n in {"train": 41, "val": 22}.items()
}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArrayFile]:
    file = ArrayFile(tmp_path_factory.mktemp("arrays") / "a.h5", TRAIN, VAL)
    yield file
    file.close()


@pytest.fixture(scope="module", params=["uint16", "int32"])
def stream(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[TokenFile]:
    path = tmp_path_factory.mktemp("stream") / "s.h5"
    file = TokenFile(path, [STREAM["train"]], [STREAM["val"]], request.param, "stream")
    yield file
    file.close()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenFile]:
    path = tmp_path_factory.mktemp("texts") / "t.h5"
    file = TokenFile(path, TEXTS["train"], TEXTS["val"], "uint16", "texts")
    yield file
    file.close()


def settings(length: int = 8) -> Any:
    none = dict.fromkeys(("mixup", "cutmix", "random_erasing", "color_jitter", "lighting"), 0.0)
    return SimpleNamespace(seed=SEED, length=length, **none)


def sampler_for(modality: Modality, size: int = 1, rank: int = 0, accumulation: int = 1) -> Sampler:
    return Sampler(modality.count("train"), 4, size, rank, accumulation, SEED, noun=modality.noun)


Batches = list[dict[str, NDArray[Any]]]


def copies(batches: Iterable[Batch]) -> Batches:
    """The fields of each batch, and its ids."""
    return [
        {"ids": batch.ids, **{name: np.array(values) for name, values in batch.fields.items()}}
        for batch in batches
    ]


def validation(modality: Modality) -> Batches:
    with Loader(modality, 4) as loader:
        return copies(loader.validation(1, 0))


def training(loader: Loader, sampler: Sampler, start: int = 0) -> list[Batches]:
    return [copies(units) for units in loader.train(sampler, 1, start)]


def seen(modality: Modality, batches: Batches) -> Batches:
    """What a model sees of batches, as the compiled graph gives it on the CPU."""
    device.use("cpu")
    inputs = Inputs(modality, 4)
    graph = modality.graph(inputs.variables, training=True)
    function = pytensor.function([], list(graph.values()), mode=device.mode("cpu"))
    out = []
    for batch in batches:
        for name, variable in inputs.variables.items():
            values = batch[name]
            variable.set_value(values.astype(variable.dtype))
        out.append(dict(zip(graph, map(np.array, function()), strict=True)))
    return out


def same(one: Any, other: Any) -> bool:
    """Whether two lists of batches are the same, bit for bit."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


@pytest.fixture(params=["arrays", "stream", "texts"])
def modality(request: pytest.FixtureRequest, arrays: ArrayFile, texts: TokenFile, tmp_path: Path) -> Modality:
    """Each of them in turn."""
    if request.param == "arrays":
        return Arrays(arrays, settings())
    if request.param == "texts":
        return Tokens(texts, settings())
    file = TokenFile(tmp_path / "s.h5", [STREAM["train"]], [STREAM["val"]], "uint16", "stream")
    request.addfinalizer(file.close)
    return Tokens(file, settings())


# --- arrays


def test_every_field_of_every_item_arrives_as_it_is_stored(arrays: ArrayFile) -> None:
    modality = Arrays(arrays, settings())
    assert (modality.noun, modality.count("train"), modality.count("val")) == ("items", 61, 22)
    seen_ids = []
    with Loader(modality, 4) as loader:
        epoch = training(loader, sampler_for(modality))
    for units, ids in zip(epoch, sampler_for(modality).batches(1), strict=True):
        for batch, own in zip(units, ids, strict=True):
            seen_ids += own.tolist()
            for name, values in TRAIN.items():
                assert batch[name].dtype == values.dtype
                np.testing.assert_array_equal(batch[name], values[own])
            np.testing.assert_array_equal(batch["keys"], sample_keys(SEED, 1, own))
            assert batch["weights"].tolist() == [1] * 4
    assert len(seen_ids) == len(set(seen_ids)) == 60


def test_the_last_validation_batch_is_padded_and_each_item_counts_once(arrays: ArrayFile) -> None:
    batches = validation(Arrays(arrays, settings()))
    assert [batch["weights"].tolist() for batch in batches] == [[1] * 4] * 5 + [[1, 1, 0, 0]]
    counted = np.concatenate([batch["x"][batch["weights"] == 1] for batch in batches])
    np.testing.assert_array_equal(counted, VAL["x"])
    keys = np.concatenate([batch["keys"][batch["weights"] == 1] for batch in batches])
    assert len(set(keys.tolist())) == len(VAL["x"])


def test_a_model_sees_integers_as_int64_floats_as_float32_and_truth_values(arrays: ArrayFile) -> None:
    modality = Arrays(arrays, settings())
    kinds = {"x": "float32", "y": "float32", "half": "float32", "flag": "bool"}
    (batch,) = seen(modality, validation(modality)[:1])
    assert set(batch) == {*TRAIN, "weights", "keys"}
    for name, values in VAL.items():
        assert batch[name].dtype == kinds.get(name, "int64"), name
        np.testing.assert_array_equal(batch[name], values[:4].astype(batch[name].dtype))


def test_what_the_readers_have_filled_is_used_where_it_is_or_converted(arrays: ArrayFile) -> None:
    device.use("cpu")
    modality = Arrays(arrays, settings())
    inputs = Inputs(modality, 4)
    assert inputs.adopted == {"y", "small", "flag", "pixels", "labels"}
    held = {name: variable.dtype for name, variable in inputs.variables.items()}
    assert (held["x"], held["half"], held["large"]) == ("float32", "float32", "int64")
    with Loader(modality, 4, processes=2) as loader:
        feed = Feed(inputs, loader.validation(1, 0))
        for start in (0, 4, 8):
            feed.load()
            for name, values in VAL.items():
                tensor = inputs.variables[name].tensor
                np.testing.assert_array_equal(tensor.numpy(), values[start : start + 4].astype(held[name]))
                first = loader.memory.ctypes.data
                inside = first <= tensor.data_ptr() < first + loader.memory.nbytes
                assert inside == (name in inputs.adopted), name


# --- streams of tokens


def test_windows_have_every_token_but_the_first_as_a_target_once(stream: TokenFile) -> None:
    modality = Tokens(stream, settings())
    assert (modality.noun, modality.count("train"), modality.count("val")) == ("windows", 26, 7)
    batches = seen(modality, validation(modality))
    pairs = []
    for batch in batches:
        assert batch["tokens"].dtype == batch["targets"].dtype == "int64" and batch["mask"].dtype == "float32"
        for tokens, targets, mask, weight in zip(
            *(batch[name] for name in ("tokens", "targets", "mask", "weights")), strict=True
        ):
            pairs += [(int(a), int(b)) for a, b, m in zip(tokens, targets, mask, strict=True) if m and weight]
    assert pairs == list(zip(STREAM["val"], STREAM["val"][1:], strict=False))


def test_a_ragged_last_window_is_masked_and_zero_behind_its_end(stream: TokenFile, tmp_path: Path) -> None:
    modality = Tokens(stream, settings(length=20))  # 56 targets: 20, 20 and 16
    (batch,) = seen(modality, validation(modality))
    tokens = STREAM["val"]
    assert batch["mask"].sum(axis=1).tolist() == [20, 20, 16, 16] and batch["weights"].tolist() == [
        1,
        1,
        1,
        0,
    ]
    assert batch["mask"][2].tolist() == [1] * 16 + [0] * 4
    assert batch["tokens"][2].tolist() == tokens[40:] + [0] * 3
    assert batch["targets"][2].tolist() == tokens[41:] + [0] * 4


def test_targets_are_the_tokens_shifted_by_one_in_training_too(stream: TokenFile) -> None:
    modality = Tokens(stream, settings())
    with Loader(modality, 4) as loader:
        batches = [unit for units in training(loader, sampler_for(modality)) for unit in units]
    for batch, out in zip(batches, seen(modality, batches), strict=True):
        for row, i in enumerate(batch["ids"].tolist()):
            window = STREAM["train"][8 * i : 8 * i + 9]
            n = len(window) - 1
            assert out["tokens"][row, :n].tolist() == window[:-1]
            assert out["targets"][row, :n].tolist() == window[1:]
            assert out["mask"][row].tolist() == [1] * n + [0] * (8 - n)


def test_tokens_of_16_bits_become_int32_on_the_device(stream: TokenFile) -> None:
    inputs = Inputs(Tokens(stream, settings()), 4)
    assert inputs.variables["tokens"].dtype == "int32"
    assert inputs.adopted == ({"tokens"} if stream.dtype == np.int32 else set())


# --- texts


def test_texts_are_padded_masked_and_cut(texts: TokenFile) -> None:
    modality = Tokens(texts, settings())
    assert (modality.noun, modality.count("train"), modality.count("val")) == ("texts", 41, 22)
    batches = validation(modality)
    lengths = set()
    for batch, out in zip(batches, seen(modality, batches), strict=True):
        assert set(out) == {"tokens", "mask", "labels", "weights", "keys"}
        for row, i in enumerate(batch["ids"].tolist()):
            text = TEXTS["val"][i]
            n = min(len(text), 8)
            lengths.add(len(text))
            assert out["tokens"][row].tolist() == text[:8] + [0] * (8 - n)
            assert out["mask"][row].tolist() == [1] * n + [0] * (8 - n)
            assert out["labels"][row] == i % 4
    assert min(lengths) < 8 < max(lengths)


# --- whoever reads


def test_batches_do_not_depend_on_processes_or_depth(modality: Modality) -> None:
    sampler, results = sampler_for(modality, accumulation=2), []
    for processes, depth in ((1, 4), (2, 1), (3, 5)):
        with Loader(modality, 4, processes=processes, depth=depth) as loader:
            results.append(training(loader, sampler))
    assert same(results[1], results[0]) and same(results[2], results[0])


def test_batches_do_not_depend_on_the_split_into_ranks(modality: Modality) -> None:
    with Loader(modality, 4, processes=2) as loader:
        whole = training(loader, sampler_for(modality, accumulation=4))
        batches = copies(loader.validation(1, 0))
        for size in (2, 4):
            # Unit i of a minibatch belongs to rank i % k.
            ranks = [training(loader, sampler_for(modality, size, rank, 4 // size)) for rank in range(size)]
            for t, units in enumerate(whole):
                assert same([ranks[i % size][t][i // size] for i in range(len(units))], units)
            shares = [copies(loader.validation(size, rank)) for rank in range(size)]
            assert same([shares[i % size][i // size] for i in range(len(batches))], batches)


def test_a_restart_goes_on_with_the_same_batches(modality: Modality) -> None:
    sampler = sampler_for(modality, size=2, rank=1)
    with Loader(modality, 4) as loader:
        assert same(training(loader, sampler, start=2), training(loader, sampler)[2:])


def test_a_modality_of_a_users_own_is_one_file(tmp_path: Path) -> None:
    file = File(tmp_path / "s.h5", "sums", {"x": np.arange(30, dtype=np.uint8)})
    file.count = lambda split: 10  # type: ignore[attr-defined]
    content = file.path.read_bytes()
    modality = Sums(file, settings())
    for batch in validation(modality):
        assert batch["sum"].tolist() == [0.5 * sum(content[: i + 1]) for i in batch["ids"]]
        assert batch["length"].tolist() == (batch["ids"] + 1).tolist()
    file.close()


# --- what is refused


def refused(of: type[Modality], file: Any, **changes: Any) -> str:
    with pytest.raises(ConfigError) as error:
        of(file, settings(**changes))
    text = str(error.value)
    assert "\n" not in text and len(text) < 300
    return text


def without(name: str) -> Any:
    def __init__(self: Any, dataset: Any, config: Any) -> None:
        Sums.__init__(self, dataset, config)
        delattr(self, name)

    return __init__


def giving(given: Any) -> Any:
    def __init__(self: Any, dataset: Any, config: Any) -> None:
        Sums.__init__(self, dataset, config)
        self.given = given

    return __init__


OF_ITS_OWN: dict[str, tuple[str, Any, str]] = {
    "no read": ("__init__", without("read"), "read: expected fields by name, after super.* got none"),
    "a pair": ("__init__", giving({"a": ("int64", ())}), "given: a: expected a theanompi.data.Field .*, got .*"),
    "a dtype": ("__init__", giving({"a": Field("text", ())}), "given: a: expected a theanompi.data.Field .*"),
    "no keys": ("__init__", giving({"a": Field("int64", ())}), r"given: expected keys and weights too, .* got a"),
    "columns": ("columns", None, "columns: expected a whole number of at least 1, got None"),
    "reader": ("reader", "tests.SumReader", "reader: expected a theanompi.data.ReaderClass, .*, got 'tests.SumReader'"),
}  # fmt: skip
BATCHES: dict[str, tuple[Any, str]] = {
    "rows alone": (lambda rows, values: rows, r"expected rows and values by name, got array\(.*"),
    "a column": (lambda rows, values: (rows[:, :1], values), r"expected rows \(3, 2\), got \(3, 1\)"),
    "a row": (lambda rows, values: (rows[:1], values), r"expected rows \(3, 2\), got \(1, 2\)"),
    "no value": (lambda rows, values: (rows, {"keys": values["keys"]}), r"length: expected int64 \(3,\), got None"),
    "a fraction": (
        lambda rows, values: (rows, {**values, "length": values["length"] / 2}),
        r"length: expected int64 \(3,\), got float64 \(3,\)",
    ),
    "a shape": (
        lambda rows, values: (rows, {**values, "length": values["length"][:2]}),
        r"length: expected int64 \(3,\), got int64 \(2,\)",
    ),
}  # fmt: skip


@pytest.fixture
def sums(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path / "s.h5", "sums", {"x": np.arange(30, dtype=np.uint8)})
    file.count = lambda split: 10  # type: ignore[attr-defined]
    yield file
    file.close()


@pytest.mark.parametrize("mistake", OF_ITS_OWN)
def test_a_modality_of_ones_own_that_nothing_can_be_read_by_is_one_line(mistake: str, sums: File) -> None:
    attribute, value, message = OF_ITS_OWN[mistake]
    check_modality(Sums(sums, settings()))
    with pytest.raises(ConfigError, match=rf"^Own\.{message}$") as caught:
        check_modality(type("Own", (Sums,), {attribute: value})(sums, settings()))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("mistake", BATCHES)
def test_a_batch_that_is_not_as_its_modality_says_is_one_line(mistake: str, sums: File) -> None:
    """Labels that were floats were cut to whole numbers without a word."""
    make, message = BATCHES[mistake]
    ids = np.arange(3)
    own = type("Own", (Sums,), {"batch": lambda self, *which: make(*Sums.batch(self, *which))})
    batch_of(Sums(sums, settings()), "train", 0, ids)
    with pytest.raises(ConfigError, match=rf"(?s)^Own\.batch: {message}$"):
        batch_of(own(sums, settings()), "train", 0, ids)


def test_a_modality_that_does_not_fit_the_file(arrays: ArrayFile, stream: TokenFile) -> None:
    assert refused(Tokens, arrays) == (
        f"data file {arrays.path}: expected tokens, which the model is made for, got arrays"
    )
    assert "expected arrays, which the model is made for, got tokens" in refused(Arrays, stream)
    with open_dataset("digits") as digits:
        assert "expected tokens, which the model is made for, got pictures" in refused(Tokens, digits)
    with pytest.raises(ConfigError, match="expected pictures, which the model is made for, got arrays$"):
        pictures(arrays)  # type: ignore[arg-type]


def test_a_window_longer_than_the_stream(stream: TokenFile) -> None:
    assert Tokens(stream, settings(length=56)).count("val") == 1
    assert refused(Tokens, stream, length=57) == (
        f"length: expected at most 56, as {stream.path} has 57 val tokens, and the first is no target, got 57"
    )


def test_fewer_windows_than_a_batch(stream: TokenFile) -> None:
    modality = Tokens(stream, settings(length=56))
    with pytest.raises(
        ValueError, match="^sampler: expected at least batch_size = 5 training windows, got 4$"
    ):
        Sampler(modality.count("train"), 5, 1, 0, 1, SEED, noun=modality.noun)


@pytest.mark.parametrize(
    ("kind", "item"), [("arrays", "item 21"), ("stream", "window 6"), ("texts", "text 21")]
)
def test_a_file_that_is_cut_short_while_it_is_used(
    kind: str, item: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "arrays":
        split = {"x": VAL["x"]}
        file: Any = ArrayFile(tmp_path / "a.h5", split, split)
        modality: Modality = Arrays(file, settings())
    else:
        train, val = (
            ([STREAM["train"]], [STREAM["val"]]) if kind == "stream" else (TEXTS["train"], TEXTS["val"])
        )
        file = TokenFile(tmp_path / "t.h5", train, val, "int32", kind)
        modality = Tokens(file, settings(length=9 if kind == "stream" else 20))
    os.truncate(file.path, file.path.stat().st_size - 1)
    text = (
        rf"data file {re.escape(str(file.path))}: val {item}: expected \d+ bytes at byte \d+ of the file, which ends "
        rf"after \d+ of them; 'tmpack verify {re.escape(str(file.path))}' finds all that is damaged"
    )
    with pytest.raises(LoaderError, match=f"^{text}$"):
        validation(modality)
    file.close()
