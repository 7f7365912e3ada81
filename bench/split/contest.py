"""Which of several ways takes least, told apart from the others or not: measured in turn until it is known."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rtaccel.serve.split.probes import REST_S

LOOKS = (12, 25, 50, 100)
"""Blocks after which ways are told apart: each look more would tell apart by chance."""
NEAR = 0.3
"""A way is measured on where its calls without a loss take at most so much more than the least of all."""
T_99 = (63.66, 9.92, 5.84, 4.60, 4.03, 3.71, 3.50, 3.36, 3.25, 3.17)
"""Student's t for two-sided 99 %, of 1, 2, ... degrees of freedom."""


@dataclass
class Way:
    """call: makes one call and says (microseconds, how often it was lost). resend_us: what a loss costs, of the time without one.
    rest_s: before a call. blocks: a figure of each block of rounds."""

    call: Callable[[], tuple[float, int]]
    resend_us: Callable[[float], float]
    rest_s: float = REST_S
    blocks: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    least_us: float = math.inf
    lost: int = 0
    told_apart: bool = False

    @property
    def us(self) -> float:
        return statistics.fmean(self.blocks)

    def ask(self) -> None:
        if self.rest_s:
            time.sleep(self.rest_s)  # calls come now and then, however many ways are left
        us, lost = self.call()
        self.lost += lost
        if not lost:
            self.whole.append(us)

    def close_block(self, calls: int) -> None:
        """The least of the calls that lost nothing, and the share of losses times what one costs."""
        if self.whole:
            us = min(self.whole)
            self.least_us = min(self.least_us, us)
            self.blocks.append(us + self.lost / calls * self.resend_us(us))
        self.whole, self.lost = [], 0


def slower_by(a: Way, b: Way) -> tuple[float, float]:
    """(mean, half the width of the interval of 99 %) of what a takes more than b, in the same blocks."""
    n = min(len(a.blocks), len(b.blocks))
    found = [x - y for x, y in zip(a.blocks, b.blocks)]  # all began with the first block
    if n < 2:
        return found[0], math.inf
    t = T_99[n - 2] if n - 2 < len(T_99) else 2.576 + 4.917 / (n - 1) + 8.83 / (n - 1) ** 2
    return statistics.fmean(found), t * statistics.stdev(found) / math.sqrt(n)


def run(ways: Sequence[Way], may: Sequence[Way], calls: int, seconds: float, say: Callable[[str], None]) -> list[Way]:
    """One block of `calls` rounds of all ways, then blocks of those that may be chosen and are near the least. One that is told
    apart as slower is measured no more. Ends when one is left, or after `seconds`. Gives the least, and those that could not be
    told apart from it."""
    for way in ways:
        way.ask()  # the first call of each is another kind of call
        way.whole, way.lost = [], 0
    _block(ways, calls)
    least = min(way.us for way in may)
    left = [way for way in may if way.least_us <= least * (1 + NEAR)]
    end = time.perf_counter() + seconds
    for number in range(2, LOOKS[-1] + 1):
        if len(left) < 2:
            break
        _block(left, calls)
        say(f"\r{len(left)} left after {number} blocks ")
        over = time.perf_counter() > end
        if number in LOOKS or over:
            left = _look(left)
        if over:
            break
    say("\r")
    return sorted(left, key=lambda way: way.us)


def _look(ways: Sequence[Way]) -> list[Way]:
    """Without those that are told apart from the least."""
    best = min(ways, key=lambda way: way.us)
    for way in ways:
        more, width = slower_by(way, best)
        way.told_apart = way is not best and more > width
    return [way for way in ways if not way.told_apart]


def _block(ways: Sequence[Way], calls: int) -> None:
    order = list(ways)
    for _ in range(calls):
        random.shuffle(order)  # what a call leaves in the caches is not always met by the same one
        for way in order:
            way.ask()
    for way in ways:
        way.close_block(calls)
