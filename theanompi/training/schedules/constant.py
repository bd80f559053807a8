"""No decay."""

from typing import Any

from theanompi.training.schedules.base import Functions, Schedule


class Constant(Schedule):
    """The rate stays what it is after the warmup."""

    def decayed(self, eta: Any, t: Any, f: Functions) -> Any:
        return eta

    def words(self) -> str:
        return "none"
