"""Experiments that never ran: a folder with logs of known errors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from theanompi.record.metrics import Reported


class Trial(NamedTuple):
    """What a run left: validation errors (fractions), or values of another metric, by epoch, and how it ended.

    `end` is "summary", "diverged" or "" for a run that was stopped.
    """

    errors: Sequence[float]
    end: str = "summary"
    output: str = ""
    train: Sequence[float] | None = None


def log_lines(trial: Trial, metric: str = "error") -> list[dict[str, Any]]:
    """The log of a run, with two training lines an epoch of 300 and 100 items, unless `train` says otherwise."""
    lines: list[dict[str, Any]] = []
    for epoch, error in enumerate(trial.errors):
        mean = min(error + 0.1, 0.97) if trial.train is None else trial.train[epoch]
        for i, (wrong, items) in enumerate([(max(mean - 0.01, 0.0), 300), (mean + 0.03, 100)]):
            lines.append(
                {
                    "kind": "train",
                    "epoch": epoch,
                    "iteration": 2 * epoch + i + 1,
                    "loss": 1.5,
                    metric: wrong,
                    "lr": 0.1,
                    "items_per_s": 50.0,
                    "items": items,
                    "wall_s": items / 50,
                }
            )
        lines.append(
            {
                "kind": "val",
                "epoch": epoch,
                "iteration": 2 * epoch + 2,
                "loss": 1.5,
                metric: error,
                "items": 500,
            }
        )
    epochs = len(trial.errors)
    if trial.end == "diverged":
        reason = "the loss is not finite on rank 0 (nan), η = 3.2"
        lines.append({"kind": "diverged", "epoch": epochs, "iteration": 2 * epochs + 1, "reason": reason})
    elif trial.end:
        lines.append({"kind": "summary", "iteration": 2 * epochs})
    return lines


def write_experiment(
    folder: Path,
    cells: dict[tuple[str, int], Sequence[Trial | None]],
    claims: Sequence[str] = (),
    settings: dict[str, dict[str, Any]] | None = None,
    reports: dict[str, Reported] | None = None,
    **about: Any,
) -> Path:
    """Write the folder of an experiment; None is a run that left nothing. `reports` is by arm: what its runs report."""
    arms: dict[str, dict[str, Any]] = {}
    seeds = 0
    for (arm, k), trials in cells.items():
        own = {"data": "runs/glyphs.h5", "batch_size": 8, "base_batch": 64, "epochs": 8, "image_size": 32}
        arms.setdefault(arm, {"workers": [], "settings": own | (settings or {}).get(arm, {})})
        arms[arm]["workers"].append(k)
        seeds = max(seeds, len(trials))
        for seed, trial in enumerate(trials):
            if trial is not None:
                write_run(folder / arm / f"{k}-workers" / f"seed-{seed}", trial, (reports or {}).get(arm))
    content = {
        "name": "slides",
        "question": "Does the error stay when the workers are doubled?",
        "scale": "small",
        "seeds": list(range(seeds)),
        "simulate": 1,
        "arms": arms,
        "claims": list(claims),
        "machine": {"cpu": "a processor", "cores": 2, "gpus": []},
    }
    (folder / "experiment.json").write_text(json.dumps(content | about), encoding="utf-8")
    return folder


def write_run(folder: Path, trial: Trial, reports: Reported | None = None) -> None:
    """Write the folder of one run; a run without epochs and end has no log.

    Without `reports` it is one of before models named their metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "output.txt").write_text(trial.output, encoding="utf-8")
    if trial.errors or trial.end:
        versions = {"theanompi": "0.1", "torch": "2.13.0"}
        config = {"seed": 0, "versions": versions, **(reports.to_dict() if reports else {})}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        lines = log_lines(trial, reports.headline if reports else "error")
        (folder / "log.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
        )
