"""The report of an experiment: numbers against loops and tables, words by their text, on logs of known errors."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.made_up import Trial, write_experiment, write_run
from tests.mpi import ROOT
from theanompi import cli
from theanompi.config import ConfigError
from theanompi.experiments.report import report
from theanompi.experiments.results import read_results, read_run
from theanompi.experiments.statistics import Cell, Run, difference, time_of
from theanompi.record.metrics import Reported

pytestmark = pytest.mark.usefixtures("pictures")

# Student's t, 97.5 %, by degrees of freedom: from a printed table.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}

THEIRS_4 = (0.118, 0.121, 0.115, 0.119, 0.122)
THEIRS_8 = (0.110, 0.124, 0.113, 0.121, 0.119)
MINE_4 = (0.131, 0.135, 0.129, 0.140, 0.133)
MINE_8 = (0.232, 0.221, 0.240, 0.229, 0.236)
REASON = "the loss is not finite on rank 0 (nan), η = 3.2"


def flat(error: float, epochs: int = 6) -> Trial:
    """A run whose median is the error, whatever was before."""
    return Trial((0.9, *(error + d for d in (0.004, -0.002, 0.0, 0.003, -0.004)))[-epochs:])


def diverged(epochs: int = 1) -> Trial:
    return Trial([0.95] * epochs, "diverged")


def slides(folder: Path, **more: Any) -> Path:
    cells = {
        ("my_way", 4): [flat(e) for e in MINE_4],
        ("my_way", 8): [flat(e) for e in MINE_8],
        ("their_way", 4): [flat(e) for e in THEIRS_4],
        ("their_way", 8): [flat(e) for e in THEIRS_8],
    }
    return write_experiment(folder, cells, **more)


def by_hand(a: Any, b: Any) -> tuple[float, float]:
    """Mean difference (points) and half of the 95 % interval, in loops."""
    differences = [100 * (x - y) for x, y in zip(a, b, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = 0.0
    for value in differences:
        variance += (value - mean) ** 2 / (n - 1)
    return mean, T[n - 1] * math.sqrt(variance / n)


def written(folder: Path) -> dict[str, Any]:
    """report.json, which must be strict JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"not strict JSON: {name}")

    content: dict[str, Any] = json.loads((folder / "report.json").read_text(), parse_constant=refuse)
    return content


def cell_of(content: dict[str, Any], arm: str, workers: int) -> dict[str, Any]:
    (cell,) = (c for c in content["cells"] if (c["arm"], c["workers"]) == (arm, workers))
    return cell


def cell(*ends: float | str, arm: str = "a", workers: int = 4) -> Cell:
    """A cell of runs that finished with an error (%), or ended in a state."""
    runs = [
        Run(seed, end) if isinstance(end, str) else Run(seed, "finished", validation={1: end})
        for seed, end in enumerate(ends)
    ]
    return Cell(arm, workers, 8 * workers, tuple(runs))


# One run.


@pytest.mark.parametrize(
    ("errors", "figure"),
    [
        ([0.9, 0.5, 0.10, 0.14, 0.12, 0.11, 0.13], 12.0),
        ([0.10, 0.14, 0.12, 0.11, 0.13], 12.0),
        ([0.3, 0.1, 0.2], 20.0),
        ([0.4, 0.2], 30.0),
    ],
)
def test_the_figure_is_the_median_of_the_last_five_epochs_or_of_all(tmp_path, errors, figure):
    write_run(tmp_path, Trial(errors))
    assert read_run(tmp_path, 0).figure == pytest.approx(figure)


def test_an_epoch_that_has_trained_nothing_is_no_point_of_the_curve(tmp_path):
    write_run(tmp_path, Trial([0.5, 0.4]))
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    records[0]["items"] = records[1]["items"] = 0
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert list(read_run(tmp_path, 0).train) == [2]


def test_training_error_is_weighted_by_images(tmp_path):
    """Lines of 300 and 100 images: 0.19 and 0.23 make 0.20."""
    write_run(tmp_path, Trial([0.5, 0.4], train=[0.20, 0.10]))
    run = read_run(tmp_path, 0)
    assert run.train == pytest.approx({1: 20.0, 2: 10.0})
    assert run.validation == pytest.approx({1: 50.0, 2: 40.0})
    assert run.versions == {"theanompi": "0.1", "torch": "2.13.0"}


@pytest.mark.parametrize(
    ("trial", "state", "reason", "epoch"),
    [
        (Trial([0.2, 0.1]), "finished", "", 2),
        (Trial([0.9], "diverged", output="much\nmore\n"), "diverged", REASON, 2),
        (Trial([], "diverged"), "diverged", REASON, 1),
        (Trial([0.9, 0.8], ""), "unfinished", "", 2),
        (
            Trial([0.9], "", "begin\n 3/9\r 4/9\rkilled by signal 9  \n\n"),
            "unfinished",
            "killed by signal 9",
            1,
        ),
        (Trial([], "", "data: expected a file, got none\n"), "missing", "data: expected a file, got none", 0),
        # A run too short to be validated has no figure.
        (Trial([], "summary"), "unfinished", "", 0),
    ],
)
def test_the_state_of_a_run_is_in_its_log(tmp_path, trial, state, reason, epoch):
    write_run(tmp_path, trial)
    run = read_run(tmp_path, 7)
    assert (run.seed, run.state, run.reason, run.epoch) == (7, state, reason, epoch)
    assert (run.figure is not None) == (state == "finished")


def test_a_run_with_a_validation_missing_has_not_finished(tmp_path):
    """As when the log lost lines that were not on the disk yet."""
    write_run(tmp_path, Trial([0.3, 0.2, 0.1]))
    (tmp_path / "config.json").write_text(json.dumps({"epochs": 3}))
    log = tmp_path / "log.jsonl"
    assert read_run(tmp_path, 0).state == "finished"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"epoch": 1' not in line))
    assert read_run(tmp_path, 0).state == "unfinished"


def test_a_torn_last_line_is_a_run_that_goes_on(tmp_path):
    write_run(tmp_path, Trial([0.2, 0.1]))
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text()[:-10])
    assert read_run(tmp_path, 0).state == "unfinished"


# Cells and differences.


def test_mean_and_standard_deviation_of_a_cell(tmp_path):
    report(slides(tmp_path))
    for arm, k, errors in [("my_way", 4, MINE_4), ("their_way", 8, THEIRS_8)]:
        found = cell_of(written(tmp_path), arm, k)
        mean = sum(errors) / 5
        std = math.sqrt(sum((e - mean) ** 2 for e in errors) / 4)
        assert found["mean"] == pytest.approx(100 * mean, abs=1e-6)
        assert found["std"] == pytest.approx(100 * std, abs=1e-6)
        assert [run["error"] for run in found["runs"]] == pytest.approx([100 * e for e in errors])
        assert (found["minibatch"], found["finished"], found["diverged"], found["incomplete"]) == (
            8 * k,
            5,
            0,
            0,
        )


def test_curves_are_means_over_seeds_by_epoch(tmp_path):
    errors = np.array([[0.5, 0.3], [0.6, 0.2], [0.4, 0.1]])
    trials = [Trial(list(row), train=list(row + 0.05)) for row in errors]
    # Neither one that diverged nor one that goes on is part of a mean.
    report(write_experiment(tmp_path, {("a", 4): [*trials, diverged(2), Trial([0.9], "")]}))
    curves = cell_of(written(tmp_path), "a", 4)["curves"]
    for kind, values in (("validation", errors), ("train", errors + 0.05)):
        assert curves[kind]["epoch"] == [1, 2]
        assert curves[kind]["mean"] == pytest.approx(100 * values.mean(0), abs=1e-6)
        assert curves[kind]["std"] == pytest.approx(100 * values.std(0, ddof=1), abs=1e-6)


def test_differences_are_paired_with_an_interval_from_students_t(tmp_path):
    report(slides(tmp_path))
    found = written(tmp_path)["differences"]
    expected = [(MINE_8, MINE_4, "worse"), (THEIRS_8, THEIRS_4, "undecided")]
    for one, (a, b, verdict) in zip(found["across_workers"], expected, strict=True):
        mean, half = by_hand(a, b)
        assert one["mean"] == pytest.approx(mean, abs=1e-6)
        assert one["half_of_95_percent_interval"] == pytest.approx(half, rel=2e-4)
        assert one["verdict"] == verdict
    assert [(d["of"], d["against"], d["verdict"]) for d in found["across_arms"]] == [
        ({"arm": "their_way", "workers": k}, {"arm": "my_way", "workers": k}, "better") for k in (4, 8)
    ]


def test_pairs_are_of_the_same_seed():
    """The seeds differ much, the arms by a little in each: only pairs show it."""
    a, b = (10.0, 20.0, 30.0), (9.0, 19.1, 28.9)
    found = difference(cell(*a), cell(*b))
    mean, half = by_hand(np.array(a) / 100, np.array(b) / 100)
    assert (found.mean, found.half) == (pytest.approx(mean), pytest.approx(half, rel=2e-4))
    assert (found.verdict, mean > half) == ("worse", True)
    # A seed that is missing on one side leaves out its partner.
    assert difference(cell(10.0, "missing", 30.0), cell(*b)).points == pytest.approx({0: 1.0, 2: 1.1})
    assert difference(cell(10.0, "unfinished", 30.0), cell(*b)).pairs == 2
    found = difference(cell(*b), cell(10.0, "missing", 30.0))
    assert (found.pairs, found.only_other, found.points) == (2, (), pytest.approx({0: -1.0, 2: -1.1}))


@pytest.mark.parametrize(
    ("a", "b", "verdict", "half"),
    [
        ((10.0, 11.0, 12.0), (10.0, 11.0, 12.0), "undecided", 0.0),
        ((10.5, 11.5, 12.5), (10.0, 11.0, 12.0), "worse", 0.0),
        ((9.5, 10.5, 11.5), (10.0, 11.0, 12.0), "better", 0.0),
        # Equal but for rounding.
        ((9.4, 10.4), (10.1, 11.1), "unknown", None),
        ((10.0, 11.0), (10.0, 11.0), "unknown", None),
        ((0.0, 0.0), (0.0, 0.0), "unknown", None),
        ((10.0,), (11.0,), "unknown", None),
        (("missing",), (11.0,), "unknown", None),
    ],
)
def test_no_variance_and_too_few_pairs(a, b, verdict, half):
    found = difference(cell(*a), cell(*b))
    assert (found.verdict, found.half) == (verdict, half)


def test_chance_alone_is_called_a_difference_or_agreement_no_more_often_than_is_said():
    """Errors of 360 images, in seeds that differ by nothing, or by as much as the margin."""
    rng = np.random.default_rng(0)

    def drawn(mean: float, seeds: int) -> Cell:
        return cell(*(rng.normal(mean, 0.4, seeds) * 3.6).round() / 3.6)

    for seeds in (2, 5):
        same = [difference(drawn(7, seeds), drawn(7, seeds)).verdict for _ in range(1000)]
        assert sum(verdict in ("worse", "better") for verdict in same) < 0.065 * 1000
        apart = [difference(drawn(7.5, seeds), drawn(7, seeds)).equivalent(0.5) for _ in range(1000)]
        assert apart.count(True) < 0.035 * 1000


X = "diverged"


@pytest.mark.parametrize(
    ("a", "b", "verdict", "numbers"),
    [
        # Better wherever it ended well, and worse all the same.
        ((X, 5.0, 5.1, 5.2), (9.0, 9.0, 9.1, 9.2), "worse", False),
        ((9.0, 9.1, 9.2), (X, X, 5.0), "better", False),
        ((X, X, X), (9.0, 9.1, 9.2), "worse", False),
        ((X, 9.0, 9.0), (9.0, X, 9.0), "unknown", False),
        ((X, X, 9.0, 9.0), (9.0, 9.0, X, 9.0), "unknown", False),
        ((X, X, 9.0), (X, 9.0, 9.0), "worse", False),
        ((X, 9.0, 9.1), (X, 8.0, 8.2), "worse", True),
        ((X, 9.0, 9.3), (X, 9.1, 9.0), "undecided", True),
        ((X, 9.0), (X, 8.0), "unknown", False),
        ((X, X), (X, X), "unknown", False),
        # The partner of the one that diverged is missing: nothing is known of that seed.
        ((X, 9.0, 9.1), ("missing", 9.1, 9.1), "undecided", True),
    ],
)
def test_a_diverged_run_is_worse_than_any_other(a, b, verdict, numbers):
    found = difference(cell(*a), cell(*b))
    assert found.verdict == verdict
    assert (found.half is not None) == numbers
    mirrored = {"worse": "better", "better": "worse"}
    assert difference(cell(*b), cell(*a)).verdict == mirrored.get(verdict, verdict)


# Claims.


@pytest.mark.parametrize(
    ("a", "b", "results"),
    [
        # Of "a ~ b", "a > b", "a < b".
        ((12.0, 12.1, 12.2), (10.0, 10.2, 10.1), ("does not agree", "agrees", "does not agree")),
        ((10.0, 10.2, 10.1), (12.0, 12.1, 12.2), ("does not agree", "does not agree", "agrees")),
        ((10.0, 10.1, 10.2), (10.1, 10.2, 10.2), ("agrees", "cannot be told", "cannot be told")),
        # No difference is seen, nor that there is none: -0.03 ± 0.76 and, of two seeds, +1.11 ± 1.76.
        ((10.0, 10.5, 10.2), (10.1, 10.2, 10.4), ("cannot be told",) * 3),
        ((11.25, 10.97), (10.0, 10.0), ("cannot be told",) * 3),
        # Worse for certain, but by 0.3 ± 0.25 points perhaps no more than the margin.
        ((10.2, 10.4, 10.3), (10.0, 10.0, 10.0), ("cannot be told", "agrees", "does not agree")),
        ((12.0,), (10.0,), ("cannot be told",) * 3),
        ((10.2, 10.3), (10.0, 10.1), ("cannot be told",) * 3),
        ((X, 10.0, 10.0), (12.0, 12.0, 12.0), ("does not agree", "agrees", "does not agree")),
        ((X, X, X), (X, X, X), ("cannot be told",) * 3),
    ],
)
def test_claims(tmp_path, a, b, results):
    def trials(ends: Any) -> list[Trial]:
        return [diverged() if end == X else Trial([end / 100]) for end in ends]

    claims = ["a@8 ~ b@4", "a@8 > b@4", "a@8<b@4"]
    cells = {("a", 8): trials(a), ("b", 4): trials(b)}
    experiment = read_results(write_experiment(tmp_path, cells, claims))
    assert tuple(experiment.judge(claim).result for claim in claims) == results


def test_a_claim_of_no_difference_is_two_one_sided_tests_against_the_margin_that_is_stated(tmp_path):
    """Margins just inside and just outside of where each test at 2.5 % rejects, by the table of t."""
    a, b = (10.3, 10.1, 10.6, 10.4), (10.2, 10.1, 10.4, 10.1)
    differences = np.subtract(a, b)
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    least = differences.mean() + T[3] * error
    most = differences.mean() - T[3] * error
    assert most < 0 < least
    for shift, margin, result in [
        (0, 1.001 * least, "agrees"),
        (0, 0.999 * least, "cannot be told"),
        (1, 0.999 * (1 + most), "does not agree"),
        (-1, 0.999 * (1 - least), "does not agree"),
        (1, 1.001 * (1 + most), "cannot be told"),
    ]:
        folder = tmp_path / f"{shift}, {margin}"
        folder.mkdir()
        cells = {("a", 4): [Trial([(x + shift) / 100]) for x in a], ("b", 4): [Trial([x / 100]) for x in b]}
        experiment = read_results(write_experiment(folder, cells, margin=float(margin)))
        assert experiment.judge("a@4 ~ b@4").result == result


@pytest.mark.parametrize("claim", ["a@4 = b@4", "a@4 ~ b@8", "a ~ b", "c@4 > b@4", ""])
def test_a_claim_about_nothing_is_one_line(tmp_path, claim):
    cells = {("a", 4): [flat(0.1)], ("b", 4): [flat(0.1)]}
    write_experiment(tmp_path, cells, [claim])
    with pytest.raises(ConfigError) as raised:
        report(tmp_path)
    assert str(raised.value) == f"claim {claim!r}: expected A@k ~, < or > B@k with two of a@4, b@4"


# Words.


def test_the_text_of_the_slides(tmp_path):
    claims = ["their_way@8 ~ their_way@4", "my_way@8 > my_way@4", "their_way@8 > my_way@8"]
    assert report(slides(tmp_path, claims=claims)).splitlines() == [
        "slides (small scale): Does the error stay when the workers are doubled?",
        "",
        "validation error (%), median of the last 5 epochs, mean ± standard deviation over 5 seeds:",
        "",
        "              4 workers (kn = 32)   8 workers (kn = 64)",
        "  my way      13.36 ± 0.42          23.16 ± 0.72",
        "  their way   11.90 ± 0.27          11.74 ± 0.58",
        "",
        "mean difference ± half of a 95 % confidence interval (Student's t, paired by seed: t = 2.776 for 5 seeds),",
        "each interval for itself, not corrected for how many there are:",
        "",
        "  8 workers against 4, my way: +9.80 ± 1.28 points: 8 workers are worse.",
        "  8 workers against 4, their way: -0.16 ± 0.55 points: no difference that 5 seeds can show.",
        "  their way against my way, 4 workers: -1.46 ± 0.47 points: their way is better.",
        "  their way against my way, 8 workers: -11.42 ± 1.48 points: their way is better.",
        "",
        "claims:",
        "  their_way@8 ~ their_way@4 cannot be told with 5 seeds: -0.16 ± 0.55 points, across the edge of ±0.50.",
        "  my_way@8 > my_way@4 agrees: +9.80 ± 1.28 points.",
        "  their_way@8 > my_way@8 does not agree: -11.42 ± 1.48 points.",
        "",
        f"in {tmp_path}: report.md, report.json, curves.png",
    ]


def test_what_diverged_failed_or_is_missing_is_said(tmp_path):
    cells = {
        ("my_way_scaled", 4): [diverged(), flat(0.12), diverged(), flat(0.13), flat(0.14)],
        ("my_way_scaled", 8): [diverged()] * 5,
        ("their_way", 4): [*(flat(e) for e in THEIRS_4[:4]), Trial([0.9], "", "step 3\nno memory left\n")],
        ("their_way", 8): [flat(0.12), None, None, None, Trial([], "", "no such data set\n")],
    }
    text = report(write_experiment(tmp_path, cells, ["my_way_scaled@8 > my_way_scaled@4"]))
    for line in [
        "  my way scaled   2 of 5 diverged; the other 3: 13.00 ± 1.00   all 5 diverged",
        "  their way       11.82 ± 0.25 (4 of 5)                        12.00 (1 of 5)",
        "  8 workers against 4, my way scaled: 8 workers diverged in 5 of 5 seeds, 4 in 2: 8 workers are worse.",
        "  8 workers against 4, their way: +0.20 points (1 of 5 seeds): a spread needs two seeds.",
        "  their way against my way scaled, 8 workers: "
        "their way diverged in none of 1 seed, my way scaled in 1: their way is better.",
        "  my_way_scaled@8 > my_way_scaled@4 agrees: my_way_scaled@8 diverged in 5 of 5 seeds, my_way_scaled@4 in 2.",
        f"  my way scaled, 4 workers, seeds 0, 2: diverged in epoch 2: {REASON}",
        f"  my way scaled, 8 workers, seeds 0, 1, 2, 3, 4: diverged in epoch 2: {REASON}",
        "  their way, 4 workers, seed 4: stopped after epoch 1; its output ends with: no memory left",
        "  their way, 8 workers, seeds 1, 2, 3: no log",
        "  their way, 8 workers, seed 4: no log; its output ends with: no such data set",
    ]:
        assert line in text.splitlines()
    content = written(tmp_path)
    assert cell_of(content, "my_way_scaled", 8)["mean"] is None
    assert [run["state"] for run in cell_of(content, "their_way", 8)["runs"]] == ["finished"] + [
        "missing"
    ] * 4
    markdown = (tmp_path / "report.md").read_text()
    assert f"- my way scaled, 4 workers, seeds 0, 2: diverged in epoch 2: {REASON}\n" in markdown
    assert (
        "- their way, 4 workers, seed 4: stopped after epoch 1; its output ends with: no memory left\n"
        in markdown
    )


@pytest.mark.parametrize(
    ("a", "b", "line"),
    [
        ((X, 9.0, 9.4), (X, 9.1, 9.2), "both diverged in the same 1 of 3 seeds; in the other 2: +0.05 ± 1.91 points: "
         "no difference that 2 seeds can show."),
        ((X, 9.0), (X, 9.1), "both diverged in the same 1 of 2 seeds; in the other: -0.10 points: a spread needs two "
         "seeds."),
        ((9.0, 8.0), (9.1, 8.1), "-0.10 points: two equal differences have no spread."),
        ((X, X), (X, X), "both diverged in the same 2 of 2 seeds: nothing to compare."),
        ((X, 9.0), (9.0, X), "a diverged in 1 of 2 seeds, b in 1: which is worse cannot be told."),
        ((None,), (9.0,), "no seed is complete on both sides: nothing to compare."),
    ],
)  # fmt: skip
def test_sentences_where_little_can_be_said(tmp_path, a, b, line):
    def trials(ends: Any) -> list[Trial | None]:
        return [None if e is None else diverged() if e == X else Trial([e / 100]) for e in ends]

    text = report(write_experiment(tmp_path, {("b", 1): trials(b), ("a", 1): trials(a)}))
    assert f"  a against b, 1 worker: {line}" in text.splitlines()


@pytest.mark.parametrize("columns", [80, 120])
def test_the_report_fits_the_terminal(tmp_path, columns):
    folder = slides(tmp_path)
    lines = report(folder, columns=columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert " ".join(" ".join(lines).split()) == " ".join(report(folder).split())


def test_one_seed_has_no_spread(tmp_path):
    text = report(write_experiment(tmp_path, {("a", 4): [flat(0.12)]}, question=""))
    assert text.splitlines() == [
        "slides (small scale)",
        "",
        "validation error (%), median of the last 5 epochs, one seed:",
        "",
        "      4 workers (kn = 32)",
        "  a   12.00",
        "",
        f"in {tmp_path}: report.md, report.json, curves.png",
    ]


def test_many_worker_counts_are_rows(tmp_path):
    cells = {("their_way", k): [flat(0.12), flat(0.13)] for k in (4, 8, 128)}
    lines = report(write_experiment(tmp_path, cells)).splitlines()
    assert lines[4:8] == [
        "                             their way",
        "  4 workers (kn = 32)        12.50 ± 0.71",
        "  8 workers (kn = 64)        12.50 ± 0.71",
        "  128 workers (kn = 1,024)   12.50 ± 0.71",
    ]


def test_the_page(tmp_path):
    settings = {"my_way": {"sync_type": "avg", "warmup": "none"}, "their_way": {"nesterov": False}}
    claims = ["their_way@8 ~ their_way@4"]
    machine = {"cpu": "a processor", "cores": 2, "gpus": []}
    report(slides(tmp_path, claims=claims, settings=settings, machine=machine))
    text = (tmp_path / "report.md").read_text()
    for part in [
        "# slides (small scale)\n\nDoes the error stay when the workers are doubled?\n\n",
        "|  | 4 workers (kn = 32) | 8 workers (kn = 64) |\n|---|---|---|\n"
        "| my way | 13.36 ± 0.42 | 23.16 ± 0.72 |\n| their way | 11.90 ± 0.27 | 11.74 ± 0.58 |\n",
        "within the margin, ±0.50 points, does not where it lies outside, and cannot be told where it reaches across",
        "- `their_way@8 ~ their_way@4` cannot be told with 5 seeds: -0.16 ± 0.55 points, across the edge of ±0.50.\n",
        "- 8 workers against 4, my way: +9.80 ± 1.28 points: 8 workers are worse.\n",
        "![Training and validation error](curves.png)\n",
        "- Data: runs/glyphs.h5, 32 pixels; network: models.resnet50.ResNet50\n",
        "- n = 8 images per worker; learning rate 0.1 for 64 images; 8 epochs; seeds 0, 1, 2, 3, 4\n",
        "- Workers: simulated on 1 rank by accumulation\n",
        "- Versions: theanompi 0.1, torch 2.13.0\n",
        "- Machine: cpu a processor, cores 2, gpus none\n",
        "`tmlauncher compare slides.toml --scale small --seeds 5 --simulate 1`",
        "|  | sync_type | scaling | warmup | nesterov |\n|---|---|---|---|---|\n"
        "| my way | avg | none | none | yes |\n| their way | cdd | linear | gradual | no |\n",
    ]:
        assert part in text, part
    assert "Diverged" not in text and "Not complete" not in text


def test_real_ranks_are_said_to_be_so(tmp_path):
    report(slides(tmp_path, simulate=None))
    text = (tmp_path / "report.md").read_text()
    assert "- Workers: as many ranks\n" in text
    assert "--simulate 0`" in text


def test_the_same_logs_give_the_same_bytes(tmp_path, drawn):
    names = ("report.md", "report.json", "curves.png")
    first, second = tmp_path / "first", tmp_path / "second"
    contents = []
    for folder in (first, second):
        folder.mkdir()
        slides(folder, claims=["their_way@8 ~ their_way@4"])
        write_run(folder / "my_way" / "8-workers" / "seed-0", diverged())
        report(folder)
        contents.append([(folder / name).read_bytes() for name in names])
    assert contents[0] == contents[1]


def test_keys_are_sorted_and_times_are_nowhere(tmp_path):
    """Seconds in the logs differ from run to run, and must not reach the report."""
    slides(tmp_path)
    for log in tmp_path.rglob("log.jsonl"):
        lines = [
            json.loads(line) | {"wall_s": 123.456, "calc_s": 98.765} for line in log.read_text().splitlines()
        ]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report(tmp_path)
    text = (tmp_path / "report.json").read_text()
    assert json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n" == text
    assert "wall" not in text and "123.4" not in text and "98.76" not in text


# What is wrong is one line.


def test_no_experiment(tmp_path):
    with pytest.raises(ConfigError) as raised:
        report(tmp_path / "none")
    assert str(raised.value) == f"experiment {tmp_path / 'none'}: expected a folder, got none there"
    with pytest.raises(ConfigError) as raised:
        report(tmp_path)
    assert str(raised.value) == f"experiment {tmp_path}: expected experiment.json in it, got none there"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected a JSON object, got a damaged file"),
        ("[]", "expected a JSON object, got a damaged file"),
        ('{"a":' * 100_000, "expected a JSON object, got a damaged file"),
        ("{}", "expected what tmlauncher compare writes, got a bad entry: name"),
    ],
    ids=["torn", "list", "deep", "empty"],
)
def test_a_damaged_experiment(tmp_path, content, message):
    (tmp_path / "experiment.json").write_text(content)
    with pytest.raises(ConfigError) as raised:
        report(tmp_path)
    assert str(raised.value) == f"{tmp_path / 'experiment.json'}: {message}"


def _arm(**other: Any) -> dict[str, Any]:
    return {"a": {"settings": {}, "workers": [1]} | other}


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("question", 5),
        ("scale", None),
        *(("seeds", value) for value in ("012", [], [0, 0], [-1], [True], [1.0], None)),
        *(("simulate", value) for value in (0, True, "1")),
        *(("arms", value) for value in ({}, [], {"..": {}}, {"a/b": _arm()["a"]}, {"a" * 101: _arm()["a"]})),
        *(("arms", _arm(workers=value)) for value in ([], [0], 4, [10.0])),
        ("arms", _arm(settings=None)),
        ("claims", [1]),
        ("machine", None),
        ("machine", {"cores": 1e999}),
        ("machine", {"gpus": [1]}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_entry_is_named_and_nothing_is_written(tmp_path, entry, value):
    slides(tmp_path, **{entry: value})
    with pytest.raises(ConfigError) as raised:
        report(tmp_path)
    where = tmp_path / "experiment.json"
    assert str(raised.value) == f"{where}: expected what tmlauncher compare writes, got a bad entry: {entry}"
    assert not list(tmp_path.glob("report.*"))


def test_a_bad_setting_of_an_arm(tmp_path):
    slides(tmp_path, arms=_arm(settings={"epoch": 3}))
    with pytest.raises(ConfigError) as raised:
        report(tmp_path)
    assert (
        str(raised.value)
        == f"{tmp_path / 'experiment.json'}: unknown setting 'epoch'; did you mean 'epochs'?"
    )


def test_a_damaged_log_is_named(tmp_path):
    log = slides(tmp_path) / "my_way" / "8-workers" / "seed-3" / "log.jsonl"
    good = log.read_text()
    log.write_text("]\n" + good)
    with pytest.raises(ValueError) as raised:
        report(tmp_path)
    assert str(raised.value) == f"log {log}, line 1: expected a JSON object, got b']'"
    number = good.count("\n") + 1
    val = {"kind": '"val"', "epoch": "6", "iteration": "99", "items": "9", "loss": "2", "error": "0.1"}
    for entry, value in [
        *(("error", value) for value in ("NaN", "Infinity", "57", "true", "-0.1", "1" + 400 * "0")),
        *(("epoch", value) for value in ("null", "-1", "1.5", '"1"', "true")),
        *(("items", value) for value in ("null", "NaN", "1" + 400 * "0")),
    ]:
        record = val | {entry: value}
        log.write_text(good + "{" + ", ".join(f'"{key}": {text}' for key, text in record.items()) + "}\n")
        with pytest.raises(ValueError) as raised:
            report(tmp_path)
        assert str(raised.value).startswith(f"log {log}, line {number}: expected '{entry}' to be a ")
        assert len(str(raised.value)) < 300
    log.write_text(good + '{"kind": "val", "epoch": 6, "iteration": 99, "items": 9, "loss": 2}\n')
    with pytest.raises(ValueError) as raised:
        report(tmp_path)
    expected = f"log {log}: expected a number as 'error' in each validation, got"
    assert str(raised.value) == f"{expected} none in epoch 7"
    record = val | {"error": "null"}
    log.write_text(good + "{" + ", ".join(f'"{key}": {text}' for key, text in record.items()) + "}\n")
    with pytest.raises(ValueError) as raised:
        report(tmp_path)
    assert str(raised.value) == f"{expected} null in epoch 7"
    log.write_text("[" * 100_000 + "\n" + good)
    with pytest.raises(ValueError) as raised:
        report(tmp_path)
    assert str(raised.value).startswith(f"log {log}, line 1: expected a JSON object, got b'[[[")
    log.write_text(good)
    for versions in (None, [], {"torch": 2}):
        log.with_name("config.json").write_text(json.dumps({"versions": versions}))
        with pytest.raises(ValueError) as raised:
            report(tmp_path)
        assert str(raised.value) == (
            f"{log.with_name('config.json')}: versions: expected a text for each package, got {versions!r}"
        )
    log.with_name("config.json").write_text("{")
    with pytest.raises(ValueError) as raised:
        report(tmp_path)
    assert str(raised.value) == f"{log.with_name('config.json')}: expected a JSON object, got a damaged file"


def test_the_command(tmp_path, capsys, drawn):
    slides(tmp_path)
    assert cli.main(["report", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"in {tmp_path}: report.md, report.json, curves.png\n")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", str(tmp_path / "none")])
    assert ended.value.code == 2
    expected = f"experiment {tmp_path / 'none'}: expected a folder, got none there"
    assert capsys.readouterr() == ("", f"tmlauncher report: error: {expected}\n")
    with pytest.raises(SystemExit):
        cli.main(["report"])
    assert capsys.readouterr().err == "tmlauncher report: error: the following arguments are required: DIR\n"
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    assert capsys.readouterr().out.startswith("usage: tmlauncher report DIR\n")


@pytest.mark.parametrize(
    "folder", sorted((ROOT / "docs" / "results").glob("*")), ids=lambda folder: folder.name
)
def test_the_results_in_the_repository_are_those_of_their_logs(tmp_path, folder):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in ("report.md", "report.json"):
        (tmp_path / name).unlink()
    report(tmp_path)
    for name in ("report.md", "report.json"):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
    pictures = {path.name for path in tmp_path.glob("*.png")}
    assert pictures == set(re.findall(r"\]\((\w+\.png)\)", (folder / "report.md").read_text()))
    assert pictures == {path.name for path in folder.glob("*.png")}
    assert not any(cell.incomplete for cell in read_results(folder).cells)


def test_a_report_loads_neither_torch_nor_mpi(tmp_path):
    slides(tmp_path)
    code = (
        "import sys\nfrom theanompi.cli import main\nmain(sys.argv[1:])\n"
        "print(*sorted({'torch', 'mpi4py', 'pytensor', 'h5py'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "report", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == ""


# Other metrics than the error.

MAE = Reported(("loss", "mae"), "mae", "windows")


def regression(folder: Path, **more: Any) -> Path:
    """Two optimizers, whose figures differ by 0.002 in the mean; the training values are 0.1 above."""
    cells = {
        ("momentum", 4): [flat(value) for value in (2.010, 2.011, 2.015)],
        ("lars", 4): [flat(value) for value in (2.009, 2.010, 2.011)],
    }
    return write_experiment(folder, cells, reports={"momentum": MAE, "lars": MAE}, **more)


def test_a_regression_is_compared_by_its_metric_in_plain_numbers(tmp_path):
    text = report(regression(tmp_path, claims=["lars@4 < momentum@4", "lars@4 ~ momentum@4"], question=""))
    # Differences of -1, -1 and -4 thousandths: mean -2, standard deviation √3.
    half = T[2] * 0.001 * math.sqrt(3 / 3)
    lines = text.splitlines()
    assert lines[2] == "validation mae, median of the last 5 epochs, mean ± standard deviation over 3 seeds:"
    assert lines[5:7] == ["  momentum   2.0120 ± 0.0026", "  lars       2.0100 ± 0.0010"]
    compared = f"mae -0.0020 ± {half:.4f}"
    assert f"  lars against momentum, 4 workers: {compared}: no difference that 3 seeds can show." in lines
    assert f"  lars@4 ~ momentum@4 cannot be told with 3 seeds: {compared}, and no margin is stated." in lines
    assert f"  lars@4 < momentum@4 cannot be told with 3 seeds: {compared}." in lines
    content = written(tmp_path)
    (run, *_) = cell_of(content, "lars", 4)["runs"]
    assert run["mae"] == 2.009 and run["validation"]["mae"] == [0.9, 2.013, 2.007, 2.009, 2.012, 2.005]
    page = (tmp_path / "report.md").read_text()
    assert "Validation mae, median" in page and "![Training and validation mae](curves.png)" in page
    assert "n = 8 windows per worker; learning rate 0.1 for 64 windows" in page
    for words in (text, page):
        assert not [word for word in ("error", "%)", "point", "image", "pixel") if word in words]


def test_verdicts_do_not_depend_on_the_scale_of_a_metric(tmp_path):
    for i, scale in enumerate((1e-6, 1.0, 1e6)):
        (tmp_path / str(i)).mkdir()
        cells = {
            (arm, 4): [Trial([scale * e] * 3) for e in errors]
            for arm, errors in (("mine", MINE_4), ("theirs", THEIRS_4), ("theirs_again", THEIRS_8))
        }
        write_experiment(
            tmp_path / str(i), cells, reports=dict.fromkeys(("mine", "theirs", "theirs_again"), MAE)
        )
    found = [read_results(tmp_path / str(i)).across_arms() for i in range(3)]
    for one in found:
        assert [d.verdict for d in one] == ["better", "better"]
    mean, half = by_hand(THEIRS_4, MINE_4)
    for one, scale in zip(found, (1e-8, 1e-2, 1e4), strict=True):
        assert (one[0].mean, one[0].half) == (
            pytest.approx(scale * mean, rel=1e-6),
            pytest.approx(scale * half, rel=1e-3),
        )


def test_runs_without_a_named_metric_are_compared_by_the_error(tmp_path):
    experiment = read_results(slides(tmp_path))
    assert (experiment.metric, experiment.noun) == ("error", "images")


@pytest.mark.parametrize(
    "other", [Reported(("loss", "rmse"), "rmse", "windows"), None], ids=["named", "of before"]
)
def test_arms_with_different_metrics_are_refused_in_one_line(tmp_path, other):
    cells = {("a", 4): [None, flat(0.3)], ("b", 8): [flat(0.2), flat(0.3)]}
    write_experiment(tmp_path, cells, reports={"a": MAE, "b": other})
    with pytest.raises(ConfigError) as raised:
        report(tmp_path)
    assert str(raised.value) == (
        f"experiment {tmp_path}: expected one metric in all runs, got 'mae' in a, 4 workers, seed 1 and "
        f"{'error' if other is None else 'rmse'!r} in b, 8 workers, seed 0"
    )
    assert not list(tmp_path.glob("report.*"))


def test_another_fraction_is_in_per_cent_and_named(tmp_path):
    top5 = Reported(("loss", "error_top5"), "error_top5", "images")
    cells = {(arm, 4): [flat(e) for e in errors] for arm, errors in (("a", THEIRS_4), ("b", MINE_4))}
    text = report(write_experiment(tmp_path, cells, reports={"a": top5, "b": top5}))
    mean, half = by_hand(MINE_4, THEIRS_4)
    assert "validation error_top5 (%), median" in text
    assert f"b against a, 4 workers: error_top5 {mean:+.2f} ± {half:.2f} points: b is worse." in text


# The picture.


@pytest.mark.parametrize(
    ("shift", "label", "scale"),
    [(0.0, "mae, logarithmic", "log"), (-1.0, "mae", "linear"), (1e4, "mae", "linear")],
)
def test_a_metric_of_any_range_is_drawn(tmp_path, figures, shift, label, scale):
    def trial(*values: float, end: str = "summary") -> Trial:
        return Trial([v + shift for v in values], end, train=[v + shift for v in values])

    cells = {(arm, k): [trial(0.9, 0.1), trial(0.8, 0.1)] for arm in ("a", "b") for k in (1, 2, 4)}
    if shift < 1:
        cells["b", 4][0] = trial(1e30, end="diverged")
    report(write_experiment(tmp_path, cells, reports={"a": MAE, "b": MAE}))
    *panels, last = figures[0].axes
    for axes in panels:
        assert (axes.get_ylabel(), axes.get_yscale()) == (label, scale)
        low, high = axes.get_ylim()
        assert low <= 0.1 + shift and 0.9 + shift <= high < 12 + 1.2 * shift
    assert (last.get_title(), last.get_xlabel(), last.get_ylabel()) == (
        "mae against minibatch", "minibatch kn (windows)", "mae"
    )  # fmt: skip


def test_an_arm_near_chance_does_not_squeeze_the_others(tmp_path, figures):
    arms = {"a": [0.9, 0.12, 0.1], "b": [0.9, 0.13, 0.11], "c": [0.98, 0.98, 0.98]}
    report(write_experiment(tmp_path, {(arm, 4): [Trial(errors)] for arm, errors in arms.items()}))
    (axes,) = figures[0].axes
    assert axes.get_ylim()[1] == pytest.approx(3 * 13)  # percent, of the worse of the others
    assert axes.get_ylabel() == "error (%), logarithmic, cut off at the top"
    assert labels(axes)[2].startswith("c: 98.00") and labels(axes)[2].endswith(", above")
    assert not any(label.endswith(", above") for label in labels(axes)[:2])


def labels(axes: Any) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_four_panels_as_on_the_slides(tmp_path, figures):
    report(slides(tmp_path))
    panels = figures[0].axes
    assert [axes.get_title() for axes in panels] == ["4 workers", "8 workers", "my way", "their way"]
    assert labels(panels[0]) == ["my way: 13.36 ± 0.42", "their way: 11.90 ± 0.27"]
    assert labels(panels[3]) == ["4 workers: 11.90 ± 0.27", "8 workers: 11.74 ± 0.58"]
    # All of them can be compared, and nothing is outside.
    assert len({axes.get_ylim() for axes in panels}) == 1
    low, high = panels[0].get_ylim()
    drawn = np.concatenate([np.asarray(line.get_ydata()) for axes in panels for line in axes.lines])
    assert low < drawn.min() < drawn.max() <= high <= 104


def test_lines_are_means_and_bands_are_one_std_around_them(tmp_path, figures):
    errors = np.array([[0.5, 0.3], [0.6, 0.2], [0.4, 0.1]])
    report(
        write_experiment(tmp_path, {("a", 4): [Trial(list(row), train=list(row + 0.05)) for row in errors]})
    )
    (axes,) = figures[0].axes
    train, validation = axes.lines
    assert (train.get_linestyle(), validation.get_linestyle()) == ("--", "-")
    bands = {}
    for line, values, band in zip(
        (train, validation), (errors + 0.05, errors), axes.collections, strict=True
    ):
        mean, std = 100 * values.mean(0), 100 * values.std(0, ddof=1)
        assert np.asarray(line.get_xdata()).tolist() == [1, 2]
        assert np.asarray(line.get_ydata()) == pytest.approx(mean)
        corners = np.asarray(band.get_paths()[0].vertices)
        for epoch in (1, 2):
            at = corners[corners[:, 0] == epoch, 1]
            bands[epoch] = at.min(), at.max()
            assert bands[epoch] == pytest.approx(
                (mean[epoch - 1] - std[epoch - 1], mean[epoch - 1] + std[epoch - 1])
            )


def test_a_diverged_run_is_a_thin_line_that_ends_in_a_cross(tmp_path, figures):
    trials = [
        flat(0.12),
        flat(0.13),
        Trial([0.95, 0.93], "diverged", train=[0.97, 0.9]),
        Trial([], "diverged"),
    ]
    report(write_experiment(tmp_path, {("a", 4): trials}))
    (axes,) = figures[0].axes
    assert labels(axes) == ["a, 4 workers: 12.50 ± 0.71 (2 of 4 diverged)"]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    ends = [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses]
    # The second one left no line in the log: on the upper edge, in the epoch in which it diverged.
    assert ends == [(2, pytest.approx(90.0)), (1, axes.get_ylim()[1])]
    thin = [line for line in axes.lines if line.get_linewidth() < 1 and len(line.get_xdata())]
    assert [np.asarray(line.get_ydata()).tolist() for line in thin] == [
        pytest.approx([97.0, 90.0]),
        pytest.approx([95.0, 93.0]),
    ]


def test_a_cell_of_its_own_is_a_reference_in_every_panel_of_arms(tmp_path, figures):
    cells = {("baseline", 8): [flat(0.12)], ("gradual", 64): [flat(0.12)], ("none", 64): [flat(0.13)]}
    report(write_experiment(tmp_path, cells))
    (axes,) = figures[0].axes
    assert axes.get_title() == "64 workers"
    assert labels(axes) == ["gradual: 12.00", "none: 13.00", "baseline, 8 workers: 12.00"]


def test_three_worker_counts_have_error_against_minibatch(tmp_path, figures):
    errors = {4: [0.12, 0.13], 8: [0.11, 0.14], 128: [0.4, 0.5], 256: [0.6]}
    cells: Any = {("a", k): [flat(e) for e in values] for k, values in errors.items()}
    cells["a", 256].append(diverged())
    cells["a", 512] = [diverged(), diverged()]
    report(write_experiment(tmp_path, cells))
    curves, against = figures[0].axes
    assert (curves.get_title(), against.get_title()) == ("a", "error against minibatch")
    assert against.get_xscale() == "log"
    assert [tick.get_text() for tick in against.get_xticklabels()] == ["32", "64", "1k", "2k", "4k"]
    (container,) = against.containers
    assert np.asarray(container[0].get_xdata()).tolist() == [32, 64, 1024, 2048]
    assert np.asarray(container[0].get_ydata()) == pytest.approx([12.5, 12.5, 45, 60])
    bars = [np.ptp(segment[:, 1]) / 2 for segment in container[2][0].get_segments()]
    assert bars == pytest.approx([100 * np.std(v, ddof=1) if len(v) > 1 else 0 for v in errors.values()])
    assert [text.get_text() for text in against.texts] == ["1 of 2 diverged", "2 of 2 diverged"]


def test_two_worker_counts_have_none(tmp_path, figures):
    report(write_experiment(tmp_path, {("a", k): [flat(0.12)] for k in (4, 8)}))
    assert [axes.get_title() for axes in figures[0].axes] == ["a"]


@pytest.mark.parametrize(
    "trials",
    [
        [None, None],
        [diverged(0), diverged(0)],
        [Trial([0.0, 0.0], train=[0.0, 0.0])],
        [Trial([0.9], "")],
        [Trial([0.001, 0.0], train=[0.5, 0.0]), Trial([0.0, 0.2], train=[0.1, 0.0])],
        [flat(0.1)] * 2,
    ],
    ids=["nothing", "all diverged at once", "no error", "one goes on", "zeros", "no variance"],
)
def test_odd_experiments_are_drawn_too(tmp_path, drawn, trials):
    report(
        write_experiment(tmp_path, {("a", 4): trials, ("b", 4): trials, ("b", 8): trials, ("b", 16): trials})
    )
    written(tmp_path)


def test_twelve_arms_differ_in_colour_or_mark(tmp_path, figures):
    report(write_experiment(tmp_path, {(f"arm_{i}", 4): [flat(0.1 + i / 50)] for i in range(12)}))
    (axes,) = figures[0].axes
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 12


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_the_time_of_runs_that_took_equally_long_is_not_before_the_end_of_any(seeds):
    for tenths in range(1, 100):
        runs = [Run(seed, "finished", validation={1: 9.0}, times={1: tenths / 10}) for seed in range(seeds)]
        assert time_of(Cell("a", 4, 32, tuple(runs))) == tenths / 10


def test_times_of_a_virtual_clock_are_compared_among_runs_of_the_same_clock(
    tmp_path: Path, figures: list[Any]
) -> None:
    steady = {"momentum": 0.8}
    cells: dict[tuple[str, int], Any] = {
        ("fast", 4): [Trial([0.5, 0.3, 0.1])],
        ("steady", 4): [Trial([0.4, 0.2, 0.05])],
        ("late", 4): [Trial([0.4, 0.2, 0.05])],
    }
    write_experiment(
        tmp_path,
        cells,
        settings={"steady": steady, "late": {**steady, "settings": {"clock.straggler": 4.0}}},
        clock=True,
    )
    for arm, seconds in (("fast", 10.0), ("steady", 14.0), ("late", 50.0)):
        log = tmp_path / arm / "4-workers" / "seed-0" / "log.jsonl"
        records = [json.loads(line) for line in log.read_text().splitlines()]
        for record in records:
            if record["kind"] == "val":
                record["virtual_s"] = seconds * (record["epoch"] + 1)
            if record["kind"] == "summary":
                record["staleness"] = [1, 0, 3]
        log.write_text("".join(json.dumps(record) + "\n" for record in records))
    report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| fast | 4 | 30.0 | 30.00 | 10.00 | 1.5, 2 |" in text
    # It had made two epochs in those 30 seconds.
    assert "| steady | 4 | 42.0 | 20.00 | 20.00 | 1.5, 2 |" in text
    assert "| late | 4 | 150.0 | 20.00 | 5.00 | 1.5, 2 |" in text
    assert "simulated in one process, in the order of a virtual clock" in text
    assert (tmp_path / "curves_time.png").is_file()
    # An arm has its colour in the panel of every clock.
    lines = {line.get_label()[:4]: line for axes in figures[1].axes for line in axes.lines}
    fast, steady, late = (
        (lines[name].get_color(), lines[name].get_marker()) for name in ("fast", "stea", "late")
    )
    assert late == steady and steady[0] != fast[0] and steady[1] != fast[1]
    (found,) = (
        one for one in json.loads((tmp_path / "report.json").read_text())["time"] if one["arm"] == "late"
    )
    assert found["seconds"] == [50.0, 100.0, 150.0]
