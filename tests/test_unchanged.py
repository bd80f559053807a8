"""What must stay the same for ever: the bits that training gives, and what can be done with what was written before.

That the bits are the right ones is for `test_training_reference` to say, anywhere and within a tolerance; here they
are held against those of a version before, where the record has a place like this one.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.keep_written import COLOURS, picture
from tests.record_unchanged import (
    CASES,
    KEPT,
    KEPT_RUNS,
    RECORD,
    RESUMED,
    Digests,
    digests_of,
    main,
    place,
    record_of,
    trained,
)
from theanompi import cli
from theanompi.data import open_dataset
from theanompi.data.pack import command
from theanompi.record import checkpoint
from theanompi.record.log import read_log

REPORT = ("report.json", "report.md")


@pytest.fixture(params=KEPT, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest) -> Path:
    """What one version has written."""
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unchanged")


@pytest.fixture(scope="module")
def digests(folder: Path) -> Digests:
    """Of all runs; without a record of this place only of those that former versions have begun, and of the same ones
    begun by this one."""
    cases = CASES if record_of(place()) else {case: CASES[case] for case in KEPT_RUNS.values()}
    return trained(folder, RESUMED | cases)


def expected(case: str) -> dict[str, str]:
    """The recorded digests."""
    here = place()
    record = record_of(here)
    if record is None:
        pytest.skip(
            f"no bits are recorded for {json.dumps(here)}: at a revision that is known to be right, "
            "python -m tests.record_unchanged does it"
        )
    found: dict[str, str] = record["digests"][case]
    return found


@pytest.mark.parametrize("case", CASES)
def test_twenty_updates_give_the_recorded_bits(case: str, digests: Digests) -> None:
    recorded = expected(case)  # which may skip
    assert digests[case] == recorded


@pytest.mark.parametrize("case", RESUMED)
def test_a_run_of_a_former_version_goes_on_to_the_recorded_bits(case: str, digests: Digests) -> None:
    recorded = expected(case)  # which may skip
    assert digests[case] == recorded


@pytest.mark.parametrize("run", KEPT_RUNS)
def test_a_run_of_a_former_version_goes_on(kept: Path, run: str, digests: Digests, folder: Path) -> None:
    """In any place: it trains on, and its log goes on where it was."""
    before, after = kept / run, folder / kept.name / run
    old, at = checkpoint.load(before / "checkpoint.h5")
    new, now = checkpoint.load(after / "checkpoint.h5")
    assert (at["iteration"], now["iteration"]) == (12, 20)
    assert old.keys() == new.keys() and all(np.isfinite(value).all() for value in new.values())
    assert all((new[name] != old[name]).any() for name in old)
    first, second = (read_log(path / "log.jsonl") for path in (before, after))
    assert first[-1]["kind"] == "summary" and second[: len(first) - 1] == first[:-1]
    iterations = [line["iteration"] for line in second if line["kind"] == "train"]
    assert iterations[-1] == 20 and iterations == sorted(set(iterations))
    config = json.loads((after / "config.json").read_text())
    assert (config["resume"], config["sync_type"]) == (True, run.removeprefix("run_"))


@pytest.mark.parametrize("run", KEPT_RUNS)
def test_a_run_of_a_former_version_goes_on_as_if_never_stopped(
    kept: Path, run: str, digests: Digests, folder: Path
) -> None:
    """In any place, and though sums are made in another order by now: nothing is lost, no batch comes twice."""
    old, new, never = (
        checkpoint.load(path / "checkpoint.h5")[0]
        for path in (kept / run, folder / kept.name / run, folder / KEPT_RUNS[run])
    )
    assert new.keys() == never.keys()
    for name, value in new.items():
        moved, differs = (np.linalg.norm(value - other[name]) for other in (old, never))
        assert differs < 0.01 * moved, name


@pytest.mark.parametrize("run", KEPT_RUNS)
def test_a_checkpoint_of_a_former_version_is_read_as_it_was_written(kept: Path, run: str) -> None:
    written = json.loads((kept / "written.json").read_text())
    assert digests_of(kept / run / "checkpoint.h5") == written["digests"][run]


def test_the_record_is_of_runs_that_differ() -> None:
    """But for four batches as two of one rank, or one of two; what former versions began is in each record."""
    for record in json.loads(RECORD.read_text()):
        assert record["digests"].keys() == CASES.keys() | RESUMED.keys()
        weights = {record["digests"][case]["weights"] for case in CASES}
        assert len(weights) >= len(CASES) - 1, record["place"]


def test_a_recorded_place_is_not_recorded_again_unasked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = tmp_path / "unchanged.json"
    record.write_text(json.dumps([{"place": place(), "revision": "", "digests": {}}]))
    monkeypatch.setattr("tests.record_unchanged.RECORD", record)
    monkeypatch.setattr("tests.record_unchanged.trained", pytest.fail)
    monkeypatch.setattr("sys.argv", ["record_unchanged.py"])
    before = record.read_bytes()
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2 and record.read_bytes() == before
    assert "expected none for this place, got one; --overwrite replaces it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pictures.h5", "pixels.h5"])
def test_a_data_set_of_a_former_version_is_read(
    kept: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every picture has the colour of its class and, where it is not made smaller, is what was drawn."""
    assert command.main(["info", str(kept / name)]) == 0
    info = capsys.readouterr().out
    rows = {" ".join(row.split()) for row in info.splitlines()}
    assert rows >= {"name colours", "classes 3: blue, green, red", "left out 1 file"}, info
    assert "train/red/no picture.jpg: not an image" in rows
    assert command.main(["verify", str(kept / name)]) == 0
    with open_dataset(kept / name) as data:
        assert data.class_names == list(COLOURS)
        for split, count in (("train", 4), ("val", 2)):
            labels = data.labels(split).tolist()
            assert labels == [label for label in range(3) for _ in range(count)]
            for position, label in enumerate(labels):
                colour = COLOURS[data.class_names[label]]
                pixels = data.pixels(split, position)
                np.testing.assert_allclose(pixels.mean((0, 1)), colour, atol=10)
                number = position % count
                assert f"{data.class_names[label]} {number}." in data.image_name(split, position)
                if name == "pixels.h5":
                    assert min(pixels.shape[:2]) == 16
                else:  # JPEG keeps only a part of the noise
                    drawn = np.asarray(picture(colour, 10 * label + number), float)
                    assert pixels.shape == drawn.shape and np.abs(pixels - drawn).mean() < 10


def report_of(folder: Path) -> dict[str, str]:
    """A report's texts; former ones spoke of five epochs where a run had fewer."""
    texts = {name: (folder / name).read_text("utf-8") for name in REPORT}
    return {
        name: text.replace("median of the last five epochs", "median of 2 epochs")
        for name, text in texts.items()
    }


def test_a_finished_experiment_of_a_former_version_reports_the_same(kept: Path, tmp_path: Path) -> None:
    out = shutil.copytree(kept / "experiment", tmp_path / "experiment")
    for name in REPORT:
        (out / name).unlink()
    assert cli.main(["report", str(out)]) == 0
    assert report_of(out) == report_of(kept / "experiment")
    assert (out / "curves.png").exists()


def test_a_finished_experiment_of_a_former_version_is_not_run_again(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(kept / "experiment", tmp_path / "experiment")
    before = {
        path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name not in REPORT
    }
    assert cli.main(["compare", str(kept / "experiment.toml"), "--out", str(out)]) == 0
    assert "6 runs, 6 of them done" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert report_of(out) == report_of(kept / "experiment")


def test_what_is_kept_is_small(kept: Path) -> None:
    assert sum(path.stat().st_size for path in kept.rglob("*") if path.is_file()) < 300_000
