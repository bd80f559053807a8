"""How busy the machine is with the work of others, which makes everything that is timed on it slower."""

import os
from pathlib import Path

MOST_LOAD = 2.0
"""Processes that want to run, for each processor, from which on a machine is busy."""
MOST_STOLEN = 0.2
"""Share of the processors' time that other virtual machines may take before this one is busy."""


class Load:
    """How busy this machine was when this was made, and how much of its time other machines have taken since.

    What this process starts itself does not count.

    Parameters
    ----------
    root
        The folder with ``proc``.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        try:
            self._waiting = float((root / "proc/loadavg").read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):  # nobody knows
            self._waiting = 0.0
        self._before = self._times()

    def _times(self) -> tuple[int, int]:
        """Of all processors the ticks that were stolen, and all ticks."""
        try:
            ticks = [
                int(word)
                for word in (self._root / "proc/stat").read_text("ascii").split("\n")[0].split()[1:9]
            ]
            return ticks[7], sum(ticks)
        except (OSError, ValueError, IndexError):
            return 0, 0

    def busy(self) -> str:
        """Return in words what makes the machine busy, or nothing."""
        found, processors = [], os.cpu_count() or 1
        if self._waiting > MOST_LOAD * processors:
            found.append(f"load {self._waiting:.3g} on {processors} processor{'s' * (processors > 1)}")
        stolen, ticks = (now - before for now, before in zip(self._times(), self._before, strict=True))
        if ticks and stolen > MOST_STOLEN * ticks:
            found.append(f"{100 * stolen / ticks:.0f} % of the processors' time taken by other machines")
        return ", ".join(found)
