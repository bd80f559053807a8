"""What cells and differences are called in tables and sentences."""

from theanompi.experiments.statistics import Cell


def name_of(arm: str) -> str:
    """Return the name of an arm as words.

    >>> name_of("their_way")
    'their way'
    """
    return arm.replace("_", " ")


def figure_of(cell: Cell) -> str:
    """Return mean and standard deviation of a cell's finished runs, in per cent; a mean alone for one run.

    >>> from theanompi.experiments.statistics import Cell, Run
    >>> runs = tuple(Run(s, "finished", validation={1: e}) for s, e in enumerate([11.0, 12.0, 13.0]))
    >>> figure_of(Cell("their_way", 4, 32, runs)), figure_of(Cell("their_way", 4, 32, runs[:1]))
    ('12.00 ± 1.00', '11.00')
    """
    if cell.mean is None:
        return "–"
    return f"{cell.mean:.2f}" if cell.std is None else f"{cell.mean:.2f} ± {cell.std:.2f}"


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
    complete, seeds = len(cell.errors) + len(cell.diverged), len(cell.runs)
    text = figure_of(cell)
    if cell.diverged:
        text = f"{len(cell.diverged)} of {complete} diverged"
        if cell.errors:
            others = f"other {len(cell.errors)}" if len(cell.errors) > 1 else "other"
            text += f"; the {others}: {figure_of(cell)}"
        elif complete > 1:
            text = f"all {complete} diverged"
        else:
            text = "diverged"
    return text + (f" ({complete} of {seeds})" if complete < seeds else "")


def workers_of(k: int) -> str:
    """Return so many workers in words.

    >>> workers_of(1), workers_of(8)
    ('1 worker', '8 workers')
    """
    return f"{k} worker{'s' * (k != 1)}"
