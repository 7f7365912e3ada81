"""Simulated latencies whose percentiles are known: heavy tails, autocorrelation, bursts, two modes, drift."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_SPREAD = 0.1
"""Standard deviation of the logarithm of an undisturbed call; its median is 1."""


@dataclass(frozen=True)
class Scenario:
    """draw(rng, runs, n) -> float [runs, n], each row the calls of one run in order.

    share(x): of all calls, over the whole of a run, how many exceed x. shortest: calls in a run, at least, for the
    claims to hold: a disturbance as long as a good part of the run cannot be told from the usual. steady: False where
    the run is all the time it takes, so that more calls are not more of the same.
    """

    name: str
    draw: Callable[[np.random.Generator, int, int], np.ndarray]
    share: Callable[[float], float]
    shortest: int = 0
    steady: bool = True

    def limit(self, share: float) -> float:
        """The limit that just this share of calls exceeds, by bisection of the exact distribution."""
        low, high = 1e-6, 1e12
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.share(middle) > share else (low, middle)
        return high


def usual(rng: np.random.Generator, runs: int, n: int) -> np.ndarray:
    """Undisturbed calls, float32 [runs, n]."""
    values = rng.standard_normal((runs, n), dtype=np.float32)
    values *= np.float32(_SPREAD)
    return np.exp(values, out=values)


def over_lognormal(x: float, median: float = 1.0) -> float:
    """P(a call of this median exceeds x)."""
    return 0.5 * math.erfc(math.log(x / median) / (_SPREAD * math.sqrt(2)))


def autocorrelated(correlation: float) -> Scenario:
    """Each call like the one before it: a Gaussian AR(1) process, exponentiated."""
    together = 256  # 0.6 to this power is still far from the least double
    powers = correlation ** np.arange(together)

    def draw(rng: np.random.Generator, runs: int, n: int) -> np.ndarray:
        blocks = -(-n // together)
        steps = rng.standard_normal((runs, blocks, together)) * math.sqrt(1 - correlation**2)
        values = np.cumsum(steps / powers, axis=2) * powers  # sum of correlation^(i - j) step_j
        last = rng.standard_normal(runs)
        for block in range(blocks):
            values[:, block] += correlation * powers * last[:, None]
            last = values[:, block, -1]
        return np.exp(_SPREAD * values.reshape(runs, -1)[:, :n])

    return Scenario(f"autocorrelated {correlation:g}", draw, over_lognormal)


def two_modes(slow: float, stay: int, times: float) -> Scenario:
    """A share `slow` of calls takes so many times as long, in visits of `stay` calls on average."""
    away = stay * (1 - slow) / slow

    def slow_calls(rng: np.random.Generator, n: int) -> np.ndarray:
        visits = int(2 * n / (stay + away)) + 40  # many more than fit
        lengths = np.stack([rng.geometric(1 / away, visits), rng.geometric(1 / stay, visits)], axis=1).ravel()
        lengths[0] *= (
            rng.random() >= slow
        )  # a geometric stay is as long from any call on: a slow start is a fast one of 0
        state = np.repeat(np.arange(2 * visits) % 2 == 1, lengths)
        return state[:n] if len(state) >= n else np.concatenate([state, slow_calls(rng, n - len(state))])

    def draw(rng: np.random.Generator, runs: int, n: int) -> np.ndarray:
        states = np.stack([slow_calls(rng, n) for _ in range(runs)])
        return usual(rng, runs, n) * np.where(states, np.float32(times), np.float32(1))

    def share(x: float) -> float:
        return (1 - slow) * over_lognormal(x) + slow * over_lognormal(x, times)

    return Scenario(
        f"two modes, {slow:g} slow, {stay} calls a visit", draw, share, int(500 * stay / min(1, slow / 0.02))
    )


def drift(moved: Callable[[np.ndarray], np.ndarray], name: str) -> Scenario:
    """Independent calls whose median is a function of the part of the run, 0 .. 1, that has passed."""

    def draw(rng: np.random.Generator, runs: int, n: int) -> np.ndarray:
        return usual(rng, runs, n) * moved((np.arange(n) + 0.5) / n).astype(np.float32)

    medians = moved((np.arange(400) + 0.5) / 400)
    return Scenario(name, draw, lambda x: float(np.mean([over_lognormal(x, m) for m in medians])), steady=False)


def load(period: int) -> Scenario:
    """Calls that take 10 % more and 10 % less in turn, once in so many calls."""

    medians = 1 + 0.1 * np.sin(2 * np.pi * np.arange(period) / period)
    round_and_round = np.float32(medians)

    def draw(rng: np.random.Generator, runs: int, n: int) -> np.ndarray:
        place = rng.integers(0, period, (runs, 1)) + np.arange(n) % period
        return usual(rng, runs, n) * round_and_round.take(place, mode="wrap")

    name = f"load that comes and goes in {period} calls"
    return Scenario(name, draw, lambda x: float(np.mean([over_lognormal(x, m) for m in medians[::5]])), 10 * period)


def _draw_heavy(rng: np.random.Generator, runs: int, n: int) -> np.ndarray:
    values = usual(rng, runs, n)
    waiting = rng.random((runs, n), dtype=np.float32) < 0.03
    values[waiting] = 1.2 * (1 - rng.random(int(waiting.sum()))) ** (-1 / 1.2)
    return values


SCENARIOS = (
    Scenario("independent", usual, over_lognormal),
    Scenario("heavy tail", _draw_heavy, lambda x: 0.97 * over_lognormal(x) + 0.03 * min(1.0, (1.2 / x) ** 1.2)),
    autocorrelated(0.6),
    autocorrelated(0.9),
    two_modes(slow=0.02, stay=5, times=2.0),
    two_modes(slow=0.02, stay=30, times=2.0),
    two_modes(slow=0.3, stay=50, times=2.0),
    drift(lambda part: 1 + 0.1 * part, "drift of 10 %"),
    drift(lambda part: np.where(part < 0.5, 1.0, 1.05), "a step of 5 %"),
    load(period=1000),
)
"""The heavy tail has no variance: Pareto waits with exponent 1.2 in 3 of 100 calls."""
