"""A loop over models of several inputs and outputs: what it computes, which age counts, what it refuses."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.realtime import CStep, Simulation

SLACK = {"period_us": 2000, "deadline_us": 2000, "max_age_us": 60e6, "on_miss": "late"}
COUNTED = ("cycles", "stale", "misses", "skipped", "waiting", "fresh")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the system refused.*")
        warnings.filterwarnings("ignore", message=".*runs in Python.*")
        yield


class Steer(nn.Module):
    """State [batch, 3] and goal [batch, 5] to action [batch, 4] and cost [batch, 2]."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.state, self.goal, self.cost = nn.Linear(3, 4), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, state: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        action = torch.tanh(self.state(state) + self.goal(goal))
        return action, self.cost(action)


class Next(nn.Module):
    """The next state and goal."""

    def forward(self, state: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        return state * 0.5, goal * 2.0


def compiled(model: nn.Module | None = None) -> Any:
    return rt.compile(model or Steer().eval(), (torch.randn(1, 3), torch.randn(1, 5)))


@pytest.fixture(params=["compiled", "loaded"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    fast = compiled()
    return fast if request.param == "compiled" else rt.load(rt.save(fast, tmp_path / "steer.rta"))


def slots() -> tuple[Any, Any, Any, Any]:
    return rt.Latest((3,)), rt.Latest((5,)), rt.Latest((4,)), rt.Latest((2,))


def fresh(y: Any, stamp_ns: int) -> Any:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        got = y.get()
        if got.status != "none" and got.stamp_ns == stamp_ns:
            return np.array(got.value)
    raise AssertionError("no result came")


@pytest.mark.parametrize("by_name", [False, True])
def test_it_computes_what_the_model_does(model: Any, by_name: bool) -> None:
    state, goal, action, cost = slots()
    read: Any = {"goal": goal, "state": state} if by_name else [state, goal]
    write: Any = {"output_1": cost, "output_0": action} if by_name else (action, cost)
    seen = []
    with rt.Loop(model, read, write, **SLACK) as loop:
        for n in range(10):
            a, b = torch.randn(3), torch.randn(5)
            older = time.monotonic_ns()
            (state if n % 2 else goal).put(a if n % 2 else b, stamp_ns=older)
            (goal if n % 2 else state).put(b if n % 2 else a)
            # The loop may have been between the two puts: the result of both is the last with this stamp.
            want = Steer().eval()(a[None], b[None])
            end = time.monotonic() + 60
            while not np.allclose(got := fresh(action, older), want[0][0].detach().numpy(), atol=1e-5):
                assert time.monotonic() < end
            seen.append((a, b, got))
        with pytest.raises(UnsupportedProblem, match="running loop"):
            model(a[None], b[None])
        last = fresh(cost, older)
    for a, b, got in seen:
        assert np.array_equal(model(a[None], b[None])[0][0].numpy(), got)  # the same bits, and the model is free again
    assert np.array_equal(model(a[None], b[None])[1][0].numpy(), last)
    assert loop.stats().state == "stopped"
    for slot in (action, cost):
        assert slot.put(np.zeros(slot.shape, np.float32)) > 0  # the slots are given back
    assert [slot.get().status for slot in (state, goal)] == ["old", "old"]


def test_it_waits_for_every_input(model: Any) -> None:
    state, goal, action, cost = slots()
    with rt.Loop(model, [state, goal], [action, cost], **SLACK) as loop:
        goal.put(torch.ones(5))
        while loop.stats().waiting < 3:
            time.sleep(0.001)
        assert action.get().status == cost.get().status == "none"
        state.put(torch.ones(3))
        while action.get().status == "none":
            time.sleep(0.001)


@pytest.mark.parametrize("any_age", [[], ["goal"], [1]])
def test_the_oldest_input_that_counts_is_the_age(model: Any, any_age: Any) -> None:
    state, goal, action, cost = slots()
    long_ago, now = time.monotonic_ns() - 120_000_000_000, time.monotonic_ns()
    goal.put(torch.ones(5), stamp_ns=long_ago)
    state.put(torch.ones(3), stamp_ns=now)
    with rt.Loop(model, [state, goal], [action, cost], any_age=any_age, **SLACK) as loop:
        if any_age:
            fresh(action, now)
        while loop.stats().cycles < 5:
            time.sleep(0.001)
    assert (loop.stats().stale > 0) == (not any_age)
    assert (action.get().status == "none") == (not any_age)


def test_the_other_places_of_a_model(model: Any) -> None:
    """As fallback, forecast and at another rate, all of the same inputs."""
    state, goal, action, cost = slots()
    long_ago = time.monotonic_ns() - 120_000_000_000
    a, b = torch.randn(3), torch.randn(5)
    state.put(a, stamp_ns=long_ago)
    goal.put(b, stamp_ns=long_ago)
    other = compiled(Steer(3).eval())
    options = {**SLACK, "deadline_us": 2000, "on_stale": "fallback"}
    wide = rt.Loop(other, [state, goal], [action, cost], fallback=model, **options)
    slow_action, slow_cost = rt.Latest((4,)), rt.Latest((2,))
    wide.every(3, compiled(Steer(4).eval()), write=[slow_action, slow_cost])
    with wide:
        got = fresh(action, long_ago)
        slow = fresh(slow_action, long_ago)
    assert wide.stats().fallback > 0
    assert np.array_equal(got, model(a[None], b[None])[0][0].numpy())
    np.testing.assert_allclose(slow, Steer(4).eval()(a[None], b[None])[0][0].detach().numpy(), atol=1e-5)
    ahead = rt.Loop(
        model, [state, goal], [action, cost], forecast=compiled(Next().eval()), on_stale="forecast", **SLACK
    )
    with ahead:
        while ahead.stats().forecast < 4:
            time.sleep(0.001)
    left = action.get()
    assert left.origin == "forecast"
    powers = [model(a[None] * 0.5**n, b[None] * 2.0**n)[0][0].numpy() for n in range(1, 200)]
    assert any(np.array_equal(left.value, one) for one in powers)


def test_python_and_a_chain_of_several_tensors(model: Any) -> None:
    def swap(state: Any, goal: Any) -> tuple[Any, Any]:
        return state + 1, goal - 1

    def joined(action: Any, cost: Any) -> Any:
        return np.concatenate([action.ravel(), cost.ravel()])

    state, goal = rt.Latest((3,)), rt.Latest((5,))
    out = rt.Latest((6,))
    a, b = torch.randn(3), torch.randn(5)
    stamp = time.monotonic_ns()
    state.put(a, stamp_ns=stamp)
    goal.put(b, stamp_ns=stamp)
    with rt.Loop(model, [state, goal], out, pre=swap, post=joined, **SLACK):
        got = fresh(out, stamp)
    want = torch.cat(model(a[None] + 1, b[None] - 1), dim=1)[0]
    np.testing.assert_array_equal(got, want.numpy())


def test_what_does_not_fit_is_refused(model: Any) -> None:
    state, goal, action, cost = slots()
    good = {"read": [state, goal], "write": [action, cost]}
    for change, error, text in (
        ({"read": {"state": state, "aim": goal}}, FormatError, "goal"),
        ({"read": {"state": state}}, FormatError, "goal"),
        ({"read": [goal, state]}, ShapeError, "float32"),
        ({"read": [state]}, ShapeError, "float32"),
        ({"read": [state, 3]}, FormatError, "int"),
        ({"read": []}, FormatError, "nothing"),
        ({"write": action}, ShapeError, "slot"),
        ({"write": [cost, action]}, ShapeError, "slots take"),
        ({"any_age": ["goal", "state"]}, FormatError, "all of them"),
        ({"any_age": [2]}, FormatError, "not, or all"),
        ({"any_age": ["aim"]}, FormatError, "goal"),
        ({"any_age": [True]}, FormatError, "True"),
    ):
        with pytest.raises(error, match=text):
            rt.Loop(model, **{**good, **SLACK, **change})
    same = rt.Latest((4,))
    with pytest.raises(FormatError, match="one slot"):
        rt.Loop(lambda x, y: (x, y), [same, same], [action, rt.Latest((4,))], **SLACK)
    with pytest.raises(FormatError, match="one slot"):
        rt.Loop(lambda x: x, same, same, **SLACK)
    with pytest.raises(FormatError, match="without names"):
        rt.Loop(lambda x: x, {"x": same}, action, **SLACK)
    with pytest.raises(FormatError, match="a function"):
        rt.Loop(CStep(0, outputs=(((4,), "float32"),)), same, action, **SLACK)
    with pytest.raises(UnsupportedProblem, match="1 to 16"):
        rt.Loop(lambda x: (x,) * 17, same, action, **SLACK)


WORLD = {"produce_us": 1000, "delay_us": 300, "p_gap": 0.004, "gap_us": 9000, "p_burst": 0.5, "p_reorder": 0.01}
HOST = {"wake_us": 20, "p_stall": 0.003, "stall_us": 2600, "step_us": 30, "p_slow": 0.002, "slow_us": 450}


def simulated(seed: int, others: list[dict[str, float]], **loop: Any) -> tuple[Any, Any, list[Any]]:
    read = [rt.Latest((2 + i,), "int64") for i in range(1 + len(others))]
    write = [rt.Latest((2 + i,), "int64") for i in range(1 + len(others))]
    world = Simulation(read[0], seed, **WORLD, **HOST)
    for i, options in enumerate(others):
        world.add(read[1 + i], seed + 1 + i, **options)
    return rt.Loop(world.model(), read, write, simulation=world, **loop), world, write


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    on_miss=st.sampled_from(["hold", "late", "catch_up"]),
    others=st.lists(
        st.fixed_dictionaries(
            {
                "produce_us": st.sampled_from([70, 333.3, 2500]),
                "p_gap": st.sampled_from([0, 0.01, 0.2]),
                "gap_us": st.sampled_from([1500, 12000]),
                "p_clock": st.sampled_from([0, 0.01]),
                "clock_us": st.sampled_from([-3000, 800]),
            }
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_counts_in_simulated_time(seed: int, on_miss: str, others: list[dict[str, float]]) -> None:
    loop, world, write = simulated(seed, others, on_miss=on_miss)
    loop.run(3000)
    stats, counts = loop.stats(), world.counts()
    assert {key: getattr(stats, key) for key in COUNTED} == {key: counts[key] for key in COUNTED}
    assert stats.age.n == stats.cycles - stats.waiting
    world.calm()
    before = loop.stats()
    loop.run(2000)
    assert loop.stats().misses - before.misses <= 1  # what was under way
    stamps = {slot.get().stamp_ns for slot in write}
    assert len(stamps) == 1  # results of one cycle have one stamp


def test_a_seed_gives_the_same_run_of_several_slots() -> None:
    runs = []
    for _ in range(2):
        loop, _, write = simulated(11, [{"produce_us": 700, "p_gap": 0.05, "gap_us": 5000}])
        loop.run(5000)
        runs.append((loop.stats().to_dict(), [np.array(slot.get().value).tolist() for slot in write]))
    for run in runs:
        run[0].pop("pid", None)
    assert runs[0] == runs[1]


def test_a_simulated_slot_that_does_not_fit() -> None:
    world = Simulation(rt.Latest((2,), "int64"), produce_us=1000)
    with pytest.raises(FormatError, match="step_us"):
        world.add(rt.Latest((2,), "int64"), produce_us=1000, step_us=3)
    with pytest.raises(FormatError, match="8 bytes"):
        world.add(rt.Latest((1,)), produce_us=1000)
