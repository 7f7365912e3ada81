"""One option for each layer, of least time at each price of lost quality: a knapsack with costs between neighbors.

For a price p the plan of least time + p * drop + q * bytes is found exactly where the neighbors form a forest, by dynamic
programming from the leaves; else from such a solution on by moves of one layer or of two neighbors. A sweep over prices gives the
convex hull of all plans; moves of single layers from it fill the gaps between. Few plans are simply all looked at.
H. Everett, "Generalized Lagrange multiplier method", Operations Research 11, 1963.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

Plan = tuple[int, ...]
"""The option of each layer."""

MAX_ALL = 20_000
"""Plans that are simply all looked at."""

PRICES = 60


@dataclass(frozen=True)
class Costs:
    """time, drop, size: of each option of each layer, beside the first options. pairs: (layer, layer) -> time that options of
    two neighbors take beyond the sum, [options, options]. An option with an infinite drop is never taken."""

    time: Sequence[np.ndarray]
    drop: Sequence[np.ndarray]
    size: Sequence[np.ndarray]
    pairs: dict[tuple[int, int], np.ndarray]

    @property
    def options(self) -> tuple[int, ...]:
        return tuple(len(t) for t in self.time)

    def time_of(self, plan: Plan) -> float:
        alone = sum(float(t[o]) for t, o in zip(self.time, plan))
        return alone + sum(float(m[plan[a], plan[b]]) for (a, b), m in self.pairs.items())

    def drop_of(self, plan: Plan) -> float:
        return sum(float(d[o]) for d, o in zip(self.drop, plan))

    def size_of(self, plan: Plan) -> float:
        return sum(float(s[o]) for s, o in zip(self.size, plan))


def front(costs: Costs, max_size: float | None = None) -> list[Plan]:
    """Plans that no other beats in time, drop and, where it is limited, size; in the order of time."""
    if prod(costs.options) <= MAX_ALL:
        plans: set[Plan] = set(itertools.product(*(range(n) for n in costs.options)))
        plans = {p for p in plans if np.isfinite(costs.drop_of(p))}
    else:
        plans = _swept(costs, max_size)
    fitting = [p for p in plans if max_size is None or costs.size_of(p) <= max_size]
    return _undominated(costs, fitting or sorted(plans, key=costs.size_of)[:1])


def _undominated(costs: Costs, plans: Iterable[Plan]) -> list[Plan]:
    rated = sorted((costs.time_of(p), costs.drop_of(p), p) for p in plans)
    found: list[Plan] = []
    least = float("inf")
    for _, drop, plan in rated:
        if drop < least:
            found.append(plan)
            least = drop
    return found


def _swept(costs: Costs, max_size: float | None) -> set[Plan]:
    times = np.concatenate([np.abs(t) for t in costs.time] + [np.abs(m).ravel() for m in costs.pairs.values()])
    drops = np.concatenate([d[np.isfinite(d)] for d in costs.drop])
    largest = float(times.max(initial=0.0)) or 1.0
    known = drops[drops > 0]
    low, high = (known.min(), known.max()) if known.size else (1.0, 1.0)
    prices = [0.0, *np.geomspace(largest / high * 1e-3, largest / low * 1e3, PRICES)]
    sizes = [0.0]
    if max_size is not None:
        bytes_ = np.concatenate([np.abs(s) for s in costs.size])
        sizes += list(largest / max(float(bytes_.max(initial=0.0)), 1.0) * np.geomspace(1e-2, 1e3, 10))
    found: set[Plan] = set()
    forest = _forest(len(costs.time), costs.pairs)
    for per_byte in sizes:
        found |= {best_at(costs, float(price), float(per_byte), forest) for price in prices}
    return found | {moved for plan in found for moved in neighbors(costs, plan)}


def neighbors(costs: Costs, plan: Plan) -> Iterable[Plan]:
    """Plans that differ in one layer."""
    for layer, count in enumerate(costs.options):
        for option in range(count):
            if option != plan[layer] and np.isfinite(costs.drop[layer][option]):
                yield (*plan[:layer], option, *plan[layer + 1 :])


def best_at(costs: Costs, price: float, per_byte: float = 0.0, forest: tuple[Pairs, bool] | None = None) -> Plan:
    """The plan of least time + price * drop + per_byte * size. forest: of the pairs, where it is known."""
    alone = [
        t + np.where(np.isfinite(d), price * np.where(np.isfinite(d), d, 0.0), np.inf) + per_byte * s
        for t, d, s in zip(costs.time, costs.drop, costs.size)
    ]
    kept, rest = forest or _forest(len(alone), costs.pairs)
    plan = _by_leaves(alone, kept)
    return plan if not rest else _improved(alone, costs.pairs, plan)


Pairs = dict[tuple[int, int], np.ndarray]


def _forest(count: int, pairs: Pairs) -> tuple[Pairs, bool]:
    """The pairs of a spanning forest, those of the largest costs first, and whether any are left over."""
    root = list(range(count))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    kept = {}
    for (a, b), matrix in sorted(pairs.items(), key=lambda item: -float(np.ptp(item[1]))):
        if find(a) != find(b):
            root[find(a)] = find(b)
            kept[a, b] = matrix
    return kept, len(kept) < len(pairs)


def _by_leaves(alone: Sequence[np.ndarray], pairs: Pairs) -> Plan:
    """Exact on a forest: each leaf tells its neighbor what its best option costs, for every option of the neighbor."""
    sums = [a.copy() for a in alone]
    edges: dict[int, dict[int, np.ndarray]] = {i: {} for i in range(len(alone))}
    for (a, b), matrix in pairs.items():
        edges[a][b], edges[b][a] = matrix, matrix.T
    order: list[tuple[int, int | None, np.ndarray | None]] = []
    leaves = [i for i, near in edges.items() if len(near) <= 1]
    gone: set[int] = set()
    while leaves:
        leaf = leaves.pop()
        if leaf in gone:
            continue
        gone.add(leaf)
        if not edges[leaf]:
            order.append((leaf, None, None))
            continue
        near, matrix = next(iter(edges[leaf].items()))
        together = sums[leaf][:, None] + matrix
        sums[near] = sums[near] + together.min(0)
        order.append((leaf, near, together.argmin(0)))
        del edges[near][leaf]
        edges[leaf] = {}
        if len(edges[near]) <= 1:
            leaves.append(near)
    chosen = [0] * len(alone)
    for leaf, parent, best in reversed(order):
        chosen[leaf] = int(sums[leaf].argmin()) if parent is None or best is None else int(best[chosen[parent]])
    return tuple(chosen)


def _improved(alone: Sequence[np.ndarray], pairs: Pairs, plan: Plan) -> Plan:
    """Moves of one layer, then of two neighbors, until none helps."""
    near: dict[int, list[tuple[int, np.ndarray]]] = {i: [] for i in range(len(alone))}
    for (a, b), matrix in pairs.items():
        near[a].append((b, matrix))
        near[b].append((a, matrix.T))
    chosen = list(plan)

    def seen_by(layer: int, but: int | None = None) -> np.ndarray:
        found = alone[layer].copy()
        for other, matrix in near[layer]:
            if other != but:
                found = found + matrix[:, chosen[other]]
        return found

    for _ in range(50):
        before = tuple(chosen)
        for layer in range(len(chosen)):
            chosen[layer] = int(seen_by(layer).argmin())
        for (a, b), matrix in pairs.items():
            both = seen_by(a, b)[:, None] + seen_by(b, a)[None, :] + matrix
            best = np.unravel_index(int(both.argmin()), both.shape)
            if both[best] < both[chosen[a], chosen[b]] - 1e-15:
                chosen[a], chosen[b] = int(best[0]), int(best[1])
        if tuple(chosen) == before:
            break
    return tuple(chosen)
