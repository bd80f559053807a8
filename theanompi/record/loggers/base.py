"""What a logger is: it gets the records of a run's log on rank 0, while the run goes on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from theanompi.config.files import writing


class Logger:
    """Gets each record of a run's log of kind ``train``, ``val`` or ``summary`` as it is written, on rank 0 alone.

    A logger of your own is a subclass with `write`, and `begin` if it has to open something, in a file of its own. What
    it raises ends the run.

    Parameters
    ----------
    folder : Path
        Of the run.
    config : mapping
        What ``config.json`` has: all settings, and ``metrics``, the names of losses and metrics.
    iteration : int or None
        After which a resumed run goes on; None for a new one.
    records : sequence of dict
        Those of the log that a resumed run keeps. What a logger has been told beyond them is out of date.
    """

    needs: ClassVar[str | None] = None
    """The package without which a run is refused before it begins."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        iteration: int | None,
        records: Sequence[Mapping[str, Any]],
    ) -> None:
        self.folder, self.config, self.iteration = folder, config, iteration
        self.begin(records)

    def begin(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Open what is written to, before the first record; `records` are as above."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Take a record, as `theanompi.record.recorder` describes them."""
        raise NotImplementedError(f"{type(self).__name__} has no write")

    def close(self) -> None:
        """End: the run has ended, or was stopped, or its loss is no longer finite."""


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """What a record has of numbers, by names such as ``val/error``, without where in the run it is.

    >>> scalars({"kind": "val", "epoch": 0, "iteration": 45, "loss": None, "error": 0.25, "items": 360})
    {'val/error': 0.25, 'val/items': 360}
    """
    return {
        f"{record['kind']}/{name}": value
        for name, value in record.items()
        if name not in ("epoch", "iteration") and type(value) in (int, float)
    }


def kept_id(path: Path) -> str | None:
    """The name that a service has given to a run, if it is kept in this file of the run's folder."""
    return path.read_text("utf-8").strip() or None if path.exists() else None


def keep_id(path: Path, name: str) -> None:
    """Keep it, for a resumed run to go on under."""
    with writing(path):
        path.write_text(f"{name}\n", "utf-8")
