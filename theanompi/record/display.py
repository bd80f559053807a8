"""What one watches of a run on the standard error of rank 0."""

import sys
from time import monotonic
from typing import Any

from theanompi.record.metrics import Reported
from theanompi.record.summary import progress_line
from theanompi.record.terminal import SECONDS_BETWEEN_LINES, bar, folded, terminal_columns, text_columns


class Display:
    """A bar where a terminal shows it (through ``mpirun`` too), else a plain line now and then.

    Parameters
    ----------
    reported : Reported
        The losses and metrics of the model.
    iterations, done : int
        Of the whole run, and before this process.

    Attributes
    ----------
    bar : tqdm or None
    """

    def __init__(self, reported: Reported, iterations: int, done: int) -> None:
        self._reported, self._iterations = reported, iterations
        self._said = monotonic()
        self.bar: Any = None
        columns = terminal_columns()
        if columns is not None:
            self._columns = columns - 2
            self.bar = bar(
                columns,
                total=iterations,
                initial=done,
                # Not before the first iteration: lines of standard output may still be on their way through mpirun.
                delay=1e-3,
                bar_format="{desc}{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]",
            )

    def advance(self, record: dict[str, Any]) -> None:
        """Let the bar show an iteration, and the interval so far."""
        epoch, iteration = record["epoch"] + 1, record["iteration"]
        # Three metrics, or two where no more fit beside a bar of three characters.
        room = self._columns - len(f"epoch {epoch} ███| {iteration}/{self._iterations} [00:00:00 left, ]")
        line = self._line(record, 3)
        if len(line) > room:
            line = self._line(record, 2)
        self.bar.set_description_str(f"epoch {epoch} ", refresh=False)
        self.bar.set_postfix_str(line, refresh=False)
        self.bar.update(iteration - self.bar.n)

    def alive(self, record: dict[str, Any]) -> None:
        """Say how far training is, where no bar shows it and nothing was said for a while."""
        if self.bar is None and monotonic() - self._said >= SECONDS_BETWEEN_LINES:
            where = f"epoch {record['epoch'] + 1}, iteration {record['iteration']}/{self._iterations}"
            self.say(f"{where}: {self._line(record, 3)}")

    def _line(self, record: dict[str, Any], most: int) -> str:
        return progress_line(record, self._reported.main[:most], self._reported.noun)

    def say(self, text: str) -> None:
        """Print a text, above the bar."""
        self._said = monotonic()
        text = folded(text, text_columns())
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
