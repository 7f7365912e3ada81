"""The knapsack against every plan there is: exact on forests, never beaten by more than a little elsewhere, limits kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtaccel.search import knapsack
from rtaccel.search.knapsack import Costs, best_at, front, neighbors


def random_costs(seed: int, kind: str) -> Costs:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, rng.integers(2, 6))
    time = [np.concatenate([[0.0], -rng.random(n - 1) * 3]) for n in counts]
    drop = [np.concatenate([[0.0], rng.exponential(1.0, n - 1)]) for n in counts]
    size = [np.concatenate([[0.0], -rng.integers(1, 1000, n - 1).astype(float)]) for n in counts]
    if rng.random() < 0.3 and counts[0] > 1:
        drop[0][-1] = np.inf
    edges = {
        "none": [],
        "chain": [(i, i + 1) for i in range(len(counts) - 1)],
        "tree": [(int(rng.integers(0, i)), i) for i in range(1, len(counts))],
        "all": list(itertools.combinations(range(len(counts)), 2)),
    }[kind]
    pairs = {(a, b): rng.normal(0, 0.7, (counts[a], counts[b])) for a, b in edges}
    return Costs(time, drop, size, pairs)


def all_plans(costs: Costs) -> list[tuple[int, ...]]:
    plans = itertools.product(*(range(n) for n in costs.options))
    return [p for p in plans if np.isfinite(costs.drop_of(p))]


@given(st.integers(0, 2**32 - 1), st.sampled_from(["none", "chain", "tree"]), st.floats(0, 20), st.floats(0, 0.01))
@settings(max_examples=150, deadline=None)
def test_exact_on_a_forest(seed: int, kind: str, price: float, per_byte: float) -> None:
    costs = random_costs(seed, kind)

    def cost(p: tuple[int, ...]) -> float:
        return costs.time_of(p) + price * costs.drop_of(p) + per_byte * costs.size_of(p)

    found = best_at(costs, price, per_byte)
    assert found in all_plans(costs)
    assert cost(found) == pytest.approx(min(map(cost, all_plans(costs))), abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0, 20))
@settings(max_examples=100, deadline=None)
def test_with_cycles_no_move_of_one_layer_or_two_neighbors_helps(seed: int, price: float) -> None:
    costs = random_costs(seed, "all")

    def cost(p: tuple[int, ...]) -> float:
        return costs.time_of(p) + price * costs.drop_of(p)

    found = best_at(costs, price)
    near = list(neighbors(costs, found))
    assert all(cost(found) <= cost(p) + 1e-9 for p in near)
    assert all(cost(found) <= cost(q) + 1e-9 for p in near for q in neighbors(costs, p))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["none", "chain", "all"]))
@settings(max_examples=60, deadline=None)
def test_the_front_of_few_plans_is_the_front(seed: int, kind: str) -> None:
    costs = random_costs(seed, kind)
    found = front(costs)
    times, drops = [costs.time_of(p) for p in found], [costs.drop_of(p) for p in found]
    assert times == sorted(times) and drops == sorted(drops, reverse=True)
    for plan in all_plans(costs):
        assert any(t <= costs.time_of(plan) + 1e-9 and d <= costs.drop_of(plan) + 1e-9 for t, d in zip(times, drops))


@pytest.mark.parametrize("seed", range(20))
def test_the_sweep_holds_the_convex_hull(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = random_costs(seed, "chain")
    exact = front(costs)
    monkeypatch.setattr(knapsack, "MAX_ALL", 0)
    swept = front(costs)
    assert costs.time_of(swept[0]) == pytest.approx(costs.time_of(exact[0]))
    for price in (0.1, 1.0, 10.0):
        least = [min(costs.time_of(p) + price * costs.drop_of(p) for p in plans) for plans in (swept, exact)]
        assert least[0] == pytest.approx(least[1], abs=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(-3000, 0))
@settings(max_examples=60, deadline=None)
def test_bytes_are_kept_where_any_plan_keeps_them(seed: int, limit: float) -> None:
    costs = random_costs(seed, "chain")
    fitting = [p for p in all_plans(costs) if costs.size_of(p) <= limit]
    found = front(costs, limit)
    if fitting:
        assert all(costs.size_of(p) <= limit for p in found)
        assert costs.time_of(found[0]) == pytest.approx(min(map(costs.time_of, fitting)))
    else:
        assert [costs.size_of(p) for p in found] == [min(map(costs.size_of, all_plans(costs)))]
