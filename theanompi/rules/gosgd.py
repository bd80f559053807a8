"""Gossip SGD: now and then a worker sends its weights to another one, at random, and goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from theanompi.config import RunConfig, read_settings, setting
from theanompi.config.kinds import FRACTION
from theanompi.rules.rule import Asynchronous, Step, of_this_rank, own_step

if TYPE_CHECKING:
    from theanompi.exchange import Exchanger
    from theanompi.training.links import Links
    from theanompi.training.replica import Replica


@dataclass(frozen=True)
class Settings:
    """What may be set of the rule."""

    p: float = setting(
        0.01, FRACTION, "probability that a worker sends its weights to another one after an iteration"
    )


class GOSGD(Asynchronous):
    """Gossip SGD (Blot, Picard, Cord, Thome 2016, arXiv 1611.09726).

    Each of k workers has a share of the whole, 1/k at first. It trains by itself, with a momentum of its own. After an
    iteration it sends, with probability p, its weights and half of its share to another worker, and goes on with the
    other half. Weights x' with a share s' that have arrived make of its own x and s, before the next iteration,
    x ← (s·x + s'·x') / (s + s') and s ← s + s'. The shares of all always add up to 1.

    A letter is hidden: a thread sends it while the next gradient is computed. What has arrived lies in this worker's
    own memory, and is taken in before the gradient, which is to be that of the new weights.

    What counts is the mean of all workers' weights by their shares.
    """

    name = "GOSGD"
    Settings = Settings

    def attach(self, replica: "Replica", links: "Links") -> "Sequence[Exchanger]":
        told = super().attach(replica, links)
        self._p = read_settings(Settings, links.config.settings, "rule").p
        self._share, self._tosses = 1 / links.size, 0
        self._mailbox, self._sum = links.mailbox(self._weights), links.sum(self._weights, averages=True)
        self._helper = links.helper(self._weights)
        # What is to be sent with the next gradient, with what share, and to whom.
        self._letter, self._half, self._to = self._weights.flat.clone(), 0.0, cast(int | None, None)
        self._letters: list[tuple[int, int]] = []
        return told

    def plan(self, config: RunConfig, size: int) -> str:
        p = read_settings(Settings, config.settings, "rule").p
        return (
            f"{self.name}: {size} workers update by themselves, and after an iteration each sends its weights to "
            f"another one with p = {p:g}"
        )

    def words(self) -> str:
        return f"{self.plan(self._links.config, self._links.size)}; they lie in {self._mailbox.description}"

    def step(self, replica: "Replica", count: int, record: Any) -> Step:
        record.start("looking for weights of other workers")
        own = replica.epoch * replica.data.n_batch_train + count
        self._letters += [(sender, own) for sender in self._collect(replica)]
        record.end("comm")
        record.exchanged(self._mailbox.spans)
        posts = self._to is not None
        if posts:
            self._helper.begin(self._post)
        then = partial(self._posted, record) if posts else None
        step, loss = own_step(replica, count, record, before_update=then)
        coin, choice = self._links.rng.random(2)
        self._tosses += 1
        if coin < self._p:
            self._write(replica, int(choice * (self._links.size - 1)))
        return of_this_rank(step, loss, self._links)

    def _collect(self, replica: "Replica") -> list[int]:
        """Take in what has arrived; gives whose it was."""
        letters = self._mailbox.collect()
        if letters:
            x = replica.weights_to_average().flat
            for letter in letters:
                self._share += letter.share
                x.lerp_(letter.values, letter.share / self._share)
            replica.weights_averaged()
        return [sender for letter in letters for sender in letter.senders]

    def _write(self, replica: "Replica", other: int) -> None:
        """Put half of the share aside for one of the others, which are counted without this one."""
        self._share /= 2
        self._half, self._to = self._share, other + (other >= self._links.rank)
        self._letter.copy_(replica.weights_to_average().flat)

    def _post(self) -> None:
        to, self._to = self._to, None
        if to is not None:
            self._mailbox.post(to, self._letter, self._half)

    def _posted(self, record: Any) -> None:
        record.start("sending weights to another worker")
        self._helper.join()
        record.end("comm")
        record.exchanged(self._mailbox.spans)

    def letters(self) -> list[tuple[int, int]]:
        found, self._letters = self._letters, []
        return found

    def meet(self, replica: "Replica") -> None:
        if self._own is None:
            self._post()
            self._mailbox.settle()
            self._collect(replica)
        super().meet(replica)

    def consensus(self, replica: "Replica") -> None:
        replica.weights_to_average().flat.mul_(self._share)
        self._sum.sum()

    def state_arrays(self) -> Mapping[str, Any]:
        return {**super().state_arrays(), "share": self._share, "tosses": self._tosses}

    def load_state_arrays(self, arrays: Mapping[str, Any]) -> None:
        super().load_state_arrays(arrays)
        self._share, self._tosses = float(arrays["share"]), int(arrays["tosses"])
        self._links.rng.random((self._tosses, 2))
