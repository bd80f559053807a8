"""Asynchronous SGD: each worker updates the centre's weights by its gradient, and goes on with what it finds there."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from theanompi.config import ConfigError, RunConfig, read_settings, setting
from theanompi.config.kinds import SWITCH
from theanompi.rules.rule import AtCentre, Step, check_own, own_step

if TYPE_CHECKING:
    from theanompi.exchange import Exchanger
    from theanompi.training.links import Links
    from theanompi.training.replica import Measures, Replica


@dataclass(frozen=True)
class Settings:
    """What may be set of the rule."""

    staleness_aware: bool = setting(
        False, SWITCH, "divide the gradient by its staleness, and with it the rate (Zhang et al. 2016)"
    )


class ASGD(AtCentre):
    """Asynchronous SGD (Dean et al. 2012, "Downpour", with one step between two fetches).

    The weights and all that the optimizer keeps, its velocity too, live at the centre, spread over the ranks. A worker
    computes a gradient at its own weights, which are those of its last update. Then it has the centre to itself:
    it takes what is there, updates it by its gradient, as the run's optimizer would, and leaves it there. With that it
    goes on.

    With `staleness_aware` the gradient is divided by the staleness of its pass where that is above 1 (Zhang, Gupta,
    Lian, Liu 2016, arXiv 1511.05950, who divide the rate); weight decay, which is of the centre's own weights, is not.

    Nothing of the exchange is hidden: the next gradient is that of the weights which it brings. A gradient at those
    before would be staler by one update of its own worker, always.

    The schedule goes by the iterations of all workers. At a meeting all take the centre's weights, which are what
    counts.
    """

    name = "ASGD"
    Settings = Settings

    @property
    def own_slots(self) -> bool:
        return False

    def attach(self, replica: "Replica", links: "Links") -> "Sequence[Exchanger]":
        if not replica.gradient_buffers():
            raise ConfigError(
                f"rule {self.name}: expected a theanompi.Model, as only that gives its gradients, got another class"
            )
        told = super().attach(replica, links)
        self._replica = replica
        self._aware = read_settings(Settings, links.config.settings, "rule").staleness_aware
        self._centres = [(buffer, links.centre(buffer)) for buffer in replica.state_to_share()]
        self._centre = self._centres[0][1]
        return told

    def plan(self, config: RunConfig, size: int) -> str:
        aware = read_settings(Settings, config.settings, "rule").staleness_aware
        each = ", each divided by its staleness" if aware else ""
        return f"{self.name}: {size} workers update the centre by their gradients, one after another{each}"

    def step(self, replica: "Replica", count: int, record: Any) -> Step:
        step, _ = own_step(replica, count, record, update=partial(self._update, replica, record))
        return step._replace(asked=self._links.called())

    def _update(self, replica: "Replica", record: Any, objective: int, measures: "Measures") -> float:
        check_own(sum(measures.losses), self._links)  # before it spoils the centre
        record.start("taking the centre's weights")
        with ExitStack() as held:
            taken = []
            for buffer, centre in self._centres:
                for i in range(centre.n_parts):
                    where, values = held.enter_context(centre.part(i))
                    buffer.flat[where].copy_(values)
                    taken.append((buffer.flat[where], values))
            replica.state_shared()
            staleness = self.passed()
            record.end("comm")
            taking = [len(centre.spans) for _, centre in self._centres]
            record.exchanged([span for _, centre in self._centres for span in centre.spans])

            record.start("updating")
            if self._aware and staleness > 1:
                replica.scale_gradients(objective, 1 / staleness)
            eta = float(replica.update(objective))
            record.end("calc", "update")

            record.start("leaving the new weights at the centre")
            replica.state_to_share()
            for own, values in taken:
                values.copy_(own)
        record.end("comm")
        of_each = zip(self._centres, taking, strict=True)
        record.exchanged([span for (_, centre), before in of_each for span in centre.spans[before:]])
        return eta

    def consensus(self, replica: "Replica") -> None:
        for buffer, centre in self._centres:
            centre.read(buffer.flat)
        replica.state_shared()
        self._last = self._centre.number

    def go_on(self, replica: "Replica") -> None:
        self._own = None

    def state_arrays(self) -> Mapping[str, Any]:
        return {"numbers": self._replica.state_to_share()[-1].flat}

    def load_state_arrays(self, arrays: Mapping[str, Any]) -> None:
        self._replica.state_to_share()[-1].flat.copy_(arrays["numbers"])
        self._replica.state_shared()
        for buffer, centre in self._centres:
            centre.write(buffer.flat)
