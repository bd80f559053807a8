"""What a run has trained is used: on image files by `tmlauncher predict`, on arrays by `theanompi.load`."""

import csv
import os
import re
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytensor.tensor as pt
import pytest
from PIL import Image

import theanompi
from tests.mpi import ROOT, run_warm
from tests.small_models import Rivals
from tests.users.masked_regression import MaskedRegression
from theanompi.cli import main
from theanompi.config import ConfigError
from theanompi.data import open_pictures, write_arrays
from theanompi.data.modality import VALIDATION
from theanompi.data.pack.packing import pack
from theanompi.data.reading.random import sample_keys
from theanompi.data.sources.folders import Folder
from theanompi.lasagne.layers import DenseLayer, InputLayer
from theanompi.models.lstm import LSTM
from theanompi.record.log import read_log
from theanompi.system.processes import children
from theanompi.training.classifier import Classifier
from theanompi.training.inputs import Feed
from theanompi.training.predictor import Predictor

pytestmark = pytest.mark.usefixtures("forks")

CLASSES = ["bright", "dark"]


def photograph(seed: int, height: int, width: int, dark: bool) -> Image.Image:
    """Noise in large squares, which resizing and reduction see."""
    noise = np.random.default_rng(seed).integers(0, 128, (9, 7, 3), np.uint8) + (0 if dark else 127)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)


def class_folders(root: Path) -> None:
    """Photographs as people have them: of any size, format and orientation."""
    for split, n in (("train", 4), ("val", 10)):
        for i in range(n):
            folder = root / split / CLASSES[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            image = photograph(i, 60 + 37 * i, 90 + 29 * (i % 4), dark=i % 2 == 1)
            exif = Image.Exif()
            exif[0x0112] = 6 if i % 3 == 0 else 1  # turned by a quarter
            if i % 4 == 3:
                image.convert("L").save(folder / f"{i}.png")
            else:
                image.save(folder / f"{i}.jpg", exif=exif)


def trained(out: Path, **settings: Any) -> dict[str, Any]:
    """Train a little, and give the last validation of the log."""
    common = {"modelfile": "small_models", "modelclass": "Normalised", "epochs": 1, "devices": ["cpu"]}
    done = run_warm(1, {**common, "base_batch": 8, "verbose": False, "out": str(out), **settings})
    assert done.returncode == 0, done.stdout + done.stderr
    return [record for record in read_log(out / "log.jsonl") if record["kind"] == "val"][-1]


@pytest.fixture(autouse=True)
def models_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run on the digits, with its last validation; neither mixing nor accumulation matter to who uses it."""
    run = tmp_path_factory.mktemp("prediction") / "run"
    return run, trained(run, batch_size=64, accumulation=3, mixup=0.2)


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("store", ["jpeg", "raw"])
def test_probabilities_are_those_of_the_validation_of_the_same_files(store: str, tmp_path: Path) -> None:
    class_folders(tmp_path)
    data = str(tmp_path / "data.h5")
    size = 40 if store == "raw" else None
    source = Folder(tmp_path / "train", tmp_path / "val")
    assert pack(source, data, store=store, size=size, processes=1)  # type: ignore[arg-type]
    logged = trained(tmp_path / "run", data=data, batch_size=4, image_size=16, base_lr=0.5)

    out = tmp_path / "out.csv"
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "val"), "-o", str(out)]) == 0
    rows = rows_of(out)
    files = [Path(row["file"]) for row in rows]
    assert files == sorted((tmp_path / "val").rglob("*.*")) and len(files) == logged["items"]
    wrong = [row["class_1"] != file.parent.name for row, file in zip(rows, files, strict=True)]
    assert np.mean(wrong) == logged["error"]
    classifier = theanompi.load(tmp_path / "run")
    loss = [
        -np.log(p.probabilities[CLASSES.index(Path(p.path).parent.name)])
        for p in classifier.predict_files(files)
        if p.probabilities is not None
    ]
    np.testing.assert_allclose(np.mean(loss), logged["loss"], rtol=1e-6)
    for row in rows:
        assert [float(row[f"probability_{k}"]) for k in (1, 2)] == pytest.approx(
            sorted([float(row["probability_1"]), 1 - float(row["probability_1"])])[::-1], abs=1e-5
        )


def test_arrays_have_the_probabilities_of_their_files(
    digits: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    run, logged = digits
    classifier = theanompi.load(run)
    with open_pictures("digits") as data:
        pixels = np.stack([data.pixels("val", i) for i in range(data.n_val)])
        labels = data.labels("val")
    assert classifier.class_names == [str(i) for i in range(10)]
    found = classifier.predict(np.repeat(pixels, 3, axis=3))
    assert found.shape == (360, 10) and found.dtype == np.float32
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    assert np.mean(found.argmax(1) != labels) == pytest.approx(logged["error"], abs=1e-12)
    np.testing.assert_allclose(-np.log(found[np.arange(360), labels]).mean(), logged["loss"], rtol=1e-6)
    files = [tmp_path / f"{i}.png" for i in range(70)]  # more than a batch
    for file, image in zip(files, pixels, strict=False):
        Image.fromarray(image[:, :, 0]).save(file)
    from_files = np.stack([p.probabilities for p in classifier.predict_files(files)])
    np.testing.assert_array_equal(from_files, found[:70])
    # Of one image none is mixed with another, and of so many there are not three batches.
    for n in (1, 600):
        other = theanompi.load(run, batch_size=n)
        np.testing.assert_allclose(other.predict(pixels[:2].repeat(3, axis=3)), found[:2], rtol=1e-5)


def test_pictures_larger_than_any_of_the_training_are_seen_as_a_whole(
    digits: tuple[Path, dict[str, Any]],
) -> None:
    classifier = theanompi.load(digits[0])
    small = np.asarray(photograph(0, 32, 32, dark=True))[None]
    large = small.repeat(4, axis=1).repeat(20, axis=2)
    np.testing.assert_allclose(classifier.predict(large), classifier.predict(small), atol=2e-3)
    assert classifier.predict(small[:0]).shape == (0, 10)


def test_what_is_no_array_of_pictures_is_refused(digits: tuple[Path, dict[str, Any]]) -> None:
    def lists() -> int:
        return sum("memfd" in os.path.realpath(file) for file in Path("/proc/self/fd").iterdir())

    before, classifier = lists(), theanompi.load(digits[0])
    assert lists() <= before, "arrays need no list of files"
    for odd in (np.zeros((2, 32, 32), np.uint8), np.zeros((2, 32, 32, 3)), np.zeros((2, 0, 32, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"images: expected uint8 \(n, h, w, 3\), got "):
            classifier.predict(odd)


def test_files_that_show_no_picture_are_named_and_the_rest_is_done(
    digits: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    photograph(0, 32, 32, dark=True).save(folder / "below" / "good.jpg")
    photograph(1, 50, 20, dark=True).save(folder / "z.png")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").touch()
    out = tmp_path / "out.csv"
    command = ["predict", str(digits[0]), str(folder), "-o", str(out), "--device", "cpu"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        f"tmlauncher: {folder}/bad.png: not an image",
        f"tmlauncher: {folder}/empty.jpg: empty file",
    ]
    assert ": 2 images by iteration 8 of " in printed.out
    assert printed.out.endswith(", 2 left out that show no picture\n")
    rows = rows_of(out)
    assert [row["file"] for row in rows] == [f"{folder}/below/good.jpg", f"{folder}/z.png"]
    assert [name for name in rows[0] if name.startswith("class")] == [f"class_{k}" for k in range(1, 6)]
    # What is there stays, unless it is to be replaced; a single file is taken whatever its name.
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert capsys.readouterr().err.endswith(
        "expected no file of this name, got one; --overwrite replaces it\n"
    )
    assert rows_of(out) == rows
    (folder / "z.png").rename(folder / "z")
    assert main([*command[:2], str(folder / "z"), *command[3:], "--overwrite"]) == 0
    (row,) = rows_of(out)
    assert row == {**rows[1], "file": f"{folder}/z"}


def test_what_cannot_be_predicted_is_one_line(
    digits: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(digits[0]), str(tmp_path / "out.csv")

    def line(*argv: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            main(["predict", *argv])
        (line,) = capsys.readouterr().err.splitlines()
        assert len(line) <= 300
        return line

    assert "run: expected a run's folder or its checkpoint" in line("nowhere", str(tmp_path), "-o", out)
    assert "expected images in the folder, got none" in line(run, str(tmp_path), "-o", out)
    assert "image: expected a file or a folder" in line(run, "nowhere", "-o", out)
    assert "expected a folder to write in" in line(run, str(tmp_path), "-o", str(tmp_path / "a" / "out.csv"))
    photograph(0, 32, 32, dark=True).save(tmp_path / "a.png")
    assert "device: expected one" in line(run, str(tmp_path), "-o", out, "--device", "cpu,cpu")
    assert not Path(out).exists()


@pytest.mark.parametrize(
    ("number", "status", "message"),
    [
        (signal.SIGINT, 130, "tmlauncher: stopped by SIGINT"),
        (signal.SIGKILL, 1, r"tmlauncher: loader process \d+ ended by signal SIGKILL while reading .*"),
    ],
    ids=["ctrl-c", "dead-loader"],
)
def test_what_ends_a_prediction_early_is_one_line_and_leaves_no_table(
    number: signal.Signals,
    status: int,
    message: str,
    digits: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photograph(0, 32, 32, dark=True).save(tmp_path / "a.png")
    load, there = Feed.load, set(children(os.getpid()) or ())

    def load_after_the_signal(feed: Feed) -> None:
        loaders = set(children(os.getpid()) or ()) - there
        for process in (os.getpid(),) if number == signal.SIGINT else loaders:
            os.kill(process, number)
        load(feed)

    out = tmp_path / "out.csv"
    with mock.patch.object(Feed, "load", load_after_the_signal), ExitStack() as stack:
        if number == signal.SIGKILL:  # the loader has not read its batch before that
            stack.enter_context(mock.patch("theanompi.data.reading.process.main", signal.pause))
        assert main(["predict", str(digits[0]), str(tmp_path / "a.png"), "-o", str(out)]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(message, line) and len(line) <= 300
    assert not out.exists()


def test_only_classifiers_of_pictures_can_be_used() -> None:
    texts = LSTM({"data": "reviews", "length": 8})
    with pytest.raises(ConfigError, match="LSTM: .*, got a model of tokens without$"):
        Classifier(texts, 0, 1)
    rivals = Rivals({"image_size": 8, "batch_size": 4})
    rivals.network = DenseLayer(InputLayer((4, 1, 8, 8)), 3, name="three")
    with pytest.raises(ConfigError, match=r"Rivals: expected class scores of shape \(4, 10\) from the first"):
        Classifier(rivals, 0, 1)


def test_a_class_with_predictions_takes_pixels_as_a_classifier_does(
    digits: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = digits
    with open_pictures("digits") as data:
        pixels = np.stack([data.pixels("val", i) for i in range(70)]).repeat(3, axis=3)  # more than a batch
    expected = theanompi.load(run).predict(pixels)
    monkeypatch.setattr("small_models.Normalised.predictions", lambda self, batch: self.scores(batch))
    predictor = theanompi.load(run)
    scores = np.exp(predictor.predict(images=pixels)["predictions"])
    np.testing.assert_allclose(scores / scores.sum(1, keepdims=True), expected, rtol=1e-5)
    assert predictor.predict(images=pixels[:0])["predictions"].shape == (0, 10)
    with pytest.raises(ValueError, match=r"^images: expected uint8 \(n, h, w, 3\), got uint8 \(70, 3, .*\)$"):
        predictor.predict(images=pixels.transpose(0, 3, 1, 2))


class Outputs(MaskedRegression):
    made: Any = None

    def predictions(self, batch: Any) -> Any:
        return self.made(batch)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data file of 20 items with fields x (3,), y (2,) and known (2,), all ones but x."""
    path = tmp_path_factory.mktemp("points") / "points.h5"
    x = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    fields = {"x": x, "y": np.ones((20, 2), np.float32), "known": np.ones((20, 2), np.float32)}
    write_arrays(path, fields, fields, name="points")
    return path


@pytest.fixture(scope="module")
def regression(points: Path) -> tuple[Path, Any]:
    """A run of the regression of tests/users, and what it predicts, in NumPy."""
    run = points.parent / "run"
    trained(
        run, modelfile="users.masked_regression", modelclass="MaskedRegression", data=str(points), ema=0.5
    )
    with h5py.File(run / "checkpoint.h5") as file:
        w = {name: np.float64(file[f"weights/{name}"]) for name in file["weights"]}
    return run, lambda x: np.tanh(x @ w["hidden.W"] + w["hidden.b"]) @ w["targets.W"] + w["targets.b"]


@pytest.mark.parametrize("n", [0, 1, 8, 19])
def test_a_model_of_arrays_predicts_what_its_class_names(regression: tuple[Path, Any], n: int) -> None:
    run, expected = regression
    predictor = theanompi.load(run)
    assert predictor.names == ("y",) and list(predictor.fields) == ["x"]
    x = np.random.default_rng(n).normal(size=(n, 3))
    given = x.tolist() if n else x
    made = predictor.predict(x=given, known=0)["y"]
    assert made.dtype == np.float32 and made.shape == (n, 2)
    np.testing.assert_allclose(made, expected(x), rtol=1e-5, atol=1e-6)


def test_predictions_of_an_npz_file_are_one(
    regression: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, expected = regression
    x = np.random.default_rng(0).normal(size=(11, 3))
    np.savez(tmp_path / "new.npz", x=x)
    command = [
        "predict",
        str(run),
        str(tmp_path / "new.npz"),
        "-o",
        str(tmp_path / "out.npz"),
        "--device",
        "cpu",
    ]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out.npz: y of 11 items by iteration 2 of {run}\n"
    with np.load(tmp_path / "out.npz") as made:
        assert list(made) == ["y"]
        np.testing.assert_allclose(made["y"], expected(x), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_predicted_of_arrays_is_one_line(
    regression: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(path: str, out: str = "out.npz") -> str:
        with pytest.raises(SystemExit, match="2"):
            main(
                [
                    "predict",
                    str(regression[0]),
                    str(tmp_path / path),
                    "-o",
                    str(tmp_path / out),
                    "--device",
                    "cpu",
                ]
            )
        (line,) = capsys.readouterr().err.splitlines()
        assert len(line) <= 300 and not (tmp_path / out).exists()
        return line

    x = np.zeros((4, 3))
    np.savez(tmp_path / "good.npz", x=x)
    np.savez(tmp_path / "wide.npz", x=np.zeros((4, 5)))
    np.savez(tmp_path / "none.npz", known=x)
    np.savez(tmp_path / "split.npz", train_x=x, x=x)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:-30])
    photograph(0, 32, 32, dark=True).save(tmp_path / "a.png")
    assert "image: expected a file or a folder" in line("there.npz")
    assert "cut.npz: expected an .npz file of arrays, got: " in line("cut.npz")
    assert "a.png: expected one .npz file, of a run whose class has a method predictions, of the" in line(
        "a.png"
    )
    wrong = line("good.npz", "out.csv")
    assert "out: expected a name that ends in .npz, of a run whose " in wrong and wrong.endswith(
        "got 'out.csv'"
    )
    assert "x: expected float32 (n, 3), got float64 (4, 5)" in line("wide.npz")
    assert "predict: expected the fields x, got no x" in line("none.npz")
    assert "predict: expected the fields x, got train_x, which no batch has" in line("split.npz")


def normal(shape: tuple[int, ...]) -> Any:
    return pt.random.normal(
        size=shape, rng=pt.random.shared_rng(np.random.default_rng(0)), return_next_rng=True
    )[1]


def outputs(points: Path, made: Any) -> Predictor:
    model = type("Outputs", (Outputs,), {"made": staticmethod(made)})({"data": str(points), "batch_size": 8})
    model.cleanup()
    return Predictor(model, 0)


def test_keys_and_weights_are_not_the_users_to_give(points: Path) -> None:
    predictor = outputs(
        points, lambda b: {"k": b["keys"], "s": b["x"].sum(axis=1) * b["weights"] + b["y"][:, 0]}
    )
    assert list(predictor.fields) == ["x", "y"]
    made = predictor.predict(x=np.ones((9, 3)), y=np.ones((9, 2)))
    assert made["s"].tolist() == [4] * 9
    assert made["k"].tolist() == sample_keys(0, VALIDATION, np.arange(9)).tolist()
    with pytest.raises(
        ValueError, match="^predict: expected as many items of each field, got 9 of x, 8 of y$"
    ):
        predictor.predict(x=np.ones((9, 3)), y=np.ones((8, 2)))
    with pytest.raises(ValueError, match=r"^y: expected float32 \(n, 2\), got .*U1 \(8, 2\)$"):
        predictor.predict(x=np.ones((8, 3)), y=np.full((8, 2), "a"))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda b: None, "expected a variable, or variables by name, got None"),
        (lambda b: {}, "expected a variable, or variables by name, got {}"),
        (lambda b: {"file": b["x"]}, "expected a variable, or variables by name, got {'file': x}"),
        (lambda b: {"y": 3}, "expected a variable, or variables by name, got {'y': 3}"),
        (lambda b: b["x"].sum(), r"predictions: expected an entry for each of 8 items, got shape \(\)"),
        (lambda b: {"y": b["x"].flatten()}, r"y: expected an entry for each of 8 items, got shape \(24,\)"),
        (lambda b: b["x"] + normal((8, 3)), "expected noise by keys, .*"),
    ],
)
def test_predictions_that_are_none_are_refused(points: Path, made: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^Outputs.predictions: {message}$"):
        outputs(points, made)


def test_predictions_of_another_length_than_they_seemed_to_have_are_refused(points: Path) -> None:
    predictor = outputs(points, lambda b: b["x"][b["x"][:, 0] > 0])
    assert predictor.predict(x=np.ones((2, 3)))["predictions"].shape == (2, 3)
    with pytest.raises(
        ValueError, match="^predictions: predictions: expected an entry for each of 8 items, got 0$"
    ):
        predictor.predict(x=-np.ones((2, 3)))
