"""Comparing callables fairly: all of them in turn, in random order, so that each meets the same noise."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rtaccel.core.errors import FormatError
from rtaccel.measure import sampler


@dataclass(frozen=True)
class Ratio:
    """How many times as long one takes as another; low, high: a bootstrap interval of `confidence`."""

    value: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.value:.3g}x ({self.low:.3g} .. {self.high:.3g})"


@dataclass(frozen=True, eq=False)
class Interleaved:
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
        Introduction to the Bootstrap, chapter 13), so noise that lasts through a round stays together. A difference
        is worth claiming when 1 is outside it. It needs about 20 rounds to be of use.
        """
        ratios = self.medians_us(name) / self.medians_us(to)
        picks = np.random.default_rng(seed).integers(0, len(ratios), size=(resamples, len(ratios)))
        medians = np.median(ratios[picks], axis=1)
        low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
        return Ratio(float(np.median(ratios)), float(low), float(high), confidence)

    def _of(self, name: str) -> np.ndarray:
        if name not in self.samples_us:
            raise FormatError(
                "interleave", repr(name), "one of " + ", ".join(self.samples_us), "Name a callable measured."
            )
        return self.samples_us[name]


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
    if not callables or not all(callable(fn) for fn in callables.values()):
        raise FormatError("interleave", repr(callables), "name -> callable without arguments", "Wrap it in a lambda.")
    if rounds < 1 or calls_per_round < 1:
        got = f"rounds={rounds}, calls_per_round={calls_per_round}"
        raise FormatError("interleave", got, "1 or more of each", "30 rounds of 100 calls are a good start.")
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
