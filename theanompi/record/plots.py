"""The curves of a run, drawn from its log.

``python -m theanompi.record.plots RUN_FOLDER`` draws them again, also while the run is going on.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from theanompi.record.folder import CONFIG_FILE, CURVES_FILE, LOG_FILE, read_json
from theanompi.record.log import EXPOSED, HIDDEN, read_log
from theanompi.record.metrics import CLASSIFIER, Reported, as_text, is_fraction, reported
from theanompi.system.output import print_anything

_TRAIN, _VALIDATION, _RATE = "#4477aa", "#cc3311", "#222222"
# Of several losses in one panel, which tell training and validation apart by the line.
_LOSSES = (_TRAIN, _VALIDATION, "#228833", "#ee7733", "#aa3377", "#ccbb44", "#66ccee")
# Colour and name of each kind of work, in the order in which they are stacked.
_SHARES = {
    "calc": ("#4477aa", "compute"),
    "comm": ("#ee7733", "communication"),
    "sync": ("#aa3377", "slower ranks"),
    "wait": ("#ccbb44", "loading"),
    "other": ("#bbbbbb", "other"),
}


def plot_curves(log_path: str | Path, png_path: str | Path) -> None:
    """Draw metrics, losses, learning rate and the use of time against epochs, or iterations in the first epoch.

    There is a panel for all losses, and one for each metric that is no variant of the headline (a top-5 error).

    The use of time has two panels: above, what fills the wall time; below, hatched, what was hidden behind it and
    took no time of its own. The one below is left out where nothing was hidden.

    Parameters
    ----------
    log_path : str or Path
        The ``log.jsonl`` that a `theanompi.record.recorder.Recorder` wrote, whole or cut short. ``config.json``
        beside it says what the run reports; without one it is what a classifier does.
    png_path : str or Path
        The picture, 1500 × 1050 pixels, or higher where there are several metrics.

    Raises
    ------
    ValueError
        If there is no log, it or ``config.json`` is damaged, or nothing was trained or validated in it.
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

    about = _reported(log_path.parent)
    metrics = [name for name in about.main if name not in about.losses]
    # The headline first, the losses beside it; an odd one out, at the end, is as wide as two.
    cells: list[str | None] = [*metrics[:1], None, *metrics[1:]]
    rows = (len(cells) + 1) // 2
    figure = Figure(figsize=(10, 3.5 * (rows + 1)), dpi=150, layout="constrained")
    figure.suptitle(log_path.resolve().parent.name, fontsize=13)
    grid = figure.add_gridspec(rows + 1, 2)
    panels: list[Any] = []
    for i in range(len(cells)):
        wide = i == len(cells) - 1 and i % 2 == 0
        place = grid[i // 2, :] if wide else grid[i // 2, i % 2]
        panels.append(figure.add_subplot(place, sharex=panels[0] if panels else None))
    values = list(panels)
    rate = figure.add_subplot(grid[rows, 0], sharex=panels[0])
    hides = any(record.get(f"{kind}_s") for record in train for kind in HIDDEN.values())
    parts_of_time = grid[rows, 1].subgridspec(2, 1, height_ratios=(3, 1)) if hides else [grid[rows, 1]]
    time = figure.add_subplot(parts_of_time[0], sharex=panels[0])
    per_epoch = _iterations_per_epoch(train)
    at, val_at = _column(train, "iteration") / per_epoch, _column(val, "iteration") / per_epoch
    thin = 1.1 if len(train) < 1000 else 0.4
    # A single point without a mark would not be seen at all.
    mark: dict[str, Any] = {"marker": "o", "markersize": 3.5 if len(val) <= 30 else 2}
    train_mark = mark if len(train) < 3 else {}

    for axes, metric in zip(values, cells, strict=True):
        names = about.losses if metric is None else (metric,)
        scale = 100 if all(map(is_fraction, names)) else 1
        drawn: list[np.ndarray] = []
        for i, name in enumerate(names):
            several = f"{name}, " if len(names) > 1 else ""
            colours = (_LOSSES[i % len(_LOSSES)],) * 2 if several else (_TRAIN, _VALIDATION)
            style: dict[str, Any] = {"lw": thin, "alpha": 0.85, **train_mark}
            x, y = _known(at, scale * _column(train, name))
            axes.plot(x, y, color=colours[0], label=f"{several}training", **style)
            style = {"lw": 1.6, "ls": "--" if several else "-", **mark}
            val_x, val_y = _known(val_at, scale * _column(val, name))
            axes.plot(val_x, val_y, color=colours[1], label=f"{several}validation", **style)
            drawn += [y, val_y]
        _from_zero(axes, np.concatenate(drawn), 1.08)
        title_above = 6.0  # matplotlib's own
        if len(names) == 1:
            axes.legend(frameon=False, loc="lower left" if train_mark else "upper right")
        else:
            # Above the panel, a loss under the other's name in three columns: curves of any form leave no corner free.
            columns = min(len(names), 3)
            title_above += 13 * 2 * -(-len(names) // columns)
            axes.legend(
                frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=columns, fontsize=8
            )
        unit = " (%)" if scale == 100 else ""
        if metric is None:
            axes.set_title("Losses" if len(names) > 1 else "Loss", fontsize=11, pad=title_above)
            axes.set_ylabel(
                "cross-entropy (nats)" if about.headline == CLASSIFIER.headline else f"loss{unit}"
            )
        else:
            best = min((r[metric] for r in val if r.get(metric) is not None), default=None)
            title = "" if best is None else f", best validation {as_text(metric, best)}"
            axes.set_title(("Error" if metric == "error" else metric) + title, fontsize=11)
            axes.set_ylabel(f"{metric}{unit}")

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
    items_per_s = _column(train, "items_per_s")
    speed.plot(at, items_per_s, color=_RATE, lw=thin, label=f"{about.noun}/s", **train_mark)
    # Half-way up, where it lies on one colour and hides none.
    _from_zero(speed, items_per_s, 2)
    speed.set_ylabel(f"{about.noun}/s")
    time.set_title("Use of time, and speed", fontsize=11, pad=32)
    handles, labels = (
        a + b for a, b in zip(*(x.get_legend_handles_labels() for x in (time, speed)), strict=True)
    )
    legend = {"ncols": 3, "frameon": False, "fontsize": 8, "columnspacing": 1.2, "handlelength": 1.2}
    time.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 0.98), **legend)
    panels += [rate, time]
    if hides:
        hidden = figure.add_subplot(parts_of_time[1], sharex=values[0])
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
    for axes in values:
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


def _known(at: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that have a value: an interval may have none of an objective that is not updated in it."""
    known = np.isfinite(values)
    return at[known], values[known]


def _from_zero(axes: Any, values: np.ndarray, room: float) -> None:
    """Let the y axis begin at 0 and end at `room` times the largest value, if there is any and none is below 0."""
    finite = values[np.isfinite(values)]
    if np.max(finite, initial=0) > 0 <= np.min(finite, initial=0):
        axes.set_ylim(0, room * np.max(finite))


def _reported(folder: Path) -> Reported:
    """What the run in a folder reports."""
    path = folder / CONFIG_FILE
    return reported(read_json(path), str(path)) if path.exists() else CLASSIFIER


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
    values = (record.get(name, missing) for record in records)
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
