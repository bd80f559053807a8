"""Event files in the run's folder, for ``tensorboard --logdir runs``, where each run has its folder's name."""

from collections.abc import Mapping, Sequence
from typing import Any

from theanompi.record.loggers.base import Logger, scalars


class TensorBoard(Logger):
    """Writes each finite number of the log as a scalar, such as ``val/error``, at its iteration.

    A resumed run writes another event file, in the folder beside those before it, which lets TensorBoard forget what
    these have beyond the iteration that it goes on from.
    """

    needs = "tensorboard"

    def begin(self, records: Sequence[Mapping[str, Any]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            self.folder, purge_step=None if self.iteration is None else self.iteration + 1
        )

    def write(self, record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["iteration"])
        # As the log is: on the disk before the checkpoint that a resumed run goes on from.
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
