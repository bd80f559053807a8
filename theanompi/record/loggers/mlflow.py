"""MLflow, through its package ``mlflow``, set up by its environment variables (``MLFLOW_TRACKING_URI``, …)."""

from collections.abc import Mapping, Sequence
from typing import Any

from theanompi.config import FIELDS, flat
from theanompi.record.folder import MLFLOW_FILE
from theanompi.record.loggers.base import Logger, keep_id, kept_id, scalars


class MLflow(Logger):
    """Logs each finite number of the log, such as ``val/error``, at its iteration, and a new run's settings.

    A resumed run goes on with the run there. What that has of iterations that are done again stays: they are there
    twice.
    """

    needs = "mlflow"

    def begin(self, records: Sequence[Mapping[str, Any]]) -> None:
        import mlflow

        self._mlflow, place = mlflow, self.folder / MLFLOW_FILE
        known = kept_id(place)
        run = mlflow.start_run(run_id=known, run_name=self.folder.resolve().name)
        keep_id(place, run.info.run_id)
        if known is None:  # later they could not be changed
            settings = flat({name: value for name, value in self.config.items() if name in FIELDS})
            mlflow.log_params(settings)
        self._status = "KILLED"

    def write(self, record: Mapping[str, Any]) -> None:
        self._mlflow.log_metrics(scalars(record), step=record["iteration"])
        if record["kind"] == "summary":
            self._status = "FINISHED"

    def close(self) -> None:
        self._mlflow.end_run(self._status)
