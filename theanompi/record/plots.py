"""The curves of a run, drawn from its log.

``python -m theanompi.record.plots RUN_FOLDER`` draws them again, also while the run is going on.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from theanompi.record.folder import CURVES_FILE, LOG_FILE
from theanompi.record.log import EXPOSED, HIDDEN, read_log
from theanompi.system.output import print_anything

_TRAIN, _VALIDATION, _RATE = "#4477aa", "#cc3311", "#222222"
# Colour and name of each kind of work, in the order in which they are stacked.
_SHARES = {
    "calc": ("#4477aa", "compute"),
    "comm": ("#ee7733", "communication"),
    "sync": ("#aa3377", "slower ranks"),
    "wait": ("#ccbb44", "loading"),
    "other": ("#bbbbbb", "other"),
}


def plot_curves(log_path: str | Path, png_path: str | Path) -> None:
    """Draw error, loss, learning rate and the use of time against epochs, or iterations in the first epoch.

    The use of time has two panels: above, what fills the wall time; below, hatched, what was hidden behind it and
    took no time of its own. The one below is left out where nothing was hidden.

    Parameters
    ----------
    log_path : str or Path
        The ``log.jsonl`` that a `theanompi.record.recorder.Recorder` wrote, whole or cut short.
    png_path : str or Path
        The picture, 1500 × 1050 pixels.

    Raises
    ------
    ValueError
        If there is no log, it is damaged, or nothing was trained or validated in it.

    Examples
    --------
    >>> plot_curves("nowhere/log.jsonl", "nowhere/curves.png")
    Traceback (most recent call last):
    ...
    ValueError: log nowhere/log.jsonl: expected a file, got none there
    """
    log_path, png_path = Path(log_path), Path(png_path)
    records = read_log(log_path)
    train = [record for record in records if record["kind"] == "train"]
    val = [record for record in records if record["kind"] == "val"]
    if not train and not val:
        raise ValueError(f"log {log_path}: expected lines of kind 'train' or 'val', got none to draw")

    # Heavy, and needed only here. A Figure, not pyplot: no display, no state shared with the user's plots.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 7), dpi=150, layout="constrained")
    figure.suptitle(log_path.resolve().parent.name, fontsize=13)
    grid = figure.add_gridspec(2, 2)
    error: Any = figure.add_subplot(grid[0, 0])
    loss, rate = (figure.add_subplot(cell, sharex=error) for cell in (grid[0, 1], grid[1, 0]))
    hides = any(record.get(f"{kind}_s") for record in train for kind in HIDDEN.values())
    cells = grid[1, 1].subgridspec(2, 1, height_ratios=(3, 1)) if hides else [grid[1, 1]]
    time = figure.add_subplot(cells[0], sharex=error)
    per_epoch = _iterations_per_epoch(train)
    at, val_at = _column(train, "iteration") / per_epoch, _column(val, "iteration") / per_epoch
    thin = 1.1 if len(train) < 1000 else 0.4
    # A single point without a mark would not be seen at all.
    mark: dict[str, Any] = {"marker": "o", "markersize": 3.5 if len(val) <= 30 else 2}
    train_mark = mark if len(train) < 3 else {}

    for axes, name, scale in ((error, "error", 100), (loss, "loss", 1)):
        curves = scale * _column(train, name), scale * _column(val, name)
        axes.plot(at, curves[0], color=_TRAIN, lw=thin, alpha=0.85, label="training", **train_mark)
        axes.plot(val_at, curves[1], color=_VALIDATION, lw=1.6, label="validation", **mark)
        _from_zero(axes, np.concatenate(curves), 1.08)
        axes.legend(frameon=False, loc="lower left" if train_mark else "upper right")
    best = min((record["error"] for record in val if record["error"] is not None), default=None)
    error.set_title("Error" if best is None else f"Error, best validation {100 * best:.2f} %", fontsize=11)
    error.set_ylabel("error (%)")
    loss.set_title("Loss", fontsize=11)
    loss.set_ylabel("cross-entropy (nats)")

    lr = _column(train, "lr")
    rate.plot(at, lr, color=_RATE, lw=1.4, drawstyle="steps-pre", **train_mark)
    if (lr > 0).any():
        rate.set_yscale("log")
    rate.set_title("Learning rate", fontsize=11)
    rate.set_ylabel("η")

    wall = _column(train, "wall_s")
    wall[wall == 0] = np.nan
    parts = {kind: 100 * _column(train, f"{kind}_s", 0.0) / wall for kind in EXPOSED}
    parts["other"] = np.clip(100 - sum(parts.values()), 0, None)
    _stack(time, at, parts)
    time.set_ylim(0, 100)
    time.set_ylabel("share of the time (%)")
    speed = time.twinx()
    images_per_s = _column(train, "images_per_s")
    speed.plot(at, images_per_s, color=_RATE, lw=thin, label="images/s", **train_mark)
    # Half-way up, where it lies on one colour and hides none.
    _from_zero(speed, images_per_s, 2)
    speed.set_ylabel("images/s")
    time.set_title("Use of time, and speed", fontsize=11, pad=32)
    handles, labels = (
        a + b for a, b in zip(*(x.get_legend_handles_labels() for x in (time, speed)), strict=True)
    )
    legend = {"ncols": 3, "frameon": False, "fontsize": 8, "columnspacing": 1.2, "handlelength": 1.2}
    time.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 0.98), **legend)
    panels = [error, loss, rate, time]
    if hides:
        hidden = figure.add_subplot(cells[1], sharex=error)
        of_wall = {kind: 100 * _column(train, f"{name}_s", 0.0) / wall for kind, name in HIDDEN.items()}
        _stack(hidden, at, of_wall, hatched=True)
        _from_zero(hidden, sum(of_wall.values()), 1.08)
        hidden.set_title("hidden meanwhile, in no time of its own", fontsize=8, pad=3)
        hidden.set_ylabel("(%)")
        time.tick_params(labelbottom=False)
        panels.append(hidden)

    for axes in panels:
        axes.grid(alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    speed.spines["top"].set_visible(False)
    for axes in (error, loss):
        axes.tick_params(labelbottom=False)
    for axes in (rate, panels[-1]):
        axes.set_xlabel("iteration" if per_epoch == 1 else f"epoch (of {per_epoch} iterations)")
    figure.savefig(png_path)


def _stack(axes: Any, at: np.ndarray, shares: dict[str, np.ndarray], hatched: bool = False) -> None:
    """Draw shares of intervals on top of each other; an interval ends at its position."""
    x = np.concatenate([[0.0], at])
    low = np.zeros(len(at))
    for kind, share in shares.items():
        high = np.nan_to_num(low + share)
        # The bar of an interval lies to the left of its end; the first one begins at 0.
        bars = (np.concatenate([y[:1], y]) for y in (low, high))
        colour, label = _SHARES[kind]
        style = {"fc": "none", "ec": colour, "hatch": "/////"} if hatched else {"fc": colour}
        axes.fill_between(x, *bars, step="pre", label=label, alpha=0.55, lw=0, **style)
        low = high


def _from_zero(axes: Any, values: np.ndarray, room: float) -> None:
    """Let the y axis begin at 0 and end at `room` times the largest value, if there is any."""
    top = np.max(values, initial=0, where=np.isfinite(values))
    if top > 0:
        axes.set_ylim(0, room * top)


def _iterations_per_epoch(train: list[dict[str, Any]]) -> int:
    """Unit of the x axis: the length of an epoch if the log shows it by beginning another one, else 1."""
    for record, following in zip(train, train[1:], strict=False):
        if following["epoch"] > record["epoch"]:
            return record["iteration"] // (record["epoch"] + 1)
    return 1


def _column(records: list[dict[str, Any]], name: str, missing: float | None = None) -> np.ndarray:
    """One value of each record; null, written where it was not finite, becomes NaN, a gap in the curve.

    `missing` stands for what logs of older versions do not have.
    """
    values = (record[name] if missing is None else record.get(name, missing) for record in records)
    return np.array(list(values), dtype=float)


def main() -> None:
    """Draw the curves of the run folder that the command line names."""
    print_anything()
    parser = argparse.ArgumentParser(
        prog="python -m theanompi.record.plots", description="Draw the curves of a run."
    )
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER", help=f"where the run's {LOG_FILE} is")
    folder: Path = parser.parse_args().folder
    try:
        plot_curves(folder / LOG_FILE, folder / CURVES_FILE)
    except ValueError as error:
        raise SystemExit(f"theanompi.record.plots: {error}") from None
    print(folder / CURVES_FILE)


if __name__ == "__main__":
    main()
