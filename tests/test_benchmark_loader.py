"""What the loader's benchmark computes and compares: its logic, not its timings."""

import doctest
import importlib
import json
import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest, uniform

from tests.photographs import jpeg, photograph
from theanompi.data import open_dataset
from theanompi.data.pictures.decode import decode

pytestmark = pytest.mark.usefixtures("beside_the_benchmarks")
MODULES = ("decoders", "loader_contender", "loader_throughput", "processes")


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples(name: str) -> None:
    module = load(name)
    assert doctest.testmod(module).failed == 0


def write_folder(path: Path, pixels: np.ndarray) -> None:
    for name in ("b", "a"):
        (path / name).mkdir()
        for i in range(2):
            Image.fromarray(pixels).save(path / name / f"{i}.JPEG", "PNG")


def test_the_standard_way_crops_mirrors_and_normalises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contender = load("loader_contender")
    pixels = photograph(0, 60, 80)
    write_folder(tmp_path, pixels)
    folder = contender.Folder(tmp_path)
    assert [(Path(file).parent.name, label) for file, label in folder.files] == [
        ("a", 0),
        ("a", 0),
        ("b", 1),
        ("b", 1),
    ]
    monkeypatch.setattr(contender, "random_box", lambda height, width: (5, 9, 30, 40))
    for draw in (0.49, 0.51):
        monkeypatch.setattr(torch, "rand", lambda n, draw=draw: torch.full((n,), draw))
        got, label = folder[3]
        region = Image.fromarray(np.ascontiguousarray(pixels[5:35, 9:49]))
        expected = np.asarray(region.resize((224, 224), Image.Resampling.BILINEAR))
        if draw < 0.5:
            expected = expected[:, ::-1]
        expected = (expected / 255 - contender.MEAN) / contender.STD
        assert label == 1 and got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), expected.transpose(2, 0, 1), atol=2e-6)


def test_boxes_of_the_standard_way() -> None:
    contender = load("loader_contender")
    torch.manual_seed(0)
    y, x, h, w = np.array([contender.random_box(600, 800) for _ in range(2000)]).T
    assert (y >= 0).all() and (x >= 0).all() and (y + h <= 600).all() and (x + w <= 800).all()
    area, aspect = h * w / (600 * 800), w / h
    # Rounding to whole pixels moves both a little.
    assert 0.079 < area.min() < 0.09 and 0.9 < area.max() <= 1
    assert 0.745 < aspect.min() < 0.76 and 1.31 < aspect.max() < 1.34
    # Boxes of less than a third of the picture always fit: there the laws hold as they are drawn.
    small = area < 1 / 3
    assert kstest(area[small], uniform(0.08, 1 / 3 - 0.08).cdf).pvalue > 0.01
    assert kstest(np.log(aspect[small]), uniform(-np.log(4 / 3), 2 * np.log(4 / 3)).cdf).pvalue > 0.01


@pytest.mark.parametrize(("size", "box"), [((20, 3000), (0, 1486, 20, 27)), ((3000, 20), (1486, 0, 27, 20))])
def test_pictures_that_no_box_fits_give_their_centre(size: tuple[int, int], box: tuple[int, ...]) -> None:
    # About one elongated picture in three still has a box that fits, of the smallest areas.
    contender = load("loader_contender")
    boxes = {contender.random_box(*size) for _ in range(50)}
    assert box in boxes


def test_the_standard_order_is_one_permutation_after_another() -> None:
    torch.manual_seed(0)
    order = list(islice(load("loader_contender").Endless(7), 21))
    epochs = [order[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_burst_begins_with_what_was_read_ahead_untimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contender = load("loader_contender")
    events: list[str] = []
    clock = {"time": 0.0, "ticks": 0}

    def step() -> None:
        events.append("step")
        clock["time"] += 1
        clock["ticks"] += 32

    (tmp_path / "0").write_text("5\n2\n")
    monkeypatch.setenv("BENCHMARK_PIPES", str(tmp_path))
    monkeypatch.setattr(contender, "settle", lambda: events.append("settle"))
    monkeypatch.setattr(contender, "cpu_ticks", lambda: clock["ticks"])
    monkeypatch.setattr(time, "perf_counter", lambda: clock["time"])
    contender.serve(step, lambda: None, ahead=3)
    said = [json.loads(line.removeprefix("@benchmark ")) for line in capsys.readouterr().out.splitlines()]
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert said == [
        {"first_step": True},
        {"step_s": 1.0},
        {"seconds": 5.0, "cpu_s_per_image": pytest.approx(tick)},
        {"seconds": 2.0, "cpu_s_per_image": pytest.approx(tick)},
    ]
    runs = "".join("s" if event == "step" else "|" for event in events).split("|")
    assert [len(run) for run in runs] == [1 + 3 + 8, 3 + 5, 3 + 2, 0]


def test_time_and_memory_of_what_a_process_started_count() -> None:
    processes = load("processes")
    before, alone = processes.cpu_ticks(), len(processes.resident_mib())
    # It asks for 64 MiB, works for 0.3 s of CPU time, says so, and waits for its end; its child does nothing.
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "memory = bytearray(b'x' * 2**26)\n"
        "while time.process_time() < 0.3: pass\n"
        "print(flush=True); input(); child.communicate(b'\\n')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        used = (processes.cpu_ticks() - before) / os.sysconf("SC_CLK_TCK")
        sizes = processes.resident_mib()
        started.communicate("\n")
    assert 0.28 <= used
    assert len(sizes) == alone + 2 and max(sizes[1:]) >= 64


class FakeContender:
    def __init__(self, name: str, step_s: float, log: list[tuple[str, int]]) -> None:
        self.name, self.step_s, self.log = name, step_s, log

    def burst(self, steps: int) -> dict[str, Any]:
        self.log.append((self.name, steps))
        return {"seconds": steps * self.step_s}


def test_bursts_take_the_same_time_and_the_order_turns_round() -> None:
    log: list[tuple[str, int]] = []
    contenders = [FakeContender("slow", 1.0, log), FakeContender("fast", 0.01, log)]
    said = load("loader_throughput").take_turns(contenders, rounds=2, burst_s=2.0)
    assert log == [("slow", 8), ("fast", 200), ("fast", 200), ("slow", 8)]
    assert said["fast"] == [{"seconds": 2.0, "images": 6400}] * 2


def test_ratios_pair_the_bursts_of_a_round() -> None:
    throughput = load("loader_throughput")

    def bursts(seconds: list[float], cpu: float) -> list[dict[str, float]]:
        return [{"images": 100, "seconds": s, "cpu_s_per_image": cpu} for s in seconds]

    # The machine was half as fast in the second round and a quarter in the third.
    report = throughput.loader_report(
        {"standard": bursts([1, 2, 4], 0.004), "jpeg": bursts([0.5, 1, 1], 0.001)}, processes=2
    )
    assert report["processes"] == 2
    assert report["standard"]["images_per_s"]["samples"] == [100, 50, 25]
    assert report["standard"]["images_per_s_per_process"]["median"] == 25
    assert report["jpeg"]["ratio"]["samples"] == [2, 2, 4]
    assert report["jpeg"]["cpu_ms_per_image"]["median"] == pytest.approx(1)
    assert report["jpeg"]["cpu_ratio"]["median"] == pytest.approx(4)
    assert "ratio" not in report["standard"]


def test_a_table_of_loaders(capsys: pytest.CaptureFixture[str]) -> None:
    throughput = load("loader_throughput")
    burst = {"images": 100, "seconds": 1.0, "cpu_s_per_image": 0.01}
    fast = burst | {"seconds": 0.1}
    names = ("standard", "jpeg", "raw, with the crop on the device")
    said = dict(zip(names, ([burst], [fast], [fast]), strict=True))
    throughput.show_loaders(throughput.loader_report(said, processes=1))
    title, head, standard, jpeg, raw = capsys.readouterr().out.splitlines()
    assert title == "loaders, processes: 1" and head.split()[0] == "images/s"
    assert standard.split() == ["standard", "100", "(100–100)", "10.000", "(10.000–10.000)"]
    assert jpeg.split()[-4:] == ["10.00", "(10.00–10.00)", "≥", "2.5"]
    # The target is the loader's, which leaves the crop to the device.
    assert "≥" not in raw


def test_packing_on_many_cores_is_no_faster_than_the_process_that_writes() -> None:
    sample = {"seconds": 0.004, "parent_cpu_s": 0.002, "worker_cpu_s": 0.004}
    report = load("loader_throughput").packing_report([sample], 110_000.0, 1_000_000)
    assert report["cpu_ms_per_image"]["median"] == pytest.approx(6)
    far = report["extrapolated"]
    assert far["hours_1_core"] == pytest.approx(6e3 / 3600)
    assert far["minutes_16_cores"] == pytest.approx(2e3 / 60)
    assert far["gb"] == pytest.approx(110)


def test_libraries_that_are_missing_are_listed_and_the_others_take_turns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    decoders = load("decoders")
    log: list[str] = []

    def library(name: str) -> Any:
        def decode(data: bytes) -> np.ndarray:
            log.append(name + data.decode())
            return np.zeros((1, 1, 3), np.uint8)

        return lambda: {"full": decode}

    def missing() -> Any:
        raise OSError("no\nshared library")

    libraries = {"one": library("1"), "two": library("2"), "gone": missing}
    report = decoders.measure([b"a", b"b"], rounds=2, libraries=libraries)
    assert log == "1a 1b 2a 2b 2a 2b 1a 1b 1a 1b 2a 2b".split()
    assert [len(row["samples"]) for row in report["ms_per_image"].values()] == [2, 2]
    assert report["missing"] == {"gone": "no shared library"}
    decoders.show(report)
    assert "gone" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("name", ["pillow", "simplejpeg"])
def test_decoders_that_the_package_needs(name: str) -> None:
    decoders = load("decoders")
    scales = decoders.LIBRARIES[name]()
    pixels = photograph(1, 375, 500)
    assert np.abs(scales["full"](jpeg(1)).astype(int) - pixels).mean() < 5
    halved = np.asarray(Image.fromarray(pixels).reduce(2)).astype(int)
    assert np.abs(scales["half"](jpeg(1)).astype(int) - halved).mean() < 5


def test_photographs_lie_in_class_folders_in_both_formats(tmp_path: Path) -> None:
    throughput = load("loader_throughput")
    for number in (10, 13):
        throughput.write_photograph(tmp_path, number)
    files = sorted(tmp_path.rglob("*.JPEG"))
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "class0/000010.JPEG",
        "class3/000013.JPEG",
    ]
    assert [decode(file.read_bytes()).shape for file in files] == [(375, 500, 3), (500, 375, 3)]
    assert 90_000 < np.mean([file.stat().st_size for file in files]) < 130_000


def test_only_the_sections_that_were_chosen_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    throughput = load("loader_throughput")
    seen: list[tuple[str, int]] = []
    for name in throughput.SECTIONS:
        monkeypatch.setitem(
            throughput.SECTIONS,
            name,
            lambda amounts, materials, name=name: seen.append((name, amounts.photographs)) or {"ran": name},
        )
    out = tmp_path / "new" / "result.json"
    words = [
        "loader_throughput.py",
        "--quick",
        "--section",
        "wait",
        "--section",
        "decoders",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", words)
    throughput.main()
    result = json.loads(out.read_text())
    assert seen == [("decoders", 160), ("wait", 160)]
    assert {"environment", "amounts", "targets", "decoders", "wait"} <= set(result)
    assert not {"loaders", "packing", "large-set"} & set(result)
    assert result["amounts"]["photographs"] == 160
    assert {"pillow", "simplejpeg", "h5py"} <= set(result["environment"]["versions"])


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"data_child\.py open: exited with 1\n(.|\n)*no-such-file"):
        load("loader_throughput").child("open", "no-such-file")


def test_a_large_set_is_packed_opened_and_read_in_processes_of_their_own(tmp_path: Path) -> None:
    throughput = load("loader_throughput")
    path = str(tmp_path / "large.h5")
    words = "synthetic --classes 5 --train 103 --val 20 --size 4 --processes 1 -o".split()
    packing = throughput.child("pack", *words, path)
    # The worker's CPU time counts as well, if only that of its imports.
    assert packing["seconds"] > 0 and packing["parent_cpu_s"] > 0 and packing["worker_cpu_s"] > 0.02
    opening = throughput.child("open", path)
    assert opening["images"] == 123 and 0 < opening["seconds"] < 60
    assert opening["growth_mib"] < opening["resident_mib"]
    words = "--epochs 3 --batch-size 10 --image-size 4 --trim".split()
    epochs = throughput.child("epochs", path, *words)["epochs"]
    assert [epoch["images"] for epoch in epochs] == [100] * 3
    assert all(epoch["rank_mib"] > 10 and epoch["loader_mib"] > 10 for epoch in epochs)


def test_a_folder_is_packed_by_the_words_for_tmpack(tmp_path: Path) -> None:
    throughput = load("loader_throughput")
    for split in ("train", "val"):
        for number in (0, 1):
            throughput.write_photograph(tmp_path / split, number)
    for store, shape in (("jpeg", (500, 375)), ("raw", (96, 72))):
        out = tmp_path / f"{store}.h5"
        words = throughput.pack_words(tmp_path / "train", tmp_path / "val", out, store, 72)
        throughput.child("pack", *words, "--processes", "1")
        with open_dataset(out) as data:
            assert (data.store, data.n_train, data.n_val) == (store, 2, 2)
            assert tuple(data.sizes("train")[1]) == shape


def test_the_help_of_a_benchmark_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "46")
    text = """One paragraph that is
more than a line.

first one  what it is, which takes
           two lines here
b          short

The end.
"""
    _, _, said = load("common").parser(text).format_help().partition("\n\n")
    assert (
        said.partition("options:")[0]
        == """One paragraph that is more than a line.

  first one  what it is, which takes two
             lines here
  b          short

The end.

"""
    )
