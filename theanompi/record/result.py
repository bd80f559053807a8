"""What a run has come to, for Python and notebooks."""

import base64
import html
import os
import tempfile
from pathlib import Path

from theanompi.record.folder import CHECKPOINT_FILE, LOG_FILE, reported_by
from theanompi.record.log import read_log
from theanompi.record.metrics import as_text


class Result:
    """What is in the folder of a run, finished or not.

    Parameters
    ----------
    folder : str or path

    Attributes
    ----------
    folder : Path
    log : list of dict
        The records of its log: of kind ``train``, ``val``, ``summary`` and others.
    metric : str
        The name of the one that runs are compared by, such as ``error``, a fraction.
    best, last : float or None
        Its smallest and its last value in a validation.
    checkpoint : Path or None
        The last one.

    Raises
    ------
    ConfigError, ValueError
        In one line, if there is no log, or it or ``config.json`` is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.log = read_log(self.folder / LOG_FILE)
        self.metric = reported_by(self.folder).headline
        values = [r[self.metric] for r in self.log if r["kind"] == "val" and r.get(self.metric) is not None]
        self.best: float | None = min(values, default=None)
        self.last: float | None = values[-1] if values else None
        checkpoint = self.folder / CHECKPOINT_FILE
        self.checkpoint = checkpoint if checkpoint.exists() else None

    def __repr__(self) -> str:
        best, last = (as_text(self.metric, value) for value in (self.best, self.last))
        return f"{self.folder}: validation {self.metric}: best {best}, last {last}"

    def _repr_html_(self) -> str:
        """The same with the curves, for a notebook."""
        # Heavy, and needed only here.
        from theanompi.record.plots import plot_curves

        words = f"<p>{html.escape(repr(self))}</p>"
        if not any(record["kind"] in ("train", "val") for record in self.log):
            return words
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder, "curves.png")
            plot_curves(self.folder / LOG_FILE, picture)
            data = base64.b64encode(picture.read_bytes()).decode()
        return f'{words}<img alt="curves" style="max-width: 100%" src="data:image/png;base64,{data}">'
