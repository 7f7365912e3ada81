"""Comparing callables fairly: all of them in turn, in random order, so that each meets the same noise."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rtaccel.core.errors import FormatError
from rtaccel.measure.numbers import figure, is_finite, is_whole, shown
from rtaccel.measure.rendering.tables import Table, Tabled
from rtaccel.measure.timing import sampler

_ROUND_NS = 2_000_000
_MAX = 10_000_000
_LONGEST = 7 * 86_400.0


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another; low, high: a bootstrap interval of `confidence`."""

    value: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{figure(self.value, 3)}x ({figure(self.low, 3)} .. {figure(self.high, 3)})"


@dataclass(frozen=True)
class Comparison(Tabled):
    """Whether `name` is slower or faster than `to` by more than `margin`, with 99 % confidence.

    verdict: "slower" or "faster" where the whole interval of the ratio is beyond the margin, else "no difference".
    hidden: the largest difference that the interval leaves possible, 0.05 for 5 %: what "no difference" cannot exclude.
    """

    name: str
    to: str
    ratio: Ratio
    margin: float

    @property
    def verdict(self) -> Literal["faster", "slower", "no difference"]:
        if self.ratio.low > 1 + self.margin:
            return "slower"
        return "faster" if self.ratio.high < 1 / (1 + self.margin) else "no difference"

    @property
    def hidden(self) -> float:
        return max(self.ratio.high - 1, 1 / self.ratio.low - 1, 0.0)

    def records(self) -> list[dict[str, Any]]:
        """One row: the ratio with its interval, and the verdict."""
        ratio = {"ratio": self.ratio.value, "low": self.ratio.low, "high": self.ratio.high}
        return [{"name": self.name, "to": self.to, **ratio, "margin": self.margin, "verdict": self.verdict}]

    def table(self) -> Table:
        head = ("name", "to", "time, x", "interval", "verdict")
        interval = f"{figure(self.ratio.low, 3)} .. {figure(self.ratio.high, 3)}"
        return Table(
            "Comparison", head, [(self.name, self.to, figure(self.ratio.value, 3), interval, self.verdict)], text=2
        )

    def __str__(self) -> str:
        said = f"{self.name}: {self.verdict} than {self.to}, {self.ratio}"
        if self.verdict == "no difference":
            said = f"{self.name}: no difference to {self.to}, {self.ratio}; up to {self.hidden:.1%} could be hidden"
        return said


@dataclass(frozen=True, eq=False)
class Interleaved(Tabled):
    """samples_us: name -> float64 [rounds, calls], in the order measured. timer_ns: as in `Latency`, not subtracted."""

    samples_us: Mapping[str, np.ndarray] = field(repr=False)
    timer_ns: float

    def medians_us(self, name: str) -> np.ndarray:
        """Median of each round, [rounds]."""
        return np.median(self._of(name), axis=1)

    def median_us(self, name: str) -> float:
        """Median of the round medians: what it takes on this machine as it was."""
        return float(np.median(self.medians_us(name)))

    def best_round_us(self, name: str) -> float:
        """Median of the quietest round: what it takes when left alone."""
        return float(self.medians_us(name).min())

    def ratio(self, name: str, to: str, *, confidence: float = 0.99, resamples: int = 4000, seed: int = 0) -> Ratio:
        """Time of `name` over time of `to`: the median over rounds of the ratio of their medians in the same round.

        The interval comes from resampling whole rounds (a percentile bootstrap; B. Efron and R. J. Tibshirani, An
        Introduction to the Bootstrap, chapter 13), n^(1/3) of n rounds together (moving blocks; H. R. Kuensch, Annals
        of Statistics 17, 1989), so noise that lasts through a round or a few stays together. A difference is worth
        claiming when 1 is outside it; `compare` asks for more. It needs about 20 rounds to be of use.

        Raises FormatError for names that were not measured, and for numbers out of range.
        """
        if not (is_finite(confidence) and 0 < confidence < 1):
            raise FormatError(
                "interleave", f"confidence={shown(confidence)}", "a share between 0 and 1", "0.99 is usual."
            )
        if not is_whole(resamples, 1, 1_000_000):
            raise FormatError("interleave", f"resamples={shown(resamples)}", "1 to a million", "4,000 are usual.")
        _check_seed(seed)
        ratios = self.medians_us(name) / self.medians_us(to)
        rounds, together = len(ratios), max(1, round(len(ratios) ** (1 / 3)))
        starts = np.random.default_rng(seed).integers(0, rounds - together + 1, (resamples, -(-rounds // together)))
        picks = (starts[:, :, None] + np.arange(together)).reshape(resamples, -1)[:, :rounds]
        medians = np.median(ratios[picks], axis=1)
        low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Ratio(float(np.median(ratios)), float(low), float(high), confidence)

    def compare(self, name: str, to: str, *, margin: float = 0.02) -> Comparison:
        """Faster, slower, or no difference: a difference counts when the interval of the ratio excludes all up to
        `margin`. Two per cent is what the place of a function in memory can make, with nothing changed in it. Raises
        FormatError as `ratio`."""
        _check_margin(margin)
        return Comparison(name, to, self.ratio(name, to), margin)

    def records(self) -> list[dict[str, Any]]:
        """A row for each round of each callable: its median."""
        return [
            {"name": name, "round": i, "median_us": us}
            for name in self.samples_us
            for i, us in enumerate(self.medians_us(name).tolist())
        ]

    def table(self) -> Table:
        rows = [(name, figure(self.median_us(name)), figure(self.best_round_us(name))) for name in self.samples_us]
        rounds = len(next(iter(self.samples_us.values())))
        return Table(f"{rounds:,} interleaved rounds", ("name", "median us", "best round us"), rows)

    def _of(self, name: str) -> np.ndarray:
        if name not in self.samples_us:
            raise FormatError(
                "interleave", repr(name), "one of " + ", ".join(self.samples_us), "Name a callable measured."
            )
        return self.samples_us[name]


def compare(
    new: Callable[[], object],
    old: Callable[[], object],
    *,
    seconds: float = 10.0,
    margin: float = 0.02,
    seed: int = 0,
    clock: sampler.Clock = sampler.CLOCK,
) -> Comparison:
    """Whether `new` is faster or slower than `old`, or there is no difference, from one interleaved run.

    Rounds of some 2 ms of each, as many as fit in `seconds`, 30 at least and 2,000 at most. Their number is fixed before
    the run and the verdict is taken once: a run that stopped as soon as it saw a difference would find one in noise.

    Raises FormatError for callables that are none and for seconds that are not positive.

    >>> from rtaccel.measure.interleave import compare
    >>> compare(lambda: sum(range(300)), lambda: sum(range(100)), seconds=0.3).verdict
    'slower'
    """
    if not (is_finite(seconds) and 0 < seconds <= _LONGEST):
        raise FormatError(
            "compare", f"seconds={shown(seconds)}", "a positive number, a week at most", "Ten is a good start."
        )
    _check_margin(margin)
    _check_seed(seed)
    calls = {"new": new, "old": old}
    if not all(callable(fn) for fn in calls.values()):
        raise FormatError("compare", shown(calls), "two callables without arguments", "Wrap them in a lambda.")
    with sampler.no_grad(), sampler.quiet():
        each_ns = [max(sampler.warm_up(fn, (), 0.05, clock), 1.0) for fn in calls.values()]
    per_round = min(200, max(5, int(_ROUND_NS / max(each_ns))))
    rounds = min(2000, max(30, int(seconds * 1e9 / ((per_round + 1) * sum(each_ns)))))
    return interleave(calls, rounds, per_round, seed=seed, clock=clock).compare("new", "old", margin=margin)


def interleave(
    callables: Mapping[str, Callable[[], object]],
    rounds: int = 30,
    calls_per_round: int = 100,
    *,
    warmup: float = 0.05,
    seed: int = 0,
    clock: sampler.Clock = sampler.CLOCK,
) -> Interleaved:
    """Times each callable `calls_per_round` times in a row, in every round, in an order drawn anew for each round.

    One call is made before each row and not counted: it brings the callable's own data back into the cache after the
    others have run. warmup: seconds of calls of each before the first round. seed: of the order.

    Garbage collection is off and torch.no_grad on, as in `measure`. What a callable raises goes through unchanged.
    Raises FormatError for no callables, or for rounds or calls below 1.
    """
    if not isinstance(callables, Mapping) or not callables or not all(callable(fn) for fn in callables.values()):
        raise FormatError("interleave", shown(callables), "name -> callable without arguments", "Wrap it in a lambda.")
    if not (is_whole(rounds, 1, _MAX) and is_whole(calls_per_round, 1, _MAX)) or rounds * calls_per_round > _MAX:
        got = f"rounds={shown(rounds)}, calls_per_round={shown(calls_per_round)}"
        expected = f"1 or more of each, and {_MAX:,} calls of each callable at most"
        raise FormatError("interleave", got, expected, "30 rounds of 100 calls are a good start.")
    if not (is_finite(warmup) and 0 <= warmup <= _LONGEST):
        raise FormatError("interleave", f"warmup={shown(warmup)}", "seconds, 0 to a week", "Leave it out.")
    _check_seed(seed)
    order = list(callables)
    shuffle = random.Random(seed).shuffle
    taken = {name: array("q") for name in order}
    limits = sampler.Limits(calls_per_round, calls_per_round, 0, 2**62)
    timer_ns = sampler.timer_overhead_ns((), clock)
    with sampler.no_grad(), sampler.quiet():
        for name in order:
            sampler.warm_up(callables[name], (), warmup, clock)
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                callables[name]()
                taken[name].extend(sampler.sample_ns(callables[name], (), limits, clock))
    shaped = {name: np.array(taken[name], dtype=np.float64).reshape(rounds, -1) / 1e3 for name in callables}
    return Interleaved(shaped, timer_ns)


def _check_margin(margin: Any) -> None:
    if not (is_finite(margin) and margin >= 0):
        raise FormatError("compare", f"margin={shown(margin)}", "a share, 0 or above", "0.02 is 2 %.")


def _check_seed(seed: Any) -> None:
    if not is_whole(seed, 0):
        raise FormatError("interleave", f"seed={shown(seed)}", "a whole number, 0 or above", "Leave it out.")
