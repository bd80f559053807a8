"""What the training thread does, in phases, and what goes on meanwhile: how long each takes."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from theanompi.record.log import HIDDEN, KINDS
from theanompi.record.progress import Progress
from theanompi.record.timeline import Span, Timeline

# The phases that `Phases.end` takes, and what each is called in a timeline.
PHASES = {"calc": "compute", "comm": "exchange", "wait": "load"}
# Phases of waiting to remember: more than there are between the begin of a batch and `loaded`.
WAITS = 4096


class Phases:
    """Times the phases of an interval of training.

    Parameters
    ----------
    now : callable
        Gives seconds.
    progress : Progress
        Told of each phase.

    Attributes
    ----------
    seconds : dict
        Those of the interval, by the names in the log without ``_s``.
    """

    def __init__(self, now: Callable[[], float], progress: Progress) -> None:
        self._now, self._progress = now, progress
        self._timeline: Timeline | None = None
        self._phase: float | None = None
        self._iteration: float | None = None
        self._exchange: tuple[float, float] | None = None
        self._waits: deque[tuple[float, float]] = deque(maxlen=WAITS)
        self._begin_times(None)

    def _begin_times(self, clock: float | None) -> None:
        """Begin an interval at a time, or with the next phase."""
        self._clock = clock
        self.seconds = dict.fromkeys(KINDS, 0.0)

    def _wall(self, now: float) -> float:
        """How long the interval has been going on."""
        return 0.0 if self._clock is None else now - self._clock

    def start(self, doing: str = "computing") -> None:
        """Begin a phase, which `end` names; the first one after a `flush` starts the interval's clock.

        Parameters
        ----------
        doing : str
            What is said of this rank if it never ends.
        """
        self._progress.now(doing)
        self._phase = self._now()
        if self._clock is None:
            self._clock = self._phase
        if self._iteration is None:
            self._iteration = self._phase

    def end(self, kind: str, name: str = "") -> None:
        """Add the seconds since `start` to a kind of work.

        Parameters
        ----------
        kind : {"calc", "comm", "wait"}
            Computing, exchanging, waiting for data.
        name : str
            What a timeline calls it, if not by its kind.

        Raises
        ------
        ValueError
            If `kind` is another one, or if no phase was begun.
        """
        if kind not in PHASES:
            raise ValueError(f"recorder: expected a phase of {', '.join(PHASES)}, got {kind!r}")
        if self._phase is None:
            raise ValueError(f"recorder: expected start() before end({kind!r}), got none")
        phase = self._phase, self._now()
        self.seconds[kind] += phase[1] - phase[0]
        if kind == "comm":
            self._exchange = phase
        if kind == "wait":
            self._waits.append(phase)
        self.spans("main", [Span(name or PHASES[kind], *phase)])
        self._phase = None
        self._progress.now("in the training loop")

    def exchanged(self, spans: Sequence[Span]) -> None:
        """Take in what the exchange consisted of that the last phase "comm" waited for.

        In the phase, "sync" is waiting for slower ranks and all else communication; outside of it, what the
        spans say was hidden.

        Parameters
        ----------
        spans : sequence of Span
            Not overlapping each other.

        Raises
        ------
        ValueError
            If there was no phase "comm" since the last call.
        """
        if self._exchange is None:
            raise ValueError('recorder: expected a phase "comm" before exchanged(), got none')
        exposed, hidden = {"comm": 0.0, "sync": 0.0}, {"comm": 0.0, "sync": 0.0}
        for span in spans:
            if span.kind in exposed:
                within = span.within(*self._exchange)
                exposed[span.kind] += within
                hidden[span.kind] += span.end - span.start - within
        self.seconds["sync"] += exposed["sync"]
        # Not below 0 where rounding would have it there.
        self.seconds["comm"] = max(0.0, self.seconds["comm"] - exposed["sync"])
        for kind, seconds in hidden.items():
            self.seconds[HIDDEN[kind]] += seconds
        self._exchange = None
        self.spans("exchange", spans)

    def loaded(self, readings: Sequence[Sequence[Span]]) -> None:
        """Take in when batches were read.

        Parameters
        ----------
        readings : sequence of sequences of Span
            For each loader process the batches that it has finished since the last call; ended phases "wait"
            are those in which they were waited for.
        """
        for i, spans in enumerate(readings, 1):
            for span in spans:
                hidden = span.end - span.start
                for wait in reversed(self._waits):
                    if wait[1] <= span.start:
                        break
                    hidden -= span.within(*wait)
                self.seconds["load_hidden"] += max(0.0, hidden) / len(readings)
            self.spans("loader" if len(readings) == 1 else f"loader {i}", spans)

    def spans(self, row: str, spans: Sequence[Span]) -> None:
        """Put spans of this iteration into the timeline, if there is to be one.

        Parameters
        ----------
        row : str
            Of this rank; a new name makes a new row. Spans of a row may contain, but not partly overlap, each other.
        """
        if self._timeline is not None:
            self._timeline.add(row, spans)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Keep what is done in the block, between two iterations, out of all times: it is no training."""
        before = self._now()
        yield
        if self._clock is not None:
            self._clock += self._now() - before
