"""Bulk synchronous parallel: after every step all workers exchange and go on with the same weights."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from theanompi.config import ConfigError, RunConfig, read_settings, setting
from theanompi.config.kinds import whole
from theanompi.rules.rule import (
    Rule,
    Step,
    added_up,
    average_weights,
    check_finite,
    comes_due,
    over_all_ranks,
    own_step,
)

if TYPE_CHECKING:
    from theanompi.exchange import Exchanger
    from theanompi.training.links import Links
    from theanompi.training.replica import Replica


@dataclass(frozen=True)
class BSPSettings:
    """What may be set of the rule."""

    period: int = setting(1, whole(1), "iterations between two averages or swaps, with sync_type avg or swap")
    local_from: int = setting(
        0, whole(0), "the epoch from which the period of avg holds, counted from 0; before it, it is 1"
    )


class BSP(Rule):
    """Synchronous data-parallel SGD: all workers are in the same iteration.

    What travels is the setting ``sync_type``: ``"cdd"`` sums gradients before one update that is the same
    everywhere (Goyal et al. 2017, §2). ``"avg"`` lets every worker update and then averages the weights
    (Theano-MPI, arXiv 1605.08325); with a `period` above 1 that is local SGD, and from an epoch on post-local SGD (Lin
    et al. 2018, arXiv 1808.07217). All average at the end of each epoch, too, and before each checkpoint. ``"swap"``
    is Theano-MPI's for generative adversarial networks: the networks of the first objective, the discriminators,
    change places between pairs of workers that are drawn anew each time; their velocities stay where they are. Each
    worker validates with the networks that it has, and what is saved as the run's weights is rank 0's.

    Examples
    --------
    >>> BSP().init(devices=["cpu"], modelfile="models.resnet50", modelclass="ResNet50", sync_type="sum")
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: sync_type: expected one of cdd, avg, swap, got 'sum'
    """

    name = "BSP"
    Settings: ClassVar[type] = BSPSettings

    def _chosen(self, config: RunConfig) -> BSPSettings:
        """The rule's settings; a class made of this one may have others, which are its own business."""
        mine = self.Settings is BSPSettings
        return read_settings(BSPSettings, config.settings, "rule") if mine else BSPSettings()

    def check(self, config: RunConfig) -> None:
        own = self._chosen(config)
        if own.period > 1 and config.sync_type == "cdd":
            raise ConfigError(
                "rule.period: expected sync_type avg or swap, as gradients are summed in every iteration, got cdd"
            )
        if own.local_from and config.sync_type != "avg":
            raise ConfigError(f"rule.local_from: expected sync_type avg, got {config.sync_type}")

    def attach(self, replica: "Replica", links: "Links") -> "Sequence[Exchanger]":
        self._links, self._sync_type = links, links.config.sync_type
        own = self._chosen(links.config)
        self._period, self._local_from = own.period, own.local_from
        self._since: list[tuple[Step, float]] = []
        self._sums: list[Exchanger] = []
        if self.sums_gradients:
            self._sums = [links.sum(buffer) for buffer in replica.gradient_buffers()]
            return self._sums
        self._weights = replica.weights_to_average()
        if self._sync_type == "avg":
            self._sums = [links.sum(self._weights, averages=True)]
        elif replica.gradient_buffers() and len(replica.networks()) == 1:
            raise ConfigError(
                "sync_type swap: expected a model of several objectives, such as a GAN, got one objective"
            )
        return ()

    def plan(self, config: RunConfig, size: int) -> str:
        own = self._chosen(config)
        if own.period == 1:
            return ""
        from_ = f" from epoch {own.local_from} on" if own.local_from else ""
        return f"{self.name}: {config.sync_type} every {own.period} iterations{from_}"

    def words(self) -> str:
        return self.plan(self._links.config, self._links.size) or str(self._sync_type)

    @property
    def sums_gradients(self) -> bool:
        return self._sync_type == "cdd"

    @property
    def own_state(self) -> bool:
        return not self.sums_gradients and self._sync_type == "swap"

    def step(self, replica: "Replica", count: int, record: Any) -> Step:
        return (self._sum_gradients if self.sums_gradients else self._update_alone)(replica, count, record)

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

    def _update_alone(self, replica: "Replica", count: int, record: Any) -> Step:
        """The other sync types: each rank updates by its own gradients, then they average or swap, if it is time."""
        step, loss = own_step(replica, count, record)
        self._since.append((step, loss))
        per_epoch = replica.data.n_batch_train
        first = replica.epoch * per_epoch
        # An iteration may be that of several batches.
        before, done = first + count, first + min(replica.advance(count), per_epoch)
        if not self._is_time(replica, before, done):
            # Told with the next exchange: until then nobody waits for anybody.
            return Step(0, {}, step.eta, False)
        if self._sync_type == "avg":
            average_weights(replica, self._sums[0], self._links.size, record)
        elif comes_due(self._period, before, done):
            self._swap(replica, before + 1, record)
        told, self._since = self._since, []
        return over_all_ranks(
            added_up([step for step, _ in told]), sum(loss for _, loss in told), self._links
        )

    def _is_time(self, replica: "Replica", before: int, done: int) -> bool:
        """Whether all meet after an iteration that has come from `before` to `done`."""
        config = self._links.config
        local = self._sync_type == "swap" or replica.epoch >= self._local_from
        periods = [self._period if local else 1, replica.data.n_batch_train, config.checkpoint_interval]
        return any(period and comes_due(period, before, done) for period in periods) or (
            done >= (config.max_iterations or done + 1)
        )

    def _swap(self, replica: "Replica", iteration: int, record: Any) -> None:
        """Let the networks of the first objective change places, in pairs; of an odd number of ranks one keeps its."""
        order = list(range(self._links.size))
        random.Random(f"{self._links.config.seed} {iteration}").shuffle(order)
        place = order.index(self._links.rank) ^ 1
        record.start("swapping networks")
        if place < len(order):
            replica.weights_to_average()
            for piece in replica.networks()[0]:
                self._links.trade(piece, order[place])
            replica.weights_averaged()
        record.end("comm")

    def state_arrays(self) -> Mapping[str, Any]:
        return {"weights": self._weights.flat} if self.own_state else {}

    def load_state_arrays(self, arrays: Mapping[str, Any]) -> None:
        if self.own_state:
            self._weights.flat.copy_(arrays["weights"])
