"""What a Bank computes of each channel: features that are written as expressions.

    Ewma(0.1) - Ewma(0.02)        a fast level over a slow one
    Ewma(0.05) - First(10)        how far the level moved since the beginning
    Value() - SeasonMean(24)      the deviation from the mean at this hour
    Max(of=Ewma(0.2))             features of features

Each takes `of`, another feature, in place of the sample. t counts the samples of the channel before this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rtaccel.core.errors import FormatError

MAX_LENGTH = 65536
"""RTA_BANK_MAX_LENGTH."""


@dataclass(frozen=True)
class Feature:
    """A feature of each channel."""

    kind: ClassVar[int]

    def __sub__(self, other: Feature) -> Minus:
        return Minus(self, other)

    @property
    def name(self) -> str:
        """In the names of a bank's features, behind that of the channel."""
        raise NotImplementedError

    def _named(self, text: str, of: Feature | None) -> str:
        return text if of is None else f"{text}_of_{of.name}"


def _check(name: str, value: float, right: bool, expected: str) -> None:
    if not right:
        raise FormatError("Bank", f"{name}={value!r}", expected, f"Change {name}.")


def _rate(value: float, open_end: bool = False) -> None:
    right = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 < value <= 1
        and not (open_end and value == 1)
    )
    _check("rate", value, right, "a number in (0, 1)" if open_end else "a number in (0, 1]")


def _length(name: str, value: int) -> None:
    right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_LENGTH
    _check(name, value, right, f"a whole number from 1 to {MAX_LENGTH}")


@dataclass(frozen=True)
class Value(Feature):
    """The sample."""

    kind = 0

    @property
    def name(self) -> str:
        return "value"


@dataclass(frozen=True)
class Ewma(Feature):
    """Exponentially weighted mean: m += max(rate, 1 / (t + 1)) * (x - m), so it is the plain mean until there are 1 / rate
    samples, and starts without bias."""

    rate: float
    of: Feature | None = None
    kind = 1

    def __post_init__(self) -> None:
        _rate(self.rate)

    @property
    def name(self) -> str:
        return self._named(f"ewma{self.rate:g}", self.of)


@dataclass(frozen=True)
class Min(Feature):
    """The smallest sample so far."""

    of: Feature | None = None
    kind = 2

    @property
    def name(self) -> str:
        return self._named("min", self.of)


@dataclass(frozen=True)
class Max(Feature):
    """The largest sample so far."""

    of: Feature | None = None
    kind = 3

    @property
    def name(self) -> str:
        return self._named("max", self.of)


@dataclass(frozen=True)
class Mean(Feature):
    """The mean of all samples so far."""

    of: Feature | None = None
    kind = 4

    @property
    def name(self) -> str:
        return self._named("mean", self.of)


@dataclass(frozen=True)
class First(Feature):
    """The mean of the first `count` samples, and of those that came until there are as many."""

    count: int
    of: Feature | None = None
    kind = 5

    def __post_init__(self) -> None:
        _length("count", self.count)

    @property
    def name(self) -> str:
        return self._named(f"first{self.count}", self.of)


@dataclass(frozen=True)
class Lag(Feature):
    """The sample `steps` samples ago; the first one until there are as many. `Value() - Lag(1)` is a difference."""

    steps: int
    of: Feature | None = None
    kind = 6

    def __post_init__(self) -> None:
        _length("steps", self.steps)

    @property
    def name(self) -> str:
        return self._named(f"lag{self.steps}", self.of)


@dataclass(frozen=True)
class Slope(Feature):
    """The slope, per sample, of the line through all samples by least squares with weights (1 - rate)^age; 0 at the first."""

    rate: float
    of: Feature | None = None
    kind = 7

    def __post_init__(self) -> None:
        _rate(self.rate, open_end=True)

    @property
    def name(self) -> str:
        return self._named(f"slope{self.rate:g}", self.of)


@dataclass(frozen=True)
class SeasonMean(Feature):
    """The mean at this step of the season (steps modulo `period`), this sample among them; over periods it moves as an Ewma
    with this rate. The step counts whether or not the sample is there."""

    period: int
    rate: float = 0.1
    of: Feature | None = None
    kind = 8

    def __post_init__(self) -> None:
        _length("period", self.period)
        _rate(self.rate)

    @property
    def name(self) -> str:
        return self._named(f"season{self.period}", self.of)


@dataclass(frozen=True)
class Minus(Feature):
    """The difference of two features; written with a minus sign."""

    left: Feature
    right: Feature
    kind = 9

    @property
    def name(self) -> str:
        return f"{self.left.name}-{self.right.name}"


@dataclass(frozen=True)
class Count:
    """scale * steps of the stream, this one included. One feature of the stream, not of each channel."""

    scale: float = 1.0
    node: ClassVar[int] = -1
    name: ClassVar[str] = "count"


@dataclass(frozen=True)
class LogCount:
    """scale * log(1 + steps) of the stream, this one included."""

    scale: float = 1.0
    node: ClassVar[int] = -2
    name: ClassVar[str] = "log_count"
