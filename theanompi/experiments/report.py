"""The report of an experiment: its table, what follows from it in plain words, and the files that say so.

``tmlauncher report DIR`` makes ``report.md``, ``report.json`` and ``curves.png`` in the experiment's folder, from
``experiment.json`` and the runs' logs alone: the same logs give the same bytes. What is computed, and by which
rules, is in `theanompi.experiments.results`.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from theanompi.config import FIELDS, counted, fields_of, flat
from theanompi.experiments.plots import plot_comparison, plot_time
from theanompi.experiments.results import Claim, Results, read_results
from theanompi.experiments.statistics import Cell, Curve, Difference, mean_and_std, quantile_of, time_of
from theanompi.experiments.words import describe, difference_of, label_of, name_of, number_of, spread_of
from theanompi.record.folder import CURVES_FILE, replace_text
from theanompi.record.metrics import is_fraction
from theanompi.record.terminal import folded

MARKDOWN_FILE = "report.md"
JSON_FILE = "report.json"
TIME_FILE = "curves_time.png"

# Settings that are no part of the recipe and may differ between runs of an arm.
_NOT_THE_RECIPE = {"seed", "accumulation", "devices", *fields_of("aside")}
_CAUTION = "each interval for itself, not corrected for how many there are"


def report(folder: str | Path, *, columns: int | None = None) -> str:
    """Write the three files of an experiment's report, and return what there is to say about it.

    Parameters
    ----------
    folder : str or Path
        That of the experiment: ``experiment.json``, and ``<arm>/<k>-workers/seed-<s>/`` for each run. Runs may be
        missing or unfinished: they are listed.
    columns : int, optional
        The width of the terminal that the lines are for; None breaks none of them.

    Returns
    -------
    str
        Table, differences, claims, what diverged or is missing, and where the files are; lines for a terminal.

    Raises
    ------
    ConfigError
        If there is no such experiment or it is damaged.
    ValueError
        If a log is damaged.
    """
    folder = Path(folder)
    experiment = read_results(folder)
    claims = [experiment.judge(claim) for claim in experiment.claims]
    # All that can go wrong with the content comes before the first file is replaced.
    texts = {JSON_FILE: _json(experiment, claims), MARKDOWN_FILE: _markdown(experiment, claims)}
    summary = _terminal(experiment, claims, folder, columns)
    drawing = folder / f".{CURVES_FILE}"
    plot_comparison(experiment, drawing)
    drawing.replace(folder / CURVES_FILE)
    if experiment.alike():
        plot_time(experiment, drawing)
        drawing.replace(folder / TIME_FILE)
    for name, text in texts.items():
        replace_text(folder / name, text)
    return summary


def sentence(found: Difference) -> str:
    """Say in words how one cell compares with another.

    Examples
    --------
    >>> from theanompi.experiments.statistics import Run, difference
    >>> def cell(k, *errors):
    ...     runs = (Run(s, "finished", validation={1: e}) for s, e in enumerate(errors))
    ...     return Cell("their_way", k, 8 * k, tuple(runs))
    >>> sentence(difference(cell(8, 12.0, 13.0, 14.0), cell(4, 11.0, 13.0, 14.1)))
    '8 workers against 4, their way: +0.30 ± 1.51 points: no difference that 3 seeds can show.'
    """
    cell, other = found.cell, found.other
    if cell.arm == other.arm:
        one, two = counted(cell.workers, "worker"), str(other.workers)
        subject = f"{one} against {two}, {name_of(cell.arm)}"
    else:
        one, two = name_of(cell.arm), name_of(other.arm)
        subject = f"{one} against {two}, {counted(cell.workers, 'worker')}"
    verb = "are" if cell.arm == other.arm and cell.workers > 1 else "is"
    if found.verdict in ("worse", "better"):
        judgement = f"{one} {verb} {found.verdict}"
    elif found.verdict == "undecided":
        judgement = f"no difference that {counted(len(found.points), 'seed')} can show"
    elif found.only_cell:
        judgement = "which is worse cannot be told"
    elif len(found.points) == 2:
        judgement = "two equal differences have no spread"
    elif found.points:
        judgement = "a spread needs two seeds"
    else:
        judgement = "nothing to compare"
    return f"{subject}: {outcome(found, one, two)}: {judgement}."


def outcome(found: Difference, one: str, two: str) -> str:
    """Say what came out between two cells, called `one` and `two`, without judging it.

    Examples
    --------
    >>> from theanompi.experiments.statistics import Run, difference
    >>> fine, bad = (Cell("a", 4, 32, (Run(0, state, validation={1: 12.0}),)) for state in ("finished", "diverged"))
    >>> outcome(difference(bad, fine), "8 workers", "4")
    '8 workers diverged in 1 of 1 seed, 4 in none'
    """
    if not found.pairs:
        return "no seed is complete on both sides"
    of = f"of {counted(found.pairs, 'seed')}"
    if found.only_cell or found.only_other:
        counts = [len(only) + len(found.both) for only in (found.only_cell, found.only_other)]
        return f"{one} diverged in {counts[0] or 'none'} {of}, {two} in {counts[1] or 'none'}"
    text, rest = "", len(found.points)
    if found.both:
        text = f"both diverged in the same {len(found.both)} {of}"
        if not rest:
            return text
        text += f"; in the other{f' {rest}' * (rest > 1)}: "
    assert found.mean is not None
    text += difference_of(found.cell.metric, found.mean, found.half)
    seeds = len(found.cell.runs)
    return text + (f" ({found.pairs} of {seeds} seeds)" if found.pairs < seeds else "")


def conclusion(claim: Claim) -> str:
    """Say what became of a claim.

    Examples
    --------
    >>> from theanompi.experiments.statistics import Run, difference
    >>> runs = [tuple(Run(s, "finished", validation={1: e + s}) for s in range(3)) for e in (12.0, 12.0)]
    >>> found = difference(Cell("a", 8, 64, runs[0]), Cell("b", 4, 32, runs[1]))
    >>> conclusion(Claim("a@8 ~ b@4", "~", found, "agrees", 0.5))
    'agrees: +0.00 ± 0.00 points, within ±0.50.'
    """
    found = claim.difference
    one, two = (f"{cell.arm}@{cell.workers}" for cell in (found.cell, found.other))
    text = claim.result
    if text == "cannot be told":
        text += f" with {counted(found.pairs, 'seed')}"
    text += f": {outcome(found, one, two)}"
    if claim.relation == "~" and found.half is not None:
        place = {"agrees": "within", "does not agree": "outside", "cannot be told": "across the edge of"}
        if claim.margin is None:
            text += ", and no margin is stated"
        else:
            text += f", {place[claim.result]} ±{number_of(found.cell.metric, claim.margin)}"
    return f"{text}."


def _precision(experiment: Results) -> str:
    """What stands behind a ± of a difference."""
    count = len(experiment.seeds)
    quantile = f": t = {quantile_of(count):.3f} for {count} seeds" if count > 1 else ""
    return f"mean difference ± half of a 95 % confidence interval (Student's t, paired by seed{quantile})"


def _how_judged(claims: Sequence[Claim]) -> list[str]:
    """What "~" means, where it is claimed."""
    margin = next((claim.margin for claim in claims if claim.margin is not None), None)
    if margin is None:
        return []
    metric = claims[0].difference.cell.metric
    text = number_of(metric, margin) + " points" * is_fraction(metric)
    return [
        f"`~` agrees where the 95 % interval lies within the margin, ±{text}, does not where it lies outside, and "
        "cannot be told where it reaches across an edge: two one-sided t-tests (TOST) at 2.5 % each, paired by seed. "
        "`>` and `<` agree where the interval lies on their side of 0.",
        "",
    ]


def _last(experiment: Results, five: str) -> str:
    """The epochs whose median a figure is."""
    epochs = max(arm["epochs"] for arm in experiment.arms.values())
    return f"the last {five} epochs" if epochs >= 5 else counted(epochs, "epoch")


def _seeds(experiment: Results) -> str:
    count = len(experiment.seeds)
    return f"mean ± standard deviation over {count} seeds" if count > 1 else "one seed"


def _grid(experiment: Results) -> list[list[str]]:
    """The table: a row for each arm and a column for each worker count, or turned where those are more."""
    arms, workers = list(experiment.arms), experiment.workers
    rows = [["", *(_column_head(experiment, k) for k in workers)]]
    rows += [[name_of(arm), *(describe(experiment.cell(arm, k)) for k in workers)] for arm in arms]
    return [list(row) for row in zip(*rows, strict=True)] if len(workers) > len(arms) else rows


def _column_head(experiment: Results, k: int) -> str:
    minibatches = {cell.minibatch for cell in experiment.cells if cell.workers == k}
    return counted(k, "worker") + (f" (kn = {minibatches.pop():,})" if len(minibatches) == 1 else "")


def _endings(experiment: Results) -> tuple[list[str], list[str]]:
    """What diverged, and what is not complete, each a line for the seeds of a cell that ended alike."""
    diverged: list[str] = []
    incomplete: list[str] = []
    for cell in experiment.cells:
        alike: dict[tuple[bool, str], list[str]] = {}
        for run in cell.diverged + cell.incomplete:
            if run.state == "diverged":
                how = f"diverged in epoch {run.epoch}: {run.reason}"
            else:
                how = f"stopped after epoch {run.epoch}" if run.state == "unfinished" else "no log"
                how += f"; its output ends with: {run.reason}" if run.reason else ""
            alike.setdefault((run.complete, how), []).append(str(run.seed))
        for (complete, how), seeds in alike.items():
            which = f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"
            line = f"{name_of(cell.arm)}, {counted(cell.workers, 'worker')}, {which}: {how}"
            (diverged if complete else incomplete).append(line)
    return diverged, incomplete


def _terminal(experiment: Results, claims: Sequence[Claim], folder: Path, columns: int | None) -> str:
    diverged, incomplete = _endings(experiment)
    question = f": {experiment.question}" if experiment.question else ""
    lines = [f"{experiment.name} ({experiment.scale} scale){question}", ""]
    lines += [
        f"validation {label_of(experiment.metric)}, median of {_last(experiment, '5')}, {_seeds(experiment)}:",
        "",
    ]
    lines = [folded(line, columns) for line in lines]
    lines += _align(_grid(experiment))
    begin = len(lines)
    differences = [*experiment.across_workers(), *experiment.across_arms()]
    if differences:
        lines += ["", f"{_precision(experiment)},", f"{_CAUTION}:", ""]
        lines += [f"  {sentence(found)}" for found in differences]
    for title, found in (
        ("claims:", (f"{claim.text} {conclusion(claim)}" for claim in claims)),
        ("diverged:", diverged),
        ("not complete:", incomplete),
    ):
        texts = list(found)
        if texts:
            lines += ["", title, *(f"  {text}" for text in texts)]
    lines += ["", f"in {folder}: {MARKDOWN_FILE}, {JSON_FILE}, {CURVES_FILE}"]
    return "\n".join(
        [
            *lines[:begin],
            *(folded(line, columns, indent=4 if line[:1] == " " else 2) for line in lines[begin:]),
        ]
    )


def _align(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return [head, "|" + "---|" * len(rows[0]), *body]


def _markdown(experiment: Results, claims: Sequence[Claim]) -> str:
    diverged, incomplete = _endings(experiment)
    lines = [f"# {experiment.name} ({experiment.scale} scale)", ""]
    lines += [experiment.question, ""] if experiment.question else []
    lines += [
        f"Validation {label_of(experiment.metric)}, median of {_last(experiment, 'five')}, {_seeds(experiment)}:",
        "",
    ]
    lines += [*_markdown_table(_grid(experiment)), ""]
    if claims:
        lines += [
            "## What was claimed",
            "",
            *_how_judged(claims),
            *(f"- `{claim.text}` {conclusion(claim)}" for claim in claims),
            "",
        ]
    differences = [*experiment.across_workers(), *experiment.across_arms()]
    if differences:
        precision = _precision(experiment)
        lines += ["## Differences", "", f"{precision[0].upper()}{precision[1:]}, {_CAUTION}.", ""]
        lines += [*(f"- {sentence(found)}" for found in differences), ""]
    if diverged:
        lines += ["## Diverged", "", *(f"- {text}" for text in diverged), ""]
    if incomplete:
        lines += ["## Not complete", "", *(f"- {text}" for text in incomplete), ""]
    lines += ["## Curves", "", f"![Training and validation {experiment.metric}]({CURVES_FILE})", ""]
    if experiment.alike():
        lines += ["## Time", "", *_time(experiment), ""]
    lines += ["## How it was run", "", *(f"- {line}" for line in _how(experiment)), ""]
    differing = _differing(experiment)
    if differing:
        arms = experiment.arms
        rows = [["", *differing]]
        rows += [[name_of(arm), *(_value(flat(arms[arm]).get(name)) for name in differing)] for arm in arms]
        lines += ["What differs between the arms:", "", *_markdown_table(rows), ""]
    return "\n".join(lines)


def _time(experiment: Results) -> Iterable[str]:
    """What is said of virtual time and staleness, and the picture of it."""
    yield (
        "Seconds of the virtual clock. For each number of workers and clock, the error is also that of the moment at "
        "which the fastest arm had made all of its epochs: what each would have by then, in the same time. Staleness "
        "is how many passes of others at the centre there were between two of a worker's own."
    )
    yield ""
    rows = [
        [
            "",
            "workers",
            "seconds of a run",
            "at its end",
            "by the time of the fastest",
            "staleness: mean, largest",
        ]
    ]
    for cells in experiment.alike():
        ends = [time_of(cell) for cell in cells]
        first = min((end for end in ends if end is not None), default=math.inf)
        for cell, end in zip(cells, ends, strict=True):
            by_then = [value for run in cell.runs if (value := run.at(first)) is not None]
            rows.append(
                [
                    name_of(cell.arm),
                    str(cell.workers),
                    "–" if end is None else f"{end:.1f}",
                    describe(cell),
                    spread_of(cell.metric, *mean_and_std(by_then)) if by_then else "–",
                    _staleness(cell),
                ]
            )
    yield from _markdown_table(rows)
    yield ""
    yield f"![Validation {experiment.metric} against virtual time]({TIME_FILE})"


def _staleness(cell: Cell) -> str:
    counts: Counter[int] = Counter()
    for run in cell.runs:
        counts.update(dict(enumerate(run.staleness)))
    counts = +counts
    if not counts:
        return "–"
    return f"{sum(old * n for old, n in counts.items()) / counts.total():.1f}, {max(counts)}"


def _differing(experiment: Results) -> list[str]:
    """What the arms do not have in common; a plug-in's setting, which not all of them need have, by its own name."""
    arms = [flat(arm) for arm in experiment.arms.values()]
    return [
        name
        for name in dict.fromkeys(name for arm in arms for name in arm)
        if name not in _NOT_THE_RECIPE and any(arm.get(name) != arms[0].get(name) for arm in arms)
    ]


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _how(experiment: Results) -> Iterable[str]:
    def of(name: str) -> str:
        return " or ".join(dict.fromkeys(_value(arm[name]) for arm in experiment.arms.values()))

    ranks = experiment.simulate
    noun = experiment.noun
    epochs = "epoch" if of("epochs") == "1" else "epochs"
    seeds = "seed" if len(experiment.seeds) == 1 else "seeds"
    pixels = f", {of('image_size')} pixels" if noun == "images" else ""
    yield f"Data: {of('data')}{pixels}; network: {of('modelfile')}.{of('modelclass')}"
    yield (
        f"n = {of('batch_size')} {noun} per worker; learning rate {of('base_lr')} for {of('base_batch')} {noun}; "
        f"{of('epochs')} {epochs}; {seeds} {', '.join(map(str, experiment.seeds))}"
    )
    yield (
        "Workers: simulated in one process, in the order of a virtual clock"
        if experiment.clock
        else "Workers: as many ranks"
        if ranks is None
        else f"Workers: simulated on {counted(ranks, 'rank')} by accumulation"
    )
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in run.versions.items())
        for cell in experiment.cells
        for run in cell.runs
        if run.versions
    )
    for version in versions:
        yield f"Versions: {version}"
    yield "Machine: " + ", ".join(f"{name} {_value(value)}" for name, value in experiment.machine.items())
    seeds = f" --seeds {len(experiment.seeds)}" * (experiment.seeds == tuple(range(len(experiment.seeds))))
    ranks_flag = [] if experiment.clock else [f"--simulate {ranks or 0}"]
    flags = "".join(f" {flag}" for flag in (*ranks_flag, *experiment.flags))
    yield (
        f"`tmlauncher compare {experiment.name}.toml --scale {experiment.scale}{seeds}{flags}` runs "
        "it, `tmlauncher report DIR` with its folder makes this page again from the logs"
    )


def _json(experiment: Results, claims: Sequence[Claim]) -> str:
    left_out = {*fields_of("aside"), *_unused(experiment)}
    content = {
        "name": experiment.name,
        "question": experiment.question,
        "scale": experiment.scale,
        "seeds": list(experiment.seeds),
        "simulate": experiment.simulate,
        "machine": experiment.machine,
        "arms": [
            {"arm": arm, "settings": flat({k: v for k, v in settings.items() if k not in left_out})}
            for arm, settings in experiment.arms.items()
        ],
        "cells": [_cell_json(cell) for cell in experiment.cells],
        **({"time": _time_json(experiment)} if experiment.alike() else {}),
        "differences": {
            "across_workers": [_difference_json(found) for found in experiment.across_workers()],
            "across_arms": [_difference_json(found) for found in experiment.across_arms()],
        },
        "claims": [
            {
                "claim": claim.text,
                "result": claim.result,
                "margin": claim.margin,
                "sentence": f"{claim.text} {conclusion(claim)}",
                "difference": _difference_json(claim.difference),
            }
            for claim in claims
        ],
    }
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def _time_json(experiment: Results) -> list[dict[str, Any]]:
    """Of each run, when its validations were, in virtual seconds, and the histogram of its staleness."""
    return [
        {
            "arm": cell.arm,
            "workers": cell.workers,
            "seed": run.seed,
            "seconds": [float(f"{time:.9g}") for time in run.times.values()],
            "staleness": list(run.staleness),
        }
        for cell in experiment.cells
        for run in cell.runs
    ]


def _unused(experiment: Results) -> list[str]:
    """Fields that version 0.1.0 did not have, and no arm makes use of: reports of its experiments stay as they are."""
    defaults = {name: item.metadata["default"] for name, item in FIELDS.items() if item.metadata["later"]}
    return [n for n, value in defaults.items() if all(arm[n] == value for arm in experiment.arms.values())]


def _cell_json(cell: Cell) -> dict[str, Any]:
    metric = cell.metric
    return {
        "arm": cell.arm,
        "workers": cell.workers,
        "minibatch": cell.minibatch,
        "mean": _round(metric, cell.mean),
        "std": _round(metric, cell.std),
        "finished": len(cell.figures),
        "diverged": len(cell.diverged),
        "incomplete": len(cell.incomplete),
        "curves": {
            kind: {
                "epoch": list(curve),
                "mean": [_round(metric, mean) for mean, _ in curve.values()],
                "std": [_round(metric, std) for _, std in curve.values()],
            }
            for kind in ("train", "validation")
            for curve in [cell.curve(kind)]
        },
        "runs": [
            {
                "seed": run.seed,
                "state": run.state,
                metric: _round(metric, run.figure),
                "reason": run.reason,
                "train": _curve_json(metric, run.train),
                "validation": _curve_json(metric, run.validation),
                "versions": dict(run.versions),
            }
            for run in cell.runs
        ],
    }


def _curve_json(metric: str, curve: Curve) -> dict[str, list[Any]]:
    return {"epoch": list(curve), metric: [_round(metric, value) for value in curve.values()]}


def _difference_json(found: Difference) -> dict[str, Any]:
    metric = found.cell.metric
    return {
        "of": {"arm": found.cell.arm, "workers": found.cell.workers},
        "against": {"arm": found.other.arm, "workers": found.other.workers},
        "points": {str(seed): _round(metric, value) for seed, value in found.points.items()},
        "mean": _round(metric, found.mean),
        "half_of_95_percent_interval": _round(metric, found.half),
        "diverged": {
            "only_of": list(found.only_cell),
            "only_against": list(found.only_other),
            "both": list(found.both),
        },
        "verdict": found.verdict,
        "sentence": sentence(found),
    }


def _round(metric: str, value: float | None) -> float | None:
    """To six decimals of per cent, or nine digits: beyond them is rounding error, and files are easier to read."""
    if value is None:
        return None
    return round(value, 6) if is_fraction(metric) else float(f"{value:.9g}")
