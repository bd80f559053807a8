"""Weights & Biases, through its package ``wandb``, set up by its own environment variables (``WANDB_PROJECT``, …)."""

from collections.abc import Mapping, Sequence
from typing import Any

from theanompi.record.folder import WANDB_FILE
from theanompi.record.loggers.base import Logger, keep_id, kept_id, scalars


class WeightsAndBiases(Logger):
    """Logs each finite number of the log, such as ``val/error``, against ``iteration``; the summary as the run's.

    A resumed run goes on with the run there. What that has of iterations that are done again stays: they are there
    twice.
    """

    needs = "wandb"

    def begin(self, records: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        place = self.folder / WANDB_FILE
        self._run = wandb.init(
            id=kept_id(place),
            name=self.folder.resolve().name,
            dir=str(self.folder.resolve()),
            config=dict(self.config),
            allow_val_change=True,
            resume="allow",
        )
        keep_id(place, self._run.id)
        # The service's own count of calls cannot go back, as a resumed run does.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def write(self, record: Mapping[str, Any]) -> None:
        values = scalars(record)
        if record["kind"] == "summary":
            self._run.summary.update(values)
        else:
            self._run.log({"iteration": record["iteration"], "epoch": record["epoch"], **values})

    def close(self) -> None:
        self._run.finish()
