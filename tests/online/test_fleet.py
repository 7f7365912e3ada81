"""What many edges learned, merged, against least squares over all of their samples in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtaccel as rt
from rtaccel.core.errors import FormatError
from rtaccel.online.fleet import Information

N, OUT = 12, 3


def head(**said: Any) -> rt.online.RLSHead:
    return rt.online.RLSHead(**{"features": N, "outputs": OUT, "forget": 1.0, "p0": 10.0, "d_max": 1e6, **said})


def samples(rng: np.random.Generator, count: int, true: Any) -> tuple[Any, Any]:
    x = np.maximum(rng.normal(size=(count, N)) @ rng.normal(size=(N, N)) * 0.3 + 0.5, 0)
    return x, x @ true.T + 0.1 * rng.normal(size=(count, OUT))


def central(x: Any, y: Any, p0: float = 10.0) -> Any:
    return np.linalg.solve(x.T @ x + np.eye(N) / p0, x.T @ y).T


def test_information_of_a_head_is_the_sum_of_its_samples() -> None:
    rng = np.random.default_rng(0)
    x, y = samples(rng, 200, rng.normal(size=(OUT, N)))
    one = head()
    one.learn_many(x, y)
    known = Information.of(one.state_dict())
    gram = x.T @ x + np.eye(N) / 10
    assert np.abs(known.matrix - gram).max() <= 1e-4 * np.abs(gram).max()
    again = Information.of(known.state(1e6))
    assert np.abs(again.matrix - known.matrix).max() <= 1e-4 * np.abs(gram).max()


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_merged_heads_are_one_that_learned_it_all(seed: int, edges: int) -> None:
    rng = np.random.default_rng(seed)
    true, xs, ys, heads = rng.normal(size=(OUT, N)), [], [], []
    for _ in range(edges):
        x, y = samples(rng, int(rng.integers(0, 200)), true)  # some know too little alone, or nothing
        one = head()
        if len(x):
            one.learn_many(x, y)
        xs.append(x), ys.append(y), heads.append(one)
    merged = rt.online.merge(heads)
    wanted = central(np.concatenate(xs), np.concatenate(ys))
    assert np.abs(merged.weights - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max()) * 3
    assert merged.learned == sum(map(len, xs))


def test_rounds_with_a_fifth_offline() -> None:
    """30 edges, 25 rounds: states come late, some from edges that were away for many rounds; each sample counts once."""
    rng = np.random.default_rng(3)
    true = rng.normal(size=(OUT, N))
    fleet, edges = rt.online.Fleet(head()), [head() for _ in range(30)]
    for i, edge in enumerate(edges):
        edge.load_state_dict(fleet.issue(i))
    every_x, every_y = [], []
    for turn in range(25):
        for edge in edges:
            x, y = samples(rng, 8, true)
            edge.learn_many(x, y)
            every_x.append(x), every_y.append(y)
        online = [i for i in range(30) if rng.random() > 0.2 or turn == 24]
        fleet.merge({i: edges[i].state_dict() for i in online})
        for i in online:
            edges[i].load_state_dict(fleet.issue(i))
    x, y = np.concatenate(every_x), np.concatenate(every_y)
    assert fleet.head.learned == len(x) == 30 * 25 * 8
    wanted = central(x, y)
    assert np.abs(fleet.head.weights - wanted).max() <= 1e-4 * np.abs(wanted).max()
    probe = samples(rng, 5, true)[0]
    assert np.allclose([edges[0].predict_one(p) for p in probe], probe @ wanted.T, atol=2e-3)


def test_forgetting_counts_the_samples_of_all() -> None:
    rng = np.random.default_rng(5)
    true, forget = rng.normal(size=(OUT, N)), 0.98
    heads, parts = [], []
    for count in (60, 90):
        x, y = samples(rng, count, true)
        one = head(forget=forget)
        one.learn_many(x, y)
        heads.append(one)
        parts.append((x, y, forget ** np.arange(count - 1, -1, -1)))
    merged = rt.online.merge(heads)
    # The first head's samples were there before the second's came: those count for them too.
    gram, product = np.eye(N) / 10 * forget**150, np.zeros((N, OUT))
    for (x, y, weight), later in zip(parts, (forget**90, 1.0)):
        gram += later * (x.T * weight) @ x
        product += later * (x.T * weight) @ y
    wanted = np.linalg.solve(gram, product).T
    assert np.abs(merged.weights - wanted).max() <= 1e-3 * np.abs(wanted).max()


def test_an_edge_that_sends_twice_counts_once() -> None:
    rng = np.random.default_rng(1)
    fleet, edge = rt.online.Fleet(head()), head()
    edge.load_state_dict(fleet.issue("a"))
    x, y = samples(rng, 50, rng.normal(size=(OUT, N)))
    edge.learn_many(x[:30], y[:30])
    fleet.merge({"a": edge.state_dict()})
    fleet.merge({"a": edge.state_dict()})
    edge.learn_many(x[30:], y[30:])
    fleet.merge({"a": edge.state_dict()})
    assert fleet.head.learned == 50
    assert np.abs(fleet.head.weights - central(x, y)).max() <= 1e-3


def test_what_is_refused_changes_nothing() -> None:
    fleet, edge = rt.online.Fleet(head()), head()
    edge.load_state_dict(fleet.issue("a"))
    edge.learn_one(np.ones(N), np.ones(OUT))
    good = edge.state_dict()
    fleet.merge({"a": good})
    before = fleet.head.state_dict()
    edge.load_state_dict(fleet.issue("a"))
    bad: list[Any] = [
        None, 3, "a", [("a", good)], {"a": None}, {"a": 3},
        {"unknown": good}, {"a": head().state_dict()}, {"a": {**good, "U": good["U"][:5, :5]}},
        {"a": {**good, "w": good["w"] * np.nan}}, {"a": {k: v for k, v in good.items() if k != "D"}},
        {"a": {**good, "D": good["D"] * 0}}, {"a": good, "b": good},
    ]  # fmt: skip
    for states in bad:
        with pytest.raises(FormatError):
            fleet.merge(states)
    lie = edge.state_dict()  # an edge that says it has learned, and knows less than it was given
    lie["D"], lie["counts"] = np.full(N, 1e6, np.float32), lie["counts"] + 5
    with pytest.raises(FormatError):
        fleet.merge({"a": lie})
    assert all(np.array_equal(before[k], v) for k, v in fleet.head.state_dict().items())
    with pytest.raises(FormatError):
        fleet.issue(["a"])  # type: ignore[arg-type]
    for heads in (
        None,
        3,
        [],
        [head(), head(forget=0.9)],
        [head(features=2), head()],
        [rt.online.KalmanHead(features=2)],
    ):
        with pytest.raises(FormatError):
            rt.online.merge(heads)  # type: ignore[arg-type]
