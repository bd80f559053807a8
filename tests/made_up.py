"""Experiments that never ran: a folder with logs of known errors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Trial(NamedTuple):
    """What a run left: validation errors (fractions) by epoch, and how it ended.

    `end` is "summary", "diverged" or "" for a run that was stopped.
    """

    errors: Sequence[float]
    end: str = "summary"
    output: str = ""
    train: Sequence[float] | None = None


def log_lines(trial: Trial) -> list[dict[str, Any]]:
    """The log of a run, with two training lines an epoch of 300 and 100 images, unless `train` says otherwise."""
    lines: list[dict[str, Any]] = []
    for epoch, error in enumerate(trial.errors):
        mean = min(error + 0.1, 0.97) if trial.train is None else trial.train[epoch]
        for i, (wrong, images) in enumerate([(max(mean - 0.01, 0.0), 300), (mean + 0.03, 100)]):
            lines.append(
                {
                    "kind": "train",
                    "epoch": epoch,
                    "iteration": 2 * epoch + i + 1,
                    "loss": 1.5,
                    "error": wrong,
                    "lr": 0.1,
                    "images_per_s": 50.0,
                    "images": images,
                    "wall_s": images / 50,
                }
            )
        lines.append(
            {
                "kind": "val",
                "epoch": epoch,
                "iteration": 2 * epoch + 2,
                "loss": 1.5,
                "error": error,
                "images": 500,
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
    **about: Any,
) -> Path:
    """Write the folder of an experiment; None is a run that left nothing."""
    arms: dict[str, dict[str, Any]] = {}
    seeds = 0
    for (arm, k), trials in cells.items():
        own = {"data": "runs/glyphs.h5", "batch_size": 8, "base_batch": 64, "epochs": 8, "image_size": 32}
        arms.setdefault(arm, {"workers": [], "settings": own | (settings or {}).get(arm, {})})
        arms[arm]["workers"].append(k)
        seeds = max(seeds, len(trials))
        for seed, trial in enumerate(trials):
            if trial is not None:
                write_run(folder / arm / f"{k}-workers" / f"seed-{seed}", trial)
    content = {
        "name": "slides",
        "question": "Does the error stay when the workers are doubled?",
        "scale": "small",
        "seeds": list(range(seeds)),
        "simulate": 1,
        "arms": arms,
        "claims": list(claims),
        "machine": {"cpu": "a processor", "cores": 2},
    }
    (folder / "experiment.json").write_text(json.dumps(content | about), encoding="utf-8")
    return folder


def write_run(folder: Path, trial: Trial) -> None:
    """Write the folder of one run; a run without epochs and end has no log."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "output.txt").write_text(trial.output, encoding="utf-8")
    if trial.errors or trial.end:
        versions = {"theanompi": "0.1", "torch": "2.13.0"}
        (folder / "config.json").write_text(json.dumps({"seed": 0, "versions": versions}), encoding="utf-8")
        (folder / "log.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in log_lines(trial)), encoding="utf-8"
        )
