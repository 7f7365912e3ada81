"""How sparse each layer becomes under one target for all: the least total loss of outputs for the weights that stay.

Each layer is tried at some sparsities by a cheap estimate of what its output loses; then weights are taken where that costs
least, step by step, until the target is met (greedy on the convex hull of the estimates, as bit allocation in coding does).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from rtaccel.convert.weights.prune import InputStatistics, magnitude, output_error, wanda
from rtaccel.core.sparsity import Sparsity

STEPS = 20
"""Levels of sparsity between 0 and MOST that a layer is tried at."""

MAX = 0.98
"""No layer becomes sparser than that on account of the others."""


def curve(weight: Tensor, pattern: Sparsity, statistics: InputStatistics | None) -> Callable[[float], float]:
    """Squared relative loss of a layer's output by its sparsity, pruned by Wanda's scores, or by magnitude without data."""

    def loss(level: float) -> float:
        tried = replace(pattern, sparsity=level)  # type: ignore[type-var]
        if statistics is None:
            lost = (weight - magnitude(weight, tried, None)).double().square().sum()
            return float(lost / weight.double().square().sum().clamp_min(1e-300))
        return output_error(weight, wanda(weight, tried, statistics), None, statistics) ** 2

    return loss


def allocate_sparsity(
    sizes: Mapping[str, int], losses: Mapping[str, Callable[[float], float]], target: float
) -> dict[str, float]:
    """Sparsity of each layer such that `target` of all their weights are zero. sizes: weights of each."""
    levels = [MAX * i / STEPS for i in range(STEPS + 1)] if target <= MAX else [0.0, target]
    at = dict.fromkeys(sizes, 0)
    known = {name: [losses[name](level) for level in levels] for name in sizes}
    wanted, removed = target * sum(sizes.values()), 0.0
    while removed < wanted:
        best: tuple[float, str, int] | None = None
        for name, size in sizes.items():
            here = at[name]
            for there in range(here + 1, len(levels)):
                slope = (known[name][there] - known[name][here]) / ((levels[there] - levels[here]) * size)
                if best is None or slope < best[0]:
                    best = (slope, name, there)
        assert best is not None
        _, name, there = best
        gained = (levels[there] - levels[at[name]]) * sizes[name]
        if removed + gained > wanted:  # the last step only as far as needed
            result = {n: levels[i] for n, i in at.items()}
            result[name] += (wanted - removed) / sizes[name]
            return result
        removed += gained
        at[name] = there
    return {name: levels[i] for name, i in at.items()}
