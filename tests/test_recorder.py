"""The recorder: what its log says, to whom the time is charged, what it shows, and whose files it touches."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.mpi import mpirun, run_warm
from theanompi.config import ConfigError
from theanompi.config.files import CannotWrite
from theanompi.record import display
from theanompi.record import recorder as module
from theanompi.record.log import check_metrics, read_log
from theanompi.record.meetings import Meetings
from theanompi.record.metrics import Reported
from theanompi.record.recorder import Recorder
from theanompi.record.terminal import terminal_columns
from theanompi.record.timeline import Span

ROOT = Path(__file__).resolve().parents[1]
SUMMARY = '{"kind": "summary", "iteration": 6}'


class Clock:
    """A clock that goes on only when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for place in (module, display):
        monkeypatch.setattr(place, "monotonic", clock)
    return clock


def make(out: Path | None, **changes: Any) -> Recorder:
    arguments: dict[str, Any] = {
        "out": out, "rank": 0, "size": 1, "iterations": 100, "log_interval": 2, "verbose": False,
        "resume_from": None,
    }  # fmt: skip
    return Recorder(**(arguments | changes))


def sums(weight: Any, **totals: Any) -> dict[str, tuple[Any, Any]]:
    """Sums by name, all with the same weight."""
    return {name: (total, weight) for name, total in totals.items()}


def classified(weight: Any, loss: Any, error: Any, error_top5: Any) -> dict[str, tuple[Any, Any]]:
    """The sums of a classifier."""
    return sums(weight, loss=loss, error=error, error_top5=error_top5)


def step(
    recorder: Recorder, clock: Clock, epoch: int, iteration: int, items: int = 10, **changes: Any
) -> None:
    """One iteration of 8 s: 1 waiting, 4 computing, 2 exchanging, 1 on nothing that is timed."""
    for kind, seconds in (("wait", 1), ("calc", 4), ("comm", 2)):
        recorder.start()
        clock.pass_(seconds)
        recorder.end(kind)
    clock.pass_(1)
    totals = {"loss": 2.0 * items, "error": 5, "error_top5": 1, "lr": 0.1 * iteration} | changes
    lr = totals.pop("lr")
    recorder.train(epoch, iteration, items, sums(items, **totals), lr=lr)


def log(out: Path) -> list[dict[str, Any]]:
    """The log, read by nothing but the standard library, which here refuses NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_train_line_holds_weighted_means_and_sums_of_time(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path)
    step(recorder, clock, 0, 1, items=10, loss=20.0, error=5, error_top5=1)
    assert log(tmp_path) == []
    step(recorder, clock, 0, 2, items=30, loss=20.0, error=5, error_top5=2)
    assert log(tmp_path) == [
        {
            "kind": "train", "epoch": 0, "iteration": 2, "loss": 1.0, "error": 0.25, "error_top5": 0.075,
            "lr": 0.2,
            "items_per_s": 2.5, "calc_s": 8.0, "comm_s": 4.0, "sync_s": 0.0, "wait_s": 2.0,
            "comm_hidden_s": 0.0, "sync_hidden_s": 0.0, "load_hidden_s": 0.0, "iterations": 2, "items": 40,
            "wall_s": 16.0,
        }
    ]  # fmt: skip


def test_nothing_falls_between_two_intervals(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path)
    for iteration in range(1, 7):
        clock.pass_(3 if iteration > 1 else 0)
        step(recorder, clock, 0, iteration)
    assert [line["iteration"] for line in log(tmp_path)] == [2, 4, 6]
    assert sum(line["wall_s"] for line in log(tmp_path)) == 6 * 8 + 5 * 3


def test_a_model_may_pass_over_the_number_of_a_line(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path, log_interval=10)
    for iteration in (4, 8, 13, 17, 21, 29, 30):
        step(recorder, clock, 0, iteration)
    assert [line["iteration"] for line in log(tmp_path)] == [13, 21, 30]


def test_validation_and_checkpoints_cost_no_training_time(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path)
    clock.pass_(100)
    step(recorder, clock, 0, 1)
    recorder.flush()
    # A validation that is timed like training.
    for kind in ("wait", "calc"):
        recorder.start()
        clock.pass_(50)
        recorder.end(kind)
    recorder.validation(0, 1, 20, classified(20, 10.0, 4, 2))
    clock.pass_(500)
    step(recorder, clock, 1, 2)
    recorder.flush()
    clock.pass_(500)
    step(recorder, clock, 1, 3)
    recorder.flush()
    recorder.flush()
    lines = log(tmp_path)
    assert [(line["kind"], line["iteration"]) for line in lines] == [
        ("train", 1),
        ("val", 1),
        ("train", 2),
        ("train", 3),
    ]
    train = [line for line in lines if line["kind"] == "train"]
    assert [(line["wall_s"], line["calc_s"], line["wait_s"], line["items_per_s"]) for line in train] == [
        (8, 4, 1, 1.25)
    ] * 3
    assert lines[1] == {
        "kind": "val", "epoch": 0, "iteration": 1, "loss": 0.5, "error": 0.2, "error_top5": 0.1, "items": 20
    }  # fmt: skip


def test_what_is_not_finite_becomes_null(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path)
    step(recorder, clock, 0, 1, loss=np.float32("nan"), lr=np.float64("inf"))
    recorder.validation(0, 1, 0, classified(0, 0.0, 0, 0))
    recorder.close()
    train, val, summary = log(tmp_path)
    assert (train["loss"], train["lr"], train["error"]) == (None, None, 0.5)
    assert (val["loss"], val["error"], val["error_top5"]) == (None, None, None)
    assert (summary["loss"], summary["best_error"], summary["median_error"]) == (None, None, None)


def test_numbers_of_numpy_are_taken(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path, log_interval=1)
    totals = {"loss": np.float32(4), "error": np.int64(2), "error_top5": np.float32(1), "lr": np.array(0.5)}
    step(recorder, clock, np.int64(0), np.int64(1), items=np.int32(8), **totals)
    n: Any = np.int64(4)
    recorder.validation(np.int64(0), np.int64(1), n, classified(n, np.float32(2), np.int64(1), np.int64(1)))
    train, val = log(tmp_path)
    assert (train["loss"], train["error"], train["error_top5"], train["lr"]) == (0.5, 0.25, 0.125, 0.5)
    assert (val["loss"], val["error"]) == (0.5, 0.25)


REGRESSION = Reported(("loss", "mae"), "mae", "items")
PIXELS = Reported(("loss", "error_px"), "error_px", "images")
GAN = Reported(("critic", "generator"), "critic", "images")


def go(recorder: Recorder, clock: Clock, iteration: int, **by_name: tuple[float, float]) -> None:
    """One iteration of 8 s with 10 items, in epochs of 4."""
    recorder.start()
    clock.pass_(8)
    recorder.end("calc")
    recorder.train((iteration - 1) // 4, iteration, 10, by_name, lr=0.1)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_lines_fit_the_terminal_and_break_between_phrases(
    tmp_path: Path,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: int,
) -> None:
    texts = []
    for width in (None, columns):
        if width:
            monkeypatch.setenv("COLUMNS", str(width))
        (tmp_path / str(width)).mkdir()
        recorder = make(tmp_path / str(width), verbose=True, iterations=10_000)
        step(recorder, clock, 0, 1)
        recorder.validation(0, 1, 50, classified(50, 100, 5, 1))
        texts.append(capsys.readouterr().err)
    assert len(texts[0]) > 120
    assert " ".join(texts[1].split()) == texts[0].strip()
    lines = texts[1].splitlines()
    assert max(map(len, lines)) <= columns
    assert all(line.startswith("  ") and before[-1] in ",;:" for before, line in pairwise(lines))


def test_a_run_of_one_validation_has_no_median_and_one_iteration_no_plural(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = make(tmp_path, verbose=True, iterations=1)
    step(recorder, clock, 0, 1)
    recorder.validation(0, 1, 50, classified(50, 100, 5, 1))
    recorder.close()
    out = capsys.readouterr().out.splitlines()
    assert out[1].startswith("1 of 1 iteration on 1 rank: ")
    assert "validation error: best 10.00 % (epoch 1)" in out


def test_a_regression_has_its_own_names_in_every_line(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = make(tmp_path, verbose=True, iterations=8, reported=REGRESSION)
    for epoch, mae in ((0, 3.0), (1, 1.0)):
        for iteration in range(4 * epoch + 1, 4 * epoch + 5):
            # Of the weights that the items have only the sum counts: 10 items, of which 4 have a target.
            go(recorder, clock, iteration, loss=(20.0, 4.0), mae=(8.0 * iteration, 4.0))
        recorder.validation(epoch, 4 * epoch + 4, 25, {"loss": (1.0, 2.0), "mae": (mae, 2.0)})
    recorder.close()
    lines = log(tmp_path)
    assert [(line["loss"], line["mae"]) for line in lines if line["kind"] == "train"] == [
        (5, 3), (5, 7), (5, 11), (5, 15)
    ]  # fmt: skip
    assert lines[2] == {
        "kind": "val", "epoch": 0, "iteration": 4, "loss": 0.5, "mae": 1.5, "items": 25
    }  # fmt: skip
    summary = lines[-1]
    assert {name: summary[name] for name in ("items", "loss", "mae", "best_mae", "median_mae")} == {
        "items": 80, "loss": 5.0, "mae": 9.0, "best_mae": 0.5, "median_mae": 1.0
    }  # fmt: skip
    assert not [name for line in lines for name in line if "error" in name or "image" in name]
    assert read_log(tmp_path / "log.jsonl") == lines
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "epoch 1, iteration 4/8: 1.25 items/s; training loss 5, mae 5; validation loss 0.5, mae 1.5",
        "epoch 2, iteration 8/8: 1.25 items/s; training loss 5, mae 13; validation loss 0.5, mae 0.5",
    ]
    assert "8 of 8 iterations on 1 rank: 80 items in 64.0 s of training, 1.25 items/s" in out
    assert "validation mae: best 0.5 (epoch 2), median of the last 2 1" in out


def test_losses_that_are_updated_now_and_then_have_the_mean_of_their_updates(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = make(tmp_path, verbose=True, iterations=8, reported=GAN)
    for iteration in range(1, 9):
        generator = (3.0 * iteration, 10.0) if iteration % 4 == 0 else (0.0, 0.0)
        go(recorder, clock, iteration, critic=(-20.0, 10.0), generator=generator)
    recorder.flush()
    recorder.validation(1, 8, 10, {"critic": (-5.0, 10.0), "generator": (7.0, 10.0)})
    recorder.close()
    *_, val, summary = lines = log(tmp_path)
    assert [(line["critic"], line["generator"]) for line in lines[:4]] == [
        (-2, None), (-2, 1.2), (-2, None), (-2, 2.4)
    ]  # fmt: skip
    assert (val["critic"], val["generator"], summary["best_critic"]) == (-0.5, 0.7, -0.5)
    assert summary["generator"] == pytest.approx(1.8)
    assert (
        "training critic -2, generator 2.4; validation critic -0.5, generator 0.7" in capsys.readouterr().err
    )


def test_a_metric_that_is_not_a_number_is_null(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path, log_interval=1, reported=REGRESSION)
    go(recorder, clock, 1, loss=(1.0, 10.0), mae=(float("nan"), 10.0))
    go(recorder, clock, 2, loss=(1.0, 10.0), mae=(float("inf"), 10.0))
    recorder.validation(0, 2, 10, {"loss": (1.0, 10.0), "mae": (float("nan"), 10.0)})
    recorder.close()
    assert [line["mae"] for line in log(tmp_path)] == [None] * 4
    assert (log(tmp_path)[-1]["best_mae"], log(tmp_path)[-1]["loss"]) == (None, 0.1)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["loss", "iteration"], "expected names that the log has for nothing else, got 'iteration'"),
        (["loss", "calc_s"], "expected names that the log has for nothing else, got 'calc_s'"),
        (["images"], "expected names that the log has for nothing else, got 'images'"),
        (["loss", "best_loss"], "expected names that the log has for nothing else, got 'best_loss'"),
        (["loss", "loss"], "expected each name once, got 'loss' twice"),
        *(
            (
                ["loss", name],
                "expected names of at most 40 letters, digits and '_', which begin with a letter, got " + shown,
            )
            for name, shown in [
                ("", "''"), ("top 5", "'top 5'"), ("5", "'5'"), ("_", "'_'"), ("a" * 41, "'aaa"), ("a\n", "'a"),
                (3, "3"),
            ]
        ),
    ],
)  # fmt: skip
def test_a_name_that_no_metric_can_have_is_refused_in_one_line(metrics: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_metrics(metrics)
    assert str(caught.value).startswith(f"metrics: {message}")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_what_is_called_an_error_has_to_be_a_fraction(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path, log_interval=1, reported=PIXELS)
    # Rounding may lead a little out of it.
    go(recorder, clock, 1, loss=(1.0, 10.0), error_px=(10.000001, 10.0))
    assert log(tmp_path)[0]["error_px"] == 1
    for total, mean in ((10.02, "1.002"), (-0.02, "-0.002")):
        recorder = make(None, log_interval=1, reported=PIXELS)
        with pytest.raises(ConfigError) as caught:
            go(recorder, clock, 1, loss=(1.0, 10.0), error_px=(total, 10.0))
        assert str(caught.value) == (
            "metric 'error_px': expected a fraction from 0 to 1, as all whose names begin with 'error', "
            f"got {mean}; give it another name"
        )


def test_the_meetings_of_a_resumed_run_may_have_other_workers() -> None:
    meetings = Meetings()
    meetings.add({"waited_s": [1.0, 2.0], "staleness": [1, 0, 2]})
    meetings.add({"waited_s": [1.0, 1.0, 4.0], "staleness": [3]})
    meetings.add({"waited_s": [0.5], "staleness": []})
    assert meetings.totals() == {"waited_s": [2.5, 3.0, 4.0], "staleness": [4, 0, 2]}
    assert [line.split()[0] for line in meetings.lines()[2:]] == ["0", "2"]


class Bar:
    """Stands in for tqdm's: keeps what is to be shown beside it."""

    n = 0
    shown: str

    def __init__(self, columns: int, **settings: Any) -> None:
        self.columns = columns - len("^C")

    def set_description_str(self, text: str, refresh: bool) -> None:
        self.shown = text

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.shown += f"3/100 [00:00 left, {text}]"

    def update(self, by: int) -> None:
        pass


@pytest.mark.parametrize(
    ("metrics", "headline", "columns", "expected"),
    [
        (("loss", "error", "error_top5"), "error", 200, "loss 0.3, error 30.00 %"),
        (("loss", "mae"), "mae", 80, "loss 0.3, mae 0.3"),
        (("loss", "mae", "rmse"), "mae", 100, "loss 0.3, mae 0.3, rmse 0.3"),
        (("loss", "mae", "rmse", "worst"), "mae", 200, "loss 0.3, mae 0.3, rmse 0.3"),
        (("critic", "generator", "distance"), "distance", 100, "critic 0.3, generator 0.3, distance 0.3"),
        (("critic", "generator", "distance"), "distance", 80, "critic 0.3, generator 0.3"),
    ],
)
def test_beside_the_bar_are_the_first_metrics_that_fit(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, metrics: Any, headline: str, columns: int, expected: str
) -> None:
    monkeypatch.setattr(display, "terminal_columns", lambda: columns)
    monkeypatch.setattr(display, "bar", Bar)
    recorder = make(None, verbose=True, reported=Reported(metrics, headline, "items"))
    go(recorder, clock, 3, **dict.fromkeys(metrics, (3.0, 10.0)))
    shown = recorder._display.bar.shown
    assert shown.endswith(f"left, 1.25 items/s, {expected}, η 0.1]")
    assert len(shown) <= recorder._display.bar.columns == columns - len("^C")


def test_without_a_clock_there_is_no_rate(tmp_path: Path) -> None:
    recorder = make(tmp_path)
    recorder.train(0, 1, 10, classified(10, 1.0, 1, 1), 0.1)
    recorder.flush()
    assert (log(tmp_path)[0]["items_per_s"], log(tmp_path)[0]["wall_s"]) == (None, 0.0)


def test_phases_are_checked() -> None:
    recorder = make(None)
    with pytest.raises(ValueError, match=r"^recorder: expected start\(\) before end\('calc'\), got none$"):
        recorder.end("calc")
    recorder.start()
    with pytest.raises(ValueError, match=r"^recorder: expected a phase of calc, comm, wait, got 'load'$"):
        recorder.end("load")
    recorder.end("calc")
    with pytest.raises(ValueError, match="before end"):
        recorder.end("calc")
    with pytest.raises(
        ValueError, match=r'^recorder: expected a phase "comm" before exchanged\(\), got none$'
    ):
        recorder.exchanged([])
    recorder.start()
    recorder.end("comm")
    recorder.exchanged([])
    with pytest.raises(ValueError, match="before exchanged"):
        recorder.exchanged([])


def phase(recorder: Recorder, clock: Clock, kind: str, seconds: float) -> None:
    recorder.start()
    clock.pass_(seconds)
    recorder.end(kind)


def test_an_exchange_is_told_apart_into_exposed_and_hidden(clock: Clock) -> None:
    """Backward ends at 10; the exchange began at 4 and is over at 20."""
    recorder, zero = make(None), clock.now
    phase(recorder, clock, "calc", 10)
    phase(recorder, clock, "comm", 10.5)
    spans = [
        ("sync", 4, 5),
        ("comm", 5, 7),
        ("sync", 8, 11),
        ("comm", 11, 14),
        ("check", 14, 15),
        ("comm", 15, 20),
    ]
    recorder.exchanged([Span(kind, zero + start, zero + end) for kind, start, end in spans])
    assert recorder.seconds == {
        "calc": 10, "comm": 9.5, "sync": 1, "wait": 0, "comm_hidden": 2, "sync_hidden": 3, "load_hidden": 0
    }  # fmt: skip
    # All after the phase, which is possible only by a mistake: nothing was waited for.
    phase(recorder, clock, "comm", 1)
    recorder.exchanged([Span("sync", clock.now, clock.now + 2)])
    assert (recorder.seconds["comm"], recorder.seconds["sync"]) == (10.5, 1)


def test_no_time_is_below_zero_by_rounding(clock: Clock) -> None:
    clock.now = 0.0
    recorder = make(None)
    phase(recorder, clock, "comm", 0.9)
    assert 0.9 - (0.3 + (0.9 - 0.3)) < 0
    recorder.exchanged([Span("sync", 0.0, 0.3), Span("sync", 0.3, 0.9)])
    assert recorder.seconds["comm"] == 0


def test_loading_is_hidden_while_nobody_waits_for_it(clock: Clock) -> None:
    recorder, zero = make(None), clock.now
    for kind, seconds in (("wait", 4), ("calc", 6), ("wait", 1), ("calc", 9)):
        phase(recorder, clock, kind, seconds)
    first = [("read", 0, 3), ("read", 3, 9)]
    second = [("read", 2, 12)]
    recorder.loaded([[Span(k, zero + a, zero + b) for k, a, b in spans] for spans in (first, second)])
    # The first process was busy for 9 s, 4 of them waited for; the second one for 10 s, 3 of them waited for.
    assert recorder.seconds["load_hidden"] == (5 + 7) / 2
    assert recorder.seconds["wait"] == 5
    recorder.loaded([])
    recorder.loaded([[], []])
    assert recorder.seconds["load_hidden"] == 6


@pytest.mark.parametrize("seed", range(5))
def test_exposed_parts_fill_the_wall_time_and_hidden_ones_lie_beside_it(
    tmp_path: Path, clock: Clock, seed: int
) -> None:
    """Against counting the ticks of a random run one by one."""
    random = np.random.default_rng(seed)
    recorder, zero, processes = make(tmp_path, log_interval=3), clock.now, int(random.integers(1, 4))
    main: list[str] = []
    exchange: dict[int, str] = {}
    reading: list[set[int]] = [set() for _ in range(processes)]
    busy_until = [0] * processes
    for iteration in range(1, 11):
        began = len(main)
        for kind, least, most in (("wait", 0, 4), ("calc", 3, 20), ("wait", 0, 2), ("comm", 0, 12)):
            ticks = int(random.integers(least, most))
            phase(recorder, clock, kind, ticks)
            main += [kind] * ticks
            if random.random() < 0.3:
                clock.pass_(1)
                main.append("other")
        if main[-1] == "other":
            spans = []
        else:
            spans, at = [], began
            while (at := at + int(random.integers(0, 4))) < len(main):
                end = min(len(main), at + int(random.integers(1, 7)))
                kind = str(random.choice(["comm", "sync"]))
                spans.append(Span(kind, zero + at, zero + end))
                exchange |= dict.fromkeys(range(at, end), kind)
                at = end
        recorder.exchanged(spans)
        readings: list[list[Span]] = []
        for i in range(processes):
            readings.append([])
            while (
                end := (start := busy_until[i] + int(random.integers(0, 3))) + int(random.integers(1, 9))
            ) <= len(main):
                readings[i].append(Span("read", zero + start, zero + end))
                reading[i] |= set(range(start, end))
                busy_until[i] = end
        recorder.loaded(readings)
        step(recorder, clock, 0, iteration)
        main += ["wait"] + ["calc"] * 4 + ["comm"] * 2 + ["other"]
    recorder.close()
    total = log(tmp_path)[-1]
    waited = [kind == "wait" for kind in main]
    assert total["wall_s"] == len(main)
    expected = {
        "calc_s": main.count("calc"),
        "wait_s": main.count("wait"),
        "comm_s": sum(kind == "comm" and exchange.get(t) != "sync" for t, kind in enumerate(main)),
        "sync_s": sum(kind == "comm" and exchange.get(t) == "sync" for t, kind in enumerate(main)),
        "comm_hidden_s": sum(main[t] != "comm" for t, kind in exchange.items() if kind == "comm"),
        "sync_hidden_s": sum(main[t] != "comm" for t, kind in exchange.items() if kind == "sync"),
        "load_hidden_s": sum(not waited[t] for ticks in reading for t in ticks) / processes,
    }
    assert {name: total[name] for name in expected} == pytest.approx(expected)
    exposed = sum(total[f"{kind}_s"] for kind in ("calc", "comm", "sync", "wait"))
    assert exposed + main.count("other") == pytest.approx(total["wall_s"])
    assert total["load_hidden_s"] > 0 and total["comm_hidden_s"] > 0


def train_epochs(recorder: Recorder, clock: Clock, first: int, last: int) -> None:
    """Epochs of 3 iterations, whose validation errors are 8, 7, 6, … of 10."""
    for epoch in range(first, last):
        for iteration in range(3 * epoch + 1, 3 * epoch + 4):
            step(recorder, clock, epoch, iteration)
        recorder.flush()
        recorder.validation(epoch, 3 * epoch + 3, 10, classified(10, 30.0, 8 - epoch, 0))


def test_the_summary_is_of_the_whole_run(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[tuple[Path, Path]] = []

    def draw(log_path: Path, png_path: Path) -> None:
        drawn.append((log_path, png_path))
        png_path.touch()

    recorder = make(tmp_path, verbose=True, size=2, iterations=21, draw=draw)
    train_epochs(recorder, clock, 0, 7)
    recorder.close()
    assert log(tmp_path)[-1] == {
        "kind": "summary", "iteration": 21, "wall_s": 168.0, "calc_s": 84.0, "comm_s": 42.0, "sync_s": 0.0,
        "wait_s": 21.0, "comm_hidden_s": 0.0, "sync_hidden_s": 0.0, "load_hidden_s": 0.0, "iterations": 21,
        "items": 210, "items_per_s": 1.25, "loss": 2.0, "error": 0.5, "error_top5": 0.1,
        "best_error": 0.2, "median_error": 0.4,
    }  # fmt: skip
    assert set(drawn) == {(tmp_path / "log.jsonl", tmp_path / "curves.png")}
    assert capsys.readouterr().out.splitlines() == [
        "",
        "21 of 21 iterations on 2 ranks: 210 images in 168.0 s of training, 1.25 images/s",
        "",
        "time per iteration, rank 0              exposed                  hidden",
        "compute                      4000.0 ms   50.0 %",
        "communication                2000.0 ms   25.0 %         0.0 ms    0.0 %",
        "waiting for slower ranks        0.0 ms    0.0 %         0.0 ms    0.0 %",
        "loading                      1000.0 ms   12.5 %         0.0 ms    0.0 %",
        "other                        1000.0 ms   12.5 %",
        "in all                       8000.0 ms  100.0 %",
        "hidden: 0.0 % of communication and 0.0 % of loading",
        "",
        "validation error: best 20.00 % (epoch 7), median of the last 5 40.00 %",
        f"in {tmp_path}: log.jsonl, curves.png",
    ]


def test_curves_are_drawn_at_validations_in_a_twentieth_of_the_time_and_at_every_end(
    tmp_path: Path, clock: Clock
) -> None:
    drawn: list[float] = []

    def draw(log_path: Path, png_path: Path) -> None:
        drawn.append(clock.now - 1000)
        clock.pass_(3)

    recorder = make(tmp_path, draw=draw)
    # A validation after each 24 s: the first drawing is due after 30 s, the following ones 60 s after the one before.
    train_epochs(recorder, clock, 0, 6)
    assert drawn == [48, 48 + 3 + 72]
    assert sum(line["wall_s"] for line in log(tmp_path) if line["kind"] == "train") == 6 * 24
    recorder.stopped()
    assert drawn[2:] == [6 * 24 + 6]
    recorder = make(tmp_path, draw=draw, resume_from=18)
    recorder.diverged(6, 19, "why")
    assert len(drawn) == 4
    make(None, draw=draw).diverged(0, 1, "before there was anything to draw")
    assert len(drawn) == 4


class Ranks:
    """A communicator whose other ranks spent their time as they are told to have."""

    def __init__(self, **others: list[float]) -> None:
        self.others = others

    def gather(self, mine: dict[str, Any], root: int) -> list[dict[str, Any]]:
        n = len(next(iter(self.others.values())))
        return [
            mine,
            *(
                mine
                | {"place": f"cpu on node{i + 1}"}
                | {kind: values[i] for kind, values in self.others.items()}
                for i in range(n)
            ),
        ]


def closing_lines(
    clock: Clock, capsys: pytest.CaptureFixture[str], sync: float, comm: Any, **changes: Any
) -> str:
    """What is printed at the end of one iteration of 9 s, of which rank 0 waits for others for `sync` s."""
    settings = {"out": None, "verbose": True, "iterations": 1, "comm": comm, "place": "cpu on node0"}
    recorder = make(**(settings | changes))
    phase(recorder, clock, "comm", 1)
    recorder.exchanged(
        [Span("sync", clock.now - sync, clock.now), Span("comm", clock.now - 3, clock.now - 1)]
    )
    recorder.loaded([[Span("read", clock.now - 2, clock.now)]])
    step(recorder, clock, 0, 1)
    recorder.close()
    return capsys.readouterr().out


def test_the_slowest_rank_is_named(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = Ranks(sync_s=[0.09, 0.72, 0.36], calc_s=[4.5, 4.0, 4.0], wait_s=[2.8, 1.0, 1.0], wall_s=[9.0] * 3)
    lines = closing_lines(clock, capsys, 0.9, ranks, size=4).splitlines()
    assert lines[3:13] == [
        "time per iteration, rank 0              exposed                  hidden",
        "compute                      4000.0 ms   44.4 %",
        "communication                2100.0 ms   23.3 %      2000.0 ms   22.2 %",
        "waiting for slower ranks      900.0 ms   10.0 %         0.0 ms    0.0 %",
        "loading                      1000.0 ms   11.1 %      2000.0 ms   22.2 %",
        "other                        1000.0 ms   11.1 %",
        "in all                       9000.0 ms  100.0 %",
        "hidden: 48.8 % of communication and 66.7 % of loading",
        "slowest rank: 1 (cpu on node1); the others waited 7.3 % of the time for slower ranks, it 1.0 %",
        "  loading is 31.1 % of its time, 11.1 % of theirs",
    ]


def test_ranks_of_one_speed_are_not_blamed(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = Ranks(sync_s=[0.5, 0.54], wall_s=[9.0] * 2)
    shown = closing_lines(clock, capsys, 0.45, ranks, size=3, out=tmp_path)
    assert "\nno rank is slower than the others; each waited at most 6.0 % of the time\n" in shown
    assert "slowest" not in shown
    summary = log(tmp_path)[-1]
    assert [(rank["rank"], rank["place"], rank["sync_s"]) for rank in summary["ranks"]] == [
        (0, "cpu on node0", pytest.approx(0.45)),
        (1, "cpu on node1", 0.5),
        (2, "cpu on node2", 0.54),
    ]


def test_ranks_are_compared_from_where_this_process_began(tmp_path: Path, clock: Clock) -> None:
    step(make(tmp_path, log_interval=1), clock, 0, 1)
    recorder = make(tmp_path, log_interval=1, resume_from=1, comm=Ranks(sync_s=[0.5]))
    step(recorder, clock, 0, 2)
    recorder.close()
    summary = log(tmp_path)[-1]
    assert (summary["wall_s"], summary["ranks"][0]["wall_s"]) == (16, 8)


def test_of_ranks_nothing_is_said_where_nothing_is_known(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """By an exchange that does not tell who waited, or in a run of one rank."""
    for comm, size in ((Ranks(sync_s=[0.0]), 2), (None, 1)):
        shown = closing_lines(clock, capsys, 0, comm, size=size)
        assert "slowest" not in shown and "no rank" not in shown
    assert "time per iteration   " in shown
    assert "\nhidden: 66.7 % of loading\n" in shown


def test_a_log_of_an_older_version_is_gone_on_with(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {
        "kind": "train", "epoch": 0, "iteration": 2, "loss": 1.0, "error": 0.25, "error_top5": 0.075, "lr": 0.2,
        "images_per_s": 2.5, "calc_s": 8.0, "comm_s": 4.0, "wait_s": 2.0, "images": 40, "wall_s": 16.0,
    }  # fmt: skip
    (tmp_path / "log.jsonl").write_text(json.dumps(old) + "\n")
    recorder = make(tmp_path, resume_from=2, verbose=True)
    step(recorder, clock, 0, 3)
    recorder.close()
    first, *_, total = log(tmp_path)
    names = {"images": "items", "images_per_s": "items_per_s"}
    assert first == {names.get(name, name): value for name, value in old.items()}
    assert (total["items"], total["loss"], total["error"]) == (50, pytest.approx(1.2), pytest.approx(0.3))
    assert (total["calc_s"], total["sync_s"], total["wall_s"], total["iterations"]) == (12, 0, 24, None)
    assert "compute                            n/a   50.0 %" in capsys.readouterr().out


def traced(out: Path) -> dict[str, Any]:
    trace: dict[str, Any] = json.loads((out / "timeline.json").read_text())
    return trace


@pytest.mark.parametrize(
    ("iterations", "done", "wanted", "kept"),
    [
        (20, 0, 4, range(3, 7)),
        (20, 10, 4, range(13, 17)),  # resumed
        (13, 10, 2, range(12, 14)),
        (6, 0, 4, range(3, 7)),
        (5, 0, 4, range(2, 6)),
        (4, 0, 4, range(1, 5)),
        (3, 0, 1000, range(1, 4)),
        (1, 0, 1, range(1, 2)),
    ],
)
def test_a_timeline_has_as_many_iterations_as_were_asked_for(
    tmp_path: Path, clock: Clock, iterations: int, done: int, wanted: int, kept: range
) -> None:
    recorder = make(
        tmp_path, iterations=iterations, resume_from=done or None, timeline=wanted, place="cpu on node0"
    )
    for iteration in range(done + 1, iterations + 1):
        assert (tmp_path / "timeline.json").exists() == (iteration > kept[-1])
        step(recorder, clock, 0, iteration)
        if iteration == 4:
            # Not an iteration, however long it takes.
            recorder.validation(0, 4, 10, classified(10, 1.0, 1, 1))
            clock.pass_(100)
    recorder.close()
    trace = traced(tmp_path)
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [event["name"] for event in events] == [
        name for i in kept for name in (f"iteration: {i}", "load", "compute", "exchange")
    ]
    assert {event["dur"] for event in events[::4]} == {8e6}
    assert trace["otherData"]["iterations"] == f"{kept[0]} to {kept[-1]}"
    assert not (tmp_path / "timeline.json.tmp").exists()


def test_a_timed_validation_is_no_part_of_an_iteration(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path, iterations=2, timeline=2)
    step(recorder, clock, 0, 1)
    recorder.flush()
    phase(recorder, clock, "calc", 50)
    recorder.validation(0, 1, 20, classified(20, 10.0, 4, 2))
    step(recorder, clock, 1, 2)
    events = traced(tmp_path)["traceEvents"]
    assert [(e["ts"], e["dur"]) for e in events if e.get("cat") == "iteration"] == [(0, 8e6), (58e6, 8e6)]


def test_what_a_timeline_takes_is_in_none_of_the_times(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather = module.gather_trace

    def slow(*args: Any) -> Any:
        clock.pass_(1000)
        return gather(*args)

    monkeypatch.setattr(module, "gather_trace", slow)
    recorder = make(tmp_path, iterations=5, timeline=1)
    for iteration in range(1, 6):
        step(recorder, clock, 0, iteration)
    recorder.close()
    assert [line["wall_s"] for line in log(tmp_path)] == [16, 16, 8, 40]


def test_what_is_done_aside_is_in_none_of_the_times(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path, iterations=4, log_interval=2)
    for iteration in range(1, 5):
        step(recorder, clock, 0, iteration)
        with recorder.aside():
            clock.pass_(1000)
    recorder.flush()
    with recorder.aside():  # when no clock runs
        clock.pass_(1000)
    recorder.close()
    assert [line["wall_s"] for line in log(tmp_path)] == [16, 16, 32]


def test_the_timeline_is_among_the_files_named_at_the_end(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = make(tmp_path, iterations=1, timeline=1, verbose=True)
    recorder.spans("mine", [Span("spell", clock.now, clock.now + 1, "abracadabra")])
    step(recorder, clock, 0, 1)
    recorder.close()
    assert f"in {tmp_path}: log.jsonl, timeline.json" in capsys.readouterr().out
    assert any(event["name"] == "spell: abracadabra" for event in traced(tmp_path)["traceEvents"])


def test_a_run_with_nothing_left_to_do_has_no_timeline(tmp_path: Path) -> None:
    make(tmp_path, iterations=3, resume_from=3, timeline=2).close()
    assert not (tmp_path / "timeline.json").exists()


def test_a_resumed_log_is_that_of_an_uninterrupted_run(tmp_path: Path, clock: Clock) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    straight.mkdir()
    resumed.mkdir()
    recorder = make(straight)
    train_epochs(recorder, clock, 0, 4)
    recorder.close()

    train_epochs(make(resumed), clock, 0, 3)
    with open(resumed / "log.jsonl", "a") as file:
        file.write('{"kind": "summary", "iteration": 9}\n{"kind": "train", "epo')
    recorder = make(resumed, resume_from=6)
    assert [line["iteration"] for line in log(resumed)] == [2, 3, 3, 4, 6, 6]
    assert os.listdir(resumed) == ["log.jsonl"]
    train_epochs(recorder, clock, 2, 4)
    recorder.close()
    assert log(resumed) == log(straight)


@pytest.mark.parametrize(
    "end", [SUMMARY, '{"kind": "diverged", "epoch": 0, "iteration": 6, "reason": "nan"}']
)
def test_how_a_run_ended_is_out_of_date_when_it_goes_on(tmp_path: Path, clock: Clock, end: str) -> None:
    train_epochs(make(tmp_path), clock, 0, 2)
    before = log(tmp_path)
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(end + "\n")
    make(tmp_path, resume_from=6)
    assert log(tmp_path) == before


def test_a_run_that_diverged_says_so_in_its_log_at_once(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path)
    for iteration in (1, 2, 3):
        step(recorder, clock, 0, iteration)
    recorder.diverged(0, 4, "the loss is not finite on rank 0 (nan), η = 3.2")
    *_, last = lines = log(tmp_path)
    assert [(line["kind"], line["iteration"]) for line in lines] == [
        ("train", 2),
        ("train", 3),
        ("diverged", 4),
    ]
    assert last == {
        "kind": "diverged",
        "epoch": 0,
        "iteration": 4,
        "reason": "the loss is not finite on rank 0 (nan), η = 3.2",
    }
    assert read_log(tmp_path / "log.jsonl") == lines
    make(tmp_path, resume_from=2)
    assert [line["iteration"] for line in log(tmp_path)] == [2]


def test_only_rank_0_writes_that_a_run_diverged(tmp_path: Path) -> None:
    make(tmp_path, rank=1, size=2).diverged(0, 4, "why")
    assert not (tmp_path / "log.jsonl").exists()


def test_a_log_that_ends_before_the_checkpoint_is_refused(tmp_path: Path, clock: Clock) -> None:
    """It has lost lines, and what comes after would look like the whole run."""
    train_epochs(make(tmp_path), clock, 0, 2)
    before = (tmp_path / "log.jsonl").read_text()
    make(tmp_path, resume_from=6)
    with pytest.raises(ConfigError) as raised:
        make(tmp_path, resume_from=7)
    assert str(raised.value) == (
        f"log {tmp_path / 'log.jsonl'}: expected lines up to iteration 7, to which the checkpoint goes, got them up to "
        "6; remove the log to go on without it"
    )
    lines = before.splitlines(keepends=True)
    assert '"val"' in lines[-1]
    make(tmp_path, resume_from=6, validated=True)
    (tmp_path / "log.jsonl").write_text("".join(lines[:-1]) + lines[-1][:40])
    with pytest.raises(ConfigError) as raised:
        make(tmp_path, resume_from=6, validated=True)
    assert str(raised.value) == (
        f"log {tmp_path / 'log.jsonl'}: expected the validation after iteration 6, to which the checkpoint goes, got "
        "none; remove the log to go on without it"
    )
    assert (tmp_path / "log.jsonl").read_text() == "".join(lines[:-1]) + lines[-1][:40]


def test_the_log_is_on_the_disk_before_a_checkpoint_is(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path, path.read_text().count("\n")))

    monkeypatch.setattr(os, "fsync", fsync)
    recorder = make(tmp_path, log_interval=10)
    step(recorder, clock, 0, 1)
    recorder.flush()
    assert synced == [(tmp_path / "log.jsonl", 1)]
    recorder.validation(0, 1, 10, classified(10, 1.0, 1.0, 1.0))
    recorder.flush()
    assert synced[-1] == (tmp_path / "log.jsonl", 2)


def test_resuming_without_a_log_begins_one(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path, resume_from=3)
    step(recorder, clock, 1, 4)
    assert [line["iteration"] for line in log(tmp_path)] == [4]


def test_a_log_is_not_begun_over_another_one(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("mine")
    with pytest.raises(CannotWrite, match=r"log\.jsonl: cannot be written: File exists$"):
        make(tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == "mine"


def test_a_damaged_log_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with pytest.raises(ValueError, match=r"log\.jsonl: expected a file, got none there$"):
        read_log(path)
    for damage in ("tra", "[1]", "\xff"):
        path.write_bytes(f"{SUMMARY}\n{damage}\n{SUMMARY}\n".encode("latin-1"))
        with pytest.raises(ValueError, match=r"log\.jsonl, line 2: expected a JSON object, got b'"):
            read_log(path)
    # A last line that has its end was not torn.
    path.write_text(SUMMARY + '\n{"ki\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: expected a JSON object, got b'{\"ki'$"):
        read_log(path)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("train", {"kind": "tra)n"}, "a kind of train, val, summary, meeting, diverged, got 'tra)n'"),
        ("train", {"kind": None}, "a kind of train, val, summary, meeting, diverged, got None"),
        ("train", {"iteration": ...}, "'iteration' in a line of kind 'train', got none"),
        ("train", {"items": ...}, "'items' in a line of kind 'train', got none"),
        ("train", {"items": 2**63}, "'items' to be a whole number of at least 0, got 9223372036854775808"),
        ("train", {"items": -32}, "'items' to be a whole number of at least 0, got -32"),
        ("train", {"wall_s": "1"}, "'wall_s' to be a number of at least 0, got '1'"),
        ("train", {"calc_s": None}, "'calc_s' to be a number of at least 0, got None"),
        ("train", {"loss": [1.0]}, "'loss' to be a number or null, got [1.0]"),
        ("train", {"lr": 10**400}, "'lr' to be a number or null, got a very"),
        ("train", {"iteration": 3}, "an iteration of at least 4, as in the lines before, got 3"),
        ("val", {"epoch": 1.0}, "'epoch' to be a whole number of at least 0, got 1.0"),
        ("val", {"error": 1.5}, "'error' to be a number from 0 to 1 or null, got 1.5"),
        ("val", {"mae": "0.3"}, "'mae' to be a number or null, got '0.3'"),
        ("val", {"best_error": 30}, "'best_error' to be a number from 0 to 1 or null, got 30"),
        ("diverged", {"reason": 3}, "'reason' to be a text, got 3"),
    ],
)
def test_a_line_that_no_run_writes_is_refused_before_the_run_goes_on(
    tmp_path: Path, clock: Clock, kind: str, change: dict[str, Any], message: str
) -> None:
    recorder = make(tmp_path)
    train_epochs(recorder, clock, 0, 2)
    recorder.diverged(2, 5, "the loss is not finite")
    lines = log(tmp_path)
    number = max(i for i, line in enumerate(lines) if line["kind"] == kind)
    lines[number] = {k: v for k, v in (lines[number] | change).items() if v is not ...}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "log.jsonl").write_text(text)
    message = message.replace("a very", "1000000000")
    with pytest.raises(ValueError) as caught:
        make(tmp_path, resume_from=4)
    assert str(caught.value).startswith(
        f"log {tmp_path / 'log.jsonl'}, line {number + 1}: expected {message}"
    )
    assert (tmp_path / "log.jsonl").read_text() == text


@pytest.mark.parametrize("tail", ["", "\n", "\n{", '\n{"kind": "val"', "\n\0\0\0", "\n12"])
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: str) -> None:
    (tmp_path / "log.jsonl").write_text(SUMMARY + tail)
    assert read_log(tmp_path / "log.jsonl") == [json.loads(SUMMARY)]


def test_every_line_is_in_the_file_when_it_is_due(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from theanompi.record.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), 0, 1, 9, 2, False, None)
for i in range(1, 6):
    recorder.start()
    recorder.train(0, i, 8, {"loss": (1.0, 8.0)}, 0.1)
os._exit(9)
"""
    assert (
        subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT, timeout=60, check=False).returncode
        == 9
    )
    assert [line["iteration"] for line in log(tmp_path)] == [2, 4]


def test_other_ranks_write_and_say_nothing(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = make(tmp_path, rank=1, size=2, verbose=True, draw=lambda *_: pytest.fail("rank 1 drew"))
    train_epochs(recorder, clock, 0, 2)
    recorder.start()
    clock.pass_(5)
    recorder.end("comm")
    assert recorder.seconds.pop("comm") == 5 and not any(recorder.seconds.values())
    recorder.close()
    assert os.listdir(tmp_path) == []
    assert capsys.readouterr() == ("", "")


def test_without_a_folder_no_file_is_written(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recorder = make(None, draw=lambda *_: pytest.fail("nothing to draw"), verbose=True)
    train_epochs(recorder, clock, 0, 1)
    recorder.close()
    assert os.listdir(tmp_path) == []
    assert "3 of 100 iterations on 1 rank: 30 images in 24.0 s" in capsys.readouterr().out


def test_without_a_terminal_there_are_plain_lines_now_and_then(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = make(None, verbose=True, log_interval=1, iterations=20)
    for iteration in range(1, 11):
        step(recorder, clock, 0, iteration, lr=0.1)
    recorder.flush()
    recorder.validation(0, 10, 100, classified(100, 50.0, 25, 5))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "epoch 1, iteration 8/20: 1.25 images/s, loss 2, error 50.00 %, η 0.1",
        "epoch 1, iteration 10/20: 1.25 images/s; training loss 2, error 50.00 %; "
        "validation loss 0.5, error 25.00 %, top-5 5.00 %",
    ]


def test_an_unfinished_or_empty_run_can_be_closed(tmp_path: Path, clock: Clock) -> None:
    recorder = make(tmp_path, draw=lambda *_: pytest.fail("nothing to draw"), verbose=True)
    recorder.close()
    assert log(tmp_path)[0]["items"] == 0
    (tmp_path / "log.jsonl").unlink()
    recorder = make(tmp_path)
    step(recorder, clock, 0, 1)
    recorder.close()
    assert [(line["kind"], line["iteration"]) for line in log(tmp_path)] == [("train", 1), ("summary", 1)]


SHOW = """
import time
import tracemalloc
from theanompi.record.recorder import Recorder
recorder = Recorder(None, comm.rank, comm.size, 4, 2, True, None)
for i in range(1, 5):
    recorder.start()
    time.sleep(0.12)
    recorder.end("calc")
    recorder.train(0, i, 8, {"loss": (16.0, 8.0), "error": (1.0, 8.0)}, 0.1)
recorder.flush()
recorder.validation(0, 4, 10, {"loss": (5.0, 10.0), "error": (1.0, 10.0)})
recorder.close()
"""


def through_a_terminal(command: list[str]) -> str:
    """What a command shows on a terminal: its stderr, not its stdout."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        # Linux's way of saying that the last process has closed the other end.
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("launcher", [lambda: [], lambda: [*mpirun(), "-np", "2"]], ids=["alone", "mpirun"])
def test_a_terminal_gets_a_bar_through_mpirun_too(launcher: Callable[[], list[str]]) -> None:
    shown = through_a_terminal(
        [*launcher(), sys.executable, "-c", f"from mpi4py.MPI import COMM_WORLD as comm\n{SHOW}"]
    )
    assert "\repoch 1 " in shown
    assert "4/4 [" in shown and "0/4 [" not in shown
    assert "loss 2, error 12.50 %, η 0.1" in shown
    assert shown.count("validation loss 0.5, error 10.00 %") == 1


def test_standard_output_has_a_width_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 99, 0, 0))
    with open(side, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert terminal_columns(output=True) == 99
    os.close(ours)
    assert terminal_columns(output=True) is None


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_pipe_gets_no_control_characters(ranks: int) -> None:
    result = run_warm(ranks, SHOW, timeout=60)
    assert result.returncode == 0, result.stderr
    # Not one more line: in text mode each return of a bar to the left edge would be one.
    (line,) = result.stderr.splitlines()
    assert line.startswith("epoch 1, iteration 4/4: ")
    assert "\x1b" not in line
    assert result.stdout.count(f"4 of 4 iterations on {ranks} rank") == 1


def test_the_memory_of_a_run_does_not_grow_with_its_length() -> None:
    recorder = Recorder(None, 0, 1, 4000, log_interval=1, verbose=False, resume_from=None)

    def go_on(first: int, last: int) -> None:
        for iteration in range(first, last):
            recorder.start()
            recorder.end("calc")
            recorder.train(0, iteration, 32, classified(32, 1.0, 1, 0), lr=0.1)

    go_on(1, 1000)
    tracemalloc.start()
    go_on(1000, 4001)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 20_000


@pytest.mark.parametrize("name", ["log.jsonl", "timeline.json"])
def test_a_folder_that_is_gone_is_one_line(tmp_path: Path, clock: Clock, name: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    recorder = make(out, timeline=1 if name == "timeline.json" else None, iterations=1)
    (out / "log.jsonl").unlink()
    out.rmdir()
    with pytest.raises(CannotWrite) as caught:
        step(recorder, clock, 0, 1)
        recorder.flush()
    assert str(caught.value) == f"{out / name}: cannot be written: No such file or directory"


@pytest.mark.parametrize("other", [False, True])
def test_nothing_more_is_written_once_the_log_is_not_this_runs_any_more(
    tmp_path: Path, clock: Clock, other: bool
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    recorder = make(out, log_interval=1)
    step(recorder, clock, 0, 1)
    out.rename(tmp_path / "away")
    out.mkdir()
    if other:
        make(out)
    reason = (
        "it is another file than this run's, perhaps another run's" if other else "No such file or directory"
    )
    for write in (recorder.flush, lambda: step(recorder, clock, 0, 2)):
        with pytest.raises(CannotWrite) as caught:
            write()
        assert str(caught.value) == f"{out / 'log.jsonl'}: cannot be written: {reason}"
    assert log(out) == [] if other else os.listdir(out) == []
    assert len(log(tmp_path / "away")) == 1


def test_a_bar_has_no_semaphore_which_a_kill_would_leave_behind() -> None:
    program = """if __name__ == "__main__":
    import multiprocessing
    multiprocessing.set_start_method("forkserver")  # as from Python 3.14 on
    from theanompi.record.terminal import bar
    bar(80, total=1)
    print("/dev/shm" in open("/proc/self/maps").read())"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n" and " 0/1 " in done.stderr
