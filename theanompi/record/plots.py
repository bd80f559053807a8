"""The curves of a run, drawn from its log, and those of several runs in one picture.

``tmlauncher plot RUN`` draws them again, also while the run is going on.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from theanompi.config import ConfigError
from theanompi.config.files import write_whole
from theanompi.record.folder import LOG_FILE, reported_by
from theanompi.record.log import EXPOSED, HIDDEN, read_log
from theanompi.record.metrics import CLASSIFIER, Reported, as_text, is_fraction

_TRAIN, _VALIDATION, _RATE = "#4477aa", "#cc3311", "#222222"
# Of several losses in one panel, which tell training and validation apart by the line.
_LOSSES = (_TRAIN, _VALIDATION, "#228833", "#ee7733", "#aa3377", "#ccbb44", "#66ccee")
# Of several runs in one panel.
_RUNS = ("#4477aa", "#cc3311", "#228833", "#ee7733", "#aa3377", "#ccbb44", "#66ccee", "#222222", "#999999")
# How far their panel goes, as a multiple of the median of the highest values of all.
_ROOM = 1.5
# A legend above its panel.
_ABOVE: dict[str, Any] = {
    "frameon": False,
    "fontsize": 8,
    "loc": "lower center",
    "bbox_to_anchor": (0.5, 0.98),
}
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

    The use of time has two panels: above, what fills the wall time; below, hatched, what went on meanwhile, hidden
    behind computing. The one below is left out where nothing was hidden.

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
    # Heavy, and needed only here. A Figure, not pyplot: no display, no state shared with the user's plots.
    from matplotlib.figure import Figure

    log_path = Path(log_path)
    curves = _Curves(_read_run(log_path))
    about, train = curves.about, curves.train
    metrics = [name for name in about.main if name not in about.losses]
    # The headline first, the losses beside it; an odd one out, at the end, is as wide as two.
    cells: list[str | None] = [*metrics[:1], None, *metrics[1:]]
    rows = (len(cells) + 1) // 2
    figure = Figure(figsize=(10, 3.5 * (rows + 1)), dpi=150, layout="constrained")
    figure.suptitle(_literal(log_path.resolve().parent.name), fontsize=13)
    hides = any(record.get(f"{kind}_s") for record in train for kind in HIDDEN.values())
    # One grid, in which all panels of a column are of one width; the lowest panels share the height of a row.
    grid = figure.add_gridspec(
        rows + 1 + hides, 2, height_ratios=[1.0] * rows + [0.7, 0.3] if hides else None
    )
    values: list[Any] = []
    for i in range(len(cells)):
        wide = i == len(cells) - 1 and i % 2 == 0
        place = grid[i // 2, :] if wide else grid[i // 2, i % 2]
        values.append(figure.add_subplot(place, sharex=values[0] if values else None))
    rate = figure.add_subplot(grid[rows:, 0], sharex=values[0])
    time = figure.add_subplot(grid[rows, 1], sharex=values[0])
    for axes, metric in zip(values, cells, strict=True):
        curves.draw_values(axes, metric)
    curves.draw_rate(rate)
    speed = curves.draw_time(time)
    panels = [*values, rate, time]
    if hides:
        hidden = figure.add_subplot(grid[rows + 1, 1], sharex=values[0])
        curves.draw_hidden(hidden)
        time.tick_params(labelbottom=False)
        panels.append(hidden)
    for axes in panels:
        _tidy(axes)
    speed.spines["top"].set_visible(False)
    for axes in (*values, rate, panels[-1]):
        axes.set_xlabel(curves.unit)
    _save(figure, Path(png_path))


class _Curves:
    """What the panels of one run show."""

    def __init__(self, run: "_Run") -> None:
        self.about, self.train, self.val = run.about, run.train, run.val
        per_epoch = _iterations_per_epoch(run.train)
        self.unit = "iteration" if per_epoch == 1 else f"epoch (of {per_epoch} iterations)"
        self._at = _column(run.train, "iteration") / per_epoch
        self._val_at = _column(run.val, "iteration") / per_epoch
        self._thin = 1.1 if len(run.train) < 1000 else 0.4
        # A single point without a mark would not be seen at all.
        self._mark: dict[str, Any] = {"marker": "o", "markersize": 3.5 if len(run.val) <= 30 else 2}
        self._train_mark = self._mark if len(run.train) < 3 else {}
        self._wall = _column(run.train, "wall_s")
        self._wall[self._wall == 0] = np.nan

    def draw_values(self, axes: Any, metric: str | None) -> None:
        """Draw a metric, or for None the losses."""
        about, val = self.about, self.val
        names = about.losses if metric is None else (metric,)
        scale = 100 if all(map(is_fraction, names)) else 1
        on_mixed = f", mixed {about.noun}" * any(record.get("labels") == "mixed" for record in self.train)
        drawn: list[np.ndarray] = []
        for i, name in enumerate(names):
            several = f"{name}, " if len(names) > 1 else ""
            colours = (_LOSSES[i % len(_LOSSES)],) * 2 if several else (_TRAIN, _VALIDATION)
            style: dict[str, Any] = {"lw": self._thin, "alpha": 0.85, **self._train_mark}
            x, y = _known(self._at, scale * _column(self.train, name))
            if len(x):
                axes.plot(x, y, color=colours[0], label=f"{several}training{on_mixed}", **style)
            style = {"lw": 1.6, "ls": "--" if several else "-", **self._mark}
            val_x, val_y = _known(self._val_at, scale * _column(val, name))
            if len(val_x):
                axes.plot(val_x, val_y, color=colours[1], label=f"{several}validation", **style)
            drawn += [y, val_y]
        _from_zero(axes, np.concatenate(drawn), 1.08)
        title_above = 6.0  # matplotlib's own
        if len(names) == 1 and axes.lines:
            axes.legend(frameon=False, loc="lower left" if self._train_mark else "upper right")
        elif axes.lines:
            # Above the panel, a loss under the other's name in three columns: curves of any form leave no corner free.
            columns = min(len(names), 3)
            title_above += 13 * 2 * -(-len(names) // columns)
            axes.legend(**_ABOVE, ncols=columns)
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

    def draw_rate(self, axes: Any) -> None:
        """Draw the learning rate."""
        lr = _column(self.train, "lr")
        axes.plot(self._at, lr, color=_RATE, lw=1.4, drawstyle="steps-pre", **self._train_mark)
        if (lr > 0).any():
            axes.set_yscale("log")
        axes.set_title("Learning rate", fontsize=11)
        axes.set_ylabel("η")

    def draw_time(self, axes: Any) -> Any:
        """Draw what fills the wall time, and the speed; gives the axes of that."""
        shares = {kind: 100 * _column(self.train, f"{kind}_s", 0.0) / self._wall for kind in EXPOSED}
        shares["other"] = np.clip(100 - sum(shares.values()), 0, None)
        _stack(axes, self._at, shares)
        axes.set_ylim(0, 100)
        axes.set_ylabel("share of the time (%)")
        speed = axes.twinx()
        items_per_s, noun = _column(self.train, "items_per_s"), self.about.noun
        speed.plot(self._at, items_per_s, color=_RATE, lw=self._thin, label=f"{noun}/s", **self._train_mark)
        # Half-way up, where it lies on one colour and hides none.
        _from_zero(speed, items_per_s, 2)
        speed.set_ylabel(f"{noun}/s")
        axes.set_title("Use of time, and speed", fontsize=11, pad=32)
        handles, labels = (
            a + b for a, b in zip(*(x.get_legend_handles_labels() for x in (axes, speed)), strict=True)
        )
        axes.legend(handles, labels, **_ABOVE, ncols=3, columnspacing=1.2, handlelength=1.2)
        return speed

    def draw_hidden(self, axes: Any) -> None:
        """Draw what went on meanwhile."""
        shares = {
            kind: 100 * _column(self.train, f"{name}_s", 0.0) / self._wall for kind, name in HIDDEN.items()
        }
        _stack(axes, self._at, shares, hatched=True)
        _from_zero(axes, sum(shares.values()), 1.08)
        axes.set_title("meanwhile, hidden behind computing", fontsize=8, pad=3)
        axes.set_ylabel("(%)")


def plot_runs(folders: Sequence[str | Path], png_path: str | Path) -> None:
    """Draw the headline metric and the loss of several runs against epochs, or iterations if one has had no epoch yet.

    Parameters
    ----------
    folders : sequence of path
        Of runs that report the same headline metric and first loss.
    png_path : str or Path
        The picture, 1650 pixels wide.

    Raises
    ------
    ValueError
        As `plot_curves`, and if they report other things.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    runs = [_read_run(Path(folder) / LOG_FILE) for folder in folders]
    about = runs[0].about
    names = list(dict.fromkeys((about.headline, about.losses[0])))
    for run in runs:
        others = list(dict.fromkeys((run.about.headline, run.about.losses[0])))
        if others != names:
            raise ConfigError(
                f"run {run.folder}: expected {' and '.join(names)}, as {runs[0].folder} reports, got "
                f"{' and '.join(others)}"
            )
    labels = _labels([run.folder for run in runs])
    by_epochs = all(run.per_epoch for run in runs)
    many = len(runs) > len(_RUNS)
    colours = colormaps["viridis"](np.linspace(0, 0.95, len(runs))) if many else _RUNS
    # A row of the legend is as high as a line of its text.
    columns = 1 if len(runs) < 5 else 2
    figure = Figure(figsize=(11, 4.6 + 0.18 * -(-len(runs) // columns)), dpi=150, layout="constrained")
    panels: list[Any] = [figure.add_subplot(1, len(names), i + 1) for i in range(len(names))]
    for axes, name in zip(panels, names, strict=True):
        scale = 100 if is_fraction(name) else 1
        highest, lowest, curves = list[float](), 0.0, list[Any]()
        for run, colour, label in zip(runs, colours, labels, strict=False):
            unit, drawn = run.per_epoch if by_epochs else 1, []
            for records, style in (
                (run.train, {"lw": 0.8, "alpha": 0.45, "ls": "--"}),
                (run.val, {"lw": 1.6, "label": label, "marker": "o", "markersize": 3}),
            ):
                x, y = _known(_column(records, "iteration") / (unit or 1), scale * _column(records, name))
                (curve,) = axes.plot(x, y, color=colour, **style)
                drawn += y.tolist()
            curves.append(curve)
            highest.append(max(drawn, default=0.0))
            lowest = min([lowest, *drawn])
        # One that blows up leaves the others their room.
        end = min(1.05 * max(highest), _ROOM * float(np.median(highest)))
        cut = lowest >= 0 and 0 < end < max(highest)
        if lowest >= 0 and end > 0:
            axes.set_ylim(0, end)
        axes.set_title(name.capitalize() + ", cut off at the top" * cut, fontsize=11)
        axes.set_ylabel(f"{name} (%)" if scale == 100 else name)
        axes.set_xlabel("epoch" if by_epochs else "iteration")
        _tidy(axes)
    legend = figure.legend(
        curves,
        [str(i) for i in range(len(runs))],
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
        title="solid: validation, dashed: training",
        title_fontsize=8,
    )
    # Only now: a label that begins with _ would be left out.
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(_literal(label))
    _save(figure, Path(png_path))


def _tidy(axes: Any) -> None:
    """What all panels have alike."""
    from matplotlib.ticker import MaxNLocator

    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _literal(name: str) -> str:
    r"""A name for matplotlib, which takes what stands between two $ for mathematics.

    >>> _literal("$x$")
    '\\$x\\$'
    """
    return name.replace("$", r"\$")


def _save(figure: Any, path: Path) -> None:
    """Write a picture so that who looks at it meanwhile has the old one or the new one, as a whole."""
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    write_whole(path, memory.getvalue())


class _Run(NamedTuple):
    folder: Path
    about: Reported
    train: list[dict[str, Any]]
    val: list[dict[str, Any]]
    per_epoch: int | None


def _read_run(log: Path) -> _Run:
    records, folder = read_log(log), log.parent
    train, val = ([r for r in records if r["kind"] == kind] for kind in ("train", "val"))
    if not train and not val:
        raise ValueError(f"log {log}: expected lines of kind 'train' or 'val', got none to draw")
    # A validation is at the end of an epoch.
    per_epoch = val[0]["iteration"] // (val[0]["epoch"] + 1) if val else None
    return _Run(folder, reported_by(folder), train, val, per_epoch or None)


def _labels(folders: Sequence[Path]) -> list[str]:
    """Name folders without what all their paths begin with.

    >>> _labels([Path("runs/a/seed-0"), Path("runs/b/seed-0")]), _labels([Path("runs/a")])
    (['a/seed-0', 'b/seed-0'], ['a'])
    >>> _labels([Path("/runs/a"), Path("b")])
    ['/runs/a', 'b']
    """
    parts = [folder.resolve().parts if folder.name in ("", "..") else folder.parts for folder in folders]
    shared = 0
    while all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return [str(Path(*p[shared:])) for p in parts]


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
