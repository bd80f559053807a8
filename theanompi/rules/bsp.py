"""Bulk synchronous parallel: after every step all workers exchange and go on with the same weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from theanompi.rules.rule import Rule, Step, average_weights, check_finite, over_all_ranks, own_step

if TYPE_CHECKING:
    from theanompi.exchange import Exchanger
    from theanompi.training.links import Links
    from theanompi.training.replica import Replica


class BSP(Rule):
    """Synchronous data-parallel SGD: one exchange among all workers per iteration.

    What travels is the setting ``sync_type``: ``"cdd"`` sums gradients before one update that is the same
    everywhere (Goyal et al. 2017, §2); ``"avg"`` lets every worker update and then averages the weights
    (Theano-MPI, arXiv 1605.08325).

    Examples
    --------
    >>> BSP().init(devices=["cpu"], modelfile="models.resnet50", modelclass="ResNet50", sync_type="sum")
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: sync_type: expected one of cdd, avg, got 'sum'
    """

    name = "BSP"

    def attach(self, replica: "Replica", links: "Links") -> "Sequence[Exchanger]":
        self._links, self._sync_type = links, links.config.sync_type
        if self.sums_gradients:
            self._sums = [links.sum(buffer) for buffer in replica.gradient_buffers()]
            return self._sums
        self._sums = [links.sum(replica.weights_to_average(), averages=True)]
        return ()

    def words(self) -> str:
        return str(self._sync_type)

    @property
    def sums_gradients(self) -> bool:
        return self._sync_type == "cdd"

    def step(self, replica: "Replica", count: int, record: Any) -> Step:
        return (self._sum_gradients if self.sums_gradients else self._average_weights)(replica, count, record)

    def _sum_gradients(self, replica: "Replica", count: int, record: Any) -> Step:
        """The sync type ``cdd``: sum the gradients of all ranks, then update ('their way')."""
        items, etas, asked = 0, [], False
        sums: dict[str, tuple[float, float]] = {}
        for objective in replica.due(count):
            replica.train_iter(count, record, objective)
            record.loaded(replica.readings())
            exchanger = self._sums[objective]
            record.start("computing gradients")
            exchanger.synchronise()
            record.end("calc")
            record.start("exchanging")
            exchanger.sum()
            record.end("comm")
            record.exchanged(exchanger.spans)
            record.start("updating")
            measures = replica.measures(objective)  # waits for the device
            check_finite(measures.losses)
            etas.append(float(replica.update(objective)))
            record.end("calc", "update")
            items, asked = measures.items, asked or measures.asked
            sums |= measures.sums
        return Step(items, sums, etas[0], asked)

    def _average_weights(self, replica: "Replica", count: int, record: Any) -> Step:
        """The sync type ``avg``: each rank updates by its own gradients, then weights are averaged ('my way')."""
        step, loss = own_step(replica, count, record)
        average_weights(replica, self._sums[0], self._links.size, record)
        return over_all_ranks(step, loss, self._links)
