"""What Python is told of a run that has ended."""

import base64
import json
import re
from pathlib import Path

import pytest

from theanompi import BSP
from theanompi.record.result import Result

LOG = [
    {"kind": "val", "epoch": 0, "iteration": 5, "loss": 2.0, "error": 0.25, "items": 8},
    {"kind": "val", "epoch": 1, "iteration": 10, "loss": 1.5, "error": 0.125, "items": 8},
    {"kind": "val", "epoch": 2, "iteration": 15, "loss": 1.0, "error": 0.5, "items": 8},
]


def test_a_rule_has_the_result_of_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("theanompi.launch.session.Job", lambda *args, **how: started.append(args))
    rule = BSP()
    with pytest.raises(RuntimeError, match="expected a call of init before it"):
        _ = rule.result
    rule.init(["cpu", "cpu"], "models.resnet50", "ResNet50", out=str(tmp_path))
    with pytest.raises(ValueError, match=r"log\.jsonl: expected a file, got none there"):
        _ = rule.result
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in LOG))
    result = rule.result
    assert (result.folder, result.log, result.checkpoint) == (tmp_path, LOG, None)
    assert (result.metric, result.best, result.last) == ("error", 0.125, 0.5)
    assert repr(result) == f"{tmp_path}: validation error: best 12.50 %, last 50.00 %"
    (tmp_path / "checkpoint.h5").touch()
    assert rule.result.checkpoint == tmp_path / "checkpoint.h5"


def test_a_notebook_shows_the_curves(tmp_path: Path) -> None:
    folder = tmp_path / "a<b"
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in LOG))
    shown = Result(folder)._repr_html_()
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert base64.b64decode(data).startswith(b"\x89PNG") and "a&lt;b: validation error" in shown
    assert [file.name for file in folder.iterdir()] == ["log.jsonl"]


def test_a_run_that_reports_something_else_is_judged_by_that(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"metrics": ["nats"], "metric": "nats", "noun": "windows"}')
    (tmp_path / "log.jsonl").write_text(
        '{"kind": "val", "epoch": 0, "iteration": 5, "nats": null, "items": 8}\n'
    )
    result = Result(tmp_path)
    assert (result.metric, result.best, result.last) == ("nats", None, None)
    assert repr(result).endswith("validation nats: best n/a, last n/a")
