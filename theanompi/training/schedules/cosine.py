"""Cosine decay (Loshchilov and Hutter 2017)."""

import math
from dataclasses import dataclass
from typing import Any

from theanompi.config.kinds import FRACTION
from theanompi.config.plugins import setting
from theanompi.training.schedules.base import Functions, Schedule


class Cosine(Schedule):
    """The rate falls by half a period of the cosine: η̂·(c + (1 - c)·(1 + cos(π·x))/2).

    x is the share of the iterations after the warmup that are over; during it nothing decays. Loshchilov and Hutter
    2017, *SGDR* (arXiv 1608.03983, equation 5), without restarts. The last iteration still has a rate above 0.

    Examples
    --------
    >>> schedule = Cosine(minibatch=256, iterations_per_epoch=10, epochs=2)
    >>> [round(schedule(t), 6) for t in (0, 10, 19)]
    [0.1, 0.05, 0.000616]
    """

    @dataclass(frozen=True)
    class Settings:
        """What may be set."""

        end_factor: float = setting(0.0, FRACTION, "c, what is left of the rate at the end")

    def decayed(self, eta: Any, t: Any, f: Functions) -> Any:
        end = self.settings.end_factor
        # (1 + cos 2a)/2 = cos² a, which keeps its digits, and its sign, near the end.
        root = f.cos(math.pi / 2 * self.progress(t, f))
        return eta * (end + (1 - end) * (root * root))

    def words(self) -> str:
        return f"cosine, to {self.settings.end_factor:g} of the rate at the end"
