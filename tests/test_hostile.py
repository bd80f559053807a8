"""Damaged inputs of every kind, a few of each: what `benchmarks/hostile.py` must find of thousands."""

import importlib
import json
import random
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def hostile(beside_the_benchmarks: None) -> ModuleType:
    return importlib.import_module("hostile")


def test_a_few_inputs_of_every_kind_are_refused_in_a_line_or_read(
    hostile: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    report = hostile.measure(inputs=300, sample=2, seed=2, jobs=2)
    assert report["failures"] == []
    assert all(sum(counts.values()) for counts in report["inputs"].values())
    assert sum(counts["refused"] for counts in report["inputs"].values()) > 150
    assert "in all" in capsys.readouterr().out
    json.dumps(report)


@pytest.mark.parametrize(
    "name",
    ["cfg files", "hostfiles", "experiment folders", "checkpoints, any bytes", "data sets, any bytes", "npz, any bytes",
     "weights, any bytes",
     "arrays-file, any bytes", "tokens-file, any bytes", "fields, any bytes", "texts, any bytes",
     "CIFAR", "tar archives of CIFAR", "MNIST", "archives of ImageNet"],
)  # fmt: skip
def test_what_is_not_damaged_is_accepted(
    hostile: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = importlib.import_module("hostile_kinds")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kinds, "damaged", lambda rng, data, first=None: data)
    monkeypatch.setattr(kinds, "damaged_text", lambda rng, text: text.encode())
    monkeypatch.setattr(
        kinds, "_damaged_log", lambda rng, lines: b"".join(json.dumps(x).encode() + b"\n" for x in lines)
    )
    monkeypatch.setattr(kinds, "json_bytes", lambda rng, content: json.dumps(content).encode())
    # Nothing else that is chosen is wrong either.
    rng = random.Random(0)
    monkeypatch.setattr(rng, "random", lambda: 0.5)
    monkeypatch.setattr(kinds, "argument", lambda rng: "cpu")
    kind = kinds.KINDS[name]
    verdict, about = hostile.judge(kind, kind.make(rng, tmp_path), tmp_path)
    assert (verdict, about) == ("accepted", "")


def fails() -> None:
    raise KeyError("x")


def test_what_is_wrong_is_seen(hostile: ModuleType, tmp_path: Path) -> None:
    kinds = importlib.import_module("hostile_kinds")

    def verdict(call: object, good: object = None) -> str:
        found: str = hostile.judge(kinds.Kind(lambda *_: None), kinds.Input(call, good=good), tmp_path)[0]
        return found

    def refuse(text: str) -> None:
        raise ValueError(text)

    def change() -> None:
        (tmp_path / "new").write_text("")
        refuse("no")

    def swallow() -> None:
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("damaged") from None

    assert verdict(lambda: 3, good=3) == "accepted"
    assert verdict(lambda: 4, good=3) == "damage"
    assert verdict(lambda: refuse("no")) == "refused"
    assert verdict(fails) == "traceback"
    assert verdict(swallow) == "past limit"
    assert verdict(change) == "damage"
