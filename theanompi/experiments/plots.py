"""The picture of an experiment, laid out like slides 49–52: each worker count with all arms, each arm with all counts.

Where an arm was run with three worker counts or more, a last panel has its figure against the minibatch, as in
figure 1 of Goyal et al. 2017 (arXiv 1706.02677).
"""

import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from theanompi.config import counted
from theanompi.experiments.results import Results
from theanompi.experiments.statistics import Cell
from theanompi.experiments.words import describe, figure_of, label_of, name_of
from theanompi.record.metrics import is_fraction

# Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow, which is hard to see on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#8c6d31")
_REFERENCE = "#333333"
# Seven, so that colour and marker together come again only after 56 arms.
_MARKERS = "os^DvPX"
_CAPTION = (
    "solid: validation, dashed: training; line and band: mean ± standard deviation over the finished runs;",
    "thin line ending in ×: a run that diverged",
)


_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 50, 70, 100)
# A cell whose figure is above so many times the median of all does not squeeze the others: the axis then goes up to so
# many times the largest figure of these.
_FAR, _ROOM = 5, 3
# Characters of the longest entry of a legend that leaves room for another one beside it.
_TWO_COLUMNS = 46


class _Scale(NamedTuple):
    """Ends of an axis, where a logarithmic one has ticks, of which a linear one has none, and if curves go beyond."""

    lowest: float
    highest: float
    ticks: Sequence[float] = ()
    cut: bool = False


class _Series(NamedTuple):
    cell: Cell
    label: str
    colour: Any
    marker: str


def plot_comparison(experiment: Results, png_path: str | Path) -> None:
    """Draw the metric in training and validation against epochs for every cell of an experiment.

    Parameters
    ----------
    experiment : Results
        From `theanompi.experiments.results.read_results`.
    png_path : str or Path
        The picture. Two panels a row, of about 850 × 750 pixels each.
    """
    panels = _panels(experiment)
    against_minibatch = [
        cells for arm in experiment.arms if len(cells := [c for c in experiment.cells if c.arm == arm]) > 2
    ]
    count = len(panels) + bool(against_minibatch)
    figure, axes = _figure(f"{experiment.name} ({experiment.scale} scale)", count)
    figure.supxlabel(("\n" if count == 1 else " ").join(_CAPTION), fontsize=7 if count == 1 else 8)
    scale = _scale(experiment)
    epochs = max(arm["epochs"] for arm in experiment.arms.values())
    for panel, (title, series) in zip(axes, panels, strict=False):
        _set_metric_axis(panel, scale)
        for one in series:
            _draw(panel, one, scale)
        words = ", logarithmic" * bool(scale.ticks) + ", cut off at the top" * scale.cut
        _finish(panel, title, "epoch", label_of(experiment.metric) + words)
        panel.set_xlim(1 - 0.03 * epochs, 1.03 * epochs)
    if against_minibatch:
        _draw_against_minibatch(axes[-1], experiment, against_minibatch)
    _save(figure, png_path)


def plot_time(experiment: Results, png_path: str | Path) -> None:
    """Draw the metric in validation against virtual time, a panel for each number of workers and clock.

    Parameters
    ----------
    experiment : Results
        One whose workers were simulated on a clock.
    png_path : str or Path
        The picture. Two panels a row.
    """
    groups, looks, scale = experiment.alike(), _looks(experiment), _scale(experiment)
    settings = [arm["settings"] for arm in experiment.arms.values()]
    names = {name for own in settings for name in own if name.startswith("clock.")}
    differing = {name for name in names if len({own.get(name) for own in settings}) > 1}
    figure, panels = _figure(f"{experiment.name} ({experiment.scale} scale): virtual time", len(groups))
    for panel, cells in zip(panels, groups, strict=True):
        _set_metric_axis(panel, scale)
        for cell in cells:
            colour, marker = _look(looks[cell.arm])
            runs = [run for run in cell.runs if run.state == "finished" and run.times]
            curve = cell.curve("validation")
            at = [sum(run.times[epoch] for run in runs) / len(runs) for epoch in curve] if runs else []
            means, label = [mean for mean, _ in curve.values()], f"{name_of(cell.arm)}: {describe(cell)}"
            panel.plot(at, means, color=colour, marker=marker, lw=1.7, ms=3.5, label=label)
        own = experiment.arms[cells[0].arm]["settings"]
        clock = [f"{k.removeprefix('clock.')} {v}" for k, v in own.items() if k in differing]
        title = ", ".join([counted(cells[0].workers, "worker"), *clock])
        words = ", cut off at the top" * scale.cut
        _finish(panel, title, "virtual seconds", label_of(experiment.metric) + words)
    _save(figure, png_path)


def _figure(title: str, count: int) -> tuple[Any, list[Any]]:
    """A figure and its panels, two a row."""
    # Heavy, and needed only here. A Figure, not pyplot: no display, no state shared with the user's plots.
    from matplotlib.figure import Figure

    columns = min(count, 2)
    rows = -(-count // columns)
    figure = Figure(figsize=(5.7 * columns, 5.0 * rows + 0.6), layout="constrained")
    figure.suptitle(title, fontsize=13)
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(count)]


def _set_metric_axis(axes: Any, scale: _Scale) -> None:
    if scale.ticks:
        axes.set_yscale("log")
    axes.set_ylim(scale.lowest, scale.highest)
    if scale.ticks:
        ticks = [tick for tick in scale.ticks if scale.lowest <= tick <= scale.highest]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()


def _look(number: int) -> tuple[str, str]:
    """Colour and marker of an arm."""
    return _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]


def _save(figure: Any, png_path: str | Path) -> None:
    """Write a figure with a palette, which has a colour for all that is drawn here, in a fraction of the bytes."""
    from PIL import Image

    made = io.BytesIO()
    # Of many rows nobody looks at a single point.
    figure.savefig(made, format="png", dpi=150 if figure.get_figheight() < 30 else 100)
    with Image.open(made) as image:
        image.convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE).save(
            png_path, "PNG", optimize=True
        )


def _looks(experiment: Results) -> dict[str, int]:
    """The number of each arm's colour and marker, which is that of the arm that differs from it in its clock alone."""
    found: dict[str, int] = {}
    numbers: dict[tuple[str, int], int] = {}
    times = Counter[str]()
    for name, arm in experiment.arms.items():
        recipe = {k: v for k, v in arm["settings"].items() if not k.startswith("clock.")}
        whole, rest = (
            json.dumps({**arm, "settings": own}, sort_keys=True) for own in (arm["settings"], recipe)
        )
        # Arms that are the same, clock and all, are in one panel.
        found[name] = numbers.setdefault((rest, times[whole]), len(numbers))
        times[whole] += 1
    return found


def _panels(experiment: Results) -> list[tuple[str, list[_Series]]]:
    """Title and curves of each panel; what is in none of them is a reference, black where arms are compared."""
    from matplotlib import colormaps

    arms, counts = list(experiment.arms), experiment.workers
    shades = colormaps["viridis"]

    def by_arm(cell: Cell) -> _Series:
        return _Series(cell, name_of(cell.arm), *_look(arms.index(cell.arm)))

    def by_workers(cell: Cell) -> _Series:
        index = counts.index(cell.workers)
        shade = shades(0.78 * index / max(1, len(counts) - 1))
        return _Series(cell, counted(cell.workers, "worker"), shade, _MARKERS[index % len(_MARKERS)])

    def both(cell: Cell) -> str:
        return f"{name_of(cell.arm)}, {counted(cell.workers, 'worker')}"

    at = {k: [c for c in experiment.cells if c.workers == k] for k in counts}
    of = {arm: [c for c in experiment.cells if c.arm == arm] for arm in arms}
    panels = [(counted(k, "worker"), [by_arm(c) for c in at[k]]) for k in counts if len(at[k]) > 1]
    references = [c for c in experiment.cells if len(at[c.workers]) == 1 and len(of[c.arm]) == 1]
    if not panels and references:
        panels = [("", [by_arm(c)._replace(label=both(c)) for c in references])]
    else:
        for _, series in panels:
            series += [_Series(c, both(c), _REFERENCE, ".") for c in references]
    return panels + [(name_of(arm), [by_workers(c) for c in of[arm]]) for arm in arms if len(of[arm]) > 1]


def _scale(experiment: Results) -> _Scale:
    """The axis of the metric that all panels share.

    It is logarithmic: both how runs begin, or stay, near chance and small differences at the end can be seen. A
    training error far below any validation error is cut off, down to 0, which has no place on it. Where a metric is
    not positive in a validation, or changes little, it is linear. A cell far above the others is cut off at the top.
    """
    cells = experiment.cells
    figures = [cell.mean for cell in cells if cell.mean is not None]
    usual = median(figures) if figures else 0.0
    near = [figure for figure in figures if figure <= _FAR * usual]
    top = _ROOM * max(near) if usual > 0 and len(near) < len(figures) else math.inf
    validation = [mean for cell in cells for mean, _ in cell.curve("validation").values()]
    finished = [mean for cell in cells for mean, _ in cell.curve("train").values()] + validation
    drawn = finished + [
        v for cell in cells for run in cell.diverged for v in (*run.train.values(), *run.validation.values())
    ]
    if is_fraction(experiment.metric):
        best = min(validation, default=10.0)
        highest = max(1.0, min(104.0, 1.1 * max(drawn, default=100.0)))
        lowest = max(0.9 * min(drawn, default=10.0), 0.4 * best, 0.01)
        return _Scale(lowest, min(highest, top), _TICKS, cut=top < highest)
    least, most = min(finished, default=0.1), max(finished, default=1.0)
    best = min(validation, default=least)
    # What diverged may have gone anywhere before.
    most = max(most, min(max(drawn, default=most), 10 * most))
    # Not below what a logarithm can be taken of.
    if best > 1e-300:
        lowest, highest = max(0.9 * least, 0.4 * best), min(1.1 * most, top)
        ticks = [tick for tick in _round_numbers(lowest, highest) if lowest <= tick <= highest]
        # Within a narrow range a logarithmic axis shows nothing that a linear one does not.
        return _Scale(lowest, highest, ticks if len(ticks) > 2 else (), cut=top < 1.1 * most)
    room = 0.05 * (most - least) or 1.0
    return _Scale(least - room, most + room)


def _round_numbers(lowest: float, highest: float) -> list[float]:
    """Round numbers around a range, the more to a decade the fewer decades it spans."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    steps = (1,) if last - first > 4 else (1, 2, 5) if last - first > 2 else (1, 1.5, 2, 3, 5, 7)
    return [step * 10.0**decade for decade in range(first, last + 1) for step in steps]


def _draw(axes: Any, series: _Series, scale: _Scale) -> None:
    cell, colour = series.cell, series.colour
    says = describe(cell)
    if cell.diverged and cell.figures:
        # The same, shorter.
        says = (
            f"{figure_of(cell)} ({len(cell.diverged)} of {len(cell.diverged) + len(cell.figures)} diverged)"
        )
    label = f"{series.label}: {says}"
    if cell.mean is not None and cell.mean > scale.highest:
        label += ", above"
    for kind, style in (
        ("train", {"ls": "--", "lw": 1.0, "alpha": 0.75}),
        ("validation", {"lw": 1.7, "marker": series.marker, "ms": 3.5, "label": label}),
    ):
        curve = cell.curve(kind)
        epochs = list(curve)
        axes.plot(epochs, [mean for mean, _ in curve.values()], color=colour, **style)
        spread = [(epoch, mean, std) for epoch, (mean, std) in curve.items() if std is not None]
        if spread:
            at, means, stds = zip(*spread, strict=True)
            low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
            axes.fill_between(at, low, high, color=colour, alpha=0.2 if kind == "validation" else 0.1, lw=0)
    for run in cell.diverged:
        axes.plot(list(run.train), list(run.train.values()), color=colour, lw=0.7, ls="--")
        axes.plot(list(run.validation), list(run.validation.values()), color=colour, lw=0.7)
        # Without any line in the log, or beyond the panel, at its edge.
        end = max([run.train, run.validation], key=lambda curve: max(curve, default=0))
        epoch = max(end, default=run.epoch)
        height = min(max(end.get(epoch, scale.highest), scale.lowest), scale.highest)
        axes.plot([epoch], [height], "x", color=colour, ms=8, mew=1.8, clip_on=False)


def _finish(axes: Any, title: str, xlabel: str, ylabel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=11)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Below the panel, where no curve can be.
    _, labels = axes.get_legend_handles_labels()
    columns = 2 if max(map(len, labels)) <= _TWO_COLUMNS else 1
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns)


def _draw_against_minibatch(axes: Any, experiment: Results, groups: Sequence[Sequence[Cell]]) -> None:
    arms, metric = list(experiment.arms), experiment.metric
    sizes = sorted({cell.minibatch for cells in groups for cell in cells})
    for cells in groups:
        colour, marker = _look(arms.index(cells[0].arm))
        known = [cell for cell in cells if cell.mean is not None]
        axes.errorbar(
            [cell.minibatch for cell in known],
            [cell.mean for cell in known],
            [cell.std or 0.0 for cell in known],
            color=colour, marker=marker, ms=4.5, lw=1.5, capsize=3, label=name_of(cells[0].arm),
        )  # fmt: skip
        for cell in cells:
            if cell.diverged:
                share = f"{len(cell.diverged)} of {len(cell.diverged) + len(cell.figures)} diverged"
                place = {"transform": axes.get_xaxis_transform(), "color": colour}
                axes.plot([cell.minibatch], [0.96], "x", ms=8, mew=1.8, **place)
                axes.text(cell.minibatch, 0.92, share, ha="right", va="top", fontsize=7.5, **place)
    _finish(axes, f"{metric} against minibatch", f"minibatch kn ({experiment.noun})", label_of(metric))
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size // 1024}k" if size % 1024 == 0 else str(size) for size in sizes])
    axes.minorticks_off()
    if any(cell.diverged for cells in groups for cell in cells):
        # Room for the crosses.
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.2 * (high - low))
