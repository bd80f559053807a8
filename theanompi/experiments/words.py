"""What cells, figures and differences are called in tables and sentences."""

import math

from theanompi.experiments.statistics import Cell
from theanompi.record.metrics import as_number, is_fraction


def name_of(arm: str) -> str:
    """Return the name of an arm as words.

    >>> name_of("their_way")
    'their way'
    """
    return arm.replace("_", " ")


def label_of(metric: str) -> str:
    """Return the name of a metric with the unit in which figures are given.

    >>> label_of("error"), label_of("mae")
    ('error (%)', 'mae')
    """
    return f"{metric} (%)" if is_fraction(metric) else metric


def number_of(metric: str, value: float) -> str:
    """Write a figure without its unit.

    >>> number_of("error", 12.0), number_of("mae", 0.01234)
    ('12.00', '0.0123')
    """
    return f"{value:.2f}" if is_fraction(metric) else as_number(value)


def spread_of(metric: str, mean: float, spread: float | None) -> str:
    """Write a mean with its spread, if there is one: of that two digits, and the mean as exactly.

    >>> spread_of("error", 12.0, 1.0), spread_of("mae", 0.0358, 0.000493), spread_of("mae", 1234.5678, 0.0)
    ('12.00 ± 1.00', '0.03580 ± 0.00049', '1234.57 ± 0.00')
    """
    if spread is None:
        return number_of(metric, mean)
    decimals = 2
    if not is_fraction(metric) and mean:
        # Beyond six digits of the mean is rounding error.
        decimals = 5 - math.floor(math.log10(max(abs(mean), spread)))
        if spread:
            decimals = max(0, min(decimals, 1 - math.floor(math.log10(spread))))
    if not 0 <= decimals < 10:
        return f"{number_of(metric, mean)} ± {number_of(metric, spread)}"
    return f"{mean:.{decimals}f} ± {spread:.{decimals}f}"


def difference_of(metric: str, mean: float, half: float | None) -> str:
    """Write a difference of figures; `half` is that of its interval. It is not said that it is one of errors.

    >>> difference_of("error", 0.3, 1.51), difference_of("error_top5", 0.3, None)
    ('+0.30 ± 1.51 points', 'error_top5 +0.30 points')
    >>> difference_of("mae", -0.0123456, 0.002)
    'mae -0.0123 ± 0.0020'
    """
    text = spread_of(metric, mean, half)
    signed = text if text.startswith("-") else f"+{text}"
    return f"{metric} " * (metric != "error") + signed + " points" * is_fraction(metric)


def figure_of(cell: Cell) -> str:
    """Return mean and standard deviation of a cell's finished runs, without unit; a mean alone for one run.

    >>> from theanompi.experiments.statistics import Cell, Run
    >>> runs = tuple(Run(s, "finished", validation={1: e}) for s, e in enumerate([11.0, 12.0, 13.0]))
    >>> figure_of(Cell("their_way", 4, 32, runs)), figure_of(Cell("their_way", 4, 32, runs[:1]))
    ('12.00 ± 1.00', '11.00')
    """
    if cell.mean is None:
        return "–"
    return spread_of(cell.metric, cell.mean, cell.std)


def describe(cell: Cell | None) -> str:
    """Return the entry of a cell in the table: its figure, how many diverged, and how many there are yet.

    >>> from theanompi.experiments.statistics import Cell, Run
    >>> runs = tuple(Run(s, "finished", validation={1: e}) for s, e in enumerate([11.0, 12.0, 13.0]))
    >>> describe(Cell("my_way", 4, 32, (*runs, Run(3, "diverged"))))
    '1 of 4 diverged; the other 3: 12.00 ± 1.00'
    >>> describe(Cell("my_way", 4, 32, (*runs, Run(3, "missing"))))
    '12.00 ± 1.00 (3 of 4)'
    """
    if cell is None:
        return ""
    complete, seeds = len(cell.figures) + len(cell.diverged), len(cell.runs)
    text = figure_of(cell)
    if cell.diverged:
        text = f"{len(cell.diverged)} of {complete} diverged"
        if cell.figures:
            others = f"other {len(cell.figures)}" if len(cell.figures) > 1 else "other"
            text += f"; the {others}: {figure_of(cell)}"
        elif complete > 1:
            text = f"all {complete} diverged"
        else:
            text = "diverged"
    return text + (f" ({complete} of {seeds})" if complete < seeds else "")
