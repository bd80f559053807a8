"""Loggers: each has what the log has, once, also where a resumed run goes back."""

import csv
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.test_recorder import Clock, clock, make, step, sums  # noqa: F401
from theanompi.config import RunConfig, resolve
from theanompi.record.log import read_log
from theanompi.record.loggers import LOGGERS, find_logger
from theanompi.record.loggers.base import scalars
from theanompi.record.metrics import CLASSIFIER

CONFIG = resolve(RunConfig(settings={"optimizer.eps": 0.5})).to_dict() | CLASSIFIER.to_dict()


def run(out: Path, clock: Clock, name: str, resume_from: int | None, until: int, end: bool) -> None:  # noqa: F811
    """Train from one iteration to another, with other losses than before, and validate after each even one."""
    logger = find_logger(name)
    recorder = make(out, resume_from=resume_from, loggers=[partial(logger, out, CONFIG, resume_from)])
    for iteration in range((resume_from or 0) + 1, until + 1):
        step(recorder, clock, 0, iteration, loss=iteration + 100.0 * bool(resume_from))
        if iteration % 2 == 0:
            recorder.validation(0, iteration, 10, sums(10, loss=1.0, error=iteration, error_top5=0))
    recorder.close() if end else recorder.stopped()


@pytest.fixture
def twice(tmp_path: Path, clock: Clock) -> Callable[[str], list[dict[str, Any]]]:  # noqa: F811
    """A run of six iterations that is resumed after the fourth, to the eighth; gives its log."""

    def train(name: str) -> list[dict[str, Any]]:
        run(tmp_path, clock, name, None, 6, end=False)
        run(tmp_path, clock, name, 4, 8, end=True)
        log = read_log(tmp_path / "log.jsonl")
        assert [record["iteration"] for record in log] == [2, 2, 4, 4, 6, 6, 8, 8, 8]
        return log

    return train


def test_the_table_has_a_row_for_each_line_of_the_log(tmp_path: Path, twice: Callable[..., Any]) -> None:
    log = twice("csv")
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], int(row["iteration"]), row["loss"]) for row in rows] == [
        (record["kind"], record["iteration"], str(record["loss"])) for record in log
    ]


def test_what_a_logger_takes_out_of_a_record_the_next_one_has(tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    told: list[dict[str, Any]] = []
    writers = [lambda record: record.clear(), told.append]
    loggers = [lambda _, w=w: SimpleNamespace(write=w, close=lambda: None) for w in writers]
    recorder = make(tmp_path, loggers=loggers)
    step(recorder, clock, 0, 1)
    recorder.close()
    assert told == read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("name", ["csv", "tensorboard"])
def test_a_record_of_mixed_labels_has_no_figure_more(name: str, tmp_path: Path, clock: Clock) -> None:  # noqa: F811
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made: list[Any] = []
    for mixed in (False, True):
        out = tmp_path / str(mixed)
        out.mkdir()
        logger = partial(find_logger(name), out, CONFIG, None)
        recorder = make(out, mixed=mixed, loggers=[logger])
        for iteration in (1, 2):
            step(recorder, clock, 0, iteration)
        recorder.close()
        assert [record.get("labels") for record in read_log(out / "log.jsonl")] == [
            "mixed" if mixed else None,
            None,
        ]
        if name == "csv":
            made.append((out / "log.csv").read_text())
        else:
            made.append(reader.EventAccumulator(str(out)).Reload().Tags()["scalars"])
    assert made[0] == made[1] and "loss" in str(made)


def test_tensorboards_own_reader_finds_every_number_once(tmp_path: Path, twice: Callable[..., Any]) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = twice("tensorboard")
    events = reader.EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    expected: dict[str, list[tuple[int, float]]] = {}
    for record in log:
        for name, value in scalars(record).items():
            expected.setdefault(name, []).append((record["iteration"], pytest.approx(value)))
    assert {"train/loss", "train/lr", "val/error", "summary/best_error"} < expected.keys()
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == expected


def in_its_place(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    """A module that is not here, with what its documentation says of these functions."""
    module = ModuleType(name)
    vars(module).update(functions, __spec__=SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, name, module)


def test_weights_and_biases_is_told_under_one_name(
    monkeypatch: pytest.MonkeyPatch, twice: Callable[..., Any]
) -> None:
    calls: list[Any] = []

    class Run:
        id = "3f"
        summary = SimpleNamespace(update=lambda values: calls.append(("summary", values)))

        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            calls.append(("axis", name, step_metric))

        def log(self, data: Mapping[str, Any]) -> None:
            calls.append(("log", data))

        def finish(self) -> None:
            calls.append(("finish",))

    def init(**given: Any) -> Run:
        calls.append(("init", given["id"], given["resume"], given["config"]["epochs"]))
        return Run()

    in_its_place(monkeypatch, "wandb", init=init)
    log = twice("wandb")
    axes = [("axis", "iteration", None), ("axis", "*", "iteration")]
    assert calls[:3] == [("init", None, "allow", 12), *axes]
    again = calls.index(("init", "3f", "allow", 12))
    assert calls[again - 1] == ("finish",) and calls[again + 1 : again + 3] == axes
    *logged, summary, finish = calls[again + 3 :]
    assert logged == [
        ("log", {"iteration": r["iteration"], "epoch": 0, **scalars(r)}) for r in log[4:8]
    ] and summary == ("summary", scalars(log[8]))
    assert finish == ("finish",)


def test_mlflow_is_told_under_one_name(monkeypatch: pytest.MonkeyPatch, twice: Callable[..., Any]) -> None:
    calls: list[Any] = []

    def start_run(run_id: str | None = None, run_name: str | None = None) -> Any:
        calls.append(("start", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id="7a"))

    in_its_place(
        monkeypatch,
        "mlflow",
        start_run=start_run,
        log_params=lambda params: calls.append(("params", params["epochs"], params["optimizer.eps"])),
        log_metrics=lambda metrics, step=None: calls.append((step, metrics)),
        end_run=lambda status="FINISHED": calls.append(("end", status)),
    )
    log = twice("mlflow")
    assert calls[:2] == [("start", None), ("params", 12, 0.5)]
    again = calls.index(("start", "7a"))
    assert calls[again - 1] == ("end", "KILLED")
    assert calls[again + 1 :] == [*((r["iteration"], scalars(r)) for r in log[4:]), ("end", "FINISHED")]


def test_the_names_in_the_help_are_those_that_there_are() -> None:
    from theanompi.config import run as module

    assert tuple(LOGGERS) == module.LOGGERS
    assert json.loads(json.dumps(RunConfig(logger="csv, my_loggers.py:Mine").to_dict()))["logger"] == [
        "csv",
        "my_loggers.Mine",
    ]
