"""Data of words: the packaged sentences and reviews, IMDB as it is published, Penn Treebank's files."""

import io
import json
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from theanompi.data import open_dataset
from theanompi.data.pack.command import main
from theanompi.data.sources import sentences
from theanompi.data.sources.sentences import REVIEWS, SENTENCES, expected, texts, written

# Packaged sentences and reviews


def test_the_entropy_is_the_mean_over_texts() -> None:
    mean = expected(SENTENCES, "SENTENCE")
    made = texts(SENTENCES, 1500 * ["SENTENCE"], 0)
    for name, values in {
        "nats": [one.nats for one in made],
        "words": [len(one.words) for one in made],
        "characters": [len(written(one)) for one in made],
    }.items():
        error = np.std(values) / math.sqrt(len(values))
        assert np.mean(values) == pytest.approx(getattr(mean, name), abs=4 * error), name


def test_texts_have_the_frequencies_of_their_probabilities() -> None:
    grammar = {"S": [(2.0, "a S"), (1.0, "b")]}
    made = texts(grammar, 2000 * ["S"], 0)
    counts: dict[str, int] = {}
    for one in made:
        counts[" ".join(one.words)] = counts.get(" ".join(one.words), 0) + 1
        # One derivation each: (2/3)^k · 1/3.
        assert one.nats == pytest.approx(-math.log((2 / 3) ** one.words.count("a") / 3))
    for k in range(4):
        p = (2 / 3) ** k / 3
        sigma = math.sqrt(2000 * p * (1 - p))
        assert counts[" ".join(["a"] * k + ["b"])] == pytest.approx(2000 * p, abs=4 * sigma)


@pytest.mark.parametrize("name", ["sentences", "reviews"])
def test_the_packaged_files_are_what_the_tool_makes(name: str, tmp_path: Path) -> None:
    sentences.main([name, f"{tmp_path}/made.h5"])
    with (
        open_dataset(name) as ours,
        h5py.File(ours.path) as packaged,
        h5py.File(tmp_path / "made.h5") as made,
    ):
        assert made.attrs["sha256"] == packaged.attrs["sha256"]
        assert not any(wrong for _, _, wrong in ours.verify())  # type: ignore[union-attr]


def test_the_sentences_say_what_a_model_can_reach() -> None:
    mean = expected(SENTENCES, "SENTENCE")
    with open_dataset("sentences") as data:
        assert f"{mean.nats / mean.characters:.4f} nats" in data.description
        assert (data.licence, data.n_tokens) == ("CC0", 27)  # type: ignore[union-attr]
        assert data.text(data.ids("val", 0, 20)).isprintable()  # type: ignore[union-attr]


def test_a_review_is_good_when_most_of_its_opinions_are() -> None:
    good, bad = ({word for _, word in REVIEWS[name]} for name in ("GOOD", "BAD"))
    with open_dataset("reviews") as data:
        for split in ("train", "val"):
            offsets, labels = data.offsets(split), data.labels(split)  # type: ignore[union-attr]
            whole = data.text(data.ids(split, 0, data.length(split))).split()  # type: ignore[union-attr]
            for i, label in enumerate(labels):
                opinions, turned = [], 1
                for word in whole[offsets[i] : offsets[i + 1]]:
                    turned = -1 if word == "not" else turned
                    if word in good | bad:
                        opinions.append(turned * (1 if word in good else -1))
                        turned = 1
                assert (len(opinions), sum(opinions) > 0) == (3, label == 1)


# IMDB

TEXTS = {"train": [[1, 2, 3, 2], [5, 1], [1], [4, 4, 9]], "test": [[2], [1, 7], [3, 3]]}
LABELS = {"train": [1, 0, 0, 1], "test": [0, 1, 1]}


class Forbidden:
    """What a pickle must not get to call."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("called"),))


def imdb(path: Path, **changed: Any) -> Path:
    """An imdb.npz as Keras has it, but for some arrays."""
    arrays = {f"x_{k}": np.array([*v, None], object)[:-1] for k, v in TEXTS.items()}
    arrays |= {f"y_{k}": np.array(v) for k, v in LABELS.items()}
    np.savez(path, **{k: v for k, v in (arrays | changed).items() if v is not None})
    return path


def objects(*values: Any) -> np.ndarray:
    return np.array([*values, None], object)[:-1]


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    """The one line that `tmpack` prints when it refuses, having written nothing."""
    before = sorted(tmp_path.iterdir())
    assert main([*words, "-o", f"{tmp_path}/out.h5"]) == 1
    assert sorted(tmp_path.iterdir()) == before
    lines = [line for line in capsys.readouterr().err.splitlines() if "what the words are" not in line]
    assert len(lines) == 1 and len(lines[0]) <= 310
    return lines[0]


def test_kerass_file_is_packed_by_its_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imdb(tmp_path / "imdb.npz")
    words = {"the": 1, "and": 2, "a": 3, "of": 4, "to": 5, "is": 6}
    (tmp_path / "imdb_word_index.json").write_text(json.dumps(words), "utf-8")
    assert main(["imdb", f"{tmp_path}/imdb.npz", "--vocabulary-size", "5", "-o", f"{tmp_path}/out.h5"]) == 0
    with open_dataset(tmp_path / "out.h5") as data:
        assert (data.name, data.class_names, data.kind) == ("IMDB", ["neg", "pos"], "texts")  # type: ignore[union-attr]
        assert data.vocabulary == ["<unk>", "the", "and", "a", "of", "to"]  # type: ignore[union-attr]
        assert data.labels("train").tolist() == LABELS["train"]  # type: ignore[union-attr]
        ids = data.ids("train", 0, data.length("train")).tolist()  # type: ignore[union-attr]
        assert ids == [1, 2, 3, 2, 5, 1, 1, 4, 4, 0]
        assert data.ids("val", 0, 3).tolist() == [2, 1, 0]  # type: ignore[union-attr]
        assert data.offsets("val").tolist() == [0, 1, 3, 5]  # type: ignore[union-attr]
    assert "train: 1 of 10 tokens (10 %) are <unk>" in capsys.readouterr().err


def test_without_a_list_of_words_they_are_called_by_their_ranks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imdb(tmp_path / "imdb.npz")
    assert main(["imdb", f"{tmp_path}/imdb.npz", "-o", f"{tmp_path}/out.h5"]) == 0
    with open_dataset(tmp_path / "out.h5") as data:
        assert data.vocabulary[:2] + data.vocabulary[-1:] == ["<unk>", "word1", "word9"]  # type: ignore[union-attr]
    assert "imdb_word_index.json is not there" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_object_arrays_of_every_protocol_are_read(protocol: int) -> None:
    from theanompi.data.sources.pickles import load_objects

    array = objects([1, 300, 70000], [2], [3, 2**40])
    assert load_objects(io.BytesIO(pickle.dumps(array, protocol))) == array.tolist()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, "expected arrays x_train, y_train, x_test and y_test, got no y_test"),
        ({"y_train": np.array([0, 2, 0, 1])}, "y_train: expected labels from 0 to 1, got 2 for text 1"),
        ({"y_train": np.array([0, 1])}, "x_train: expected a text for each of 2 labels, got 4"),
        ({"y_train": np.zeros(4)}, "y_train: expected an array of Keras's IMDB, got: expected whole numbers"),
        (
            {"x_test": np.zeros((3, 4), int)},
            "x_test: expected an array of Keras's IMDB, got: expected lists of words",
        ),
        ({"x_test": objects([1], [], [2])}, "x_test: text 1: expected a list of whole numbers, got []"),
        (
            {"x_test": objects([1], "good", [2])},
            "x_test: text 1: expected a list of whole numbers, got 'good'",
        ),
        ({"x_test": objects([1], [2.5], [2])}, "x_test: text 1: expected a list of whole numbers, got [2.5]"),
        ({"x_test": objects([1], [0], [2])}, "x_test: text 1: expected words from 1 to 9,999,999, got 0"),
        (
            {"x_test": objects([1], [10**20], [2])},
            "x_test: text 1: expected words from 1 to 9,999,999, got 1000",
        ),
        ({"x_test": objects([1], Forbidden(), [2])}, "pathlib"),
    ],
)
def test_another_file_is_refused(
    changed: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    imdb(tmp_path / "imdb.npz", **changed)
    assert message in refused(capsys, tmp_path, "imdb", f"{tmp_path}/imdb.npz")


def test_an_array_that_promises_more_than_it_has_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = objects([1], [2], [3])
    whole = pickle.dumps(array, 2)
    # The shape (3,) becomes (9,): three objects for nine places.
    assert whole.count(b"K\x03\x85") == 1
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (9,)})
    imdb(tmp_path / "part.npz", x_test=None)
    with zipfile.ZipFile(tmp_path / "part.npz", "a") as archive:
        archive.writestr("x_test.npy", header.getvalue() + whole.replace(b"K\x03\x85", b"K\x09\x85"))
    message = refused(capsys, tmp_path, "imdb", f"{tmp_path}/part.npz")
    assert "x_test: expected an array of Keras's IMDB, got: 3 objects for an array of shape (9,)" in message


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_damaged_file_is_one_line(keep: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = imdb(tmp_path / "imdb.npz").read_bytes()
    (tmp_path / "imdb.npz").write_bytes(data[: int(keep * len(data))])
    assert "expected" in refused(capsys, tmp_path, "imdb", f"{tmp_path}/imdb.npz")


def test_the_published_folder_is_packed_without_its_texts_of_no_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, text in {
        "train/pos/0_9.txt": "Good film, it's GOOD!<br /><br />Good.",
        "train/neg/1_2.txt": "Bad film.",
        "train/unsup/2_0.txt": "Whatever.",
        "test/pos/0_8.txt": "A good plot",
        "test/neg/1_1.txt": "bad, bad",
    }.items():
        (tmp_path / "aclImdb" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "aclImdb" / place).write_text(text, "utf-8")
    assert main(["imdb", f"{tmp_path}/aclImdb", "-o", f"{tmp_path}/out.h5"]) == 0
    with open_dataset(tmp_path / "out.h5") as data:
        assert (data.name, data.class_names) == ("IMDB", ["neg", "pos"])
        assert data.vocabulary == ["<unk>", "good", "film", "bad", "it's"]  # type: ignore[union-attr]
        assert data.ids("train", 0, 2).tolist() == [3, 2]  # type: ignore[union-attr]
        assert data.labels("val").tolist() == [0, 1]  # type: ignore[union-attr]
    assert "unsup" in capsys.readouterr().err


def test_a_folder_with_other_classes_is_no_imdb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("train/a/1.txt", "test/a/1.txt"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("text", "utf-8")
    assert "expected the classes neg and pos" in refused(capsys, tmp_path, "imdb", f"{tmp_path}")


# Penn Treebank


def test_penn_treebanks_files_keep_their_unknown_words_and_ends_of_lines(tmp_path: Path) -> None:
    (tmp_path / "ptb.train.txt").write_text(" no it was n't <unk> \n <unk> it was N \n", "utf-8")
    (tmp_path / "ptb.valid.txt").write_text(" it was <unk> \n", "utf-8")
    command = ["text", f"{tmp_path}/ptb.train.txt", "--val", f"{tmp_path}/ptb.valid.txt", "--tokens", "words"]
    assert main([*command, "-o", f"{tmp_path}/ptb.h5"]) == 0
    with open_dataset(tmp_path / "ptb.h5") as data:
        assert data.vocabulary == ["<unk>", "<eos>", "it", "was", "N", "n't", "no"]  # type: ignore[union-attr]
        assert data.ids("train", 0, 11).tolist() == [6, 2, 3, 5, 0, 1, 0, 2, 3, 4, 1]  # type: ignore[union-attr]
        assert data.ids("val", 0, 4).tolist() == [2, 3, 0, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("naïve".encode("latin1"), "expected text in UTF-8, got byte 0xef at position 2"),
        (b"", "expected text, got an empty file"),
        (b" \n "[:1], "expected words, got none for train"),
    ],
)
def test_what_is_no_text_is_refused(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "b.txt").write_text("fine", "utf-8")
    words = ["text", f"{tmp_path}/a.txt", "--val", f"{tmp_path}/b.txt", "--tokens", "words"]
    assert message in refused(capsys, tmp_path, *words)
