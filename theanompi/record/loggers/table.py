"""The log as a table, ``log.csv`` in the run's folder: a row for each record."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from theanompi.record.folder import CSV_FILE, append_text, replace_text
from theanompi.record.log import BEST, KINDS, LOGGED, MEDIAN
from theanompi.record.loggers.base import Logger


class CSV(Logger):
    """Writes a row with the figures of the log to the last digit; what a record does not have is empty.

    A resumed run has the rows of its log, whether a run before it had this logger or not.
    """

    def begin(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._file = self.folder / CSV_FILE
        figures = [f"{BEST}{self.config['metric']}", f"{MEDIAN}{self.config['metric']}"]
        times = [
            "wall_s",
            *(f"{kind}_s" for kind in KINDS),
            *["virtual_s"] * bool(self.config["workers_simulated"]),
        ]
        self._names = [
            *("kind", "epoch", "iteration"),
            *self.config["metrics"],
            *("lr", "iterations", "items", "items_per_s"),
            *(*times, *figures),
        ]
        rows = (self._row(record) for record in records if record["kind"] in LOGGED)
        replace_text(self._file, self._row(dict(zip(self._names, self._names, strict=True))) + "".join(rows))

    def _row(self, record: Mapping[str, Any]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._names, extrasaction="ignore", lineterminator="\n").writerow(record)
        return text.getvalue()

    def write(self, record: Mapping[str, Any]) -> None:
        append_text(self._file, self._row(record))
