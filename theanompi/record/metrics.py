"""Losses and metrics by their names: which a model reports, how they are called, and what their values may be."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from theanompi.config import ConfigError, got


class Reported(NamedTuple):
    """What a model reports of training and validation. Of all of it, smaller is better.

    Attributes
    ----------
    metrics : tuple of str
        Names of the losses, then of the metrics, in the order in which they are shown.
    headline : str
        The one by which runs are compared: the first metric or, without any, the first loss.
    noun : str
        What the items are called that it is a mean of, in the plural.

    Examples
    --------
    >>> gan = Reported(("critic", "generator", "distance"), "distance", "images")
    >>> gan.losses
    ('critic', 'generator')
    >>> CLASSIFIER.main
    ('loss', 'error')
    """

    metrics: tuple[str, ...]
    headline: str
    noun: str

    @property
    def losses(self) -> tuple[str, ...]:
        """The names before the headline, or all of them."""
        return self.metrics[: self.metrics.index(self.headline)] or self.metrics

    @property
    def main(self) -> tuple[str, ...]:
        """The names without the headline's variants, such as ``error_top5`` of ``error``, for want of room."""
        variants = f"{self.headline}_"
        return tuple(name for name in self.metrics if name in self.losses or not name.startswith(variants))

    def to_dict(self) -> dict[str, Any]:
        """Return what ``config.json`` has of it.

        >>> CLASSIFIER.to_dict()
        {'metrics': ['loss', 'error', 'error_top5'], 'metric': 'error', 'noun': 'images'}
        """
        return {"metrics": list(self.metrics), "metric": self.headline, "noun": self.noun}


CLASSIFIER = Reported(("loss", "error", "error_top5"), "error", "images")
"""What every run reported before models named it."""


def reported(config: Mapping[str, Any], where: str) -> Reported:
    """Read what a run reports from its ``config.json``, which in runs written before says nothing of it.

    Parameters
    ----------
    config : mapping
        JSON values.
    where : str
        What they were read from, for the message.

    Raises
    ------
    theanompi.config.ConfigError
        If an entry is not what a run writes.

    Examples
    --------
    >>> reported({"metrics": ["loss", "mae"], "metric": "mae", "noun": "items"}, "config.json").headline
    'mae'
    >>> reported({}, "config.json") == CLASSIFIER
    True
    """
    metrics, headline, noun = (config.get(name, value) for name, value in CLASSIFIER.to_dict().items())
    if not isinstance(metrics, list) or not metrics or not all(isinstance(name, str) for name in metrics):
        raise ConfigError(f"{where}: metrics: expected a list of names, got {got(metrics)}")
    if headline not in metrics:
        raise ConfigError(f"{where}: metric: expected one of its metrics, got {got(headline)}")
    if not isinstance(noun, str):
        raise ConfigError(f"{where}: noun: expected a text, got {got(noun)}")
    return Reported(tuple(metrics), headline, noun)


def is_fraction(name: str) -> bool:
    """Whether a metric is a fraction from 0 to 1, which is shown in per cent: its name says so.

    >>> is_fraction("error_top5"), is_fraction("mae")
    (True, False)
    """
    return name.startswith("error")


def mean_of(name: str, total: float, weight: float) -> float | None:
    """Return the weighted mean of a metric, or None where it is not a finite number.

    Raises
    ------
    theanompi.config.ConfigError
        If by its name it is a fraction, and it is none.

    Examples
    --------
    >>> mean_of("mae", 6.0, 4.0), mean_of("mae", 0.0, 0.0), mean_of("error", 4.0000001, 4.0)
    (1.5, None, 1.0)
    """
    mean = ratio(total, weight)
    if mean is None or not is_fraction(name) or 0 <= mean <= 1:
        return mean
    # Sums in single precision are off by less.
    if not -1e-3 <= mean <= 1 + 1e-3:
        raise ConfigError(
            f"metric {name!r}: expected a fraction from 0 to 1, as all whose names begin with 'error', got {mean:g}; "
            "give it another name"
        )
    return min(max(mean, 0.0), 1.0)


def add_sums(into: dict[str, tuple[float, float]], sums: Mapping[str, tuple[float, float]]) -> None:
    """Add to the weighted sum and the sum of the weights of each metric those of more items.

    >>> sums = {"mae": (1.0, 4.0)}
    >>> add_sums(sums, {"mae": (2.0, 4.0), "loss": (1.0, 1.0)})
    >>> sums
    {'mae': (3.0, 8.0), 'loss': (1.0, 1.0)}
    """
    for name, (total, weight) in sums.items():
        before = into.get(name, (0.0, 0.0))
        into[name] = before[0] + float(total), before[1] + float(weight)


def ratio(numerator: float, denominator: float) -> float | None:
    """Return the quotient, or None where it is not a finite number."""
    quotient = float(numerator) / float(denominator) if denominator else math.nan
    return quotient if math.isfinite(quotient) else None


def as_text(name: str, value: float | None) -> str:
    """Write the value of a metric: a fraction in per cent, another one with three digits.

    >>> as_text("error", 0.25), as_text("mae", 0.25), as_text("mae", None)
    ('25.00 %', '0.25', 'n/a')
    """
    if value is None or not is_fraction(name):
        return as_number(value)
    return f"{100 * value:.2f} %"


def as_number(value: float | None, digits: int = 3) -> str:
    """Write a number with three digits, or another number of them; a larger one with those that it has.

    >>> as_number(0.12345), as_number(999.6), as_number(12345.6), as_number(99.7, 2)
    ('0.123', '1000', '12346', '100')
    """
    if value is None:
        return "n/a"
    return f"{value:.{digits}g}" if abs(value) < 10**digits - 0.5 else f"{value:.0f}"


def values_of(record: Mapping[str, Any], metrics: tuple[str, ...]) -> str:
    """Name metrics of a record with their values.

    >>> values_of({"loss": 2.1, "error": 0.25, "error_top5": None}, CLASSIFIER.metrics)
    'loss 2.1, error 25.00 %, top-5 n/a'
    >>> values_of({"nats": 4.605}, ("nats",)), values_of({"nats": 21.0}, ("nats",))
    ('nats 4.61 (perplexity 100)', 'nats 21')
    """
    return ", ".join(
        f"{_CALLED.get(name, name)} {as_text(name, record[name])}{_perplexity(name, record[name])}"
        for name in metrics
    )


def _perplexity(name: str, value: float | None) -> str:
    """What is said beside a cross-entropy that is called by its unit."""
    # Beyond, it says no more than the cross-entropy.
    return (
        "" if name != "nats" or value is None or value > 20 else f" (perplexity {as_number(math.exp(value))})"
    )


# Names that are shorter to say than to write.
_CALLED = {"error_top5": "top-5"}
