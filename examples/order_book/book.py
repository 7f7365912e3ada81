"""A simulated limit-order book: ten levels a side, orders from a seed, and a hidden pressure that makes prices predictable.

Orders arrive, are cancelled and are executed one at a time. A pressure between -1 and 1 wanders slowly. It is never shown,
but it tilts which side is bought, joined and left, so the flow of orders tells of it before the price does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

LEVELS = 10
FEATURES = 4 * LEVELS + 1
"""Of each level: ask price, ask size, bid price, bid size. Then the lots that were traded, negative where they were sold."""

HORIZON = 50
"""Ticks that a signal looks ahead."""

MEMORY = 300
"""Ticks after which the pressure has forgotten itself."""

MEAN_SIZE = 12.0
SLOW = 1 / 500
"""Rate of the mean that prices are given against."""

DEPTH = 40
"""Levels of a side that are kept, seen or not."""


class Session(NamedTuple):
    """ticks [n, 41]: the book after each order. mid [n]: in price steps. spread [n]: in price steps."""

    ticks: F32
    mid: F32
    spread: F32


def simulate(count: int, seed: int, absorbed: bool = False) -> Session:
    """So many ticks. absorbed: another market, where patient orders decide. Small market orders run into them and lose, so that
    trades tell the opposite of what they told."""
    rng = np.random.default_rng(seed)
    pressure = _pressure(count, rng)
    kind, side, depth, size = (
        rng.random(count),
        rng.random(count),
        rng.geometric(0.35, count) - 1,
        rng.geometric(0.3, count),
    )
    trades, joins, leaves, takes = (-0.85, 0.9, 0.9, 1) if absorbed else (0.85, 0.6, 0.5, 2)
    # Prices are whole steps. Sizes lie in lists from the best price outwards: asks[i] at ask + i, bids[i] at ask - spread - i.
    asks, bids = (rng.poisson(MEAN_SIZE, DEPTH).astype(float).tolist() for _ in range(2))
    ask, bid = 1, 0
    shown = np.empty((count, 2, LEVELS), np.float32)
    offsets = np.empty((count, 2, LEVELS), np.float32)
    best = np.empty((count, 2), np.float32)
    traded = np.zeros(count, np.float32)
    fresh = rng.poisson(MEAN_SIZE, (count, 2)).tolist()
    drawn = zip(pressure.tolist(), kind.tolist(), side.tolist(), depth.tolist(), size.tolist())
    for i, (p, what, which, level, lots) in enumerate(drawn):
        level = min(level, LEVELS - 1)
        if what < 0.2:  # a market order takes from the best price
            bought = which < 0.5 * (1 + trades * p)
            (asks if bought else bids)[0] -= takes * lots
            traded[i] = takes * lots if bought else -takes * lots
        elif what < 0.6:  # a limit order joins a level, or betters the best one where there is room
            ask_side = which >= 0.5 * (1 + joins * p)
            if ask - bid > 1 and level < 2:
                if ask_side:
                    ask -= 1
                    asks.insert(0, float(lots))
                    asks.pop()
                else:
                    bid += 1
                    bids.insert(0, float(lots))
                    bids.pop()
            else:
                (asks if ask_side else bids)[level] += lots
        else:  # a part of a level is cancelled
            queue = asks if which < 0.5 * (1 + leaves * p) else bids
            queue[level] -= min(0.5 + 0.08 * lots * queue[level] / 4, queue[level])
        while asks[0] < 0.5:  # gone: the next price is the best one
            asks.pop(0)
            asks.append(float(fresh[i][0]))
            ask += 1
        while bids[0] < 0.5:
            bids.pop(0)
            bids.append(float(fresh[i][1]))
            bid -= 1
        best[i] = ask, bid
        shown[i, 0], shown[i, 1] = asks[:LEVELS], bids[:LEVELS]
    steps = np.arange(LEVELS, dtype=np.float32)
    mid = best.mean(1)
    slow, level = np.empty(count, np.float32), float(mid[0])
    for i, value in enumerate(mid.tolist()):
        level += SLOW * (value - level)
        slow[i] = level
    offsets[:, 0] = (best[:, 0] - slow)[:, None] + steps
    offsets[:, 1] = (best[:, 1] - slow)[:, None] - steps
    levels = np.stack([offsets[:, 0], shown[:, 0], offsets[:, 1], shown[:, 1]], axis=2).reshape(count, -1)
    ticks = np.concatenate([levels, traded[:, None]], axis=1)
    return Session(ticks, mid, best[:, 0] - best[:, 1])


def _pressure(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """tanh of a walk that returns to zero."""
    walk, keep = np.empty(count), 1 - 1 / MEMORY
    noise, level = rng.normal(0, np.sqrt(1 - keep**2), count), 0.0
    for i, step in enumerate(noise.tolist()):
        level = keep * level + step
        walk[i] = level
    return np.tanh(3 * walk)


def change(mid: F32) -> F32:
    """Mean mid price of the next ticks minus the mid price now, [n - HORIZON], in price steps: what is to be told."""
    total = np.concatenate([[0.0], np.cumsum(mid, dtype=np.float64)])
    ahead = (total[HORIZON + 1 :] - total[1:-HORIZON]) / HORIZON
    return (ahead - mid[:-HORIZON]).astype(np.float32)


def labels(mid: F32, threshold: float) -> NDArray[np.int64]:
    """0 down, 1 still, 2 up, [n - HORIZON]."""
    moved = change(mid)
    return (1 + (moved > threshold).astype(np.int64) - (moved < -threshold)).astype(np.int64)


def threshold(mid: F32) -> float:
    """That with which a third of the ticks of a session are still."""
    return float(np.quantile(np.abs(change(mid)), 1 / 3))
