"""Elastic averaging SGD: workers on their own, and a centre that pulls each of them, as each of them pulls it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from theanompi.config import RunConfig, counted, read_settings, setting
from theanompi.config.kinds import number, whole
from theanompi.rules.rule import AtCentre, Step, of_this_rank, own_step

if TYPE_CHECKING:
    from theanompi.exchange import Exchanger
    from theanompi.training.links import Links
    from theanompi.training.replica import Replica

BETA = 0.9
"""β = k·α of the paper's experiments."""


@dataclass(frozen=True)
class Settings:
    """What may be set of the rule."""

    period: int = setting(10, whole(1), "τ, iterations of a worker between two pulls")
    alpha: float | None = setting(
        None,
        number("a number above 0 and below 1", lambda x: 0 < x < 1),
        "α, the share of the distance to the centre by which each pull shortens it on both sides (default: 0.9/k)",
    )


def _chosen(config: RunConfig, size: int) -> tuple[int, float]:
    """The period τ and α of a run with so many workers."""
    own = read_settings(Settings, config.settings, "rule")
    return own.period, BETA / size if own.alpha is None else own.alpha


class EASGD(AtCentre):
    """Asynchronous elastic averaging SGD (Zhang, Choromanska, LeCun 2015, arXiv 1412.6651).

    Each of k workers trains by itself, with a momentum of its own (EAMSGD). In each τ-th iteration it takes its
    distance to the centre, d = α·(x - c), and c goes on as c + d; its gradient is that at x, as in the paper; then x
    goes on as x - d, and is updated by that gradient. So the exchange is hidden: a thread does it while the gradient is
    computed. (Theano-MPI's pull came after an update, and the next gradient after the pull.) Running statistics of
    batch normalisation are pulled as the weights are.

    Where one worker after the other comes to the centre, they are stable for 0 ≤ α ≤ (4 - 2η)/(4 - η) on a quadratic
    of curvature 1 without momentum: below 1 for every rate η.

    What counts, for validation and in a checkpoint, is the centre. It is spread over the ranks: k devices are k
    workers, and none is a server.
    """

    name = "EASGD"
    Settings = Settings

    def attach(self, replica: "Replica", links: "Links") -> "Sequence[Exchanger]":
        told = super().attach(replica, links)
        self._period, self._alpha = _chosen(links.config, links.size)
        self._centre, self._helper = links.centre(self._weights), links.helper(self._weights)
        self._distance = self._weights.flat.clone()
        return told

    def plan(self, config: RunConfig, size: int) -> str:
        period, alpha = _chosen(config, size)
        return (
            f"{self.name}: {size} workers update by themselves, and every {counted(period, 'iteration')} each and the "
            f"centre pull each other by α = {alpha:g}"
        )

    def step(self, replica: "Replica", count: int, record: Any) -> Step:
        pulls = (replica.epoch * replica.data.n_batch_train + count) % self._period == 0
        if pulls:
            replica.weights_to_average()
            self._helper.begin(self._pull)
        then = partial(self._pulled, replica, record) if pulls else None
        step, loss = own_step(replica, count, record, before_update=then)
        return of_this_rank(step, loss, self._links)

    def _pull(self) -> None:
        """Pull the centre, and note by how much; what the weights are meanwhile is read only."""
        x = self._weights.flat
        for i in range(self._centre.n_parts):
            with self._centre.part(i) as (where, c):
                distance = self._distance[where]
                distance.copy_(x[where]).sub_(c).mul_(self._alpha)
                c.add_(distance)

    def _pulled(self, replica: "Replica", record: Any) -> None:
        """Let the weights be pulled by as much."""
        record.start("exchanging with the centre")
        self._helper.join()
        replica.weights_to_average().flat.sub_(self._distance)
        replica.weights_averaged()
        record.end("comm")
        record.exchanged(self._centre.spans)
        self.passed()

    def consensus(self, replica: "Replica") -> None:
        self._centre.read(replica.weights_to_average().flat)

    def load_state_arrays(self, arrays: Mapping[str, Any]) -> None:
        super().load_state_arrays(arrays)
        self._centre.write(self._weights.flat)
