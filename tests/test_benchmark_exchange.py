"""What the exchange's benchmark replays: when each gradient of ResNet-50 is written."""

import importlib
from pathlib import Path

import pytest


@pytest.mark.usefixtures("beside_the_benchmarks")
def test_each_gradient_is_written_before_the_step_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common, exchange = map(importlib.import_module, ("common", "exchange"))
    for name, value in {"STEPS": 3, "BATCH": 2, "PIXELS": 32}.items():
        monkeypatch.setattr(exchange, name, value)
    common.write_synthetic(tmp_path / "noise.h5", 32, 6)
    gradients, times = exchange.backward(str(tmp_path / "noise.h5"), 0, 1)
    end = times.pop("")
    assert set(gradients.views) <= set(times) and 0 < min(times.values()) <= max(times.values()) < end
