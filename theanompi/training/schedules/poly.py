"""Polynomial decay, of which LARS and LAMB make use."""

from dataclasses import dataclass
from typing import Any

from theanompi.config.kinds import FRACTION, POSITIVE
from theanompi.config.plugins import setting
from theanompi.training.schedules.base import Functions, Schedule


class Poly(Schedule):
    """The rate falls with a power of the iterations that are left: η̂·(c + (1 - c)·(1 - x)^p).

    x is the share of the iterations after the warmup that are over; during it nothing decays. You et al. 2017
    (arXiv 1708.03888, §5) have p = 2 with LARS, You et al. 2020 (arXiv 1904.00962, §4) p = 1 with LAMB. The last
    iteration still has a rate above 0.

    Examples
    --------
    >>> schedule = Poly(minibatch=256, iterations_per_epoch=10, epochs=2)
    >>> [round(schedule(t), 6) for t in (0, 10, 19)]
    [0.1, 0.025, 0.00025]
    """

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        power: float = setting(2.0, POSITIVE, "p, of the share of the iterations that are left")
        end_factor: float = setting(0.0, FRACTION, "c, what is left of the rate at the end")

    def decayed(self, eta: Any, t: Any, f: Functions) -> Any:
        end = self.settings.end_factor
        return eta * (end + (1 - end) * (1 - self.progress(t, f)) ** self.settings.power)

    def words(self) -> str:
        return f"polynomial, power {self.settings.power:g}, to {self.settings.end_factor:g} of the rate at the end"
